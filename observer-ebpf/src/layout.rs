// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! The constants the agent sets before loading, and reads at the offsets they name.
//!
//! The section is frozen before the verifier runs, so it sees constants: a branch on
//! `LAYOUT.has_socket_cookie` that is not taken is never verified, which lets one object serve
//! kernels without that helper.

use core::{cell::UnsafeCell, mem::MaybeUninit};

use aya_ebpf::helpers::generated::bpf_probe_read_kernel;
use observer_abi::{DROP_REASONS, KernelLayout, MAX_PORTS, MAX_TABLES};

/// Where the running kernel keeps what is read. Uninitialised for the compiler, so that it cannot
/// fold the reads; zeros in the object.
#[unsafe(no_mangle)]
pub static LAYOUT: MaybeUninit<KernelLayout> = MaybeUninit::zeroed();

/// The BGP ports, 0 where unused.
#[unsafe(no_mangle)]
pub static PORTS: MaybeUninit<[u16; MAX_PORTS]> = MaybeUninit::zeroed();

/// A bit for each routing protocol whose routes are wanted.
#[unsafe(no_mangle)]
pub static PROTOCOLS: MaybeUninit<[u32; 8]> = MaybeUninit::zeroed();

/// The routing tables whose routes are wanted; the first is 0 where all are.
#[unsafe(no_mangle)]
pub static TABLES: MaybeUninit<[u32; MAX_TABLES]> = MaybeUninit::zeroed();

/// The running kernel's numbers of the drop reasons that are counted; `u32::MAX` where unused.
#[unsafe(no_mangle)]
pub static REASONS: MaybeUninit<[u32; DROP_REASONS]> = MaybeUninit::zeroed();

/// A word that the agent writes while the programs run.
#[repr(transparent)]
pub struct Flag(UnsafeCell<u32>);

// SAFETY: this side only reads it, and any value it may be in the middle of is as good as another.
unsafe impl Sync for Flag {}

impl Flag {
    /// Whether it is set.
    #[inline(always)]
    pub fn is_set(&self) -> bool {
        // SAFETY: an aligned u32; volatile because the agent writes it.
        unsafe { self.0.get().read_volatile() != 0 }
    }
}

/// Whether any prefix is watched. The only variable that is not constant while the programs run, so
/// the object's `.bss` is this word.
#[unsafe(no_mangle)]
pub static WATCHING: Flag = Flag(UnsafeCell::new(0));

/// The value of one field of [`LAYOUT`].
macro_rules! layout {
    ($field:ident) => {
        $crate::layout::value(core::mem::offset_of!(observer_abi::KernelLayout, $field))
    };
}
pub(crate) use layout;

/// The value at `at` bytes into [`LAYOUT`]; through [`layout!`] only, which knows the offsets.
#[inline(always)]
pub fn value(at: usize) -> u32 {
    // SAFETY: `KernelLayout` is all u32, so `at` is that of an aligned one; volatile because the
    // value is the loader's, not the compiler's.
    unsafe { LAYOUT.as_ptr().byte_add(at).cast::<u32>().read_volatile() }
}

/// Reads a `T` at `offset` of the kernel object at `base`.
///
/// # Safety
/// `base` must be a pointer the verifier knows the kernel type of, and `offset` that of a member of
/// at least `T`'s size. The kernel turns a load from a bad address into zeros.
#[inline(always)]
pub unsafe fn read<T: Copy>(base: *const u8, offset: u32) -> T {
    // SAFETY: the caller's promise; the verifier refuses the program where it is not kept.
    unsafe { base.add(offset as usize).cast::<T>().read_volatile() }
}

/// How a program may look into the kernel's structs.
pub trait Access {
    /// Reads a `T` at `offset` of the kernel object at `base`.
    ///
    /// # Safety
    /// `offset` must be that of a member of at least `T`'s size, and `base` what the access allows.
    unsafe fn read<T: Copy>(base: *const u8, offset: u32) -> T;
}

/// By plain loads, through pointers whose type the verifier knows: where functions can be traced.
pub enum Typed {}

impl Access for Typed {
    #[inline(always)]
    unsafe fn read<T: Copy>(base: *const u8, offset: u32) -> T {
        // SAFETY: the caller's promise.
        unsafe { read(base, offset) }
    }
}

/// By a helper, from any address: a kprobe's arguments are mere numbers.
pub enum Untyped {}

impl Access for Untyped {
    #[inline(always)]
    unsafe fn read<T: Copy>(base: *const u8, offset: u32) -> T {
        let mut value = MaybeUninit::<T>::uninit();
        // SAFETY: the helper fills all of `value`, with zeros where it cannot read; `T` is made of
        // integers and pointers that are not followed.
        unsafe {
            let from = base.add(offset as usize);
            let _ = bpf_probe_read_kernel(
                value.as_mut_ptr().cast(),
                size_of::<T>() as u32,
                from.cast(),
            );
            value.assume_init()
        }
    }
}
