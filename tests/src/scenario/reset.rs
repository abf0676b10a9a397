//! RST: n2's kernel aborts its established BGP connections.

use super::{Act, Cast, Expected, Script, at};

pub(super) fn script(cast: &Cast<'_>) -> Script {
    let mut flaps = cast.others_see(&["rst_received"], &[]);
    flaps.extend(cast.victim_sees(&["rst_sent"], &[]));
    Script {
        title: "the connections of n2 are reset",
        steps: vec![at(0, Act::Reset)],
        expected: Expected {
            flaps,
            recovers: true,
            ..Expected::default()
        },
    }
}
