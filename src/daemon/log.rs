//! Where log lines go and how they look: text on a terminal, the journal under systemd, JSON otherwise.

use std::io::IsTerminal as _;

use anyhow::Context as _;
use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer, Registry};

use crate::plan::{Log, LogFormat};

/// Starts logging for the life of the process. `louder` is the number of `-v` minus that of `-q`.
///
/// # Errors
/// When `log.level` is not a level or filter, or logging was started before.
pub fn start(log: &Log, louder: i8) -> anyhow::Result<()> {
    let filter = filter(&log.level, louder)?;
    tracing_subscriber::registry()
        .with(layer(log.format)?)
        .with(filter)
        .try_init()
        .context("logging was started twice")
}

/// Libraries are kept at `warn` whatever the level: at `trace`, HTTP clients print headers and bodies.
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

fn layer(format: LogFormat) -> anyhow::Result<Box<dyn Layer<Registry> + Send + Sync>> {
    let format = match format {
        LogFormat::Auto if std::io::stderr().is_terminal() => LogFormat::Text,
        LogFormat::Auto if std::env::var_os("JOURNAL_STREAM").is_some() => LogFormat::Journald,
        LogFormat::Auto => LogFormat::Json,
        chosen => chosen,
    };
    Ok(match format {
        LogFormat::Journald => tracing_journald::layer()
            .context("log.format: the journal cannot be reached; choose `text` or `json`")?
            .with_syslog_identifier("smsbridge".to_owned())
            .boxed(),
        LogFormat::Json => tracing_subscriber::fmt::layer()
            .json()
            .flatten_event(true)
            .with_writer(std::io::stderr)
            .boxed(),
        LogFormat::Text | LogFormat::Auto => tracing_subscriber::fmt::layer()
            .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
            .with_target(false)
            .with_writer(std::io::stderr)
            .boxed(),
    })
}
