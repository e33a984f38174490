//! The queues: per destination and conversation, what waits, in the order in which it was accepted.
//!
//! The head of a queue stands in its own record and in the schedule; the others only wait behind it. Every
//! change to a queue goes through the three functions here, which keep that true.

use super::keys::{self, Place, Queue};
use super::record::{Head, Trouble};
use super::view::View;
use crate::delivery::State;
use crate::message::Timestamp;

impl View<'_> {
    /// Puts a delivery into its queue, in front if it was accepted before those that wait.
    pub(super) fn enqueue(&mut self, queue: &Queue, place: Place, due: Timestamp) -> Result<(), Trouble> {
        let Some(mut head) = self.head(queue)? else {
            self.set_head(
                queue,
                Head {
                    place,
                    due,
                    followers: 0,
                },
            );
            return Ok(());
        };
        head.followers += 1;
        if place > head.place {
            self.put(keys::follower(queue, place), &[]);
            self.create(&keys::head(queue), &super::record::encode(&head));
            return Ok(());
        }
        self.remove(keys::schedule(queue, head.due, head.place));
        self.put(keys::follower(queue, head.place), &[]);
        self.set_head(
            queue,
            Head {
                place,
                due,
                followers: head.followers,
            },
        );
        Ok(())
    }

    /// Takes a delivery out of its queue; when it was the head, the next one becomes the head.
    pub(super) fn dequeue(&mut self, queue: &Queue, place: Place) -> Result<(), Trouble> {
        let Some(mut head) = self.head(queue)? else {
            return Ok(());
        };
        if head.place != place {
            head.followers = head.followers.saturating_sub(1);
            self.remove(keys::follower(queue, place));
            self.create(&keys::head(queue), &super::record::encode(&head));
            return Ok(());
        }
        self.remove(keys::schedule(queue, head.due, place));
        match self.next_in(queue, &head)? {
            Some(next) => {
                self.remove(keys::follower(queue, next));
                let due = self.due_of(next)?;
                self.set_head(
                    queue,
                    Head {
                        place: next,
                        due,
                        followers: head.followers - 1,
                    },
                );
            }
            None => self.remove(keys::head(queue)),
        }
        Ok(())
    }

    /// Changes when a waiting delivery is due. Behind the head that counts only once it is the head.
    pub(super) fn reschedule(&mut self, queue: &Queue, place: Place, due: Timestamp) -> Result<(), Trouble> {
        match self.head(queue)? {
            Some(head) if head.place == place => {
                self.remove(keys::schedule(queue, head.due, place));
                self.set_head(queue, Head { due, ..head });
                Ok(())
            }
            _ => Ok(()),
        }
    }

    pub(super) fn head(&self, queue: &Queue) -> Result<Option<Head>, Trouble> {
        self.load(&keys::head(queue))
    }

    fn set_head(&mut self, queue: &Queue, head: Head) {
        self.put(keys::schedule(queue, head.due, head.place), &[]);
        self.create(&keys::head(queue), &super::record::encode(&head));
    }

    fn next_in(&self, queue: &Queue, head: &Head) -> Result<Option<Place>, Trouble> {
        if head.followers == 0 {
            return Ok(None);
        }
        let prefix = keys::followers(queue);
        let first = self.first(&prefix, &keys::end(&prefix))?;
        Ok(first.and_then(|(key, _)| keys::place_of(&key)))
    }

    /// A delivery that cannot be read is due at once: whoever claims it will find out and say so.
    fn due_of(&self, place: Place) -> Result<Timestamp, Trouble> {
        match self.delivery(place) {
            Ok(Some(delivery)) => match delivery.state {
                State::Waiting { due } => Ok(due),
                _ => Ok(Timestamp::default()),
            },
            Ok(None) | Err(Trouble::Damaged) => Ok(Timestamp::default()),
            Err(trouble) => Err(trouble),
        }
    }
}
