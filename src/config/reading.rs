//! Which file is being read at the moment, so that one on a file system that no longer answers can be named.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::file::{self, Content};

/// What is being read, and since when. Clones share it: one thread reads, another looks.
#[derive(Clone, Debug, Default)]
pub struct Reading(Arc<Mutex<Option<(String, Instant)>>>);

impl Reading {
    /// The file that is being read, in words, and for how long already.
    #[must_use]
    pub fn current(&self) -> Option<(String, Duration)> {
        let current = self.lock();
        current
            .as_ref()
            .map(|(file, since)| (file.clone(), since.elapsed()))
    }

    /// Tells that `file` is being read while `read` runs.
    pub fn during<T>(&self, file: String, read: impl FnOnce() -> T) -> T {
        *self.lock() = Some((file, Instant::now()));
        let content = read();
        *self.lock() = None;
        content
    }

    /// Reads a file that is a `what`.
    pub(super) fn file(&self, what: &str, path: &Path, max: u64) -> Result<Content, file::Error> {
        self.during(format!("{what} {}", path.display()), || file::read(path, max))
    }

    fn lock(&self) -> MutexGuard<'_, Option<(String, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
