//! `confine PROFILE PROGRAM …`: the program under a seccomp profile, as a container runtime starts it. Without
//! a program it makes a call that no agent makes, and succeeds if that is refused.

use std::{
    env, fs,
    os::unix::process::CommandExt as _,
    process::{Command, ExitCode},
};

use anyhow::{Context, Result};
use nix::errno::Errno;
use observer_tests::seccomp;

fn main() -> Result<ExitCode> {
    let mut arguments = env::args_os().skip(1);
    let profile = arguments.next().context("which profile?")?;
    let profile = fs::read_to_string(&profile)
        .with_context(|| format!("no profile {}", profile.display()))?;
    seccomp::apply(&profile)?;
    let Some(program) = arguments.next() else {
        // A root may do that where nothing refuses it.
        let refused = nix::unistd::chroot("/") == Err(Errno::EPERM);
        return Ok(if refused {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        });
    };
    Err(Command::new(program).args(arguments).exec().into())
}
