//! The kernel's own account of its BPF programs.

use std::{
    collections::BTreeSet,
    fs,
    os::fd::{AsFd as _, AsRawFd as _},
    time::Duration,
};

use anyhow::{Context, Result};
use aya::programs::loaded_programs;

const COUNTING: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// What a program has done since its runs are counted.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Runs {
    /// As much of its name as the kernel keeps.
    pub name: String,
    /// How often it ran.
    pub count: u64,
    /// How long that took in all.
    pub time: Duration,
}

/// Runs are counted as long as this is there; that costs each of them the reading of a clock, twice.
#[derive(Debug)]
pub struct Counting(());

impl Counting {
    /// From now on.
    pub fn begin() -> Result<Self> {
        fs::write(COUNTING, "1").context("the kernel does not count programs' runs")?;
        Ok(Self(()))
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        // There is nobody left to tell.
        let _ = fs::write(COUNTING, "0");
    }
}

/// The programs that process `pid` holds or has attached, by the kernel's numbers.
fn held(pid: u32) -> Result<BTreeSet<u32>> {
    let folder = format!("/proc/{pid}/fdinfo");
    let mut ids = BTreeSet::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("no {folder}"))? {
        // One that is closed meanwhile is no program.
        let text = fs::read_to_string(entry?.path()).unwrap_or_default();
        let id = text.lines().find_map(|line| line.strip_prefix("prog_id:"));
        ids.extend(id.and_then(|id| id.trim().parse::<u32>().ok()));
    }
    Ok(ids)
}

/// What the programs of process `pid` have done.
pub fn runs(pid: u32) -> Result<Vec<Runs>> {
    let held = held(pid)?;
    let mut all = Vec::new();
    for program in loaded_programs() {
        let program = program.context("cannot list BPF programs")?;
        let name = program.name_as_str().unwrap_or_default().to_owned();
        // One that is gone meanwhile did nothing more.
        let Ok(fd) = program.fd() else {
            continue;
        };
        let path = format!("/proc/self/fdinfo/{}", fd.as_fd().as_raw_fd());
        let text = fs::read_to_string(&path).with_context(|| format!("no {path}"))?;
        let number = |key: &str| -> Result<u64> {
            let mut lines = text.lines();
            let line = lines.find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
            let line = line.with_context(|| format!("no {key} in {path}"))?;
            Ok(line.trim().parse()?)
        };
        if !held.contains(&u32::try_from(number("prog_id")?)?) {
            continue;
        }
        all.push(Runs {
            name,
            count: number("run_cnt")?,
            time: Duration::from_nanos(number("run_time_ns")?),
        });
    }
    Ok(all)
}
