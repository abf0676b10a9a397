//! Asks the kernel for the state of BGP's sockets (`NETLINK_SOCK_DIAG`): at start, which sessions
//! exist already; on a tick, what no tracepoint tells (queues, time since data last arrived).
//!
//! Spoken without a netlink crate: `netlink-packet-sock-diag` 0.5 cannot send the port filter, so
//! every socket of a busy node would be copied out and thrown away, and its fixed-size `tcp_info`
//! refuses that of other kernels.
//!
//! Calls block for as long as the kernel needs, at most [`PATIENCE`] between two answers. The socket
//! belongs to the namespace and keeps it alive: drop the [`SockDiag`] when the namespace goes.

pub mod message;

use std::{
    collections::BTreeSet,
    io,
    net::SocketAddr,
    os::fd::{AsRawFd, OwnedFd},
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::{
        socket::{
            AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, connect, recv,
            send, setsockopt, socket, sockopt::ReceiveTimeout,
        },
        time::TimeVal,
    },
};
use observer_core::{
    event::{Event, Fact, NetnsId, Process, SocketId, TcpState},
    time::{Occurred, Timestamp},
};

use self::message::{Answer, FAMILIES, Message, dump_request, inspect_request, messages};
use super::{
    clock::boottime_now,
    kernel::identity::is_own,
    netns::{Netns, NetnsError},
    speakers::{Owners, owners},
};

/// How long the kernel may take for an answer.
pub const PATIENCE: Duration = Duration::from_secs(1);

/// The kernel never sends more in one datagram (`netlink_recvmsg` caps dumps at 32 KiB).
const BUFFER: usize = 64 << 10;

/// Why the kernel could not be asked, or its answer not be used.
#[derive(Debug, thiserror::Error)]
pub enum SockDiagError {
    /// The namespace cannot be entered.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// No netlink socket.
    #[error("cannot open a sock_diag socket")]
    Open(#[source] io::Error),
    /// The question did not go out, or the answer not come in.
    #[error("cannot talk to sock_diag")]
    Talk(#[source] io::Error),
    /// Nothing came for [`PATIENCE`].
    #[error("sock_diag did not answer in time")]
    Timeout,
    /// The answer was longer than the kernel promises, or ended within a message.
    #[error("sock_diag's answer was cut short")]
    CutShort,
    /// The kernel says that sockets changed under the dump.
    #[error("the dump was interrupted")]
    Interrupted,
    /// The kernel refused.
    #[error("sock_diag refused the question")]
    Refused(#[source] io::Error),
}

/// A line to one namespace's sock_diag.
#[derive(Debug)]
pub struct SockDiag {
    socket: OwnedFd,
    netns: NetnsId,
    ports: Vec<u16>,
    /// What sockets are bound to, as far as is known: VRFs, and devices that speakers chose. The kernel
    /// does not find such a socket by its ends alone.
    devices: BTreeSet<u32>,
    sequence: u32,
    buffer: Vec<u8>,
}

impl SockDiag {
    /// Opens a socket inside `namespace`, whose sockets' events are to carry `netns`.
    pub fn open(namespace: &Netns, netns: NetnsId, ports: &[u16]) -> Result<Self, SockDiagError> {
        let socket = namespace
            .run_in(open_socket)?
            .map_err(|errno| SockDiagError::Open(errno.into()))?;
        Ok(Self {
            socket,
            netns,
            ports: ports.to_vec(),
            devices: BTreeSet::new(),
            sequence: 0,
            buffer: vec![0; BUFFER],
        })
    }

    /// Every BGP socket of the namespace, then [`Fact::SocketsDumped`]. Listeners, connections
    /// whose handshake is not complete, and those in TIME_WAIT are left out.
    pub fn dump(&mut self) -> Result<Vec<Event>, SockDiagError> {
        let begun = boottime_now();
        let answers = self.ask_for_all()?;
        Ok(self.events(begun, &answers, &Owners::default()))
    }

    /// As [`dump`](Self::dump), and who owns the sockets and the listeners: /proc is walked, so
    /// this is for the start and for rare occasions.
    pub fn dump_with_owners(&mut self) -> Result<(Vec<Event>, Owners), SockDiagError> {
        let begun = boottime_now();
        let answers = self.ask_for_all()?;
        let inodes = answers.iter().map(|answer| answer.inode);
        let owners = owners(inodes.filter(|inode| *inode != 0).collect());
        let events = self.events(begun, &answers, &owners);
        Ok((events, owners))
    }

    /// The state of one socket: [`Fact::SocketInfo`], or [`Fact::SocketGone`] if the kernel has no
    /// such socket any more. An exact lookup, whatever the number of sockets, but for one that is bound to
    /// a device nobody has seen yet, and for one that is gone.
    pub fn inspect(
        &mut self,
        id: SocketId,
        local: SocketAddr,
        remote: SocketAddr,
    ) -> Result<Event, SockDiagError> {
        let begun = boottime_now();
        let found = match self.look_up(id, (local, remote))? {
            Some(found) => Some(found),
            None => self.search(id, (local, remote))?,
        };
        let mut event = match found {
            // A socket in these states has left its process: the session is over.
            Some(answer)
                if !matches!(
                    answer.state,
                    TcpState::TimeWait | TcpState::Close | TcpState::Listen
                ) =>
            {
                info(&answer, None, Occurred::noticed(begun, boottime_now()))
            }
            _ => Event {
                occurred: Occurred::noticed(begun, boottime_now()),
                fact: Fact::SocketGone {
                    netns: self.netns,
                    id,
                },
            },
        };
        if let Fact::SocketInfo { socket, .. } = &mut event.fact {
            socket.id = id;
        }
        Ok(event)
    }

    /// The socket with these ends, bound to no device or to a known one.
    fn look_up(
        &mut self,
        id: SocketId,
        ends: (SocketAddr, SocketAddr),
    ) -> Result<Option<Answer>, SockDiagError> {
        let scope = match ends.1 {
            SocketAddr::V4(_) => 0,
            SocketAddr::V6(v6) => v6.scope_id(),
        };
        let others = self.devices.iter().copied().filter(|_| scope == 0);
        for device in std::iter::once(scope).chain(others).collect::<Vec<u32>>() {
            let sequence = self.next_sequence();
            let cookie = (!is_own(id)).then_some(id);
            self.ask(&inspect_request(cookie, ends, device, sequence))?;
            let mut found = None;
            while found.is_none() {
                for message in self.receive(sequence)? {
                    match message {
                        Message::Answer(answer) => found = Some(Some(answer)),
                        // ESTALE: another socket has these ends now.
                        Message::Error(libc::ENOENT | libc::ESTALE) => found = Some(None),
                        Message::Error(errno) => return Err(refused(errno)),
                        Message::Done { .. } | Message::Unknown => {}
                    }
                }
            }
            if let Some(Some(found)) = found {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// The same whatever it is bound to: the kernel walks its sockets for it.
    fn search(
        &mut self,
        id: SocketId,
        ends: (SocketAddr, SocketAddr),
    ) -> Result<Option<Answer>, SockDiagError> {
        let own = [ends.0.port(), ends.1.port()];
        let rarer = own.into_iter().find(|port| !self.ports.contains(port));
        let same = |answer: &Answer| {
            (answer.socket.local, answer.socket.remote) == ends
                && (is_own(id) || answer.socket.id == id)
        };
        let answers = self.ask_for(&[rarer.unwrap_or(ends.0.port())])?;
        let found = answers.into_iter().find(same);
        let device = found.iter().map(|found| found.device);
        self.devices.extend(device.filter(|device| *device != 0));
        Ok(found)
    }

    fn ask_for_all(&mut self) -> Result<Vec<Answer>, SockDiagError> {
        let answers = self.ask_for(&self.ports.clone())?;
        let devices = answers.iter().map(|answer| answer.device);
        self.devices = devices.filter(|device| *device != 0).collect();
        Ok(answers)
    }

    /// The sockets with one of `ports` at either end.
    fn ask_for(&mut self, ports: &[u16]) -> Result<Vec<Answer>, SockDiagError> {
        let mut answers = Vec::new();
        for family in FAMILIES {
            let sequence = self.next_sequence();
            self.ask(&dump_request(family, ports, sequence))?;
            let mut done = false;
            while !done {
                for message in self.receive(sequence)? {
                    match message {
                        Message::Answer(answer) => answers.push(answer),
                        Message::Done { interrupted: true } => {
                            return Err(SockDiagError::Interrupted);
                        }
                        // A kernel without this family has no such sockets.
                        Message::Done { interrupted: false }
                        | Message::Error(libc::ENOENT | libc::EAFNOSUPPORT) => done = true,
                        Message::Error(errno) => return Err(refused(errno)),
                        Message::Unknown => return Err(SockDiagError::CutShort),
                    }
                }
            }
        }
        Ok(answers)
    }

    fn events(&self, begun: Timestamp, answers: &[Answer], owners: &Owners) -> Vec<Event> {
        let occurred = Occurred::noticed(begun, boottime_now());
        let mut events: Vec<Event> = answers
            .iter()
            .filter(|answer| answer.state != TcpState::Listen)
            .map(|answer| {
                let process = owners.by_inode.get(&answer.inode).cloned();
                info(answer, process, occurred)
            })
            .collect();
        events.push(Event {
            occurred,
            fact: Fact::SocketsDumped {
                netns: self.netns,
                begun,
            },
        });
        events
    }

    fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    fn ask(&self, request: &[u8]) -> Result<(), SockDiagError> {
        retried(|| send(self.socket.as_raw_fd(), request, MsgFlags::empty()))
            .map(drop)
            .map_err(|errno| SockDiagError::Talk(errno.into()))
    }

    fn receive(&mut self, sequence: u32) -> Result<Vec<Message>, SockDiagError> {
        let fd = self.socket.as_raw_fd();
        // MSG_TRUNC gives the datagram's whole length, even where it does not fit.
        let length =
            retried(|| recv(fd, &mut self.buffer, MsgFlags::MSG_TRUNC)).map_err(|errno| {
                if errno == Errno::EAGAIN {
                    SockDiagError::Timeout
                } else {
                    SockDiagError::Talk(errno.into())
                }
            })?;
        let datagram = self.buffer.get(..length).ok_or(SockDiagError::CutShort)?;
        match messages(datagram, sequence, self.netns) {
            (messages, true) => Ok(messages),
            (_, false) => Err(SockDiagError::CutShort),
        }
    }
}

fn open_socket() -> nix::Result<OwnedFd> {
    let fd = socket(
        AddressFamily::Netlink,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkSockDiag,
    )?;
    // Connected to the kernel, nobody else can put answers into it.
    connect(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
    let patience = TimeVal::new(PATIENCE.as_secs().cast_signed(), 0);
    setsockopt(&fd, ReceiveTimeout, &patience)?;
    Ok(fd)
}

fn info(answer: &Answer, process: Option<Process>, occurred: Occurred) -> Event {
    Event {
        occurred,
        fact: Fact::SocketInfo {
            socket: answer.socket,
            state: answer.state,
            last_data_received_millis: answer.last_data_received_millis,
            send_queue: answer.send_queue,
            receive_queue: answer.receive_queue,
            process,
        },
    }
}

fn refused(errno: i32) -> SockDiagError {
    SockDiagError::Refused(io::Error::from_raw_os_error(errno))
}

fn retried<T>(mut call: impl FnMut() -> nix::Result<T>) -> nix::Result<T> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            other => return other,
        }
    }
}
