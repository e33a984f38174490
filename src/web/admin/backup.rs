//! `GET /api/v1/backup`: streams the complete content of the store, reading each part when the client is ready for
//! it.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use http::{HeaderValue, Method, StatusCode, header};
use tokio::sync::OwnedSemaphorePermit;
use warp::reply::{Reply as _, Response};

use super::{Capacity, refused};
use crate::control::Control;
use crate::store::backup::{Encoder, Position};
use crate::web::{error, method_not_allowed};

/// Streams a backup. The first part is read before the response starts, so that an error of the store is reported
/// with a status. A later error ends the stream early; the file then lacks its end marker and is not accepted as
/// complete.
pub(super) async fn answer(control: &Arc<Control>, capacity: &Capacity, method: &Method) -> Response {
    if *method != Method::GET {
        return method_not_allowed("GET");
    }
    let Some(permit) = capacity.backup() else {
        return error(StatusCode::SERVICE_UNAVAILABLE, "other backups are being taken");
    };
    let mut encoder = Encoder::default();
    let begin = encoder.begin();
    let backup = Backup {
        control: Arc::clone(control),
        encoder,
        position: Some(Position::default()),
        _permit: permit,
    };
    let (first, backup) = match backup.part(begin).await {
        Ok(part) => part,
        Err(error) => return refused(&error),
    };
    let body = stream::once(async { Ok(first) }).chain(rest(backup));
    let mut response = warp::reply::stream(Alone(Mutex::new(Box::pin(body)))).into_response();
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/octet-stream"),
    );
    response
}

struct Backup {
    control: Arc<Control>,
    encoder: Encoder,
    /// `None` once the end is written.
    position: Option<Position>,
    /// Each backup in progress holds a part of the store in memory.
    _permit: OwnedSemaphorePermit,
}

impl Backup {
    /// Appends the next part to `bytes`, and the end marker after the last part.
    async fn part(mut self, mut bytes: Vec<u8>) -> Result<(Bytes, Self), crate::control::Error> {
        let Some(position) = self.position.take() else {
            return Ok((bytes.into(), self));
        };
        let (records, next) = self.control.export(position).await?;
        for record in &records {
            self.encoder
                .add(record, &mut bytes)
                .map_err(|error| crate::store::Error::Failed(error.to_string()))?;
        }
        if next.is_none() {
            bytes.extend(self.encoder.end());
        }
        self.position = next;
        Ok((bytes.into(), self))
    }
}

fn rest(backup: Backup) -> impl Stream<Item = io::Result<Bytes>> {
    stream::try_unfold(backup, |backup| async {
        if backup.position.is_none() {
            return Ok(None);
        }
        backup.part(Vec::new()).await.map(Some).map_err(|error| {
            tracing::error!("the backup was broken off: {error}");
            io::Error::other(error.to_string())
        })
    })
}

/// A stream with a single reader. warp requires bodies that can be shared between threads, which the futures of the
/// store cannot; the lock is never contended.
struct Alone<S>(Mutex<Pin<Box<S>>>);

impl<S: Stream> Stream for Alone<S> {
    type Item = S::Item;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<S::Item>> {
        let stream = self.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        stream.as_mut().poll_next(context)
    }
}
