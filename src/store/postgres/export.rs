//! A backup, read in parts. Messages accepted after the start of the backup are not included.
//!
//! The numbers of the database have gaps. In a backup, messages are numbered without gaps after those that were removed,
//! as a store on disk numbers them.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::pool::Connection;
use super::record;
use super::rows::conversation;
use super::search::{EXPORTED, found};
use super::shared::Shared;
use super::states::name;
use super::trouble::Trouble;
use crate::model::message::{MessageId, Timestamp};
use crate::store::backup::{Part, Position, Record};
use crate::store::{Error, PAGE_BYTES};

/// Records per part, unless they are large.
const STEP: i64 = 200;

/// The records after the counters.
const MESSAGES: u8 = 1;
const SEEN: u8 = 2;
const THREADS: u8 = 3;

/// The provider id of a message in the backup is included with the message.
const FORGOTTEN: &str = "
    SELECT s.digest, s.message, s.seq, s.received_at FROM seen s
    WHERE s.digest > $1 AND s.seq <= $2 AND NOT EXISTS (SELECT FROM message m WHERE m.id = s.message)
    ORDER BY s.digest LIMIT $3";

const ROOTS: &str = "
    SELECT destination, conversation, root, at FROM thread WHERE (destination, conversation) > ($1, $2)
    ORDER BY destination, conversation LIMIT $3";

/// Where a part ends.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Reached {
    /// The number of messages that were removed before the backup.
    removed: u64,
    /// The number of the last message in the backup.
    number: u64,
    /// The number of the last message in the database.
    seq: i64,
    /// The last digest, or the last conversation.
    key: Vec<u8>,
    /// The last destination.
    destination: String,
}

impl Shared {
    pub(super) async fn export(&self, from: Position) -> Result<Part, Error> {
        if from.stage == 0 {
            return self.export_sums().await;
        }
        let mut reached: Reached = from
            .after
            .as_deref()
            .map(record::decode)
            .transpose()?
            .unwrap_or_default();
        let connection = self.pool.get().await?;
        let last = i64::try_from(from.last).unwrap_or(i64::MAX);
        let part = async {
            match from.stage {
                MESSAGES => export_messages(&connection, &mut reached, last).await,
                SEEN => export_seen(&connection, &mut reached, last).await,
                _ => export_threads(&connection, &mut reached).await,
            }
        };
        let (records, is_last) = self.within(&connection, part).await?;
        if is_last {
            reached.key.clear();
        }
        let stage = from.stage + u8::from(is_last);
        let next = Position {
            stage,
            after: Some(record::encode(&reached)?),
            last: from.last,
        };
        Ok((records, (stage <= THREADS).then_some(next)))
    }

    async fn export_sums(&self) -> Result<Part, Error> {
        let connection = self.pool.get().await?;
        let last = async {
            let statement = connection
                .prepare_cached("SELECT coalesce(max(seq), 0) FROM message")
                .await?;
            Ok(connection
                .query_one(&statement, &[])
                .await?
                .try_get::<_, i64>(0)?)
        };
        let last = self.within(&connection, last).await?;
        drop(connection);
        let counts = self.counts().await?;
        let mut records = vec![Record::Sums(counts)];
        records.extend(self.paused().await?.into_iter().map(Record::Paused));
        let reached = Reached {
            removed: counts.messages_purged,
            number: counts.messages_purged,
            ..Reached::default()
        };
        let next = Position {
            stage: MESSAGES,
            after: Some(record::encode(&reached)?),
            last: last.cast_unsigned(),
        };
        Ok((records, Some(next)))
    }
}

/// Records, and whether these are the last ones.
type Records = (Vec<Record>, bool);

async fn export_messages(
    connection: &Connection,
    reached: &mut Reached,
    last: i64,
) -> Result<Records, Trouble> {
    let statement = connection.prepare_cached(EXPORTED).await?;
    let rows = connection
        .query(&statement, &[&reached.seq, &last, &STEP])
        .await?;
    let (mut records, mut size) = (Vec::new(), 0);
    for row in &rows {
        if size >= PAGE_BYTES {
            break;
        }
        let (seq, found) = found(row)?;
        reached.seq = seq;
        reached.number += 1;
        let record = Record::message(reached.number, found);
        size += record.size();
        records.push(record);
    }
    let is_last = records.len() == rows.len() && is_last(rows.len());
    Ok((records, is_last))
}

async fn export_seen(connection: &Connection, reached: &mut Reached, last: i64) -> Result<Records, Trouble> {
    let statement = connection.prepare_cached(FORGOTTEN).await?;
    let rows = connection
        .query(&statement, &[&reached.key, &last, &STEP])
        .await?;
    let mut records = Vec::new();
    for row in &rows {
        reached.key = row.try_get(0)?;
        let damaged = |_| Error::Failed("a digest in the database is damaged".to_owned());
        records.push(Record::Seen {
            digest: reached.key.as_slice().try_into().map_err(damaged)?,
            id: MessageId(row.try_get::<_, Uuid>(1)?),
            seq: row.try_get::<_, i64>(2)?.cast_unsigned().min(reached.removed),
            received_at: Timestamp(row.try_get(3)?),
        });
    }
    Ok((records, is_last(rows.len())))
}

async fn export_threads(connection: &Connection, reached: &mut Reached) -> Result<Records, Trouble> {
    let statement = connection.prepare_cached(ROOTS).await?;
    let rows = connection
        .query(&statement, &[&reached.destination, &reached.key, &STEP])
        .await?;
    let mut records = Vec::new();
    for row in &rows {
        reached.destination = row.try_get(0)?;
        reached.key = row.try_get(1)?;
        let damaged = |_| Error::Failed("a thread in the database is damaged".to_owned());
        records.push(Record::Thread {
            destination: name(&reached.destination)?,
            conversation: conversation(&reached.key)?.0,
            thread: String::from_utf8(row.try_get(2)?).map_err(damaged)?,
            at: Timestamp(row.try_get(3)?),
        });
    }
    Ok((records, is_last(rows.len())))
}

fn is_last(count: usize) -> bool {
    i64::try_from(count).is_ok_and(|count| count < STEP)
}
