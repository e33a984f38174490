//! The operations that are interrupted, and the stores that some of them start with.

use super::*;

/// The operation during which a call fails or is the last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Case {
    /// An undamaged store starts, accepts messages, delivers some, makes a checkpoint and stops.
    Work,
    /// The log fills its segments, is renewed, and removes the old ones.
    Segments,
    /// The database is replaced by a compact copy.
    Compaction,
    /// The daemon works while backups are made.
    Backups,
    /// The command that writes a backup.
    BackupCommand,
    /// The command that restores one.
    RestoreCommand,
    /// A start on a store whose database is damaged, and is rebuilt.
    DamagedDatabase,
    LostDatabase,
    /// A start on a store whose log is damaged, and is rewritten.
    DamagedLog,
    LostLog,
    /// A start on a store of an earlier format.
    Format1,
    Format2,
    Format3,
}

pub const CASES: [Case; 13] = [
    Case::Work,
    Case::Segments,
    Case::Compaction,
    Case::Backups,
    Case::BackupCommand,
    Case::RestoreCommand,
    Case::DamagedDatabase,
    Case::LostDatabase,
    Case::DamagedLog,
    Case::LostLog,
    Case::Format1,
    Case::Format2,
    Case::Format3,
];

impl Case {
    pub(super) fn format(self) -> Option<&'static str> {
        match self {
            Self::Format1 => Some("v1"),
            Self::Format2 => Some("v2"),
            Self::Format3 => Some("v3"),
            _ => None,
        }
    }

    /// Whether the store was damaged before, so that a start has to report it.
    pub(super) fn is_damaged(self) -> bool {
        use Case::{DamagedDatabase, DamagedLog, LostDatabase, LostLog};
        matches!(self, DamagedDatabase | LostDatabase | DamagedLog | LostLog)
    }

    /// Changes an undamaged store into one of this case.
    pub(super) fn prepare(self, store: &Path) {
        match self {
            Self::DamagedDatabase => overwrite(&store.join("sled/db"), 3_000),
            Self::LostDatabase => std::fs::remove_dir_all(store.join("sled")).unwrap(),
            Self::DamagedLog => {
                let files = super::super::aged::files(&store.join("log"));
                let segment = files.iter().find(|file| file.file_name().unwrap().len() == 16);
                overwrite(segment.expect("the log has a segment"), 50);
            }
            Self::LostLog => std::fs::remove_dir_all(store.join("log")).unwrap(),
            _ => {}
        }
    }
}

/// Overwrites this many bytes in the middle of the used part of a file.
fn overwrite(file: &Path, length: usize) {
    let mut bytes = std::fs::read(file).unwrap();
    let used = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    bytes[used / 3..used / 3 + length].fill(7);
    std::fs::write(file, bytes).unwrap();
}
