//! The fuzzing that every test run does: a build that takes the workspace's own compiler and a minute,
//! without AddressSanitizer, and then the targets side by side for a short while, each from a seed of
//! its own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use super::MAX_LENGTH;
use crate::{
    build,
    shell::{Stopwatch, cargo, command, root, run as run_command},
};

/// What cargo-fuzz gives the compiler, but for the sanitizer: libFuzzer sees which edges an input took
/// and what it was compared with; arithmetic that overflows panics.
const FLAGS: [&str; 7] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Cdebug-assertions",
    "--cfg=fuzzing",
];
/// With it named, build scripts and macros are compiled without those flags.
const HOST: &str = "x86_64-unknown-linux-gnu";
/// Targets that run at a time.
const ABREAST: usize = 2;

/// All targets, in `all` together.
pub fn fuzz(all: Duration, targets: &[String]) -> Result<()> {
    let folder = build()?;
    let turns = targets.len().div_ceil(ABREAST).max(1);
    let each = all.as_secs() / u64::try_from(turns)?;
    let next = AtomicUsize::new(0);
    let turn = || -> Result<()> {
        while let Some(target) = targets.get(next.fetch_add(1, Ordering::Relaxed)) {
            run(&folder, target, each)?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let lanes: Vec<_> = (0..ABREAST).map(|_| scope.spawn(turn)).collect();
        lanes.into_iter().try_for_each(|lane| {
            lane.join()
                .map_err(|_| anyhow::anyhow!("a thread panicked"))?
        })
    })
}

/// Builds the targets; gives the folder that they are in.
fn build() -> Result<PathBuf> {
    let watch = Stopwatch::start();
    let target = build::target().join("fuzz");
    let mut build = cargo()?;
    build
        .args(["build", "--release", "--bins", "--target", HOST])
        .arg("--target-dir")
        .arg(&target)
        .current_dir(root().join("fuzz"))
        .env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\x1f"))
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1");
    run_command(&mut build)?;
    println!("built in {watch}");
    Ok(target.join(HOST).join("release"))
}

/// Runs one target for so many seconds; says how many inputs it tried.
fn run(folder: &Path, target: &str, seconds: u64) -> Result<()> {
    let found = folder.join("found").join(target);
    fs::create_dir_all(&found).with_context(|| format!("cannot create {}", found.display()))?;
    let artifacts = root().join("fuzz/artifacts").join(target);
    fs::create_dir_all(&artifacts)
        .with_context(|| format!("cannot create {}", artifacts.display()))?;
    let mut fuzzer = command(&folder.join(target).to_string_lossy())?;
    fuzzer
        .arg(&found)
        .arg(root().join("fuzz/corpus").join(target))
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-max_len={MAX_LENGTH}"))
        .args(["-timeout=20", "-verbosity=0", "-print_final_stats=1"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let running = fuzzer
        .spawn()
        .with_context(|| format!("cannot start fuzz target {target}"))?;
    let (passed, said) = finish(running)?;
    if !passed {
        bail!(
            "fuzz target {target} failed; the input lies in {}:\n{said}",
            artifacts.display()
        );
    }
    let number = |name: &str| -> Result<u64> {
        let value = said.lines().find_map(|line| line.strip_prefix(name));
        let value = value.with_context(|| format!("{target} does not say its {name}"))?;
        Ok(value.trim().parse()?)
    };
    println!(
        "{target}: {} executions in {seconds} s, {} inputs with new coverage",
        number("stat::number_of_executed_units:")?,
        number("stat::new_units_added:")?
    );
    Ok(())
}

fn finish(running: Child) -> Result<(bool, String)> {
    let output = running
        .wait_with_output()
        .context("cannot wait for a fuzz target")?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Ok((output.status.success(), said))
}
