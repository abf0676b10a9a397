//! Which prefixes are announced and withdrawn, read by others: tshark where it can, else
//! `bgpkit-parser`.

use std::{collections::BTreeMap, net::IpAddr};

use bgpkit_parser::{
    models::{AsnLength, BgpMessage, NetworkPrefix},
    parser::bgp::messages::parse_bgp_message,
};
use observer::capture::{BGP_PORT, read_from};
use observer_core::conversation::{Direction, Seen};
use observer_tests::capture::frames;

use crate::{bgp::Abilities, extremes, plain, trace::whole_talk};

/// Prefixes in the order of the messages, with their path identifiers where there are any.
type Routes = Vec<(IpAddr, u8, Option<u32>)>;
/// By sender (0 dialled), announced or withdrawn, IPv6 or IPv4.
type Told = BTreeMap<(usize, bool, bool), Routes>;

/// What our code finds in a capture of one talk that side 0 began.
fn ours(file: &[u8]) -> Told {
    let mut told = Told::new();
    let mut note = |_, observation: &observer_core::conversation::Observation<'_>| {
        let Seen::Update(facts, _) = observation.seen else {
            return;
        };
        let side = usize::from(observation.direction == Direction::BToA);
        for (nlri, announced) in facts.fields() {
            for entry in nlri.map(Result::unwrap) {
                let address = entry.prefix.address;
                let routes = told
                    .entry((side, announced, address.is_ipv6()))
                    .or_default();
                routes.push((address, entry.prefix.length, entry.path_id));
            }
        }
    };
    read_from(file, &[BGP_PORT], &mut note).unwrap();
    told
}

/// tshark's fields of addresses: announced or withdrawn, IPv6 or IPv4.
const FIELDS: [(&str, bool, bool); 4] = [
    ("bgp.nlri_prefix", true, false),
    ("bgp.withdrawn_prefix", false, false),
    ("bgp.mp_reach_nlri_ipv6_prefix", true, true),
    ("bgp.mp_unreach_nlri_ipv6_prefix", false, true),
];

/// tshark's addresses. The lengths and path identifiers it shows are those of a frame, not of a field:
/// each of our messages has one field, and so the pairs are told.
fn tsharks(file: &[u8]) -> Told {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    std::fs::write(&path, file).unwrap();
    let names = ["tcp.dstport", "bgp.prefix_length", "bgp.nlri_path_id"];
    let names: Vec<&str> = names
        .into_iter()
        .chain(FIELDS.map(|field| field.0))
        .collect();
    let mut told = Told::new();
    for frame in frames(&path, "bgp.type == 2", &names).unwrap() {
        let side = usize::from(frame.number::<u16>("tcp.dstport").unwrap() != BGP_PORT);
        let mut lengths = frame.values("bgp.prefix_length").iter();
        let mut ids = frame.values("bgp.nlri_path_id").iter();
        for (name, announced, ipv6) in FIELDS {
            for address in frame.values(name) {
                let routes = told.entry((side, announced, ipv6)).or_default();
                routes.push((
                    address.parse().unwrap(),
                    lengths.next().unwrap().parse().unwrap(),
                    ids.next().map(|id| id.parse().unwrap()),
                ));
            }
        }
        assert_eq!((lengths.next(), ids.next()), (None, None));
    }
    told
}

fn bgpkits(side: usize, message: &[u8], able: Abilities, told: &mut Told) {
    let width = if able.four_octets {
        AsnLength::Bits32
    } else {
        AsnLength::Bits16
    };
    let mut bytes = message.to_vec().into();
    let BgpMessage::Update(update) = parse_bgp_message(&mut bytes, able.add_path, &width).unwrap()
    else {
        return;
    };
    let reach = update.attributes.get_reachable_nlri();
    let unreach = update.attributes.get_unreachable_nlri();
    let prefixes = |nlri: Option<&bgpkit_parser::models::Nlri>| -> Vec<NetworkPrefix> {
        nlri.map(|nlri| nlri.prefixes.clone()).unwrap_or_default()
    };
    for (announced, found) in [
        (false, update.withdrawn_prefixes.clone()),
        (true, update.announced_prefixes.clone()),
        (true, prefixes(reach)),
        (false, prefixes(unreach)),
    ] {
        for route in found {
            let address = route.prefix.network();
            let routes = told
                .entry((side, announced, address.is_ipv6()))
                .or_default();
            routes.push((address, route.prefix.prefix_len(), route.path_id));
        }
    }
}

/// Both sides announce and withdraw both families.
fn assert_all_are_there(told: &Told) {
    assert_eq!(told.len(), 8, "{:?}", told.keys());
}

#[test]
fn tshark_reads_the_same_prefixes() {
    for able in extremes() {
        // tshark takes no message above 4,096 octets for one: see below.
        let able = Abilities {
            extended: false,
            ..able
        };
        let file = plain(&whole_talk(able, 1400).trace);
        let (ours, theirs) = (ours(&file), tsharks(&file));
        assert_all_are_there(&ours);
        assert_eq!(ours, theirs, "{able:?}");
    }
}

/// Of extended messages (RFC 8654) tshark 4.0 is no witness: its dissector of BGP looks for a header
/// whose length is 4,096 at most, and passes over what is longer. `bgpkit-parser` takes lengths up to
/// 65,535, so it is handed the messages that went into the capture, one by one.
#[test]
fn another_parser_reads_the_same_prefixes_in_extended_messages() {
    for able in extremes() {
        let able = Abilities {
            extended: true,
            ..able
        };
        let talk = whole_talk(able, 1400);
        let mut theirs = Told::new();
        let mut longest = 0;
        for (side, _, message) in &talk.messages {
            longest = longest.max(message.bytes.len());
            bgpkits(*side, &message.bytes, able, &mut theirs);
        }
        assert!(longest > 4096, "no message is extended: {longest}");
        let ours = ours(&plain(&talk.trace));
        assert_all_are_there(&ours);
        assert_eq!(ours, theirs, "{able:?}");
    }
}
