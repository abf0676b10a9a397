//! Debian's Prometheus, scraping an agent of the lab and judging by the alert rules we ship.

use std::{fs, net::SocketAddr, path::Path, time::Duration};

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::{
    agent::{Agent, free_address},
    http,
    lab::Lab,
    process::Process,
    programs, wait,
};

/// A running Prometheus.
#[derive(Debug)]
pub struct Prometheus {
    process: Process,
    address: SocketAddr,
}

/// An active alert.
#[derive(Clone, Debug, Deserialize)]
pub struct Alert {
    /// `alertname` and all others.
    pub labels: std::collections::BTreeMap<String, String>,
    /// The rule's words, filled in.
    pub annotations: std::collections::BTreeMap<String, String>,
    /// `pending` or `firing`.
    pub state: String,
}

#[derive(Deserialize)]
struct Answer {
    data: Data,
}

#[derive(Deserialize)]
struct Data {
    alerts: Vec<Alert>,
}

impl Prometheus {
    /// Starts one that scrapes `agent` and evaluates `rules` every second, with each `for` of the
    /// rules shortened to `patience`.
    pub fn start(lab: &Lab, agent: &Agent, rules: &Path, patience: Duration) -> Result<Self> {
        let folder = lab.estate().folder();
        let text = fs::read_to_string(rules)
            .with_context(|| format!("cannot read {}", rules.display()))?;
        let shortened = folder.join("rules.yaml");
        fs::write(&shortened, shorten(&text, patience))?;
        let config = folder.join("prometheus.yaml");
        fs::write(
            &config,
            format!(
                "global: {{scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}}\n\
                 rule_files: ['{}']\n\
                 scrape_configs:\n\
                 - job_name: bgp-observer\n  static_configs: [{{targets: ['{}']}}]\n",
                shortened.display(),
                agent.metrics_address()
            ),
        )?;
        let address = free_address()?;
        let mut command = programs::find("prometheus", "prometheus")?.command();
        command
            .arg(format!("--config.file={}", config.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                folder.join("tsdb").display()
            ))
            .arg(format!("--web.listen-address={address}"))
            .args([
                "--log.level=warn",
                "--web.console.templates=",
                "--web.console.libraries=",
            ]);
        let process = Process::start(lab.estate(), "prometheus", None, &mut command, None)?;
        let prometheus = Self { process, address };
        wait::soon("Prometheus ready", Duration::from_secs(30), || {
            prometheus.process.must_run()?;
            http::get(address, "/-/ready")
        })?;
        Ok(prometheus)
    }

    /// The active alerts.
    pub fn alerts(&self) -> Result<Vec<Alert>> {
        let answer: Answer = serde_json::from_str(&http::get(self.address, "/api/v1/alerts")?)?;
        Ok(answer.data.alerts)
    }
}

/// `rules` with every `for: …` replaced.
fn shorten(rules: &str, patience: Duration) -> String {
    rules
        .lines()
        .map(|line| match line.split_once("for: ") {
            Some((before, _)) if before.trim().is_empty() => {
                format!("{before}for: {}s\n", patience.as_secs())
            }
            Some(_) | None => format!("{line}\n"),
        })
        .collect::<Vec<_>>()
        .concat()
}
