//! Whose routes they are: what is handed over, withdrawn on purpose, or no concern of the cluster's is
//! neither a loss nor a fight.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use observer_core::change::{Change, ChangeRecord, RouteEvent};
use observer_tests::{
    agent::{Agent, Options},
    fib, gate,
    lab::{Lab, Node, Plan},
    netns,
    story::CONVERGES,
    wait,
};

const SOON: Duration = Duration::from_secs(20);

/// A node that nobody routes for but the test, with a link of its own.
fn playground() -> Result<(Lab, Agent)> {
    let (lab, agent) = fib::playground()?;
    fib::lay_link(lab.node(1)?)?;
    Ok((lab, agent))
}

/// What became of routes at `node`, as it was told: what, and which prefix.
fn told(agent: &Agent, node: &Node) -> Result<BTreeSet<(String, String)>> {
    let mut found = BTreeSet::new();
    for line in agent.ask(&["events", "-o", "json"])?.lines() {
        let record: ChangeRecord = serde_json::from_str(line)?;
        if record.node != node.name {
            continue;
        }
        if let Change::Routes(routes) = record.change {
            let what = routes.event.words();
            let each = { routes.prefixes.into_iter() }.map(|prefix| (what.to_owned(), prefix));
            found.extend(each);
        } else if let Change::ForeignDelete { prefix, .. } = record.change {
            found.insert(("foreign delete".to_owned(), prefix));
        } else if let Change::RouteFight { prefix, .. } = record.change {
            found.insert(("fight".to_owned(), prefix));
        }
    }
    Ok(found)
}

/// Waits until exactly `event` was told of each of `prefixes`, and of nothing else anything.
fn await_told(agent: &Agent, node: &Node, event: RouteEvent, prefixes: &[&str]) -> Result<()> {
    let expected: BTreeSet<(String, String)> = { prefixes.iter() }
        .map(|prefix| (event.words().to_owned(), (*prefix).to_owned()))
        .collect();
    wait::soon("what became of the routes is told", SOON, || {
        let found = told(agent, node)?;
        ensure!(found == expected, "{found:?}");
        Ok(())
    })
}

fn no_incident(agent: &Agent) -> Result<()> {
    let incidents = agent.incidents()?;
    ensure!(incidents.is_empty(), "{incidents:?}");
    Ok(())
}

#[test]
fn felix_and_bird_hand_routes_over_without_a_loss_or_a_fight() -> Result<()> {
    if !gate::open()? {
        return Ok(());
    }
    let (lab, agent) = playground()?;
    let node = lab.node(1)?;
    let v4 = |verb: &str, owner: &str| {
        format!("route {verb} 198.51.1.0/24 via 192.168.50.2 proto {owner}")
    };
    let v6 = |verb: &str, owner: &str| {
        format!("route {verb} fd99:1::/64 via fe80::2 dev v0 proto {owner}")
    };
    let batch = |lines: &[String]| netns::ip(Some(&node.namespace), lines);
    batch(&[v4("add", "bird"), v6("add", "bird")])?;
    let added = ["198.51.1.0/24", "fd99:1::/64"];
    await_told(&agent, node, RouteEvent::Added, &added)?;
    // By replacing, and by a delete and an add.
    for owner in ["80", "bird"] {
        batch(&[v4("replace", owner), v6("replace", owner)])?;
        fib::await_equal(&agent, node, SOON)?;
    }
    for (from, to) in [("bird", "80"), ("80", "bird")] {
        let lines = [
            v4("del", from),
            v4("add", to),
            v6("del", from),
            v6("add", to),
        ];
        // In one batch with IPv4, `ip` does not find the IPv6 route.
        let (v4, v6) = lines.split_at(2);
        batch(v4)?;
        batch(v6)?;
        fib::await_equal(&agent, node, SOON)?;
    }
    let events = [RouteEvent::Added, RouteEvent::HandedOver];
    let expected: BTreeSet<(String, String)> = { events.iter() }
        .flat_map(|event| added.map(|prefix| (event.words().to_owned(), prefix.to_owned())))
        .collect();
    wait::soon("the hand-overs are told", SOON, || {
        let found = told(&agent, node)?;
        ensure!(found == expected, "{found:?}");
        Ok(())
    })?;
    let shown = fib::ask(
        &agent,
        node,
        &["--owner", "bird", "--prefix", "198.51.1.0/24"],
    )?;
    ensure!(shown.routes.len() == 1, "{shown:?}");
    no_incident(&agent)
}

/// A block that is released, a borrowed address and a LoadBalancer's.
const WITHDRAWN: [&str; 3] = ["10.244.9.0/26", "10.244.1.7/32", "10.244.200.1/32"];

#[test]
fn what_an_update_withdraws_is_withdrawn_and_not_lost() -> Result<()> {
    if !gate::open()? {
        return Ok(());
    }
    let lab = Lab::build(Plan::of(2))?;
    let (n1, n2) = (lab.node(1)?, lab.node(2)?);
    let routes = WITHDRAWN.map(|prefix| format!("  route {prefix} blackhole;\n"));
    let extra = format!("\nprotocol static released {{\n{}}}\n", routes.concat());
    lab.configure(n2, &extra)?;
    // Peers that are known beforehand are read from their first segment on.
    let options = Options {
        inventory: true,
        ..Options::default()
    };
    let agent = Agent::start(&lab, &options)?;
    lab.start(n1)?;
    lab.start(n2)?;
    lab.await_established(CONVERGES)?;
    agent.await_all_up(lab.sessions(), CONVERGES)?;
    let at_n1 = |wanted: bool| {
        wait::soon("the routes at n1", SOON, || {
            let kernel = fib::kernel(&n1.namespace)?;
            for prefix in WITHDRAWN {
                let there = kernel.keys().any(|route| route.contains(prefix));
                ensure!(there == wanted, "{prefix}: {there}");
            }
            fib::await_equal(&agent, n1, SOON)
        })
    };
    at_n1(true)?;
    // All is told before the withdrawal, so that what follows is told apart.
    wait::soon("the routes are told", SOON, || {
        let told = told(&agent, n1)?;
        let added = RouteEvent::Added.words().to_owned();
        for prefix in WITHDRAWN {
            let one = (added.clone(), prefix.to_owned());
            ensure!(told.contains(&one), "{told:?}");
        }
        Ok(())
    })?;
    lab.birdc(n2, "disable released")?;
    at_n1(false)?;
    let withdrawn = RouteEvent::Withdrawn.words();
    wait::soon("the withdrawal is told", SOON, || {
        let told = told(&agent, n1)?;
        for prefix in WITHDRAWN {
            let of = told.iter().filter(|(_, of)| of == prefix);
            let events: Vec<&str> = of.map(|(event, _)| event.as_str()).collect();
            ensure!(
                events.contains(&withdrawn) && events.len() == 2,
                "{prefix}: {events:?}"
            );
        }
        Ok(())
    })?;
    let wrong = fib::ask(&agent, n1, &["--wrong"])?;
    ensure!(wrong.routes.is_empty(), "{wrong:?}");
    no_incident(&agent)
}

#[test]
fn churn_of_local_pods_is_mirrored_and_no_news() -> Result<()> {
    // Rounds of a hundred pods that come and go: a thousand changes a second and more.
    const ROUNDS: u32 = 25;
    if !gate::open()? {
        return Ok(());
    }
    let (lab, agent) = playground()?;
    let node = lab.node(1)?;
    let kinds = |agent: &Agent| -> Result<f64> {
        let scrape = agent.scrape()?;
        let labels = [("node", "n1"), ("protocol", "bird")];
        Ok(scrape.sum("bgp_observer_fib_changes_total", &labels))
    };
    let before = kinds(&agent)?;
    let begun = Instant::now();
    for round in 0..ROUNDS {
        let pods = |verb: &'static str| {
            (0..100).map(move |pod| format!("route {verb} 10.244.77.{pod}/32 dev v0 scope link"))
        };
        let mut lines: Vec<String> = pods("add").collect();
        if round + 1 < ROUNDS {
            lines.extend(pods("del"));
        }
        netns::ip(Some(&node.namespace), &lines)?;
    }
    let took = begun.elapsed();
    let changes = ROUNDS * 200 - 100;
    println!("{changes} changes in {took:?}");
    let routes = fib::await_equal(&agent, node, SOON)?;
    ensure!(routes >= 100, "{routes} routes");
    ensure!(told(&agent, node)?.is_empty(), "{:?}", told(&agent, node)?);
    ensure!(kinds(&agent)? - before < 0.5, "counted as bird's");
    let lost = agent.scrape()?.sum("bgp_observer_events_lost_total", &[]);
    ensure!(lost == 0.0, "{lost} events lost");
    no_incident(&agent)
}

#[test]
fn what_is_left_out_does_not_reach_the_mirror() -> Result<()> {
    if !gate::open()? {
        return Ok(());
    }
    let lab = Lab::build(Plan::of(2))?;
    let more = ["--route-protocol", "bird,80", "--route-table", "254,1000"];
    let options = Options {
        more: more.map(str::to_owned).to_vec(),
        ..Options::default()
    };
    let agent = Agent::start(&lab, &options)?;
    let node = lab.node(1)?;
    // One of each before the agent's first dump cannot be had; the audit's dump shows the same.
    let routes = [
        "route add 198.51.1.0/24 via 10.0.0.2 proto bird",
        "route add 198.51.2.0/24 via 10.0.0.2 proto static",
        "route add 198.51.3.0/24 via 10.0.0.2 proto bird table 1000",
        "route add 198.51.4.0/24 via 10.0.0.2 proto bird table 1001",
        "route add 198.51.5.0/24 via 10.0.0.2 proto 80",
    ];
    fib::ip(node, &routes)?;
    wait::soon("what is followed is there", SOON, || {
        let shown = fib::ask(&agent, node, &["--all"])?;
        let shown: Vec<&str> = shown
            .routes
            .iter()
            .map(|route| route.prefix.as_str())
            .collect();
        let expected = ["198.51.1.0/24", "198.51.5.0/24", "198.51.3.0/24"];
        ensure!(shown == expected, "{shown:?}");
        Ok(())
    })?;
    let path = agent.ask(&["path", "198.51.2.1"])?;
    ensure!(path.contains("not known: "), "{path}");
    Ok(())
}

/// The gateways of the one route that the agent has of `prefix`.
fn gateways(agent: &Agent, node: &Node, prefix: &str) -> Result<Vec<String>> {
    let shown = fib::ask(agent, node, &["--all", "--prefix", prefix])?;
    let route = shown.routes.iter().find(|route| route.prefix == prefix);
    let hops = &route.with_context(|| format!("{shown:?}"))?.next_hops;
    let gateways = hops.iter().filter_map(|hop| hop.gateway);
    let mut gateways: Vec<String> = gateways.map(|gateway| gateway.to_string()).collect();
    gateways.sort();
    Ok(gateways)
}

fn await_gateways(agent: &Agent, node: &Node, prefix: &str, expected: &[&str]) -> Result<()> {
    wait::soon("where the route leads", SOON, || {
        let found = gateways(agent, node, prefix)?;
        ensure!(found == expected, "{found:?}");
        Ok(())
    })
}

#[test]
fn of_routes_that_share_their_place_the_one_in_use_is_mirrored() -> Result<()> {
    if !gate::open()? {
        return Ok(());
    }
    let (lab, agent) = playground()?;
    let node = lab.node(1)?;
    let prefix = "198.51.70.0/24";
    let line =
        |verb: &str, hop: u8| format!("route {verb} {prefix} via 192.168.50.{hop} proto bird");
    let batch = |lines: &[String]| netns::ip(Some(&node.namespace), lines);
    batch(&[line("add", 2), line("append", 3)])?;
    await_gateways(&agent, node, prefix, &["192.168.50.2"])?;
    // A marker behind it: once that is seen, so is what came before.
    batch(&[
        line("del", 3),
        "route add 198.51.71.0/24 via 192.168.50.9".to_owned(),
    ])?;
    await_gateways(&agent, node, "198.51.71.0/24", &["192.168.50.9"])?;
    ensure!(gateways(&agent, node, prefix)? == ["192.168.50.2"]);
    batch(&[line("append", 3), line("del", 2)])?;
    await_gateways(&agent, node, prefix, &["192.168.50.3"])?;
    fib::await_equal(&agent, node, SOON)?;
    batch(&[line("del", 3)])?;
    let gone = (RouteEvent::Deleted.words().to_owned(), prefix.to_owned());
    wait::soon("the last one's end is told", SOON, || {
        let told = told(&agent, node)?;
        ensure!(told.contains(&gone), "{told:?}");
        Ok(())
    })
}

#[test]
fn hops_of_nexthop_objects_are_known_where_the_kernel_leaves_them_out() -> Result<()> {
    if !gate::open()? {
        return Ok(());
    }
    let (lab, agent) = playground()?;
    let node = lab.node(1)?;
    netns::sysctl(&node.namespace, &[("ipv4/nexthop_compat_mode", "0")])?;
    fib::ip(
        node,
        &[
            "nexthop add id 7 via 192.168.50.2 dev v0",
            "nexthop add id 8 via 192.168.50.3 dev v0",
            "nexthop add id 9 group 7/8,3",
            "nexthop add id 10 via fe80::2 dev v0",
            "route add 198.51.80.0/24 nhid 9 proto bird",
            "route add fd99:80::/64 nhid 10 proto bird",
        ],
    )?;
    let two = ["192.168.50.2", "192.168.50.3"];
    await_gateways(&agent, node, "198.51.80.0/24", &two)?;
    await_gateways(&agent, node, "fd99:80::/64", &["fe80::2"])?;
    // An object that is another now changes its routes without a word about them.
    fib::ip(node, &["nexthop replace id 10 via fe80::4 dev v0"])?;
    await_gateways(&agent, node, "fd99:80::/64", &["fe80::4"])?;
    fib::ip(node, &["nexthop delete id 9", "nexthop delete id 10"])?;
    fib::await_equal(&agent, node, SOON)?;
    Ok(())
}

#[test]
fn a_leg_of_an_ipv6_route_is_added_and_removed() -> Result<()> {
    if !gate::open()? {
        return Ok(());
    }
    let (lab, agent) = playground()?;
    let node = lab.node(1)?;
    let route = "fd99:90::/64";
    let leg =
        |verb: &str, hop: u8| format!("route {verb} {route} via fe80::{hop} dev v0 proto bird");
    let batch = |lines: &[String]| netns::ip(Some(&node.namespace), lines);
    batch(&[leg("add", 2), leg("append", 3)])?;
    await_gateways(&agent, node, route, &["fe80::2", "fe80::3"])?;
    fib::await_equal(&agent, node, SOON)?;
    batch(&[leg("del", 2)])?;
    await_gateways(&agent, node, route, &["fe80::3"])?;
    fib::await_equal(&agent, node, SOON)?;
    batch(&[leg("del", 3)])?;
    fib::await_equal(&agent, node, SOON)?;
    no_incident_but_of(&agent, route)
}

/// A route of BIRD's that nobody withdrew is a loss once it is gone for good, and nothing before is.
fn no_incident_but_of(agent: &Agent, prefix: &str) -> Result<()> {
    for incident in agent.incidents()? {
        let listed = &incident.prefixes.listed;
        ensure!(
            listed.iter().all(|lost| lost.prefix == prefix),
            "{incident:?}"
        );
    }
    Ok(())
}
