//! Chooses the destination and the format of log lines: text on a terminal, the journal under systemd, JSON
//! otherwise. The logging thread only formats a line and queues it; the queue's thread writes.

use std::fs::File;
use std::io::{self, IsTerminal as _, Write as _};
use std::os::fd::AsFd as _;
use std::panic::PanicHookInfo;
use std::time::Duration;

use anyhow::Context as _;
use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer, Registry};

use self::journal::Journal;
use self::json::Json;
use self::queue::{Batch, Queue, Sink};
use crate::metrics;
use crate::plan::{Log, LogFormat};

mod journal;
mod json;
mod queue;

/// How much is written to standard error at once.
const BATCH: usize = 32 * 1024;

/// How long the end of the process waits for the last lines.
const FLUSH: Duration = Duration::from_secs(1);

/// Writes the last lines when dropped, if the reader accepts them in time.
pub struct Flush(Queue);

impl Drop for Flush {
    fn drop(&mut self) {
        self.0.flush(FLUSH);
    }
}

/// Starts logging for the life of the process. `louder` is the number of `-v` minus that of `-q`; `state`
/// counts dropped lines.
///
/// # Errors
/// `log.level` is not a level or filter, or logging was started before.
pub fn start(log: &Log, louder: i8, state: metrics::log::Log) -> anyhow::Result<Flush> {
    let filter = filter(&log.level, louder)?;
    let (layer, queue) = layer(log.format, state)?;
    tracing_subscriber::registry()
        .with(layer)
        .with(filter)
        .try_init()
        .context("logging was started twice")?;
    // The default hook writes to standard error, where it may hang.
    std::panic::set_hook(Box::new(log_panic));
    Ok(Flush(queue))
}

/// Logs a panic. A formatted message may contain parts of a message body, so only literal ones are logged.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let words = panic.payload().downcast_ref::<&'static str>().unwrap_or(&"");
    tracing::error!("internal error, please report it: panic at {place}: {words}");
}

/// Libraries stay at `warn` whatever the level: at `trace`, HTTP clients print headers and bodies.
fn filter(level: &str, louder: i8) -> anyhow::Result<EnvFilter> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let directives = match LEVELS.iter().position(|known| known.eq_ignore_ascii_case(level)) {
        Some(position) => {
            let position = position
                .saturating_add_signed(louder.into())
                .min(LEVELS.len() - 1);
            format!("warn,smsbridge={}", LEVELS[position])
        }
        None => level.to_owned(),
    };
    EnvFilter::try_new(&directives).with_context(|| {
        format!("log.level: `{level}` is neither error, warn, info, debug, trace nor a filter")
    })
}

type AnyLayer = Box<dyn Layer<Registry> + Send + Sync>;

fn layer(format: LogFormat, state: metrics::log::Log) -> anyhow::Result<(AnyLayer, Queue)> {
    let format = match format {
        LogFormat::Auto if io::stderr().is_terminal() => LogFormat::Text,
        LogFormat::Auto if std::env::var_os("JOURNAL_STREAM").is_some() => LogFormat::Journald,
        LogFormat::Auto => LogFormat::Json,
        chosen => chosen,
    };
    let queue = match format {
        LogFormat::Journald => {
            let sink = journal::sink()
                .context("log.format: the journal cannot be reached; choose `text` or `json`")?;
            Queue::start(state, "the journal", Batch::Line, sink)
        }
        LogFormat::Json | LogFormat::Text | LogFormat::Auto => {
            let sink = standard_error().context("standard error cannot be used for the log")?;
            Queue::start(state, "standard error", Batch::Bytes(BATCH), sink)
        }
    };
    let queue = queue.context("the log's thread cannot be started")?;
    let layer = match format {
        LogFormat::Journald => Journal(queue.clone()).boxed(),
        LogFormat::Json => Json(queue.clone()).boxed(),
        LogFormat::Text | LogFormat::Auto => tracing_subscriber::fmt::layer()
            .with_ansi(io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
            .with_target(false)
            .with_writer(queue.clone())
            .boxed(),
    };
    Ok((layer, queue))
}

/// Writes to standard error without the standard library's lock, because a write that hangs must not hold it.
fn standard_error() -> io::Result<Sink> {
    let mut file = File::from(io::stderr().as_fd().try_clone_to_owned()?);
    let mut is_broken = false;
    Ok(Box::new(move |lines| {
        // A failed write may have left the beginning of a line.
        if std::mem::take(&mut is_broken) {
            let _ = file.write_all(b"\n");
        }
        let written = file.write_all(lines);
        is_broken = written.is_err();
        written
    }))
}
