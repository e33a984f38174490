//! The result of a request and the response to the carrier.

use bytes::Bytes;
use http::StatusCode;
use serde_json::json;

use crate::model::message::MessageId;

/// Why a request was rejected. The message is sent to the caller and does not reveal how close a guess was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// 4xx; or 503, if the carrier should send the request again.
    pub status: StatusCode,
    /// The reason for metrics, one of [`crate::metrics::REASONS`].
    pub reason: &'static str,
    /// The message of the JSON error. Of a 503 it is the cause, which is only logged.
    pub error: String,
    /// The base of the URL for which the signature is valid, if that is not `server.public_url`. It is for the operator.
    pub signed_for: Option<String>,
}

impl Refusal {
    /// 400. The message must not repeat anything from the request.
    #[must_use]
    pub fn malformed(error: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "malformed", error)
    }

    /// 401: missing or wrong credentials.
    #[must_use]
    pub fn unauthorized() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", REFUSED)
    }

    /// 403: wrong signature or address.
    #[must_use]
    pub fn forbidden() -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", REFUSED)
    }

    /// 403: the signature is valid, but for another URL than `server.public_url`.
    #[must_use]
    pub fn wrong_url(signed_for: &str) -> Self {
        Self {
            signed_for: Some(signed_for.to_owned()),
            ..Self::new(StatusCode::FORBIDDEN, "public_url", REFUSED)
        }
    }

    /// 503: the carrier should send the request again. `reason` is for metrics, `cause` for the log.
    #[must_use]
    pub fn retry(reason: &'static str, cause: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, reason, cause)
    }

    /// Returns true if the carrier should send the request again.
    #[must_use]
    pub fn is_retry(&self) -> bool {
        self.status == StatusCode::SERVICE_UNAVAILABLE
    }

    /// Any other status.
    #[must_use]
    pub fn new(status: StatusCode, reason: &'static str, error: impl Into<String>) -> Self {
        Self {
            status,
            reason,
            error: error.into(),
            signed_for: None,
        }
    }
}

/// The body for every cause, so that no response reveals how close a guess was.
const REFUSED: &str = "refused";

/// The result for one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The id assigned to the message.
    pub id: MessageId,
    /// Whether the message was stored before.
    pub duplicate: bool,
}

/// The result for one request.
#[derive(Clone, Copy, Debug)]
pub enum Outcome<'a> {
    /// It was verified, and its messages are stored; without messages it was ignored.
    Stored(&'a [Receipt]),
    /// It was rejected and should not be sent again.
    Refused(&'a Refusal),
    /// It could not be stored at the moment, with the reason. The carrier should send it again.
    Failing(&'a str),
}

/// The response to a carrier. Some carriers interpret the body, so the source determines every byte, also for errors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The HTTP status.
    pub status: StatusCode,
    /// The `Content-Type`; `None` for an empty body.
    pub content_type: Option<&'static str>,
    /// The body.
    pub body: Bytes,
}

impl Reply {
    /// A JSON document on one line.
    #[must_use]
    pub fn json(status: StatusCode, body: &serde_json::Value) -> Self {
        Self {
            status,
            content_type: Some("application/json"),
            body: format!("{body}\n").into(),
        }
    }

    /// The response for carriers that act on the body of a response: a success has this body.
    #[must_use]
    pub fn fixed(outcome: &Outcome<'_>, content_type: &'static str, body: &'static str) -> Self {
        match outcome {
            Outcome::Stored(_) => Self {
                status: StatusCode::OK,
                content_type: Some(content_type),
                body: body.into(),
            },
            Outcome::Refused(_) | Outcome::Failing(_) => Self::plain(outcome),
        }
    }

    /// The response for carriers that only look at the status. The body helps people who debug with curl.
    #[must_use]
    pub fn plain(outcome: &Outcome<'_>) -> Self {
        match *outcome {
            Outcome::Stored(receipts) => Self::json(StatusCode::OK, &stored(receipts)),
            Outcome::Refused(refusal) => Self::json(refusal.status, &json!({ "error": refusal.error })),
            Outcome::Failing(why) => Self::json(StatusCode::SERVICE_UNAVAILABLE, &json!({ "error": why })),
        }
    }
}

fn stored(receipts: &[Receipt]) -> serde_json::Value {
    match receipts.first() {
        Some(Receipt { id, duplicate: false }) => json!({ "status": "accepted", "id": id }),
        Some(Receipt { id, duplicate: true }) => json!({ "status": "duplicate", "id": id }),
        None => json!({ "status": "ignored" }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plain_reply_distinguishes_new_and_duplicate() {
        let id: MessageId = "00000000000000000000000000000007".parse().unwrap();
        let refusal = Refusal::malformed("`from` is missing");
        let receipt = |duplicate| [Receipt { id, duplicate }];
        for (outcome, status, body) in [
            (
                Outcome::Stored(&receipt(false)),
                200,
                "{\"id\":\"00000000000000000000000000000007\",\"status\":\"accepted\"}\n",
            ),
            (
                Outcome::Stored(&receipt(true)),
                200,
                "{\"id\":\"00000000000000000000000000000007\",\"status\":\"duplicate\"}\n",
            ),
            (Outcome::Stored(&[]), 200, "{\"status\":\"ignored\"}\n"),
            (
                Outcome::Refused(&refusal),
                400,
                "{\"error\":\"`from` is missing\"}\n",
            ),
            (Outcome::Failing("again"), 503, "{\"error\":\"again\"}\n"),
        ] {
            let reply = Reply::plain(&outcome);
            assert_eq!(reply.status.as_u16(), status);
            assert_eq!(reply.body, body);
            assert_eq!(reply.content_type, Some("application/json"));
        }
    }
}
