//! `safe-to-restart` as a script asks: by its exit code.

use std::{process::Command, time::Duration};

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use observer_tests::{
    agent::{Agent, Options},
    gate,
    lab::Plan,
    stage::observed,
    wait,
};

const SOON: Duration = Duration::from_secs(30);

/// Its exit code must be this one; what it says then.
fn exits(mut command: Command, code: i32) -> Result<String> {
    let output = command.output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        output.status.code() == Some(code),
        "{code} expected: {}: {said}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(said)
}

fn ask(agent: &Agent, more: &[&str]) -> Command {
    agent.command(&[&["safe-to-restart"], more].concat())
}

#[test]
fn a_script_reads_the_answer_in_the_exit_code() -> Result<()> {
    if !gate::open()? {
        return Ok(());
    }
    let (lab, agent) = observed(Plan::default(), &Options::default())?;
    wait::soon("all is well", SOON, || exits(ask(&agent, &[]), 0))?;
    let n2 = lab.node(2)?;
    lab.end(n2, Signal::SIGKILL)?;
    let said = wait::soon("one is away", SOON, || exits(ask(&agent, &[]), 3))?;
    ensure!(said.contains("10.0.0.2"), "it does not say why: {said}");
    exits(ask(&agent, &["--wait", "--timeout", "1s"]), 3)?;
    lab.start(n2)?;
    exits(ask(&agent, &["--wait", "--timeout", "2m"]), 0)?;
    exits(ask(&agent, &["--node", "nobody"]), 4)?;
    let orphaned = ask(&agent, &[]);
    agent.stop()?;
    exits(orphaned, 4).map(drop)
}
