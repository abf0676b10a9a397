//! What could stand in the tap's place: a `cgroup_skb` program on the speaker's cgroup, which only
//! packets of sockets in that cgroup pass. Written out here, since nothing but this comparison needs
//! it; it looks for port 179 as the tap's filter does, and counts.

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use anyhow::{Context as _, Result};
use observer_tests::cgroup::Group;

/// Commands of bpf(2).
const MAP_CREATE: u32 = 0;
const MAP_LOOKUP_ELEM: u32 = 1;
const PROG_LOAD: u32 = 5;
const PROG_ATTACH: u32 = 8;
const PROG_DETACH: u32 = 9;

const MAP_TYPE_ARRAY: u32 = 2;
const PROG_TYPE_CGROUP_SKB: u32 = 8;
/// Beside programs that others have there (`BPF_F_ALLOW_MULTI`).
const BESIDE_OTHERS: u32 = 2;

/// Which packets: `BPF_CGROUP_INET_INGRESS` and `BPF_CGROUP_INET_EGRESS`.
#[derive(Clone, Copy, Debug)]
pub enum Way {
    In = 0,
    Out = 1,
}

/// An attached program. Dropping it detaches it.
#[derive(Debug)]
pub struct Scoped {
    group: File,
    program: OwnedFd,
    counter: OwnedFd,
    way: Way,
}

impl Scoped {
    /// On the sockets of `group`.
    pub fn attach(group: &Group, way: Way) -> Result<Self> {
        let folder = group.folder();
        let group = File::open(folder).with_context(|| folder.display().to_string())?;
        let counter = create_counter().context("no array for a counter")?;
        let program = load(&counter, way).context("cgroup_skb does not load")?;
        let scoped = Self {
            group,
            program,
            counter,
            way,
        };
        scoped.attachment(PROG_ATTACH).context("does not attach")?;
        Ok(scoped)
    }

    /// Packets from or to port 179 so far.
    pub fn counted(&self) -> Result<u64> {
        let (key, mut value) = (0_u32, 0_u64);
        let mut attributes = Attributes::default();
        attributes.u32(0, descriptor(&self.counter));
        attributes.address(8, &raw const key);
        attributes.address(16, &raw mut value);
        attributes.call(MAP_LOOKUP_ELEM)?;
        Ok(value)
    }

    fn attachment(&self, command: u32) -> io::Result<()> {
        let mut attributes = Attributes::default();
        attributes.u32(0, descriptor(&self.group));
        attributes.u32(4, descriptor(&self.program));
        attributes.u32(8, self.way as u32);
        if command == PROG_ATTACH {
            attributes.u32(12, BESIDE_OTHERS);
        }
        attributes.call(command).map(drop)
    }
}

impl Drop for Scoped {
    fn drop(&mut self) {
        let _ = self.attachment(PROG_DETACH);
    }
}

fn descriptor(of: &impl AsRawFd) -> u32 {
    of.as_raw_fd().cast_unsigned()
}

/// `union bpf_attr` (include/uapi/linux/bpf.h), filled by offset.
struct Attributes([u8; 128]);

impl Default for Attributes {
    fn default() -> Self {
        Self([0; 128])
    }
}

impl Attributes {
    fn put(&mut self, at: usize, octets: &[u8]) {
        if let Some(place) = self.0.get_mut(at..at + octets.len()) {
            place.copy_from_slice(octets);
        }
    }

    fn u32(&mut self, at: usize, value: u32) {
        self.put(at, &value.to_ne_bytes());
    }

    fn address<T>(&mut self, at: usize, of: *const T) {
        self.put(at, &of.expose_provenance().to_ne_bytes());
    }

    /// Every address in it must be one that the kernel may use so until this returns.
    fn call(&mut self, command: u32) -> io::Result<i32> {
        // SAFETY: the kernel reads the attributes, and what their addresses lead to, all of which
        // the caller holds; it writes only the value of a lookup.
        let done =
            unsafe { libc::syscall(libc::SYS_bpf, command, self.0.as_mut_ptr(), self.0.len()) };
        match i32::try_from(done) {
            Ok(done) if done >= 0 => Ok(done),
            Ok(_) | Err(_) => Err(io::Error::last_os_error()),
        }
    }

    fn open(&mut self, command: u32) -> io::Result<OwnedFd> {
        let descriptor = self.call(command)?;
        // SAFETY: the kernel has just opened it for us.
        Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
    }
}

/// One `u64`.
fn create_counter() -> io::Result<OwnedFd> {
    let mut attributes = Attributes::default();
    for (at, value) in [(0, MAP_TYPE_ARRAY), (4, 4), (8, 8), (12, 1)] {
        attributes.u32(at, value);
    }
    attributes.open(MAP_CREATE)
}

fn load(counter: &OwnedFd, way: Way) -> io::Result<OwnedFd> {
    let program = assemble(counter.as_raw_fd());
    let licence = c"Apache-2.0";
    let mut attributes = Attributes::default();
    attributes.u32(0, PROG_TYPE_CGROUP_SKB);
    attributes.u32(4, u32::try_from(program.len()).unwrap_or(0));
    attributes.address(8, program.as_ptr());
    attributes.address(16, licence.as_ptr());
    // `expected_attach_type`.
    attributes.u32(68, way as u32);
    attributes.open(PROG_LOAD)
}

/// `struct bpf_insn`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct Instruction {
    code: u8,
    /// Destination in the low half, source in the high.
    registers: u8,
    offset: i16,
    value: i32,
}

/// An instruction, or a place to jump to.
enum Step {
    Do(u8, u8, u8, i16, i32),
    /// The same, with the name of a place for an offset.
    Jump(u8, u8, u8, &'static str, i32),
    Place(&'static str),
}

/// Codes (Documentation/bpf/standardization/instruction-set.rst).
mod code {
    pub const LOAD_OCTET: u8 = 0x71;
    pub const LOAD_HALF: u8 = 0x69;
    pub const LOAD_WORD: u8 = 0x61;
    pub const LOAD_MAP: u8 = 0x18;
    pub const STORE_WORD: u8 = 0x62;
    pub const ATOMIC_ADD: u8 = 0xdb;
    pub const COPY: u8 = 0xbf;
    pub const SET: u8 = 0xb7;
    pub const ADD: u8 = 0x07;
    pub const ADD_REGISTER: u8 = 0x0f;
    pub const AND: u8 = 0x57;
    pub const SHIFT_LEFT: u8 = 0x67;
    pub const SHIFT_RIGHT: u8 = 0x77;
    pub const JUMP: u8 = 0x05;
    pub const JUMP_IF_EQUAL: u8 = 0x15;
    pub const JUMP_UNLESS_EQUAL: u8 = 0x55;
    pub const JUMP_IF_GREATER: u8 = 0x2d;
    pub const CALL: u8 = 0x85;
    pub const EXIT: u8 = 0x95;
}

/// TCP with port 179 at either end adds one to the counter; every packet passes.
fn assemble(counter: i32) -> Vec<Instruction> {
    use Step::{Do, Jump, Place};
    const TCP: i32 = 6;
    let bgp = i32::from(179_u16.to_be());
    let steps = [
        // `__sk_buff`: data and data_end; data begins with the network header.
        Do(code::LOAD_WORD, 2, 1, 76, 0),
        Do(code::LOAD_WORD, 3, 1, 80, 0),
        Do(code::COPY, 4, 2, 0, 0),
        Do(code::ADD, 4, 0, 0, 20),
        Jump(code::JUMP_IF_GREATER, 4, 3, "pass", 0),
        Do(code::LOAD_OCTET, 5, 2, 0, 0),
        Do(code::COPY, 6, 5, 0, 0),
        Do(code::SHIFT_RIGHT, 6, 0, 0, 4),
        Jump(code::JUMP_IF_EQUAL, 6, 0, "IPv6", 6),
        Do(code::LOAD_OCTET, 6, 2, 9, 0),
        Jump(code::JUMP_UNLESS_EQUAL, 6, 0, "pass", TCP),
        Do(code::AND, 5, 0, 0, 0xf),
        Do(code::SHIFT_LEFT, 5, 0, 0, 2),
        Do(code::ADD_REGISTER, 2, 5, 0, 0),
        Jump(code::JUMP, 0, 0, "ports", 0),
        Place("IPv6"),
        Do(code::LOAD_OCTET, 6, 2, 6, 0),
        Jump(code::JUMP_UNLESS_EQUAL, 6, 0, "pass", TCP),
        Do(code::ADD, 2, 0, 0, 40),
        Place("ports"),
        Do(code::COPY, 4, 2, 0, 0),
        Do(code::ADD, 4, 0, 0, 4),
        Jump(code::JUMP_IF_GREATER, 4, 3, "pass", 0),
        Do(code::LOAD_HALF, 6, 2, 0, 0),
        Jump(code::JUMP_IF_EQUAL, 6, 0, "BGP", bgp),
        Do(code::LOAD_HALF, 6, 2, 2, 0),
        Jump(code::JUMP_UNLESS_EQUAL, 6, 0, "pass", bgp),
        Place("BGP"),
        Do(code::STORE_WORD, 10, 0, -4, 0),
        Do(code::COPY, 2, 10, 0, 0),
        Do(code::ADD, 2, 0, 0, -4),
        // Two instructions long; source 1 says that the value is a map's descriptor.
        Do(code::LOAD_MAP, 1, 1, 0, counter),
        Do(0, 0, 0, 0, 0),
        // `bpf_map_lookup_elem`
        Do(code::CALL, 0, 0, 0, 1),
        Jump(code::JUMP_IF_EQUAL, 0, 0, "pass", 0),
        Do(code::SET, 1, 0, 0, 1),
        Do(code::ATOMIC_ADD, 0, 1, 0, 0),
        Place("pass"),
        Do(code::SET, 0, 0, 0, 1),
        Do(code::EXIT, 0, 0, 0, 0),
    ];
    let length_before = |end: usize| {
        let before = steps.iter().take(end);
        let length = before.filter(|step| !matches!(step, Place(_))).count();
        i16::try_from(length).unwrap_or(0)
    };
    let place = |name: &str| {
        let at = steps
            .iter()
            .position(|step| matches!(step, Place(place) if *place == name));
        length_before(at.unwrap_or(0))
    };
    let instruction = |code, to: u8, from: u8, offset, value| Instruction {
        code,
        registers: to | from << 4,
        offset,
        value,
    };
    let all = steps.iter().enumerate();
    let all = all.filter_map(|(at, step)| match *step {
        Do(code, to, from, offset, value) => Some(instruction(code, to, from, offset, value)),
        Jump(code, to, from, name, value) => {
            let offset = place(name) - length_before(at) - 1;
            Some(instruction(code, to, from, offset, value))
        }
        Place(_) => None,
    });
    all.collect()
}
