//! The rules of ARCHITECTURE.md that a program can check.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, bail};

use crate::shell::{cargo, output, root};

const MAX_FILE_LINES: usize = 600;
const MAX_MAIN_LINES: usize = 99;
/// The core asks no clock, no network and no kernel; with these out of its tree it cannot.
const NOT_IN_CORE: [&str; 12] = [
    "aya",
    "axum",
    "hyper",
    "libc",
    "mio",
    "nix",
    "prometheus",
    "rand",
    "rustix",
    "socket2",
    "tokio",
    "tracing-subscriber",
];

/// Names every breach, not only the first.
pub fn check() -> Result<()> {
    let mut breaches = Vec::new();
    long_files(root(), &mut breaches)?;

    let main = fs::read_to_string(root().join("observer/src/main.rs"))
        .context("cannot read observer/src/main.rs")?;
    if main.lines().count() > MAX_MAIN_LINES {
        breaches.push(format!(
            "observer/src/main.rs has more than {MAX_MAIN_LINES} lines"
        ));
    }

    let core = fs::read_to_string(root().join("observer-core/src/lib.rs"))
        .context("cannot read observer-core/src/lib.rs")?;
    if !core.contains("#![forbid(unsafe_code)]") {
        breaches.push("observer-core does not forbid unsafe code".to_owned());
    }

    let tree = output(cargo()?.args([
        "tree",
        "--package",
        "observer-core",
        "--edges",
        "normal",
        "--prefix",
        "none",
        "--format",
        "{p}",
    ]))?;
    for dependency in tree.lines().filter_map(|line| line.split(' ').next()) {
        if NOT_IN_CORE.contains(&dependency) {
            breaches.push(format!("observer-core depends on {dependency}"));
        }
    }

    if !breaches.is_empty() {
        bail!("{}", breaches.join("\n  "));
    }
    Ok(())
}

fn long_files(folder: &Path, breaches: &mut Vec<String>) -> Result<()> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot list {}", folder.display()))?;
        let path = entry.path();
        let name = entry.file_name();
        let kind = entry
            .file_type()
            .with_context(|| format!("cannot stat {}", path.display()))?;
        if kind.is_dir() {
            if name != "target" && !name.to_string_lossy().starts_with('.') {
                long_files(&path, breaches)?;
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            let lines = text.lines().count();
            if lines > MAX_FILE_LINES {
                let shown = path.strip_prefix(root()).unwrap_or(&path).display();
                breaches.push(format!(
                    "{shown} has {lines} lines; at most {MAX_FILE_LINES}"
                ));
            }
        }
    }
    Ok(())
}
