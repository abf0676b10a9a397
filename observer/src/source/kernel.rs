//! Stand-in until the kernel programs are merged.

use std::{io, net::IpAddr, path::PathBuf};

use anyhow::Result;
use observer_core::{
    event::{Event, NetnsId},
    time::Timestamp,
};

/// What the probes need to know at start.
#[derive(Clone, Debug, Default)]
pub struct KernelOptions {
    /// BGP ports.
    pub ports: Vec<u16>,
    /// BTF to use instead of the kernel's own.
    pub btf_path: Option<PathBuf>,
}

/// Whether one probe runs.
#[derive(Clone, Debug)]
pub struct ProbeStatus {
    /// Its name.
    pub name: &'static str,
    /// Its kind.
    pub kind: &'static str,
    /// Whether it runs.
    pub attached: bool,
    /// Why not.
    pub reason: Option<String>,
    /// What is lost without it.
    pub lost_without: &'static str,
}

/// The probes and their rings.
#[derive(Debug)]
pub struct KernelSource {}

impl KernelSource {
    /// Loads and attaches what can be.
    pub fn start(_options: &KernelOptions) -> (Option<Self>, Vec<ProbeStatus>) {
        (
            None,
            vec![ProbeStatus {
                name: "inet_sock_set_state",
                kind: "tp_btf",
                attached: false,
                reason: Some("not built in".to_owned()),
                lost_without: "session changes as they happen",
            }],
        )
    }
    /// Observe a namespace.
    pub fn observe(&mut self, _inode: u32, _netns: NetnsId) -> Result<()> {
        Ok(())
    }
    /// No longer.
    pub fn unobserve(&mut self, _inode: u32) -> Result<()> {
        Ok(())
    }
    /// To the main ring.
    pub fn trust(&mut self, _netns: NetnsId, _address: IpAddr) -> Result<()> {
        Ok(())
    }
    /// To the strangers' ring.
    pub fn distrust(&mut self, _netns: NetnsId, _address: IpAddr) -> Result<()> {
        Ok(())
    }
    /// Watch this process.
    pub fn add_speaker(&mut self, _pid: u32, _netns: NetnsId) -> Result<()> {
        Ok(())
    }
    /// Something is in a ring.
    pub async fn readable(&mut self) -> io::Result<()> {
        std::future::pending().await
    }
    /// Take all.
    pub fn drain(&mut self, _out: &mut Vec<Event>) {}
}

/// CLOCK_BOOTTIME.
pub fn boottime_now() -> Timestamp {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the pointer is to a live timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut now) };
    Timestamp::from_nanos(now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs())
}
