//! Whether every metric that dashboards, alerting rules and documents name is one that the agent
//! exports: the golden text of a scrape says which those are.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use crate::shell::root;

const GOLDEN: &str = "observer/src/sink/metrics_golden.txt";
const WHERE: [&str; 3] = ["deploy", "docs", "README.md"];
const READ: [&str; 4] = ["json", "md", "toml", "yaml"];
const PREFIXES: [&str; 2] = ["bgp_observer_", "calico_bgp_"];
/// What recording rules make begins with this.
const RECORDED: &str = "bgp_observer:";

pub fn check() -> Result<()> {
    let golden = fs::read_to_string(root().join(GOLDEN)).with_context(|| format!("no {GOLDEN}"))?;
    let mut known = exported(&golden);
    let mut files = Vec::new();
    for place in WHERE {
        collect(&root().join(place), &mut files)?;
    }
    let mut named = Vec::new();
    for file in files {
        let text =
            fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        known.extend(recorded(&text));
        named.push((file, metrics_in(&text)));
    }
    let mut unknown = Vec::new();
    let mut used = BTreeSet::new();
    for (file, names) in named {
        for name in names {
            if !known.contains(&name) {
                let shown = file.strip_prefix(root()).unwrap_or(&file).display();
                unknown.push(format!("{shown} names {name}"));
            }
            used.insert(name);
        }
    }
    if !unknown.is_empty() {
        bail!("no such metric:\n  {}", unknown.join("\n  "));
    }
    println!("{} names of metrics, all exported", used.len());
    Ok(())
}

/// Every name that a scrape may show.
fn exported(golden: &str) -> BTreeSet<String> {
    let families = golden
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "));
    families
        .filter_map(|family| family.split_once(' '))
        .flat_map(|(name, kind)| {
            let parts: &[&str] = match kind {
                "histogram" => &["", "_bucket", "_sum", "_count"],
                _ => &[""],
            };
            parts.iter().map(move |part| format!("{name}{part}"))
        })
        .collect()
}

/// What the recording rules in `text` make.
fn recorded(text: &str) -> impl Iterator<Item = String> {
    text.lines()
        .filter_map(|line| line.trim().strip_prefix("- record: "))
        .map(|name| name.trim().to_owned())
}

/// The names of metrics that `text` holds, wherever they stand in it.
fn metrics_in(text: &str) -> BTreeSet<String> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'))
        .map(|word| word.trim_end_matches(':'))
        .filter(|word| {
            word.starts_with(RECORDED) || PREFIXES.iter().any(|prefix| word.starts_with(prefix))
        })
        // `bgp_observer_…` in prose is no name.
        .filter(|word| !PREFIXES.contains(word))
        .map(str::to_owned)
        .collect()
}

fn collect(path: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    if !path.is_dir() {
        let extension = path.extension().unwrap_or_default().to_string_lossy();
        if READ.contains(&extension.as_ref()) {
            files.push(path.to_owned());
        }
        return Ok(());
    }
    let entries = fs::read_dir(path).with_context(|| format!("cannot list {}", path.display()))?;
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot list {}", path.display()))?;
        collect(&entry.path(), files)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_in_queries_rules_and_prose() {
        let text = "sum(calico_bgp_peers_state{state=\"down\"}) * bgp_observer:a:sum\n\
                    `bgp_observer_x_total`: see bgp_observer_… and bgp-observer\n";
        let found: Vec<_> = metrics_in(text).into_iter().collect();
        assert_eq!(
            found,
            [
                "bgp_observer:a:sum",
                "bgp_observer_x_total",
                "calico_bgp_peers_state"
            ]
        );
    }

    #[test]
    fn a_histogram_has_more_names_than_one() {
        let names = exported("# TYPE a gauge\na 1\n# TYPE b histogram\n");
        assert!(names.contains("a") && names.contains("b_bucket") && !names.contains("a_sum"));
    }

    #[test]
    fn a_recording_rule_makes_a_name() {
        let made: Vec<_> = recorded("  - record: bgp_observer:a:sum\n    expr: x\n").collect();
        assert_eq!(made, ["bgp_observer:a:sum"]);
    }
}
