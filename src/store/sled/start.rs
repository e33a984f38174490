//! Opening a store: whatever was left behind, by a crash, a power cut or a bad disk, the process starts, says
//! what it found, and never builds on what it cannot trust.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use ::sled::Db;
use tracing::warn;

use super::access;
use super::audit::{self, Audited};
use super::database::{self, Fault};
use super::folders::{self, free_name, sync_folder};
use super::record::{self, Ledger};
use super::spare::{self, Spare};
use super::writer::Disk;
use super::{OpenError, Options, at};
use super::{keys, salvage};

/// What `format` says in a store that this build can read.
const FORMAT: u32 = 3;

/// What sled writes down of the settings it was made with: the same in every store, since ours never differ and
/// `format` changes with sled's version.
const SETTINGS: &[u8] = b"segment_size: 524288\nuse_compression: false\nversion: 0.34\n\x76\x19\x51\xc1";

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

/// Makes the store's folder, for its owner's eyes only, and takes it for this process alone, until the file is
/// closed. Refuses a store that a newer version has written.
pub(super) fn enter(folder: &Path) -> Result<File, OpenError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(at(folder))?;
    let lock = take_lock(folder)?;
    access::restrict(folder).map_err(at(folder))?;
    check_format(folder)?;
    Ok(lock)
}

/// Opens and audits. What is damaged is put aside by name: a database with pages that cannot be read once what
/// can be read is saved from it; snapshots that cannot be read, since the log tells the same; at last
/// everything.
pub(super) fn open(options: &Options) -> Result<Opened, OpenError> {
    let mut start = Start::begin(options)?;
    if start.is_doubtful() {
        start.look_again()?;
    }
    if let Err(Fault::Damaged(reason)) = &start.opened {
        let reason = reason.clone();
        start.leave_snapshots(&reason)?;
    }
    if start.opened.as_ref().is_ok_and(Opened::is_mended) {
        start.distrust();
    }
    if let Err(Fault::Unreadable(reason)) = &start.opened {
        let reason = reason.clone();
        start.save(&reason)?;
    }
    if let Err(Fault::Damaged(reason) | Fault::Unreadable(reason)) = &start.opened {
        let reason = reason.clone();
        start.begin_anew(&reason)?;
    }
    start.finish()
}

/// How many texts the store has accepted; a store that was never begun, none.
pub(super) fn accepted(options: &Options) -> Result<u64, OpenError> {
    if !folders::is_begun(&options.path) {
        return Ok(0);
    }
    let opened = open(options)?;
    let ledger =
        record::load::<Ledger>(&*opened.db, keys::LEDGER).map_err(|trouble| OpenError::Unreadable {
            path: folders::database(&options.path),
            reason: trouble.to_string(),
        })?;
    let accepted = ledger.unwrap_or_default().counts.accepted;
    Ok(accepted.max(opened.audited.books.ledger.counts.accepted))
}

/// Says in the store which format it has.
pub(super) fn write_format(folder: &Path) -> Result<(), OpenError> {
    let text = format!("smsbridge store {FORMAT}\n");
    let path = folder.join("format");
    if std::fs::read_to_string(&path).is_ok_and(|there| there == text) {
        return Ok(());
    }
    File::create(&path)
        .and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        })
        .and_then(|()| sync_folder(folder))
        .map_err(at(folder))
}

fn take_lock(folder: &Path) -> Result<File, OpenError> {
    let path = folder.join("lock");
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

fn check_format(folder: &Path) -> Result<(), OpenError> {
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

/// A start on its way.
struct Start<'a> {
    options: &'a Options,
    database: PathBuf,
    /// The database as it was, while it is not certain that nothing is lost.
    spare: Option<Spare>,
    opened: Result<Opened, Fault>,
    findings: Vec<String>,
}

impl<'a> Start<'a> {
    fn begin(options: &'a Options) -> Result<Self, OpenError> {
        let folder = &options.path;
        let database = folders::database(folder);
        folders::recover(folder).map_err(at(folder))?;
        remove_unfinished_snapshots(&database).map_err(at(&database))?;
        let findings = renew_settings(&database).map_err(at(&database))?;
        let spare = Spare::take(folder, &database).map_err(at(&database))?;
        let opened = attempt(options, &database);
        Ok(Self {
            options,
            database,
            spare,
            opened,
            findings: findings.into_iter().collect(),
        })
    }

    /// Damage, or commits that the mark knows of and the store does not.
    fn is_doubtful(&self) -> bool {
        match &self.opened {
            Ok(opened) => opened.is_mended(),
            Err(Fault::Damaged(_) | Fault::Unreadable(_)) => true,
            Err(Fault::Io(_) | Fault::Unsupported(_)) => false,
        }
    }

    /// It may have been the disk, for a moment.
    fn look_again(&mut self) -> Result<(), OpenError> {
        if let Some(spare) = &self.spare {
            warn!("the store does not look as it should, opening it once more as it was");
            // Let go of what is open before its files are exchanged.
            self.opened = Err(Fault::Damaged(String::new()));
            spare.put_back().map_err(at(&self.database))?;
            self.attempt();
        }
        if self.is_doubtful() {
            spare::probe_disk(&self.options.path).map_err(at(&self.options.path))?;
        }
        Ok(())
    }

    /// The log tells what the snapshots tell. Where they go wrong the log may be damaged as well, so that it only
    /// serves to be copied.
    fn leave_snapshots(&mut self, reason: &str) -> Result<(), OpenError> {
        warn!("the store cannot be opened, trying without its snapshots: {reason}");
        let aside = set_aside_snapshots(&self.options.path, &self.database).map_err(at(&self.database))?;
        self.findings.push(format!(
            "the snapshots were damaged ({reason}): set aside as {}",
            aside.display()
        ));
        self.attempt();
        self.distrust();
        Ok(())
    }

    /// sled goes on writing behind what it could not read, and what is written there may not be found again. So
    /// nothing is built on a damaged log: what it has is copied into a new one.
    fn distrust(&mut self) {
        if let Ok(damaged) = &mut self.opened {
            self.findings.append(&mut damaged.audited.findings);
            self.opened = Err(Fault::Unreadable("its log is damaged".to_owned()));
        }
    }

    fn save(&mut self, reason: &str) -> Result<(), OpenError> {
        warn!("the store is damaged, saving what can be read: {reason}");
        match salvage::salvage(self.options) {
            Ok((saved, aside)) => {
                self.findings.push(format!(
                    "the store was damaged: {saved} texts were saved from it, it is kept as {}",
                    aside.display()
                ));
                if let Some(spare) = self.spare.take() {
                    spare.keep_instead_of(&aside).map_err(at(&aside))?;
                }
            }
            Err(fault) => warn!("nothing could be saved: {fault:?}"),
        }
        self.attempt();
        Ok(())
    }

    fn begin_anew(&mut self, reason: &str) -> Result<(), OpenError> {
        let (folder, database) = (&self.options.path, &self.database);
        let aside = free_name(folder, "damaged-store");
        match self.spare.take() {
            Some(spare) => spare.keep(&aside).and_then(|()| folders::remove(database)),
            None => std::fs::rename(database, &aside),
        }
        .map_err(at(database))?;
        sync_folder(folder).map_err(at(folder))?;
        self.findings = vec![format!(
            "the store was damaged beyond reading ({reason}): set aside as {}, an empty one was begun",
            aside.display()
        )];
        self.attempt();
        Ok(())
    }

    fn finish(mut self) -> Result<Opened, OpenError> {
        let folder = &self.options.path;
        let mut opened = self.opened.map_err(|fault| fault.into_error(&self.database))?;
        match self.spare {
            Some(spare) if opened.audited.commits_lost > 0 => {
                let name = free_name(folder, "damaged-store");
                spare.keep(&name).map_err(at(&name))?;
                self.findings.push(format!(
                    "the store as it was before it was opened is kept as {}",
                    name.display()
                ));
            }
            Some(spare) => spare.forget().map_err(at(folder))?,
            None => {}
        }
        write_format(folder)?;
        self.findings.append(&mut opened.audited.findings);
        opened.audited.findings = self.findings;
        Ok(opened)
    }

    fn attempt(&mut self) {
        self.opened = attempt(self.options, &self.database);
    }
}

/// sled meets some damage with a panic instead of an error.
fn attempt(options: &Options, database: &Path) -> Result<Opened, Fault> {
    let open = || {
        let (db, disk) = database::open(options, database)?;
        let audited = audit::audit(&db, &disk)?;
        Ok(Opened { db, disk, audited })
    };
    catch_unwind(AssertUnwindSafe(open))
        .unwrap_or_else(|_| Err(Fault::Damaged("it made the database panic".to_owned())))
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

/// Settings that are damaged would keep sled from opening a log that is sound. Without them it writes them anew. A
/// crash during the very first start leaves a part of them, or zeros: nothing to speak of.
fn renew_settings(database: &Path) -> io::Result<Option<String>> {
    let path = database.join("conf");
    match std::fs::read(&path) {
        Ok(bytes) if bytes != SETTINGS => {
            std::fs::remove_file(&path)?;
            let is_begun = SETTINGS.starts_with(&bytes) || bytes.iter().all(|byte| *byte == 0);
            let finding = format!(
                "{} was damaged: written anew, nothing was lost by that",
                path.display()
            );
            Ok((!is_begun).then_some(finding))
        }
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(None),
    }
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
