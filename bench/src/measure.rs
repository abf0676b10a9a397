//! Turns, medians and what they are printed as.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// One contestant's result in one unit.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Figure {
    /// What was done.
    pub what: String,
    /// By whom.
    pub who: String,
    /// Of the numbers.
    pub unit: String,
    /// Of all turns.
    pub median: f64,
    /// Of all turns.
    pub least: f64,
    /// Of all turns.
    pub most: f64,
    /// The median beside that of the first contestant in the same thing and unit.
    pub ratio: Option<f64>,
}

/// A contestant and what it does in a turn.
pub struct Contestant<'a> {
    pub who: &'a str,
    pub turn: Box<dyn FnMut() -> Result<()> + 'a>,
}

impl Figure {
    /// Of the values of several turns.
    pub fn of(what: &str, who: &str, unit: &str, mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
        Self {
            what: what.to_owned(),
            who: who.to_owned(),
            unit: unit.to_owned(),
            median: at(values.len() / 2),
            least: at(0),
            most: at(values.len().saturating_sub(1)),
            ratio: None,
        }
    }

    /// Of the values of several turns; least and most are where their median is with a confidence of
    /// 95 % (by the order of the values, so that nothing need be known of how they spread).
    pub fn interval(what: &str, who: &str, unit: &str, mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let outside = outside(values.len());
        let inside = values.get(outside..values.len() - outside);
        Self::of(
            what,
            who,
            &format!("{unit} (95 %)"),
            inside.unwrap_or_default().to_vec(),
        )
    }

    /// Of one value.
    pub fn one(what: &str, who: &str, unit: &str, value: f64) -> Self {
        Self::of(what, who, unit, vec![value])
    }
}

/// How many of the least and of the most of so many values are left out of the interval: of that many
/// tosses of a coin, no more heads come up in one case of forty.
fn outside(values: usize) -> usize {
    let tosses = i32::try_from(values).unwrap_or(i32::MAX);
    let mut ways = 1.0;
    let mut chance = 0.0;
    let mut heads = 0_u32;
    loop {
        chance += ways * 0.5_f64.powi(tosses);
        if chance > 0.025 || heads >= tosses.unsigned_abs() / 2 {
            return usize::try_from(heads.saturating_sub(1)).unwrap_or(0);
        }
        ways *= f64::from(tosses.unsigned_abs() - heads) / f64::from(heads + 1);
        heads += 1;
    }
}

/// Sets the ratios: to the first figure of the same thing and unit, but of differences there are none.
pub fn compare(figures: &mut [Figure]) {
    let firsts: Vec<Figure> = figures.to_vec();
    for figure in figures {
        let first = firsts
            .iter()
            .find(|first| first.what == figure.what && first.unit == figure.unit);
        figure.ratio = first
            .filter(|first| first.who != figure.who && first.median > 0.0)
            .filter(|first| !first.unit.starts_with('%'))
            .map(|first| figure.median / first.median);
    }
}

/// A figure for each size, and the exponent by which the cost that such a figure stands for grows with it.
pub fn growth(
    what: &str,
    sizes: &[u32],
    of: &str,
    unit: &str,
    values: Vec<Vec<f64>>,
    cost: impl Fn(f64) -> f64,
) -> Vec<Figure> {
    let mut figures: Vec<Figure> = sizes
        .iter()
        .zip(values)
        .map(|(size, values)| Figure::of(what, &format!("{size} {of}"), unit, values))
        .collect();
    let costs = figures.iter().map(|figure| cost(figure.median));
    let exponent = exponent(sizes, costs);
    let what = format!("{what}: cost grows by the power of");
    figures.push(Figure::one(&what, of, "exponent", exponent));
    figures
}

/// The power of the size by which a cost grows: the slope of the straight line that fits their logarithms
/// best (least squares over all sizes).
pub fn exponent(sizes: &[u32], costs: impl IntoIterator<Item = f64>) -> f64 {
    let points: Vec<(f64, f64)> = { sizes.iter().zip(costs) }
        .map(|(size, cost)| (f64::from(*size).ln(), cost.ln()))
        .collect();
    let count = float(u64::try_from(points.len()).unwrap_or(0));
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (x, y) = (mean(|point| point.0), mean(|point| point.1));
    let rise: f64 = points.iter().map(|(at, is)| (at - x) * (is - y)).sum();
    let run: f64 = points.iter().map(|(at, _)| (at - x) * (at - x)).sum();
    rise / run
}

/// Seconds of each turn of each contestant, taking turns.
pub fn race(contestants: &mut [Contestant<'_>], turns: usize) -> Result<Vec<Vec<f64>>> {
    let mut seconds = vec![Vec::new(); contestants.len()];
    for _ in 0..turns {
        for (contestant, seconds) in contestants.iter_mut().zip(&mut seconds) {
            let start = Instant::now();
            (contestant.turn)().with_context(|| contestant.who.to_owned())?;
            seconds.push(start.elapsed().as_secs_f64());
        }
    }
    Ok(seconds)
}

/// Memory of this process that is resident, in octets.
pub fn resident() -> Result<u64> {
    resident_of(std::process::id())
}

/// The same without what malloc has free and kept back for itself.
pub fn kept() -> Result<u64> {
    // SAFETY: it takes no pointers, and frees only what nobody holds.
    unsafe {
        libc::malloc_trim(0);
    }
    resident()
}

/// Memory of a process that is resident, in octets.
pub fn resident_of(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/statm");
    let pages = fs::read_to_string(&path).with_context(|| format!("no {path}"))?;
    let pages: u64 = pages.split(' ').nth(1).context("no pages")?.parse()?;
    Ok(pages * 4096)
}

/// User and system time of a process (`/proc/PID/stat`, fields 14 and 15, in hundredths of a second).
pub fn processor_seconds(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path).with_context(|| format!("no {path}"))?;
    let (_, after_name) = stat.rsplit_once(')').context("no name in it")?;
    let ticks = after_name
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(str::parse)
        .collect::<Result<Vec<u64>, _>>()?;
    Ok(float(ticks.iter().sum()) / 100.0)
}

/// Processor time of this thread, in nanoseconds.
pub fn processor_nanos() -> Result<u64> {
    let time: Duration = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?.into();
    Ok(u64::try_from(time.as_nanos())?)
}

/// `count` as a floating number; exact as far as any figure here needs.
#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
pub fn float(count: u64) -> f64 {
    count as f64
}

/// With as many digits as say something.
pub fn number(value: f64) -> String {
    let digits = match value.abs() {
        large if large >= 100.0 => 0,
        small if small < 1.0 => 3,
        _ => 1,
    };
    let text = format!("{value:.digits$}");
    let (whole, rest) = text
        .split_once('.')
        .map_or((&*text, ""), |(whole, rest)| (whole, rest));
    let mut grouped = String::new();
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at).is_multiple_of(3) && !grouped.ends_with('-') {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    if rest.is_empty() {
        grouped
    } else {
        format!("{grouped}.{rest}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_the_median_between_least_and_most() {
        let figure = Figure::of("x", "ours", "s", vec![3.0, 1.0, 2.0]);
        assert!((figure.median - 2.0).abs() < 1e-9);
        assert!((figure.least - 1.0).abs() < 1e-9 && (figure.most - 3.0).abs() < 1e-9);
    }

    #[test]
    fn an_interval_leaves_out_what_chance_may_have_brought() {
        let values = |count: u32| (1..=count).map(f64::from).collect();
        for (count, least, most) in [(5, 1.0, 5.0), (11, 2.0, 10.0), (15, 4.0, 12.0)] {
            let figure = Figure::interval("x", "ours", "s", values(count));
            let bounds = (figure.least, figure.most);
            assert_eq!(bounds, (least, most), "of {count}");
            assert!((figure.median - f64::from(count + 1) / 2.0).abs() < 1e-9);
        }
    }

    #[test]
    fn ratios_are_to_the_first_of_the_same_thing() {
        let mut figures = [
            Figure::one("x", "ours", "s", 2.0),
            Figure::one("x", "theirs", "s", 5.0),
            Figure::one("y", "theirs", "s", 5.0),
        ];
        compare(&mut figures);
        let ratios: Vec<_> = figures.iter().map(|figure| figure.ratio).collect();
        assert_eq!(ratios, [None, Some(2.5), None]);
    }

    #[test]
    fn a_cost_that_doubles_with_the_size_grows_by_the_power_of_one() {
        let values = vec![vec![3.0], vec![6.0]];
        let exponent = |cost: fn(f64) -> f64| {
            let figures = growth("x", &[10, 20], "peers", "s", values.clone(), cost);
            figures.last().map(|figure| figure.median)
        };
        assert!((exponent(|cost| cost).unwrap() - 1.0).abs() < 1e-9);
        assert!(
            (exponent(f64::recip).unwrap() + 1.0).abs() < 1e-9,
            "of a rate"
        );
    }

    #[test]
    fn an_exponent_is_that_of_all_sizes_and_not_of_two() {
        let sizes = [1, 10, 100];
        assert!((exponent(&sizes, [5.0, 50.0, 500.0]) - 1.0).abs() < 1e-9);
        // The one in the middle off by a factor of ten tilts nothing; the last does, by half of it.
        assert!((exponent(&sizes, [1.0, 10.0, 1.0]) - 0.0).abs() < 1e-9);
        assert!((exponent(&sizes, [1.0, 1.0, 10.0]) - 0.5).abs() < 1e-9);
    }

    #[test]
    fn numbers_have_groups_and_few_digits() {
        for (value, text) in [
            (1_234_567.8, "1,234,568"),
            (123.4, "123"),
            (12.34, "12.3"),
            (0.0234, "0.023"),
            (-1234.0, "-1,234"),
        ] {
            assert_eq!(number(value), text);
        }
    }
}
