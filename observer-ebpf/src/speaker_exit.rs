// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! `sched:sched_process_exit(task[, group_dead])`: a thread ended. It fires before the kernel closes
//! the files, so a speaker's end comes before that of its sockets.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use observer_abi::KIND_SPEAKER_EXIT;

use crate::{
    layout::{layout, read},
    maps::SPEAKERS,
    process::{Comm, Fate, Task, report, speaker_netns, tgid},
};

#[btf_tracepoint(function = "sched_process_exit")]
pub fn speaker_exit(ctx: BtfTracePointContext) -> i32 {
    let task = ctx.arg::<*const Task>(0).cast::<u8>();
    let pid = tgid(task);
    let Some(netns_id) = speaker_netns(pid) else {
        return 0;
    };
    // SAFETY: `task` is a `task_struct`.
    let (thread, status) = unsafe {
        (
            read::<u32>(task, layout!(task_pid)),
            read(task, layout!(task_exit_code)),
        )
    };
    // Only the leader's exit code is the process's.
    if thread != pid {
        return 0;
    }
    report(
        netns_id,
        &Fate {
            kind: KIND_SPEAKER_EXIT,
            pid,
            status,
            code: 0,
            sender: None,
            comm: Comm::Task(task),
        },
    );
    let _ = SPEAKERS.remove(pid);
    0
}
