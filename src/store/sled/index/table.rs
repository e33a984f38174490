//! The rows of all stored messages, by sequence number.

use std::collections::{BTreeMap, HashMap};

use super::row::{self, LOOK, Row};
use super::seq_index::SeqIndex;
use crate::model::message::{Message, MessageId, Name, Timestamp};
use crate::store::{MessageState, Query, RetentionCutoffs, Undelivered};

/// Rows per chunk.
const CHUNK: u64 = 1_024;

/// The rows, in chunks that are freed when all of their messages are removed.
#[derive(Default)]
pub(in crate::store::sled) struct Table {
    chunks: BTreeMap<u64, Chunk>,
    /// The rows by the ends of their ids.
    by_id: SeqIndex,
    receivers: Words,
    sources: Words,
    present: u64,
    undelivered: Undelivered,
}

#[derive(Default)]
struct Chunk {
    /// Rows that are not present belong to removed messages, or to none.
    rows: Vec<Row>,
    present: u64,
}

/// The row of a message, with the values that the table replaces by numbers.
pub(in crate::store::sled) struct Draft {
    row: Row,
    to: String,
    source: Name,
}

impl Draft {
    pub(in crate::store::sled) fn of(message: &Message) -> Self {
        Self {
            row: Row::of(message),
            to: message.to.normal().to_owned(),
            source: message.source.clone(),
        }
    }
}

/// The conditions of a search that rows can evaluate.
pub(in crate::store::sled) struct Sieve {
    query: Query,
    /// For each number of a recipient or source, whether it matches.
    receivers: Option<Vec<bool>>,
    sources: Option<Vec<bool>>,
    letters: Option<[u8; 24]>,
}

impl Sieve {
    fn lets_through(&self, row: &Row) -> bool {
        let meant = |list: &Option<Vec<bool>>, number: u16| {
            list.as_ref()
                .is_none_or(|list| list.get(usize::from(number)).copied().unwrap_or(true))
        };
        let Query {
            from,
            state,
            since,
            until,
            ..
        } = &self.query;
        state.is_none_or(|state| row.may_be(state))
            && meant(&self.receivers, row.to)
            && meant(&self.sources, row.source)
            && since.is_none_or(|since| row.is_since(since))
            && until.is_none_or(|until| row.is_before(until))
            && from.as_ref().is_none_or(|from| row.may_be_from(from))
            && self.letters.as_ref().is_none_or(|letters| row.may_have(letters))
    }
}

impl Table {
    /// Adds the row of a message, or replaces it after a redaction.
    pub(in crate::store::sled) fn set(&mut self, seq: u64, draft: Draft) {
        let Draft { mut row, to, source } = draft;
        row.to = self.receivers.number(&to);
        row.source = self.sources.number(source.as_str());
        let chunk = self.chunks.entry(seq / CHUNK).or_default();
        let index = (seq % CHUNK) as usize;
        if chunk.rows.len() <= index {
            chunk.rows.resize(index + 1, Row::default());
        }
        if let Some(place) = chunk.rows.get_mut(index) {
            chunk.present += u64::from(!place.is_present());
            self.present += u64::from(!place.is_present());
            let before = *place;
            if !before.is_present() {
                self.by_id.add(row.id(), seq);
            }
            *place = row.with_counts_of(place);
            count(&mut self.undelivered, &before, place);
        }
    }

    pub(in crate::store::sled) fn remove(&mut self, seq: u64) {
        let Some(chunk) = self.chunks.get_mut(&(seq / CHUNK)) else {
            return;
        };
        if let Some(row) = chunk.rows.get_mut((seq % CHUNK) as usize) {
            self.by_id.remove(row.id(), seq);
            chunk.present -= u64::from(row.is_present());
            self.present -= u64::from(row.is_present());
            count(&mut self.undelivered, row, &Row::default());
            *row = Row::default();
        }
        if chunk.present == 0 {
            self.chunks.remove(&(seq / CHUNK));
        }
    }

    pub(in crate::store::sled) fn get(&self, seq: u64) -> Option<&Row> {
        let row = self
            .chunks
            .get(&(seq / CHUNK))?
            .rows
            .get((seq % CHUNK) as usize)?;
        row.is_present().then_some(row)
    }

    /// Changes the row of a message, if it is present.
    pub(in crate::store::sled) fn change(&mut self, seq: u64, change: impl FnOnce(&mut Row)) {
        let rows = self.chunks.get_mut(&(seq / CHUNK)).map(|chunk| &mut chunk.rows);
        let row = rows.and_then(|rows| rows.get_mut((seq % CHUNK) as usize));
        if let Some(row) = row.filter(|row| row.is_present()) {
            let before = *row;
            change(row);
            count(&mut self.undelivered, &before, row);
        }
    }

    /// The number of messages.
    pub(in crate::store::sled) fn len(&self) -> u64 {
        self.present
    }

    /// The number of messages without a delivery.
    pub(in crate::store::sled) fn undelivered(&self) -> Undelivered {
        self.undelivered
    }

    /// The messages that may have this id, by comparing the ends of the ids.
    pub(in crate::store::sled) fn candidates(&self, id: MessageId) -> Vec<u64> {
        let end = row::short(id);
        let candidates = self.by_id.candidates(end);
        candidates
            .filter(|&seq| self.get(seq).is_some_and(|row| row.id() == end))
            .collect()
    }

    pub(in crate::store::sled) fn sieve(&self, query: &Query) -> Sieve {
        let to = query.to.as_ref();
        let source = query.source.as_ref();
        Sieve {
            receivers: to.map(|to| self.receivers.all(|normal| to.matches_normal(normal))),
            sources: source.map(|source| self.sources.all(|name| name == source.as_str())),
            letters: query.text.as_deref().map(row::letters),
            query: query.clone(),
        }
    }

    /// The messages of one chunk that may match a search, newest first, and the sequence number below which to
    /// continue.
    pub(in crate::store::sled) fn sift(&self, below: u64, sieve: &Sieve) -> (Vec<u64>, Option<u64>) {
        self.step(below, |row| sieve.lets_through(row))
    }

    /// Like the previous method, for messages with a delivery that may be in this state.
    pub(in crate::store::sled) fn with_delivery(
        &self,
        below: u64,
        state: Option<MessageState>,
    ) -> (Vec<u64>, Option<u64>) {
        self.step(below, |row| match state {
            Some(MessageState::Pending) => row.may_wait(),
            Some(MessageState::Dead) => row.may_be_dead(),
            _ => true,
        })
    }

    fn step(&self, below: u64, wanted: impl Fn(&Row) -> bool) -> (Vec<u64>, Option<u64>) {
        let Some(last) = below.checked_sub(1) else {
            return (Vec::new(), None);
        };
        let Some((&number, chunk)) = self.chunks.range(..=last / CHUNK).next_back() else {
            return (Vec::new(), None);
        };
        let first = number * CHUNK;
        let rows = (first..below).zip(&chunk.rows);
        let wanted = rows.filter(|(_, row)| row.is_present() && wanted(row));
        let mut seqs: Vec<u64> = wanted.map(|(seq, _)| seq).collect();
        seqs.reverse();
        (seqs, Some(first))
    }

    /// Up to `limit` messages after this one that may be removed or redacted, oldest first.
    pub(in crate::store::sled) fn ended(
        &self,
        after: u64,
        cutoffs: &RetentionCutoffs,
        limit: usize,
    ) -> Vec<u64> {
        let is_before =
            |row: &Row, moment: Option<Timestamp>| moment.is_some_and(|moment| row.is_before(moment));
        let ended = self.rows(after + 1).filter(|(_, row)| {
            let redact = is_before(row, cutoffs.redact_before) && !row.is_redacted();
            (redact || is_before(row, cutoffs.purge_before)) && row.may_be_ended()
        });
        ended.map(|(seq, _)| seq).take(limit).collect()
    }

    /// Up to `limit` messages after this one, up to `last`, that may have a pending delivery, oldest first.
    pub(in crate::store::sled) fn waiting(&self, after: u64, last: u64, limit: usize) -> Vec<u64> {
        let rows = self.rows(after + 1).take_while(|(seq, _)| *seq <= last);
        rows.filter(|(_, row)| row.may_wait())
            .map(|(seq, _)| seq)
            .take(limit)
            .collect()
    }

    fn rows(&self, from: u64) -> impl Iterator<Item = (u64, &Row)> {
        let chunks = self.chunks.range(from / CHUNK..);
        let rows = chunks.flat_map(|(number, chunk)| (number * CHUNK..).zip(&chunk.rows));
        rows.filter(move |(seq, row)| *seq >= from && row.is_present())
    }
}

/// Maps repeated strings to numbers.
#[derive(Default)]
struct Words {
    numbers: HashMap<String, u16>,
}

impl Words {
    fn number(&mut self, word: &str) -> u16 {
        if let Some(&number) = self.numbers.get(word) {
            return number;
        }
        let next = u16::try_from(self.numbers.len()).unwrap_or(LOOK);
        if next != LOOK {
            self.numbers.insert(word.to_owned(), next);
        }
        next
    }

    fn all(&self, meant: impl Fn(&str) -> bool) -> Vec<bool> {
        let mut all = vec![false; self.numbers.len()];
        for (word, &number) in &self.numbers {
            if let Some(place) = all.get_mut(usize::from(number)) {
                *place = meant(word);
            }
        }
        all
    }
}

/// Counts a message that changed from one row to another.
fn count(undelivered: &mut Undelivered, before: &Row, after: &Row) {
    for (row, is_entering) in [(before, false), (after, true)] {
        let counter = match row.undelivered() {
            Some(MessageState::Unrouted) => &mut undelivered.unrouted,
            Some(_) => &mut undelivered.kept,
            None => continue,
        };
        match is_entering {
            true => *counter += 1,
            false => *counter = counter.saturating_sub(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::number::Pattern;
    use crate::store::conformance::arrival;

    fn table(count: u64) -> Table {
        let mut table = Table::default();
        for seq in 1..=count {
            let mut message = arrival(seq, seq % 10, &[]).message;
            message.received_at = Timestamp(seq as i64 * 60_000);
            table.set(seq, Draft::of(&message));
        }
        table
    }

    fn found(table: &Table, query: &Query) -> Vec<u64> {
        let sieve = table.sieve(query);
        let (mut seqs, mut below) = (Vec::new(), u64::MAX);
        while let (some, Some(next)) = table.sift(below, &sieve) {
            seqs.extend(some);
            below = next;
        }
        seqs
    }

    #[test]
    fn a_search_returns_possible_matches_newest_first() {
        let mut table = table(3_000);
        let all = found(&table, &Query::default());
        assert!(all.len() == 3_000 && all.is_sorted_by(|a, b| a > b));
        let from = arrival(7, 7, &[]).message.from;
        let query = Query {
            from: Some(Pattern::Exact(from.normal().to_owned())),
            since: Some(Timestamp(2_000 * 60_000)),
            until: Some(Timestamp(2_030 * 60_000)),
            ..Query::default()
        };
        assert_eq!(found(&table, &query), [2_027, 2_017, 2_007]);
        table.change(2_017, |row| row.count_waiting(true));
        let pending = Query {
            state: Some(MessageState::Pending),
            ..query
        };
        assert_eq!(found(&table, &pending), [2_017]);
        let nobody = Query {
            source: Some("other".parse().unwrap()),
            ..Query::default()
        };
        assert!(found(&table, &nobody).is_empty());
    }

    #[test]
    fn the_rows_of_removed_messages_are_removed() {
        let mut table = table(3_000);
        table.change(5, |row| row.count_waiting(true));
        let cutoffs = RetentionCutoffs {
            purge_before: Some(Timestamp(2_900 * 60_000)),
            redact_before: None,
            dedup_before: Timestamp(0),
        };
        let (mut after, mut gone) = (0, 0);
        loop {
            let step = table.ended(after, &cutoffs, 500);
            let Some(&last) = step.last() else { break };
            after = last;
            gone += step.len();
            step.into_iter().for_each(|seq| table.remove(seq));
        }
        assert_eq!(gone, 2_899, "one is still pending");
        assert!(table.get(5).is_some() && table.get(6).is_none() && table.get(2_901).is_some());
        assert_eq!(table.chunks.len(), 2);
        assert_eq!(table.candidates(arrival(5, 1, &[]).message.id), [5]);
    }

    #[test]
    fn a_redacted_message_keeps_only_its_counts() {
        let mut table = table(3);
        table.change(2, |row| row.count_dead(true));
        let message = crate::store::redacted(arrival(2, 2, &[]).message, Timestamp(9));
        table.set(2, Draft::of(&message));
        let row = table.get(2).unwrap();
        assert!(row.is_redacted() && row.may_be_dead());
        assert_eq!(table.chunks[&0].present, 3);
    }
}
