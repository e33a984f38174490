//! Templates: Jinja over one message, with every value escaped for the medium it is inserted into.
//!
//! Escaping cannot be switched off: every value that an expression prints is escaped for the medium, and
//! there is no `safe` filter. What the operator wrote outside of `{{ }}` is printed as it is and may be
//! markup. The result of `{% set x %}…{% endset %}` is a value like any other.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::sync::{Arc, LazyLock};

use minijinja::value::{Object, Value, ValueKind};
use minijinja::{Environment, ErrorKind, Output, State, UndefinedBehavior, functions};

mod check;
mod comparisons;
mod escape;
mod filters;
mod limits;
mod link;
mod values;

pub use escape::{html, one_line, replace, shorten, visible};
pub use link::safe_link;
pub use values::Values;
use values::{context, map};

/// Limits for the steps of one rendering: far more than a sensible template needs, and finished in
/// milliseconds. A long template gets fewer, because one step may write all of it; the trial at compile time
/// gets the fewest.
const FUEL_MAX: u64 = 100_000;
const FUEL_MIN: u64 = 20_000;
const FUEL_BYTES: u64 = 96 * 1024 * 1024;

/// Limit for the output of one rendering in bytes, in addition to `OUTPUT_FACTOR`.
const OUTPUT_MAX: usize = 256 * 1024;

/// Limit for the output for each byte of the message: more than any escaping makes of one byte, and the
/// message several times.
const OUTPUT_FACTOR: usize = 16;

/// The name under which a template is compiled.
const TEMPLATE: &str = "template";

/// Names of values in the context for the formatter. No template can use them, because they are not identifiers.
const MEDIUM: &str = "the medium";
const LIMIT: &str = "the limit";

/// The medium of a rendered text, which decides what must be escaped.
#[derive(Clone, Copy, Debug)]
pub enum Medium {
    /// Plain text read by people: control and direction-changing characters are made visible.
    Text,
    /// One line: a subject, a header, a line on a terminal. Like `Text`, with line breaks as spaces.
    Line,
    /// HTML: the second part of an e-mail, `formatted_body` in Matrix.
    Html,
    /// A destination's own markup, with its escape function.
    Markup(fn(&str) -> String),
    /// Inside a JSON string, whose quotes are in the template. Lists and maps print as JSON.
    Json,
}

/// Passes the medium to the formatter.
impl Object for Medium {}

impl Medium {
    /// Makes a value harmless in this medium.
    #[must_use]
    pub fn escape(self, value: &str) -> String {
        match self {
            Self::Text => visible(value),
            Self::Line => one_line(value),
            Self::Html => html(value),
            Self::Markup(escape) => escape(value),
            Self::Json => escape::json(value),
        }
    }
}

/// A compiled template, which renders any message safely for any medium. Clones share the compiled form.
#[derive(Clone)]
pub struct Template {
    environment: Arc<Environment<'static>>,
    groups: Arc<BTreeSet<String>>,
}

/// An error in a template, with its line if known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct TemplateError {
    /// The description.
    pub message: String,
    /// Counted from 1.
    pub line: Option<usize>,
}

impl Template {
    /// Compiles a template.
    ///
    /// # Errors
    /// The template is not valid Jinja or uses a name that does not exist.
    pub fn compile(source: &str) -> Result<Self, TemplateError> {
        limits::check(source)?;
        let mut environment = BASE.clone();
        environment
            .add_template_owned(TEMPLATE, source.to_owned())
            .map_err(|error| explain(&error))?;
        environment.set_fuel(Some(FUEL_MIN));
        let groups = check::names(&environment)?;
        check::operations(&environment, &groups)?;
        let steps = FUEL_BYTES / (source.len() as u64).max(1);
        environment.set_fuel(Some(steps.clamp(FUEL_MIN, FUEL_MAX)));
        Ok(Self {
            environment: Arc::new(environment),
            groups: Arc::new(groups),
        })
    }

    /// The groups that it uses as `match.GROUP`, so that a route can reject those its expression does not
    /// have.
    #[must_use]
    pub fn groups(&self) -> &BTreeSet<String> {
        &self.groups
    }

    /// Renders the template with each value escaped for `medium`.
    ///
    /// # Errors
    /// An expression fails for this message, or the result exceeds a limit.
    pub fn render(&self, medium: Medium, values: &Values<'_>) -> Result<String, TemplateError> {
        let rendered = run(&self.environment, context(medium, values)).map_err(|error| TemplateError {
            // The description of the error may quote the message; its kind and line never do.
            message: format!("the template failed for this message: {}", error.kind()),
            line: error.line(),
        })?;
        // The result stays one line even if the template has several.
        Ok(if matches!(medium, Medium::Line) {
            one_line(rendered.trim_end())
        } else {
            rendered
        })
    }
}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Template")
            .field("groups", &self.groups)
            .finish_non_exhaustive()
    }
}

/// The environment that all templates share.
static BASE: LazyLock<Environment<'static>> = LazyLock::new(environment);

fn environment() -> Environment<'static> {
    let mut environment = Environment::empty();
    // A value that is missing in one message (a group, an attachment) prints nothing, so that the delivery is
    // not lost; names that can never exist are found at compile time.
    environment.set_undefined_behavior(UndefinedBehavior::Chainable);
    environment.set_formatter(write_escaped);
    filters::add(&mut environment);
    comparisons::add(&mut environment);
    environment.add_function("dict", functions::dict);
    environment.add_function("range", functions::range);
    environment
}

/// The bytes written by a rendering, including captured blocks.
#[derive(Default)]
struct Written(usize);

fn write_escaped(out: &mut Output, state: &mut State, value: &Value) -> Result<(), minijinja::Error> {
    let told = |name| {
        state
            .lookup(name)
            .ok_or_else(|| minijinja::Error::from(ErrorKind::InvalidOperation))
    };
    let (medium, limit) = (told(MEDIUM)?, told(LIMIT)?);
    let medium = *medium
        .downcast_object_ref::<Medium>()
        .ok_or(ErrorKind::InvalidOperation)?;
    let limit = limit.as_usize().ok_or(ErrorKind::InvalidOperation)?;
    let written = match value.kind() {
        ValueKind::Undefined | ValueKind::None => return Ok(()),
        ValueKind::String => medium.escape(&value.to_string()),
        _ if matches!(medium, Medium::Json) => serde_json::to_string(value)
            .map_err(|_| minijinja::Error::new(ErrorKind::BadSerialization, "not a JSON value"))?,
        _ => medium.escape(&value.to_string()),
    };
    let so_far = state.get_or_insert_extension(Written::default());
    so_far.0 += written.len();
    if so_far.0 > limit {
        return Err(ErrorKind::WriteFailure.into());
    }
    out.write_str(&written).map_err(minijinja::Error::from)
}

fn run(environment: &Environment<'_>, context: Value) -> Result<String, minijinja::Error> {
    let limit = context
        .get_attr(LIMIT)?
        .as_usize()
        .ok_or(ErrorKind::InvalidOperation)?;
    let mut output = Bounded {
        bytes: Vec::new(),
        limit,
    };
    environment
        .get_template(TEMPLATE)?
        .render_captured_to(context, &mut output)?;
    String::from_utf8(output.bytes).map_err(|_| ErrorKind::WriteFailure.into())
}

/// Accepts what fits and refuses the rest.
struct Bounded {
    bytes: Vec<u8>,
    limit: usize,
}

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > self.limit {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Describes an error of the compiler, which has not seen a message yet and may be quoted.
fn explain(error: &minijinja::Error) -> TemplateError {
    let message = match error.detail() {
        Some(detail) if detail.contains("safe") && error.kind() == ErrorKind::UnknownFilter => {
            "there is no filter `safe`: values are always escaped".to_owned()
        }
        Some(detail) if error.kind() == ErrorKind::OutOfFuel => format!("takes too much: {detail}"),
        Some(detail) => format!("{}: {detail}", error.kind()),
        None if error.kind() == ErrorKind::OutOfFuel => "takes too many steps".to_owned(),
        None if error.kind() == ErrorKind::WriteFailure => "writes too much".to_owned(),
        None => error.kind().to_string(),
    };
    TemplateError {
        message,
        line: error.line(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use std::collections::BTreeMap;

    use super::*;
    use crate::model::message::{Media, Message, MessageId, Timestamp};
    use crate::model::number::Number;

    fn message(text: &str) -> Message {
        Message {
            id: MessageId(uuid::Uuid::from_u128(7)),
            source: "carrier".parse().unwrap(),
            provider_id: "P1".to_owned(),
            from: Number::parse("+13035550100").unwrap(),
            to: Number::parse("1-1234").unwrap(),
            text: text.to_owned(),
            media: Vec::new(),
            extra: BTreeMap::new(),
            received_at: Timestamp(0),
            routes: Vec::new(),
            redacted_at: None,
        }
    }

    fn render(medium: Medium, template: &str, message: &Message) -> Result<String, TemplateError> {
        let groups = BTreeMap::from([("code".to_owned(), "<42>".to_owned())]);
        let values = Values {
            message,
            from_name: Some("Door & Co"),
            to_name: None,
            route: None,
            fallback: "Fallback for crm: no".to_owned(),
            groups: &groups,
            zone: None,
        };
        Template::compile(template)?.render(medium, &values)
    }

    #[test]
    fn every_name_has_its_value() {
        let mut message = message("hi");
        let link = "https://example.com/a.jpg".to_owned();
        message.media.push(Media {
            link,
            content_type: Some("image/jpeg".to_owned()),
            filename: None,
        });
        message
            .extra
            .insert(Message::KEYWORD.to_owned(), "\"help\"".to_owned());
        let template = "{{message.id}} {{provider_id}} {{source}} {{from}} {{from_name or from}} {{to_name or to}} \
                        {{text}} [{{keyword}}] {{received_at}} [{{route}}] [{{fallback}}] {{match.code}}{{match.none.deep}} \
                        {% for m in media %}{{loop.index}} {{m.link}} {{m.content_type}}{{m.filename}}{% endfor %}";
        assert_eq!(
            render(Medium::Text, template, &message).unwrap(),
            "00000000000000000000000000000007 P1 carrier +13035550100 Door & Co 1-1234 hi [help] \
             1970-01-01T00:00:00.000Z [] [Fallback for crm: no] <42> 1 https://example.com/a.jpg image/jpeg"
        );
    }

    #[test]
    fn values_are_escaped_for_the_medium_and_markup_of_the_template_is_not() {
        let message = message("<!here> \"a\"\r\n\u{202e}{{7*7}}");
        for (medium, expected) in [
            (Medium::Text, "<b><!here> \"a\"\n[U+202E]{{7*7}}</b>"),
            (Medium::Line, "<b><!here> \"a\" [U+202E]{{7*7}}</b>"),
            (
                Medium::Html,
                "<b>&lt;!here&gt; &quot;a&quot;\n[U+202E]{{7*7}}</b>",
            ),
            (
                Medium::Markup(|value| value.replace('<', "‹")),
                "<b>‹!here> \"a\"\r\n\u{202e}{{7*7}}</b>",
            ),
            (Medium::Json, "<b><!here> \\\"a\\\"\\r\\n\u{202e}{{7*7}}</b>"),
        ] {
            assert_eq!(
                render(medium, "<b>{{ text }}</b>", &message).unwrap(),
                expected,
                "{medium:?}"
            );
        }
    }

    #[test]
    fn nothing_switches_the_escaping_off() {
        let message = message("<i>");
        for template in [
            "{{ text|e }}",
            "{% autoescape false %}{{ text }}{% endautoescape %}",
            "{{ text|escape|upper|lower }}",
            "{{ [text]|join }}",
            "{{ text|replace('x', 'y') }}",
        ] {
            assert_eq!(
                render(Medium::Html, template, &message).unwrap(),
                "&lt;i&gt;",
                "{template}"
            );
        }
        let captured = render(Medium::Html, "{% set x %}{{ text }}{% endset %}{{ x }}", &message).unwrap();
        assert_eq!(captured, "&amp;lt;i&amp;gt;");
        let error = Template::compile("{{ text|safe }}").unwrap_err();
        assert!(error.message.contains("always escaped"), "{error}");
    }

    #[test]
    fn templates_that_can_never_work_are_refused_when_compiled() {
        for (template, named) in [
            (
                "{{ txet }}",
                "`txet` does not exist: a template can name fallback, from, from_name",
            ),
            ("{{ text }}\n{{ message.body }}", "`message.body` does not exist"),
            ("{{ text.upper() }}", "`text.upper` does not exist"),
            ("{{ text|shout }}", "unknown filter"),
            ("{% if route %}{{ text|shout }}{% endif %}", "unknown filter"),
            ("{% if not media %}{{ text|shout }}{% endif %}", "unknown filter"),
            ("{% include 'x' %}", ""),
            ("{{ text", ""),
            ("{{ debug() }}", ""),
        ] {
            let error = Template::compile(template).expect_err(template);
            assert!(error.message.contains(named), "{template}: {error}");
        }
        assert_eq!(Template::compile("a\nb\n{{ text").unwrap_err().line, Some(3));
    }

    #[test]
    fn groups_are_listed() {
        let template = Template::compile("{{ match.code }} {{ match.when|upper }} {{ text }}").unwrap();
        assert_eq!(template.groups().iter().collect::<Vec<_>>(), ["code", "when"]);
    }

    #[test]
    fn an_endless_template_ends_with_an_error() {
        let message = message(&"x".repeat(65_536));
        let slow = "{% for a in range(5000) %}{% for b in range(5000) %}{% endfor %}{% endfor %}";
        assert!(render(Medium::Text, slow, &message).is_err());
        let big = "{% for a in range(5000) %}{{ text }}{% endfor %}";
        assert!(render(Medium::Text, big, &message).is_err());
    }

    #[test]
    fn an_error_does_not_quote_the_text() {
        let error = render(Medium::Text, "\n{{ text|int }}", &message("geheim")).unwrap_err();
        assert!(!error.message.contains("geheim"), "{error}");
        assert_eq!(error.line, Some(2));
    }

    #[test]
    fn people_see_only_links_that_may_be_clickable() {
        let mut message = message("");
        let link = "javascript:alert(1)".to_owned();
        message.media.push(Media {
            link,
            content_type: None,
            filename: Some("\"x".to_owned()),
        });
        let shown = render(
            Medium::Html,
            "{% for m in media %}[{{ m.link }}]{{ m.filename }}{% endfor %}",
            &message,
        );
        assert_eq!(shown.unwrap(), "[]&quot;x");
        let exact = render(Medium::Json, "{{ media }}", &message).unwrap();
        assert_eq!(
            exact,
            r#"[{"content_type":"","filename":"\"x","link":"javascript:alert(1)"}]"#
        );
    }

    proptest! {
        #[test]
        fn every_text_renders_in_every_medium(text in any::<String>()) {
            let message = message(&text);
            prop_assert!(!render(Medium::Html, "{{ text }}", &message).unwrap().contains('<'));
            prop_assert!(!render(Medium::Line, "{{ text }}", &message).unwrap().contains(['\n', '\r']));
            let json = render(Medium::Json, "\"{{ text }}\"", &message).unwrap();
            prop_assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
        }
    }
}
