//! Limits the memory for the messages in flight of all lanes.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// For all messages in flight, except one per lane. Rendered messages need several times as much.
const BYTES_MAX: usize = 16 << 20;

/// The memory for messages, in permits of one KiB.
pub(super) struct MemoryBudget(Arc<Semaphore>);

/// The memory reserved for one message, released on drop.
pub(super) struct MemoryPermit(#[expect(dead_code, reason = "held, not read")] Option<OwnedSemaphorePermit>);

impl Default for MemoryBudget {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(BYTES_MAX >> 10)))
    }
}

impl MemoryBudget {
    /// Reserves memory for a message of this size, if available.
    pub(super) fn reserve(&self, bytes: usize) -> Option<MemoryPermit> {
        let count = bytes.div_ceil(1 << 10).clamp(1, BYTES_MAX >> 10);
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        let permit = self.0.clone().try_acquire_many_owned(count).ok()?;
        Some(MemoryPermit(Some(permit)))
    }
}

impl MemoryPermit {
    /// For the only message of a lane: it is always sent, so that a destination never waits for another one.
    pub(super) fn exempt() -> Self {
        Self(None)
    }
}
