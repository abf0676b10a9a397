//! BIRD's control socket: what `birdc` does, without a process per question.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result, bail};

/// Asks BIRD `question` and gives its answer's lines without the codes. Replies that begin with 8
/// or 9 are errors.
pub fn ask(socket: &Path, question: &str) -> Result<Vec<String>> {
    let stream = UnixStream::connect(socket)
        .with_context(|| format!("BIRD does not listen on {}", socket.display()))?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    read_reply(&mut reader).context("greeting of BIRD")?;
    writeln!(writer, "{question}")?;
    read_reply(&mut reader).with_context(|| format!("BIRD's answer to `{question}`"))
}

fn read_reply(reader: &mut impl BufRead) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            bail!("BIRD closed the connection");
        }
        let line = line.trim_end();
        let code = line
            .get(..4)
            .filter(|code| code.bytes().all(|b| b.is_ascii_digit()));
        let (Some(code), Some(rest)) = (code, line.get(4..)) else {
            lines.push(line.trim_start_matches(' ').to_owned());
            continue;
        };
        let text = rest.get(1..).unwrap_or_default();
        if code.starts_with(['8', '9']) {
            bail!("{code} {text}");
        }
        if !text.is_empty() {
            lines.push(text.to_owned());
        }
        // A blank after the code ends the reply, a dash says that more follows. 0001 is the greeting.
        if rest.starts_with(' ') || rest.is_empty() {
            return Ok(lines);
        }
    }
}

/// The BGP protocols by name with their last column, `Established` when the session is up.
pub fn sessions(socket: &Path) -> Result<BTreeMap<String, String>> {
    Ok(ask(socket, "show protocols")?
        .iter()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let name = words.next()?;
            (words.next()? == "BGP")
                .then(|| (name.to_owned(), words.skip(3).collect::<Vec<_>>().join(" ")))
        })
        .collect())
}
