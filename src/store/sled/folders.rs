//! The folders of a store, and how one database takes another's place.
//!
//! The database is the folder `sled`. A new one is made beside it, under a name that says what for, and counts
//! for nothing until it is whole; what is left of one after a crash is removed when the next is begun.
//!
//! * `sled.restoring`: a backup is read into it.
//! * `sled.rebuilding`: the log is replayed into it, after the one before was set aside.
//! * `sled.compacting`: the entries of a database that is mostly empty, or of an earlier format, are copied into it.
//!
//! `sled.untouched` is a copy of a database that looks damaged, from before sled opened it.
//!
//! A restored database follows one without messages, so that one is simply removed first: a crash then leaves an
//! empty store, and the restore is begun again. The last one follows one with messages, and at every moment one of
//! the two is the store:
//!
//! 1. The new one, which is whole and on disk, becomes `sled.salvaged`. As long as there is a `sled`, that is
//!    the store: it may have gone on.
//! 2. `sled` becomes `sled.former`, or `damaged-store-…` if it is kept for a closer look. From here on
//!    `sled.salvaged` is the store.
//! 3. `sled.salvaged` becomes `sled`, and `sled.former` is removed.
//!
//! So a start that finds `sled.salvaged` takes it for the store if there is no `sled`, and removes it if there is.
//!
//! A compaction that fails before the second step has changed nothing: the store goes on with the database it
//! has. From the second step until the third one is synced nobody can tell which of the two the next start will
//! find, so nothing may be written to either: what went into the one could be missing in the other.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use tracing::warn;

use super::{OpenError, at, space};

/// New databases, as long as they are being made.
pub(super) const RESTORING: &str = "sled.restoring";
pub(super) const REBUILDING: &str = "sled.rebuilding";
pub(super) const COMPACTING: &str = "sled.compacting";

const DATABASE: &str = "sled";
const UNTOUCHED: &str = "sled.untouched";
const COPYING: &str = "sled.copying";
/// Named as earlier versions named it, which may have been interrupted here.
const WHOLE: &str = "sled.salvaged";
/// Where earlier versions kept a copy while they opened the database.
const SPARE: &str = "sled.spare";
pub(super) const FORMER: &str = "sled.former";

/// One step of the way on which the copy of a compaction takes the database's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    SyncFiles(&'static str),
    SyncFolder,
    Remove(&'static str),
    Rename(&'static str, &'static str),
}

/// As long as the last of these is not done, the store is what it was.
const PREPARE: [Step; 6] = [
    Step::SyncFiles(COMPACTING),
    Step::Remove(WHOLE),
    Step::Rename(COMPACTING, WHOLE),
    Step::SyncFolder,
    Step::Remove(FORMER),
    Step::Rename(DATABASE, FORMER),
];

/// After these the store is the copy, whatever happens.
const COMPLETE: [Step; 2] = [Step::Rename(WHOLE, DATABASE), Step::SyncFolder];

impl Step {
    pub(super) fn carry_out(self, folder: &Path) -> io::Result<()> {
        match self {
            Self::SyncFiles(name) => sync_files(&folder.join(name)),
            Self::SyncFolder => sync_folder(folder),
            Self::Remove(name) => remove(&folder.join(name)),
            Self::Rename(from, to) => std::fs::rename(folder.join(from), folder.join(to)),
        }
    }
}

/// Why the copy of a compaction did not take the database's place.
#[derive(Debug)]
pub(super) enum Unfinished {
    /// The database is in its place, and the store can go on with it.
    Unchanged(io::Error),
    /// Only the next start can tell which database is the store: nothing may be written until then.
    Midway(io::Error),
}

impl From<Unfinished> for io::Error {
    fn from(unfinished: Unfinished) -> Self {
        match unfinished {
            Unfinished::Unchanged(error) | Unfinished::Midway(error) => error,
        }
    }
}

/// The store's database.
pub(super) fn database(folder: &Path) -> PathBuf {
    folder.join(DATABASE)
}

/// Where sled keeps its log.
pub(super) fn log(folder: &Path) -> PathBuf {
    database(folder).join("db")
}

/// Ends what a crash has interrupted, one way or the other.
pub(super) fn recover(folder: &Path) -> io::Result<()> {
    settle(folder)?;
    drop_compaction(folder);
    Ok(())
}

/// Puts the restored database, which is on disk, in the place of the empty one.
pub(super) fn finish_restore(folder: &Path) -> Result<(), OpenError> {
    let database = database(folder);
    remove(&database).map_err(at(&database))?;
    std::fs::rename(folder.join(RESTORING), &database).map_err(at(&database))?;
    sync_folder(folder).map_err(at(folder))
}

/// Syncs the copy and puts it in the place of the database, which nothing is written to any more. Says how
/// large it is.
pub(super) fn finish_compaction(
    folder: &Path,
    carry_out: impl Fn(&Path, Step) -> io::Result<()>,
) -> Result<u64, Unfinished> {
    let carry_out = |step| carry_out(folder, step);
    if let Err(error) = PREPARE.into_iter().try_for_each(carry_out) {
        // Some file systems report an error for a rename that was done.
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

/// Removes what a compaction that did not come to its end, or only just did, has left. The database must be in
/// its place.
pub(super) fn drop_compaction(folder: &Path) {
    for name in [COMPACTING, WHOLE, FORMER] {
        if let Err(error) = remove(&folder.join(name)) {
            warn!("{} cannot be removed: {error}", folder.join(name).display());
        }
    }
}

/// Removes what earlier versions have left beside a database that was taken over.
pub(super) fn drop_earlier(folder: &Path) -> io::Result<()> {
    remove(&folder.join(SPARE))?;
    remove(&folder.join("sled.salvaging"))?;
    // How far the earlier store had come; the log tells that now.
    match std::fs::remove_file(folder.join("mark")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Keeps the database as it is before sled opens it, as far as there is room. A copy that is there already is from a
/// start that was broken off, and nearer to what was found first.
pub(super) fn copy_untouched(folder: &Path) {
    let (untouched, copying, database) = (folder.join(UNTOUCHED), folder.join(COPYING), database(folder));
    if untouched.exists() {
        return;
    }
    let copy = || -> io::Result<()> {
        remove(&copying)?;
        let (from, to) = (database.join("db"), copying.join("db"));
        let length = std::fs::metadata(&from)?.len();
        if space::free(folder)? < 2 * length {
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

/// Forgets that copy: the database is sound, or the copy is what was set aside.
pub(super) fn drop_untouched(folder: &Path) {
    for name in [COPYING, UNTOUCHED] {
        if let Err(error) = remove(&folder.join(name)) {
            warn!("{} cannot be removed: {error}", folder.join(name).display());
        }
    }
}

/// Sets the database aside under this name, as it was before sled opened it if there is such a copy.
pub(super) fn set_aside(folder: &Path, aside: &Path) -> io::Result<()> {
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

/// A name for what is put aside, which nothing has yet.
pub(super) fn free_name(folder: &Path, what: &str) -> PathBuf {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    let mut names = (now..).map(|number| folder.join(format!("{what}-{number}")));
    names
        .find(|path| !path.exists())
        .unwrap_or_else(|| folder.join(what))
}

/// Writes a small file in place of the one that is there, all of it or nothing.
pub(super) fn replace(path: &Path, contents: &str) -> io::Result<()> {
    let new = path.with_extension("new");
    let file = File::create(&new)?;
    file.write_all_at(contents.as_bytes(), 0)?;
    file.sync_all()?;
    std::fs::rename(new, path)?;
    path.parent().map_or(Ok(()), sync_folder)
}

/// Removes a folder with what is in it, if it is there.
pub(super) fn remove(folder: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// sled syncs neither the files it makes nor the folder that names them; without that a power cut right after
/// the first acknowledged text leaves a log that no folder knows.
pub(super) fn sync_files(database: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(database)? {
        let path = entry?.path();
        if path.is_file() {
            File::open(path)?.sync_all()?;
        }
    }
    File::open(database)?.sync_all()
}

/// Syncs a folder, and the one that names it.
pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()?;
    match folder.canonicalize()?.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

/// The third step, if the second was done; else back to before the first. Nothing is removed before it is on
/// disk which database is the store: a process that died may not have come to syncing that.
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

    /// The names that are left, and which database is the store's.
    fn left(folder: &Path) -> (Vec<String>, String) {
        let entries = std::fs::read_dir(folder).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        (names, std::fs::read_to_string(log(folder)).unwrap_or_default())
    }

    #[test]
    fn a_crash_at_any_step_leaves_one_whole_database() {
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
    fn a_new_database_takes_the_place_of_the_old_one() {
        let folder = store(&["sled", COMPACTING, FORMER]);
        let length = finish_compaction(folder.path(), |folder, step| step.carry_out(folder)).unwrap();
        assert_eq!(length, COMPACTING.len() as u64);
        assert_eq!(left(folder.path()), (vec!["sled".into()], COMPACTING.into()));

        let folder = store(&["sled", RESTORING]);
        finish_restore(folder.path()).unwrap();
        assert_eq!(left(folder.path()), (vec!["sled".into()], RESTORING.into()));
    }

    /// Has the step with this number fail, done or not.
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
    fn what_an_earlier_compaction_has_left_is_not_in_the_way_of_the_next() {
        let folder = store(&["sled", COMPACTING, WHOLE, FORMER]);
        finish_compaction(folder.path(), |folder, step| step.carry_out(folder)).unwrap();
        assert_eq!(left(folder.path()), (vec!["sled".into()], COMPACTING.into()));
    }
}
