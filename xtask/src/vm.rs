//! `cargo xtask vm`: the tests of the kernel programs and a lab, on stock Debian kernels in QEMU.
//!
//! Nothing is written twice for it: the same test programs as on this machine, built static, are put
//! into an initramfs and run as they are. No hardware virtualization is needed.

mod guest;
mod image;
mod kernel;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    build, setup,
    shell::{Stopwatch, cache, cargo, root},
};
use guest::{Outcome, Verdict};
use kernel::Kernel;

/// The oldest and the newest series that set-up's Debian offers.
const SERIES: [&str; 2] = ["6.1", "6.12"];

#[derive(clap::Args)]
pub struct Args {
    /// Kernel series.
    #[arg(default_values = SERIES, value_name = "SERIES")]
    kernels: Vec<String>,
    /// Only the steps whose names begin so.
    #[arg(long, default_value = "")]
    only: String,
}

/// One program run in the guest.
struct Step {
    name: &'static str,
    /// Which static program, and what the shell calls it with.
    program: Program,
    arguments: &'static str,
    /// Seconds after which it has failed.
    limit: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Program {
    Agent,
    /// `observer/tests/kernel*`.
    KernelTests,
    /// `tests/tests/routes.rs`.
    Routes,
    /// `tests/tests/scenarios.rs`.
    Scenarios,
}

impl Program {
    const ALL: [Self; 4] = [
        Self::Agent,
        Self::KernelTests,
        Self::Routes,
        Self::Scenarios,
    ];

    /// Its target in cargo.
    const fn target(self) -> &'static str {
        match self {
            Self::Agent => build::AGENT,
            Self::KernelTests => "kernel",
            Self::Routes => "routes",
            Self::Scenarios => "scenarios",
        }
    }
}

const STEPS: [Step; 4] = [
    // Exits 3 as soon as one probe or source cannot run; but for those of routes, which have a stand-in.
    Step {
        name: "check",
        program: Program::Agent,
        arguments: "check >/tmp/check; status=$?; cat /tmp/check; \
                    grep -q 'from kernel probes (fentry, fexit)' /tmp/check && exit $status",
        limit: 60,
    },
    Step {
        name: "probes",
        program: Program::KernelTests,
        arguments: "--test-threads=2",
        limit: 600,
    },
    // A burst takes a guest minutes.
    Step {
        name: "routes",
        program: Program::Routes,
        arguments: "--test-threads=2 --skip burst --skip many_routes",
        limit: 600,
    },
    Step {
        name: "lab",
        program: Program::Scenarios,
        arguments: "--exact restart_is_a_fin_for_the_peers_and_a_sigterm_for_the_victim",
        limit: 300,
    },
];

pub fn run(args: &Args) -> Result<()> {
    setup::ensure()?;
    let steps: Vec<&Step> = STEPS
        .iter()
        .filter(|step| step.name.starts_with(&args.only))
        .collect();
    if steps.is_empty() {
        bail!("no step of the guest begins with `{}`", args.only);
    }
    matrix(&args.kernels, &steps, true)
}

/// Every series with every step. A kernel that cannot be had fails it in CI; elsewhere it is said.
pub fn all() -> Result<()> {
    let steps: Vec<&Step> = STEPS.iter().collect();
    matrix(
        &SERIES.map(str::to_owned),
        &steps,
        env::var_os("CI").is_some(),
    )
}

fn matrix(series: &[String], steps: &[&Step], all_must_be: bool) -> Result<()> {
    let programs = static_programs()?;
    let folder = build::target().join("vm");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let mut lines = Vec::new();
    let mut failed = false;
    for series in series {
        let watch = Stopwatch::start();
        let line = match kernel::ready(&cache()?, series) {
            Ok(kernel) => {
                let outcome = on(&kernel, steps, &programs, &folder)
                    .with_context(|| format!("Linux {series}"))?;
                failed |= outcome.verdict != Verdict::Passed;
                tell_failures(&kernel, &outcome);
                format!("Linux {:<18}{outcome} in {watch}", kernel.version)
            }
            Err(error) => {
                failed |= all_must_be;
                format!("Linux {series:<18}NOT TESTED: {error:#}")
            }
        };
        println!("{line}");
        lines.push(line);
    }
    println!("\nkernels:\n  {}", lines.join("\n  "));
    if failed {
        bail!(
            "not every kernel passed; consoles are in {}",
            shown(&folder)
        );
    }
    Ok(())
}

fn on(
    kernel: &Kernel,
    steps: &[&Step],
    programs: &[(Program, PathBuf)],
    folder: &Path,
) -> Result<Outcome> {
    let initramfs = folder.join(format!("{}.cpio", kernel.series));
    let console = folder.join(format!("{}.log", kernel.series));
    image::write(&initramfs, kernel, steps, programs)?;
    let seconds = 60 + steps.iter().map(|step| step.limit).sum::<u32>();
    let outcome = guest::boot(kernel, &initramfs, &console, seconds)?;
    fs::remove_file(&initramfs).context("cannot remove the initramfs")?;
    Ok(outcome.of(steps.len()))
}

fn tell_failures(kernel: &Kernel, outcome: &Outcome) {
    if outcome.verdict != Verdict::Passed {
        println!(
            "-- console of Linux {}:\n{}",
            kernel.version, outcome.console
        );
    }
}

/// The agent and the test programs, for musl and without debug information: the guest has no use
/// for it, and little memory.
fn static_programs() -> Result<Vec<(Program, PathBuf)>> {
    if !setup::has_musl_target()? {
        bail!(
            "the Rust toolchain in use has no {0}: `rustup target add {0}`",
            build::MUSL
        );
    }
    let mut test = cargo()?;
    test.args(["test", "--no-run", "--target", build::MUSL]);
    test.args(["--package", "observer", "--package", "observer-tests"]);
    test.args([
        "--test",
        "kernel",
        "--test",
        "routes",
        "--test",
        "scenarios",
    ]);
    test.args(["--message-format", "json-render-diagnostics"]);
    test.env("CARGO_PROFILE_DEV_DEBUG", "0");
    // Unoptimized, reading the kernel's BTF takes a guest half a minute; all else is cheap there.
    for package in ["observer", "aya-obj"] {
        test.arg("--config");
        test.arg(format!("profile.dev.package.{package}.opt-level=1"));
    }
    let told = output_only(&mut test)?;
    Program::ALL
        .into_iter()
        .map(|program| Ok((program, executable(&told, program.target())?)))
        .collect()
}

/// Standard output, with standard error left to the terminal.
fn output_only(command: &mut Command) -> Result<String> {
    let output = command
        .stderr(std::process::Stdio::inherit())
        .output()
        .context("cannot start cargo")?;
    if !output.status.success() {
        bail!("building the static programs ended with {}", output.status);
    }
    String::from_utf8(output.stdout).context("cargo's messages are not UTF-8")
}

/// Where cargo put target `name`, by its messages.
fn executable(messages: &str, name: &str) -> Result<PathBuf> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .find(|message| {
            message.pointer("/target/name").and_then(|it| it.as_str()) == Some(name)
                && message
                    .get("executable")
                    .is_some_and(serde_json::Value::is_string)
        })
        .and_then(|message| Some(PathBuf::from(message.get("executable")?.as_str()?)))
        .with_context(|| format!("cargo built no {name}"))
}

fn shown(path: &Path) -> std::path::Display<'_> {
    path.strip_prefix(root()).unwrap_or(path).display()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_found_among_cargos_messages() {
        let messages = r#"{"reason":"compiler-artifact","target":{"name":"kernel"},"executable":null}
not JSON
{"reason":"compiler-artifact","target":{"name":"kernel"},"executable":"/t/kernel-1"}
{"reason":"build-finished","success":true}"#;
        assert_eq!(
            executable(messages, "kernel").unwrap(),
            Path::new("/t/kernel-1")
        );
        assert!(executable(messages, "scenarios").is_err());
    }
}
