//! Debian's kernels: which package, and of it what a guest boots: the ELF image and some modules.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    debian,
    shell::{self, output},
};

/// What labs and tests make devices, filters and diagnoses of.
/// `crc32c_generic` is what `libcrc32c` asks the kernel for without naming it.
const MODULES: [&str; 20] = [
    "crc32c_generic",
    "veth",
    "bridge",
    "dummy",
    "vrf",
    "8021q",
    "bonding",
    "ipip",
    "vxlan",
    "sch_netem",
    "nf_tables",
    "nft_ct",
    "nft_reject_inet",
    "af_packet",
    "inet_diag",
    "tcp_diag",
    "unix_diag",
    "tun",
    "ipv6",
    "ip_tunnel",
];

/// A kernel, ready to boot.
pub struct Kernel {
    /// `6.1`.
    pub series: String,
    /// Debian's version, `6.1.192-2`.
    pub version: String,
    /// Uncompressed ELF: QEMU starts it directly, and a guest without hardware virtualization is
    /// spared the time to unpack it.
    pub vmlinux: PathBuf,
    /// In the order in which they can be loaded.
    pub modules: Vec<PathBuf>,
}

/// Finds a kernel in the cache, or fetches it into it.
pub fn ready(cache: &Path, series: &str) -> Result<Kernel> {
    let folder = cache.join("kernels").join(series);
    let _lock = shell::lock(&cache.join("lock"))?;
    if let Some(kernel) = cached(&folder, series) {
        return Ok(kernel);
    }
    let package = newest(series)?;
    println!("fetching {package}");
    fetch(&package, &folder).with_context(|| format!("cannot prepare {package}"))?;
    cached(&folder, series).context("what was just prepared is not there")
}

fn cached(folder: &Path, series: &str) -> Option<Kernel> {
    let version = fs::read_to_string(folder.join("version")).ok()?;
    let order = fs::read_to_string(folder.join("modules/order")).ok()?;
    let modules = order.lines().map(|name| folder.join("modules").join(name));
    Some(Kernel {
        series: series.to_owned(),
        version: version.trim().to_owned(),
        vmlinux: folder.join("vmlinux"),
        modules: modules.collect(),
    })
}

/// The newest package of a series; where there is none, the error names the series there are.
fn newest(series: &str) -> Result<String> {
    let mut packages = packages()?;
    if best(&packages, series).is_none() && shell::is_root() {
        // The lists may be older than the series.
        debian::update()?;
        packages = self::packages()?;
    }
    if let Some(package) = best(&packages, series) {
        return Ok(package);
    }
    let others: BTreeSet<(u32, u32)> = packages
        .iter()
        .filter_map(|name| series_of(numbers(name)?))
        .collect();
    let others: Vec<String> = others
        .iter()
        .map(|(major, minor)| format!("{major}.{minor}"))
        .collect();
    bail!(
        "apt here offers no linux-image of series {series}, only of {}",
        if others.is_empty() {
            "none".to_owned()
        } else {
            others.join(", ")
        }
    )
}

fn packages() -> Result<Vec<String>> {
    let names = output(Command::new("apt-cache").args(["pkgnames", "linux-image-"]))?;
    Ok(names.lines().map(str::to_owned).collect())
}

fn best(packages: &[String], series: &str) -> Option<String> {
    packages
        .iter()
        .filter_map(|name| Some((numbers(name)?, name)))
        .filter(|(numbers, _)| {
            series_of(*numbers).is_some_and(|(major, minor)| series == format!("{major}.{minor}"))
        })
        .max()
        .map(|(_, name)| name.clone())
}

fn series_of([major, minor, ..]: [u32; 4]) -> Option<(u32, u32)> {
    (major > 0).then_some((major, minor))
}

/// `linux-image-6.1.0-56-amd64` and `linux-image-6.12.117+deb12-amd64` as numbers to compare; none
/// for the flavours (cloud, rt), unsigned twins, debug symbols and names without a version.
fn numbers(package: &str) -> Option<[u32; 4]> {
    let version = package
        .strip_prefix("linux-image-")?
        .strip_suffix("-amd64")?;
    let (version, abi) = match version.split_once('-') {
        Some((version, abi)) => (version, abi.parse().ok()?),
        None => (version, 0),
    };
    let version = version.split('+').next()?;
    let mut parts = version.split('.').map(|part| part.parse().ok());
    let numbers = [parts.next()??, parts.next()??, parts.next()??, abi];
    parts.next().is_none().then_some(numbers)
}

fn fetch(package: &str, folder: &Path) -> Result<()> {
    let mut partial = folder.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    if partial.exists() {
        fs::remove_dir_all(&partial).context("cannot clear an interrupted download")?;
    }
    let unpacked = partial.join("unpacked");
    let versions = debian::unpack_into(&[package.to_owned()], &unpacked)?;
    let version = versions.first().and_then(|named| named.split(' ').nth(1));
    let version = version.context("the package has no version")?;
    let boot = unpacked.join("boot");
    let image = find(&boot, |name| name.starts_with("vmlinuz-"))?
        .pop()
        .context("the package has no vmlinuz")?;
    let bytes = fs::read(&image).with_context(|| format!("cannot read {}", image.display()))?;
    let (tool, payload) = payload(&bytes)?;
    unpack(tool, payload, &partial.join("vmlinux"))?;
    modules(&unpacked.join("lib/modules"), &partial.join("modules"))
        .or_else(|_| modules(&unpacked.join("usr/lib/modules"), &partial.join("modules")))?;
    fs::remove_dir_all(&unpacked).context("cannot remove the unpacked package")?;
    fs::write(partial.join("version"), version).context("cannot note the version")?;
    if folder.exists() {
        fs::remove_dir_all(folder).context("cannot replace a kernel")?;
    }
    fs::rename(&partial, folder).context("cannot move the kernel into its place")
}

/// The compressed kernel within a bzImage (Documentation/arch/x86/boot.rst, protocol 2.08), and what
/// unpacks it. The last four bytes are the length it has then, which no unpacker knows.
fn payload(image: &[u8]) -> Result<(&'static str, &[u8])> {
    let number = |at: usize| -> Result<usize> {
        let four = image.get(at..).and_then(|rest| rest.first_chunk());
        let number = u32::from_le_bytes(*four.context("the bzImage is cut short")?);
        usize::try_from(number).context("a number in the bzImage is too large")
    };
    ensure!(
        image.get(0x202..0x206) == Some(b"HdrS"),
        "this is no bzImage"
    );
    let sectors = usize::from(*image.get(0x1f1).context("the bzImage is cut short")?);
    let start = (sectors + 1) * 512 + number(0x248)?;
    let payload = image
        .get(start..start + number(0x24c)?.saturating_sub(4))
        .context("the bzImage's payload is cut short")?;
    match payload.get(..4) {
        Some(b"\xfd7zX") => Ok(("xz", payload)),
        Some(b"\x28\xb5\x2f\xfd") => Ok(("zstd", payload)),
        other => bail!("the kernel is packed in a way that is not known here: {other:x?}"),
    }
}

fn unpack(unpacker: &str, packed: &[u8], to: &Path) -> Result<()> {
    let aside = to.with_extension("packed");
    fs::write(&aside, packed).with_context(|| format!("cannot write {}", aside.display()))?;
    unpack_file(unpacker, &aside, to)?;
    fs::remove_file(&aside).context("cannot remove what was unpacked")
}

fn unpack_file(unpacker: &str, from: &Path, to: &Path) -> Result<()> {
    let open = File::open(from).with_context(|| format!("no {}", from.display()))?;
    let write = File::create(to).with_context(|| format!("cannot write {}", to.display()))?;
    let status = Command::new(unpacker)
        .arg("-dc")
        .stdin(open)
        .stdout(write)
        .stderr(Stdio::inherit())
        .status()
        .with_context(|| format!("cannot start {unpacker}"))?;
    ensure!(status.success(), "{unpacker} ended with {status}");
    Ok(())
}

/// Copies [`MODULES`] and what they depend on, unpacked, and notes the order to load them in.
fn modules(from: &Path, to: &Path) -> Result<()> {
    let version = find(from, |_| true)?
        .pop()
        .with_context(|| format!("no kernel version in {}", from.display()))?;
    let built_in: BTreeSet<String> = fs::read_to_string(version.join("modules.builtin"))
        .context("the package has no modules.builtin")?
        .lines()
        .map(|line| module_name(Path::new(line)))
        .collect();
    let mut files = BTreeMap::new();
    collect(&version.join("kernel"), &mut files)?;
    fs::create_dir_all(to).with_context(|| format!("cannot create {}", to.display()))?;
    let mut order = Vec::new();
    for name in MODULES {
        add(name, &built_in, &files, to, &mut order)?;
    }
    fs::write(to.join("order"), order.join("\n")).context("cannot note the modules' order")
}

fn add(
    name: &str,
    built_in: &BTreeSet<String>,
    files: &BTreeMap<String, PathBuf>,
    to: &Path,
    order: &mut Vec<String>,
) -> Result<()> {
    if built_in.contains(name) || order.contains(&format!("{name}.ko")) {
        return Ok(());
    }
    let file = files
        .get(name)
        .with_context(|| format!("this kernel has no module {name}"))?;
    let copy = to.join(format!("{name}.ko"));
    match file.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => unpack_file("xz", file, &copy)?,
        Some("zst") => unpack_file("zstd", file, &copy)?,
        _ => {
            fs::copy(file, &copy).with_context(|| format!("cannot copy {}", file.display()))?;
        }
    }
    let bytes = fs::read(&copy).with_context(|| format!("cannot read {}", copy.display()))?;
    for needed in dependencies(&bytes) {
        add(&needed, built_in, files, to, order)?;
    }
    order.push(format!("{name}.ko"));
    Ok(())
}

/// The modules a module names in its `.modinfo`, `\0depends=a,b\0`.
fn dependencies(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = module.windows(KEY.len()).position(|window| window == KEY) else {
        return Vec::new();
    };
    let value = module.get(at + KEY.len()..).unwrap_or_default();
    let value = value.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(value)
        .split(',')
        .filter(|name| !name.is_empty())
        .map(|name| name.replace('-', "_"))
        .collect()
}

fn collect(folder: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for path in find(folder, |_| true)? {
        if path.is_dir() {
            collect(&path, files)?;
        } else {
            files.insert(module_name(&path), path);
        }
    }
    Ok(())
}

/// `kernel/net/8021q/8021q.ko.xz` is `8021q`; the kernel takes `-` and `_` for the same.
fn module_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.split('.').next().unwrap_or_default().replace('-', "_")
}

fn find(folder: &Path, wanted: impl Fn(&str) -> bool) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in
        fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?
    {
        let entry = entry.with_context(|| format!("cannot list {}", folder.display()))?;
        if wanted(&entry.file_name().to_string_lossy()) {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_plain_kernel_of_the_series_is_taken() {
        let packages = [
            "linux-image-amd64",
            "linux-image-6.1.0-9-amd64",
            "linux-image-6.1.0-56-amd64",
            "linux-image-6.1.0-99-cloud-amd64",
            "linux-image-6.1.0-99-amd64-unsigned",
            "linux-image-6.12.117+deb12-amd64",
            "linux-image-6.12.90+deb12-amd64",
            "linux-image-6.12.118+deb12-rt-amd64",
        ]
        .map(str::to_owned);
        let newest = |series| best(&packages, series);
        assert_eq!(newest("6.1").unwrap(), "linux-image-6.1.0-56-amd64");
        assert_eq!(newest("6.12").unwrap(), "linux-image-6.12.117+deb12-amd64");
        assert_eq!(newest("5.10"), None);
        assert_eq!(newest("6"), None);
    }

    #[test]
    fn a_module_names_what_it_needs() {
        let module = b"\x7fELF\0license=GPL\0depends=stp,llc,nf-x\0name=bridge\0";
        assert_eq!(dependencies(module), ["stp", "llc", "nf_x"]);
        assert!(dependencies(b"\0depends=\0name=veth\0").is_empty());
        assert!(dependencies(b"nothing").is_empty());
        assert_eq!(module_name(Path::new("kernel/net/sch-x.ko.xz")), "sch_x");
    }

    #[test]
    fn the_payload_of_an_image_is_found_by_its_header() {
        let mut image = vec![0; 4096];
        let mut put = |at: usize, bytes: &[u8]| {
            image.splice(at..at + bytes.len(), bytes.iter().copied());
        };
        put(0x1f1, &[3]);
        put(0x202, b"HdrS");
        put(0x248, &16_u32.to_le_bytes());
        put(0x24c, &12_u32.to_le_bytes());
        put(4 * 512 + 16, b"\xfd7zX1234size");
        let (unpacker, found) = payload(&image).unwrap();
        assert_eq!((unpacker, found), ("xz", &b"\xfd7zX1234"[..]));
        assert!(payload(&image[..0x300]).is_err());
        assert!(payload(b"\x7fELF").is_err());
    }
}
