//! Why a session went down, and why a connection did not come up: the closed sets behind the
//! `cause` label, and the words an operator reads.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{bgp::NotificationFacts, event::Process};

/// Why an Established session went down. The closed set of DESIGN §3, best evidence first.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Cause {
    /// The peer sent a NOTIFICATION, and our kernel then closed the connection.
    NotificationReceived(NotificationFacts),
    /// This node sent a NOTIFICATION, and its kernel then closed the connection.
    NotificationSent(NotificationFacts),
    /// A valid RST arrived.
    ResetReceived,
    /// Our kernel sent a RST.
    ResetSent,
    /// The peer closed first (ESTABLISHED → CLOSE_WAIT).
    FinReceived,
    /// Our side closed first (ESTABLISHED → FIN_WAIT1) while its process went on.
    FinSent,
    /// TCP gave up with an error.
    TcpError {
        /// A positive errno.
        errno: i32,
    },
    /// A hold timer ran out (RFC 4271 §6.5): a NOTIFICATION said so, or our side closed after hearing
    /// nothing for long while its own data went unanswered.
    HoldTimerExpired {
        /// How long nothing had arrived.
        silent_millis: u64,
        /// Whose NOTIFICATION said so; none when it is inferred from TCP.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        told_by: Option<TimerOwner>,
    },
    /// The local BGP speaker ended, and the kernel closed its sockets.
    LocalSpeakerGone {
        /// Which process.
        speaker: Process,
        /// How it ended.
        end: SpeakerEnd,
        /// What it sent before.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        notification: Option<NotificationFacts>,
    },
    /// The session was gone when we looked: the agent did not see it end.
    Unobserved,
    /// It went down without evidence of why.
    Unknown,
}

/// Whose hold timer it was.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TimerOwner {
    /// This node's: it had not heard the peer.
    ThisNode,
    /// The peer's: it had not heard this node.
    Peer,
}

/// How a BGP speaker ended.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(tag = "how", rename_all = "snake_case")]
pub enum SpeakerEnd {
    /// By itself.
    Exited {
        /// Its exit status.
        status: i32,
        /// A terminating signal that it was sent shortly before, and by whom.
        asked: Option<Signal>,
    },
    /// By a signal.
    Killed {
        /// Which, and by whom.
        signal: Signal,
    },
    /// By the OOM killer.
    OutOfMemory,
}

impl SpeakerEnd {
    /// Whether somebody made it end, rather than a fault of its own.
    pub const fn was_asked(&self) -> bool {
        match self {
            Self::Exited { asked, .. } => asked.is_some(),
            Self::Killed { .. } | Self::OutOfMemory => true,
        }
    }
}

/// A signal and its sender.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Signal {
    /// The signal's number.
    pub number: i32,
    /// Who sent it; none when the kernel did or nobody saw it.
    pub sender: Option<Process>,
}

impl Cause {
    /// Every value of the `cause` label; their counters exist from the start.
    pub const LABELS: [&'static str; 11] = [
        "notification_received",
        "notification_sent",
        "rst_received",
        "rst_sent",
        "fin_received",
        "fin_sent",
        "tcp_error",
        "hold_timer_expired",
        "local_speaker_gone",
        "unobserved",
        "unknown",
    ];

    /// The `cause` label.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::NotificationReceived(_) => "notification_received",
            Self::NotificationSent(_) => "notification_sent",
            Self::ResetReceived => "rst_received",
            Self::ResetSent => "rst_sent",
            Self::FinReceived => "fin_received",
            Self::FinSent => "fin_sent",
            Self::TcpError { .. } => "tcp_error",
            Self::HoldTimerExpired { .. } => "hold_timer_expired",
            Self::LocalSpeakerGone { .. } => "local_speaker_gone",
            Self::Unobserved => "unobserved",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotificationReceived(notification) => write!(f, "peer sent {notification}"),
            Self::NotificationSent(notification) => write!(f, "this node sent {notification}"),
            Self::ResetReceived => f.write_str("peer reset the connection (RST received)"),
            Self::ResetSent => f.write_str("this node reset the connection (RST sent)"),
            Self::FinReceived => f.write_str("peer closed the connection (FIN received)"),
            Self::FinSent => f.write_str("local speaker closed the connection (FIN sent)"),
            Self::TcpError { errno } => write!(f, "TCP gave up: {}", Errno(*errno)),
            Self::HoldTimerExpired {
                silent_millis,
                told_by,
            } => {
                let (seconds, tenths) = (silent_millis / 1000, silent_millis % 1000 / 100);
                match told_by {
                    None => write!(
                        f,
                        "hold timer expired, inferred: nothing received for {seconds}.{tenths} s"
                    ),
                    Some(TimerOwner::ThisNode) => write!(
                        f,
                        "this node's hold timer expired, as its NOTIFICATION says: nothing \
                         received for {seconds}.{tenths} s"
                    ),
                    Some(TimerOwner::Peer) => f.write_str(
                        "the peer's hold timer expired, as its NOTIFICATION says: it did not hear \
                         this node",
                    ),
                }
            }
            Self::LocalSpeakerGone {
                speaker,
                end,
                notification,
            } => {
                let name = Plain(&speaker.comm);
                write!(f, "local {name} (pid {}) {end}", speaker.pid)?;
                match notification {
                    Some(notification) => write!(f, "; it sent {notification}"),
                    None => Ok(()),
                }
            }
            Self::Unobserved => f.write_str("ended while the agent was not looking"),
            Self::Unknown => f.write_str("no evidence"),
        }
    }
}

impl fmt::Display for SpeakerEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited {
                status,
                asked: None,
            } => write!(f, "exited with status {status}"),
            Self::Exited {
                status,
                asked: Some(signal),
            } => {
                write!(f, "exited with status {status} after {signal}")
            }
            Self::Killed { signal } => write!(f, "killed by {signal}"),
            Self::OutOfMemory => f.write_str("killed by the OOM killer"),
        }
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match signal_name(self.number) {
            Some(name) => f.write_str(name)?,
            None => write!(f, "signal {}", self.number)?,
        }
        match &self.sender {
            Some(sender) => write!(f, " from {} (pid {})", Plain(&sender.comm), sender.pid),
            None => Ok(()),
        }
    }
}

/// An errno in words, for the ones that end or refuse TCP connections (`include/uapi/asm-generic`).
#[derive(Clone, Copy, Debug)]
pub struct Errno(pub i32);

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = match self.0 {
            32 => "broken pipe (EPIPE)",
            100 => "network is down (ENETDOWN)",
            101 => "network unreachable (ENETUNREACH)",
            103 => "connection aborted (ECONNABORTED)",
            104 => "connection reset (ECONNRESET)",
            110 => "timed out (ETIMEDOUT)",
            111 => "connection refused (ECONNREFUSED)",
            112 => "host is down (EHOSTDOWN)",
            113 => "no route to host (EHOSTUNREACH)",
            92 => "protocol not available (ENOPROTOOPT)",
            13 => "permission denied (EACCES)",
            other => return write!(f, "errno {other}"),
        };
        f.write_str(words)
    }
}

/// Text from outside, with control characters made visible: it ends up on terminals.
struct Plain<'a>(&'a str);

impl fmt::Display for Plain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            if character.is_control() {
                write!(f, "{}", character.escape_default())?;
            } else {
                write!(f, "{character}")?;
            }
        }
        Ok(())
    }
}

/// Linux's names of the signals that end processes (signal(7), x86 and arm numbers).
fn signal_name(number: i32) -> Option<&'static str> {
    Some(match number {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL",
        10 => "SIGUSR1",
        11 => "SIGSEGV",
        12 => "SIGUSR2",
        13 => "SIGPIPE",
        14 => "SIGALRM",
        15 => "SIGTERM",
        31 => "SIGSYS",
        _ => return None,
    })
}
