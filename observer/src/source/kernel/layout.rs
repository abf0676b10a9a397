//! What the kernel programs must know of the running kernel, read from its BTF. What is missing is
//! kept with its reason, so that only the probes that need it stay off.

use observer_abi::{DROP_REASONS, KernelLayout};

use super::drops::REASONS;
use crate::source::btf::{Argument, Btf, BtfError};

/// A set of things that probes need together.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Need {
    /// To filter and describe a TCP socket.
    Socket,
    /// To tell which process a task is, and its name.
    Task,
    /// To tell how a task ended.
    ExitCode,
    /// To tell what routes IPv4 gains and loses, and their hops.
    Route,
    /// The same of IPv6.
    Route6,
    /// To tell why a packet was dropped, and where it was to go.
    Packet,
}

/// The layout, and what of it could not be found.
#[derive(Debug, Default)]
pub struct Found {
    /// Zero where something is missing.
    pub layout: KernelLayout,
    /// The kernel's numbers of [`REASONS`]; `u32::MAX` where it has no such reason.
    pub reasons: [u32; DROP_REASONS],
    missing: Vec<(Need, String)>,
}

impl Found {
    /// Why a probe with these `needs` cannot run; none if it can.
    pub fn missing(&self, needs: &[Need]) -> Option<&str> {
        self.missing
            .iter()
            .find(|(need, _)| needs.contains(need))
            .map(|(_, reason)| reason.as_str())
    }
}

type Slot = fn(&mut KernelLayout) -> &mut u32;

/// A member, the size it must have, and where its offset goes.
struct Wanted(Need, &'static str, &'static str, u32, Slot);

/// Lines of `NEED: STRUCTURE { MEMBER: SIZE => SLOT, … }`.
macro_rules! wanted {
    ($($need:ident: $structure:literal { $($member:literal: $size:literal => $slot:ident,)* })*) => {
        &[$($(Wanted(Need::$need, $structure, $member, $size, |l| &mut l.$slot),)*)*]
    };
}

/// What the probes of sessions and speakers read.
const OF_SESSIONS: &[Wanted] = wanted! {
    Socket: "sock_common" {
        "skc_family": 2 => skc_family,
        "skc_num": 2 => skc_num,
        "skc_dport": 2 => skc_dport,
        "skc_rcv_saddr": 4 => skc_rcv_saddr,
        "skc_daddr": 4 => skc_daddr,
        "skc_net.net": 8 => skc_net,
        "skc_bound_dev_if": 4 => skc_bound_dev_if,
        "skc_state": 1 => skc_state,
    }
    Socket: "sock" {
        "sk_err": 4 => sk_err,
    }
    Socket: "net" {
        "ns.inum": 4 => net_ns_inum,
    }
    Socket: "inet_sock" {
        "inet_sport": 2 => inet_sport,
    }
    Socket: "tcp_sock" {
        "bytes_received": 8 => bytes_received,
        "bytes_acked": 8 => bytes_acked,
        "srtt_us": 4 => srtt_us,
        "total_retrans": 4 => total_retrans,
    }
    Socket: "inet_connection_sock" {
        "icsk_retransmits": 1 => icsk_retransmits,
    }
    Task: "task_struct" {
        "pid": 4 => task_pid,
        "tgid": 4 => task_tgid,
        "comm": 16 => task_comm,
    }
    ExitCode: "task_struct" {
        "exit_code": 4 => task_exit_code,
    }
};

/// What the probes of routes read.
const OF_ROUTES: &[Wanted] = wanted! {
    Route: "net" {
        "ns.inum": 4 => net_ns_inum,
    }
    Route: "fib_config" {
        "fc_protocol": 1 => fc_protocol,
        "fc_type": 1 => fc_type,
        "fc_dst_len": 1 => fc_dst_len,
        "fc_table": 4 => fc_table,
        "fc_dst": 4 => fc_dst,
        "fc_priority": 4 => fc_priority,
        "fc_nlflags": 4 => fc_nlflags,
        "fc_nlinfo.nl_net": 8 => fc_nl_net,
    }
    Route: "fib_info" {
        "fib_flags": 4 => fib_flags,
        "fib_protocol": 1 => fib_protocol,
        "fib_priority": 4 => fib_priority,
        "fib_nhs": 4 => fib_nhs,
        "nh": 8 => fib_object,
    }
    Route: "fib_alias" {
        "fa_info": 8 => fa_info,
        "fa_type": 1 => fa_type,
        "fa_slen": 1 => fa_slen,
        "tb_id": 4 => fa_table,
    }
    Route: "fib_nh_common" {
        "nhc_oif": 4 => nhc_oif,
        "nhc_gw_family": 1 => nhc_gw_family,
        "nhc_flags": 1 => nhc_flags,
        "nhc_gw": 16 => nhc_gw,
        "nhc_weight": 4 => nhc_weight,
    }
    Route: "nexthop" {
        "id": 4 => nexthop_id,
        "is_group": 1 => nexthop_is_group,
        "nh_info": 8 => nexthop_info,
    }
    Route6: "fib6_info" {
        "fib6_table": 8 => f6i_table,
        "fib6_nsiblings": 4 => f6i_nsiblings,
        "fib6_dst.addr": 16 => f6i_dst,
        "fib6_dst.plen": 4 => f6i_plen,
        "fib6_metric": 4 => f6i_metric,
        "fib6_protocol": 1 => f6i_protocol,
        "fib6_type": 1 => f6i_type,
        "nh": 8 => f6i_object,
    }
    Route6: "fib6_table" {
        "tb6_id": 4 => tb6_id,
    }
    Route6: "nl_info" {
        "nl_net": 8 => nl_net,
        "nlh": 8 => nl_header,
    }
    Route6: "nlmsghdr" {
        "nlmsg_flags": 2 => nlmsg_flags,
    }
};

/// What the probe of dropped packets reads.
const OF_PACKETS: &[Wanted] = wanted! {
    Packet: "net" {
        "ns.inum": 4 => net_ns_inum,
    }
    Packet: "sk_buff" {
        "dev": 8 => skb_dev,
        "head": 8 => skb_head,
        "protocol": 2 => skb_protocol,
        "network_header": 2 => skb_network_header,
    }
    Packet: "net_device" {
        "nd_net.net": 8 => dev_net,
    }
};

/// Reads the layout of the kernel that `btf` describes.
pub fn read(btf: &Btf) -> Found {
    let mut found = Found::default();
    let all = OF_SESSIONS.iter().chain(OF_ROUTES).chain(OF_PACKETS);
    for Wanted(need, structure, path, size, slot) in all {
        match btf.member(structure, path) {
            Ok(member) if member.size == *size => *slot(&mut found.layout) = member.offset,
            Ok(member) => found.missing.push((
                *need,
                format!(
                    "{structure}.{path} has {} bytes on this kernel, expected {size}",
                    member.size
                ),
            )),
            Err(reason) => found.missing.push((*need, reason.to_string())),
        }
    }
    read_reasons(btf, &mut found);
    read_protocol(btf, &mut found);
    read_ipv6(btf, &mut found);
    read_hops(btf, &mut found);
    found.layout.has_socket_cookie = u32::from(
        btf.has_function("bpf_get_socket_ptr_cookie")
            .unwrap_or(false),
    );
    found.layout.oom_has_task = u32::from(
        btf.tracepoint("mark_victim")
            .is_ok_and(|arguments| arguments.first() == Some(&Argument::Pointer)),
    );
    found
}

/// Reasons differ in number from kernel to kernel. Those that most losses give must be there.
fn read_reasons(btf: &Btf, found: &mut Found) {
    for (slot, (name, _, needed)) in found.reasons.iter_mut().zip(REASONS) {
        match btf.enum_value("skb_drop_reason", &format!("SKB_DROP_REASON_{name}")) {
            Ok(number) => *slot = number,
            Err(reason) => {
                *slot = u32::MAX;
                if needed {
                    let why = format!("{reason} (Linux has all of them since 5.19)");
                    found.missing.push((Need::Packet, why));
                }
            }
        }
    }
}

/// `sk_protocol` has been a plain u8, a bit field, and a u16 since 5.6.
fn read_protocol(btf: &Btf, found: &mut Found) {
    match btf.member("sock", "sk_protocol") {
        Ok(member) if member.size <= 2 => {
            found.layout.sk_protocol = member.offset;
            found.layout.sk_protocol_width = member.size;
        }
        Ok(_) => found
            .missing
            .push((Need::Socket, "sock.sk_protocol is too wide".to_owned())),
        Err(reason) => found.missing.push((Need::Socket, reason.to_string())),
    }
}

/// A kernel built without IPv6 has no such members, and no socket that needs them.
fn read_ipv6(btf: &Btf, found: &mut Found) {
    let (local, remote) = (
        btf.member("sock_common", "skc_v6_rcv_saddr"),
        btf.member("sock_common", "skc_v6_daddr"),
    );
    if let (Ok(local), Ok(remote)) = (local, remote) {
        found.layout.skc_v6_rcv_saddr = local.offset;
        found.layout.skc_v6_daddr = remote.offset;
    }
}

/// Where hops begin, how large one is, and what has been renamed.
fn read_hops(btf: &Btf, found: &mut Found) {
    let mut place = |need, asked: Result<u32, BtfError>, slot: Slot| match asked {
        Ok(value) => *slot(&mut found.layout) = value,
        Err(reason) => found.missing.push((need, reason.to_string())),
    };
    let offset = |structure, member| btf.offset(structure, member);
    let either = |structure, new, old| offset(structure, new).or_else(|_| offset(structure, old));
    place(Need::Route, offset("fib_info", "fib_nh"), |l| &mut l.fib_nh);
    place(Need::Route, btf.size_of("fib_nh"), |l| &mut l.fib_nh_size);
    place(Need::Route, offset("nh_info", "fib_nhc"), |l| {
        &mut l.nh_info_common
    });
    place(
        Need::Route,
        either("fib_config", "fc_dscp", "fc_tos"),
        |l| &mut l.fc_tos,
    );
    place(Need::Route, either("fib_alias", "fa_dscp", "fa_tos"), |l| {
        &mut l.fa_tos
    });
    place(Need::Route6, offset("fib6_info", "fib6_nh"), |l| {
        &mut l.f6i_nh
    });
    // Where a kernel counts in another way, a namespace's end is not told from its devices' end.
    found.layout.net_ns_count = either("net", "ns.count", "count").unwrap_or(0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_member_only_disables_the_probes_that_need_it() {
        let found = Found {
            missing: vec![(Need::ExitCode, "no exit code".to_owned())],
            ..Found::default()
        };
        assert_eq!(
            found.missing(&[Need::Task, Need::ExitCode]),
            Some("no exit code")
        );
        assert_eq!(found.missing(&[Need::Task]), None);
    }

    #[test]
    fn the_running_kernel_has_everything() {
        let Ok(btf) = Btf::read(std::path::Path::new("/sys/kernel/btf/vmlinux")) else {
            println!("skipped: this kernel shows no BTF");
            return;
        };
        let found = read(&btf);
        assert_eq!(found.missing, []);
        assert_ne!(found.layout.skc_dport, found.layout.skc_num);
    }
}
