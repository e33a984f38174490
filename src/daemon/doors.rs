//! The operators' doors: the unix socket, and the TCP listener if there is one.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::{TcpListener, UnixListener};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config;
use crate::secret::Secrets;
use crate::web::serve::{Filter, Limits, serve};

/// Operators' connections at once: a few pages with their event streams, and scripts.
const CONNECTIONS: usize = 64;

/// For the head of an operator's request, and for an idle connection.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

/// A bound listener, and what lets people in.
pub(super) struct Door {
    listener: Listener,
    pub(super) token: Option<Secrets>,
}

enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

impl Door {
    /// Serves until `stop`.
    pub(super) fn open(self, filter: Filter, tasks: &TaskTracker, stop: &CancellationToken) {
        let limits = Limits {
            connections: CONNECTIONS,
            header_timeout: HEADER_TIMEOUT,
            request_timeout: None,
        };
        match self.listener {
            Listener::Unix(listener) => tasks.spawn(serve(listener, filter, limits, stop.clone())),
            Listener::Tcp(listener) => tasks.spawn(serve(listener, filter, limits, stop.clone())),
        };
    }
}

/// Binds the unix socket, and `admin.listen` if it is configured.
pub(super) async fn bind(admin: &config::Admin) -> anyhow::Result<Vec<Door>> {
    let mut doors = vec![Door {
        listener: Listener::Unix(bind_unix(admin)?),
        token: None,
    }];
    if let Some(address) = admin.listen {
        let listener = super::bind("admin.listen", address).await?;
        let address = listener.local_addr().context("the admin socket has no address")?;
        tracing::info!("operators are served on http://{address}/");
        doors.push(Door {
            listener: Listener::Tcp(listener),
            token: admin.token.clone(),
        });
    }
    Ok(doors)
}

/// Leaves no socket behind that nobody answers.
pub(super) fn remove(socket: &Path) {
    if let Err(error) = std::fs::remove_file(socket) {
        tracing::debug!("the admin socket could not be removed: {error}");
    }
}

/// A socket file that a killed daemon left behind is replaced; the store's lock has shown that no other
/// daemon of this store runs.
fn bind_unix(admin: &config::Admin) -> anyhow::Result<UnixListener> {
    let path = &admin.socket;
    let failed = || format!("cannot make the admin socket {} (admin.socket)", path.display());
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error).with_context(failed),
        _ => {}
    }
    let listener = UnixListener::bind(path).with_context(failed)?;
    let mode = if admin.socket_group.is_some() {
        0o660
    } else {
        0o600
    };
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).with_context(failed)?;
    if let Some(group) = &admin.socket_group {
        give_to(path, group).with_context(failed)?;
    }
    Ok(listener)
}

/// Lets a group use the socket. The unit's sandbox forbids any chown, but there the group is right from the start.
fn give_to(path: &Path, group: &str) -> anyhow::Result<()> {
    let groups = std::fs::read_to_string("/etc/group").context("/etc/group cannot be read")?;
    let id = groups
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| *name == group)
        .and_then(|(_, rest)| rest.split(':').nth(1)?.parse().ok())
        .with_context(|| format!("there is no group `{group}` (admin.socket_group)"))?;
    if std::fs::metadata(path).is_ok_and(|socket| socket.gid() == id) {
        return Ok(());
    }
    std::os::unix::fs::chown(path, None, Some(id))
        .with_context(|| format!("cannot give it to group `{group}`"))
}
