//! What the kernel programs must know of the running kernel, read from its BTF. What is missing is
//! kept with its reason, so that only the probes that need it stay off.

use observer_abi::KernelLayout;

use crate::source::btf::{Argument, Btf};

/// A set of things that probes need together.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Need {
    /// To filter and describe a TCP socket.
    Socket,
    /// To tell which process a task is, and its name.
    Task,
    /// To tell how a task ended.
    ExitCode,
    /// To tell who sent a signal.
    SignalCode,
}

/// The layout, and what of it could not be found.
#[derive(Debug, Default)]
pub struct Found {
    /// Zero where something is missing.
    pub layout: KernelLayout,
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

const WANTED: &[Wanted] = &[
    Wanted(Need::Socket, "sock_common", "skc_family", 2, |l| {
        &mut l.skc_family
    }),
    Wanted(Need::Socket, "sock_common", "skc_num", 2, |l| {
        &mut l.skc_num
    }),
    Wanted(Need::Socket, "sock_common", "skc_dport", 2, |l| {
        &mut l.skc_dport
    }),
    Wanted(Need::Socket, "sock_common", "skc_rcv_saddr", 4, |l| {
        &mut l.skc_rcv_saddr
    }),
    Wanted(Need::Socket, "sock_common", "skc_daddr", 4, |l| {
        &mut l.skc_daddr
    }),
    Wanted(Need::Socket, "sock_common", "skc_net.net", 8, |l| {
        &mut l.skc_net
    }),
    Wanted(Need::Socket, "sock_common", "skc_bound_dev_if", 4, |l| {
        &mut l.skc_bound_dev_if
    }),
    Wanted(Need::Socket, "sock_common", "skc_state", 1, |l| {
        &mut l.skc_state
    }),
    Wanted(Need::Socket, "sock", "sk_err", 4, |l| &mut l.sk_err),
    Wanted(Need::Socket, "net", "ns.inum", 4, |l| &mut l.net_ns_inum),
    Wanted(Need::Socket, "inet_sock", "inet_sport", 2, |l| {
        &mut l.inet_sport
    }),
    Wanted(Need::Socket, "tcp_sock", "bytes_received", 8, |l| {
        &mut l.bytes_received
    }),
    Wanted(Need::Socket, "tcp_sock", "bytes_acked", 8, |l| {
        &mut l.bytes_acked
    }),
    Wanted(Need::Socket, "tcp_sock", "srtt_us", 4, |l| &mut l.srtt_us),
    Wanted(Need::Socket, "tcp_sock", "total_retrans", 4, |l| {
        &mut l.total_retrans
    }),
    Wanted(
        Need::Socket,
        "inet_connection_sock",
        "icsk_retransmits",
        1,
        |l| &mut l.icsk_retransmits,
    ),
    Wanted(Need::Task, "task_struct", "pid", 4, |l| &mut l.task_pid),
    Wanted(Need::Task, "task_struct", "tgid", 4, |l| &mut l.task_tgid),
    Wanted(Need::Task, "task_struct", "comm", 16, |l| &mut l.task_comm),
    Wanted(Need::ExitCode, "task_struct", "exit_code", 4, |l| {
        &mut l.task_exit_code
    }),
    Wanted(Need::SignalCode, "kernel_siginfo", "si_code", 4, |l| {
        &mut l.si_code
    }),
];

/// Reads the layout of the kernel that `btf` describes.
pub fn read(btf: &Btf) -> Found {
    let mut found = Found::default();
    for Wanted(need, structure, path, size, slot) in WANTED {
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
    read_protocol(btf, &mut found);
    read_ipv6(btf, &mut found);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_member_only_disables_the_probes_that_need_it() {
        let found = Found {
            layout: KernelLayout::default(),
            missing: vec![(Need::ExitCode, "no exit code".to_owned())],
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
