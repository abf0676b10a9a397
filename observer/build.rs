//! Builds the kernel programs (`observer-ebpf`) and leaves the object in `OUT_DIR` for the agent to
//! embed.
//!
//! `AYA_BUILD_SKIP=1` embeds an empty object instead: editors and clippy are fast, and the agent
//! says at start that it was built without kernel programs. The toolchain is, in this order,
//! `BGP_OBSERVER_BPF_TOOLCHAIN`, the one that `cargo xtask setup` wrote down, the nightly if it has
//! its own `core` source, and the one named `bpf` (Debian's rustc, linked by `cargo xtask setup`).
//! bpf-linker is looked for in the set-up's own folder first, then on `PATH`.

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use aya_build::{Package, Toolchain};

const REMEDY: &str = "run `cargo xtask setup` (or set AYA_BUILD_SKIP=1 to build without)";

fn main() {
    // An `error` fails the build by itself. An exit status on top would make cargo print everything
    // this script ever said, and bury the one line that helps.
    if let Err(reason) = build() {
        say(&format!("error={reason}"));
    }
}

fn build() -> Result<(), String> {
    for variable in [
        "AYA_BUILD_SKIP",
        "BGP_OBSERVER_BPF_TOOLCHAIN",
        "BGP_OBSERVER_CACHE",
        "XDG_CACHE_HOME",
        "HOME",
        "PATH",
    ] {
        say(&format!("rerun-if-env-changed={variable}"));
    }
    let out_dir = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    if env::var("AYA_BUILD_SKIP").is_ok_and(|skip| skip == "1" || skip == "true") {
        return fs::write(out_dir.join("observer-ebpf"), [])
            .map_err(|error| format!("cannot write into {}: {error}", out_dir.display()));
    }

    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").ok_or("no manifest dir")?);
    let workspace = manifest.parent().unwrap_or(&manifest);
    say(&format!(
        "rerun-if-changed={}",
        workspace.join("observer-abi").display()
    ));

    let cache = cache_dir();
    let toolchain = toolchain(cache.as_deref())?;
    prepare_environment(cache.as_deref(), &toolchain)?;
    let programs = workspace.join("observer-ebpf");
    let package = Package {
        name: "observer-ebpf",
        root_dir: programs
            .to_str()
            .ok_or("the workspace's path is not UTF-8")?,
        ..Package::default()
    };
    aya_build::build_ebpf([package], Toolchain::Custom(&toolchain)).map_err(|error| {
        format!("the kernel programs do not build with the toolchain `{toolchain}`: {error:#}")
            .replace('\n', " ")
    })
}

/// Where `cargo xtask setup` keeps what it installs.
fn cache_dir() -> Option<PathBuf> {
    let named = |name| {
        env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    named("BGP_OBSERVER_CACHE")
        .or_else(|| named("XDG_CACHE_HOME").map(|cache| cache.join("bgp-observer")))
        .or_else(|| named("HOME").map(|home| home.join(".cache/bgp-observer")))
}

fn toolchain(cache: Option<&Path>) -> Result<String, String> {
    if let Some(named) = env::var("BGP_OBSERVER_BPF_TOOLCHAIN")
        .ok()
        .filter(|it| !it.is_empty())
    {
        return usable(&named).ok_or_else(|| {
            format!(
                "BGP_OBSERVER_BPF_TOOLCHAIN={named}: rustup has no such toolchain with its \
                     `core` source; {REMEDY}"
            )
        });
    }
    let recorded = cache.map(|cache| cache.join("toolchain"));
    if let Some(file) = &recorded {
        say(&format!("rerun-if-changed={}", file.display()));
    }
    let recorded = recorded.and_then(|file| fs::read_to_string(file).ok());
    [recorded.as_deref().map_or("", str::trim), "nightly", "bpf"]
        .into_iter()
        .filter(|name| !name.is_empty())
        .find_map(usable)
        .ok_or_else(|| {
            format!(
                "no Rust toolchain that can build the kernel programs (a nightly with \
                     rust-src, or Debian's rustc linked as `bpf`); {REMEDY}"
            )
        })
}

/// The toolchain's name, if rustup has it and it brings the source of `core`.
fn usable(name: &str) -> Option<String> {
    let output = Command::new("rustup")
        .args(["run", name, "rustc", "--print", "sysroot"])
        .stderr(Stdio::null())
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    let sysroot = PathBuf::from(String::from_utf8(output.stdout).ok()?.trim());
    sysroot
        .join("lib/rustlib/src/rust/library/core/Cargo.toml")
        .is_file()
        .then(|| name.to_owned())
}

/// Sets what the nested cargo inherits.
fn prepare_environment(cache: Option<&Path>, toolchain: &str) -> Result<(), String> {
    let mut path = OsString::new();
    if let Some(cache) = cache {
        path.push(cache.join("tools/bin"));
        path.push(":");
    }
    path.push(env::var_os("PATH").unwrap_or_default());
    if !env::split_paths(&path).any(|dir| dir.join("bpf-linker").is_file()) {
        return Err(format!("bpf-linker is not installed; {REMEDY}"));
    }
    let bootstrap = !toolchain.starts_with("nightly");
    // SAFETY: a build script's main thread, before it has started any other.
    unsafe {
        env::set_var("PATH", path);
        // Progress lines would come out as warnings of every build.
        env::set_var("CARGO_TERM_QUIET", "true");
        // aya-build only passes -Zbuild-std to a nightly or to a compiler told to be one.
        if bootstrap {
            env::set_var("RUSTC_BOOTSTRAP", "1");
        } else {
            env::remove_var("RUSTC_BOOTSTRAP");
        }
    }
    Ok(())
}

/// Tells cargo.
fn say(directive: &str) {
    println!("cargo::{directive}");
}
