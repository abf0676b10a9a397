//! FRR's bgpd alone: without zebra it speaks BGP and leaves the kernel's routes to others.
//!
//! Calico's passive rule is not for FRR: while FRR keeps a restarting peer's routes (RFC 4724) it
//! does not dial that peer ("NSF passive"). Were the peer passive too, nobody would dial until the
//! restart timer ends after 120 s (measured with FRR 8.4).

use std::{fmt::Write as _, fs, path::Path, process::Command};

use anyhow::Result;

use super::{ASN, Identity, Manners};
use crate::programs;

pub(super) fn config(identity: &Identity, manners: Manners) -> String {
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
hostname {node}
router bgp {asn}
 bgp router-id {address}
 no bgp network import-check
 timers bgp {} {hold}
",
        hold / 3,
    );
    if manners.graceful_restart {
        text.push_str(" bgp graceful-restart\n");
    }
    for neighbor in &identity.neighbors {
        let peer = neighbor.address;
        let _ = write!(
            text,
            " neighbor {peer} remote-as {ASN}\n neighbor {peer} update-source {address}\n neighbor {peer} timers connect 5\n"
        );
    }
    text.push_str(" address-family ipv4 unicast\n");
    let _ = writeln!(text, "  network {block}");
    for neighbor in &identity.neighbors {
        let _ = writeln!(text, "  neighbor {} addpath-tx-all-paths", neighbor.address);
    }
    text + " exit-address-family\n"
}

pub(super) fn command(folder: &Path, node: &str, config: &Path) -> Result<Command> {
    let vty = folder.join(format!("{node}.vty"));
    fs::create_dir_all(&vty)?;
    let mut command = programs::find("frr", "bgpd")?.command();
    command
        .args([
            "--no_zebra",
            "--skip_runas",
            "-u",
            "root",
            "-g",
            "root",
            "-P",
            "0",
        ])
        .args(["--log", "stdout", "--config_file"])
        .arg(config)
        .arg("--vty_socket")
        .arg(&vty)
        .arg("--pid_file")
        .arg(vty.join("bgpd.pid"))
        .arg("--socket")
        .arg(vty.join("zserv.api"));
    Ok(command)
}
