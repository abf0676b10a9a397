//! `ExaBGP`, which has no table: it announces what it is told to.

use std::{fmt::Write as _, path::Path, process::Command};

use anyhow::Result;

use super::{ASN, Identity, Manners};
use crate::programs;

pub(super) fn config(identity: &Identity, manners: Manners) -> String {
    let Identity {
        asn,
        address,
        block,
        ..
    } = identity;
    let hold = manners.hold.unwrap_or(240);
    let restart = if manners.graceful_restart {
        "    graceful-restart 120;\n"
    } else {
        ""
    };
    let mut text = String::new();
    for neighbor in &identity.neighbors {
        let peer = neighbor.address;
        let _ = write!(
            text,
            "\
neighbor {peer} {{
  router-id {address};
  local-address {address};
  local-as {asn};
  peer-as {ASN};
  hold-time {hold};
  passive {};
  capability {{
{restart}    add-path send/receive;
    route-refresh enable;
  }}
  family {{
    ipv4 unicast;
  }}
  static {{
    route {block} next-hop self path-information 0.0.0.1;
  }}
}}
",
            neighbor.passive,
        );
    }
    text
}

pub(super) fn command(config: &Path) -> Result<Command> {
    let program = programs::find("exabgp", "python3-exabgp")?;
    let mut command = Command::new("/usr/bin/python3");
    // Where the package is unpacked its modules lie beside it.
    let modules = program
        .path()
        .ancestors()
        .nth(2)
        .map(|usr| usr.join("lib/python3/dist-packages"));
    if let Some(modules) = modules {
        command.env("PYTHONPATH", modules);
    }
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    for (name, value) in [
        ("exabgp_daemon_user", "root"),
        ("exabgp_daemon_drop", "false"),
        ("exabgp_api_cli", "false"),
        ("exabgp_api_ack", "false"),
        ("exabgp_tcp_bind", "0.0.0.0"),
        ("exabgp_tcp_port", "179"),
        ("exabgp_log_destination", "stdout"),
    ] {
        command.env(name, value);
    }
    command.arg(program.path()).arg(config);
    Ok(command)
}
