// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! `signal:signal_generate(sig, info, task, group, result)`: a signal was sent to a speaker.
//!
//! Only signals that are meant to end a process. HUP, USR1, USR2, ALRM, PIPE and PROF are left out
//! although their default action is to terminate: speakers use them for other things (BIRD reloads
//! on HUP, dumps on USR1, keeps its watchdog with ALRM), and where one does end a speaker its exit
//! status says so.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use observer_abi::KIND_SPEAKER_SIGNAL;

use crate::{
    process::{Comm, Fate, Task, report, speaker_netns, tgid},
    socket::current_tgid,
};

/// INT, QUIT, ILL, TRAP, ABRT, BUS, FPE, KILL, SEGV, TERM, XCPU, XFSZ, SYS (x86 and arm numbers).
const ENDING: u64 = 1 << 2
    | 1 << 3
    | 1 << 4
    | 1 << 5
    | 1 << 6
    | 1 << 7
    | 1 << 8
    | 1 << 9
    | 1 << 11
    | 1 << 15
    | 1 << 24
    | 1 << 25
    | 1 << 31;

/// Those of them that a thread gets for what it did itself: ILL, TRAP, BUS, FPE, SEGV, SYS.
const FAULTS: u64 = 1 << 4 | 1 << 5 | 1 << 7 | 1 << 8 | 1 << 11 | 1 << 31;

/// `TRACE_SIGNAL_IGNORED`: the target ignores it.
const RESULT_IGNORED: i32 = 1;
/// `SEND_SIG_NOINFO`: no siginfo, sent by the running process.
const INFO_FROM_CURRENT: u64 = 0;
/// `SEND_SIG_PRIV`, and `SEND_SIG_FORCED` before 4.20: no siginfo, sent by the kernel.
const INFO_SPECIAL_MAX: u64 = 2;

const SI_USER: i32 = 0;
const SI_KERNEL: i32 = 0x80;

#[btf_tracepoint(function = "signal_generate")]
pub fn speaker_signal(ctx: BtfTracePointContext) -> i32 {
    let signal: i32 = ctx.arg(0);
    if !(1..64).contains(&signal) || ENDING & (1 << signal.cast_unsigned()) == 0 {
        return 0;
    }
    let task = ctx.arg::<*const Task>(2).cast::<u8>();
    let pid = tgid(task);
    let Some(netns_id) = speaker_netns(pid) else {
        return 0;
    };
    if ctx.arg::<i32>(4) == RESULT_IGNORED {
        return 0;
    }
    let code = si_code(&ctx, signal, pid);
    let sender = if code == SI_USER {
        Some(current_tgid())
    } else {
        None
    };
    report(
        netns_id,
        &Fate {
            kind: KIND_SPEAKER_SIGNAL,
            pid,
            status: signal,
            code,
            sender,
            comm: Comm::Task(task),
        },
    );
    0
}

/// The kind of sender. `si_code` would tell, but verifiers differ on whether the siginfo may be read:
/// Linux 6.12 takes it for a number, because it can be one of the special values. That it is none of
/// these tells nearly as much: it is then the siginfo of kill(2) and its kin, or of a fault that the
/// target made itself.
#[inline(always)]
fn si_code(ctx: &BtfTracePointContext, signal: i32, target: u32) -> i32 {
    match ctx.arg::<u64>(1) {
        INFO_FROM_CURRENT => SI_USER,
        1..=INFO_SPECIAL_MAX => SI_KERNEL,
        _ if FAULTS & (1 << signal.cast_unsigned()) != 0 && target == current_tgid() => SI_KERNEL,
        _ => SI_USER,
    }
}
