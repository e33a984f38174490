//! Group commit: while one transaction is committed, further changes gather and become the next one.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::TaskTracker;

use crate::store::Error;

/// How long a caller waits for its change at most, and how long a transaction is repeated.
pub(super) const WAIT: Duration = Duration::from_secs(10);

/// Upper bound of the changes that wait for a worker.
const QUEUED: usize = 4_096;

/// Upper bound of the changes of one transaction.
const GROUP: usize = 256;

/// The size in bytes at which a transaction takes no further change.
const GROUP_BYTES: usize = 8 << 20;

/// Commits changes in groups.
#[async_trait]
pub(super) trait Committer: Send + Sync + 'static {
    /// A change.
    type Change: Send + Sync + 'static;
    /// Its result.
    type Outcome: Send + 'static;

    /// The size of a change in bytes.
    fn size(change: &Self::Change) -> usize;

    /// Commits a group, and returns the outcome of each change. Each worker has a number of its own.
    async fn commit(
        &self,
        worker: i16,
        changes: &[Self::Change],
        deadline: Instant,
    ) -> Vec<Result<Self::Outcome, Error>>;
}

struct Item<C: Committer> {
    change: C::Change,
    reply: oneshot::Sender<Result<C::Outcome, Error>>,
    since: Instant,
}

/// The queues of the workers. Changes with the same key are committed in the order of their requests.
pub(super) struct Gather<C: Committer> {
    workers: Mutex<Vec<mpsc::Sender<Item<C>>>>,
    wait: Duration,
}

impl<C: Committer> Gather<C> {
    /// Starts workers with these numbers. A caller waits for its change for at most `wait`.
    pub(super) fn start(committer: &Arc<C>, numbers: &[i16], wait: Duration, tasks: &TaskTracker) -> Self {
        let start = |&number: &i16| {
            let (sender, receiver) = mpsc::channel(QUEUED);
            tasks.spawn(work(committer.clone(), number, wait, receiver));
            sender
        };
        Self {
            workers: Mutex::new(numbers.iter().map(start).collect()),
            wait,
        }
    }

    /// Commits a change together with others. After an error other than [`Error::Busy`] it may still be committed.
    pub(super) async fn put(&self, key: u64, change: C::Change) -> Result<C::Outcome, Error> {
        let (reply, outcome) = oneshot::channel();
        let item = Item {
            change,
            reply,
            since: Instant::now(),
        };
        let sent = self.worker(key).ok_or_else(closed)?.try_send(item);
        sent.map_err(|refused| match refused {
            mpsc::error::TrySendError::Full(_) => Error::Busy,
            mpsc::error::TrySendError::Closed(_) => closed(),
        })?;
        match tokio::time::timeout(self.wait, outcome).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(closed()),
            Err(_) => Err(Error::Unavailable(format!(
                "no answer within {:.0} s",
                self.wait.as_secs_f64()
            ))),
        }
    }

    fn worker(&self, key: u64) -> Option<mpsc::Sender<Item<C>>> {
        let workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        let count = workers.len() as u64;
        let index = key.checked_rem(count)?;
        workers.get(usize::try_from(index).ok()?).cloned()
    }

    /// Takes no more changes. The workers end when they have committed those they have.
    pub(super) fn close(&self) {
        self.workers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }
}

fn closed() -> Error {
    Error::Failed("the store is closed".to_owned())
}

async fn work<C: Committer>(
    committer: Arc<C>,
    number: i16,
    wait: Duration,
    mut queue: mpsc::Receiver<Item<C>>,
) {
    let mut items = Vec::new();
    while queue.recv_many(&mut items, GROUP).await > 0 {
        while !items.is_empty() {
            let (changes, waiting) = take(&mut items);
            // At the end of an outage, callers of the first group may have given up already.
            let since = waiting.iter().map(|(_, since)| *since).min();
            let deadline = since.map_or_else(Instant::now, |since| since + wait);
            let deadline = deadline.max(Instant::now() + Duration::from_secs(1));
            let outcomes = committer.commit(number, &changes, deadline).await;
            for ((reply, _), outcome) in waiting.into_iter().zip(outcomes) {
                // The caller may have stopped waiting.
                drop(reply.send(outcome));
            }
        }
    }
}

type Waiting<C> = (oneshot::Sender<Result<<C as Committer>::Outcome, Error>>, Instant);

/// Takes the first items that fit into a transaction, at least one.
fn take<C: Committer>(items: &mut Vec<Item<C>>) -> (Vec<C::Change>, Vec<Waiting<C>>) {
    let mut size = 0;
    let fitting = items.iter().take_while(|item| {
        let fits = size < GROUP_BYTES;
        size += C::size(&item.change);
        fits
    });
    let count = fitting.count().max(1).min(items.len());
    let taken = items.drain(..count);
    taken.map(|item| (item.change, (item.reply, item.since))).unzip()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Records the groups; a change is its size in MiB.
    #[derive(Default)]
    struct Groups(Mutex<Vec<Vec<usize>>>);

    #[async_trait]
    impl Committer for Groups {
        type Change = usize;
        type Outcome = usize;

        fn size(change: &usize) -> usize {
            change << 20
        }

        async fn commit(&self, _: i16, changes: &[usize], _: Instant) -> Vec<Result<usize, Error>> {
            tokio::time::sleep(Duration::from_millis(1)).await;
            self.0.lock().unwrap().push(changes.to_vec());
            changes.iter().map(|change| Ok(*change)).collect()
        }
    }

    #[tokio::test]
    async fn changes_gather_in_order_up_to_the_size_of_a_group() {
        let (groups, tasks) = (Arc::new(Groups::default()), TaskTracker::new());
        let gather = Gather::start(&groups, &[1], WAIT, &tasks);
        let sizes = [1, 5, 4, 3, 20, 1];
        let put = sizes.map(|size| gather.put(7, size));
        let outcomes = futures_util::future::join_all(put).await;
        assert_eq!(outcomes, sizes.map(Ok));
        let groups = groups.0.lock().unwrap().clone();
        assert_eq!(groups.concat(), sizes);
        assert_eq!(groups.last().unwrap(), &[1], "a group ends when it is full");
        gather.close();
        assert!(matches!(gather.put(7, 1).await, Err(Error::Failed(_))));
        tasks.close();
        tasks.wait().await;
    }

    #[tokio::test]
    async fn a_caller_is_answered_before_its_own_time_limit() {
        let (groups, tasks) = (Arc::new(Groups::default()), TaskTracker::new());
        let gather = Gather::start(&groups, &[1], Duration::from_micros(10), &tasks);
        assert!(matches!(gather.put(7, 1).await, Err(Error::Unavailable(_))));
    }
}
