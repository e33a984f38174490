//! How much of the backlog is in memory at once: the messages on their way, over all lanes.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// For the messages on their way, except one of each lane. What is rendered of them takes several times that.
const BYTES_MAX: usize = 16 << 20;

/// Room for messages, in permits of a KiB.
pub(super) struct Room(Arc<Semaphore>);

/// What one message takes of it, given back when this is dropped.
pub(super) struct Taken(#[expect(dead_code, reason = "held, not read")] Option<OwnedSemaphorePermit>);

impl Default for Room {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(BYTES_MAX >> 10)))
    }
}

impl Room {
    /// Room for a message of so many bytes, if there is any now.
    pub(super) fn take(&self, bytes: usize) -> Option<Taken> {
        let count = bytes.div_ceil(1 << 10).clamp(1, BYTES_MAX >> 10);
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        let permit = self.0.clone().try_acquire_many_owned(count).ok()?;
        Some(Taken(Some(permit)))
    }
}

impl Taken {
    /// For a lane's only message: it is sent whatever the others take, so that no destination waits for another.
    pub(super) fn nothing() -> Self {
        Self(None)
    }
}
