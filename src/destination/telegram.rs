//! Telegram: a bot that sends to a chat, on request with a forum topic for each conversation.
//!
//! The [Bot API][1] has no idempotency key. No `parse_mode` is set, so a message has no formatting.
//!
//! [1]: https://core.telegram.org/bots/api#sendmessage

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use deserr::Deserr;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::time::Instant;
use url::Url;

use super::http::{Answer, address, parse_url};
use super::service::{Meaning, Service, seconds};
use super::wording::{Limit, Unit, header};
use super::{BuildContext, Delivered, Destination, Failure, Kind, OutboundMessage};
use crate::mask::Mask;
use crate::model::lint::{self, Lint};
use crate::model::message::Conversation;
use crate::model::secret::Secrets;
use crate::model::setting::Errors;
use crate::template::{Medium, visible};

const API: &str = "https://api.telegram.org";

const TEXT: Limit = Limit {
    max: 4_096,
    unit: Unit::Utf16,
};

/// The name of a topic.
const NAME: Limit = Limit {
    max: 128,
    unit: Unit::Utf16,
};

/// Upper bound of the topics that are remembered until their first message is delivered.
const TOPICS_MAX: usize = 1_000;

/// `kind = "telegram"`
#[derive(Clone, Debug, Deserr)]
#[deserr(error = Errors, deny_unknown_fields)]
pub struct Config {
    /// The token of the bot.
    pub token: Secrets,
    /// The id of the chat, `-1001234567890`, or `@name` of a public channel.
    pub chat_id: String,
    /// Whether each conversation has a topic of its own; the chat must be a group with topics.
    #[deserr(default)]
    pub topics: bool,
    /// Another host than Telegram's: a Bot API server of your own, or a test.
    #[deserr(default)]
    pub api_url: Option<String>,
}

impl Kind for Config {
    fn lints(&self) -> Vec<Lint> {
        [
            lint::open_url("api_url", self.api_url.as_deref(), "the token"),
            lint::issued("token", Some(&self.token)),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// Telegram accepts one message per second in a chat, and 20 a minute in a group or channel.
    fn rate_default(&self) -> Option<f64> {
        let is_person = self.chat_id.starts_with(|first: char| first.is_ascii_digit());
        Some(if is_person { 1.0 } else { 20.0 / 60.0 })
    }

    fn build(&self, context: BuildContext<'_>) -> Result<Box<dyn Destination>, String> {
        if !is_chat(&self.chat_id) {
            return Err(
                "`chat_id` is neither a chat's id (\"-1001234567890\") nor \"@name\" of a public channel"
                    .to_owned(),
            );
        }
        let api = self.api_url.as_deref().unwrap_or(API).trim_end_matches('/');
        let token = self.token.first()?.reveal();
        Ok(Box::new(Telegram {
            base: parse_url("api_url", &format!("{api}/bot{token}/"))?,
            chat: self.chat_id.clone(),
            topics: self.topics,
            made: Mutex::default(),
            service: Service::new(context, Mask::default().secrets(&self.token)),
        }))
    }
}

fn is_chat(chat: &str) -> bool {
    let digits = chat.strip_prefix('-').unwrap_or(chat);
    let is_id = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let usual = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    is_id
        || chat
            .strip_prefix('@')
            .is_some_and(|name| name.len() >= 4 && name.bytes().all(usual))
}

struct Telegram {
    service: Service,
    /// The URL of all methods; contains the token.
    base: Url,
    chat: String,
    topics: bool,
    /// Topics whose first message is not delivered yet. After that, the store has them.
    made: Mutex<BTreeMap<Conversation, String>>,
}

impl Telegram {
    fn payload(&self, outbound: &OutboundMessage<'_>, topic: Option<&str>) -> Result<Value, Failure> {
        let wording = self
            .service
            .wording(outbound, Medium::Markup(quiet), str::to_owned)?;
        let mut payload = json!({
            "chat_id": self.chat,
            "text": wording.whole(TEXT),
            "link_preview_options": { "is_disabled": true },
        });
        if let Some(topic) = topic.and_then(|topic| topic.parse::<i64>().ok()) {
            payload["message_thread_id"] = json!(topic);
        }
        Ok(payload)
    }

    async fn call(&self, method: &str, payload: &Value, deadline: Instant) -> Result<Answer, Failure> {
        let url = self
            .base
            .join(method)
            .map_err(|error| Failure::parked(format!("check `api_url`: {error}")))?;
        let request = self.service.http.request(Method::POST, url).json(payload);
        self.service.ask(request, deadline).await
    }

    /// The topic of a conversation: the one in the store, one that was made before, or a new one.
    async fn topic(&self, outbound: &OutboundMessage<'_>, deadline: Instant) -> Result<String, Failure> {
        let conversation = outbound.conversation();
        if let Some(known) = self.made().get(&conversation) {
            return Ok(known.clone());
        }
        let name = header(outbound, visible);
        let request = json!({ "chat_id": self.chat, "name": NAME.cut(&name, "…") });
        let answer = self.call("createForumTopic", &request, deadline).await?;
        self.conclude(&answer, outbound)?;
        let id = answer.document()["result"]["message_thread_id"].as_i64();
        let Some(id) = id.map(|id| id.to_string()) else {
            return Err(answer.odd("the answer to createForumTopic has no `message_thread_id`"));
        };
        let mut made = self.made();
        if made.len() >= TOPICS_MAX {
            made.pop_first();
        }
        made.insert(conversation, id.clone());
        Ok(id)
    }

    fn made(&self) -> std::sync::MutexGuard<'_, BTreeMap<Conversation, String>> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn conclude(&self, answer: &Answer, outbound: &OutboundMessage<'_>) -> Result<Delivered, Failure> {
        let said = answer
            .members
            .get("description")
            .as_str()
            .unwrap_or(&answer.start);
        self.service.conclude(answer, meaning(answer), said, outbound)
    }
}

#[async_trait]
impl Destination for Telegram {
    fn address(&self) -> Option<String> {
        address(&self.base)
    }

    async fn deliver(&self, outbound: &OutboundMessage<'_>) -> Result<Delivered, Failure> {
        let deadline = self.service.deadline();
        if !self.topics {
            let answer = self
                .call("sendMessage", &self.payload(outbound, None)?, deadline)
                .await?;
            return self.conclude(&answer, outbound);
        }
        let mut known = outbound.thread.map(str::to_owned);
        // Once more if the topic was deleted.
        for last in [false, true] {
            let topic = match known.take() {
                Some(topic) => topic,
                None => self.topic(outbound, deadline).await?,
            };
            let payload = self.payload(outbound, Some(&topic))?;
            let answer = self.call("sendMessage", &payload, deadline).await?;
            if is_topic_gone(&answer) && !last {
                self.made().remove(&outbound.conversation());
                continue;
            }
            let delivered = self.conclude(&answer, outbound)?;
            self.made().remove(&outbound.conversation());
            let begun = outbound.thread != Some(topic.as_str());
            return Ok(Delivered {
                thread: begun.then_some(topic),
                ..delivered
            });
        }
        Err(Failure::unreachable("a new topic was not found"))
    }

    fn render(&self, outbound: &OutboundMessage<'_>) -> Result<String, Failure> {
        let topic = outbound.thread.filter(|_| self.topics);
        Ok(format!("{:#}", self.payload(outbound, topic)?))
    }
}

/// A word joiner, which is not visible, after `@` and after a `/` that begins a word: Telegram would make them a mention
/// and a command.
fn quiet(text: &str) -> String {
    let mut quiet = String::with_capacity(text.len() + text.len() / 8);
    let mut before = ' ';
    for character in visible(text).chars() {
        quiet.push(character);
        if character == '@' || (character == '/' && !before.is_alphanumeric() && !":/".contains(before)) {
            quiet.push('\u{2060}');
        }
        before = character;
    }
    quiet
}

fn description(answer: &Answer) -> String {
    let description = answer.members.get("description").as_str();
    description.unwrap_or_default().to_ascii_lowercase()
}

fn is_topic_gone(answer: &Answer) -> bool {
    let description = description(answer);
    answer.status == StatusCode::BAD_REQUEST
        && (description.contains("thread not found") || description.contains("topic_deleted"))
}

const TOKEN: &str = "check `token`: @BotFather shows the bot's token";
const CHAT: &str = "check `chat_id`, and that the bot is a member of the chat and may send messages there";
const MIGRATED: &str = "the group has become a supergroup with another id: replace `chat_id`";
const TOPICS: &str =
    "for `topics`, the chat must be a group with topics, and the bot an administrator who may manage them";

/// Words in the description of a 400 that concern every message.
const UNUSABLE: &[(&str, &str)] = &[
    ("chat not found", CHAT),
    ("chat_write_forbidden", CHAT),
    ("not enough rights to send", CHAT),
    ("need administrator rights", CHAT),
    ("have no rights to send", CHAT),
    ("upgraded to a supergroup", MIGRATED),
    ("not a forum", TOPICS),
    ("not enough rights to create a topic", TOPICS),
    ("topic_closed", TOPICS),
];

fn meaning(answer: &Answer) -> Meaning {
    let description = description(answer);
    match answer.status {
        StatusCode::TOO_MANY_REQUESTS => Meaning::Limited(
            answer.document()["parameters"]["retry_after"]
                .as_f64()
                .and_then(seconds),
        ),
        StatusCode::UNAUTHORIZED | StatusCode::NOT_FOUND => Meaning::Misconfigured(TOKEN),
        StatusCode::BAD_REQUEST => UNUSABLE
            .iter()
            .find(|(words, _)| description.contains(words))
            .map_or(Meaning::Refused, |(_, advice)| Meaning::Misconfigured(advice)),
        status if status.is_success() && answer.members.get("ok") != true => Meaning::Odd,
        status => Meaning::of(status, CHAT),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn answers_have_a_meaning() {
        let refused =
            |words: &str| format!(r#"{{"ok":false,"error_code":400,"description":"Bad Request: {words}"}}"#);
        for (status, body, expected) in [
            (200, r#"{"ok":true,"result":{"message_id":1}}"#.to_owned(), Meaning::Accepted),
            (200, "<html>".to_owned(), Meaning::Odd),
            (400, refused("chat not found"), Meaning::Misconfigured(CHAT)),
            (400, refused("group chat was upgraded to a supergroup chat"), Meaning::Misconfigured(MIGRATED)),
            (400, refused("the chat is not a forum"), Meaning::Misconfigured(TOPICS)),
            (400, refused("message is too long"), Meaning::Refused),
            (401, String::new(), Meaning::Misconfigured(TOKEN)),
            (403, String::new(), Meaning::Misconfigured(CHAT)),
            (404, r#"{"ok":false,"error_code":404,"description":"Not Found"}"#.to_owned(), Meaning::Misconfigured(TOKEN)),
            (
                429,
                r#"{"ok":false,"error_code":429,"description":"Too Many Requests: retry after 7","parameters":{"retry_after":7}}"#
                    .to_owned(),
                Meaning::Limited(Some(Duration::from_secs(7))),
            ),
            (429, String::new(), Meaning::Limited(None)),
            (502, String::new(), Meaning::Busy),
        ] {
            let answer = Answer::new(StatusCode::from_u16(status).unwrap(), &body);
            assert_eq!(meaning(&answer), expected, "{status} {body}");
        }
    }

    #[test]
    fn mentions_and_commands_are_broken_and_addresses_are_not() {
        for (text, quieted) in [
            ("@ann a@b.example", "@\u{2060}ann a@\u{2060}b.example"),
            ("/start", "/\u{2060}start"),
            ("https://a.example/b 1/2", "https://a.example/b 1/2"),
        ] {
            assert_eq!(quiet(text), quieted);
        }
    }

    #[test]
    fn a_chat_is_an_id_or_a_public_name() {
        for (chat, expected) in [
            ("-1001234567890", true),
            ("42", true),
            ("@alerts", true),
            ("alerts", false),
            ("-", false),
            ("", false),
            ("https://t.me/alerts", false),
        ] {
            assert_eq!(is_chat(chat), expected, "{chat}");
        }
    }
}
