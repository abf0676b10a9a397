//! Addresses as the core compares them: IPv4-mapped IPv6 is IPv4, link-local keeps its interface;
//! and which end of a socket speaks BGP.

use std::{
    fmt,
    net::{IpAddr, SocketAddr, SocketAddrV6},
};

use crate::event::{Socket, TcpState};

/// Who a peer is within one node.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct PeerAddress {
    /// Never IPv4-mapped.
    pub ip: IpAddr,
    /// Interface index of a link-local address, else 0.
    pub scope: u32,
}

impl PeerAddress {
    /// `scope` counts for link-local addresses only.
    pub fn new(ip: IpAddr, scope: u32) -> Self {
        let ip = ip.to_canonical();
        Self {
            ip,
            scope: if is_link_local(ip) { scope } else { 0 },
        }
    }

    /// As [`Display`](fmt::Display) shows it.
    pub fn parse(text: &str) -> Option<Self> {
        let (ip, scope) = match text.split_once('%') {
            Some((ip, scope)) => (ip, scope.parse().ok()?),
            None => (text, 0),
        };
        Some(Self::new(ip.parse().ok()?, scope))
    }

    /// The host part of `address`.
    pub fn of(address: SocketAddr) -> Self {
        let scope = match address {
            SocketAddr::V4(_) => 0,
            SocketAddr::V6(v6) => v6.scope_id(),
        };
        Self::new(address.ip(), scope)
    }

    /// 4 or 6.
    pub const fn ip_version(self) -> u8 {
        match self.ip {
            IpAddr::V4(_) => 4,
            IpAddr::V6(_) => 6,
        }
    }
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.ip)?;
        if self.scope == 0 {
            return Ok(());
        }
        write!(f, "%{}", self.scope)
    }
}

/// Whether `ip` means nothing without its interface.
pub(crate) const fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(_) => false,
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

/// `socket` with both ends in the form the core compares.
pub(crate) fn canonical(socket: &Socket) -> Socket {
    Socket {
        local: canonical_end(socket.local),
        remote: canonical_end(socket.remote),
        ..*socket
    }
}

/// One end likewise.
pub(crate) fn canonical_end(address: SocketAddr) -> SocketAddr {
    let PeerAddress { ip, scope } = PeerAddress::of(address);
    match ip {
        IpAddr::V4(v4) => SocketAddr::from((v4, address.port())),
        IpAddr::V6(v6) => SocketAddrV6::new(v6, address.port(), 0, scope).into(),
    }
}

/// Who opened a connection, seen from the observed node.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Role {
    /// The local speaker dialled.
    Outbound,
    /// The peer dialled.
    Inbound,
}

impl Role {
    /// Who opened `socket`, given the state it was first seen in or left; none when it is not BGP.
    /// A connection that was accepted on another port is not BGP even if it comes *from* port 179:
    /// anyone can choose a source port.
    pub fn of(socket: &Socket, seen: TcpState, ports: &[u16]) -> Option<Self> {
        let local = ports.contains(&socket.local.port());
        let remote = ports.contains(&socket.remote.port());
        match seen {
            TcpState::Close | TcpState::SynSent => remote.then_some(Self::Outbound),
            TcpState::SynRecv | TcpState::NewSynRecv => local.then_some(Self::Inbound),
            TcpState::Listen => None,
            TcpState::Established
            | TcpState::FinWait1
            | TcpState::FinWait2
            | TcpState::TimeWait
            | TcpState::CloseWait
            | TcpState::LastAck
            | TcpState::Closing => {
                if local {
                    Some(Self::Inbound)
                } else {
                    remote.then_some(Self::Outbound)
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{NetnsId, SocketId};

    fn socket(local: &str, remote: &str) -> Socket {
        Socket {
            netns: NetnsId(1),
            id: SocketId(1),
            local: local.parse().unwrap(),
            remote: remote.parse().unwrap(),
            bytes_received: 0,
            bytes_acked: 0,
            srtt_micros: 0,
            total_retransmits: 0,
            unanswered_retransmits: 0,
        }
    }

    #[test]
    fn mapped_addresses_are_ipv4_and_only_link_local_ones_keep_a_scope() {
        for (given, peer, version) in [
            ("10.0.0.1:179", "10.0.0.1", 4),
            ("[::ffff:10.0.0.1]:179", "10.0.0.1", 4),
            ("[fd00::1%7]:179", "fd00::1", 6),
            ("[fe80::1%7]:179", "fe80::1%7", 6),
        ] {
            let seen = canonical(&socket("10.0.0.9:1", given));
            let address = PeerAddress::of(seen.remote);
            assert_eq!(address.to_string(), peer);
            assert_eq!(PeerAddress::parse(peer), Some(address));
            assert_eq!(address.ip_version(), version);
            assert_eq!(seen.remote.port(), 179);
        }
    }

    #[test]
    fn the_role_follows_the_handshake_and_not_the_port_alone() {
        let out = socket("10.0.0.1:40000", "10.0.0.2:179");
        let inward = socket("10.0.0.1:179", "10.0.0.2:40000");
        let disguised = socket("10.0.0.1:10250", "10.0.0.2:179");
        let ports = [179];
        assert_eq!(
            Role::of(&out, TcpState::Close, &ports),
            Some(Role::Outbound)
        );
        assert_eq!(
            Role::of(&out, TcpState::SynSent, &ports),
            Some(Role::Outbound)
        );
        assert_eq!(
            Role::of(&inward, TcpState::SynRecv, &ports),
            Some(Role::Inbound)
        );
        assert_eq!(
            Role::of(&inward, TcpState::Established, &ports),
            Some(Role::Inbound)
        );
        assert_eq!(Role::of(&disguised, TcpState::SynRecv, &ports), None);
        assert_eq!(Role::of(&inward, TcpState::Close, &ports), None);
        assert_eq!(Role::of(&out, TcpState::Established, &[1790]), None);
    }
}
