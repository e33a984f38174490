//! The changes: what each of the store's writing operations does to a group that is being built.
//!
//! They run on the writer's thread, one after the other, and see what the ones before them did. Each looks
//! at everything it needs before it changes anything, so that one that is refused leaves no trace.

use super::keys::{self, Place, Queue};
use super::leases::Lease;
use super::prune::Sweep;
use super::record::{Head, Kept, Root, Seen, Trouble};
use super::space::Space;
use super::stored::queue;
use super::view::View;
use super::{Shared, lock};
use crate::delivery::{Delivery, DeliveryId, State};
use crate::message::{Conversation, MessageId, Name, Timestamp};
use crate::store::{Acceptance, Error, Settlement, changed_at};

/// How many entries one step of a long operation looks at, so that texts are accepted in between.
pub(super) const STEP: usize = 500;

/// Changes that will be committed together.
pub(super) struct Group<'a> {
    pub(super) shared: &'a Shared,
    pub(super) view: View<'a>,
    pub(super) space: &'a Space,
    pub(super) sweep: &'a mut Sweep,
    /// Queues that no claim may begin on until this is committed.
    pub(super) reserved: Vec<Queue>,
    /// Queues whose claim ends with this commit.
    pub(super) settled: Vec<Queue>,
}

/// A text on its way in, encoded already by its caller so that the one writer has less to do.
pub(super) struct Incoming {
    pub(super) id: MessageId,
    pub(super) received_at: Timestamp,
    pub(super) conversation: Conversation,
    /// The key of its provider id, if that tells anything.
    pub(super) seen: Option<Vec<u8>>,
    pub(super) dedup_since: Timestamp,
    pub(super) payload: Vec<u8>,
    pub(super) deliveries: Vec<Delivery>,
}

impl From<Trouble> for Error {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Sled(error) => Self::Failed(error.to_string()),
            // The next start finds out which one, sets it aside and rebuilds what hangs on it.
            Trouble::Damaged => Self::Failed("a record is damaged".to_owned()),
        }
    }
}

impl<'a> Group<'a> {
    pub(super) fn new(shared: &'a Shared, space: &'a Space, sweep: &'a mut Sweep) -> Self {
        let view = View::new(&shared.db);
        Self {
            shared,
            view,
            space,
            sweep,
            reserved: Vec::new(),
            settled: Vec::new(),
        }
    }

    pub(super) fn accept(&mut self, incoming: Incoming) -> Result<Acceptance, Error> {
        if let Some(seen) = self.seen(&incoming)? {
            return Ok(Acceptance::Duplicate(seen.id));
        }
        self.space.for_arrivals()?;
        let seq = {
            let mut books = lock(&self.shared.books);
            books.ledger.counts.accepted += 1;
            books.ledger.counts.accepted
        };
        let Incoming {
            id,
            received_at,
            conversation,
            payload,
            deliveries,
            ..
        } = incoming;
        self.view.create(&keys::message(seq), &payload);
        self.view.create(&keys::id(id), &super::record::encode(&seq));
        if let Some(key) = incoming.seen {
            self.view
                .create(&key, &super::record::encode(&Seen { seq, id, received_at }));
        }
        for delivery in deliveries {
            let queue = Queue {
                destination: delivery.destination.clone(),
                conversation,
            };
            self.begin(
                &queue,
                Place {
                    seq,
                    ordinal: delivery.id.ordinal,
                },
                &delivery,
            )?;
        }
        Ok(Acceptance::New)
    }

    pub(super) fn settle(&mut self, settlement: Settlement) -> Result<(), Error> {
        let Settlement {
            token,
            delivery,
            follow_up,
            thread,
        } = settlement;
        self.space.for_anything()?;
        let lease = self
            .shared
            .leases
            .end(token, delivery.id)
            .ok_or(Error::LostClaim)?;
        self.settled.push(lease.queue.clone());
        let Lease {
            place,
            queue,
            created_at,
            ..
        } = lease;
        self.view
            .store(&keys::delivery(place), &delivery)
            .map_err(Trouble::from)?;
        match &delivery.state {
            State::Waiting { due } => self.view.reschedule(&queue, place, *due)?,
            State::Delivered { .. } => self.view.dequeue(&queue, place)?,
            State::Dead { .. } => {
                self.view.dequeue(&queue, place)?;
                self.view.put(keys::dead(&queue.destination, place), &[]);
            }
        }
        {
            let mut books = lock(&self.shared.books);
            books.leave_waiting(&queue.destination, created_at);
            books.enter(&delivery);
        }
        if let Some(thread) = thread {
            let root = Root {
                thread,
                at: changed_at(&delivery),
            };
            self.view
                .store(&keys::thread(&queue), &root)
                .map_err(Trouble::from)?;
        }
        if let Some(follow_up) = follow_up {
            self.follow_up(place.seq, queue.conversation, follow_up)?;
        }
        Ok(())
    }

    pub(super) fn owe(&mut self, id: MessageId, deliveries: Vec<Delivery>) -> Result<Vec<DeliveryId>, Error> {
        self.space.for_arrivals()?;
        let seq = self.shared.sound(self.view.seq(id))?.ok_or(Error::NotFound)?;
        let kept = self.shared.sound(self.view.kept(seq))?.ok_or(Error::NotFound)?;
        let conversation = kept.message.conversation();
        deliveries
            .into_iter()
            .map(|delivery| self.add(seq, &kept, conversation, delivery))
            .collect()
    }

    /// Makes dead deliveries due, and waiting ones due sooner.
    pub(super) fn requeue(&mut self, places: &[Place], now: Timestamp) -> Result<u64, Error> {
        self.each(places, |group, place| group.requeue_one(place, now))
    }

    /// Makes waiting deliveries dead, unless they are claimed.
    pub(super) fn discard(&mut self, places: &[Place], now: Timestamp, reason: &str) -> Result<u64, Error> {
        self.each(places, |group, place| group.discard_one(place, now, reason))
    }

    /// The places of those of these deliveries whose messages are known.
    pub(super) fn places(&self, ids: &[DeliveryId]) -> Result<Vec<Place>, Error> {
        let place = |id: &DeliveryId| {
            let seq = self.shared.sound(self.view.seq(id.message)).transpose()?;
            Some(seq.map(|seq| Place {
                seq,
                ordinal: id.ordinal,
            }))
        };
        ids.iter().filter_map(place).collect()
    }

    /// The places named by one step's worth of the index entries with these beginnings, which must be in
    /// order, and where to go on.
    pub(super) fn select(
        &self,
        prefixes: &[Vec<u8>],
        after: Option<&[u8]>,
    ) -> Result<(Vec<Place>, Option<Vec<u8>>), Error> {
        let mut places = Vec::new();
        for prefix in prefixes {
            if after.is_some_and(|after| after >= keys::end(prefix).as_slice()) {
                continue;
            }
            for (key, value) in self
                .view
                .page(prefix, after, STEP - places.len())
                .map_err(Trouble::from)?
            {
                places.extend(self.indexed(&key, &value)?);
                if places.len() == STEP {
                    return Ok((places, Some(key.to_vec())));
                }
            }
        }
        Ok((places, None))
    }

    /// The place that an index entry speaks of.
    fn indexed(&self, key: &[u8], value: &[u8]) -> Result<Option<Place>, Error> {
        if key.first() == Some(&keys::HEAD) {
            return Ok(Some(super::record::decode::<Head>(&self.view, key, value)?.place));
        }
        Ok(keys::place_of(key))
    }

    pub(super) fn set_paused(&mut self, destination: Name, paused: bool) -> Result<(), Error> {
        self.space.for_anything()?;
        let key = keys::paused(&destination);
        let mut all = lock(&self.shared.paused);
        if paused {
            self.view.put(key, &[]);
            all.insert(destination);
        } else {
            self.view.remove(key);
            all.remove(&destination);
        }
        Ok(())
    }

    /// The first of this provider id, unless that is too long ago or was damaged and set aside since: then
    /// the carrier's repetition is the chance to have the text after all.
    fn seen(&self, incoming: &Incoming) -> Result<Option<Seen>, Error> {
        let Some(key) = &incoming.seen else {
            return Ok(None);
        };
        match self.view.load::<Seen>(key) {
            Ok(Some(seen)) if seen.received_at >= incoming.dedup_since => {
                let lost = self
                    .view
                    .has(&keys::aside(&keys::message(seen.seq)))
                    .map_err(Trouble::from)?;
                Ok((!lost).then_some(seen))
            }
            Ok(_) | Err(Trouble::Damaged) => Ok(None),
            Err(trouble) => Err(trouble.into()),
        }
    }

    fn follow_up(&mut self, seq: u64, conversation: Conversation, delivery: Delivery) -> Result<(), Error> {
        let kept = self.view.kept(seq)?.ok_or(Error::NotFound)?;
        self.add(seq, &kept, conversation, delivery).map(drop)
    }

    /// One more delivery of a stored message.
    fn add(
        &mut self,
        seq: u64,
        kept: &Kept,
        conversation: Conversation,
        mut delivery: Delivery,
    ) -> Result<DeliveryId, Error> {
        let ordinal = self.view.next_ordinal(seq, kept)?;
        delivery.id = DeliveryId {
            message: kept.message.id,
            ordinal,
        };
        let place = Place { seq, ordinal };
        self.view
            .store(&keys::delivery(place), &delivery)
            .map_err(Trouble::from)?;
        let queue = Queue {
            destination: delivery.destination.clone(),
            conversation,
        };
        self.begin(&queue, place, &delivery)?;
        Ok(delivery.id)
    }

    /// A delivery comes to be owed.
    fn begin(&mut self, queue: &Queue, place: Place, delivery: &Delivery) -> Result<(), Error> {
        match &delivery.state {
            State::Waiting { due } => self.view.enqueue(queue, place, *due)?,
            State::Dead { .. } => self.view.put(keys::dead(&queue.destination, place), &[]),
            State::Delivered { .. } => {}
        }
        let mut books = lock(&self.shared.books);
        books.ledger.counts.owed += 1;
        books.enter(delivery);
        Ok(())
    }

    fn each(
        &mut self,
        places: &[Place],
        change: impl Fn(&mut Self, Place) -> Result<bool, Error>,
    ) -> Result<u64, Error> {
        self.space.for_anything()?;
        let mut touched = 0;
        for &place in places {
            touched += u64::from(change(self, place)?);
        }
        Ok(touched)
    }

    fn requeue_one(&mut self, place: Place, now: Timestamp) -> Result<bool, Error> {
        let Some((delivery, message)) = self.shared.sound(self.view.with_message(place))? else {
            return Ok(false);
        };
        let queue = queue(&message, &delivery.destination);
        match delivery.state {
            State::Dead { .. } => {
                let again = delivery.clone().requeued(now);
                self.view.remove(keys::dead(&queue.destination, place));
                self.view.enqueue(&queue, place, now)?;
                self.replace(place, &delivery, &again)?;
            }
            State::Waiting { due } if due > now && self.reserve(&queue, place) => {
                let sooner = Delivery {
                    state: State::Waiting { due: now },
                    ..delivery.clone()
                };
                self.view.reschedule(&queue, place, now)?;
                self.replace(place, &delivery, &sooner)?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn discard_one(&mut self, place: Place, now: Timestamp, reason: &str) -> Result<bool, Error> {
        let Some((delivery, message)) = self.shared.sound(self.view.with_message(place))? else {
            return Ok(false);
        };
        let queue = queue(&message, &delivery.destination);
        if !delivery.is_waiting() || !self.reserve(&queue, place) {
            return Ok(false);
        }
        let dead = delivery.clone().dead(None, now, reason);
        self.view.dequeue(&queue, place)?;
        self.view.put(keys::dead(&queue.destination, place), &[]);
        self.replace(place, &delivery, &dead)?;
        Ok(true)
    }

    fn reserve(&mut self, queue: &Queue, place: Place) -> bool {
        let free = self.shared.leases.reserve(queue, place);
        if free {
            self.reserved.push(queue.clone());
        }
        free
    }

    fn replace(&mut self, place: Place, old: &Delivery, new: &Delivery) -> Result<(), Error> {
        self.view
            .store(&keys::delivery(place), new)
            .map_err(Trouble::from)?;
        let mut books = lock(&self.shared.books);
        books.leave(old);
        books.enter(new);
        Ok(())
    }
}
