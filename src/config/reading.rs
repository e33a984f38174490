//! Tracks which file is being read, so that a timeout can name a file on a file system that does not respond.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::file::{self, Content};

/// The file being read, and since when. Clones share the value: one thread reads, another one observes.
#[derive(Clone, Debug, Default)]
pub struct Reading(Arc<Mutex<Option<(String, Instant)>>>);

impl Reading {
    /// A description of the file being read, and the time since its start.
    #[must_use]
    pub fn current(&self) -> Option<(String, Duration)> {
        let current = self.lock();
        current
            .as_ref()
            .map(|(file, since)| (file.clone(), since.elapsed()))
    }

    /// Runs `read` and shows `file` as the file being read in the meantime.
    pub fn during<T>(&self, file: String, read: impl FnOnce() -> T) -> T {
        *self.lock() = Some((file, Instant::now()));
        let content = read();
        *self.lock() = None;
        content
    }

    /// Reads a file; `what` describes it in errors.
    pub(super) fn file(&self, what: &str, path: &Path, max: u64) -> Result<Content, file::Error> {
        self.during(format!("{what} {}", path.display()), || file::read(path, max))
    }

    fn lock(&self) -> MutexGuard<'_, Option<(String, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
