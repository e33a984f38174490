//! Lists received messages by the API that Twilio and SignalWire have in common.
//!
//! Follows [List messages]: `GET …/Accounts/SID/Messages.json?DateSent>=DAY`, newest first, in pages.
//!
//! [List messages]: https://www.twilio.com/docs/messaging/api/message-resource#read-multiple-message-resources

use std::time::Duration;

use async_trait::async_trait;
use deserr::Deserr;
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Map, Value};
use url::Url;

use super::twilio_form::without_channel;
use super::{CatchUp, Incoming, ListError, Listed, fields};
use crate::http_client;
use crate::model::message::{Media, Timestamp};
use crate::model::number::Number;
use crate::model::secret::{Secret, Secrets};
use crate::model::setting::Errors;
use crate::resolver::Resolver;

/// Time limit of one request.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Messages of one page; both carriers allow 1000.
const PAGE_SIZE: &str = "200";

/// Upper bound of a page, in bytes.
const BODY_MAX: usize = 8 << 20;

/// `[source.NAME.catch_up]`
#[derive(Clone, Debug, Deserr)]
#[deserr(error = Errors, deny_unknown_fields)]
pub struct Config {
    /// The account whose messages are listed; at SignalWire the project.
    pub account_sid: String,
    /// The secret of the account.
    #[deserr(default)]
    pub auth_token: Option<Secret>,
    /// An API key, in place of the account.
    #[deserr(default)]
    pub api_key: Option<String>,
    /// The secret of the API key.
    #[deserr(default)]
    pub api_secret: Option<Secret>,
    /// The URL of the API.
    #[deserr(default)]
    pub api_url: Option<String>,
    /// The receivers whose messages are listed; by default all of the account.
    #[deserr(default)]
    pub numbers: Vec<String>,
}

/// The list of received messages of one account.
pub(super) struct List {
    client: reqwest::Client,
    api_url: Url,
    account_sid: String,
    user: String,
    password: Secret,
    numbers: Vec<String>,
}

impl List {
    /// # Errors
    /// A sentence for the operator.
    pub(super) fn build(
        config: &Config,
        default_url: Option<&str>,
        default_token: Option<&Secrets>,
        resolver: &Resolver,
    ) -> Result<Self, String> {
        let api_url = config.api_url.as_deref().or(default_url);
        let api_url =
            api_url.ok_or("`catch_up.api_url` is missing: `https://SPACE.signalwire.com/api/laml`")?;
        let (user, password) = match (&config.api_key, &config.api_secret, &config.auth_token) {
            (Some(key), Some(secret), None) => (key.clone(), secret.clone()),
            (None, None, Some(token)) => (config.account_sid.clone(), token.clone()),
            (None, None, None) => {
                let token = default_token.and_then(|tokens| tokens.all().first()).cloned();
                let token =
                    token.ok_or("`catch_up.auth_token` is missing (or `api_key` and `api_secret`)")?;
                (config.account_sid.clone(), token)
            }
            _ => {
                return Err("`catch_up` needs either `auth_token`, or `api_key` and `api_secret`".to_owned());
            }
        };
        let is_plain = |text: &str| {
            !text.is_empty()
                && text
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        };
        if !is_plain(&config.account_sid) {
            return Err("`catch_up.account_sid` is not the SID of an account".to_owned());
        }
        let wrong = config
            .numbers
            .iter()
            .find(|number| Number::typed(number).is_err());
        if let Some(number) = wrong {
            return Err(format!("`catch_up.numbers`: `{number}` is not a number"));
        }
        let client = http_client::builder(resolver.clone()).timeout(TIMEOUT).build();
        Ok(Self {
            client: client.map_err(|error| format!("the HTTP client cannot be set up: {error}"))?,
            api_url: api_base(api_url)?,
            account_sid: config.account_sid.clone(),
            user,
            password,
            numbers: config.numbers.clone(),
        })
    }

    /// The URL of a page on the configured host, whatever host the page before names.
    fn url(&self, page: &str) -> Option<Url> {
        let prefix = self.api_url.path().trim_end_matches('/');
        let path = match page.starts_with(prefix) {
            true => page.to_owned(),
            false => format!("{prefix}{page}"),
        };
        let url = self.api_url.join(&path).ok()?;
        (page.starts_with('/') && url.origin() == self.api_url.origin()).then_some(url)
    }

    /// The attachments of a listed message, with the links that its webhook has.
    ///
    /// # Errors
    /// When they cannot be read now: the message is then listed again later. A message whose attachments the carrier
    /// does not know any more has none.
    async fn media(&self, listed: &mut Map<String, Value>) -> Result<Vec<Media>, ListError> {
        let count = listed.get("num_media").cloned().map(fields::text);
        let list = listed.remove("subresource_uris").unwrap_or_default();
        let list = list.get("media").and_then(Value::as_str);
        let (Some(list), false) = (list, matches!(count.as_deref(), None | Some("" | "0"))) else {
            return Ok(Vec::new());
        };
        let Some(url) = self.url(list) else {
            return Ok(Vec::new());
        };
        let Some(body) = self.get(url).await? else {
            return Ok(Vec::new());
        };
        let list: MediaList = serde_json::from_slice(&body).map_err(|_| {
            ListError::new("the answer is not a list of attachments; check `catch_up.api_url`")
        })?;
        let one = |listed: ListedMedia| {
            let link = self.url(listed.uri.trim_end_matches(".json"))?;
            Some(Media {
                link: link.into(),
                content_type: listed.content_type,
                filename: None,
            })
        };
        Ok(list.media_list.into_iter().filter_map(one).collect())
    }

    /// The body at a URL; `None` if the carrier answers 404.
    async fn get(&self, url: Url) -> Result<Option<Vec<u8>>, ListError> {
        let request = self
            .client
            .get(url)
            .basic_auth(&self.user, Some(self.password.reveal()));
        let response = request.send().await;
        let response = response.map_err(|error| ListError::new(http_client::reason(error)))?;
        let status = response.status();
        if status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        if status != StatusCode::OK {
            let advice = match status {
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => "; check the credentials in `catch_up`",
                _ => "",
            };
            return Err(ListError {
                reason: format!("HTTP {status}{advice}"),
                retry_after: http_client::retry_after(response.headers()),
            });
        }
        let body = http_client::body(response, BODY_MAX).await;
        body.map(Some).map_err(ListError::new)
    }
}

#[async_trait]
impl CatchUp for List {
    fn first_pages(&self, since: Timestamp) -> Vec<String> {
        let day: String = since.to_string().chars().take(10).collect();
        let page = |number: Option<&String>| {
            let mut query = url::form_urlencoded::Serializer::new(String::new());
            query
                .append_pair("PageSize", PAGE_SIZE)
                .append_pair("DateSent>", &day);
            query.extend_pairs(number.map(|number| ("To", number)));
            let prefix = self.api_url.path().trim_end_matches('/');
            format!(
                "{prefix}/2010-04-01/Accounts/{}/Messages.json?{}",
                self.account_sid,
                query.finish()
            )
        };
        match self.numbers.is_empty() {
            true => vec![page(None)],
            false => self.numbers.iter().map(|number| page(Some(number))).collect(),
        }
    }

    async fn page(&self, page: &str, since: Timestamp) -> Result<Listed, ListError> {
        let url = self.url(page);
        let url = url.ok_or_else(|| ListError::new("the answer names an invalid next page"))?;
        let body = self.get(url).await?.ok_or_else(|| {
            ListError::new("HTTP 404 Not Found; check `catch_up.account_sid` and `api_url`")
        })?;
        let page: Page = serde_json::from_slice(&body)
            .map_err(|_| ListError::new("the answer is not a list of messages; check `catch_up.api_url`"))?;
        let (found, next) = page.read(since);
        let mut messages = Vec::with_capacity(found.len());
        for mut listed in found {
            let media = self.media(&mut listed).await?;
            messages.push(message(listed, media));
        }
        Ok(Listed { messages, next })
    }
}

/// `https://HOST/PATH`; without TLS only on this machine, because it carries a password.
fn api_base(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| format!("`catch_up.api_url`: {error}"))?;
    let is_local = match url.host() {
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost",
        None => false,
    };
    let is_safe = url.scheme() == "https" || (url.scheme() == "http" && is_local);
    let is_bare = url.query().is_none() && url.fragment().is_none() && url.username().is_empty();
    (is_safe && is_bare)
        .then_some(url)
        .ok_or_else(|| "`catch_up.api_url` must be an https URL without user and query".to_owned())
}

#[derive(Deserialize)]
struct MediaList {
    media_list: Vec<ListedMedia>,
}

#[derive(Deserialize)]
struct ListedMedia {
    /// The path of its description; the attachment has the same path without `.json`.
    uri: String,
    content_type: Option<String>,
}

#[derive(Deserialize)]
struct Page {
    messages: Vec<Map<String, Value>>,
    next_page_uri: Option<String>,
}

impl Page {
    /// The received messages of a page, and the next page. The list ends when the messages, newest first, are all older than `since`.
    fn read(self, since: Timestamp) -> (Vec<Map<String, Value>>, Option<String>) {
        let times: Vec<Timestamp> = self.messages.iter().filter_map(sent_at).collect();
        let (newest, oldest) = (times.first(), times.last());
        let is_past = newest
            .zip(oldest)
            .is_some_and(|(newest, oldest)| newest > oldest && *newest < since);
        let is_wanted = |message: &Map<String, Value>| {
            let is_inbound = message.get("direction").and_then(Value::as_str) == Some("inbound");
            is_inbound && sent_at(message).is_none_or(|at| at >= since)
        };
        let next = self.next_page_uri.filter(|next| !next.is_empty() && !is_past);
        (self.messages.into_iter().filter(is_wanted).collect(), next)
    }
}

/// `Fri, 24 May 2019 17:18:27 +0000`
fn sent_at(message: &Map<String, Value>) -> Option<Timestamp> {
    let text = ["date_sent", "date_created"]
        .iter()
        .find_map(|name| message.get(*name)?.as_str())?;
    let zoned = jiff::fmt::rfc2822::parse(text).ok();
    let at = zoned.map(|zoned| Timestamp(zoned.timestamp().as_millisecond()));
    at.or_else(|| text.parse().ok())
}

/// A listed message, with the id that its webhook has.
fn message(mut listed: Map<String, Value>, media: Vec<Media>) -> Incoming {
    let sent_at = sent_at(&listed);
    let mut take = |name: &str| listed.remove(name).map(fields::text).unwrap_or_default();
    let (id, from, to, text) = (take("sid"), take("from"), take("to"), take("body"));
    let (segments, count) = (take("num_segments"), take("num_media"));
    let (channel, from) = without_channel(&from);
    let (_, to) = without_channel(&to);
    let mut message = Incoming::new(id, from, to, text);
    message.segments = segments.parse().ok();
    message.sent_at = sent_at;
    let channel = channel.map(|channel| ("channel".to_owned(), Value::from(channel)));
    let account = listed.remove("account_sid").filter(|sid| !sid.is_null());
    let account = account.map(|sid| ("AccountSid".to_owned(), sid));
    message.set_extra(channel.into_iter().chain(account));
    if media.is_empty() && !matches!(count.as_str(), "" | "0") {
        message
            .odd
            .push(format!("attachments that only the carrier has: {count}"));
    }
    message.media = media;
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(api_url: &str) -> Result<List, String> {
        let config = Config {
            account_sid: "AC1".to_owned(),
            auth_token: Some(Secret::new("x")),
            api_key: None,
            api_secret: None,
            api_url: Some(api_url.to_owned()),
            numbers: vec!["+13035550100".to_owned()],
        };
        List::build(&config, None, None, &Resolver::default())
    }

    #[test]
    fn pages_are_read_on_the_configured_host_only() {
        let list = list("https://space.signalwire.com/api/laml/").unwrap();
        let first = list.first_pages(Timestamp(1_767_268_800_000));
        let expected = "/api/laml/2010-04-01/Accounts/AC1/Messages.json?PageSize=200&DateSent%3E=2026-01-01&To=%2B13035550100";
        assert_eq!(first, [expected]);
        for (page, url) in [
            (expected, Some(format!("https://space.signalwire.com{expected}"))),
            (
                "/x?Page=1",
                Some("https://space.signalwire.com/api/laml/x?Page=1".to_owned()),
            ),
            (
                "//evil.example/x",
                Some("https://space.signalwire.com/api/laml//evil.example/x".to_owned()),
            ),
            ("https://evil.example/x", None),
        ] {
            assert_eq!(list.url(page).map(String::from), url, "{page}");
        }
    }

    #[test]
    fn a_password_is_sent_without_tls_to_this_machine_only() {
        assert!(list("http://127.0.0.1:8080").is_ok() && list("https://api.twilio.com").is_ok());
        for url in [
            "http://api.twilio.com",
            "ftp://127.0.0.1",
            "https://u@api.twilio.com",
            "x",
        ] {
            assert!(list(url).is_err(), "{url}");
        }
    }

    #[test]
    fn received_messages_are_taken_from_a_page() {
        let one = |sid: &str, direction: &str, time: &str| {
            serde_json::json!({
                "sid": sid, "direction": direction, "from": "whatsapp:+14045550123", "to": "+13038675309", "body": "Hi",
                "num_segments": "1", "num_media": "1", "date_sent": time, "account_sid": "AC1", "price": null,
            })
        };
        let page = |messages: Vec<Value>| {
            let page = serde_json::json!({ "messages": messages, "next_page_uri": "/next" });
            let page: Page = serde_json::from_value(page).unwrap();
            page.read(Timestamp(1_767_268_800_000))
        };
        let (after, before) = (
            "Thu, 01 Jan 2026 12:00:00 +0000",
            "Thu, 01 Jan 2026 11:59:59 +0000",
        );
        let (listed, next) = page(vec![
            one("SM1", "inbound", after),
            one("SM2", "outbound-api", after),
            one("SM3", "inbound", before),
        ]);
        assert_eq!(next.as_deref(), Some("/next"));
        let [listed] = &listed[..] else {
            panic!("{listed:?}")
        };
        let message = message(listed.clone(), Vec::new());
        assert_eq!(
            (message.provider_id.as_str(), message.from.raw()),
            ("SM1", "+14045550123")
        );
        assert_eq!(message.sent_at, Some(Timestamp(1_767_268_800_000)));
        assert_eq!(message.odd, ["attachments that only the carrier has: 1"]);
        assert_eq!(message.extra.len(), 2);
        let (older, next) = page(vec![
            one("SM3", "inbound", before),
            one("SM4", "inbound", "Thu, 01 Jan 2026 11:00:00 +0000"),
        ]);
        assert!(older.is_empty() && next.is_none(), "older pages are not read");
    }
}
