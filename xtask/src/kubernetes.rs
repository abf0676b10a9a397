//! A control plane of Kubernetes for tests. Debian has etcd as a package, but of Kubernetes' servers
//! only the source: they are built here, once, into the cache.
//!
//! The source is that of Debian 12, the last one that has the servers in it. It needs Debian's Go, which
//! is unpacked for that time, and nothing from any other place.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    debian,
    shell::{self, Stopwatch, output},
};

const SOURCE: &str = "kubernetes";
const SERVERS: [&str; 3] = [
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
];
/// How Go calls the repository.
const IMPORT: &str = "k8s.io/kubernetes";
/// The description of all types, which is generated.
const OPENAPI: &str = "pkg/generated/openapi";
/// What of the libraries that the source brings is too old for Debian's Go: iterating over a map, it ends
/// the server. Debian has a newer one.
const NEWER: (&str, &str) = (
    "golang-github-modern-go-reflect2-dev",
    "github.com/modern-go/reflect2",
);
/// Types whose description belongs to the API, by this mark.
const DESCRIBED: &str = "+k8s:openapi-gen=";

/// Makes the servers and etcd, if the cache has none. It takes ten minutes of one CPU.
pub fn ensure(cache: &Path, say: &mut dyn FnMut(&str, &str)) -> Result<()> {
    let _lock = shell::lock(&cache.join("kubernetes.lock"))?;
    debian::unpack_one(cache, "etcd-server", say)?;
    let folder = cache.join("debs").join(SOURCE);
    let stamp = folder.join(".versions");
    if let Ok(versions) = fs::read_to_string(&stamp) {
        say("ok", &format!("{} (built)", versions.trim()));
        return Ok(());
    }
    let missing = debian::missing(&["dpkg-dev"])?;
    if !missing.is_empty() {
        debian::install(&missing)?;
    }
    say("building", "Kubernetes' servers; this takes ten minutes");
    let watch = Stopwatch::start();
    let work = cache.join("kubernetes-build");
    let build = Build::prepare(&work)?;
    build.describe_types()?;
    let programs = folder.join("usr/bin");
    fs::create_dir_all(&programs).with_context(|| format!("no {}", programs.display()))?;
    for server in SERVERS {
        build.go_build(&format!("./cmd/{server}"), &programs.join(server))?;
    }
    fs::write(&stamp, format!("{SOURCE} {}\n", build.version))
        .context("cannot note the version")?;
    fs::remove_dir_all(&work).context("cannot remove what was built from")?;
    say("built", &format!("{SOURCE} {} ({watch})", build.version));
    Ok(())
}

/// Source and compiler, side by side.
struct Build {
    work: PathBuf,
    source: PathBuf,
    compiler: PathBuf,
    /// Debian's.
    version: String,
}

impl Build {
    fn prepare(work: &Path) -> Result<Self> {
        // What Go compiled before it was interrupted is of use again; the rest is not.
        for stale in ["source", "compiler", "gopath", "newer"] {
            let stale = work.join(stale);
            if stale.exists() {
                fs::remove_dir_all(&stale).context("cannot clear an interrupted build")?;
            }
        }
        let source = work.join("source");
        let version = debian::unpack_source(SOURCE, &source)?;
        let compiler = unpack_compiler(&work.join("compiler"))?;
        let (package, library) = NEWER;
        let newer = work.join("newer");
        debian::unpack_into(&[package.to_owned()], &newer)?;
        let old = source.join("vendor").join(library);
        fs::remove_dir_all(&old).with_context(|| format!("no {library}"))?;
        fs::rename(newer.join("usr/share/gocode/src").join(library), &old)
            .with_context(|| format!("{package} has no {library}"))?;
        let inside = work.join("gopath/src").join(IMPORT);
        let parent = inside.parent().context("no parent")?;
        fs::create_dir_all(parent).with_context(|| format!("no {}", parent.display()))?;
        symlink(&source, &inside).context("cannot link the source")?;
        Ok(Self {
            work: work.to_owned(),
            source: inside,
            compiler,
            version,
        })
    }

    /// The version as Kubernetes counts, of Debian's `1.20.5+really1.20.2-1.1`.
    fn upstream(&self) -> &str {
        let version = self.version.split('-').next().unwrap_or_default();
        version.rsplit("really").next().unwrap_or(version)
    }

    fn go_build(&self, package: &str, program: &Path) -> Result<()> {
        let version = self.upstream();
        let mut numbers = version.split('.');
        let [major, minor] = [(); 2].map(|()| numbers.next().unwrap_or_default());
        let set = format!("-X {IMPORT}/vendor/k8s.io/component-base/version");
        let told = format!(
            "-s -w {set}.gitVersion=v{version} {set}.gitMajor={major} {set}.gitMinor={minor}"
        );
        let mut go = Command::new(self.compiler.join("bin/go"));
        self.inside(&mut go);
        go.args(["build", "-trimpath", "-ldflags", &told, "-o"])
            .arg(program)
            .arg(package);
        output(&mut go).with_context(|| format!("cannot build {package}"))?;
        Ok(())
    }

    /// Writes [`OPENAPI`].
    fn describe_types(&self) -> Result<()> {
        let generator = self.work.join("openapi-gen");
        self.go_build("./vendor/k8s.io/kube-openapi/cmd/openapi-gen", &generator)?;
        let mut generate = Command::new(&generator);
        self.inside(&mut generate);
        generate.args(["--logtostderr", "-O", "zz_generated.openapi"]);
        generate.args(["-p", &format!("{IMPORT}/{OPENAPI}")]);
        generate.args(["-h", "hack/boilerplate/boilerplate.generatego.txt", "-i"]);
        generate.arg(self.described()?.join(","));
        generate.arg("-r").arg(self.work.join("violations"));
        output(&mut generate).context("cannot describe Kubernetes' types")?;
        Ok(())
    }

    /// The packages with types that are to be described, as Go names them.
    fn described(&self) -> Result<Vec<String>> {
        // `staging` is where the links in `vendor/k8s.io` lead.
        let mut grep = Command::new("grep");
        self.inside(&mut grep);
        grep.args(["-rl", "--include=*.go", "--exclude=*_test.go"]);
        grep.args(["-F", DESCRIBED, "staging/src/k8s.io", "pkg"]);
        let found = output(&mut grep)?;
        let packages: BTreeSet<&str> = found
            .lines()
            .filter_map(|path| Some(path.rsplit_once('/')?.0))
            .filter(|path| {
                !["code-generator", "sample-", "testdata"]
                    .iter()
                    .any(|other| path.contains(other))
            })
            .collect();
        ensure!(!packages.is_empty(), "no type is marked {DESCRIBED}");
        let named = |path: &str| match path.strip_prefix("staging/src/") {
            Some(vendored) => format!("{IMPORT}/vendor/{vendored}"),
            None => format!("{IMPORT}/{path}"),
        };
        Ok(packages.into_iter().map(named).collect())
    }

    fn inside(&self, command: &mut Command) {
        command
            .current_dir(&self.source)
            // Go and the generator find the packages by the folder that they are called in.
            .env("PWD", &self.source)
            .env("GOPATH", self.work.join("gopath"))
            .env("GOROOT", &self.compiler)
            .env("GOCACHE", self.work.join("compiled"))
            .env("GO111MODULE", "off")
            .env("GOFLAGS", "")
            .env("CGO_ENABLED", "0");
    }
}

/// Debian's Go; gives its root.
fn unpack_compiler(folder: &Path) -> Result<PathBuf> {
    let packages = debian::missing_parts("golang-go", |name| name.starts_with("golang-"))?;
    debian::unpack_into(&packages, folder)?;
    let libraries = folder.join("usr/lib");
    let entries = fs::read_dir(&libraries).context("Debian's Go is not where it was")?;
    let roots = entries.filter_map(|entry| Some(entry.ok()?.path()));
    roots
        .filter(|root| root.join("bin/go").is_file() && root.join("src").is_dir())
        .find(|root| !root.is_symlink())
        .context("Debian's package golang-go holds no Go")
}
