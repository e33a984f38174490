//! The wording of a message in services that take one text: a line with sender and receiver, the body, and a line for
//! each attachment, cut to what the service accepts.

use std::borrow::Cow;

use super::{Failure, OutboundMessage};
use crate::model::message::{Media, MessageId};
use crate::template::{Medium, Template, one_line, safe_link, shorten};

/// Maximum length of the name of a contact or a file, in characters.
const NAME_MAX: usize = 150;

/// Upper bound of the attachments that are listed; further ones are counted.
const MEDIA_MAX: usize = 10;

/// How a service measures a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    /// Bytes of UTF-8.
    Bytes,
    /// Unicode code points.
    Characters,
    /// UTF-16 code units.
    Utf16,
    /// Bytes of JSON in which everything but ASCII is escaped, the longest form that a service may count.
    Escaped,
}

impl Unit {
    fn width(self, character: char) -> usize {
        match self {
            Self::Bytes => character.len_utf8(),
            Self::Characters => 1,
            Self::Utf16 => character.len_utf16(),
            Self::Escaped => match character {
                '"' | '\\' | '\n' | '\r' | '\t' => 2,
                ' '..='~' => 1,
                _ => 6 * character.len_utf16(),
            },
        }
    }
}

/// The longest text that a service accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limit {
    pub(super) max: usize,
    pub(super) unit: Unit,
}

impl Limit {
    pub(super) fn length(self, text: &str) -> usize {
        text.chars().map(|character| self.unit.width(character)).sum()
    }

    /// The text, or as much of it as fits together with `note`. No character is divided, and no escape: a backslash
    /// at the end would take the effect of the first character of the note.
    pub(super) fn cut<'t>(self, text: &'t str, note: &str) -> Cow<'t, str> {
        if self.length(text) <= self.max {
            return Cow::Borrowed(text);
        }
        let room = self.max.saturating_sub(self.length(note));
        let mut used = 0;
        let end = text.char_indices().find(|(_, character)| {
            used += self.unit.width(*character);
            used > room
        });
        let kept = &text[..end.map_or(text.len(), |(at, _)| at)];
        Cow::Owned(format!("{}{note}", kept.trim_end_matches('\\')))
    }
}

/// A message for one medium, in parts that are escaped already.
#[derive(Clone, Debug)]
pub(super) struct Wording {
    /// `Front door (+13035550100) → +13038675309`
    pub(super) header: String,
    /// Whether a template has written the body, which then stands alone.
    pub(super) is_whole: bool,
    fallback: Option<String>,
    text: String,
    attachments: Vec<String>,
    cut: String,
}

impl Wording {
    /// Words a message. The output of a template replaces everything but the note of a fallback. `link` writes a link
    /// that may be clickable.
    ///
    /// # Errors
    /// The template fails for this message.
    pub(super) fn new(
        outbound: &OutboundMessage<'_>,
        template: Option<&Template>,
        medium: Medium,
        link: fn(&str) -> String,
    ) -> Result<Self, Failure> {
        let message = outbound.message;
        let text = match template {
            Some(template) => template
                .render(medium, &outbound.values())
                .map_err(|error| Failure::permanent(error.to_string()))?,
            None => medium.escape(&message.text),
        };
        let attachments = match template {
            Some(_) => Vec::new(),
            None => attachments(&message.media, medium, link),
        };
        Ok(Self {
            header: header(outbound, |value| medium.escape(value)),
            is_whole: template.is_some(),
            fallback: outbound
                .fallback
                .as_ref()
                .map(|fallback| medium.escape(&fallback.note())),
            text: if text.trim().is_empty() {
                medium.escape("(empty text)")
            } else {
                text
            },
            attachments,
            cut: medium.escape(&format!("…\n{}", cut_note(message.id))),
        })
    }

    /// The message in one text.
    pub(super) fn whole(&self, limit: Limit) -> String {
        let header = Some(&self.header).filter(|_| !self.is_whole);
        self.joined(header, limit)
    }

    /// The message for a service that shows the header as a title.
    pub(super) fn body(&self, limit: Limit) -> String {
        self.joined(None, limit)
    }

    /// The body alone.
    pub(super) fn text(&self, limit: Limit) -> String {
        limit.cut(&self.text, &self.cut).into_owned()
    }

    /// The note of a fallback.
    pub(super) fn fallback(&self) -> Option<&str> {
        self.fallback.as_deref()
    }

    /// The lines of the attachments that fit.
    pub(super) fn attachments(&self, limit: Limit) -> Vec<String> {
        let mut used = 0;
        let fits = |line: &&String| {
            used += limit.length(line) + 1;
            used <= limit.max
        };
        let mut lines: Vec<String> = self.attachments.iter().take_while(fits).cloned().collect();
        let left = self.attachments.len() - lines.len();
        if left > 0 {
            lines.push(format!("… and {left} more attachments"));
        }
        lines
    }

    /// Only the body is cut: the rest takes at most three quarters of the limit.
    fn joined(&self, header: Option<&String>, limit: Limit) -> String {
        let part = |share: usize| Limit {
            max: limit.max / share,
            ..limit
        };
        let mut lines: Vec<String> = header
            .into_iter()
            .chain(&self.fallback)
            .map(|line| part(8).cut(line, "…").into_owned())
            .collect();
        let attachments = self.attachments(part(2));
        let rest = lines
            .iter()
            .chain(&attachments)
            .map(|line| limit.length(line) + 1);
        let left = limit.max.saturating_sub(rest.sum());
        lines.push(self.text(Limit { max: left, ..limit }));
        lines.extend(attachments);
        lines.join("\n")
    }
}

/// `Front door (+13035550100) → +13038675309`, with each value escaped.
pub(super) fn header(outbound: &OutboundMessage<'_>, escape: impl Fn(&str) -> String) -> String {
    let party = |name: Option<&str>, number: &str| match name {
        Some(name) => escape(&format!("{} ({number})", shorten(&one_line(name), NAME_MAX))),
        None => escape(&one_line(number)),
    };
    let from = party(outbound.from_name, &outbound.message.from.shown());
    let to = party(outbound.to_name, &outbound.message.to.shown());
    format!("{from} → {to}")
}

/// Says where the whole message can be read.
pub(super) fn cut_note(id: MessageId) -> String {
    format!("[cut here; full message: smsbridge message show {id}]")
}

/// The name of an attachment, on one line.
pub(super) fn name(media: &Media) -> String {
    let name = media.filename.as_deref().or(media.content_type.as_deref());
    shorten(&one_line(name.unwrap_or("attachment")), NAME_MAX)
}

fn attachments(media: &[Media], medium: Medium, link: fn(&str) -> String) -> Vec<String> {
    let line = |media: &Media| {
        let target = safe_link(&media.link).map_or_else(|| medium.escape("(its link is not usable)"), link);
        format!("{}: {target}", medium.escape(&name(media)))
    };
    let mut lines: Vec<String> = media.iter().take(MEDIA_MAX).map(line).collect();
    if media.len() > MEDIA_MAX {
        lines.push(format!("… and {} more attachments", media.len() - MEDIA_MAX));
    }
    lines
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_text_is_cut_between_characters_in_each_unit() {
        for (unit, max, expected) in [
            (Unit::Bytes, 5, "ä!"),
            (Unit::Characters, 4, "ä👩ä!"),
            (Unit::Utf16, 4, "ä👩!"),
            (Unit::Escaped, 18, "ä!"),
            (Unit::Escaped, 19, "ä👩!"),
        ] {
            assert_eq!(Limit { max, unit }.cut("ä👩äää", "!"), expected, "{unit:?} {max}");
        }
        let limit = Limit {
            max: 5,
            unit: Unit::Bytes,
        };
        assert_eq!(limit.cut("abcde", "!"), "abcde");
        assert_eq!(limit.cut("abc\\*d", "!"), "abc!");
    }

    proptest! {
        #[test]
        fn what_is_cut_fits_and_begins_alike(text in any::<String>(), max in 0usize..60) {
            for unit in [Unit::Bytes, Unit::Characters, Unit::Utf16, Unit::Escaped] {
                let limit = Limit { max, unit };
                let cut = limit.cut(&text, "…");
                prop_assert!(limit.length(&cut) <= max.max(limit.length("…")));
                prop_assert!(text.starts_with(cut.trim_end_matches('…')));
            }
        }
    }
}
