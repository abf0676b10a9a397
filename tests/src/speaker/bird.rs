//! BIRD 1.6, configured as Calico's templates do.

use std::fmt::Write as _;

use super::{ASN, Identity, Manners};

pub(super) fn config(identity: &Identity, manners: Manners) -> String {
    let Identity {
        asn,
        address,
        block,
        ..
    } = identity;
    let (kernel_graceful, graceful) = if manners.graceful_restart {
        ("  graceful restart;\n", "  graceful restart;\n")
    } else {
        ("", "")
    };
    let hold = manners
        .hold
        .map(|hold| format!("  hold time {hold};\n"))
        .unwrap_or_default();
    let mut text = format!(
        "\
# Shaped like Calico's bird.cfg, bird_aggr.cfg and bird_ipam.cfg.
router id {address};

protocol static {{
  route {block} blackhole;
}}

function calico_aggr() {{
  if ( net = {block} ) then {{ accept; }}
  if ( net ~ {block} ) then {{ reject; }}
}}

filter calico_export_to_bgp_peers {{
  calico_aggr();
  if ( net ~ 10.244.0.0/16 ) then {{ accept; }}
  reject;
}}

filter calico_kernel_programming {{
  if ( net ~ 10.244.0.0/16 ) then {{ accept; }}
  reject;
}}

protocol kernel {{
  learn;
  persist;
  scan time 2;
  import all;
  export filter calico_kernel_programming;
{kernel_graceful}  merge paths on;
}}

protocol device {{
  debug {{ states }};
  scan time 2;
}}

protocol direct {{
  debug {{ states }};
  interface -\"cali*\", -\"kube-ipvs*\", \"*\";
}}

template bgp bgp_template {{
  debug {{ states }};
  description \"Connection to BGP peer\";
  local as {asn};
  multihop;
  gateway recursive;
  import all;
  export filter calico_export_to_bgp_peers;
  add paths on;
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
            "\nprotocol bgp {} from bgp_template {{\n  neighbor {} as {ASN};\n  source address {address};\n{passive}}}\n",
            neighbor.protocol(),
            neighbor.address,
        );
    }
    text + &identity.extra
}
