//! `cargo xtask deploy`: writes what `deploy/` holds that follows from the rest of it, and checks
//! all of it with the tools that will read it.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    build, names, python, setup,
    shell::{cache, output, root, run as run_command},
};

/// The Kubernetes versions that are maintained.
const VERSIONS: [&str; 3] = ["1.35", "1.36", "1.37"];
/// Every folder that can be applied.
const RENDERED: [&str; 10] = [
    "base",
    "overlays/ebpf",
    "overlays/privileged",
    "overlays/openshift",
    "overlays/pods",
    "overlays/events",
    "overlays/node-status",
    "overlays/bird",
    "overlays/seccomp",
    "overlays/prometheus-operator",
];
/// The one that install.yaml is.
const INSTALLED: &str = "overlays/ebpf";
/// Kinds that Kubernetes itself does not define, so that there is no schema of them here.
const WITHOUT_SCHEMA: [&str; 3] = ["PodMonitor", "PrometheusRule", "SecurityContextConstraints"];

#[derive(clap::Args)]
pub struct Args {
    /// Only check that what is generated is up to date.
    #[arg(long)]
    check: bool,
}

pub fn run(args: &Args) -> Result<()> {
    setup::ensure()?;
    if !args.check {
        // The rules come first: an overlay renders them.
        for generated in [operator_rules, install_manifest] {
            let (path, text) = generated()?;
            fs::write(&path, text).with_context(|| format!("cannot write {}", shown(&path)))?;
            println!("wrote {}", shown(&path));
        }
    }
    check()
}

/// Everything in `deploy/` that a tool can judge.
pub fn check() -> Result<()> {
    image_tag()?;
    names::check()?;
    for generated in [operator_rules, install_manifest] {
        let (path, expected) = generated()?;
        if fs::read_to_string(&path).unwrap_or_default() != expected {
            bail!("{} is not up to date: `cargo xtask deploy`", shown(&path));
        }
    }
    manifests()?;
    prometheus()?;
    runbooks()?;
    alertmanager()
}

/// Alerts for which some case says that they fire, and those for which some says that they do not.
fn alert_cases() -> Result<[BTreeSet<String>; 2]> {
    let [mut firing, mut silent] = [BTreeSet::new(), BTreeSet::new()];
    for path in yaml_files("tests/alerts")? {
        let cases = fs::read_to_string(&path).with_context(|| format!("no {}", shown(&path)))?;
        for case in cases.split("alertname: ").skip(1) {
            let name = case.split([',', '\n', '"']).next().unwrap_or_default();
            let fires = !case.contains("exp_alerts: []");
            let of = if fires { &mut firing } else { &mut silent };
            of.insert(name.trim().to_owned());
        }
    }
    Ok([firing, silent])
}

/// Each alert names its own page, and each page belongs to an alert; each has a case in which it must fire
/// and one in which it must not.
fn runbooks() -> Result<()> {
    let mut named = BTreeSet::new();
    let [firing, silent] = alert_cases()?;
    for path in yaml_files("deploy/alerts")? {
        let rules = fs::read_to_string(&path).with_context(|| format!("no {}", shown(&path)))?;
        for rule in rules.split("- alert: ").skip(1) {
            let name = rule.lines().next().unwrap_or_default().trim();
            let page = format!("docs/runbooks/{name}.md");
            if !rule.contains(&format!("runbook: {page}\n")) || !root().join(&page).is_file() {
                bail!("the alert {name} of {} has no {page}", shown(&path));
            }
            if !firing.contains(name) || !silent.contains(name) {
                bail!("tests/alerts must have a case where {name} fires and one where it does not");
            }
            named.insert(page);
        }
    }
    for entry in fs::read_dir(root().join("docs/runbooks")).context("no docs/runbooks")? {
        let page = entry.context("cannot list docs/runbooks")?.path();
        if !named.contains(&shown(&page)) {
            bail!("{} is no alert's", shown(&page));
        }
    }
    Ok(())
}

fn folder() -> PathBuf {
    root().join("deploy")
}

fn shown(path: &Path) -> String {
    let path = path.strip_prefix(root()).unwrap_or(path);
    path.display().to_string()
}

/// The tag in the manifests is the version.
fn image_tag() -> Result<()> {
    let path = folder().join("kubernetes/base/kustomization.yaml");
    let text = fs::read_to_string(&path).with_context(|| format!("no {}", shown(&path)))?;
    let tag = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("newTag: "));
    let version = env!("CARGO_PKG_VERSION");
    if tag != Some(version) {
        bail!(
            "{}: newTag is not {version}, the version of Cargo.toml",
            shown(&path)
        );
    }
    Ok(())
}

/// The alerting rules as objects of the Prometheus operator.
fn operator_rules() -> Result<(PathBuf, String)> {
    let mut text = "# Generated from deploy/alerts by `cargo xtask deploy`.\n".to_owned();
    for path in yaml_files("deploy/alerts")? {
        let rules = fs::read_to_string(&path).with_context(|| format!("no {}", shown(&path)))?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        text.push_str(&rule_object(&name, &rules));
    }
    Ok((
        folder().join("kubernetes/components/prometheus-operator/rules.yaml"),
        text,
    ))
}

/// `rules` as the `spec` of an object called `name`.
fn rule_object(name: &str, rules: &str) -> String {
    let mut text = format!(
        "---\napiVersion: monitoring.coreos.com/v1\nkind: PrometheusRule\n\
         metadata:\n  name: {name}\nspec:\n"
    );
    for line in rules.lines() {
        if !line.is_empty() {
            text.push_str("  ");
            text.push_str(line);
        }
        text.push('\n');
    }
    text
}

/// One file to apply, for those who do not use kustomize.
fn install_manifest() -> Result<(PathBuf, String)> {
    let text = format!(
        "# Generated from deploy/kubernetes/{INSTALLED} by `cargo xtask deploy`.\n{}",
        render(INSTALLED)?
    );
    Ok((folder().join("install.yaml"), text))
}

fn render(overlay: &str) -> Result<String> {
    let mut kubectl = Command::new(python::program(&cache()?, "kubectl"));
    kubectl
        .arg("kustomize")
        .arg(folder().join("kubernetes").join(overlay));
    output(&mut kubectl).with_context(|| format!("{overlay} does not render"))
}

/// Renders every overlay and holds it to the schemas of each Kubernetes version.
fn manifests() -> Result<()> {
    let rendered = build::target().join("deploy");
    fs::create_dir_all(&rendered).with_context(|| format!("no {}", rendered.display()))?;
    let mut files = Vec::new();
    for overlay in RENDERED {
        let path = rendered.join(overlay.replace('/', "-") + ".yaml");
        fs::write(&path, render(overlay)?).with_context(|| format!("no {}", path.display()))?;
        files.push(path);
    }
    for version in VERSIONS {
        let mut validate = Command::new(python::program(&cache()?, "kubernetes-validate"));
        validate
            .args(["--strict", "--quiet", "-k", version])
            .args(&files);
        let said = output(&mut validate)?;
        if let Some(unknown) = said.lines().find(|line| !is_expected(line)) {
            bail!("Kubernetes {version}: {unknown}");
        }
        println!(
            "{} manifests are valid for Kubernetes {version}",
            files.len()
        );
    }
    Ok(())
}

/// Whether this word of `kubernetes-validate` only says that a known kind has no schema.
fn is_expected(line: &str) -> bool {
    let kind = line
        .split_once("Couldn't find schema for kind ")
        .and_then(|(_, rest)| rest.split(' ').next());
    kind.is_some_and(|kind| WITHOUT_SCHEMA.contains(&kind))
}

/// The rules with their tests, and the configurations that load them.
fn prometheus() -> Result<()> {
    let promtool = cache()?.join("debs/prometheus/usr/bin/promtool");
    for (verb, folder) in [("check", "deploy/alerts"), ("test", "tests/alerts")] {
        let files = yaml_files(folder)?;
        run_command(
            Command::new(&promtool)
                .current_dir(root())
                .args([verb, "rules"])
                .args(files),
        )?;
    }
    let config = folder().join("prometheus/prometheus.yaml");
    run_command(
        Command::new(&promtool)
            .args(["check", "config"])
            .arg(config),
    )?;
    // Debian's Prometheus is built without discovery by Kubernetes: the rest of the job is checked.
    let job = folder().join("prometheus/kubernetes.yaml");
    let text = fs::read_to_string(&job).with_context(|| format!("no {}", shown(&job)))?;
    let plain = build::target().join("deploy/prometheus-kubernetes.yaml");
    fs::write(&plain, without_discovery(&text)?).context("cannot write a configuration")?;
    run_command(Command::new(&promtool).args(["check", "config"]).arg(plain))
}

/// A configuration with a fixed target where it has `kubernetes_sd_configs`.
fn without_discovery(config: &str) -> Result<String> {
    const DISCOVERY: &str = "    kubernetes_sd_configs:\n";
    let (before, discovery) = config
        .split_once(DISCOVERY)
        .context("no discovery to replace")?;
    let after: String = discovery
        .split_inclusive('\n')
        .skip_while(|line| line.starts_with("      "))
        .collect();
    Ok(format!(
        "{before}    static_configs: [{{targets: ['127.0.0.1:9742']}}]\n{after}"
    ))
}

fn alertmanager() -> Result<()> {
    let amtool = cache()?.join("debs/prometheus-alertmanager/usr/bin/amtool");
    let config = folder().join("prometheus/alertmanager.yaml");
    run_command(Command::new(amtool).arg("check-config").arg(config))
}

/// The YAML files of a folder, which must have some.
fn yaml_files(folder: &str) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(root().join(folder)).with_context(|| format!("no {folder}"))? {
        let entry = entry.with_context(|| format!("cannot list {folder}"))?;
        let path = entry.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "yaml")
        {
            files.push(path);
        }
    }
    if files.is_empty() {
        bail!("{folder} has no .yaml file");
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_keep_their_shape_inside_an_object() {
        let object = rule_object("a", "groups:\n\n  - name: g\n");
        assert!(
            object.ends_with("  name: a\nspec:\n  groups:\n\n    - name: g\n"),
            "{object}"
        );
    }

    #[test]
    fn only_a_missing_schema_of_a_known_kind_is_expected() {
        let no_schema = |kind| format!("WARN a.yaml Couldn't find schema for kind {kind} with api");
        assert!(is_expected(&no_schema("PodMonitor")));
        assert!(!is_expected(&no_schema("DaemonSett")));
        assert!(!is_expected("WARN something else"));
    }

    #[test]
    fn discovery_is_replaced_and_what_follows_stays() {
        let config =
            "jobs:\n    kubernetes_sd_configs:\n      - role: pod\n        x: 1\n    after: 1\n";
        let plain = without_discovery(config).unwrap();
        assert!(plain.starts_with("jobs:\n    static_configs:"), "{plain}");
        assert!(plain.ends_with("]\n    after: 1\n"), "{plain}");
        assert!(without_discovery("jobs:\n").is_err());
    }
}
