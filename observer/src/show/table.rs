//! Tables in calicoctl's look.

use comfy_table::{ColumnConstraint, LineStyle, Table, Width, presets::ASCII_FULL_CONDENSED};

/// An empty table under `header`.
pub fn under(header: impl IntoIterator<Item = &'static str>) -> Table {
    let mut table = Table::new();
    table.load_style(ASCII_FULL_CONDENSED.header_separator(LineStyle::new('+', '-', '+', '+')));
    table.set_header(header.into_iter().collect::<Vec<_>>());
    table
}

/// Widest that a column of words gets, with its padding, before they go on in the next line.
const WORDS: u16 = 22;

/// Folds the columns of words, so that a usual table fits into 120 characters. They are those whose
/// titles, of all `titles`, stand in [`FOLDED`].
pub fn fold<'a>(table: &mut Table, titles: impl Iterator<Item = &'a str>) {
    for (index, title) in titles.enumerate() {
        if FOLDED.contains(&title)
            && let Some(column) = table.column_mut(index)
        {
            column.set_constraint(ColumnConstraint::UpperBoundary(Width::Fixed(WORDS)));
        }
    }
}

/// Columns of words.
const FOLDED: [&str; 2] = ["INFO", "CAUSE"];
