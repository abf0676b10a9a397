//! Segments of the sockets in a cgroup: the programs that copy them are loaded with the others and
//! attached cgroup by cgroup, as speakers are found. That needs `CAP_NET_ADMIN` and no other
//! capability.

use std::{
    fmt,
    fs::File,
    os::fd::{AsFd, BorrowedFd},
};

use aya::{
    Ebpf,
    maps::{MapData, MapError, RingBuf},
    programs::{
        CgroupAttachMode, CgroupSkb, CgroupSkbAttachType, ProgramError, cgroup_skb::CgroupSkbLink,
    },
    sys::SyscallError,
};
use observer_abi::SegmentHead;
use zerocopy::FromBytes;

use super::{
    KernelSource,
    probes::{explain, explain_load},
};

/// How it is attached, as the `kind` label.
pub const KIND: &str = "cgroup_skb";

const PROGRAMS: [(&str, CgroupSkbAttachType); 2] = [
    ("segment_received", CgroupSkbAttachType::Ingress),
    ("segment_sent", CgroupSkbAttachType::Egress),
];

/// What waits in the ring is taken in portions, like the packet sockets' packets.
const DRAIN_RECORDS: usize = 1024;
const DRAIN_OCTETS: usize = 4 << 20;

/// Both programs on one cgroup. They detach when it is dropped, or this process ends.
#[derive(Debug)]
pub struct Attachment {
    _links: [CgroupSkbLink; 2],
}

/// A segment's record.
#[derive(Clone, Copy, Debug)]
pub struct Copied<'a> {
    /// What the kernel says about it.
    pub head: SegmentHead,
    /// The packet as far as it was copied, from its network header on.
    pub packet: &'a [u8],
}

/// The records of all cgroups.
pub struct SegmentRing(RingBuf<MapData>);

impl fmt::Debug for SegmentRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SegmentRing").finish_non_exhaustive()
    }
}

/// Loads the programs; why they do not, if they do not.
pub(super) fn load(programs: &mut Ebpf) -> Result<(), String> {
    for (name, _) in PROGRAMS {
        let program: &mut CgroupSkb = find(programs, name)?;
        program.load().map_err(|error| explain_load(&error))?;
    }
    Ok(())
}

/// Takes the ring out of the object.
pub(super) fn ring(programs: &mut Ebpf) -> Result<SegmentRing, MapError> {
    let map = programs.take_map("SEGMENTS");
    let map = map.ok_or_else(|| MapError::InvalidName {
        name: "SEGMENTS".to_owned(),
    })?;
    Ok(SegmentRing(RingBuf::try_from(map)?))
}

fn find<'a>(programs: &'a mut Ebpf, name: &str) -> Result<&'a mut CgroupSkb, String> {
    let program = programs.program_mut(name);
    let program =
        program.ok_or("the embedded object lacks this program: the agent was built wrongly")?;
    program
        .try_into()
        .map_err(|error: ProgramError| error.to_string())
}

impl KernelSource {
    /// Whether the programs can be attached to cgroups; why not, if not.
    ///
    /// # Errors
    /// In an operator's words.
    pub fn copies_segments(&self) -> Result<(), &str> {
        self.segments.as_ref().map(drop).map_err(String::as_str)
    }

    /// The ring, once: for whoever reads it from now on.
    pub fn take_segments(&mut self) -> Option<SegmentRing> {
        self.segments.as_mut().ok().and_then(Option::take)
    }

    /// Copies the BGP segments of sockets made in `cgroup` or below it.
    ///
    /// # Errors
    /// In an operator's words.
    pub fn tap_cgroup(&mut self, cgroup: &File) -> Result<Attachment, String> {
        self.copies_segments()?;
        let mut attach = |(name, way): (&str, CgroupSkbAttachType)| {
            let program = find(&mut self.programs, name)?;
            // No flag: a link always stands beside others, and the kernel refuses to be told so.
            let link = program
                .attach(cgroup, way, CgroupAttachMode::Single)
                .and_then(|id| program.take_link(id));
            link.map_err(|error| explain_attach(&error))
        };
        let [received, sent] = PROGRAMS;
        Ok(Attachment {
            _links: [attach(received)?, attach(sent)?],
        })
    }
}

impl SegmentRing {
    /// Hands over what waits; true where there is more. Then how many records made no sense.
    pub fn drain(&mut self, mut take: impl FnMut(Copied<'_>)) -> (bool, u64) {
        let (mut octets, mut senseless) = (0, 0);
        for _ in 0..DRAIN_RECORDS {
            let Some(record) = self.0.next() else {
                return (false, senseless);
            };
            octets += record.len();
            match copied(&record) {
                Some(segment) => take(segment),
                None => senseless += 1,
            }
            if octets >= DRAIN_OCTETS {
                break;
            }
        }
        (true, senseless)
    }
}

impl AsFd for SegmentRing {
    /// Readable while records wait.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Attaching needs another capability than loading.
fn explain_attach(error: &ProgramError) -> String {
    if let ProgramError::SyscallError(SyscallError { io_error, .. }) = error
        && io_error.raw_os_error() == Some(libc::EPERM)
    {
        return "no program may be attached to the speaker's cgroup (EPERM): run with CAP_NET_ADMIN; a \
                program that allows no other beside it has the same effect"
            .to_owned();
    }
    explain(error)
}

fn copied(record: &[u8]) -> Option<Copied<'_>> {
    let (head, room) = SegmentHead::read_from_prefix(record).ok()?;
    let captured = usize::try_from(head.captured).ok()?;
    let packet = room.get(..captured)?;
    Some(Copied { head, packet })
}
