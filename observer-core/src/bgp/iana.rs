//! Registry numbers and the names the registries and RFCs give them. Nothing here decides.

/// BGP message types (RFC 4271 §4.1, RFC 2918).
pub mod message_type {
    /// RFC 4271 §4.2.
    pub const OPEN: u8 = 1;
    /// RFC 4271 §4.3.
    pub const UPDATE: u8 = 2;
    /// RFC 4271 §4.5.
    pub const NOTIFICATION: u8 = 3;
    /// RFC 4271 §4.4.
    pub const KEEPALIVE: u8 = 4;
    /// RFC 2918 §3.
    pub const ROUTE_REFRESH: u8 = 5;
}

/// Path attribute type codes.
pub mod attribute {
    /// RFC 4271 §5.1.1.
    pub const ORIGIN: u8 = 1;
    /// RFC 4271 §5.1.2.
    pub const AS_PATH: u8 = 2;
    /// RFC 4271 §5.1.3.
    pub const NEXT_HOP: u8 = 3;
    /// RFC 4271 §5.1.4.
    pub const MULTI_EXIT_DISC: u8 = 4;
    /// RFC 4271 §5.1.5.
    pub const LOCAL_PREF: u8 = 5;
    /// RFC 4271 §5.1.6.
    pub const ATOMIC_AGGREGATE: u8 = 6;
    /// RFC 4271 §5.1.7.
    pub const AGGREGATOR: u8 = 7;
    /// RFC 1997.
    pub const COMMUNITIES: u8 = 8;
    /// RFC 4456 §8.
    pub const ORIGINATOR_ID: u8 = 9;
    /// RFC 4456 §8.
    pub const CLUSTER_LIST: u8 = 10;
    /// RFC 4760 §3.
    pub const MP_REACH_NLRI: u8 = 14;
    /// RFC 4760 §4.
    pub const MP_UNREACH_NLRI: u8 = 15;
    /// RFC 4360.
    pub const EXTENDED_COMMUNITIES: u8 = 16;
    /// RFC 6793 §3.
    pub const AS4_PATH: u8 = 17;
    /// RFC 6793 §3.
    pub const AS4_AGGREGATOR: u8 = 18;
    /// RFC 5701.
    pub const IPV6_EXTENDED_COMMUNITIES: u8 = 25;
    /// RFC 8092.
    pub const LARGE_COMMUNITY: u8 = 32;
}

/// Capability codes.
pub mod capability {
    /// RFC 4760 §8.
    pub const MULTIPROTOCOL: u8 = 1;
    /// RFC 2918 §2.
    pub const ROUTE_REFRESH: u8 = 2;
    /// RFC 8950 §4.
    pub const EXTENDED_NEXT_HOP: u8 = 5;
    /// RFC 8654 §3.
    pub const EXTENDED_MESSAGE: u8 = 6;
    /// RFC 9234 §4.1.
    pub const ROLE: u8 = 9;
    /// RFC 4724 §3.
    pub const GRACEFUL_RESTART: u8 = 64;
    /// RFC 6793 §3.
    pub const FOUR_OCTET_AS: u8 = 65;
    /// RFC 7911 §4.
    pub const ADD_PATH: u8 = 69;
    /// RFC 7313 §3.1.
    pub const ENHANCED_ROUTE_REFRESH: u8 = 70;
    /// RFC 9494 §3.1.
    pub const LONG_LIVED_GRACEFUL_RESTART: u8 = 71;
    /// draft-walton-bgp-hostname-capability.
    pub const FQDN: u8 = 73;

    /// The registry's name; none for a number it does not assign.
    pub const fn name(code: u8) -> Option<&'static str> {
        Some(match code {
            MULTIPROTOCOL => "Multiprotocol Extensions",
            ROUTE_REFRESH => "Route Refresh",
            3 => "Outbound Route Filtering",
            EXTENDED_NEXT_HOP => "Extended Next Hop Encoding",
            EXTENDED_MESSAGE => "BGP Extended Message",
            7 => "BGPsec",
            8 => "Multiple Labels",
            ROLE => "BGP Role",
            GRACEFUL_RESTART => "Graceful Restart",
            FOUR_OCTET_AS => "4-octet AS Number",
            67 => "Dynamic Capability",
            68 => "Multisession BGP",
            ADD_PATH => "ADD-PATH",
            ENHANCED_ROUTE_REFRESH => "Enhanced Route Refresh",
            LONG_LIVED_GRACEFUL_RESTART => "Long-Lived Graceful Restart",
            72 => "Routing Policy Distribution",
            FQDN => "FQDN",
            74 => "BFD Strict Mode",
            75 => "Software Version",
            76 => "Paths-Limit",
            128 => "Route Refresh (pre-standard)",
            130 => "Outbound Route Filtering (pre-standard)",
            131 => "Multisession (pre-standard)",
            _ => return None,
        })
    }
}

/// NOTIFICATION error codes (RFC 4271 §4.5 and successors).
pub mod error_code {
    /// RFC 4271 §6.1.
    pub const MESSAGE_HEADER: u8 = 1;
    /// RFC 4271 §6.2.
    pub const OPEN_MESSAGE: u8 = 2;
    /// RFC 4271 §6.3.
    pub const UPDATE_MESSAGE: u8 = 3;
    /// RFC 4271 §6.5.
    pub const HOLD_TIMER_EXPIRED: u8 = 4;
    /// RFC 4271 §6.6, RFC 6608.
    pub const FINITE_STATE_MACHINE: u8 = 5;
    /// RFC 4271 §6.7, RFC 4486.
    pub const CEASE: u8 = 6;
    /// RFC 7313 §5.
    pub const ROUTE_REFRESH_MESSAGE: u8 = 7;
    /// RFC 9687.
    pub const SEND_HOLD_TIMER_EXPIRED: u8 = 8;

    /// The registry's name.
    pub const fn name(code: u8) -> Option<&'static str> {
        Some(match code {
            MESSAGE_HEADER => "Message Header Error",
            OPEN_MESSAGE => "OPEN Message Error",
            UPDATE_MESSAGE => "UPDATE Message Error",
            HOLD_TIMER_EXPIRED => "Hold Timer Expired",
            FINITE_STATE_MACHINE => "Finite State Machine Error",
            CEASE => "Cease",
            ROUTE_REFRESH_MESSAGE => "ROUTE-REFRESH Message Error",
            SEND_HOLD_TIMER_EXPIRED => "Send Hold Timer Expired",
            _ => return None,
        })
    }
}

/// Cease subcodes (RFC 4486, 8203, 8538, 9003, 9384).
pub mod cease {
    /// RFC 4486.
    pub const ADMINISTRATIVE_SHUTDOWN: u8 = 2;
    /// RFC 4486.
    pub const PEER_DE_CONFIGURED: u8 = 3;
    /// RFC 4486.
    pub const ADMINISTRATIVE_RESET: u8 = 4;
    /// RFC 8538 §3.
    pub const HARD_RESET: u8 = 9;
    /// RFC 9384.
    pub const BFD_DOWN: u8 = 10;
}

/// No subcode that has a name is higher.
const MAX_SUBCODE: u8 = 11;

/// The registry's name of a NOTIFICATION's subcode under its code. Subcode 0 has none: it says that
/// nothing more specific is meant (RFC 4271 §4.5).
pub const fn error_subcode_name(code: u8, subcode: u8) -> Option<&'static str> {
    Some(match (code, subcode) {
        (1, 1) => "Connection Not Synchronized",
        (1, 2) => "Bad Message Length",
        (1, 3) => "Bad Message Type",
        (2, 1) => "Unsupported Version Number",
        (2, 2) => "Bad Peer AS",
        (2, 3) => "Bad BGP Identifier",
        (2, 4) => "Unsupported Optional Parameter",
        (2, 6) => "Unacceptable Hold Time",
        (2, 7) => "Unsupported Capability",
        (2, 11) => "Role Mismatch",
        (3, 1) => "Malformed Attribute List",
        (3, 2) => "Unrecognized Well-known Attribute",
        (3, 3) => "Missing Well-known Attribute",
        (3, 4) => "Attribute Flags Error",
        (3, 5) => "Attribute Length Error",
        (3, 6) => "Invalid ORIGIN Attribute",
        (3, 8) => "Invalid NEXT_HOP Attribute",
        (3, 9) => "Optional Attribute Error",
        (3, 10) => "Invalid Network Field",
        (3, 11) => "Malformed AS_PATH",
        (5, 1) => "Receive Unexpected Message in OpenSent State",
        (5, 2) => "Receive Unexpected Message in OpenConfirm State",
        (5, 3) => "Receive Unexpected Message in Established State",
        (6, 1) => "Maximum Number of Prefixes Reached",
        (6, 2) => "Administrative Shutdown",
        (6, 3) => "Peer De-configured",
        (6, 4) => "Administrative Reset",
        (6, 5) => "Connection Rejected",
        (6, 6) => "Other Configuration Change",
        (6, 7) => "Connection Collision Resolution",
        (6, 8) => "Out of Resources",
        (6, 9) => "Hard Reset",
        (6, 10) => "BFD Down",
        (7, 1) => "Invalid Message Length",
        _ => return None,
    })
}

/// Every code and subcode of a NOTIFICATION that has a name, subcode 0 of each code included: the
/// closed set of their labels.
pub fn notifications() -> impl Iterator<Item = (u8, u8)> {
    (0..=error_code::SEND_HOLD_TIMER_EXPIRED)
        .filter(|code| error_code::name(*code).is_some())
        .flat_map(|code| (0..=MAX_SUBCODE).map(move |subcode| (code, subcode)))
        .filter(|(code, subcode)| *subcode == 0 || error_subcode_name(*code, *subcode).is_some())
}

/// The registry's name of a path attribute.
pub const fn attribute_name(code: u8) -> Option<&'static str> {
    Some(match code {
        attribute::ORIGIN => "ORIGIN",
        attribute::AS_PATH => "AS_PATH",
        attribute::NEXT_HOP => "NEXT_HOP",
        attribute::MULTI_EXIT_DISC => "MULTI_EXIT_DISC",
        attribute::LOCAL_PREF => "LOCAL_PREF",
        attribute::ATOMIC_AGGREGATE => "ATOMIC_AGGREGATE",
        attribute::AGGREGATOR => "AGGREGATOR",
        attribute::COMMUNITIES => "COMMUNITIES",
        attribute::ORIGINATOR_ID => "ORIGINATOR_ID",
        attribute::CLUSTER_LIST => "CLUSTER_LIST",
        attribute::MP_REACH_NLRI => "MP_REACH_NLRI",
        attribute::MP_UNREACH_NLRI => "MP_UNREACH_NLRI",
        attribute::EXTENDED_COMMUNITIES => "EXTENDED COMMUNITIES",
        attribute::AS4_PATH => "AS4_PATH",
        attribute::AS4_AGGREGATOR => "AS4_AGGREGATOR",
        attribute::IPV6_EXTENDED_COMMUNITIES => "IPv6 Extended Communities",
        attribute::LARGE_COMMUNITY => "LARGE_COMMUNITY",
        _ => return None,
    })
}

/// Names of a message type as the RFCs write them.
pub const fn message_type_name(kind: u8) -> Option<&'static str> {
    Some(match kind {
        message_type::OPEN => "OPEN",
        message_type::UPDATE => "UPDATE",
        message_type::NOTIFICATION => "NOTIFICATION",
        message_type::KEEPALIVE => "KEEPALIVE",
        message_type::ROUTE_REFRESH => "ROUTE-REFRESH",
        _ => return None,
    })
}

/// Names of address families that operators meet (AFI, SAFI); the others show as numbers.
pub const fn family_name(afi: u16, safi: u8) -> Option<&'static str> {
    Some(match (afi, safi) {
        (1, 1) => "ipv4-unicast",
        (2, 1) => "ipv6-unicast",
        (1, 2) => "ipv4-multicast",
        (2, 2) => "ipv6-multicast",
        (1, 4) => "ipv4-labeled-unicast",
        (2, 4) => "ipv6-labeled-unicast",
        (1, 128) => "ipv4-vpn",
        (2, 128) => "ipv6-vpn",
        (1, 132) => "ipv4-rt-constraint",
        (1, 133) => "ipv4-flowspec",
        (2, 133) => "ipv6-flowspec",
        (1, 134) => "ipv4-vpn-flowspec",
        (2, 134) => "ipv6-vpn-flowspec",
        (25, 65) => "l2vpn-vpls",
        (25, 70) => "l2vpn-evpn",
        (16388, 71) => "link-state",
        _ => return None,
    })
}
