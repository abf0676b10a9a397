//! `check`: what can run here, why not, and what is lost without it.

use std::fmt::Write as _;

use anyhow::Result;
use observer_core::event::{Event, NetnsId};

use crate::{
    cli::{Answer, CheckArgs, Format},
    cluster,
    config::Config,
    echoes,
    health::{RoutesFrom, SourceStatus},
    privileges, routes, show,
    source::{
        bird,
        kernel::{KernelOptions, KernelSource},
        netns::{Netns, NetnsError},
        sock_diag::SockDiag,
    },
    taps::{self, TapKind, Tapped},
    terminal::{self, plain},
};

/// Runs the command: loads and attaches everything, looks at every namespace, and lets go again.
pub fn check(args: &CheckArgs) -> Result<Answer> {
    let config = args.config.resolve()?;
    let sources = sources(&config);
    let routes = RoutesFrom::of(&sources);
    // Where the kernel refuses the probes of routes, rtnetlink does their work.
    let stood_in = |source: &&SourceStatus| source.tells_routes() && routes.source == "rtnetlink";
    let lacking = { sources.iter() }
        .filter(|source| !source.running && !stood_in(source))
        .count();
    let text = match args.output {
        Format::Json => terminal::json(&serde_json::json!({
            "sources": sources,
            "routes": routes,
            "capabilities": {
                "kept": privileges::kept(&config),
                "missing": privileges::missing(),
            },
        }))?,
        Format::Table => format!("{}{routes}.\n{}", table(&sources), capabilities(&config)),
    };
    terminal::print(&text)?;
    let observing = |source: &SourceStatus| source.running && source.observes();
    Ok(if !sources.iter().any(observing) {
        Answer::Failed
    } else if lacking > 0 {
        Answer::No
    } else {
        Answer::Done
    })
}

fn sources(config: &Config) -> Vec<SourceStatus> {
    // What is attached to find out is detached again at the end.
    let (mut kernel, probes) = KernelSource::start(&kernel_options(config));
    let mut sources: Vec<SourceStatus> = probes.iter().map(SourceStatus::from).collect();
    sources.extend(sock_diags(config));
    sources.extend(in_each(config, |node, netns, config| {
        tap(node, netns, config, kernel.as_mut())
    }));
    sources.extend(in_each(config, rtnetlink));
    sources.extend(in_each(config, echo));
    sources.extend(bird::look(&config.bird_sockets()));
    sources.extend(cluster::look(config.kubernetes, config.events_of()));
    sources
}

/// Whether `sock_diag` works, for each namespace.
pub fn sock_diags(config: &Config) -> Vec<SourceStatus> {
    in_each(config, sock_diag)
}

/// What `look` finds in each namespace.
fn in_each(
    config: &Config,
    mut look: impl FnMut(&str, Result<Netns, NetnsError>, &Config) -> SourceStatus,
) -> Vec<SourceStatus> {
    let mut all = Vec::new();
    if let Some(node) = &config.node {
        all.push(look(node, Netns::own(), config));
    }
    for spec in &config.netns {
        all.push(look(&spec.node, Netns::named(&spec.netns), config));
    }
    all
}

/// What the probes are told.
pub fn kernel_options(config: &Config) -> KernelOptions {
    let followed = config.followed_routes();
    KernelOptions {
        ports: config.ports(),
        routes: config.route_probes,
        protocols: followed.protocols,
        tables: followed.tables,
        segments: config.tap != TapKind::Packet,
        btf_path: config.btf.clone(),
    }
}

fn tap(
    node: &str,
    netns: Result<Netns, NetnsError>,
    config: &Config,
    kernel: Option<&mut KernelSource>,
) -> SourceStatus {
    let tapped = match netns {
        Ok(netns) => taps::try_in(config.tap, &netns, &config.ports(), kernel),
        Err(error) => Tapped::failed(error.into()),
    };
    SourceStatus::tap(node, tapped)
}

fn rtnetlink(node: &str, netns: Result<Netns, NetnsError>, _config: &Config) -> SourceStatus {
    let looked: Result<()> = netns
        .map_err(Into::into)
        .and_then(|netns| Ok(netns.run_in(routes::try_open)??));
    SourceStatus::rtnetlink(node, looked.err().map(|error| format!("{error:#}")))
}

fn echo(node: &str, netns: Result<Netns, NetnsError>, config: &Config) -> SourceStatus {
    let looked: Result<()> = netns
        .map_err(Into::into)
        .and_then(|netns| echoes::can_send(config.reach_probe.probe(), &netns));
    SourceStatus::echo(node, looked.err().map(|error| format!("{error:#}")))
}

fn sock_diag(node: &str, netns: Result<Netns, NetnsError>, config: &Config) -> SourceStatus {
    let looked: Result<Vec<Event>> = netns.map_err(Into::into).and_then(|netns| {
        let mut socket = SockDiag::open(&netns, NetnsId(1), &config.ports())?;
        Ok(socket.dump()?)
    });
    SourceStatus::sock_diag(node, looked.err().map(|error| format!("{error:#}")))
}

/// The table as it is printed, and below it why what does not run does not, or not in a better way, each
/// reason once.
pub fn table(sources: &[SourceStatus]) -> String {
    let mut table = show::table::under(["SOURCE", "KIND", "NODE", "RUNS", "LOST WITHOUT IT"]);
    let mut reasons: Vec<&str> = Vec::new();
    for source in sources {
        let (runs, reason) = if source.running {
            ("yes", &source.instead_because)
        } else {
            ("no", &source.reason)
        };
        let runs = match reason.as_deref() {
            None => runs.to_owned(),
            Some(reason) => {
                let known = reasons.iter().position(|known| *known == reason);
                let number = known.unwrap_or_else(|| {
                    reasons.push(reason);
                    reasons.len() - 1
                });
                format!("{runs} [{}]", number + 1)
            }
        };
        table.add_row([
            plain(&source.name),
            plain(&source.kind),
            plain(source.node.as_deref().unwrap_or("-")),
            runs,
            plain(&source.lost_without),
        ]);
    }
    let mut text = format!("{table}\n");
    for (number, reason) in (1..).zip(reasons) {
        // Writing to a String does not fail.
        let _ = writeln!(text, "[{number}] {}", plain(reason));
    }
    text
}

/// Which capabilities are missing, and which the agent keeps when its probes are attached.
fn capabilities(config: &Config) -> String {
    let mut text = String::new();
    for missing in privileges::missing() {
        // Writing to a String does not fail.
        let _ = writeln!(
            text,
            "{} is missing. Lost without it: {}",
            missing.capability, missing.lost_without
        );
    }
    let kept = privileges::kept(config);
    let kept = if kept.is_empty() {
        "none".to_owned()
    } else {
        kept.join(", ")
    };
    let _ = writeln!(
        text,
        "Capabilities that the agent keeps while it runs: {kept}"
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_that_several_share_is_told_once() {
        let no = |node: &str| SourceStatus::sock_diag(node, Some("forbidden\x07".to_owned()));
        let shown = table(&[no("a"), SourceStatus::sock_diag("b", None), no("c")]);
        assert_eq!(shown.matches("no [1]").count(), 2, "{shown}");
        assert!(shown.ends_with("\n[1] forbidden\\u{7}\n"), "{shown}");
    }
}
