//! Bounds that figures must keep wherever they are measured: ratios to a contestant of the same run, powers
//! by which a cost grows, and octets. They are generous: what breaks one is no noise.

use crate::measure::{Figure, number};

/// What of a figure is bounded.
#[derive(Clone, Copy)]
enum Of {
    /// What it is beside the first contestant.
    Ratio,
    /// Its median: the same on every machine.
    Median,
}

struct Bound {
    bench: &'static str,
    /// A part of what was done.
    what: &'static str,
    /// How the name of the contestant begins.
    who: &'static str,
    unit: &'static str,
    of: Of,
    least: f64,
    most: f64,
}

const fn ratio(
    bench: &'static str,
    who: &'static str,
    unit: &'static str,
    (least, most): (f64, f64),
) -> Bound {
    Bound {
        bench,
        what: "",
        who,
        unit,
        of: Of::Ratio,
        least,
        most,
    }
}

/// Of one thing among several, no more than this.
const fn at_most(bench: &'static str, what: &'static str, unit: &'static str, most: f64) -> Bound {
    Bound {
        bench,
        what,
        who: "",
        unit,
        of: Of::Median,
        least: f64::NEG_INFINITY,
        most,
    }
}

const ANY: f64 = f64::INFINITY;

const BOUNDS: [Bound; 19] = [
    ratio("decode", "bgpkit-parser", "messages/s", (0.0, 0.8)),
    ratio("decode", "routecore", "messages/s", (0.0, 0.95)),
    ratio("decode", "netgauze", "messages/s", (0.0, 0.95)),
    ratio("decode", "tshark", "messages/s", (0.0, 0.3)),
    ratio("replay", "tshark", "MB/s", (0.0, 0.2)),
    ratio("replay", "tcpdump", "MB/s", (0.0, 0.6)),
    ratio("transfer", "agent", "s of CPU", (0.0, 2.0)),
    at_most("transfer", "", "lost", 0.0),
    ratio(
        "drops",
        "agent, nothing watched",
        "ns of CPU each",
        (0.0, 1.3),
    ),
    ratio("latency", "birdc", "ms until seen", (10.0, ANY)),
    at_most(
        "memory",
        "1,000,000 routes of one peer",
        "octets each",
        100.0,
    ),
    at_most(
        "memory",
        "1,000,000 routes of the kernel",
        "octets each",
        100.0,
    ),
    at_most("memory", "", "exponent", 1.15),
    at_most("core", "events of KEEPALIVEs", "exponent", 0.3),
    at_most("core", "UPDATEs into a table", "exponent", 0.3),
    at_most("core", "kernel's routes of so many peers", "exponent", 0.35),
    at_most("core", "withdrawn and announced", "exponent", 0.35),
    at_most("core", "among so many", "exponent", 0.35),
    at_most("core", "until they are an incident", "exponent", 0.35),
];

impl Bound {
    fn is_of(&self, figure: &Figure) -> bool {
        let value = match self.of {
            Of::Ratio => figure.ratio.is_some(),
            Of::Median => true,
        };
        value
            && figure.what.contains(self.what)
            && figure.who.starts_with(self.who)
            && figure.unit == self.unit
    }

    /// What is wrong with a figure.
    fn objection(&self, figure: &Figure) -> Option<String> {
        let value = match self.of {
            Of::Ratio => figure.ratio?,
            Of::Median => figure.median,
        };
        // Not a number is out of bounds too.
        let inside = (self.least..=self.most).contains(&value);
        (!inside).then(|| {
            format!(
                "{}: {}, {}: {} {} is not from {} to {}",
                self.bench,
                figure.what,
                figure.who,
                number(value),
                figure.unit,
                self.least,
                self.most
            )
        })
    }
}

/// What of a benchmark's figures breaks its bounds; a bound of which nothing was measured is broken.
pub fn objections(bench: &str, figures: &[Figure]) -> Vec<String> {
    let bounds = BOUNDS.iter().filter(|bound| bound.bench == bench);
    let mut objections = Vec::new();
    for bound in bounds {
        let mut meant = figures
            .iter()
            .filter(|figure| bound.is_of(figure))
            .peekable();
        if meant.peek().is_none() {
            let Bound {
                who, what, unit, ..
            } = bound;
            objections.push(format!(
                "{bench}: nothing measured of {what}{who} in {unit}"
            ));
        }
        objections.extend(meant.filter_map(|figure| bound.objection(figure)));
    }
    objections
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::compare;

    fn decoded(theirs: f64) -> Vec<Figure> {
        let mut figures = vec![
            Figure::one("UPDATEs", "ours", "messages/s", 100.0),
            Figure::one("UPDATEs", "bgpkit-parser, whole", "messages/s", theirs),
            Figure::one("UPDATEs", "routecore, whole", "messages/s", 40.0),
            Figure::one("UPDATEs", "netgauze, whole", "messages/s", 20.0),
            Figure::one("UPDATEs", "tshark", "messages/s", 1.0),
        ];
        compare(&mut figures);
        figures
    }

    #[test]
    fn what_keeps_its_bounds_is_not_objected_to() {
        assert_eq!(objections("decode", &decoded(30.0)), Vec::<String>::new());
        assert_eq!(objections("startup", &[]), Vec::<String>::new());
    }

    #[test]
    fn what_breaks_a_bound_is_said_and_so_is_what_was_not_measured() {
        let slower = objections("decode", &decoded(90.0));
        assert_eq!(
            slower,
            ["decode: UPDATEs, bgpkit-parser, whole: 0.900 messages/s is not from 0 to 0.8"]
        );
        assert_eq!(objections("decode", &decoded(f64::NAN)).len(), 1);
        assert_eq!(
            objections("replay", &[]),
            [
                "replay: nothing measured of tshark in MB/s",
                "replay: nothing measured of tcpdump in MB/s"
            ]
        );
    }
}
