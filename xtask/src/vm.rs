//! `cargo xtask vm`: the tests of the kernel programs and a lab, on stock Debian kernels in QEMU.
//!
//! Nothing is written twice for it: the same programs as on this machine, stripped, are put into an
//! initramfs together with their libraries and run as they are. No hardware virtualization is needed.

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
    shell::{Stopwatch, cache, cargo, command, output, root},
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
    /// Only the shorter steps.
    #[arg(long)]
    short: bool,
    /// Only the steps whose names begin so.
    #[arg(long, default_value = "")]
    only: String,
}

/// A command run in the guest.
struct Step {
    name: &'static str,
    /// For its shell.
    command: &'static str,
    /// Seconds after which it has failed.
    limit: u32,
    /// Left out with `--short`.
    long: bool,
}

/// What is put into the guest, by its target in cargo: the agent, `observer/tests/kernel*`, and the
/// others' files in `tests/tests/`.
const PROGRAMS: [&str; 6] = [
    build::AGENT,
    "kernel",
    "hosts",
    "privileges",
    "routes",
    "scenarios",
];

const STEPS: [Step; 9] = [
    // Exits 3 as soon as one probe or source cannot run; but for those of routes, which have a stand-in.
    Step {
        name: "check",
        command: "bgp-observer check >/tmp/check; status=$?; cat /tmp/check; \
                  grep -q 'from kernel probes (fentry, fexit)' /tmp/check && exit $status",
        limit: 60,
        long: false,
    },
    Step {
        name: "probes",
        command: "kernel --test-threads=2",
        limit: 900,
        long: false,
    },
    Step {
        name: "routes",
        command: "routes --test-threads=2 mesh link_that_goes_down",
        limit: 900,
        long: false,
    },
    // The second choice, which no kernel takes here by itself.
    Step {
        name: "kprobes",
        command: "BGP_OBSERVER_ROUTE_PROBES=kprobe bgp-observer check | \
                  grep 'from kernel probes (kprobe, kretprobe)'",
        limit: 60,
        long: false,
    },
    // Bond and VLAN.
    Step {
        name: "hosts",
        command: "hosts --test-threads=2",
        limit: 900,
        long: true,
    },
    // With what the manifests grant, and without each of it.
    Step {
        name: "privileges",
        command: "privileges --test-threads=2",
        limit: 900,
        long: true,
    },
    Step {
        name: "lab",
        command: "scenarios --exact restart_is_a_fin_for_the_peers_and_a_sigterm_for_the_victim",
        limit: 900,
        long: true,
    },
    // All others; but a burst takes a guest too long.
    Step {
        name: "more-routes",
        command: "routes --test-threads=2 --skip burst --skip many_routes --skip mesh \
                  --skip link_that_goes_down",
        limit: 900,
        long: true,
    },
    Step {
        name: "more-kprobes",
        command: "BGP_OBSERVER_ROUTE_PROBES=kprobe routes mesh link_that_goes_down nexthop",
        limit: 900,
        long: true,
    },
];

pub fn run(args: &Args) -> Result<()> {
    setup::ensure()?;
    let steps = steps(!args.short, &args.only);
    if steps.is_empty() {
        bail!("no step of the guest begins with `{}`", args.only);
    }
    matrix(&args.kernels, &steps, true)
}

/// Every series, with the shorter steps or all. A kernel that cannot be had fails it in CI; elsewhere it
/// is said.
pub fn all(long: bool) -> Result<()> {
    matrix(
        &SERIES.map(str::to_owned),
        &steps(long, ""),
        env::var_os("CI").is_some(),
    )
}

fn steps(long: bool, only: &str) -> Vec<&'static Step> {
    let wanted = |step: &&Step| step.name.starts_with(only) && (long || !step.long);
    STEPS.iter().filter(wanted).collect()
}

fn matrix(series: &[String], steps: &[&Step], all_must_be: bool) -> Result<()> {
    let folder = build::target().join("vm");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let programs = programs(&folder)?;
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
    programs: &[(&str, PathBuf)],
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

/// The agent and the test programs of this machine, without debug information: the guest has no use for
/// it, and little memory.
fn programs(folder: &Path) -> Result<Vec<(&'static str, PathBuf)>> {
    let mut test = cargo()?;
    test.args([
        "test",
        "--no-run",
        "--workspace",
        "--exclude",
        "observer-ebpf",
    ]);
    for name in PROGRAMS.iter().filter(|name| **name != build::AGENT) {
        test.args(["--test", name]);
    }
    test.args(["--message-format", "json-render-diagnostics"]);
    let told = output_only(&mut test)?;
    let mut programs = Vec::new();
    for name in PROGRAMS {
        let stripped = folder.join(name);
        let mut strip = command("strip")?;
        strip.arg("--strip-debug").arg("-o").arg(&stripped);
        output(strip.arg(executable(&told, name)?))?;
        programs.push((name, stripped));
    }
    Ok(programs)
}

/// Standard output, with standard error left to the terminal.
fn output_only(command: &mut Command) -> Result<String> {
    let output = command
        .stderr(std::process::Stdio::inherit())
        .output()
        .context("cannot start cargo")?;
    if !output.status.success() {
        bail!("building the programs ended with {}", output.status);
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
