//! Asks the kernel's routing table through which interface an address is reached, so that the tap
//! sits where the sessions pass and nowhere else.

use std::{io, net::IpAddr, time::Duration};

use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage},
    route::{RouteAddress, RouteAttribute, RouteMessage},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use observer_core::event::forwarding::Forwarding;

use crate::source::rtnetlink::{
    decode::{Told, messages},
    set_timeout,
};

/// How long an answer may take; the kernel answers in microseconds.
const PATIENCE: Duration = Duration::from_secs(1);

/// A netlink socket in one namespace.
#[derive(Debug)]
pub struct RouteLookup {
    socket: Socket,
    sequence: u32,
}

impl RouteLookup {
    /// Opens the socket in the calling thread's network namespace. Needs no capability.
    ///
    /// # Errors
    /// As socket(2).
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        set_timeout(&socket, PATIENCE)?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    /// The indices of the namespace's VRFs.
    ///
    /// # Errors
    /// As send(2) and recv(2).
    pub fn vrfs(&mut self) -> io::Result<Vec<u32>> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut links = LinkMessage::default();
        let only = LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Vrf)]);
        links.attributes.push(only);
        let flags = NLM_F_REQUEST | NLM_F_DUMP;
        let request = asking(RouteNetlinkMessage::GetLink(links), flags, self.sequence);
        self.socket.send(&request, 0)?;
        let (mut found, mut done) = (Vec::new(), false);
        while !done {
            let (answer, _) = self.socket.recv_from_full()?;
            let header = NetlinkBuffer::new_checked(&answer).map_err(io::Error::other)?;
            if header.sequence_number() != self.sequence {
                continue;
            }
            messages(&answer, |_, told| match told {
                // A kernel that knows no VRFs shows all links.
                Ok(Told::Else(Forwarding::Link {
                    interface,
                    vrf: Some(_),
                    ..
                })) => found.push(interface),
                Ok(Told::Done | Told::Error(_)) => done = true,
                Ok(_) | Err(_) => {}
            });
        }
        Ok(found)
    }

    /// The index of the interface through which `destination` is reached now, from within `vrf` or from
    /// no VRF; none when no route leads there.
    ///
    /// # Errors
    /// As send(2) and recv(2), or a malformed answer.
    pub fn interface_towards(
        &mut self,
        destination: IpAddr,
        vrf: Option<u32>,
    ) -> io::Result<Option<u32>> {
        self.sequence = self.sequence.wrapping_add(1);
        let request = request(destination, vrf, self.sequence);
        self.socket.send(&request, 0)?;
        loop {
            let (answer, _) = self.socket.recv_from_full()?;
            let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer)
                .map_err(io::Error::other)?;
            if answer.header.sequence_number != self.sequence {
                continue; // a late answer to a question that timed out
            }
            // Any other answer is an error (ENETUNREACH, EHOSTUNREACH, EINVAL from blackhole
            // routes): no way there.
            let NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(route)) = answer.payload
            else {
                return Ok(None);
            };
            return Ok(output_interface(&route));
        }
    }
}

fn request(destination: IpAddr, vrf: Option<u32>, sequence: u32) -> Vec<u8> {
    let mut route = RouteMessage::default();
    let (family, address, length) = match destination {
        IpAddr::V4(v4) => (AddressFamily::Inet, RouteAddress::Inet(v4), 32),
        IpAddr::V6(v6) => (AddressFamily::Inet6, RouteAddress::Inet6(v6), 128),
    };
    route.header.address_family = family;
    route.header.destination_prefix_length = length;
    route.attributes.push(RouteAttribute::Destination(address));
    route.attributes.extend(vrf.map(RouteAttribute::Oif));
    asking(
        RouteNetlinkMessage::GetRoute(route),
        NLM_F_REQUEST,
        sequence,
    )
}

fn asking(message: RouteNetlinkMessage, flags: u16, sequence: u32) -> Vec<u8> {
    let mut message = NetlinkMessage::from(message);
    message.header.flags = flags;
    message.header.sequence_number = sequence;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

fn output_interface(route: &RouteMessage) -> Option<u32> {
    route.attributes.iter().find_map(|attribute| {
        if let RouteAttribute::Oif(index) = attribute {
            Some(*index)
        } else {
            None
        }
    })
}
