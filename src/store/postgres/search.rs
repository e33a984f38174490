//! Finding messages and deliveries.
//!
//! A search reads sequence numbers from the newest to the oldest in ranges of limited size, so that no statement takes
//! long, whatever the planner knows about the conditions. The messages that the database selects are compared again
//! with [`Query::matches`], which decides.

use std::time::{Duration, Instant};

use tokio_postgres::types::ToSql;

use super::by_state::Indexed;
use super::pool::Connection;
use super::record;
use super::shared::Shared;
use super::trouble::Trouble;
use crate::model::delivery::Delivery;
use crate::model::message::MessageId;
use crate::model::number::Pattern;
use crate::store::{DeliveryQuery, Error, Found, MessageState, PAGE_BYTES, Page, Query};

/// The time after which one call returns its results with a cursor.
const SCAN_TIME: Duration = Duration::from_millis(300);

/// The size of the first range of sequence numbers, and the limit of later ones.
const RANGE_FIRST: i64 = 4_000;
const RANGE_MAX: i64 = 128_000;

/// The limit for a search for words with an index of them.
const RANGE_OF_WORDS: i64 = 2_000_000;

/// The number of messages read at a time.
const STEP: i64 = 256;

/// Messages with all their deliveries.
macro_rules! found {
    ($condition:literal) => {
        concat!(
            "SELECT m.seq, m.record, ",
            "ARRAY(SELECT d.record FROM delivery d WHERE d.message = m.id ORDER BY d.ordinal) ",
            "FROM message m WHERE ",
            $condition
        )
    };
}

const FIND: &str = found!("m.id = $1");
const LOAD: &str = found!("m.seq = ANY($1::bigint[]) ORDER BY m.seq DESC");

/// The next messages of a backup.
pub(super) const EXPORTED: &str = found!("m.seq > $1 AND m.seq <= $2 ORDER BY m.seq LIMIT $3");

/// The parameters of a statement that is put together.
type Parameters = Vec<Box<dyn ToSql + Sync + Send>>;

/// A statement that is put together.
struct Statement {
    conditions: Vec<String>,
    parameters: Parameters,
}

impl Statement {
    fn new() -> Self {
        Self {
            conditions: Vec::new(),
            parameters: Vec::new(),
        }
    }

    /// Adds a condition, in which `?` stands for the parameter.
    fn when(&mut self, condition: &str, parameter: impl ToSql + Sync + Send + 'static) {
        self.parameters.push(Box::new(parameter));
        let number = format!("${}", self.parameters.len());
        self.conditions.push(condition.replace('?', &number));
    }

    async fn query(
        &self,
        connection: &Connection,
        select: &str,
        order: &str,
    ) -> Result<Vec<tokio_postgres::Row>, Trouble> {
        let conditions = self.conditions.join(" AND ");
        let sql = format!("{select} WHERE {conditions} {order}");
        let parameters: Vec<&(dyn ToSql + Sync)> = self
            .parameters
            .iter()
            .map(|parameter| &**parameter as &(dyn ToSql + Sync))
            .collect();
        Ok(connection.query(&sql, &parameters).await?)
    }
}

impl Shared {
    pub(super) async fn find(&self, id: MessageId) -> Result<Option<Found>, Error> {
        let connection = self.pool.get().await?;
        let find = async || -> Result<Option<Found>, Trouble> {
            let statement = connection.prepare_cached(FIND).await?;
            let row = connection.query_opt(&statement, &[&id.0]).await?;
            row.map(|row| found(&row).map(|(_, found)| found)).transpose()
        };
        self.within(&connection, find()).await
    }

    pub(super) async fn messages(&self, query: &Query) -> Result<Page<Found>, Error> {
        let connection = self.pool.get().await?;
        let search = async || -> Result<Page<Found>, Trouble> {
            let mut page = MessagePage::new(query);
            if let Some(state) = Indexed::of(query.state) {
                return with_state(&connection, state, page).await;
            }
            let mut ranges = Ranges::new(&connection, query.cursor).await?;
            ranges.is_for_words(query.text.is_some());
            while let Some((low, high)) = ranges.next() {
                let seqs = message_seqs(&connection, query, low, high).await?;
                let is_cut = i64::try_from(seqs.len()).is_ok_and(|count| count >= STEP);
                let reached = seqs.last().copied().filter(|_| is_cut).unwrap_or(low);
                for (seq, found) in load(&connection, &seqs).await? {
                    if let Some(next) = page.add(seq, found) {
                        return Ok(page.end(Some(next)));
                    }
                }
                if ranges.reach(reached, is_cut) {
                    return Ok(page.end(Some(position(reached))));
                }
            }
            Ok(page.end(None))
        };
        self.within(&connection, search()).await
    }

    pub(super) async fn deliveries(&self, query: &DeliveryQuery) -> Result<Page<Delivery>, Error> {
        if matches!(query.state, Some(MessageState::Kept | MessageState::Unrouted)) {
            return Ok(Page {
                items: Vec::new(),
                next: None,
            });
        }
        let connection = self.pool.get().await?;
        let search = async || -> Result<Page<Delivery>, Trouble> {
            let mut items = Vec::new();
            if let Some(state) = Indexed::of(query.state) {
                let limit = i64::try_from(query.limit).unwrap_or(i64::MAX).saturating_add(1);
                let rows = state.deliveries(&connection, query, limit).await?;
                let next = add_deliveries(&rows, query.limit, &mut items)?;
                return Ok(Page { items, next });
            }
            let cursor = query.cursor.map(|cursor| cursor.saturating_sub(1) >> 16);
            let mut ranges = Ranges::new(&connection, cursor.map(|seq| seq + 1)).await?;
            while let Some((low, high)) = ranges.next() {
                let left = query.limit.saturating_sub(items.len());
                let rows = delivery_rows(&connection, query, low, high, left).await?;
                if let Some(next) = add_deliveries(&rows, query.limit, &mut items)? {
                    let next = Some(next);
                    return Ok(Page { items, next });
                }
                if ranges.reach(low, false) {
                    let next = Some(position(low) << 16);
                    return Ok(Page { items, next });
                }
            }
            Ok(Page { items, next: None })
        };
        self.within(&connection, search()).await
    }
}

/// Messages with a delivery in a state that has indexes.
async fn with_state(
    connection: &Connection,
    state: Indexed,
    mut page: MessagePage<'_>,
) -> Result<Page<Found>, Trouble> {
    let started = Instant::now();
    let cursor = page.query.cursor.map(i64::try_from);
    let mut below = cursor.and_then(Result::ok).unwrap_or(i64::MAX);
    loop {
        let seqs = state.messages(connection, below, STEP).await?;
        let Some(last) = seqs.last() else {
            return Ok(page.end(None));
        };
        for (seq, found) in load(connection, &seqs).await? {
            if let Some(next) = page.add(seq, found) {
                return Ok(page.end(Some(next)));
            }
        }
        below = *last;
        if started.elapsed() >= SCAN_TIME {
            return Ok(page.end(Some(position(below))));
        }
    }
}

/// Adds the deliveries of rows with their numbers and ordinals. Returns the cursor of the next page when there are more.
fn add_deliveries(
    rows: &[tokio_postgres::Row],
    limit: usize,
    items: &mut Vec<Delivery>,
) -> Result<Option<u64>, Trouble> {
    for row in rows {
        if items.len() >= limit {
            let (seq, ordinal): (i64, i16) = (row.try_get(0)?, row.try_get(1)?);
            return Ok(Some(
                (position(seq) << 16 | u64::from(ordinal.cast_unsigned())) + 1,
            ));
        }
        items.extend(record::delivery(row.try_get(2)?));
    }
    Ok(None)
}

/// The ranges of sequence numbers that a search reads, from the newest to the oldest.
struct Ranges {
    /// The oldest stored one.
    first: i64,
    /// The search has read what is not below this.
    below: i64,
    size: i64,
    size_max: i64,
    has_words: bool,
    started: Instant,
}

const BOUNDS: &str = "SELECT min(seq), max(seq), to_regclass('message_words') IS NOT NULL FROM message";

impl Ranges {
    async fn new(connection: &Connection, cursor: Option<u64>) -> Result<Self, Trouble> {
        let statement = connection.prepare_cached(BOUNDS).await?;
        let row = connection.query_one(&statement, &[]).await?;
        let (first, last): (Option<i64>, Option<i64>) = (row.try_get(0)?, row.try_get(1)?);
        let end = last.map_or(0, |last| last.saturating_add(1));
        let cursor = cursor.map_or(i64::MAX, |cursor| i64::try_from(cursor).unwrap_or(i64::MAX));
        Ok(Self {
            first: first.unwrap_or(0),
            below: cursor.min(end),
            size: RANGE_FIRST,
            size_max: RANGE_MAX,
            has_words: row.try_get(2)?,
            started: Instant::now(),
        })
    }

    /// The search is for words, or not.
    fn is_for_words(&mut self, is_for_words: bool) {
        if is_for_words && self.has_words {
            self.size_max = RANGE_OF_WORDS;
        }
    }

    /// The next range: from the first number up to the second, without it.
    fn next(&self) -> Option<(i64, i64)> {
        let low = self.below.saturating_sub(self.size).max(self.first);
        (low < self.below).then_some((low, self.below))
    }

    /// Everything from `low` on was read. Returns true if the rest is left for the next call.
    fn reach(&mut self, low: i64, is_cut: bool) -> bool {
        self.below = low;
        if !is_cut && self.size < self.size_max {
            self.size *= 4;
        }
        low > self.first && self.started.elapsed() >= SCAN_TIME
    }
}

/// A page of messages that grows.
struct MessagePage<'q> {
    query: &'q Query,
    items: Vec<Found>,
    size: usize,
}

impl<'q> MessagePage<'q> {
    fn new(query: &'q Query) -> Self {
        Self {
            query,
            items: Vec::new(),
            size: 0,
        }
    }

    /// Adds a message if it matches. Returns the cursor of the next page when this one is complete.
    fn add(&mut self, seq: i64, found: Found) -> Option<u64> {
        let is_wanted =
            self.query.matches(&found.message) && self.query.state.is_none_or(|state| found.is(state));
        if !is_wanted {
            return None;
        }
        if self.items.len() >= self.query.limit || self.size >= PAGE_BYTES {
            return Some(position(seq) + 1);
        }
        self.size += found.size();
        self.items.push(found);
        None
    }

    fn end(self, next: Option<u64>) -> Page<Found> {
        Page {
            items: self.items,
            next,
        }
    }
}

fn position(seq: i64) -> u64 {
    seq.cast_unsigned()
}

/// The newest messages of a range that can match.
async fn message_seqs(
    connection: &Connection,
    query: &Query,
    low: i64,
    high: i64,
) -> Result<Vec<i64>, Trouble> {
    let mut statement = Statement::new();
    statement.when("m.seq >= ?", low);
    statement.when("m.seq < ?", high);
    for (column, pattern) in [("sender", &query.from), ("receiver", &query.to)] {
        if let Some(pattern) = pattern {
            when_pattern(&mut statement, column, pattern);
        }
    }
    if let Some(text) = &query.text {
        statement.when("m.folded LIKE ?", format!("%{}%", escaped(&record::folded(text))));
    }
    if let Some(source) = &query.source {
        statement.when("m.source = ?", source.to_string());
    }
    if let Some(since) = query.since {
        statement.when("m.received_at >= ?", since.0);
    }
    if let Some(until) = query.until {
        statement.when("m.received_at < ?", until.0);
    }
    let state = match query.state {
        // These have been found by their own indexes.
        None | Some(MessageState::Pending | MessageState::Dead) => None,
        Some(MessageState::Delivered) => Some("m.disposition NOT IN (1, 2)"),
        Some(MessageState::Kept) => Some("m.disposition = 1"),
        Some(MessageState::Unrouted) => Some("m.disposition IN (2, 3)"),
    };
    statement.conditions.extend(state.map(str::to_owned));
    let order = format!("ORDER BY m.seq DESC LIMIT {STEP}");
    let rows = statement
        .query(connection, "SELECT m.seq FROM message m", &order)
        .await?;
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

/// The columns contain the first bytes of the numbers only.
fn when_pattern(statement: &mut Statement, column: &str, pattern: &Pattern) {
    match pattern {
        Pattern::Any => {}
        Pattern::Exact(normal) => statement.when(&format!("m.{column} = ?"), record::indexed(normal)),
        Pattern::Prefix(start) => {
            let start = escaped(&record::indexed(start));
            statement.when(&format!("m.{column} LIKE ?"), format!("{start}%"));
        }
        Pattern::Suffix(end) => {
            let end = escaped(&record::indexed(end));
            let longest = i32::try_from(record::INDEXED_MAX).unwrap_or(i32::MAX) - 4;
            let condition = format!("(m.{column} LIKE ? OR octet_length(m.{column}) >= {longest})");
            statement.when(&condition, format!("%{end}"));
        }
    }
}

/// The words without a special meaning in a pattern of `LIKE`.
fn escaped(words: &str) -> String {
    words
        .replace('\\', "\\\\")
        .replace('%', "\\%")
        .replace('_', "\\_")
}

/// Messages with their deliveries, newest first.
async fn load(connection: &Connection, seqs: &[i64]) -> Result<Vec<(i64, Found)>, Trouble> {
    if seqs.is_empty() {
        return Ok(Vec::new());
    }
    let statement = connection.prepare_cached(LOAD).await?;
    let rows = connection.query(&statement, &[&seqs]).await?;
    let readable = |row| match found(row) {
        // The claim that found it has set it aside.
        Err(Trouble::Store(error)) => {
            tracing::debug!("a message is omitted from a search: {error}");
            None
        }
        found => Some(found),
    };
    rows.iter().filter_map(readable).collect()
}

/// A row of [`found!`], without deliveries that cannot be read.
pub(super) fn found(row: &tokio_postgres::Row) -> Result<(i64, Found), Trouble> {
    let records: Vec<&[u8]> = row.try_get(2)?;
    let deliveries = records.into_iter().map(record::delivery);
    let deliveries = deliveries.filter_map(Result::ok).collect();
    let message = record::message(row.try_get(1)?)?;
    Ok((row.try_get(0)?, Found { message, deliveries }))
}

/// The newest deliveries of a range that match, one more than `left`.
async fn delivery_rows(
    connection: &Connection,
    query: &DeliveryQuery,
    low: i64,
    high: i64,
    left: usize,
) -> Result<Vec<tokio_postgres::Row>, Trouble> {
    let mut statement = Statement::new();
    // Only the messages have an index by their numbers.
    let select = "SELECT d.seq, d.ordinal, d.record FROM message m JOIN delivery d ON d.message = m.id";
    statement.when("m.seq >= ?", low);
    statement.when("m.seq < ?", high);
    if let Some(cursor) = query.cursor {
        statement.when(
            "(d.seq << 16 | d.ordinal) < ?",
            i64::try_from(cursor).unwrap_or(i64::MAX),
        );
    }
    if let Some(destination) = &query.destination {
        statement.when("d.destination = ?", destination.to_string());
    }
    if query.state == Some(MessageState::Delivered) {
        statement.conditions.push("d.stage = 3".to_owned());
    }
    let order = format!("ORDER BY m.seq DESC, d.ordinal DESC LIMIT {}", left + 1);
    statement.query(connection, select, &order).await
}
