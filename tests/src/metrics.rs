//! A scrape, read as Prometheus reads it.

use std::{
    collections::{BTreeMap, BTreeSet},
    str::FromStr,
};

use anyhow::{Context, Result, bail};

/// One sample.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Its metric's name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its value.
    pub value: f64,
}

/// All samples of a scrape.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scrape(pub Vec<Sample>);

impl Scrape {
    /// The value of the one series `name` that has all of `labels`; none when there is none or more
    /// than one.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let mut found = self.0.iter().filter(|sample| sample.is(name, labels));
        match (found.next(), found.next()) {
            (Some(sample), None) => Some(sample.value),
            (None | Some(_), _) => None,
        }
    }

    /// Whether the guides' alert sees `node` say that `peer` is down.
    pub fn down(&self, node: &str, peer: &str) -> bool {
        let labels = [("node", node), ("peer", peer), ("state", "down")];
        self.value("calico_bgp_peers_state", &labels)
            .is_some_and(|value| value > 0.0)
    }

    /// Sum over every series `name` with all of `labels`.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.0
            .iter()
            .filter(|sample| sample.is(name, labels))
            .map(|sample| sample.value)
            .sum()
    }

    /// Every series without its value.
    pub fn series(&self) -> BTreeSet<String> {
        self.0
            .iter()
            .map(|sample| format!("{}{:?}", sample.name, sample.labels))
            .collect()
    }
}

impl Sample {
    fn is(&self, name: &str, labels: &[(&str, &str)]) -> bool {
        self.name == name
            && labels
                .iter()
                .all(|(key, value)| self.labels.get(*key).is_some_and(|v| v == value))
    }
}

impl FromStr for Scrape {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        text.lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .map(|line| sample(line).with_context(|| format!("not a sample: {line}")))
            .collect::<Result<_>>()
            .map(Self)
    }
}

fn sample(line: &str) -> Result<Sample> {
    let end = line.find(['{', ' ']).context("no value")?;
    let (name, mut rest) = line.split_at(end);
    let mut labels = BTreeMap::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        loop {
            rest = rest.trim_start_matches(',');
            if let Some(after) = rest.strip_prefix('}') {
                rest = after;
                break;
            }
            let (key, quoted) = rest.split_once("=\"").context("no label value")?;
            let (value, after) = unquote(quoted)?;
            labels.insert(key.to_owned(), value);
            rest = after;
        }
    }
    let value = rest
        .split_whitespace()
        .next()
        .context("no value")?
        .parse()?;
    Ok(Sample {
        name: name.to_owned(),
        labels,
        value,
    })
}

fn unquote(text: &str) -> Result<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Ok((value, text.get(at + 1..).unwrap_or_default())),
            '\\' => match characters.next() {
                Some((_, 'n')) => value.push('\n'),
                Some((_, other)) => value.push(other),
                None => break,
            },
            plain => value.push(plain),
        }
    }
    bail!("a label's value does not end")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_with_braces_quotes_and_newlines_are_read() {
        let scrape: Scrape =
            "# HELP a b\na{x=\"1}\",y=\"q\\\"\\n\\\\\"} 2.5\nb 1e3 170000\nc{} +Inf\n"
                .parse()
                .unwrap();
        assert_eq!(
            scrape.value("a", &[("x", "1}"), ("y", "q\"\n\\")]),
            Some(2.5)
        );
        assert_eq!(scrape.value("b", &[]), Some(1000.0));
        assert_eq!(scrape.value("c", &[]), Some(f64::INFINITY));
        assert_eq!(scrape.value("a", &[("x", "2")]), None);
    }
}
