//! Each scenario under agents with the rights of `deploy/kubernetes/base` and no others: what they must
//! still tell, and what they must say they do not see. `docs/limits.md` has that as a table.

use std::{
    collections::BTreeMap,
    env, fs,
    path::Path,
    sync::{Mutex, PoisonError},
    thread,
};

use anyhow::{Context, Result, anyhow, ensure};
use clap::ValueEnum;
use observer_core::incident::Incident;
use observer_tests::{
    agents::Agents,
    gate,
    lab::Plan,
    rights::Overlay,
    scenario::{Scenario, table},
    stage::{hold_all, observed_by_each},
    story::CONVERGES,
};

const PAGE: &str = "docs/limits.md";
const BEGIN: &str = "<!-- what each overlay tells: written by tests/tests/base.rs -->\n";
const END: &str = "<!-- end -->\n";
const HEADING: &str = "\
| what happens | its peers tell | the node itself tells | the same, with `base` only |
|---|---|---|---|
";
/// Labs at once: they do little but wait.
const AT_ONCE: usize = 7;

#[test]
fn every_scenario_is_told_or_what_is_not_seen_of_it_is() -> Result<()> {
    if !gate::open()? {
        return Ok(());
    }
    // Those that take longest come first.
    let mut scenarios: Vec<Scenario> = Scenario::value_variants().to_vec();
    let long = [
        Scenario::RecoveryWait,
        Scenario::Firewall,
        Scenario::SecondRestart,
    ];
    scenarios.sort_by_key(|one| !long.contains(one));
    let queue = Mutex::new(scenarios.into_iter());
    let rows = Mutex::new(BTreeMap::new());
    let play = || -> Result<()> {
        loop {
            let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some(scenario) = next else {
                return Ok(());
            };
            let row = played(scenario).with_context(|| format!("{scenario:?}"))?;
            let mut rows = rows.lock().unwrap_or_else(PoisonError::into_inner);
            let number = Scenario::value_variants()
                .iter()
                .position(|one| *one == scenario);
            rows.insert(number, row);
        }
    };
    thread::scope(|scope| {
        let playing = [(); AT_ONCE].map(|()| scope.spawn(play));
        let played = playing.into_iter().map(|one| {
            one.join()
                .map_err(|_| anyhow!("a scenario's thread panicked"))?
        });
        played.collect::<Result<()>>()
    })?;
    let rows = rows.into_inner().unwrap_or_else(PoisonError::into_inner);
    is_in_the_page(&rows.into_values().collect::<String>())
}

/// With what `overlays/ebpf` grants, and no more, each node's own agent tells all.
#[test]
fn the_rights_of_the_ebpf_overlay_tell_who_ended_the_speaker() -> Result<()> {
    if !gate::open()? {
        return Ok(());
    }
    let (lab, agents) = observed_by_each(Plan::default(), Overlay::Ebpf)?;
    let all = Agents {
        all: &agents,
        overlay: Overlay::Ebpf,
    };
    for scenario in [Scenario::Kill, Scenario::Reset] {
        lab.await_established(CONVERGES)?;
        hold_all(scenario, &lab, all)?;
    }
    Ok(())
}

/// Plays it under agents of the base, and gives its row of the table.
fn played(scenario: Scenario) -> Result<String> {
    let overlay = Overlay::Base;
    let (lab, agents) = observed_by_each(scenario.plan(Plan::default()), overlay)?;
    let all = Agents {
        all: &agents,
        overlay,
    };
    let outcome = hold_all(scenario, &lab, all)?;
    for incident in &outcome.incidents {
        says_who_is_not_named(incident)?;
    }
    for flap in &outcome.flaps {
        let seen = flap.up_before_seconds.is_some();
        ensure!(
            flap.number == 1 || seen,
            "{} → {}: a session that came up under the agent's eyes is called older than it",
            flap.node,
            flap.peer
        );
    }
    let [ebpf, base] = [Overlay::Ebpf, overlay].map(|overlay| scenario.script(&lab, overlay));
    Ok(table::row(&ebpf?, &base?))
}

/// Nobody is named for what rtnetlink told, and that is said.
fn says_who_is_not_named(incident: &Incident) -> Result<()> {
    let removers = incident.prefixes.deleted_by.keys();
    let named = |remover: &&String| remover.contains("(pid ");
    ensure!(
        !removers.clone().any(|remover| named(&remover)),
        "the base names somebody: {:?}",
        incident.prefixes
    );
    let unnamed = { removers }.any(|remover| remover.contains("rtnetlink does not name"));
    let said = { incident.evidence.missing.iter() }.any(|line| line.contains("who removed routes"));
    ensure!(
        said == unnamed,
        "{:?} {:?}",
        incident.prefixes,
        incident.evidence
    );
    Ok(())
}

fn is_in_the_page(rows: &str) -> Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(PAGE);
    let page = fs::read_to_string(&path).with_context(|| format!("no {PAGE}"))?;
    let (before, rest) = page.split_once(BEGIN).context("no table in the page")?;
    let (_, after) = rest.split_once(END).context("no end of the table")?;
    let wanted = format!("{before}{BEGIN}\n{HEADING}{rows}\n{END}{after}");
    if env::var_os("UPDATE_EXPECT").is_some() {
        return fs::write(&path, wanted).with_context(|| format!("cannot write {PAGE}"));
    }
    ensure!(
        page == wanted,
        "{PAGE} is not what the scenarios say: UPDATE_EXPECT=1\n{rows}"
    );
    Ok(())
}
