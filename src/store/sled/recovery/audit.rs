//! The audit at every start: reads all records once, compares them with the counters and fills the indexes.
//!
//! Only messages and deliveries are on disk; queues, provider ids and the search table are built here, so they cannot
//! disagree with them. The audit changes nothing: a database with a damaged record or with wrong counters is rebuilt
//! from the log (see `start`).

use std::collections::BTreeSet;

use ::sled::{Db, IVec};

use super::super::compact::Weight;
use super::super::database::Fault;
use super::super::index::counters::Counters;
use super::super::index::dedup_index::DedupIndex;
use super::super::index::{Index, IndexUpdate};
use super::super::keys::{self, Place};
use super::super::record::{self, Entry, Kept, Ledger, Trouble};
use super::super::scan;
use super::super::stored::queue;
use crate::model::delivery::Delivery;
use crate::model::message::Name;
use crate::store::{Counts, Found, backup};

/// The result of an audit.
#[derive(Default)]
pub(in crate::store::sled) struct Audited {
    /// The counters, as computed from the records.
    pub(in crate::store::sled) counters: Counters,
    pub(in crate::store::sled) index: Index,
    pub(in crate::store::sled) dedup_index: DedupIndex,
    pub(in crate::store::sled) weight: Weight,
    /// The destinations at which a conversation has a thread.
    pub(in crate::store::sled) threaded: BTreeSet<Name>,
    /// The difference from the stored counters.
    pub(in crate::store::sled) differences: Option<String>,
    messages: u64,
    last_seq: u64,
}

impl From<Trouble> for Fault {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Sled(error) => error.into(),
            Trouble::Damaged => Self::Damaged("a record is damaged".to_owned()),
        }
    }
}

/// Reads the complete database.
pub(in crate::store::sled) fn audit(db: &Db) -> Result<Audited, Fault> {
    let mut audited = Audited::default();
    audited.read_all(db)?;
    audited.read_the_rest(db)?;
    audited.add_up(record::load(&**db, keys::LEDGER)?);
    Ok(audited)
}

impl Audited {
    /// Reads every message together with its deliveries, each once. A delivery without its message is ignored: its
    /// message may be recovered later.
    fn read_all(&mut self, db: &Db) -> Result<(), Fault> {
        let mut changed = scan::prefix(db, [keys::DELIVERY]).peekable();
        for entry in scan::prefix(db, [keys::MESSAGE]) {
            let (key, value) = entry?;
            let Some(seq) = keys::seq_of(&key) else { continue };
            let mut own = Vec::new();
            while let Some(entry) = changed.next_if(|entry| seq_of(entry).is_none_or(|of| of <= seq)) {
                let (key, value) = entry?;
                if keys::seq_of(&key) == Some(seq) {
                    own.push((key, value))
                }
            }
            self.last_seq = seq;
            self.weight.texts += 1;
            let bytes: usize = own.iter().map(|(_, value)| value.len()).sum();
            self.weight.bytes += (key.len() + value.len() + bytes) as u64;
            let kept = record::decode::<Kept>(&**db, &key, &value)?;
            self.read(db, seq, kept, own)?;
        }
        Ok(())
    }

    fn read(&mut self, db: &Db, seq: u64, kept: Kept, own: Vec<(IVec, IVec)>) -> Result<(), Fault> {
        self.messages += 1;
        let Kept {
            message,
            mut deliveries,
        } = kept;
        for (key, value) in own {
            let delivery = record::decode::<Delivery>(&**db, &key, &value)?;
            deliveries.retain(|first| first.id.ordinal != delivery.id.ordinal);
            deliveries.push(delivery);
        }
        let mut updates = vec![IndexUpdate::message(seq, &message)];
        for delivery in &deliveries {
            let place = Place {
                seq,
                ordinal: delivery.id.ordinal,
            };
            updates.push(IndexUpdate::delivery(queue(&message, delivery), place, delivery));
            self.counters.enter(delivery);
        }
        self.index.apply(updates);
        // The deliveries of a resend are left out: the message had ended before.
        let first = deliveries.into_iter().filter(|delivery| !delivery.is_resent);
        let found = Found {
            message,
            deliveries: first.collect(),
        };
        self.index.has_ended(seq, found.state());
        let message = found.message;
        if !message.provider_id.is_empty() {
            self.dedup_index
                .add(backup::digest(&message.source, &message.provider_id), seq);
        }
        Ok(())
    }

    /// Reads the entries that the audit does not need: a page that cannot be read could not be changed either, and
    /// should be found here and not by the first message.
    fn read_the_rest(&mut self, db: &Db) -> Result<(), Fault> {
        for tag in [keys::PART, keys::THREAD, keys::SEEN] {
            for entry in scan::prefix(db, [tag]) {
                let (key, value) = entry?;
                Entry::read(&key, &value).ok_or(Trouble::Damaged)?;
                self.dedup_index.on_disk += u64::from(tag == keys::SEEN);
                if tag == keys::THREAD {
                    let thread = keys::queue_of(&key);
                    self.threaded.extend(thread.map(|thread| thread.destination));
                }
            }
        }
        db.scan_prefix([keys::PAUSED])
            .try_for_each(|entry| entry.map(drop))?;
        Ok(())
    }

    /// Compares the records with the counters of the last commit.
    fn add_up(&mut self, stored: Option<Ledger>) {
        let is = self.counters.ledger.counts;
        let there = is.delivered + is.dead + is.pending;
        let Ledger { commits, counts: was } = stored.unwrap_or_default();
        let accepted = was.accepted.max(self.last_seq);
        let created = was.created.max(there);
        let counts = Counts {
            accepted,
            messages_purged: accepted - self.messages,
            created,
            purged: created - there,
            ..is
        };
        self.counters.ledger = Ledger { commits, counts };
        if counts != was {
            let of = |counts: &Counts| {
                let messages = counts.accepted - counts.messages_purged.min(counts.accepted);
                let Counts {
                    delivered,
                    dead,
                    pending,
                    ..
                } = counts;
                format!(
                    "{messages} messages with {delivered} delivered, {dead} dead and {pending} pending deliveries"
                )
            };
            self.differences = Some(format!(
                "it has {} where there should be {}",
                of(&counts),
                of(&was)
            ));
        }
    }
}

fn seq_of(entry: &Result<(IVec, IVec), ::sled::Error>) -> Option<u64> {
    entry.as_ref().ok().and_then(|(key, _)| keys::seq_of(key))
}
