//! Several messages in one post.

use serde_json::{Value, json};

use super::payload::{Content, FALLBACK_MAX, PLAIN_MAX, bare};

/// [Slack's limit][1] for the blocks of a post.
///
/// [1]: https://docs.slack.dev/reference/block-kit/blocks
const BLOCKS_MAX: usize = 50;

/// Upper bound of the texts of a post in UTF-16 units. Slack documents no limit for all blocks together, and rejects posts
/// with somewhat more than this (`msg_blocks_too_long`).
const UNITS_MAX: usize = 12_000;

/// How many of these messages, from the first on, fit into one post.
pub fn fitting(contents: impl Iterator<Item = Content>) -> usize {
    let (mut blocks, mut units) = (0, 0);
    let fitting = contents.take_while(|content| {
        blocks += content.parts().len() + 1;
        units += content.flat(PLAIN_MAX).encode_utf16().count() + 1;
        // The first one has no divider before it.
        blocks <= BLOCKS_MAX + 1 && units <= UNITS_MAX
    });
    fitting.count().max(1)
}

/// The payload with the blocks of all, and dividers between them.
pub fn blocks(contents: &[Content]) -> Value {
    let mut blocks = Vec::new();
    for content in contents {
        if !blocks.is_empty() {
            blocks.push(json!({ "type": "divider" }));
        }
        blocks.extend(content.parts());
    }
    let mut payload = joined(contents, FALLBACK_MAX);
    payload["blocks"] = blocks.into();
    payload
}

/// The payload with only the texts, for when Slack rejects the blocks.
pub fn plain(contents: &[Content]) -> Value {
    joined(contents, PLAIN_MAX)
}

fn joined(contents: &[Content], max: usize) -> Value {
    let each = max / contents.len().max(1);
    let texts: Vec<String> = contents.iter().map(|content| content.flat(each)).collect();
    let is_mrkdwn = contents.iter().all(Content::is_mrkdwn);
    bare(&texts.join("\n\n"), is_mrkdwn)
}
