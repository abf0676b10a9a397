//! One line of JSON on standard output when an incident opens and when it closes, for whatever
//! collects logs. The log itself goes to standard error.

use observer_core::{
    change::{Change, ChangeRecord},
    incident::Incident,
};
use serde::Serialize;

use crate::terminal;

#[derive(Serialize)]
struct Line<'a> {
    event: &'static str,
    incident: &'a Incident,
}

/// Writes the line of `record`, if it has one.
pub fn tell(record: &ChangeRecord) {
    let Some(line) = line(&record.change) else {
        return;
    };
    // Without a reader of standard output there is nobody to tell.
    if let Ok(text) = terminal::json(&line) {
        let _ = terminal::print(&text);
    }
}

const fn line(change: &Change) -> Option<Line<'_>> {
    let (event, incident) = if let Change::IncidentOpened { incident } = change {
        ("incident_opened", incident)
    } else if let Change::IncidentClosed { incident } = change {
        ("incident_closed", incident)
    } else {
        return None;
    };
    Some(Line { event, incident })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::incident;

    #[test]
    fn opening_and_closing_are_lines_and_updates_are_not() {
        let boxed = || Box::new(incident("1", "10.0.0.2"));
        let opened = Change::IncidentOpened { incident: boxed() };
        let closed = Change::IncidentClosed { incident: boxed() };
        let updated = Change::IncidentUpdated { incident: boxed() };
        let text = |change: &Change| line(change).map(|line| terminal::json(&line).unwrap());
        let shown = text(&opened).unwrap();
        assert!(
            shown.starts_with(r#"{"event":"incident_opened","incident":{"id":"#),
            "{shown}"
        );
        assert_eq!(shown.matches('\n').count(), 1);
        assert!(text(&closed).unwrap().contains("incident_closed"));
        assert_eq!(text(&updated), None);
    }
}
