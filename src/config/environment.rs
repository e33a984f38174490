//! What the configuration takes from outside its file: environment variables, and the files it names.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::reading::Reading;

/// What the configuration is read for, and so how much of the outside must be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To run: every secret must be there.
    Serve,
    /// To be checked: credentials that only the service manager can hand over may be absent.
    Check,
    /// To try routes out: no secret is looked at.
    Route,
}

/// The files that the service manager makes credentials of when it starts the service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CredentialFiles {
    /// Every file in this folder is a credential of its name.
    pub folder: Option<PathBuf>,
    /// The files of single credentials.
    pub single: BTreeMap<String, PathBuf>,
    /// Credentials that are kept in another way, such as encrypted, and cannot be read from a file.
    pub elsewhere: BTreeSet<String>,
}

impl CredentialFiles {
    /// The file of this credential. A single one has precedence over the folder.
    #[must_use]
    pub fn path(&self, name: &str) -> Option<PathBuf> {
        if self.elsewhere.contains(name) {
            return None;
        }
        let single = self.single.get(name).cloned();
        single.or_else(|| Some(self.folder.as_ref()?.join(name)))
    }
}

/// The environment the configuration is read in. A value, so that tests need no real one.
#[derive(Clone, Debug, Default)]
pub struct Outside {
    variables: BTreeMap<String, String>,
    credentials: Option<CredentialFiles>,
    reading: Reading,
}

impl Outside {
    /// The process's own environment.
    #[must_use]
    pub fn of_process() -> Self {
        let text = |text: std::ffi::OsString| text.into_string().ok();
        let variables = std::env::vars_os().filter_map(|(name, value)| Some((text(name)?, text(value)?)));
        Self {
            variables: variables.collect(),
            ..Self::default()
        }
    }

    /// The same environment; `reading` tells which of its files is being read.
    #[must_use]
    pub fn watched(self, reading: Reading) -> Self {
        Self { reading, ..self }
    }

    /// An environment with just these variables.
    #[must_use]
    pub fn of<const N: usize>(variables: [(&str, &str); N]) -> Self {
        Self {
            variables: variables
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            ..Self::default()
        }
    }

    /// Reads files, and tells which.
    pub(super) fn reading(&self) -> &Reading {
        &self.reading
    }

    /// A variable that is set and not empty.
    #[must_use]
    pub fn variable(&self, name: &str) -> Option<&str> {
        self.variables
            .get(name)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }

    /// A folder the service manager gave. Where it gave several, the first counts.
    #[must_use]
    pub fn folder(&self, name: &str) -> Option<PathBuf> {
        self.variable(name)
            .and_then(|folders| folders.split(':').next())
            .map(PathBuf::from)
    }

    /// The same environment; credentials are read from these files where the service manager hands over none.
    #[must_use]
    pub fn with_credentials(self, files: CredentialFiles) -> Self {
        Self {
            credentials: Some(files),
            ..self
        }
    }

    /// Where credentials are kept, if that is known.
    pub(super) fn credentials(&self) -> Option<&CredentialFiles> {
        self.credentials.as_ref()
    }

    /// Sets a variable to a path where it is not set.
    pub fn set_default(&mut self, name: &str, path: &Path) {
        if self.variable(name).is_none() {
            let path = path.to_string_lossy().into_owned();
            self.variables.insert(name.to_owned(), path);
        }
    }

    /// Where the configuration is: the path given, else `$SMSBRIDGE_CONFIG`, else `./config.toml` if it exists,
    /// else `default`.
    #[must_use]
    pub fn config_path(&self, given: Option<&Path>, default: &Path) -> PathBuf {
        let named = given
            .map(Path::to_owned)
            .or_else(|| self.variable("SMSBRIDGE_CONFIG").map(PathBuf::from));
        named.unwrap_or_else(|| {
            let here = PathBuf::from("config.toml");
            if here.exists() { here } else { default.to_owned() }
        })
    }
}
