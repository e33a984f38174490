//! `GET /api/v1/backup`: everything that is kept, read from the store part by part as the client takes it.

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

/// Answers with a backup. The first part is read before the answer begins, so that a store that refuses is
/// told with a status; later errors cut the stream, and the file then has no end and is never taken for whole.
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
    /// Nothing once the end is written.
    position: Option<Position>,
    /// Each backup under way holds a part of the store in memory.
    _permit: OwnedSemaphorePermit,
}

impl Backup {
    /// The next part behind `bytes`, with the end if it is the last.
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

/// A stream that only its one reader ever touches. warp wants its bodies shareable between threads, which
/// the store's futures are not; the lock is never waited for.
struct Alone<S>(Mutex<Pin<Box<S>>>);

impl<S: Stream> Stream for Alone<S> {
    type Item = S::Item;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<S::Item>> {
        let stream = self.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        stream.as_mut().poll_next(context)
    }
}
