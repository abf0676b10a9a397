//! What the agent cannot do it says in words, with an exit code that is not 0, and does not start
//! halfway.

use std::{
    fs,
    net::TcpListener,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{self, Command, Output},
    time::Duration,
};

use anyhow::{Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use observer_tests::{agent, gate, wait};

const NOBODY: u32 = 65534;

/// `bgp-observer run` with nothing of its own outside `folder`.
fn agent_run(program: &Path, folder: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .args(["run", "--metrics-listen", "off", "--api-listen", "off"])
        .arg("--state-dir")
        .arg(folder.join("state"))
        .arg("--socket")
        .arg(folder.join("api.sock"));
    command
}

/// The same, expected to refuse: should it run, it is ended after a while.
fn run(folder: &Path) -> Result<Command> {
    let inner = agent_run(&agent::program()?, folder);
    let mut command = Command::new("timeout");
    command
        .arg("20")
        .arg(inner.get_program())
        .args(inner.get_args());
    Ok(command)
}

fn folder(name: &str) -> Result<PathBuf> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

fn refused(output: &Output, code: i32, words: &[&str]) -> Result<()> {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(
        output.status.code() == Some(code),
        "exit {}, said: {said}",
        output.status
    );
    for word in words {
        ensure!(said.contains(word), "does not name `{word}`: {said}");
    }
    ensure!(!said.contains("panicked"), "{said}");
    Ok(())
}

#[test]
fn unknown_flags_and_bad_values_are_bad_usage() -> Result<()> {
    let folder = folder("flags")?;
    refused(&run(&folder)?.arg("--colour").output()?, 2, &["--colour"])?;
    refused(
        &run(&folder)?.args(["--port", "0"]).output()?,
        2,
        &["--port", "0"],
    )?;
    refused(
        &run(&folder)?.args(["--port", "bgp"]).output()?,
        2,
        &["--port", "bgp"],
    )
}

#[test]
fn a_bad_configuration_is_named_with_file_and_line() -> Result<()> {
    let folder = folder("config")?;
    let config = folder.join("agent.toml");
    fs::write(&config, "port = [1790]\ncolour = \"red\"\n")?;
    let output = run(&folder)?.arg("--config").arg(&config).output()?;
    refused(&output, 2, &["agent.toml", "colour", "line 2"])
}

/// Starts `command` and waits until it has said `words`; it must go on, and end well on SIGTERM.
fn goes_on(mut command: Command, folder: &Path, words: &[&str]) -> Result<()> {
    let log = folder.join("log");
    let mut agent = command.stderr(fs::File::create(&log)?).spawn()?;
    let named = wait::soon("the agent says it", Duration::from_secs(15), || {
        let said = fs::read_to_string(&log)?;
        ensure!(agent.try_wait()?.is_none(), "it ended: {said}");
        match words.iter().find(|word| !said.contains(**word)) {
            Some(word) => bail!("does not name `{word}`: {said}"),
            None => Ok(()),
        }
    });
    // It may have ended by itself; then `named` says so.
    let _ = kill(Pid::from_raw(agent.id().try_into()?), Signal::SIGTERM);
    let status = agent.wait()?;
    named?;
    ensure!(status.success(), "SIGTERM: {status}");
    Ok(())
}

#[test]
fn a_namespace_that_is_not_there_is_named_and_waited_for() -> Result<()> {
    if !gate::open()? {
        return Ok(());
    }
    let folder = folder("netns")?;
    let mut command = agent_run(&agent::program()?, &folder);
    command.args(["--netns", "no-such-ns=n1"]);
    goes_on(command, &folder, &["no-such-ns"])
}

#[test]
fn type_information_that_cannot_be_read_is_named() -> Result<()> {
    if !gate::open()? {
        return Ok(());
    }
    let folder = folder("btf")?;
    let btf = folder.join("not.btf");
    fs::write(&btf, "this is not BTF")?;
    let output = run(&folder)?.arg("--btf").arg(&btf).output()?;
    refused(&output, 1, &["not.btf"])
}

#[test]
fn a_port_in_use_is_named() -> Result<()> {
    if !gate::open()? {
        return Ok(());
    }
    let folder = folder("port")?;
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let address = taken.local_addr()?.to_string();
    let mut command = Command::new("timeout");
    command
        .arg("20")
        .arg(agent::program()?)
        .args(["run", "--api-listen", "off"]);
    command.args(["--metrics-listen", &address]);
    command
        .arg("--state-dir")
        .arg(folder.join("state"))
        .arg("--socket")
        .arg(folder.join("s"));
    refused(&command.output()?, 1, &[&address, "in use"])
}

#[test]
fn a_missing_capability_is_named_with_what_is_lost_without_it() -> Result<()> {
    if !gate::open()? {
        return Ok(());
    }
    // Somewhere an ordinary user can write, and a copy of the program it can reach.
    let folder = std::env::temp_dir().join(format!("bgp-observer-nobody-{}", process::id()));
    fs::create_dir_all(&folder)?;
    std::os::unix::fs::chown(&folder, Some(NOBODY), Some(NOBODY))?;
    let program = folder.join("bgp-observer");
    fs::copy(agent::program()?, &program)?;
    // Without a source that tells causes it refuses; with the packet tap alone it degrades.
    let refusal = Command::new("timeout")
        .arg("20")
        .arg(&program)
        .args(agent_run(&program, &folder).get_args())
        .uid(NOBODY)
        .gid(NOBODY)
        .output();
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    command.args(["--inh-caps=+net_raw", "--ambient-caps=+net_raw"]);
    command
        .arg(&program)
        .args(agent_run(&program, &folder).get_args());
    let degraded = goes_on(command, &folder, &["CAP_BPF", "tcp_state", "polling"]);
    let check = Command::new(&program)
        .arg("check")
        .uid(NOBODY)
        .gid(NOBODY)
        .output();
    fs::remove_dir_all(&folder)?;
    refused(&refusal?, 1, &["CAP_BPF", "CAP_NET_RAW", "check"])?;
    degraded?;
    let check = check?;
    let said = String::from_utf8_lossy(&check.stdout);
    ensure!(
        check.status.code() == Some(3),
        "check: {}: {said}",
        check.status
    );
    ensure!(said.contains("CAP_BPF"), "check does not name it: {said}");
    Ok(())
}
