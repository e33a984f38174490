//! The Prometheus metrics of the daemon. One value is created at startup and passed to every module that counts.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

mod labels;
pub mod log;
pub mod nodes;
pub mod rates;
pub mod series;

pub use labels::{
    ByDestination, ByEvent, BySource, ByState, EVENTS, OUTCOMES, Outcome, REASONS, REASONS_WITHOUT_SOURCE,
    Rejected,
};
use log::Log;
use nodes::Nodes;
use rates::Rates;
use series::Series;

use crate::model::destination_state::DestinationState;

/// All metrics. Gauges are set just before they are read.
pub struct Metrics {
    /// Messages stored.
    pub accepted: Family<BySource, Counter>,
    /// Webhooks of messages that were already stored.
    pub duplicate: Family<BySource, Counter>,
    /// Duplicates whose sender, receiver, body or attachments differ from the stored message.
    pub duplicate_differing: Family<BySource, Counter>,
    /// Messages that were listed at the carrier because their webhook did not arrive.
    pub caught_up: Family<BySource, Counter>,
    /// Webhook events that are not messages, answered with success.
    pub events: Family<ByEvent, Counter>,
    /// Webhooks answered with an error.
    pub rejected: Family<Rejected, Counter>,
    /// Messages that no route matched.
    pub unrouted: Counter,
    /// Messages whose routes deliver them to no destination.
    pub kept: Counter,
    /// Attempts by result.
    pub deliveries: Family<Outcome, Counter>,
    /// Duration of attempts.
    pub delivery_duration: Family<ByDestination, Histogram>,
    /// Time from accepting a message to delivering it.
    pub end_to_end: Family<ByDestination, Histogram>,
    /// Current throughput.
    pub rates: Rates,
    /// The messages of the last hour.
    pub series: Series,
    /// Requests to the admin listener with a wrong token.
    pub logins_failed: Counter,
    /// The state of the log.
    pub log: Log,
    queue_pending: Family<ByDestination, Gauge>,
    queue_dead: Family<ByDestination, Gauge>,
    queue_oldest: Family<ByDestination, Gauge<f64, AtomicU64>>,
    attempt_oldest: Family<ByDestination, Gauge<f64, AtomicU64>>,
    destination_state: Family<ByState, Gauge>,
    webhook_problems: Family<BySource, Gauge>,
    reloaded: Gauge,
    store_bytes: Gauge,
    /// Without a value if the store is not on this machine.
    store_free_bytes: Family<Vec<(String, String)>, Gauge>,
    store_findings: Gauge,
    /// The nodes that share the store.
    pub nodes: Nodes,
    /// Duration of commits.
    pub store_commit: Histogram,
    /// Destinations that have gauges.
    shown: Mutex<BTreeSet<String>>,
    process: Process,
    registry: Registry,
}

/// From one millisecond to fifteen minutes.
const DURATION_BUCKETS: [f64; 12] = [
    0.001, 0.005, 0.025, 0.1, 0.25, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0, 900.0,
];

/// From 0.25 milliseconds to thirty seconds.
const COMMIT_BUCKETS: [f64; 13] = [
    0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.25, 1.0, 2.5, 10.0, 30.0,
];

/// From five milliseconds to three days, the default of `give_up_after`.
const END_TO_END_BUCKETS: [f64; 14] = [
    0.005, 0.025, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0, 7200.0, 28800.0, 86400.0, 259_200.0,
];

impl Default for Metrics {
    fn default() -> Self {
        let mut metrics = Self {
            accepted: Family::default(),
            duplicate: Family::default(),
            duplicate_differing: Family::default(),
            caught_up: Family::default(),
            events: Family::default(),
            rejected: Family::default(),
            unrouted: Counter::default(),
            kept: Counter::default(),
            deliveries: Family::default(),
            delivery_duration: Family::new_with_constructor(|| Histogram::new(DURATION_BUCKETS)),
            end_to_end: Family::new_with_constructor(|| Histogram::new(END_TO_END_BUCKETS)),
            rates: Rates::default(),
            series: Series::default(),
            logins_failed: Counter::default(),
            log: Log::default(),
            queue_pending: Family::default(),
            queue_dead: Family::default(),
            queue_oldest: Family::default(),
            attempt_oldest: Family::default(),
            destination_state: Family::default(),
            webhook_problems: Family::default(),
            reloaded: Gauge::default(),
            store_bytes: Gauge::default(),
            store_free_bytes: Family::default(),
            store_findings: Gauge::default(),
            nodes: Nodes::default(),
            store_commit: Histogram::new(COMMIT_BUCKETS),
            shown: Mutex::default(),
            process: Process::default(),
            registry: Registry::default(),
        };
        metrics.register();
        metrics
    }
}

impl Metrics {
    fn register(&mut self) {
        self.process
            .register(self.registry.sub_registry_with_prefix("process"));
        let registry = self.registry.sub_registry_with_prefix("smsbridge");
        registry.register("messages_accepted", "Messages stored", self.accepted.clone());
        registry.register(
            "messages_duplicate",
            "Webhooks of messages that were already stored",
            self.duplicate.clone(),
        );
        registry.register(
            "messages_duplicate_differing",
            "Webhooks that reuse the id of a different message",
            self.duplicate_differing.clone(),
        );
        registry.register(
            "messages_caught_up",
            "Messages stored from the carrier's list, because their webhook did not arrive",
            self.caught_up.clone(),
        );
        registry.register(
            "events_ignored",
            "Webhook events that are not messages",
            self.events.clone(),
        );
        registry.register(
            "requests_rejected",
            "Webhooks answered with an error",
            self.rejected.clone(),
        );
        registry.register(
            "messages_unrouted",
            "Messages that no route matched",
            self.unrouted.clone(),
        );
        registry.register(
            "messages_kept",
            "Messages whose routes deliver them to no destination",
            self.kept.clone(),
        );
        registry.register(
            "admin_logins_failed",
            "Requests to the admin listener with a wrong token",
            self.logins_failed.clone(),
        );
        registry.register(
            "deliveries",
            "Delivery attempts by result",
            self.deliveries.clone(),
        );
        registry.register_with_unit(
            "delivery_duration",
            "Duration of delivery attempts",
            Unit::Seconds,
            self.delivery_duration.clone(),
        );
        registry.register_with_unit(
            "end_to_end",
            "Time from accepting a message to delivering it",
            Unit::Seconds,
            self.end_to_end.clone(),
        );
        registry.register("queue_pending", "Pending deliveries", self.queue_pending.clone());
        registry.register(
            "queue_dead",
            "Dead deliveries that need attention",
            self.queue_dead.clone(),
        );
        registry.register_with_unit(
            "queue_oldest",
            "Age of the oldest pending delivery",
            Unit::Seconds,
            self.queue_oldest.clone(),
        );
        registry.register_with_unit(
            "attempt_oldest",
            "Age of the oldest attempt in flight",
            Unit::Seconds,
            self.attempt_oldest.clone(),
        );
        registry.register(
            "destination_state",
            "1 for the current state of a destination, 0 for all others",
            self.destination_state.clone(),
        );
        registry.register(
            "numbers_astray",
            "Carrier numbers whose webhook may not point to this daemon",
            self.webhook_problems.clone(),
        );
        registry.register(
            "config_last_reload_successful",
            "1 if the last reload of the configuration succeeded",
            self.reloaded.clone(),
        );
        registry.register_with_unit(
            "store",
            "Size of the store on disk",
            Unit::Bytes,
            self.store_bytes.clone(),
        );
        registry.register_with_unit(
            "store_free",
            "Free space on the store's file system",
            Unit::Bytes,
            self.store_free_bytes.clone(),
        );
        registry.register(
            "store_findings",
            "Findings of the store audit that are not acknowledged",
            self.store_findings.clone(),
        );
        self.nodes.register(registry);
        registry.register_with_unit(
            "store_commit",
            "Duration of commits, from the first change to the end of the sync",
            Unit::Seconds,
            self.store_commit.clone(),
        );
        registry.register(
            "log_lines_dropped",
            "Log lines that could not be written",
            self.log.counter(),
        );
        registry.register(
            "build",
            "The running version",
            Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]),
        );
    }

    /// Creates every series whose labels are known, with the value 0: `increase()` ignores the first event of a series
    /// that starts at 1.
    pub fn begin<'n>(
        &self,
        sources: impl Iterator<Item = &'n str>,
        destinations: impl Iterator<Item = &'n str>,
    ) {
        let rejected = |source: &str, reason: &'static str| {
            let source = source.to_owned();
            drop(self.rejected.get_or_create(&Rejected { source, reason }));
        };
        REASONS_WITHOUT_SOURCE
            .iter()
            .for_each(|reason| rejected("", reason));
        for source in sources {
            let by = BySource {
                source: source.to_owned(),
            };
            drop(self.accepted.get_or_create(&by));
            drop(self.duplicate.get_or_create(&by));
            drop(self.duplicate_differing.get_or_create(&by));
            drop(self.caught_up.get_or_create(&by));
            drop(self.webhook_problems.get_or_create(&by));
            for event in EVENTS {
                let source = source.to_owned();
                drop(self.events.get_or_create(&ByEvent { source, event }));
            }
            REASONS.iter().for_each(|reason| rejected(source, reason));
        }
        for destination in destinations {
            let destination = destination.to_owned();
            for outcome in OUTCOMES {
                let destination = destination.clone();
                drop(self.deliveries.get_or_create(&Outcome { destination, outcome }));
            }
            let by = ByDestination { destination };
            drop(self.delivery_duration.get_or_create(&by));
            drop(self.end_to_end.get_or_create(&by));
        }
    }

    /// Sets whether the last attempt to read the configuration succeeded.
    pub fn show_reload(&self, succeeded: bool) {
        self.reloaded.set(i64::from(succeeded));
    }

    /// Removes the gauges of all other destinations: an alert must not continue for a removed destination.
    pub fn keep_destinations<'n>(&self, names: impl Iterator<Item = &'n str>) {
        let names: BTreeSet<String> = names.map(str::to_owned).collect();
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        for gone in shown.difference(&names) {
            let by = ByDestination {
                destination: gone.clone(),
            };
            self.queue_pending.remove(&by);
            self.queue_dead.remove(&by);
            self.queue_oldest.remove(&by);
            self.attempt_oldest.remove(&by);
            for state in DestinationState::ALL.map(DestinationState::as_str) {
                let destination = gone.clone();
                self.destination_state.remove(&ByState { destination, state });
            }
        }
        *shown = names;
    }

    /// Sets the gauges of one destination.
    pub fn show_destination(
        &self,
        name: &str,
        state: DestinationState,
        pending: u64,
        dead: u64,
        oldest: Duration,
    ) {
        let by = ByDestination {
            destination: name.to_owned(),
        };
        self.queue_pending.get_or_create(&by).set(signed(pending));
        self.queue_dead.get_or_create(&by).set(signed(dead));
        self.queue_oldest.get_or_create(&by).set(oldest.as_secs_f64());
        for known in DestinationState::ALL {
            let by = ByState {
                destination: name.to_owned(),
                state: known.as_str(),
            };
            self.destination_state
                .get_or_create(&by)
                .set(i64::from(known == state));
        }
    }

    /// Sets the age of the oldest attempt in flight of a destination.
    pub fn show_attempt(&self, name: &str, age: Duration) {
        let by = ByDestination {
            destination: name.to_owned(),
        };
        self.attempt_oldest.get_or_create(&by).set(age.as_secs_f64());
    }

    /// Sets the number of carrier numbers of a source whose webhook is known not to point to this daemon.
    pub fn show_webhook_problems(&self, source: &str, numbers: u64) {
        self.webhook_problems
            .get_or_create(&BySource {
                source: source.to_owned(),
            })
            .set(signed(numbers));
    }

    /// Removes the gauge of a source that is no longer configured.
    pub fn forget_webhook_problems(&self, source: &str) {
        self.webhook_problems.remove(&BySource {
            source: source.to_owned(),
        });
    }

    /// Sets the gauges of the store.
    pub fn show_store(&self, bytes: u64, free: Option<u64>, findings: usize) {
        self.store_findings.set(signed(findings as u64));
        self.store_bytes.set(signed(bytes));
        if let Some(free) = free {
            self.store_free_bytes.get_or_create(&Vec::new()).set(signed(free));
        }
    }

    /// The counters and histograms in OpenMetrics' text form.
    ///
    /// # Errors
    /// None in practice: writing to a string does not fail.
    pub fn encode(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

/// The process metrics of the official Prometheus client libraries, under the same names.
#[derive(Default)]
struct Process {
    cpu: Counter<f64, AtomicU64>,
    resident: Gauge,
    files: Gauge,
    started: Gauge<f64, AtomicU64>,
}

impl Process {
    fn register(&self, registry: &mut Registry) {
        registry.register_with_unit("cpu", "CPU time used", Unit::Seconds, self.cpu.clone());
        registry.register_with_unit(
            "resident_memory",
            "Memory in use",
            Unit::Bytes,
            self.resident.clone(),
        );
        registry.register("open_fds", "Open file descriptors", self.files.clone());
        registry.register_with_unit(
            "start_time",
            "Start time of the process in seconds since the Unix epoch",
            Unit::Seconds,
            self.started.clone(),
        );
    }
}

impl Metrics {
    /// Sets the gauges of the process. `started` is in seconds since the Unix epoch.
    pub fn show_process(&self, cpu: Duration, resident: u64, files: u64, started: f64) {
        self.process
            .cpu
            .inner()
            .store(cpu.as_secs_f64().to_bits(), Ordering::Relaxed);
        self.process.resident.set(signed(resident));
        self.process.files.set(signed(files));
        self.process.started.set(started);
    }
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_documented_ones() {
        let metrics = Metrics::default();
        metrics
            .accepted
            .get_or_create(&BySource {
                source: "intelepeer".into(),
            })
            .inc();
        metrics
            .end_to_end
            .get_or_create(&ByDestination {
                destination: "desk".into(),
            })
            .observe(0.01);
        let text = metrics.encode().unwrap();
        assert!(
            text.contains("smsbridge_messages_accepted_total{source=\"intelepeer\"} 1"),
            "{text}"
        );
        assert!(
            text.contains("smsbridge_end_to_end_seconds_count{destination=\"desk\"} 1"),
            "{text}"
        );
    }
}
