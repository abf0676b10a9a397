//! BGP segments as they are copied at sockets: whole, of any size, both ways, each once; and none any
//! more once nothing is attached.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read as _, Write as _},
    net::{TcpListener, TcpStream},
};

use observer::{
    capture::{Dissected, dissect},
    source::{
        clock::boottime_now,
        kernel::{KernelOptions, KernelSource, RouteProbes, segments::SegmentRing},
    },
};
use observer_core::event::NetnsId;
use pcap_parser::Linktype;

use crate::lab::{Namespace, can_run, wait_until};

const NODE: NetnsId = NetnsId(7);

/// Octets of one direction's stream by what they would be numbered from 0, and the longest packet.
#[derive(Default)]
struct Stream {
    begun: Option<u32>,
    octets: BTreeMap<u32, Vec<u8>>,
    longest: u32,
}

/// Every segment to port 179, as its sender's socket and as its receiver's saw it.
fn take(ring: &mut SegmentRing, streams: &mut [Stream; 2]) {
    while {
        let (more, senseless) = ring.drain(|segment| {
            assert_eq!(segment.head.netns_id, NODE.0);
            assert_eq!(segment.head.captured, segment.head.length);
            let Dissected::Tcp(tcp) = dissect(Linktype::RAW, segment.packet, 0) else {
                panic!("no TCP: {:?}", segment.head);
            };
            if tcp.to.port() != 179 {
                return;
            }
            let [received, sent] = &mut *streams;
            let stream = if segment.head.sent == 1 {
                sent
            } else {
                received
            };
            if tcp.segment.syn {
                stream.begun = Some(tcp.segment.seq.wrapping_add(1));
            }
            let begun = stream.begun.expect("the SYN first");
            let at = tcp.segment.seq.wrapping_sub(begun);
            if !tcp.segment.payload.is_empty() {
                let before = stream.octets.insert(at, tcp.segment.payload.to_vec());
                assert!(before.is_none(), "octet {at} came twice");
            }
            stream.longest = stream.longest.max(segment.head.length);
        });
        assert_eq!(senseless, 0);
        more
    } {}
}

/// Some octets through a new connection.
fn talk(namespace: &Namespace, octets: &[u8]) {
    let connect = || -> io::Result<(TcpStream, TcpStream)> {
        let listener = TcpListener::bind("127.0.0.1:179")?;
        let dialled = TcpStream::connect("127.0.0.1:179")?;
        Ok((dialled, listener.accept()?.0))
    };
    let connected = namespace.netns().run_in(connect).expect("inside");
    let (mut from, mut to) = connected.expect("a connection");
    from.set_nodelay(true).expect("no delay");
    let mut heard = Vec::new();
    let (mut left, mut size) = (octets, 1);
    // Every size of record, the smallest first.
    while !left.is_empty() {
        let (piece, rest) = left.split_at(size.min(left.len()));
        let mut room = vec![0; piece.len()];
        std::thread::scope(|scope| {
            scope.spawn(|| from.write_all(piece).expect("written"));
            to.read_exact(&mut room).expect("read");
        });
        heard.extend(room);
        (left, size) = (rest, (size * 2).min(250_000));
    }
    assert!(heard == octets, "TCP itself");
}

#[test]
fn segments_of_every_size_are_copied_whole_and_once_at_each_socket() {
    if !can_run() {
        return;
    }
    let mounts = fs::read_to_string("/proc/self/mounts").expect("mounts");
    let root = mounts.lines().find_map(|line| {
        let words: Vec<&str> = line.split(' ').collect();
        (words.get(2) == Some(&"cgroup2")).then(|| words[1].to_owned())
    });
    let Some(root) = root else {
        let _ = writeln!(io::stderr(), "skipped: no cgroups of version 2 are mounted");
        return;
    };
    let (source, statuses) = KernelSource::start(&KernelOptions {
        ports: vec![179],
        routes: RouteProbes::Off,
        segments: true,
        ..KernelOptions::default()
    });
    let mut source = source.unwrap_or_else(|| panic!("no source: {statuses:?}"));
    source.copies_segments().expect("programs that load");
    let mut ring = source.take_segments().expect("the ring");
    let namespace = Namespace::new();
    let inode = namespace.netns().inode();
    source.observe(inode, NODE).expect("observe");
    // Of all sockets of this host only those of the namespace are told of.
    let root = File::open(root).expect("the root cgroup");
    let attachment = source.tap_cgroup(&root).expect("attached");
    let octets: Vec<u8> = (0..=250).cycle().take(1_000_000).collect();
    talk(&namespace, &octets);
    let mut streams = [Stream::default(), Stream::default()];
    for which in [0, 1] {
        wait_until("all octets", || {
            take(&mut ring, &mut streams);
            let seen: usize = streams[which].octets.values().map(Vec::len).sum();
            (seen == octets.len()).then_some(())
        });
        let stream = &streams[which];
        let seen: Vec<u8> = stream.octets.values().flatten().copied().collect();
        assert!(seen == octets, "other octets than were sent");
        assert!(stream.longest > 32_768, "{} at most", stream.longest);
    }

    drop(attachment);
    let end = boottime_now();
    talk(&namespace, &octets[..1000]);
    // Of the conversation before, an acknowledgement may be waiting that has no octets.
    let (more, _) = ring.drain(|segment| {
        let at = segment.head.boot_nanos;
        assert!(at < end.nanos(), "after {end:?}: {:?}", segment.head);
    });
    assert!(!more);
}
