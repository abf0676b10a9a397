//! One boot of a guest: QEMU's command line, and what its console and exit status say.

use std::{
    fmt,
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use super::kernel::Kernel;
use crate::shell::cache;

/// What `init.sh` writes to isa-debug-exit where all is well, as QEMU's exit status.
const PASSED: i32 = 16 << 1 | 1;

#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    Passed,
    Failed,
}

/// What came of a boot.
#[derive(Debug)]
pub struct Outcome {
    pub verdict: Verdict,
    /// Name and seconds of each step, and whether it passed.
    steps: Vec<(String, String, bool)>,
    /// All that the guest printed.
    pub console: String,
}

impl Outcome {
    /// The verdict needs both witnesses: QEMU's status, and every step's own line.
    fn read(status: Option<i32>, console: String) -> Self {
        let steps: Vec<_> = console.lines().filter_map(step).collect();
        let ended = console.lines().any(|line| line.trim_end() == "vm: end ok");
        let passed = status == Some(PASSED) && ended && steps.iter().all(|step| step.2);
        Self {
            verdict: if passed {
                Verdict::Passed
            } else {
                Verdict::Failed
            },
            steps,
            console,
        }
    }

    /// What the step `name` printed.
    pub fn told(&self, name: &str) -> Option<&str> {
        let (_, after) = self.console.split_once(&format!("vm: begin {name}"))?;
        let (told, _) = after.split_once("vm: ")?;
        Some(told.trim())
    }

    /// The same, failed where fewer than `count` steps were told.
    pub fn of(mut self, count: usize) -> Self {
        if self.steps.len() < count {
            self.verdict = Verdict::Failed;
        }
        self
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.verdict {
            Verdict::Passed => "ok    ",
            Verdict::Failed => "FAILED",
        })?;
        if self.steps.is_empty() {
            f.write_str(" no step ran")?;
        }
        for (name, seconds, passed) in &self.steps {
            let mark = if *passed { "" } else { " FAILED" };
            write!(f, "  {name}{mark} {seconds} s")?;
        }
        Ok(())
    }
}

fn step(line: &str) -> Option<(String, String, bool)> {
    let line = line.trim_end();
    let (rest, passed) = match line.strip_prefix("vm: ok ") {
        Some(rest) => (rest, true),
        None => (line.strip_prefix("vm: FAILED ")?, false),
    };
    let (name, seconds) = rest.split_once(' ').unwrap_or((rest, "?"));
    Some((name.to_owned(), seconds.to_owned(), passed))
}

/// Boots `kernel` with `initramfs`, for at most `seconds`; the console goes to the file `console`.
pub fn boot(kernel: &Kernel, initramfs: &Path, console: &Path, seconds: u32) -> Result<Outcome> {
    let mut qemu = qemu(seconds)?;
    // Not KVM: a /dev/kvm that is there need not work, and then QEMU hangs without a word.
    qemu.args(["-M", "q35", "-accel", "tcg"]);
    // One CPU: where another has just been let run on from a breakpoint that Linux patches probes in
    // with, QEMU may run it into that breakpoint all the same ("Oops: int3").
    qemu.args(["-cpu", "max", "-smp", "1", "-m", "1536"]);
    // The guest's clocks count its instructions, 4 ns each, and leap where it is idle: what it measures and
    // how long it waits does not depend on what else this machine does.
    qemu.args(["-icount", "shift=2,sleep=off"]);
    qemu.args([
        "-nodefaults",
        "-nographic",
        "-serial",
        "stdio",
        "-no-reboot",
    ]);
    qemu.args(["-device", "isa-debug-exit,iobase=0x501,iosize=2"]);
    // no_timer_check: on a busy machine the guest's timer may come late, which Linux takes for broken.
    qemu.args([
        "-append",
        "console=ttyS0 panic=-1 quiet mitigations=off no_timer_check",
    ]);
    qemu.arg("-kernel").arg(&kernel.vmlinux);
    qemu.arg("-initrd").arg(initramfs);
    let write =
        || File::create(console).with_context(|| format!("cannot write {}", console.display()));
    qemu.stdin(std::process::Stdio::null()).stdout(write()?);
    let log = File::options().append(true).open(console);
    qemu.stderr(log.context("cannot open the console's log")?);
    let status = qemu.status().context("cannot start QEMU")?;
    let told = fs::read(console).with_context(|| format!("no {}", console.display()))?;
    let told = String::from_utf8_lossy(&told).into_owned();
    Ok(Outcome::read(status.code(), told))
}

/// The unpacked QEMU under a time limit.
fn qemu(seconds: u32) -> Result<Command> {
    let root = cache()?.join("debs/qemu-system-x86");
    let program = root.join("usr/bin/qemu-system-x86_64");
    let mut command = Command::new("timeout");
    command
        .args(["-k", "5", &seconds.to_string()])
        .arg(&program);
    command.env("LD_LIBRARY_PATH", libraries(&root)?);
    let modules = root.join("usr/lib/x86_64-linux-gnu/qemu");
    command.env("QEMU_MODULE_DIR", modules);
    for folder in ["usr/share/qemu", "usr/share/seabios"] {
        command.arg("-L").arg(root.join(folder));
    }
    Ok(command)
}

/// Where an unpacked package's own libraries are, as the loader wants it.
pub fn libraries(package: &Path) -> Result<std::ffi::OsString> {
    let mut folders: Vec<PathBuf> = Vec::new();
    for parent in ["usr/lib", "lib"] {
        let folder = package.join(parent).join("x86_64-linux-gnu");
        if folder.is_dir() {
            // Some packages keep what only they use one level down.
            for entry in fs::read_dir(&folder).context("cannot list a library folder")? {
                let path = entry.context("cannot list a library folder")?.path();
                folders.extend(path.is_dir().then_some(path));
            }
            folders.insert(0, folder);
        }
    }
    std::env::join_paths(folders).context("a path holds a colon")
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONSOLE: &str = "\
[    0.1] something
vm: begin check\r
vm: ok check 1.5\r
vm: begin probes\r
vm: ok probes 20.25\r
vm: end ok\r
";

    #[test]
    fn a_guest_passes_only_with_both_witnesses() {
        let read = |status, console: &str| Outcome::read(status, console.to_owned()).verdict;
        assert_eq!(read(Some(33), CONSOLE), Verdict::Passed);
        // A panic, the time limit, a guest that fell silent, a step that failed.
        assert_eq!(read(Some(0), CONSOLE), Verdict::Failed);
        assert_eq!(read(Some(124), CONSOLE), Verdict::Failed);
        assert_eq!(read(None, CONSOLE), Verdict::Failed);
        assert_eq!(
            read(Some(33), &CONSOLE.replace("end ok", "end")),
            Verdict::Failed
        );
        let failed = CONSOLE.replace("ok check 1.5", "FAILED check 1.5 (exit 3)");
        assert_eq!(read(Some(33), &failed), Verdict::Failed);
    }

    #[test]
    fn what_a_step_printed_is_between_its_lines() {
        let console = CONSOLE.replace("vm: ok check", "all is\r\nwell\r\nvm: ok check");
        let outcome = Outcome::read(Some(33), console);
        assert_eq!(outcome.told("check"), Some("all is\r\nwell"));
        assert_eq!(outcome.told("other"), None);
    }

    #[test]
    fn a_step_that_never_ran_fails_the_guest() {
        let outcome = || Outcome::read(Some(33), CONSOLE.to_owned());
        assert_eq!(outcome().of(2).verdict, Verdict::Passed);
        assert_eq!(outcome().of(3).verdict, Verdict::Failed);
        assert_eq!(outcome().to_string(), "ok      check 1.5 s  probes 20.25 s");
    }
}
