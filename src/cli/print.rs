//! Standard output, which may be a pipe that nobody reads to the end.

use std::io::{self, Write as _};

use super::Stop;

/// Writes a whole text. `smsbridge message list | head` closes the pipe early, and that is no error.
pub(super) fn text(text: &str) -> Result<(), Stop> {
    bytes(text.as_bytes())
}

/// The same for what need not be text.
pub(super) fn bytes(bytes: &[u8]) -> Result<(), Stop> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Stop::failed(format!(
            "standard output cannot be written: {error}"
        ))),
        _ => Ok(()),
    }
}

/// A value as JSON, for scripts.
pub(super) fn json(value: &impl serde::Serialize) -> Result<(), Stop> {
    let shown = serde_json::to_string_pretty(value)
        .map_err(|error| Stop::failed(format!("the answer is no JSON: {error}")))?;
    text(&(shown + "\n"))
}
