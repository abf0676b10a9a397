//! What an incident came to, and on what that rests: from what is known, nothing else.
//!
//! When do lost echoes make it `reachability_lost` (or `blackholed`)? The gap threshold (1 s) holds for
//! packets as it does for routes:
//!
//! - Silence for longer than the threshold, three echoes or more in a row: always.
//! - A shorter silence while a route was gone for longer than the threshold, or a link was down for
//!   longer: yes, it is what the tables say must happen.
//! - A shorter silence while routes were gone for less than the threshold: no. It is the `micro_gap` that the
//!   routes show, and the record gives the time for which packets were lost.
//! - A shorter silence and no gap at all in the routes: from three echoes in a row on, nothing else
//!   explaining it. One or two may have been lost by accident, and the record gives their time.

use std::time::Duration;

use super::{
    drops::packets_of,
    probe::Probe,
    record::{Proof, SubjectKind, Verdict},
};
use crate::change::RestartEnd;

/// How this node is cut off from its peers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Cut {
    /// A link that they are reached over is down.
    Link,
    /// Nothing is heard from them.
    Silence,
}

/// What is known.
#[derive(Clone, Copy, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is one observation; the verdict is a table over them"
)]
pub(super) struct Known {
    pub subject: SubjectKind,
    /// Sessions that fell.
    pub sessions: usize,
    /// Some are still down.
    pub still_down: bool,
    /// Graceful restart kept routes for one of them.
    pub kept: bool,
    /// It ended otherwise than by End-of-RIB.
    pub failed_restart: Option<RestartEnd>,
    /// Routes gone for longer than the threshold, and for less.
    pub lost: u64,
    pub micro: u64,
    /// Routes still gone.
    pub still_gone: u64,
    /// The kernel's routes are observed.
    pub routes_seen: bool,
    /// Where they are not: routes that the sessions had brought and nothing keeps.
    pub presumed_lost: u64,
    /// A link of this node that peers are reached over was down for longer than the threshold.
    pub link_lost: bool,
    /// One is down now.
    pub link_down: bool,
    /// This node is cut off.
    pub cut: Option<Cut>,
    pub packets: Packets,
    /// Packets to lost prefixes that this node dropped, as many as prove that.
    pub dropped: u64,
    /// What its TCP sent again on the way there or gave up, which proves nothing alone.
    pub tcp_unanswered: u64,
    /// This node's own speaker ended: only one direction can be seen from here.
    pub own_restart: bool,
    pub decommissioned: bool,
    /// What was lost was withdrawn by an UPDATE.
    pub withdrawn: bool,
    /// Peers that did not answer for their link-layer address at some time.
    pub neighbours: usize,
    /// What was silent may be a pod that is gone.
    pub silence_doubted: bool,
}

/// What echoes showed of targets that were seen alive.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Packets {
    /// No target was seen alive: nothing.
    None,
    /// All were answered.
    Answered,
    /// One or two in a row were not, which may be an accident: for so many seconds at most.
    Few(f64),
    /// More in a row were not, but for no longer than the gap threshold, likewise.
    Brief(f64),
    /// They were not for longer, or are not now.
    Lost,
}

impl Packets {
    /// As `probes` show.
    pub fn of(probes: &[Probe], threshold: Duration) -> Self {
        let mut alive = probes
            .iter()
            .filter(|probe| probe.seen_alive && probe.sent > 0)
            .peekable();
        if alive.peek().is_none() {
            return Self::None;
        }
        let mut most = 0.0_f64;
        let (mut missed, mut silent) = (false, false);
        for probe in alive {
            let Some(span) = probe.unreachable() else {
                continue;
            };
            missed = true;
            silent |= probe.was_silent();
            let Some(max) = span.max else {
                return Self::Lost;
            };
            if probe.was_silent() && max > threshold.as_secs_f64() {
                return Self::Lost;
            }
            most = most.max(max);
        }
        match (missed, silent) {
            (false, _) => Self::Answered,
            (true, false) => Self::Few(most),
            (true, true) => Self::Brief(most),
        }
    }

    /// For how long at most targets did not answer without that counting as a loss.
    const fn moment(self) -> Option<f64> {
        match self {
            Self::Few(most) | Self::Brief(most) => Some(most),
            Self::None | Self::Answered | Self::Lost => None,
        }
    }
}

impl Known {
    /// A target was alive.
    pub fn alive(&self) -> bool {
        self.packets != Packets::None
    }

    /// Packets prove that targets could not be reached. See the module's own words for the rule.
    pub fn unreachable(&self) -> bool {
        self.dropped > 0 || self.unanswered()
    }

    /// Echoes prove it.
    pub fn unanswered(&self) -> bool {
        match self.packets {
            Packets::None | Packets::Answered => false,
            Packets::Few(_) => self.lost > 0 || self.link_lost,
            Packets::Brief(_) => self.lost > 0 || self.link_lost || self.micro == 0,
            Packets::Lost => true,
        }
    }

    /// No session fell, no route was lost, no link was down.
    const fn is_healthy(&self) -> bool {
        self.sessions == 0 && self.lost == 0 && self.micro == 0 && !self.link_lost
    }

    /// Nothing but silence says that something is wrong, and that may be a pod's that is gone.
    pub const fn doubtful(&self) -> bool {
        let unexplained = self.is_healthy() || self.withdrawn;
        unexplained && self.silence_doubted && self.dropped == 0
    }

    /// For how long at most targets were silent, where that counts as a moment and no loss.
    pub fn moment(&self) -> Option<f64> {
        self.packets.moment().filter(|_| !self.unreachable())
    }
}

/// What it came to.
pub(super) fn judge(known: &Known) -> Verdict {
    if known.unreachable() && !known.doubtful() {
        return if known.is_healthy() {
            Verdict::Blackholed
        } else {
            Verdict::ReachabilityLost
        };
    }
    if known.decommissioned {
        return Verdict::Decommissioned;
    }
    // A link that is down carries nothing, whatever its routes look like; what answered had another way.
    let cut = known.link_lost && !known.alive();
    if known.lost > 0 || cut || (!known.routes_seen && known.presumed_lost > 0) {
        return Verdict::RoutesLost;
    }
    if known.micro > 0 {
        return Verdict::MicroGap;
    }
    if known.kept && known.failed_restart.is_none() {
        return Verdict::Graceful;
    }
    Verdict::NoImpact
}

/// Whether packets say so.
pub(super) fn proof(known: &Known) -> Proof {
    if known.alive() || known.dropped > 0 {
        Proof::Proven
    } else {
        Proof::Inferred
    }
}

/// What the verdict rests on.
pub(super) fn rests_on(known: &Known) -> String {
    let link = if known.link_lost {
        "a link of this node that was down; "
    } else {
        ""
    };
    let routes = match (known.lost, known.micro) {
        (0, 0) if known.routes_seen => "the kernel's routes, none of which was lost".to_owned(),
        (0, 0) if known.presumed_lost > 0 => format!(
            "the {} that the sessions had brought and nothing keeps; the kernel's routes were not \
             observed",
            routes_of(known.presumed_lost)
        ),
        (0, 0) => "the sessions alone; the kernel's routes were not observed".to_owned(),
        (0, micro) => format!("{} back within the gap threshold", routes_of(micro)),
        (lost, _) => format!("{} gone for longer than the gap threshold", routes_of(lost)),
    };
    let packets = match known.moment() {
        Some(most) => format!("targets that answered, but for {most:.1} s at most"),
        None if known.unanswered() => {
            "targets that answered before or after, and not in between".to_owned()
        }
        None if known.alive() => "targets that answered all the time".to_owned(),
        None if known.dropped > 0 => "no target that was seen alive".to_owned(),
        None => "no packet: no target was seen alive".to_owned(),
    };
    let neighbours = match known.neighbours {
        0 => String::new(),
        1 => "; a peer that did not answer for its link-layer address".to_owned(),
        many => format!("; {many} peers that did not answer for their link-layer addresses"),
    };
    let doubt = if known.unreachable() && known.doubtful() {
        "; an address that alone is silent may be a pod that is gone"
    } else {
        ""
    };
    let direction = if known.own_restart {
        "; all of that is what this node could reach, not who could reach it"
    } else {
        ""
    };
    let dropped = match known.dropped {
        0 => String::new(),
        count => format!("; {} that this node dropped", packets_of(count)),
    };
    let tcp = match known.tcp_unanswered {
        0 => String::new(),
        count => {
            format!(
                "; TCP of this node that went unanswered {count} times, which fits and proves nothing"
            )
        }
    };
    format!("{link}{routes}; {packets}{dropped}{tcp}{neighbours}{doubt}{direction}")
}

/// So many routes.
pub(super) fn routes_of(count: u64) -> String {
    match count {
        1 => "1 route".to_owned(),
        _ => format!("{count} routes"),
    }
}

/// Whom to ask whether others could reach this node, whose speaker ended.
pub(super) fn ask_the_peers(own: &str, key: &str) -> String {
    format!(
        "the peers' records, group key {key}: they tell whether pods on this node could be reached \
         (`bgp-observer incidents` there). Here: {own}"
    )
}

/// What would have made it another one.
pub(super) fn would_change(known: &Known, verdict: Verdict) -> String {
    let own = match verdict {
        Verdict::Graceful | Verdict::MicroGap | Verdict::NoImpact if known.moment().is_some() => {
            "a silence longer than the gap threshold, or three echoes lost in a row without a gap \
             in the routes, would make it reachability_lost"
        }
        Verdict::Graceful | Verdict::MicroGap | Verdict::NoImpact if known.alive() => {
            "a target that stopped answering would make it reachability_lost"
        }
        Verdict::Graceful | Verdict::MicroGap | Verdict::NoImpact => {
            "a route gone for longer, or a target seen alive that stops answering, would make it \
             routes_lost or reachability_lost"
        }
        Verdict::RoutesLost if known.alive() => {
            "a target that stopped answering would make it reachability_lost: they all answered"
        }
        Verdict::RoutesLost => {
            "a target seen alive would prove or disprove that pods could not be reached"
        }
        Verdict::ReachabilityLost => {
            "targets that answered all the time would make it routes_lost, graceful or no_impact"
        }
        Verdict::Blackholed => {
            "a session that fell or a route that was lost would explain it: reachability_lost"
        }
        Verdict::Decommissioned => {
            "a target that still lived there would make it reachability_lost"
        }
    };
    own.to_owned()
}

/// The one thing to look at next.
pub(super) fn next_check(known: &Known, cause: &str, identity: &str) -> String {
    let here = matches!(known.subject, SubjectKind::Local);
    if known.link_down {
        return format!(
            "why is it: {cause}? `ip link`, `ethtool` and the kernel's log on this node, the port of its \
             switch"
        );
    }
    if known.cut == Some(Cut::Silence) && known.still_down {
        return "does this node's own firewall let tcp/179 pass, and does anything reach it at all? \
                Look at its nftables or iptables, its security group, its links"
            .to_owned();
    }
    if known.sessions > 0 && known.still_down {
        return if here {
            "is BIRD running on this node? `kubectl logs` of its calico-node, and its previous \
             container's log"
                .to_owned()
        } else if cause.contains("hold timer") {
            format!(
                "is tcp/179 open between this node and {identity}? Look at firewalls and security groups"
            )
        } else {
            format!(
                "is calico-node running on {identity}, and can it be reached? `kubectl get pod -o wide`"
            )
        };
    }
    if known.still_gone > 0 && (known.sessions > 0 || cause.contains("programmed")) {
        return "the sessions are up and routes are missing: BIRD programs none until all mesh peers are \
                back or its 240 s recovery timer runs out; `status --down` names who is missing"
            .to_owned();
    }
    if known.still_gone > 0 {
        return "who removes the routes? `incident` names the writer where one was seen; look at \
                NetworkManager and systemd-networkd"
            .to_owned();
    }
    if known.withdrawn {
        return format!(
            "why does {identity} not announce what it has pods in? Its `birdc show route`, the block's \
             affinity in Calico's IPAM (`calicoctl ipam show --show-blocks`), confd's log there"
        );
    }
    if known.unreachable() && known.neighbours > 0 && known.sessions == 0 && known.lost == 0 {
        return format!(
            "{identity} does not answer on its link (ARP, neighbour discovery): is it up, and are \
             its port and VLAN on the switch?"
        );
    }
    if known.unreachable() && known.sessions == 0 && known.lost == 0 {
        return format!(
            "session and routes to {identity} look healthy and packets do not pass: its links, its \
             firewall, and its own routes"
        );
    }
    match known.failed_restart {
        Some(RestartEnd::Expired) => {
            return "the peer was away for longer than the restart time: why did it take so long to start?"
                .to_owned();
        }
        Some(RestartEnd::SecondRestart) => {
            return "it restarted twice while its routes were stale: look for a crash loop"
                .to_owned();
        }
        Some(RestartEnd::NotPreserved) => {
            return "it came back without its forwarding state: is BIRD started with -R?"
                .to_owned();
        }
        Some(RestartEnd::EndOfRib) | None => {}
    }
    if known.lost > 0 && cause.contains("Cease") {
        return "an orderly stop (Cease) drops routes at once, graceful restart does not cover it: who \
                stopped BIRD?"
            .to_owned();
    }
    if cause.is_empty() {
        "nothing is left to be done".to_owned()
    } else {
        format!("nothing is left to be done unless it happens again; the cause was: {cause}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALM: Known = Known {
        subject: SubjectKind::Peer,
        sessions: 1,
        still_down: false,
        kept: false,
        failed_restart: None,
        lost: 0,
        micro: 0,
        still_gone: 0,
        routes_seen: true,
        presumed_lost: 0,
        link_lost: false,
        link_down: false,
        cut: None,
        packets: Packets::None,
        dropped: 0,
        tcp_unanswered: 0,
        own_restart: false,
        decommissioned: false,
        withdrawn: false,
        neighbours: 0,
        silence_doubted: false,
    };

    #[test]
    fn the_verdict_is_a_table() {
        for (known, verdict) in [
            (CALM, Verdict::NoImpact),
            (Known { kept: true, ..CALM }, Verdict::Graceful),
            (
                Known {
                    lost: 1,
                    dropped: 1,
                    ..CALM
                },
                Verdict::ReachabilityLost,
            ),
            (
                Known {
                    sessions: 0,
                    dropped: 1,
                    ..CALM
                },
                Verdict::Blackholed,
            ),
            (
                Known {
                    kept: true,
                    micro: 1,
                    ..CALM
                },
                Verdict::MicroGap,
            ),
            (
                Known {
                    lost: 1,
                    micro: 1,
                    ..CALM
                },
                Verdict::RoutesLost,
            ),
            (
                Known {
                    kept: true,
                    failed_restart: Some(RestartEnd::Expired),
                    ..CALM
                },
                Verdict::NoImpact,
            ),
            (
                Known {
                    presumed_lost: 3,
                    ..CALM
                },
                Verdict::NoImpact,
            ),
            (
                Known {
                    presumed_lost: 3,
                    routes_seen: false,
                    ..CALM
                },
                Verdict::RoutesLost,
            ),
            (
                Known {
                    lost: 1,
                    packets: Packets::Lost,
                    ..CALM
                },
                Verdict::ReachabilityLost,
            ),
            (
                Known {
                    sessions: 0,
                    packets: Packets::Lost,
                    ..CALM
                },
                Verdict::Blackholed,
            ),
            (
                Known {
                    sessions: 0,
                    link_lost: true,
                    ..CALM
                },
                Verdict::RoutesLost,
            ),
            (
                Known {
                    sessions: 0,
                    link_lost: true,
                    packets: Packets::Answered,
                    ..CALM
                },
                Verdict::NoImpact,
            ),
            (
                Known {
                    sessions: 0,
                    link_lost: true,
                    packets: Packets::Lost,
                    ..CALM
                },
                Verdict::ReachabilityLost,
            ),
            (
                Known {
                    micro: 1,
                    packets: Packets::Few(0.4),
                    ..CALM
                },
                Verdict::MicroGap,
            ),
            (
                Known {
                    micro: 1,
                    packets: Packets::Brief(0.9),
                    ..CALM
                },
                Verdict::MicroGap,
            ),
            (
                Known {
                    micro: 1,
                    packets: Packets::Lost,
                    ..CALM
                },
                Verdict::ReachabilityLost,
            ),
            (
                Known {
                    lost: 1,
                    packets: Packets::Few(0.4),
                    ..CALM
                },
                Verdict::ReachabilityLost,
            ),
            (
                Known {
                    kept: true,
                    packets: Packets::Few(0.4),
                    ..CALM
                },
                Verdict::Graceful,
            ),
            (
                Known {
                    kept: true,
                    packets: Packets::Brief(0.9),
                    ..CALM
                },
                Verdict::ReachabilityLost,
            ),
            (
                Known {
                    decommissioned: true,
                    lost: 1,
                    ..CALM
                },
                Verdict::Decommissioned,
            ),
        ] {
            assert_eq!(judge(&known), verdict, "{known:?}");
            assert!(!rests_on(&known).is_empty());
            assert!(!would_change(&known, verdict).is_empty());
            let next = next_check(&known, "", "10.0.0.2");
            assert!(!next.is_empty() && !next.contains("  "), "{next}");
            let proven = proof(&known) == Proof::Proven;
            assert_eq!(proven, known.alive() || known.dropped > 0);
        }
    }
}
