//! The configuration as written: a TOML file and the files that it includes. Every problem is reported, not only the
//! first.
//!
//! ```text
//! file ─▶ TOML with places ─▶ secrets resolved ─▶ each section read ─▶ Config ─▶ plan
//! ```
//!
//! Sections with errors are left out. References to them are not reported as a second error.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use toml::Spanned;

use crate::model::message::Name;
use crate::retry::Policy;

mod diagnostics;
mod entries;
mod environment;
mod fingerprint;
mod include;
mod places;
mod reader;
mod reading;
mod routes;
mod secrets;
mod section;
mod settings;
mod store;
pub(crate) mod suggest;
mod syntax;

pub use diagnostics::{Problem, Problems, Severity};
pub use entries::{Destination, NamedInterval, Smtp, Source};
pub use environment::{CredentialFiles, Outside, Purpose};
pub use fingerprint::Fingerprint;
pub use places::Places;
pub use reading::Reading;
pub use routes::{Conditions, Route};
pub use settings::{Admin, Log, LogFormat, Server, Tls};
pub use store::{Database, Store};

/// Upper bound of the size of a configuration file, in bytes. Parsing takes up to a hundred times as much memory.
const FILE_MAX: u64 = 4 * 1024 * 1024;

/// The content of the configuration files.
#[derive(Debug)]
pub struct Config {
    /// `[server]`
    pub server: Server,
    /// The places of its keys.
    pub server_places: Places,
    /// `[admin]`
    pub admin: Admin,
    /// The places of its keys.
    pub admin_places: Places,
    /// `[store]`
    pub store: Store,
    /// `[log]`
    pub log: Log,
    /// `[operator]`
    pub operator: Operator,
    /// `[retry]`
    pub retry: Policy,
    /// `[source.NAME]`
    pub sources: Vec<Source>,
    /// `[smtp.NAME]`
    pub smtp: Vec<Smtp>,
    /// `[destination.NAME]`
    pub destinations: Vec<Destination>,
    /// `[time_interval.NAME]`
    pub time_intervals: Vec<NamedInterval>,
    /// `[contacts]`: the name for each number in normal form, with the place of the number.
    pub contacts: BTreeMap<String, Spanned<String>>,
    /// `[[route]]`
    pub routes: Vec<Route>,
    /// `[routing] unmatched`
    pub unmatched: Vec<Spanned<String>>,
    /// The names of all sources, SMTP servers and destinations, including those with errors.
    pub declared: Declared,
}

/// `[operator]`
#[derive(Debug)]
pub struct Operator {
    /// The destinations to which problems are reported.
    pub notify: Vec<Spanned<String>>,
    /// How long a destination must have a problem before it is told.
    pub after: Duration,
}

/// Names that can be referred to.
#[derive(Debug, Default)]
pub struct Declared {
    /// Sources.
    pub sources: BTreeMap<Name, Range<usize>>,
    /// SMTP servers.
    pub smtp: BTreeMap<Name, Range<usize>>,
    /// Destinations.
    pub destinations: BTreeMap<Name, Range<usize>>,
    /// Time intervals.
    pub time_intervals: BTreeMap<Name, Range<usize>>,
}

impl Config {
    /// Reads the file at `path`. Returns the problems found so far; compiling the plan finds more.
    ///
    /// # Errors
    /// When the file does not exist or is not TOML.
    pub fn load(path: &Path, purpose: Purpose, outside: &Outside) -> Result<(Self, Problems), Problems> {
        let text = text_of(path, outside.reading(), NO_FILE)
            .map_err(|message| Problems::unreadable(path, message))?;
        Self::read(&text, path, purpose, outside)
    }

    /// Reads as much as possible of the file at `path`, even if parts of it are not TOML. The commands use this to
    /// find a daemon that runs on an earlier version of the file.
    ///
    /// # Errors
    /// When the file does not exist.
    pub fn recover(path: &Path, purpose: Purpose, outside: &Outside) -> Result<(Self, Problems), Problems> {
        let text = text_of(path, outside.reading(), NO_FILE)
            .map_err(|message| Problems::unreadable(path, message))?;
        Ok(reader::recover(&text, path, purpose, outside))
    }

    /// Reads `text` as the content of a file at `path`, which need not exist.
    ///
    /// # Errors
    /// When it is not TOML. Other problems can be found only once that is fixed.
    pub fn read(
        text: &str,
        path: &Path,
        purpose: Purpose,
        outside: &Outside,
    ) -> Result<(Self, Problems), Problems> {
        reader::read(text, path, purpose, outside)
    }
}

/// The error when the configuration file is missing.
const NO_FILE: &str =
    "no such file; name another with --config PATH or $SMSBRIDGE_CONFIG, or begin with config.example.toml";

/// Reads a file as UTF-8; `missing` is the error when it does not exist.
fn text_of(path: &Path, reading: &Reading, missing: &str) -> Result<String, String> {
    let content = reading
        .file("configuration file", path, FILE_MAX)
        .map_err(|error| {
            if error.is_missing() {
                missing.to_owned()
            } else {
                error.to_string()
            }
        })?;
    String::from_utf8(content.bytes).map_err(|_| "is not UTF-8".to_owned())
}
