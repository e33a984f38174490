//! The configuration as it was typed: a TOML file and those that it includes, read whole, with every problem reported
//! at once.
//!
//! ```text
//! text ─▶ TOML with places ─▶ secrets fetched ─▶ each section read ─▶ Config ─▶ plan
//! ```
//!
//! Sections that are broken are left out, and what refers to them is not complained about again.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use toml::Spanned;

use crate::message::Name;
use crate::retry::Policy;

mod diagnostics;
mod entries;
mod environment;
mod fingerprint;
mod include;
mod places;
mod reader;
mod reading;
pub mod reference;
mod schema;
mod secrets;
mod section;
mod settings;
pub(crate) mod suggest;
mod syntax;
mod value;
mod words;

pub use diagnostics::{Problem, Problems, Severity};
pub use entries::{Conditions, Destination, Route, Smtp, Source};
pub use environment::{CredentialFiles, Outside, Purpose};
pub use fingerprint::Fingerprint;
pub use places::Places;
pub use reading::Reading;
pub use schema::schema;
pub use settings::{Admin, Log, LogFormat, Server, Store, Tls};

/// The largest configuration file, in bytes. Parsed, it takes up to a hundred times as much.
const FILE_MAX: u64 = 4 * 1024 * 1024;

/// What the file says.
#[derive(Debug)]
pub struct Config {
    /// `[server]`
    pub server: Server,
    /// Where it is written.
    pub server_places: Places,
    /// `[admin]`
    pub admin: Admin,
    /// Where it is written.
    pub admin_places: Places,
    /// `[store]`
    pub store: Store,
    /// `[log]`
    pub log: Log,
    /// `[retry]`
    pub retry: Policy,
    /// `[source.NAME]`
    pub sources: Vec<Source>,
    /// `[smtp.NAME]`
    pub smtp: Vec<Smtp>,
    /// `[destination.NAME]`
    pub destinations: Vec<Destination>,
    /// `[contacts]`: names by numbers in normal form, with the place of the number.
    pub contacts: BTreeMap<String, Spanned<String>>,
    /// `[[route]]`
    pub routes: Vec<Route>,
    /// `[routing] unmatched`
    pub unmatched: Vec<Spanned<String>>,
    /// Every name after `[source.`, `[smtp.` and `[destination.`, of broken tables, too.
    pub declared: Declared,
}

/// Names that may be referred to.
#[derive(Debug, Default)]
pub struct Declared {
    /// Sources.
    pub sources: BTreeMap<Name, Range<usize>>,
    /// SMTP servers.
    pub smtp: BTreeMap<Name, Range<usize>>,
    /// Destinations.
    pub destinations: BTreeMap<Name, Range<usize>>,
}

impl Config {
    /// Reads the file at `path`. The problems are those found so far; compiling the plan finds more.
    ///
    /// # Errors
    /// When there is no file, or it is not TOML at all.
    pub fn load(path: &Path, purpose: Purpose, outside: &Outside) -> Result<(Self, Problems), Problems> {
        let text = text_of(path, outside.reading(), NO_FILE)
            .map_err(|message| Problems::unreadable(path, message))?;
        Self::read(&text, path, purpose, outside)
    }

    /// Reads what can be read of the file at `path`, also when it is not TOML in some places: the daemon that runs on an
    /// earlier version of it can still be found.
    ///
    /// # Errors
    /// When there is no file.
    pub fn recover(path: &Path, purpose: Purpose, outside: &Outside) -> Result<(Self, Problems), Problems> {
        let text = text_of(path, outside.reading(), NO_FILE)
            .map_err(|message| Problems::unreadable(path, message))?;
        Ok(reader::recover(&text, path, purpose, outside))
    }

    /// Reads the text of a file that is, or would be, at `path`.
    ///
    /// # Errors
    /// When it is not TOML: other problems are found once that is fixed.
    pub fn read(
        text: &str,
        path: &Path,
        purpose: Purpose,
        outside: &Outside,
    ) -> Result<(Self, Problems), Problems> {
        reader::read(text, path, purpose, outside)
    }
}

/// What to do without a configuration file.
const NO_FILE: &str =
    "no such file; name another with --config PATH or $SMSBRIDGE_CONFIG, or begin with config.example.toml";

/// The text of a file; `missing` is the error when there is none.
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
