//! What can be done to the nodes of a lab.

use std::time::Duration;

use anyhow::Result;
use nix::sys::signal::Signal;

use crate::{
    firewall as wall,
    lab::{Lab, Node},
    netns, programs,
    speaker::Manners,
};

/// The AS of a node whose operator mistook the number.
pub const FOREIGN_ASN: u32 = 64513;

/// What is done to a node.
#[derive(Clone, Copy, Debug)]
pub enum Act {
    /// Its speaker gets a signal that ends it.
    End(Signal),
    /// Its speaker is started.
    Start,
    /// Its BIRD is started without `-R`.
    StartAnew,
    /// Its speaker is started as one of AS [`FOREIGN_ASN`].
    StartForeign,
    /// Its BIRD restarts every session.
    RestartSessions,
    /// Its BIRD ends every session and keeps them down.
    DisableSessions,
    /// Its BIRD builds them up again.
    EnableSessions,
    /// Its BIRD announces one more block.
    Announce,
    /// And withdraws it.
    Withdraw,
    /// Its BIRD withdraws the block of its pods.
    WithdrawBlock,
    /// And announces it again.
    AnnounceBlock,
    /// What its ended BIRD had programmed goes, as in a reboot.
    Flush,
    /// Its firewall drops all BGP.
    Drop,
    /// Its firewall lets new BGP connections pass; those there were when it began to drop stay cut.
    Admit,
    /// Its firewall lets BGP pass again.
    Pass,
    /// Its kernel resets every BGP connection (`ss --kill`).
    Reset,
    /// The port of the switch to which it is connected goes down.
    Unplug,
    /// And up again.
    Plug,
    /// Its uplink goes down.
    LinkDown,
    /// Its uplink comes back, with the default route that went with it.
    LinkUp,
}

impl Act {
    /// What is done, in words.
    pub fn describe(self, node: &Node) -> String {
        let Node { name, speaker, .. } = node;
        let who = format!("{} of {name}", speaker.title());
        match self {
            Self::End(signal) => {
                format!(
                    "{who} (pid {}) gets {signal}",
                    node.pid().unwrap_or_default()
                )
            }
            Self::Start => format!("{who} is started"),
            Self::StartAnew => format!("{who} is started without -R"),
            Self::StartForeign => format!("{who} is started with AS {FOREIGN_ASN}"),
            Self::RestartSessions => format!("{who} restarts its sessions (birdc restart)"),
            Self::DisableSessions => format!("{who} disables its sessions (birdc disable)"),
            Self::EnableSessions => format!("{who} enables its sessions (birdc enable)"),
            Self::Announce => format!("{who} announces {}", spare(node)),
            Self::Withdraw => format!("{who} withdraws {}", spare(node)),
            Self::WithdrawBlock => format!("{who} withdraws {}", node.block),
            Self::AnnounceBlock => format!("{who} announces {}", node.block),
            Self::Flush => format!("what {who} had programmed is flushed, as in a reboot"),
            Self::Unplug => format!("the switch port of {name} goes down"),
            Self::Plug => format!("the switch port of {name} comes back"),
            Self::Drop => format!("the firewall of {name} drops tcp/179"),
            Self::Admit => format!("the firewall of {name} passes new connections to tcp/179"),
            Self::Pass => format!("the firewall of {name} passes tcp/179 again"),
            Self::Reset => format!("the kernel of {name} resets its BGP connections (ss --kill)"),
            Self::LinkDown => format!("eth0 of {name} goes down"),
            Self::LinkUp => format!("eth0 of {name} comes back"),
        }
    }

    /// Does it to `node`.
    pub fn perform(self, lab: &Lab, node: &Node) -> Result<()> {
        let ns = &node.namespace;
        match self {
            Self::End(signal) => lab.signal(node, signal),
            Self::Start => {
                lab.await_end(node, Duration::from_secs(15))?;
                lab.start(node)
            }
            Self::StartAnew => {
                lab.await_end(node, Duration::from_secs(15))?;
                let manners = Manners {
                    recover: false,
                    ..lab.manners()
                };
                lab.start_with(node, manners)
            }
            Self::StartForeign => {
                lab.await_end(node, Duration::from_secs(15))?;
                lab.configure_as(node, FOREIGN_ASN, "")?;
                lab.start(node)
            }
            Self::RestartSessions => each_session(lab, node, "restart"),
            Self::DisableSessions => each_session(lab, node, "disable"),
            Self::EnableSessions => each_session(lab, node, "enable"),
            Self::Announce => {
                let block = spare(node);
                let more = format!("\nprotocol static spare {{\n  route {block} blackhole;\n}}\n");
                lab.configure(node, &more)?;
                lab.birdc(node, "configure")?;
                lab.birdc(node, "enable spare").map(drop)
            }
            Self::Withdraw => lab.birdc(node, "disable spare").map(drop),
            // The only static protocol without a name.
            Self::WithdrawBlock => lab.birdc(node, "disable static1").map(drop),
            Self::AnnounceBlock => lab.birdc(node, "enable static1").map(drop),
            Self::Flush => {
                lab.await_end(node, Duration::from_secs(15))?;
                netns::ip(Some(ns), &["route flush proto bird".to_owned()])
            }
            Self::Unplug | Self::Plug => {
                let state = if matches!(self, Self::Plug) {
                    "up"
                } else {
                    "down"
                };
                let line = format!("link set {} {state}", node.name);
                netns::ip(Some(&lab.bridge()), &[line])
            }
            Self::Drop => wall::cut(ns),
            Self::Admit => wall::admit_new(ns),
            Self::Pass => wall::lift(ns),
            Self::Reset => {
                let mut ss = programs::find("iproute2", "ss")?.command();
                ss.args(["--kill", "--tcp", "--numeric", "state", "established"]);
                ss.args(["(", "sport", "=", "179", "or", "dport", "=", "179", ")"]);
                netns::output(ns, &mut ss).map(drop)
            }
            Self::LinkDown => netns::ip(Some(ns), &["link set eth0 down".to_owned()]),
            Self::LinkUp => netns::ip(
                Some(ns),
                &[
                    "link set eth0 up".to_owned(),
                    "route add default via 10.0.0.254".to_owned(),
                ],
            ),
        }
    }
}

fn each_session(lab: &Lab, node: &Node, verb: &str) -> Result<()> {
    lab.neighbors(node).iter().try_for_each(|peer| {
        let question = format!("{verb} {}", peer.protocol());
        lab.birdc(node, &question).map(drop)
    })
}

/// A second block of a node's.
pub fn spare(node: &Node) -> String {
    let [_, _, _, number] = node.address.octets();
    format!("10.244.{number}.64/26")
}
