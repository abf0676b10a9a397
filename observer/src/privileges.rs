//! The capabilities of the agent: which it needs, which of them are missing, and letting go of all
//! others once the kernel programs are attached.
//!
//! Capabilities belong to a thread and are handed on to those it starts: [`lower`] is to be called
//! before there are any.

use std::{
    collections::BTreeSet,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use caps::{CapSet, Capability, CapsHashSet, errors::CapsError};
use serde::Serialize;
use tracing::{info, warn};

use crate::config::{Config, Listen};

/// The lowest port that anyone may listen on.
const UNPRIVILEGED_PORTS: u16 = 1024;

/// A capability that something here needs.
#[derive(Clone, Copy, Debug)]
struct Need {
    capability: Capability,
    /// Another that includes it: the only one there was before Linux 5.8.
    or: Option<Capability>,
    /// Only until the kernel programs are attached.
    to_attach: bool,
    lost_without: &'static str,
}

const NEEDS: [Need; 5] = [
    Need {
        capability: Capability::CAP_BPF,
        or: Some(Capability::CAP_SYS_ADMIN),
        to_attach: true,
        lost_without: "every kernel probe: short flaps and most causes",
    },
    Need {
        capability: Capability::CAP_PERFMON,
        or: Some(Capability::CAP_SYS_ADMIN),
        to_attach: true,
        lost_without: "every kernel probe: short flaps and most causes",
    },
    Need {
        capability: Capability::CAP_NET_RAW,
        or: None,
        to_attach: false,
        lost_without: "the packet tap: what BGP says; echoes: what could not be reached",
    },
    Need {
        capability: Capability::CAP_NET_ADMIN,
        or: None,
        to_attach: false,
        lost_without: "the tap at the BGP daemon's sockets, which costs others nothing; receive buffers \
                       larger than net.core.rmem_max: losses under load",
    },
    Need {
        capability: Capability::CAP_SYS_PTRACE,
        or: None,
        to_attach: false,
        lost_without: "which process is the BGP daemon, where it is older than the agent",
    },
];

/// A capability that is not there.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Missing {
    /// As in capabilities(7).
    pub capability: String,
    /// What cannot be seen without it.
    pub lost_without: &'static str,
}

/// What the kernel programs lack, by name.
pub fn missing_for_probes() -> Vec<String> {
    let needs = NEEDS.iter().filter(|need| need.to_attach);
    names_of_missing(needs, &held())
}

/// Everything that is missing.
pub fn missing() -> Vec<Missing> {
    let held = held();
    NEEDS
        .iter()
        .filter(|need| !need.is_met(&held))
        .map(|need| Missing {
            capability: need.capability.to_string(),
            lost_without: need.lost_without,
        })
        .collect()
}

/// What the agent will keep of what it has, by name.
pub fn kept(config: &Config) -> Vec<String> {
    names(&to_keep(config, &held()))
}

/// Drops whatever is no longer needed. `attached_work` says whether the attached kernel programs can
/// still be talked to: before Linux 5.19 that may need what attaching them did.
pub fn lower(config: &Config, attached_work: impl Fn() -> bool) {
    match try_lower(config, attached_work) {
        Ok(kept) => {
            info!(
                kept = names(&kept).join(" "),
                "dropped every capability that is not needed now"
            );
        }
        Err(error) => warn!("capabilities stay as they are: {error}"),
    }
}

fn try_lower(config: &Config, attached_work: impl Fn() -> bool) -> Result<CapsHashSet, CapsError> {
    let held = caps::read(None, CapSet::Permitted)?;
    let mut keep = to_keep(config, &held);
    caps::set(None, CapSet::Effective, &keep)?;
    for more in [Capability::CAP_BPF, Capability::CAP_SYS_ADMIN] {
        if attached_work() {
            break;
        }
        if held.contains(&more) && keep.insert(more) {
            caps::set(None, CapSet::Effective, &keep)?;
        }
    }
    caps::set(None, CapSet::Permitted, &keep)?;
    caps::clear(None, CapSet::Inheritable)?;
    Ok(keep)
}

fn held() -> CapsHashSet {
    caps::read(None, CapSet::Effective).unwrap_or_else(|error| {
        warn!("cannot read the own capabilities: {error}");
        CapsHashSet::new()
    })
}

impl Need {
    fn is_met(&self, held: &CapsHashSet) -> bool {
        held.contains(&self.capability) || self.or.is_some_and(|or| held.contains(&or))
    }
}

fn names_of_missing<'a>(needs: impl Iterator<Item = &'a Need>, held: &CapsHashSet) -> Vec<String> {
    needs
        .filter(|need| !need.is_met(held))
        .map(|need| need.capability.to_string())
        .collect()
}

/// Sorted, so that it reads the same every time.
fn names(capabilities: &CapsHashSet) -> Vec<String> {
    let sorted: BTreeSet<String> = capabilities.iter().map(ToString::to_string).collect();
    sorted.into_iter().collect()
}

/// Those of `held` that the agent needs while it runs.
fn to_keep(config: &Config, held: &CapsHashSet) -> CapsHashSet {
    let mut wanted: CapsHashSet = NEEDS
        .iter()
        .filter(|need| !need.to_attach)
        .map(|need| need.capability)
        .collect();
    // To look into /proc/PID/fd as a user other than root.
    wanted.insert(Capability::CAP_DAC_READ_SEARCH);
    if !config.netns.is_empty() {
        wanted.insert(Capability::CAP_SYS_ADMIN);
    }
    if [config.metrics_listen, config.api_listen]
        .into_iter()
        .any(is_low)
    {
        wanted.insert(Capability::CAP_NET_BIND_SERVICE);
    }
    if written(config).any(|path| !is_ours(&path)) {
        wanted.insert(Capability::CAP_DAC_OVERRIDE);
    }
    held.intersection(&wanted).copied().collect()
}

fn is_low(listen: Listen) -> bool {
    matches!(listen, Listen::At(address) if address.port() < UNPRIVILEGED_PORTS)
}

/// Where the agent writes.
fn written(config: &Config) -> impl Iterator<Item = PathBuf> {
    let record = config.record.iter();
    record.chain([&config.state_dir, &config.socket]).cloned()
}

/// Whether `path`, or the nearest folder that would hold it, belongs to the agent's own user.
fn is_ours(path: &Path) -> bool {
    let own = nix::unistd::geteuid().as_raw();
    let nearest = path.ancestors().find_map(|path| path.metadata().ok());
    nearest.is_some_and(|found| found.uid() == own)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;

    fn config(change: impl FnOnce(&mut Settings)) -> Config {
        let mut settings = Settings {
            state_dir: Some("/".into()),
            socket: Some("/".into()),
            ..Settings::default()
        };
        change(&mut settings);
        Config::from_settings(settings).unwrap()
    }

    fn kept_of_all(config: &Config) -> CapsHashSet {
        to_keep(config, &caps::all())
    }

    #[test]
    fn what_only_attaching_needs_is_not_kept() {
        let kept = kept_of_all(&config(|_| {}));
        assert!(!kept.contains(&Capability::CAP_BPF));
        assert!(!kept.contains(&Capability::CAP_PERFMON));
        assert!(!kept.contains(&Capability::CAP_SYS_ADMIN));
        assert!(kept.contains(&Capability::CAP_NET_RAW));
    }

    #[test]
    fn what_the_configuration_needs_is_kept() {
        let named = config(|settings| settings.netns = vec!["a".parse().unwrap()]);
        assert!(kept_of_all(&named).contains(&Capability::CAP_SYS_ADMIN));
        let low = config(|settings| settings.metrics_listen = "[::]:443".parse().ok());
        assert!(kept_of_all(&low).contains(&Capability::CAP_NET_BIND_SERVICE));
    }

    #[test]
    fn nothing_is_kept_that_is_not_held() {
        let held = CapsHashSet::from([Capability::CAP_NET_RAW, Capability::CAP_KILL]);
        let kept = to_keep(&config(|_| {}), &held);
        assert_eq!(kept, CapsHashSet::from([Capability::CAP_NET_RAW]));
    }

    #[test]
    fn each_missing_capability_is_named_and_sysadmin_stands_for_bpf() {
        let missing = |held: &[Capability]| {
            names_of_missing(NEEDS.iter(), &held.iter().copied().collect::<CapsHashSet>())
        };
        assert_eq!(missing(&[]).len(), NEEDS.len());
        let all_but_perfmon: Vec<_> = NEEDS
            .iter()
            .map(|need| need.capability)
            .filter(|capability| *capability != Capability::CAP_PERFMON)
            .collect();
        assert_eq!(missing(&all_but_perfmon), ["CAP_PERFMON"]);
        let admin = [&all_but_perfmon[..], &[Capability::CAP_SYS_ADMIN]].concat();
        assert!(missing(&admin).is_empty());
    }
}
