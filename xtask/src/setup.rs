//! `cargo xtask setup`: makes a fresh Debian or Ubuntu machine with rustup ready.
//!
//! Each step looks first and does only what is missing, so that repeating it costs a second.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};

use crate::{
    debian, fuzz, kubernetes, python,
    shell::{self, Stopwatch, cargo, command, output, succeeds},
    toolchain::{self, Route},
};

/// On the system: a linker, the network tools of lab and tests, musl for the static build,
/// Python for ExaBGP and what checks the manifests, a shell and unpackers for the guests of `xtask vm`.
const PACKAGES: [&str; 9] = [
    "gcc",
    "libc6-dev",
    "iproute2",
    "musl-tools",
    "ca-certificates",
    "python3-venv",
    "dash",
    "xz-utils",
    "zstd",
];
const MUSL: &str = "x86_64-unknown-linux-musl";
const CARGO_DENY: &str = "0.20.2";

#[derive(clap::Args)]
pub struct Args {
    /// Where the Rust toolchain for BPF comes from.
    #[arg(long, value_enum, default_value_t = Route::Auto)]
    bpf_toolchain: Route,
    /// Also what only the tests that take minutes need: builds Kubernetes' servers.
    #[arg(long)]
    long: bool,
}

pub fn run(args: &Args) -> Result<()> {
    let watch = Stopwatch::start();
    let say = &mut |what: &str, detail: &str| println!("{what:>10}  {detail}");
    ready(args.bpf_toolchain, args.long, say)?;
    println!("{:>10}  {watch}", "ready");
    Ok(())
}

/// Set-up before another command: silent about what is already there.
pub fn ensure() -> Result<()> {
    ensure_for(false)
}

/// The same, for the tests that take minutes where `long`.
pub fn ensure_for(long: bool) -> Result<()> {
    let say = &mut |what: &str, detail: &str| {
        if what != "ok" {
            println!("{what:>10}  {detail}");
        }
    };
    ready(Route::Auto, long, say).context("set-up")
}

fn ready(route: Route, long: bool, say: &mut dyn FnMut(&str, &str)) -> Result<()> {
    let cache = shell::cache()?;
    fs::create_dir_all(&cache).with_context(|| format!("cannot create {}", cache.display()))?;
    let lock = shell::lock(&cache.join("lock"))?;

    packages(say)?;
    host_components(say)?;
    toolchain::ensure(&cache, route, say)?;
    musl_target(say)?;
    cargo_deny(&cache, say)?;
    fuzz::ensure(&cache, say);
    python::ensure(&cache, say)?;
    debian::unpack_all(&cache, say)?;
    if long {
        // It takes too long for others to wait.
        drop(lock);
        kubernetes::ensure(&cache, say)?;
    }
    Ok(())
}

fn packages(say: &mut dyn FnMut(&str, &str)) -> Result<()> {
    let missing = debian::missing(&PACKAGES)?;
    if missing.is_empty() {
        say("ok", &PACKAGES.join(", "));
        return Ok(());
    }
    let watch = Stopwatch::start();
    debian::install(&missing)?;
    say("installed", &format!("{} ({watch})", missing.join(", ")));
    Ok(())
}

fn host_components(say: &mut dyn FnMut(&str, &str)) -> Result<()> {
    for (component, subcommand) in [("rustfmt", "fmt"), ("clippy", "clippy")] {
        if succeeds(cargo()?.args([subcommand, "--version"])) {
            say("ok", component);
            continue;
        }
        let mut add = command("rustup")?;
        add.args(["component", "add", component]);
        output(&mut add).with_context(|| format!("cannot add {component}"))?;
        say("installed", component);
    }
    Ok(())
}

/// The static build alone needs it, so that its absence is a note here and an error there.
fn musl_target(say: &mut dyn FnMut(&str, &str)) -> Result<()> {
    if has_musl_target()? {
        say("ok", &format!("target {MUSL}"));
        return Ok(());
    }
    match output(command("rustup")?.args(["target", "add", MUSL])) {
        Ok(_) => say("installed", &format!("target {MUSL}")),
        Err(error) => say(
            "note",
            &format!("no target {MUSL}, so no static build: {error:#}"),
        ),
    }
    Ok(())
}

/// Whether the toolchain in use has a standard library for musl.
pub fn has_musl_target() -> Result<bool> {
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into());
    let mut ask = command(&rustc)?;
    ask.args(["--print", "target-libdir", "--target", MUSL]);
    Ok(output(&mut ask).is_ok_and(|folder| Path::new(folder.trim()).is_dir()))
}

fn cargo_deny(cache: &Path, say: &mut dyn FnMut(&str, &str)) -> Result<()> {
    let named = format!("cargo-deny {CARGO_DENY}");
    let program = cache.join("tools/bin/cargo-deny");
    let version = program.is_file().then(|| {
        let mut ask = std::process::Command::new(&program);
        output(ask.arg("--version"))
    });
    if version.is_some_and(|said| said.is_ok_and(|said| said.trim() == named)) {
        say("ok", &named);
        return Ok(());
    }
    say("building", &format!("{named}; this takes some minutes"));
    let watch = Stopwatch::start();
    output(&mut shell::install_command(
        cache,
        "cargo-deny",
        CARGO_DENY,
    )?)
    .context("cannot install cargo-deny")?;
    say("installed", &format!("{named} ({watch})"));
    Ok(())
}
