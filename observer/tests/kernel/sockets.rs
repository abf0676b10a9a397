//! TCP facts: dial to close, resets, errors, retransmissions, families, the namespace filter.

use std::{
    io,
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::AsFd,
    time::Duration,
};

use nix::{
    libc,
    sys::socket::{setsockopt, sockopt},
};
use observer::source::{clock::boottime_now, sock_diag::SockDiag};
use observer_core::event::{Event, Fact, NetnsId, Socket, SocketId, TcpState};
use socket2::{Domain, Socket as Socket2, Type};

use crate::lab::{Namespace, Observed, can_run};

const NETNS: NetnsId = NetnsId(1);

/// The states a socket went through, by whichever end `local_is_bgp` names.
fn path(events: &[Event], local_is_bgp: bool) -> Vec<(TcpState, TcpState)> {
    events
        .iter()
        .filter_map(|event| match &event.fact {
            Fact::TcpState {
                socket, from, to, ..
            } if (socket.local.port() == 179) == local_is_bgp
                && *from != TcpState::Listen
                && *to != TcpState::Listen =>
            {
                Some((*from, *to))
            }
            _ => None,
        })
        .collect()
}

fn closed(events: &[Event], local_is_bgp: bool) -> Option<()> {
    path(events, local_is_bgp)
        .last()
        .is_some_and(|(_, to)| *to == TcpState::Close)
        .then_some(())
}

fn pair(address: &str) -> (TcpListener, TcpStream, TcpStream) {
    let listener = TcpListener::bind(address).expect("bind");
    let dialled = TcpStream::connect(listener.local_addr().expect("its address")).expect("connect");
    let (accepted, _) = listener.accept().expect("accept");
    (listener, dialled, accepted)
}

fn reset_on_close(stream: &TcpStream) {
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    setsockopt(stream, sockopt::Linger, &linger).expect("SO_LINGER");
}

#[test]
fn a_connection_shows_both_ends_from_dial_to_close() {
    use TcpState::{Close, CloseWait, Established, FinWait1, FinWait2, LastAck, SynRecv, SynSent};
    if !can_run() {
        return;
    }
    let namespace = Namespace::new();
    let mut observed = Observed::of(&namespace, &[]);
    let sockets = namespace.run(|| pair("127.0.0.1:179"));
    // The dialled address became known by the dial alone, so the accepted end is evidence too.
    let (listener, dialled, accepted) = sockets;
    let dialled_from = dialled.local_addr().expect("its address");
    let before = boottime_now();
    drop(dialled);
    observed.wait("the dialler's FIN to be taken", |events| {
        path(events, true)
            .contains(&(Established, CloseWait))
            .then_some(())
    });
    drop(accepted);
    drop(listener);
    observed.wait("both ends to close", |events| {
        closed(events, true).and(closed(events, false))
    });

    assert_eq!(
        path(&observed.events, false),
        [
            (Close, SynSent),
            (SynSent, Established),
            (Established, FinWait1),
            (FinWait1, FinWait2),
            (FinWait2, Close),
        ]
    );
    assert_eq!(
        path(&observed.events, true),
        [
            (SynRecv, Established),
            (Established, CloseWait),
            (CloseWait, LastAck),
            (LastAck, Close),
        ]
    );
    let states: Vec<_> = observed
        .events
        .iter()
        .filter_map(|event| match &event.fact {
            Fact::TcpState {
                socket,
                from,
                to,
                process,
            } => Some((event.occurred, *socket, (*from, *to), process.clone())),
            _ => None,
        })
        .collect();
    let of = |step| {
        states
            .iter()
            .find(|(_, _, this, _)| *this == step)
            .cloned()
            .expect("the step")
    };
    let (_, dial, _, process) = of((Close, SynSent));
    assert_eq!(dial.local, "127.0.0.1:0".parse::<SocketAddr>().expect("it"));
    assert_eq!(process.expect("a process").pid, std::process::id());
    // A socket that has reached CLOSE has given its port back; the event still has it.
    let (at, ended, _, process) = of((FinWait2, Close));
    assert_eq!((ended.local, ended.id), (dialled_from, dial.id));
    assert_eq!(process, None);
    assert!(at.earliest == at.latest && at.earliest > before && at.earliest < boottime_now());
    assert!(of((Established, FinWait1)).3.is_some());
    assert!(of((SynRecv, Established)).3.is_none());
    let listening = of((Close, TcpState::Listen));
    assert_eq!(listening.1.local.port(), 179);
    assert_eq!(of((TcpState::Listen, Close)).1.id, listening.1.id);
}

#[test]
fn sock_diag_and_the_probes_know_a_socket_by_the_same_cookie() {
    if !can_run() {
        return;
    }
    let namespace = Namespace::new();
    let mut observed = Observed::of(&namespace, &["127.0.0.1"]);
    let mut diag = SockDiag::open(&namespace.netns(), NETNS, &[179]).expect("sock_diag");
    let (listener, dialled, accepted) = namespace.run(|| pair("127.0.0.1:179"));
    let other = namespace.run(|| pair("127.0.0.1:1790"));
    let mut probed: Vec<SocketId> = observed.wait("two ends to be up", |events| {
        let up: Vec<_> = events
            .iter()
            .filter_map(|event| match &event.fact {
                Fact::TcpState {
                    socket,
                    to: TcpState::Established,
                    ..
                } => Some(socket.id),
                _ => None,
            })
            .collect();
        (up.len() == 2).then_some(up)
    });

    let (events, owners) = diag.dump_with_owners().expect("a dump");
    let infos: Vec<(Socket, u32)> = events
        .iter()
        .filter_map(|event| match &event.fact {
            Fact::SocketInfo {
                socket,
                state,
                process,
                ..
            } => {
                assert_eq!(*state, TcpState::Established);
                Some((*socket, process.clone().expect("an owner").pid))
            }
            _ => None,
        })
        .collect();
    let mut dumped: Vec<_> = infos.iter().map(|(socket, _)| socket.id).collect();
    probed.sort();
    dumped.sort();
    assert_eq!(probed, dumped);
    assert!(infos.iter().all(|(_, pid)| *pid == std::process::id()));
    assert_eq!(owners.incomplete, None);
    assert_eq!(owners.by_inode.len(), 3, "two ends and the listener");
    assert!(matches!(
        events.last().expect("an end").fact,
        Fact::SocketsDumped { netns: NETNS, .. }
    ));

    let (socket, _) = infos.first().expect("a socket");
    let inspect = |diag: &mut SockDiag, id| {
        diag.inspect(id, socket.local, socket.remote)
            .expect("an answer")
            .fact
    };
    assert!(matches!(
        inspect(&mut diag, socket.id),
        Fact::SocketInfo { socket: same, .. } if same.id == socket.id
    ));
    // Same ends, another socket: the one asked for is gone.
    let elder = SocketId(u64::MAX >> 2);
    assert!(matches!(inspect(&mut diag, elder), Fact::SocketGone { id, .. } if id == elder));
    drop((dialled, accepted, listener, other));
    assert!(matches!(
        inspect(&mut diag, socket.id),
        Fact::SocketGone { .. }
    ));
}

#[test]
fn a_socket_that_is_bound_to_a_device_is_found_as_any_other() {
    if !can_run() {
        return;
    }
    let namespace = Namespace::new();
    let mut observed = Observed::of(&namespace, &["127.0.0.1"]);
    let mut diag = SockDiag::open(&namespace.netns(), NETNS, &[179]).expect("sock_diag");
    let bound = namespace.run(|| {
        let listener = TcpListener::bind("127.0.0.1:179").expect("bind");
        let dialled = Socket2::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        dialled.bind_device(Some(b"lo")).expect("SO_BINDTODEVICE");
        let address: SocketAddr = "127.0.0.1:179".parse().expect("an address");
        dialled.connect(&address.into()).expect("connect");
        (dialled, listener.accept().expect("accept"))
    });
    let socket = observed.wait_fact("the dialled end", |fact| match fact {
        Fact::TcpState {
            socket,
            to: TcpState::Established,
            ..
        } if socket.remote.port() == 179 => Some(*socket),
        _ => None,
    });
    let mut inspect = || {
        let asked = diag.inspect(socket.id, socket.local, socket.remote);
        asked.expect("an answer").fact
    };
    // The first time it has to be searched.
    for _ in 0..2 {
        let fact = inspect();
        assert!(
            matches!(&fact, Fact::SocketInfo { socket: same, .. } if same.id == socket.id),
            "{fact:?}"
        );
    }
    drop(bound);
    assert!(matches!(inspect(), Fact::SocketGone { .. }));
}

#[test]
fn a_reset_shows_who_sent_it_and_what_the_other_was_told() {
    if !can_run() {
        return;
    }
    let namespace = Namespace::new();
    let mut observed = Observed::of(&namespace, &[]);
    let (_listener, dialled, _accepted) = namespace.run(|| pair("127.0.0.1:179"));
    reset_on_close(&dialled);
    drop(dialled);
    let sent = observed.wait_fact("the RST to be sent", |fact| match fact {
        Fact::ResetSent { socket } => Some(*socket),
        _ => None,
    });
    let received = observed.wait_fact("the RST to be received", |fact| match fact {
        Fact::ResetReceived { socket } => Some(*socket),
        _ => None,
    });
    assert_eq!(sent.remote.port(), 179);
    assert_eq!((received.local, received.remote), (sent.remote, sent.local));
    let errno = observed.wait_fact("the error", |fact| match fact {
        Fact::TcpError { socket, errno } if socket.id == received.id => Some(*errno),
        _ => None,
    });
    assert_eq!(errno, libc::ECONNRESET);
    assert_eq!(
        path(&observed.events, true).last(),
        Some(&(TcpState::Established, TcpState::Close))
    );
}

#[test]
fn a_refused_dial_shows_the_errno() {
    if !can_run() {
        return;
    }
    let namespace = Namespace::new();
    let mut observed = Observed::of(&namespace, &[]);
    let error = namespace.run(|| TcpStream::connect("127.0.0.1:179").map(drop));
    assert_eq!(
        error.expect_err("nobody listens").kind(),
        io::ErrorKind::ConnectionRefused
    );
    let (id, errno) = observed.wait_fact("the refusal", |fact| match fact {
        Fact::TcpError { socket, errno } => Some((socket.id, *errno)),
        _ => None,
    });
    assert_eq!(errno, libc::ECONNREFUSED);
    observed.wait_fact("the RST", |fact| match fact {
        Fact::ResetReceived { socket } if socket.id == id => Some(()),
        _ => None,
    });
    assert_eq!(
        path(&observed.events, false),
        [
            (TcpState::Close, TcpState::SynSent),
            (TcpState::SynSent, TcpState::Close)
        ]
    );
}

#[test]
fn an_unanswered_dial_is_retransmitted_and_times_out() {
    if !can_run() {
        return;
    }
    let namespace = Namespace::new();
    // Frames for a neighbour that is not there vanish at the other end of the cable.
    namespace.ip(&["link", "add", "v0", "type", "veth", "peer", "v1"]);
    namespace.ip(&["addr", "add", "10.9.0.1/24", "dev", "v0"]);
    namespace.ip(&["link", "set", "v0", "up"]);
    namespace.ip(&["link", "set", "v1", "up"]);
    namespace.ip(&[
        "neigh",
        "add",
        "10.9.0.2",
        "lladdr",
        "02:00:00:00:00:02",
        "dev",
        "v0",
    ]);
    let mut observed = Observed::of(&namespace, &[]);
    namespace.run(|| {
        use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, connect, socket};
        let fd = socket(
            AddressFamily::Inet,
            SockType::Stream,
            SockFlag::SOCK_CLOEXEC,
            None,
        )
        .expect("a socket");
        setsockopt(&fd.as_fd(), sockopt::TcpUserTimeout, &1200).expect("TCP_USER_TIMEOUT");
        let raw = std::os::fd::AsRawFd::as_raw_fd(&fd);
        let refused = connect(raw, &SockaddrIn::new(10, 9, 0, 2, 179));
        assert_eq!(refused, Err(nix::errno::Errno::ETIMEDOUT));
    });
    let socket = observed.wait_fact("a retransmission", |fact| match fact {
        Fact::Retransmit { socket } => Some(*socket),
        _ => None,
    });
    assert_eq!(socket.remote, "10.9.0.2:179".parse().expect("it"));
    assert_eq!(socket.total_retransmits, 1);
    let errno = observed.wait_fact("the time-out", |fact| match fact {
        Fact::TcpError { errno, .. } => Some(*errno),
        _ => None,
    });
    assert_eq!(errno, libc::ETIMEDOUT);
}

#[test]
fn ipv4_over_an_ipv6_socket_is_ipv4_and_ipv6_is_ipv6() {
    if !can_run() {
        return;
    }
    let namespace = Namespace::new();
    let mut observed = Observed::of(&namespace, &[]);
    let mut diag = SockDiag::open(&namespace.netns(), NETNS, &[179]).expect("sock_diag");
    let sockets = namespace.run(|| {
        let listener = TcpListener::bind("[::]:179").expect("bind");
        let four = TcpStream::connect("127.0.0.1:179").expect("connect");
        let mapped = TcpStream::connect("[::ffff:127.0.0.1]:179").expect("connect");
        let six = TcpStream::connect("[::1]:179").expect("connect");
        (listener, four, mapped, six)
    });
    let established = |events: &[Event]| {
        let mut ends: Vec<_> = events
            .iter()
            .filter_map(|event| match &event.fact {
                Fact::TcpState {
                    socket,
                    to: TcpState::Established,
                    ..
                }
                | Fact::SocketInfo { socket, .. } => Some((socket.id, socket.local, socket.remote)),
                _ => None,
            })
            .collect();
        ends.sort();
        (ends.len() == 6).then_some(ends)
    };
    let probed = observed.wait("six ends", established);
    let dumped = established(&diag.dump().expect("a dump")).expect("six ends");
    assert_eq!(probed, dumped);
    assert_eq!(probed.iter().filter(|(_, end, _)| end.is_ipv4()).count(), 4);
    for (id, local, remote) in probed {
        let info = diag.inspect(id, local, remote).expect("an answer");
        assert!(matches!(info.fact, Fact::SocketInfo { .. }), "{info:?}");
    }
    drop(sockets);
}

#[test]
fn an_unobserved_namespace_gives_nothing_and_an_unobserved_port_neither() {
    if !can_run() {
        return;
    }
    let (watched, other) = (Namespace::new(), Namespace::new());
    let mut observed = Observed::of(&watched, &[]);
    observed.observe(&other, NetnsId(2));
    let inode = other.netns().inode();
    observed.source.unobserve(inode).expect("unobserve");
    observed.source.unobserve(inode).expect("once more is fine");
    other.run(|| drop(pair("127.0.0.1:179")));
    watched.run(|| drop(pair("127.0.0.1:1179")));
    watched.run(|| drop(pair("127.0.0.1:179")));
    observed.wait("the watched end", |events| {
        closed(events, true).and(closed(events, false))
    });
    assert_eq!(path(&observed.events, false).len(), 5);
    for event in &observed.events {
        if let Fact::TcpState { socket, .. } = &event.fact {
            assert_eq!(socket.netns, NETNS);
            assert_ne!(socket.local.port(), 1179);
            assert_ne!(socket.remote.port(), 1179);
        }
    }
}

#[test]
fn a_change_wakes_the_agent_at_once() {
    if !can_run() {
        return;
    }
    let namespace = Namespace::new();
    let mut observed = Observed::of(&namespace, &["127.0.0.1"]);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let mut delays = Vec::new();
    runtime.block_on(async {
        for _ in 0..50 {
            let before = observed.events.len();
            let inside = namespace.netns();
            let dial = std::thread::spawn(move || {
                inside
                    .run_in(|| TcpStream::connect("127.0.0.1:179").is_err())
                    .expect("entering")
            });
            let deadline = tokio::time::sleep(Duration::from_secs(5));
            tokio::pin!(deadline);
            loop {
                tokio::select! {
                    () = &mut deadline => panic!("never woken"),
                    woken = observed.source.readable() => woken.expect("epoll"),
                }
                let Observed { source, events, .. } = &mut *observed;
                source.drain(events);
                let fresh = observed.events.get(before..).unwrap_or_default();
                if let Some(event) = fresh.first() {
                    delays.push(boottime_now().since(event.occurred.earliest));
                }
                if path(fresh, false).len() == 2 {
                    break;
                }
            }
            assert!(dial.join().expect("the dialler"));
        }
    });
    delays.sort();
    let median = delays[delays.len() / 2];
    println!(
        "kernel to agent: median {median:?}, worst {:?}",
        delays[delays.len() - 1]
    );
    assert!(median < Duration::from_millis(20), "{delays:?}");
}
