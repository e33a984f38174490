//! Sockets passed by the service manager (systemd's socket units). Those named `admin` are for operators, all
//! others for carriers. A socket that cannot be served is an error, because connections to it would never be
//! answered.

use std::net::TcpListener;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;

use anyhow::{Context as _, ensure};
use listenfd::ListenFd;

/// `FileDescriptorName=` of a socket for operators.
const ADMIN: &str = "admin";

/// The passed sockets.
#[derive(Default)]
pub struct Sockets {
    /// In place of `server.listen`.
    pub public: Vec<TcpListener>,
    /// In place of `admin.listen`.
    pub admin: Vec<TcpListener>,
    /// In place of `admin.socket`.
    pub admin_unix: Option<UnixListener>,
}

impl Sockets {
    /// Takes the sockets passed to this process, if any.
    ///
    /// # Errors
    /// The socket that cannot be served, and why.
    pub fn passed() -> anyhow::Result<Self> {
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut names = names.split(':');
        let mut passed = ListenFd::from_env();
        let mut sockets = Self::default();
        for index in 0..passed.len() {
            let name = names.next().unwrap_or_default();
            sockets.take(&mut passed, index, name).with_context(|| {
                let (number, all) = (index + 1, passed.len());
                format!("socket {number} of {all} ({name}) that the service manager passed cannot be served")
            })?;
        }
        Ok(sockets)
    }

    fn take(&mut self, passed: &mut ListenFd, index: usize, name: &str) -> anyhow::Result<()> {
        if let Ok(Some(unix)) = passed.take_unix_listener(index) {
            ensure!(
                name == ADMIN,
                "only a socket with FileDescriptorName=admin may be a unix socket"
            );
            check_listens(&unix)?;
            unix.set_nonblocking(true)?;
            ensure!(
                self.admin_unix.replace(unix).is_none(),
                "there can be only one unix socket"
            );
            return Ok(());
        }
        let tcp = passed.take_tcp_listener(index).ok().flatten();
        let tcp = tcp.context("it is not a TCP socket")?;
        check_listens(&tcp)?;
        tcp.set_nonblocking(true)?;
        match name {
            ADMIN => self.admin.push(tcp),
            _ => self.public.push(tcp),
        }
        Ok(())
    }
}

fn check_listens(socket: &impl AsFd) -> anyhow::Result<()> {
    let listens = rustix::net::sockopt::socket_acceptconn(socket)?;
    ensure!(
        listens,
        "it does not listen: remove `Accept=yes` from the socket unit"
    );
    Ok(())
}
