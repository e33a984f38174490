//! Colours, only where somebody looks.

use std::io::IsTerminal as _;

use anstyle::{AnsiColor, Style};

use crate::store::MessageState;

/// Wrong, dead, refused.
pub(super) const BAD: Style = AnsiColor::Red.on_default().bold();
/// Odd, waiting.
pub(super) const ODD: Style = AnsiColor::Yellow.on_default();
/// Well.
pub(super) const GOOD: Style = AnsiColor::Green.on_default();
/// Beside the point.
pub(super) const DIM: Style = Style::new().dimmed();

/// How a message or a delivery stands.
pub(super) fn of_state(state: MessageState) -> Style {
    match state {
        MessageState::Dead => BAD,
        MessageState::Pending | MessageState::Unrouted => ODD,
        MessageState::Delivered | MessageState::Kept => Style::new(),
    }
}

/// Paints for standard output.
pub(super) fn on_stdout(style: Style, text: &str) -> String {
    paint(std::io::stdout().is_terminal(), style, text)
}

/// Paints for standard error.
pub(super) fn on_stderr(style: Style, text: &str) -> String {
    paint(std::io::stderr().is_terminal(), style, text)
}

fn paint(terminal: bool, style: Style, text: &str) -> String {
    let wanted = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    if wanted {
        format!("{style}{text}{style:#}")
    } else {
        text.to_owned()
    }
}
