//! UPDATEs a second: the whole path of ours (segments put in order, messages found, attributes
//! judged, every prefix read) beside `bgpkit-parser`, which gets whole messages handed.

use anyhow::{Result, ensure};
use bgpkit_parser::{
    models::{AsnLength, BgpMessage},
    parser::bgp::messages::parse_bgp_message,
};
use observer_core::{
    bgp::{AsWidth, Message},
    conversation::{Conversation, ConversationConfig, Direction, Seen},
    stream::Segment,
    time::Timestamp,
};

use crate::{
    measure::{Contestant, Figure, float, race},
    routes::{Table, table},
};

pub fn measure(routes: u32, turns: usize) -> Result<Vec<Figure>> {
    let table = table(routes, false);
    let (small, large) = (1448, 64_000);
    let mut contestants = [
        contestant("ours, whole messages", || Ok(messages(&table))),
        contestant("ours, segments of 1448", || Ok(segments(&table, small))),
        contestant("ours, segments of 64000", || Ok(segments(&table, large))),
        contestant("bgpkit-parser, whole messages", || theirs(&table)),
    ];
    // Everybody must have read every route.
    for contestant in &mut contestants {
        ensure!(
            (contestant.count)()? == table.routes,
            "{} lost routes",
            contestant.who
        );
    }
    let mut racing: Vec<Contestant<'_>> = contestants
        .iter_mut()
        .map(|contestant| Contestant {
            who: contestant.who,
            turn: Box::new(|| (contestant.count)().map(drop)),
        })
        .collect();
    let seconds = race(&mut racing, turns)?;
    drop(racing);
    let what = format!("{} UPDATEs with {} routes", table.count, table.routes);
    let mut figures = Vec::new();
    for (contestant, seconds) in contestants.iter().zip(seconds) {
        for (unit, amount) in [
            ("messages/s", float(table.count)),
            ("MB/s", float(u64::try_from(table.bytes.len())?) / 1e6),
        ] {
            let values = seconds.iter().map(|seconds| amount / seconds).collect();
            figures.push(Figure::of(&what, contestant.who, unit, values));
        }
    }
    Ok(figures)
}

struct Counting<'a> {
    who: &'static str,
    count: Box<dyn FnMut() -> Result<u64> + 'a>,
}

fn contestant<'a>(who: &'static str, count: impl FnMut() -> Result<u64> + 'a) -> Counting<'a> {
    Counting {
        who,
        count: Box::new(count),
    }
}

fn messages(table: &Table) -> u64 {
    let mut routes = 0;
    for message in table.messages() {
        if let Ok(Message::Update(update)) = Message::decode(message) {
            let facts = update.read(&mut (AsWidth::Four, false), &mut |_| {});
            for (nlri, _) in facts.fields() {
                routes += u64::try_from(nlri.flatten().count()).unwrap_or(0);
            }
        }
    }
    routes
}

fn segments(table: &Table, size: usize) -> u64 {
    let mut conversation = Conversation::new(ConversationConfig::default());
    let mut routes = 0;
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
                    for (nlri, _) in facts.fields() {
                        routes += u64::try_from(nlri.flatten().count()).unwrap_or(0);
                    }
                }
            },
        );
        seq = seq.wrapping_add(u32::try_from(payload.len()).unwrap_or(0));
    }
    routes
}

fn theirs(table: &Table) -> Result<u64> {
    let mut routes = 0;
    for message in table.messages() {
        let mut bytes = message.to_vec().into();
        if let BgpMessage::Update(update) =
            parse_bgp_message(&mut bytes, false, &AsnLength::Bits32)?
        {
            routes += u64::try_from(update.announced_prefixes.len())?;
        }
    }
    Ok(routes)
}
