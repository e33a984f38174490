//! Outcomes. Those that gather while a transaction is committed are written by the next one, which is fenced: it writes
//! only if the lanes still belong to this daemon, and prevents their acquisition until it ends.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::Postgres;
use super::counters::Deltas;
use super::gather::{Committer, WAIT};
use super::leases::{Lease, Queue};
use super::pool::Connection;
use super::rows::{self, Locked, Root, Roots, Touched};
use super::shared::{Shared, Work};
use super::trouble::Trouble;
use super::wake::Notice;
use crate::model::delivery::{DeliveryId, State};
use crate::model::message::{Name, Timestamp};
use crate::store::{Ended, Error, Settlement, changed_at};

/// The writer numbers for outcomes.
pub(super) const WRITERS: [i16; 2] = [10, 11];

/// The lanes that belong to this daemon in these epochs. An acquisition skips a row with this lock; a renewal does not
/// wait for it.
pub(super) const FENCE: &str = "
    SELECT l.destination, l.epoch FROM lane l
    JOIN unnest($1::text[], $2::bigint[]) AS i(destination, epoch) ON i.destination = l.destination AND i.epoch = l.epoch
    WHERE l.instance = $3
    FOR KEY SHARE OF l";

/// The outcome of a claim.
pub(super) struct Outcome {
    settlement: Settlement,
    lease: Lease,
}

/// Writes outcomes.
pub(super) struct Settling(pub(super) Arc<Shared>);

#[async_trait]
impl Committer for Settling {
    type Change = Outcome;
    type Outcome = Vec<DeliveryId>;

    fn size(change: &Outcome) -> usize {
        change.settlement.delivery.size()
    }

    async fn commit(
        &self,
        worker: i16,
        changes: &[Outcome],
        deadline: Instant,
    ) -> Vec<Result<Vec<DeliveryId>, Error>> {
        let group = Group {
            shared: &self.0,
            slot: worker,
            outcomes: changes,
        };
        match self.0.repeat(&group, deadline).await {
            Ok(written) => self.written(written),
            // One of them may be the cause, which must not affect the others.
            Err(Error::Failed(_)) => {
                let mut results = Vec::new();
                for change in changes {
                    results.push(self.alone(worker, change).await);
                }
                results
            }
            Err(error) => changes.iter().map(|_| Err(error.clone())).collect(),
        }
    }
}

impl Settling {
    /// Tells the lanes of what was written. Returns the results.
    fn written(&self, written: Written) -> Vec<Result<Vec<DeliveryId>, Error>> {
        let Written {
            results,
            ended,
            touched,
        } = written;
        self.0.totals.add_ended(ended);
        touched
            .pending
            .iter()
            .chain(&touched.promoted)
            .for_each(|name| self.0.lanes.look_again(name));
        for name in touched.pending {
            self.0.announce(Notice::Work(name));
        }
        results
    }

    /// Writes one outcome. A delivery whose outcome the database rejects is set aside: sent again, it would fail again.
    async fn alone(&self, slot: i16, outcome: &Outcome) -> Result<Vec<DeliveryId>, Error> {
        let group = Group {
            shared: &self.0,
            slot,
            outcomes: std::slice::from_ref(outcome),
        };
        let trouble = match tokio::time::timeout(WAIT, self.0.attempt(&group)).await {
            Ok(Ok(written)) => return self.written(written).pop().unwrap_or(Err(Error::LostClaim)),
            Ok(Err(trouble)) => trouble,
            Err(_) => return Err(Error::Unavailable("no answer within 10 s".to_owned())),
        };
        let is_rejected = trouble.is_rejection();
        let error = Error::from(trouble);
        if is_rejected {
            let why = format!("its outcome cannot be written: {error}");
            self.0.set_aside(&outcome.lease, &why).await?;
        }
        Err(error)
    }
}

struct Group<'a> {
    shared: &'a Shared,
    slot: i16,
    outcomes: &'a [Outcome],
}

struct Written {
    results: Vec<Result<Vec<DeliveryId>, Error>>,
    ended: Ended,
    touched: Touched,
}

impl Work for Group<'_> {
    type Output = Written;

    async fn run(&self, connection: &Connection) -> Result<Written, Trouble> {
        let lanes: BTreeMap<(&Name, i64), ()> = self.outcomes.iter().map(|one| (one.lane(), ())).collect();
        let (names, epochs): (Vec<&str>, Vec<i64>) =
            lanes.keys().map(|(name, epoch)| (name.as_str(), *epoch)).unzip();
        let ids: BTreeSet<Uuid> = self.outcomes.iter().map(|one| one.lease.id.message.0).collect();
        let ids: Vec<Uuid> = ids.into_iter().collect();
        let fence: [&(dyn ToSql + Sync); 3] = [&names, &epochs, &self.shared.instance];
        let leaving = self.leaving();
        let leaving = leaving
            .iter()
            .map(|(name, queue)| (name.as_str(), &queue.0[..]))
            .unzip();
        let (mut messages, own) = rows::lock(connection, &ids, (FENCE, &fence), &leaving).await?;
        let own: Result<BTreeSet<(&str, i64)>, tokio_postgres::Error> = own
            .iter()
            .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)))
            .collect();
        let own = own?;
        let (mut ended, mut roots) = (Ended::default(), Roots::new());
        let apply = |one: &Outcome| {
            let (name, epoch) = one.lane();
            let message = messages.get_mut(&one.lease.id.message).ok_or(Error::LostClaim)?;
            match own.contains(&(name.as_str(), epoch)) {
                true => one.apply(message, &mut roots, &mut ended),
                false => Err(Error::LostClaim),
            }
        };
        let results = self.outcomes.iter().map(apply).collect();
        let writer = (self.shared.node.as_str(), self.slot);
        let touched = rows::commit(connection, &messages, &roots, Deltas::default(), writer).await?;
        Ok(Written {
            results,
            ended,
            touched,
        })
    }
}

impl Group<'_> {
    /// The queues with more deliveries behind those of the group.
    fn leaving(&self) -> BTreeSet<Queue> {
        let leases = self.shared.leases();
        let queues = self.outcomes.iter().map(|one| &one.lease.queue);
        queues
            .filter(|queue| leases.is_followed(queue))
            .cloned()
            .collect()
    }
}

impl Outcome {
    fn lane(&self) -> (&Name, i64) {
        (&self.lease.queue.0, self.lease.epoch)
    }

    /// Applies the outcome to the message. It is lost if it was written before, by a transaction whose answer was lost,
    /// or if another daemon ended the delivery meanwhile; that the destination accepted it is recorded even so.
    fn apply(
        &self,
        message: &mut Locked,
        roots: &mut Roots,
        ended: &mut Ended,
    ) -> Result<Vec<DeliveryId>, Error> {
        let delivery = &self.settlement.delivery;
        let index = message.position(delivery.id).ok_or(Error::LostClaim)?;
        let row = message.rows.get_mut(index).ok_or(Error::LostClaim)?;
        let is_open = row.delivery.is_waiting()
            || row.delivery.is_dead() && matches!(delivery.state, State::Delivered { .. });
        if !is_open || row.delivery == *delivery {
            return Err(Error::LostClaim);
        }
        let at = changed_at(delivery);
        row.set(delivery.clone(), Timestamp(i64::MIN));
        let follow_ups = self.settlement.follow_ups.iter().cloned();
        let ids = follow_ups
            .filter_map(|one| message.follow_up(delivery.id.message, one, at))
            .collect();
        message.cover(at);
        if !delivery.is_waiting() {
            message.count_ended(index, ended);
        }
        if let Some(root) = self.settlement.thread.clone() {
            let key = (delivery.destination.clone(), message.conversation);
            roots.insert(key, Root { root, at });
        }
        Ok(ids)
    }
}

impl Postgres {
    pub(super) async fn write_outcome(&self, settlement: &Settlement) -> Result<Vec<DeliveryId>, Error> {
        let token = settlement.token;
        let lease = self.shared.leases().get(token).cloned();
        let lease = lease.filter(|lease| lease.id == settlement.delivery.id);
        let lease = lease.ok_or(Error::LostClaim)?;
        // The outcomes of a conversation go to the same writer: they concern each other's messages, so two writers would
        // wait for each other.
        let key = u64::from_be_bytes(lease.conversation.0);
        let outcome = Outcome {
            settlement: settlement.clone(),
            lease,
        };
        let result = self.settling.put(key, outcome).await;
        if matches!(result, Ok(_) | Err(Error::LostClaim)) {
            self.shared.leases().end(token);
        }
        result
    }
}
