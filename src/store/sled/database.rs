//! Opens a sled database, and classifies why that failed.

use std::fs::File;
use std::io::{self, Read as _};
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ::sled::Db;
use tracing::warn;

use super::disk::Disk;
use super::options::at;
use super::recovery::folders::{self, sync_files, sync_folder};
use super::recovery::intact;
use super::{OpenError, Options};

/// sled's cache capacity. Its real memory use is several times that.
const CACHE_BYTES: u64 = 24 << 20;

/// How long to wait until a store of the same process that was just dropped has released its lock.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);

/// The content of sled's `conf` file. It is the same for every store, because our settings never differ, and `format`
/// changes with sled's version.
const SETTINGS: &[u8] = b"segment_size: 524288\nuse_compression: false\nversion: 0.34\n\x76\x19\x51\xc1";

/// Attempts to read a file after an I/O error.
const READS: usize = 3;

/// Why a database could not be opened.
#[derive(Debug)]
pub(super) enum Fault {
    /// The data on disk is invalid or incomplete.
    Damaged(String),
    /// The attempt failed for another reason: no space, no permission, a failing disk.
    Io(io::Error),
    /// sled reports that it is incompatible with this build.
    Unsupported(String),
}

impl Fault {
    pub(super) fn into_error(self, path: &Path) -> OpenError {
        match self {
            Self::Io(error) => at(path)(error),
            Self::Damaged(reason) | Self::Unsupported(reason) => OpenError::Unreadable {
                path: path.to_owned(),
                reason,
            },
        }
    }
}

impl From<::sled::Error> for Fault {
    fn from(error: ::sled::Error) -> Self {
        match error {
            // A file that ends too early is damage and not an I/O error.
            ::sled::Error::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Self::Damaged(error.to_string())
            }
            ::sled::Error::Io(error) => Self::Io(error),
            ::sled::Error::Unsupported(reason) => Self::Unsupported(reason),
            error => Self::Damaged(error.to_string()),
        }
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// An open database.
///
/// sled syncs its file once more when it is closed, and panics if that fails. Our own syncs put everything on disk
/// before, so that panic must neither end the process nor be taken for damage.
pub(super) struct Database(Option<Db>);

impl Database {
    /// Closes it.
    ///
    /// # Errors
    /// When the last sync failed.
    pub(super) fn close(mut self) -> io::Result<()> {
        self.end()
    }

    fn end(&mut self) -> io::Result<()> {
        let db = self.0.take();
        catch_unwind(AssertUnwindSafe(|| drop(db)))
            .map_err(|_| io::Error::other("the last sync of the database failed"))
    }
}

impl From<Db> for Database {
    fn from(db: Db) -> Self {
        Self(Some(db))
    }
}

impl Deref for Database {
    type Target = Db;

    #[expect(clippy::expect_used, reason = "only its end takes it")]
    fn deref(&self) -> &Db {
        self.0.as_ref().expect("the database is open")
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            warn!("{error}; everything acknowledged had been synced before");
        }
    }
}

/// Opens the database in this folder, or creates one.
pub(super) fn open(options: &Options, database: &Path) -> Result<(Database, Disk), Fault> {
    let config = ::sled::Config::new()
        .path(database)
        .cache_capacity(CACHE_BYTES)
        .flush_every_ms(None);
    let db = Database::from(patiently(|| config.clone().open(), is_locked)?);
    sync_files(database).and_then(|()| sync_folder(&options.path))?;
    let file = File::open(database.join("db"))?;
    let skip_sync = options.skip_sync;
    let disk = Disk {
        file,
        config,
        skip_sync,
    };
    Ok((db, disk))
}

/// Creates an empty database with this name beside that of the store.
pub(super) fn begin(options: &Options, name: &str) -> Result<(Database, Disk), OpenError> {
    let database = options.path.join(name);
    folders::remove(&database).map_err(at(&database))?;
    open(options, &database).map_err(|fault| fault.into_error(&database))
}

/// Reports whether sled could not open a database because another handle holds its lock.
pub(super) fn is_locked(error: &::sled::Error) -> bool {
    matches!(error, ::sled::Error::Io(io) if io.kind() == io::ErrorKind::Other)
}

/// Repairs what a crash or a bad disk has left, so that the database can be opened. Returns descriptions of the
/// damage, and whether the file looks as sled left it.
///
/// If sled cannot read a part of its log while opening, even because of a temporary I/O error, it truncates the log
/// there. So everything is read once before. A part that cannot be read after several attempts is damaged.
pub(super) fn prepare(database: &Path) -> Result<(Option<String>, bool), Fault> {
    remove_unfinished_snapshots(database)?;
    let finding = renew_settings(database)?;
    let mut is_intact = true;
    for path in files(database)? {
        let is_log = path.file_name().is_some_and(|name| name == "db");
        let read = || {
            if is_log {
                intact::looks_intact(&path)
            } else {
                read_through(&path)
            }
        };
        let mut outcome = read();
        for _ in 1..READS {
            if outcome.is_err() {
                std::thread::sleep(Duration::from_millis(50));
                outcome = read();
            }
        }
        is_intact &=
            outcome.map_err(|error| Fault::Damaged(format!("{} cannot be read: {error}", path.display())))?;
    }
    Ok((finding, is_intact))
}

/// Retries for a moment while a store of this process that was just dropped still holds the lock.
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

/// An incomplete snapshot would keep sled from opening the database.
fn remove_unfinished_snapshots(database: &Path) -> io::Result<()> {
    for path in files(database)? {
        let is_snapshot = path
            .file_name()
            .is_some_and(|name| name.as_encoded_bytes().starts_with(b"snap."));
        if is_snapshot
            && path
                .extension()
                .is_some_and(|extension| extension == "generating")
        {
            std::fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// Damaged settings would keep sled from opening a valid log. Without the file it writes the settings again. A crash
/// during the first start leaves an incomplete file or zeros, which is not reported as damage.
fn renew_settings(database: &Path) -> io::Result<Option<String>> {
    let path = database.join("conf");
    match std::fs::read(&path) {
        Ok(bytes) if bytes != SETTINGS => {
            std::fs::remove_file(&path)?;
            let is_begun = SETTINGS.starts_with(&bytes) || bytes.iter().all(|byte| *byte == 0);
            let finding = format!("{} was damaged and is rewritten; nothing is lost", path.display());
            Ok((!is_begun).then_some(finding))
        }
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(None),
    }
}

/// The regular files of a folder; none if it does not exist.
fn files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            files.push(entry.path());
        }
    }
    Ok(files)
}

/// Reads a file to its end.
fn read_through(path: &Path) -> io::Result<bool> {
    let mut file = File::open(path)?;
    let mut chunk = vec![0; 256 << 10];
    while file.read(&mut chunk)? > 0 {}
    Ok(true)
}
