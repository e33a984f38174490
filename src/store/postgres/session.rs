//! One connection: opens it, and checks and sets what durability depends on.

use std::time::Duration;

use deserr::Deserr;
use tokio::sync::mpsc;
use tokio_postgres::{AsyncMessage, Client, Notification};
use tokio_util::task::AbortOnDropHandle;

use super::address::{Address, shown};
use crate::model::setting::Errors;
use crate::store::Error;

/// Notifications that wait to be read. Further ones are dropped, because they are only hints.
const NOTIFICATIONS: usize = 256;

/// The oldest supported version of PostgreSQL.
const OLDEST_SERVER: i32 = 13_00_00;

/// PostgreSQL's setting of this name: what a commit waits for. `off` is not among them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserr)]
#[deserr(error = Errors, rename_all = lowercase)]
pub enum SynchronousCommit {
    /// The disk of the server, and those of its synchronous standbys.
    #[default]
    On,
    /// Also until synchronous standbys show the commit.
    #[deserr(rename = "remote_apply")]
    RemoteApply,
    /// The disk of the server, and the memory of its synchronous standbys.
    #[deserr(rename = "remote_write")]
    RemoteWrite,
    /// The disk of the server only.
    Local,
}

impl SynchronousCommit {
    /// The value of the setting.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::On => "on",
            Self::RemoteApply => "remote_apply",
            Self::RemoteWrite => "remote_write",
            Self::Local => "local",
        }
    }
}

/// Why there is no connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// No server accepts writes at the moment. It may do so later.
    #[error("{0}")]
    Unavailable(String),
    /// A server refused the connection, or must not be used, until someone changes its settings or the configuration.
    #[error("{0}")]
    Refused(String),
}

impl From<ConnectError> for Error {
    fn from(error: ConnectError) -> Self {
        Self::Unavailable(error.to_string())
    }
}

/// An open connection with the task that reads from it.
pub(super) struct Session {
    pub(super) client: Client,
    _reader: AbortOnDropHandle<()>,
}

/// Opens a connection to the first host that accepts writes, beginning with number `first`. Returns the number of the
/// host.
pub(super) async fn connect(
    address: &Address,
    first: usize,
    node: &str,
    commit: SynchronousCommit,
) -> Result<(Session, mpsc::Receiver<Notification>, usize), ConnectError> {
    let mut troubles = Vec::new();
    let mut is_refused = true;
    let count = address.hosts.len();
    for index in (0..count).map(|index| (first + index) % count) {
        let config = &address.hosts[index];
        let opening = open(address, config, node, commit);
        // Includes TLS and authentication; the driver's own timeout ends with the TCP connection.
        let opened = tokio::time::timeout(address.connect_timeout, opening).await;
        let error = match opened {
            Ok(Ok((session, notifications))) => return Ok((session, notifications, index)),
            Ok(Err(error)) => error,
            Err(_) => ConnectError::Unavailable(format!(
                "no answer within {} s",
                address.connect_timeout.as_secs()
            )),
        };
        is_refused &= matches!(error, ConnectError::Refused(_));
        troubles.push(format!("{}: {error}", shown(config)));
    }
    let all = troubles.join("; ");
    Err(match is_refused {
        true => ConnectError::Refused(all),
        false => ConnectError::Unavailable(all),
    })
}

async fn open(
    address: &Address,
    config: &tokio_postgres::Config,
    node: &str,
    commit: SynchronousCommit,
) -> Result<(Session, mpsc::Receiver<Notification>), ConnectError> {
    let mut config = config.clone();
    if config.get_application_name().is_none() {
        config.application_name(format!("smsbridge {node}"));
    }
    let (client, mut connection) = config
        .connect(&*address.connector)
        .await
        .map_err(|error| classify(&error))?;
    let (sender, notifications) = mpsc::channel(NOTIFICATIONS);
    let reader = tokio::spawn(async move {
        while let Some(Ok(message)) = std::future::poll_fn(|context| connection.poll_message(context)).await {
            if let AsyncMessage::Notification(notification) = message {
                // A full channel loses a hint only.
                let _ = sender.try_send(notification);
            }
        }
    });
    let session = Session {
        client,
        _reader: AbortOnDropHandle::new(reader),
    };
    prepare(&session.client, commit).await?;
    Ok((session, notifications))
}

/// Refuses a server that could lose what it committed, and sets what a session needs.
async fn prepare(client: &Client, commit: SynchronousCommit) -> Result<(), ConnectError> {
    let settings = format!(
        "SET synchronous_commit = {}; SET statement_timeout = '10s'; SET lock_timeout = '8s'; \
         SET idle_in_transaction_session_timeout = '5s'; SET enable_seqscan = off; SET jit = off; \
         SET client_min_messages = warning; SET default_transaction_isolation = 'read committed'; \
         SET timezone = 'UTC'",
        commit.as_str()
    );
    client
        .batch_execute(&settings)
        .await
        .map_err(|error| classify(&error))?;
    let row = client
        .query_one(
            "SELECT coalesce(current_setting('fsync', true), 'on'), \
             coalesce(current_setting('full_page_writes', true), 'on'), current_setting('server_encoding'), \
             current_setting('server_version_num')::int",
            &[],
        )
        .await
        .map_err(|error| classify(&error))?;
    let read = |error: tokio_postgres::Error| ConnectError::Refused(error.to_string());
    let setting = |index: usize| row.try_get::<_, String>(index).map_err(read);
    for (index, name) in [(0, "fsync"), (1, "full_page_writes")] {
        if setting(index)? != "on" {
            return Err(ConnectError::Refused(format!(
                "the server has `{name} = off`, so it can lose committed messages; set it to on"
            )));
        }
    }
    let encoding = setting(2)?;
    if encoding != "UTF8" {
        return Err(ConnectError::Refused(format!(
            "the database has the encoding {encoding}; create one with ENCODING 'UTF8'"
        )));
    }
    let version: i32 = row.try_get(3).map_err(read)?;
    if version < OLDEST_SERVER {
        return Err(ConnectError::Refused(format!(
            "the server is PostgreSQL {}; {} or later is needed",
            version / 10_000,
            OLDEST_SERVER / 10_000
        )));
    }
    Ok(())
}

/// Classes of errors that stay until someone acts: authentication, an unknown database, a missing privilege, a protocol
/// or feature that the server lacks.
const REFUSED: [&str; 5] = ["28", "3D", "42", "0A", "22"];

fn classify(error: &tokio_postgres::Error) -> ConnectError {
    let words = described(error);
    let is_untrusted = std::iter::successors(std::error::Error::source(error), |error| error.source())
        .any(is_certificate_error);
    match error.code() {
        Some(code) if REFUSED.iter().any(|class| code.code().starts_with(class)) => {
            ConnectError::Refused(words)
        }
        None if is_untrusted => ConnectError::Refused(format!(
            "{words}: check the host name in `store.url` and `store.ca_file`"
        )),
        _ => ConnectError::Unavailable(words),
    }
}

fn is_certificate_error(cause: &(dyn std::error::Error + 'static)) -> bool {
    let inner = cause
        .downcast_ref::<std::io::Error>()
        .and_then(std::io::Error::get_ref)
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(
        inner.or_else(|| cause.downcast_ref()),
        Some(rustls::Error::InvalidCertificate(_))
    )
}

/// The error in one line, with its causes. Messages of the server about a connection or a statement contain no values of
/// parameters; the details do, and are left out.
pub(super) fn described(error: &tokio_postgres::Error) -> String {
    if let Some(error) = error.as_db_error() {
        return format!("{} ({})", error.message(), error.code().code());
    }
    let mut words = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        words = format!("{words}: {inner}");
        cause = inner.source();
    }
    words
}

/// Upper bound of the wait for a connection.
pub(super) const WAIT: Duration = Duration::from_secs(10);
