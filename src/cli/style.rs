//! Colours, only for a terminal.

use std::io::IsTerminal as _;

use anstyle::{AnsiColor, Style};

use crate::store::MessageState;

/// Errors, dead deliveries.
pub(super) const ERROR: Style = AnsiColor::Red.on_default().bold();
/// Warnings, pending deliveries.
pub(super) const WARNING: Style = AnsiColor::Yellow.on_default();
/// Success.
pub(super) const SUCCESS: Style = AnsiColor::Green.on_default();
/// Less important text.
pub(super) const DIM: Style = Style::new().dimmed();

/// The escape sequences of these styles, and the one that ends them.
const SEQUENCES: [&str; 6] = [
    "\u{1b}[0m",
    "\u{1b}[1m",
    "\u{1b}[2m",
    "\u{1b}[31m",
    "\u{1b}[32m",
    "\u{1b}[33m",
];

/// The sequence at the beginning of a string.
pub(super) fn sequence(text: &str) -> Option<&'static str> {
    SEQUENCES.into_iter().find(|sequence| text.starts_with(sequence))
}

/// The style of the state of a message or a delivery.
pub(super) fn of_state(state: MessageState) -> Style {
    match state {
        MessageState::Dead => ERROR,
        MessageState::Pending | MessageState::Unrouted => WARNING,
        MessageState::Delivered | MessageState::Kept => Style::new(),
    }
}

/// Styles a string for standard output.
pub(super) fn on_stdout(style: Style, text: &str) -> String {
    styled(std::io::stdout().is_terminal(), style, text)
}

/// Styles a string for standard error.
pub(super) fn on_stderr(style: Style, text: &str) -> String {
    styled(std::io::stderr().is_terminal(), style, text)
}

fn styled(terminal: bool, style: Style, text: &str) -> String {
    let wanted = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    if wanted {
        format!("{style}{text}{style:#}")
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_style_consists_of_known_sequences() {
        for style in [ERROR, WARNING, SUCCESS, DIM] {
            let painted = format!("{style}{style:#}");
            let mut rest = painted.as_str();
            while let Some(found) = sequence(rest) {
                rest = &rest[found.len()..];
            }
            assert_eq!(rest, "", "{painted:?}");
        }
    }
}
