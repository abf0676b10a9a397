//! A Rust toolchain that compiles for BPF, and bpf-linker for it.
//!
//! BPF has no prebuilt `core`, so the toolchain must bring the source of its own: either rustup's
//! nightly with `rust-src`, or, where rustup cannot download that, Debian's `rustc-web` made a
//! rustup toolchain. `observer/build.rs` reads which from `<cache>/toolchain`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;

use crate::{
    debian,
    shell::{Stopwatch, command, install_command, output, succeeds, toolchain_command},
};

/// rustc 1.97.0-nightly with LLVM 22, which is what [`BPF_LINKER`] understands. A nightly without
/// a date would move to the next LLVM some day and no longer link.
const NIGHTLY: &str = "nightly-2026-05-20";
const LLVM: &str = "22";
/// The newest that the workspace's own rustc compiles.
const BPF_LINKER: &str = "0.10.3";
const DEBIAN_TOOLCHAIN: &str = "bpf";
const DEBIAN_PACKAGES: [&str; 5] = [
    "rustc-web",
    "cargo-web",
    "rust-web-src",
    "rust-web-clippy",
    "llvm-22-dev",
];

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Route {
    /// rustup, else Debian.
    Auto,
    /// A rustup nightly with rust-src.
    Rustup,
    /// Debian's rustc-web, linked into rustup.
    Debian,
}

/// Makes both ready, if they are not.
pub fn ensure(cache: &Path, route: Route, say: &mut dyn FnMut(&str, &str)) -> Result<()> {
    if !succeeds(command("rustup")?.arg("--version")) {
        bail!("no rustup: the BPF toolchain is a rustup toolchain beside the one in use");
    }
    let verified = cache.join("toolchain-verified");
    if let Some(toolchain) = current(cache)
        && (route == Route::Auto || (route == Route::Debian) == (toolchain == DEBIAN_TOOLCHAIN))
        && fs::read_to_string(&verified).is_ok_and(|was| seal(&toolchain).is_ok_and(|is| was == is))
        && linker(cache).is_file()
    {
        say(
            "ok",
            &format!(
                "BPF toolchain {}, bpf-linker {BPF_LINKER}",
                named(&toolchain)
            ),
        );
        return Ok(());
    }

    let watch = Stopwatch::start();
    let toolchain = match route {
        Route::Rustup => from_rustup(say)?,
        Route::Debian => from_debian(say)?,
        Route::Auto => match from_rustup(say) {
            Ok(toolchain) => toolchain,
            Err(error) => {
                say("note", &format!("no BPF toolchain from rustup: {error:#}"));
                from_debian(say)?
            }
        },
    };
    say(
        "took",
        &format!("BPF toolchain {} ({watch})", named(&toolchain)),
    );

    let watch = Stopwatch::start();
    if !has_linker(cache) || build_trial(cache, &toolchain).is_err() {
        say(
            "building",
            &format!("bpf-linker {BPF_LINKER}; this takes one to three minutes"),
        );
        install_linker(cache, &toolchain)?;
        say("installed", &format!("bpf-linker {BPF_LINKER} ({watch})"));
        build_trial(cache, &toolchain).context("the BPF toolchain builds no trial program")?;
    }
    fs::write(cache.join("toolchain"), format!("{toolchain}\n"))
        .and_then(|()| fs::write(&verified, seal(&toolchain).unwrap_or_default()))
        .context("cannot note the BPF toolchain in the cache")?;
    say(
        "verified",
        &format!("a trial program compiles and links for BPF ({watch})"),
    );
    Ok(())
}

/// The BPF toolchain set-up took, by rustup's name.
pub fn current(cache: &Path) -> Option<String> {
    let name = fs::read_to_string(cache.join("toolchain")).ok()?;
    Some(name.trim().to_owned()).filter(|name| !name.is_empty())
}

/// `program` of the BPF toolchain, with what lets it use unstable options.
pub fn bpf_command(toolchain: &str, program: &str) -> Result<Command> {
    let mut command = toolchain_command(toolchain, program)?;
    if toolchain == DEBIAN_TOOLCHAIN {
        command.env("RUSTC_BOOTSTRAP", "1");
    }
    Ok(command)
}

/// What a verified toolchain is recognized by: a change of compiler or linker verifies it anew.
fn seal(toolchain: &str) -> Result<String> {
    let rustc = output(toolchain_command(toolchain, "rustc")?.arg("-vV"))?;
    Ok(format!("{toolchain}\nbpf-linker {BPF_LINKER}\n{rustc}"))
}

fn named(toolchain: &str) -> String {
    match toolchain {
        DEBIAN_TOOLCHAIN => format!("`{toolchain}` (Debian's rustc-web)"),
        _ => format!("`{toolchain}` (rustup)"),
    }
}

fn from_rustup(say: &mut dyn FnMut(&str, &str)) -> Result<String> {
    if has_sources(NIGHTLY) {
        return Ok(NIGHTLY.to_owned());
    }
    let mut install = command("rustup")?;
    install.args(["toolchain", "install", NIGHTLY, "--profile", "minimal"]);
    install.args(["--no-self-update", "--component", "rust-src,clippy"]);
    let error = match output(&mut install) {
        Ok(_) if has_sources(NIGHTLY) => return Ok(NIGHTLY.to_owned()),
        Ok(_) => anyhow::anyhow!("{NIGHTLY} came without its rust-src"),
        Err(error) => error,
    };
    // A machine that is offline may have a nightly all the same.
    if has_sources("nightly") {
        say(
            "note",
            &format!("{NIGHTLY} cannot be had; taking the nightly that is installed"),
        );
        return Ok("nightly".to_owned());
    }
    Err(error)
}

fn from_debian(say: &mut dyn FnMut(&str, &str)) -> Result<String> {
    let missing = debian::missing(&DEBIAN_PACKAGES)?;
    if !missing.is_empty() {
        let watch = Stopwatch::start();
        debian::install(&missing).context("no BPF toolchain from Debian either")?;
        say("installed", &format!("{} ({watch})", missing.join(", ")));
    }
    output(command("rustup")?.args(["toolchain", "link", DEBIAN_TOOLCHAIN, "/usr"]))?;
    if !has_sources(DEBIAN_TOOLCHAIN) {
        bail!("Debian's rustc-web has no core source, or not LLVM {LLVM}");
    }
    Ok(DEBIAN_TOOLCHAIN.to_owned())
}

/// Whether a toolchain is installed, brings the source of its `core` and has the linker's LLVM.
fn has_sources(toolchain: &str) -> bool {
    let ask = |args: &[&str]| output(toolchain_command(toolchain, "rustc")?.args(args));
    let llvm = ask(&["-vV"]).is_ok_and(|said| said.contains(&format!("LLVM version: {LLVM}.")));
    let core = "lib/rustlib/src/rust/library/core/src/lib.rs";
    llvm && ask(&["--print", "sysroot"])
        .is_ok_and(|root| Path::new(root.trim()).join(core).is_file())
}

fn linker(cache: &Path) -> PathBuf {
    cache.join("tools/bin/bpf-linker")
}

fn has_linker(cache: &Path) -> bool {
    output(Command::new(linker(cache)).arg("--version"))
        .is_ok_and(|version| version.trim() == format!("bpf-linker {BPF_LINKER}"))
}

fn install_linker(cache: &Path, toolchain: &str) -> Result<()> {
    let mut install = install_command(cache, "bpf-linker", BPF_LINKER)?;
    if toolchain == DEBIAN_TOOLCHAIN {
        // By default it opens the libLLVM inside rustup's toolchain; Debian's is a system library.
        install.args(["--no-default-features", "--features", "llvm-22"]);
        install.env("LLVM_PREFIX", format!("/usr/lib/llvm-{LLVM}"));
    }
    output(&mut install).context("cannot install bpf-linker")?;
    Ok(())
}

/// Compiles and links a program that does nothing: the one proof that compiler, `core` source,
/// linker and LLVM fit together.
fn build_trial(cache: &Path, toolchain: &str) -> Result<()> {
    let folder = cache.join("trial");
    let source = folder.join("src");
    fs::create_dir_all(&source).with_context(|| format!("cannot create {}", source.display()))?;
    let manifest = "[package]\nname = \"trial\"\nedition = \"2024\"\n\n[workspace]\n";
    let program = "#![no_std]\n#![no_main]\n\n\
                   #[unsafe(no_mangle)]\n#[unsafe(link_section = \"socket\")]\n\
                   pub extern \"C\" fn trial() -> u32 {\n    0\n}\n\n\
                   #[panic_handler]\nfn panic(_: &core::panic::PanicInfo) -> ! {\n    loop {}\n}\n";
    fs::write(folder.join("Cargo.toml"), manifest)
        .and_then(|()| fs::write(source.join("main.rs"), program))
        .context("cannot write the trial program")?;

    let mut build = bpf_command(toolchain, "cargo")?;
    build
        .current_dir(&folder)
        .args(["build", "--release", "-Z", "build-std=core"]);
    build
        .args(["--target", "bpfel-unknown-none", "--target-dir"])
        .arg(folder.join("target"));
    build.env(
        "CARGO_ENCODED_RUSTFLAGS",
        "-Cdebuginfo=2\u{1f}-Clink-arg=--btf",
    );
    output(&mut build)?;
    let object = folder.join("target/bpfel-unknown-none/release/trial");
    let bytes = fs::read(&object).with_context(|| format!("no {}", object.display()))?;
    // ELF's e_machine; 247 is EM_BPF.
    if bytes.get(18..20) != Some(&247_u16.to_le_bytes()) {
        bail!("{} is not a BPF object", object.display());
    }
    fs::remove_dir_all(&folder).context("cannot remove the trial program")
}
