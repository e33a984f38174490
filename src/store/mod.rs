//! The store: keeps messages until they are delivered, and for the retention time afterwards.
//!
//! The doc comment on [`Store`] is the contract. Every store passes the test suite in `conformance`.

use std::ops::RangeInclusive;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::broadcast;

use crate::metrics::series::Saved;
use crate::model::delivery::{Delivery, DeliveryId, State};
use crate::model::message::{Conversation, Message, MessageId, Name, Timestamp};
use crate::model::notices::Notices;
use crate::timeline::Timeline;

mod acknowledge;
pub mod backup;
mod counts;
mod hand_over;
mod health;
pub mod memory;
mod nodes;
pub mod postgres;
mod queue;
mod search;
pub mod sled;
mod standing;

pub use counts::{Backlog, Counts, Ended, Undelivered};
pub use hand_over::{HandOver, HandedOver, LatePosition};
use health::COMMIT_LATE;
pub use health::Health;
pub use nodes::{Lane, Node, Nodes, REMEMBERED};
pub use queue::{Queued, Turn};
use search::state_of;
pub use search::{DeliveryQuery, Found, MessageState, Page, Query};
pub use standing::{Cause, Fault, Pause, Standing, Standings};

/// The size in bytes at which a page ends early: `limit` counts messages, which may be large.
pub const PAGE_BYTES: usize = 2 << 20;

/// The limit for the messages of one claim.
pub const CLAIM_BYTES: usize = 4 << 20;

/// As the time of a claim: deliveries are claimed whether or not they are due.
pub const ANY_TIME: Timestamp = Timestamp(i64::MAX);

/// Why a request to the store failed.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// Too many changes are queued. Nothing was stored; the caller can retry shortly.
    #[error("the store is busy")]
    Busy,
    /// There is not enough free space for new messages. Nothing was stored. Deliveries continue.
    #[error("the store is full: {0}")]
    Full(String),
    /// A commit took longer than ten seconds. It may or may not have happened.
    #[error("the store did not answer in time")]
    Slow,
    /// The database of the store cannot be used at the moment. The change may or may not have happened; the caller can
    /// repeat it, because ids come from the caller. The store recovers by itself.
    #[error("the database is unavailable: {0}")]
    Unavailable(String),
    /// A write or sync failed. The store writes nothing more until the process is restarted.
    #[error("the store failed: {0}")]
    Failed(String),
    /// The lease is not valid any more: the delivery was settled, discarded or claimed again.
    #[error("the claim is no longer valid")]
    LostClaim,
    /// No such message or delivery.
    #[error("not found")]
    NotFound,
}

/// A message to be stored together with its deliveries.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// The message.
    pub message: Message,
    /// Its deliveries; may be empty.
    pub deliveries: Vec<Delivery>,
    /// A message with the same source and provider id received at or after this time makes this one a duplicate. A
    /// message with an empty provider id is always new.
    pub dedup_since: Timestamp,
}

/// The result of an arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acceptance {
    /// The message and its deliveries are on disk.
    New,
    /// A duplicate of the message with this id; nothing was stored.
    Duplicate(MessageId),
}

/// A leased delivery.
#[derive(Clone, Debug)]
pub struct Claim {
    /// The delivery as stored.
    pub delivery: Delivery,
    /// Its message.
    pub message: Arc<Message>,
    /// The root of the conversation's thread at this destination, if there is one.
    pub thread: Option<String>,
    /// The fencing token, which distinguishes this claim from earlier ones of the same delivery.
    pub token: u64,
}

/// A leased delivery to be given up, which needs no message.
#[derive(Clone, Debug)]
pub struct Overdue {
    /// The delivery as stored.
    pub delivery: Delivery,
    /// The fencing token, as in a [`Claim`].
    pub token: u64,
}

/// The outcome of a claim, written in one commit.
#[derive(Clone, Debug)]
pub struct Settlement {
    /// The claim's token.
    pub token: u64,
    /// The delivery in its new state.
    pub delivery: Delivery,
    /// Deliveries that this outcome creates: those for recipients that could not accept the message, and the fallback
    /// of a dead one. The store assigns their ordinals. A fallback is omitted if its destination has the message by
    /// other means.
    pub follow_ups: Vec<Delivery>,
    /// The root of the conversation's thread, if this delivery started one.
    pub thread: Option<String>,
}

/// The deliveries that an operator's command applies to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selector {
    /// These deliveries.
    Ids(Vec<DeliveryId>),
    /// All dead deliveries of a destination that need attention.
    Dead(Name),
    /// All pending deliveries of a destination.
    Pending(Name),
}

impl Selector {
    /// Returns true if it selects this delivery, which is among those of the ids or of the destination.
    fn includes(&self, delivery: &Delivery) -> bool {
        match self {
            Self::Ids(_) => true,
            Self::Dead(_) => delivery.needs_attention(),
            Self::Pending(_) => delivery.is_waiting(),
        }
    }
}

/// The result of a discard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Discarded {
    /// Deliveries made dead.
    pub touched: u64,
    /// Pending deliveries that are claimed, which were not changed.
    pub claimed: u64,
}

/// The result of a retry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Requeued {
    /// Deliveries made due.
    pub touched: u64,
    /// Pending deliveries that were due already.
    pub due: u64,
    /// Pending deliveries that are claimed.
    pub claimed: u64,
    /// Deliveries skipped because the content of their messages was removed.
    pub redacted: u64,
}

/// The limits of what may be removed. Messages with pending deliveries are never affected.
#[derive(Clone, Copy, Debug)]
pub struct RetentionCutoffs {
    /// Messages received before this time, whose deliveries have all ended, are removed.
    pub purge_before: Option<Timestamp>,
    /// Messages received before this time, whose deliveries have all ended, lose their body and numbers.
    pub redact_before: Option<Timestamp>,
    /// Provider ids received before this time are removed, because no later arrival needs them.
    pub dedup_before: Timestamp,
}

/// A change by another process that shares the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// This destination may have deliveries to claim.
    Work(Name),
    /// An operator paused or resumed a destination.
    Paused,
    /// Any of these may have happened: notices were lost.
    All,
}

/// Keeps messages and their deliveries.
///
/// * **Durable**: when `accept`, `settle`, `requeue`, `acknowledge_dead`, `discard`, `add_deliveries`, `hand_over` or `set_paused` return `Ok`,
///   the change survives a power cut. When they return an error, nothing was changed, except after [`Error::Slow`],
///   [`Error::Unavailable`] and [`Error::Failed`], where it may have been.
/// * **Atomic**: a message, its deduplication entry and its deliveries appear together, even after a crash.
/// * **Idempotent**: `accept` of a known (source, provider id) stores nothing and returns the id of the stored message,
///   even if both run at the same time.
/// * **Ordered**: `claim` returns the deliveries of one conversation at one destination in the order in which their
///   messages were accepted, and never the second before the first has ended or was `answered`, whatever their due
///   times. Deliveries for single recipients are ordered per recipient only; `held` returns the recipients that have
///   pending ones.
/// * **Leased**: a claimed delivery is not claimed again until it is settled or released, or the process ends. Leases
///   are not written: after a crash, the claimed deliveries are due again.
/// * **Owned**: if several processes share the store, a destination belongs to one of them at a time, and the others
///   claim nothing from it. The outcome of a claim is not written once the destination belongs to another process.
/// * **Passive**: ids, times and decisions come from the caller.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Stores a message with its deliveries.
    async fn accept(&self, arrival: Arrival) -> Result<Acceptance, Error>;

    /// Leases up to `limit` deliveries of `destination` that are due at `now`, in the order in which their messages were
    /// accepted; fewer when their messages take [`CLAIM_BYTES`].
    async fn claim(&self, destination: &Name, now: Timestamp, limit: usize) -> Result<Vec<Claim>, Error>;

    /// Leases up to `limit` deliveries of `destination` that have been pending since a time in `pending_since`, in the
    /// order in which their messages were accepted. They are those that `claim` would return once they are due.
    async fn claim_overdue(
        &self,
        destination: &Name,
        pending_since: RangeInclusive<Timestamp>,
        limit: usize,
    ) -> Result<Vec<Overdue>, Error>;

    /// Adds deliveries to the fallback for pending ones of a destination, claimed or not, in the order in which they became
    /// pending: for each message once, and not if the fallback has it already, or a pending delivery of it. Changes
    /// nothing else. Returns `None` if another process serves the destination.
    async fn hand_over(&self, request: &HandOver) -> Result<Option<HandedOver>, Error>;

    /// The destination has accepted a claimed delivery, but the outcome is not written yet: the next delivery of the
    /// same conversation may be claimed. The claim stays valid, and must be settled as delivered. Returns false, and
    /// changes nothing, if the conversation has no further pending delivery.
    async fn answered(&self, claim: &Claim) -> bool;

    /// Leases up to `limit` deliveries that are due at `now` and follow a claimed one in its conversation, to be sent
    /// together with it, in order. Their outcomes must be written, or their claims released, before that of the first:
    /// until then nothing else of the conversation is claimed.
    async fn claim_following(&self, claim: &Claim, now: Timestamp, limit: usize)
    -> Result<Vec<Claim>, Error>;

    /// Returns true if the claim is certainly still valid: no attempt starts otherwise.
    fn holds(&self, _claim: &Claim) -> bool {
        true
    }

    /// Writes the outcome of a claimed delivery, and acknowledges dead deliveries of the message that another one made
    /// up for: their fallback, or a later one to the same destination. A delivery that is still pending can be claimed
    /// again when it is due; it may have become that of a single recipient. Returns the ids of the follow-ups.
    async fn settle(&self, settlement: &Settlement) -> Result<Vec<DeliveryId>, Error>;

    /// The recipients among these that have their own pending delivery in a conversation at a destination.
    async fn held(
        &self,
        destination: &Name,
        conversation: Conversation,
        recipients: &[String],
    ) -> Result<Vec<String>, Error>;

    /// Ends a claim without a change.
    async fn release(&self, claim: Claim);

    /// When the next unclaimed delivery of `destination` is due; `now` if one is due already.
    async fn next_due(&self, destination: &Name, now: Timestamp) -> Result<Option<Timestamp>, Error>;

    /// The positions of the pending deliveries of a message, by ordinal.
    async fn queued(&self, id: MessageId) -> Result<Vec<Queued>, Error>;

    /// The number of pending deliveries of `destination` that come before `turn` at `now`, including claimed ones.
    /// The cost is proportional to their number.
    async fn ahead(&self, destination: &Name, turn: Turn, now: Timestamp) -> Result<u64, Error>;

    /// The pending delivery of `destination` whose message was accepted first. The cost is proportional to their
    /// number.
    async fn oldest_pending(&self, destination: &Name) -> Result<Option<Delivery>, Error>;

    /// One message with its deliveries.
    async fn find(&self, id: MessageId) -> Result<Option<Found>, Error>;

    /// Messages, newest first. Returns fewer than requested if they take [`PAGE_BYTES`].
    async fn messages(&self, query: &Query) -> Result<Page<Found>, Error>;

    /// Deliveries, newest message first.
    async fn deliveries(&self, query: &DeliveryQuery) -> Result<Page<Delivery>, Error>;

    /// Makes dead deliveries due at `now`, and pending ones due earlier, except those of redacted messages. Counts
    /// the selected deliveries, except delivered and unknown ones.
    async fn requeue(&self, selector: &Selector, now: Timestamp) -> Result<Requeued, Error>;

    /// Makes the deliveries of a destination that could be claimed but are due later due at `now`. Returns how many.
    async fn retry_now(&self, destination: &Name, now: Timestamp) -> Result<u64, Error>;

    /// Makes every pending delivery that is due after `beyond` due at `now`, and one that was created later than that
    /// created at `now`: these times are from a clock that was ahead. Returns the number of changed deliveries.
    async fn advance(&self, beyond: Timestamp, now: Timestamp) -> Result<u64, Error>;

    /// Acknowledges dead deliveries that need attention and were given up at or after `since`. Returns their number.
    async fn acknowledge_dead(
        &self,
        selector: &Selector,
        since: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<u64, Error>;

    /// Makes pending deliveries dead for `reason`, except claimed ones, and acknowledges them.
    async fn discard(&self, selector: &Selector, now: Timestamp, reason: &str) -> Result<Discarded, Error>;

    /// Adds deliveries to a stored message; the store assigns the ordinals. Returns their ids.
    async fn add_deliveries(
        &self,
        id: MessageId,
        deliveries: Vec<Delivery>,
    ) -> Result<Vec<DeliveryId>, Error>;

    /// The numbers of deliveries of one destination.
    async fn backlog(&self, destination: &Name) -> Result<Backlog, Error>;

    /// All destinations that have deliveries in the store, configured or not.
    async fn destinations(&self) -> Result<Vec<Name>, Error>;

    /// Stores whether an operator paused a destination.
    async fn set_paused(&self, destination: &Name, paused: bool) -> Result<(), Error>;

    /// The destinations that an operator paused.
    async fn paused(&self) -> Result<Vec<Name>, Error>;

    /// Stores the state of the clock for the next run.
    async fn set_timeline(&self, timeline: &Timeline) -> Result<(), Error>;

    /// The state of the clock stored by the last run.
    async fn timeline(&self) -> Result<Option<Timeline>, Error>;

    /// Stores the states of the destinations for the next run.
    async fn set_standings(&self, standings: &Standings) -> Result<(), Error>;

    /// The last stored states of the destinations.
    async fn standings(&self) -> Result<Standings, Error>;

    /// Stores the messages of the last hour for the next run.
    async fn set_series(&self, series: &Saved) -> Result<(), Error>;

    /// The stored messages of the last hour.
    async fn series(&self) -> Result<Option<Saved>, Error>;

    /// Stores the problems that were told to the operator, for the next run.
    async fn set_notices(&self, notices: &Notices) -> Result<(), Error>;

    /// The last stored problems that were told to the operator.
    async fn notices(&self) -> Result<Option<Notices>, Error>;

    /// The number of messages whose deliveries have all ended since the store was opened.
    fn ended(&self) -> Ended;

    /// The number of stored messages without a delivery.
    fn undelivered(&self) -> Undelivered;

    /// Removes what `cutoffs` allows, in a step of limited size. Returns true if there is more to remove.
    async fn prune(&self, cutoffs: &RetentionCutoffs, now: Timestamp) -> Result<bool, Error>;

    /// The counters.
    async fn counts(&self) -> Result<Counts, Error>;

    /// The next part of a backup. All parts together contain everything accepted before the first part was requested,
    /// except what is removed meanwhile. Each message is in its state at the time its part is read.
    async fn export(&self, _from: backup::Position) -> Result<backup::Part, Error> {
        Err(Error::Failed("this store has no backups".to_owned()))
    }

    /// Deletes the findings, which the operator has read. Returns their number.
    async fn acknowledge(&self) -> Result<u64, Error> {
        Ok(0)
    }

    /// Tells the store which destinations this process serves. If several processes share the store, only one of them
    /// claims the deliveries of a destination.
    fn serve(&self, _destinations: &[Name]) {}

    /// Tells the store the digest of the configuration that this process uses, for the others that share the store.
    fn configured(&self, _fingerprint: &str) {}

    /// The processes that share the store, and which destinations they serve; `None` if it belongs to one process, which
    /// serves all.
    async fn nodes(&self) -> Result<Option<Nodes>, Error> {
        Ok(None)
    }

    /// The changes by other processes from now on; `None` if the store is not shared.
    fn changes(&self) -> Option<broadcast::Receiver<Change>> {
        None
    }

    /// The clock that all processes with this store agree on; `None` if the store is not shared, or the clock is not
    /// known at the moment.
    fn clock(&self) -> Option<Timestamp> {
        None
    }

    /// The health of the store. Returns immediately, even if the store hangs.
    fn health(&self) -> Health;

    /// Returns `Ok` if messages can be accepted at the moment.
    ///
    /// # Errors
    /// The reason, for the operator.
    fn ready(&self) -> Result<(), String> {
        let health = self.health();
        if let Some(failed) = health.failed {
            return Err(format!("the store failed: {failed}"));
        }
        if let Some(unavailable) = health.unavailable {
            return Err(Error::Unavailable(unavailable).to_string());
        }
        if health.full {
            return Err(health.space());
        }
        match health.commit_running {
            Some(running) if running > COMMIT_LATE => {
                Err(format!("a commit has been running for {} s", running.as_secs()))
            }
            _ => Ok(()),
        }
    }

    /// Writes the queued changes, syncs and closes. The store must not be used afterwards.
    async fn close(&self) -> Result<(), Error>;
}

/// Returns true if a follow-up must be stored in addition to the existing deliveries. A fallback is omitted if its
/// destination has the message or a pending delivery of it: by the message's route, or because another recipient is
/// dead.
fn is_new(follow_up: &Delivery, there: &[Delivery]) -> bool {
    let is_fallback = follow_up.recipient.is_none() && follow_up.origin.is_some();
    let mut others = there.iter();
    !is_fallback || !others.any(|other| other.destination == follow_up.destination && !other.is_dead())
}

/// The time of the last change of a delivery.
fn changed_at(delivery: &Delivery) -> Timestamp {
    match delivery.state {
        State::Delivered { at } | State::Dead { at, .. } => at,
        State::Waiting { .. } => delivery
            .attempts
            .last()
            .map_or(delivery.pending_since(), |attempt| attempt.at),
    }
}

/// Removes the content, the sender and the receiver of a message.
fn redacted(message: Message, now: Timestamp) -> Message {
    Message {
        from: message.from.redacted(),
        to: message.to.redacted(),
        text: String::new(),
        media: Vec::new(),
        extra: std::collections::BTreeMap::new(),
        redacted_at: Some(now),
        ..message
    }
}

#[cfg(test)]
mod conformance;
