//! `cargo xtask bench`: builds what is measured, optimized, and runs `bench/`.

use anyhow::Result;

use crate::{
    build, setup,
    shell::{command, run as run_command},
};

#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub struct Args {
    /// Passed to the benchmarks; `--help` lists them.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

pub fn run(args: &Args) -> Result<()> {
    setup::ensure()?;
    let agent = build::program(build::AGENT, true)?;
    let program = build::program("bench", true)?;
    let mut bench = command(&program.to_string_lossy())?;
    run_command(bench.args(&args.rest).env("BGP_OBSERVER_BIN", agent))
}
