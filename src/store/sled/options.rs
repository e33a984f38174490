//! The options for opening the store, and why it could not be opened.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use prometheus_client::metrics::histogram::Histogram;

use super::disk_space;

/// Options for opening a store.
#[derive(Clone, Debug)]
pub struct Options {
    /// The store's folder; created if it does not exist.
    pub path: PathBuf,
    /// New messages are rejected if less than this is free on the file system.
    pub min_free: u64,
    /// The time after which a caller that waits for a commit gets [`Error::Slow`](crate::store::Error::Slow).
    pub commit_deadline: Duration,
    /// The duration of a commit after which the process aborts, to be restarted.
    pub abort_after: Duration,
    /// Measures the duration of commits.
    pub commits: Option<Histogram>,
    /// Omits the sync that makes a commit durable. Only for tests that write much and do not test durability.
    #[doc(hidden)]
    pub skip_sync: bool,
}

impl Options {
    /// The default deadlines: ten seconds for a caller, thirty for the process.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>, min_free: u64) -> Self {
        Self {
            path: path.into(),
            min_free,
            commit_deadline: Duration::from_secs(10),
            abort_after: Duration::from_secs(30),
            commits: None,
            skip_sync: false,
        }
    }
}

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Two processes with the same store would destroy it.
    #[error("the store {} is in use by another process", path.display())]
    InUse {
        /// The store's folder.
        path: PathBuf,
    },
    /// A newer version of the program has written to it.
    #[error("the store {} has format {found}, this version reads up to {known}: use the newer version", path.display())]
    Newer {
        /// The store's folder.
        path: PathBuf,
        /// The format of the store.
        found: u32,
        /// The newest format that this build supports.
        known: u32,
    },
    /// The file system returned an error.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The error.
        source: io::Error,
    },
    /// Not even an empty store could be opened.
    #[error("the store {} cannot be read: {reason}", path.display())]
    Unreadable {
        /// The folder of the database.
        path: PathBuf,
        /// The error.
        reason: String,
    },
}

pub(super) fn at(path: &Path) -> impl Fn(io::Error) -> OpenError {
    let path = path.to_owned();
    move |source| {
        // The folder may not exist yet.
        let mut folders = path.ancestors();
        let no_inodes = source.kind() == io::ErrorKind::StorageFull
            && folders
                .find_map(|folder| disk_space::no_inodes(folder).ok())
                .unwrap_or(false);
        OpenError::Io {
            path: path.clone(),
            source: if no_inodes {
                io::Error::other("no free inodes on its file system: delete files there")
            } else {
                source
            },
        }
    }
}
