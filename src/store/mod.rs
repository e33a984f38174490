//! The store: where texts are kept until they are delivered, and remembered for a while afterwards.
//!
//! The doc comment on [`Store`] is the contract; every store passes the one suite in `conformance`.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::delivery::{Delivery, DeliveryId, State};
use crate::message::{Conversation, Message, MessageId, Name, Timestamp};
use crate::metrics::series::Saved;
use crate::number::Pattern;
use crate::timeline::Timeline;

mod acknowledge;
pub mod backup;
pub mod memory;
mod queue;
pub mod sled;
mod standing;

pub use standing::{Cause, Fault, Pause, Standing, Standings};

pub use queue::{Queued, Turn};

/// A page ends early once its items take so many bytes: `limit` counts messages, and those may be large.
pub const PAGE_BYTES: usize = 2 << 20;

/// The same for the messages of one claim.
pub const CLAIM_BYTES: usize = 4 << 20;

/// As the time of a claim: deliveries are claimed whenever they are due.
pub const ANY_TIME: Timestamp = Timestamp(i64::MAX);

/// Why the store did not do what it was asked.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// Too much waits to be written: nothing was stored, try again shortly.
    #[error("the store is busy")]
    Busy,
    /// Too little free space is left for new texts: nothing was stored. Deliveries go on.
    #[error("the store is full: {free} bytes are free, {needed} are kept free")]
    Full {
        /// Bytes left on the file system.
        free: u64,
        /// What must be free: the configured `min_free`, or what the store itself needs to write.
        needed: u64,
    },
    /// A commit took longer than ten seconds. It may or may not have happened.
    #[error("the store did not answer in time")]
    Slow,
    /// A write or sync failed. Nothing is written any more until the process is started again.
    #[error("the store failed: {0}")]
    Failed(String),
    /// The lease is gone: the delivery was settled, discarded or claimed anew.
    #[error("the claim is no longer valid")]
    LostClaim,
    /// No such message or delivery.
    #[error("not found")]
    NotFound,
}

/// A text to be stored with everything owed for it.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// The text.
    pub message: Message,
    /// What is owed for it; may be empty.
    pub deliveries: Vec<Delivery>,
    /// A message with the same source and provider id received at or after this moment makes this one a duplicate.
    /// An empty provider id tells nothing: such a message is always new.
    pub dedup_since: Timestamp,
}

/// How an arrival ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acceptance {
    /// On disk, with everything owed for it.
    New,
    /// Known already, under this id; nothing was stored.
    Duplicate(MessageId),
}

/// A delivery leased to whoever carries it out.
#[derive(Clone, Debug)]
pub struct Claim {
    /// The delivery as stored.
    pub delivery: Delivery,
    /// Its message.
    pub message: Arc<Message>,
    /// The root of the conversation's thread at this destination, if one is kept.
    pub thread: Option<String>,
    /// Fences this claim from an earlier one of the same delivery.
    pub token: u64,
}

/// The end of a claim, written in one piece.
#[derive(Clone, Debug)]
pub struct Settlement {
    /// The claim's token.
    pub token: u64,
    /// The delivery in its new state.
    pub delivery: Delivery,
    /// Deliveries that come of it: those for recipients that could not take it, and the fallback of a dead one. Their
    /// ordinals are given by the store. A fallback is left out if its destination has the message by other means.
    pub follow_ups: Vec<Delivery>,
    /// The root of the conversation's thread, when this delivery began one.
    pub thread: Option<String>,
}

/// How much is owed to one destination.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Deliveries not yet delivered nor dead.
    pub pending: u64,
    /// Dead deliveries that need attention.
    pub dead: u64,
    /// Dead deliveries that need none: they were acknowledged, or their fallback delivered the message.
    pub acknowledged: u64,
    /// When the oldest pending one came to be owed.
    pub oldest: Option<Timestamp>,
}

/// What has happened in this store since it was made. `accepted` counts messages; the rest count deliveries:
/// `owed = delivered + dead + pending + purged` holds at every commit, `purged` being ended deliveries that
/// went with their messages, whose numbers stay in `delivered` and `dead` no more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Counts {
    /// Messages accepted.
    pub accepted: u64,
    /// Messages forgotten after `retain`.
    pub messages_purged: u64,
    /// Deliveries ever owed.
    pub owed: u64,
    /// Delivered and still remembered.
    pub delivered: u64,
    /// Dead and still remembered.
    pub dead: u64,
    /// Still to be done.
    pub pending: u64,
    /// Ended, and forgotten with their messages.
    pub purged: u64,
}

/// Messages whose last pending delivery ended. One that is sent again counts again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ended {
    /// Delivered to all destinations, or by their fallbacks.
    pub delivered: u64,
    /// With a dead delivery.
    pub dead: u64,
}

/// Which deliveries an operator's command is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selector {
    /// These.
    Ids(Vec<DeliveryId>),
    /// All dead ones of a destination.
    Dead(Name),
    /// All waiting ones of a destination.
    Pending(Name),
}

/// What a retry did.
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

/// The state of a message, told from its deliveries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MessageState {
    /// Something is still owed.
    Pending,
    /// No delivery is pending, and one is dead whose fallback did not deliver the message.
    Dead,
    /// All deliveries were delivered, or their fallbacks delivered the message.
    Delivered,
    /// Its routes deliver it nowhere (`deliver = []`).
    Kept,
    /// No route matched it, and `unmatched` names no destination.
    Unrouted,
}

/// A search over the stored messages, newest first. All given conditions must hold.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// Sender.
    pub from: Option<Pattern>,
    /// Receiver.
    pub to: Option<Pattern>,
    /// Part of the text, compared without case.
    pub text: Option<String>,
    /// Source.
    pub source: Option<Name>,
    /// State. `Unrouted` asks for messages that matched no route, whatever became of them.
    pub state: Option<MessageState>,
    /// Received at or after.
    pub since: Option<Timestamp>,
    /// Received before.
    pub until: Option<Timestamp>,
    /// At most this many.
    pub limit: usize,
    /// Continue after the page that gave this cursor.
    pub cursor: Option<u64>,
}

/// One found message.
#[derive(Clone, Debug)]
pub struct Found {
    /// The message.
    pub message: Message,
    /// All its deliveries, by ordinal.
    pub deliveries: Vec<Delivery>,
}

impl Query {
    /// Whether all conditions hold that the message alone can answer: all but the state.
    #[must_use]
    pub fn matches(&self, message: &Message) -> bool {
        let text = self.text.as_ref().map(|text| text.to_lowercase());
        self.from.as_ref().is_none_or(|from| from.matches(&message.from))
            && self.to.as_ref().is_none_or(|to| to.matches(&message.to))
            && self
                .source
                .as_ref()
                .is_none_or(|source| *source == message.source)
            && self.since.is_none_or(|since| message.received_at >= since)
            && self.until.is_none_or(|until| message.received_at < until)
            && text.is_none_or(|text| message.text.to_lowercase().contains(&text))
    }
}

impl Claim {
    /// The claim without what was said and by whom: enough to settle or release it.
    #[must_use]
    pub fn without_content(self) -> Self {
        let message = &*self.message;
        let message = Message {
            id: message.id,
            source: message.source.clone(),
            provider_id: message.provider_id.clone(),
            from: message.from.redacted(),
            to: message.to.redacted(),
            text: String::new(),
            media: Vec::new(),
            extra: std::collections::BTreeMap::new(),
            received_at: message.received_at,
            routes: message.routes.clone(),
            redacted_at: message.redacted_at,
        };
        Self {
            message: Arc::new(message),
            ..self
        }
    }
}

impl Found {
    /// How many bytes the message and its deliveries take.
    #[must_use]
    pub fn size(&self) -> usize {
        self.message.size() + self.deliveries.iter().map(Delivery::size).sum::<usize>()
    }

    /// How the message stands.
    #[must_use]
    pub fn state(&self) -> MessageState {
        if self.deliveries.iter().any(Delivery::is_waiting) {
            MessageState::Pending
        } else if self
            .deliveries
            .iter()
            .any(|delivery| delivery.is_dead() && !delivery.is_delivered_by_fallback())
        {
            MessageState::Dead
        } else if !self.deliveries.is_empty() {
            MessageState::Delivered
        } else if self.message.routes.is_empty() {
            MessageState::Unrouted
        } else {
            MessageState::Kept
        }
    }

    /// Whether a search for this state finds the message.
    #[must_use]
    pub fn is(&self, state: MessageState) -> bool {
        match state {
            MessageState::Unrouted => self.message.routes.is_empty(),
            state => self.state() == state,
        }
    }
}

/// A search over deliveries, newest first.
#[derive(Clone, Debug, Default)]
pub struct DeliveryQuery {
    /// Only this destination's.
    pub destination: Option<Name>,
    /// `Pending`, `Dead` or `Delivered`.
    pub state: Option<MessageState>,
    /// At most this many.
    pub limit: usize,
    /// Continue after the page that gave this cursor.
    pub cursor: Option<u64>,
}

impl DeliveryQuery {
    /// Whether the conditions hold. No delivery is `Kept` or `Unrouted`.
    #[must_use]
    pub fn matches(&self, delivery: &Delivery) -> bool {
        let state = match delivery.state {
            State::Waiting { .. } => MessageState::Pending,
            State::Delivered { .. } => MessageState::Delivered,
            State::Dead { .. } => MessageState::Dead,
        };
        self.destination
            .as_ref()
            .is_none_or(|destination| *destination == delivery.destination)
            && self.state.is_none_or(|wanted| wanted == state)
    }
}

/// Part of a long answer.
#[derive(Clone, Debug)]
pub struct Page<T> {
    /// What was found.
    pub items: Vec<T>,
    /// Give this to get the next page; nothing when there is none.
    pub next: Option<u64>,
}

/// What may be forgotten. Nothing that is still owed ever is.
#[derive(Clone, Copy, Debug)]
pub struct Horizon {
    /// Messages received before this, whose deliveries all ended, go.
    pub purge_before: Option<Timestamp>,
    /// Texts and numbers of messages received before this, whose deliveries all ended, are forgotten.
    pub redact_before: Option<Timestamp>,
    /// Provider ids received before this go: no later arrival asks for them.
    pub dedup_before: Timestamp,
}

/// A commit that takes longer than this means trouble with the disk.
const COMMIT_LATE: Duration = Duration::from_secs(2);

/// How well the store is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Bytes the store takes on disk.
    pub bytes: u64,
    /// Bytes free on its file system.
    pub free: u64,
    /// Bytes that must be free for new messages: `store.min_free`, or what the store itself needs to write.
    pub needed: u64,
    /// Whether new texts are refused for lack of space.
    pub full: bool,
    /// How large the process may let its file grow, where that is less than the file system has room for.
    pub file_limit: Option<u64>,
    /// Whether the file system can make no more files. New texts need none; a start, a backup and a compaction do.
    pub no_inodes: bool,
    /// The error after which nothing is written any more.
    pub failed: Option<String>,
    /// How long the oldest unanswered commit has been running.
    pub commit_running: Option<Duration>,
    /// How long the last commit took.
    pub commit_last: Option<Duration>,
    /// Commits done since the start.
    pub commits: u64,
    /// What was found wrong with the store, in words, until it is acknowledged.
    pub findings: Vec<String>,
}

impl Health {
    /// How much space is free and how much must be, and what to do where that is too little.
    #[must_use]
    pub fn space(&self) -> String {
        let size = |bytes| bytesize::ByteSize(bytes).display().iec();
        let (free, needed) = (size(self.free), size(self.needed));
        match self.file_limit {
            _ if !self.full => format!("{free} free, {needed} must stay free (`store.min_free`)"),
            Some(limit) => format!(
                "the store is full: its file may not grow beyond {} (RLIMIT_FSIZE), {needed} must stay free \
                 (`store.min_free`); raise LimitFSIZE= of the unit, or `ulimit -f`",
                size(limit)
            ),
            None => format!(
                "the store is full: {free} free, {needed} must stay free (`store.min_free`); free disk space, or lower \
                 `store.min_free` and restart"
            ),
        }
    }
}

/// Keeps texts.
///
/// * **Durable**: when `accept`, `settle`, `requeue`, `acknowledge_dead`, `discard`, `owe` or `set_paused` return `Ok`, what they
///   did survives a power cut. When they return an error it was not done, except after [`Error::Slow`] and
///   [`Error::Failed`], where it may have been.
/// * **All or none**: a message, its dedup entry and its deliveries appear together, also after a crash.
/// * **Idempotent**: `accept` of a known (source, provider id) stores nothing and names the first one's id, also
///   when both run at the same time.
/// * **Ordered**: `claim` gives the deliveries of one conversation at one destination in the order their
///   messages were accepted, and never the second before the first has ended or was `answered`, whatever is due when.
///   Deliveries for
///   single recipients keep the same order for each recipient, and no other; `held` tells who has some pending.
/// * **Leased**: a claimed delivery is not given again until it is settled, released, or the process ends.
///   Leases are not written; after a crash the claimed ones are simply due again.
/// * **Ignorant**: ids, times and decisions come from the caller.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Stores a message and all that is owed for it.
    async fn accept(&self, arrival: Arrival) -> Result<Acceptance, Error>;

    /// Leases up to `limit` deliveries of `destination` that are due at `now`, in the order in which their messages were
    /// accepted; fewer when their messages take [`CLAIM_BYTES`].
    async fn claim(&self, destination: &Name, now: Timestamp, limit: usize) -> Result<Vec<Claim>, Error>;

    /// The destination has accepted a claimed delivery, but its outcome is not written yet: the next delivery of the same
    /// conversation may be claimed. The claim stays valid, and must be settled as delivered. Returns false, and changes
    /// nothing, if no delivery of the conversation waits.
    async fn answered(&self, claim: &Claim) -> bool;

    /// Writes how a claimed delivery ended, and acknowledges those dead ones whose fallback delivered the message. A still waiting one is given again when due; it may have become one for a
    /// single recipient. Returns the ids of the follow-ups.
    async fn settle(&self, settlement: Settlement) -> Result<Vec<DeliveryId>, Error>;

    /// Those of these recipients that have a delivery of their own pending in a conversation at a destination.
    async fn held(
        &self,
        destination: &Name,
        conversation: Conversation,
        recipients: &[String],
    ) -> Result<Vec<String>, Error>;

    /// Gives a claim back unchanged.
    async fn release(&self, claim: Claim);

    /// When the next unclaimed delivery of `destination` is due; `now` if one is due already.
    async fn next_due(&self, destination: &Name, now: Timestamp) -> Result<Option<Timestamp>, Error>;

    /// Where the pending deliveries of a message stand, by ordinal.
    async fn queued(&self, id: MessageId) -> Result<Vec<Queued>, Error>;

    /// How many pending deliveries of `destination` come before `turn` as things are at `now`, the claimed ones included.
    /// This looks at all of them.
    async fn ahead(&self, destination: &Name, turn: Turn, now: Timestamp) -> Result<u64, Error>;

    /// The pending delivery of `destination` whose message was accepted first. This looks at all of them.
    async fn oldest_pending(&self, destination: &Name) -> Result<Option<Delivery>, Error>;

    /// One message with its deliveries.
    async fn find(&self, id: MessageId) -> Result<Option<Found>, Error>;

    /// Messages, newest first; fewer than asked for when they take [`PAGE_BYTES`].
    async fn messages(&self, query: &Query) -> Result<Page<Found>, Error>;

    /// Deliveries, newest message first.
    async fn deliveries(&self, query: &DeliveryQuery) -> Result<Page<Delivery>, Error>;

    /// Makes dead deliveries due at `now`, and waiting ones due sooner; not those of redacted messages. Counts what it
    /// selected, except delivered and unknown deliveries.
    async fn requeue(&self, selector: &Selector, now: Timestamp) -> Result<Requeued, Error>;

    /// Makes every waiting delivery that is due after `beyond` due at `now`, and one that was created later than that
    /// created at `now`: their times were told by a clock that was ahead. Says how many it touched.
    async fn advance(&self, beyond: Timestamp, now: Timestamp) -> Result<u64, Error>;

    /// Acknowledges dead deliveries that need attention, of those given up at or after `since`. Says how many it touched.
    async fn acknowledge_dead(
        &self,
        selector: &Selector,
        since: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<u64, Error>;

    /// Makes waiting deliveries dead for `reason`, except those claimed just now, and acknowledges them. Says how many it
    /// touched.
    async fn discard(&self, selector: &Selector, now: Timestamp, reason: &str) -> Result<u64, Error>;

    /// Owes a stored message to further destinations (`ordinal`s are given by the store). Returns their ids.
    async fn owe(&self, id: MessageId, deliveries: Vec<Delivery>) -> Result<Vec<DeliveryId>, Error>;

    /// How much is owed to one destination.
    async fn backlog(&self, destination: &Name) -> Result<Backlog, Error>;

    /// Every destination the store knows of, configured or not.
    async fn destinations(&self) -> Result<Vec<Name>, Error>;

    /// Remembers whether the operator paused a destination.
    async fn set_paused(&self, destination: &Name, paused: bool) -> Result<(), Error>;

    /// The destinations the operator paused.
    async fn paused(&self) -> Result<Vec<Name>, Error>;

    /// Remembers what is known about time, for the next run.
    async fn set_timeline(&self, timeline: &Timeline) -> Result<(), Error>;

    /// What the last run has left about time.
    async fn timeline(&self) -> Result<Option<Timeline>, Error>;

    /// Remembers how the destinations stand, for the next run.
    async fn set_standings(&self, standings: &Standings) -> Result<(), Error>;

    /// How the destinations stood in the last run, as far as it was remembered.
    async fn standings(&self) -> Result<Standings, Error>;

    /// Remembers the messages of the last hour, for the next run.
    async fn set_series(&self, series: &Saved) -> Result<(), Error>;

    /// What the last run has left of them.
    async fn series(&self) -> Result<Option<Saved>, Error>;

    /// How many messages ended since the store was opened.
    fn ended(&self) -> Ended;

    /// Forgets what may be forgotten, a bounded step at a time; says whether there is more to do.
    async fn prune(&self, horizon: &Horizon, now: Timestamp) -> Result<bool, Error>;

    /// The counters.
    async fn counts(&self) -> Result<Counts, Error>;

    /// The next part of a backup. All parts together have everything that was accepted before the first one was
    /// asked for, except what is forgotten meanwhile, and each message as it stands when its part is read.
    async fn export(&self, _from: backup::Position) -> Result<backup::Part, Error> {
        Err(Error::Failed("this store has no backups".to_owned()))
    }

    /// The operator has read the findings: they are forgotten. Says how many those were.
    async fn acknowledge(&self) -> Result<u64, Error> {
        Ok(0)
    }

    /// How well the store is. Answers at once, also when the store hangs.
    fn health(&self) -> Health;

    /// Whether texts can be accepted at the moment.
    ///
    /// # Errors
    /// Why not, for the operator.
    fn ready(&self) -> Result<(), String> {
        let health = self.health();
        if let Some(failed) = health.failed {
            return Err(format!("the store failed: {failed}"));
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

    /// Writes what waits, syncs and closes. Nothing may be asked of it afterwards.
    async fn close(&self) -> Result<(), Error>;
}

/// Whether a follow-up is to be stored beside the deliveries that are there. A fallback is left out if its destination
/// has the message already, or will have it: by the message's route, or because another recipient ended dead before.
fn is_new(follow_up: &Delivery, there: &[Delivery]) -> bool {
    let is_fallback = follow_up.recipient.is_none() && follow_up.origin.is_some();
    let mut others = there.iter();
    !is_fallback || !others.any(|other| other.destination == follow_up.destination && !other.is_dead())
}

/// When a delivery last changed.
fn changed_at(delivery: &Delivery) -> Timestamp {
    match delivery.state {
        State::Delivered { at } | State::Dead { at, .. } => at,
        State::Waiting { .. } => delivery
            .attempts
            .last()
            .map_or(delivery.pending_since(), |attempt| attempt.at),
    }
}

/// A message without what was said and by whom.
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
