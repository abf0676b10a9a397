//! `cargo xtask lab`: builds what the lab needs and becomes the lab.

use std::os::unix::process::CommandExt as _;

use anyhow::{Context as _, Result, bail};

use crate::{
    build, setup,
    shell::{command, is_root},
};

#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub struct Args {
    /// Build optimized, for figures: three times as long as the build that is quick to try.
    #[arg(long)]
    release: bool,
    /// Passed to the lab; `--help` lists them.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

pub fn run(args: &Args) -> Result<()> {
    let helps = args.rest.iter().any(|arg| arg == "--help" || arg == "-h");
    if !is_root() && !helps {
        bail!("the lab makes network namespaces and loads BPF programs: run it as root");
    }
    setup::ensure()?;
    let agent = build::program(build::AGENT, args.release)?;
    let program = build::program("lab", args.release)?;
    let program = program
        .to_str()
        .context("the target folder's path is not UTF-8")?;
    let error = command(program)?
        .args(&args.rest)
        .env("BGP_OBSERVER_BIN", agent)
        .exec();
    Err(error).with_context(|| format!("cannot start {program}"))
}
