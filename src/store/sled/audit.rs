//! The audit at every start: what is kept is read through once, held against the sums, and told to the index.
//!
//! The messages and deliveries are all there is on disk; the queues, the provider ids and the table for searches
//! are made here, and cannot disagree with them. A damaged record is set aside.

use ::sled::{Db, IVec};

use super::books::Books;
use super::compact::Weight;
use super::index::{Index, Note};
use super::keys::{self, Place};
use super::known::Known;
use super::record::{self, Kept, Ledger, Trouble};
use super::salvage::DAMAGED;
use super::scan;
use super::stored::queue;
use super::view::View;
use super::writer::Disk;
use crate::delivery::Delivery;
use crate::store::{Counts, backup};

/// How many changes of a repair are committed together.
const COMMIT: usize = 2_000;

/// Why an audit did not come to an end.
#[derive(Debug, thiserror::Error)]
pub(super) enum Stop {
    #[error(transparent)]
    Sled(#[from] ::sled::Error),
    #[error("{0}")]
    Disk(String),
}

/// What an audit comes to.
#[derive(Default)]
pub(super) struct Audited {
    pub(super) books: Books,
    pub(super) index: Index,
    pub(super) known: Known,
    pub(super) weight: Weight,
    /// What was damaged or missing, in words.
    pub(super) findings: Vec<String>,
    /// Commits that were made and are not there.
    pub(super) commits_lost: u64,
}

/// Audits a store, and mends it.
pub(super) fn audit(db: &Db, disk: &Disk) -> Result<Audited, Stop> {
    let mut audit = Audit {
        db,
        disk,
        sums: Sums::default(),
        audited: Audited::default(),
    };
    audit.drop_former_indexes()?;
    audit.read_all()?;
    audit.touch_the_rest()?;
    audit.add_up()?;
    Ok(audit.audited)
}

struct Audit<'a> {
    db: &'a Db,
    disk: &'a Disk,
    sums: Sums,
    audited: Audited,
}

#[derive(Default)]
struct Sums {
    messages: u64,
    last_seq: u64,
    /// Messages set aside.
    set_aside: u64,
}

impl Audit<'_> {
    fn note(&mut self, finding: String) {
        self.audited.findings.push(finding);
    }

    /// Reads every message with its deliveries, in step, and each only once.
    fn read_all(&mut self) -> Result<(), Stop> {
        let mut changed = scan::prefix(self.db, [keys::DELIVERY]).peekable();
        for entry in scan::prefix(self.db, [keys::MESSAGE]) {
            let (key, value) = entry?;
            let Some(seq) = keys::seq_of(&key) else { continue };
            let mut own = Vec::new();
            while let Some(entry) = changed.next_if(|entry| seq_of(entry).is_none_or(|of| of <= seq)) {
                let (key, value) = entry?;
                if keys::seq_of(&key) == Some(seq) {
                    own.push((key, value))
                } else {
                    self.orphan(&key)?
                }
            }
            self.sums.last_seq = seq;
            self.audited.weight.texts += 1;
            self.audited.weight.bytes += (key.len() + value.len()) as u64;
            match record::decode::<Kept>(&**self.db, &key, &value) {
                Ok(kept) => self.read(seq, kept, own)?,
                Err(Trouble::Damaged) => self.damaged_message(seq)?,
                Err(Trouble::Sled(error)) => return Err(error.into()),
            }
        }
        for entry in changed {
            self.orphan(&entry?.0)?;
        }
        Ok(())
    }

    /// Reads what is not looked at otherwise: a page that cannot be read would not take a change either, and
    /// must be found here and not by the first text that comes.
    fn touch_the_rest(&mut self) -> Result<(), Stop> {
        for tag in [keys::PART, keys::THREAD, keys::PAUSED, keys::ASIDE] {
            self.count(tag)?;
        }
        self.audited.known.on_disk = self.count(keys::SEEN)?;
        Ok(())
    }

    /// Earlier versions kept on disk what is made from the records now.
    fn drop_former_indexes(&self) -> Result<(), Stop> {
        keys::FORMER.into_iter().try_for_each(|tag| self.clear(tag))
    }

    fn read(&mut self, seq: u64, kept: Kept, own: Vec<(IVec, IVec)>) -> Result<(), Stop> {
        self.sums.messages += 1;
        self.audited.weight.bytes += own.iter().map(|(_, value)| value.len() as u64).sum::<u64>();
        let Kept { message, deliveries } = kept;
        let deliveries = self.deliveries(seq, deliveries, own)?;
        let Audited {
            books, index, known, ..
        } = &mut self.audited;
        let mut notes = vec![Note::message(seq, &message)];
        for delivery in &deliveries {
            let place = Place {
                seq,
                ordinal: delivery.id.ordinal,
            };
            notes.push(Note::delivery(queue(&message, delivery), place, delivery));
            books.enter(delivery);
        }
        index.apply(notes);
        if !message.provider_id.is_empty() {
            known.add(backup::digest(&message.source, &message.provider_id), seq);
        }
        Ok(())
    }

    /// The deliveries as they stand: as accepted, unless there is a later record.
    fn deliveries(
        &mut self,
        seq: u64,
        mut deliveries: Vec<Delivery>,
        own: Vec<(IVec, IVec)>,
    ) -> Result<Vec<Delivery>, Stop> {
        for (key, value) in own {
            let place = keys::place_of(&key).unwrap_or(Place { seq, ordinal: 0 });
            let first = deliveries
                .iter()
                .position(|delivery| delivery.id.ordinal == place.ordinal);
            let first = first.map(|index| deliveries.swap_remove(index));
            match record::decode::<Delivery>(&**self.db, &key, &value) {
                Ok(delivery) => deliveries.push(delivery),
                Err(Trouble::Damaged) => deliveries.extend(self.damaged_delivery(&key, place, first)?),
                Err(Trouble::Sled(error)) => return Err(error.into()),
            }
        }
        Ok(deliveries)
    }

    fn count(&self, tag: u8) -> Result<u64, Stop> {
        scan::prefix(self.db, [tag])
            .try_fold(0, |count, entry| entry.map(|_| count + 1))
            .map_err(Stop::from)
    }

    fn clear(&self, tag: u8) -> Result<(), Stop> {
        loop {
            let mut view = View::new(self.db);
            for key in self.db.scan_prefix([tag]).keys().take(COMMIT) {
                view.remove(key?.to_vec());
            }
            if view.len() == 0 {
                return Ok(());
            }
            self.commit(view)?;
        }
    }

    /// Holds what is there against the sums of the last commit, and writes the sums anew where they differ.
    fn add_up(&mut self) -> Result<(), Stop> {
        let stored: Option<Ledger> = sound(record::load(&**self.db, keys::LEDGER))?;
        let Counts {
            delivered,
            dead,
            pending,
            ..
        } = self.audited.books.ledger.counts;
        let Ledger { commits, counts: was } = stored.unwrap_or_default();
        let reached = self.disk.mark.read();
        let accepted = was.accepted.max(self.sums.last_seq).max(reached.accepted);
        let owed = was.owed.max(delivered + dead + pending);
        let counts = Counts {
            accepted,
            messages_purged: accepted - self.sums.messages,
            owed,
            delivered,
            dead,
            pending,
            purged: owed - (delivered + dead + pending),
        };
        self.audited.books.ledger = Ledger {
            commits: commits.max(reached.commits),
            counts,
        };
        if stored == Some(self.audited.books.ledger) || (stored.is_none() && accepted == 0) {
            return Ok(());
        }
        self.audited.commits_lost = reached.commits.saturating_sub(commits);
        if self.audited.commits_lost > 0 {
            self.note(format!(
                "the end of the log is damaged: the last {} commits are gone; a backup may have what is missing",
                self.audited.commits_lost
            ));
        }
        for finding in self.differences(stored) {
            self.note(finding);
        }
        let mut view = View::new(self.db);
        view.create(keys::LEDGER, &record::encode(&self.audited.books.ledger));
        self.commit(view)
    }

    fn differences(&self, stored: Option<Ledger>) -> Vec<String> {
        let is = &self.audited.books.ledger.counts;
        let Some(Ledger { counts: was, .. }) = stored else {
            let Counts {
                accepted,
                messages_purged,
                ..
            } = is;
            return vec![format!(
                "the sums were missing: counted anew; of {accepted} accepted texts {messages_purged} are not there, \
                 forgotten ones among them"
            )];
        };
        let mut differences = Vec::new();
        let missing = is
            .messages_purged
            .saturating_sub(was.messages_purged + self.sums.set_aside);
        if missing > 0 {
            differences.push(format!("{missing} accepted texts are missing from the store"));
        }
        if is.accepted != was.accepted {
            differences.push(format!(
                "{} texts were accepted, but only {} are in the sums",
                is.accepted, was.accepted
            ));
        }
        let of = |counts: &Counts| (counts.delivered, counts.dead, counts.pending);
        if of(is) != of(&was) && self.audited.findings.is_empty() {
            differences.push("the sums of deliveries were wrong: they were counted anew".to_owned());
        }
        differences
    }

    /// Puts everything of a message that cannot be read where nothing takes it for good.
    fn damaged_message(&mut self, seq: u64) -> Result<(), Stop> {
        let (message, deliveries) = (keys::message(seq), keys::deliveries(seq));
        let mut view = View::new(self.db);
        for prefix in [
            &message,
            &keys::parts(&message),
            &deliveries,
            &keys::parts(&deliveries),
        ] {
            for entry in self.db.scan_prefix(prefix) {
                let (key, value) = entry?;
                view.put(keys::aside(&key), value);
                view.remove(key.to_vec());
            }
        }
        self.commit(view)?;
        self.sums.set_aside += 1;
        self.note(format!(
            "text {seq} is damaged: it was set aside and is not delivered"
        ));
        Ok(())
    }

    /// What became of this delivery is not known any more: it ends as dead, for the operator to decide.
    fn damaged_delivery(
        &mut self,
        key: &[u8],
        place: Place,
        first: Option<Delivery>,
    ) -> Result<Option<Delivery>, Stop> {
        let mut view = View::new(self.db);
        if let Some(value) = self.db.get(key)? {
            view.put(keys::aside(key), value);
        }
        view.drop_record(key)?;
        let dead = first.map(|first| {
            let at = first.created_at;
            first.dead(None, at, DAMAGED)
        });
        if let Some(dead) = &dead {
            view.create(key, &record::encode(dead));
        }
        self.commit(view)?;
        self.note(format!(
            "delivery {} of text {} is damaged: it was set aside",
            place.ordinal, place.seq
        ));
        Ok(dead)
    }

    /// A delivery without its message tells nothing to anybody.
    fn orphan(&mut self, key: &[u8]) -> Result<(), Stop> {
        let Some(place) = keys::place_of(key) else {
            return Ok(());
        };
        self.damaged_delivery(key, place, None).map(drop)
    }

    fn commit(&self, view: View<'_>) -> Result<(), Stop> {
        self.disk.commit(self.db, view).map_err(Stop::Disk)
    }
}

fn seq_of(entry: &Result<(IVec, IVec), ::sled::Error>) -> Option<u64> {
    entry.as_ref().ok().and_then(|(key, _)| keys::seq_of(key))
}

/// What is damaged counts as missing here: the audit sets aside or builds anew what hangs on it.
fn sound<T>(loaded: Result<Option<T>, Trouble>) -> Result<Option<T>, Stop> {
    match loaded {
        Ok(loaded) => Ok(loaded),
        Err(Trouble::Damaged) => Ok(None),
        Err(Trouble::Sled(error)) => Err(error.into()),
    }
}
