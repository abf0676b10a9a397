//! What agents with more and with fewer rights tell of each scenario, side by side, for operators.

use std::fmt::Write as _;

use super::{Expected, Script, VICTIM};

/// A row: what is done, what the others tell, and what the node itself tells, with both rights.
pub fn row(ebpf: &Script, base: &Script) -> String {
    let others = causes(&base.expected, false);
    let [more, less] = [ebpf, base].map(|script| own(&script.expected));
    let less = if more == less {
        "the same".to_owned()
    } else {
        less
    };
    format!("| {} | {others} | {more} | {less} |\n", ebpf.title)
}

/// What the node that it happens to tells.
fn own(expected: &Expected) -> String {
    let mut text = causes(expected, true);
    let unseen = expected.flaps.iter().find_map(|flap| flap.unseen);
    if let Some(unseen) = unseen {
        // Writing to a String does not fail.
        let _ = write!(text, "; {unseen}");
    }
    text
}

/// The causes that the victim tells, or that the others do.
fn causes(expected: &Expected, of_victim: bool) -> String {
    let victim = format!("n{VICTIM}");
    let flaps = expected.flaps.iter();
    let flaps = flaps.filter(|flap| (flap.session.node == victim) == of_victim);
    let mut told: Vec<String> = Vec::new();
    for flap in flaps {
        let labels: Vec<String> = flap
            .causes
            .iter()
            .map(|label| format!("`{label}`"))
            .collect();
        let words = match &flap.words[..] {
            [] => String::new(),
            words => format!(" (\"{}…\")", words.join("…")),
        };
        let text = format!("{}{words}", labels.join(" or "));
        if !told.contains(&text) {
            told.push(text);
        }
    }
    let incidents = expected.incidents.iter();
    let of = |one: &&super::ExpectedIncident| (one.session.node == victim) == of_victim;
    let verdicts: Vec<&str> = { incidents.filter(of) }
        .flat_map(|one| one.verdicts.iter().map(|verdict| verdict.name()))
        .fold(Vec::new(), |mut all, name| {
            if !all.contains(&name) {
                all.push(name);
            }
            all
        });
    match (told.is_empty(), verdicts.is_empty()) {
        (true, true) => "no session falls, no incident".to_owned(),
        (false, true) => told.join("; "),
        (true, false) => format!("verdict {}", verdicts.join(" or ")),
        (false, false) => format!("{}; verdict {}", told.join("; "), verdicts.join(" or ")),
    }
}
