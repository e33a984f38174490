//! Parts of long messages: how they are stored, which of them belong together, and the message that they make. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::message::{Keyword, Message, Name, Timestamp};
use crate::source::{Incoming, Part};

/// Time after the first part at which an incomplete message is delivered.
pub const WINDOW: Duration = Duration::from_secs(10 * 60);

/// How far the first part may be ahead of the clock.
const AHEAD_MAX: Duration = Duration::from_secs(3_600);

/// The minimum time for which parts keep their content, whatever `store.redact_after` and `store.retain` say.
pub const PARTS_KEPT: Duration = Duration::from_secs(15 * 60);

/// The minimum time for which the ids of parts and joined messages are kept, whatever `dedup_window` says: joining is
/// repeated within it.
pub const IDS_KEPT: Duration = Duration::from_secs(2 * 3600);

/// The route of stored parts. They have no delivery; the message that they make is stored in addition.
const ROUTE: &str = "long-message-part";

/// Names in `extra`: of a part, and of a joined message.
const PART: &str = "part";
const PART_IDS: &str = "part_ids";
const MISSING: &str = "missing_parts";

/// The number of a part, as it is stored.
#[derive(Deserialize, Serialize)]
struct Stored {
    reference: String,
    number: u8,
    total: u8,
}

/// The routes of a stored part: only the name by which it is recognised.
pub fn routes() -> Vec<Name> {
    ROUTE.parse().into_iter().collect()
}

/// Notes the number of a part in the unknown fields of its message.
pub fn note(part: &Part, extra: &mut BTreeMap<String, String>) {
    let stored = Stored {
        reference: part.reference.clone(),
        number: part.number,
        total: part.total,
    };
    extra.extend(serde_json::to_string(&stored).map(|json| (PART.to_owned(), json)));
}

/// The part that a stored message is, if its content was not removed.
pub fn part(message: &Message) -> Option<Part> {
    let is_part = message.routes.iter().any(|route| route.as_str() == ROUTE);
    let json = message.extra.get(PART).filter(|_| is_part)?;
    let Stored {
        reference,
        number,
        total,
    } = serde_json::from_str(json).ok()?;
    Part::new(reference, number, total)
}

/// Parts that belong to one message, in the order in which they were received.
#[derive(Clone, Debug)]
pub struct Set {
    total: u8,
    first_at: Timestamp,
    parts: Vec<(u8, Message)>,
}

impl Set {
    /// When the first part was received.
    pub fn first_at(&self) -> Timestamp {
        self.first_at
    }

    /// Returns true if the message is to be delivered: all parts are there, or the time for the missing ones is over.
    /// It is also over if the first part is far ahead of the clock, which may have been set back; not if it is a little
    /// ahead, because another daemon with a fast clock may have received it just now.
    pub fn is_due(&self, now: Timestamp, slack: Duration) -> bool {
        let is_over = now.since(self.first_at) > WINDOW + slack || self.first_at.since(now) > AHEAD_MAX;
        self.is_complete() || is_over
    }

    fn is_complete(&self) -> bool {
        self.parts.len() == usize::from(self.total)
    }

    fn has(&self, number: u8) -> Option<&Message> {
        let found = self.parts.iter().find(|(own, _)| *own == number);
        found.map(|(_, message)| message)
    }

    /// The message. Its id contains the id of the first part and the numbers of the parts that are there, so that it is
    /// stored once even if several daemons join the same parts.
    pub fn joined(&self) -> Option<(Name, Incoming)> {
        let (_, first) = self.parts.first()?;
        let mut parts: Vec<&(u8, Message)> = self.parts.iter().collect();
        parts.sort_by_key(|(number, _)| *number);
        let (_, lead) = parts.first()?;
        let numbers: Vec<String> = parts.iter().map(|(number, _)| number.to_string()).collect();
        let id = format!("parts:{}:{}", first.id, numbers.join(","));
        let text = self.text();
        let mut incoming = Incoming::new(id, lead.from.raw(), lead.to.raw(), text.clone());
        incoming.from = lead.from.clone();
        incoming.to = lead.to.clone();
        incoming.keyword = Keyword::of(&text);
        incoming.segments = Some(self.total.into());
        let sent_at = lead.extra.get(Message::SENT_AT);
        incoming.sent_at = sent_at.and_then(|json| json.trim_matches('"').parse().ok());
        incoming.media = parts.iter().flat_map(|(_, part)| part.media.clone()).collect();
        let own = [PART, Message::KEYWORD, Message::SEGMENTS, Message::SENT_AT];
        let others = lead
            .extra
            .iter()
            .filter(|(name, _)| !own.contains(&name.as_str()));
        incoming.extra = others.map(|(name, json)| (name.clone(), json.clone())).collect();
        let ids: Vec<&str> = parts.iter().map(|(_, part)| part.provider_id.as_str()).collect();
        incoming
            .extra
            .extend(serde_json::to_string(&ids).map(|json| (PART_IDS.to_owned(), json)));
        let missing = self.missing();
        if !missing.is_empty() {
            let json = serde_json::to_string(&missing).unwrap_or_default();
            incoming.extra.insert(MISSING.to_owned(), json);
            incoming.odd.push(format!(
                "{} of its {} parts did not arrive within {} minutes",
                missing.len(),
                self.total,
                WINDOW.as_secs() / 60
            ));
        }
        Some((first.source.clone(), incoming))
    }

    fn missing(&self) -> Vec<u8> {
        let numbers = 1..=self.total;
        numbers.filter(|number| self.has(*number).is_none()).collect()
    }

    /// The bodies in their order, with a note in place of each gap.
    fn text(&self) -> String {
        let (mut text, mut gap) = (String::new(), None);
        for number in 1..=self.total {
            match (self.has(number), gap) {
                (None, None) => gap = Some(number),
                (None, Some(_)) => {}
                (Some(part), None) => text += &part.text,
                (Some(part), Some(from)) => {
                    push_gap(&mut text, from, number - 1, self.total);
                    text.push(' ');
                    text += &part.text;
                    gap = None;
                }
            }
        }
        if let Some(from) = gap {
            push_gap(&mut text, from, self.total, self.total);
        }
        text
    }
}

fn push_gap(text: &mut String, from: u8, to: u8, total: u8) {
    if !text.is_empty() {
        text.push(' ');
    }
    *text += &match from == to {
        true => format!("[part {from} of {total} is missing]"),
        false => format!("[parts {from} to {to} of {total} are missing]"),
    };
}

/// Groups the stored parts of each message: those of one source, sender and receiver with the same reference and total,
/// received within ten minutes after the first one. A repeated number begins another message, because carriers use
/// references again; with the same body it is a repetition.
pub fn sets(messages: impl IntoIterator<Item = Message>) -> Vec<Set> {
    let mut keyed: BTreeMap<_, Vec<(u8, Message)>> = BTreeMap::new();
    for message in messages {
        let Some(part) = part(&message) else { continue };
        let key = (
            message.source.clone(),
            message.from.normal().to_owned(),
            message.to.normal().to_owned(),
            part.reference,
            part.total,
        );
        keyed.entry(key).or_default().push((part.number, message));
    }
    let mut sets = Vec::new();
    for ((.., total), mut parts) in keyed {
        parts.sort_by_key(|(_, part)| (part.received_at, part.id));
        let mut open: Option<Set> = None;
        for (number, part) in parts {
            let known = open.as_ref().and_then(|set| set.has(number));
            if known.is_some_and(|known| known.text == part.text)
                && !open.as_ref().is_some_and(Set::is_complete)
            {
                continue;
            }
            let received_at = part.received_at;
            let fits = |set: &Set| {
                !set.is_complete() && set.has(number).is_none() && received_at.since(set.first_at) <= WINDOW
            };
            match &mut open {
                Some(set) if fits(set) => set.parts.push((number, part)),
                _ => sets.extend(open.replace(Set {
                    total,
                    first_at: received_at,
                    parts: vec![(number, part)],
                })),
            }
        }
        sets.extend(open);
    }
    sets
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::model::message::MessageId;
    use crate::model::number::Number;

    const MINUTE: i64 = 60_000;

    /// A stored part: `SENDER REF NUMBER/TOTAL TEXT`, received at this minute.
    fn stored(id: u128, minute: i64, words: &str) -> Message {
        let words: Vec<&str> = words.splitn(4, ' ').collect();
        let (number, total) = words[2].split_once('/').unwrap();
        let part = Part::new(
            words[1].to_owned(),
            number.parse().unwrap(),
            total.parse().unwrap(),
        )
        .unwrap();
        let mut extra = BTreeMap::from([("type".to_owned(), "\"unicode\"".to_owned())]);
        note(&part, &mut extra);
        Message {
            id: MessageId(Uuid::from_u128(id)),
            source: "vonage".parse().unwrap(),
            provider_id: format!("P{id}"),
            from: Number::received(words[0]),
            to: Number::received("+447700900000"),
            text: words[3].to_owned(),
            media: Vec::new(),
            extra,
            received_at: Timestamp(minute * MINUTE),
            routes: routes(),
            redacted_at: None,
        }
    }

    /// The bodies of the messages that these parts make, with those that are not due in parentheses.
    fn texts(parts: &[(i64, &str)], now: i64) -> Vec<String> {
        let stored = parts
            .iter()
            .zip(1..)
            .map(|((minute, words), id)| stored(id, *minute, words));
        let mut texts: Vec<String> = sets(stored)
            .iter()
            .map(|set| {
                let text = set.joined().unwrap().1.text;
                match set.is_due(Timestamp(now * MINUTE), Duration::ZERO) {
                    true => text,
                    false => format!("({text})"),
                }
            })
            .collect();
        texts.sort();
        texts
    }

    #[test]
    fn parts_are_joined_in_the_order_of_their_numbers() {
        for order in [[1, 2, 3], [3, 2, 1], [2, 3, 1]] {
            let words = ["+1 7 1/3 Hel", "+1 7 2/3 lo ", "+1 7 3/3 you"];
            let parts: Vec<(i64, &str)> = order.iter().map(|number| (0, words[number - 1])).collect();
            assert_eq!(texts(&parts, 0), ["Hello you"], "{order:?}");
            assert_eq!(texts(&parts[..2], 10).len(), 1);
            assert!(texts(&parts[..2], 10)[0].starts_with('('));
        }
    }

    #[test]
    fn parts_that_a_daemon_with_a_fast_clock_received_wait_for_the_others() {
        let parts = [(0, "+1 7 1/2 a")];
        assert_eq!(texts(&parts, -20), ["(a [part 2 of 2 is missing])"]);
        assert_eq!(
            texts(&parts, -61),
            ["a [part 2 of 2 is missing]"],
            "the clock was set back"
        );
    }

    #[test]
    fn gaps_are_noted_where_they_are() {
        for (parts, text) in [
            (
                &["+1 7 2/3 b"][..],
                "[part 1 of 3 is missing] b [part 3 of 3 is missing]",
            ),
            (&["+1 7 1/3 a", "+1 7 3/3 c"], "a [part 2 of 3 is missing] c"),
            (
                &["+1 7 1/4 a", "+1 7 4/4 d"],
                "a [parts 2 to 3 of 4 are missing] d",
            ),
            (&["+1 7 1/2 a"], "a [part 2 of 2 is missing]"),
        ] {
            let parts: Vec<(i64, &str)> = parts.iter().map(|words| (0, *words)).collect();
            assert_eq!(texts(&parts, 11), [text]);
        }
    }

    #[test]
    fn parts_of_other_senders_and_references_are_other_messages() {
        let parts = [
            (0, "+1 7 1/2 a"),
            (0, "+2 7 2/2 B"),
            (0, "+1 8 2/2 b"),
            (0, "+2 7 1/2 A"),
        ];
        assert_eq!(
            texts(&parts, 11),
            ["AB", "[part 1 of 2 is missing] b", "a [part 2 of 2 is missing]"]
        );
    }

    #[test]
    fn a_reference_that_is_used_again_begins_another_message() {
        let again = [
            (0, "+1 7 1/2 a"),
            (0, "+1 7 2/2 b"),
            (1, "+1 7 2/2 d"),
            (1, "+1 7 1/2 c"),
        ];
        assert_eq!(texts(&again, 1), ["ab", "cd"]);
        let incomplete = [(0, "+1 7 1/2 a"), (1, "+1 7 1/2 c"), (1, "+1 7 2/2 d")];
        assert_eq!(texts(&incomplete, 1), ["(a [part 2 of 2 is missing])", "cd"]);
        let late = [(0, "+1 7 1/2 a"), (11, "+1 7 2/2 b")];
        assert_eq!(
            texts(&late, 30),
            ["[part 1 of 2 is missing] b", "a [part 2 of 2 is missing]"]
        );
    }

    #[test]
    fn a_repeated_part_changes_nothing() {
        let parts = [(0, "+1 7 1/2 a"), (0, "+1 7 1/2 a"), (1, "+1 7 2/2 b")];
        assert_eq!(texts(&parts, 1), ["ab"]);
    }

    #[test]
    fn the_joined_message_names_its_parts_and_the_missing_ones() {
        let parts = [
            stored(5, 0, "+447700900001 7 3/3 c"),
            stored(6, 0, "+447700900001 7 1/3 a"),
        ];
        let (source, joined) = sets(parts)[0].joined().unwrap();
        assert_eq!(source.as_str(), "vonage");
        assert_eq!(joined.provider_id, "parts:00000000000000000000000000000005:1,3");
        let extra: Vec<(&str, &str)> = joined
            .extra
            .iter()
            .map(|(name, json)| (&**name, &**json))
            .collect();
        assert_eq!(
            extra,
            [
                ("missing_parts", "[2]"),
                ("part_ids", "[\"P6\",\"P5\"]"),
                ("type", "\"unicode\"")
            ]
        );
        assert_eq!(joined.odd, ["1 of its 3 parts did not arrive within 10 minutes"]);
        assert_eq!(
            (joined.segments, joined.from.normal()),
            (Some(3), "+447700900001")
        );
    }

    #[test]
    fn a_message_with_such_a_field_is_no_part() {
        let mut message = stored(1, 0, "+1 7 1/2 a");
        message.routes = vec!["ops".parse().unwrap()];
        assert!(part(&message).is_none());
    }
}
