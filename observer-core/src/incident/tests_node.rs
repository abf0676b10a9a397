//! Stories of the observed node itself: its links, its firewall.

use super::{
    record::{Affected, Incident, MilestoneKind, Proof, SubjectKind, Verdict},
    testing::{BLOCK, Story},
};
use crate::{
    config::ReachMode,
    event::{
        Fact, Socket, TcpState,
        forwarding::{Forwarding, NeighbourState},
    },
    notice::{RouteLoss, RouteStep},
    testing::{NETNS, PEER, bird, process, socket},
    testing_wire::{Talk, end_of_rib, keepalive, notification, update},
    tests_fib::{route, via},
};

/// Peers of these nodes.
const HOSTS: [u8; 3] = [2, 3, 4];

fn to(host: u8) -> Socket {
    let local = format!("10.0.0.1:{}", 40_000 + u16::from(host));
    socket(u64::from(host), &local, &format!("10.0.0.{host}:179"))
}

impl Story {
    fn forward(&mut self, forwarding: Forwarding) {
        let netns = NETNS;
        self.scene.tell(Fact::Forwarding { netns, forwarding });
    }

    fn link(&mut self, up: bool, carrier: bool) {
        self.forward(Forwarding::Link {
            interface: 2,
            name: "eth0".to_owned(),
            up,
            carrier,
            master: None,
            vrf: None,
        });
    }

    /// A mesh on one link: each peer announces one block, whose first addresses answer.
    fn mesh(mode: ReachMode) -> (Self, Vec<Talk>) {
        let mut story = Self::new(mode);
        story.link(true, true);
        story.forward(Forwarding::Address {
            interface: 2,
            address: "10.0.0.1".parse().unwrap(),
            length: 24,
            gone: false,
        });
        let mut talks = Vec::new();
        for host in HOSTS {
            let mut talk = Talk::new(to(host));
            talk.establish(&mut story.scene);
            let block = [26, 10, 244, host, 0];
            talk.says(&mut story.scene, false, &update(&[], &block));
            talk.says(&mut story.scene, false, &end_of_rib());
            talks.push(talk);
        }
        story.pass(20_000);
        assert_eq!(story.all(), [], "nothing has happened");
        (story, talks)
    }

    fn every_block(&mut self, step: &RouteStep) {
        for host in HOSTS {
            let (block, peer) = (format!("10.244.{host}.0/26"), format!("10.0.0.{host}"));
            self.route(&block, &peer, step.clone());
        }
    }
}

fn unreachable() -> RouteStep {
    RouteStep::Gone {
        how: RouteLoss::Unreachable,
        planned: false,
    }
}

fn back() -> RouteStep {
    let gap = std::time::Duration::ZERO;
    RouteStep::Back { gap }
}

fn words(incident: &Incident, kind: MilestoneKind) -> Vec<&str> {
    let of = incident.milestones.iter();
    let of = of.filter(|milestone| milestone.kind == kind);
    of.map(|milestone| milestone.what.as_str()).collect()
}

#[test]
fn the_own_link_down_is_one_incident_of_this_node_whichever_is_told_first() {
    for routes_first in [false, true] {
        for mode in [ReachMode::Off, ReachMode::Tunnel] {
            let (mut story, _talks) = Story::mesh(mode);
            story.reachable = false;
            story.refused = Some(101);
            if routes_first {
                story.every_block(&unreachable());
                story.pass(80);
                story.link(false, false);
            } else {
                story.link(false, false);
                story.pass(1);
                story.every_block(&unreachable());
            }
            story.pass(15_000);
            assert_eq!(story.all().len(), 1, "one event: {:#?}", story.all());
            let open = &story.all()[0];
            assert!(open.next_check.contains("ethtool"), "{}", open.next_check);
            story.reachable = true;
            story.link(true, true);
            story.pass(1_000);
            story.every_block(&back());
            let incident = story.closed();
            assert_eq!(incident.subject.kind, SubjectKind::Local);
            assert_eq!(incident.cause, "link eth0 down");
            assert_eq!(incident.prefixes.lost, 3);
            assert!(incident.sessions.is_empty());
            let links = words(&incident, MilestoneKind::Link);
            assert_eq!(links, ["link eth0 down", "link eth0 up"]);
            let (verdict, proof) = if mode == ReachMode::Off {
                (Verdict::RoutesLost, Proof::Inferred)
            } else {
                (Verdict::ReachabilityLost, Proof::Proven)
            };
            assert_eq!((incident.verdict, incident.proof), (verdict, proof));
            if mode == ReachMode::Tunnel {
                assert_eq!(incident.impact[0].affected, Affected::Yes);
                let max = incident.unreachable_seconds.unwrap().max.unwrap();
                assert!((14.7..=16.5).contains(&max), "{max}");
            }
        }
    }
}

#[test]
fn a_link_down_explains_routes_that_look_healthy_and_what_falls_later() {
    let (mut story, talks) = Story::mesh(ReachMode::Off);
    story.link(true, false);
    story.pass(2_000);
    let open = story.all();
    assert_eq!(open.len(), 1, "{open:#?}");
    assert_eq!(open[0].cause, "link eth0 without carrier");
    assert_eq!(open[0].verdict, Verdict::RoutesLost, "inferred: {open:#?}");
    assert_eq!(open[0].proof, Proof::Inferred);
    assert!(open[0].rests_on.contains("link"), "{}", open[0].rests_on);
    story.pass(238_000);
    for talk in &talks {
        story.scene.tell(Fact::TcpError {
            socket: talk.socket,
            errno: 113,
        });
        story
            .scene
            .state(talk.socket, TcpState::Established, TcpState::Close);
        story.pass(5_000);
    }
    let open = story.all();
    assert_eq!(open.len(), 1, "{open:#?}");
    assert_eq!(open[0].cause, "link eth0 without carrier");
    assert_eq!(open[0].sessions.len(), 3);
    assert!(open[0].closed_at.is_none());
}

#[test]
fn a_link_that_blinks_is_no_incident_unless_something_followed() {
    let (mut story, _talks) = Story::mesh(ReachMode::Tunnel);
    story.link(false, false);
    story.pass(300);
    story.link(true, true);
    story.pass(30_000);
    assert_eq!(story.all(), []);
    // Nor is one that no peer is behind.
    story.forward(Forwarding::Link {
        interface: 7,
        name: "cali1".to_owned(),
        up: true,
        carrier: true,
        master: None,
        vrf: None,
    });
    story.forward(Forwarding::LinkGone { interface: 7 });
    story.pass(30_000);
    assert_eq!(story.all(), []);
}

#[test]
fn a_neighbour_that_does_not_answer_is_probed_at_once_and_in_the_record() {
    let (mut story, _talks) = Story::mesh(ReachMode::Tunnel);
    let neighbour = |state| Forwarding::Neighbour {
        interface: 2,
        address: "10.0.0.2".parse().unwrap(),
        state,
    };
    // Asked again and again, it fails each time; its pods answer, so that nothing is wrong.
    for _ in 0..5 {
        story.forward(neighbour(NeighbourState::Failed));
        story.forward(neighbour(NeighbourState::Incomplete));
        story.pass(3_000);
    }
    assert_eq!(story.all(), []);
    story.forward(neighbour(NeighbourState::Usable));
    story.reachable = false;
    story.forward(neighbour(NeighbourState::Failed));
    story.pass(2_000);
    let open = story.all();
    assert_eq!(open.len(), 1, "{open:#?}");
    assert_eq!(open[0].verdict, Verdict::Blackholed);
    assert!(
        open[0]
            .cause
            .contains("10.0.0.2 does not answer on its link"),
        "{}",
        open[0].cause
    );
    story.reachable = true;
    story.forward(neighbour(NeighbourState::Usable));
    story.pass(60_000);
    let all = story.all();
    let of_n2 = &all[0];
    assert!(of_n2.closed_at.is_some());
    let links = words(of_n2, MilestoneKind::Link);
    assert!(
        links[0].contains("does not answer on link eth0") && links[1].contains("answers again"),
        "{links:?}"
    );
}

/// With route reflectors most next hops are no peers.
#[test]
fn a_next_hop_that_is_no_peer_and_does_not_answer_is_probed_and_in_the_record() {
    let Story { scene, .. } = Story::new(ReachMode::Tunnel);
    let client = route("10.244.9.0/26", 12, &[via("10.0.0.9", 2)]);
    let mut story = Story::of(scene.following(&[client]));
    let neighbour = |address: &str, state| Forwarding::Neighbour {
        interface: 2,
        address: address.parse().unwrap(),
        state,
    };
    story.reachable = false;
    story.forward(neighbour("10.0.0.77", NeighbourState::Failed));
    assert_eq!(story.echoes, [], "nothing leads over that one");
    story.forward(neighbour("10.0.0.9", NeighbourState::Failed));
    story.pass(2_500);
    assert!(!story.echoes.is_empty());
    assert_eq!(story.all(), [], "no address is known to be alive");
    story.reachable = true;
    story.forward(neighbour("10.0.0.9", NeighbourState::Usable));
    let incident = story.closed();
    assert_eq!(incident.verdict, Verdict::Blackholed);
    assert_eq!(incident.subject.identity, "10.0.0.9");
    assert!(incident.rests_on.contains("link-layer"), "{incident:#?}");
    assert!(incident.cause.contains("does not answer on its link"));
}

/// Every peer but those of `heard` was last heard when its last KEEPALIVE came, up to 80 s apart.
fn cut(story: &mut Story, talks: &mut [Talk], heard: &[usize]) {
    for (number, talk) in talks.iter_mut().enumerate() {
        story.pass(if number == 0 { 0 } else { 30_000 });
        talk.says(&mut story.scene, false, &keepalive());
    }
    // The last of them 60 s after the first; 240 s after the first its timer runs out.
    for _ in 0..3 {
        story.pass(60_000);
        for number in heard {
            talks[*number].says(&mut story.scene, false, &keepalive());
        }
    }
}

fn expire(story: &mut Story, talk: &Talk) {
    let mut socket = talk.socket;
    socket.unanswered_retransmits = 9;
    socket.total_retransmits = 9;
    story.scene.info(socket, TcpState::Established);
    story
        .scene
        .state(socket, TcpState::Established, TcpState::FinWait1);
}

#[test]
fn a_firewall_of_this_node_that_cuts_all_peers_is_one_incident() {
    let (mut story, mut talks) = Story::mesh(ReachMode::Off);
    cut(&mut story, &mut talks, &[]);
    for talk in &talks {
        expire(&mut story, talk);
        story.pass(30_000);
        let all = story.all();
        assert_eq!(all.len(), 1, "{all:#?}");
    }
    let only = &story.all()[0];
    assert_eq!(only.subject.kind, SubjectKind::Local);
    assert_eq!(only.sessions.len(), 3);
    assert!(
        only.cause
            .starts_with("nothing is heard from any of 3 peers"),
        "{}",
        only.cause
    );
    assert!(only.cause.contains("hold timer expired"), "{}", only.cause);
    assert_eq!(only.cause_label.as_deref(), Some("hold_timer_expired"));
    assert!(only.next_check.contains("firewall"), "{}", only.next_check);
    assert!(only.group_keys[0].contains("/600a/"), "{only:?}");
    let ids: Vec<String> = story.all().into_iter().map(|one| one.id).collect();
    for host in HOSTS {
        story.scene.establish(Socket {
            id: crate::event::SocketId(u64::from(host) + 10),
            ..to(host)
        });
    }
    let over = story.closed();
    assert_eq!([over.id], *ids);
}

#[test]
fn timers_that_run_out_together_are_one_incident_too() {
    let (mut story, mut talks) = Story::mesh(ReachMode::Off);
    for talk in &mut talks {
        talk.says(&mut story.scene, false, &keepalive());
    }
    story.pass(240_000);
    for talk in &talks {
        expire(&mut story, talk);
    }
    story.pass(5_000);
    let all = story.all();
    assert_eq!(all.len(), 1, "{all:#?}");
    assert!(
        all[0]
            .cause
            .starts_with("nothing is heard from any of 3 peers"),
        "{}",
        all[0].cause
    );
    assert_eq!(all[0].sessions.len(), 3);
}

#[test]
fn one_silent_peer_among_others_that_are_heard_is_that_peer_s() {
    let (mut story, mut talks) = Story::mesh(ReachMode::Off);
    cut(&mut story, &mut talks, &[1, 2]);
    expire(&mut story, &talks[0]);
    story.pass(5_000);
    let all = story.all();
    assert_eq!(all.len(), 1);
    assert_eq!(all[0].subject.kind, SubjectKind::Peer);
    assert!(all[0].next_check.contains("179"), "{}", all[0].next_check);
}

#[test]
fn the_end_of_the_own_speaker_judges_one_direction_and_sends_to_the_peers_for_the_other() {
    for (signal, notified) in [(9, false), (15, true)] {
        let (mut story, mut talk) = Story::graceful(ReachMode::Tunnel);
        if notified {
            talk.says(&mut story.scene, true, &notification(6, 2, ""));
        }
        story.scene.tell(Fact::SpeakerSignalled {
            netns: NETNS,
            speaker: bird(),
            signal,
            sender: Some(process(7, "kubelet")),
        });
        let (from, to) = (TcpState::Established, TcpState::FinWait1);
        story.scene.state_by(talk.socket, from, to, Some(bird()));
        story.speaker_ends((!notified).then_some(9));
        story.pass(3_000);
        let mut talk = story.session(2);
        talk.says(&mut story.scene, false, &end_of_rib());
        let incident = story.closed();
        assert!(incident.is_own_restart());
        let key = incident.group_keys[0].as_str();
        let there = &incident.impact[1];
        assert!(there.traffic.contains("-> this node and its pods"));
        assert!(
            there.reason.contains("not observable from this node") && there.reason.contains(key),
            "{there:?}"
        );
        let kept = !notified;
        let (verdict, affected) = if kept {
            (Verdict::Graceful, Affected::Unknown)
        } else {
            (Verdict::NoImpact, Affected::Inferred)
        };
        assert_eq!((incident.verdict, there.affected), (verdict, affected));
        assert_eq!(incident.impact[0].affected, Affected::No, "echoes say so");
        assert_eq!(incident.proof, Proof::Proven);
        assert!(incident.next_check.contains(key), "{}", incident.next_check);
        let missing = incident.evidence.missing.join(" ");
        assert!(missing.contains("not observable"), "{missing}");
        assert!(incident.rests_on.contains("not who could reach it"));
    }
}

#[test]
fn an_own_speaker_that_takes_its_routes_along_lost_them_in_its_own_direction() {
    let (mut story, talk) = Story::graceful(ReachMode::Tunnel);
    story.gone(RouteLoss::Deleted);
    story.reachable = false;
    story.refused = Some(101);
    story.scene.now += 5;
    let (from, to) = (TcpState::Established, TcpState::FinWait1);
    story.scene.state_by(talk.socket, from, to, Some(bird()));
    story.speaker_ends(Some(9));
    story.pass(4_000);
    let mut talk = story.session(2);
    talk.says(&mut story.scene, false, &end_of_rib());
    story.reachable = true;
    story.back();
    let incident = story.closed();
    assert!(incident.is_own_restart());
    assert_eq!(incident.verdict, Verdict::ReachabilityLost);
    assert_eq!(incident.impact[0].affected, Affected::Yes);
    assert_eq!(incident.prefixes.lost, 1);
    assert!(incident.impact[1].reason.contains("not observable"));
}

/// rtnetlink has no times: the end of a route lies in an interval.
#[test]
fn an_incident_counts_from_the_first_moment_that_is_certain() {
    for session_too in [false, true] {
        let (mut story, mut talk) = Story::graceful(ReachMode::Off);
        if session_too {
            talk.says(&mut story.scene, false, &notification(6, 2, ""));
            talk.peer_closes(&mut story.scene);
        }
        let how = RouteLoss::Deleted;
        let planned = false;
        story.route_within(BLOCK, PEER, RouteStep::Gone { how, planned }, 90);
        story.pass(5_000);
        let told = story.all();
        let [incident] = &told[..] else {
            panic!("{told:#?}");
        };
        let first = incident.milestones.iter().map(|one| one.latest).min();
        assert_eq!(Some(incident.opened_at), first, "{session_too}");
        let early = { incident.milestones.iter() }.find(|one| one.earliest < incident.opened_at);
        let early = early.map(|one| one.kind);
        assert_eq!(early, Some(MilestoneKind::FirstRouteGone), "{session_too}");
    }
}
