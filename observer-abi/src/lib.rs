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
    /// Signal: `si_code` (0 = `SI_USER`, 0x80 = `SI_KERNEL`); 0 otherwise.
    pub code: i32,
    /// Command name of the speaker, NUL-padded.
    pub comm: [u8; COMM_LEN],
    /// Command name of the sender, NUL-padded; empty for the kernel itself.
    pub sender_comm: [u8; COMM_LEN],
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
/// Length of `COUNTERS`.
pub const COUNTERS: u32 = 4;

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
    /// `kernel_siginfo.si_code`, i32.
    pub si_code: u32,
    /// 1 where `bpf_get_socket_cookie` takes a traced socket (≥ 5.12), else 0.
    pub has_socket_cookie: u32,
    /// 1 where `oom/mark_victim` carries a task (≥ 6.9), 0 where it carries a pid.
    pub oom_has_task: u32,
}
