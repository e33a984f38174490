//! The console: prints each message as one line on standard output. It needs no setup, which makes it useful for a
//! first test.

use deserr::Deserr;
use std::time::Duration;

use async_trait::async_trait;

use self::output::{Output, STDOUT};
use super::{BuildContext, Delivered, Destination, Failure, Kind, OutboundMessage};
use crate::model::delivery::DeliveryId;
use crate::model::setting::Errors;
use crate::template::{Medium, Template};

mod output;

/// A reader that accepts no line for this long has stopped. Independent of `timeout`, because shutdown waits for
/// running attempts.
const WRITE_MAX: Duration = Duration::from_secs(2);

const TEMPLATE: &str = "{{ received_at }} {{ from_name or from }} → {{ to_name or to }}: {{ text }}\
    {% for m in media %} [{{ m.link or m.filename or m.content_type or 'attachment' }}]{% endfor %}";

/// `kind = "console"` has no further keys.
#[derive(Clone, Debug, Deserr)]
#[deserr(error = Errors, deny_unknown_fields)]
pub struct Config {}

impl Kind for Config {
    fn build(&self, context: BuildContext<'_>) -> Result<Box<dyn Destination>, String> {
        Ok(Box::new(Console::build(self, context)?))
    }
}

/// Writes lines to standard output.
pub struct Console {
    template: Template,
    timeout: Duration,
    /// Standard output, or the error when opening it.
    out: Option<Output>,
}

impl Console {
    /// Builds the destination.
    ///
    /// # Errors
    /// Never in practice: only if the built-in template were invalid.
    pub fn build(_config: &Config, context: BuildContext<'_>) -> Result<Self, String> {
        let template = match context.template {
            Some(template) => template,
            None => Template::compile(TEMPLATE).map_err(|error| error.to_string())?,
        };
        Ok(Self {
            template,
            timeout: context.timeout,
            out: None,
        })
    }

    async fn write(&self, id: DeliveryId, line: String) -> Result<(), Failure> {
        let failed = |error: &std::io::Error| {
            Failure::unreachable(format!("cannot write to standard output: {error}"))
        };
        let out = match &self.out {
            Some(out) => out,
            None => STDOUT.as_ref().map_err(failed)?,
        };
        match tokio::time::timeout(self.timeout.min(WRITE_MAX), out.write(id, line)).await {
            Ok(written) => written.map_err(|error| failed(&error)),
            Err(_) => Err(Failure::unreachable(
                "cannot write to standard output: is its reader stopped?",
            )),
        }
    }
}

#[async_trait]
impl Destination for Console {
    async fn deliver(&self, outbound: &OutboundMessage<'_>) -> Result<Delivered, Failure> {
        let line = self.render(outbound)? + "\n";
        self.write(outbound.id, line).await?;
        Ok(Delivered {
            detail: "written to standard output".to_owned(),
            thread: None,
        })
    }

    fn attempt_max(&self, timeout: Duration) -> Duration {
        timeout.min(WRITE_MAX)
    }

    fn render(&self, outbound: &OutboundMessage<'_>) -> Result<String, Failure> {
        let template = outbound.template.unwrap_or(&self.template);
        let line = template
            .render(Medium::Line, &outbound.values())
            .map_err(|error| Failure::permanent(error.to_string()))?;
        Ok(match &outbound.fallback {
            Some(fallback) => format!("{line} [{}]", fallback.note()),
            None => line,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::{BufRead as _, BufReader, PipeReader, Read as _, Write as _};

    use super::*;
    use crate::model::message::{Message, MessageId, Timestamp};
    use crate::model::number::Number;

    fn console() -> (Console, PipeReader, std::io::PipeWriter) {
        let (read, write) = std::io::pipe().unwrap();
        let console = Console {
            template: Template::compile(TEMPLATE).unwrap(),
            timeout: Duration::from_millis(50),
            out: Some(Output::to(write.try_clone().unwrap()).unwrap()),
        };
        (console, read, write)
    }

    async fn deliver(console: &Console, ordinal: u16, text: &str) -> Result<Delivered, Failure> {
        let message = Message {
            id: MessageId(uuid::Uuid::nil()),
            source: "carrier".parse().unwrap(),
            provider_id: String::new(),
            from: Number::parse("+13035550100").unwrap(),
            to: Number::parse("1-1234").unwrap(),
            text: text.to_owned(),
            media: Vec::new(),
            extra: BTreeMap::new(),
            received_at: Timestamp(0),
            routes: Vec::new(),
            redacted_at: None,
        };
        let outbound = OutboundMessage {
            id: DeliveryId {
                message: message.id,
                ordinal,
            },
            message: &message,
            from_name: None,
            to_name: Some("Desk"),
            route: None,
            template: None,
            groups: BTreeMap::new(),
            recipients: crate::destination::Recipients::default(),
            thread: None,
            fallback: None,
            zone: None,
        };
        console.deliver(&outbound).await
    }

    #[tokio::test]
    async fn a_message_is_one_line() {
        let (console, mut read, write) = console();
        deliver(&console, 1, "two\nlines \u{1b}[2J").await.unwrap();
        drop((console, write));
        let mut written = String::new();
        read.read_to_string(&mut written).unwrap();
        assert_eq!(
            written,
            "1970-01-01T00:00:00.000Z +13035550100 → Desk: two lines [U+001B][2J\n"
        );
    }

    #[tokio::test]
    async fn a_line_that_a_stopped_reader_accepts_late_is_written_once_and_others_are_not() {
        let (console, read, mut write) = console();
        write.write_all(&vec![b'-'; 64 * 1024 - 1]).unwrap();
        write.write_all(b"\n").unwrap();
        for (ordinal, text) in [(1, "late"), (2, "never"), (1, "late")] {
            let failure = deliver(&console, ordinal, text).await.unwrap_err();
            assert!(matches!(failure, Failure::Transient { .. }), "{failure:?}");
        }
        let mut lines = BufReader::new(read).lines().map(Result::unwrap);
        assert!(lines.next().unwrap().starts_with("---"));
        assert!(lines.next().unwrap().ends_with(": late"));
        deliver(&console, 1, "late").await.unwrap();
        deliver(&console, 3, "next").await.unwrap();
        drop((console, write));
        let rest: Vec<String> = lines.collect();
        assert!(rest.len() == 1 && rest[0].ends_with(": next"), "{rest:?}");
    }

    #[tokio::test]
    async fn a_closed_reader_is_transient() {
        let (console, read, _write) = console();
        drop(read);
        assert!(matches!(
            deliver(&console, 1, "closed").await,
            Err(Failure::Transient { .. })
        ));
    }
}
