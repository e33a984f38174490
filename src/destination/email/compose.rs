//! Composes the e-mail of a message: headers for threading and identification, a plain part, and an HTML part.
//!
//! A message gives the same bytes at every attempt. Every value from a message passes [`template::one_line`]
//! before it is used in a header, and both parts are always encoded, so that no message can end a header or begin a MIME
//! part.

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use lettre::message::header::{ContentTransferEncoding, ContentType, HeaderName, HeaderValue};
use lettre::message::{MessageBuilder, MultiPart, SinglePart};

use super::mailbox::Mailbox;
use crate::destination::{Failure, OutboundMessage};
use crate::model::message::{Media, Name, Timestamp};
use crate::model::zone;
use crate::template::{self, Medium, Template};

/// Maximum length of a subject, in characters.
const SUBJECT_MAX: usize = 200;

/// The latest time that a `Date` header can contain: the end of the year 9999.
const DATE_MAX: u64 = 253_402_300_799_000;

/// Composes the e-mails of one destination.
#[derive(Clone, Debug)]
pub(super) struct Composer {
    pub(super) name: Name,
    pub(super) from: Mailbox,
    pub(super) to: Vec<Mailbox>,
    pub(super) cc: Vec<Mailbox>,
    pub(super) reply_to: Option<Mailbox>,
    pub(super) subject: Option<Template>,
    pub(super) body: Option<Template>,
    pub(super) html: bool,
    pub(super) threads: bool,
}

impl Composer {
    /// The complete source of the e-mail.
    ///
    /// # Errors
    /// A template that fails for this message.
    pub(super) fn compose(&self, outbound: &OutboundMessage<'_>) -> Result<String, Failure> {
        let (plain, html) = self.bodies(outbound)?;
        let message = self.headers(outbound, &self.subject(outbound)?);
        let plain = part(ContentType::TEXT_PLAIN, plain);
        let message = if self.html {
            let alternative = MultiPart::alternative().boundary(boundary(outbound));
            message.multipart(
                alternative
                    .singlepart(plain)
                    .singlepart(part(ContentType::TEXT_HTML, html)),
            )
        } else {
            message.singlepart(plain)
        };
        let message =
            message.map_err(|error| Failure::permanent(format!("the e-mail cannot be made: {error}")))?;
        String::from_utf8(message.formatted())
            .map_err(|_| Failure::permanent("the e-mail is not valid UTF-8"))
    }

    fn headers(&self, outbound: &OutboundMessage<'_>, subject: &str) -> MessageBuilder {
        let domain = self.from.email.domain();
        let mut message = lettre::Message::builder().from(self.from.to_lettre());
        for mailbox in &self.to {
            message = message.to(mailbox.to_lettre());
        }
        for mailbox in &self.cc {
            message = message.cc(mailbox.to_lettre());
        }
        if let Some(mailbox) = &self.reply_to {
            message = message.reply_to(mailbox.to_lettre());
        }
        message = message
            .raw_header(text_header("Subject", subject))
            .date(date(outbound.message.received_at))
            .message_id(Some(format!("<{}@{domain}>", outbound.id)));
        if self.threads {
            // No e-mail has this id: mail programs also group replies to an e-mail that they have not received.
            let root = format!("<{}.{}@{domain}>", outbound.conversation(), atom(&self.name));
            message = message.in_reply_to(root.clone()).references(root);
        }
        message
            .raw_header(text_header("List-Id", &self.list_id(outbound)))
            .raw_header(text_header("Auto-Submitted", "auto-generated"))
            .raw_header(text_header("X-Auto-Response-Suppress", "All"))
    }

    /// One list id for each route, so that people can filter by it.
    fn list_id(&self, outbound: &OutboundMessage<'_>) -> String {
        let route = outbound.route.map_or_else(|| "unmatched".to_owned(), atom);
        format!("<{route}.{}.{}>", atom(&self.name), self.from.email.domain())
    }

    fn subject(&self, outbound: &OutboundMessage<'_>) -> Result<String, Failure> {
        let subject = match &self.subject {
            Some(subject) => render(subject, Medium::Line, outbound, "subject")?,
            // The same subject for all messages of a conversation: some mail programs begin a new thread when the
            // subject changes.
            None => format!(
                "SMS from {} to {}",
                outbound.from_name.unwrap_or(&outbound.message.from.shown()),
                outbound.to_name.unwrap_or(&outbound.message.to.shown())
            ),
        };
        Ok(template::one_line(subject.trim())
            .chars()
            .take(SUBJECT_MAX)
            .collect())
    }

    fn bodies(&self, outbound: &OutboundMessage<'_>) -> Result<(String, String), Failure> {
        if let Some(body) = outbound.template.or(self.body.as_ref()) {
            let mut text = render(body, Medium::Text, outbound, "body")?;
            if let Some(fallback) = &outbound.fallback {
                text.push_str(&format!("\n\n-- \n{}\n", fallback.note()));
            }
            let html = page(&paragraph(&text));
            return Ok((text, html));
        }
        let text = match outbound.message.text.as_str() {
            "" => "(no text)".to_owned(),
            text => template::visible(&text.replace("\r\n", "\n")),
        };
        let facts = facts(outbound);
        Ok((
            plain_body(&text, &facts, &outbound.message.media),
            html_body(&text, &facts, &outbound.message.media),
        ))
    }
}

fn render(
    template: &Template,
    medium: Medium,
    outbound: &OutboundMessage<'_>,
    what: &str,
) -> Result<String, Failure> {
    template
        .render(medium, &outbound.values())
        .map_err(|error| Failure::permanent(format!("{what}: {error}")))
}

/// The lines below the body: a label and a one-line value each.
fn facts(outbound: &OutboundMessage<'_>) -> Vec<(&'static str, String)> {
    let message = outbound.message;
    let person = |name: Option<&str>, number: &str| match name {
        Some(name) => template::one_line(&format!("{name} ({number})")),
        None => template::one_line(number),
    };
    let mut facts = vec![
        ("From", person(outbound.from_name, &message.from.shown())),
        ("To", person(outbound.to_name, &message.to.shown())),
        ("Received", zone::shown(message.received_at, outbound.zone)),
    ];
    if let Some(route) = outbound.route {
        facts.push(("Route", route.to_string()));
    }
    if let Some(fallback) = &outbound.fallback {
        facts.push(("Note", fallback.note()));
    }
    facts
}

fn plain_body(text: &str, facts: &[(&str, String)], media: &[Media]) -> String {
    let mut body = format!("{text}\n\n-- \n");
    for (label, value) in facts {
        body.push_str(&format!("{:10}{value}\n", format!("{label}:")));
    }
    for media in media {
        body.push_str(&format!("{:10}{}\n", "Media:", template::one_line(&media.link)));
    }
    body
}

fn html_body(text: &str, facts: &[(&str, String)], media: &[Media]) -> String {
    let mut rows = String::new();
    for (label, value) in facts {
        rows.push_str(&row(label, &template::html(value)));
    }
    for media in media {
        rows.push_str(&row("Media", &link(&media.link)));
    }
    page(&format!(
        "{}<table style=\"margin-top:1em;color:#555;font-size:.9em\">\n{rows}</table>\n",
        paragraph(text)
    ))
}

fn page(content: &str) -> String {
    format!("<!DOCTYPE html>\n<html>\n<body style=\"font-family:sans-serif\">\n{content}</body>\n</html>\n")
}

fn paragraph(text: &str) -> String {
    format!(
        "<div style=\"overflow-wrap:anywhere\">{}</div>\n",
        template::html(text).replace('\n', "<br>\n")
    )
}

fn row(label: &str, html: &str) -> String {
    format!("<tr><td style=\"padding-right:1em\">{label}</td><td>{html}</td></tr>\n")
}

/// A link that shows where it leads. An unsafe link is shown as text.
fn link(link: &str) -> String {
    let shown = template::html(&template::one_line(link));
    match template::safe_link(link) {
        Some(_) => format!("<a href=\"{shown}\">{shown}</a>"),
        None => shown,
    }
}

/// A part with the encoding that suits its script. Never 7bit: see [`boundary`].
fn part(content_type: ContentType, text: String) -> SinglePart {
    let wide = text.bytes().filter(|byte| !byte.is_ascii()).count();
    let encoding = if wide * 3 > text.len() {
        ContentTransferEncoding::Base64
    } else {
        ContentTransferEncoding::QuotedPrintable
    };
    SinglePart::builder()
        .header(content_type)
        .header(encoding)
        .body(text)
}

/// The boundary, the same for every attempt. `=_` occurs neither in quoted-printable nor in base64, so no message can
/// contain it (RFC 2045, section 6.7).
fn boundary(outbound: &OutboundMessage<'_>) -> String {
    format!("=_{}", outbound.id)
}

/// A header with a generated value or with text from the message, which must already be on one line.
fn text_header(name: &'static str, text: &str) -> HeaderValue {
    let header = HeaderName::new_from_ascii_str(name);
    // lettre does not encode ASCII, and a message may imitate encoded words.
    if text.is_ascii() && !text.contains("=?") {
        return HeaderValue::new(header, text.to_owned());
    }
    HeaderValue::dangerous_new_pre_encoded(header, text.to_owned(), encoded_words(text))
}

/// The string as encoded words of RFC 2047, one per line.
fn encoded_words(text: &str) -> String {
    const BYTES_MAX: usize = 36;
    let mut words = vec![String::new()];
    for character in text.chars() {
        if words
            .last()
            .is_some_and(|word| word.len() + character.len_utf8() > BYTES_MAX)
        {
            words.push(String::new());
        }
        if let Some(word) = words.last_mut() {
            word.push(character);
        }
    }
    let words: Vec<String> = words
        .iter()
        .map(|word| format!("=?utf-8?B?{}?=", BASE64.encode(word)))
        .collect();
    words.join("\r\n ")
}

/// A name as a part of an id. Names may contain dots anywhere, ids may not.
fn atom(name: &Name) -> String {
    name.as_str().replace('.', "-")
}

fn date(time: Timestamp) -> SystemTime {
    let milliseconds = u64::try_from(time.0).unwrap_or(0).min(DATE_MAX);
    SystemTime::UNIX_EPOCH + Duration::from_millis(milliseconds)
}
