//! What a process counts, for whoever watches it: families of numbers, and the page on which they are read.
//!
//! Whoever does the counting owns a [`Counter`] or [`Seconds`], which costs an atomic addition and no lock, and knows
//! nothing of pages; the process registers them here under their names. What is only known at the moment somebody asks, such
//! as how full a disk is, is sampled then. `docs/metrics.md` lists every family; a test keeps it so.
//!
//! Deliberately absent: labels with paths, file names or sessions, and any other set of labels without a bound.

pub mod grpc;

mod endpoint;
mod seconds;

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text},
    metrics::{MetricType, exemplar::Exemplar},
    registry::Registry,
};

pub use self::{endpoint::serve, seconds::Seconds};
pub use prometheus_client::metrics::counter::Counter;

/// The families of one process; clones are the same.
#[derive(Clone, Default)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
}

impl Metrics {
    /// With `dfs_build_info`.
    pub fn new() -> Self {
        let metrics = Self::default();
        metrics.sampled(|samples| {
            let version = [("version", env!("CARGO_PKG_VERSION"))];
            samples.family("dfs_build", "What is running", MetricType::Info, |mut info| info.encode_info(&version));
        });
        metrics
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number that only grows; its name ends in `_total`.
    pub fn counter(&self, name: &'static str, help: &'static str, counter: &Counter) {
        let counter = counter.clone();
        self.sampled(move |samples| samples.count(name, help, counter.get()));
    }

    /// One family of several, told apart by a label.
    pub fn counters<const N: usize>(
        &self,
        name: &'static str,
        help: &'static str,
        label: &'static str,
        counters: [(&'static str, &Counter); N],
    ) {
        let counters = counters.map(|(value, counter)| (value, counter.clone()));
        self.sampled(move |samples| {
            samples.counts(name, help, label, counters.iter().map(|(value, counter)| (*value, counter.get())));
        });
    }

    /// How long something takes, as a distribution.
    pub fn seconds(&self, name: &'static str, help: &'static str, seconds: &Seconds) {
        let seconds = seconds.clone();
        self.sampled(move |samples| {
            samples.family(name, help, MetricType::Histogram, |encoder| seconds.encode(encoder));
        });
    }

    /// What is told each time that somebody asks. It may look at a disk, and must not wait for anything else.
    pub fn sampled(&self, sample: impl Fn(&mut Samples<'_>) + Send + Sync + 'static) {
        self.registry().register_collector(Box::new(Sampled(Box::new(sample))));
    }

    /// All of it, in the text format of OpenMetrics 1.0. Blocks as long as those that are sampled.
    pub fn text(&self) -> Result<String, fmt::Error> {
        let mut page = String::new();
        text::encode(&mut page, &self.registry())?;
        Ok(page)
    }
}

type Sample = dyn Fn(&mut Samples<'_>) + Send + Sync;

struct Sampled(Box<Sample>);

impl fmt::Debug for Sampled {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Sampled")
    }
}

impl Collector for Sampled {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut samples = Samples { encoder, ended: Ok(()) };
        (self.0)(&mut samples);
        samples.ended
    }
}

/// Takes what is told, family by family; each is to be told once, also when there is nothing to say of it now.
pub struct Samples<'a> {
    encoder: DescriptorEncoder<'a>,
    ended: fmt::Result,
}

impl Samples<'_> {
    /// A number that goes up and down; `None`: not known here now.
    pub fn gauge(&mut self, name: &str, help: &str, value: impl Into<Option<f64>>) {
        let value = value.into();
        self.family(name, help, MetricType::Gauge, |mut gauge| match value {
            Some(value) => gauge.encode_gauge(&value),
            None => Ok(()),
        });
    }

    /// One family of several, told apart by a label whose values have a bound.
    pub fn gauges<'v>(
        &mut self,
        name: &str,
        help: &str,
        label: &'static str,
        values: impl IntoIterator<Item = (&'v str, f64)>,
    ) {
        self.family(name, help, MetricType::Gauge, |mut family| {
            values
                .into_iter()
                .try_for_each(|(value, number)| family.encode_family(&[(label, value)])?.encode_gauge(&number))
        });
    }

    /// A number that only grows; its name ends in `_total`.
    pub fn count(&mut self, name: &str, help: &str, value: u64) {
        self.family(stem(name), help, MetricType::Counter, |mut counter| {
            counter.encode_counter(&value, None::<&Exemplar<NoLabelSet, f64>>)
        });
    }

    pub fn counts<'v>(
        &mut self,
        name: &str,
        help: &str,
        label: &'static str,
        values: impl IntoIterator<Item = (&'v str, u64)>,
    ) {
        self.family(stem(name), help, MetricType::Counter, |mut family| {
            values.into_iter().try_for_each(|(value, number)| {
                let labels = [(label, value)];
                family.encode_family(&labels)?.encode_counter(&number, None::<&Exemplar<NoLabelSet, f64>>)
            })
        });
    }

    fn family(
        &mut self,
        name: &str,
        help: &str,
        kind: MetricType,
        tell: impl FnOnce(MetricEncoder<'_>) -> fmt::Result,
    ) {
        if self.ended.is_ok() {
            self.ended = self.encoder.encode_descriptor(name, help, None, kind).and_then(tell);
        }
    }
}

/// The text format puts `_total` behind the names of counters by itself.
fn stem(name: &str) -> &str {
    name.strip_suffix("_total").unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_was_counted_is_on_the_page() {
        let metrics = Metrics::new();
        let (read, scrub, took) = (Counter::default(), Counter::default(), Seconds::default());
        metrics.counters("dfs_x_errors_total", "Errors", "source", [("read", &read), ("scrub", &scrub)]);
        metrics.seconds("dfs_x_seconds", "Time", &took);
        metrics.sampled(|samples| {
            samples.gauge("dfs_x_bytes", "Bytes", 7.0);
            samples.gauge("dfs_y_bytes", "Not known", None);
            samples.gauges("dfs_x_servers", "Servers", "state", [("up", 2.0), ("down", 1.0)]);
        });
        read.inc_by(3);
        took.took(Duration::from_millis(3));
        let page = metrics.text().unwrap();
        for line in [
            "# TYPE dfs_x_errors counter",
            "dfs_x_errors_total{source=\"read\"} 3",
            "dfs_x_errors_total{source=\"scrub\"} 0",
            "dfs_x_seconds_count 1",
            "dfs_x_seconds_bucket{le=\"0.0025\"} 0",
            "dfs_x_seconds_bucket{le=\"0.005\"} 1",
            "dfs_x_seconds_bucket{le=\"+Inf\"} 1",
            "dfs_x_bytes 7.0",
            "# TYPE dfs_y_bytes gauge",
            "dfs_x_servers{state=\"down\"} 1.0",
            concat!("dfs_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
            "# EOF",
        ] {
            assert!(page.lines().any(|said| said == line), "{line}\n{page}");
        }
    }
}
