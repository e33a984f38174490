//! What the destinations share that post each message to the HTTP API of one service.

use std::time::Duration;

use http::StatusCode;
use reqwest::RequestBuilder;
use tokio::time::Instant;

use super::http::{Answer, Client};
use super::wording::Wording;
use super::{BuildContext, Delivered, Failure, OutboundMessage};
use crate::mask::{Mask, Reason};
use crate::retry;
use crate::template::{Medium, Template};

/// What an answer means for the delivery.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Meaning {
    /// The service has accepted the message.
    Accepted,
    /// The service asks for a pause, for this long if it says so.
    Limited(Option<Duration>),
    /// The service has a problem; every message would fail.
    Busy,
    /// Unknown: only this message waits.
    Odd,
    /// The service will never accept this message.
    Refused,
    /// Every message would fail until the operator does this.
    Misconfigured(&'static str),
}

impl Meaning {
    /// The usual meaning of a status. `advice` says what to check after a 401, 403, 404 and the like.
    pub(super) fn of(status: StatusCode, advice: &'static str) -> Self {
        match status {
            _ if status.is_success() => Self::Accepted,
            StatusCode::TOO_MANY_REQUESTS => Self::Limited(None),
            _ if status.is_server_error() => Self::Busy,
            _ if status.is_redirection() => {
                Self::Misconfigured("redirects are not followed: configure the final address")
            }
            StatusCode::UNAUTHORIZED
            | StatusCode::FORBIDDEN
            | StatusCode::NOT_FOUND
            | StatusCode::METHOD_NOT_ALLOWED
            | StatusCode::GONE => Self::Misconfigured(advice),
            StatusCode::BAD_REQUEST
            | StatusCode::PAYLOAD_TOO_LARGE
            | StatusCode::UNSUPPORTED_MEDIA_TYPE
            | StatusCode::UNPROCESSABLE_ENTITY => Self::Refused,
            _ => Self::Odd,
        }
    }
}

/// A pause of this many seconds, if it is one.
pub(super) fn seconds(asked: f64) -> Option<Duration> {
    retry::pause(Duration::try_from_secs_f64(asked).ok()?)
}

/// One service, as a destination uses it.
pub(super) struct Service {
    pub(super) http: Client,
    timeout: Duration,
    template: Option<Template>,
    mask: Mask,
}

impl Service {
    /// `mask` hides the secrets that an answer may repeat.
    pub(super) fn new(context: BuildContext<'_>, mask: Mask) -> Self {
        Self {
            http: context.http.clone(),
            timeout: context.timeout,
            template: context.template,
            mask,
        }
    }

    /// The end of an attempt that begins now.
    pub(super) fn deadline(&self) -> Instant {
        Instant::now() + self.timeout
    }

    /// The message in the words of the route's template, of the destination's, or of smsbridge.
    pub(super) fn wording(
        &self,
        outbound: &OutboundMessage<'_>,
        medium: Medium,
        link: fn(&str) -> String,
    ) -> Result<Wording, Failure> {
        let template = outbound.template.or(self.template.as_ref());
        Wording::new(outbound, template, medium, link)
    }

    /// Sends a request and reads the answer.
    pub(super) async fn ask(&self, request: RequestBuilder, deadline: Instant) -> Result<Answer, Failure> {
        self.http.ask(request, deadline, &self.mask).await
    }

    /// The outcome of an attempt. `said` is what the service says about it; it is masked, and not logged.
    pub(super) fn conclude(
        &self,
        answer: &Answer,
        meaning: Meaning,
        said: &str,
        outbound: &OutboundMessage<'_>,
    ) -> Result<Delivered, Failure> {
        let excerpt = self.mask.excerpt(said, Some(outbound.message));
        let reason = Reason::from(answer.status_line()).quote(": ", &excerpt);
        Err(match meaning {
            Meaning::Accepted => {
                return Ok(Delivered {
                    detail: answer.status_line(),
                    thread: None,
                });
            }
            Meaning::Limited(asked) => Answer {
                status: StatusCode::TOO_MANY_REQUESTS,
                retry_after: asked.or(answer.retry_after),
                ..answer.clone()
            }
            .busy(reason),
            Meaning::Busy => answer.busy(reason),
            Meaning::Odd => answer.odd(reason),
            Meaning::Refused => Failure::permanent(reason),
            Meaning::Misconfigured(advice) => Failure::parked(reason.own("; ").own(advice)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_has_its_usual_meaning() {
        for (status, expected) in [
            (200, Meaning::Accepted),
            (204, Meaning::Accepted),
            (
                301,
                Meaning::Misconfigured("redirects are not followed: configure the final address"),
            ),
            (400, Meaning::Refused),
            (401, Meaning::Misconfigured("check `token`")),
            (403, Meaning::Misconfigured("check `token`")),
            (404, Meaning::Misconfigured("check `token`")),
            (408, Meaning::Odd),
            (409, Meaning::Odd),
            (410, Meaning::Misconfigured("check `token`")),
            (413, Meaning::Refused),
            (429, Meaning::Limited(None)),
            (500, Meaning::Busy),
            (503, Meaning::Busy),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(Meaning::of(status, "check `token`"), expected, "{status}");
        }
    }

    #[test]
    fn a_pause_is_positive_and_bounded() {
        assert_eq!(seconds(0.5), Some(Duration::from_millis(500)));
        assert_eq!(seconds(0.0), None);
        assert_eq!(seconds(-1.0), None);
        assert_eq!(seconds(1e300), None);
        assert_eq!(seconds(1e9), Some(Duration::from_secs(24 * 60 * 60)));
    }
}
