//! Connections whose clients have not yet sent an authorized request. When a listener has no free slot, the
//! oldest of them are closed, so that silent or slow clients cannot keep out the others.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long every client has to send an authorized request.
const AUTHORIZATION_TIMEOUT: Duration = Duration::from_secs(2);

/// Interval of log lines about closed connections.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// The connections of one listener, and the unauthorized ones among them.
#[derive(Clone)]
pub(super) struct Slots {
    permits: Arc<Semaphore>,
    size: usize,
    unauthorized: Arc<Mutex<UnauthorizedClients>>,
}

#[derive(Default)]
struct UnauthorizedClients {
    /// By arrival.
    all: BTreeMap<u64, UnauthorizedClient>,
    arrived: u64,
    /// How many were closed since the last log line, and when that was written.
    closed: u64,
    logged_at: Option<Instant>,
}

struct UnauthorizedClient {
    arrived_at: Instant,
    leave: CancellationToken,
}

/// The slot of one connection. The connection ends when `leave` is cancelled.
pub(super) struct Slot {
    pub(super) leave: CancellationToken,
    authorization: Authorization,
    _permit: OwnedSemaphorePermit,
}

/// The state of a connection's client; the handler of its requests decides.
#[derive(Clone)]
pub struct Authorization {
    number: u64,
    unauthorized: Arc<Mutex<UnauthorizedClients>>,
}

impl Authorization {
    /// Keeps the connection, because its client is authorized.
    pub fn grant(&self) {
        lock(&self.unauthorized).all.remove(&self.number);
    }
}

impl Slot {
    pub(super) fn authorization(&self) -> Authorization {
        self.authorization.clone()
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.authorization.grant();
    }
}

impl Slots {
    /// Creates this many slots for connections.
    pub(super) fn new(size: usize) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(size)),
            size,
            unauthorized: Arc::default(),
        }
    }

    /// Waits for a free slot. While there is none, unauthorized connections are closed one by one after their
    /// time.
    pub(super) async fn acquire(&self) -> Option<OwnedSemaphorePermit> {
        loop {
            if let Ok(permit) = self.permits.clone().try_acquire_owned() {
                return Some(permit);
            }
            let oldest = lock(&self.unauthorized)
                .all
                .first_key_value()
                .map(|(number, client)| (*number, client.arrived_at + AUTHORIZATION_TIMEOUT));
            let (number, until) = match oldest {
                Some((number, until)) => (Some(number), until),
                None => (None, Instant::now() + AUTHORIZATION_TIMEOUT),
            };
            tokio::select! {
                permit = self.permits.clone().acquire_owned() => return permit.ok(),
                () = tokio::time::sleep_until(until) => number.into_iter().for_each(|number| self.close(number)),
            }
        }
    }

    /// Registers a client as unauthorized.
    pub(super) fn occupy(&self, permit: OwnedSemaphorePermit) -> Slot {
        let leave = CancellationToken::new();
        let mut unauthorized = lock(&self.unauthorized);
        unauthorized.arrived += 1;
        let number = unauthorized.arrived;
        let client = UnauthorizedClient {
            arrived_at: Instant::now(),
            leave: leave.clone(),
        };
        unauthorized.all.insert(number, client);
        let authorization = Authorization {
            number,
            unauthorized: self.unauthorized.clone(),
        };
        Slot {
            leave,
            authorization,
            _permit: permit,
        }
    }

    fn close(&self, number: u64) {
        let mut unauthorized = lock(&self.unauthorized);
        let Some(client) = unauthorized.all.remove(&number) else {
            return;
        };
        client.leave.cancel();
        unauthorized.closed += 1;
        let now = Instant::now();
        if unauthorized
            .logged_at
            .is_none_or(|told| now - told >= LOG_INTERVAL)
        {
            unauthorized.logged_at = Some(now);
            let closed = std::mem::take(&mut unauthorized.closed);
            drop(unauthorized);
            tracing::warn!(
                closed,
                "all {} connections were in use; closed {closed} from clients that had sent no valid request",
                self.size
            );
        }
    }
}

fn lock(unauthorized: &Mutex<UnauthorizedClients>) -> MutexGuard<'_, UnauthorizedClients> {
    unauthorized.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_oldest_unauthorized_client_is_closed_after_its_time_and_an_authorized_one_never() {
        let slots = Slots::new(2);
        let known = slots.occupy(slots.acquire().await.unwrap());
        known.authorization().grant();
        let client = slots.occupy(slots.acquire().await.unwrap());
        let leaving = client.leave.clone();
        let holder = tokio::spawn(async move {
            client.leave.cancelled().await;
            drop(client);
        });
        let began = Instant::now();
        let third = slots.occupy(slots.acquire().await.unwrap());
        assert!(leaving.is_cancelled() && began.elapsed() >= AUTHORIZATION_TIMEOUT);
        holder.await.unwrap();
        third.authorization().grant();
        let full = tokio::time::timeout(AUTHORIZATION_TIMEOUT * 10, slots.acquire()).await;
        assert!(full.is_err() && !known.leave.is_cancelled() && !third.leave.is_cancelled());
        drop(third);
        assert!(slots.acquire().await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn an_unauthorized_client_that_disconnected_is_removed() {
        let slots = Slots::new(1);
        drop(slots.occupy(slots.acquire().await.unwrap()));
        assert!(lock(&slots.unauthorized).all.is_empty());
    }
}
