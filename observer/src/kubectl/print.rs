//! Incidents of the whole cluster for people: one line for one event, and one event told by all its
//! witnesses.

use super::{agents::Clock, group::Group};
use crate::{
    show::{
        circumstances,
        incidents::{after, field, length, until, who},
        table, words,
    },
    terminal::{plain, span},
};

/// As many witnesses are named in a line.
const NAMED: usize = 3;

/// One line each.
pub fn lines(groups: &[Group]) -> String {
    let mut table = table::under([
        "INCIDENT",
        "SUBJECT",
        "OPENED",
        "LASTED",
        "VERDICT",
        "PROOF",
        "SEEN BY",
        "ROUTES",
        "UNREACHABLE",
        "CAUSE",
    ]);
    for group in groups {
        let (verdict, proof) = group.verdict();
        table.add_row([
            plain(&group.speaker.id),
            plain(&who(&group.speaker.subject)),
            words::moment(group.opened()),
            until(group.opened(), group.closed()),
            words::of(&verdict),
            words::of(&proof),
            seen_by(group),
            group.routes().to_string(),
            group.unreachable().map_or_else(|| "-".to_owned(), length),
            plain(&group.speaker.cause),
        ]);
    }
    format!("{table}\n")
}

fn seen_by(group: &Group) -> String {
    let nodes: Vec<String> = group.records().map(|record| plain(&record.node)).collect();
    if nodes.len() > NAMED {
        format!("{} nodes", nodes.len())
    } else {
        nodes.join(", ")
    }
}

/// One event by all that saw it. `clocks` are the nodes' clocks beside this machine's.
pub fn story(group: &Group, clocks: &[(&str, Clock)]) -> String {
    let (verdict, proof) = group.verdict();
    let state = if group.closed().is_some() {
        "over"
    } else {
        "still open"
    };
    let mut text = format!("Incident {}, {state}\n\n", plain(&group.speaker.id));
    let mut field = |name: &str, value: &str| field(&mut text, name, value);
    field("To whom", &plain(&who(&group.speaker.subject)));
    field("Cause", &plain(&group.speaker.cause));
    field("Told by", &plain(&group.speaker.node));
    let lasted = until(group.opened(), group.closed());
    field(
        "When",
        &format!("{} UTC, {lasted}", words::moment(group.opened())),
    );
    field(
        "Verdict",
        &format!("{} at worst, {}", words::of(&verdict), words::of(&proof)),
    );
    let unreachable = group.unreachable();
    field(
        "Unreachable",
        &unreachable.map_or_else(|| "not measured".to_owned(), length),
    );
    field("Look at next", &plain(&group.speaker.next_check));
    if let Some(said) = group.records().find_map(circumstances::of) {
        field("Kubernetes", &said);
    }
    field("Clocks", &differences(group, clocks));
    text.push('\n');
    text.push_str(&witnesses(group));
    text.push_str(&timeline(group));
    text
}

fn witnesses(group: &Group) -> String {
    let mut table = table::under([
        "SEEN BY",
        "RECORD",
        "VERDICT",
        "PROOF",
        "ROUTES",
        "UNREACHABLE",
        "CAUSE",
    ]);
    for record in group.records() {
        table.add_row([
            plain(&record.node),
            plain(&record.id),
            words::of(&record.verdict),
            words::of(&record.proof),
            record.prefixes.lost.to_string(),
            record
                .unreachable_seconds
                .map_or_else(|| "-".to_owned(), length),
            plain(&record.cause),
        ]);
    }
    format!("{table}\n")
}

/// Everybody's milestones, in the order that the nodes' clocks give.
fn timeline(group: &Group) -> String {
    let opened = group.opened();
    let mut all = Vec::new();
    for record in group.records() {
        let milestones = record.milestones.iter();
        all.extend(milestones.map(|milestone| (record.node.as_str(), milestone)));
    }
    all.sort_by_key(|(_, milestone)| milestone.latest);
    // What Kubernetes said, it said to every witness.
    all.dedup_by(|(_, one), (_, other)| one == other);
    let mut table = table::under(["AFTER", "AT (UTC)", "NODE", "WHAT", "EVIDENCE"]);
    for (node, milestone) in &all {
        table.add_row([
            after(opened, milestone),
            words::clock(milestone.latest),
            plain(node),
            plain(&milestone.what),
            plain(&milestone.evidence),
        ]);
    }
    let left_out: u64 = group
        .records()
        .map(|record| record.milestones_dropped)
        .sum();
    let note = if left_out > 0 {
        format!("{left_out} more were left out by those who recorded them\n")
    } else {
        String::new()
    };
    format!("{table}\n{note}")
}

/// What is known of the clocks of those that tell.
fn differences(group: &Group, clocks: &[(&str, Clock)]) -> String {
    let of_group = |node: &str| group.records().any(|record| record.node == node);
    let told: Vec<_> = clocks.iter().filter(|(node, _)| of_group(node)).collect();
    let off: Vec<String> = told
        .iter()
        .filter(|(_, clock)| clock.ahead.abs() > clock.give_or_take)
        .map(|(node, clock)| {
            let way = if clock.ahead > 0.0 {
                "ahead of"
            } else {
                "behind"
            };
            format!(
                "{} is {} {way} this machine, give or take {}",
                plain(node),
                span(clock.ahead.abs()),
                span(clock.give_or_take)
            )
        })
        .collect();
    if !off.is_empty() {
        return format!(
            "{}; times below are as each node's clock has them",
            off.join("; ")
        );
    }
    let widest = told.iter().map(|(_, clock)| clock.give_or_take);
    match widest.fold(0.0, f64::max) {
        0.0 => "not known".to_owned(),
        widest => format!(
            "no difference between the nodes' clocks shows; asking them tells it to {}",
            span(widest)
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{kubectl::group, testing};

    #[test]
    fn a_clock_that_is_off_is_named_and_one_that_may_be_right_is_not() {
        let record = testing::incident("i", "10.0.0.2");
        let node = record.node.clone();
        let groups = group::of(vec![record]);
        let clock = |ahead, give_or_take| Clock {
            ahead,
            give_or_take,
        };
        let told = |ahead| differences(&groups[0], &[(node.as_str(), clock(ahead, 0.1))]);
        assert_eq!(
            told(-2.0),
            format!(
                "{node} is 2.0 s behind this machine, give or take 100.0 ms; times below are as \
                 each node's clock has them"
            )
        );
        assert_eq!(
            told(0.05),
            "no difference between the nodes' clocks shows; asking them tells it to 100.0 ms"
        );
        assert_eq!(differences(&groups[0], &[]), "not known");
    }
}
