//! With which rights an agent runs: those that a shipped manifest or unit grants, and no others.

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

/// Names of capabilities, as `net_raw`.
pub type Capabilities = BTreeSet<String>;

/// What is applied to a cluster.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Overlay {
    /// `deploy/kubernetes/base`: no kernel programs, and nobody else's processes.
    Base,
    /// `deploy/kubernetes/overlays/ebpf`.
    Ebpf,
}

impl Overlay {
    /// What its agents may.
    pub fn capabilities(self) -> Result<Capabilities> {
        of_manifest(match self {
            Self::Base => "kubernetes/base/daemonset.yaml",
            Self::Ebpf => "kubernetes/overlays/ebpf/daemonset.yaml",
        })
    }

    /// `program` as a container of its pods starts it.
    pub fn start(self, program: &Path) -> Result<Command> {
        let mut command = match self {
            Self::Base => {
                // Without `hostPID` it sees its own processes only.
                let mut command = Command::new("unshare");
                command.args(["--pid", "--fork", "--kill-child", "--mount-proc", "setpriv"]);
                command
            }
            Self::Ebpf => Command::new("setpriv"),
        };
        confine(&mut command, &self.capabilities()?);
        command.arg("--inh-caps=-all").arg(program);
        Ok(command)
    }
}

/// Arguments of setpriv(1) that leave what follows no more than `capabilities`.
pub fn confine(setpriv: &mut Command, capabilities: &Capabilities) {
    setpriv
        .arg("--no-new-privs")
        .arg(format!("--bounding-set={}", list(capabilities)));
}

/// As setpriv(1) takes them.
pub fn list(capabilities: &Capabilities) -> String {
    capabilities
        .iter()
        .fold("-all".to_owned(), |list, name| format!("{list},+{name}"))
}

/// What a manifest below `deploy/` adds to its container.
pub fn of_manifest(file: &str) -> Result<Capabilities> {
    granted(file, "add: [", "]", ',')
}

/// The capabilities that `file` of `deploy/` lists on its line that begins with `key`.
pub fn granted(file: &str, key: &str, end: &str, between: char) -> Result<Capabilities> {
    // A guest has these files only, and elsewhere.
    let tree = env::var_os("BGP_OBSERVER_TREE").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join(".."),
        PathBuf::from,
    );
    let path = tree.join("deploy").join(file);
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let list = text
        .lines()
        .find_map(|line| line.trim().strip_prefix(key))
        .with_context(|| format!("{file}: no line {key}"))?;
    Ok(list
        .trim_end_matches(end)
        .split(between)
        .map(short)
        .collect())
}

/// `net_raw` of `CAP_NET_RAW` or `NET_RAW`.
pub fn short(name: &str) -> String {
    let name = name.trim();
    name.strip_prefix("CAP_").unwrap_or(name).to_lowercase()
}
