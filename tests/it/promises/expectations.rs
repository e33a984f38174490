//! What must have come to a receiver.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::ledger::{Acknowledged, Receiver};

impl Receiver {
    /// Waits until every acknowledged text came with this ordinal, and says how many came more than once. What
    /// takes long is no loss as long as more comes: `patience` is for the time in which nothing does.
    pub fn expect(&self, acknowledged: &Acknowledged, ordinal: u16, patience: Duration) -> usize {
        let owed = acknowledged.values().map(|id| format!("{id}-{ordinal}"));
        let mut missing: BTreeSet<String> = owed.collect();
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
                last.elapsed() < patience,
                "acknowledged texts were lost or held: {} came, {} did not: {:?}",
                distinct.len(),
                missing.len(),
                missing.iter().take(5).collect::<Vec<_>>()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}
