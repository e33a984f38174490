//! Free disk space: new messages are rejected while there is still enough to record the results of the stored ones.
//!
//! sled does not survive a full disk: a failed write makes it unusable, and opening it again needs space too. So
//! accepting stops at `min_free`. A ballast file reserves some space and is removed when even that runs low, and at
//! start. When nothing is left, every write is rejected before it is tried.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Resource, getrlimit};
use tracing::{info, warn};

use crate::store::Error;

/// The maximum size of the ballast file.
const BALLAST_BYTES: u64 = 4 << 20;

/// Below this, nothing is written: sled allocates space in steps of half a MiB.
pub(super) const RESERVE_BYTES: u64 = 1 << 20;

/// The growth of the database relative to the changes written to it: it writes pages, some of them repeatedly.
const GROWTH: u64 = 3;

/// How long a measurement is valid.
const FRESH: Duration = Duration::from_millis(100);

/// The free space, and who may still write.
pub(super) struct DiskSpace {
    folder: PathBuf,
    database: PathBuf,
    min_free: u64,
    has_ballast: bool,
    measured: Option<Instant>,
    /// The free space.
    pub(super) room: u64,
    /// The free space minus what the next checkpoint may need.
    pub(super) free: u64,
    pub(super) bytes: u64,
    /// The file size limit of the process (`RLIMIT_FSIZE`), if it is lower than the free space.
    pub(super) file_limit: Option<u64>,
    /// The file system has no free inodes.
    pub(super) no_inodes: bool,
}

impl DiskSpace {
    /// Measures the free space, and removes the ballast file if opening the store needs its space.
    pub(super) fn new(folder: &Path, database: &Path, min_free: u64) -> io::Result<Self> {
        let has_ballast = folder.join("ballast").exists();
        let mut space = Self {
            folder: folder.to_owned(),
            database: database.to_owned(),
            min_free,
            has_ballast,
            measured: None,
            room: 0,
            free: 0,
            bytes: 0,
            file_limit: None,
            no_inodes: false,
        };
        space.measure()?;
        space.free = space.room;
        Ok(space)
    }

    /// Measures again if the last measurement is old. If measuring fails, the last value is kept. `gathered` are the
    /// bytes of changes that the database does not have yet.
    pub(super) fn refresh(&mut self, gathered: usize) {
        if self.measured.is_none_or(|at| at.elapsed() > FRESH)
            && let Err(error) = self.measure()
        {
            warn!(path = %self.folder.display(), "cannot read the free space: {error}");
        }
        self.free = self.room.saturating_sub(GROWTH * gathered as u64);
    }

    /// Returns true if new messages are rejected. Acceptance, readiness and status use this decision.
    pub(super) fn is_full(&self) -> bool {
        self.free < self.needed()
    }

    /// Rejects a new message if there is too little space.
    pub(super) fn for_arrivals(&self) -> Result<(), Error> {
        if self.is_full() { Err(self.full()) } else { Ok(()) }
    }

    /// Rejects every write if there is almost no space.
    pub(super) fn for_anything(&self) -> Result<(), Error> {
        if self.free < RESERVE_BYTES {
            Err(self.full())
        } else {
            Ok(())
        }
    }

    fn full(&self) -> Error {
        let (free, needed) = (self.free, self.needed());
        Error::Full(format!("{free} bytes are free, {needed} are kept free"))
    }

    /// The free space required for a new message. The reserve is always required, however small `min_free` is.
    pub(super) fn needed(&self) -> u64 {
        self.min_free.max(RESERVE_BYTES)
    }

    fn measure(&mut self) -> io::Result<()> {
        self.measured = Some(Instant::now());
        self.bytes = std::fs::metadata(&self.database).map_or(0, |file| file.len());
        self.measure_free()?;
        let ballast = BALLAST_BYTES.min(self.min_free / 4);
        if self.has_ballast && self.room < RESERVE_BYTES + ballast {
            self.drop_ballast()?;
        } else if !self.has_ballast && ballast > 0 && self.room > self.min_free.saturating_add(2 * ballast) {
            self.take_ballast(ballast);
        }
        Ok(())
    }

    /// The free space of the file system and the remaining size of its files: the kernel enforces both.
    fn measure_free(&mut self) -> io::Result<()> {
        self.no_inodes = no_inodes(&self.folder)?;
        let room = free(&self.folder)?;
        let limit = getrlimit(Resource::Fsize).current;
        self.file_limit = limit.filter(|limit| limit.saturating_sub(self.bytes) < room);
        self.room = self
            .file_limit
            .map_or(room, |limit| limit.saturating_sub(self.bytes));
        Ok(())
    }

    fn drop_ballast(&mut self) -> io::Result<()> {
        self.has_ballast = false;
        std::fs::remove_file(self.folder.join("ballast"))?;
        self.measure_free()?;
        warn!(
            free = self.room,
            "the disk is almost full: the ballast file was removed so that deliveries can continue"
        );
        Ok(())
    }

    /// Not every file system can reserve space. Without a ballast file the limits still apply.
    fn take_ballast(&mut self, bytes: u64) {
        self.has_ballast = true;
        let path = self.folder.join("ballast");
        let taken = File::create(&path).and_then(|file| {
            Ok(rustix::fs::fallocate(
                &file,
                rustix::fs::FallocateFlags::empty(),
                0,
                bytes,
            )?)
        });
        if let Err(error) = taken {
            info!(path = %path.display(), "cannot write the ballast file: {error}");
        }
    }
}

pub(super) fn free(folder: &Path) -> io::Result<u64> {
    let file_system = rustix::fs::statvfs(folder)?;
    Ok(file_system.f_bavail.saturating_mul(file_system.f_frsize))
}

/// Returns true if there are no free inodes. File systems that create inodes dynamically report zero in total.
pub(super) fn no_inodes(folder: &Path) -> io::Result<bool> {
    let file_system = rustix::fs::statvfs(folder)?;
    Ok(file_system.f_files > 0 && file_system.f_favail == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ballast_file_is_created_while_there_is_space_and_removed_when_there_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let mut space = DiskSpace::new(folder.path(), &folder.path().join("db"), 1 << 20).unwrap();
        let ballast = folder.path().join("ballast");
        assert_eq!(std::fs::metadata(&ballast).unwrap().len(), 1 << 18);
        assert!(!space.is_full() && space.for_arrivals().is_ok());

        space.drop_ballast().unwrap();
        assert!(!ballast.exists());
        space.free = RESERVE_BYTES - 1;
        assert!(space.is_full() && space.for_anything().is_err());
        space.free = RESERVE_BYTES;
        space.min_free = RESERVE_BYTES + 1;
        assert!(space.for_arrivals().is_err() && space.for_anything().is_ok());
    }

    #[test]
    fn the_store_reports_full_whenever_it_rejects_a_message() {
        let folder = tempfile::tempdir().unwrap();
        for min_free in [0, 1, RESERVE_BYTES - 1, RESERVE_BYTES, RESERVE_BYTES + 1, 1 << 28] {
            let mut space = DiskSpace::new(folder.path(), &folder.path().join("db"), min_free).unwrap();
            for free in [
                0,
                RESERVE_BYTES - 1,
                RESERVE_BYTES,
                RESERVE_BYTES + 1,
                (1 << 28) - 1,
                1 << 28,
            ] {
                space.free = free;
                let refused = space.for_arrivals();
                assert_eq!(
                    space.is_full(),
                    refused.is_err(),
                    "min_free {min_free}, {free} free"
                );
                if let Err(Error::Full(words)) = refused {
                    let needed = space.needed();
                    assert!(free < needed && words.contains(&needed.to_string()), "{words}");
                }
            }
        }
    }
}
