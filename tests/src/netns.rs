//! Network namespaces by name, as `ip netns` keeps them.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
};

use anyhow::{Context, Result, anyhow, bail};
use nix::sched::{CloneFlags, setns};

use crate::programs;

/// Where `ip netns` keeps its names.
pub const FOLDER: &str = "/run/netns";

/// Its file.
pub fn path(name: &str) -> PathBuf {
    Path::new(FOLDER).join(name)
}

/// Runs `f` on a thread of its own inside namespace `name`. Processes it starts, sockets it opens
/// and sysctls it writes are that namespace's.
pub fn inside<T: Send>(name: &str, f: impl FnOnce() -> T + Send) -> Result<T> {
    let file = File::open(path(name)).with_context(|| format!("no namespace {name}"))?;
    thread::scope(|scope| {
        scope
            .spawn(move || {
                setns(&file, CloneFlags::CLONE_NEWNET)
                    .with_context(|| format!("cannot enter namespace {name}"))?;
                Ok(f())
            })
            .join()
            .map_err(|_| anyhow!("panicked inside namespace {name}"))?
    })
}

/// Starts `command` inside namespace `name`.
pub fn spawn(name: &str, command: &mut Command) -> Result<Child> {
    let words = format!("{command:?}");
    inside(name, move || command.spawn())?.with_context(|| format!("cannot start {words}"))
}

/// Runs `command` inside namespace `name` and gives what it printed; fails when it fails.
pub fn output(name: &str, command: &mut Command) -> Result<String> {
    let words = format!("{command:?}");
    let output =
        inside(name, move || command.output())?.with_context(|| format!("cannot run {words}"))?;
    if !output.status.success() {
        bail!(
            "{words}: {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// How many packet sockets there are inside namespace `name` (`/proc/net/packet`, a line each after the
/// heading).
pub fn packet_sockets(name: &str) -> Result<usize> {
    let read = || fs::read_to_string("/proc/thread-self/net/packet");
    let text = inside(name, read)?.context("no /proc/net/packet")?;
    Ok(text.lines().skip(1).count())
}

/// Sets `net/…` sysctls inside namespace `name`.
pub fn sysctl(name: &str, settings: &[(&str, &str)]) -> Result<()> {
    inside(name, || {
        settings.iter().try_for_each(|(key, value)| {
            fs::write(format!("/proc/sys/net/{key}"), value)
                .with_context(|| format!("cannot set net/{key} in {name}"))
        })
    })?
}

/// Runs `lines` of `ip` in one process, inside namespace `name` if there is one.
pub fn ip(name: Option<&str>, lines: &[String]) -> Result<()> {
    let mut command = programs::find("iproute2", "ip")?.command();
    if let Some(name) = name {
        command.args(["-n", name]);
    }
    let mut child = command
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start ip")?;
    if let Some(mut stdin) = child.stdin.take() {
        let mut text = lines.join("\n");
        text.push('\n');
        // When `ip` ends early, its own words below say more than our broken pipe.
        let _: io::Result<()> = stdin.write_all(text.as_bytes());
    }
    let output = child.wait_with_output().context("ip")?;
    if !output.status.success() {
        bail!(
            "ip in {}: {}\n{}",
            name.unwrap_or("this namespace"),
            String::from_utf8_lossy(&output.stderr).trim(),
            lines.join("\n")
        );
    }
    Ok(())
}

/// Names that begin with `prefix`.
pub fn list(prefix: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir(FOLDER) else {
        return Vec::new();
    };
    let mut names: Vec<String> = entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with(prefix))
        .collect();
    names.sort();
    names
}

/// Deletes every namespace whose name begins with `prefix`.
pub fn delete(prefix: &str) -> Result<()> {
    let lines: Vec<String> = list(prefix)
        .into_iter()
        .map(|name| format!("netns delete {name}"))
        .collect();
    if lines.is_empty() {
        Ok(())
    } else {
        ip(None, &lines)
    }
}
