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
    layout::{layout, read},
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

/// `TRACE_SIGNAL_IGNORED`: the target ignores it.
const RESULT_IGNORED: i32 = 1;
/// `SEND_SIG_NOINFO`: no siginfo, sent by the running process.
const INFO_FROM_CURRENT: u64 = 0;
/// `SEND_SIG_PRIV`, and `SEND_SIG_FORCED` before 4.20: no siginfo, sent by the kernel.
const INFO_SPECIAL_MAX: u64 = 2;

const SI_USER: i32 = 0;
const SI_QUEUE: i32 = -1;
const SI_TKILL: i32 = -6;
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
    let code = si_code(&ctx);
    let sender = if code == SI_USER || code == SI_QUEUE || code == SI_TKILL {
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

#[inline(always)]
fn si_code(ctx: &BtfTracePointContext) -> i32 {
    match ctx.arg::<u64>(1) {
        INFO_FROM_CURRENT => SI_USER,
        1..=INFO_SPECIAL_MAX => SI_KERNEL,
        // SAFETY: past the special values this is a `struct kernel_siginfo *`.
        _ => unsafe { read(ctx.arg::<*const u8>(1), layout!(si_code)) },
    }
}
