//! Google Chat: a [webhook][1] of a space, with a thread for each conversation.
//!
//! A webhook has no idempotency key. The key of the thread is made from the conversation, so nothing has to be kept.
//!
//! [1]: https://developers.google.com/workspace/chat/quickstart/webhooks

use async_trait::async_trait;
use deserr::Deserr;
use http::Method;
use serde_json::{Value, json};
use url::Url;

use super::http::{Answer, address, parse_url};
use super::service::{Meaning, Service};
use super::wording::{Limit, Unit};
use super::{BuildContext, Delivered, Destination, Failure, Kind, OutboundMessage};
use crate::mask::Mask;
use crate::model::lint::{self, Lint};
use crate::model::secret::Secrets;
use crate::model::setting::Errors;
use crate::template::{Medium, visible};

const TEXT: Limit = Limit {
    max: 4_000,
    unit: Unit::Bytes,
};

/// Starts the thread if it does not exist.
const REPLY_OPTION: (&str, &str) = ("messageReplyOption", "REPLY_MESSAGE_FALLBACK_TO_NEW_THREAD");

/// `kind = "google-chat"`
#[derive(Clone, Debug, Deserr)]
#[deserr(error = Errors, deny_unknown_fields)]
pub struct Config {
    /// The URL of the webhook. A secret, because it contains a key and a token.
    pub webhook_url: Secrets,
    /// Whether each conversation has its own thread.
    #[deserr(default = true)]
    pub threads: bool,
}

impl Kind for Config {
    fn lints(&self) -> Vec<Lint> {
        lint::secret_url("webhook_url", Some(&self.webhook_url))
            .into_iter()
            .collect()
    }

    /// A space accepts one message per second.
    fn rate_default(&self) -> Option<f64> {
        Some(1.0)
    }

    fn build(&self, context: BuildContext<'_>) -> Result<Box<dyn Destination>, String> {
        let mut url = parse_url("webhook_url", self.webhook_url.first()?.reveal())?;
        let mask = Mask::default().url(&url).secrets(&self.webhook_url);
        let has_option = url.query_pairs().any(|(name, _)| name == REPLY_OPTION.0);
        if self.threads && !has_option {
            url.query_pairs_mut().append_pair(REPLY_OPTION.0, REPLY_OPTION.1);
        }
        Ok(Box::new(GoogleChat {
            service: Service::new(context, mask),
            url,
            threads: self.threads,
        }))
    }
}

struct GoogleChat {
    service: Service,
    url: Url,
    threads: bool,
}

impl GoogleChat {
    fn payload(&self, outbound: &OutboundMessage<'_>) -> Result<Value, Failure> {
        let wording = self
            .service
            .wording(outbound, Medium::Markup(escape), str::to_owned)?;
        let mut payload = json!({ "text": wording.whole(TEXT) });
        if self.threads {
            payload["thread"] = json!({ "threadKey": outbound.conversation().to_string() });
        }
        Ok(payload)
    }
}

#[async_trait]
impl Destination for GoogleChat {
    fn address(&self) -> Option<String> {
        address(&self.url)
    }

    async fn deliver(&self, outbound: &OutboundMessage<'_>) -> Result<Delivered, Failure> {
        let request = self.service.http.request(Method::POST, self.url.clone());
        let request = request.json(&self.payload(outbound)?);
        let answer = self.service.ask(request, self.service.deadline()).await?;
        let document = answer.document();
        let said = document["error"]["message"].as_str().unwrap_or(&answer.start);
        self.service.conclude(&answer, meaning(&answer), said, outbound)
    }

    fn render(&self, outbound: &OutboundMessage<'_>) -> Result<String, Failure> {
        Ok(format!("{:#}", self.payload(outbound)?))
    }
}

/// A word joiner: it is not visible, and takes the effect of the character before it.
const JOINER: char = '\u{2060}';

/// Google Chat has no escape. A joiner after `<` breaks mentions (`<users/all>`) and links with another label, and one
/// after `*`, `_`, `~` and a backquote at the beginning of a word breaks formatting. Inside a word they have no effect
/// and stay as they are, so that `user_name` can be copied.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len() + text.len() / 8);
    let mut before = ' ';
    for character in visible(text).chars() {
        escaped.push(character);
        let opens = "*_~`".contains(character) && !before.is_alphanumeric();
        if character == '<' || opens {
            escaped.push(JOINER);
        }
        before = character;
    }
    escaped
}

const ADVICE: &str =
    "the webhook or its space may have been removed: make a new one, and replace `webhook_url`";

fn meaning(answer: &Answer) -> Meaning {
    match answer.status {
        status if status.is_success() && answer.members.get("name").is_null() => Meaning::Odd,
        status => Meaning::of(status, ADVICE),
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;

    #[test]
    fn answers_have_a_meaning() {
        let parked = Meaning::Misconfigured(ADVICE);
        for (status, body, expected) in [
            (200, r#"{"name":"spaces/A/messages/B"}"#, Meaning::Accepted),
            (200, "<html>", Meaning::Odd),
            (
                400,
                r#"{"error":{"code":400,"status":"INVALID_ARGUMENT"}}"#,
                Meaning::Refused,
            ),
            (
                401,
                r#"{"error":{"code":401,"status":"UNAUTHENTICATED"}}"#,
                parked,
            ),
            (
                403,
                r#"{"error":{"code":403,"status":"PERMISSION_DENIED"}}"#,
                parked,
            ),
            (404, r#"{"error":{"code":404,"status":"NOT_FOUND"}}"#, parked),
            (
                429,
                r#"{"error":{"code":429,"status":"RESOURCE_EXHAUSTED"}}"#,
                Meaning::Limited(None),
            ),
            (503, "", Meaning::Busy),
        ] {
            let answer = Answer::new(StatusCode::from_u16(status).unwrap(), body);
            assert_eq!(meaning(&answer), expected, "{status} {body}");
        }
    }

    #[test]
    fn only_characters_that_would_act_are_followed_by_a_joiner() {
        for (text, escaped) in [
            ("<users/all>", "<\u{2060}users/all>"),
            (
                "<https://evil.example|bank>",
                "<\u{2060}https://evil.example|bank>",
            ),
            ("*bold* a _b_", "*\u{2060}bold* a _\u{2060}b_"),
            ("user_name 3*4", "user_name 3*4"),
            ("``` x", "`\u{2060}`\u{2060}`\u{2060} x"),
        ] {
            assert_eq!(escape(text), escaped, "{text}");
        }
    }
}
