//! The folders of a store, and how a new database replaces the current one.
//!
//! The database is the folder `sled`. A new one is created beside it, under a name that states its purpose, and is
//! not used until it is complete. Remains of an interrupted one are removed before the next is created.
//!
//! * `sled.restoring`: a backup is restored into it; renamed to `sled.compacting` when it is complete.
//! * `sled.rebuilding`: the log is replayed into it, after the damaged database was set aside.
//! * `sled.compacting`: the entries of a mostly empty database, or of one with an earlier format, are copied into it.
//!
//! `sled.untouched` is a copy of a database that looks damaged, made before sled opened it.
//!
//! When the new database is complete it replaces the current one, and at every moment one of the two is the store. A
//! restored database replaces one without messages in the same way:
//!
//! 1. The new database, complete and on disk, is renamed to `sled.salvaged`. As long as `sled` exists, that is
//!    the store, because it may have changed since.
//! 2. `sled` is renamed to `sled.former`, or to `damaged-store-…` if it is kept for analysis. From here on
//!    `sled.salvaged` is the store.
//! 3. `sled.salvaged` is renamed to `sled`, and `sled.former` is removed.
//!
//! So a start that finds `sled.salvaged` uses it if there is no `sled`, and removes it otherwise.
//!
//! A compaction that fails before the second step has changed nothing, and the store continues with its database.
//! From the second step until the third one is synced, it is unknown which of the two the next start will find, so
//! neither may be written to: a change in one could be missing in the other.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use tracing::warn;

use super::super::OpenError;
use super::super::disk_space;
use super::super::options::at;

/// The names of new databases that are not complete yet.
pub(in crate::store::sled) const RESTORING: &str = "sled.restoring";
pub(in crate::store::sled) const REBUILDING: &str = "sled.rebuilding";
pub(in crate::store::sled) const COMPACTING: &str = "sled.compacting";

const DATABASE: &str = "sled";
const UNTOUCHED: &str = "sled.untouched";
const COPYING: &str = "sled.copying";
/// The name that earlier versions used; they may have been interrupted here.
const WHOLE: &str = "sled.salvaged";
/// The name of the copy that earlier versions made while they opened the database.
const SPARE: &str = "sled.spare";
pub(in crate::store::sled) const FORMER: &str = "sled.former";

/// One step of the replacement after a compaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store::sled) enum Step {
    SyncFiles(&'static str),
    SyncFolder,
    Remove(&'static str),
    Rename(&'static str, &'static str),
}

/// Until the last of these steps is done, the old database is the store.
const PREPARE: [Step; 6] = [
    Step::SyncFiles(COMPACTING),
    Step::Remove(WHOLE),
    Step::Rename(COMPACTING, WHOLE),
    Step::SyncFolder,
    Step::Remove(FORMER),
    Step::Rename(DATABASE, FORMER),
];

/// After these steps the new database is the store, even if a later step fails.
const COMPLETE: [Step; 2] = [Step::Rename(WHOLE, DATABASE), Step::SyncFolder];

impl Step {
    pub(in crate::store::sled) fn carry_out(self, folder: &Path) -> io::Result<()> {
        match self {
            Self::SyncFiles(name) => sync_files(&folder.join(name)),
            Self::SyncFolder => sync_folder(folder),
            Self::Remove(name) => remove(&folder.join(name)),
            Self::Rename(from, to) => std::fs::rename(folder.join(from), folder.join(to)),
        }
    }
}

/// Why a compacted database did not replace the old one.
#[derive(Debug)]
pub(in crate::store::sled) enum Unfinished {
    /// The old database is in its place and the store can continue with it.
    Unchanged(io::Error),
    /// Only the next start can determine which database is the store: nothing may be written until then.
    Midway(io::Error),
}

impl From<Unfinished> for io::Error {
    fn from(unfinished: Unfinished) -> Self {
        match unfinished {
            Unfinished::Unchanged(error) | Unfinished::Midway(error) => error,
        }
    }
}

/// The folder of the database.
pub(in crate::store::sled) fn database(folder: &Path) -> PathBuf {
    folder.join(DATABASE)
}

/// The file of sled's log.
pub(in crate::store::sled) fn log(folder: &Path) -> PathBuf {
    database(folder).join("db")
}

/// Completes or undoes a replacement that a crash has interrupted.
pub(in crate::store::sled) fn recover(folder: &Path) -> io::Result<()> {
    settle(folder)?;
    drop_compaction(folder);
    Ok(())
}

/// Replaces the empty database by the restored one, as after a compaction: without a database, the next start would
/// report a lost one.
pub(in crate::store::sled) fn finish_restore(folder: &Path) -> Result<(), OpenError> {
    std::fs::rename(folder.join(RESTORING), folder.join(COMPACTING))
        .map_err(Unfinished::Unchanged)
        .and_then(|()| finish_compaction(folder, |folder, step| step.carry_out(folder)))
        .map_err(|unfinished| at(&database(folder))(unfinished.into()))?;
    Ok(())
}

/// Syncs the copy and replaces the database, which is not written to any more, by it. Returns the size of the copy.
pub(in crate::store::sled) fn finish_compaction(
    folder: &Path,
    carry_out: impl Fn(&Path, Step) -> io::Result<()>,
) -> Result<u64, Unfinished> {
    let carry_out = |step| carry_out(folder, step);
    if let Err(error) = PREPARE.into_iter().try_for_each(carry_out) {
        // Some file systems report an error for a rename that was performed.
        return Err(if database(folder).exists() {
            Unfinished::Unchanged(error)
        } else {
            Unfinished::Midway(error)
        });
    }
    COMPLETE
        .into_iter()
        .try_for_each(carry_out)
        .map_err(Unfinished::Midway)?;
    if let Err(error) = carry_out(Step::Remove(FORMER)) {
        warn!(
            "{} is of no use any more and cannot be removed; the next start tries again: {error}",
            folder.join(FORMER).display()
        );
    }
    Ok(std::fs::metadata(log(folder)).map_or(0, |log| log.len()))
}

/// Removes what an interrupted or just completed compaction has left. The database must be in its place.
pub(in crate::store::sled) fn drop_compaction(folder: &Path) {
    for name in [COMPACTING, WHOLE, FORMER] {
        if let Err(error) = remove(&folder.join(name)) {
            warn!("{} cannot be removed: {error}", folder.join(name).display());
        }
    }
}

/// Removes the files of earlier versions beside a database that was migrated.
pub(in crate::store::sled) fn drop_earlier(folder: &Path) -> io::Result<()> {
    remove(&folder.join(SPARE))?;
    remove(&folder.join("sled.salvaging"))?;
    // The position of the earlier store, which is now recorded in the log.
    match std::fs::remove_file(folder.join("mark")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Copies the database before sled opens it, if there is enough space. An existing copy comes from an interrupted
/// start and is kept, because it is closer to the original.
pub(in crate::store::sled) fn copy_untouched(folder: &Path) {
    let (untouched, copying, database) = (folder.join(UNTOUCHED), folder.join(COPYING), database(folder));
    if untouched.exists() {
        return;
    }
    let copy = || -> io::Result<()> {
        remove(&copying)?;
        let (from, to) = (database.join("db"), copying.join("db"));
        let length = std::fs::metadata(&from)?.len();
        if disk_space::free(folder)? < 2 * length {
            return Err(io::Error::other("there is not enough space"));
        }
        DirBuilder::new().mode(0o700).create(&copying)?;
        std::fs::copy(from, to)?;
        sync_files(&copying)?;
        std::fs::rename(&copying, &untouched)
    };
    if let Err(error) = copy() {
        warn!("the database looks damaged and is not copied before it is opened: {error}");
    }
}

/// Removes that copy, because the database is sound or the copy was set aside.
pub(in crate::store::sled) fn drop_untouched(folder: &Path) {
    for name in [COPYING, UNTOUCHED] {
        if let Err(error) = remove(&folder.join(name)) {
            warn!("{} cannot be removed: {error}", folder.join(name).display());
        }
    }
}

/// Sets the database aside under this name, using the copy made before sled opened it if there is one.
pub(in crate::store::sled) fn set_aside(folder: &Path, aside: &Path) -> io::Result<()> {
    let (database, untouched) = (database(folder), folder.join(UNTOUCHED));
    if untouched.exists() {
        std::fs::rename(&untouched, aside)?;
        sync_folder(folder)?;
        remove(&folder.join(FORMER))?;
        std::fs::rename(&database, folder.join(FORMER))?;
    } else {
        std::fs::rename(&database, aside)?;
    }
    sync_folder(folder)
}

/// An unused name for something that is set aside.
pub(in crate::store::sled) fn free_name(folder: &Path, what: &str) -> PathBuf {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    let mut names = (now..).map(|number| folder.join(format!("{what}-{number}")));
    names
        .find(|path| !path.exists())
        .unwrap_or_else(|| folder.join(what))
}

/// Replaces a small file atomically.
pub(in crate::store::sled) fn replace(path: &Path, contents: &str) -> io::Result<()> {
    let new = path.with_extension("new");
    let file = File::create(&new)?;
    file.write_all_at(contents.as_bytes(), 0)?;
    file.sync_all()?;
    std::fs::rename(new, path)?;
    path.parent().map_or(Ok(()), sync_folder)
}

/// Removes a folder with its content if it exists.
pub(in crate::store::sled) fn remove(folder: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// sled syncs neither the files it creates nor their folder. Without this, a power cut right after the first
/// acknowledged message could lose the directory entry of the log.
pub(in crate::store::sled) fn sync_files(database: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(database)? {
        let path = entry?.path();
        if path.is_file() {
            File::open(path)?.sync_all()?;
        }
    }
    File::open(database)?.sync_all()
}

/// Syncs a folder and its parent.
pub(in crate::store::sled) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()?;
    match folder.canonicalize()?.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

/// Performs the third step if the second was done; otherwise restores the state before the first. Nothing is removed
/// before the choice is synced: the process that died may not have synced it.
fn settle(folder: &Path) -> io::Result<()> {
    let (fresh, spare, database) = (folder.join(WHOLE), folder.join(SPARE), database(folder));
    if fresh.exists() && !database.exists() {
        std::fs::rename(&fresh, database)?;
        sync_folder(folder)?;
    } else if spare.exists() && !database.exists() {
        std::fs::rename(&spare, database)?;
        sync_folder(folder)?;
    } else if folder.join(FORMER).exists() {
        sync_folder(folder)?;
    }
    remove(&fresh)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A store's folder in which each of these names is a database.
    fn store(names: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for name in names {
            std::fs::create_dir(folder.path().join(name)).unwrap();
            std::fs::write(folder.path().join(name).join("db"), name).unwrap();
        }
        folder
    }

    /// The remaining names, and which database is the store's.
    fn left(folder: &Path) -> (Vec<String>, String) {
        let entries = std::fs::read_dir(folder).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        (names, std::fs::read_to_string(log(folder)).unwrap_or_default())
    }

    #[test]
    fn a_crash_at_any_step_leaves_one_complete_database() {
        for (found, store_is) in [
            (&["sled", COMPACTING][..], "sled"),
            (&["sled", WHOLE], "sled"),
            (&["sled", WHOLE, FORMER], "sled"),
            (&[WHOLE, FORMER], WHOLE),
            (&["sled", FORMER], "sled"),
            (&["sled"], "sled"),
            (&[SPARE], SPARE),
        ] {
            let folder = store(found);
            recover(folder.path()).unwrap();
            let expected = (vec!["sled".to_owned()], store_is.to_owned());
            assert_eq!(left(folder.path()), expected, "{found:?}");
        }
        let damaged = store(&[WHOLE, "damaged-store-7"]);
        recover(damaged.path()).unwrap();
        let names = ["damaged-store-7", "sled"].map(str::to_owned);
        assert_eq!(left(damaged.path()), (names.to_vec(), WHOLE.to_owned()));
    }

    #[test]
    fn a_new_database_replaces_the_old_one() {
        let folder = store(&["sled", COMPACTING, FORMER]);
        let length = finish_compaction(folder.path(), |folder, step| step.carry_out(folder)).unwrap();
        assert_eq!(length, COMPACTING.len() as u64);
        assert_eq!(left(folder.path()), (vec!["sled".into()], COMPACTING.into()));

        let folder = store(&["sled", RESTORING]);
        finish_restore(folder.path()).unwrap();
        assert_eq!(left(folder.path()), (vec!["sled".into()], RESTORING.into()));
    }

    /// Makes the step with this number fail, after or without performing it.
    fn failing(number: usize, done: bool) -> impl Fn(&Path, Step) -> io::Result<()> {
        let count = std::cell::Cell::new(0);
        move |folder, step| {
            count.set(count.get() + 1);
            if count.get() != number || done {
                step.carry_out(folder)?;
            }
            if count.get() == number {
                return Err(io::Error::other("the disk is gone"));
            }
            Ok(())
        }
    }

    #[test]
    fn a_compaction_that_fails_leaves_the_old_database_or_ends_the_store() {
        let irrevocable = PREPARE.len() + 1..=PREPARE.len() + COMPLETE.len();
        for done in [false, true] {
            for number in 1..=*irrevocable.end() {
                let folder = store(&["sled", COMPACTING]);
                let result = finish_compaction(folder.path(), failing(number, done));
                let renamed = done && number == PREPARE.len();
                let step = format!("step {number}, done: {done}: {result:?}");
                if irrevocable.contains(&number) || renamed {
                    assert!(matches!(result, Err(Unfinished::Midway(_))), "{step}");
                    recover(folder.path()).unwrap();
                    assert_eq!(
                        left(folder.path()),
                        (vec!["sled".into()], COMPACTING.into()),
                        "{step}"
                    );
                } else {
                    assert!(matches!(result, Err(Unfinished::Unchanged(_))), "{step}");
                    drop_compaction(folder.path());
                    assert_eq!(
                        left(folder.path()),
                        (vec!["sled".into()], "sled".into()),
                        "{step}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_former_database_that_cannot_be_removed_does_not_undo_a_compaction() {
        let folder = store(&["sled", COMPACTING]);
        let last = PREPARE.len() + COMPLETE.len() + 1;
        let length = finish_compaction(folder.path(), failing(last, false)).unwrap();
        assert_eq!(length, COMPACTING.len() as u64);
        assert!(folder.path().join(FORMER).exists());
        recover(folder.path()).unwrap();
        assert_eq!(left(folder.path()), (vec!["sled".into()], COMPACTING.into()));
    }

    #[test]
    fn the_remains_of_a_compaction_do_not_block_the_next() {
        let folder = store(&["sled", COMPACTING, WHOLE, FORMER]);
        finish_compaction(folder.path(), |folder, step| step.carry_out(folder)).unwrap();
        assert_eq!(left(folder.path()), (vec!["sled".into()], COMPACTING.into()));
    }
}
