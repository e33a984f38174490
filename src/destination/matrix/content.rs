//! The content of a Matrix event: plain text and HTML, without mentions.

use serde_json::{Value, json};

use super::super::wording::cut_note;
use super::super::{Failure, Fallback, OutboundMessage};
use crate::model::message::Message;
use crate::template::{self, Medium, Template, Values};

/// An event may have 65 536 bytes including what the server adds; this is the limit for the content.
const CONTENT_MAX: usize = 60 * 1024;

const PLAIN: &str = "{{ from_name or from }}{% if from_name %} ({{ from }}){% endif %} → \
    {{ to_name or to }}{% if to_name %} ({{ to }}){% endif %}\n\
    {{ text or '(empty text)' }}\
    {% for m in media[:10] %}\n{{ m.filename or m.content_type or 'attachment' }}: {{ m.link or '(its link is not usable)' }}{% endfor %}";

const HTML: &str = "<strong>{{ from_name or from }}</strong>{% if from_name %} ({{ from }}){% endif %} → \
    {{ to_name or to }}{% if to_name %} ({{ to }}){% endif %}\n\
    {{ text or '(empty text)' }}\
    {% for m in media[:10] %}\n{{ m.filename or m.content_type or 'attachment' }}: \
    {% if m.link %}<a href=\"{{ m.link }}\">{{ m.link }}</a>{% else %}(its link is not usable){% endif %}{% endfor %}";

/// The templates of one destination.
pub struct Words {
    own: Option<Template>,
    plain: Template,
    html: Template,
}

/// A rendered message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Plain text, for notifications and simple clients.
    pub body: String,
    /// HTML in which every value is escaped.
    pub formatted: String,
}

impl Words {
    /// The destination's own template, and the built-in ones as the default.
    pub fn new(own: Option<Template>) -> Result<Self, String> {
        let compile = |source| Template::compile(source).map_err(|error| error.to_string());
        Ok(Self {
            own,
            plain: compile(PLAIN)?,
            html: compile(HTML)?,
        })
    }

    /// Renders the message so that its `payload` is not larger than an event may be. A longer body is cut and marked
    /// as cut.
    pub fn fit(
        &self,
        outbound: &OutboundMessage<'_>,
        payload: impl Fn(&Written) -> Value,
    ) -> Result<Value, Failure> {
        let mut keep = outbound.message.text.len();
        loop {
            let written = payload(&self.write(outbound, keep)?);
            let size = written.to_string().len();
            if size <= CONTENT_MAX {
                return Ok(written);
            }
            if keep == 0 {
                return Err(Failure::permanent(format!(
                    "{size} bytes even without the body: too large for Matrix"
                )));
            }
            // The overhead of escaping varies along the body, so this may take several rounds; each one shortens the
            // body by at least a tenth.
            keep = (keep * CONTENT_MAX / size).min(keep * 9 / 10);
        }
    }

    fn write(&self, outbound: &OutboundMessage<'_>, keep: usize) -> Result<Written, Failure> {
        let shortened = cut(outbound.message, keep);
        let values = Values {
            message: shortened.as_ref().unwrap_or(outbound.message),
            ..outbound.values()
        };
        let own = outbound.template.or(self.own.as_ref());
        let render = |template: &Template, medium| {
            template
                .render(medium, &values)
                .map_err(|error| Failure::permanent(error.to_string()))
        };
        let mut written = Written {
            body: render(own.unwrap_or(&self.plain), Medium::Text)?,
            formatted: render(own.unwrap_or(&self.html), Medium::Html)?.replace('\n', "<br>"),
        };
        if let Some(note) = outbound.fallback.as_ref().map(Fallback::note) {
            written.body.push_str(&format!("\n{note}"));
            written
                .formatted
                .push_str(&format!("<br><em>{}</em>", template::html(&note)));
        }
        Ok(written)
    }
}

impl Written {
    /// The content of the event. The empty `m.mentions` prevents mentions: without it servers search the text for
    /// names and `@room`.
    pub fn event(&self, msgtype: &str, root: Option<&str>) -> Value {
        let mut event = json!({
            "msgtype": msgtype,
            "body": self.body,
            "format": "org.matrix.custom.html",
            "formatted_body": self.formatted,
            "m.mentions": {},
        });
        if let Some(root) = root {
            event["m.relates_to"] = json!({
                "rel_type": "m.thread",
                "event_id": root,
                "is_falling_back": true,
                "m.in_reply_to": { "event_id": root },
            });
        }
        event
    }
}

/// The message with only the first `keep` bytes of its body; `None` if the body is not longer.
fn cut(message: &Message, keep: usize) -> Option<Message> {
    if keep >= message.text.len() {
        return None;
    }
    let end = (0..=keep)
        .rev()
        .find(|&at| message.text.is_char_boundary(at))
        .unwrap_or(0);
    let start = &message.text[..end];
    let text = format!("{start}…\n{}", cut_note(message.id));
    Some(Message {
        text,
        ..message.clone()
    })
}
