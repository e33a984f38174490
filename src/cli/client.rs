//! The client of the daemon's admin API, over its unix socket.

use std::error::Error as _;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::{Method, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::runtime::Runtime;

use super::service::Places;
use super::{CommandError, Global};
use crate::http_client;
use crate::resolver::Resolver;
use crate::template::one_line;

/// The timeout for queries.
const READING: Duration = Duration::from_secs(60);

/// The timeout for actions: a test takes up to its destination's `timeout` and its server's `data_timeout`, each at
/// most ten minutes.
const DOING: Duration = Duration::from_secs(21 * 60);

/// The timeout for a backup of any size.
const COPY_TIMEOUT: Duration = Duration::from_secs(24 * 3600);

/// The running daemon.
pub(super) struct Daemon {
    http: reqwest::Client,
    runtime: Runtime,
    places: Places,
    socket: PathBuf,
    group: Option<String>,
}

/// A response of the daemon: JSON, as received.
pub(super) struct Answer {
    /// Its HTTP status.
    pub(super) status: StatusCode,
    body: String,
}

impl Daemon {
    /// Finds the daemon that runs with this configuration. Errors in unrelated tables are ignored, because `status`
    /// and `reload` are needed most after a bad edit.
    pub(super) fn find(global: &Global) -> Result<Self, CommandError> {
        let places = Places::find(global);
        let admin = places.recover(&["admin", "store"])?.admin;
        let http = http()
            .unix_socket(admin.socket.as_path())
            .build()
            .map_err(|error| CommandError::failed(format!("no HTTP client: {error}")))?;
        Ok(Self {
            http,
            runtime: runtime()?,
            places,
            socket: admin.socket,
            group: admin.socket_group,
        })
    }

    /// Sends a GET request to a path below `/api/v1`.
    pub(super) fn get(&self, path: &str, query: &[(&str, Option<String>)]) -> Result<Answer, CommandError> {
        let query: Vec<(&str, &String)> = query
            .iter()
            .filter_map(|(name, value)| Some((*name, value.as_ref()?)))
            .collect();
        let query = url::form_urlencoded::Serializer::new(String::new())
            .extend_pairs(query)
            .finish();
        let request = self
            .request(Method::GET, &format!("{path}?{query}"))
            .timeout(READING);
        self.answer(request)?.good()
    }

    /// Sends a POST request. An error response is an error.
    pub(super) fn post(&self, path: &str, body: &impl Serialize) -> Result<Answer, CommandError> {
        self.try_post(path, body)?.good()
    }

    /// Sends a POST request, and returns an error response like any other.
    pub(super) fn try_post(&self, path: &str, body: &impl Serialize) -> Result<Answer, CommandError> {
        self.answer(self.request(Method::POST, path).json(body).timeout(DOING))
    }

    /// Passes on a response piece by piece as it arrives, because it may not fit into memory.
    pub(super) fn copy(
        &self,
        path: &str,
        mut take: impl FnMut(&[u8]) -> Result<(), CommandError>,
    ) -> Result<(), CommandError> {
        let request = self.request(Method::GET, path).timeout(COPY_TIMEOUT);
        self.runtime.block_on(async {
            let mut response = request
                .send()
                .await
                .map_err(|error| CommandError::refused(self.unreached(&error)))?;
            if response.status() != StatusCode::OK {
                let status = response.status();
                let body = response.text().await.unwrap_or_default();
                Answer { status, body }.good()?;
                return Err(CommandError::refused(format!("the daemon answered {status}")));
            }
            loop {
                match response.chunk().await {
                    Ok(Some(piece)) => take(&piece)?,
                    Ok(None) => return Ok(()),
                    Err(error) => {
                        return Err(CommandError::failed(format!(
                            "the transfer was interrupted: {}",
                            root(&error)
                        )));
                    }
                }
            }
        })
    }

    /// Builds a request. The host name is not used on a unix socket.
    fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.http
            .request(method, format!("http://localhost/api/v1{path}"))
    }

    fn answer(&self, request: reqwest::RequestBuilder) -> Result<Answer, CommandError> {
        let answered = self.runtime.block_on(async {
            let response = request.send().await?;
            Ok::<_, reqwest::Error>(Answer {
                status: response.status(),
                body: response.text().await?,
            })
        });
        answered.map_err(|error| CommandError::refused(self.unreached(&error)))
    }

    /// Why there is no response, and the next step.
    fn unreached(&self, error: &reqwest::Error) -> String {
        let socket = self.socket.display();
        if error.is_timeout() {
            return format!("the daemon did not answer at {socket} in time: see its log");
        }
        match cause(error).map(io::Error::kind) {
            Some(io::ErrorKind::PermissionDenied) => denied(&self.socket, self.group.as_deref()),
            Some(io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
                let doubt = self.places.doubt(&self.socket);
                let why = doubt.unwrap_or_else(|| self.places.not_running());
                format!("no daemon answers at {socket}: {why}")
            }
            _ => format!("cannot connect to the daemon at {socket}: {}", root(error)),
        }
    }
}

impl Answer {
    /// The JSON as received, for scripts.
    pub(super) fn raw(&self) -> &str {
        &self.body
    }

    /// Parses the JSON.
    pub(super) fn read<T: DeserializeOwned>(&self) -> Result<T, CommandError> {
        serde_json::from_str(&self.body).map_err(|error| {
            CommandError::failed(format!(
                "cannot read the daemon's answer: {error}; is it another version?"
            ))
        })
    }

    /// Returns the response, or the error that it contains.
    pub(super) fn good(self) -> Result<Self, CommandError> {
        if self.status.is_success() {
            return Ok(self);
        }
        let words = self.error();
        Err(match self.status {
            StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY => CommandError::wrong(words),
            StatusCode::NOT_FOUND => CommandError::failed(words),
            _ => CommandError::refused(words),
        })
    }

    /// The `error` field, made safe for the terminal.
    fn error(&self) -> String {
        let body: serde_json::Value = serde_json::from_str(&self.body).unwrap_or_default();
        let words = body["error"].as_str().map(one_line);
        words.unwrap_or_else(|| format!("the daemon answered HTTP {}", self.status))
    }
}

/// The common settings of all HTTP clients of commands.
pub(super) fn http() -> reqwest::ClientBuilder {
    http_client::builder(Resolver::default())
}

/// A runtime for a command with a single request.
pub(super) fn runtime() -> Result<Runtime, CommandError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CommandError::failed(format!("no async runtime: {error}")))
}

fn denied(socket: &Path, group: Option<&str>) -> String {
    let member = group.map_or_else(
        || "set admin.socket_group in the configuration, restart, and be a member of that group".to_owned(),
        |group| format!("as a member of the group `{group}` (admin.socket_group)"),
    );
    format!(
        "no permission to use {}: run this as root or as the daemon's user, or {member}",
        socket.display()
    )
}

/// The system error that caused an error of reqwest.
fn cause(error: &reqwest::Error) -> Option<&io::Error> {
    let mut next = error.source();
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

fn root(error: &reqwest::Error) -> String {
    let mut words = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        words = error.to_string();
        next = error.source();
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Exit;

    fn answer(status: u16, body: &str) -> Answer {
        Answer {
            status: status.try_into().unwrap(),
            body: body.to_owned(),
        }
    }

    #[test]
    fn an_error_decides_the_exit_status_and_is_safe_to_print() {
        for (status, exit) in [
            (400, Exit::Wrong),
            (404, Exit::Failed),
            (409, Exit::Refused),
            (422, Exit::Wrong),
            (503, Exit::Refused),
        ] {
            let error = answer(status, r#"{"error":"no \u001b[2J"}"#)
                .good()
                .err()
                .unwrap();
            assert_eq!(error.print(), exit, "{status}");
        }
        assert_eq!(answer(400, r#"{"error":"no \u001b"}"#).error(), "no [U+001B]");
        assert!(answer(502, "<html>").error().contains("502"));
    }

    #[test]
    fn the_error_for_a_denied_socket_names_the_group() {
        let path = Path::new("/run/smsbridge/admin.sock");
        assert!(denied(path, Some("adm")).contains("member of the group `adm`"));
        assert!(denied(path, None).contains("set admin.socket_group"));
    }
}
