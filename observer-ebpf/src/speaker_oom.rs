// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! `oom:mark_victim(task, uid)`, before 6.9 `(pid)`: the OOM killer chose a speaker.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use observer_abi::KIND_SPEAKER_OOM;

use crate::{
    layout::layout,
    process::{Comm, Fate, Task, report, speaker_netns, tgid},
};

#[btf_tracepoint(function = "mark_victim")]
pub fn speaker_oom(ctx: BtfTracePointContext) -> i32 {
    let (pid, comm) = if layout!(oom_has_task) == 0 {
        (ctx.arg::<u32>(0), Comm::Unknown)
    } else {
        let task = ctx.arg::<*const Task>(0).cast::<u8>();
        (tgid(task), Comm::Task(task))
    };
    let Some(netns_id) = speaker_netns(pid) else {
        return 0;
    };
    report(
        netns_id,
        &Fate {
            kind: KIND_SPEAKER_OOM,
            pid,
            status: 0,
            code: 0,
            sender: None,
            comm,
        },
    );
    0
}
