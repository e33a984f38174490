//! The health of a store.

use std::time::Duration;

/// A commit that takes longer than this indicates a problem of the disk.
pub(super) const COMMIT_LATE: Duration = Duration::from_secs(2);

/// The health of the store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// The size of the store on disk, in bytes.
    pub bytes: u64,
    /// Free bytes on its file system; `None` if it is not on this machine.
    pub free: Option<u64>,
    /// The bytes that must be free for new messages: `store.min_free`, or what the store itself needs for writing.
    pub needed: u64,
    /// New messages are rejected because of a lack of space.
    pub full: bool,
    /// What the database server said when a write failed because its disk is full, until a write succeeds.
    pub full_server: Option<String>,
    /// The limit of the process for the size of a file, if it is less than the free space.
    pub file_limit: Option<u64>,
    /// No more files can be created on the file system. New messages need none; a start, a backup and a compaction
    /// do.
    pub no_inodes: bool,
    /// The error after which nothing more is written.
    pub failed: Option<String>,
    /// Why the database cannot be used at the moment, if it cannot.
    pub unavailable: Option<String>,
    /// How long the oldest unfinished commit has been running.
    pub commit_running: Option<Duration>,
    /// The duration of the last commit.
    pub commit_last: Option<Duration>,
    /// The number of commits since the start.
    pub commits: u64,
    /// The findings of the audit, as sentences, until they are acknowledged.
    pub findings: Vec<String>,
    /// What does not work as it should, although messages are stored and delivered, as sentences.
    pub warnings: Vec<String>,
}

impl Health {
    /// The free and the required space, and what to do if it is too little.
    #[must_use]
    pub fn space(&self) -> String {
        if let Some(reason) = &self.full_server {
            return format!("the disk of the database server is full: {reason}; free space there");
        }
        let size = |bytes| bytesize::ByteSize(bytes).display().iec();
        let (free, needed) = (size(self.free.unwrap_or_default()), size(self.needed));
        match self.file_limit {
            _ if !self.full => format!("{free} free, {needed} must stay free (`store.min_free`)"),
            Some(limit) => format!(
                "the store is full: its file may not grow beyond {} (RLIMIT_FSIZE), {needed} must stay free \
                 (`store.min_free`); raise LimitFSIZE= of the unit, or `ulimit -f`",
                size(limit)
            ),
            None => format!(
                "the store is full: {free} free, {needed} must stay free (`store.min_free`); free disk space, or lower \
                 `store.min_free` and restart"
            ),
        }
    }
}
