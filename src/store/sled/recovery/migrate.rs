//! Migrates stores of formats 1 to 3, which had no log: copies everything into a new database with current records.
//!
//! The old database remains the store until the copy is complete and on disk; then the copy replaces it as after a
//! compaction. After a crash before that, the copy is made again. The log begins empty: the mark records that it
//! lacks the pending messages, and the store's first action is to append them.

use ::sled::{Db, IVec};
use serde::de::DeserializeOwned;

use super::super::Options;
use super::super::changes::Changes;
use super::super::database::{self, Database, Fault};
use super::super::disk::Disk;
use super::super::index::counters::Counters;
use super::super::keys;
use super::super::record::{self, Kept, Ledger, Mark, OLDEST, Root, Seen};
use super::folders::{self, COMPACTING, Step, free_name};
use super::format;
use super::history::LOST_END;
use crate::model::delivery::Delivery;
use crate::store::{Counts, Standings};
use crate::timeline::Timeline;

/// The prefix of the values of those formats, apart from a checksum and the number of further parts.
const VERSION: u8 = 1;
const HEADER: usize = 7;

/// Bytes written together.
const STEP_BYTES: usize = 1 << 20;

/// Replaces the open database by a copy. Before that, calls `find` for everything that could not be copied.
pub(in crate::store::sled) fn migrate(
    options: &Options,
    old: Database,
    find: impl FnMut(String) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let folder = &options.path;
    let (new, disk) =
        database::begin(options, COMPACTING).map_err(|error| Fault::Io(std::io::Error::other(error)))?;
    let mut copy = Copy {
        old: &old,
        new,
        disk,
        changes: Changes::new(),
        bytes: 0,
        counters: Counters::default(),
        messages: 0,
        findings: Vec::new(),
    };
    copy.all()?;
    let Copy {
        new, mut findings, ..
    } = copy;
    new.close()?;
    old.close()?;
    format::write(folder).map_err(|error| Fault::Io(std::io::Error::other(error)))?;
    let aside = free_name(folder, "damaged-store");
    let keep = !findings.is_empty();
    if keep {
        findings.push(format!(
            "the store of the earlier version is kept as {}",
            aside.display()
        ));
    }
    findings.into_iter().try_for_each(find)?;
    let carry_out = |folder: &std::path::Path, step| match step {
        Step::Rename(from, folders::FORMER) if keep => std::fs::rename(folder.join(from), &aside),
        step => step.carry_out(folder),
    };
    folders::finish_compaction(folder, carry_out).map_err(|unfinished| Fault::Io(unfinished.into()))?;
    Ok(folders::drop_earlier(folder)?)
}

struct Copy<'a> {
    old: &'a Db,
    new: Database,
    disk: Disk,
    /// The changes to write next, and their size in bytes.
    changes: Changes,
    bytes: usize,
    counters: Counters,
    messages: u64,
    findings: Vec<String>,
}

impl Copy<'_> {
    fn all(&mut self) -> Result<(), Fault> {
        let ledger = self.load::<Ledger>(keys::LEDGER).ok().flatten();
        let seqs = || self.old.scan_prefix([keys::MESSAGE]).keys();
        let seq = |key: Option<Result<IVec, ::sled::Error>>| keys::seq_of(&key?.ok()?);
        let (first, last) = (seq(seqs().next()), seq(seqs().next_back()));
        let last = last.unwrap_or(0).max(ledger.unwrap_or_default().counts.accepted);
        // Reads the entries one by one: a scan would end at a page that cannot be read.
        for seq in first.unwrap_or(1)..=last {
            self.message(seq);
            if self.bytes > STEP_BYTES {
                self.write()?;
            }
        }
        self.rest::<Seen>(&[keys::SEEN]);
        self.rest::<Root>(&[keys::THREAD]);
        self.rest::<Timeline>(keys::TIMELINE);
        self.rest::<Standings>(keys::STANDINGS);
        for (key, value) in self.old.scan_prefix([keys::PAUSED]).map_while(Result::ok) {
            self.changes.insert(key, Some(value));
        }
        let ledger = self.ledger(ledger, last);
        self.create(keys::LEDGER, &record::encode(&ledger));
        self.write()?;
        self.disk.mark(&self.new, Mark::default())?;
        Ok(())
    }

    fn create(&mut self, key: &[u8], payload: &[u8]) {
        for (key, value) in record::entries(key, payload, OLDEST) {
            self.bytes += key.len() + value.len();
            self.changes.insert(key, Some(value));
        }
    }

    fn write(&mut self) -> Result<(), Fault> {
        self.bytes = 0;
        self.disk.apply(&self.new, &std::mem::take(&mut self.changes))?;
        Ok(())
    }

    /// One message with its current deliveries.
    fn message(&mut self, seq: u64) {
        let key = keys::message(seq);
        let mut kept = match self.load::<Kept>(&key) {
            Ok(Some(kept)) => kept,
            Ok(None) => return,
            Err(()) => {
                return self
                    .findings
                    .push(format!("message {seq} is damaged: it could not be taken over"));
            }
        };
        for entry in self.old.scan_prefix(keys::deliveries(seq)) {
            let Ok((key, _)) = entry else { break };
            let ordinal = keys::place_of(&key).map_or(0, |place| place.ordinal);
            let first = kept
                .deliveries
                .iter()
                .position(|delivery| delivery.id.ordinal == ordinal);
            let first = first.map(|index| kept.deliveries.swap_remove(index));
            match (self.load::<Delivery>(&key), first) {
                (Ok(Some(delivery)), _) => kept.deliveries.push(delivery),
                (_, first) => {
                    self.findings
                        .push(format!("delivery {ordinal} of message {seq} is damaged"));
                    kept.deliveries.extend(first.map(|first| {
                        let at = first.created_at;
                        first.dead(None, at, LOST_END)
                    }));
                }
            }
        }
        kept.deliveries
            .sort_unstable_by_key(|delivery| delivery.id.ordinal);
        kept.deliveries
            .iter()
            .for_each(|delivery| self.counters.enter(delivery));
        self.messages += 1;
        self.create(&key, &record::encode(&kept));
    }

    fn rest<T: DeserializeOwned + serde::Serialize>(&mut self, prefix: &[u8]) {
        for key in self.old.scan_prefix(prefix).keys().map_while(Result::ok) {
            if let Ok(Some(record)) = self.load::<T>(&key) {
                self.create(&key, &record::encode(&record));
            }
        }
    }

    /// The counters of the copied records, which should equal the stored ones.
    fn ledger(&mut self, stored: Option<Ledger>, last: u64) -> Ledger {
        let Ledger { commits, counts: was } = stored.unwrap_or_default();
        let is = self.counters.ledger.counts;
        let there = is.delivered + is.dead + is.pending;
        let created = was.created.max(there);
        let counts = Counts {
            accepted: last,
            messages_purged: last - self.messages.min(last),
            created,
            purged: created - there,
            ..is
        };
        if counts != was && (last > 0 || stored.is_some()) {
            let missing = counts.messages_purged.saturating_sub(was.messages_purged);
            self.findings.push(format!(
                "the sums of the earlier version were other ones: {missing} messages are missing"
            ));
        }
        Ledger { commits, counts }
    }

    fn load<T: DeserializeOwned>(&self, key: &[u8]) -> Result<Option<T>, ()> {
        let Some(value) = self.old.get(key).map_err(drop)? else {
            return Ok(None);
        };
        let (head, first) = value.split_first_chunk::<HEADER>().ok_or(())?;
        let &[version, a, b, c, d, e, f] = head;
        let more = u16::from_be_bytes([e, f]);
        let mut payload = first.to_vec();
        for number in 1..=more {
            let part: IVec = self.old.get(keys::part(key, number)).map_err(drop)?.ok_or(())?;
            payload.extend_from_slice(&part);
        }
        let crc = crc32c::crc32c_append(crc32c::crc32c(key), &[e, f]);
        if version != VERSION || crc32c::crc32c_append(crc, &payload) != u32::from_be_bytes([a, b, c, d]) {
            return Err(());
        }
        postcard::from_bytes(&payload).map(Some).map_err(drop)
    }
}
