//! JSON: an event becomes one object in one line.

use std::cell::RefCell;
use std::fmt::{self, Write as _};

use jiff::Timestamp;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::queue::Queue;

/// The capacity that a thread's buffer keeps after a long line.
const BUFFER_MAX: usize = 16 * 1024;

thread_local! {
    static BUFFER: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Calls `write` with an empty line: the buffer of this thread, or a new one while the buffer is in use. It is in use if
/// the `Debug` or `Display` of a field logs an event of its own, or panics, which the panic hook logs.
fn with_line(write: impl Fn(&mut String)) {
    let with_buffer = BUFFER.try_with(|buffer| {
        let Ok(mut line) = buffer.try_borrow_mut() else {
            return false;
        };
        line.clear();
        line.shrink_to(BUFFER_MAX);
        write(&mut line);
        true
    });
    if !matches!(with_buffer, Ok(true)) {
        write(&mut String::new());
    }
}

/// Queues events as lines of JSON. The formatter of `tracing-subscriber` writes the same lines, but takes several times
/// as long, and each message has two lines.
pub(super) struct Json(pub(super) Queue);

impl<S: Subscriber> Layer<S> for Json {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        with_line(|line| {
            // Writing into a string does not fail.
            let _ = write!(line, "{{\"timestamp\":\"{:.6}\"", Timestamp::now());
            let mut fields = Fields(line);
            fields.put("level", format_args!("{}", metadata.level()));
            event.record(&mut fields);
            fields.put("target", format_args!("{}", metadata.target()));
            line.push_str("}\n");
            self.0.push(*metadata.level(), line.as_bytes());
        });
    }
}

/// The fields of an object whose beginning is already written.
struct Fields<'a>(&'a mut String);

impl Fields<'_> {
    fn name(&mut self, name: &str) {
        self.0.push_str(",\"");
        let _ = Escaped(self.0).write_str(name);
        self.0.push_str("\":");
    }

    fn put(&mut self, name: &str, value: fmt::Arguments<'_>) {
        self.name(name);
        self.0.push('"');
        let _ = Escaped(self.0).write_fmt(value);
        self.0.push('"');
    }

    /// A value that needs no quotes.
    fn bare(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        self.name(field.name());
        let _ = self.0.write_fmt(value);
    }
}

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field.name(), format_args!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field.name(), format_args!("{value}"));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.bare(field, format_args!("{value}"));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.bare(field, format_args!("{value}"));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.bare(field, format_args!("{value}"));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        // JSON has no infinity and no NaN.
        if value.is_finite() {
            self.bare(field, format_args!("{value}"));
        } else {
            self.put(field.name(), format_args!("{value}"));
        }
    }
}

/// Writes the content of a JSON string.
struct Escaped<'a>(&'a mut String);

impl fmt::Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let is_special = |byte: &u8| *byte < b' ' || matches!(byte, b'"' | b'\\');
        let mut rest = text;
        while let Some(at) = rest.as_bytes().iter().position(is_special) {
            self.0.push_str(&rest[..at]);
            match rest.as_bytes()[at] {
                b'"' => self.0.push_str("\\\""),
                b'\\' => self.0.push_str("\\\\"),
                b'\n' => self.0.push_str("\\n"),
                b'\r' => self.0.push_str("\\r"),
                b'\t' => self.0.push_str("\\t"),
                other => write!(self.0, "\\u{other:04x}")?,
            }
            rest = &rest[at + 1..];
        }
        self.0.push_str(rest);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use tracing_subscriber::layer::SubscriberExt as _;

    use super::super::queue::Batch;
    use super::*;
    use crate::metrics::log::Log;

    /// The output for the events of `log`.
    fn written(log: impl FnOnce()) -> String {
        let (sender, lines) = mpsc::channel();
        let sink = move |bytes: &[u8]| sender.send(bytes.to_vec()).map_err(std::io::Error::other);
        let queue = Queue::start(Log::default(), "a test", Batch::Line, Box::new(sink)).unwrap();
        let subscriber = tracing_subscriber::registry().with(Json(queue.clone()));
        tracing::subscriber::with_default(subscriber, log);
        queue.flush(Duration::from_secs(10));
        String::from_utf8(lines.try_iter().flatten().collect()).unwrap()
    }

    #[test]
    fn an_event_is_one_line_with_its_fields() {
        let name = "ops";
        let lines = written(|| {
            tracing::warn!(delivery.id = %"1-2", destination = %name, attempts = 3_u32, offset = -4, share = 0.5, ratio = f64::NAN, full = true, from = "x", "delivered to {name}");
            tracing::info!("again");
        });
        let lines: Vec<serde_json::Value> = lines
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines.len(), 2);
        let at = lines[0]["timestamp"].as_str().unwrap();
        assert_eq!(at.len(), "2026-01-02T03:04:05.678901Z".len());
        let at: Timestamp = at.parse().unwrap();
        assert!(Timestamp::now().duration_since(at).as_secs() < 60);
        assert_eq!(
            lines[0],
            serde_json::json!({
                "timestamp": lines[0]["timestamp"], "level": "WARN", "message": "delivered to ops", "delivery.id": "1-2",
                "destination": "ops", "attempts": 3, "offset": -4, "share": 0.5, "ratio": "NaN", "full": true, "from": "x", "target": module_path!(),
            })
        );
        assert_eq!(lines[1]["message"], "again");
    }

    /// A field that writes a line of its own, as its `Display` does by logging, or the panic hook after its panic.
    struct Nested {
        panics: bool,
    }

    impl fmt::Display for Nested {
        fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            with_line(|line| {
                assert!(line.is_empty(), "the line of the outer event");
                line.push_str("inner");
            });
            assert!(!self.panics, "deliberate");
            formatter.write_str("outer")
        }
    }

    #[test]
    fn a_field_that_logs_or_panics_does_not_end_the_process() {
        let lines = written(|| {
            tracing::info!(field = %Nested { panics: false }, "logs");
            let panicking = || tracing::info!(field = %Nested { panics: true }, "panics");
            std::panic::catch_unwind(panicking).unwrap_err();
            tracing::info!("again");
        });
        let lines: Vec<&str> = lines.lines().collect();
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[0].contains("\"field\":\"outer\""), "{lines:?}");
        assert!(lines[1].contains("\"message\":\"again\""), "{lines:?}");
    }

    #[test]
    fn every_character_survives() {
        let mut text: String = ('\0'..'\u{ff}').collect();
        text.push_str("\u{2028} \u{1f600} \\u0041 \"end\"");
        let line = written(|| tracing::info!(text, "{text}"));
        assert_eq!(line.lines().count(), 1);
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(
            (&line["text"], &line["message"]),
            (&text.as_str().into(), &text.as_str().into())
        );
    }
}
