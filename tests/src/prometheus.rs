//! Debian's Prometheus, scraping an agent of the lab and judging by the alert rules we ship.

use std::{fmt::Write as _, fs, net::SocketAddr, path::PathBuf, time::Duration};

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
struct Answer<T> {
    data: T,
}

#[derive(Deserialize)]
struct Active {
    alerts: Vec<Alert>,
}

#[derive(Deserialize)]
struct Found {
    result: Vec<serde_json::Value>,
}

impl Prometheus {
    /// Starts one that scrapes `agent` and evaluates `rules` every second, with each `for` of the
    /// rules shortened to `patience`.
    pub fn start(lab: &Lab, agent: &Agent, rules: &[PathBuf], patience: Duration) -> Result<Self> {
        let folder = lab.estate().folder();
        let mut loaded = Vec::new();
        for (number, path) in rules.iter().enumerate() {
            let text = fs::read_to_string(path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            let shortened = folder.join(format!("rules-{number}.yaml"));
            fs::write(&shortened, shorten(&text, patience))?;
            loaded.push(format!("'{}'", shortened.display()));
        }
        let config = folder.join("prometheus.yaml");
        fs::write(
            &config,
            format!(
                "global: {{scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}}\n\
                 rule_files: [{}]\n\
                 scrape_configs:\n\
                 - job_name: bgp-observer\n  static_configs: [{{targets: ['{}']}}]\n",
                loaded.join(", "),
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

    /// How many series the instant query `expression` yields now; fails if it is no query.
    pub fn query(&self, expression: &str) -> Result<usize> {
        let mut encoded = String::new();
        for byte in expression.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' => encoded.push(char::from(byte)),
                _ => write!(encoded, "%{byte:02X}")?,
            }
        }
        let answer = http::get(self.address, &format!("/api/v1/query?query={encoded}"))
            .with_context(|| format!("query {expression}"))?;
        let answer: Answer<Found> = serde_json::from_str(&answer)?;
        Ok(answer.data.result.len())
    }

    /// The active alerts.
    pub fn alerts(&self) -> Result<Vec<Alert>> {
        let answer: Answer<Active> =
            serde_json::from_str(&http::get(self.address, "/api/v1/alerts")?)?;
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
