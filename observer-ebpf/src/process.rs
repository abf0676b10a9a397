// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! The local BGP speakers, and the record of what happens to them.

use core::ptr;

use aya_ebpf::helpers::bpf_ktime_get_boot_ns;
use observer_abi::{COUNTER_EVENTS_LOST, ProcessRecord};

use crate::{
    layout::{layout, read},
    maps::{EVENTS, SPEAKERS, count},
    socket::write_words,
};

/// `struct task_struct`, never looked into but by offset.
#[repr(C)]
pub struct Task {
    _opaque: [u8; 0],
}

/// What a probe knows of a speaker's fate.
pub struct Fate {
    pub kind: u32,
    pub pid: u32,
    pub status: i32,
    pub code: i32,
    pub sender: Option<u32>,
    pub comm: Comm,
}

/// Where the speaker's command name is.
pub enum Comm {
    /// In its `task_struct`.
    Task(*const u8),
    /// Nowhere in reach: the agent knows it.
    Unknown,
}

/// The namespace that process `pid` speaks BGP in, if it does.
#[inline(always)]
pub fn speaker_netns(pid: u32) -> Option<u32> {
    // SAFETY: a u32 that changes under us is still one of its two values.
    unsafe { SPEAKERS.get(pid) }.copied()
}

/// Thread group id of `task`.
#[inline(always)]
pub fn tgid(task: *const u8) -> u32 {
    // SAFETY: `task` is a `task_struct`.
    unsafe { read(task, layout!(task_tgid)) }
}

/// Copies a speaker's fate into the ring.
#[inline(always)]
pub fn report(netns_id: u32, fate: &Fate) {
    let Some(mut entry) = EVENTS.reserve::<ProcessRecord>(0) else {
        count(COUNTER_EVENTS_LOST);
        return;
    };
    let record = entry.as_mut_ptr();
    // SAFETY: `record` is a whole reserved ring entry; `comm` is 16 bytes at a multiple of four.
    unsafe {
        ptr::write(&raw mut (*record).kind, fate.kind);
        (*record).netns_id = netns_id;
        (*record).boot_nanos = bpf_ktime_get_boot_ns();
        (*record).pid = fate.pid;
        (*record).status = fate.status;
        (*record).sender_pid = fate.sender.unwrap_or(0);
        (*record).code = fate.code;
        let comm = match fate.comm {
            Comm::Task(task) => task_comm(task),
            Comm::Unknown => [0; 4],
        };
        write_words((&raw mut (*record).comm).cast(), comm);
        let sender: *mut u32 = (&raw mut (*record).sender_comm).cast();
        if fate.sender.is_none() || !current_comm(sender) {
            write_words(sender, [0; 4]);
        }
    }
    entry.submit(0);
}

/// Writes the running process's command name; false where the kernel would not.
///
/// # Safety
/// `to` must be valid for 16 bytes.
#[inline(always)]
pub unsafe fn current_comm(to: *mut u32) -> bool {
    // SAFETY: the caller's promise.
    let failed = unsafe {
        aya_ebpf::helpers::generated::bpf_get_current_comm(to.cast(), observer_abi::COMM_LEN as u32)
    };
    failed == 0
}

#[inline(always)]
fn task_comm(task: *const u8) -> [u32; 4] {
    let at = layout!(task_comm);
    // SAFETY: `task` is a `task_struct`, whose `comm` is 16 bytes.
    unsafe {
        [
            read(task, at),
            read(task, at + 4),
            read(task, at + 8),
            read(task, at + 12),
        ]
    }
}
