//! BIRD 1.6, configured as Calico's templates do.

use std::fmt::Write as _;

use super::{ASN, Identity, Manners, Relation};

/// The cluster that all reflectors of a lab serve (RFC 4456 §7).
const CLUSTER: &str = "244.0.0.1";

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
    let line = |words: &str, value: Option<u16>| {
        value.map_or_else(String::new, |value| format!("{words} {value};\n"))
    };
    let restart_time = line("  graceful restart time", manners.restart_time);
    let recovery_wait = line("graceful restart wait", manners.recovery_wait);
    let hold = line("  hold time", manners.hold);
    let mut text = format!(
        "\
# Shaped like Calico's bird.cfg, bird_aggr.cfg and bird_ipam.cfg.
router id {address};
{recovery_wait}
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
{graceful}{restart_time}{hold}  connect delay time 2;
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
        let client = if neighbor.relation == Relation::Client {
            format!("  rr client;\n  rr cluster id {CLUSTER};\n")
        } else {
            String::new()
        };
        let _ = write!(
            text,
            "\nprotocol bgp {} from bgp_template {{\n  neighbor {} as {ASN};\n  source address {address};\n{passive}{client}}}\n",
            neighbor.protocol(),
            neighbor.address,
        );
    }
    text + &identity.extra
}
