//! `cargo xtask package`: the Debian package, from the static agent by cargo-deb.
//!
//! What is in it is said in `observer/Cargo.toml`, its maintainer scripts are in `deploy/debian`. Here
//! is made what follows from the rest: Debian's changelog, of the version, and the manual page.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    build::{self, AGENT, MUSL},
    debian, manual, setup,
    shell::{self, cache, cargo, command, output, root},
};

const CARGO_DEB: &str = "3.8.0";
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Where what is generated lies, below the root.
const FOLDER: &str = "target/debian";

pub fn run() -> Result<()> {
    setup::ensure()?;
    let package = make()?;
    println!(
        "{}",
        package.strip_prefix(root()).unwrap_or(&package).display()
    );
    Ok(())
}

/// Makes the package and installs, upgrades, removes and purges it on a copy of this machine.
pub fn check() -> Result<()> {
    let package = make()?;
    lint(&package)?;
    if shell::is_root() {
        return try_out(&package);
    }
    ensure!(
        std::env::var_os("CI").is_none(),
        "the package is installed in namespaces of its own: CI must run this as root"
    );
    println!("not installed anywhere: that needs root");
    Ok(())
}

fn make() -> Result<PathBuf> {
    let agent = build::static_agent()?;
    let cargo_deb = ensure_cargo_deb()?;
    let folder = root().join(FOLDER);
    fs::create_dir_all(&folder).with_context(|| format!("no {}", folder.display()))?;
    let date = date()?;
    let generated = [
        ("changelog", changelog(&maintainer()?, &date)),
        ("bgp-observer.8", manual::page(&agent, VERSION)?),
    ];
    for (name, text) in generated {
        fs::write(folder.join(name), text).with_context(|| format!("no {FOLDER}/{name}"))?;
    }
    let mut make = command(&cargo_deb.to_string_lossy())?;
    make.current_dir(root()).args([
        "--package",
        "observer",
        "--target",
        MUSL,
        "--no-build",
        "--no-strip",
        "--output",
        FOLDER,
    ]);
    make.env("SOURCE_DATE_EPOCH", seconds(&date)?);
    let said = output(&mut make)?;
    let path = said.lines().last().unwrap_or_default().trim();
    let package = root().join(path);
    ensure!(package.is_file(), "cargo-deb made no package: {said}");
    Ok(package)
}

/// It is only needed here, and takes a minute: not part of set-up.
fn ensure_cargo_deb() -> Result<PathBuf> {
    let cache = cache()?;
    let program = cache.join("tools/bin/cargo-deb");
    let is_it = |said: String| said.trim().ends_with(CARGO_DEB);
    if program.is_file() && output(Command::new(&program).arg("--version")).is_ok_and(is_it) {
        return Ok(program);
    }
    println!("building cargo-deb {CARGO_DEB}; this takes a minute");
    let mut install = shell::install_command(&cache, "cargo-deb", CARGO_DEB)?;
    // Debian's xz compresses.
    output(install.arg("--no-default-features")).context("cannot install cargo-deb")?;
    Ok(program)
}

/// When the source was last changed (RFC 5322); where that is not known, always the same.
fn date() -> Result<String> {
    let mut git = command("git")?;
    git.current_dir(root()).args(["log", "-1", "--format=%cD"]);
    let date = output(&mut git).unwrap_or_default();
    Ok(match date.trim() {
        "" => "Thu, 01 Jan 1970 00:00:00 +0000".to_owned(),
        date => date.to_owned(),
    })
}

fn seconds(date: &str) -> Result<String> {
    let seconds = output(Command::new("date").args(["--date", date, "+%s"]))?;
    Ok(seconds.trim().to_owned())
}

/// Debian's changelog says little more than the version: CHANGELOG.md is in the package, too.
fn changelog(maintainer: &str, date: &str) -> String {
    format!(
        "{AGENT} ({VERSION}-1) unstable; urgency=medium\n\n  * CHANGELOG.md tells what is new.\n\n \
         -- {maintainer}  {date}\n"
    )
}

/// `[package.metadata.deb]` of the agent.
fn metadata() -> Result<serde_json::Value> {
    let mut ask = cargo()?;
    ask.current_dir(root())
        .args(["metadata", "--no-deps", "--format-version", "1"]);
    let all: serde_json::Value = serde_json::from_str(&output(&mut ask)?)?;
    let packages = all.get("packages").and_then(|all| all.as_array());
    let agent = { packages.into_iter().flatten() }
        .find(|package| package.get("name").is_some_and(|name| name == "observer"));
    let deb = agent.and_then(|agent| agent.pointer("/metadata/deb"));
    deb.cloned().context("the agent says nothing of a package")
}

fn maintainer() -> Result<String> {
    let metadata = metadata()?;
    let maintainer = metadata.get("maintainer").and_then(|name| name.as_str());
    Ok(maintainer.context("no maintainer")?.to_owned())
}

/// What Debian finds wrong with the package.
fn lint(package: &Path) -> Result<()> {
    let missing = debian::missing(&["lintian"])?;
    if !missing.is_empty() {
        debian::install(&missing)?;
    }
    let mut lintian = command("lintian")?;
    // Not an upload to Debian: there is no request to package it there.
    lintian.args(["--allow-root", "--fail-on", "error,warning"]);
    lintian.args(["--suppress-tags", "initial-upload-closes-no-bugs"]);
    output(lintian.arg(package)).map(drop)?;
    println!("lintian has no objection");
    Ok(())
}

/// Where a package is tried: all that this machine has, of which nothing is written to. `$1` is the
/// package, `$2` an empty folder.
const ON_A_COPY: &str = "set -e
mount -t tmpfs none $2
mkdir $2/upper $2/work $2/root
mount -t overlay -o lowerdir=/,upperdir=$2/upper,workdir=$2/work none $2/root
mount -t tmpfs none $2/root/tmp
cp $1 $2/root/tmp/new.deb
mount -t proc none $2/root/proc
exec chroot $2/root sh -ec \"$COURSE\"
";

/// Each line is a step; the last word says what failed.
const COURSE: &str = r#"
export DEBIAN_FRONTEND=noninteractive PATH=/usr/sbin:/usr/bin:/sbin:/bin
step() { echo "step: $*"; }
absent() { test ! -e "$1" && test ! -L "$1"; }
state=/var/lib/private/bgp-observer
step "nothing of it is here before"
absent /usr/bin/bgp-observer
step "it installs"
dpkg --install /tmp/new.deb
step "it runs"
bgp-observer run --config /etc/bgp-observer/config.toml --print-config > /tmp/config
grep -q state_dir /tmp/config
step "the unit is where systemd looks, and nobody asked for it"
test -f /usr/lib/systemd/system/bgp-observer.service
absent /etc/systemd/system/multi-user.target.wants/bgp-observer.service
step "an operator changes the configuration, and the agent has state"
echo '# mine' >> /etc/bgp-observer/config.toml
mkdir -p $state
echo state > $state/peers.json
ln -s private/bgp-observer /var/lib/bgp-observer
systemctl enable bgp-observer
step "an upgrade leaves both, and that it is enabled"
dpkg --install /tmp/new.deb
grep -q '# mine' /etc/bgp-observer/config.toml
test -f /var/lib/bgp-observer/peers.json
test -L /etc/systemd/system/multi-user.target.wants/bgp-observer.service
step "removed, both stay"
dpkg --remove bgp-observer
absent /usr/bin/bgp-observer
grep -q '# mine' /etc/bgp-observer/config.toml
test -f /var/lib/bgp-observer/peers.json
step "purged, nothing stays"
dpkg --purge bgp-observer
absent /etc/bgp-observer
absent $state
absent /var/lib/bgp-observer
test -z "$(find /etc /usr /var/lib -xdev -name '*bgp-observer*' ! -path '*/dpkg/*' ! -path '/usr/src/*')"
step "done"
"#;

/// Installs, upgrades, removes and purges it.
fn try_out(package: &Path) -> Result<()> {
    let folder = std::env::temp_dir().join(format!("bgp-observer-deb-{}", std::process::id()));
    fs::create_dir_all(&folder).with_context(|| format!("no {}", folder.display()))?;
    let mut tried = Command::new("unshare");
    tried
        .args(["--mount", "--net", "--pid", "--fork", "--kill-child"])
        .args(["sh", "-c", ON_A_COPY, "sh"])
        .args([package, &folder])
        .env("COURSE", COURSE);
    let said = output(&mut tried);
    let _ = fs::remove_dir(&folder);
    let said = said?;
    if !said.contains("step: done") {
        bail!("the package was not tried to the end:\n{said}");
    }
    println!("the package was installed, upgraded, removed and purged; nothing of it stayed");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What cargo-deb would only find when it makes the package.
    #[test]
    fn what_the_package_holds_is_there_and_what_names_it_agrees() {
        let deb = metadata().unwrap();
        let assets: Vec<(String, String)> = { deb["assets"].as_array().unwrap().iter() }
            .map(|asset| {
                let part = |index: usize| asset[index].as_str().unwrap().to_owned();
                (part(0), part(1))
            })
            .collect();
        let generated = |from: &str| from.contains("target/");
        for (from, _) in assets.iter().filter(|(from, _)| !generated(from)) {
            let folder = from.split('*').next().unwrap();
            let path = root().join("observer").join(folder);
            assert!(path.exists(), "{from}");
        }
        let installs = |path: &str| {
            assets.iter().any(|(from, to)| {
                let name = from.rsplit('/').next().unwrap();
                format!("/{to}") == path || format!("/{to}{name}") == path
            })
        };
        assert!(installs("/usr/bin/bgp-observer"));
        for file in deb["conf-files"].as_array().unwrap() {
            assert!(installs(file.as_str().unwrap()), "{file}");
        }
        // A second place for the version would have to be kept true.
        assert!(deb["version"].is_null() && deb["revision"].is_null());

        let unit = fs::read_to_string(root().join("deploy/systemd/bgp-observer.service")).unwrap();
        assert!(unit.contains("ExecStart=/usr/bin/bgp-observer run\n"));
        assert!(unit.contains("BGP_OBSERVER_CONFIG=/etc/bgp-observer/config.toml\n"));
        assert!(unit.contains("StateDirectory=bgp-observer\n"));
    }

    #[test]
    fn the_changelog_names_this_version() {
        let text = changelog("A <a@example.org>", "Thu, 01 Jan 1970 00:00:00 +0000");
        assert!(text.starts_with(&format!("bgp-observer ({VERSION}-1) unstable;")));
        assert!(text.ends_with(" -- A <a@example.org>  Thu, 01 Jan 1970 00:00:00 +0000\n"));
    }
}
