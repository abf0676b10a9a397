//! Tables in calicoctl's look.

use comfy_table::{LineStyle, Table, presets::ASCII_FULL_CONDENSED};

/// An empty table under `header`.
pub fn under(header: impl IntoIterator<Item = &'static str>) -> Table {
    let mut table = Table::new();
    table.load_style(ASCII_FULL_CONDENSED.header_separator(LineStyle::new('+', '-', '+', '+')));
    table.set_header(header.into_iter().collect::<Vec<_>>());
    table
}
