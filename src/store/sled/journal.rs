//! The journal: where a commit first gets on disk, before sled has it.
//!
//! A commit in sled costs two waits for the disk and several changes of thread. So the changes of a group are
//! appended to a file of our own, as one record with a checksum, and synced with one `fdatasync`; then sled
//! gets them in memory and the callers their answers. Every few megabytes sled is flushed and synced, and the
//! journal begins at its start again. The file is written full of zeroes once, so that a sync never has to wait
//! for the file system to find it room.
//!
//! A start carries out what the journal has and sled has not. The number of the commit tells: sled's sums carry
//! the number of the last one that it kept, and only what follows it is applied, in order. What a record says
//! is absolute, a value or its removal, so it is also a second net: what sled lost of the last seconds is here.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use ::sled::{Batch, Db};

use super::keys;
use super::record::{self, Ledger, Trouble};
use super::view::Changes;

/// How large the journal is. A group that does not fit goes into sled directly.
const LENGTH: u64 = 8 << 20;

const FILE: &str = "journal";

/// Length, checksum and number of a record.
const HEADER: usize = 16;

/// The journal of an open store.
pub(super) struct Journal {
    file: File,
    at: u64,
    record: Vec<u8>,
}

/// A commit that the journal has.
pub(super) struct Entry {
    pub(super) commit: u64,
    pub(super) batch: Batch,
}

impl Journal {
    /// Opens the journal, and makes it as long as it has to be.
    pub(super) fn open(folder: &Path) -> io::Result<Self> {
        let path = folder.join(FILE);
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(path)?;
        let mut length = file.metadata()?.len();
        if length < LENGTH {
            let zeroes = vec![0; 1 << 16];
            while length < LENGTH {
                file.write_all_at(&zeroes, length)?;
                length += zeroes.len() as u64;
            }
            file.sync_all()?;
        }
        Ok(Self {
            file,
            at: 0,
            record: Vec::new(),
        })
    }

    /// What it has, in order, up to where it ends or is damaged: a group that was being written when the power
    /// went was not acknowledged.
    pub(super) fn entries(&self) -> io::Result<Vec<Entry>> {
        let mut bytes = Vec::new();
        let mut file = &self.file;
        io::Seek::rewind(&mut file)?;
        file.read_to_end(&mut bytes)?;
        let mut rest = bytes.as_slice();
        let mut entries: Vec<Entry> = Vec::new();
        while let Some((entry, after)) = read(rest) {
            let follows = entries.last().is_none_or(|last| last.commit + 1 == entry.commit);
            if !follows {
                break;
            }
            entries.push(entry);
            rest = after;
        }
        Ok(entries)
    }

    /// Puts a commit at the end and waits until it is on disk; false when there is no room for it.
    pub(super) fn append(&mut self, commit: u64, changes: &Changes, sync: bool) -> io::Result<bool> {
        write(&mut self.record, commit, changes);
        let length = self.record.len() as u64;
        // After the last record there is always room for the start of one that is none.
        if self.at + length + HEADER as u64 > LENGTH {
            return Ok(false);
        }
        self.file.write_all_at(&self.record, self.at)?;
        if sync {
            self.file.sync_data()?;
        }
        self.at += length;
        Ok(true)
    }

    /// Begins at the start again: sled has everything. What stands behind the next record is told from it by
    /// its number.
    pub(super) fn begin_again(&mut self) {
        self.at = 0;
    }

    /// Makes it empty on disk, too.
    pub(super) fn clear(&mut self) -> io::Result<()> {
        self.at = 0;
        self.file.write_all_at(&[0; HEADER], 0)?;
        self.file.sync_data()
    }
}

/// Carries out what the journal has and the tree has not. Says how many commits between the two are missing.
pub(super) fn replay(journal: &Journal, db: &Db) -> Result<u64, ::sled::Error> {
    let entries = journal.entries().map_err(::sled::Error::Io)?;
    let Some(first) = entries.first() else {
        return Ok(0);
    };
    // Where the sums are damaged nobody knows how far sled came; the audit counts what is there.
    let reached = match record::load::<Ledger>(&**db, keys::LEDGER) {
        Ok(ledger) => ledger.unwrap_or_default().commits,
        Err(Trouble::Damaged) => first.commit - 1,
        Err(Trouble::Sled(error)) => return Err(error),
    };
    let mut missing = None;
    for entry in entries.into_iter().filter(|entry| entry.commit > reached) {
        missing.get_or_insert(entry.commit - reached - 1);
        db.apply_batch(entry.batch)?;
    }
    Ok(missing.unwrap_or(0))
}

/// Removes the journal of a store that is not open.
pub(super) fn remove(folder: &Path) -> io::Result<()> {
    match std::fs::remove_file(folder.join(FILE)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn write(record: &mut Vec<u8>, commit: u64, changes: &Changes) {
    record.clear();
    record.extend([0; HEADER]);
    for (key, value) in changes {
        // No entry is longer than a few kilobytes.
        let length = |bytes: &[u8]| u16::try_from(bytes.len()).unwrap_or(u16::MAX).to_be_bytes();
        record.extend(length(key));
        record.extend_from_slice(key);
        match value {
            Some(value) => {
                record.push(1);
                record.extend(length(value));
                record.extend_from_slice(value);
            }
            None => record.push(0),
        }
    }
    let length = u32::try_from(record.len() - HEADER).unwrap_or(u32::MAX);
    record[8..HEADER].copy_from_slice(&commit.to_be_bytes());
    let crc = crc32c::crc32c(&record[8..]);
    record[..4].copy_from_slice(&length.to_be_bytes());
    record[4..8].copy_from_slice(&crc.to_be_bytes());
}

/// The record at the beginning of these bytes, and what follows it.
fn read(bytes: &[u8]) -> Option<(Entry, &[u8])> {
    let (head, rest) = bytes.split_at_checked(HEADER)?;
    let number = |range: std::ops::Range<usize>| Some(u32::from_be_bytes(head.get(range)?.try_into().ok()?));
    let (length, crc) = (number(0..4)? as usize, number(4..8)?);
    let commit = u64::from_be_bytes(head.get(8..16)?.try_into().ok()?);
    let (payload, after) = rest.split_at_checked(length)?;
    if length == 0 || crc32c::crc32c(bytes.get(8..HEADER + length)?) != crc {
        return None;
    }
    let mut batch = Batch::default();
    let mut left = payload;
    while !left.is_empty() {
        let key = take(&mut left)?;
        let (&kind, rest) = left.split_first()?;
        left = rest;
        match kind {
            1 => batch.insert(key, take(&mut left)?),
            _ => batch.remove(key),
        }
    }
    Some((Entry { commit, batch }, after))
}

fn take<'a>(from: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, rest) = from.split_first_chunk()?;
    let (taken, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
    *from = rest;
    Some(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes(key: &str, value: Option<&str>) -> Changes {
        [(
            key.as_bytes().to_vec(),
            value.map(|value| value.as_bytes().into()),
        )]
        .into()
    }

    fn commits(journal: &Journal) -> Vec<u64> {
        let entries = journal.entries().unwrap();
        entries.iter().map(|entry| entry.commit).collect()
    }

    #[test]
    fn what_was_appended_is_replayed_behind_what_the_tree_has() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(folder.path()).unwrap();
        assert!(commits(&journal).is_empty());
        for (commit, value) in [(5, Some("five")), (6, Some("six")), (7, None)] {
            assert!(journal.append(commit, &changes("a", value), true).unwrap());
        }
        journal.append(8, &changes("b", Some("eight")), true).unwrap();
        let journal = Journal::open(folder.path()).unwrap();
        assert_eq!(commits(&journal), [5, 6, 7, 8]);
        let db = ::sled::Config::new().temporary(true).open().unwrap();
        let reached = |commits| {
            let ledger = Ledger {
                commits,
                ..Ledger::default()
            };
            let entry = record::entries(keys::LEDGER, &record::encode(&ledger)).remove(0);
            db.insert(entry.0, entry.1).unwrap();
        };
        reached(6);
        assert_eq!(replay(&journal, &db).unwrap(), 0);
        assert_eq!((db.get("a").unwrap(), db.len()), (None, 2));
        reached(3);
        assert_eq!(replay(&journal, &db).unwrap(), 1, "commit 4 is nowhere");
        reached(8);
        db.remove("b").unwrap();
        assert_eq!(replay(&journal, &db).unwrap(), 0);
        assert_eq!(db.get("b").unwrap(), None, "nothing is done again");
    }

    #[test]
    fn a_new_round_ends_where_the_old_one_begins_and_damage_ends_it_too() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(folder.path()).unwrap();
        for commit in 1..=9 {
            journal
                .append(commit, &changes("key", Some("of the same length")), true)
                .unwrap();
        }
        journal.begin_again();
        journal
            .append(10, &changes("key", Some("of the same length")), true)
            .unwrap();
        assert_eq!(commits(&journal), [10]);
        journal
            .append(11, &changes("key", Some("of the same length")), true)
            .unwrap();
        assert_eq!(commits(&journal), [10, 11]);
        let byte = journal.record.len() as u64 + 20;
        journal.file.write_all_at(b"!", byte).unwrap();
        assert_eq!(commits(&journal), [10]);
        journal.clear().unwrap();
        assert!(commits(&journal).is_empty());
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(folder.path()).unwrap();
        let large = changes("key", Some(&"x".repeat(60_000)));
        let fitted = (1..)
            .take_while(|&commit| journal.append(commit, &large, false).unwrap())
            .count();
        assert_eq!(fitted, 139);
        assert_eq!(commits(&journal).len(), 139);
        assert_eq!(journal.file.metadata().unwrap().len(), LENGTH);
    }
}
