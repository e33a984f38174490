//! The API's answers, number by number.

use std::fmt;

use reqwest::StatusCode;
use serde::Serialize;
use serde_json::Value;

use crate::number::Number;
use crate::secret::Secret;

use super::call::{Answer, Error};
use super::mask_url;

/// How much of the API's own words is repeated, in characters.
const WORDS_MAX: usize = 200;

/// What the API says about one number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// 200 or 201: this is its webhook.
    Known(Webhook),
    /// 400: not E.164, not enabled for SMS, or a URL the provider does not like.
    Invalid(String),
    /// 401, also with a new token.
    Unauthorized(String),
    /// 404: not a number of this account.
    NotOurs(String),
    /// Anything else, or nothing.
    Failed(String),
}

/// A number's webhook.
#[derive(Clone, PartialEq, Eq)]
pub struct Webhook {
    /// Where its texts go; may contain a password. Nothing when they go to the provider's own platform.
    pub url: Option<String>,
    /// How far the provider is with it.
    pub state: Option<State>,
}

/// How far the provider is with a webhook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Asked for.
    Requested,
    /// Under way.
    Provisioning,
    /// In force.
    Provisioned,
    /// To be removed.
    Derequested,
    /// Being removed.
    Deprovisioning,
    /// The provider failed.
    Error,
    /// A word the provider does not document.
    Unknown(String),
}

impl Outcome {
    /// Whether the provider said how this number is; otherwise nothing is known of it.
    #[must_use]
    pub fn is_answer(&self) -> bool {
        !matches!(self, Self::Unauthorized(_) | Self::Failed(_))
    }

    /// What is wrong and what to do, unless all is well.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        match self {
            Self::Known(_) => None,
            Self::Invalid(words) => Some(format!("refused: {words} (not enabled for SMS, or not E.164?)")),
            Self::NotOurs(words) => Some(format!("not a number of this account: {words}")),
            Self::Unauthorized(words) | Self::Failed(words) => Some(words.clone()),
        }
    }
}

impl From<&Error> for Outcome {
    fn from(error: &Error) -> Self {
        match error {
            Error::Credentials(_) => Self::Unauthorized(error.to_string()),
            Error::Unreachable(_) | Error::Token(_) => Self::Failed(error.to_string()),
        }
    }
}

/// Hides credentials inside the URL.
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
    /// The provider's word.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Requested => "requested",
            Self::Provisioning => "provisioning",
            Self::Provisioned => "provisioned",
            Self::Derequested => "derequested",
            Self::Deprovisioning => "deprovisioning",
            Self::Error => "error",
            Self::Unknown(word) => word,
        }
    }

    /// Whether waiting will change nothing any more.
    #[must_use]
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Provisioned | Self::Error)
    }
}

impl From<&str> for State {
    fn from(word: &str) -> Self {
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
        found.unwrap_or_else(|| Self::Unknown(shortened(word)))
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

/// What an answer says about each of these numbers.
pub(super) fn outcomes(answer: &Answer, endpoints: &[String]) -> Vec<Outcome> {
    match &answer.body {
        // Without JSON it is not the API that answered: a 404 must not be read as a word on the number.
        None => vec![Outcome::Failed(not_json(answer.status)); endpoints.len()],
        Some(body) if answer.tells_apart() => several(body, endpoints),
        Some(body) => vec![outcome(answer.status, body); endpoints.len()],
    }
}

/// The answers inside a 207, in the order of `endpoints`, whatever order they came in.
fn several(body: &Value, endpoints: &[String]) -> Vec<Outcome> {
    let Some(list) = body.get("endpoints").and_then(Value::as_array) else {
        let why = "HTTP 207 without a list of `endpoints`: is `api.api_url` right?";
        return vec![Outcome::Failed(why.to_owned()); endpoints.len()];
    };
    let of = |endpoint: &String| {
        let found = list
            .iter()
            .find(|entry| entry.get("endpoint").is_some_and(|named| same(named, endpoint)));
        found.map_or_else(
            || Outcome::Failed("the answer does not mention this number".to_owned()),
            entry,
        )
    };
    endpoints.iter().map(of).collect()
}

/// The token, from the answer to `authenticate`.
pub(super) fn token(answer: &Answer) -> Result<Secret, Error> {
    let body = answer
        .body
        .as_ref()
        .ok_or_else(|| Error::Token(not_json(answer.status)))?;
    let token = body
        .get("token")
        .and_then(Value::as_str)
        .filter(|token| !token.is_empty());
    match (answer.status, token) {
        (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _) => {
            Err(Error::Credentials(words(answer.status, body)))
        }
        (status, Some(token)) if status.is_success() => Ok(Secret::new(token)),
        (status, _) => Err(Error::Token(words(status, body))),
    }
}

fn entry(entry: &Value) -> Outcome {
    let body = entry.get("response").unwrap_or(entry);
    let code = entry
        .get("status")
        .or_else(|| body.get("code"))
        .and_then(Value::as_u64);
    let status = code.and_then(|code| StatusCode::from_u16(u16::try_from(code).ok()?).ok());
    status.map_or_else(
        || Outcome::Failed("the answer has no status for this number".to_owned()),
        |status| outcome(status, body),
    )
}

fn outcome(status: StatusCode, body: &Value) -> Outcome {
    match status {
        status if status.is_success() => Outcome::Known(webhook(body)),
        StatusCode::BAD_REQUEST => Outcome::Invalid(words(status, body)),
        StatusCode::UNAUTHORIZED => Outcome::Unauthorized(format!(
            "{} (the token was refused: check `api.token`, `api.authorization` and `api.region`)",
            words(status, body)
        )),
        StatusCode::NOT_FOUND => Outcome::NotOurs(words(status, body)),
        _ => Outcome::Failed(words(status, body)),
    }
}

fn webhook(body: &Value) -> Webhook {
    let url = body
        .get("webhook")
        .and_then(Value::as_str)
        .filter(|url| !url.is_empty())
        .map(str::to_owned);
    let state = body
        .get("provisioning")
        .and_then(|provisioning| provisioning.get("state"))
        .and_then(Value::as_str);
    Webhook {
        url,
        state: state.map(State::from),
    }
}

/// Numbers are compared normalised: what comes back need not be written as it was sent.
fn same(named: &Value, endpoint: &str) -> bool {
    let Some(named) = named.as_str() else { return false };
    let normal = |text| Number::parse(text).map(|number| number.normal().to_owned());
    named == endpoint || normal(named).is_ok_and(|named| normal(endpoint) == Ok(named))
}

/// The status, and the API's own words if it has any.
fn words(status: StatusCode, body: &Value) -> String {
    let own = ["error", "message"]
        .iter()
        .find_map(|key| body.get(key)?.as_str());
    match own {
        Some(own) => format!("HTTP {}: {}", status.as_u16(), shortened(own)),
        None => format!("HTTP {status}"),
    }
}

fn not_json(status: StatusCode) -> String {
    format!("HTTP {status} with a body that is not JSON: is `api.api_url` right?")
}

/// On one line, without credentials, and not too long.
fn shortened(words: &str) -> String {
    mask_url(words)
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(WORDS_MAX)
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_documented_state_is_known_and_others_keep_their_word() {
        for word in [
            "requested",
            "provisioning",
            "provisioned",
            "derequested",
            "deprovisioning",
            "error",
        ] {
            let state = State::from(word);
            assert!(!matches!(state, State::Unknown(_)), "{word}");
            assert_eq!(state.to_string(), word);
        }
        assert_eq!(State::from("pending"), State::Unknown("pending".to_owned()));
    }

    #[test]
    fn the_answers_inside_a_207_are_matched_by_number_not_by_place() {
        let body = json!({ "code": 207, "endpoints": [
            { "status": 404, "endpoint": "+13030000000", "response": { "code": 404, "error": "Not found" } },
            { "status": 201, "endpoint": "12161112222", "response": { "webhook": "https://a.example/" } },
        ] });
        let endpoints = ["+12161112222", "1-1234", "+13030000000"].map(str::to_owned);
        let outcomes = several(&body, &endpoints);
        assert!(
            matches!(&outcomes[0], Outcome::Known(webhook) if webhook.url.as_deref() == Some("https://a.example/"))
        );
        assert!(matches!(&outcomes[1], Outcome::Failed(words) if words.contains("does not mention")));
        assert!(matches!(&outcomes[2], Outcome::NotOurs(words) if words.contains("Not found")));
    }

    #[test]
    fn neither_words_nor_debug_show_credentials() {
        let body = json!({ "error": "bad URL https://u:canary@a.example/\nx", "webhook": "https://u:canary@a.example" });
        let shown = format!(
            "{:?} {:?}",
            outcome(StatusCode::BAD_REQUEST, &body),
            outcome(StatusCode::OK, &body)
        );
        assert!(!shown.contains("canary") && !shown.contains("\\n"), "{shown}");
    }
}
