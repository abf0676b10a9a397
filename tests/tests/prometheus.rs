//! End to end: BIRD dies, the agent sees it, Prometheus scrapes it, the guides' alert fires.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use observer_tests::{
    agent::Options,
    gate,
    lab::Plan,
    prometheus::{Alert, Prometheus},
    stage::observed,
    story::CONVERGES,
    wait,
};

const SOON: Duration = Duration::from_secs(30);
const PATIENCE: Duration = Duration::from_secs(4);

fn about_n2(prometheus: &Prometheus) -> Result<Option<Alert>> {
    let labels = [
        ("alertname", "CalicoBGPPeeringDown"),
        ("node", "n1"),
        ("peer", "10.0.0.2"),
    ];
    Ok(prometheus.alerts()?.into_iter().find(|alert| {
        labels
            .iter()
            .all(|(key, value)| alert.labels.get(*key).is_some_and(|found| found == value))
    }))
}

#[test]
fn the_guides_alert_goes_pending_then_firing_then_away() -> Result<()> {
    if !gate::open()? {
        return Ok(());
    }
    let (lab, agent) = observed(Plan::default(), &Options::default())?;
    let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/alerts/calico-bgp.yaml");
    let prometheus = Prometheus::start(&lab, &agent, &[rules], PATIENCE)?;
    ensure!(
        about_n2(&prometheus)?.is_none(),
        "an alert although all is well"
    );

    let n2 = lab.node(2)?;
    lab.end(n2, Signal::SIGKILL)?;
    let mut was_pending = false;
    let firing = wait::soon("the alert fires", SOON, || {
        let alert = about_n2(&prometheus)?.context("no alert")?;
        match alert.state.as_str() {
            "firing" => Ok(alert),
            state => {
                was_pending |= state == "pending";
                bail!("the alert is {state}")
            }
        }
    })?;
    ensure!(was_pending, "the alert was never pending");
    let words: String = firing.annotations.values().cloned().collect();
    ensure!(
        words.contains("n1") && words.contains("10.0.0.2"),
        "{:?}",
        firing.annotations
    );

    lab.start(n2)?;
    lab.await_established(CONVERGES)?;
    wait::soon("the alert goes away", SOON, || {
        match about_n2(&prometheus)? {
            None => Ok(()),
            Some(alert) => bail!("still {}", alert.state),
        }
    })
}
