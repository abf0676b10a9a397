//! OpenBGPD, which leaves the kernel's routes alone.
//!
//! It gives up root for the user that Debian's package makes, and does not start without that user.
//! Where the package is only unpacked there is none, so that bgpd gets a mount namespace of its own
//! with a passwd and a group file that know it.

use std::{fmt::Write as _, fs, path::Path, process::Command};

use anyhow::{Context, Result};

use super::{ASN, Identity, Manners};
use crate::programs;

/// Its privilege-separation user, and the number it gets: one that nobody on the system needs.
const USER: &str = "_openbgpd";
const NUMBER: u32 = 64_179;

pub(super) fn config(folder: &Path, identity: &Identity, manners: Manners) -> String {
    let Identity {
        node,
        asn,
        address,
        block,
        ..
    } = identity;
    let hold = manners.hold.unwrap_or(240);
    let mut text = format!(
        "\
AS {asn}
router-id {address}
holdtime {hold}
fib-update no
listen on {address}
socket \"{}\"
network {block}
",
        folder.join(format!("{node}.bgpd")).display(),
    );
    let restart = if manners.graceful_restart {
        "yes"
    } else {
        "no"
    };
    for neighbor in &identity.neighbors {
        let peer = neighbor.address;
        let passive = if neighbor.passive { "  passive\n" } else { "" };
        let _ = write!(
            text,
            "neighbor {peer} {{\n  remote-as {ASN}\n  local-address {address}\n{passive}  \
             announce restart {restart}\n  announce add-path recv yes\n  \
             announce add-path send all\n}}\n"
        );
    }
    text + "allow from any\nallow to any\n"
}

pub(super) fn command(folder: &Path, node: &str, config: &Path) -> Result<Command> {
    let program = programs::find("openbgpd", "bgpd")?;
    let empty = folder.join(format!("{node}.empty"));
    fs::create_dir_all(&empty)?;
    let known = |file: &str, entry: String| -> Result<_> {
        let mut text = fs::read_to_string(Path::new("/etc").join(file))
            .with_context(|| format!("/etc/{file}"))?;
        text.push_str(&entry);
        let path = folder.join(format!("{node}.{file}"));
        fs::write(&path, text)?;
        Ok(path)
    };
    let home = empty.display();
    let passwd = format!("{USER}:x:{NUMBER}:{NUMBER}::{home}:/usr/sbin/nologin\n");
    let (passwd, group) = (
        known("passwd", passwd)?,
        known("group", format!("{USER}:x:{NUMBER}:\n"))?,
    );
    let mut command = Command::new("unshare");
    if let Some(libraries) = program.libraries() {
        command.env("LD_LIBRARY_PATH", libraries);
    }
    command.args(["--mount", "sh", "-ec"]);
    command.arg(
        "mount --bind \"$1\" /etc/passwd; mount --bind \"$2\" /etc/group; exec \"$3\" -d -f \"$4\"",
    );
    command.arg("sh").arg(passwd).arg(group);
    command.arg(program.path()).arg(config);
    Ok(command)
}
