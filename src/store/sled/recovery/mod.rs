//! Opens a store after a crash, a power cut or disk errors: the process starts, reports what it found, and never uses
//! data that it cannot verify.
//!
//! The database is opened, gets the frames of the log that it lacks, and is read completely. If anything is wrong
//! with it, it is set aside unchanged, a new one is created from all frames of the log, including every pending
//! message, and the store is open. The rest is recovered later (`history`).
//!
//! No step removes the only copy of anything. Each is a rename or an append, so an interrupted start is repeated.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use ::sled::IVec;
use tracing::warn;

use self::audit::Audited;
use self::findings::Findings;
use self::folders::{REBUILDING, free_name, sync_folder};
use self::history::History;
use super::OpenError;
use super::Options;
use super::access;
use super::changes::Changes;
use super::database::{self, Database, Fault};
use super::disk::Disk;
use super::keys;
use super::log::{self, Found, Log};
use super::options::at;
use super::record::{self, Mark};

pub(super) mod audit;
pub(super) mod findings;
pub(super) mod folders;
pub(super) mod format;
pub(super) mod history;
pub(super) mod intact;
pub(super) mod migrate;

/// The bytes of replayed changes that are applied together.
const REPLAY_BYTES: usize = 2 << 20;

/// An open and audited store.
pub(super) struct Opened {
    pub(super) db: Database,
    pub(super) disk: Disk,
    pub(super) log: Log,
    pub(super) mark: Mark,
    pub(super) audited: Audited,
    /// The databases from which history is to be recovered.
    pub(super) history: Option<History>,
    pub(super) findings: Vec<String>,
    pub(super) findings_file: Findings,
}

/// The file that a process locks while it has the store open.
const LOCK: &str = "lock";

/// Creates the store's folder with access only for its owner, and locks it until the returned file is closed. Rejects
/// a store that was written by a newer version.
pub(super) fn enter(folder: &Path) -> Result<File, OpenError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(at(folder))?;
    let lock = take_lock(folder)?;
    access::restrict(folder).map_err(at(folder))?;
    format::check(folder)?;
    Ok(lock)
}

/// Opens the store in any state.
pub(super) fn open(options: &Options) -> Result<Opened, OpenError> {
    let folder = &options.path;
    let database = folders::database(folder);
    folders::recover(folder).map_err(at(folder))?;
    let (findings_file, findings) = Findings::open(folder).map_err(at(folder))?;
    let mut start = Start {
        options,
        findings,
        findings_file,
        is_fresh: !database.exists(),
    };
    let was_interrupted = start.is_fresh && History::load(folder).map_err(at(folder))?.is_some();
    let attempt = match was_interrupted {
        true => Err(Fault::Damaged(String::new())),
        false => start.attempt(),
    };
    let ready = match attempt {
        Err(Fault::Damaged(reason)) => start.build_anew(&reason, was_interrupted),
        attempt => attempt,
    };
    let Ready {
        db,
        disk,
        log,
        mark,
        audited,
    } = ready.map_err(|fault| fault.into_error(&database))?;
    folders::drop_untouched(folder);
    format::write(folder)?;
    let history = History::load(folder).map_err(at(folder))?;
    let Start {
        findings,
        findings_file,
        ..
    } = start;
    Ok(Opened {
        db,
        disk,
        log,
        mark,
        audited,
        history,
        findings,
        findings_file,
    })
}

/// Returns true if a process holds the lock of the store. A lock file that cannot be opened counts as free.
#[must_use]
pub fn is_in_use(folder: &Path) -> bool {
    let file = File::open(folder.join(LOCK));
    file.is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
}

fn take_lock(folder: &Path) -> Result<File, OpenError> {
    let path = folder.join(LOCK);
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(at(&path))?;
    match database::patiently(
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

/// A complete and audited database, and the end of the log.
struct Ready {
    db: Database,
    disk: Disk,
    log: Log,
    mark: Mark,
    audited: Audited,
}

/// A start in progress.
struct Start<'a> {
    options: &'a Options,
    findings: Vec<String>,
    findings_file: Findings,
    /// Returns true if there is no database yet.
    is_fresh: bool,
}

impl Start<'_> {
    /// Records a finding before anything is repaired: after an interruption it might not be found again.
    fn find(&mut self, finding: impl AsRef<str>) -> Result<(), Fault> {
        if findings::add(&mut self.findings, finding.as_ref()) {
            warn!("{}", finding.as_ref());
            self.findings_file.write(&self.findings)?;
        }
        Ok(())
    }

    /// Opens the database as it is. sled panics on some kinds of damage instead of returning an error.
    fn attempt(&mut self) -> Result<Ready, Fault> {
        catch_unwind(AssertUnwindSafe(|| self.use_database()))
            .unwrap_or_else(|_| Err(Fault::Damaged("it made the database panic".to_owned())))
    }

    fn use_database(&mut self) -> Result<Ready, Fault> {
        let folder = &self.options.path;
        let path = folders::database(folder);
        let (finding, is_intact) = database::prepare(&path)?;
        if let Some(finding) = finding {
            self.find(finding)?;
        }
        if !is_intact {
            folders::copy_untouched(folder);
        }
        let (mut db, mut disk) = database::open(self.options, &path)?;
        let mut mark: Option<Mark> = record::load(&**db, keys::MARK)?;
        if mark.is_none() && !db.is_empty() {
            if log::is_begun(folder) {
                return Err(Fault::Damaged("it has no position".to_owned()));
            }
            drop(disk);
            migrate::migrate(self.options, db, |finding| self.find(finding))?;
            (db, disk) = database::open(self.options, &path)?;
            mark = record::load(&**db, keys::MARK)?;
        }
        self.catch_up(db, disk, mark)
    }

    /// Applies the frames that the database lacks, and verifies its counters.
    fn catch_up(&mut self, db: Database, disk: Disk, mark: Option<Mark>) -> Result<Ready, Fault> {
        let folder = &self.options.path;
        let was = mark.unwrap_or(Mark {
            applied: 0,
            is_covered: true,
        });
        let found = replay(folder, was.applied, &db, &disk)?;
        if found.oldest.is_some_and(|oldest| oldest > was.applied + 1) {
            return Err(Fault::Damaged("it is older than the log".to_owned()));
        }
        let is_gone = found.oldest.is_none() && was.applied > 0;
        let is_whole = found.lost + found.damaged == 0 && !is_gone;
        self.tell(&found, was.applied, is_gone, mark.is_none())?;
        let now = Mark {
            applied: was.applied.max(found.last),
            is_covered: was.is_covered && is_whole,
        };
        if now != was || mark.is_none() {
            disk.sync(&db)?;
            disk.mark(&db, now)?;
        }
        let log = Log::resume(folder, &found, now.applied, self.options.skip_sync)?;
        let audited = audit::audit(&db)?;
        match &audited.differences {
            Some(differences) if found.lost == 0 => Err(Fault::Damaged(differences.clone())),
            Some(differences) => {
                self.find(format!(
                    "the store lost part of the damaged frames: {differences}"
                ))?;
                corrected(db, disk, log, now, audited)
            }
            None => Ok(Ready {
                db,
                disk,
                log,
                mark: now,
                audited,
            }),
        }
    }

    fn tell(&mut self, found: &Found, applied: u64, is_gone: bool, is_empty: bool) -> Result<(), Fault> {
        if found.lost > 0 {
            self.find(format!(
                "the log is damaged: {} commits cannot be read, and the database does not have them; a backup may have the missing messages",
                found.lost
            ))?;
        }
        let has_end = !is_gone && found.last >= applied;
        if !has_end {
            self.find(
                "the end of the log was damaged and is rewritten: the database has everything up to a second before the \
                 last run ended; messages are lost only if that run ended in a crash",
            )?;
        } else if found.damaged > 0 {
            self.find(
                "part of the log was damaged but is complete in the database: nothing is lost, the log is rewritten",
            )?;
        }
        let is_begun = self.options.path.join("format").exists();
        if is_empty && is_begun && self.is_fresh && found.last == 0 {
            self.find("the database and the log of the store are gone: an empty store was created")?;
        }
        Ok(())
    }

    /// Sets the database aside and builds a new one from the log.
    fn build_anew(&mut self, reason: &str, was_interrupted: bool) -> Result<Ready, Fault> {
        let folder = &self.options.path;
        let database = folders::database(folder);
        if !was_interrupted {
            let aside = free_name(folder, "damaged-store");
            let name = aside
                .file_name()
                .and_then(|name| name.to_str())
                .unwrap_or_default();
            self.find(format!(
                "the database was damaged ({reason}): it is kept as {}, and a new one was built from the log, which has \
                 everything pending; the readable history is being recovered",
                aside.display()
            ))?;
            History::begin(folder, name)?;
            folders::set_aside(folder, &aside)?;
        }
        let (db, disk) =
            database::begin(self.options, REBUILDING).map_err(|error| Fault::Io(io::Error::other(error)))?;
        let found = replay(folder, 0, &db, &disk)?;
        if found.oldest.is_none() {
            self.find("there is no log to rebuild it from: readable pending deliveries become dead")?;
        }
        self.tell(&found, 0, false, false)?;
        let mark = Mark {
            applied: found.last,
            is_covered: found.lost + found.damaged == 0 && found.last > 0,
        };
        disk.sync(&db)?;
        let log = Log::resume(folder, &found, found.last, self.options.skip_sync)?;
        let audited = audit::audit(&db)?;
        let ready = corrected(db, disk, log, mark, audited)?;
        std::fs::rename(folder.join(REBUILDING), database)?;
        sync_folder(folder)?;
        Ok(ready)
    }
}

/// Writes the current counters to the log and the database.
fn corrected(
    db: Database,
    disk: Disk,
    mut log: Log,
    mut mark: Mark,
    audited: Audited,
) -> Result<Ready, Fault> {
    mark.applied = log.next();
    let entries = record::entries(
        keys::LEDGER,
        &record::encode(&audited.counters.ledger),
        mark.applied,
    );
    let changes: Changes = entries
        .into_iter()
        .map(|(key, value)| (key, Some(value)))
        .collect();
    log.append(&[&changes], 0)?;
    disk.apply(&db, &changes)?;
    disk.sync(&db)?;
    disk.mark(&db, mark)?;
    Ok(Ready {
        db,
        disk,
        log,
        mark,
        audited,
    })
}

/// Applies the frames after `after`.
fn replay(folder: &Path, after: u64, db: &::sled::Db, disk: &Disk) -> Result<Found, Fault> {
    let (mut changes, mut bytes) = (Changes::new(), 0);
    let failed = |error: ::sled::Error| io::Error::other(error);
    let found = log::read(folder, after, |_, entries| {
        for (key, value) in entries {
            bytes += key.len() + value.map_or(0, <[u8]>::len);
            changes.insert(key.into(), value.map(IVec::from));
        }
        if bytes > REPLAY_BYTES {
            bytes = 0;
            disk.apply(db, &std::mem::take(&mut changes)).map_err(failed)?;
        }
        Ok(())
    });
    let found = found?;
    disk.apply(db, &changes)?;
    Ok(found)
}
