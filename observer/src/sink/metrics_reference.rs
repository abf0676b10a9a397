//! Keeps `docs/metrics.md` in step with what a scrape says of itself. `UPDATE_EXPECT=1` rewrites it.

use std::{collections::BTreeSet, fmt::Write as _};

use super::tests::text;

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");
const HEAD: &str = "\
# Metrics

Every metric of `/metrics`, from the text that the agent itself serves; a test writes this file.
`node` is the observed node, `peer` the peer's address.

| metric | type | labels | |
|---|---|---|---|
";
/// Labels whose values are a closed set, told below the table.
const CLOSED: [&str; 10] = [
    "cause",
    "direction",
    "fate",
    "op",
    "origin",
    "result",
    "stage",
    "state",
    "treatment",
    "writer",
];

/// A family as the scrape tells it.
#[derive(Default)]
struct Family<'a> {
    name: &'a str,
    help: &'a str,
    kind: &'a str,
    labels: Vec<&'a str>,
}

/// The families of `scrape`, and each value of a closed label.
fn read(scrape: &str) -> (Vec<Family<'_>>, BTreeSet<(&str, &str)>) {
    let mut families: Vec<Family<'_>> = Vec::new();
    let mut values = BTreeSet::new();
    for line in scrape.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|l| l.split_once(' ')) {
            families.push(Family {
                name,
                help,
                ..Family::default()
            });
        } else if let Some((_, kind)) = line.strip_prefix("# TYPE ").and_then(|l| l.split_once(' '))
        {
            families.last_mut().unwrap().kind = kind;
        } else {
            let (_, labels) = line.split_once('{').unwrap();
            let family = families.last_mut().unwrap();
            for (label, value) in labels
                .split("\",")
                .filter_map(|pair| pair.split_once("=\""))
            {
                if label != "le" && !family.labels.contains(&label) {
                    family.labels.push(label);
                }
                if CLOSED.contains(&label) {
                    values.insert((label, value.split('"').next().unwrap()));
                }
            }
        }
    }
    (families, values)
}

fn reference(scrape: &str) -> String {
    let (families, values) = read(scrape);
    let mut page = HEAD.to_owned();
    for Family {
        name,
        help,
        kind,
        labels,
    } in families
    {
        let labels: Vec<String> = labels.iter().map(|label| format!("`{label}`")).collect();
        let labels = labels.join(", ");
        writeln!(page, "| `{name}` | {kind} | {labels} | {help} |").unwrap();
    }
    for closed in CLOSED {
        let of_it = values.iter().filter(|(label, _)| *label == closed);
        let of_it: Vec<String> = of_it.map(|(_, value)| format!("`{value}`")).collect();
        if !of_it.is_empty() {
            write!(page, "\nValues of `{closed}`: {}.\n", of_it.join(", ")).unwrap();
        }
    }
    page
}

#[test]
fn the_reference_names_every_metric() {
    let page = reference(&text(false));
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::write(PATH, &page).unwrap();
    }
    assert_eq!(
        page,
        std::fs::read_to_string(PATH).unwrap(),
        "UPDATE_EXPECT=1 rewrites it"
    );
}
