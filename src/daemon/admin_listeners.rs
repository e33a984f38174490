//! The admin listeners: the unix socket, and TCP if it is configured.

use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config;
use crate::model::secret::Secrets;
use crate::web::serve::{Filter, Limits, serve};

/// Maximum number of simultaneous admin connections: a few pages with their event streams, and scripts.
const CONNECTIONS: usize = 256;

/// Time limit for the head of an operator's request, and for an idle connection.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a process that listens on the socket may take to accept a connection.
const ANSWER: Duration = Duration::from_secs(1);

/// A bound listener and its authentication.
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

/// Binds the unix socket, and `admin.listen` if it is configured. A socket passed by systemd replaces either.
pub(super) async fn bind(
    admin: &config::Admin,
    passed_unix: Option<std::os::unix::net::UnixListener>,
    passed: Vec<std::net::TcpListener>,
) -> anyhow::Result<(Vec<Door>, Option<SocketFile>)> {
    let (unix, file) = match passed_unix {
        Some(unix) => (adopt_unix(admin, unix)?, None),
        None => bind_unix(admin).await.map(|(unix, file)| (unix, Some(file)))?,
    };
    let mut doors = vec![Door {
        listener: Listener::Unix(unix),
        token: None,
    }];
    let listeners = match admin.listen {
        Some(address) if passed.is_empty() => vec![super::bind("admin.listen", address).await?],
        _ => super::adopt(passed)?,
    };
    for listener in listeners {
        let address = listener.local_addr().context("the admin socket has no address")?;
        anyhow::ensure!(
            admin.token.is_some(),
            "a socket with FileDescriptorName=admin was passed ({address}), but `admin.token` is not set"
        );
        tracing::info!("admin page on http://{address}/");
        doors.push(Door {
            listener: Listener::Tcp(listener),
            token: admin.token.clone(),
        });
    }
    Ok((doors, file))
}

/// Uses the passed socket if it is at the path where the commands look for it.
fn adopt_unix(admin: &config::Admin, unix: std::os::unix::net::UnixListener) -> anyhow::Result<UnixListener> {
    let address = unix.local_addr().context("the admin socket has no address")?;
    let (expected, found) = (&admin.socket, address.as_pathname());
    anyhow::ensure!(
        found.is_some_and(|found| found == expected),
        "the passed unix socket is {}, but the commands look for {} (admin.socket): make them the same",
        found.map_or("abstract".into(), |found| found.display().to_string()),
        expected.display()
    );
    UnixListener::from_std(unix).context("the passed admin socket cannot be used")
}

/// The file of the bound unix socket. Dropping it removes the file, unless something else is there by then.
pub(super) struct SocketFile {
    path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
}

impl SocketFile {
    fn of(path: &Path) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            identity: identity(path)?,
        })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let path = self.path.display();
        match identity(&self.path) {
            Ok(found) if found != self.identity => {
                tracing::warn!("{path} (admin.socket) was replaced by another process; not removing it");
                return;
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => return tracing::debug!("the admin socket {path} could not be removed: {error}"),
        }
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!("the admin socket {path} could not be removed: {error}");
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let file = std::fs::symlink_metadata(path)?;
    Ok((file.dev(), file.ino()))
}

async fn bind_unix(admin: &config::Admin) -> anyhow::Result<(UnixListener, SocketFile)> {
    let path = &admin.socket;
    let failed = || format!("cannot make the admin socket {} (admin.socket)", path.display());
    make_room(path).await.with_context(failed)?;
    let listener = UnixListener::bind(path).with_context(failed)?;
    let file = SocketFile::of(path).with_context(failed)?;
    let mode = if admin.socket_group.is_some() {
        0o660
    } else {
        0o600
    };
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).with_context(failed)?;
    if let Some(group) = &admin.socket_group {
        give_to(path, group).with_context(failed)?;
    }
    Ok((listener, file))
}

/// Removes the socket of a process that ended without removing it. Refuses anything else: a file that is not
/// a socket, and a socket that another process listens on, for example a daemon with another store.
async fn make_room(path: &Path) -> anyhow::Result<()> {
    let there = match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        there => there?,
    };
    anyhow::ensure!(
        there.file_type().is_socket(),
        "a file is there that is not a socket: move it away, or set another path"
    );
    match tokio::time::timeout(ANSWER, UnixStream::connect(path)).await {
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(std::fs::remove_file(path)?),
        Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Ok(Err(error)) if error.kind() != io::ErrorKind::WouldBlock => {
            Err(error).context("it cannot be tried")
        }
        _ => anyhow::bail!("it is in use by another process: stop that, or set another path"),
    }
}

/// Gives the socket to a group. The sandbox of the unit forbids chown, but there the group is right from the
/// start.
fn give_to(path: &Path, group: &str) -> anyhow::Result<()> {
    let groups = std::fs::read_to_string("/etc/group").context("/etc/group cannot be read")?;
    let id = groups
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| *name == group)
        .and_then(|(_, rest)| rest.split(':').nth(1)?.parse().ok())
        .with_context(|| format!("group `{group}` does not exist (admin.socket_group)"))?;
    if std::fs::metadata(path).is_ok_and(|socket| socket.gid() == id) {
        return Ok(());
    }
    std::os::unix::fs::chown(path, None, Some(id))
        .with_context(|| format!("cannot give it to group `{group}`"))
}
