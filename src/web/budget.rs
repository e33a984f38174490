//! Limits how many bytes all requests and answers together may hold.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Permits of one KiB, shared by all requests and answers.
#[derive(Clone)]
pub struct Budget {
    permits: Arc<Semaphore>,
    most: usize,
}

/// The part of the budget that one request or answer holds; dropping it returns the permits.
pub struct Held {
    permits: OwnedSemaphorePermit,
    budget: Budget,
}

impl Budget {
    /// Creates a budget of this many bytes.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        let most = bytes >> 10;
        Self {
            permits: Arc::new(Semaphore::new(most)),
            most,
        }
    }

    /// Takes this many bytes, if they are available now. A request larger than the whole budget takes all of
    /// it.
    #[must_use]
    pub fn take(&self, bytes: usize) -> Option<Held> {
        let permits = self.permits.clone();
        let permits = permits.try_acquire_many_owned(self.count(bytes)).ok()?;
        Some(Held {
            permits,
            budget: self.clone(),
        })
    }

    /// Like the previous method, but waits up to `limit` for the bytes.
    pub async fn wait(&self, bytes: usize, limit: Duration) -> Option<Held> {
        let permits = self.permits.clone().acquire_many_owned(self.count(bytes));
        let permits = tokio::time::timeout(limit, permits).await.ok()?.ok()?;
        Some(Held {
            permits,
            budget: self.clone(),
        })
    }

    fn count(&self, bytes: usize) -> u32 {
        let count = bytes.div_ceil(1 << 10).clamp(1, self.most.max(1));
        u32::try_from(count).unwrap_or(u32::MAX)
    }
}

impl Held {
    /// Extends the held part to this many bytes in total. Returns false if they are not available.
    #[must_use]
    pub fn grow(&mut self, bytes: usize) -> bool {
        let wanted = self.budget.count(bytes) as usize;
        let missing = wanted.saturating_sub(self.permits.num_permits());
        if missing == 0 {
            return true;
        }
        match self.budget.take(missing << 10) {
            Some(more) => {
                self.permits.merge(more.permits);
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_is_never_exceeded_and_bytes_are_returned() {
        let budget = Budget::new(8 << 10);
        let mut first = budget.take(1).unwrap();
        assert!(first.grow(5 << 10) && first.grow(1), "it never shrinks");
        assert!(budget.take(4 << 10).is_none());
        let second = budget.take(3 << 10).unwrap();
        assert!(!first.grow((5 << 10) + 1));
        drop(second);
        assert!(first.grow(8 << 10) && first.grow(1 << 30));
        assert!(budget.take(1).is_none());
        drop(first);
        assert!(
            budget.take(1 << 30).is_some(),
            "what is too large for it goes alone"
        );
    }
}
