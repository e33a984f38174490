//! Reads the body of a request within its limit and the available memory budget.

use bytes::{Buf, Bytes, BytesMut};
use futures_util::{Stream, StreamExt as _};
use http::HeaderMap;
use http::header::CONTENT_LENGTH;

/// Why a body was not read completely.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unread {
    /// It is longer than this many bytes.
    TooBig(usize),
    /// The connection broke, or the framing is invalid.
    Broken,
    /// The memory budget of all requests is exhausted.
    NoRoom,
}

/// Upper bound of the memory that is reserved for an announced length before the data arrives.
const EXPECTED_BYTES: usize = 16 << 10;

/// Reads a body up to its limit. An announced length above the limit is rejected before the first byte is read. Calls
/// `grow` to reserve memory for the complete body received so far.
pub(super) async fn collect<B: Buf>(
    headers: &HeaderMap,
    body: impl Stream<Item = Result<B, warp::Error>>,
    limit: usize,
    mut grow: impl FnMut(usize) -> bool,
) -> Result<Bytes, Unread> {
    let announced = headers
        .get(CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|length| length > limit) {
        return Err(Unread::TooBig(limit));
    }
    let mut body = std::pin::pin!(body);
    let mut collected = BytesMut::with_capacity(announced.unwrap_or(0).min(EXPECTED_BYTES));
    while let Some(part) = body.next().await {
        let mut part = part.map_err(|_| Unread::Broken)?;
        let length = collected.len() + part.remaining();
        if length > limit {
            return Err(Unread::TooBig(limit));
        }
        if !grow(length) {
            return Err(Unread::NoRoom);
        }
        while part.has_remaining() {
            let chunk = part.chunk();
            collected.extend_from_slice(chunk);
            let length = chunk.len();
            part.advance(length);
        }
    }
    Ok(collected.freeze())
}

#[cfg(test)]
mod tests {
    use futures_util::stream;

    use super::*;

    async fn read(announced: Option<&str>, parts: &[&'static str], room: usize) -> Result<Bytes, Unread> {
        let headers = announced.map(|length| (CONTENT_LENGTH, length.parse().unwrap()));
        let headers = headers.into_iter().collect();
        let parts = parts.iter().map(|part| Ok(Bytes::from_static(part.as_bytes())));
        collect(&headers, stream::iter(parts.collect::<Vec<_>>()), 8, |length| {
            length <= room
        })
        .await
    }

    #[tokio::test]
    async fn a_body_is_read_within_its_limit_and_the_budget() {
        assert_eq!(
            read(None, &["abcd", "", "efgh"], 8).await,
            Ok(Bytes::from("abcdefgh"))
        );
        assert_eq!(
            read(Some("8"), &["abcdefgh"], 8).await,
            Ok(Bytes::from("abcdefgh"))
        );
        assert_eq!(read(None, &["abcd", "efghi"], 9).await, Err(Unread::TooBig(8)));
        assert_eq!(read(Some("9"), &[], 9).await, Err(Unread::TooBig(8)));
        assert_eq!(read(None, &["abcd", "e"], 4).await, Err(Unread::NoRoom));
    }
}
