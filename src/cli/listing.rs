//! Common parts of the lists of messages and deliveries: pages, ids and states.

use clap::Args;

use super::print;
use crate::control::view::Page;
use crate::model::message::{MessageId, distinct_length};
use crate::store::MessageState;
use crate::template::one_line;

/// The requested part of a long list.
#[derive(Debug, Args)]
pub struct Paging {
    /// Maximum number of entries
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=500))]
    limit: u16,
    /// Continue after the page that printed this cursor
    #[arg(long, value_name = "CURSOR")]
    cursor: Option<u64>,
}

impl Paging {
    /// The parameters for the API.
    pub(super) fn query(&self) -> [(&'static str, Option<String>); 2] {
        [
            ("limit", Some(self.limit.to_string())),
            ("cursor", self.cursor.map(|cursor| cursor.to_string())),
        ]
    }
}

/// The help for an id argument.
pub(super) const ID: &str = "Message id, its first 6 or more digits if unique, or `latest`";

/// Checks the form of an id; the daemon resolves it.
pub(super) fn id(text: &str) -> Result<String, String> {
    let digits = text.split('-').next().unwrap_or_default();
    let prefix = digits.len() >= 6 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    let usual = text
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    ((prefix || digits == "latest") && usual)
        .then(|| text.to_owned())
        .ok_or_else(|| {
            "an id has 32 hexadecimal digits; give at least the first 6 of them, or `latest`".to_owned()
        })
}

/// The number of digits of these ids to show: all of them for a program, else enough to distinguish them.
pub(super) fn digits(ids: &[MessageId], width: Option<u16>) -> usize {
    match width {
        None => usize::MAX,
        Some(_) => distinct_length(ids).max(SHORT_ID),
    }
}

/// The digits of an id that are its time; shorter prefixes are rarely unique.
const SHORT_ID: usize = 12;

/// An id with this number of digits.
pub(super) fn shortened(id: MessageId, digits: usize) -> String {
    id.to_string().chars().take(digits).collect()
}

/// Prints on standard error how to get the next page.
pub(super) fn say_next<T>(page: &Page<T>) {
    if let Some(cursor) = &page.next {
        print::remark(&format!("there are more: add --cursor {}", one_line(cursor)));
    }
}

/// The name of a state in the API.
pub(super) fn state(state: MessageState) -> &'static str {
    match state {
        MessageState::Pending => "pending",
        MessageState::Delivered => "delivered",
        MessageState::Dead => "dead",
        MessageState::Kept => "kept",
        MessageState::Unrouted => "unrouted",
    }
}

/// `1 delivery`, `7 deliveries`.
pub(super) fn count(number: u64) -> String {
    match number {
        1 => "1 delivery".to_owned(),
        many => format!("{many} deliveries"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_may_be_short() {
        for good in ["latest", "0193a2", "0193A2b3-1", "latest-2"] {
            assert_eq!(id(good).as_deref(), Ok(good));
        }
        for wrong in ["", "0193a", "newest", "0193a2/x", "0193a2?"] {
            assert!(id(wrong).is_err(), "{wrong}");
        }
    }
}
