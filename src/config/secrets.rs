//! Resolves secrets: replaces `{ env = "NAME" }`, `{ file = "PATH" }` and `{ credential = "NAME" }` by the strings
//! that they refer to, so that the configuration of a kind only contains plain strings.

use std::ops::Range;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostics::Problems;
use super::environment::{Outside, Purpose};
use crate::model::secret::{Secret, UNREAD};

/// Upper bound of the size of a secret file, in bytes.
const SECRET_MAX: u64 = 64 * 1024;

/// Upper bound of the size of a certificate file, in bytes. The CA bundle of a system fits.
const CERTIFICATES_MAX: u64 = 1024 * 1024;

/// The keys that hold certificates: read from files like secrets, but public.
const CERTIFICATES: [&str; 2] = [".certificate", ".ca_file"];

/// The id of the unit's folder of credentials: systemd passes the file `NAME` in it as `smsbridge_NAME`. The unit
/// also sets a credential `smsbridge` to a fixed word, so that the service starts without the folder; that one is not
/// a secret.
const UNIT_FOLDER: &str = "smsbridge";

/// Resolves the secrets of a configuration.
pub(super) struct Fetcher<'a> {
    /// The environment to read them from.
    pub outside: &'a Outside,
    /// Decides which secrets must be available.
    pub purpose: Purpose,
}

/// Changes `KEY = "PATH"` in a table to `KEY = { file = "PATH" }`, for values that are always read from files.
pub(super) fn paths_are_files(table: &mut DeValue<'_>, keys: &[&str]) {
    let DeValue::Table(table) = table else { return };
    for key in keys {
        let Some(value) = table.get_mut(*key).filter(|value| value.get_ref().is_str()) else {
            continue;
        };
        let place = value.span();
        let path = std::mem::replace(value.get_mut(), DeValue::Boolean(false));
        let file = [(
            Spanned::new(place.clone(), "file".into()),
            Spanned::new(place, path),
        )];
        *value.get_mut() = DeValue::Table(file.into_iter().collect());
    }
}

/// Returns true if this is the secret itself and not the placeholder of a secret that was not read.
pub(super) fn is_fetched(secret: &Secret) -> bool {
    secret.reveal() != UNREAD
}

/// Where a secret is read from.
enum Origin {
    Env(String),
    File(String),
    Credential(String),
}

/// Why a secret is not available.
enum Absent {
    /// It is required.
    Missing(String),
    /// It is required, and its file does not exist.
    NoSuchFile(String),
    /// It is required, and its file may not be read.
    Denied(String),
    /// It cannot be available in this environment.
    Unavailable(String),
}

impl Fetcher<'_> {
    /// Replaces every secret in a section. Returns the secrets, so that they can be removed from error messages.
    pub(super) fn fetch(
        &self,
        key: &str,
        value: &mut Spanned<DeValue<'_>>,
        problems: &mut Problems,
    ) -> Vec<String> {
        let mut fetched = Vec::new();
        self.fetch_below(key, value.get_mut(), problems, &mut fetched);
        fetched
    }

    fn fetch_below(
        &self,
        key: &str,
        value: &mut DeValue<'_>,
        problems: &mut Problems,
        fetched: &mut Vec<String>,
    ) {
        match value {
            DeValue::Table(table) => {
                for (name, child) in table.iter_mut() {
                    let key = format!("{key}.{}", name.get_ref());
                    self.fetch_one(&key, child, problems, fetched);
                }
            }
            DeValue::Array(items) => {
                for (index, child) in items.iter_mut().enumerate() {
                    self.fetch_one(&format!("{key}[{index}]"), child, problems, fetched);
                }
            }
            _ => {}
        }
    }

    fn fetch_one(
        &self,
        key: &str,
        value: &mut Spanned<DeValue<'_>>,
        problems: &mut Problems,
        fetched: &mut Vec<String>,
    ) {
        match origin(value.get_ref()).filter(|_| !is_real_table(key)) {
            None => self.fetch_below(key, value.get_mut(), problems, fetched),
            Some(origin) => {
                let secret = self.secret(key, &value.span(), &origin, problems);
                fetched.extend(secret.clone());
                *value.get_mut() = DeValue::String(secret.unwrap_or_else(|| UNREAD.to_owned()).into());
            }
        }
    }

    fn secret(
        &self,
        key: &str,
        place: &Range<usize>,
        origin: &Origin,
        problems: &mut Problems,
    ) -> Option<String> {
        if self.purpose == Purpose::Route {
            return None;
        }
        let secret = match origin {
            Origin::Env(name) => self.variable(name),
            Origin::File(path) => {
                let path = problems.folder(place).join(path);
                if CERTIFICATES
                    .iter()
                    .any(|certificates| key.ends_with(certificates))
                {
                    self.file("file", &path, CERTIFICATES_MAX).map(|file| file.text)
                } else {
                    self.file("secret file", &path, SECRET_MAX).map(|file| {
                        warn_if_open(&path, file.mode, key, place, problems);
                        file.text
                    })
                }
            }
            Origin::Credential(name) => self.credential(name),
        };
        match secret {
            Ok(secret) => return Some(secret),
            Err(Absent::Unavailable(why)) if self.purpose == Purpose::Check => {
                problems.warning(place, key, why)
            }
            Err(
                Absent::Missing(why)
                | Absent::NoSuchFile(why)
                | Absent::Denied(why)
                | Absent::Unavailable(why),
            ) => {
                problems.error(place, key, why);
            }
        }
        None
    }

    fn variable(&self, name: &str) -> Result<String, Absent> {
        let value = self.outside.variable(name).map(str::to_owned);
        value
            .ok_or_else(|| Absent::Missing(format!("the environment variable `{name}` is not set, or empty")))
    }

    fn credential(&self, name: &str) -> Result<String, Absent> {
        if name.is_empty() || name.contains('/') || name.starts_with('.') || name == UNIT_FOLDER {
            return Err(Absent::Missing(format!(
                "`{name}` is not the name of a credential: it is a file name, no path, and not `{UNIT_FOLDER}`"
            )));
        }
        let Some(folder) = self.outside.folder("CREDENTIALS_DIRECTORY") else {
            return self.kept_credential(name);
        };
        // A `LoadCredential=` line of the unit for this name takes precedence over the folder.
        for name in [name, &format!("{UNIT_FOLDER}_{name}")] {
            match self.file("credential file", &folder.join(name), SECRET_MAX) {
                Err(Absent::NoSuchFile(_)) => {}
                found => return found.map(|file| file.text),
            }
        }
        Err(Absent::Missing(format!(
            "credential `{name}` does not exist in {}: put it into /etc/smsbridge/credentials/{name}, or give the \
             unit LoadCredential={name}:…, and restart it",
            folder.display()
        )))
    }

    /// Reads the credential from the file that the service manager passes it from.
    fn kept_credential(&self, name: &str) -> Result<String, Absent> {
        let files = self.outside.credentials();
        let path = files.and_then(|files| files.path(name)).ok_or_else(|| {
            Absent::Unavailable(format!(
                "the credential `{name}` was not checked: only systemd can read it. To check a file in its place, set \
                 $CREDENTIALS_DIRECTORY to that file's folder"
            ))
        })?;
        self.file("credential file", &path, SECRET_MAX)
            .map(|file| file.text)
            .map_err(|absent| match absent {
                Absent::NoSuchFile(_) => Absent::Missing(format!(
                    "credential `{name}` does not exist: write the secret into the file {} (mode 600), and restart the \
                     service",
                    path.display()
                )),
                Absent::Denied(_) => Absent::Unavailable(format!(
                    "the credential `{name}` was not checked: only root can read {}. Run the command with sudo",
                    path.display()
                )),
                other => other,
            })
    }

    fn file(&self, what: &str, path: &Path, max: u64) -> Result<File, Absent> {
        let shown = path.display();
        let content = self.outside.reading().file(what, path, max).map_err(|error| {
            let why = format!("the {what} {shown} {error}");
            if error.is_missing() {
                Absent::NoSuchFile(why)
            } else if error.is_denied() {
                Absent::Denied(why)
            } else {
                Absent::Missing(why)
            }
        })?;
        let text = String::from_utf8(content.bytes)
            .map_err(|_| Absent::Missing(format!("the {what} {shown} is not UTF-8")))?;
        let text = text
            .strip_suffix('\n')
            .map_or(text.as_str(), |line| line.strip_suffix('\r').unwrap_or(line));
        if text.is_empty() {
            return Err(Absent::Missing(format!("the {what} {shown} is empty")));
        }
        Ok(File {
            text: text.to_owned(),
            mode: content.mode,
        })
    }
}

/// The content of a file without the line end that editors add.
struct File {
    text: String,
    mode: u32,
}

/// A table that is not a reference, although its only key has the name of an origin.
fn is_real_table(key: &str) -> bool {
    key.ends_with(".headers")
}

fn origin(value: &DeValue<'_>) -> Option<Origin> {
    let table = value.as_table().filter(|table| table.len() == 1)?;
    [
        ("env", Origin::Env as fn(String) -> Origin),
        ("file", Origin::File),
        ("credential", Origin::Credential),
    ]
    .into_iter()
    .find_map(|(key, origin)| string(table, key).map(origin))
}

fn string(table: &DeTable<'_>, key: &str) -> Option<String> {
    table.get(key)?.get_ref().as_str().map(str::to_owned)
}

/// Warns if other users can read a secret file. Credential files are protected by the service manager.
fn warn_if_open(path: &Path, mode: u32, key: &str, place: &Range<usize>, problems: &mut Problems) {
    if mode & 0o077 != 0 {
        let shown = path.display();
        problems.warning(
            place,
            key,
            format!("the secret file {shown} is accessible to others (mode {mode:o}): chmod 600 {shown}"),
        );
    }
}
