//! What crosses the boundary between the kernel programs (`observer-ebpf`) and the agent.
//!
//! Everything here is plain integers in `repr(C)` with no hidden padding (the zerocopy derives
//! refuse it at compile time), so the bytes of a ring record are only ever bytes until the agent
//! has looked at their `kind` and length. No enum, bool or reference appears here: a kernel program
//! of another version may write any value.
//!
//! Both sides are built from the same commit and the object is embedded in the agent, so the layout
//! carries no version number.
#![no_std]

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `kind` of [`TcpRecord`]: the socket went from `old_state` to `new_state`
/// (tracepoint `sock:inet_sock_set_state`).
pub const KIND_TCP_STATE: u32 = 1;
/// `kind` of [`TcpRecord`]: the kernel told the socket's owner an error, in `error`
/// (tracepoint `sock:inet_sk_error_report`).
pub const KIND_TCP_ERROR: u32 = 2;
/// `kind` of [`TcpRecord`]: a valid RST arrived (tracepoint `tcp:tcp_receive_reset`).
pub const KIND_RESET_RECEIVED: u32 = 3;
/// `kind` of [`TcpRecord`]: the kernel sent a RST for this socket (tracepoint `tcp:tcp_send_reset`).
pub const KIND_RESET_SENT: u32 = 4;
/// `kind` of [`TcpRecord`]: a segment was retransmitted (tracepoint `tcp:tcp_retransmit_skb`).
pub const KIND_RETRANSMIT: u32 = 5;
/// `kind` of [`ProcessRecord`]: a BGP speaker's thread group ended
/// (tracepoint `sched:sched_process_exit`); `status` is the wait status.
pub const KIND_SPEAKER_EXIT: u32 = 6;
/// `kind` of [`ProcessRecord`]: a signal was sent to a BGP speaker
/// (tracepoint `signal:signal_generate`); `status` is the signal's number.
pub const KIND_SPEAKER_SIGNAL: u32 = 7;
/// `kind` of [`ProcessRecord`]: the OOM killer chose a BGP speaker (tracepoint `oom:mark_victim`).
pub const KIND_SPEAKER_OOM: u32 = 8;

/// `kind` of [`RouteHead`]: an IPv4 route was written (exit of `fib_table_insert`).
pub const KIND_ROUTE_WRITTEN: u32 = 9;
/// `kind` of [`RouteHead`]: an IPv4 route is removed (entry of `fib_notify_alias_delete`).
pub const KIND_ROUTE_REMOVED: u32 = 10;
/// `kind` of [`RouteHead`]: an IPv6 route, or one hop of it, was written (exit of `fib6_add`).
pub const KIND_ROUTE6_WRITTEN: u32 = 11;
/// `kind` of [`RouteHead`]: an IPv6 route, or one hop of it, was removed (exit of `fib6_del`).
pub const KIND_ROUTE6_REMOVED: u32 = 12;

/// Length of a kernel command name (`TASK_COMM_LEN`), NUL included.
pub const COMM_LEN: usize = 16;

/// A fact about one TCP socket with a BGP port at either end.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct TcpRecord {
    /// One of the `KIND_*` values of TCP records.
    pub kind: u32,
    /// The agent's own number for the namespace (the value in the `NETNS` map).
    pub netns_id: u32,
    /// `CLOCK_BOOTTIME` in nanoseconds (`bpf_ktime_get_boot_ns`).
    pub boot_nanos: u64,
    /// `sk_cookie`, unique per socket since boot; 0 where the kernel has no helper for it (< 5.12).
    pub cookie: u64,
    /// The socket's kernel address: identity only where `cookie` is 0.
    pub address: u64,
    /// Payload bytes received in order (`tcp_sock.bytes_received`); the FIN counts as one.
    pub bytes_received: u64,
    /// Payload bytes the peer acknowledged (`tcp_sock.bytes_acked`); the SYN of a dial counts as
    /// one, so does the FIN.
    pub bytes_acked: u64,
    /// IPv4 in the first four bytes, or IPv6; network order.
    pub local_addr: [u8; 16],
    /// As `local_addr`, for the other end.
    pub remote_addr: [u8; 16],
    /// Smoothed round-trip time in microseconds, times 8 (`tcp_sock.srtt_us`).
    pub srtt_eighths_micros: u32,
    /// Segments retransmitted over the socket's life (`tcp_sock.total_retrans`).
    pub total_retransmits: u32,
    /// `sk_err`, a positive errno, or 0.
    pub error: i32,
    /// `skc_bound_dev_if`: the scope of a link-local address, or 0.
    pub interface: u32,
    /// Thread group id of the running process; only meaningful where `in_process` is 1.
    pub pid: u32,
    /// `AF_INET` (2) or `AF_INET6` (10).
    pub family: u16,
    /// Host order. 0 in CLOSE → `SYN_SENT`, where the kernel has not chosen it yet.
    pub local_port: u16,
    /// Host order.
    pub remote_port: u16,
    /// TCP state before (Linux numbers, `net/tcp_states.h`); equal to `new_state` for other kinds.
    pub old_state: u8,
    /// TCP state after.
    pub new_state: u8,
    /// 1 where the transition is one that only a system call of the socket's owner makes.
    pub in_process: u8,
    /// Unanswered retransmissions of the oldest segment (`icsk_retransmits`).
    pub retransmits: u8,
    /// Zero.
    pub reserved: [u8; 2],
    /// Command name of `pid`, NUL-padded; only meaningful where `in_process` is 1.
    pub comm: [u8; COMM_LEN],
}

/// A fact about a process that speaks BGP on this host.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct ProcessRecord {
    /// One of the `KIND_SPEAKER_*` values.
    pub kind: u32,
    /// The agent's own number for the namespace the speaker was seen in.
    pub netns_id: u32,
    /// `CLOCK_BOOTTIME` in nanoseconds.
    pub boot_nanos: u64,
    /// Thread group id of the speaker.
    pub pid: u32,
    /// Exit: wait status (`exit_code`). Signal: its number. OOM: 0.
    pub status: i32,
    /// Signal: thread group id of the sender, 0 for the kernel itself.
    pub sender_pid: u32,
    /// Signal: 0 (`SI_USER`) where a process sent it, 0x80 (`SI_KERNEL`) where the kernel did; 0 otherwise.
    pub code: i32,
    /// Command name of the speaker, NUL-padded.
    pub comm: [u8; COMM_LEN],
    /// Command name of the sender, NUL-padded; empty for the kernel itself.
    pub sender_comm: [u8; COMM_LEN],
}

/// How many hops a route record can hold; it says when there are more.
pub const MAX_HOPS: usize = 16;

/// The writer asked for the place of a route that may have been there (`NLM_F_REPLACE`).
pub const ROUTE_REPLACES: u8 = 1;
/// The namespace is being torn down.
pub const ROUTE_TEARDOWN: u8 = 2;
/// The route died with what it hung on (`RTNH_F_DEAD` in `fib_flags`).
pub const ROUTE_DIED: u8 = 4;
/// The route has further hops than this record tells: those of a nexthop group, an IPv6 route's
/// others, or more than [`MAX_HOPS`].
pub const ROUTE_PARTIAL: u8 = 8;
/// The writer asked for a place behind the routes that share the prefix, table, TOS and metric
/// (`NLM_F_APPEND`).
pub const ROUTE_APPENDS: u8 = 16;

/// How many routing tables can be picked.
pub const MAX_TABLES: usize = 8;

/// A fact about one route of the kernel; up to [`MAX_HOPS`] [`RouteHop`]s follow.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct RouteHead {
    /// One of the `KIND_ROUTE*` values.
    pub kind: u32,
    /// The agent's own number for the namespace.
    pub netns_id: u32,
    /// `CLOCK_BOOTTIME` in nanoseconds.
    pub boot_nanos: u64,
    /// Thread group id of the running process.
    pub pid: u32,
    /// Routing table.
    pub table: u32,
    /// `RTA_PRIORITY`.
    pub metric: u32,
    /// Nexthop object, or 0.
    pub object: u32,
    /// Destination: IPv4 in the first four bytes, or IPv6; network order.
    pub prefix: [u8; 16],
    /// How many hops the kernel has for it; more than [`MAX_HOPS`] do not follow.
    pub hop_count: u32,
    /// `AF_INET` (2) or `AF_INET6` (10).
    pub family: u8,
    /// Prefix length.
    pub length: u8,
    /// `rtm_tos`.
    pub tos: u8,
    /// `rtm_protocol`.
    pub protocol: u8,
    /// `rtm_type`.
    pub route_type: u8,
    /// `ROUTE_*` bits.
    pub flags: u8,
    /// Zero.
    pub reserved: [u8; 6],
    /// Command name of `pid`, NUL-padded.
    pub comm: [u8; COMM_LEN],
}

/// One hop of a route.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct RouteHop {
    /// As [`RouteHead::prefix`].
    pub gateway: [u8; 16],
    /// The interface's index.
    pub interface: u32,
    /// Share of packets.
    pub weight: u16,
    /// Family of `gateway`, 0 where there is none.
    pub gateway_family: u8,
    /// `RTNH_F_*`.
    pub flags: u8,
}

/// What the record of a tapped segment begins with; the packet follows, from its network header on.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct SegmentHead {
    /// The agent's own number for the namespace.
    pub netns_id: u32,
    /// Index of the interface that it came by, or is to leave by.
    pub interface: u32,
    /// `CLOCK_BOOTTIME` in nanoseconds.
    pub boot_nanos: u64,
    /// The cgroup that the socket was made in (`bpf_skb_cgroup_id`).
    pub cgroup: u64,
    /// Octets of the packet.
    pub length: u32,
    /// How many of them follow; what is behind them in the record means nothing.
    pub captured: u32,
    /// 1 where a local socket sent it, 0 where one is to receive it.
    pub sent: u8,
    /// 1 where it is several segments in one: the kernel put it together or will cut it.
    pub merged: u8,
    /// Zero.
    pub reserved: [u8; 6],
}

/// Key of the `KNOWN_PEERS` map: events of these peers go to the main ring.
#[derive(Clone, Copy, Debug, Eq, FromBytes, Immutable, IntoBytes, KnownLayout, PartialEq)]
#[repr(C)]
pub struct PeerKey {
    /// The agent's own number for the namespace.
    pub netns_id: u32,
    /// `AF_INET` (2) or `AF_INET6` (10).
    pub family: u32,
    /// As [`TcpRecord::remote_addr`].
    pub addr: [u8; 16],
}

/// Index into the `COUNTERS` per-CPU array: main ring reservations that failed.
pub const COUNTER_EVENTS_LOST: u32 = 0;
/// Index into `COUNTERS`: strangers' ring reservations that failed.
pub const COUNTER_STRANGER_EVENTS_LOST: u32 = 1;
/// Index into `COUNTERS`: completed inbound connections from addresses that are no known peer.
pub const COUNTER_STRANGERS: u32 = 2;
/// Index into `COUNTERS`: entries that did not fit into a map (`SPEAKERS`).
pub const COUNTER_MAP_FULL: u32 = 3;
/// Index into `COUNTERS`: route records that did not fit into their ring.
pub const COUNTER_ROUTES_LOST: u32 = 4;
/// Index into `COUNTERS`: what was counted toward watched prefixes, all of [`DropCount`].
pub const COUNTER_DROPS: u32 = 5;
/// Index into `COUNTERS`: IPv4 routes that were seen to go, of any protocol and table.
pub const COUNTER_REMOVALS_TOLD: u32 = 6;
/// Index into `COUNTERS`: those that the kernel's functions said they had removed.
pub const COUNTER_REMOVALS_RETURNED: u32 = 7;
/// Index into `COUNTERS`: segments that could not be copied into their ring.
pub const COUNTER_SEGMENTS_LOST: u32 = 8;
/// Length of `COUNTERS`.
pub const COUNTERS: u32 = 9;

/// How many prefixes can be watched for dropped packets at once.
pub const MAX_WATCHED: u32 = 1024;
/// How many drop reasons are told apart.
pub const DROP_REASONS: usize = 8;
/// Place in a [`DropCount`], behind the reasons: segments that TCP sent again.
pub const PLACE_SENT_AGAIN: usize = DROP_REASONS;
/// The same: connections that TCP gave up, or that were told that nothing leads there.
pub const PLACE_GIVEN_UP: usize = DROP_REASONS + 1;
/// How many places there are.
pub const DROP_PLACES: usize = DROP_REASONS + 2;
/// Bits of a [`DropKey`] between its first member and the address: they must match whole.
pub const DROP_KEY_HEAD_BITS: u32 = 64;
/// Octets of a [`DropKey`] behind its first member.
pub const DROP_KEY_DATA: usize = 24;

/// Key of the `WATCHED` trie.
#[derive(Clone, Copy, Debug, Eq, FromBytes, Immutable, IntoBytes, KnownLayout, PartialEq)]
#[repr(C)]
pub struct DropKey {
    /// How many bits behind this member count: [`DROP_KEY_HEAD_BITS`] plus the prefix's length.
    pub bits: u32,
    /// The agent's own number for the namespace.
    pub netns_id: u32,
    /// `AF_INET` (2) or `AF_INET6` (10).
    pub family: u32,
    /// As [`TcpRecord::remote_addr`].
    pub addr: [u8; 16],
}

/// Packets toward one watched prefix that the kernel dropped, by the place of their reason in the
/// agent's list, and what TCP of observed namespaces had to do again.
#[derive(
    Clone, Copy, Debug, Default, Eq, FromBytes, Immutable, IntoBytes, KnownLayout, PartialEq,
)]
#[repr(C)]
pub struct DropCount {
    /// How many.
    pub packets: [u64; DROP_PLACES],
    /// `CLOCK_BOOTTIME` of the first in nanoseconds; 0 while there is none.
    pub first_boot_nanos: [u64; DROP_PLACES],
    /// The same of the last.
    pub last_boot_nanos: [u64; DROP_PLACES],
}

/// How many BGP ports can be configured, 179 included.
pub const MAX_PORTS: usize = 8;

/// Where the running kernel keeps what the programs read, from its BTF; all in bytes from the start
/// of the named struct unless said otherwise. Read once at start and handed over as a global.
#[derive(
    Clone, Copy, Debug, Default, Eq, FromBytes, Immutable, IntoBytes, KnownLayout, PartialEq,
)]
#[repr(C)]
pub struct KernelLayout {
    /// `sock_common.skc_family`, u16.
    pub skc_family: u32,
    /// `sock_common.skc_num`, u16, host order.
    pub skc_num: u32,
    /// `sock_common.skc_dport`, u16, network order.
    pub skc_dport: u32,
    /// `sock_common.skc_rcv_saddr`, u32, network order.
    pub skc_rcv_saddr: u32,
    /// `sock_common.skc_daddr`, u32, network order.
    pub skc_daddr: u32,
    /// `sock_common.skc_v6_rcv_saddr`, 16 bytes.
    pub skc_v6_rcv_saddr: u32,
    /// `sock_common.skc_v6_daddr`, 16 bytes.
    pub skc_v6_daddr: u32,
    /// `sock_common.skc_net.net`, pointer.
    pub skc_net: u32,
    /// `sock_common.skc_bound_dev_if`, i32.
    pub skc_bound_dev_if: u32,
    /// `sock_common.skc_state`, u8.
    pub skc_state: u32,
    /// `sock.sk_err`, i32.
    pub sk_err: u32,
    /// `sock.sk_protocol`: u16 since 5.6, u8 before.
    pub sk_protocol: u32,
    /// Width of `sk_protocol` in bytes: 1 or 2.
    pub sk_protocol_width: u32,
    /// `net.ns.inum`, u32.
    pub net_ns_inum: u32,
    /// `inet_sock.inet_sport`, u16, network order.
    pub inet_sport: u32,
    /// `tcp_sock.bytes_received`, u64.
    pub bytes_received: u32,
    /// `tcp_sock.bytes_acked`, u64.
    pub bytes_acked: u32,
    /// `tcp_sock.srtt_us`, u32.
    pub srtt_us: u32,
    /// `tcp_sock.total_retrans`, u32.
    pub total_retrans: u32,
    /// `inet_connection_sock.icsk_retransmits`, u8.
    pub icsk_retransmits: u32,
    /// `task_struct.pid`, i32.
    pub task_pid: u32,
    /// `task_struct.tgid`, i32.
    pub task_tgid: u32,
    /// `task_struct.exit_code`, i32.
    pub task_exit_code: u32,
    /// `task_struct.comm`, 16 bytes.
    pub task_comm: u32,
    /// 1 where `bpf_get_socket_cookie` takes a traced socket (≥ 5.12), else 0.
    pub has_socket_cookie: u32,
    /// 1 where `oom/mark_victim` carries a task (≥ 6.9), 0 where it carries a pid.
    pub oom_has_task: u32,
    /// `net.ns.count`, i32; 0 where this kernel counts a namespace's users in another way.
    pub net_ns_count: u32,
    /// `fib_config.fc_dst_len`, u8.
    pub fc_dst_len: u32,
    /// `fib_config.fc_dscp` (`fc_tos` before 5.18), u8.
    pub fc_tos: u32,
    /// `fib_config.fc_protocol`, u8.
    pub fc_protocol: u32,
    /// `fib_config.fc_type`, u8.
    pub fc_type: u32,
    /// `fib_config.fc_table`, u32.
    pub fc_table: u32,
    /// `fib_config.fc_dst`, u32, network order.
    pub fc_dst: u32,
    /// `fib_config.fc_priority`, u32.
    pub fc_priority: u32,
    /// `fib_config.fc_nlflags`, u32.
    pub fc_nlflags: u32,
    /// `fib_config.fc_nlinfo.nl_net`, pointer.
    pub fc_nl_net: u32,
    /// `fib_info.fib_flags`, u32.
    pub fib_flags: u32,
    /// `fib_info.fib_protocol`, u8.
    pub fib_protocol: u32,
    /// `fib_info.fib_priority`, u32.
    pub fib_priority: u32,
    /// `fib_info.fib_nhs`, i32.
    pub fib_nhs: u32,
    /// `fib_info.nh`, pointer.
    pub fib_object: u32,
    /// `fib_info.fib_nh`, the first of its hops.
    pub fib_nh: u32,
    /// Size of `fib_nh`.
    pub fib_nh_size: u32,
    /// `fib_alias.fa_info`, pointer.
    pub fa_info: u32,
    /// `fib_alias.fa_dscp` (`fa_tos` before 5.18), u8.
    pub fa_tos: u32,
    /// `fib_alias.fa_type`, u8.
    pub fa_type: u32,
    /// `fib_alias.fa_slen`, u8.
    pub fa_slen: u32,
    /// `fib_alias.tb_id`, u32.
    pub fa_table: u32,
    /// `fib_nh_common.nhc_oif`, i32.
    pub nhc_oif: u32,
    /// `fib_nh_common.nhc_gw_family`, u8.
    pub nhc_gw_family: u32,
    /// `fib_nh_common.nhc_flags`, u8.
    pub nhc_flags: u32,
    /// `fib_nh_common.nhc_gw`, 4 or 16 bytes.
    pub nhc_gw: u32,
    /// `fib_nh_common.nhc_weight`, i32.
    pub nhc_weight: u32,
    /// `nexthop.id`, u32.
    pub nexthop_id: u32,
    /// `nexthop.is_group`, u8.
    pub nexthop_is_group: u32,
    /// `nexthop.nh_info` or `nh_grp`, pointer.
    pub nexthop_info: u32,
    /// `nh_info.fib_nhc`.
    pub nh_info_common: u32,
    /// `fib6_info.fib6_table`, pointer.
    pub f6i_table: u32,
    /// `fib6_info.fib6_nsiblings`, u32.
    pub f6i_nsiblings: u32,
    /// `fib6_info.fib6_dst.addr`, 16 bytes.
    pub f6i_dst: u32,
    /// `fib6_info.fib6_dst.plen`, i32.
    pub f6i_plen: u32,
    /// `fib6_info.fib6_metric`, u32.
    pub f6i_metric: u32,
    /// `fib6_info.fib6_protocol`, u8.
    pub f6i_protocol: u32,
    /// `fib6_info.fib6_type`, u8.
    pub f6i_type: u32,
    /// `fib6_info.nh`, pointer.
    pub f6i_object: u32,
    /// `fib6_info.fib6_nh`.
    pub f6i_nh: u32,
    /// `fib6_table.tb6_id`, u32.
    pub tb6_id: u32,
    /// `nl_info.nl_net`, pointer.
    pub nl_net: u32,
    /// `nl_info.nlh`, pointer.
    pub nl_header: u32,
    /// `nlmsghdr.nlmsg_flags`, u16.
    pub nlmsg_flags: u32,
    /// `sk_buff.dev`, pointer.
    pub skb_dev: u32,
    /// `sk_buff.head`, pointer.
    pub skb_head: u32,
    /// `sk_buff.protocol`, u16, network order.
    pub skb_protocol: u32,
    /// `sk_buff.network_header`, u16, from `head`.
    pub skb_network_header: u32,
    /// `net_device.nd_net.net`, pointer.
    pub dev_net: u32,
}
