//! What operators' requests and answers may take together: some are large, and many may be asked for at once.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, StatusCode, header};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use warp::reply::{Reply as _, Response};

use crate::web::budget::{Budget, Held};
use crate::web::{error, json_bytes};

/// For the bodies of requests, and for large answers that are being written.
const BYTES_MAX: usize = 16 << 20;

/// An answer up to this size is not counted: `status` answers whatever else is asked for.
const SMALL: usize = 64 << 10;

/// Messages are read for so many requests at once. Others wait for their turn, which takes a fraction of a second.
const READERS: usize = 2;

/// How long a request waits for its turn.
const TURN_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a large answer waits for others to be read by their clients. It holds its turn meanwhile.
const ROOM_TIMEOUT: Duration = Duration::from_secs(3);

/// Backups at once.
const BACKUPS: usize = 2;

/// How much of a large answer is handed to the connection at once.
const PIECE: usize = 64 << 10;

/// Shared by all listeners.
#[derive(Clone)]
pub struct Capacity {
    bytes: Budget,
    readers: Arc<Semaphore>,
    backups: Arc<Semaphore>,
}

impl Default for Capacity {
    fn default() -> Self {
        Self {
            bytes: Budget::new(BYTES_MAX),
            readers: Arc::new(Semaphore::new(READERS)),
            backups: Arc::new(Semaphore::new(BACKUPS)),
        }
    }
}

impl Capacity {
    /// Waits for the turn to read messages and to make an answer of them. It is to be held until there is room for the
    /// answer, so that few of those are held without.
    pub(super) async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        let turn = tokio::time::timeout(TURN_TIMEOUT, self.readers.acquire()).await;
        turn.ok()?.ok()
    }

    /// The permit for one more backup, if there is one.
    pub(super) fn backup(&self) -> Option<OwnedSemaphorePermit> {
        self.backups.clone().try_acquire_owned().ok()
    }

    /// Holds room for a request's body of so many bytes. Returns false if there is none.
    pub(super) fn grow(&self, held: &mut Option<Held>, bytes: usize) -> bool {
        if let Some(held) = held {
            return held.grow(bytes);
        }
        *held = self.bytes.take(bytes);
        held.is_some()
    }

    /// An answer of JSON. A large one holds room until the client has read it.
    pub(super) async fn answer(&self, body: Vec<u8>) -> Response {
        if body.len() <= SMALL {
            return json_bytes(StatusCode::OK, body);
        }
        match self.bytes.wait(body.len(), ROOM_TIMEOUT).await {
            Some(held) => in_pieces(body, held),
            None => busy(),
        }
    }
}

/// The answer when there is no room or no turn.
pub(super) fn busy() -> Response {
    let what = "the requests and answers in progress use too much memory: try again in a moment";
    let mut response = error(StatusCode::SERVICE_UNAVAILABLE, what);
    let fields = response.headers_mut();
    fields.insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
    response
}

/// The connection has copies of a piece or two; the rest and its room go when it has taken the last one.
fn in_pieces(body: Vec<u8>, held: Held) -> Response {
    let length = body.len();
    let pieces = stream::unfold((body, 0, held), |(body, from, held)| async move {
        let rest = body.get(from..).filter(|rest| !rest.is_empty())?;
        let piece = Bytes::copy_from_slice(&rest[..rest.len().min(PIECE)]);
        let next = from + piece.len();
        Some((Ok::<_, std::io::Error>(piece), (body, next, held)))
    });
    let mut response = warp::reply::stream(pieces).into_response();
    let fields = response.headers_mut();
    fields.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    fields.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    response
}
