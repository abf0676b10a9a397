//! UPDATEs a second: those of a made-up table and those that a BIRD sent. Ours is measured twice: given whole
//! messages, as the others are, and given segments, which is what the agent meets. Everybody reads every
//! prefix, and comes to the same sums.

use std::{
    fs,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use observer_core::{
    conversation::{Conversation, ConversationConfig, Direction, Seen},
    stream::Segment,
    time::Timestamp,
};
use observer_tests::{gate, programs};

use crate::{
    measure::{Contestant, Figure, float, race},
    parsers::{self, Digest},
    recorded, replay,
    routes::{Table, table},
};

type Read = fn(&Table) -> Result<Digest>;

/// Ours first: ratios are to it.
const READERS: [(&str, Read); 6] = [
    ("ours, whole messages", parsers::ours),
    ("ours, segments of 1448", |table| Ok(segments(table, 1448))),
    ("ours, segments of 64000", |table| {
        Ok(segments(table, 64_000))
    }),
    ("bgpkit-parser, whole messages", parsers::bgpkit),
    ("routecore, whole messages", parsers::routecore),
    ("netgauze, whole messages", parsers::netgauze),
];
/// It needs seconds for as many.
const TSHARK_ROUTES: u32 = 50_000;

pub fn measure(routes: u32, turns: usize) -> Result<Vec<Figure>> {
    let made_up = table(routes, false);
    let mut figures = read(&made_up, "a made-up table", turns)?;
    if gate::open()? {
        let sent = recorded::table(routes)?;
        figures.extend(read(&sent, "what BIRD sent", turns)?);
    }
    figures.extend(dissect(&table(routes.min(TSHARK_ROUTES), false), turns)?);
    Ok(figures)
}

fn read(table: &Table, of: &str, turns: usize) -> Result<Vec<Figure>> {
    let expected = parsers::ours(table)?;
    ensure!(expected.routes == table.routes, "ours lost routes");
    let turn = |who: &'static str, read: Read| Contestant {
        who,
        turn: Box::new(move || {
            let read = read(table)?;
            ensure!(read == expected, "{read:?} is not {expected:?}");
            Ok(())
        }),
    };
    let mut readers = READERS.map(|(who, read)| turn(who, read));
    let seconds = race(&mut readers, turns)?;
    Ok(speeds(table, of, &readers, seconds))
}

fn speeds(
    table: &Table,
    of: &str,
    contestants: &[Contestant<'_>],
    seconds: Vec<Vec<f64>>,
) -> Vec<Figure> {
    let what = format!("{} UPDATEs with {} routes, {of}", table.count, table.routes);
    let megabytes = float(u64::try_from(table.bytes.len()).unwrap_or(0)) / 1e6;
    let mut figures = Vec::new();
    for (contestant, seconds) in contestants.iter().zip(seconds) {
        for (unit, amount) in [("messages/s", float(table.count)), ("MB/s", megabytes)] {
            let values = seconds.iter().map(|seconds| amount / seconds).collect();
            figures.push(Figure::of(&what, contestant.who, unit, values));
        }
    }
    figures
}

fn segments(table: &Table, size: usize) -> Digest {
    let mut conversation = Conversation::new(ConversationConfig::default());
    let mut digest = Digest::default();
    let mut seq = 1_u32;
    for payload in table.bytes.chunks(size) {
        let segment = Segment {
            seq,
            payload,
            ..Segment::default()
        };
        conversation.segment(
            Timestamp::default(),
            Direction::AToB,
            &segment,
            &mut |observation| {
                if let Seen::Update(facts, _) = observation.seen {
                    digest.take(facts);
                }
            },
        );
        seq = seq.wrapping_add(u32::try_from(payload.len()).unwrap_or(0));
    }
    digest
}

/// tshark reads captures and not messages, and so does ours here: both from a file, with their start.
fn dissect(table: &Table, turns: usize) -> Result<Vec<Figure>> {
    let folder = tempfile::tempdir().context("no temporary folder")?;
    let file = folder.path().join("table.pcap");
    fs::write(&file, replay::capture(&table.bytes)).context("cannot write the capture")?;
    let tshark = programs::find("tshark", "tshark")?;
    let prefixes = || -> Result<()> {
        let mut command = tshark.command();
        command.args(["-Y", "bgp", "-T", "fields", "-E", "occurrence=a"]);
        command.args(["-e", "bgp.nlri_prefix", "-r"]).arg(&file);
        let printed = output(&mut command)?;
        let counted = printed.split([',', '\n']).filter(|word| !word.is_empty());
        let counted = u64::try_from(counted.count())?;
        ensure!(
            counted == table.routes,
            "{counted} of {} routes",
            table.routes
        );
        Ok(())
    };
    let replayed = || -> Result<()> {
        let mut command = Command::new(observer_tests::agent::program()?);
        command.args(["replay", "-o", "json"]).arg(&file);
        let said: serde_json::Value = serde_json::from_str(&output(&mut command)?)?;
        let counted = said.pointer("/totals/update");
        ensure!(counted == Some(&table.count.into()), "{counted:?} UPDATEs");
        Ok(())
    };
    let mut contestants = [
        Contestant {
            who: "bgp-observer replay",
            turn: Box::new(replayed),
        },
        Contestant {
            who: "tshark",
            turn: Box::new(prefixes),
        },
    ];
    let seconds = race(&mut contestants, turns)?;
    Ok(speeds(table, "a capture of them", &contestants, seconds))
}

fn output(command: &mut Command) -> Result<String> {
    let words = format!("{command:?}");
    let output = command.stderr(Stdio::null()).output();
    let output = output.with_context(|| format!("cannot run {words}"))?;
    ensure!(output.status.success(), "{words}: {}", output.status);
    Ok(String::from_utf8(output.stdout)?)
}
