//! What tests can do here: whether as root, on what kernel, with which cgroups.

use std::{
    env,
    io::{self, Write},
};

use anyhow::{Result, bail};

use crate::cgroup;

/// True as root. Otherwise a failure in CI (where `CI` is set), and elsewhere false with a word of
/// why.
pub fn open() -> Result<bool> {
    if nix::unistd::geteuid().is_root() {
        return Ok(true);
    }
    closed("root, for network namespaces and eBPF")
}

/// True where every speaker of a lab has a cgroup of its own; otherwise as [`open`].
pub fn cgroups() -> Result<bool> {
    if cgroup::unified().is_some() {
        return Ok(true);
    }
    closed("cgroups of version 2 to be mounted")
}

fn closed(need: &str) -> Result<bool> {
    if env::var_os("CI").is_some() {
        bail!("this test needs {need}: CI must run it so");
    }
    writeln!(io::stderr(), "skipped: needs {need}")?;
    Ok(false)
}

/// Whether this kernel is known to let its functions be traced: then probes of routes have to run, for a
/// fallback would hide there.
pub fn traces() -> bool {
    env::var_os("BGP_OBSERVER_TEST_TRACES").is_some()
}
