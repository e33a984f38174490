//! Joins the parts of long messages that a carrier sends one by one.
//!
//! Each part is stored before it is acknowledged: as a message of its own, without deliveries. The message that the
//! parts make is accepted in addition, as soon as all are there, or ten minutes after the first one with a note about
//! those that are missing. Nothing else is stored: which parts belong together follows from the stored ones, and the id
//! of the joined message from its parts, so that a repetition after a crash or on another node is a duplicate.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::engine::intake::{Intake, Origin};
use crate::model::message::{Message, Name, Timestamp};
use crate::model::number::Pattern;
use crate::plan::Plan;
use crate::source::{Incoming, Receipt};
use crate::store::{Error, MessageState, Query, Store};

pub mod parts;

use parts::{Set, WINDOW};

/// Interval between two searches for overdue messages.
const EVERY: Duration = Duration::from_secs(60);

/// Added to the window before an incomplete message is delivered: a part that was received in time may take a moment to
/// be stored.
const SLACK: Duration = Duration::from_secs(30);

/// How far back parts are read. Messages whose first part is older than this minus the window were delivered.
const LOOK_BACK: Duration = Duration::from_secs(3600);

/// The number of parts on one page of a search.
const PAGE: usize = 200;

/// Upper bound of the pages of one search, so that a flood of parts cannot keep a request or a round from ending.
const PAGES_MAX: usize = 500;

/// Accepts messages, and joins those that come in parts. Cheap to clone.
#[derive(Clone)]
pub struct Joining(Arc<Inner>);

struct Inner {
    intake: Intake,
    store: Arc<dyn Store>,
    plan: watch::Receiver<Arc<Plan>>,
    /// The ids of messages that this process knows to be stored, with the time of their first part.
    joined: Mutex<BTreeMap<String, Timestamp>>,
}

impl Joining {
    /// Creates it.
    #[must_use]
    pub fn new(intake: Intake, store: Arc<dyn Store>, plan: watch::Receiver<Arc<Plan>>) -> Self {
        Self(Arc::new(Inner {
            intake,
            store,
            plan,
            joined: Mutex::default(),
        }))
    }

    /// The date and time.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.0.intake.now()
    }

    /// Stores the messages of one request like [`Intake::receive`], and accepts the messages whose last part is among
    /// them. A carrier that disconnects does not interrupt this.
    ///
    /// # Errors
    /// The first error of the store. A part that is stored is acknowledged even if joining fails: that is repeated.
    pub async fn receive(
        &self,
        plan: &Arc<Plan>,
        source: &Name,
        incoming: Vec<Incoming>,
    ) -> Result<Vec<Receipt>, Error> {
        let is_part = |one: &&Incoming| one.part.is_some();
        let ends: Vec<_> = incoming
            .iter()
            .filter(is_part)
            .map(|one| (one.from.normal().to_owned(), one.to.normal().to_owned()))
            .collect();
        if ends.is_empty() {
            return self
                .0
                .intake
                .receive(plan, source, incoming, Origin::Carrier)
                .await;
        }
        let (joining, plan, source) = (self.clone(), plan.clone(), source.clone());
        let storing = self.0.intake.tracker().spawn(async move {
            let receipts = joining
                .0
                .intake
                .receive(&plan, &source, incoming, Origin::Carrier)
                .await?;
            for (from, to) in ends {
                let query = Query {
                    from: Some(Pattern::Exact(from)),
                    to: Some(Pattern::Exact(to)),
                    source: Some(source.clone()),
                    ..Query::default()
                };
                joining.join_logged(&plan, query, joining.now()).await;
            }
            Ok(receipts)
        });
        storing
            .await
            .unwrap_or_else(|error| Err(Error::Failed(error.to_string())))
    }

    /// Accepts the messages whose parts are complete or overdue, also those of a previous run. Returns at the first
    /// success.
    pub async fn recover(&self, stop: &CancellationToken) {
        loop {
            let newest = self.newest().await;
            let now = self.now();
            if let Ok(newest) = newest
                && self
                    .join_logged(
                        &self.plan(),
                        Query::default(),
                        newest.map_or(now, |newest| newest.min(now)),
                    )
                    .await
            {
                return;
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(EVERY) => {}
            }
        }
    }

    /// Looks for overdue messages until stopped.
    pub async fn keep(self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(EVERY) => {}
            }
            self.join_logged(&self.plan(), Query::default(), self.now()).await;
        }
    }

    /// Joins the parts that the query finds. Returns false if that failed: it is repeated every minute.
    async fn join_logged(&self, plan: &Arc<Plan>, query: Query, until: Timestamp) -> bool {
        let joined = self.join(plan, query, until).await;
        if let Err(error) = &joined {
            tracing::warn!("cannot join the parts of long messages: {error}; retrying in a minute");
        }
        joined.is_ok()
    }

    async fn join(&self, plan: &Arc<Plan>, query: Query, until: Timestamp) -> Result<(), Error> {
        let since = until.before(LOOK_BACK);
        let query = Query {
            state: Some(MessageState::Kept),
            since: Some(since),
            ..query
        };
        let now = self.now();
        // The first parts of an earlier message may not be among those that were read.
        let is_whole = |set: &Set| set.first_at() >= since.after(WINDOW);
        let due = parts::sets(self.read(query).await?)
            .into_iter()
            .filter(|set| is_whole(set) && set.is_due(now, SLACK));
        for set in due {
            let Some((source, incoming)) = set.joined() else {
                continue;
            };
            let id = incoming.provider_id.clone();
            if self.joined().contains_key(&id) {
                continue;
            }
            self.0
                .intake
                .receive(plan, &source, vec![incoming], Origin::Joined)
                .await?;
            self.joined().insert(id, set.first_at());
        }
        let forgotten = since.before(LOOK_BACK);
        self.joined().retain(|_, first_at| *first_at >= forgotten);
        Ok(())
    }

    /// The stored parts that match.
    async fn read(&self, mut query: Query) -> Result<Vec<Message>, Error> {
        query.limit = PAGE;
        let mut found = Vec::new();
        for _ in 0..PAGES_MAX {
            let page = self.0.store.messages(&query).await?;
            let messages = page.items.into_iter().map(|item| item.message);
            found.extend(messages.filter(|message| parts::part(message).is_some()));
            match page.next {
                Some(next) => query.cursor = Some(next),
                None => break,
            }
        }
        Ok(found)
    }

    /// When the newest stored message was received: the previous run did not end before.
    async fn newest(&self) -> Result<Option<Timestamp>, Error> {
        let query = Query {
            limit: 1,
            ..Query::default()
        };
        let page = self.0.store.messages(&query).await?;
        Ok(page.items.first().map(|found| found.message.received_at))
    }

    fn plan(&self) -> Arc<Plan> {
        self.0.plan.borrow().clone()
    }

    fn joined(&self) -> MutexGuard<'_, BTreeMap<String, Timestamp>> {
        self.0.joined.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
