//! Echoes on the running kernel: a pod that answers, a route that is gone, a neighbour that is
//! silent, and the pod again.

use std::{net::IpAddr, sync::Arc, time::Instant};

use observer::{echoes::Echoes, source::netns::Netns};
use observer_core::{
    config::ReachProbe,
    event::{Event, Fact, NetnsId},
};

use crate::lab::{Namespace, cable, can_run, patience};

const NODE: NetnsId = NetnsId(1);

struct Bench {
    echoes: Echoes,
    netns: Arc<Netns>,
    token: u64,
}

impl Bench {
    fn new(node: &Namespace) -> Self {
        Self::by(node, ReachProbe::Icmp)
    }

    fn by(node: &Namespace, probe: ReachProbe) -> Self {
        Self {
            echoes: Echoes::new(probe).expect("echoes"),
            netns: Arc::new(node.netns()),
            token: 0,
        }
    }

    /// Sends one echo and gives what came of it.
    async fn ask(&mut self, target: &str) -> Fact {
        let target: IpAddr = target.parse().expect("an address");
        self.token += 1;
        let mut events: Vec<Event> = Vec::new();
        self.echoes
            .send((NODE, &self.netns), target, self.token, &mut events)
            .expect("raw sockets");
        let deadline = Instant::now() + patience();
        while events.is_empty() {
            assert!(Instant::now() < deadline, "no answer from {target}");
            let wait = deadline.saturating_duration_since(Instant::now());
            let _ = tokio::time::timeout(wait, self.echoes.readable()).await;
            self.echoes.drain(&mut events);
        }
        assert_eq!(events.len(), 1, "{events:?}");
        events.remove(0).fact
    }

    async fn reaches(&mut self, target: &str) {
        match self.ask(target).await {
            Fact::EchoReplied {
                netns,
                token,
                target: from,
                rtt_nanos,
            } => {
                assert_eq!((netns, token), (NODE, self.token));
                assert_eq!(from.to_string(), target);
                assert!((1..1_000_000_000).contains(&rtt_nanos), "{rtt_nanos} ns");
            }
            other => panic!("{target}: {other:?}"),
        }
    }

    async fn fails(&mut self, target: &str, expected: i32) {
        match self.ask(target).await {
            Fact::EchoFailed { token, errno, .. } => {
                assert_eq!((token, errno), (self.token, expected), "{target}");
            }
            other => panic!("{target}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_pod_answers_is_unreachable_without_its_route_and_answers_again() {
    if !can_run() {
        return;
    }
    let (node, peer) = (Namespace::new(), Namespace::new());
    cable((&node, "10.0.0.1/24"), (&peer, "10.0.0.2/24"));
    peer.ip(&["addr", "add", "10.244.2.2/32", "dev", "lo"]);
    let route = ["10.244.2.0/24", "via", "10.0.0.2"];
    let mut bench = Bench::new(&node);
    bench.fails("10.244.2.2", libc::ENETUNREACH).await;
    node.ip(&[&["route", "add"], route.as_slice()].concat());
    bench.reaches("10.244.2.2").await;
    node.ip(&["route", "del", "10.244.2.0/24"]);
    bench.fails("10.244.2.2", libc::ENETUNREACH).await;
    node.ip(&["route", "add", "unreachable", "10.244.2.0/24"]);
    bench.fails("10.244.2.2", libc::EHOSTUNREACH).await;
    node.ip(&["route", "del", "10.244.2.0/24"]);
    node.ip(&["route", "add", "blackhole", "10.244.2.0/24"]);
    bench.fails("10.244.2.2", libc::EINVAL).await;
    node.ip(&["route", "del", "10.244.2.0/24"]);
    node.ip(&[&["route", "add"], route.as_slice()].concat());
    bench.reaches("10.244.2.2").await;
    // Nobody answers ARP there: the kernel tells us by ICMP, after its three tries.
    bench.fails("10.0.0.77", libc::EHOSTUNREACH).await;
    bench.reaches("10.0.0.2").await;
}

/// Connections of this thread's namespace to `port` that the kernel knows, in whatever state.
fn connections(node: &Namespace, port: u16) -> usize {
    let read = || std::fs::read_to_string("/proc/thread-self/net/tcp");
    let text = node.netns().run_in(read).expect("setns").expect("procfs");
    let to = format!(":{port:04X} ");
    let remote = |line: &&str| line.split_whitespace().nth(2).map(|end| format!("{end} "));
    let lines = text.lines().skip(1);
    lines
        .filter(|line| remote(line).is_some_and(|end| end.ends_with(&to)))
        .count()
}

#[tokio::test]
async fn by_tcp_a_pod_that_accepts_or_refuses_is_reached_and_nothing_of_it_stays() {
    if !can_run() {
        return;
    }
    let (node, peer) = (Namespace::new(), Namespace::new());
    cable((&node, "10.0.0.1/24"), (&peer, "10.0.0.2/24"));
    peer.ip(&["addr", "add", "10.244.2.2/32", "dev", "lo"]);
    let mut bench = Bench::by(&node, ReachProbe::Tcp(8080));
    bench.fails("10.244.2.2", libc::ENETUNREACH).await;
    node.ip(&["route", "add", "10.244.2.0/24", "via", "10.0.0.2"]);
    bench.reaches("10.244.2.2").await;
    let listen = || std::net::TcpListener::bind("10.244.2.2:8080");
    let listener = peer.netns().run_in(listen).expect("setns").expect("bind");
    bench.reaches("10.244.2.2").await;
    let accepted = listener.accept().expect("it was accepted").0;
    let mut room = [0; 1];
    let heard = std::io::Read::read(&mut { accepted }, &mut room).map_err(|error| error.kind());
    assert_eq!(
        heard,
        Err(std::io::ErrorKind::ConnectionReset),
        "and no octet"
    );
    node.ip(&["route", "add", "unreachable", "10.244.2.2/32"]);
    bench.fails("10.244.2.2", libc::EHOSTUNREACH).await;
    // Nobody answers ARP there: the kernel tells us before it gives up by itself, or we hear nothing.
    assert_eq!(connections(&node, 8080), 0, "none waits, none lingers");
}

#[tokio::test]
async fn by_tcp_who_does_not_answer_is_given_up_after_a_single_syn() {
    if !can_run() {
        return;
    }
    let (node, peer) = (Namespace::new(), Namespace::new());
    cable((&node, "10.0.0.1/24"), (&peer, "10.0.0.2/24"));
    // The peer knows no way back: it hears each SYN and its answers go nowhere.
    node.ip(&["addr", "add", "10.9.9.9/32", "dev", "lo"]);
    node.ip(&[
        "route",
        "add",
        "10.244.2.0/24",
        "via",
        "10.0.0.2",
        "src",
        "10.9.9.9",
    ]);
    peer.ip(&["addr", "add", "10.244.2.2/32", "dev", "lo"]);
    let mut bench = Bench::by(&node, ReachProbe::Tcp(8080));
    let mut events = Vec::new();
    for token in 0..40 {
        let target = "10.244.2.2".parse().expect("an address");
        bench
            .echoes
            .send((NODE, &bench.netns), target, token, &mut events)
            .expect("sockets");
    }
    assert_eq!(connections(&node, 8080), 40, "they are on their way");
    let deadline = Instant::now() + patience();
    while connections(&node, 8080) > 0 {
        assert!(Instant::now() < deadline, "some stay");
        let wait = std::time::Duration::from_millis(50);
        let _ = tokio::time::timeout(wait, bench.echoes.readable()).await;
        bench.echoes.drain(&mut events);
    }
    assert!(
        events.is_empty(),
        "silence says nothing by itself: {events:?}"
    );
    let counted = || std::fs::read_to_string("/proc/thread-self/net/snmp");
    let text = node
        .netns()
        .run_in(counted)
        .expect("setns")
        .expect("procfs");
    let mut tcp = text.lines().filter(|line| line.starts_with("Tcp:"));
    let (names, values) = (tcp.next().expect("names"), tcp.next().expect("values"));
    let repeated = names.split(' ').position(|name| name == "RetransSegs");
    let repeated = repeated.and_then(|at| values.split(' ').nth(at));
    assert_eq!(repeated, Some("0"), "no SYN is sent twice");
}

#[tokio::test]
async fn version_6_is_no_different() {
    if !can_run() {
        return;
    }
    let (node, peer) = (Namespace::new(), Namespace::new());
    cable((&node, "fd00::1/64"), (&peer, "fd00::2/64"));
    peer.ip(&["addr", "add", "fd00:244::2/128", "dev", "lo"]);
    let mut bench = Bench::new(&node);
    // The link may be coming up still: the first ones may find no neighbour.
    let deadline = Instant::now() + patience();
    while !matches!(bench.ask("fd00::2").await, Fact::EchoReplied { .. }) {
        assert!(Instant::now() < deadline, "fd00::2 never answers");
    }
    bench.fails("fd00:244::2", libc::ENETUNREACH).await;
    node.ip(&["route", "add", "fd00:244::/64", "via", "fd00::2"]);
    bench.reaches("fd00:244::2").await;
    node.ip(&["route", "del", "fd00:244::/64"]);
    bench.fails("fd00:244::2", libc::ENETUNREACH).await;
}
