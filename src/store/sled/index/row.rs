//! The row kept in memory for every message, so that a search reads only messages that can match.
//!
//! Forty-eight bytes: the sender packed into sixteen characters of four bits, numbers that represent the recipient
//! and the source, and the trigrams of the body as a bit set. A row can exclude a message with certainty; a possible
//! match must be verified by reading the message.

use crate::model::message::{Message, MessageId, Timestamp};
use crate::model::number::Pattern;
use crate::store::{Ended, MessageState};

/// The size of the bit set of trigrams. A body of a hundred letters sets half of the bits: a word of five letters is
/// then found in one of ten messages that do not contain it, a word of eight in one of a hundred.
const TEXT_BYTES: usize = 24;

/// The value of a recipient or source that has no number, or of a count that is too high: the message must be read.
pub(in crate::store::sled) const LOOK: u16 = u16::MAX;
const MANY: u8 = u8::MAX;

/// The flags of a row.
const PRESENT: u8 = 1;
const UNROUTED: u8 = 2;
const REDACTED: u8 = 4;
/// The message has deliveries, pending or ended.
const HAS_DELIVERIES: u8 = 8;
/// All deliveries had ended once: with the message delivered, with a dead delivery.
const WAS_DELIVERED: u8 = 16;
const WAS_DEAD: u8 = 32;

/// One message.
#[derive(Clone, Copy, Default)]
pub(in crate::store::sled) struct Row {
    id: u32,
    from: [u32; 2],
    second: u32,
    pub(in crate::store::sled) to: u16,
    pub(in crate::store::sled) source: u16,
    waiting: u8,
    /// Dead deliveries, and the number of them that another one made up for.
    dead: u8,
    covered: u8,
    flags: u8,
    text: [u8; TEXT_BYTES],
}

impl Row {
    /// A message without pending deliveries. The table assigns the numbers of recipient and source.
    pub(in crate::store::sled) fn of(message: &Message) -> Self {
        let packed = pack(message.from.normal());
        let flag = |on: bool, flag| if on { flag } else { 0 };
        Self {
            id: short(message.id),
            from: [(packed >> 32) as u32, packed as u32],
            second: second(message.received_at),
            to: LOOK,
            source: LOOK,
            waiting: 0,
            dead: 0,
            covered: 0,
            flags: PRESENT
                | flag(message.routes.is_empty(), UNROUTED)
                | flag(message.redacted_at.is_some(), REDACTED),
            text: letters(&message.text),
        }
    }

    pub(in crate::store::sled) fn is_present(&self) -> bool {
        self.flags & PRESENT != 0
    }

    pub(in crate::store::sled) fn is_redacted(&self) -> bool {
        self.flags & REDACTED != 0
    }

    /// `Kept` or `Unrouted` if it has no delivery.
    pub(in crate::store::sled) fn undelivered(&self) -> Option<MessageState> {
        match self.flags & (PRESENT | HAS_DELIVERIES | UNROUTED) {
            PRESENT => Some(MessageState::Kept),
            flags if flags == PRESENT | UNROUTED => Some(MessageState::Unrouted),
            _ => None,
        }
    }

    pub(in crate::store::sled) fn id(&self) -> u32 {
        self.id
    }

    /// Returns true if it may have been received before this time.
    pub(in crate::store::sled) fn is_before(&self, moment: Timestamp) -> bool {
        self.second <= second(moment)
    }

    /// Returns true if it may have been received at or after this time.
    pub(in crate::store::sled) fn is_since(&self, moment: Timestamp) -> bool {
        self.second >= second(moment)
    }

    pub(in crate::store::sled) fn may_wait(&self) -> bool {
        self.waiting > 0
    }

    pub(in crate::store::sled) fn may_be_dead(&self) -> bool {
        self.dead > 0
    }

    /// Returns true if it may have a dead delivery that no other one made up for.
    pub(in crate::store::sled) fn may_be_lost(&self) -> bool {
        self.dead > self.covered || self.dead == MANY
    }

    /// Returns true if it may have no pending delivery.
    pub(in crate::store::sled) fn may_be_ended(&self) -> bool {
        matches!(self.waiting, 0 | MANY)
    }

    /// This row with the delivery counts of another one.
    pub(in crate::store::sled) fn with_counts_of(self, other: &Self) -> Self {
        Self {
            waiting: other.waiting,
            dead: other.dead,
            covered: other.covered,
            flags: self.flags | (other.flags & (HAS_DELIVERIES | WAS_DELIVERED | WAS_DEAD)),
            ..self
        }
    }

    /// Records that it has a delivery.
    pub(in crate::store::sled) fn add_delivery(&mut self) {
        self.flags |= HAS_DELIVERIES;
    }

    pub(in crate::store::sled) fn count_waiting(&mut self, up: bool) {
        self.add_delivery();
        self.waiting = count(self.waiting, up);
    }

    pub(in crate::store::sled) fn count_dead(&mut self, up: bool) {
        self.add_delivery();
        self.dead = count(self.dead, up);
    }

    pub(in crate::store::sled) fn count_covered(&mut self, up: bool) {
        self.covered = count(self.covered, up);
    }

    /// Counts the message, all of whose deliveries have ended, unless it was counted with this result before.
    pub(in crate::store::sled) fn count_ended(&mut self, ended: &mut Ended) {
        let (flag, count) = match self.may_be_lost() {
            true => (WAS_DEAD, &mut ended.dead),
            false => (WAS_DELIVERED, &mut ended.delivered),
        };
        *count += u64::from(self.flags & flag == 0);
        self.flags |= flag;
    }

    /// Records that all deliveries had ended with this result.
    pub(in crate::store::sled) fn note_ended(&mut self, result: MessageState) {
        self.flags |= match result {
            MessageState::Delivered => WAS_DELIVERED,
            MessageState::Dead => WAS_DEAD,
            MessageState::Pending | MessageState::Kept | MessageState::Unrouted => 0,
        };
    }

    /// Returns true if the sender may match.
    pub(in crate::store::sled) fn may_be_from(&self, pattern: &Pattern) -> bool {
        let packed = u64::from(self.from[0]) << 32 | u64::from(self.from[1]);
        match (pattern, packed) {
            (Pattern::Any, _) | (_, u64::MAX) => true,
            (Pattern::Exact(normal), packed) => pack(normal) == packed,
            (_, packed) => {
                let mut characters = [0; 16];
                std::str::from_utf8(unpack(packed, &mut characters))
                    .is_ok_and(|normal| pattern.matches_normal(normal))
            }
        }
    }

    /// Returns true if a search for this state may match.
    pub(in crate::store::sled) fn may_be(&self, state: MessageState) -> bool {
        match state {
            MessageState::Pending => self.waiting > 0,
            MessageState::Dead => self.may_be_lost() && self.may_be_ended(),
            MessageState::Delivered => {
                let is_lost = self.may_be_lost() && self.dead != MANY;
                self.flags & HAS_DELIVERIES != 0 && self.may_be_ended() && !is_lost
            }
            MessageState::Kept => self.flags & (HAS_DELIVERIES | UNROUTED) == 0,
            MessageState::Unrouted => self.flags & UNROUTED != 0,
        }
    }

    /// Returns true if the body may contain all of these trigrams.
    pub(in crate::store::sled) fn may_have(&self, wanted: &[u8; TEXT_BYTES]) -> bool {
        self.text
            .iter()
            .zip(wanted)
            .all(|(has, wants)| has & wants == *wants)
    }
}

/// The last four bytes of an id, which are random.
pub(in crate::store::sled) fn short(id: MessageId) -> u32 {
    let [.., a, b, c, d] = *id.0.as_bytes();
    u32::from_be_bytes([a, b, c, d])
}

/// A longer body contains most trigrams anyway, and computing them would slow down every start, so it is read
/// instead.
const TOLD_MAX: usize = 4_096;

/// The trigrams of a string, compared without case.
pub(in crate::store::sled) fn letters(text: &str) -> [u8; TEXT_BYTES] {
    if text.len() > TOLD_MAX {
        return [u8::MAX; TEXT_BYTES];
    }
    let mut bits = [0; TEXT_BYTES];
    let mut last = [0_u32; 2];
    for (index, letter) in text.chars().flat_map(char::to_lowercase).enumerate() {
        let letter = u32::from(letter);
        if index >= 2 {
            let group = [last[0], last[1], letter].iter().fold(0_u64, |hash, &part| {
                (hash ^ u64::from(part)).wrapping_mul(0x9E37_79B9_7F4A_7C15)
            });
            let bit = (group >> 32) as usize % (TEXT_BYTES * 8);
            bits[bit / 8] |= 1 << (bit % 8);
        }
        last = [last[1], letter];
    }
    bits
}

/// Counts with saturation; a saturated count stays so until the next start.
fn count(counted: u8, up: bool) -> u8 {
    match (counted, up) {
        (MANY, _) => MANY,
        (counted, true) => counted + 1,
        (counted, false) => counted.saturating_sub(1),
    }
}

fn second(moment: Timestamp) -> u32 {
    u32::try_from(moment.0.div_euclid(60_000).max(0)).unwrap_or(u32::MAX)
}

/// The characters in the normal forms of phone numbers and short codes.
const CHARACTERS: [u8; 13] = *b"+-*0123456789";

/// A number in normal form with four bits per character, padded with zeros; all bits set if it does not fit.
fn pack(number: &str) -> u64 {
    let code = |byte: u8| CHARACTERS.iter().position(|&known| known == byte);
    let mut packed = 0;
    for (index, byte) in number.bytes().enumerate() {
        match code(byte) {
            Some(code) if index < 16 => packed |= (code as u64 + 1) << (60 - 4 * index),
            _ => return u64::MAX,
        }
    }
    packed
}

fn unpack(packed: u64, into: &mut [u8; 16]) -> &[u8] {
    let mut length = 0;
    for (index, place) in into.iter_mut().enumerate() {
        let code = (packed >> (60 - 4 * index)) & 15;
        if let Some(&byte) = CHARACTERS.get((code as usize).wrapping_sub(1)) {
            *place = byte;
            length = index + 1;
        }
    }
    &into[..length]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::number::Number;

    fn row(from: &str, text: &str) -> Row {
        let message = crate::store::conformance::arrival(1, 1, &[]).message;
        Row::of(&Message {
            from: Number::parse(from).unwrap(),
            text: text.to_owned(),
            ..message
        })
    }

    #[test]
    fn a_row_is_forty_eight_bytes() {
        assert_eq!(size_of::<Row>(), 48);
    }

    #[test]
    fn senders_match_as_in_a_route() {
        for sender in [
            "+13035550100",
            "+123456789012345",
            "1-1234",
            "57-MyCompany",
            "1234",
            "+1 (303) 555-0199",
        ] {
            let number = Number::parse(sender).unwrap();
            for pattern in [
                "*",
                "+1303*",
                "+1303555010*",
                "*0100",
                "1-*",
                "1-1234",
                "57-mycompany",
                "+13035550100",
                "1234",
            ] {
                let parsed = Pattern::parse(pattern).unwrap();
                let may = row(sender, "").may_be_from(&parsed);
                assert!(may || !parsed.matches(&number), "{sender} {pattern}");
                assert!(
                    !may || parsed.matches(&number) || sender.contains("Company"),
                    "{sender} {pattern}"
                );
            }
        }
    }

    #[test]
    fn every_matching_text_is_found_and_most_others_are_skipped() {
        let text = "Straße GESPERRT: Wasser im Keller, bitte sofort kommen! ÄÖÜ 東京都 🚨🚨🚨";
        let found = row("+13035550100", text);
        for part in [
            "ße ges",
            "WASSER",
            "äöü",
            "東京都",
            "🚨🚨",
            "",
            "!",
            "im K",
            "Keller, bitte sofort kommen",
        ] {
            assert!(
                text.to_lowercase().contains(&part.to_lowercase()) && found.may_have(&letters(part)),
                "{part}"
            );
        }
        let words = [
            "pizza",
            "heating",
            "quarterly",
            "zebra crossing",
            "xylophone",
            "0800 123",
        ];
        let taken = words.iter().filter(|word| found.may_have(&letters(word))).count();
        assert!(
            taken <= 1,
            "{taken} of {} words are taken to be there",
            words.len()
        );
    }

    #[test]
    fn saturated_counts_are_looked_up() {
        let mut row = row("+13035550100", "");
        assert!(!row.may_be(MessageState::Delivered) && !row.may_be(MessageState::Pending));
        row.add_delivery();
        assert!(row.may_be(MessageState::Delivered) && !row.may_be(MessageState::Pending));
        row.count_waiting(true);
        row.count_dead(true);
        assert!(row.may_be(MessageState::Pending) && !row.may_be(MessageState::Dead));
        row.count_waiting(false);
        assert!(row.may_be(MessageState::Dead) && !row.may_be(MessageState::Delivered));
        row.count_covered(true);
        assert!(row.may_be_dead() && !row.may_be_lost());
        assert!(!row.may_be(MessageState::Dead) && row.may_be(MessageState::Delivered));
        (0..300).for_each(|_| row.count_dead(true));
        (0..300).for_each(|_| row.count_covered(true));
        assert!(row.may_be(MessageState::Dead) && row.may_be(MessageState::Delivered));
        (0..300).for_each(|_| row.count_waiting(true));
        (0..300).for_each(|_| row.count_waiting(false));
        assert!(row.may_be(MessageState::Pending) && row.may_be(MessageState::Dead));
    }
}
