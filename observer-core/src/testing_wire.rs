//! Builds what a tap shows: messages, and connections that carry them.

use std::net::IpAddr;

use crate::{
    event::{Event, Fact, Socket, TcpState},
    record::Entry,
    testing::{Scene, bird, millis},
    time::{Clock, Occurred},
};

/// A message of a type.
pub(crate) fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut message = vec![0xff; 16];
    message.extend(u16::try_from(19 + body.len()).unwrap().to_be_bytes());
    message.push(kind);
    message.extend(body);
    message
}

/// What an OPEN offers.
#[derive(Clone, Copy)]
pub(crate) struct Offer {
    pub asn: u16,
    pub hold: u16,
    pub add_path: bool,
    /// Last octet of the BGP identifier, 10.0.0.x.
    pub host: u8,
    /// Graceful restart: flags and seconds, and whether IPv4 unicast is kept, forwarding.
    pub restart: Option<(u16, bool)>,
}

impl Default for Offer {
    fn default() -> Self {
        Self {
            asn: 64_512,
            hold: 240,
            add_path: false,
            host: 2,
            restart: None,
        }
    }
}

pub(crate) fn open(offer: Offer) -> Vec<u8> {
    let mut capabilities = vec![1, 4, 0, 1, 0, 1, 65, 4, 0, 0];
    capabilities.extend(offer.asn.to_be_bytes());
    if offer.add_path {
        capabilities.extend([69, 4, 0, 1, 1, 3]);
    }
    if let Some((head, family)) = offer.restart {
        let [high, low] = head.to_be_bytes();
        capabilities.extend(if family {
            vec![64, 6, high, low, 0, 1, 1, 0x80]
        } else {
            vec![64, 2, high, low]
        });
    }
    let length = u8::try_from(capabilities.len()).unwrap();
    let mut body = vec![4];
    body.extend(offer.asn.to_be_bytes());
    body.extend(offer.hold.to_be_bytes());
    body.extend([10, 0, 0, offer.host, length + 2, 2, length]);
    body.extend(capabilities);
    message(1, &body)
}

pub(crate) fn keepalive() -> Vec<u8> {
    message(4, &[])
}

pub(crate) fn notification(code: u8, subcode: u8, text: &str) -> Vec<u8> {
    let mut body = vec![code, subcode];
    if !text.is_empty() {
        body.push(u8::try_from(text.len()).unwrap());
        body.extend(text.as_bytes());
    }
    message(3, &body)
}

/// An UPDATE that withdraws and announces these NLRI octets.
pub(crate) fn update(withdrawn: &[u8], announced: &[u8]) -> Vec<u8> {
    let attributes = [
        0x40, 1, 1, 0, 0x40, 2, 6, 2, 1, 0, 0, 0xfd, 0xe9, 0x40, 3, 4, 10, 0, 0, 1,
    ];
    let attributes: &[u8] = if announced.is_empty() {
        &[]
    } else {
        &attributes
    };
    let length = |octets: &[u8]| u16::try_from(octets.len()).unwrap().to_be_bytes();
    let mut body = length(withdrawn).to_vec();
    body.extend(withdrawn);
    body.extend(length(attributes));
    body.extend(attributes);
    body.extend(announced);
    message(2, &body)
}

/// An UPDATE that a route reflector sends: with the ORIGINATOR_ID of the node that announced these NLRI
/// octets.
pub(crate) fn reflected(announced: &[u8]) -> Vec<u8> {
    let plain = update(&[], announced);
    let originator = [0x80, 9, 4, 10, 0, 0, 9];
    let mut body = plain[19..].to_vec();
    let length = u16::from_be_bytes([body[2], body[3]]);
    let end = 4 + usize::from(length);
    body.splice(end..end, originator);
    body.splice(2..4, (length + 7).to_be_bytes());
    message(2, &body)
}

/// End-of-RIB of IPv4 unicast.
pub(crate) fn end_of_rib() -> Vec<u8> {
    update(&[], &[])
}

/// One connection as the tap shows it; sequence numbers of both sides.
#[derive(Clone, Copy)]
pub(crate) struct Talk {
    pub socket: Socket,
    pub interface: u32,
    next: [u32; 2],
}

/// A segment's flags.
#[derive(Clone, Copy, Default)]
pub(crate) struct Flags {
    pub syn: bool,
    pub fin: bool,
    pub rst: bool,
}

impl Talk {
    pub fn new(socket: Socket) -> Self {
        Self {
            socket,
            interface: 2,
            next: [1_000, u32::MAX - 20],
        }
    }

    /// A segment with the next sequence number, acknowledging all the other side said.
    pub fn segment(&self, sent: bool, flags: Flags, payload: &[u8]) -> Fact {
        let (own, other) = (usize::from(!sent), usize::from(sent));
        Fact::Segment {
            netns: self.socket.netns,
            interface: self.interface,
            sent,
            local: self.socket.local,
            remote: self.socket.remote,
            seq: self.next[own],
            ack: (!flags.syn || !sent).then_some(self.next[other]),
            syn: flags.syn,
            fin: flags.fin,
            rst: flags.rst,
            payload: payload.to_vec().into(),
            missing: 0,
        }
    }

    /// The side's number goes on by this.
    pub fn advance(&mut self, sent: bool, by: usize) {
        let next = &mut self.next[usize::from(!sent)];
        *next = next.wrapping_add(u32::try_from(by).unwrap());
    }

    /// A side speaks; nobody acknowledges yet.
    pub fn says_unheard(&mut self, scene: &mut Scene, sent: bool, payload: &[u8]) {
        scene.tap(self.segment(sent, Flags::default(), payload));
        self.advance(sent, payload.len());
    }

    /// A side speaks and the other's kernel acknowledges.
    pub fn says(&mut self, scene: &mut Scene, sent: bool, payload: &[u8]) {
        self.says_unheard(scene, sent, payload);
        scene.tap(self.segment(!sent, Flags::default(), &[]));
    }

    /// A side closes.
    pub fn fin(&mut self, scene: &mut Scene, sent: bool) {
        let fin = Flags {
            fin: true,
            ..Flags::default()
        };
        scene.tap(self.segment(sent, fin, &[]));
        self.advance(sent, 1);
    }

    /// The handshake, dialled by this node where `dialled`.
    pub fn handshake(&mut self, scene: &mut Scene, dialled: bool) {
        let syn = Flags {
            syn: true,
            ..Flags::default()
        };
        for sent in [dialled, !dialled] {
            scene.tap(self.segment(sent, syn, &[]));
            self.advance(sent, 1);
        }
        scene.tap(self.segment(dialled, Flags::default(), &[]));
    }

    /// The node dials and TCP comes up, as kernel and tap show it.
    pub fn connect(&mut self, scene: &mut Scene) {
        scene.dial(self.socket);
        self.handshake(scene, true);
        scene.state(self.socket, TcpState::SynSent, TcpState::Established);
    }

    /// OPENs and KEEPALIVEs.
    pub fn greet(&mut self, scene: &mut Scene, ours: Offer, theirs: Offer) {
        let ours = Offer { host: 1, ..ours };
        let host = match self.socket.remote.ip() {
            IpAddr::V4(v4) => v4.octets()[3],
            IpAddr::V6(_) => theirs.host,
        };
        let theirs = Offer { host, ..theirs };
        self.says(scene, true, &open(ours));
        self.says(scene, false, &open(theirs));
        self.says(scene, true, &keepalive());
        self.says(scene, false, &keepalive());
    }

    /// A session with usual OPENs.
    pub fn establish(&mut self, scene: &mut Scene) {
        self.connect(scene);
        self.greet(scene, Offer::default(), Offer::default());
    }

    /// The peer closes, and the kernel says so.
    pub fn peer_closes(&mut self, scene: &mut Scene) {
        self.fin(scene, false);
        scene.state(self.socket, TcpState::Established, TcpState::CloseWait);
    }

    /// Our side closes, and the kernel says so.
    pub fn we_close(&mut self, scene: &mut Scene) {
        let (established, closing) = (TcpState::Established, TcpState::FinWait1);
        scene.state_by(self.socket, established, closing, Some(bird()));
        self.fin(scene, true);
    }
}

impl Scene {
    /// The tap shows it now.
    pub fn tap(&mut self, fact: Fact) {
        let at = millis(self.now);
        let occurred = Occurred {
            earliest: at,
            latest: at,
            clock: Clock::Packet,
        };
        let event = Event { occurred, fact };
        self.apply(Entry { now: at, event });
    }
}
