//! Ids as operators type them: complete, a unique prefix, or `latest`.

use super::{Control, Error};
use crate::model::delivery::DeliveryId;
use crate::model::message::{MessageId, Timestamp};
use crate::store::{DeliveryQuery, Found, Query};
use crate::template::one_line;

/// Stands for the newest message or delivery.
const LATEST: &str = "latest";

/// The minimum length of a prefix, in hexadecimal digits.
const PREFIX_MIN: usize = 6;

/// The number of digits of an id, and of those at its beginning that are its time, in milliseconds since the Unix
/// epoch.
const DIGITS: u32 = 32;
const TIME_DIGITS: usize = 12;

/// The maximum difference between the time in an id and `received_at`.
const APART_MS: i64 = 2_000;

/// How many messages are read at a time, and how many matching ids an error lists.
const LOOKED_AT: usize = 64;
const NAMED_MAX: usize = 4;

impl Control {
    /// Finds a message by `text`: its id, a prefix of its id, or `latest`.
    ///
    /// # Errors
    /// If `text` is not an id, or if no message or more than one has it.
    pub async fn message_id(&self, text: &str) -> Result<MessageId, Error> {
        let wrong = "a message id: give its 32 hexadecimal digits, the first 6 or more of them, or `latest`";
        self.message_named(text, text, wrong).await
    }

    /// `wrong` says what `whole` should have been, if the part of it that names the message is not an id.
    async fn message_named(&self, text: &str, whole: &str, wrong: &str) -> Result<MessageId, Error> {
        if let Ok(id) = text.parse() {
            return Ok(id);
        }
        if text == LATEST {
            let query = Query {
                limit: 1,
                ..Query::default()
            };
            let newest = self.store.messages(&query).await?;
            let newest = newest.items.first().map(|found| found.message.id);
            return newest.ok_or_else(|| Error::NotFound("no message is stored".to_owned()));
        }
        match Prefix::parse(text) {
            Some(prefix) => self.unique(&prefix).await,
            None => Err(Error::Wrong(format!("`{}` is not {wrong}", one_line(whole)))),
        }
    }

    /// Finds a delivery by `text`: its id, `MESSAGE-N` with a message as above, or a message with a single delivery;
    /// `latest` is the newest delivery.
    ///
    /// # Errors
    /// If `text` is not an id, or if no delivery or more than one has it.
    pub async fn delivery_id(&self, text: &str) -> Result<DeliveryId, Error> {
        if let Ok(id) = text.parse() {
            return Ok(id);
        }
        if text == LATEST {
            let query = DeliveryQuery {
                limit: 1,
                ..DeliveryQuery::default()
            };
            let newest = self.store.deliveries(&query).await?;
            let newest = newest.items.first().map(|delivery| delivery.id);
            return newest.ok_or_else(|| Error::NotFound("no delivery is stored".to_owned()));
        }
        let wrong = "a delivery id: give its message's 32 hexadecimal digits or the first 6 or more of them, `-` and the \
                     delivery's number, or `latest`";
        let numbered = text.rsplit_once('-');
        match numbered.and_then(|(message, ordinal)| Some((message, ordinal.parse().ok()?))) {
            Some((message, ordinal)) => Ok(DeliveryId {
                message: self.message_named(message, text, wrong).await?,
                ordinal,
            }),
            None => {
                let message = self.message_named(text, text, wrong).await?;
                self.only_delivery(message).await
            }
        }
    }

    /// Finds several deliveries like [`Control::delivery_id`].
    ///
    /// # Errors
    /// The error for the first one that is not found.
    pub async fn delivery_ids(&self, texts: &[String]) -> Result<Vec<DeliveryId>, Error> {
        let mut ids = Vec::with_capacity(texts.len());
        for text in texts {
            ids.push(self.delivery_id(text).await?);
        }
        Ok(ids)
    }

    async fn only_delivery(&self, message: MessageId) -> Result<DeliveryId, Error> {
        let found = self.store.find(message).await?;
        let deliveries = found.map(|found| found.deliveries).unwrap_or_default();
        match deliveries.as_slice() {
            [] => Err(Error::NotFound(format!("message {message} has no delivery"))),
            [one] => Ok(one.id),
            many => {
                let each: Vec<String> = many
                    .iter()
                    .map(|delivery| format!("{} to {}", delivery.id, delivery.destination))
                    .collect();
                Err(Error::Wrong(format!(
                    "message {message} has {} deliveries; give one of {}",
                    many.len(),
                    each.join(", ")
                )))
            }
        }
    }

    /// The only message whose id has this prefix. Ids begin with their time, so only messages of that time are read.
    async fn unique(&self, prefix: &Prefix) -> Result<MessageId, Error> {
        let mut query = Query {
            since: Some(prefix.earliest()),
            until: Some(prefix.latest()),
            limit: LOOKED_AT,
            ..Query::default()
        };
        let mut matching = Vec::new();
        loop {
            let page = self.store.messages(&query).await?;
            let ids = page.items.iter().map(|Found { message, .. }| message.id);
            matching.extend(ids.filter(|id| prefix.matches(*id)));
            query.cursor = page.next;
            if query.cursor.is_none() || matching.len() > NAMED_MAX {
                break;
            }
        }
        match matching.as_slice() {
            [] => Err(Error::NotFound(format!(
                "no message id begins with `{}`",
                prefix.digits
            ))),
            [one] => Ok(*one),
            many => Err(Error::Wrong(ambiguous(&prefix.digits, many))),
        }
    }
}

/// A prefix of an id, in lower case.
struct Prefix {
    digits: String,
}

impl Prefix {
    fn parse(text: &str) -> Option<Self> {
        let fits = (PREFIX_MIN..DIGITS as usize).contains(&text.len());
        let hex = text.bytes().all(|byte| byte.is_ascii_hexdigit());
        (fits && hex).then(|| Self {
            digits: text.to_ascii_lowercase(),
        })
    }

    fn matches(&self, id: MessageId) -> bool {
        id.to_string().starts_with(&self.digits)
    }

    /// The lowest time of an id with this prefix, less the tolerance.
    fn earliest(&self) -> Timestamp {
        Timestamp(self.time('0').saturating_sub(APART_MS))
    }

    /// The highest time of an id with this prefix, plus the tolerance.
    fn latest(&self) -> Timestamp {
        Timestamp(self.time('f').saturating_add(APART_MS))
    }

    fn time(&self, filling: char) -> i64 {
        let filled: String = self
            .digits
            .chars()
            .chain(std::iter::repeat(filling))
            .take(TIME_DIGITS)
            .collect();
        i64::from_str_radix(&filled, 16).unwrap_or(i64::MAX)
    }
}

/// Lists the shortest prefixes that distinguish some of these ids.
fn ambiguous(prefix: &str, ids: &[MessageId]) -> String {
    let length = crate::model::message::distinct_length(ids).max(prefix.len() + 1);
    let shown: Vec<String> = ids
        .iter()
        .take(NAMED_MAX)
        .map(|id| id.to_string().chars().take(length).collect())
        .collect();
    let more = if ids.len() > NAMED_MAX { " and more" } else { "" };
    format!(
        "`{prefix}` is the beginning of several message ids: {}{more}. Give more digits",
        shown.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> MessageId {
        text.parse().unwrap()
    }

    #[test]
    fn a_prefix_limits_the_time_of_its_ids() {
        let prefix = Prefix::parse("0193A2").unwrap();
        assert!(prefix.matches(id("0193a2b3c4d57000800000000000000f")));
        assert!(!prefix.matches(id("0193a3b3c4d57000800000000000000f")));
        let moment = 0x0193_a2b3_c4d5;
        assert!((prefix.earliest().0..prefix.latest().0).contains(&moment));
        assert_eq!(prefix.latest().0 - prefix.earliest().0, 0xff_ffff + 2 * APART_MS);
        for wrong in [
            "0193a",
            "0193ag",
            "latest",
            "",
            "0193a2b3c4d57000800000000000000f",
        ] {
            assert!(Prefix::parse(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn the_error_for_an_ambiguous_prefix_lists_unique_prefixes() {
        let ids = [
            id("0193a2b3c4d57000800000000000000f"),
            id("0193a2b3c4d57001800000000000000f"),
        ];
        assert_eq!(
            ambiguous("0193a2", &ids),
            "`0193a2` is the beginning of several message ids: 0193a2b3c4d57000, 0193a2b3c4d57001. Give more digits"
        );
    }
}
