// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! The kernel programs of bgp-observer: one probe per file. They filter and copy; what a
//! fact means is decided in the agent.
//!
//! No offset of a kernel struct is compiled in: every read goes through [`layout`], which the agent
//! fills from the running kernel's BTF before it loads the programs. Kernel structs are read by
//! plain loads through the tracepoint's own typed pointers, which the verifier checks against the
//! same BTF and which cannot fault. No `bpf_probe_read*` is used but by `drop` and by the kprobes
//! (`Untyped`), so `lockdown=confidentiality` has nothing else to refuse.
//!
//! Nothing here may compile to a call of `memset` or `memcpy`: records are written field by field.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![expect(
    clippy::inline_always,
    reason = "a call would hide from the verifier what type a pointer has"
)]
#![expect(
    clippy::needless_pass_by_value,
    reason = "aya's macro hands the context over by value"
)]
#![expect(
    clippy::cast_possible_truncation,
    reason = "kernel arguments are narrower than the registers they come in"
)]
#![expect(
    clippy::cast_ptr_alignment,
    reason = "offsets are those of kernel members; byte arrays of the ABI lie at multiples of four"
)]

mod drop;
mod entered;
mod filter;
mod layout;
mod maps;
mod process;
mod reset_received;
mod reset_sent;
mod retransmit;
mod route;
mod route6;
mod route6_removed;
mod route6_written;
mod route_counted;
mod route_removed;
mod route_written;
mod segment;
mod socket;
mod speaker_exit;
mod speaker_oom;
mod speaker_signal;
mod tcp_error;
mod tcp_state;
mod watched;

/// The kernel lends most helpers used here only to programs whose licence is GPL-compatible.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
