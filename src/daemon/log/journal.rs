//! journald's native protocol: an event becomes a datagram of fields, which the queue's thread sends.
//!
//! [The protocol](https://systemd.io/JOURNAL_NATIVE_PROTOCOL/) passes larger events in a file descriptor.
//! Here values are cut instead: no log line is that long.

use std::fmt::{self, Write as _};
use std::io;
use std::os::unix::net::UnixDatagram;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::queue::{Queue, Sink};

const SOCKET: &str = "/run/systemd/journal/socket";

/// Maximum length of a value, in bytes. Several fit into a datagram, whose limit is about 200 KiB.
const VALUE_MAX: usize = 16 * 1024;

/// Sends datagrams to journald, waiting while it does not read them.
///
/// # Errors
/// journald is not running.
pub(super) fn sink() -> io::Result<Sink> {
    // Connecting shows that journald listens, and does not wait until it reads.
    UnixDatagram::unbound()?.connect(SOCKET)?;
    let socket = UnixDatagram::unbound()?;
    Ok(Box::new(move |fields| socket.send_to(fields, SOCKET).map(drop)))
}

/// Queues events as datagrams.
pub(super) struct Journal(pub(super) Queue);

impl<S: Subscriber> Layer<S> for Journal {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        let mut fields = Fields(Vec::with_capacity(512));
        fields.put("PRIORITY", priority(*metadata.level()));
        fields.put("SYSLOG_IDENTIFIER", "smsbridge");
        fields.put("TARGET", metadata.target());
        if let Some(file) = metadata.file() {
            fields.put("CODE_FILE", file);
        }
        if let Some(line) = metadata.line() {
            fields.put("CODE_LINE", line);
        }
        event.record(&mut fields);
        self.0.push(*metadata.level(), &fields.0);
    }
}

fn priority(level: Level) -> char {
    match level {
        Level::ERROR => '3',
        Level::WARN => '4',
        Level::INFO => '5',
        Level::DEBUG => '6',
        Level::TRACE => '7',
    }
}

struct Fields(Vec<u8>);

impl Fields {
    /// Writes a field in the form that allows any value: its name, its length in eight bytes, the value.
    fn put(&mut self, name: &str, value: impl fmt::Display) {
        self.0.extend_from_slice(name.as_bytes());
        self.0.push(b'\n');
        let length = self.0.len();
        self.0.extend_from_slice(&[0; 8]);
        // The only error is that of a value that was cut.
        let _ = write!(Cut(&mut self.0, VALUE_MAX), "{value}");
        let bytes = u64::try_from(self.0.len() - length - 8).unwrap_or_default();
        self.0[length..length + 8].copy_from_slice(&bytes.to_le_bytes());
        self.0.push(b'\n');
    }
}

/// The names of the event's own fields begin with `F_`, so that none is mistaken for one of journald's.
impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            return self.put("MESSAGE", format_args!("{value:?}"));
        }
        let name: String = field.name().chars().map(upper).collect();
        self.put(&format!("F_{name}"), format_args!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }
}

/// journald allows capital letters, digits and underscores in names.
fn upper(letter: char) -> char {
    if letter.is_ascii_alphanumeric() {
        letter.to_ascii_uppercase()
    } else {
        '_'
    }
}

/// Writes until a number of bytes is used up.
struct Cut<'a>(&'a mut Vec<u8>, usize);

impl fmt::Write for Cut<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = text.floor_char_boundary(self.1);
        self.0.extend_from_slice(&text.as_bytes()[..end]);
        self.1 -= end;
        if end < text.len() { Err(fmt::Error) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_has_its_length_and_may_hold_any_text_up_to_a_limit() {
        let mut fields = Fields(Vec::new());
        fields.put("MESSAGE", "two\nlines");
        assert_eq!(fields.0, b"MESSAGE\n\x09\0\0\0\0\0\0\0two\nlines\n");
        let mut fields = Fields(Vec::new());
        fields.put("M", "ä".repeat(VALUE_MAX) + "b");
        assert_eq!(fields.0.len(), "M\n12345678\n".len() + VALUE_MAX);
        assert_eq!(fields.0[2..4], [0x00, 0x40], "16 KiB");
    }
}
