//! The tap at the sockets themselves: programs on the cgroups of the local BGP speakers. Nobody else's
//! packets pass it.
//!
//! A cgroup stays tapped until it is removed: the next speaker that starts in it is heard from its
//! first segment on. It takes the place of a namespace's packet sockets once every local speaker of that
//! namespace has been heard by it.

use std::collections::{BTreeMap, BTreeSet};

use observer_core::event::NetnsId;

use crate::source::{
    cgroup::{self, Cgroup, CgroupError},
    kernel::{
        KernelSource,
        segments::{Attachment, Copied, SegmentRing},
    },
    netns::Netns,
    speakers::local_speakers,
};

/// All tapped cgroups, and whose they are.
#[derive(Debug)]
pub struct Scoped {
    ring: SegmentRing,
    /// By id; none contains another, for a segment would be seen by both.
    groups: BTreeMap<u64, Group>,
    nodes: BTreeMap<NetnsId, Speakers>,
}

#[derive(Debug)]
struct Group {
    cgroup: Cgroup,
    _attachment: Attachment,
}

/// The speakers of one namespace.
#[derive(Debug, Default)]
struct Speakers {
    /// Where each lives, by process; none while not known.
    homes: BTreeMap<u32, Option<Home>>,
    /// Cgroups of which a segment came.
    heard: BTreeSet<u64>,
}

#[derive(Debug)]
struct Home {
    membership: String,
    /// Its cgroup's id, or why that is not known: looking through all of them every few seconds would find
    /// no more.
    cgroup: Result<u64, String>,
}

/// How far the tap on cgroups does for a namespace.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Cover {
    /// Every local speaker is heard by it.
    Full,
    /// It is attached, and not everything that it is to see was seen yet.
    Unheard,
    /// There is no speaker whose sockets could be tapped.
    Idle,
    /// It cannot do, in words.
    None(String),
}

impl Scoped {
    /// On no cgroup yet.
    pub fn new(ring: SegmentRing) -> Self {
        Self {
            ring,
            groups: BTreeMap::new(),
            nodes: BTreeMap::new(),
        }
    }

    /// Process `pid` speaks BGP in `netns`; whether that is news.
    pub fn speaks(&mut self, netns: NetnsId, pid: u32) -> bool {
        let homes = &mut self.nodes.entry(netns).or_default().homes;
        let news = !homes.contains_key(&pid);
        homes.entry(pid).or_default();
        news
    }

    /// It has ended; whether that is news.
    pub fn ended(&mut self, netns: NetnsId, pid: u32) -> bool {
        let node = self.nodes.get_mut(&netns);
        node.is_some_and(|node| node.homes.remove(&pid).is_some())
    }

    /// Lets go of a namespace. Cgroups may be others' too: they stay until they are removed.
    pub fn end(&mut self, netns: NetnsId) {
        self.nodes.remove(&netns);
    }

    /// Lets go of cgroups that are gone.
    pub fn sweep(&mut self) {
        self.groups.retain(|_, group| group.cgroup.still_there());
        for node in self.nodes.values_mut() {
            node.heard.retain(|id| self.groups.contains_key(id));
        }
    }

    /// Taps the cgroups of a namespace's speakers, as far as that is not done, and says how far that
    /// does.
    pub fn cover(&mut self, netns: NetnsId, kernel: Option<&mut KernelSource>) -> Cover {
        let Some(kernel) = kernel else {
            return Cover::None("the kernel programs do not run".to_owned());
        };
        let node = self.nodes.entry(netns).or_default();
        let mut failure = None;
        let groups = &mut self.groups;
        node.homes
            .retain(|pid, home| match settle(*pid, home, groups, kernel) {
                Err(Unsettled::Ended) => false,
                Err(Unsettled::Why(reason)) => {
                    failure = Some(reason);
                    true
                }
                Ok(()) => true,
            });
        if let Some(reason) = failure {
            return Cover::None(reason);
        }
        if node.homes.is_empty() {
            return Cover::Idle;
        }
        let heard = |home: &Home| matches!(&home.cgroup, Ok(id) if node.heard.contains(id));
        if node.homes.values().flatten().all(heard) {
            Cover::Full
        } else {
            Cover::Unheard
        }
    }

    /// Hands over the segments that wait, with their namespace. Then whether more may be waiting, whether
    /// a cgroup was heard for the first time, and how many records made no sense.
    pub fn drain(&mut self, mut take: impl FnMut(NetnsId, Copied<'_>)) -> Drained {
        let (groups, nodes) = (&self.groups, &mut self.nodes);
        let mut news = false;
        let (more, senseless) = self.ring.drain(|segment| {
            let netns = NetnsId(segment.head.netns_id);
            if let Some(node) = nodes.get_mut(&netns)
                && groups.contains_key(&segment.head.cgroup)
            {
                news |= node.heard.insert(segment.head.cgroup);
            }
            take(netns, segment);
        });
        Drained {
            more,
            news,
            senseless,
        }
    }
}

/// Whether the tap would do for all local speakers of a namespace; nothing stays attached.
pub fn try_in(
    netns: &Netns,
    ports: &[u16],
    kernel: Option<&mut KernelSource>,
) -> Result<(), String> {
    if let Some(reason) = super::why_not(kernel.as_deref()) {
        return Err(reason);
    }
    let speakers = local_speakers(netns, ports);
    let (Some(kernel), false) = (kernel, speakers.is_empty()) else {
        return Err("no local BGP speaker is known".to_owned());
    };
    let mut groups = BTreeMap::new();
    for pid in speakers {
        match settle(pid, &mut None, &mut groups, kernel) {
            Ok(()) | Err(Unsettled::Ended) => {}
            Err(Unsettled::Why(reason)) => return Err(reason),
        }
    }
    Ok(())
}

/// What a drain left.
#[derive(Clone, Copy, Debug)]
pub struct Drained {
    /// More may be waiting.
    pub more: bool,
    /// A cgroup was heard for the first time.
    pub news: bool,
    /// Records that made no sense.
    pub senseless: u64,
}

enum Unsettled {
    Ended,
    Why(String),
}

impl From<CgroupError> for Unsettled {
    fn from(error: CgroupError) -> Self {
        match error {
            CgroupError::Ended(_) => Self::Ended,
            CgroupError::Unreadable { .. }
            | CgroupError::NotMounted
            | CgroupError::OutOfSight(_)
            | CgroupError::Root(_)
            | CgroupError::Closed { .. } => Self::Why(format!("{:#}", anyhow::Error::from(error))),
        }
    }
}

/// Finds out where a process lives, if it is not there where it was, and has that tapped.
fn settle(
    pid: u32,
    home: &mut Option<Home>,
    groups: &mut BTreeMap<u64, Group>,
    kernel: &mut KernelSource,
) -> Result<(), Unsettled> {
    let membership = cgroup::membership(pid)?;
    if let Some(known) = home
        && known.membership == membership
    {
        match &known.cgroup {
            Ok(id) if groups.contains_key(id) => return Ok(()),
            Ok(_) => {}
            Err(reason) => return Err(Unsettled::Why(reason.clone())),
        }
    }
    let found = Cgroup::of(pid, &membership).map_err(Unsettled::from);
    let cgroup = match &found {
        Ok(cgroup) => Ok(cgroup.id),
        Err(Unsettled::Why(reason)) => Err(reason.clone()),
        Err(Unsettled::Ended) => return Err(Unsettled::Ended),
    };
    *home = Some(Home { membership, cgroup });
    tap(found?, groups, kernel).map_err(Unsettled::Why)
}

/// Has a cgroup tapped, unless it is.
fn tap(
    cgroup: Cgroup,
    groups: &mut BTreeMap<u64, Group>,
    kernel: &mut KernelSource,
) -> Result<(), String> {
    if groups.contains_key(&cgroup.id) {
        return Ok(());
    }
    let nested = |group: &Group| group.cgroup.contains(&cgroup) || cgroup.contains(&group.cgroup);
    if let Some(group) = groups.values().find(|group| nested(group)) {
        return Err(format!(
            "of the cgroups {} and {} one contains the other: their segments would be seen twice",
            group.cgroup.folder.display(),
            cgroup.folder.display()
        ));
    }
    let attachment = kernel.tap_cgroup(&cgroup.file)?;
    let group = Group {
        cgroup,
        _attachment: attachment,
    };
    groups.insert(group.cgroup.id, group);
    Ok(())
}
