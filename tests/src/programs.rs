//! Where the programs of a lab are: unpacked Debian packages in the cache that `cargo xtask setup`
//! fills, else the PATH.

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, bail};

/// A program and what its loader must know.
#[derive(Clone, Debug)]
pub struct Program {
    path: PathBuf,
    libraries: Option<OsString>,
}

impl Program {
    /// A command that runs it.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        if let Some(libraries) = &self.libraries {
            command.env("LD_LIBRARY_PATH", libraries);
        }
        command
    }

    /// The same as words of a shell.
    pub fn shell_words(&self) -> String {
        let path = self.path.display();
        match &self.libraries {
            Some(libraries) => format!("LD_LIBRARY_PATH={} {path}", libraries.display()),
            None => path.to_string(),
        }
    }

    /// Where the loader must look for its libraries, if not only where it always does.
    pub fn libraries(&self) -> Option<&OsString> {
        self.libraries.as_ref()
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

const FOLDERS: [&str; 6] = [
    "usr/sbin",
    "usr/bin",
    "sbin",
    "bin",
    "usr/lib/frr",
    "usr/lib/bird",
];

/// The folder that `cargo xtask setup` fills.
pub fn cache() -> PathBuf {
    let set = |name: &str| {
        env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    if let Some(cache) = set("BGP_OBSERVER_CACHE") {
        return cache;
    }
    set("XDG_CACHE_HOME")
        .unwrap_or_else(|| set("HOME").unwrap_or_else(|| "/root".into()).join(".cache"))
        .join("bgp-observer")
}

/// Finds program `name` of Debian package `package`.
pub fn find(package: &str, name: &str) -> Result<Program> {
    let root = cache().join("debs").join(package);
    if let Some(path) = FOLDERS
        .iter()
        .map(|f| root.join(f).join(name))
        .find(|p| p.is_file())
    {
        return Ok(Program {
            path,
            libraries: libraries_of(&root),
        });
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&path)
        .chain(FOLDERS.iter().map(|folder| Path::new("/").join(folder)))
        .map(|folder| folder.join(name))
        .find(|candidate| candidate.is_file() && serves(package, candidate));
    match found {
        Some(path) => Ok(Program {
            path,
            libraries: None,
        }),
        None => bail!(
            "no `{name}` of Debian's package {package}: neither under {} nor on the PATH; \
             run `cargo xtask setup`",
            root.display()
        ),
    }
}

/// BIRD 1 and BIRD 2 call their programs the same.
fn serves(package: &str, candidate: &Path) -> bool {
    let major = match package {
        "bird" => "version 1.",
        "bird2" => "version 2.",
        _ => return true,
    };
    Command::new(candidate)
        .arg("--version")
        .output()
        .is_ok_and(|output| {
            let said = [output.stdout, output.stderr].concat();
            String::from_utf8_lossy(&said).contains(major)
        })
}

/// The folders with shared libraries of an unpacked package, for the loader.
fn libraries_of(root: &Path) -> Option<OsString> {
    let mut folders = Vec::new();
    for parent in ["usr/lib", "lib"] {
        let Ok(entries) = fs::read_dir(root.join(parent)) else {
            continue;
        };
        for entry in entries.flatten() {
            if entry.file_name().to_string_lossy().contains("-linux-gnu") {
                let frr = entry.path().join("frr");
                folders.push(entry.path());
                folders.extend(frr.is_dir().then_some(frr));
            }
        }
    }
    if folders.is_empty() {
        return None;
    }
    env::join_paths(folders).ok()
}
