//! `bgpkit-parser` reads the same messages as we do: whatever it accepts, we must read alike.

use bgpkit_parser::{
    models::{AsnLength, BgpMessage, NetworkPrefix},
    parser::bgp::messages::parse_bgp_message,
};
use proptest::prelude::*;

use super::{AsWidth, Message, NlriEntry, OpenFacts};

/// Routes as comparable text.
fn theirs(routes: &[NetworkPrefix]) -> Vec<String> {
    routes
        .iter()
        .map(|route| match route.path_id {
            Some(id) => format!("{}#{id}", route.prefix.trunc()),
            None => route.prefix.trunc().to_string(),
        })
        .collect()
}

fn ours(entry: &NlriEntry) -> String {
    match entry.path_id {
        Some(id) => format!("{}#{id}", entry.prefix),
        None => entry.prefix.to_string(),
    }
}

/// Routes of the classic fields (withdrawn, announced) as we read them.
fn classic(bytes: &[u8], context: (AsWidth, bool)) -> Option<(Vec<String>, Vec<String>)> {
    let Ok(Message::Update(update)) = Message::decode(bytes) else {
        return None;
    };
    let facts = update.read(&mut context.clone(), &mut |_| {});
    let (mut withdrawn, mut announced) = (Vec::new(), Vec::new());
    // The attributes' fields lie between the classic ones and inside the attributes' bytes.
    let inside = update.attributes().bytes().as_ptr_range();
    for (nlri, announces) in facts.fields() {
        if !inside.contains(&nlri.bytes().as_ptr()) {
            let routes = if announces {
                &mut announced
            } else {
                &mut withdrawn
            };
            routes.extend(nlri.flatten().map(|entry| ours(&entry)));
        }
    }
    Some((withdrawn, announced))
}

fn agree(bytes: &[u8], width: AsWidth, add_path: bool) {
    let length = if width == AsWidth::Four {
        AsnLength::Bits32
    } else {
        AsnLength::Bits16
    };
    let Ok(message) = parse_bgp_message(&mut bytes.to_vec().into(), add_path, &length) else {
        return;
    };
    match message {
        BgpMessage::Update(update) => {
            // It turns to ADD-PATH by itself where bytes look like it, whatever it was told.
            let mut routes = update
                .withdrawn_prefixes
                .iter()
                .chain(&update.announced_prefixes);
            if routes.any(|route| route.path_id.is_some() != add_path) {
                return;
            }
            let (withdrawn, announced) = classic(bytes, (width, add_path)).unwrap();
            // It drops a field that is malformed; we keep what comes before the fault.
            if !update.withdrawn_prefixes.is_empty() {
                assert_eq!(withdrawn, theirs(&update.withdrawn_prefixes));
            }
            if !update.announced_prefixes.is_empty() {
                assert_eq!(announced, theirs(&update.announced_prefixes));
            }
        }
        BgpMessage::Open(open) => {
            let Ok(Message::Open(own)) = Message::decode(bytes) else {
                panic!("an OPEN")
            };
            assert_eq!(u32::from(own.my_as), open.asn.to_u32());
            assert_eq!(own.hold_secs, open.hold_time);
            assert_eq!(own.bgp_id, open.bgp_identifier);
            OpenFacts::read(&own, |_| {});
        }
        BgpMessage::Notification(_) | BgpMessage::KeepAlive | BgpMessage::RouteRefresh(_) => {}
    }
}

/// Messages that stand whole in the example captures.
fn captured() -> Vec<Vec<u8>> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/captures");
    let mut messages = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        for at in 0..bytes.len() {
            let Ok(header) = super::Header::decode(&bytes[at..]) else {
                continue;
            };
            if let Some(message) = bytes[at..].get(..usize::from(header.length))
                && header.is_plausible(4096)
            {
                messages.push(message.to_vec());
            }
        }
    }
    messages
}

#[test]
fn the_captures_messages_read_alike() {
    let messages = captured();
    assert!(messages.len() > 300, "{}", messages.len());
    for message in messages {
        for width in [AsWidth::Two, AsWidth::Four] {
            for add_path in [false, true] {
                agree(&message, width, add_path);
            }
        }
    }
}

proptest! {
    #[test]
    fn generated_updates_read_alike(
        withdrawn in routes(),
        announced in routes(),
        add_path in any::<bool>(),
    ) {
        let (removed, added) = (encode(&withdrawn, add_path), encode(&announced, add_path));
        let attributes =
            [0x40, 1, 1, 0, 0x40, 2, 6, 2, 1, 0, 0, 0xfd, 0xe9, 0x40, 3, 4, 10, 0, 0, 1];
        let mut body = u16::try_from(removed.len()).unwrap().to_be_bytes().to_vec();
        body.extend(removed);
        body.extend(20_u16.to_be_bytes());
        body.extend(attributes);
        body.extend(added);
        let mut message = vec![0xff; 16];
        message.extend(u16::try_from(19 + body.len()).unwrap().to_be_bytes());
        message.push(2);
        message.extend(body);
        agree(&message, AsWidth::Four, add_path);
        let text = |routes: &[(u32, u32, u8)]| -> Vec<String> {
            routes.iter().map(|(id, address, length)| {
                let mask = u32::MAX.checked_shl(32 - u32::from(*length)).unwrap_or(0);
                let address = std::net::Ipv4Addr::from_bits(address & mask);
                if add_path { format!("{address}/{length}#{id}") } else { format!("{address}/{length}") }
            }).collect()
        };
        let read = classic(&message, (AsWidth::Four, add_path));
        prop_assert_eq!(read, Some((text(&withdrawn), text(&announced))));
    }

    #[test]
    fn any_bytes_are_read_without_a_panic(
        kind in 0..7_u8,
        body in proptest::collection::vec(any::<u8>(), 0..300),
        width in prop_oneof![Just(AsWidth::Two), Just(AsWidth::Four)],
        add_path in any::<bool>(),
    ) {
        let mut message = vec![0xff; 16];
        message.extend(u16::try_from(19 + body.len()).unwrap().to_be_bytes());
        message.push(kind);
        message.extend(body);
        match Message::decode(&message) {
            Ok(Message::Update(update)) => {
                let length = u32::try_from(message.len()).unwrap();
                let facts = update.read(&mut (width, add_path), &mut |error| {
                    assert!(error.offset <= length);
                });
                let entries: usize = facts.fields().map(|(nlri, _)| nlri.flatten().count()).sum();
                let counted: u32 = facts
                    .counts()
                    .filter(|entry| entry.family.prefix_bits().is_some())
                    .map(|entry| entry.count)
                    .sum();
                prop_assert_eq!(entries, counted as usize);
            }
            Ok(Message::Open(open)) => {
                OpenFacts::read(&open, |_| {});
            }
            Ok(Message::Notification(notification)) => {
                let _ = super::NotificationFacts::read(&notification, |_| {}).to_string();
            }
            Ok(Message::Keepalive | Message::RouteRefresh(_)) => {}
            Err(error) => { let _ = error.to_string(); }
        }
    }
}

/// (path identifier, address, length).
fn routes() -> impl Strategy<Value = Vec<(u32, u32, u8)>> {
    proptest::collection::vec((any::<u32>(), any::<u32>(), 0..=32_u8), 0..30)
}

fn encode(routes: &[(u32, u32, u8)], add_path: bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (id, address, length) in routes {
        if add_path {
            bytes.extend(id.to_be_bytes());
        }
        bytes.push(*length);
        bytes.extend(&address.to_be_bytes()[..usize::from(length.div_ceil(8))]);
    }
    bytes
}
