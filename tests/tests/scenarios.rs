//! Each scenario, played on a real mesh: the right cause at both ends, final in time, counted once.

use std::{path::Path, thread, time::Duration};

use anyhow::{Context, Result, anyhow, bail, ensure};
use observer_core::{cause::Cause, change::Change};
use observer_tests::{
    agent::Options,
    capture::{self, Capture},
    gate,
    lab::Plan,
    scenario::Scenario,
    speaker::Speaker,
    stage::{hold, observed},
    story::Outcome,
};

fn play(scenario: Scenario, speaker: Speaker) -> Result<Option<Outcome>> {
    if !gate::open()? {
        return Ok(None);
    }
    let plan = scenario.plan(Plan::default().speaker(speaker));
    let (lab, agent) = observed(plan, &Options::default())?;
    hold(scenario, &lab, &agent).map(Some)
}

#[test]
fn restart_is_a_fin_for_the_peers_and_a_sigterm_for_the_victim() -> Result<()> {
    play(Scenario::Restart, Speaker::Bird).map(drop)
}

#[test]
fn kill_is_a_fin_for_the_peers_and_a_sigkill_for_the_victim() -> Result<()> {
    let Some(outcome) = play(Scenario::Kill, Speaker::Bird)? else {
        return Ok(());
    };
    // Who sent it is part of the record: this very test.
    let own = std::process::id().to_string();
    for flap in outcome.flaps.iter().filter(|flap| flap.node == "n2") {
        ensure!(
            flap.cause_text.contains(&own),
            "the sender {own} is not in {}",
            flap.cause_text
        );
    }
    for flap in &outcome.flaps {
        let down = flap
            .down_seconds
            .context("a session that is up again was down for a time")?;
        ensure!(
            (3.0..60.0).contains(&down),
            "{} → {} down {down} s",
            flap.node,
            flap.peer
        );
    }
    Ok(())
}

#[test]
fn without_graceful_restart_a_crash_costs_routes() -> Result<()> {
    play(Scenario::KillWithoutGr, Speaker::Bird).map(drop)
}

#[test]
fn a_peer_that_stays_away_costs_routes_when_its_restart_timer_expires() -> Result<()> {
    play(Scenario::KillForGood, Speaker::Bird).map(drop)
}

#[test]
fn a_speaker_that_recovers_nothing_costs_the_way_back() -> Result<()> {
    play(Scenario::NoRecover, Speaker::Bird).map(drop)
}

#[test]
fn a_second_crash_costs_the_routes_that_were_stale() -> Result<()> {
    play(Scenario::SecondRestart, Speaker::Bird).map(drop)
}

#[test]
fn firewall_is_silence_then_the_hold_timer() -> Result<()> {
    if !gate::open()? {
        return Ok(());
    }
    // Whether an old connection still has its NOTIFICATION to send when it is let through is a race
    // between its timers and its peer's reset. What the agent must say holds in every round.
    for _ in 0..3 {
        if late_notifications_passed_in_a_firewall_round()? {
            return Ok(());
        }
    }
    bail!("in three rounds no NOTIFICATION came late: the scenario does not do what it says")
}

fn late_notifications_passed_in_a_firewall_round() -> Result<bool> {
    let plan = Scenario::Firewall.plan(Plan::default());
    let (lab, agent) = observed(plan, &Options::default())?;
    let capture = Capture::start(lab.estate(), &lab.bridge(), "br0", "bridge")?;
    let outcome = hold(Scenario::Firewall, &lab, &agent)?;
    let file = capture.stop()?;
    // The victim's own firewall drops what it sends, so that its kernel sends nothing *again*.
    for flap in outcome.flaps.iter().filter(|flap| flap.node != "n2") {
        let unanswered = outcome.told.iter().any(|told| {
            told.record.node == flap.node
                && matches!(&told.record.change, Change::Unanswered { peer, .. } if *peer == flap.peer)
        });
        ensure!(
            unanswered,
            "{} → {}: nothing told that it went unanswered",
            flap.node,
            flap.peer
        );
    }
    let retransmitting = |node: &str| {
        let mut peers = outcome.after.iter();
        peers.any(|peer| peer.node == node && peer.peer == "10.0.0.2" && peer.retransmits > 0)
    };
    ensure!(
        retransmitting("n1") && retransmitting("n3"),
        "{:#?}",
        outcome.after
    );
    late_notifications_passed(&file, &outcome)
}

/// The test's own premise: after the sessions were up again, NOTIFICATIONs of a hold timer (4/0) went
/// over the bridge on connections other than theirs.
fn late_notifications_passed(file: &Path, outcome: &Outcome) -> Result<bool> {
    let risen = outcome.flaps.iter().filter_map(|flap| flap.up_at).max();
    let risen = risen.context("nothing came up again")?;
    let fields = ["frame.time_epoch", "bgp.notify.major_error"];
    let told = capture::frames(file, "bgp.type == 3", &fields)?;
    let mut late = 0;
    for frame in &told {
        let seconds: f64 = frame.number("frame.time_epoch")?;
        let at = jiff::Timestamp::UNIX_EPOCH + Duration::from_secs_f64(seconds);
        ensure!(frame.value("bgp.notify.major_error")? == "4", "{frame:?}");
        late += u32::from(at > risen);
    }
    Ok(late > 0)
}

#[test]
fn a_wrong_as_is_told_as_a_refused_open_at_both_ends() -> Result<()> {
    let Some(outcome) = play(Scenario::WrongAs, Speaker::Bird)? else {
        return Ok(());
    };
    // RFC 4271 §6.2: code 2, subcode 2, kept with the peer in both directions.
    for peer in outcome.after.iter().filter(|peer| !peer.up) {
        let said = if peer.node == "n2" {
            &peer.bgp.notifications.received
        } else {
            &peer.bgp.notifications.sent
        };
        let said = said.as_ref().map(|said| &said.notification);
        ensure!(
            said.is_some_and(|said| (said.code, said.subcode) == (2, 2)),
            "{} → {}: {said:?}",
            peer.node,
            peer.peer
        );
    }
    Ok(())
}

#[test]
fn birdc_restart_is_an_administrative_reset_at_both_ends() -> Result<()> {
    let Some(outcome) = play(Scenario::AdminReset, Speaker::Bird)? else {
        return Ok(());
    };
    for flap in &outcome.flaps {
        let (Cause::NotificationReceived(said) | Cause::NotificationSent(said)) = &flap.cause
        else {
            bail!("{} → {}: {}", flap.node, flap.peer, flap.cause_text);
        };
        ensure!((said.code, said.subcode) == (6, 4), "{said:?}");
    }
    Ok(())
}

#[test]
fn birdc_disable_is_an_administrative_shutdown_until_it_is_enabled() -> Result<()> {
    play(Scenario::Disable, Speaker::Bird).map(drop)
}

#[test]
fn a_switch_port_that_is_down_is_a_blackhole() -> Result<()> {
    play(Scenario::SwitchPort, Speaker::Bird).map(drop)
}

#[test]
fn what_a_peer_withdraws_is_no_incident() -> Result<()> {
    play(Scenario::Withdraw, Speaker::Bird).map(drop)
}

#[test]
fn a_block_withdrawn_from_under_a_living_pod_is_a_loss() -> Result<()> {
    play(Scenario::WithdrawAlive, Speaker::Bird).map(drop)
}

#[test]
fn a_route_reflector_that_is_killed_loses_nothing() -> Result<()> {
    play(Scenario::ReflectorKill, Speaker::Bird).map(drop)
}

#[test]
fn a_route_reflector_that_ends_takes_all_clients_routes_in_one_incident() -> Result<()> {
    play(Scenario::ReflectorRestart, Speaker::Bird).map(drop)
}

#[test]
fn one_of_two_route_reflectors_takes_no_client_s_routes() -> Result<()> {
    play(Scenario::ReflectorOfTwo, Speaker::Bird).map(drop)
}

#[test]
fn a_recovery_that_waits_is_told_as_established_without_routes() -> Result<()> {
    play(Scenario::RecoveryWait, Speaker::Bird).map(drop)
}

#[test]
fn refuse_is_told_as_refused_to_who_dials() -> Result<()> {
    let Some(outcome) = play(Scenario::Refuse, Speaker::Bird)? else {
        return Ok(());
    };
    let dialled = outcome
        .after
        .iter()
        .find(|peer| peer.node == "n3" && peer.peer == "10.0.0.2");
    ensure!(
        dialled.is_some_and(|peer| peer.failed_attempts > 0),
        "no failed attempt: {dialled:?}"
    );
    Ok(())
}

#[test]
fn reset_is_sent_at_one_end_and_received_at_the_other() -> Result<()> {
    play(Scenario::Reset, Speaker::Bird).map(drop)
}

#[test]
fn a_link_that_is_down_for_a_while_takes_no_session_with_it() -> Result<()> {
    play(Scenario::Linkdown, Speaker::Bird).map(drop)
}

/// How soon is a figure, which the lab prints; that it is before the session is back is a promise. The
/// scenario is one whose sessions stay down for seconds, which the busiest machine finds time to see.
#[test]
fn a_session_down_is_visible_to_a_scrape_while_it_is_down() -> Result<()> {
    let Some(outcome) = play(Scenario::Restart, Speaker::Bird)? else {
        return Ok(());
    };
    println!("visible after {:?}", outcome.visible_after.values());
    ensure!(
        outcome.visible_after.len() == outcome.flaps.len(),
        "{:?}",
        outcome.visible_after
    );
    Ok(())
}

#[test]
fn bird2_dies_as_bird_does() -> Result<()> {
    play(Scenario::Kill, Speaker::Bird2).map(drop)
}

#[test]
fn frr_dies_as_bird_does() -> Result<()> {
    play(Scenario::Kill, Speaker::Frr).map(drop)
}

#[test]
fn gobgp_dies_as_bird_does() -> Result<()> {
    play(Scenario::Kill, Speaker::Gobgp).map(drop)
}

/// Each in a lab of its own, side by side: they do little but wait.
#[test]
#[ignore = "waits for BIRD's own timers: 240 s of hold time, 120 s of restart time, 240 s of recovery"]
fn what_short_timers_show_holds_with_those_that_bird_has_by_default() -> Result<()> {
    let waiting = [
        Scenario::Firewall,
        Scenario::KillForGood,
        Scenario::RecoveryWait,
    ];
    let play = |scenario: Scenario| -> Result<()> {
        if !gate::open()? {
            return Ok(());
        }
        let plan = scenario.plan(Plan {
            own_timers: true,
            ..Plan::default()
        });
        let (lab, agent) = observed(plan, &Options::default())?;
        let outcome = hold(scenario, &lab, &agent)?;
        let said = { outcome.incidents.iter() }.map(|one| (&one.node, one.unreachable_seconds));
        let said: Vec<_> = said.collect();
        let measured: Vec<_> = outcome.outages.iter().map(|one| one.seconds()).collect();
        println!("{scenario:?}: a pod was not reached for {measured:?} s; said were {said:?}");
        Ok(())
    };
    thread::scope(|scope| {
        let playing = waiting.map(|scenario| scope.spawn(move || play(scenario)));
        let played = playing.into_iter().map(|one| {
            one.join()
                .map_err(|_| anyhow!("a scenario's thread panicked"))?
        });
        played.collect()
    })
}
