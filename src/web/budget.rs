//! How many bytes requests and answers may hold at once: a bound on what many of them together can take.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Permits of a KiB, shared by all that hold some.
#[derive(Clone)]
pub struct Budget {
    permits: Arc<Semaphore>,
    most: usize,
}

/// What one request or answer holds of it, given back when this is dropped.
pub struct Held {
    permits: OwnedSemaphorePermit,
    budget: Budget,
}

impl Budget {
    /// A budget of so many bytes.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        let most = bytes >> 10;
        Self {
            permits: Arc::new(Semaphore::new(most)),
            most,
        }
    }

    /// Room for so many bytes, if there is any now. What is larger than the whole budget takes all of it.
    #[must_use]
    pub fn take(&self, bytes: usize) -> Option<Held> {
        let permits = self.permits.clone();
        let permits = permits.try_acquire_many_owned(self.count(bytes)).ok()?;
        Some(Held {
            permits,
            budget: self.clone(),
        })
    }

    /// The same, waiting for room until `limit` has passed.
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
    /// Holds room for so many bytes in all. Returns false if there is none for the rest.
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
    fn no_more_is_held_than_there_is_and_it_comes_back() {
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
