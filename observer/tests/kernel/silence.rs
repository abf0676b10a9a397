//! What takes routes along without a word: the probes tell exactly those that go, and rtnetlink only
//! what KERNEL.md says it does.

use std::net::IpAddr;

use observer::source::rtnetlink::{Read, Rtnetlink, decode::Told, filter::Followed};
use observer_core::event::forwarding::{Protocol, RouteChange, RouteOp, RouteOrigin};

use crate::{
    lab::{Namespace, wait_until},
    routes::{Bed, changes, comm, each},
};

/// Told last: what came before it has been told.
const MARKER: &str = "10.99.0.0/26";

/// Routes of BIRD's over both devices.
const LAID: &str = "\
route add 10.1.0.0/26 via 10.9.0.2 proto bird
route add 10.1.0.64/26 via 10.9.0.3 proto bird
route add 10.2.0.0/26 via 10.8.0.2 proto bird
route add fd01::/64 via fd09::2 proto bird
route add fd02::/64 via fd08::2 proto bird
";

/// A prefix and the gateways of what went.
type Gone = (&'static str, &'static [&'static str]);

const OVER_D0: [Gone; 3] = [
    ("10.1.0.0/26", &["10.9.0.2"]),
    ("10.1.0.64/26", &["10.9.0.3"]),
    ("fd01::/64", &["fd09::2"]),
];

struct Row {
    what: &'static str,
    /// Lines of `ip`, besides [`LAID`].
    lay: &'static str,
    act: &'static str,
    gone: Vec<Gone>,
    /// Of what of this rtnetlink tells.
    announced: &'static [&'static str],
}

fn rows() -> Vec<Row> {
    let legs = "\
route add 10.3.0.0/26 proto bird nexthop via 10.9.0.2 nexthop via 10.8.0.2
route add fd03::/64 proto bird nexthop via fd09::2 nexthop via fd08::2
";
    let row = |what, act, gone: &[Gone], announced| Row {
        what,
        lay: "",
        act,
        gone: gone.to_vec(),
        announced,
    };
    let with = |lay, row: Row| Row { lay, ..row };
    vec![
        row(
            "a link that goes down",
            "link set d0 down",
            &OVER_D0,
            &["fd01::/64"],
        ),
        row(
            "a link that is deleted",
            "link del d0",
            &OVER_D0,
            &["fd01::/64"],
        ),
        row(
            "the last address",
            "addr del 10.9.0.1/24 dev d0",
            &OVER_D0[..2],
            &[],
        ),
        // An IPv6 route is bound to its device, not to an address.
        row(
            "the last IPv6 address",
            "addr del fd09::1/64 dev d0",
            &[],
            &[],
        ),
        with(
            "\
nexthop add id 7 via 10.9.0.2 dev d0
nexthop add id 8 via fd09::2 dev d0
route add 10.3.0.0/26 nhid 7 proto bird
route add fd03::/64 nhid 8 proto bird
",
            row(
                "nexthop objects",
                "nexthop del id 7\nnexthop del id 8",
                &[("10.3.0.0/26", &["10.9.0.2"]), ("fd03::/64", &["fd09::2"])],
                &["fd03::/64"],
            ),
        ),
        // Such a route stays, with a dead leg.
        with(
            legs,
            row(
                "the link of a leg that goes down",
                "link set d0 down",
                &OVER_D0,
                &["fd01::/64"],
            ),
        ),
        // IPv4's goes whole, although its other leg is alive; IPv6's loses the leg.
        with(
            legs,
            row(
                "the link of a leg that is deleted",
                "link del d0",
                &[
                    OVER_D0[0],
                    OVER_D0[1],
                    ("10.3.0.0/26", &["10.9.0.2", "10.8.0.2"]),
                    OVER_D0[2],
                    ("fd03::/64", &["fd09::2"]),
                ],
                &["fd01::/64", "fd03::/64"],
            ),
        ),
    ]
}

/// What the probes told of BIRD's routes that went, in the words of [`expected`].
fn told(bed: &Bed) -> Vec<String> {
    let of_birds = changes(&bed.observed.events)
        .filter(|change| change.route.protocol == Protocol::BIRD && change.op == RouteOp::Removed);
    let mut told: Vec<String> = of_birds
        .map(|change| {
            let mut gateways: Vec<IpAddr> = { change.route.next_hops.iter() }
                .filter_map(|hop| hop.gateway)
                .collect();
            gateways.sort();
            format!(
                "{} {gateways:?} {:?} {}",
                change.route.prefix,
                change.origin,
                comm(change)
            )
        })
        .collect();
    told.sort();
    told
}

fn expected(gone: &[Gone], origin: RouteOrigin, comm: &str) -> Vec<String> {
    let mut expected: Vec<String> = { gone.iter() }
        .map(|(prefix, gateways)| {
            let mut gateways: Vec<IpAddr> = { gateways.iter() }
                .map(|gateway| gateway.parse().expect("an address"))
                .collect();
            gateways.sort();
            format!("{prefix} {gateways:?} {origin:?} {comm}")
        })
        .collect();
    expected.sort();
    expected
}

/// rtnetlink's word on BIRD's routes of a namespace.
struct Witness(Rtnetlink);

impl Witness {
    fn of(namespace: &Namespace) -> Self {
        let birds = Followed {
            protocols: vec![Protocol::BIRD.0],
            tables: Vec::new(),
        };
        let opened = namespace.run(|| Rtnetlink::open(&birds));
        Self(opened.expect("rtnetlink"))
    }

    /// What was announced as removed until the marker.
    fn removed(&mut self) -> Vec<String> {
        let mut removed = Vec::new();
        wait_until("rtnetlink to tell of the marker", || {
            let mut told: Vec<RouteChange> = Vec::new();
            let mut broken = 0;
            let each = |heard| {
                if let Told::Route(change) = heard {
                    told.push(change);
                }
            };
            let read = self.0.read(each, &mut broken).expect("a message");
            assert!(read != Read::Overrun && broken == 0);
            let mut last = false;
            for change in told {
                let prefix = change.route.prefix.to_string();
                last |= prefix == MARKER;
                if change.op == RouteOp::Removed {
                    removed.push(prefix);
                }
            }
            last.then_some(())
        });
        removed.sort();
        removed
    }
}

#[test]
fn exactly_what_goes_is_told_and_rtnetlink_is_as_silent_as_is_known() {
    for Row {
        what,
        lay,
        act,
        gone,
        announced,
    } in rows()
    {
        each(|mut bed| {
            bed.namespace.batch(&format!("{LAID}{lay}"));
            let mut witness = Witness::of(&bed.namespace);
            bed.namespace
                .batch(&format!("{act}\nroute add blackhole {MARKER} proto bird\n"));
            bed.wait(MARKER, |_| true);
            assert_eq!(
                told(&bed),
                expected(&gone, RouteOrigin::Silent, "ip"),
                "{what}"
            );
            assert_eq!(witness.removed(), announced, "{what}");
        });
    }
}

#[test]
fn ipv6_goes_as_silently_where_the_kernel_is_told_so() {
    each(|mut bed| {
        bed.namespace.batch(LAID);
        bed.namespace.run(|| {
            let switch = "/proc/sys/net/ipv6/route/skip_notify_on_dev_down";
            std::fs::write(switch, "1").expect("a switch");
        });
        let mut witness = Witness::of(&bed.namespace);
        bed.namespace.batch(&format!(
            "link set d0 down\nroute add blackhole {MARKER} proto bird\n"
        ));
        bed.wait(MARKER, |_| true);
        let silently = expected(&OVER_D0, RouteOrigin::Silent, "ip");
        assert_eq!(told(&bed), silently);
        assert_eq!(witness.removed(), [""; 0]);
    });
}

#[test]
fn what_goes_with_its_namespace_is_told_as_that_by_a_kernel_thread() {
    each(|mut bed| {
        bed.namespace.batch(LAID);
        bed.namespace.batch("link set lo down\n");
        drop(std::mem::replace(&mut bed.namespace, Namespace::new()));
        let all = [
            &OVER_D0[..],
            &[("10.2.0.0/26", &["10.8.0.2"]), ("fd02::/64", &["fd08::2"])],
        ]
        .concat();
        // Which of the kernel's threads it is has a number.
        bed.wait_removed(all.len());
        let kernels: Vec<String> = { told(&bed).into_iter() }
            .map(|told| told.split("kworker").next().unwrap_or_default().to_owned())
            .collect();
        assert_eq!(kernels, expected(&all, RouteOrigin::Teardown, ""));
    });
}
