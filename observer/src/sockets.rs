//! The thread that asks `sock_diag`: dumps and single sockets, one question at a time, so that a
//! slow answer delays neither the rings nor the core.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    net::SocketAddr,
    sync::{Arc, mpsc as std_mpsc},
    thread,
};

use anyhow::{Context, Result};
use observer_core::event::{Event, NetnsId, Process, SocketId};
use tokio::sync::mpsc;
use tracing::{debug, warn};

use crate::source::{netns::Netns, sock_diag::SockDiag};

/// Questions that can wait; beyond that they are refused and counted.
const QUESTIONS: usize = 4096;

/// What the thread is asked to do.
#[derive(Debug)]
pub enum Question {
    /// List all BGP sockets of this namespace; a socket is opened there if none is.
    Dump {
        /// Its number.
        netns: NetnsId,
        /// The namespace; let go once the socket is open.
        handle: Arc<Netns>,
    },
    /// Close the socket there: it would keep the namespace alive.
    Close(NetnsId),
    /// Look at one socket.
    Inspect {
        /// Its namespace.
        netns: NetnsId,
        /// Its identity.
        id: SocketId,
        /// Our end.
        local: SocketAddr,
        /// The other end.
        remote: SocketAddr,
    },
}

/// What came of it.
#[derive(Debug)]
pub enum Reply {
    /// A dump, complete, or why there is none.
    Dumped(NetnsId, Result<Dump>),
    /// One socket, or why nothing is known of it.
    Inspected(NetnsId, Result<Event>),
}

/// A complete dump.
#[derive(Debug, Default)]
pub struct Dump {
    /// Every socket, and the end of the dump.
    pub events: Vec<Event>,
    /// Who owns them; only looked for in the first dump of a namespace.
    pub speakers: Vec<Process>,
}

/// Asks the thread.
#[derive(Clone, Debug)]
pub struct Asker(std_mpsc::SyncSender<Question>);

impl Asker {
    /// Whether the question was taken; it is not while too many wait.
    pub fn ask(&self, question: Question) -> bool {
        self.0.try_send(question).is_ok()
    }
}

/// Starts the thread. It ends when the last [`Asker`] or the receiver is gone.
pub fn start(ports: Vec<u16>) -> Result<(Asker, mpsc::Receiver<Reply>)> {
    let (asker, questions) = std_mpsc::sync_channel(QUESTIONS);
    let (answer, replies) = mpsc::channel(64);
    thread::Builder::new()
        .name("sock_diag".to_owned())
        .spawn(move || {
            let mut reader = Reader {
                ports,
                open: BTreeMap::new(),
            };
            for question in questions {
                if let Some(reply) = reader.serve(question)
                    && answer.blocking_send(reply).is_err()
                {
                    return;
                }
            }
        })
        .context("cannot start the sock_diag thread")?;
    Ok((Asker(asker), replies))
}

struct Reader {
    ports: Vec<u16>,
    open: BTreeMap<NetnsId, SockDiag>,
}

impl Reader {
    fn serve(&mut self, question: Question) -> Option<Reply> {
        match question {
            Question::Dump { netns, handle } => {
                Some(Reply::Dumped(netns, self.dump(netns, &handle)))
            }
            Question::Close(netns) => {
                self.open.remove(&netns);
                None
            }
            Question::Inspect {
                netns,
                id,
                local,
                remote,
            } => {
                let Some(socket) = self.open.get_mut(&netns) else {
                    debug!(
                        netns = netns.0,
                        "asked about a socket of a closed namespace"
                    );
                    return None;
                };
                let answer = socket.inspect(id, local, remote);
                Some(Reply::Inspected(netns, answer.map_err(Into::into)))
            }
        }
    }

    fn dump(&mut self, netns: NetnsId, handle: &Netns) -> Result<Dump> {
        match self.open.entry(netns) {
            Entry::Occupied(mut open) => Ok(Dump {
                events: open.get_mut().dump()?,
                speakers: Vec::new(),
            }),
            Entry::Vacant(none) => {
                let socket = none.insert(SockDiag::open(handle, netns, &self.ports)?);
                let (events, owners) = socket.dump_with_owners()?;
                if let Some(why) = &owners.incomplete {
                    warn!(netns = netns.0, "not every BGP speaker is known: {why}");
                }
                Ok(Dump {
                    events,
                    speakers: owners.processes(),
                })
            }
        }
    }
}
