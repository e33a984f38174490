//! Connections whose clients have not yet sent an authorized request. When a listener has no room left, the
//! oldest of them are closed, so that silent or slow clients cannot keep out the others.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long every client has to send an authorized request.
const PATIENCE: Duration = Duration::from_secs(2);

/// Interval of log lines about closed connections.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// The connections of one listener, and the unauthorized ones among them.
#[derive(Clone)]
pub(super) struct Room {
    places: Arc<Semaphore>,
    size: usize,
    strangers: Arc<Mutex<Strangers>>,
}

#[derive(Default)]
struct Strangers {
    /// By arrival.
    all: BTreeMap<u64, Stranger>,
    arrived: u64,
    /// How many were closed since the last log line, and when that was written.
    closed: u64,
    logged_at: Option<Instant>,
}

struct Stranger {
    arrived_at: Instant,
    leave: CancellationToken,
}

/// The place of one connection. The connection ends when `leave` is cancelled.
pub(super) struct Place {
    pub(super) leave: CancellationToken,
    standing: Standing,
    _permit: OwnedSemaphorePermit,
}

/// The state of a connection's client; the handler of its requests decides.
#[derive(Clone)]
pub struct Standing {
    number: u64,
    strangers: Arc<Mutex<Strangers>>,
}

impl Standing {
    /// Keeps the connection, because its client is authorized.
    pub fn admit(&self) {
        lock(&self.strangers).all.remove(&self.number);
    }
}

impl Place {
    pub(super) fn standing(&self) -> Standing {
        self.standing.clone()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.standing.admit();
    }
}

impl Room {
    /// Room for this many connections.
    pub(super) fn new(size: usize) -> Self {
        Self {
            places: Arc::new(Semaphore::new(size)),
            size,
            strangers: Arc::default(),
        }
    }

    /// Waits for a place. While there is none, unauthorized connections are closed one by one after their
    /// time.
    pub(super) async fn place(&self) -> Option<OwnedSemaphorePermit> {
        loop {
            if let Ok(permit) = self.places.clone().try_acquire_owned() {
                return Some(permit);
            }
            let oldest = lock(&self.strangers)
                .all
                .first_key_value()
                .map(|(number, stranger)| (*number, stranger.arrived_at + PATIENCE));
            let (number, until) = match oldest {
                Some((number, until)) => (Some(number), until),
                None => (None, Instant::now() + PATIENCE),
            };
            tokio::select! {
                permit = self.places.clone().acquire_owned() => return permit.ok(),
                () = tokio::time::sleep_until(until) => number.into_iter().for_each(|number| self.close(number)),
            }
        }
    }

    /// Registers a client as unauthorized.
    pub(super) fn take(&self, permit: OwnedSemaphorePermit) -> Place {
        let leave = CancellationToken::new();
        let mut strangers = lock(&self.strangers);
        strangers.arrived += 1;
        let number = strangers.arrived;
        let stranger = Stranger {
            arrived_at: Instant::now(),
            leave: leave.clone(),
        };
        strangers.all.insert(number, stranger);
        let standing = Standing {
            number,
            strangers: self.strangers.clone(),
        };
        Place {
            leave,
            standing,
            _permit: permit,
        }
    }

    fn close(&self, number: u64) {
        let mut strangers = lock(&self.strangers);
        let Some(stranger) = strangers.all.remove(&number) else {
            return;
        };
        stranger.leave.cancel();
        strangers.closed += 1;
        let now = Instant::now();
        if strangers.logged_at.is_none_or(|told| now - told >= LOG_INTERVAL) {
            strangers.logged_at = Some(now);
            let closed = std::mem::take(&mut strangers.closed);
            drop(strangers);
            tracing::warn!(
                closed,
                "all {} connections were in use; closed {closed} from clients that had sent no valid request",
                self.size
            );
        }
    }
}

fn lock(strangers: &Mutex<Strangers>) -> MutexGuard<'_, Strangers> {
    strangers.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_oldest_unauthorized_client_is_closed_after_its_time_and_an_authorized_one_never() {
        let room = Room::new(2);
        let known = room.take(room.place().await.unwrap());
        known.standing().admit();
        let stranger = room.take(room.place().await.unwrap());
        let leaving = stranger.leave.clone();
        let holder = tokio::spawn(async move {
            stranger.leave.cancelled().await;
            drop(stranger);
        });
        let began = Instant::now();
        let third = room.take(room.place().await.unwrap());
        assert!(leaving.is_cancelled() && began.elapsed() >= PATIENCE);
        holder.await.unwrap();
        third.standing().admit();
        let full = tokio::time::timeout(PATIENCE * 10, room.place()).await;
        assert!(full.is_err() && !known.leave.is_cancelled() && !third.leave.is_cancelled());
        drop(third);
        assert!(room.place().await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn an_unauthorized_client_that_disconnected_is_removed() {
        let room = Room::new(1);
        drop(room.take(room.place().await.unwrap()));
        assert!(lock(&room.strangers).all.is_empty());
    }
}
