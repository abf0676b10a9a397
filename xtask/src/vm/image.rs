//! The guest's root file system: one initramfs with a shell, network tools, BIRD, the modules, the
//! programs under test and `init.sh`.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs::{self, File},
    io::{BufWriter, Write},
    os::unix::fs::PermissionsExt as _,
    path::{Component, Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use super::{Step, guest, kernel::Kernel};
use crate::shell::{cache, output, root};

const INIT: &str = include_str!("init.sh");

/// Of busybox. Its `ip` is left out, which would hide iproute2's.
const APPLETS: [&str; 21] = [
    "awk", "cat", "cut", "dd", "dmesg", "env", "grep", "insmod", "kill", "ls", "mkdir", "mount",
    "printf", "reboot", "rm", "sed", "sleep", "tail", "timeout", "umount", "uname",
];

/// This machine's, for busybox's know too little.
const PROGRAMS: [&str; 5] = ["dash", "ip", "ss", "setpriv", "unshare"];

/// What tests read of the repository. It lies in [`TREE`] there.
const FILES: [&str; 3] = [
    "deploy/kubernetes/base/daemonset.yaml",
    "deploy/kubernetes/overlays/ebpf/daemonset.yaml",
    "deploy/systemd/bgp-observer.service",
];
const TREE: &str = "tree";

/// Packages of the cache, whole: the lab finds them there as it does on this machine.
const PACKAGES: [&str; 2] = ["bird", "nftables"];

/// Writes the initramfs of `kernel`.
pub fn write(
    to: &Path,
    kernel: &Kernel,
    steps: &[&Step],
    programs: &[(&str, PathBuf)],
) -> Result<()> {
    let file = File::create(to).with_context(|| format!("cannot write {}", to.display()))?;
    let mut archive = Archive::new(BufWriter::new(file));
    archive.data("init", 0o755, INIT.as_bytes())?;
    archive.data("steps", 0o644, commands(steps).as_bytes())?;
    archive.device("dev/console", (5, 1))?;
    for file in FILES {
        archive.file(&format!("{TREE}/{file}"), &root().join(file))?;
    }
    let mut libraries = tools(&mut archive)?;
    for (name, path) in programs {
        archive.file(&format!("bin/{name}"), path)?;
        libraries.extend(needed(path, None)?);
    }
    for library in &libraries {
        archive.file(&library.to_string_lossy(), library)?;
    }
    let mut order = String::new();
    for module in &kernel.modules {
        let name = module.file_name().unwrap_or_default().to_string_lossy();
        archive.file(&format!("modules/{name}"), module)?;
        order.push_str(&name);
        order.push('\n');
    }
    archive.data("modules/order", 0o644, order.as_bytes())?;
    archive.end()
}

/// A line per step for `init.sh`: name, seconds, command.
fn commands(steps: &[&Step]) -> String {
    let mut lines = String::new();
    for step in steps {
        // Writing to a String does not fail.
        let _ = writeln!(lines, "{} {} {}", step.name, step.limit, step.command);
    }
    lines
}

/// Gives the libraries that they need.
fn tools<W: Write>(archive: &mut Archive<W>) -> Result<BTreeSet<PathBuf>> {
    let debs = cache()?.join("debs");
    archive.file("bin/busybox", &debs.join("busybox-static/bin/busybox"))?;
    for applet in APPLETS {
        archive.link(&format!("bin/{applet}"), "busybox")?;
    }
    archive.link("bin/sh", "dash")?;
    let mut libraries = BTreeSet::new();
    for program in PROGRAMS {
        let path = on_path(program)?;
        archive.file(&format!("bin/{program}"), &path)?;
        libraries.extend(needed(&path, None)?);
    }
    for package in PACKAGES {
        let folder = debs.join(package);
        archive.tree(&format!("cache/debs/{package}"), &folder)?;
        for program in programs_of(&folder)? {
            libraries.extend(needed(&program, Some(&folder))?);
        }
    }
    libraries.retain(|path| !path.starts_with(&debs));
    Ok(libraries)
}

fn on_path(program: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from))
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
        .with_context(|| format!("no {program} on this machine"))
}

fn programs_of(package: &Path) -> Result<Vec<PathBuf>> {
    let mut programs = Vec::new();
    for folder in ["usr/sbin", "usr/bin", "sbin", "bin"] {
        let Ok(entries) = fs::read_dir(package.join(folder)) else {
            continue;
        };
        for entry in entries {
            programs.push(entry.context("cannot list a package")?.path());
        }
    }
    Ok(programs)
}

/// The loader and the shared libraries of a program, by the paths it asks for.
fn needed(program: &Path, package: Option<&Path>) -> Result<Vec<PathBuf>> {
    let mut ldd = Command::new("ldd");
    if let Some(package) = package {
        ldd.env("LD_LIBRARY_PATH", guest::libraries(package)?);
    }
    let told = output(ldd.arg(program))?;
    Ok(told.lines().filter_map(library).collect())
}

/// `libc.so.6 => /lib/…/libc.so.6 (0x…)` and `/lib64/ld-linux-x86-64.so.2 (0x…)`.
fn library(line: &str) -> Option<PathBuf> {
    let line = line.trim();
    let path = line.split_once("=> ").map_or(line, |(_, path)| path);
    let path = path.split(" (0x").next()?;
    path.starts_with('/').then(|| PathBuf::from(path))
}

/// An archive in the one format that the kernel unpacks (cpio "newc",
/// Documentation/driver-api/early-userspace/buffer-format.rst).
struct Archive<W: Write> {
    to: W,
    inode: u32,
    folders: BTreeSet<PathBuf>,
}

const FILE: u32 = 0o10_0000;
const FOLDER: u32 = 0o4_0000;
const LINK: u32 = 0o12_0000;
const CHARACTER_DEVICE: u32 = 0o2_0000;

impl<W: Write> Archive<W> {
    fn new(to: W) -> Self {
        Self {
            to,
            inode: 0,
            folders: BTreeSet::new(),
        }
    }

    fn data(&mut self, name: &str, mode: u32, bytes: &[u8]) -> Result<()> {
        self.entry(name, FILE | mode, (0, 0), bytes)
    }

    fn link(&mut self, name: &str, target: &str) -> Result<()> {
        self.entry(name, LINK | 0o777, (0, 0), target.as_bytes())
    }

    fn device(&mut self, name: &str, number: (u32, u32)) -> Result<()> {
        self.entry(name, CHARACTER_DEVICE | 0o600, number, &[])
    }

    /// What `path` is or points to, with its permissions.
    fn file(&mut self, name: &str, path: &Path) -> Result<()> {
        let read = || -> std::io::Result<_> {
            Ok((fs::metadata(path)?.permissions().mode(), fs::read(path)?))
        };
        let (mode, bytes) = read().with_context(|| format!("cannot read {}", path.display()))?;
        self.data(name, mode & 0o777, &bytes)
    }

    /// A folder and all below it but documentation.
    fn tree(&mut self, name: &str, folder: &Path) -> Result<()> {
        let entries =
            fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
        for entry in entries {
            let path = entry.context("cannot list a folder")?.path();
            let file = path.file_name().unwrap_or_default().to_string_lossy();
            let name = format!("{name}/{file}");
            if path.is_symlink() {
                let target = fs::read_link(&path).context("cannot read a link")?;
                self.link(&name, &target.to_string_lossy())?;
            } else if path.is_dir() && file != "share" {
                self.tree(&name, &path)?;
            } else if path.is_file() {
                self.file(&name, &path)?;
            }
        }
        Ok(())
    }

    fn entry(&mut self, name: &str, mode: u32, device: (u32, u32), data: &[u8]) -> Result<()> {
        let name = name.trim_start_matches('/');
        let mut above = PathBuf::new();
        let parent = Path::new(name).parent().unwrap_or(Path::new(""));
        for part in parent.components() {
            if let Component::Normal(part) = part {
                above.push(part);
                if self.folders.insert(above.clone()) {
                    self.raw(&above.to_string_lossy(), FOLDER | 0o755, (0, 0), &[])?;
                }
            }
        }
        self.raw(name, mode, device, data)
    }

    fn raw(&mut self, name: &str, mode: u32, device: (u32, u32), data: &[u8]) -> Result<()> {
        self.inode += 1;
        let length = u32::try_from(data.len()).context("a file is too large for an initramfs")?;
        let name_length = u32::try_from(name.len() + 1).context("a name is too long")?;
        // inode, mode, uid, gid, links, mtime, size, device of the file, device it is, name, check
        let fields = [
            self.inode,
            mode,
            0,
            0,
            1,
            0,
            length,
            0,
            0,
            device.0,
            device.1,
            name_length,
            0,
        ];
        let mut header = String::from("070701");
        for field in fields {
            // Writing to a String does not fail.
            let _ = write!(header, "{field:08x}");
        }
        header.push_str(name);
        header.push('\0');
        self.padded(header.as_bytes())?;
        self.padded(data)
    }

    fn padded(&mut self, bytes: &[u8]) -> Result<()> {
        let rest = bytes.len().next_multiple_of(4) - bytes.len();
        let zeros = [0; 3];
        self.to
            .write_all(bytes)
            .and_then(|()| self.to.write_all(zeros.get(..rest).unwrap_or_default()))
            .context("cannot write the initramfs")
    }

    fn end(mut self) -> Result<()> {
        self.raw("TRAILER!!!", 0, (0, 0), &[])?;
        self.to.flush().context("cannot write the initramfs")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_what_cpio_reads() {
        let mut bytes = Vec::new();
        let mut archive = Archive::new(&mut bytes);
        archive.data("a/b/file", 0o644, b"hello").unwrap();
        archive.data("a/b/other", 0o755, b"").unwrap();
        archive.link("a/link", "b/file").unwrap();
        archive.end().unwrap();
        let text = String::from_utf8(bytes.clone()).unwrap();
        let names: Vec<&str> = text
            .match_indices("070701")
            .map(|(at, _)| text[at + 110..].split('\0').next().unwrap())
            .collect();
        assert_eq!(
            names,
            ["a", "a/b", "a/b/file", "a/b/other", "a/link", "TRAILER!!!"]
        );
        let at = text.find("a/b/file\0").unwrap() - 110;
        assert_eq!(at % 4, 0);
        assert_eq!(&text[at + 14..at + 22], "000081a4");
        assert_eq!(&text[at + 54..at + 62], "00000005");
        // Header and name are 119 bytes: one of padding, then the data.
        assert_eq!(&bytes[at + 120..at + 125], b"hello");
        assert_eq!(bytes.len() % 4, 0);
    }

    #[test]
    fn a_library_is_read_from_ldd() {
        let found = |line| library(line).map(|path| path.display().to_string());
        assert_eq!(
            found("\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)").unwrap(),
            "/lib/x86_64-linux-gnu/libc.so.6"
        );
        assert_eq!(
            found("\t/lib64/ld-linux-x86-64.so.2 (0x00007f)").unwrap(),
            "/lib64/ld-linux-x86-64.so.2"
        );
        assert_eq!(found("\tlinux-vdso.so.1 (0x00007f)"), None);
        assert_eq!(found("\tstatically linked"), None);
    }
}
