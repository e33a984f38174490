//! The audit at every start: what is kept is read through once and held against the indexes and the sums.
//!
//! The messages and deliveries are the truth; the queues, the schedule and the index of the dead only tell
//! where to find it. So a damaged record is set aside, and when anything does not agree the indexes are not
//! patched but built anew from the truth. A crash in the middle of that leaves indexes that do not agree, and
//! the next start builds them again.

use ::sled::{Db, IVec};

use super::books::Books;
use super::keys::{self, Place};
use super::record::{self, Head, Kept, Ledger, Trouble};
use super::salvage::DAMAGED;
use super::stored::queue;
use super::view::View;
use super::writer::Disk;
use crate::delivery::{Delivery, State};
use crate::message::Message;
use crate::store::Counts;

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

/// Audits a store, mends it, and gives its sums and what was found, in words.
pub(super) fn audit(db: &Db, disk: &Disk) -> Result<(Books, Vec<String>, u64), Stop> {
    let mut audit = Audit {
        db,
        disk,
        books: Books::default(),
        sums: Sums::default(),
        findings: Vec::new(),
        commits_lost: 0,
    };
    audit.read_all()?;
    audit.touch_the_rest()?;
    if !(audit.sums.indexed && audit.indexes_agree()?) {
        audit.rebuild()?;
        audit.note("the queues did not agree with what is owed: they were built anew".to_owned());
    }
    audit.add_up()?;
    Ok((audit.books, audit.findings, audit.commits_lost))
}

struct Audit<'a> {
    db: &'a Db,
    disk: &'a Disk,
    books: Books,
    sums: Sums,
    findings: Vec<String>,
    commits_lost: u64,
}

struct Sums {
    messages: u64,
    last_seq: u64,
    /// Messages set aside.
    set_aside: u64,
    /// Whether everything that was read so far is where the indexes say.
    indexed: bool,
}

impl Default for Sums {
    fn default() -> Self {
        Self {
            messages: 0,
            last_seq: 0,
            set_aside: 0,
            indexed: true,
        }
    }
}

impl Audit<'_> {
    fn note(&mut self, finding: String) {
        self.findings.push(finding);
    }

    /// Reads every message with its deliveries, in step, and each only once.
    fn read_all(&mut self) -> Result<(), Stop> {
        let mut changed = self.db.scan_prefix([keys::DELIVERY]).peekable();
        for entry in self.db.scan_prefix([keys::MESSAGE]) {
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
    fn touch_the_rest(&self) -> Result<(), Stop> {
        let rest = [
            keys::PART,
            keys::ID,
            keys::SEEN,
            keys::THREAD,
            keys::PAUSED,
            keys::ASIDE,
        ];
        rest.into_iter().try_for_each(|tag| self.count(tag).map(drop))
    }

    fn read(&mut self, seq: u64, kept: Kept, own: Vec<(IVec, IVec)>) -> Result<(), Stop> {
        self.sums.messages += 1;
        let view = View::new(self.db);
        if sound(view.seq(kept.message.id))? != Some(seq) {
            let mut view = View::new(self.db);
            view.create(&keys::id(kept.message.id), &record::encode(&seq));
            self.commit(view)?;
            self.note(format!("text {seq} was not found by its id: mended"));
        }
        let deliveries = self.deliveries(seq, kept.deliveries, own)?;
        for delivery in &deliveries {
            let place = Place {
                seq,
                ordinal: delivery.id.ordinal,
            };
            self.sums.indexed &= self.is_indexed(place, delivery, &kept.message)?;
            self.books.enter(delivery);
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

    /// Whether a delivery is where the indexes should have it.
    fn is_indexed(&self, place: Place, delivery: &Delivery, message: &Message) -> Result<bool, Stop> {
        let view = View::new(self.db);
        match delivery.state {
            State::Delivered { .. } => Ok(true),
            State::Dead { .. } => Ok(view.has(&keys::dead(&delivery.destination, place))?),
            State::Waiting { due } => {
                let queue = queue(message, &delivery.destination);
                match sound(view.head(&queue))? {
                    Some(head) if head.place == place => {
                        Ok(head.due == due && view.has(&keys::schedule(&queue, due, place))?)
                    }
                    Some(_) => Ok(view.has(&keys::follower(&queue, place))?),
                    None => Ok(false),
                }
            }
        }
    }

    /// Whether the indexes have no more than what is owed, and the queues are in order. That they have no less
    /// is known from reading.
    fn indexes_agree(&self) -> Result<bool, Stop> {
        let counts = &self.books.ledger.counts;
        let (mut heads, mut waiting) = (0, 0);
        let mut followers = self.db.scan_prefix([keys::FOLLOWER]).keys().peekable();
        for entry in self.db.scan_prefix([keys::HEAD]) {
            let (key, value) = entry?;
            let Some(head) = sound(record::decode::<Head>(&**self.db, &key, &value).map(Some))? else {
                return Ok(false);
            };
            let behind = |entry: &Result<IVec, _>| {
                entry
                    .as_ref()
                    .is_ok_and(|follower| follower[1..].starts_with(&key[1..]))
            };
            let (mut own, mut in_order) = (0, true);
            while let Some(follower) = followers.next_if(behind) {
                own += 1;
                in_order &= keys::place_of(&follower?).is_some_and(|place| place > head.place);
            }
            if own != head.followers || !in_order {
                return Ok(false);
            }
            heads += 1;
            waiting += 1 + u64::from(own);
        }
        let left_over = followers.next().transpose()?.is_some();
        Ok(!left_over
            && waiting == counts.pending
            && self.count(keys::SCHEDULE)? == heads
            && self.count(keys::DEAD)? == counts.dead)
    }

    fn count(&self, tag: u8) -> Result<u64, Stop> {
        self.db
            .scan_prefix([tag])
            .keys()
            .try_fold(0, |count, key| key.map(|_| count + 1))
            .map_err(Stop::from)
    }

    /// Drops the indexes and builds them from what is kept.
    fn rebuild(&self) -> Result<(), Stop> {
        for tag in [keys::HEAD, keys::FOLLOWER, keys::SCHEDULE, keys::DEAD] {
            self.clear(tag)?;
        }
        let mut view = View::new(self.db);
        for entry in self.db.scan_prefix([keys::MESSAGE]) {
            let (key, value) = entry?;
            let kept = sound(record::decode::<Kept>(&**self.db, &key, &value).map(Some))?;
            let (Some(seq), Some(kept)) = (keys::seq_of(&key), kept) else {
                continue;
            };
            let Some(found) = sound(view.complete(seq, kept).map(Some))? else {
                continue;
            };
            for delivery in &found.deliveries {
                let place = Place {
                    seq,
                    ordinal: delivery.id.ordinal,
                };
                let queue = queue(&found.message, &delivery.destination);
                match delivery.state {
                    State::Waiting { due } => {
                        sound(view.enqueue(&queue, place, due).map(Some))?;
                    }
                    State::Dead { .. } => view.put(keys::dead(&queue.destination, place), &[]),
                    State::Delivered { .. } => {}
                }
            }
            if view.len() >= COMMIT {
                self.commit(std::mem::replace(&mut view, View::new(self.db)))?;
            }
        }
        self.commit(view)
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
        } = self.books.ledger.counts;
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
        self.books.ledger = Ledger {
            commits: commits.max(reached.commits),
            counts,
        };
        if stored == Some(self.books.ledger) || (stored.is_none() && accepted == 0) {
            return Ok(());
        }
        self.commits_lost = reached.commits.saturating_sub(commits);
        if self.commits_lost > 0 {
            self.note(format!(
                "the end of the log is damaged: the last {} commits are gone; a backup may have what is missing",
                self.commits_lost
            ));
        }
        for finding in self.differences(stored) {
            self.note(finding);
        }
        let mut view = View::new(self.db);
        view.create(keys::LEDGER, &record::encode(&self.books.ledger));
        self.commit(view)
    }

    fn differences(&self, stored: Option<Ledger>) -> Vec<String> {
        let is = &self.books.ledger.counts;
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
        if of(is) != of(&was) && self.findings.is_empty() {
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
        self.sums.indexed = false;
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
        self.sums.indexed = false;
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
