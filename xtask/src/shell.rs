//! Running other programs, and the folders everything happens in.

use std::{
    env,
    ffi::OsString,
    fmt,
    fs::File,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

/// The root of the repository.
pub fn root() -> &'static Path {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask)
}

/// Where set-up keeps what it downloads and builds: `$BGP_OBSERVER_CACHE`, else `bgp-observer` in
/// the user's cache folder. `observer/build.rs` and the lab use the same rule.
pub fn cache() -> Result<PathBuf> {
    let set = |name: &str| {
        env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    if let Some(cache) = set("BGP_OBSERVER_CACHE") {
        return std::path::absolute(cache).context("BGP_OBSERVER_CACHE is not a path");
    }
    let base = set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")));
    Ok(base
        .context("set HOME or BGP_OBSERVER_CACHE")?
        .join("bgp-observer"))
}

/// Waits until nobody else holds the lock in the file `path`. It is held until what this gives is dropped, or
/// the process ends.
pub fn lock(path: &Path) -> Result<File> {
    let file = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
    file.lock()
        .with_context(|| format!("cannot lock {}", path.display()))?;
    Ok(file)
}

/// A command in the repository's root that finds the cached tools first.
pub fn command(program: &str) -> Result<Command> {
    let cache = cache()?;
    let mut path = OsString::from(cache.join("tools/bin"));
    if let Some(rest) = env::var_os("PATH") {
        path.push(":");
        path.push(rest);
    }
    let mut command = Command::new(program);
    command
        .current_dir(root())
        .env("PATH", path)
        .env("BGP_OBSERVER_CACHE", cache);
    Ok(command)
}

/// The cargo that runs this xtask, as if it was called by hand: what cargo tells of *this* package makes
/// build scripts that ask for it (ring's) run again, and half of everything with them.
pub fn cargo() -> Result<Command> {
    let mut cargo = command(&env::var("CARGO").unwrap_or_else(|_| "cargo".into()))?;
    let told = env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    for name in
        told.filter(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_"))
    {
        cargo.env_remove(name);
    }
    Ok(cargo)
}

/// Installs a program from crates.io into the cache. Unoptimized: that halves the time to build it,
/// and none of these programs computes much itself.
pub fn install_command(cache: &Path, package: &str, version: &str) -> Result<Command> {
    let mut install = cargo()?;
    install.args([
        "install",
        package,
        "--locked",
        "--force",
        "--debug",
        "--version",
        version,
    ]);
    install.arg("--root").arg(cache.join("tools"));
    install
        .env("CARGO_PROFILE_DEV_DEBUG", "0")
        .env_remove("CARGO_TARGET_DIR");
    Ok(install)
}

/// A program of rustup's toolchain `toolchain`, whatever toolchain runs this xtask.
pub fn toolchain_command(toolchain: &str, program: &str) -> Result<Command> {
    let mut command = command("rustup")?;
    command.args(["run", toolchain, program]);
    for name in [
        "CARGO",
        "RUSTC",
        "RUSTUP_TOOLCHAIN",
        "RUSTC_WORKSPACE_WRAPPER",
    ] {
        command.env_remove(name);
    }
    Ok(command)
}

/// Runs to the end with the terminal as its output.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("cannot start {}", Shown(command)))?;
    if !status.success() {
        bail!("{} ended with {status}", Shown(command));
    }
    Ok(())
}

/// Runs to the end and returns standard output; on failure the error carries the output's tail.
pub fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {}", Shown(command)))?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let said = format!("{stdout}\n{}", String::from_utf8_lossy(&output.stderr));
        let lines: Vec<&str> = said
            .lines()
            .filter(|line| !line.trim().is_empty())
            .collect();
        let tail = lines
            .get(lines.len().saturating_sub(12)..)
            .unwrap_or_default()
            .join("\n  ");
        bail!("{} ended with {}:\n  {tail}", Shown(command), output.status);
    }
    Ok(stdout)
}

/// Whether it starts and exits 0; its output is dropped.
pub fn succeeds(command: &mut Command) -> bool {
    output(command).is_ok()
}

pub fn is_root() -> bool {
    // The owner of a process's own folder in /proc is its effective user.
    std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0)
}

/// A command as a person would type it.
struct Shown<'a>(&'a Command);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let program = Path::new(self.0.get_program());
        write!(
            f,
            "`{}",
            program
                .file_name()
                .unwrap_or(program.as_os_str())
                .to_string_lossy()
        )?;
        for arg in self.0.get_args() {
            write!(f, " {}", arg.to_string_lossy())?;
        }
        f.write_str("`")
    }
}

/// Measures a step.
pub struct Stopwatch(Instant);

impl Stopwatch {
    pub fn start() -> Self {
        Self(Instant::now())
    }

    pub fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}

impl fmt::Display for Stopwatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} s", self.elapsed().as_secs_f64())
    }
}
