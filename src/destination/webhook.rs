//! Webhook: posts messages to any HTTP API, as JSON or with a body template, optionally signed as [Standard
//! Webhooks][1].
//!
//! Every attempt sends the delivery id as `webhook-id`, so that the receiver can detect duplicates.
//!
//! [1]: https://www.standardwebhooks.com/

use deserr::Deserr;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use serde::Serialize;
use sha2::Sha256;
use tokio::time::Instant;

use super::http::{Answer, Client, address, parse_url};
use super::{BuildContext, Delivered, Destination, Failure, Fallback, Kind, OutboundMessage};
use crate::mask::{Mask, Reason};
use crate::model::delivery::DeliveryId;
use crate::model::lint::{self, Lint};
use crate::model::message::{Media, Message, MessageId, Name, NameError, Timestamp};
use crate::model::number::Number;
use crate::model::secret::Secrets;
use crate::model::setting::{Errors, Members};
use crate::model::zone;
use crate::template::{Medium, Template};

const CONTENT_TYPE: &str = "application/json";

/// Headers that belong to the connection or that smsbridge sets.
const RESERVED: [&str; 12] = [
    "connection",
    "content-length",
    "content-type",
    "expect",
    "host",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "webhook-id",
    "webhook-timestamp",
];

/// `kind = "webhook"`
#[derive(Clone, Debug, Deserr)]
#[deserr(error = Errors, deny_unknown_fields)]
pub struct Config {
    /// The URL. A secret, because it may contain a token.
    pub url: Secrets,
    /// `POST` (the default), `PUT` or `PATCH`.
    #[deserr(default)]
    pub method: Option<String>,
    /// Additional headers. The values are secrets.
    #[deserr(default, from(Members<Secrets>) = BTreeMap::from)]
    pub headers: BTreeMap<String, Secrets>,
    /// A template for the complete body, instead of the default JSON object.
    #[deserr(default)]
    pub body: Option<String>,
    /// The `Content-Type` of `body`; `application/json` by default.
    #[deserr(default)]
    pub content_type: Option<String>,
    /// The signing secret: `whsec_` and base64, or any string. With several secrets, each adds a signature.
    #[deserr(default)]
    pub secret: Option<Secrets>,
}

impl Kind for Config {
    fn lints(&self) -> Vec<Lint> {
        let mut lints = Vec::new();
        let url = first(&self.url);
        let with_login = url::Url::parse(url).is_ok_and(|url| !url.username().is_empty());
        if with_login || !self.headers.is_empty() {
            let plain = lint::plain_http(url, "the credentials in `headers` or in the URL");
            lints.extend(plain.map(|message| Lint::new("url", message)));
        }
        let weak = self
            .secret
            .as_ref()
            .and_then(|secret| secret.find(lint::weak_secret));
        lints.extend(weak.map(|message| Lint::new("secret", message)));
        let example = self
            .headers
            .values()
            .find_map(|value| value.find(lint::example_secret));
        lints.extend(example.map(|message| Lint::new("headers", message)));
        lints
    }

    fn build(&self, context: BuildContext<'_>) -> Result<Box<dyn Destination>, String> {
        Ok(Box::new(Webhook::build(self, context)?))
    }
}

/// A webhook destination.
pub struct Webhook {
    http: Client,
    timeout: Duration,
    method: Method,
    url: url::Url,
    headers: HeaderMap,
    body: Option<Template>,
    template: Option<Template>,
    keys: Vec<Vec<u8>>,
    /// The keys in which credentials are or may be configured, for the operator.
    credentials: &'static str,
    mask: Mask,
}

impl Webhook {
    /// Builds the destination without a request.
    ///
    /// # Errors
    /// A sentence that names the invalid key.
    pub fn build(config: &Config, context: BuildContext<'_>) -> Result<Self, String> {
        let content_type = config.content_type.as_deref().unwrap_or(CONTENT_TYPE);
        let body = config
            .body
            .as_deref()
            .map(|body| compile_body(body, content_type))
            .transpose()?;
        if body.is_some() && context.template.is_some() {
            return Err("`template` is not used with `body`: remove one of them".to_owned());
        }
        let url = parse_url("url", first(&config.url))?;
        Ok(Self {
            mask: mask(config, &url),
            credentials: match (config.headers.is_empty(), &config.secret) {
                (false, _) => "`headers` and `url`",
                (true, Some(_)) => "`secret` and `url`",
                (true, None) => "`url`",
            },
            http: context.http.clone(),
            timeout: context.timeout,
            method: method(config.method.as_deref().unwrap_or("POST"))?,
            url,
            headers: headers(&config.headers, content_type)?,
            body,
            template: context.template,
            keys: config
                .secret
                .iter()
                .flat_map(Secrets::all)
                .map(|key| signing_key(key.reveal()))
                .collect::<Result<_, _>>()?,
        })
    }

    fn body(&self, outbound: &OutboundMessage<'_>) -> Result<String, Failure> {
        let rendered = |template: &Template, medium| {
            template
                .render(medium, &outbound.values())
                .map_err(|error| Failure::permanent(error.to_string()))
        };
        if let Some(body) = &self.body {
            return rendered(body, Medium::Json);
        }
        let template = outbound.template.or(self.template.as_ref());
        let rendered = template.map(|template| rendered(template, Medium::Text));
        let body = DefaultBody::of(outbound, rendered.transpose()?);
        serde_json::to_string(&body).map_err(|error| Failure::permanent(error.to_string()))
    }
}

#[async_trait]
impl Destination for Webhook {
    fn concurrency_default(&self) -> usize {
        8
    }

    fn address(&self) -> Option<String> {
        address(&self.url)
    }

    async fn deliver(&self, outbound: &OutboundMessage<'_>) -> Result<Delivered, Failure> {
        let body = self.body(outbound)?;
        let mut request = self
            .http
            .request(self.method.clone(), self.url.clone())
            .headers(self.headers.clone())
            .header("webhook-id", outbound.id.to_string());
        if !self.keys.is_empty() {
            let now = SystemTime::now()
                .duration_since(SystemTime::UNIX_EPOCH)
                .unwrap_or_default()
                .as_secs();
            request = request.header("webhook-timestamp", now).header(
                "webhook-signature",
                signatures(&self.keys, outbound.id, now, &body),
            );
        }
        let answer = self
            .http
            .send(request.body(body), Instant::now() + self.timeout, &self.mask)
            .await?;
        judge(&answer, self.credentials, || {
            answer.reason(&self.mask, outbound.message)
        })
    }

    fn render(&self, outbound: &OutboundMessage<'_>) -> Result<String, Failure> {
        self.body(outbound)
    }
}

/// The default body: all values exactly as received.
#[derive(Serialize)]
struct DefaultBody<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    fallback: Option<&'a Fallback<'a>>,
    from: Cow<'a, str>,
    from_name: Option<&'a str>,
    id: MessageId,
    media: &'a [Media],
    provider_id: &'a str,
    received_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    rendered: Option<String>,
    route: Option<&'a Name>,
    source: &'a Name,
    text: &'a str,
    to: Cow<'a, str>,
    to_name: Option<&'a str>,
}

impl<'a> DefaultBody<'a> {
    fn of(outbound: &'a OutboundMessage<'_>, rendered: Option<String>) -> Self {
        let message = outbound.message;
        Self {
            fallback: outbound.fallback.as_ref(),
            from: message.from.shown(),
            from_name: outbound.from_name,
            id: message.id,
            media: &message.media,
            provider_id: &message.provider_id,
            received_at: zone::exact(message.received_at, outbound.zone),
            rendered,
            route: outbound.route,
            source: &message.source,
            text: &message.text,
            to: message.to.shown(),
            to_name: outbound.to_name,
        }
    }
}

/// `credentials` names the keys in which they are configured.
fn judge(answer: &Answer, credentials: &str, reason: impl Fn() -> Reason) -> Result<Delivered, Failure> {
    let status = answer.status;
    if status.is_success() {
        return Ok(Delivered {
            detail: answer.status_line(),
            thread: None,
        });
    }
    let said = reason();
    Err(match status {
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY => answer.odd(said),
        StatusCode::TOO_MANY_REQUESTS => answer.busy(said),
        _ if status.is_server_error() => answer.busy(said),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            Failure::parked(said.own(&format!("; check the credentials in {credentials}")))
        }
        StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED | StatusCode::GONE => {
            Failure::parked(said.own("; check `url` and `method`"))
        }
        _ if status.is_redirection() => {
            Failure::parked(said.own("; redirects are not followed: put the final address into `url`"))
        }
        StatusCode::BAD_REQUEST
        | StatusCode::NOT_ACCEPTABLE
        | StatusCode::PAYLOAD_TOO_LARGE
        | StatusCode::UNSUPPORTED_MEDIA_TYPE
        | StatusCode::UNPROCESSABLE_ENTITY => Failure::permanent(said),
        _ => answer.odd(said),
    })
}

/// Masks the secrets that a response could contain.
fn mask(config: &Config, url: &url::Url) -> Mask {
    let mask = config.secret.iter().fold(Mask::default().url(url), Mask::secrets);
    let headers = config.headers.values().flat_map(Secrets::all);
    headers.fold(mask, |mask, value| mask.header(value.reveal()))
}

fn method(name: &str) -> Result<Method, String> {
    match name {
        "POST" => Ok(Method::POST),
        "PUT" => Ok(Method::PUT),
        "PATCH" => Ok(Method::PATCH),
        _ => Err(format!(
            "`method` is `{name}`, but only `POST`, `PUT` and `PATCH` carry a message"
        )),
    }
}

fn headers(configured: &BTreeMap<String, Secrets>, content_type: &str) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    let content_type = HeaderValue::from_str(content_type)
        .map_err(|_| "`content_type` contains a character that is not allowed in a header".to_owned())?;
    headers.insert(http::header::CONTENT_TYPE, content_type);
    for (name, value) in configured {
        let lower = name.to_ascii_lowercase();
        if RESERVED.contains(&lower.as_str()) || lower == "webhook-signature" || lower.starts_with("proxy-") {
            return Err(format!(
                "`headers`: `{name}` is set by the bridge itself{}",
                instead(&lower)
            ));
        }
        let header = HeaderName::from_bytes(lower.as_bytes())
            .map_err(|_| format!("`headers`: `{name}` is not a header's name"))?;
        let mut value = HeaderValue::from_str(first(value)).map_err(|_| {
            format!("`headers`: the value of `{name}` contains a character that is not allowed in a header")
        })?;
        value.set_sensitive(true);
        headers.insert(header, value);
    }
    Ok(headers)
}

fn instead(header: &str) -> &'static str {
    if header == "content-type" {
        "; use `content_type`"
    } else {
        ""
    }
}

/// Compiles the body. A JSON body is rendered with a message full of quotes as a test: a value outside of a JSON string
/// would let a sender inject keys.
fn compile_body(source: &str, content_type: &str) -> Result<Template, String> {
    let body = Template::compile(source).map_err(|error| match error.line {
        Some(line) => format!("`body`, line {line}: {error}"),
        None => format!("`body`: {error}"),
    })?;
    if content_type.contains("json") {
        check_json(&body)?;
    }
    Ok(body)
}

fn check_json(body: &Template) -> Result<(), String> {
    let groups = body
        .groups()
        .iter()
        .map(|group| (group.clone(), HOSTILE.to_owned()))
        .collect();
    for media in [0, 2] {
        let message = sample(media)?;
        let values = crate::template::Values {
            message: &message,
            from_name: Some(HOSTILE),
            to_name: Some(HOSTILE),
            route: Some("sample"),
            fallback: HOSTILE.to_owned(),
            groups: &groups,
            zone: None,
        };
        // An expression that fails for the sample message may work for a real one.
        let Ok(rendered) = body.render(Medium::Json, &values) else {
            continue;
        };
        serde_json::from_str::<serde::de::IgnoredAny>(&rendered).map_err(|error| {
            format!(
                "`body` does not make JSON ({error}): strings need quotes (`\"{{{{ text }}}}\"`), lists none \
                 (`{{{{ media }}}}`); or set `content_type`"
            )
        })?;
    }
    Ok(())
}

const HOSTILE: &str = "quotes \" ' \\ and\nlines";

fn sample(media: usize) -> Result<Message, String> {
    let attachment = Media {
        link: HOSTILE.to_owned(),
        content_type: None,
        filename: Some(HOSTILE.to_owned()),
    };
    let number = Number::parse("+13035550100").map_err(|error| error.to_string())?;
    Ok(Message {
        id: MessageId(uuid::Uuid::nil()),
        source: "sample".parse().map_err(|error: NameError| error.to_string())?,
        provider_id: HOSTILE.to_owned(),
        from: number.clone(),
        to: number,
        text: HOSTILE.to_owned(),
        media: vec![attachment; media],
        extra: BTreeMap::new(),
        received_at: Timestamp(0),
        routes: Vec::new(),
        redacted_at: None,
    })
}

fn signing_key(secret: &str) -> Result<Vec<u8>, String> {
    match secret.strip_prefix("whsec_") {
        Some(encoded) => BASE64
            .decode(encoded)
            .map_err(|_| "`secret`: the part after `whsec_` must be base64".to_owned()),
        None => Ok(secret.as_bytes().to_vec()),
    }
}

/// `v1,BASE64` for each key, over `ID.TIMESTAMP.BODY`.
fn signatures(keys: &[Vec<u8>], id: DeliveryId, timestamp: u64, body: &str) -> String {
    let signed = |key: &Vec<u8>| {
        // HMAC accepts keys of any length.
        let mut mac = Hmac::<Sha256>::new_from_slice(key).ok()?;
        mac.update(format!("{id}.{timestamp}.{body}").as_bytes());
        Some(format!("v1,{}", BASE64.encode(mac.finalize().into_bytes())))
    };
    keys.iter().filter_map(signed).collect::<Vec<_>>().join(" ")
}

/// Of several secrets, the first is used for sending.
fn first(secrets: &Secrets) -> &str {
    secrets.all().first().map_or("", |secret| secret.reveal())
}
