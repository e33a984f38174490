//! The payload for Slack: blocks that show the message as plain text, and a short fallback for notifications.

use serde_json::{Value, json};

use super::super::OutboundMessage;
use super::super::wording::{cut_note, header, name};
use super::mrkdwn::{MRKDWN, escape};
use crate::model::message::Media;
use crate::template::{Template, TemplateError, safe_link};

/// [Slack's limit][1] for the text of one section, counted here in UTF-16 units, the strictest way to count.
///
/// [1]: https://docs.slack.dev/reference/block-kit/blocks/section-block
const SECTION_MAX: usize = 3000;

/// Upper bound of the sections for the body; with the header and the attachments the message stays below 50 blocks.
const SECTIONS_MAX: usize = 45;

/// Upper bound of the attachments that are shown; further ones are counted.
const MEDIA_MAX: usize = 3;

/// Maximum length of the fallback beside blocks. Above 4 000 characters Slack may split it and post twice.
pub(super) const FALLBACK_MAX: usize = 1000;

/// Maximum length of a message without blocks: Slack cuts at 40 000.
pub(super) const PLAIN_MAX: usize = 39_000;

/// A message whose parts are escaped for Slack.
pub struct Content {
    header: Option<String>,
    text: String,
    kind: &'static str,
    media: Vec<Value>,
    marker: String,
}

impl Content {
    /// Renders a message. The output of a template is mrkdwn and replaces everything. Without a template, the body is
    /// shown in `plain_text` objects, where no formatting applies.
    pub fn new(outbound: &OutboundMessage<'_>, template: Option<&Template>) -> Result<Self, TemplateError> {
        let marker = cut_note(outbound.message.id);
        let note = outbound
            .fallback
            .as_ref()
            .map(|fallback| escape(&fallback.note()));
        if let Some(template) = template {
            let text = template.render(MRKDWN, &outbound.values())?;
            return Ok(Self {
                header: note,
                text,
                kind: "mrkdwn",
                media: Vec::new(),
                marker,
            });
        }
        Ok(Self {
            header: Some(match note {
                Some(note) => format!("{}\n{note}", header(outbound, escape)),
                None => header(outbound, escape),
            }),
            text: escape(&outbound.message.text),
            kind: "plain_text",
            media: attachments(&outbound.message.media),
            marker,
        })
    }

    /// The payload with blocks.
    pub fn blocks(&self) -> Value {
        let mut payload = self.bare(FALLBACK_MAX);
        payload["blocks"] = self.parts().into();
        payload
    }

    /// The blocks.
    pub fn parts(&self) -> Vec<Value> {
        let mut blocks: Vec<Value> = self
            .header
            .iter()
            .map(|header| context(vec![plain_text(header)]))
            .collect();
        blocks.extend(
            self.sections()
                .iter()
                .map(|text| json!({ "type": "section", "text": self.object(text) })),
        );
        blocks.extend(self.media.iter().cloned());
        blocks
    }

    /// The payload with only the text, for when Slack rejects the blocks.
    pub fn plain(&self) -> Value {
        self.bare(PLAIN_MAX)
    }

    fn bare(&self, max: usize) -> Value {
        bare(&self.flat(max), self.is_mrkdwn())
    }

    /// Whether its text has formatting.
    pub fn is_mrkdwn(&self) -> bool {
        self.kind == "mrkdwn"
    }

    fn sections(&self) -> Vec<String> {
        if self.text.trim().is_empty() {
            // Slack rejects an empty section, but the body of a message may be empty.
            return vec!["(empty text)".to_owned()];
        }
        let mut pieces = pieces(&self.text, SECTION_MAX);
        if pieces.len() > SECTIONS_MAX {
            pieces.truncate(SECTIONS_MAX - 1);
            pieces.push(self.marker.clone());
        }
        pieces
    }

    /// `verbatim` prevents Slack from linking strings that look like a channel or a user.
    fn object(&self, text: &str) -> Value {
        match self.kind {
            "mrkdwn" => json!({ "type": "mrkdwn", "text": text, "verbatim": true }),
            _ => plain_text(text),
        }
    }

    /// The header and the text, in at most `max` UTF-16 units.
    pub fn flat(&self, max: usize) -> String {
        let text = if self.text.trim().is_empty() {
            "(empty text)"
        } else {
            &self.text
        };
        let text = match &self.header {
            Some(header) => format!("{header}\n{text}"),
            None => text.to_owned(),
        };
        let mut pieces = pieces(&text, max).into_iter();
        let first = pieces.next().unwrap_or_default();
        if pieces.next().is_some() {
            format!("{first}\n{}", self.marker)
        } else {
            first
        }
    }
}

/// A payload with only this text.
pub fn bare(text: &str, is_mrkdwn: bool) -> Value {
    json!({ "text": text, "mrkdwn": is_mrkdwn, "unfurl_links": false, "unfurl_media": false })
}

/// Two elements per attachment: a description, and the link if it may be clickable.
fn attachments(media: &[Media]) -> Vec<Value> {
    let mut blocks: Vec<Value> = media.iter().take(MEDIA_MAX).map(attachment).collect();
    if media.len() > MEDIA_MAX {
        let more = format!("… and {} more attachments", media.len() - MEDIA_MAX);
        blocks.push(context(vec![plain_text(&more)]));
    }
    blocks
}

fn attachment(media: &Media) -> Value {
    let mut elements = vec![plain_text(&escape(&name(media)))];
    elements.push(match safe_link(&media.link) {
        Some(link) => json!({ "type": "mrkdwn", "text": format!("<{}>", escape(link)), "verbatim": true }),
        None => plain_text("(its link is not usable)"),
    });
    context(elements)
}

fn context(elements: Vec<Value>) -> Value {
    json!({ "type": "context", "elements": elements })
}

fn plain_text(text: &str) -> Value {
    // Slack rejects an empty object, and with it the message.
    let text = if text.trim().is_empty() { "-" } else { text };
    json!({ "type": "plain_text", "text": text, "emoji": false })
}

/// Splits escaped text into pieces of at most `max` UTF-16 units, never inside an entity (`&amp;`).
fn pieces(text: &str, max: usize) -> Vec<String> {
    let mut pieces = vec![String::new()];
    let mut units = 0;
    let mut rest = text;
    while let Some(atom) = next_atom(rest) {
        let width: usize = atom.chars().map(char::len_utf16).sum();
        if units + width > max {
            pieces.push(String::new());
            units = 0;
        }
        if let Some(piece) = pieces.last_mut() {
            piece.push_str(atom);
        }
        units += width;
        rest = &rest[atom.len()..];
    }
    pieces
}

/// The length of the next character or entity.
fn next_atom(text: &str) -> Option<&str> {
    let entity = ["&amp;", "&lt;", "&gt;"]
        .into_iter()
        .find(|entity| text.starts_with(entity));
    match entity {
        Some(entity) => text.get(..entity.len()),
        None => text
            .chars()
            .next()
            .and_then(|character| text.get(..character.len_utf8())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_keep_everything_and_split_no_entity() {
        assert_eq!(pieces("a&amp;b", 3), ["a", "&amp;", "b"]);
        assert_eq!(pieces("abc", 3), ["abc"]);
        assert_eq!(pieces("👩👩", 3), ["👩", "👩"]);
        assert_eq!(pieces("", 3), [""]);
        let long = escape(&"<&>x".repeat(5000));
        let cut = pieces(&long, SECTION_MAX);
        assert_eq!(cut.concat(), long);
        assert!(
            cut.iter()
                .all(|piece| piece.encode_utf16().count() <= SECTION_MAX)
        );
        assert!(
            cut.iter()
                .all(|piece| piece.matches('&').count() == piece.matches(';').count())
        );
    }

    #[test]
    fn an_attachments_link_is_clickable_only_when_safe() {
        let media = |link: &str| Media {
            link: link.to_owned(),
            content_type: None,
            filename: Some("<a>".to_owned()),
        };
        let shown = attachment(&media("https://example.com/a?b&c")).to_string();
        assert!(
            shown.contains("<https://example.com/a?b&amp;c>") && shown.contains("&lt;a&gt;"),
            "{shown}"
        );
        let hidden = attachment(&media("https://evil.example/|bank")).to_string();
        assert!(!hidden.contains("evil"), "{hidden}");
    }
}
