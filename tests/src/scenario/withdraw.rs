//! Planned: a block is announced, withdrawn and announced again, by UPDATEs on healthy sessions.

use std::time::Duration;

use super::{Act, Cast, Expected, Extent, Script, at, spare};

pub(super) fn script(cast: &Cast<'_>) -> Script {
    Script {
        title: "n2 withdraws a block that it had announced",
        steps: vec![
            at(0, Act::Announce),
            at(2, Act::Withdraw),
            at(4, Act::Announce),
        ],
        expected: Expected {
            recovers: true,
            quiet: true,
            told: vec![("n1", format!("withdrawn: {}", spare(cast.victim)))],
            loss: cast.loss(Extent::Nothing),
            calm: Duration::from_secs(4),
            ..Expected::default()
        },
    }
}
