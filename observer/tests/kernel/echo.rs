//! Echoes on the running kernel: a pod that answers, a route that is gone, a neighbour that is
//! silent, and the pod again.

use std::{net::IpAddr, sync::Arc, time::Instant};

use observer::{echoes::Echoes, source::netns::Netns};
use observer_core::event::{Event, Fact, NetnsId};

use crate::lab::{Namespace, cable, can_run, patience};

const NODE: NetnsId = NetnsId(1);

struct Bench {
    echoes: Echoes,
    netns: Arc<Netns>,
    token: u64,
}

impl Bench {
    fn new(node: &Namespace) -> Self {
        Self {
            echoes: Echoes::new().expect("echoes"),
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
