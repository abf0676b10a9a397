//! `GoBGP`, which leaves the kernel's routes alone.

use std::fmt::Write as _;

use super::{ASN, Identity, Manners};

pub(super) fn config(identity: &Identity, manners: Manners) -> String {
    let Identity { asn, address, .. } = identity;
    let hold = manners.hold.unwrap_or(240);
    let mut text = format!(
        "\
[global.config]
  as = {asn}
  router-id = \"{address}\"
  port = 179
"
    );
    for neighbor in &identity.neighbors {
        let peer = neighbor.address;
        let _ = write!(
            text,
            "
[[neighbors]]
  [neighbors.config]
    neighbor-address = \"{peer}\"
    peer-as = {ASN}
    local-as = {asn}
  [neighbors.transport.config]
    local-address = \"{address}\"
    passive-mode = {}
  [neighbors.timers.config]
    hold-time = {hold}
    keepalive-interval = {}
    connect-retry = 5
    idle-hold-time-after-reset = 5
  [[neighbors.afi-safis]]
    [neighbors.afi-safis.config]
      afi-safi-name = \"ipv4-unicast\"
",
            neighbor.passive,
            hold / 3,
        );
        if manners.graceful_restart {
            let _ = write!(
                text,
                "    [neighbors.afi-safis.mp-graceful-restart.config]
      enabled = true
  [neighbors.graceful-restart.config]
    enabled = true
    restart-time = 120
"
            );
        }
    }
    text
}
