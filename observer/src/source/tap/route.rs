//! Asks the kernel's routing table through which interface an address is reached, so that the tap
//! sits where the sessions pass and nowhere else.

use std::{io, net::IpAddr, time::Duration};

use netlink_packet_core::{NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    route::{RouteAddress, RouteAttribute, RouteMessage},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use crate::source::rtnetlink::set_timeout;

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

    /// The index of the interface through which `destination` is reached now; none when no route
    /// leads there.
    ///
    /// # Errors
    /// As send(2) and recv(2), or a malformed answer.
    pub fn interface_towards(&mut self, destination: IpAddr) -> io::Result<Option<u32>> {
        self.sequence = self.sequence.wrapping_add(1);
        self.socket.send(&request(destination, self.sequence), 0)?;
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

fn request(destination: IpAddr, sequence: u32) -> Vec<u8> {
    let mut route = RouteMessage::default();
    let (family, address, length) = match destination {
        IpAddr::V4(v4) => (AddressFamily::Inet, RouteAddress::Inet(v4), 32),
        IpAddr::V6(v6) => (AddressFamily::Inet6, RouteAddress::Inet6(v6), 128),
    };
    route.header.address_family = family;
    route.header.destination_prefix_length = length;
    route.attributes.push(RouteAttribute::Destination(address));
    let mut message = NetlinkMessage::from(RouteNetlinkMessage::GetRoute(route));
    message.header.flags = NLM_F_REQUEST;
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
