//! Parses the responses of the API, with a separate result for each number.

use std::fmt;

use reqwest::StatusCode;
use serde::Serialize;
use serde_json::Value;

use crate::mask::{Excerpt, Mask, Reason};
use crate::model::number::Number;
use crate::model::secret::Secret;

use super::call::{Answer, Error};
use super::mask_url;

/// The result for one number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// 200 or 201: the webhook of the number.
    Known(Webhook),
    /// 400: not E.164, not enabled for SMS, or a URL that the provider rejects.
    Invalid(Reason),
    /// 401, also with a new token.
    Unauthorized(Reason),
    /// 404: the number is not in this account.
    NotOurs(Reason),
    /// Any other status, or no response.
    Failed(Reason),
}

/// The webhook of a number.
#[derive(Clone, PartialEq, Eq)]
pub struct Webhook {
    /// The URL that receives its messages; may contain a password. `None` if they go to the provider's own platform.
    pub url: Option<String>,
    /// The provisioning state.
    pub state: Option<State>,
}

/// The provisioning state of a webhook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Requested.
    Requested,
    /// In progress.
    Provisioning,
    /// Active.
    Provisioned,
    /// Removal requested.
    Derequested,
    /// Removal in progress.
    Deprovisioning,
    /// Provisioning failed.
    Error,
    /// A state that the provider does not document.
    Unknown(Excerpt),
}

impl Outcome {
    /// Returns true if the provider reported the state of this number; otherwise it is unknown.
    #[must_use]
    pub fn is_answer(&self) -> bool {
        !matches!(self, Self::Unauthorized(_) | Self::Failed(_))
    }

    /// The problem and its fix, if there is a problem.
    #[must_use]
    pub fn problem(&self) -> Option<Reason> {
        match self {
            Self::Known(_) => None,
            Self::Invalid(words) => {
                let refused = Reason::from("refused: ").and(words);
                Some(refused.own(" (not enabled for SMS, or not E.164?)"))
            }
            Self::NotOurs(words) => Some(Reason::from("not a number of this account: ").and(words)),
            Self::Unauthorized(words) | Self::Failed(words) => Some(words.clone()),
        }
    }
}

impl From<&Error> for Outcome {
    fn from(error: &Error) -> Self {
        match error {
            Error::Credentials(_) => Self::Unauthorized(error.reason()),
            Error::Unreachable(_) | Error::Token(_) => Self::Failed(error.reason()),
        }
    }
}

/// Masks credentials inside the URL.
impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let url = self.url.as_deref().map(mask_url);
        f.debug_struct("Webhook")
            .field("url", &url)
            .field("state", &self.state)
            .finish()
    }
}

impl State {
    /// The provider's name of the state.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Requested => "requested",
            Self::Provisioning => "provisioning",
            Self::Provisioned => "provisioned",
            Self::Derequested => "derequested",
            Self::Deprovisioning => "deprovisioning",
            Self::Error => "error",
            Self::Unknown(word) => word.as_str(),
        }
    }

    /// Returns true if the state is final.
    #[must_use]
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Provisioned | Self::Error)
    }
}

impl State {
    fn read(word: &str, mask: &Mask) -> Self {
        let known = [
            Self::Requested,
            Self::Provisioning,
            Self::Provisioned,
            Self::Derequested,
            Self::Deprovisioning,
            Self::Error,
        ];
        let found = known
            .into_iter()
            .find(|state| state.as_str().eq_ignore_ascii_case(word));
        found.unwrap_or_else(|| Self::Unknown(mask.excerpt(word, None)))
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Serialize for State {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// The results in a response, one for each of these numbers.
pub(super) fn outcomes(answer: &Answer, endpoints: &[String]) -> Vec<Outcome> {
    match &answer.body {
        // A response without JSON is not from the API, so a 404 must not be interpreted as a result for the numbers.
        None => vec![Outcome::Failed(not_json(answer.status).into()); endpoints.len()],
        Some(body) if answer.tells_apart() => several(body, endpoints, &answer.mask),
        Some(body) => vec![outcome(answer.status, body, &answer.mask); endpoints.len()],
    }
}

/// The responses inside a 207, returned in the order of `endpoints`.
fn several(body: &Value, endpoints: &[String], mask: &Mask) -> Vec<Outcome> {
    let Some(list) = body.get("endpoints").and_then(Value::as_array) else {
        let why = "HTTP 207 without a list of `endpoints`: is `api.api_url` right?";
        return vec![Outcome::Failed(why.into()); endpoints.len()];
    };
    let of = |endpoint: &String| {
        let found = list
            .iter()
            .find(|entry| entry.get("endpoint").is_some_and(|named| same(named, endpoint)));
        found.map_or_else(
            || Outcome::Failed("the answer does not mention this number".into()),
            |found| entry(found, mask),
        )
    };
    endpoints.iter().map(of).collect()
}

/// Reads the token from the response to `authenticate`.
pub(super) fn token(answer: &Answer) -> Result<Secret, Error> {
    let body = answer
        .body
        .as_ref()
        .ok_or_else(|| Error::Token(not_json(answer.status).into()))?;
    let token = body
        .get("token")
        .and_then(Value::as_str)
        .filter(|token| !token.is_empty());
    match (answer.status, token) {
        (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _) => {
            Err(Error::Credentials(words(answer.status, body, &answer.mask)))
        }
        (status, Some(token)) if status.is_success() => Ok(Secret::new(token)),
        (status, _) => Err(Error::Token(words(status, body, &answer.mask))),
    }
}

fn entry(entry: &Value, mask: &Mask) -> Outcome {
    let body = entry.get("response").unwrap_or(entry);
    let code = entry
        .get("status")
        .or_else(|| body.get("code"))
        .and_then(Value::as_u64);
    let status = code.and_then(|code| StatusCode::from_u16(u16::try_from(code).ok()?).ok());
    status.map_or_else(
        || Outcome::Failed("the answer has no status for this number".into()),
        |status| outcome(status, body, mask),
    )
}

fn outcome(status: StatusCode, body: &Value, mask: &Mask) -> Outcome {
    if status.is_success() {
        return webhook(body, mask)
            .map_or_else(|| Outcome::Failed(unexpected(status).into()), Outcome::Known);
    }
    let words = words(status, body, mask);
    match status {
        StatusCode::BAD_REQUEST => Outcome::Invalid(words),
        StatusCode::UNAUTHORIZED => Outcome::Unauthorized(
            words.own(" (the token was refused: check `api.token`, `api.authorization` and `api.region`)"),
        ),
        StatusCode::NOT_FOUND => Outcome::NotOurs(words),
        _ => Outcome::Failed(words),
    }
}

/// `None` if the response does not have the documented format: then it does not mean that there is no webhook.
fn webhook(body: &Value, mask: &Mask) -> Option<Webhook> {
    let url = match body.as_object()?.get("webhook") {
        None | Some(Value::Null) => None,
        Some(Value::String(url)) => Some(url.as_str()),
        Some(_) => return None,
    };
    let url = url
        .filter(|url| !url.is_empty())
        // A URL that contains one of our secrets is never the expected one.
        .map(|url| match mask.permits(url, None) {
            true => url.to_owned(),
            false => mask.excerpt(url, None).as_str().to_owned(),
        });
    let state = body
        .get("provisioning")
        .and_then(|provisioning| provisioning.get("state"))
        .and_then(Value::as_str);
    Some(Webhook {
        url,
        state: state.map(|state| State::read(state, mask)),
    })
}

fn unexpected(status: StatusCode) -> String {
    format!(
        "HTTP {} with an unexpected answer: is `api.api_url` right?",
        status.as_u16()
    )
}

/// Numbers are compared in normal form: the API may write them differently.
fn same(named: &Value, endpoint: &str) -> bool {
    let Some(named) = named.as_str() else { return false };
    let normal = |text| Number::parse(text).map(|number| number.normal().to_owned());
    named == endpoint || normal(named).is_ok_and(|named| normal(endpoint) == Ok(named))
}

/// The status, and the error message of the API if there is one.
fn words(status: StatusCode, body: &Value, mask: &Mask) -> Reason {
    let own = ["error", "message"]
        .iter()
        .find_map(|key| body.get(key)?.as_str());
    match own {
        Some(own) => {
            Reason::from(format!("HTTP {}", status.as_u16())).quote(": ", &mask.excerpt(&mask_url(own), None))
        }
        None => format!("HTTP {status}").into(),
    }
}

fn not_json(status: StatusCode) -> String {
    format!("HTTP {status} with a body that is not JSON: is `api.api_url` right?")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn documented_states_are_parsed_and_others_kept_unchanged() {
        for word in [
            "requested",
            "provisioning",
            "provisioned",
            "derequested",
            "deprovisioning",
            "error",
        ] {
            let state = State::read(word, &Mask::default());
            assert!(!matches!(state, State::Unknown(_)), "{word}");
            assert_eq!(state.to_string(), word);
        }
        let mask = Mask::default().secret(&Secret::new("canary-token"));
        assert_eq!(State::read("pending", &mask).to_string(), "pending");
        assert_eq!(State::read("for canary-token", &mask).to_string(), "for ***");
    }

    #[test]
    fn the_responses_inside_a_207_are_matched_by_number_not_by_position() {
        let body = json!({ "code": 207, "endpoints": [
            { "status": 404, "endpoint": "+13030000000", "response": { "code": 404, "error": "Not found" } },
            { "status": 201, "endpoint": "12161112222", "response": { "webhook": "https://a.example/" } },
        ] });
        let endpoints = ["+12161112222", "1-1234", "+13030000000"].map(str::to_owned);
        let outcomes = several(&body, &endpoints, &Mask::default());
        assert!(
            matches!(&outcomes[0], Outcome::Known(webhook) if webhook.url.as_deref() == Some("https://a.example/"))
        );
        assert!(matches!(&outcomes[1], Outcome::Failed(words) if words.shown().contains("does not mention")));
        assert!(matches!(&outcomes[2], Outcome::NotOurs(words) if words.shown().contains("Not found")));
    }

    #[test]
    fn a_response_in_another_format_does_not_mean_that_there_is_no_webhook() {
        let said = |body| outcome(StatusCode::OK, &body, &Mask::default());
        for body in [
            json!(null),
            json!([]),
            json!("https://a.example/"),
            json!({ "webhook": 5 }),
            json!({ "webhook": ["https://a.example/"] }),
        ] {
            let outcome = said(body.clone());
            assert!(!outcome.is_answer(), "{body}: {outcome:?}");
            let words = outcome.problem().unwrap();
            assert!(
                words.shown().contains("HTTP 200 with an unexpected answer"),
                "{body}"
            );
        }
        for body in [json!({}), json!({ "webhook": null }), json!({ "webhook": "" })] {
            let none = matches!(said(body.clone()), Outcome::Known(Webhook { url: None, .. }));
            assert!(none, "{body}");
        }
    }

    #[test]
    fn neither_errors_nor_debug_show_credentials() {
        let body = json!({ "error": "bad URL https://u:canary@a.example/\nx", "webhook": "https://u:canary@a.example" });
        let refused = outcome(StatusCode::BAD_REQUEST, &body, &Mask::default());
        let shown = refused.problem().unwrap();
        let shown = format!(
            "{} {:?}",
            shown.shown(),
            outcome(StatusCode::OK, &body, &Mask::default())
        );
        assert!(!shown.contains("canary") && !shown.contains('\n'), "{shown}");
    }
}
