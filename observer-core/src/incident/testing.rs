//! A scene with routes and pods: what happens to them is told, and echoes are answered or not.

use std::{collections::BTreeSet, net::IpAddr};

use super::record::Incident;
use crate::{
    address::PeerAddress,
    bgp::Prefix,
    change::{Output, Request},
    config::{CoreConfig, ReachConfig, ReachMode},
    event::{Fact, InventoryPeer, forwarding::NeighbourState},
    notice::{NeighbourNotice, Notice, RouteLoss, RouteNotice, RouteOwner, RouteStep},
    testing::{NETNS, PEER, Scene, bird, millis, outbound},
    testing_wire::{Offer, Talk, end_of_rib, update},
};

pub(super) const BLOCK: &str = "10.244.2.0/26";

pub(super) fn prefix(text: &str) -> Prefix {
    let (address, length) = text.split_once('/').unwrap();
    Prefix {
        address: address.parse().unwrap(),
        length: length.parse().unwrap(),
    }
}

/// A scene, its routes and whether the pods behind the peer answer.
pub(super) struct Story {
    pub scene: Scene,
    pub reachable: bool,
    /// Addresses that never answer.
    pub absent: BTreeSet<IpAddr>,
    /// What echoes that are not answered fail with; nothing when they are lost on their way.
    pub refused: Option<i32>,
    pub echoes: Vec<(u64, IpAddr)>,
    /// What the kernel is to watch for dropped packets.
    pub watched: Vec<Prefix>,
    /// Incidents and nodes whose pods were asked for.
    pub lists: Vec<(String, Vec<String>)>,
    /// Incidents and the nodes that Kubernetes was asked about.
    pub asked: Vec<(String, String)>,
}

impl Story {
    pub fn new(mode: ReachMode) -> Self {
        Self::with(ReachConfig {
            mode,
            ..ReachConfig::default()
        })
    }

    pub fn with(reach: ReachConfig) -> Self {
        Self::configured(CoreConfig {
            reach,
            ..CoreConfig::default()
        })
    }

    pub fn configured(config: CoreConfig) -> Self {
        let mut scene = Scene::with(config);
        scene.dumped();
        Self::of(scene)
    }

    /// Of a scene as it is.
    pub fn of(scene: Scene) -> Self {
        Self {
            scene,
            reachable: true,
            absent: BTreeSet::new(),
            refused: None,
            echoes: Vec::new(),
            watched: Vec::new(),
            lists: Vec::new(),
            asked: Vec::new(),
        }
    }

    /// A session with graceful restart and one block, and time for a baseline.
    pub fn graceful(mode: ReachMode) -> (Self, Talk) {
        let mut story = Self::new(mode);
        let talk = story.begin();
        (story, talk)
    }

    /// The session with its block is up.
    pub fn begin(&mut self) -> Talk {
        let mut talk = self.session(1);
        talk.says(&mut self.scene, false, &update(&[], &[26, 10, 244, 2, 0]));
        talk.says(&mut self.scene, false, &end_of_rib());
        self.pass(20_000);
        assert_eq!(self.all(), [], "nothing has happened");
        talk
    }

    pub fn session(&mut self, id: u64) -> Talk {
        let offer = Offer {
            restart: Some((120, true)),
            ..Offer::default()
        };
        let mut dialled = outbound(id, PEER);
        dialled.local.set_port(40_000 + u16::try_from(id).unwrap());
        let mut talk = Talk::new(dialled);
        talk.connect(&mut self.scene);
        talk.greet(&mut self.scene, offer, offer);
        talk
    }

    /// Time passes, echoes are answered or not.
    pub fn pass(&mut self, span: u64) {
        let end = self.scene.now + span;
        while self.scene.now < end {
            self.answer();
            let next = self.scene.observer.next_deadline();
            let next = next.map_or(end, |at| at.nanos().div_ceil(1_000_000));
            let to = next.clamp(self.scene.now + 1, end);
            self.scene.pass(to - self.scene.now);
        }
        self.answer();
    }

    fn answer(&mut self) {
        for request in std::mem::take(&mut self.scene.requests) {
            if let Request::Watch { prefix, .. } = request {
                assert!(!self.watched.contains(&prefix), "{prefix} twice");
                self.watched.push(prefix);
            }
            if let Request::Unwatch { prefix, .. } = request {
                assert!(self.watched.contains(&prefix), "{prefix} is not watched");
                self.watched.retain(|watched| *watched != prefix);
            }
            if let Request::ListPods { incident, nodes } = request {
                self.lists.push((incident, nodes));
                continue;
            }
            if let Request::AskCircumstances { incident, node } = request {
                self.asked.push((incident, node));
                continue;
            }
            let Request::Echo {
                netns,
                target,
                token,
            } = request
            else {
                continue;
            };
            self.echoes.push((self.scene.now, target));
            if self.reachable && !self.absent.contains(&target) {
                self.scene.tell(Fact::EchoReplied {
                    netns,
                    token,
                    target,
                    rtt_nanos: 100_000,
                });
            } else if let Some(errno) = self.refused {
                self.scene.tell(Fact::EchoFailed {
                    netns,
                    token,
                    target,
                    errno,
                });
            }
        }
    }

    /// This node's speaker ends, of `signal` or by itself.
    pub fn speaker_ends(&mut self, signal: Option<i32>) {
        self.scene.tell(Fact::SpeakerExited {
            netns: NETNS,
            speaker: bird(),
            status: signal.is_none().then_some(0),
            signal,
        });
    }

    /// An inventory names the peer.
    pub fn inventory(&mut self, name: &str) {
        let peers = vec![InventoryPeer {
            node: None,
            address: PEER.parse().unwrap(),
            name: Some(name.to_owned()),
            peer_type: None,
            asn: None,
            targets: Vec::new(),
        }];
        self.scene.tell(Fact::Inventory { peers });
    }

    pub fn notice(&mut self, notice: Notice) {
        let mut out = Vec::new();
        let now = millis(self.scene.now);
        self.scene.observer.notice(now, notice, &mut out);
        for output in out {
            match output {
                Output::Change(change) => self.scene.changes.push(change),
                Output::Request(request) => self.scene.requests.push(request),
            }
        }
        self.answer();
    }

    pub fn route(&mut self, route: &str, peer: &str, step: RouteStep) {
        self.route_within(route, peer, step, 0);
    }

    /// That may have been so many milliseconds ago.
    pub fn route_within(&mut self, route: &str, peer: &str, step: RouteStep, ago: u64) {
        self.notice(Notice::Route(RouteNotice {
            netns: NETNS,
            prefix: prefix(route),
            earliest: millis(self.scene.now - ago),
            latest: millis(self.scene.now),
            owner: RouteOwner::Bird,
            more: 0,
            peers: PeerAddress::parse(peer).into_iter().collect(),
            writer: Some(bird()),
            step,
        }));
    }

    /// What the kernel says of the peer's link-layer address.
    pub fn neighbour(&mut self, state: NeighbourState) {
        let at = millis(self.scene.now);
        self.notice(Notice::Neighbour(NeighbourNotice {
            netns: NETNS,
            peer: PeerAddress::parse(PEER).unwrap(),
            link: "eth0".to_owned(),
            earliest: at,
            latest: at,
            failed: state == NeighbourState::Failed,
            prefixes: Vec::new(),
        }));
    }

    pub fn gone(&mut self, how: RouteLoss) {
        self.route(
            BLOCK,
            PEER,
            RouteStep::Gone {
                how,
                planned: false,
            },
        );
    }

    pub fn back(&mut self) {
        let gap = std::time::Duration::ZERO;
        self.route(BLOCK, PEER, RouteStep::Back { gap });
    }

    /// Echoes since the first `before` of them, of the target that was sent most.
    pub fn most_asked(&self, before: usize) -> usize {
        let since = self.echoes.get(before..).unwrap_or_default();
        let of = |one: &IpAddr| since.iter().filter(|(_, target)| target == one).count();
        let many = since.iter().map(|(_, target)| of(target));
        many.max().unwrap_or_default()
    }

    pub fn all(&self) -> Vec<Incident> {
        self.scene.observer.incidents()
    }

    /// The only incident there was, and that is over.
    pub fn closed(&mut self) -> Incident {
        self.pass(10_000);
        let all = self.all();
        assert_eq!(all.len(), 1, "{all:#?}");
        let only = all.into_iter().next().unwrap();
        assert!(only.closed_at.is_some(), "{only:#?}");
        only
    }
}
