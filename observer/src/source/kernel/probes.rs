//! The probes one by one: what each needs, whether it could be attached, and in an operator's words
//! why not.

use std::{
    fs, io,
    os::fd::{AsFd, AsRawFd},
};

use aya::{
    Btf, BtfError as AyaBtfError, Ebpf,
    programs::{BtfTracePoint, FEntry, FExit, KProbe, ProgramError},
};

use super::layout::{Found, Need};
use crate::privileges::missing_for_probes;

/// A probe, and how it fared.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ProbeStatus {
    /// Its name, as the `probe` label.
    pub name: &'static str,
    /// How it is attached: `tp_btf`, `fentry`, `fexit`, `kprobe`, `kretprobe`, or `off`.
    pub kind: &'static str,
    /// Whether it is.
    pub attached: bool,
    /// Why it is not.
    pub reason: Option<String>,
    /// What users lose without it.
    pub lost_without: &'static str,
}

/// One probe: a kernel program, by its name in the object, and where it is attached.
#[derive(Debug)]
pub struct Probe {
    name: &'static str,
    program: &'static str,
    hook: Hook,
    /// Of a return probe: the program at the function's entry, which notes its arguments.
    enter: Option<&'static str>,
    /// The kernel that brought the hook, where that is later than the oldest one supported.
    since: Option<&'static str>,
    needs: &'static [Need],
    lost_without: &'static str,
}

/// Where a program is attached.
#[derive(Clone, Copy, Debug)]
pub(super) enum Hook {
    Tracepoint(&'static str),
    Entry(&'static str),
    Exit(&'static str),
    Kprobe(&'static str),
    Kretprobe(&'static str),
}

impl Hook {
    const fn kind(self) -> &'static str {
        match self {
            Self::Tracepoint(_) => "tp_btf",
            Self::Entry(_) => "fentry",
            Self::Exit(_) => "fexit",
            Self::Kprobe(_) => "kprobe",
            Self::Kretprobe(_) => "kretprobe",
        }
    }

    /// As a person names it.
    fn words(self) -> String {
        match self {
            Self::Tracepoint(name) => format!("tracepoint {name}"),
            Self::Entry(name) | Self::Exit(name) | Self::Kprobe(name) | Self::Kretprobe(name) => {
                format!("function {name} to trace")
            }
        }
    }
}

/// The probes of sessions and processes. Those of processes come first: a speaker that is already gone when the TCP probes
/// come up would leave its sockets' end without a reason.
pub const PROBES: [Probe; 8] = [
    Probe {
        name: "speaker_exit",
        program: "speaker_exit",
        enter: None,
        hook: Hook::Tracepoint("sched_process_exit"),
        since: None,
        needs: &[Need::Task, Need::ExitCode],
        lost_without: "a local BGP speaker that ends looks like one that closed its sessions",
    },
    Probe {
        name: "speaker_signal",
        program: "speaker_signal",
        enter: None,
        hook: Hook::Tracepoint("signal_generate"),
        since: None,
        needs: &[Need::Task],
        lost_without: "who killed the local BGP speaker",
    },
    Probe {
        name: "speaker_oom",
        program: "speaker_oom",
        enter: None,
        hook: Hook::Tracepoint("mark_victim"),
        since: None,
        needs: &[Need::Task],
        lost_without: "a local BGP speaker killed for lack of memory looks like one killed by hand",
    },
    Probe {
        name: "tcp_state",
        program: "tcp_state",
        enter: None,
        hook: Hook::Tracepoint("inet_sock_set_state"),
        since: None,
        needs: &[Need::Socket],
        lost_without: "sessions are only seen by polling: short flaps are missed, times are rough",
    },
    Probe {
        name: "tcp_error",
        program: "tcp_error",
        enter: None,
        hook: Hook::Tracepoint("inet_sk_error_report"),
        since: Some("5.14"),
        needs: &[Need::Socket],
        lost_without: "why a connection failed: refused, timed out, no route",
    },
    Probe {
        name: "reset_received",
        program: "reset_received",
        enter: None,
        hook: Hook::Tracepoint("tcp_receive_reset"),
        since: None,
        needs: &[Need::Socket],
        lost_without: "whether the peer reset the connection",
    },
    Probe {
        name: "reset_sent",
        program: "reset_sent",
        enter: None,
        hook: Hook::Tracepoint("tcp_send_reset"),
        since: None,
        needs: &[Need::Socket],
        lost_without: "whether this node reset the connection",
    },
    Probe {
        name: "retransmit",
        program: "retransmit",
        enter: None,
        hook: Hook::Tracepoint("tcp_retransmit_skb"),
        since: None,
        needs: &[Need::Socket],
        lost_without: "retransmissions as they happen; totals still come from sock_diag",
    },
];

/// The probe of dropped packets. It is not among those whose misses count as lost events: what it
/// counts proves a loss by being there, and one more packet proves no more.
pub const DROP_PROBE: Probe = Probe {
    name: "packet_dropped",
    program: "packet_dropped",
    enter: None,
    hook: Hook::Tracepoint("kfree_skb"),
    since: None,
    needs: &[Need::Packet],
    lost_without: "proof by dropped packets: whether pods could be reached is told by probing alone",
};

impl Probe {
    /// A probe of routes.
    pub(super) const fn of_routes(
        name: &'static str,
        program: &'static str,
        hook: Hook,
        needs: &'static [Need],
    ) -> Self {
        Self {
            name,
            program,
            hook,
            enter: None,
            since: None,
            needs,
            lost_without: "exact times and writers of route changes; rtnetlink tells that they happened",
        }
    }

    /// The same with a program at the function's entry.
    pub(super) const fn after(mut self, enter: &'static str) -> Self {
        self.enter = Some(enter);
        self
    }

    /// Loads and attaches the probe. Each is on its own: one that fails leaves the others running.
    pub fn attach(&self, programs: &mut Ebpf, btf: &Btf, found: &Found) -> ProbeStatus {
        let attached = match found.missing(self.needs) {
            Some(reason) => Err(reason.to_owned()),
            None => self.load(programs, btf),
        };
        match attached {
            Ok(()) => self.on(),
            Err(reason) => self.off(reason),
        }
    }

    /// The status of a probe that runs.
    pub fn on(&self) -> ProbeStatus {
        ProbeStatus {
            name: self.name,
            kind: self.hook.kind(),
            attached: true,
            reason: None,
            lost_without: self.lost_without,
        }
    }

    /// The status of a probe that does not run.
    pub fn off(&self, reason: String) -> ProbeStatus {
        ProbeStatus {
            name: self.name,
            kind: "off",
            attached: false,
            reason: Some(reason),
            lost_without: self.lost_without,
        }
    }

    fn load(&self, programs: &mut Ebpf, btf: &Btf) -> Result<(), String> {
        self.load_one(programs, self.program, self.hook, btf)?;
        match (self.enter, self.hook) {
            (Some(enter), Hook::Kretprobe(name)) => {
                self.load_one(programs, enter, Hook::Kprobe(name), btf)
            }
            _ => Ok(()),
        }
    }

    fn load_one(
        &self,
        programs: &mut Ebpf,
        program: &str,
        hook: Hook,
        btf: &Btf,
    ) -> Result<(), String> {
        let program = programs
            .program_mut(program)
            .ok_or("the embedded object lacks this program: the agent was built wrongly")?;
        let done = match hook {
            Hook::Tracepoint(name) => <&mut BtfTracePoint>::try_from(program)
                .and_then(|it| it.load(name, btf).and_then(|()| it.attach()).map(drop)),
            Hook::Entry(name) => <&mut FEntry>::try_from(program)
                .and_then(|it| it.load(name, btf).and_then(|()| it.attach()).map(drop)),
            Hook::Exit(name) => <&mut FExit>::try_from(program)
                .and_then(|it| it.load(name, btf).and_then(|()| it.attach()).map(drop)),
            Hook::Kprobe(name) | Hook::Kretprobe(name) => <&mut KProbe>::try_from(program)
                .and_then(|it| it.load().and_then(|()| it.attach(name, 0)).map(drop)),
        };
        done.map_err(|error| self.explain(&error))
    }

    /// Detaches it and lets go of its programs.
    pub(super) fn unload(&self, programs: &mut Ebpf) {
        for name in std::iter::once(self.program).chain(self.enter) {
            let Some(program) = programs.program_mut(name) else {
                continue;
            };
            // An error says that it was not loaded.
            let _ = match self.hook {
                Hook::Tracepoint(_) => {
                    <&mut BtfTracePoint>::try_from(program).and_then(BtfTracePoint::unload)
                }
                Hook::Entry(_) => <&mut FEntry>::try_from(program).and_then(FEntry::unload),
                Hook::Exit(_) => <&mut FExit>::try_from(program).and_then(FExit::unload),
                Hook::Kprobe(_) | Hook::Kretprobe(_) => {
                    <&mut KProbe>::try_from(program).and_then(KProbe::unload)
                }
            };
        }
    }

    fn explain(&self, error: &ProgramError) -> String {
        if let ProgramError::Btf(AyaBtfError::UnknownBtfTypeName { .. }) = error {
            let since = self.since.map_or_else(String::new, |version| {
                format!(" (Linux has it since {version})")
            });
            return format!("this kernel has no {}{since}", self.hook.words());
        }
        explain_load(error)
    }
}

/// Why a program was not loaded, or not attached.
pub(super) fn explain_load(error: &ProgramError) -> String {
    let ProgramError::LoadError {
        io_error,
        verifier_log,
    } = error
    else {
        return explain(error);
    };
    refusal(io_error).unwrap_or_else(|| {
        let log = verifier_log.to_string();
        format!(
            "the kernel's verifier refused the program ({io_error}): {}",
            last_words(&log)
        )
    })
}

/// The line of a verifier's log that says what it refuses: the last but for the statistics.
fn last_words(log: &str) -> &str {
    let statistics = ["processed ", "verification time ", "stack depth "];
    log.lines()
        .rev()
        .find(|line| !line.is_empty() && !statistics.iter().any(|it| line.starts_with(it)))
        .unwrap_or("no reason given")
}

/// How often the kernel did not run one of `probes` although its hook fired, since the programs were
/// loaded. It skips a program that would interrupt itself: a softirq that changes a socket's state
/// in the middle of our program on the same CPU (`bpf_trace_run`, `recursion_misses` in the
/// program's fdinfo since 5.12).
pub fn misses<'a>(programs: &Ebpf, probes: impl Iterator<Item = &'a Probe>) -> u64 {
    let of = |probe: &Probe| -> Option<u64> {
        let program = programs.program(probe.program)?;
        let fd = program.fd().ok()?.as_fd().as_raw_fd();
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).ok()?;
        recursion_misses(&info)
    };
    probes.filter_map(of).sum()
}

fn recursion_misses(info: &str) -> Option<u64> {
    let count = info
        .lines()
        .find_map(|line| line.strip_prefix("recursion_misses:"))?;
    count.trim().parse().ok()
}

/// Any error of the loader, with the remedy where lack of privilege is at its root.
pub fn explain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut words = error.to_string();
    let mut cause = Some(error);
    while let Some(this) = cause {
        if let Some(refusal) = this.downcast_ref::<io::Error>().and_then(refusal) {
            return refusal;
        }
        cause = this.source();
        if let Some(next) = cause {
            let next = next.to_string();
            if !words.contains(&next) {
                words = format!("{words}: {next}");
            }
        }
    }
    words
}

fn refusal(error: &io::Error) -> Option<String> {
    match error.raw_os_error()? {
        libc::EPERM => Some(forbidden(&missing_for_probes())),
        libc::ENOSYS => Some("this kernel was built without BPF (CONFIG_BPF_SYSCALL)".to_owned()),
        _ => None,
    }
}

/// Why BPF is not allowed to a process that lacks these capabilities.
fn forbidden(missing: &[String]) -> String {
    if missing.is_empty() {
        "the kernel does not allow it (EPERM), although CAP_BPF and CAP_PERFMON are there: a \
         security policy (lockdown, seccomp, LSM) forbids BPF"
            .to_owned()
    } else {
        format!(
            "the kernel does not allow it (EPERM): {} missing (before Linux 5.8: CAP_SYS_ADMIN)",
            missing.join(" and ")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_verifier_refuses_is_told_and_not_its_statistics() {
        let log = "0: (79) r1 = *(u64 *)(r1 +8)\nR1 invalid mem access 'scalar'\n\
                   verification time 9 usec\nstack depth 24\nprocessed 7 insns\n";
        assert_eq!(last_words(log), "R1 invalid mem access 'scalar'");
        assert_eq!(last_words("processed 7 insns\n"), "no reason given");
    }

    #[test]
    fn the_kernels_own_misses_are_read_from_fdinfo() {
        let info = "pos:\t0\nprog_id:\t7\nrecursion_misses:\t12\nverified_insns:\t3\n";
        assert_eq!(recursion_misses(info), Some(12));
        assert_eq!(recursion_misses("pos:\t0\n"), None);
    }

    #[test]
    fn lack_of_privilege_is_said_with_its_remedy() {
        let error = io::Error::from_raw_os_error(libc::EPERM);
        assert!(explain(&error).contains("CAP_BPF"));
        let told = forbidden(&["CAP_PERFMON".to_owned()]);
        assert!(
            told.contains("CAP_PERFMON") && !told.contains("CAP_BPF"),
            "{told}"
        );
    }
}
