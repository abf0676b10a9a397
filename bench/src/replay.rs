//! A capture read from beginning to end: `bgp-observer replay` beside `tshark` and `tcpdump -r`, each
//! with its start-up, as an operator meets them. tcpdump prints a line per packet and decodes what it
//! can of BGP in each; it puts no stream together.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use observer_tests::{agent, programs};

use crate::{
    measure::{Contestant, Figure, float, race},
    routes::table,
};

/// tshark needs minutes for more.
const MOST_ROUTES: u32 = 100_000;

pub fn measure(routes: u32, turns: usize) -> Result<Vec<Figure>> {
    let table = table(routes.min(MOST_ROUTES), false);
    let folder = tempfile::tempdir().context("no temporary folder")?;
    let file = folder.path().join("table.pcap");
    let capture = capture(&table.bytes);
    fs::write(&file, &capture).context("cannot write the capture")?;
    let agent = agent::program()?;
    let replay = || command(Command::new(&agent), &["replay", "-o", "json"], &file);
    let said: serde_json::Value = serde_json::from_slice(&run(replay())?)?;
    ensure!(
        said.pointer("/totals/update") == Some(&table.count.into()),
        "replay lost UPDATEs"
    );
    let tshark = programs::find("tshark", "tshark")?;
    let fields = ["-Y", "bgp", "-T", "fields", "-e", "bgp.type", "-r"];
    let dissect = || command(tshark.command(), &fields, &file);
    let tcpdump = programs::find("tcpdump", "tcpdump")?;
    let print = || command(tcpdump.command(), &["-Z", "root", "-n", "-v", "-r"], &file);
    let what = format!(
        "a capture of {} UPDATEs, {} MB",
        table.count,
        capture.len() / 1_000_000
    );
    let mut contestants = [
        contestant("bgp-observer replay -o json", replay),
        contestant("tshark -Y bgp -T fields", dissect),
        contestant("tcpdump -n -v -r", print),
    ];
    let seconds = race(&mut contestants, turns)?;
    let megabytes = float(u64::try_from(capture.len())?) / 1e6;
    let figures = contestants
        .iter()
        .zip(seconds)
        .map(|(contestant, seconds)| {
            let values = seconds.iter().map(|seconds| megabytes / seconds).collect();
            Figure::of(&what, contestant.who, "MB/s", values)
        });
    Ok(figures.collect())
}

fn contestant<'a>(who: &'static str, command: impl Fn() -> Command + 'a) -> Contestant<'a> {
    Contestant {
        who,
        turn: Box::new(move || run(command()).map(drop)),
    }
}

fn command(mut command: Command, arguments: &[&str], file: &Path) -> Command {
    command.args(arguments).arg(file).stderr(Stdio::null());
    command
}

fn run(mut command: Command) -> Result<Vec<u8>> {
    let output = command
        .output()
        .with_context(|| format!("cannot run {command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", output.status);
    Ok(output.stdout)
}

/// A pcap of raw IP: one side sends these octets in full segments.
pub fn capture(bytes: &[u8]) -> Vec<u8> {
    let mut file = vec![
        0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0,
    ];
    file.extend(101_u32.to_le_bytes());
    let mut seq = 1_u32;
    for (number, payload) in (0_u32..).zip(bytes.chunks(1448)) {
        let total = u16::try_from(40 + payload.len()).unwrap_or(0);
        for field in [
            number / 1000,
            number % 1000 * 1000,
            u32::from(total),
            u32::from(total),
        ] {
            file.extend(field.to_le_bytes());
        }
        file.extend([0x45, 0]);
        file.extend(total.to_be_bytes());
        file.extend([0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        file.extend([0x9c, 0x40, 0, 179]);
        file.extend(seq.to_be_bytes());
        file.extend([0, 0, 0, 1, 0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0]);
        file.extend(payload);
        seq = seq.wrapping_add(u32::try_from(payload.len()).unwrap_or(0));
    }
    file
}
