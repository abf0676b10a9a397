//! What tests can do here: whether as root, and on what kernel.

use std::{
    env,
    io::{self, Write},
};

use anyhow::{Result, bail};

/// True as root. Otherwise a failure in CI (where `CI` is set), and elsewhere false with a word of
/// why.
pub fn open() -> Result<bool> {
    if nix::unistd::geteuid().is_root() {
        return Ok(true);
    }
    if env::var_os("CI").is_some() {
        bail!("this test makes network namespaces and loads eBPF programs: CI must run it as root");
    }
    writeln!(
        io::stderr(),
        "skipped: needs root for network namespaces and eBPF"
    )?;
    Ok(false)
}

/// Whether this kernel is known to let its functions be traced: then probes of routes have to run, for a
/// fallback would hide there.
pub fn traces() -> bool {
    env::var_os("BGP_OBSERVER_TEST_TRACES").is_some()
}
