//! `cargo xtask test` and `ci`: every check of the repository, in the order of their cost.
//!
//! A step whose tool is missing fails: nothing is skipped in silence.

use std::{
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, ensure};

use crate::{
    build, deploy, fuzz, image, package, rules, setup,
    shell::{Stopwatch, cache, cargo, command, run as run_command},
    toolchain, vm,
};

#[derive(clap::Args)]
pub struct Args {
    /// Also run the tests that take minutes.
    #[arg(long)]
    long: bool,
}

/// Test programs, and what the names of their tests begin with.
const BESIDE: [(&str, &str); 3] = [
    ("base", "every_scenario"),
    ("churn", "nothing_that_is_planned"),
    ("soak", "a_flapping_mesh"),
];

struct Step {
    name: &'static str,
    run: fn(long: bool) -> Result<()>,
}

const STEPS: [Step; 12] = [
    Step {
        name: "set-up",
        run: setup::ensure_for,
    },
    Step {
        name: "formatting",
        run: |_| formatting(),
    },
    Step {
        name: "house rules",
        run: |_| rules::check(),
    },
    Step {
        name: "licences, bans, sources",
        run: |_| licences(),
    },
    Step {
        name: "deployment",
        run: |_| deploy::check(),
    },
    Step {
        name: "lints",
        run: |_| lints(),
    },
    Step {
        name: "lints of the kernel side",
        run: |_| kernel_side_lints(),
    },
    Step {
        name: "programs",
        run: |_| programs(),
    },
    Step {
        name: "image and package",
        run: image,
    },
    Step {
        name: "tests",
        run: tests,
    },
    Step {
        name: "kernels",
        run: vm::all,
    },
    Step {
        name: "fuzzing",
        run: fuzz::step,
    },
];

pub fn run(args: &Args) -> Result<()> {
    all(args.long)
}

pub fn ci() -> Result<()> {
    // Tests fail instead of explaining a skip when they see it.
    let own = std::env::current_exe().context("cannot find this program")?;
    run_command(
        command(&own.to_string_lossy())?
            .arg("test")
            .env("CI", "true"),
    )
}

fn all(long: bool) -> Result<()> {
    let mut done: Vec<(&str, Duration)> = Vec::new();
    let mut failed = None;
    for step in &STEPS {
        println!("\n== {}", step.name);
        let watch = Stopwatch::start();
        let result = (step.run)(long);
        println!("-- {} took {watch}", step.name);
        done.push((step.name, watch.elapsed()));
        if let Err(error) = result {
            failed = Some((step.name, error));
            break;
        }
    }

    println!();
    for step in &STEPS {
        let result = match done.iter().find(|(name, _)| *name == step.name) {
            None => "not run".to_owned(),
            Some((name, took)) => {
                let failed = failed.as_ref().is_some_and(|(step, _)| step == name);
                format!(
                    "{} {:>7.1} s",
                    if failed { "FAILED" } else { "ok    " },
                    took.as_secs_f64()
                )
            }
        };
        println!("{:<26}{result}", step.name);
    }
    match failed {
        None => Ok(()),
        Some((name, error)) => Err(error.context(format!("step `{name}`"))),
    }
}

/// `fuzz/` is a workspace of its own.
fn formatting() -> Result<()> {
    run_command(cargo()?.args(["fmt", "--all", "--check"]))?;
    run_command(cargo()?.args(["fmt", "--manifest-path", "fuzz/Cargo.toml", "--check"]))
}

fn licences() -> Result<()> {
    let mut deny = command("cargo-deny")?;
    // Advisories are not checked: their database must be fetched, and CI has no such network.
    deny.args([
        "--all-features",
        "--workspace",
        "check",
        "licenses",
        "bans",
        "sources",
    ]);
    run_command(&mut deny)
}

fn lints() -> Result<()> {
    let mut clippy = cargo()?;
    clippy.args([
        "clippy",
        "--workspace",
        "--exclude",
        "observer-ebpf",
        "--all-targets",
    ]);
    run_command(clippy.args(["--", "-D", "warnings"]))
}

fn kernel_side_lints() -> Result<()> {
    let toolchain = toolchain::current(&cache()?).context("set-up took no BPF toolchain")?;
    let mut clippy = toolchain::bpf_command(&toolchain, "cargo")?;
    clippy.args([
        "clippy",
        "--package",
        "observer-ebpf",
        "--release",
        "-Z",
        "build-std=core",
    ]);
    clippy.args(["--target", "bpfel-unknown-none", "--", "-D", "warnings"]);
    run_command(&mut clippy)
}

/// The agent and the lab, with the features that the tests have: what the tests start.
fn programs() -> Result<()> {
    let mut build = cargo()?;
    run_command(build.args([
        "build",
        "--workspace",
        "--exclude",
        "observer-ebpf",
        "--bins",
    ]))
}

/// It builds the agent once more, optimized and static: minutes.
fn image(long: bool) -> Result<()> {
    if long {
        image::check()?;
        return package::check();
    }
    println!("only with --long");
    Ok(())
}

/// All tests. Those of [`BESIDE`] run at the same time as the others: they do little but wait, for minutes.
fn tests(long: bool) -> Result<()> {
    let test = |arguments: &[&str], filter: &[&str]| -> Result<Command> {
        let mut test = cargo()?;
        test.args(["test", "--workspace", "--exclude", "observer-ebpf"]);
        test.args(arguments).arg("--").args(filter);
        if long {
            test.arg("--include-ignored");
        }
        let agent = build::target().join("debug/bgp-observer");
        test.env("BGP_OBSERVER_BIN", agent);
        Ok(test)
    };
    run_command(&mut test(&["--no-run"], &[])?)?;
    let (mut waiting, mut skipped) = (Vec::new(), Vec::new());
    for (target, name) in BESIDE {
        waiting.push(test(&["--test", target], &[name, "--nocapture"])?);
        skipped.extend(["--skip", name]);
    }
    let mut others = test(&["--no-fail-fast"], &skipped)?;
    thread::scope(|scope| {
        let waiting: Vec<_> = { waiting.iter_mut() }
            .map(|command| scope.spawn(|| tell_at_end(command)))
            .collect();
        let others = run_command(&mut others);
        let waited: Vec<_> = waiting
            .into_iter()
            .map(thread::ScopedJoinHandle::join)
            .collect();
        others?;
        waited
            .into_iter()
            .try_for_each(|waited| waited.map_err(|_| anyhow!("whoever waited panicked"))?)
    })
}

/// Runs to the end; what it printed comes in one piece.
fn tell_at_end(command: &mut Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).output()?;
    print!("{}", String::from_utf8_lossy(&output.stderr));
    print!("{}", String::from_utf8_lossy(&output.stdout));
    ensure!(
        output.status.success(),
        "the tests beside: {}",
        output.status
    );
    Ok(())
}
