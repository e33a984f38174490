//! Deliveries that are read ahead, so that most claims need no look at the database.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tokio_postgres::Row;
use uuid::Uuid;

use super::rows::conversation;
use super::trouble::Trouble;
use crate::model::delivery::DeliveryId;
use crate::model::message::{Conversation, MessageId, Timestamp};

/// Maximum age of deliveries that were read ahead. A delayed delivery that becomes due may wait this long.
const AHEAD_TIME: Duration = Duration::from_secs(1);

/// A delivery found by a look.
pub(super) struct Candidate {
    pub(super) id: DeliveryId,
    pub(super) seq: i64,
    pub(super) stage: i16,
    pub(super) due: Timestamp,
    pub(super) queue: Conversation,
    pub(super) conversation: Conversation,
    pub(super) blocker: Option<(Uuid, i16)>,
    pub(super) record: Vec<u8>,
    pub(super) content: Option<Vec<u8>>,
    pub(super) root: Option<Vec<u8>>,
    pub(super) is_followed: bool,
}

impl Candidate {
    /// It is due, and the first of its queue.
    pub(super) fn is_claimable(&self, now: Timestamp) -> bool {
        self.blocker.is_none() && self.due <= now
    }

    pub(super) fn read(row: &Row) -> Result<Self, Trouble> {
        let blocker: (Option<Uuid>, Option<i16>) = (row.try_get(6)?, row.try_get(7)?);
        let number: i16 = row.try_get(1)?;
        Ok(Self {
            id: DeliveryId {
                message: MessageId(row.try_get(0)?),
                ordinal: number.cast_unsigned(),
            },
            seq: row.try_get(2)?,
            stage: row.try_get(3)?,
            due: Timestamp(row.try_get(4)?),
            queue: conversation(row.try_get(5)?)?,
            blocker: blocker.0.zip(blocker.1),
            record: row.try_get(8)?,
            content: row.try_get(9)?,
            root: row.try_get(10)?,
            is_followed: row.try_get(11)?,
            conversation: conversation(row.try_get(12)?)?,
        })
    }
}

/// Deliveries that a look found beyond those that were claimed.
#[derive(Default)]
pub(super) struct Ahead {
    candidates: VecDeque<Candidate>,
    epoch: i64,
    version: u64,
    at: Option<Instant>,
}

impl Ahead {
    /// Forgets what may have changed, or is old.
    pub(super) fn refresh(&mut self, epoch: i64, version: u64) {
        let is_recent = self.at.is_some_and(|at| at.elapsed() < AHEAD_TIME);
        let is_current = is_recent && self.epoch == epoch && self.version == version;
        if !is_current {
            self.restart(epoch, version);
        }
    }

    /// Forgets everything. What is added from now on is at least of this version.
    pub(super) fn restart(&mut self, epoch: i64, version: u64) {
        *self = Self {
            candidates: VecDeque::new(),
            epoch,
            version,
            at: Some(Instant::now()),
        };
    }

    pub(super) fn add(&mut self, candidate: Candidate, now: Timestamp) {
        if candidate.is_claimable(now) {
            self.candidates.push_back(candidate);
        }
    }

    /// Returns true if one of them meets a condition.
    pub(super) fn any(&self, condition: impl Fn(&Candidate) -> bool) -> bool {
        self.candidates.iter().any(condition)
    }

    /// The next one, if it is due.
    pub(super) fn next(&mut self, now: Timestamp) -> Option<Candidate> {
        self.candidates.pop_front_if(|candidate| candidate.due <= now)
    }
}
