//! The inputs of the configuration besides its files: environment variables, credentials and secret files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::reading::Reading;

/// The purpose of reading the configuration. It decides which secrets must be available.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To run the daemon: every secret must be available.
    Serve,
    /// To check the file: credentials that only the service manager can pass may be missing.
    Check,
    /// To test routes: no secret is read.
    Route,
}

/// The files from which the service manager passes credentials to the service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CredentialFiles {
    /// A folder; each file in it is a credential of the same name.
    pub folder: Option<PathBuf>,
    /// Files of single credentials, by name.
    pub single: BTreeMap<String, PathBuf>,
    /// Credentials that cannot be read from a file, such as encrypted ones.
    pub elsewhere: BTreeSet<String>,
}

impl CredentialFiles {
    /// The file of this credential. A single file has precedence over the folder.
    #[must_use]
    pub fn path(&self, name: &str) -> Option<PathBuf> {
        if self.elsewhere.contains(name) {
            return None;
        }
        let single = self.single.get(name).cloned();
        single.or_else(|| Some(self.folder.as_ref()?.join(name)))
    }
}

/// The environment in which the configuration is read. A value, so that tests do not depend on the real environment.
#[derive(Clone, Debug, Default)]
pub struct Outside {
    variables: BTreeMap<String, String>,
    credentials: Option<CredentialFiles>,
    reading: Reading,
}

impl Outside {
    /// The environment of this process.
    #[must_use]
    pub fn of_process() -> Self {
        let text = |text: std::ffi::OsString| text.into_string().ok();
        let variables = std::env::vars_os().filter_map(|(name, value)| Some((text(name)?, text(value)?)));
        Self {
            variables: variables.collect(),
            ..Self::default()
        }
    }

    /// Returns this environment with `reading`, which shows the file that is being read.
    #[must_use]
    pub fn watched(self, reading: Reading) -> Self {
        Self { reading, ..self }
    }

    /// An environment with only these variables.
    #[must_use]
    pub fn of<const N: usize>(variables: [(&str, &str); N]) -> Self {
        Self {
            variables: variables
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            ..Self::default()
        }
    }

    /// Reads files, and shows which one is being read.
    pub(super) fn reading(&self) -> &Reading {
        &self.reading
    }

    /// The value of a variable that is set and not empty.
    #[must_use]
    pub fn variable(&self, name: &str) -> Option<&str> {
        self.variables
            .get(name)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }

    /// A folder passed by the service manager. If it passed several, this is the first.
    #[must_use]
    pub fn folder(&self, name: &str) -> Option<PathBuf> {
        self.variable(name)
            .and_then(|folders| folders.split(':').next())
            .map(PathBuf::from)
    }

    /// Returns this environment with files for the credentials that the service manager does not pass.
    #[must_use]
    pub fn with_credentials(self, files: CredentialFiles) -> Self {
        Self {
            credentials: Some(files),
            ..self
        }
    }

    /// The files of the credentials, if they are known.
    pub(super) fn credentials(&self) -> Option<&CredentialFiles> {
        self.credentials.as_ref()
    }

    /// Sets a variable to a path unless it is set already.
    pub fn set_default(&mut self, name: &str, path: &Path) {
        if self.variable(name).is_none() {
            let path = path.to_string_lossy().into_owned();
            self.variables.insert(name.to_owned(), path);
        }
    }

    /// The path of the configuration: `given`, else `$SMSBRIDGE_CONFIG`, else `./config.toml` if it exists, else
    /// `default`.
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
