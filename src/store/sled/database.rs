//! One sled database: how it is opened, and why that may fail.

use std::fs::File;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use ::sled::Db;

use super::audit::Stop;
use super::folders::{self, sync_files, sync_folder};
use super::mark::Mark;
use super::writer::Disk;
use super::{OpenError, Options, at};

/// How much sled may keep in memory. Its real use is several times that.
const CACHE_BYTES: u64 = 24 << 20;

/// How long another store of this very process, just dropped, may take to let go.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);

/// Why a database is not opened.
#[derive(Debug)]
pub(super) enum Fault {
    /// What is on disk makes no sense.
    Damaged(String),
    /// It opens, but not everything in it can be read.
    Unreadable(String),
    /// It could not even be tried: no space, no permission, a disk that fails.
    Io(io::Error),
    /// sled says it is not for this build.
    Unsupported(String),
}

impl Fault {
    pub(super) fn into_error(self, path: &Path) -> OpenError {
        match self {
            Self::Io(error) => at(path)(error),
            Self::Damaged(reason) | Self::Unreadable(reason) | Self::Unsupported(reason) => {
                OpenError::Unreadable {
                    path: path.to_owned(),
                    reason,
                }
            }
        }
    }
}

impl From<::sled::Error> for Fault {
    fn from(error: ::sled::Error) -> Self {
        match error {
            ::sled::Error::Io(error) => Self::Io(error),
            ::sled::Error::Unsupported(reason) => Self::Unsupported(reason),
            error => Self::Damaged(error.to_string()),
        }
    }
}

impl From<Stop> for Fault {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Sled(error) => match error.into() {
                Self::Damaged(reason) => Self::Unreadable(reason),
                fault => fault,
            },
            Stop::Disk(reason) => Self::Io(io::Error::other(reason)),
        }
    }
}

/// Opens the database in this folder, or begins one there.
pub(super) fn open(options: &Options, database: &Path) -> Result<(Db, Disk), Fault> {
    let config = ::sled::Config::new()
        .path(database)
        .cache_capacity(CACHE_BYTES)
        .flush_every_ms(None);
    let db = patiently(|| config.clone().open(), is_locked)?;
    sync_files(database)
        .and_then(|()| sync_folder(&options.path))
        .map_err(Fault::Io)?;
    let file = File::open(database.join("db")).map_err(Fault::Io)?;
    let mark = Mark::open(&options.path).map_err(Fault::Io)?;
    let disk = Disk {
        database: file,
        config,
        mark,
        skip_sync: options.skip_sync,
    };
    Ok((db, disk))
}

/// Begins an empty database under this name beside the store's.
pub(super) fn begin(options: &Options, name: &str) -> Result<(Db, Disk), OpenError> {
    let database = options.path.join(name);
    folders::remove(&database).map_err(at(&database))?;
    open(options, &database).map_err(|fault| fault.into_error(&database))
}

/// Reports whether sled could not open a database because another handle holds its lock.
pub(super) fn is_locked(error: &::sled::Error) -> bool {
    matches!(error, ::sled::Error::Io(io) if io.kind() == io::ErrorKind::Other)
}

/// Tries again for a moment while a store of this process that was just dropped still holds on.
pub(super) fn patiently<T, E>(
    mut attempt: impl FnMut() -> Result<T, E>,
    again: impl Fn(&E) -> bool,
) -> Result<T, E> {
    let began = Instant::now();
    loop {
        match attempt() {
            Err(error) if again(&error) && began.elapsed() < LOCK_PATIENCE => {
                std::thread::sleep(Duration::from_millis(20));
            }
            result => return result,
        }
    }
}
