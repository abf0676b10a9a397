//! The manual page of the agent, made of what the agent itself says of its commands.

use std::{fmt::Write as _, path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};

use crate::{build::AGENT, shell::output};

/// The page (roff), as `agent` helps its users.
pub fn page(agent: &Path, version: &str) -> Result<String> {
    let help = ask(agent, &[])?;
    let (about, _) = help.split_once("\n\n").context("no help")?;
    let mut page = format!(
        ".TH {} 8 \"\" \"{AGENT} {version}\" \"System administration\"\n\
         .SH NAME\n{AGENT} \\- {}\n.SH SYNOPSIS\n.B {AGENT}\n.I command\n[\\fIoptions\\fR]\n\
         .SH DESCRIPTION\n",
        AGENT.to_uppercase(),
        escaped(about.trim_end_matches('.')),
    );
    verbatim(&mut page, &help);
    page.push_str(".SH COMMANDS\n");
    // Writing to a String does not fail.
    for command in commands(&help)? {
        let _ = writeln!(page, ".SS {}", escaped(command));
        verbatim(&mut page, &ask(agent, &[command])?);
    }
    page.push_str(".SH FILES\n");
    for (path, what) in [
        (
            "/etc/bgp-observer/config.toml",
            "settings of the unit's agent",
        ),
        (
            "/var/lib/bgp-observer",
            "known peers, and the store of incidents",
        ),
        (
            "/run/bgp-observer/api.sock",
            "what commands ask the agent through",
        ),
    ] {
        let _ = writeln!(page, ".TP\n.I {path}\n{what}");
    }
    Ok(page)
}

fn ask(agent: &Path, command: &[&str]) -> Result<String> {
    let mut ask = Command::new(agent);
    output(ask.args(command).arg("--help").env("COLUMNS", "80"))
}

/// The names in the list of commands, but for the one that is this help.
fn commands(help: &str) -> Result<Vec<&str>> {
    let (_, after) = help.split_once("Commands:\n").context("no commands")?;
    // A description that goes on in the next line is further in.
    let begins = |line: &&str| line.starts_with("  ") && !line.starts_with("   ");
    let lines = after.lines().take_while(|line| !line.is_empty());
    let names: Vec<&str> = { lines.filter(begins) }
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .collect();
    ensure!(!names.is_empty(), "no commands in: {help}");
    Ok(names)
}

fn verbatim(page: &mut String, text: &str) {
    page.push_str(".nf\n");
    for line in text.lines() {
        page.push_str(&escaped(line));
        page.push('\n');
    }
    page.push_str(".fi\n");
}

/// roff reads a leading dot or quote as a request, and backslashes anywhere.
fn escaped(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    if text.starts_with(['.', '\'']) {
        return format!("\\&{text}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_named_once_however_long_their_description() {
        let help = "About\n\nCommands:\n  run     Run\n  path    Show\n          when\n  help    Print\n\nOptions:\n  -h\n";
        assert_eq!(commands(help).unwrap(), ["run", "path"]);
        assert!(commands("About\n\nOptions:\n").is_err());
    }

    #[test]
    fn what_roff_would_obey_is_escaped() {
        assert_eq!(escaped(".x-y\\"), "\\&.x\\-y\\e");
    }
}
