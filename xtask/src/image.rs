//! `cargo xtask image`: the root file system of the container image, and the image as one file that
//! container engines load (an OCI archive), made without an engine.
//!
//! `deploy/image/Dockerfile` is the one place that says what is in the image and how it starts; its
//! last stage is read here. With the same agent the files are the same, byte by byte.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    build, empty_root, setup,
    shell::{self, output, root},
};

const DOCKERFILE: &str = "deploy/image/Dockerfile";
const NAME: &str = "bgp-observer";
const PROGRAM: &str = "/usr/bin/bgp-observer";
const VERSION: &str = env!("CARGO_PKG_VERSION");

#[derive(clap::Args)]
pub struct Args {
    /// Take this static agent instead of building one.
    #[arg(long, value_name = "FILE")]
    agent: Option<PathBuf>,
}

pub fn run(args: &Args) -> Result<()> {
    let agent = if let Some(agent) = &args.agent {
        agent.clone()
    } else {
        setup::ensure()?;
        build::static_agent()?
    };
    let made = make(&agent)?;
    for path in &made {
        println!("{}", path.strip_prefix(root()).unwrap_or(path).display());
    }
    let [rootfs, _] = made;
    try_out(&rootfs)
}

/// Makes the image and runs it where there is nothing else.
pub fn check() -> Result<()> {
    let [rootfs, _] = make(&build::static_agent()?)?;
    try_out(&rootfs)
}

fn try_out(rootfs: &Path) -> Result<()> {
    if shell::is_root() {
        return empty_root::try_in(rootfs, PROGRAM);
    }
    ensure!(
        std::env::var_os("CI").is_none(),
        "the image runs in namespaces of its own: CI must run this as root"
    );
    println!("not run in an empty root: that needs root");
    Ok(())
}

/// The root file system and the archive.
fn make(agent: &Path) -> Result<[PathBuf; 2]> {
    let dockerfile =
        fs::read_to_string(root().join(DOCKERFILE)).with_context(|| format!("no {DOCKERFILE}"))?;
    let stage = Stage::last_of(&dockerfile)?;
    let folder = build::target().join("image");
    let rootfs = stage.root_file_system(&folder, agent)?;
    let archive = stage.archive(&folder, &rootfs)?;
    ensure!(
        stage.program == PROGRAM && stage.entrypoint == format!("[{PROGRAM:?}]"),
        "{DOCKERFILE}: the agent is not {PROGRAM}"
    );
    Ok([rootfs, archive])
}

/// The last stage of a Dockerfile.
#[derive(Debug, Default, PartialEq)]
struct Stage {
    /// Where the agent lies, absolute.
    program: String,
    /// JSON arrays.
    entrypoint: String,
    command: String,
    /// `NAME=VALUE`.
    environment: Vec<String>,
}

impl Stage {
    /// Fails on an instruction that is not known here: the image would lack what it says.
    fn last_of(dockerfile: &str) -> Result<Self> {
        let instructions = dockerfile
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'));
        let mut stage = Self::default();
        let mut from_scratch = false;
        for line in instructions {
            let (instruction, rest) = line.split_once(' ').unwrap_or((line, ""));
            match instruction {
                "FROM" => {
                    from_scratch = rest == "scratch";
                    stage = Self::default();
                }
                "COPY" if from_scratch => {
                    let to = rest.rsplit(' ').next().unwrap_or_default();
                    to.clone_into(&mut stage.program);
                }
                "ENTRYPOINT" => rest.clone_into(&mut stage.entrypoint),
                "CMD" => rest.clone_into(&mut stage.command),
                "ENV" => stage.environment.push(rest.to_owned()),
                other if from_scratch => bail!("{DOCKERFILE}: {other} in the last stage"),
                _ => {}
            }
        }
        ensure!(
            from_scratch && stage.program.starts_with('/') && stage.entrypoint.starts_with('['),
            "{DOCKERFILE}: the last stage is not FROM scratch with a COPY and an ENTRYPOINT"
        );
        Ok(stage)
    }

    /// A folder with what the image holds.
    fn root_file_system(&self, folder: &Path, agent: &Path) -> Result<PathBuf> {
        let rootfs = folder.join("rootfs");
        if rootfs.exists() {
            fs::remove_dir_all(&rootfs).context("cannot remove the last root file system")?;
        }
        let program = rootfs.join(self.program.trim_start_matches('/'));
        let parent = program.parent().context("the program lies nowhere")?;
        fs::create_dir_all(parent)
            .with_context(|| format!("cannot create {}", parent.display()))?;
        fs::copy(agent, &program)
            .with_context(|| format!("cannot copy the agent {}", agent.display()))?;
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755))
            .context("cannot make the agent executable")?;
        Ok(rootfs)
    }

    /// The image in the OCI layout: blobs by their hash, in one tar file.
    fn archive(&self, folder: &Path, rootfs: &Path) -> Result<PathBuf> {
        let layout = folder.join("oci");
        if layout.exists() {
            fs::remove_dir_all(&layout).context("cannot remove the last image")?;
        }
        let blobs = layout.join("blobs/sha256");
        fs::create_dir_all(&blobs).with_context(|| format!("no {}", blobs.display()))?;
        let layer = folder.join("layer.tar");
        tar(rootfs, &layer)?;
        let layer = Blob::store(&blobs, &fs::read(&layer).context("no layer")?)?;
        let config = Blob::store(&blobs, self.config(&layer).as_bytes())?;
        let manifest = Blob::store(&blobs, manifest(&config, &layer).as_bytes())?;
        fs::write(layout.join("index.json"), index(&manifest))
            .and_then(|()| {
                let version = "{\"imageLayoutVersion\":\"1.0.0\"}";
                fs::write(layout.join("oci-layout"), version)
            })
            .context("cannot write the image's index")?;
        let archive = folder.join(format!("{NAME}-{VERSION}.oci.tar"));
        tar(&layout, &archive)?;
        Ok(archive)
    }

    fn config(&self, layer: &Blob) -> String {
        let environment: Vec<String> = self
            .environment
            .iter()
            .map(|set| format!("{set:?}"))
            .collect();
        format!(
            "{{\"architecture\":\"amd64\",\"os\":\"linux\",\"config\":{{\"Env\":[{}],\
             \"Entrypoint\":{},\"Cmd\":{},\
             \"Labels\":{{\"org.opencontainers.image.title\":\"{NAME}\",\
             \"org.opencontainers.image.version\":\"{VERSION}\",\
             \"org.opencontainers.image.licenses\":\"Apache-2.0\"}}}},\
             \"rootfs\":{{\"type\":\"layers\",\"diff_ids\":[\"sha256:{}\"]}}}}",
            environment.join(","),
            self.entrypoint,
            self.command,
            layer.hash
        )
    }
}

fn manifest(config: &Blob, layer: &Blob) -> String {
    format!(
        "{{\"schemaVersion\":2,\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\",\
         \"config\":{},\"layers\":[{}]}}",
        config.descriptor("config.v1+json", ""),
        layer.descriptor("layer.v1.tar", "")
    )
}

fn index(manifest: &Blob) -> String {
    let named = format!(
        ",\"annotations\":{{\"org.opencontainers.image.ref.name\":\"{VERSION}\",\
         \"io.containerd.image.name\":\"docker.io/library/{NAME}:{VERSION}\"}}"
    );
    format!(
        "{{\"schemaVersion\":2,\"manifests\":[{}]}}",
        manifest.descriptor("manifest.v1+json", &named)
    )
}

/// Something stored under its hash.
struct Blob {
    hash: String,
    size: usize,
}

impl Blob {
    fn store(blobs: &Path, bytes: &[u8]) -> Result<Self> {
        let partial = blobs.join("partial");
        fs::write(&partial, bytes).context("cannot write a blob")?;
        let said = output(Command::new("sha256sum").arg(&partial))?;
        let hash = said.split(' ').next().unwrap_or_default().to_owned();
        fs::rename(&partial, blobs.join(&hash)).context("cannot name a blob")?;
        Ok(Self {
            hash,
            size: bytes.len(),
        })
    }

    fn descriptor(&self, media: &str, more: &str) -> String {
        format!(
            "{{\"mediaType\":\"application/vnd.oci.image.{media}\",\"digest\":\"sha256:{}\",\
             \"size\":{}{more}}}",
            self.hash, self.size
        )
    }
}

/// The content of `folder`, without what differs from one build to the next.
fn tar(folder: &Path, archive: &Path) -> Result<()> {
    let mut tar = Command::new("tar");
    tar.args([
        "--sort=name",
        "--mtime=@0",
        "--owner=0",
        "--group=0",
        "--numeric-owner",
    ]);
    tar.arg("-cf").arg(archive).arg("-C").arg(folder);
    let mut names: Vec<_> = fs::read_dir(folder)
        .with_context(|| format!("no {}", folder.display()))?
        .filter_map(|entry| Some(entry.ok()?.file_name()))
        .collect();
    names.sort();
    output(tar.args(names)).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_image_is_the_last_stage() {
        let dockerfile = fs::read_to_string(root().join(DOCKERFILE)).unwrap();
        let stage = Stage::last_of(&dockerfile).unwrap();
        assert_eq!(stage.program, PROGRAM);
        assert_eq!(stage.entrypoint, "[\"/usr/bin/bgp-observer\"]");
        assert_eq!(stage.command, "[\"run\"]");
        assert_eq!(stage.environment, ["PATH=/usr/bin"]);
    }

    #[test]
    fn what_would_be_left_out_is_refused() {
        let base = "FROM scratch\nCOPY a /a\nENTRYPOINT [\"/a\"]\n";
        assert!(Stage::last_of(base).is_ok());
        for more in ["USER 1000\n", "FROM debian\n"] {
            assert!(Stage::last_of(&format!("{base}{more}")).is_err(), "{more}");
        }
        assert!(Stage::last_of("FROM scratch\nCOPY a /a\n").is_err());
    }
}
