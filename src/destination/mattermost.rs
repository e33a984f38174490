//! Mattermost: an incoming webhook, or `POST /api/v4/posts` with a bot's token, which also supports threads.
//!
//! A post has `pending_post_id`, which is derived from the delivery id: a server that receives it again within about 30
//! seconds answers with the post that exists.

use async_trait::async_trait;
use deserr::Deserr;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::time::Instant;
use url::Url;

use super::http::{Answer, address, parse_url};
use super::service::{Meaning, Service, seconds};
use super::wording::{Limit, Unit};
use super::{BuildContext, Delivered, Destination, Failure, Kind, OutboundMessage};
use crate::mask::Mask;
use crate::model::lint::{self, Lint};
use crate::model::secret::{Secret, Secrets};
use crate::model::setting::Errors;
use crate::template::{Medium, safe_link, visible};

/// A longer message is divided by a webhook, and refused by the API.
const MESSAGE: Limit = Limit {
    max: 16_383,
    unit: Unit::Characters,
};

/// `kind = "mattermost"`: either `webhook_url`, or `url`, `token` and `channel_id`.
#[derive(Clone, Debug, Deserr)]
#[deserr(error = Errors, deny_unknown_fields)]
pub struct Config {
    /// The URL of an incoming webhook. A secret.
    #[deserr(default)]
    pub webhook_url: Option<Secrets>,
    /// The server.
    #[deserr(default)]
    pub url: Option<String>,
    /// The token of a bot account.
    #[deserr(default)]
    pub token: Option<Secrets>,
    /// The id of the channel.
    #[deserr(default)]
    pub channel_id: Option<String>,
    /// Whether each conversation has its own thread; only with `token`, where it is the default.
    #[deserr(default)]
    pub threads: Option<bool>,
}

impl Kind for Config {
    fn lints(&self) -> Vec<Lint> {
        [
            lint::secret_url("webhook_url", self.webhook_url.as_ref()),
            lint::open_url("url", self.url.as_deref(), "the token"),
            lint::issued("token", self.token.as_ref()),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    fn build(&self, context: BuildContext<'_>) -> Result<Box<dyn Destination>, String> {
        let way = way(self)?;
        let mask = match &way {
            Way::Webhook { url } => Mask::default().url(url),
            Way::Post { .. } => Mask::default(),
        };
        let mask = [&self.webhook_url, &self.token]
            .into_iter()
            .flatten()
            .fold(mask, Mask::secrets);
        Ok(Box::new(Mattermost {
            service: Service::new(context, mask),
            way,
        }))
    }
}

#[derive(Debug)]
enum Way {
    Webhook {
        url: Url,
    },
    Post {
        url: Url,
        token: Secret,
        channel: String,
        threads: bool,
    },
}

fn way(config: &Config) -> Result<Way, String> {
    match (
        &config.webhook_url,
        &config.url,
        &config.token,
        &config.channel_id,
    ) {
        (Some(url), None, None, None) if config.threads != Some(true) => Ok(Way::Webhook {
            url: parse_url("webhook_url", url.first()?.reveal())?,
        }),
        (Some(_), None, None, None) => Err(
            "`threads` needs `url`, `token` and `channel_id`: a webhook does not return the id of its post"
                .to_owned(),
        ),
        (Some(_), ..) => {
            Err("`webhook_url` has its channel: leave `url`, `token` and `channel_id` out".to_owned())
        }
        (None, Some(url), Some(token), Some(channel)) => {
            if channel.len() != 26 || !channel.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
                return Err("`channel_id` is not an id: it has 26 letters and digits; copy it from the channel's menu, \
                            View Info"
                    .to_owned());
            }
            Ok(Way::Post {
                url: parse_url("url", &format!("{}/api/v4/posts", url.trim_end_matches('/')))?,
                token: token.first()?.clone(),
                channel: channel.clone(),
                threads: config.threads.unwrap_or(true),
            })
        }
        (None, ..) => Err("either `webhook_url`, or `url`, `token` and `channel_id`, is needed".to_owned()),
    }
}

struct Mattermost {
    service: Service,
    way: Way,
}

impl Mattermost {
    /// The root of the conversation's thread, if threads are used.
    fn root<'a>(&self, outbound: &OutboundMessage<'a>) -> Option<&'a str> {
        let threads = matches!(self.way, Way::Post { threads: true, .. });
        outbound.thread.filter(|_| threads)
    }

    fn payload(&self, outbound: &OutboundMessage<'_>, root: Option<&str>) -> Result<Value, Failure> {
        let wording = self
            .service
            .wording(outbound, Medium::Markup(quiet), |link| format!("<{link}>"))?;
        let text = wording.whole(MESSAGE);
        Ok(match &self.way {
            Way::Webhook { .. } => json!({ "text": text }),
            Way::Post { channel, .. } => {
                let mut post = json!({
                    "channel_id": channel,
                    "message": text,
                    "pending_post_id": format!("smsbridge:{}", outbound.id),
                });
                if let Some(root) = root {
                    post["root_id"] = json!(root);
                }
                post
            }
        })
    }

    async fn post(&self, payload: &Value, deadline: Instant) -> Result<Answer, Failure> {
        let http = &self.service.http;
        let request = match &self.way {
            Way::Webhook { url } => http.request(Method::POST, url.clone()),
            Way::Post { url, token, .. } => http
                .request(Method::POST, url.clone())
                .bearer_auth(token.reveal()),
        };
        self.service.ask(request.json(payload), deadline).await
    }
}

#[async_trait]
impl Destination for Mattermost {
    fn address(&self) -> Option<String> {
        let (Way::Webhook { url } | Way::Post { url, .. }) = &self.way;
        address(url)
    }

    async fn deliver(&self, outbound: &OutboundMessage<'_>) -> Result<Delivered, Failure> {
        let deadline = self.service.deadline();
        let mut root = self.root(outbound);
        let mut answer = self.post(&self.payload(outbound, root)?, deadline).await?;
        if root.is_some() && is_root_gone(&answer) {
            root = None;
            answer = self.post(&self.payload(outbound, root)?, deadline).await?;
        }
        let said = answer.members.get("message").as_str().unwrap_or(&answer.start);
        let (meaning, begins) = match self.way {
            Way::Webhook { .. } => (of_webhook(&answer), false),
            Way::Post { threads, .. } => (of_post(&answer), threads && root.is_none()),
        };
        let delivered = self.service.conclude(&answer, meaning, said, outbound)?;
        let id = answer.members.get("id").as_str().filter(|_| begins);
        Ok(Delivered {
            thread: id.map(str::to_owned),
            ..delivered
        })
    }

    fn render(&self, outbound: &OutboundMessage<'_>) -> Result<String, Failure> {
        Ok(format!("{:#}", self.payload(outbound, self.root(outbound))?))
    }
}

/// The characters that [Mattermost's parser][1] allows a backslash before; before others it would be shown.
///
/// [1]: https://github.com/mattermost/marked
const ESCAPABLE: &str = "\\`*{}[]()#+-.!_>~|";

/// A word joiner: it is not visible, and takes the effect of the character before it.
const JOINER: char = '\u{2060}';

/// Escapes a value so that it has no Markdown. Mattermost looks for `@channel`, `@here` and names after Markdown is read, and
/// nothing switches that off, so a joiner ends the name after `@`; also after `<`, which a webhook reads as Slack does, and
/// where a hashtag, a link to a channel or a disguised link would begin. A link that shows where it leads stays one.
fn quiet(text: &str) -> String {
    let text = visible(text);
    let mut quiet = String::with_capacity(text.len() + text.len() / 8);
    let (mut at, mut before) = (0, '\n');
    for word in text.split_inclusive(char::is_whitespace) {
        let bare = word.trim_end();
        let link = safe_link(bare);
        if let Some(link) = link {
            quiet.push_str(&format!("<{link}>"));
            before = '>';
        }
        let start = at + link.map_or(0, str::len);
        at += word.len();
        for (place, character) in text[start..at].char_indices() {
            let rest = &text[start + place + character.len_utf8()..];
            escape(&mut quiet, before, character, rest);
            before = character;
        }
    }
    quiet
}

/// Writes one character, which stands between `before` and `rest`.
fn escape(quiet: &mut String, before: char, character: char, rest: &str) {
    if ESCAPABLE.contains(character) {
        quiet.push('\\');
    }
    match character {
        // White space at the beginning of a line could begin a block of code.
        ' ' | '\t' if before == '\n' => quiet.push('\u{a0}'),
        plain => quiet.push(plain),
    }
    match character {
        // The parser reads this before any escape, and only a space ends it.
        '<' if is_address(rest) => quiet.push(' '),
        '@' | '~' | '#' | '<' => quiet.push(JOINER),
        ':' if rest.starts_with('/') => quiet.push(JOINER),
        '=' if before == '\n' => quiet.push(JOINER),
        _ => {}
    }
}

/// Whether `<` before this begins a link to an e-mail address: `<a@b>`.
fn is_address(rest: &str) -> bool {
    let inside = rest.split_once('>').map_or("", |(inside, _)| inside);
    inside.contains('@') && !inside.contains(' ')
}

/// Whether the root of the thread was deleted.
fn is_root_gone(answer: &Answer) -> bool {
    let id = answer.members.get("id").as_str().unwrap_or_default();
    answer.status == StatusCode::BAD_REQUEST && id.contains("root_id")
}

const WEBHOOK: &str =
    "the webhook may have been removed, or its channel archived: make a new one, and replace `webhook_url`";
const POST: &str = "check `url` and `token`, and that the bot is a member of the channel `channel_id`";

/// Errors of a webhook that concern one message.
const TEXT_ERRORS: &[&str] = &["text", "parse", "too_large", "props"];

/// A removed webhook is a 400 or a 404.
fn of_webhook(answer: &Answer) -> Meaning {
    let id = answer.members.get("id").as_str().unwrap_or_default();
    match answer.status {
        StatusCode::BAD_REQUEST if TEXT_ERRORS.iter().any(|word| id.contains(word)) => Meaning::Refused,
        StatusCode::BAD_REQUEST => Meaning::Misconfigured(WEBHOOK),
        status if status.is_success() && answer.start.trim() != "ok" => Meaning::Odd,
        status => limited(answer, Meaning::of(status, WEBHOOK)),
    }
}

fn of_post(answer: &Answer) -> Meaning {
    let id = answer.members.get("id");
    match answer.status {
        status if status.is_success() && id.is_null() => Meaning::Odd,
        StatusCode::BAD_REQUEST if id.as_str().is_some_and(|id| id.contains("channel")) => {
            Meaning::Misconfigured(POST)
        }
        status => limited(answer, Meaning::of(status, POST)),
    }
}

/// The rate limiter says in a header after how many seconds it starts again.
fn limited(answer: &Answer, meaning: Meaning) -> Meaning {
    match meaning {
        Meaning::Limited(None) => Meaning::Limited(answer.number("x-ratelimit-reset").and_then(seconds)),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn answer(status: u16, body: &str) -> Answer {
        Answer::new(StatusCode::from_u16(status).unwrap(), body)
    }

    #[test]
    fn answers_to_a_webhook_have_a_meaning() {
        let parked = Meaning::Misconfigured(WEBHOOK);
        for (status, body, expected) in [
            (200, "ok", Meaning::Accepted),
            (200, "<html>", Meaning::Odd),
            (400, r#"{"id":"web.incoming_webhook.invalid.app_error"}"#, parked),
            (
                400,
                r#"{"id":"web.incoming_webhook.text.app_error"}"#,
                Meaning::Refused,
            ),
            (400, "", parked),
            (
                403,
                r#"{"id":"web.incoming_webhook.channel_locked.app_error"}"#,
                parked,
            ),
            (404, "", parked),
            (429, "limit exceeded", Meaning::Limited(None)),
            (500, "", Meaning::Busy),
        ] {
            assert_eq!(of_webhook(&answer(status, body)), expected, "{status} {body}");
        }
    }

    #[test]
    fn answers_to_a_post_have_a_meaning() {
        let parked = Meaning::Misconfigured(POST);
        for (status, body, expected) in [
            (201, r#"{"id":"a","message":"x"}"#, Meaning::Accepted),
            (201, "<html>", Meaning::Odd),
            (
                400,
                r#"{"id":"api.context.invalid_body_param.app_error"}"#,
                Meaning::Refused,
            ),
            (
                400,
                r#"{"id":"api.post.create_post.channel_deleted.app_error"}"#,
                parked,
            ),
            (401, r#"{"id":"api.context.session_expired.app_error"}"#, parked),
            (403, r#"{"id":"api.context.permissions.app_error"}"#, parked),
            (404, "", parked),
            (500, "", Meaning::Busy),
        ] {
            assert_eq!(of_post(&answer(status, body)), expected, "{status} {body}");
        }
        let mut limited = answer(429, "limit exceeded");
        limited.headers.insert("x-ratelimit-reset", "3".parse().unwrap());
        assert_eq!(of_post(&limited), Meaning::Limited(Some(Duration::from_secs(3))));
    }

    #[test]
    fn exactly_one_way_is_configured() {
        let built = |toml: &str| way(&crate::model::setting::from_toml(toml).unwrap());
        let post = "url = 'https://m.example'\ntoken = 't'\nchannel_id = 'abcdefghijklmnopqrstuvwxyz'\n";
        assert!(matches!(built(post), Ok(Way::Post { threads: true, .. })));
        assert!(matches!(
            built("webhook_url = 'https://m.example/hooks/x'"),
            Ok(Way::Webhook { .. })
        ));
        for (toml, named) in [
            ("", "is needed"),
            ("url = 'https://m.example'\ntoken = 't'", "is needed"),
            (
                "url = 'https://m.example'\ntoken = 't'\nchannel_id = 'town-square'",
                "`channel_id`",
            ),
            (
                &format!("{post}webhook_url = 'https://m.example/hooks/x'"),
                "leave",
            ),
            (
                "webhook_url = 'https://m.example/hooks/x'\nthreads = true",
                "`threads`",
            ),
            ("webhook_url = 'm.example'", "`webhook_url`"),
        ] {
            let error = built(toml).expect_err(toml);
            assert!(error.contains(named), "{toml}: {error}");
        }
    }

    #[test]
    fn nothing_acts_and_a_link_that_shows_its_target_is_one() {
        for (text, quieted) in [
            ("@all ~town #x", "@\u{2060}all \\~\u{2060}town \\#\u{2060}x"),
            (
                "<a@b.example> <@U1",
                "< a@\u{2060}b\\.example\\> <\u{2060}@\u{2060}U1",
            ),
            ("<!here> *b*", "<\u{2060}\\!here\\> \\*b\\*"),
            ("    x\n\ty z", "\u{a0}   x\n\u{a0}y z"),
            ("a\n===", "a\n=\u{2060}=="),
            (
                "see https://a.example/b_c?d=1\nx",
                "see <https://a.example/b_c?d=1>\nx",
            ),
            (
                "https://bank.example@evil.example/",
                "https:\u{2060}//bank\\.example@\u{2060}evil\\.example/",
            ),
            ("10:30, 50 % \"d\"", "10:30, 50 % \"d\""),
        ] {
            assert_eq!(quiet(text), quieted);
        }
    }
}
