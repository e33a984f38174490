//! The mark: how far the store had come, written down outside of it.
//!
//! Where its log is damaged sled takes that place for the end of it. All later commits are gone, the sums with
//! them, and what is left is whole and only older: nothing in it tells. So the number of the last commit is
//! also kept in a file of its own. It is written after the commit is on disk and never synced while running:
//! after a power cut it may be behind, which says nothing, but it is never ahead unless commits were lost.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use super::record::Ledger;

/// The file of the mark.
pub(super) struct Mark(File);

/// What the mark says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Reached {
    pub(super) commits: u64,
    pub(super) accepted: u64,
}

impl Mark {
    pub(super) fn open(folder: &Path) -> io::Result<Self> {
        let path = folder.join("mark");
        OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(path)
            .map(Self)
    }

    /// What was written last; nothing when there is nothing or it is damaged.
    pub(super) fn read(&self) -> Reached {
        let mut bytes = [0; 20];
        if self.0.read_exact_at(&mut bytes, 0).is_err() {
            return Reached::default();
        }
        let [commits, accepted] = [0, 8].map(|at| bytes[at..at + 8].try_into().map_or(0, u64::from_be_bytes));
        let reached = Reached { commits, accepted };
        if encode(reached) == bytes {
            reached
        } else {
            Reached::default()
        }
    }

    pub(super) fn write(&self, ledger: &Ledger) -> io::Result<()> {
        let reached = Reached {
            commits: ledger.commits,
            accepted: ledger.counts.accepted,
        };
        self.0.write_all_at(&encode(reached), 0)
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}

fn encode(reached: Reached) -> [u8; 20] {
    let mut bytes = [0; 20];
    bytes[..8].copy_from_slice(&reached.commits.to_be_bytes());
    bytes[8..16].copy_from_slice(&reached.accepted.to_be_bytes());
    let crc = crc32c::crc32c(&bytes[..16]);
    bytes[16..].copy_from_slice(&crc.to_be_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Counts;

    #[test]
    fn a_mark_is_read_as_it_was_written_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let mark = Mark::open(folder.path()).unwrap();
        assert_eq!(mark.read(), Reached::default());
        let counts = Counts {
            accepted: 3,
            ..Counts::default()
        };
        mark.write(&Ledger { commits: 7, counts }).unwrap();
        assert_eq!(
            Mark::open(folder.path()).unwrap().read(),
            Reached {
                commits: 7,
                accepted: 3
            }
        );
        mark.0.write_all_at(&[9], 3).unwrap();
        assert_eq!(mark.read(), Reached::default());
    }
}
