//! The shipped dashboards: that they load without edits, and that every query of theirs has an
//! answer where an agent is scraped.

use std::{collections::BTreeSet, fs, path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use observer_tests::{
    agent::Options, gate, lab::Plan, prometheus::Prometheus, stage::observed, story::CONVERGES,
    wait,
};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(30);

fn files(folder: &str, extension: &str) -> Result<Vec<PathBuf>> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../deploy")
        .join(folder);
    let mut files = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.extension().is_some_and(|found| found == extension) {
            files.push(path);
        }
    }
    ensure!(!files.is_empty(), "no .{extension} in {}", folder.display());
    files.sort();
    Ok(files)
}

fn dashboards() -> Result<Vec<(String, Value)>> {
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path)?;
        let board = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        Ok((name.into_owned(), board))
    };
    files("dashboards", "json")?.into_iter().map(read).collect()
}

fn panels(board: &Value) -> &[Value] {
    board["panels"].as_array().map_or(&[], Vec::as_slice)
}

/// Title and expression of each query.
fn queries(board: &Value) -> Vec<(&str, &str)> {
    panels(board)
        .iter()
        .flat_map(|panel| {
            let title = panel["title"].as_str().unwrap_or_default();
            let targets = panel["targets"].as_array().map_or(&[][..], Vec::as_slice);
            targets
                .iter()
                .map(move |target| (title, target["expr"].as_str().unwrap_or_default()))
        })
        .collect()
}

#[test]
fn dashboards_load_without_edits() -> Result<()> {
    let mut uids = BTreeSet::new();
    for (file, board) in dashboards()? {
        let uid = board["uid"]
            .as_str()
            .with_context(|| format!("{file}: no uid"))?;
        ensure!(uids.insert(uid.to_owned()), "{file}: {uid} is taken");
        // An id is of one Grafana's database; with it, an import overwrites or fails.
        ensure!(board["id"].is_null(), "{file} has an id");
        ensure!(
            board["title"].is_string() && board["schemaVersion"].is_u64(),
            "{file}"
        );

        let mut ids = BTreeSet::new();
        let mut taken = BTreeSet::new();
        for panel in panels(&board) {
            let title = panel["title"]
                .as_str()
                .with_context(|| format!("{file}: no title"))?;
            ensure!(ids.insert(panel["id"].as_u64()), "{file}: {title}: id");
            let at = |key: &str| panel["gridPos"][key].as_u64().context("gridPos");
            let (x, y, w, h) = (at("x")?, at("y")?, at("w")?, at("h")?);
            ensure!(x + w <= 24, "{file}: {title} is too far right");
            for cell in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
                ensure!(taken.insert(cell), "{file}: {title} overlaps another panel");
            }
            ensure!(
                panel["datasource"]["uid"] == "${datasource}",
                "{file}: {title} names a data source of its own"
            );
        }
        let queries = queries(&board);
        ensure!(queries.len() >= ids.len(), "{file}: a panel has no query");
        for (title, expression) in queries {
            ensure!(!expression.is_empty(), "{file}: {title}: empty query");
        }
    }
    Ok(())
}

#[test]
fn every_query_of_the_dashboards_has_an_answer() -> Result<()> {
    if !gate::open()? {
        return Ok(());
    }
    let (lab, agent) = observed(
        Plan::default(),
        &Options {
            inventory: true,
            ..Options::default()
        },
    )?;
    let rules = files("alerts", "yaml")?;
    let prometheus = Prometheus::start(&lab, &agent, &rules, Duration::from_secs(4))?;
    // One flap, so that what is only there after a loss is there.
    let n2 = lab.node(2)?;
    lab.end(n2, Signal::SIGKILL)?;
    lab.start(n2)?;
    lab.await_established(CONVERGES)?;

    // What is the agent's own carries the name of the host that it runs on.
    let host = fs::read_to_string("/proc/sys/kernel/hostname")?;
    let host = host.trim();
    for (file, board) in dashboards()? {
        for (title, expression) in queries(&board) {
            let asked = expression
                .replace("=\"$node\"", &format!("=~\"n1|{host}\""))
                .replace("$peer", "10.0.0.2")
                .replace("$__rate_interval", "20s");
            wait::soon(&format!("{file}: {title}: {asked}"), SOON, || {
                let series = prometheus.query(&asked)?;
                ensure!(series > 0, "no series");
                Ok(())
            })?;
        }
    }
    Ok(())
}
