//! `cargo xtask fuzz`: every fuzz target for a while, on its corpus and what it found before.
//!
//! What a run finds goes into the cache, not into the repository; an input that fails is named, and
//! belongs into `fuzz/corpus/TARGET/` once it is understood.

mod quick;

use std::{fs, path::Path, time::Duration};

use anyhow::{Context as _, Result, bail};

use crate::{
    shell::{self, Stopwatch, cache, install_command, output, root, run as run_command},
    toolchain,
};

const CARGO_FUZZ: &str = "0.13.2";
/// What `cargo xtask test` takes for all targets, as far as it has two processors.
const SHORT: Duration = Duration::from_mins(2);
/// What `cargo xtask test --long` takes for all targets.
const LONG: Duration = Duration::from_hours(1);
/// Longest input tried; events files are lines of some hundred octets.
const MAX_LENGTH: usize = 24 << 10;

#[derive(clap::Args)]
pub struct Args {
    /// Minutes for all targets together.
    #[arg(long, default_value_t = 60)]
    minutes: u64,
    /// Two minutes without AddressSanitizer, which builds sooner: what `cargo xtask test` does.
    #[arg(long, conflicts_with = "minutes")]
    quick: bool,
    /// Only these targets.
    targets: Vec<String>,
}

pub fn run(args: &Args) -> Result<()> {
    if args.quick {
        return quick::fuzz(SHORT, &targets(&args.targets)?);
    }
    fuzz(Duration::from_mins(args.minutes), &args.targets)
}

/// The step of `cargo xtask test`.
pub fn step(long: bool) -> Result<()> {
    if long {
        return fuzz(LONG, &[]);
    }
    quick::fuzz(SHORT, &targets(&[])?)
}

/// Set-up's part: cargo-fuzz, with a note when it cannot be had.
pub fn ensure(cache: &Path, say: &mut dyn FnMut(&str, &str)) {
    let named = format!("cargo-fuzz {CARGO_FUZZ}");
    if is_installed(cache) {
        return say("ok", &named);
    }
    say("building", &format!("{named}; this takes a minute"));
    let watch = Stopwatch::start();
    let installed = install_command(cache, "cargo-fuzz", CARGO_FUZZ)
        .and_then(|mut install| output(&mut install));
    match installed {
        Ok(_) => say("installed", &format!("{named} ({watch})")),
        Err(error) => say("note", &format!("no {named}, so no fuzzing: {error:#}")),
    }
}

fn program(cache: &Path) -> std::path::PathBuf {
    cache.join("tools/bin/cargo-fuzz")
}

fn is_installed(cache: &Path) -> bool {
    let mut ask = std::process::Command::new(program(cache));
    output(ask.arg("--version")).is_ok_and(|said| said.trim() == format!("cargo-fuzz {CARGO_FUZZ}"))
}

fn fuzz(all: Duration, wanted: &[String]) -> Result<()> {
    let cache = cache()?;
    if !is_installed(&cache) {
        bail!("no cargo-fuzz {CARGO_FUZZ}: run `cargo xtask setup` and read its notes");
    }
    let toolchain = toolchain::current(&cache).context("set-up took no BPF toolchain")?;
    if !toolchain.starts_with("nightly") {
        // AddressSanitizer's runtime comes with rustup's compilers only.
        bail!(
            "fuzzing needs a nightly of rustup, and the toolchain `{toolchain}` is none: \
             `cargo xtask setup --bpf-toolchain rustup`"
        );
    }
    let targets = targets(wanted)?;
    let each = all.as_secs() / u64::try_from(targets.len()).unwrap_or(1).max(1);
    for target in &targets {
        cargo_fuzz(&cache, &toolchain, &["build", target])?;
    }
    for target in &targets {
        let found = cache.join("fuzz").join(target);
        fs::create_dir_all(&found).with_context(|| format!("cannot create {}", found.display()))?;
        println!("{target}: {each} s");
        let committed = format!("fuzz/corpus/{target}");
        let found = found.to_string_lossy().into_owned();
        let args = ["run", target, &found, &committed, "--"];
        let limits = [
            format!("-max_total_time={each}"),
            format!("-max_len={MAX_LENGTH}"),
            "-timeout=20".to_owned(),
            "-verbosity=0".to_owned(),
            "-print_final_stats=1".to_owned(),
        ];
        let args: Vec<&str> = args
            .into_iter()
            .chain(limits.iter().map(String::as_str))
            .collect();
        cargo_fuzz(&cache, &toolchain, &args).with_context(|| {
            format!("target {target} failed; the input lies in fuzz/artifacts/{target}/")
        })?;
    }
    Ok(())
}

fn cargo_fuzz(cache: &Path, toolchain: &str, args: &[&str]) -> Result<()> {
    let mut fuzz = shell::toolchain_command(toolchain, &program(cache).to_string_lossy())?;
    // As cargo calls its subcommands: with the subcommand's own name first.
    fuzz.arg("fuzz").args(args).current_dir(root());
    fuzz.env_remove("CARGO_TARGET_DIR");
    run_command(&mut fuzz)
}

/// Names of the targets, which are those with a source file.
fn targets(wanted: &[String]) -> Result<Vec<String>> {
    let folder = root().join("fuzz/fuzz_targets");
    let mut targets = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("no {}", folder.display()))? {
        let path = entry
            .with_context(|| format!("cannot list {}", folder.display()))?
            .path();
        let name = path
            .file_stem()
            .map(|name| name.to_string_lossy().into_owned());
        targets.extend(name);
    }
    targets.sort();
    if let Some(unknown) = wanted.iter().find(|name| !targets.contains(name)) {
        bail!(
            "no fuzz target `{unknown}`; there are {}",
            targets.join(", ")
        );
    }
    if !wanted.is_empty() {
        targets.retain(|name| wanted.contains(name));
    }
    Ok(targets)
}
