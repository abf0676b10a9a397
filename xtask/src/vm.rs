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
    thread::{self, ScopedJoinHandle},
};

use anyhow::{Context as _, Result, anyhow, bail};

use crate::{
    build, setup,
    shell::{self, Stopwatch, cache, cargo, command, output, root},
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

/// The steps that measure, of optimized programs.
const MEASURES: [&str; 2] = ["insert-rate", "drop-storm"];

const STEPS: [Step; 11] = [
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
        command: "routes --test-threads=2 mesh link_that_goes_down is_said",
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
        command: "routes --test-threads=2 --skip burst --skip many_routes --skip mesh --skip is_said \
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
    // What the probes cost BIRD.
    Step {
        name: "insert-rate",
        command: "BGP_OBSERVER_BIN=/bin/optimized bench probes --routes 5000 --turns 5",
        limit: 1800,
        long: true,
    },
    // And whoever drops packets; what each of them takes.
    Step {
        name: "drop-storm",
        command: "BGP_OBSERVER_BIN=/bin/optimized bench drops --turns 5",
        limit: 1800,
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
    // Another run in this tree would write the same files; the lock ends with the process.
    let _lock = shell::lock(&folder.join("lock"))?;
    let mut programs = programs(&folder)?;
    if steps.iter().any(|step| MEASURES.contains(&step.name)) {
        programs.extend(optimized(&folder)?);
    }
    let kernels: Vec<Result<Kernel>> = { series.iter() }
        .map(|series| kernel::ready(&cache()?, series))
        .collect();
    // A guest has one CPU, and this machine has more.
    let outcomes: Vec<Result<(Outcome, String)>> = thread::scope(|scope| {
        let (programs, folder) = (&programs, &folder);
        let boot = |kernel| scope.spawn(move || on(kernel, steps, programs, folder));
        let guests: Vec<_> = { kernels.iter() }
            .filter_map(|kernel| kernel.as_ref().ok().map(boot))
            .collect();
        let ended = guests.into_iter().map(ScopedJoinHandle::join);
        let or = |_| Err(anyhow!("a guest's thread panicked"));
        ended.map(|ended| ended.unwrap_or_else(or)).collect()
    });
    let mut outcomes = outcomes.into_iter();
    let mut lines = Vec::new();
    let mut failed = false;
    for (series, kernel) in series.iter().zip(&kernels) {
        let line = match kernel {
            Ok(kernel) => {
                let outcome = outcomes.next().context("a guest without an outcome")?;
                let (outcome, took) = outcome.with_context(|| format!("Linux {series}"))?;
                failed |= outcome.verdict != Verdict::Passed;
                tell_failures(kernel, &outcome);
                for figures in MEASURES.iter().filter_map(|step| outcome.told(step)) {
                    println!("Linux {series}: {figures}");
                }
                format!("Linux {:<24}{outcome} in {took}", kernel.version)
            }
            Err(error) => {
                failed |= all_must_be;
                format!("Linux {series:<24}NOT TESTED: {error:#}")
            }
        };
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

/// Boots a guest; gives what came of it, and how long it took.
fn on(
    kernel: &Kernel,
    steps: &[&Step],
    programs: &[(&str, PathBuf)],
    folder: &Path,
) -> Result<(Outcome, String)> {
    let watch = Stopwatch::start();
    let initramfs = folder.join(format!("{}.cpio", kernel.series));
    let console = folder.join(format!("{}.log", kernel.series));
    image::write(&initramfs, kernel, steps, programs)?;
    let seconds = 60 + steps.iter().map(|step| step.limit).sum::<u32>();
    let outcome = guest::boot(kernel, &initramfs, &console, seconds)?;
    fs::remove_file(&initramfs).context("cannot remove the initramfs")?;
    Ok((outcome.of(steps.len()), watch.to_string()))
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
    let stripped = PROGRAMS.iter().map(|name| {
        let program = executable(&told, name)?;
        Ok((*name, strip(folder, name, &program)?))
    });
    stripped.collect()
}

/// The agent and the benchmarks, for [`MEASURES`].
fn optimized(folder: &Path) -> Result<[(&'static str, PathBuf); 2]> {
    let agent = build::program(build::AGENT, true)?;
    let bench = build::program("bench", true)?;
    Ok([
        ("optimized", strip(folder, "optimized", &agent)?),
        ("bench", strip(folder, "bench", &bench)?),
    ])
}

/// `program` without debug information, as `name` in `folder`.
fn strip(folder: &Path, name: &str, program: &Path) -> Result<PathBuf> {
    let stripped = folder.join(name);
    let mut strip = command("strip")?;
    strip.arg("--strip-debug").arg("-o").arg(&stripped);
    output(strip.arg(program))?;
    Ok(stripped)
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
