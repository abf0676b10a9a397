//! BIRD 2, configured to meet Calico's BIRD.

use std::fmt::Write as _;

use super::{ASN, Identity, Manners};

pub(super) fn config(identity: &Identity, manners: Manners) -> String {
    let Identity {
        asn,
        address,
        block,
        ..
    } = identity;
    let graceful = if manners.graceful_restart {
        "  graceful restart on;\n"
    } else {
        ""
    };
    let hold = manners
        .hold
        .map(|hold| format!("  hold time {hold};\n"))
        .unwrap_or_default();
    let mut text = format!(
        "\
router id {address};

protocol static {{
  ipv4;
  route {block} blackhole;
}}

protocol kernel {{
  learn;
  persist;
  scan time 2;
{graceful}  ipv4 {{ import all; export where net ~ 10.244.0.0/16; }};
}}

protocol device {{
  scan time 2;
}}

protocol direct {{
  ipv4;
}}

template bgp bgp_template {{
  local {address} as {asn};
  multihop;
  ipv4 {{
    gateway recursive;
    import all;
    export where net = {block};
    add paths on;
  }};
{graceful}{hold}  connect delay time 2;
  connect retry time 5;
  error wait time 5,30;
}}
"
    );
    for neighbor in &identity.neighbors {
        let passive = if neighbor.passive {
            "  passive on;\n"
        } else {
            ""
        };
        let _ = write!(
            text,
            "\nprotocol bgp {} from bgp_template {{\n  neighbor {} as {ASN};\n{passive}}}\n",
            neighbor.protocol(),
            neighbor.address,
        );
    }
    text + &identity.extra
}
