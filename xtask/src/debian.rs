//! Debian and Ubuntu packages.
//!
//! Build tools are installed on the system. The daemons that lab and tests run are only unpacked
//! into the cache: installing them would start services, and `bird` and `bird2` exclude each other.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::shell::{self, output, run};

/// Daemons, machines and the tools that watch them; unpacked into `<cache>/debs/<package>/` with those
/// libraries the system lacks.
const UNPACKED: [&str; 14] = [
    "bird",
    "bird2",
    "busybox-static",
    "exabgp",
    "frr",
    "gobgpd",
    "nftables",
    "openbgpd",
    "prometheus",
    "prometheus-alertmanager",
    "prometheus-bird-exporter",
    "qemu-system-x86",
    "tcpdump",
    "tshark",
];

/// What QEMU's program starts no machine without, beside libraries: accelerators and firmware.
const QEMU_PARTS: [&str; 3] = ["qemu-system-common", "qemu-system-data", "seabios"];

/// Those of `packages` that are not installed.
pub fn missing<'a>(packages: &[&'a str]) -> Result<Vec<&'a str>> {
    let mut query = Command::new("dpkg-query");
    query
        .args(["-W", "-f", "${Package} ${db:Status-Status}\n"])
        .args(packages);
    // Exits 1 as soon as one package is unknown; what it printed for the others still counts.
    let output = query.output().context(
        "no dpkg-query: set-up knows Debian and Ubuntu; elsewhere install the equivalents",
    )?;
    let known = String::from_utf8_lossy(&output.stdout).into_owned();
    let installed: BTreeSet<&str> = known
        .lines()
        .filter_map(|line| line.strip_suffix(" installed"))
        .collect();
    Ok(packages
        .iter()
        .copied()
        .filter(|package| !installed.contains(package))
        .collect())
}

/// Installs `packages` with apt-get; without root it fails with the command to run.
pub fn install(packages: &[&str]) -> Result<()> {
    if !shell::is_root() {
        bail!(
            "Debian packages are missing; run this as root, then repeat:\n\n  \
               apt-get update && apt-get install -y {}\n",
            packages.join(" ")
        );
    }
    if packages.iter().any(|package| !has_candidate(package)) {
        update()?;
    }
    let absent: Vec<&str> = packages
        .iter()
        .copied()
        .filter(|package| !has_candidate(package))
        .collect();
    if !absent.is_empty() {
        bail!("this system's package lists have no {}", absent.join(", "));
    }
    let install = || {
        let mut apt = apt_get();
        apt.args(["install", "-y", "--no-install-recommends"])
            .args(packages);
        output(&mut apt).map(drop)
    };
    // Lists that are older than the archive name versions it no longer holds.
    install().or_else(|_| update().and_then(|()| install()))
}

/// Unpacks every daemon that is not in the cache yet; says what it did.
pub fn unpack_all(cache: &Path, say: &mut dyn FnMut(&str, &str)) -> Result<()> {
    for package in UNPACKED {
        let folder = cache.join("debs").join(package);
        let stamp = folder.join(".versions");
        if let Ok(versions) = fs::read_to_string(&stamp) {
            say(
                "ok",
                &format!("{} (unpacked)", versions.trim().replace('\n', ", ")),
            );
            continue;
        }
        let versions = unpack(package, &folder)
            .or_else(|first| {
                if shell::is_root() {
                    update().and_then(|()| unpack(package, &folder))
                } else {
                    Err(first)
                }
            })
            .with_context(|| {
                format!(
                    "cannot unpack {package}; perhaps `apt-get update` must be run as root first"
                )
            })?;
        say("unpacked", &versions.join(", "));
    }
    Ok(())
}

fn unpack(package: &str, folder: &Path) -> Result<Vec<String>> {
    let partial = folder.with_extension("partial");
    if partial.exists() {
        fs::remove_dir_all(&partial).context("cannot clear an interrupted download")?;
    }
    let mut wanted = vec![package.to_owned()];
    wanted.extend(missing_parts(package)?);
    let versions = unpack_into(&wanted, &partial)?;
    fs::write(partial.join(".versions"), versions.join("\n") + "\n")
        .context("cannot note the versions")?;
    if folder.exists() {
        fs::remove_dir_all(folder).context("cannot replace an unpacked package")?;
    }
    fs::rename(&partial, folder).context("cannot move the unpacked package into its place")?;
    Ok(versions)
}

/// Downloads `packages`, unpacks them into one folder and gives name and version of each.
pub fn unpack_into(packages: &[String], folder: &Path) -> Result<Vec<String>> {
    let archives = folder.join(".archives");
    fs::create_dir_all(&archives)
        .with_context(|| format!("cannot create {}", archives.display()))?;
    output(
        apt_get()
            .arg("download")
            .args(packages)
            .current_dir(&archives),
    )?;
    let mut versions = Vec::new();
    for archive in archives_in(&archives)? {
        run(Command::new("dpkg-deb").arg("-x").arg(&archive).arg(folder))?;
        let field = output(
            Command::new("dpkg-deb")
                .args(["-W", "--showformat=${Package} ${Version}"])
                .arg(&archive),
        )?;
        versions.push(field.trim().to_owned());
    }
    fs::remove_dir_all(&archives).context("cannot remove the downloaded archives")?;
    Ok(versions)
}

fn archives_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut archives = Vec::new();
    for entry in fs::read_dir(folder).context("cannot list the downloaded archives")? {
        archives.push(entry.context("cannot list the downloaded archives")?.path());
    }
    archives.sort();
    Ok(archives)
}

/// The shared libraries, Python modules and parts an installation of `package` would add to this
/// system. What else it depends on (log rotation, web fonts, users) its programs run without.
fn missing_parts(package: &str) -> Result<Vec<String>> {
    let mut plan = apt_get();
    plan.args(["install", "--simulate", "--no-install-recommends", package]);
    let plan = output(&mut plan)?;
    Ok(plan
        .lines()
        .filter_map(|line| line.strip_prefix("Inst ")?.split(' ').next())
        .filter(|name| {
            let library = name.starts_with("lib") && !name.starts_with("libjs-");
            library || name.starts_with("python3-") || QEMU_PARTS.contains(name)
        })
        .map(str::to_owned)
        .collect())
}

fn has_candidate(package: &str) -> bool {
    output(Command::new("apt-cache").args(["policy", package]))
        .is_ok_and(|policy| policy.contains("Candidate: ") && !policy.contains("Candidate: (none)"))
}

/// Reads the package lists anew.
pub fn update() -> Result<()> {
    output(apt_get().arg("update")).map(drop)
}

fn apt_get() -> Command {
    let mut apt = Command::new("apt-get");
    apt.args(["-q", "-o", "DPkg::Lock::Timeout=300"]);
    apt.env("DEBIAN_FRONTEND", "noninteractive")
        .env("LC_ALL", "C.UTF-8");
    apt
}
