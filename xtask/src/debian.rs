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
    UNPACKED
        .iter()
        .try_for_each(|package| unpack_one(cache, package, say))
}

/// Unpacks `package`, if it is not in the cache yet.
pub fn unpack_one(cache: &Path, package: &str, say: &mut dyn FnMut(&str, &str)) -> Result<()> {
    let folder = cache.join("debs").join(package);
    let stamp = folder.join(".versions");
    if let Ok(versions) = fs::read_to_string(&stamp) {
        say(
            "ok",
            &format!("{} (unpacked)", versions.trim().replace('\n', ", ")),
        );
        return Ok(());
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
            format!("cannot unpack {package}; perhaps `apt-get update` must be run as root first")
        })?;
    say("unpacked", &versions.join(", "));
    Ok(())
}

fn unpack(package: &str, folder: &Path) -> Result<Vec<String>> {
    let partial = folder.with_extension("partial");
    if partial.exists() {
        fs::remove_dir_all(&partial).context("cannot clear an interrupted download")?;
    }
    let mut wanted = vec![package.to_owned()];
    wanted.extend(missing_parts(package, |name| {
        let library = name.starts_with("lib") && !name.starts_with("libjs-");
        library || name.starts_with("python3-") || QEMU_PARTS.contains(&name)
    })?);
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

/// Those that are `wanted` of what an installation of `package` would add to this system. For a daemon
/// these are shared libraries, Python modules and parts: what else it depends on (log rotation, web fonts,
/// users) its programs run without.
pub fn missing_parts(package: &str, wanted: impl Fn(&str) -> bool) -> Result<Vec<String>> {
    let mut plan = apt_get();
    plan.args(["install", "--simulate", "--no-install-recommends", package]);
    let plan = output(&mut plan)?;
    Ok(plan
        .lines()
        .filter_map(|line| line.strip_prefix("Inst ")?.split(' ').next())
        .filter(|name| wanted(name))
        .map(str::to_owned)
        .collect())
}

fn has_candidate(package: &str) -> bool {
    output(Command::new("apt-cache").args(["policy", package]))
        .is_ok_and(|policy| policy.contains("Candidate: ") && !policy.contains("Candidate: (none)"))
}

/// Unpacks the source of `package` into `folder`, which must not exist, and gives its version. Most
/// machines list no sources: they are read as the machine's own packages are, into lists that are
/// thrown away.
pub fn unpack_source(package: &str, folder: &Path) -> Result<String> {
    let lists = folder.with_extension("lists");
    let archives = folder.with_extension("archives");
    for made in [&lists.join("partial"), &archives] {
        fs::create_dir_all(made).with_context(|| format!("cannot create {}", made.display()))?;
    }
    let sources = archives.join("sources.list");
    fs::write(&sources, source_lists()?).context("cannot write which sources to read")?;
    let apt = || {
        let mut apt = apt_get();
        for (option, value) in [
            ("Dir::Etc::sourcelist", sources.as_path()),
            ("Dir::Etc::sourceparts", Path::new("-")),
            ("Dir::State::lists", &lists),
        ] {
            apt.arg("-o").arg(format!("{option}={}", value.display()));
        }
        apt.current_dir(&archives);
        apt
    };
    output(apt().arg("update"))?;
    output(apt().args(["source", "--download-only", package]))
        .with_context(|| format!("Debian's lists have no source of {package}"))?;
    let named = |path: &PathBuf| path.extension().is_some_and(|end| end == "dsc");
    let description = archives_in(&archives)?.into_iter().find(named);
    let description = description.context("a source without a description")?;
    // apt has verified it by the hashes of the signed lists.
    let mut unpack = Command::new("dpkg-source");
    unpack.args(["--no-check", "-x"]).current_dir(&archives);
    output(unpack.arg(&description).arg(folder)).context("that needs Debian's dpkg-dev")?;
    for gone in [&lists, &archives] {
        fs::remove_dir_all(gone).context("cannot remove what was downloaded")?;
    }
    let name = description
        .file_stem()
        .unwrap_or_default()
        .to_string_lossy();
    let version = name.split_once('_').map_or("", |(_, version)| version);
    Ok(version.to_owned())
}

/// The archives that this machine has Debian's packages from, as lists of sources.
fn source_lists() -> Result<String> {
    const KEYS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
    let mut ask = apt_get();
    ask.args(["indextargets", "--format"]);
    ask.arg("deb-src [signed-by=@] $(SITE) $(RELEASE) $(COMPONENT)");
    ask.args(["Created-By: Packages", "Origin: Debian"]);
    let lists: BTreeSet<String> = output(&mut ask)?.lines().map(str::to_owned).collect();
    if lists.is_empty() {
        bail!("apt here reads no archive of Debian");
    }
    let mut text = String::new();
    for list in lists {
        text.push_str(&list.replace('@', KEYS));
        text.push('\n');
    }
    Ok(text)
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
