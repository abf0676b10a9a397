//! Recordings of the lab, replayed: what the core concluded when they were made it concludes now.
//! A change that means to conclude otherwise rewrites them with `UPDATE_EXPECT=1`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use observer_core::{
    record::{Entry, Header},
    replay::replay,
};

fn cases() -> Result<Vec<PathBuf>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("replay");
    let mut cases = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
        cases.push(entry?.path());
    }
    cases.sort();
    Ok(cases)
}

/// The changes that follow from the recording, as JSON lines.
fn changes(case: &Path) -> Result<String> {
    let events = fs::read_to_string(case.join("events.jsonl"))?;
    let mut lines = events.lines();
    let header: Header = serde_json::from_str(lines.next().context("an empty recording")?)?;
    let entries = lines
        .map(serde_json::from_str)
        .collect::<Result<Vec<Entry>, _>>()?;
    let mut text = String::new();
    for change in replay(header.config, entries) {
        text.push_str(&serde_json::to_string(&change)?);
        text.push('\n');
    }
    Ok(text)
}

#[test]
fn recordings_of_the_lab_give_the_changes_they_gave() -> Result<()> {
    let cases = cases()?;
    ensure!(cases.len() >= 5, "cases are missing: {cases:?}");
    for case in cases {
        let expected = case.join("expected.jsonl");
        let found = changes(&case).with_context(|| case.display().to_string())?;
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            fs::write(&expected, &found)?;
        }
        let wanted = fs::read_to_string(&expected)
            .with_context(|| format!("{}; UPDATE_EXPECT=1 writes it", expected.display()))?;
        for (number, (found, wanted)) in (1..).zip(found.lines().zip(wanted.lines())) {
            ensure!(
                found == wanted,
                "{} line {number}\n found: {found}\nwanted: {wanted}",
                expected.display()
            );
        }
        ensure!(
            found == wanted,
            "{}: one is longer than the other",
            expected.display()
        );
    }
    Ok(())
}
