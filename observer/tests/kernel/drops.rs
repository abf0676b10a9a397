//! Packets that the kernel drops: counted for what is watched and by what took their way from them,
//! whatever this kernel's own word for it is. Forwarded ones, from a pod through a node.

use std::{
    io::{self, Write},
    net::{TcpStream, UdpSocket},
    time::Duration,
};

use observer_core::{
    bgp::Prefix,
    event::{Event, Fact, NetnsId, drops::DropReason},
};

use crate::lab::{Namespace, Observed, Reused, cable, can_run, patience, wait_until};

const NODE: NetnsId = NetnsId(1);
const BLOCK: &str = "10.244.2.0/26";
const BLOCK6: &str = "fd00:244:2::/64";
const FAR: &str = "10.244.2.2:9";
const FAR6: &str = "[fd00:244:2::2]:9";

/// A pod behind a node, and another network at its far side where nobody answers.
struct Bed {
    pod: Namespace,
    node: Namespace,
    _far: Namespace,
    observed: Reused,
}

impl Bed {
    fn new() -> Option<Self> {
        if !can_run() {
            return None;
        }
        let (pod, node, far) = (Namespace::new(), Namespace::new(), Namespace::new());
        cable((&pod, "10.1.0.2/24"), (&node, "10.1.0.1/24"));
        cable((&node, "10.0.0.1/24"), (&far, "10.0.0.9/24"));
        let both = ["fd01::2/64", "fd01::1/64", "fd02::1/64", "fd02::9/64"];
        let places = [
            (&pod, "10.1.0.2"),
            (&node, "10.1.0.1"),
            (&node, "10.0.0.1"),
            (&far, "10.0.0.9"),
        ];
        for ((namespace, at), address) in places.into_iter().zip(both) {
            let device = device_of(namespace, at);
            namespace.ip(&["addr", "add", address, "dev", &device, "nodad"]);
        }
        pod.ip(&["route", "add", "default", "via", "10.1.0.1"]);
        pod.ip(&["route", "add", "default", "via", "fd01::1"]);
        node.run(|| {
            for switch in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
                std::fs::write(format!("/proc/sys/net/{switch}"), "1").expect("forwarding");
            }
        });
        let mut observed = Observed::start();
        if !observed.source.tells_drops() {
            let why = "this kernel does not say why it drops packets";
            let _ = writeln!(io::stderr(), "skipped: {why}");
            return None;
        }
        observed.observe(&node, NODE);
        Some(Self {
            pod,
            node,
            _far: far,
            observed,
        })
    }

    /// Sends packets from the pod until the source tells of `reason` for `prefix`.
    fn until_told(&mut self, what: &str, to: &str, prefix: &str, reasons: &[DropReason]) {
        let Self { pod, observed, .. } = self;
        let socket = pod.run(|| sender(to));
        let from = observed.events.len();
        let told = wait_until(what, || {
            let _ = socket.send(b"x");
            let Observed { source, events, .. } = &mut **observed;
            while source.drain(events) {}
            let fresh = observed.events.get(from..)?;
            let of = |reason: &&DropReason| packets(fresh, prefix, Some(**reason)) > 0;
            reasons.iter().find(of)
        });
        let _ = writeln!(io::stderr(), "{what} to {to}: {}", told.words());
    }

    /// Has the node do something until the source tells of `reason` for [`BLOCK`].
    fn until_done(
        &mut self,
        what: &str,
        reason: DropReason,
        mut act: impl FnMut() -> io::Result<()> + Send,
    ) {
        let Self { node, observed, .. } = self;
        wait_until(what, || {
            let failed = node.run(&mut act).is_err();
            assert!(failed, "nobody is there");
            let Observed { source, events, .. } = &mut **observed;
            while source.drain(events) {}
            (packets(events, BLOCK, Some(reason)) > 0).then_some(())
        });
    }

    fn route(&self, arguments: &[&str]) {
        self.node.ip(&[&["route"], arguments].concat());
    }
}

fn sender(to: &str) -> UdpSocket {
    let any = if to.starts_with('[') {
        "[::]:0"
    } else {
        "0.0.0.0:0"
    };
    let socket = UdpSocket::bind(any).expect("a socket");
    socket.connect(to).expect("a default route");
    socket
}

fn device_of(namespace: &Namespace, address: &str) -> String {
    let output = namespace
        .command("ip")
        .args(["-o", "-4", "addr", "show"])
        .output()
        .expect("ip");
    let text = String::from_utf8(output.stdout).expect("text");
    let line = text.lines().find(|line| line.contains(address));
    let mut words = line.expect("the address").split_whitespace();
    words.nth(1).expect("a device").to_owned()
}

fn prefix(text: &str) -> Prefix {
    let (address, length) = text.split_once('/').expect("a prefix");
    Prefix {
        address: address.parse().expect("an address"),
        length: length.parse().expect("a length"),
    }
}

/// How many packets to `of` were told, dropped for `reason` or for any.
fn packets(events: &[Event], of: &str, only: Option<DropReason>) -> u64 {
    let of = prefix(of);
    let told = events.iter().filter_map(|event| match &event.fact {
        Fact::PacketsDropped {
            netns,
            prefix,
            reason,
            packets,
            first,
            last,
        } if *prefix == of && only.is_none_or(|only| only == *reason) => {
            assert_eq!(*netns, NODE);
            assert!(first <= last && *last == event.occurred.latest);
            Some(packets)
        }
        _ => None,
    });
    told.sum()
}

#[test]
fn what_took_a_packet_s_way_from_it_is_told() {
    let Some(mut bed) = Bed::new() else { return };
    for of in [BLOCK, BLOCK6] {
        bed.observed.source.watch(NODE, prefix(of)).expect("watch");
    }
    for (of, to) in [(BLOCK, FAR), (BLOCK6, FAR6)] {
        bed.until_told("no route", to, of, &[DropReason::NoRoute]);
        for kind in ["unreachable", "blackhole"] {
            bed.route(&["add", kind, of]);
            // Which of them, kernels do not agree on.
            let reasons = [
                DropReason::Unspecified,
                DropReason::NoRoute,
                DropReason::HostUnreachable,
            ];
            bed.until_told(kind, to, of, &reasons);
            bed.route(&["del", kind, of]);
        }
    }
    // Nobody answers for these next hops.
    bed.route(&["add", BLOCK, "via", "10.0.0.77"]);
    bed.until_told("ARP", FAR, BLOCK, &[DropReason::Neighbour]);
    bed.route(&["add", BLOCK6, "via", "fd02::77"]);
    bed.until_told("ND", FAR6, BLOCK6, &[DropReason::Neighbour]);
}

/// A process of the node itself: what it cannot send is dropped nowhere.
#[test]
fn what_tcp_of_this_node_has_to_send_again_or_gives_up_is_told() {
    let Some(mut bed) = Bed::new() else { return };
    bed.observed
        .source
        .watch(NODE, prefix(BLOCK))
        .expect("watch");
    // The host there has no way to the block, and says nothing. A SYN is sent again after a second.
    bed.route(&["add", BLOCK, "via", "10.0.0.9"]);
    let connect = |limit| {
        let to = FAR.parse().expect("an address");
        TcpStream::connect_timeout(&to, limit).map(drop)
    };
    bed.until_done("sent again", DropReason::SentAgain, || {
        connect(Duration::from_millis(1_200))
    });
    // Nobody answers for this next hop, which TCP is told.
    bed.route(&["replace", BLOCK, "via", "10.0.0.77"]);
    bed.until_done("given up", DropReason::GivenUp, || connect(patience()));
    let own = packets(&bed.observed.events, BLOCK, Some(DropReason::NoRoute));
    assert_eq!(own, 0);
}

#[test]
fn only_what_is_watched_counts_and_only_while_it_is() {
    let Some(mut bed) = Bed::new() else { return };
    let other = "10.244.3.0/26";
    let socket = bed.pod.run(|| sender(FAR));
    socket.send(b"x").expect("sent");
    bed.observed
        .source
        .watch(NODE, prefix(other))
        .expect("watch");
    socket.send(b"x").expect("sent");
    bed.observed
        .source
        .watch(NODE, prefix(BLOCK))
        .expect("watch");
    bed.until_told("no route", FAR, BLOCK, &[DropReason::NoRoute]);
    let mut rest = Vec::new();
    bed.observed
        .source
        .unwatch(NODE, prefix(BLOCK), &mut rest)
        .expect("unwatch");
    bed.observed.events.append(&mut rest);
    let told = packets(&bed.observed.events, BLOCK, None);
    assert!(told > 0, "what was counted last is told");
    for _ in 0..100 {
        socket.send(b"x").expect("sent");
    }
    // The other one's own drops are told after those would have been.
    bed.until_told("the other", "10.244.3.2:9", other, &[DropReason::NoRoute]);
    assert_eq!(packets(&bed.observed.events, BLOCK, None), told);
    let of_other = packets(&bed.observed.events, other, None);
    assert!(of_other < 100_000, "{of_other}");
}

#[test]
fn a_storm_is_counted_whole_and_told_in_few_events() {
    const STORM: u64 = 50_000;
    let Some(mut bed) = Bed::new() else { return };
    bed.observed
        .source
        .watch(NODE, prefix(BLOCK))
        .expect("watch");
    let before = bed.observed.events.len();
    bed.pod.run(|| {
        let socket = sender(FAR);
        let mut sent = 0;
        while sent < STORM {
            // ICMP's own "unreachable" comes back as an error of the next send.
            sent += u64::from(socket.send(b"x").is_ok());
        }
    });
    let mut told = 0;
    bed.observed.wait("the storm", |events| {
        told_of(events).checked_sub(STORM - STORM / 100)
    });
    for event in bed.observed.events.iter().skip(before) {
        told += u64::from(matches!(event.fact, Fact::PacketsDropped { .. }));
    }
    assert!(told_of(&bed.observed.events) <= STORM);
    // Five a second at most, for as long as anybody has patience.
    let allowed = 5 * patience().as_secs() + 3;
    assert!(told < allowed, "{told} events");
}

fn told_of(events: &[Event]) -> u64 {
    packets(events, BLOCK, Some(DropReason::NoRoute))
}
