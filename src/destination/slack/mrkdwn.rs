//! Escapes values for Slack's mrkdwn.

use crate::template::{Medium, replace, visible};

/// Slack's mrkdwn. `*bold*` and similar markup in a value keeps its effect.
pub(super) const MRKDWN: Medium = Medium::Markup(escape);

/// Makes invisible characters visible and escapes Slack's control characters, [exactly `&`, `<` and `>`][1], so that
/// nothing in the body is a mention or a link with another label. `*`, `_`, `~` and backquotes are unchanged: Slack
/// has no escape for them.
///
/// [1]: https://docs.slack.dev/messaging/formatting-message-text/#escaping
#[must_use]
pub(super) fn escape(text: &str) -> String {
    replace(&visible(text), |character| match character {
        '&' => Some("&amp;"),
        '<' => Some("&lt;"),
        '>' => Some("&gt;"),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn no_value_is_a_mention_or_a_link() {
        for (text, shown) in [
            ("<!here> & <@U1>", "&lt;!here&gt; &amp; &lt;@U1&gt;"),
            ("*bold*\u{202e}", "*bold*[U+202E]"),
        ] {
            assert_eq!(escape(text), shown);
        }
    }

    proptest! {
        #[test]
        fn no_text_has_control_characters_of_slack(text in any::<String>()) {
            prop_assert!(!escape(&text).contains(['<', '>']));
        }
    }
}
