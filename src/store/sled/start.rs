//! Opening a store: whatever was left behind, by a crash, a power cut or a bad disk, the process starts, says
//! what it found, and never builds on what it cannot trust.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use ::sled::Db;
use tracing::warn;

use super::audit::{self, Audited, Stop};
use super::mark::Mark;
use super::record::{self, Ledger};
use super::spare::{self, Spare, remove_folder};
use super::writer::Disk;
use super::{OpenError, Options};
use super::{keys, salvage};

/// What `format` says in a store that this build can read.
const FORMAT: u32 = 2;

/// sled's part of the store's folder.
const DATABASE: &str = "sled";

/// A new database while what can be read of a damaged one is copied into it, and once all of it is there.
const SALVAGING: &str = "sled.salvaging";
const SALVAGED: &str = "sled.salvaged";

/// A new database while a log that is mostly empty is copied, and the old one once it is done with.
const COMPACTING: &str = "sled.compacting";
const FORMER: &str = "sled.former";

/// A new database while a backup is read into it.
const RESTORING: &str = "sled.restoring";

/// How much sled may keep in memory. Its real use is several times that.
const CACHE_BYTES: u64 = 24 << 20;

/// How long another store of this very process, just dropped, may take to let go.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);

/// An open and audited store.
pub(super) struct Opened {
    pub(super) db: Db,
    pub(super) disk: Disk,
    pub(super) audited: Audited,
}

impl Opened {
    /// Whether the audit found the store to be other than it was left.
    fn is_mended(&self) -> bool {
        self.audited.commits_lost > 0 || !self.audited.findings.is_empty()
    }
}

/// Where sled keeps its log.
pub(super) fn database(folder: &Path) -> PathBuf {
    folder.join(DATABASE).join("db")
}

/// Makes the store's folder, for its owner's eyes only.
pub(super) fn create_folder(folder: &Path) -> Result<(), OpenError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(at(folder))
}

/// Takes the store for this process alone, until the file is closed.
pub(super) fn take_lock(folder: &Path) -> Result<File, OpenError> {
    let path = folder.join("lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(at(&path))?;
    match patiently(
        || file.try_lock(),
        |error| matches!(error, TryLockError::WouldBlock),
    ) {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse {
            path: folder.to_owned(),
        }),
        Err(TryLockError::Error(error)) => Err(at(&path)(error)),
    }
}

/// Refuses a store that a newer version has written.
pub(super) fn check_format(folder: &Path) -> Result<(), OpenError> {
    let path = folder.join("format");
    match std::fs::read(&path) {
        Ok(bytes) => match String::from_utf8_lossy(&bytes)
            .trim()
            .strip_prefix("smsbridge store ")
            .and_then(|number| number.parse().ok())
        {
            Some(found) if found > FORMAT => Err(OpenError::Newer {
                path: folder.to_owned(),
                found,
                known: FORMAT,
            }),
            // A crash while it was written the first time leaves nothing or half of it.
            _ => Ok(()),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(at(&path)(error)),
    }
}

/// Opens and audits. What is damaged is put aside by name: a database with pages that cannot be read once what
/// can be read is saved from it; snapshots that cannot be read, since the log tells the same; at last
/// everything.
pub(super) fn open(options: &Options) -> Result<Opened, OpenError> {
    let folder = &options.path;
    let database = folder.join(DATABASE);
    let mut findings = Vec::new();
    finish_salvage(folder, &database).map_err(at(folder))?;
    drop_compaction(folder);
    remove_unfinished_snapshots(&database).map_err(at(&database))?;
    let mut spare = Spare::take(folder, &database).map_err(at(&database))?;
    let mut opened = attempt(options, &database);
    if let (true, Some(spare)) = (is_doubtful(&opened), &spare) {
        warn!("the store does not look as it should, opening it once more as it was");
        drop(opened);
        spare.put_back().map_err(at(&database))?;
        opened = attempt(options, &database);
    }
    if is_doubtful(&opened) {
        spare::probe_disk(folder).map_err(at(folder))?;
    }
    let mut on_damaged_log = false;
    if let Err(Fault::Damaged(reason)) = &opened {
        warn!("the store cannot be opened, trying without its snapshots: {reason}");
        let aside = set_aside_snapshots(folder, &database).map_err(at(&database))?;
        findings.push(format!(
            "the snapshots were damaged ({reason}): set aside as {}",
            aside.display()
        ));
        opened = attempt(options, &database);
        on_damaged_log = true;
    }
    // sled goes on writing behind what it could not read, and what is written there may not be found again. So
    // nothing is built on a damaged log: what it has is copied into a new one.
    if let Ok(damaged) = &mut opened
        && (on_damaged_log || damaged.is_mended())
    {
        let found = std::mem::take(&mut damaged.audited.findings);
        opened = Err(Fault::Unreadable("its log is damaged".to_owned()));
        findings.extend(found);
    }
    if let Err(Fault::Unreadable(reason)) = &opened {
        warn!("the store is damaged, saving what can be read: {reason}");
        match save(options, &database) {
            Ok((finding, aside)) => {
                findings.push(finding);
                if let Some(spare) = spare.take() {
                    spare.keep_instead_of(&aside).map_err(at(&aside))?;
                }
            }
            Err(fault) => warn!("nothing could be saved: {fault:?}"),
        }
        opened = attempt(options, &database);
    }
    if let Err(Fault::Damaged(reason) | Fault::Unreadable(reason)) = &opened {
        let aside = free_name(folder, "damaged-store");
        match spare.take() {
            Some(spare) => spare
                .keep(&aside)
                .and_then(|()| remove_folder(&database))
                .map_err(at(&database))?,
            None => std::fs::rename(&database, &aside).map_err(at(&database))?,
        }
        sync_folder(folder).map_err(at(folder))?;
        findings = vec![format!(
            "the store was damaged beyond reading ({reason}): set aside as {}, an empty one was begun",
            aside.display()
        )];
        opened = attempt(options, &database);
    }
    let mut opened = opened.map_err(|fault| fault.into_error(&database))?;
    match spare {
        Some(spare) if opened.audited.commits_lost > 0 => {
            let name = free_name(folder, "damaged-store");
            spare.keep(&name).map_err(at(&name))?;
            findings.push(format!(
                "the store as it was before it was opened is kept as {}",
                name.display()
            ));
        }
        Some(spare) => spare.forget().map_err(at(folder))?,
        None => {}
    }
    write_format(folder).map_err(at(folder))?;
    findings.append(&mut opened.audited.findings);
    opened.audited.findings = findings;
    Ok(opened)
}

/// Damage, or commits that the mark knows of and the store does not.
fn is_doubtful(opened: &Result<Opened, Fault>) -> bool {
    match opened {
        Ok(opened) => opened.is_mended(),
        Err(Fault::Damaged(_) | Fault::Unreadable(_)) => true,
        Err(Fault::Io(_) | Fault::Unsupported(_)) => false,
    }
}

/// How many texts the store has accepted; a store that was never begun, none.
pub(super) fn accepted(options: &Options) -> Result<u64, OpenError> {
    let database = options.path.join(DATABASE);
    let others = [SALVAGING, SALVAGED].map(|name| options.path.join(name));
    if !database.exists() && !others.iter().any(|path| path.exists()) {
        return Ok(0);
    }
    let opened = open(options)?;
    let ledger =
        record::load::<Ledger>(&*opened.db, keys::LEDGER).map_err(|trouble| OpenError::Unreadable {
            path: database,
            reason: trouble.to_string(),
        })?;
    let accepted = ledger.unwrap_or_default().counts.accepted;
    Ok(accepted.max(opened.audited.books.ledger.counts.accepted))
}

/// An empty database beside the store's, for a backup to be read into.
pub(super) fn begin_restore(options: &Options) -> Result<(Db, Disk), OpenError> {
    let database = options.path.join(RESTORING);
    remove_folder(&database).map_err(at(&database))?;
    open_database(options, &database).map_err(|fault| fault.into_error(&database))
}

/// Puts the restored database, which is on disk, in the place of the empty one.
pub(super) fn finish_restore(options: &Options) -> Result<(), OpenError> {
    let folder = &options.path;
    let database = folder.join(DATABASE);
    remove_folder(&database).map_err(at(&database))?;
    std::fs::rename(folder.join(RESTORING), &database).map_err(at(&database))?;
    sync_folder(folder).map_err(at(folder))?;
    write_format(folder).map_err(at(folder))
}

/// An empty database beside the store's, for its entries to be copied into.
pub(super) fn begin_compaction(options: &Options) -> Result<(Db, Disk), OpenError> {
    let database = options.path.join(COMPACTING);
    remove_folder(&database).map_err(at(&database))?;
    open_database(options, &database).map_err(|fault| fault.into_error(&database))
}

/// Syncs the copy and puts it in the place of the database, which nothing is written to any more. Says how
/// large it is. A crash at any point leaves one of the two, whole, where the next start looks for it.
pub(super) fn finish_compaction(folder: &Path) -> io::Result<u64> {
    let (database, copy) = (folder.join(DATABASE), folder.join(COMPACTING));
    let (fresh, former) = (folder.join(SALVAGED), folder.join(FORMER));
    sync_files(&copy)?;
    std::fs::rename(&copy, &fresh)?;
    sync_folder(folder)?;
    remove_folder(&former)?;
    std::fs::rename(&database, &former)?;
    std::fs::rename(&fresh, &database)?;
    sync_folder(folder)?;
    remove_folder(&former)?;
    Ok(std::fs::metadata(database.join("db"))?.len())
}

/// Removes what a compaction that did not come to its end, or only just did, has left.
pub(super) fn drop_compaction(folder: &Path) {
    for name in [COMPACTING, FORMER] {
        if let Err(error) = remove_folder(&folder.join(name)) {
            warn!("{} cannot be removed: {error}", folder.join(name).display());
        }
    }
}

#[derive(Debug)]
enum Fault {
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
    fn into_error(self, path: &Path) -> OpenError {
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

/// sled meets some damage with a panic instead of an error.
fn attempt(options: &Options, database: &Path) -> Result<Opened, Fault> {
    catch_unwind(AssertUnwindSafe(|| try_open(options, database)))
        .unwrap_or_else(|_| Err(Fault::Damaged("it made the database panic".to_owned())))
}

fn try_open(options: &Options, database: &Path) -> Result<Opened, Fault> {
    let (db, disk) = open_database(options, database)?;
    let audited = audit::audit(&db, &disk)?;
    Ok(Opened { db, disk, audited })
}

fn open_database(options: &Options, database: &Path) -> Result<(Db, Disk), Fault> {
    let config = ::sled::Config::new()
        .path(database)
        .cache_capacity(CACHE_BYTES)
        .flush_every_ms(None);
    let locked =
        |error: &::sled::Error| matches!(error, ::sled::Error::Io(io) if io.kind() == io::ErrorKind::Other);
    let db = patiently(|| config.clone().open(), locked)?;
    sync_files(database)
        .and_then(|()| sync_folder(&options.path))
        .map_err(Fault::Io)?;
    let file = File::open(database.join("db")).map_err(Fault::Io)?;
    let mark = Mark::open(&options.path).map_err(Fault::Io)?;
    let disk = Disk {
        database: file,
        mark,
        skip_sync: options.skip_sync,
    };
    Ok((db, disk))
}

/// Copies what can be read into a new database, which then takes the old one's place.
fn save(options: &Options, database: &Path) -> Result<(String, PathBuf), Fault> {
    let folder = &options.path;
    let fresh = folder.join(SALVAGED);
    remove_folder(&folder.join(SALVAGING)).map_err(Fault::Io)?;
    let saved = catch_unwind(AssertUnwindSafe(|| {
        let (old, _) = open_database(options, database)?;
        let (new, disk) = open_database(options, &folder.join(SALVAGING))?;
        Ok::<_, Fault>(salvage::salvage(&old, &new, &disk)?)
    }));
    let saved =
        saved.unwrap_or_else(|_| Err(Fault::Damaged("reading made the database panic".to_owned())))?;
    let aside = free_name(folder, "damaged-store");
    let swap = || {
        std::fs::rename(folder.join(SALVAGING), &fresh)?;
        std::fs::rename(database, &aside)?;
        finish_salvage(folder, database)
    };
    swap().map_err(Fault::Io)?;
    let finding = format!(
        "the store was damaged: {saved} texts were saved from it, it is kept as {}",
        aside.display()
    );
    Ok((finding, aside))
}

/// Puts the new database of a finished salvage in its place, also after a crash in between.
fn finish_salvage(folder: &Path, database: &Path) -> io::Result<()> {
    let fresh = folder.join(SALVAGED);
    if fresh.exists() && !database.exists() {
        std::fs::rename(fresh, database)?;
        sync_folder(folder)?;
    }
    remove_folder(&folder.join(SALVAGED))
}

/// Tries again for a moment while a store of this process that was just dropped still holds on.
fn patiently<T, E>(mut attempt: impl FnMut() -> Result<T, E>, again: impl Fn(&E) -> bool) -> Result<T, E> {
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

/// A snapshot that was being written when the process ended would keep sled from opening.
fn remove_unfinished_snapshots(database: &Path) -> io::Result<()> {
    for path in snapshots(database)? {
        if path
            .extension()
            .is_some_and(|extension| extension == "generating")
        {
            std::fs::remove_file(path)?;
        }
    }
    Ok(())
}

fn set_aside_snapshots(folder: &Path, database: &Path) -> io::Result<PathBuf> {
    let aside = free_name(folder, "damaged-snapshots");
    DirBuilder::new().mode(0o700).create(&aside)?;
    for path in snapshots(database)? {
        if let Some(name) = path.file_name() {
            std::fs::rename(&path, aside.join(name))?;
        }
    }
    sync_folder(&aside)?;
    sync_folder(database)?;
    Ok(aside)
}

fn snapshots(database: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(database) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut paths = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().starts_with(b"snap.") {
            paths.push(entry.path());
        }
    }
    Ok(paths)
}

fn free_name(folder: &Path, what: &str) -> PathBuf {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    let names = (now..).map(|number| folder.join(format!("{what}-{number}")));
    names
        .into_iter()
        .find(|path| !path.exists())
        .unwrap_or_else(|| folder.join(what))
}

fn write_format(folder: &Path) -> io::Result<()> {
    use std::io::Write as _;
    let text = format!("smsbridge store {FORMAT}\n");
    let path = folder.join("format");
    if std::fs::read_to_string(&path).is_ok_and(|there| there == text) {
        return Ok(());
    }
    let mut file = File::create(&path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    sync_folder(folder)
}

/// sled syncs neither the files it makes nor the folder that names them; without that a power cut right after
/// the first acknowledged text leaves a log that no folder knows.
fn sync_files(database: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(database)? {
        let path = entry?.path();
        if path.is_file() {
            File::open(path)?.sync_all()?;
        }
    }
    File::open(database)?.sync_all()
}

/// Syncs a folder, and the one that names it.
fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()?;
    match folder.canonicalize()?.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

fn at(path: &Path) -> impl Fn(io::Error) -> OpenError {
    let path = path.to_owned();
    move |source| OpenError::Io {
        path: path.clone(),
        source,
    }
}
