//! `cargo xtask build`: the agent, for this machine or static for any.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    setup,
    shell::{cargo, root, run as run_command},
};

/// The target that links everything in.
pub const MUSL: &str = "x86_64-unknown-linux-musl";
/// The agent's program.
pub const AGENT: &str = "bgp-observer";

#[derive(clap::Args)]
pub struct Args {
    /// Optimize.
    #[arg(long)]
    release: bool,
    /// Link everything in, so that one file runs on any Linux (musl; implies --release).
    #[arg(long = "static")]
    linked_statically: bool,
}

pub fn run(args: &Args) -> Result<()> {
    setup::ensure()?;
    let agent = if args.linked_statically {
        static_agent()?
    } else {
        program(AGENT, args.release)?
    };
    let size = fs::metadata(&agent)
        .with_context(|| format!("no {}", agent.display()))?
        .len();
    let shown = agent.strip_prefix(root()).unwrap_or(&agent).display();
    println!("{shown}: {} KiB", size / 1024);
    Ok(())
}

/// Builds one of our programs for this machine. As part of the workspace, whichever it is: of a package
/// alone, others' crates get other features than the tests have them with, and are compiled again.
pub fn program(name: &str, release: bool) -> Result<PathBuf> {
    let mut build = cargo()?;
    build.args(["build", "--workspace", "--exclude", "observer-ebpf"]);
    build.args(["--bin", name]);
    build.args(release.then_some("--release"));
    run_command(&mut build)?;
    let profile = if release { "release" } else { "debug" };
    Ok(target().join(profile).join(name))
}

/// Builds the agent that runs on any Linux.
pub fn static_agent() -> Result<PathBuf> {
    if !setup::has_musl_target()? {
        bail!("the Rust toolchain in use has no {MUSL}: `rustup target add {MUSL}`");
    }
    let mut build = cargo()?;
    build.args([
        "build",
        "--package",
        "observer",
        "--bin",
        AGENT,
        "--release",
        "--target",
        MUSL,
    ]);
    // Four fifths of the file would be line tables; the names of functions stay for backtraces.
    build.env("CARGO_PROFILE_RELEASE_STRIP", "debuginfo");
    run_command(&mut build)?;
    let agent = target().join(MUSL).join("release").join(AGENT);
    let bytes = fs::read(&agent).with_context(|| format!("no {}", agent.display()))?;
    if asks_for_loader(&bytes)? {
        bail!(
            "{} is not static: it names a dynamic loader",
            agent.display()
        );
    }
    Ok(agent)
}

/// Where cargo puts what it builds.
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || root().join("target"),
        |folder| root().join(Path::new(&folder)),
    )
}

/// Whether a little-endian ELF64 file has a `PT_INTERP` segment, which static ones lack.
fn asks_for_loader(elf: &[u8]) -> Result<bool> {
    const PT_INTERP: u64 = 3;
    let number = |at: u64, width: usize| -> Result<u64> {
        let at = usize::try_from(at).context("ELF offset out of range")?;
        let bytes = elf
            .get(at..at.saturating_add(width))
            .context("ELF file is cut short")?;
        Ok(bytes
            .iter()
            .rev()
            .fold(0, |value, byte| (value << 8) | u64::from(*byte)))
    };
    if elf.get(..6) != Some(b"\x7fELF\x02\x01") {
        bail!("not a little-endian ELF64 file");
    }
    let (headers, size, count) = (number(0x20, 8)?, number(0x36, 2)?, number(0x38, 2)?);
    for index in 0..count {
        if number(headers.saturating_add(index * size), 4)? == PT_INTERP {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::asks_for_loader;

    #[test]
    fn a_dynamically_linked_program_asks_for_its_loader() {
        let own = std::fs::read("/proc/self/exe").unwrap();
        assert!(asks_for_loader(&own).unwrap());
    }

    #[test]
    fn what_is_no_elf_or_is_cut_short_is_refused() {
        assert!(asks_for_loader(b"#!/bin/sh").is_err());
        assert!(asks_for_loader(b"\x7fELF\x02\x01").is_err());
    }
}
