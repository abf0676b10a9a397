//! A page of metric families in Prometheus' text format, as it is filled.

use observer_core::observer::Histogram;
use prometheus::proto::{Bucket, Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};

/// Labels of one series.
pub type Labels = Vec<(&'static str, String)>;

/// A count as Prometheus counts.
#[expect(
    clippy::cast_precision_loss,
    reason = "Prometheus counts in floating point"
)]
pub const fn float(count: u64) -> f64 {
    count as f64
}

/// Metric families in the order in which they are shown; families without series are left out.
#[derive(Default)]
pub struct Page {
    /// What is on it so far.
    pub families: Vec<MetricFamily>,
}

impl Page {
    /// One gauge.
    pub fn gauge(
        &mut self,
        name: &str,
        help: &str,
        series: impl IntoIterator<Item = (Labels, f64)>,
    ) {
        let metrics = series.into_iter().map(|(labels, value)| {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            let mut metric = Metric::from_label(pairs(labels));
            metric.set_gauge(gauge);
            metric
        });
        self.family(name, help, MetricType::GAUGE, metrics.collect());
    }

    /// Only those series that have a value.
    pub fn some_gauge(
        &mut self,
        name: &str,
        help: &str,
        series: impl IntoIterator<Item = (Labels, Option<f64>)>,
    ) {
        let known = series
            .into_iter()
            .filter_map(|(labels, value)| Some((labels, value?)));
        self.gauge(name, help, known);
    }

    /// One counter.
    pub fn counter(
        &mut self,
        name: &str,
        help: &str,
        series: impl IntoIterator<Item = (Labels, f64)>,
    ) {
        let metrics = series.into_iter().map(|(labels, value)| {
            let mut counter = Counter::default();
            counter.set_value(value);
            let mut metric = Metric::from_label(pairs(labels));
            metric.set_counter(counter);
            metric
        });
        self.family(name, help, MetricType::COUNTER, metrics.collect());
    }

    /// One histogram.
    pub fn histogram<'a>(
        &mut self,
        name: &str,
        help: &str,
        series: impl IntoIterator<Item = (Labels, &'a Histogram)>,
    ) {
        let metrics = series.into_iter().map(|(labels, histogram)| {
            let mut cumulative = 0;
            let mut buckets = Vec::new();
            for (bound, count) in histogram.bounds.iter().zip(&histogram.counts) {
                cumulative += count;
                let mut bucket = Bucket::default();
                bucket.set_upper_bound(*bound);
                bucket.set_cumulative_count(cumulative);
                buckets.push(bucket);
            }
            let mut shown = prometheus::proto::Histogram::default();
            shown.set_bucket(buckets);
            shown.set_sample_count(histogram.counts.iter().sum());
            shown.set_sample_sum(histogram.sum);
            let mut metric = Metric::from_label(pairs(labels));
            metric.set_histogram(shown);
            metric
        });
        self.family(name, help, MetricType::HISTOGRAM, metrics.collect());
    }

    fn family(&mut self, name: &str, help: &str, kind: MetricType, metrics: Vec<Metric>) {
        if metrics.is_empty() {
            return;
        }
        let mut family = MetricFamily::default();
        family.set_name(name.to_owned());
        family.set_help(help.to_owned());
        family.set_field_type(kind);
        family.set_metric(metrics);
        self.families.push(family);
    }
}

fn pairs(labels: Labels) -> Vec<LabelPair> {
    labels
        .into_iter()
        .map(|(name, value)| {
            let mut pair = LabelPair::default();
            pair.set_name(name.to_owned());
            pair.set_value(value);
            pair
        })
        .collect()
}
