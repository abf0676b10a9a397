//! `cargo xtask`: everything a developer or CI does with this repository, as one command each.
//!
//! It prepares a machine, builds, and runs checks by calling the ordinary tools. It holds no
//! product logic and nothing of it ships.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a terminal tool: what it prints is its result"
)]

mod bench;
mod build;
mod debian;
mod deploy;
mod empty_root;
mod fuzz;
mod image;
mod kubernetes;
mod lab;
mod manual;
mod names;
mod package;
mod python;
mod rules;
mod setup;
mod shell;
mod test;
mod toolchain;
mod vm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Automation of bgp-observer.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install or find all that building, lab and tests need; safe to repeat.
    Setup(setup::Args),
    /// Build the agent.
    Build(build::Args),
    /// Make the container image's root file system and the image as one file, without an engine,
    /// and as root run it where there is nothing else.
    Image(image::Args),
    /// Make the Debian package, for hosts without Kubernetes.
    Package,
    /// Write what deploy/ holds that is generated, and check the whole folder.
    Deploy(deploy::Args),
    /// Run a mesh of real BGP speakers on this machine and watch it with the agent (needs root).
    Lab(lab::Args),
    /// Measure this program beside others.
    Bench(bench::Args),
    /// Run the fuzz targets for a while.
    Fuzz(fuzz::Args),
    /// Check formatting, lints, licences, house rules and alerts, and run the tests.
    Test(test::Args),
    /// Run the kernel tests and a lab on stock Debian kernels in QEMU.
    Vm(vm::Args),
    /// What CI runs: `test` with CI=true.
    Ci,
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Setup(args) => setup::run(&args),
        Command::Build(args) => build::run(&args),
        Command::Image(args) => image::run(&args),
        Command::Package => package::run(),
        Command::Deploy(args) => deploy::run(&args),
        Command::Lab(args) => lab::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Fuzz(args) => fuzz::run(&args),
        Command::Test(args) => test::run(&args),
        Command::Vm(args) => vm::run(&args),
        Command::Ci => test::ci(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nxtask failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}
