use netlink_packet_core::NLM_F_MULTIPART;
use netlink_packet_route::route::{RouteHeader, RouteProtocol, RouteType};

use super::*;

fn bytes(message: RouteNetlinkMessage, flags: u16) -> Vec<u8> {
    let mut message = NetlinkMessage::from(message);
    message.header.flags = flags;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

fn read(bytes: &[u8]) -> Vec<Told> {
    let mut all = Vec::new();
    messages(bytes, |_, told| all.extend(told));
    all
}

fn message(kind: RouteType, attributes: Vec<RouteAttribute>) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        address_family: AddressFamily::Inet,
        destination_prefix_length: 26,
        table: 254,
        protocol: RouteProtocol::Bird,
        kind,
        ..RouteHeader::default()
    };
    message.attributes = attributes;
    message
}

fn to(address: &str) -> RouteAttribute {
    RouteAttribute::Destination(RouteAddress::Inet(address.parse().unwrap()))
}

fn gateway(address: &str) -> RouteAttribute {
    match address.parse().unwrap() {
        IpAddr::V4(v4) => RouteAttribute::Gateway(RouteAddress::Inet(v4)),
        IpAddr::V6(v6) => RouteAttribute::Via(RouteVia::Inet6(v6)),
    }
}

fn leg(address: &str, interface: u32, hops: u8) -> RouteNextHop {
    let mut leg = RouteNextHop::default();
    leg.interface_index = interface;
    leg.hops = hops;
    leg.attributes = vec![gateway(address)];
    leg
}

/// One route as its words: op, prefix, kind, hops.
fn words(told: &[Told]) -> String {
    let [Told::Route(change)] = told else {
        panic!("{told:?}");
    };
    let RouteChange { op, route, .. } = change;
    let hops: Vec<String> = { route.next_hops.iter() }
        .map(|hop| {
            let gateway = hop.gateway.map_or("-".to_owned(), |ip| ip.to_string());
            format!("{gateway}@{}*{}", hop.interface, hop.weight)
        })
        .collect();
    format!(
        "{op:?} {} table {} metric {} {} {} [{}]",
        route.prefix,
        route.table,
        route.metric,
        route.kind.name(),
        route.protocol.name(),
        hops.join(" ")
    )
}

#[test]
fn routes_are_read_as_ip_shows_them() {
    let oif = RouteAttribute::Oif;
    let rows = [
        (
            message(
                RouteType::Unicast,
                vec![to("10.1.0.0"), gateway("10.0.0.2"), oif(2)],
            ),
            0,
            "Added 10.1.0.0/26 table 254 metric 0 unicast bird [10.0.0.2@2*1]",
        ),
        (
            message(
                RouteType::Unicast,
                vec![to("10.1.0.0"), gateway("fe80::2"), oif(2)],
            ),
            NLM_F_REPLACE,
            "Replaced 10.1.0.0/26 table 254 metric 0 unicast bird [fe80::2@2*1]",
        ),
        (
            message(
                RouteType::Unicast,
                vec![
                    to("10.1.0.0"),
                    RouteAttribute::Table(1_000),
                    RouteAttribute::Priority(7),
                    RouteAttribute::MultiPath(vec![leg("10.0.0.2", 2, 0), leg("10.0.1.2", 3, 2)]),
                ],
            ),
            0,
            "Added 10.1.0.0/26 table 1000 metric 7 unicast bird [10.0.0.2@2*1 10.0.1.2@3*3]",
        ),
        (
            message(RouteType::Unreachable, vec![to("10.1.0.0"), oif(1)]),
            0,
            "Added 10.1.0.0/26 table 254 metric 0 unreachable bird []",
        ),
        (
            message(RouteType::Unicast, vec![oif(4)]),
            0,
            "Added 0.0.0.0/26 table 254 metric 0 unicast bird [-@4*1]",
        ),
    ];
    for (message, flags, expected) in rows {
        let sent = bytes(RouteNetlinkMessage::NewRoute(message), flags);
        assert_eq!(words(&read(&sent)), expected);
    }
    let gone = message(RouteType::Unicast, vec![to("10.1.0.0"), oif(4)]);
    let sent = bytes(RouteNetlinkMessage::DelRoute(gone), 0);
    assert!(words(&read(&sent)).starts_with("Removed 10.1.0.0/26"));
}

#[test]
fn routes_that_the_kernel_made_for_one_destination_are_none() {
    let mut cloned = message(RouteType::Unicast, vec![to("10.1.0.0")]);
    cloned.header.flags = RouteFlags::from_bits_retain(RTM_F_CLONED);
    let sent = bytes(RouteNetlinkMessage::NewRoute(cloned), NLM_F_MULTIPART);
    assert_eq!(read(&sent), [Told::Nothing]);
}

#[test]
fn a_nexthop_object_is_known_by_its_number() {
    // length, type, flags, sequence, port; nhmsg; NHA_GROUP, then NHA_ID.
    let mut sent = vec![40, 0, 0, 0, 105, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    sent.extend([2, 0, 0, 0, 0, 0, 0, 0]);
    sent.extend([6, 0, 2, 0, 9, 9, 0, 0]);
    sent.extend([8, 0, 1, 0, 7, 0, 0, 0]);
    assert_eq!(read(&sent), [Told::NextHop(7, None)]);
}

#[test]
fn no_cut_and_no_flipped_byte_panics() {
    let wide = message(
        RouteType::Unicast,
        vec![
            to("10.1.0.0"),
            RouteAttribute::MultiPath(vec![leg("10.0.0.2", 2, 0), leg("fe80::7", 3, 2)]),
        ],
    );
    let mut link = LinkMessage::default();
    link.header.index = 3;
    link.attributes = vec![LinkAttribute::IfName("eth0".to_owned())];
    let mut sent = bytes(RouteNetlinkMessage::NewRoute(wide), 0);
    sent.extend(bytes(RouteNetlinkMessage::NewLink(link), 0));
    assert_eq!(read(&sent).len(), 2);
    for end in 0..sent.len() {
        read(&sent[..end]);
    }
    for place in 0..sent.len() {
        for value in [0, 1, 3, 4, 7, 0x7f, 0x80, 0xff] {
            let mut odd = sent.clone();
            odd[place] = value;
            read(&odd);
        }
    }
}
