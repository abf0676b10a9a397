//! Tools that come from PyPI, in a virtual environment of the cache. `xtask/python.txt` pins them,
//! each file by its hash.

use std::{fs, path::Path, path::PathBuf, process::Command};

use anyhow::{Context as _, Result};

use crate::shell::{Stopwatch, output, root};

const PINS: &str = "xtask/python.txt";
/// Debian's, whatever Python comes first on the PATH: set-up sees to its `venv`.
const PYTHON: &str = "/usr/bin/python3";

/// Makes the environment, if it is not what the pins say.
pub fn ensure(cache: &Path, say: &mut dyn FnMut(&str, &str)) -> Result<()> {
    let pins = fs::read_to_string(root().join(PINS)).with_context(|| format!("no {PINS}"))?;
    let named = named(&pins).join(", ");
    let folder = cache.join("python");
    let stamp = folder.join(".pins");
    if fs::read_to_string(&stamp).is_ok_and(|was| was == pins) {
        say("ok", &named);
        return Ok(());
    }
    let watch = Stopwatch::start();
    output(
        Command::new(PYTHON)
            .args(["-m", "venv", "--clear"])
            .arg(&folder),
    )
    .context("cannot make a Python environment")?;
    let mut pip = Command::new(folder.join("bin/pip"));
    pip.current_dir(root()).args([
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--require-hashes",
        "-r",
        PINS,
    ]);
    output(&mut pip).with_context(|| format!("cannot install what {PINS} lists"))?;
    fs::write(&stamp, pins).context("cannot note the Python packages in the cache")?;
    say("installed", &format!("{named} ({watch})"));
    Ok(())
}

/// A program of that environment.
pub fn program(cache: &Path, name: &str) -> PathBuf {
    cache.join("python/bin").join(name)
}

/// The packages and versions that `pins` holds.
fn named(pins: &str) -> Vec<&str> {
    pins.lines()
        .filter(|line| line.starts_with(|first: char| first.is_ascii_alphabetic()))
        .filter_map(|line| line.split([' ', ';']).next())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::named;

    #[test]
    fn comments_and_hashes_are_no_packages() {
        let pins = "# a==1\nb==2 \\\n    --hash=sha256:00\nc==3 ; python_version < \"3.12\" \\\n";
        assert_eq!(named(pins), ["b==2", "c==3"]);
    }
}
