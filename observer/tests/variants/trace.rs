//! TCP segments of a capture, apart from how the capture holds them: recorded ones, and those of a
//! talk made up here.

use std::{net::SocketAddr, path::Path};

use observer::capture::{Dissected, dissect, read_packets};

use crate::bgp::{self, Abilities, Message, Said};

/// One segment.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Seg {
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub seq: u32,
    pub ack: Option<u32>,
    pub syn: bool,
    pub fin: bool,
    pub rst: bool,
    pub payload: Vec<u8>,
    /// Octets behind it that the capture cut off.
    pub missing: u32,
}

pub type Trace = Vec<Seg>;

/// The TCP segments of an example capture.
pub fn recorded(name: &str) -> Trace {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/captures");
    let file = std::fs::File::open(folder.join(name)).unwrap();
    let mut trace = Vec::new();
    let end = read_packets(file, &mut |packet| {
        if let Dissected::Tcp(tcp) = dissect(packet.link, packet.data, packet.cut) {
            trace.push(Seg {
                from: tcp.from,
                to: tcp.to,
                seq: tcp.segment.seq,
                ack: tcp.segment.ack,
                syn: tcp.segment.syn,
                fin: tcp.segment.fin,
                rst: tcp.segment.rst,
                payload: tcp.segment.payload.to_vec(),
                missing: tcp.segment.missing,
            });
        }
    });
    assert!(end.unwrap().damage.is_none() && !trace.is_empty());
    trace
}

/// A connection while it is made up. Side 0 dials side 1.
#[derive(Clone, Debug)]
pub struct Talk {
    pub trace: Trace,
    pub said: [Said; 2],
    /// Where each message lies: side, first sequence number, and itself.
    pub messages: Vec<(usize, u32, Message)>,
    ends: [SocketAddr; 2],
    next: [u32; 2],
    opened: bool,
}

impl Talk {
    pub fn new(port: u16, numbers: [u32; 2]) -> Self {
        let end = |host, port| SocketAddr::from(([10, 0, 0, host], port));
        Self {
            trace: Vec::new(),
            said: [Said::default(), Said::default()],
            messages: Vec::new(),
            ends: [end(1, port), end(2, 179)],
            next: numbers,
            opened: false,
        }
    }

    /// The next segment of a side, not sent yet.
    pub fn seg(&self, side: usize) -> Seg {
        Seg {
            from: self.ends[side],
            to: self.ends[1 - side],
            seq: self.next[side],
            ack: self.opened.then_some(self.next[1 - side]),
            syn: false,
            fin: false,
            rst: false,
            payload: Vec::new(),
            missing: 0,
        }
    }

    pub fn handshake(&mut self) {
        let syn = Seg {
            syn: true,
            ..self.seg(0)
        };
        self.trace.push(syn);
        self.next[0] = self.next[0].wrapping_add(1);
        self.opened = true;
        let syn = Seg {
            syn: true,
            ..self.seg(1)
        };
        self.trace.push(syn);
        self.next[1] = self.next[1].wrapping_add(1);
        self.trace.push(self.seg(0));
    }

    /// A side sends a message in segments of at most `most` octets, and the other acknowledges.
    pub fn says(&mut self, side: usize, message: &Message, most: usize) {
        self.said[side].add(&message.said);
        self.messages.push((side, self.next[side], message.clone()));
        for payload in message.bytes.chunks(most) {
            let seg = Seg {
                payload: payload.to_vec(),
                ..self.seg(side)
            };
            self.trace.push(seg);
            let length = u32::try_from(payload.len()).unwrap();
            self.next[side] = self.next[side].wrapping_add(length);
        }
        self.trace.push(self.seg(1 - side));
    }

    pub fn fin(&mut self, side: usize) {
        let seg = Seg {
            fin: true,
            ..self.seg(side)
        };
        self.trace.push(seg);
        self.next[side] = self.next[side].wrapping_add(1);
        self.trace.push(self.seg(1 - side));
    }

    pub fn rst(&mut self, side: usize, payload: &[u8]) {
        let seg = Seg {
            rst: true,
            payload: payload.to_vec(),
            ..self.seg(side)
        };
        self.trace.push(seg);
    }

    /// Both OPENs and the KEEPALIVEs that answer them.
    pub fn greet(&mut self, able: Abilities, size: usize) {
        self.handshake();
        self.says(0, &bgp::open(64512, able), size);
        self.says(
            1,
            &bgp::open(
                if able.four_octets {
                    4_200_000_000
                } else {
                    64999
                },
                able,
            ),
            size,
        );
        self.says(0, &bgp::keepalive(), size);
        self.says(1, &bgp::keepalive(), size);
    }
}

/// Everything that can be said, once through.
pub fn whole_talk(able: Abilities, size: usize) -> Talk {
    let mut talk = Talk::new(40000, [u32::MAX - 300, 7000]);
    talk.greet(able, size);
    // 1,000 entries of IPv6 are above 4,096 octets.
    let most = if able.extended { 1000 } else { 200 };
    for side in [0, 1] {
        let first = if side == 0 { 0 } else { 5000 };
        talk.says(side, &bgp::announce(first, 300, able), size);
        talk.says(side, &bgp::announce_v6(first, most, able), size);
        talk.says(side, &bgp::end_of_rib(false), size);
        talk.says(side, &bgp::end_of_rib(true), size);
        talk.says(side, &bgp::withdraw(first, 9, able), size);
        talk.says(side, &bgp::withdraw_v6(first, 11, able), size);
        talk.says(side, &bgp::keepalive(), size);
        talk.says(side, &bgp::route_refresh(), size);
        talk.says(1 - side, &bgp::keepalive(), size);
    }
    talk.says(0, &bgp::shutdown("maintenance é"), size);
    talk.fin(0);
    talk.fin(1);
    talk
}
