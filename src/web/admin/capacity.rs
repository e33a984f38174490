//! Memory and concurrency limits of the admin API: some requests and responses are large, and many may arrive at
//! once.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, StatusCode, header};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use warp::reply::{Reply as _, Response};

use crate::web::budget::{Budget, Held};
use crate::web::{error, json_bytes};

/// Memory budget for request bodies and for large responses in progress.
const BYTES_MAX: usize = 16 << 20;

/// Responses up to this size are not counted, so that `status` always responds.
const SMALL: usize = 64 << 10;

/// Upper bound of the requests that read messages at the same time. Others wait; a read takes a fraction of a second.
const READERS: usize = 2;

/// How long a request waits for a permit to read.
const TURN_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a large response waits for memory until clients have read other responses. It keeps its read permit
/// meanwhile.
const ROOM_TIMEOUT: Duration = Duration::from_secs(3);

/// Upper bound of the backups at the same time.
const BACKUPS: usize = 2;

/// Bytes of a large response that are passed to the connection at once.
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
    /// Waits for a permit to read messages and to build a response. The permit must be held until memory is reserved
    /// for the response, to limit the number of responses without reserved memory.
    pub(super) async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        let turn = tokio::time::timeout(TURN_TIMEOUT, self.readers.acquire()).await;
        turn.ok()?.ok()
    }

    /// A permit for another backup, if available.
    pub(super) fn backup(&self) -> Option<OwnedSemaphorePermit> {
        self.backups.clone().try_acquire_owned().ok()
    }

    /// Reserves memory for a request body of this size. Returns false if the budget is exhausted.
    pub(super) fn grow(&self, held: &mut Option<Held>, bytes: usize) -> bool {
        if let Some(held) = held {
            return held.grow(bytes);
        }
        *held = self.bytes.take(bytes);
        held.is_some()
    }

    /// A JSON response. A large one holds its reserved memory until the client has read it.
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

/// The response when memory or permits are exhausted.
pub(super) fn busy() -> Response {
    let what = "the requests and answers in progress use too much memory: try again in a moment";
    let mut response = error(StatusCode::SERVICE_UNAVAILABLE, what);
    let fields = response.headers_mut();
    fields.insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
    response
}

/// The connection holds copies of a few pieces; the rest of the response and its reserved memory are freed when the
/// last piece is taken.
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
