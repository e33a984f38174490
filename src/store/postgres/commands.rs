//! The commands of operators for deliveries. A command changes them in steps, each a transaction of its own. It skips
//! deliveries that this daemon has claimed; an outcome of a claim of another daemon is written even if the command came
//! first.

use std::collections::BTreeSet;

use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::Postgres;
use super::counters::Deltas;
use super::pool::Connection;
use super::rows::{self, Locked, Roots, Touched};
use super::shared::{Shared, Work};
use super::trouble::Trouble;
use super::wake::Notice;
use crate::model::delivery::{Delivery, DeliveryId, State};
use crate::model::message::{MessageId, Name, Timestamp};
use crate::store::acknowledge::is_meant;
use crate::store::{Discarded, Ended, Error, Requeued, Selector};

/// The writer number for commands.
pub(super) const WRITER: i16 = 50;

/// Upper bound of the deliveries of one step.
const STEP: i64 = 500;

/// Upper bound of the steps of one command.
const STEPS: usize = 1_000_000;

pub(super) const DEAD: &str = "
    SELECT message, ordinal, seq FROM delivery
    WHERE destination = $1 AND stage = 4 AND (seq, message, ordinal) > ($2, $3, $4)
    ORDER BY seq, message, ordinal LIMIT $5";

pub(super) const PENDING: &str = "
    SELECT message, ordinal, pending_since FROM delivery
    WHERE destination = $1 AND stage < 3 AND (pending_since, message, ordinal) > ($2, $3, $4)
    ORDER BY pending_since, message, ordinal LIMIT $5";

/// Deliveries that are due later, and whether they could be claimed if they were due.
pub(super) const LATER: &str = "
    SELECT d.message, d.ordinal, d.due_at, d.stage < 2 AND NOT EXISTS (
            SELECT FROM delivery e
            WHERE e.destination = $1 AND e.queue = d.queue AND e.stage < 3 AND (e.seq, e.ordinal) < (d.seq, d.ordinal)
        )
    FROM (
        SELECT * FROM delivery
        WHERE destination = $1 AND stage < 3 AND due_at > 0 AND due_at > $6 AND (due_at, message, ordinal) > ($2, $3, $4)
        ORDER BY due_at, message, ordinal LIMIT $5
    ) d
    ORDER BY d.due_at, d.message, d.ordinal";

/// Pending deliveries that are due too late.
pub(super) const TOO_LATE: &str = "
    SELECT message, ordinal, due_at FROM delivery
    WHERE destination = $1 AND stage < 3 AND due_at > 0 AND due_at > $6 AND (due_at, message, ordinal) > ($2, $3, $4)
    ORDER BY due_at, message, ordinal LIMIT $5";

/// No further query together with the locks.
const NOTHING: (&str, &[&(dyn ToSql + Sync)]) = ("SELECT", &[]);

/// The position of a step in the order of its query.
type Cursor = (i64, Uuid, i16);

const START: Cursor = (i64::MIN, Uuid::nil(), 0);

/// The deliveries of a step.
struct Picked {
    ids: Vec<DeliveryId>,
    /// `None` after the last step.
    next: Option<Cursor>,
}

/// The selection of a command.
enum Selection<'a> {
    Ids(&'a [DeliveryId]),
    Dead(&'a Name),
    Pending(&'a Name),
    Later(&'a Name, Timestamp),
    TooLate(&'a Name, Timestamp),
}

impl<'a> From<&'a Selector> for Selection<'a> {
    fn from(selector: &'a Selector) -> Self {
        match selector {
            Selector::Ids(ids) => Self::Ids(ids),
            Selector::Dead(name) => Self::Dead(name),
            Selector::Pending(name) => Self::Pending(name),
        }
    }
}

impl Selection<'_> {
    async fn pick(&self, connection: &Connection, after: Cursor) -> Result<Picked, Trouble> {
        let (order, message, number) = after;
        let query = async |sql: &'static str, parameters: &[&(dyn ToSql + Sync)]| {
            let statement = connection.prepare_cached(sql).await?;
            connection.query(&statement, parameters).await
        };
        let rows = match self {
            Self::Ids(ids) => return Ok(pick_ids(ids, after)),
            Self::Dead(name) => query(DEAD, &[&name.as_str(), &order, &message, &number, &STEP]).await?,
            Self::Pending(name) => {
                query(PENDING, &[&name.as_str(), &order, &message, &number, &STEP]).await?
            }
            Self::Later(name, now) => {
                query(LATER, &[&name.as_str(), &order, &message, &number, &STEP, &now.0]).await?
            }
            Self::TooLate(name, beyond) => {
                let name = name.as_str();
                query(TOO_LATE, &[&name, &order, &message, &number, &STEP, &beyond.0]).await?
            }
        };
        let mut picked = Picked {
            ids: Vec::new(),
            next: None,
        };
        for row in &rows {
            let (message, number): (Uuid, i16) = (row.try_get(0)?, row.try_get(1)?);
            if row.len() < 4 || row.try_get(3)? {
                picked.ids.push(DeliveryId {
                    message: MessageId(message),
                    ordinal: number.cast_unsigned(),
                });
            }
            picked.next = Some((row.try_get(2)?, message, number));
        }
        if (rows.len() as i64) < STEP {
            picked.next = None;
        }
        Ok(picked)
    }
}

/// A step of a list of ids; the position is an index.
fn pick_ids(ids: &[DeliveryId], (index, ..): Cursor) -> Picked {
    let first = usize::try_from(index).unwrap_or_default();
    let end = ids.len().min(first + STEP as usize);
    Picked {
        ids: ids.get(first..end).unwrap_or_default().to_vec(),
        next: (end < ids.len()).then_some((end as i64, Uuid::nil(), 0)),
    }
}

/// Changes one delivery of a locked message.
trait Command: Sync {
    /// What was done.
    type Tally: Default + Send;

    fn apply(
        &self,
        message: &mut Locked,
        index: usize,
        is_claimed: bool,
        tally: &mut Self::Tally,
        ended: &mut Ended,
    );
}

/// One step of a command.
struct Step<'a, C> {
    shared: &'a Shared,
    command: &'a C,
    selection: &'a Selection<'a>,
    after: Cursor,
}

struct Stepped<T> {
    tally: T,
    ended: Ended,
    touched: Touched,
    next: Option<Cursor>,
}

impl<C: Command> Work for Step<'_, C> {
    type Output = Stepped<C::Tally>;

    async fn run(&self, connection: &Connection) -> Result<Self::Output, Trouble> {
        let Picked { ids, next } = self.selection.pick(connection, self.after).await?;
        let mut stepped = Stepped {
            tally: C::Tally::default(),
            ended: Ended::default(),
            touched: Touched::default(),
            next,
        };
        if ids.is_empty() {
            return Ok(stepped);
        }
        let messages: BTreeSet<Uuid> = ids.iter().map(|id| id.message.0).collect();
        let messages: Vec<Uuid> = messages.into_iter().collect();
        let (mut messages, _) = rows::lock(connection, &messages, NOTHING, &rows::Queues::default()).await?;
        for id in ids {
            let Some(message) = messages.get_mut(&id.message) else {
                continue;
            };
            if let Some(index) = message.position(id) {
                let is_claimed = self.shared.leases().token(id).is_some();
                let (tally, ended) = (&mut stepped.tally, &mut stepped.ended);
                self.command.apply(message, index, is_claimed, tally, ended);
            }
        }
        let writer = (self.shared.node.as_str(), WRITER);
        stepped.touched =
            rows::commit(connection, &messages, &Roots::new(), Deltas::default(), writer).await?;
        Ok(stepped)
    }
}

struct Requeue<'a>(&'a Selector, Timestamp);

impl Command for Requeue<'_> {
    type Tally = Requeued;

    fn apply(
        &self,
        message: &mut Locked,
        index: usize,
        is_claimed: bool,
        tally: &mut Requeued,
        _: &mut Ended,
    ) {
        let (Self(selector, now), is_redacted) = (self, message.is_redacted);
        let Some(row) = message.rows.get_mut(index) else {
            return;
        };
        if !selector.includes(&row.delivery) {
            return;
        }
        let changed = match row.delivery.state {
            State::Delivered { .. } => return,
            State::Dead { .. } | State::Waiting { .. } if is_redacted => {
                tally.redacted += 1;
                return;
            }
            State::Dead { .. } => row.delivery.clone().requeued(*now),
            State::Waiting { due } if due > *now && !is_claimed => row.delivery.clone().brought_forward(*now),
            State::Waiting { .. } => {
                match is_claimed {
                    true => tally.claimed += 1,
                    false => tally.due += 1,
                }
                return;
            }
        };
        row.set(changed, *now);
        tally.touched += 1;
    }
}

/// Makes pending deliveries due.
struct RetryNow(Timestamp);

impl Command for RetryNow {
    type Tally = u64;

    fn apply(&self, message: &mut Locked, index: usize, is_claimed: bool, tally: &mut u64, _: &mut Ended) {
        let is_redacted = message.is_redacted;
        let row = message.rows.get_mut(index);
        let is_later = |delivery: &Delivery| {
            matches!(delivery.state, State::Waiting { due } if due > self.0) && !is_redacted
        };
        if let Some(row) = row.filter(|row| !is_claimed && is_later(&row.delivery)) {
            row.set(row.delivery.clone().due_at(self.0), self.0);
            *tally += 1;
        }
    }
}

struct Advance {
    beyond: Timestamp,
    now: Timestamp,
}

impl Command for Advance {
    type Tally = u64;

    fn apply(&self, message: &mut Locked, index: usize, is_claimed: bool, tally: &mut u64, _: &mut Ended) {
        let row = message.rows.get_mut(index);
        let is_late =
            |delivery: &Delivery| matches!(delivery.state, State::Waiting { due } if due > self.beyond);
        if let Some(row) = row.filter(|row| !is_claimed && is_late(&row.delivery)) {
            row.set(row.delivery.clone().advanced(self.now), self.now);
            *tally += 1;
        }
    }
}

struct Acknowledge<'a> {
    selector: &'a Selector,
    since: Option<Timestamp>,
    now: Timestamp,
}

impl Command for Acknowledge<'_> {
    type Tally = u64;

    fn apply(&self, message: &mut Locked, index: usize, _: bool, tally: &mut u64, _: &mut Ended) {
        let row = message.rows.get(index);
        let is_dead = row
            .is_some_and(|row| self.selector.includes(&row.delivery) && is_meant(&row.delivery, self.since));
        if is_dead {
            message.acknowledge(index, self.now);
            *tally += 1;
        }
    }
}

struct Discard<'a> {
    selector: &'a Selector,
    now: Timestamp,
    reason: &'a str,
}

impl Command for Discard<'_> {
    type Tally = Discarded;

    fn apply(
        &self,
        message: &mut Locked,
        index: usize,
        is_claimed: bool,
        tally: &mut Discarded,
        ended: &mut Ended,
    ) {
        let row = message.rows.get_mut(index);
        let row = row.filter(|row| row.delivery.is_waiting() && self.selector.includes(&row.delivery));
        let Some(row) = row else { return };
        if is_claimed {
            tally.claimed += 1;
            return;
        }
        row.set(row.delivery.clone().dead(None, self.now, self.reason), self.now);
        message.acknowledge(index, self.now);
        message.count_ended(index, ended);
        tally.touched += 1;
    }
}

impl Postgres {
    /// Runs a command step by step. `sum` adds the tally of a step.
    async fn command<C: Command>(
        &self,
        command: C,
        selection: Selection<'_>,
        mut sum: impl FnMut(C::Tally) + Send,
    ) -> Result<(), Error> {
        let mut after = START;
        for _ in 0..STEPS {
            let step = Step {
                shared: &self.shared,
                command: &command,
                selection: &selection,
                after,
            };
            let stepped = {
                let _none_is_claimed = self.shared.claiming.write().await;
                let deadline = std::time::Instant::now() + super::gather::WAIT;
                let stepped = self.shared.repeat(&step, deadline).await?;
                // This precedes the next claim, which must not use deliveries that were read ahead.
                for name in &stepped.touched.changed {
                    self.shared.lanes.look_again(name);
                }
                stepped
            };
            sum(stepped.tally);
            self.shared.totals.add_ended(stepped.ended);
            self.tell(stepped.touched);
            match stepped.next {
                Some(next) => after = next,
                None => break,
            }
        }
        Ok(())
    }

    /// Tells the daemons that serve the destinations, this one among them.
    pub(super) fn tell(&self, touched: Touched) {
        for name in touched.changed {
            self.shared.lanes.look_again(&name);
            self.shared.announce(Notice::Changed(name));
        }
    }

    pub(super) async fn requeue_selected(
        &self,
        selector: &Selector,
        now: Timestamp,
    ) -> Result<Requeued, Error> {
        let mut all = Requeued::default();
        let sum = |step: Requeued| {
            all.touched += step.touched;
            all.due += step.due;
            all.claimed += step.claimed;
            all.redacted += step.redacted;
        };
        self.command(Requeue(selector, now), selector.into(), sum).await?;
        Ok(all)
    }

    pub(super) async fn retry_delayed(&self, destination: &Name, now: Timestamp) -> Result<u64, Error> {
        let mut all = 0;
        let selection = Selection::Later(destination, now);
        self.command(RetryNow(now), selection, |step| all += step).await?;
        Ok(all)
    }

    pub(super) async fn advance_late(&self, beyond: Timestamp, now: Timestamp) -> Result<u64, Error> {
        let mut all = 0;
        for destination in self.shared.destinations().await? {
            let selection = Selection::TooLate(&destination, beyond);
            self.command(Advance { beyond, now }, selection, |step| all += step)
                .await?;
        }
        Ok(all)
    }

    pub(super) async fn acknowledge_selected(
        &self,
        selector: &Selector,
        since: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<u64, Error> {
        let mut all = 0;
        let command = Acknowledge { selector, since, now };
        self.command(command, selector.into(), |step| all += step).await?;
        Ok(all)
    }

    pub(super) async fn discard_selected(
        &self,
        selector: &Selector,
        now: Timestamp,
        reason: &str,
    ) -> Result<Discarded, Error> {
        let mut all = Discarded::default();
        let sum = |step: Discarded| {
            all.touched += step.touched;
            all.claimed += step.claimed;
        };
        let command = Discard {
            selector,
            now,
            reason,
        };
        self.command(command, selector.into(), sum).await?;
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_picked_in_steps() {
        let id = |n: u128| DeliveryId {
            message: MessageId(Uuid::from_u128(n)),
            ordinal: 1,
        };
        let ids: Vec<DeliveryId> = (0..1_001).map(id).collect();
        let (mut all, mut after) = (Vec::new(), Some(START));
        while let Some(cursor) = after {
            let picked = pick_ids(&ids, cursor);
            assert!(picked.ids.len() <= 500);
            all.extend(picked.ids);
            after = picked.next;
        }
        assert_eq!(all, ids);
    }
}
