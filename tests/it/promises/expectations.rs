//! Checks which messages a receiver got.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::ledger::{Acknowledged, Receiver};

impl Receiver {
    /// Waits until every acknowledged message arrived with this ordinal, and returns how many arrived more than once.
    /// `limit` is the longest time in which nothing arrives.
    pub fn expect(&self, acknowledged: &Acknowledged, ordinal: u16, limit: Duration) -> usize {
        let expected = acknowledged.values().map(|id| format!("{id}-{ordinal}"));
        let mut missing: BTreeSet<String> = expected.collect();
        let mut distinct = BTreeSet::new();
        let mut seen = 0;
        let mut last = Instant::now();
        loop {
            let news = self.taken().split_off(seen);
            if !news.is_empty() {
                seen += news.len();
                last = Instant::now();
            }
            for id in news {
                missing.remove(&id);
                distinct.insert(id);
            }
            if missing.is_empty() {
                return seen - distinct.len();
            }
            assert!(
                last.elapsed() < limit,
                "acknowledged messages were lost or held: {} came, {} did not: {:?}",
                distinct.len(),
                missing.len(),
                missing.iter().take(5).collect::<Vec<_>>()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}
