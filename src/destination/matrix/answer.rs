//! Classifies the responses of a homeserver: [a status and an `errcode`][1].
//!
//! [1]: https://spec.matrix.org/latest/client-server-api/#standard-error-response

use std::time::Duration;

use http::StatusCode;

use super::super::Failure;
use super::super::http::Answer;
use crate::retry;

/// Errors that concern every message, and what the operator should do.
const MISCONFIGURED: &[(&str, &str)] = &[
    (
        "M_CONSENT_NOT_GIVEN",
        "log in as this user once and accept the server's terms",
    ),
    (
        "M_FORBIDDEN",
        "invite the user into the room and let it write there",
    ),
    ("M_GUEST_ACCESS_FORBIDDEN", "use the token of a registered user"),
    ("M_INVALID_ROOM_ALIAS", "check `room`"),
    ("M_MISSING_TOKEN", "check `access_token`"),
    ("M_NOT_FOUND", "check `room` and `homeserver`"),
    (
        "M_UNKNOWN_TOKEN",
        "make a new `access_token`: this one is unknown or was logged out",
    ),
    (
        "M_UNRECOGNIZED",
        "check `homeserver`: it must be the base of the client-server API",
    ),
    ("M_USER_DEACTIVATED", "the user is deactivated: use another one"),
    (
        "M_USER_LOCKED",
        "the user is locked: ask the server's administrator",
    ),
    (
        "M_USER_SUSPENDED",
        "the user is suspended: ask the server's administrator",
    ),
];

const LIMITED: &str = "M_LIMIT_EXCEEDED";

/// Errors that concern one message.
const REFUSED: &[&str] = &[
    "M_BAD_JSON",
    "M_INVALID_PARAM",
    "M_MISSING_PARAM",
    "M_NOT_JSON",
    "M_TOO_LARGE",
];

/// The `errcode`, if it is valid.
pub fn code(answer: &Answer) -> Option<String> {
    let code = answer.members.get("errcode").as_str()?;
    let usual = code
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"_.".contains(&byte));
    (usual && (1..=64).contains(&code.len())).then(|| code.to_owned())
}

/// Classifies an error response. Without an `errcode` it comes from an intermediary (a proxy whose homeserver is
/// restarting responds with 404 or 502), so it is transient.
pub fn failure(answer: &Answer, doing: &str, may_tell: impl Fn(&str) -> bool) -> Failure {
    let code = code(answer);
    let is_known = |code: &str| {
        code == LIMITED || REFUSED.contains(&code) || MISCONFIGURED.iter().any(|(known, _)| *known == code)
    };
    let said = match &code {
        Some(code) if is_known(code) || may_tell(code) => {
            format!("{doing}: `{code}` ({})", answer.status_line())
        }
        Some(_) => format!(
            "{doing}: the answer of the homeserver repeats the request ({})",
            answer.status_line()
        ),
        None => format!(
            "{doing}: not an answer of a homeserver ({})",
            answer.status_line()
        ),
    };
    let code = code.unwrap_or_default();
    if code == LIMITED || answer.status == StatusCode::TOO_MANY_REQUESTS {
        return limited(answer, said);
    }
    if let Some((_, advice)) = MISCONFIGURED.iter().find(|(known, _)| *known == code) {
        return Failure::parked(format!("{said}: {advice}"));
    }
    match answer.status {
        _ if REFUSED.contains(&code.as_str()) => Failure::permanent(said),
        StatusCode::UNAUTHORIZED => Failure::parked(format!("{said}: check `access_token`")),
        StatusCode::PAYLOAD_TOO_LARGE => Failure::permanent(said),
        status if status.is_redirection() => Failure::parked(format!(
            "{said}: redirects are not followed, put the final address into `homeserver`"
        )),
        _ if code.is_empty() => answer.busy(said),
        status if status.is_server_error() => answer.busy(said),
        _ => answer.odd(said),
    }
}

fn limited(answer: &Answer, reason: String) -> Failure {
    let in_body = || {
        retry::pause(Duration::from_millis(
            answer.members.get("retry_after_ms").as_u64()?,
        ))
    };
    let retry_after = answer.retry_after.or_else(in_body);
    Answer {
        retry_after,
        ..answer.clone()
    }
    .busy(reason)
}

#[cfg(test)]
mod tests {
    use super::super::super::Scope;
    use super::*;

    fn answer(status: u16, code: &str) -> Answer {
        let body = if code.is_empty() {
            "<html>".to_owned()
        } else {
            format!("{{\"errcode\":\"{code}\",\"error\":\"words <i>\",\"retry_after_ms\":1500}}")
        };
        Answer::new(StatusCode::from_u16(status).unwrap(), &body)
    }

    #[test]
    fn responses_are_classified() {
        for (status, code, expected) in [
            (429, "M_LIMIT_EXCEEDED", "destination"),
            (429, "", "destination"),
            (401, "M_UNKNOWN_TOKEN", "parked"),
            (401, "M_MISSING_TOKEN", "parked"),
            (401, "", "parked"),
            (403, "M_FORBIDDEN", "parked"),
            (404, "M_NOT_FOUND", "parked"),
            (404, "M_UNRECOGNIZED", "parked"),
            (404, "", "destination"),
            (413, "M_TOO_LARGE", "permanent"),
            (413, "", "permanent"),
            (400, "M_BAD_JSON", "permanent"),
            (400, "M_UNKNOWN", "message"),
            (301, "", "parked"),
            (500, "M_UNKNOWN", "destination"),
            (502, "", "destination"),
            (200, "", "destination"),
        ] {
            let failure = failure(&answer(status, code), "sending", |_| true);
            let class = match &failure {
                Failure::Transient {
                    scope: Scope::Destination,
                    ..
                } => "destination",
                Failure::Transient {
                    scope: Scope::Message,
                    ..
                } => "message",
                Failure::Permanent { .. } => "permanent",
                Failure::Parked { .. } => "parked",
                Failure::Divided { .. } => "divided",
            };
            assert_eq!(class, expected, "{status} {code}: {failure:?}");
            assert!(!failure.reason().shown().contains('<'), "{failure:?}");
        }
    }

    #[test]
    fn the_delay_is_read_from_the_header_or_the_body() {
        let with_header = Answer {
            retry_after: Some(Duration::from_secs(3)),
            ..answer(429, "M_LIMIT_EXCEEDED")
        };
        for (answer, milliseconds) in [(answer(429, "M_LIMIT_EXCEEDED"), 1500), (with_header, 3000)] {
            let Failure::Transient { retry_after, .. } = failure(&answer, "sending", |_| true) else {
                panic!("not transient")
            };
            assert_eq!(retry_after, Some(Duration::from_millis(milliseconds)));
        }
    }
}
