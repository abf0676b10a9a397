//! Figures as a table on the terminal, as JSON, and as the page in `docs/`.

use std::{fmt::Write, fs};

use serde::Serialize;

use crate::measure::{Figure, number};

/// A run's figures, and where they were measured.
#[derive(Debug, Serialize)]
pub struct Report {
    /// What the machine is.
    pub machine: String,
    /// What was run.
    pub command: String,
    /// By benchmark.
    pub benches: Vec<(String, Vec<Figure>)>,
}

/// Processor, cores, memory and kernel in a line.
pub fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let after = |text: &str, key: &str| {
        let line = text.lines().find(|line| line.starts_with(key));
        let value = line.and_then(|line| line.split_once(':'));
        value.map_or_else(
            || "unknown".to_owned(),
            |(_, value)| value.trim().to_owned(),
        )
    };
    let processors = read("/proc/cpuinfo");
    let cores = processors
        .lines()
        .filter(|line| line.starts_with("processor"))
        .count();
    let kibibytes: u64 = after(&read("/proc/meminfo"), "MemTotal")
        .trim_end_matches(" kB")
        .parse()
        .unwrap_or(0);
    format!(
        "{cores} × {}, {} GiB, Linux {}",
        after(&processors, "model name"),
        kibibytes >> 20,
        read("/proc/sys/kernel/osrelease").trim()
    )
}

fn ratio(figure: &Figure) -> String {
    figure
        .ratio
        .map(|ratio| format!("{}×", number(ratio)))
        .unwrap_or_default()
}

fn spread(figure: &Figure) -> String {
    if (figure.most - figure.least).abs() < f64::EPSILON {
        return String::new();
    }
    format!("{} – {}", number(figure.least), number(figure.most))
}

/// One benchmark for the terminal.
pub fn table(name: &str, figures: &[Figure]) -> String {
    let mut text = format!("\n{name}\n");
    for figure in figures {
        let _ = writeln!(
            text,
            "  {:<42} {:<26} {:>12} {:<14} {:>7}  {}",
            figure.what,
            figure.who,
            number(figure.median),
            figure.unit,
            ratio(figure),
            spread(figure)
        );
    }
    text
}

/// The tables of the page in `docs/`.
pub fn markdown(report: &Report) -> String {
    let mut text = format!(
        "Machine: {}. Command: `{}`.\n",
        report.machine, report.command
    );
    for (name, figures) in &report.benches {
        let _ = writeln!(
            text,
            "\n### {name}\n\n| what | who | median | unit | beside the first | least – most |\n\
             |---|---|--:|---|--:|---|"
        );
        for figure in figures {
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {} | {} |",
                figure.what,
                figure.who,
                number(figure.median),
                figure.unit,
                ratio(figure),
                spread(figure)
            );
        }
    }
    text
}

/// The page with the text between its two marks replaced.
pub fn put(page: &str, tables: &str) -> Option<String> {
    let (begin, end) = ("<!-- bench-output -->\n", "<!-- end of bench-output -->");
    let (head, rest) = page.split_once(begin)?;
    let (_, tail) = rest.split_once(end)?;
    Some(format!("{head}{begin}{tables}{end}{tail}"))
}
