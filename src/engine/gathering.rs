//! Gathers the messages of one post.

use std::time::Duration;

use tokio::time::Instant;

use super::lane_state::LaneState;
use crate::destination::{Batching, Joins};
use crate::model::message::Timestamp;
use crate::plan::PlannedDestination;
use crate::store::Claim;

/// Until when messages are gathered. A message that is not preceded by others waits for none: only after a post more are
/// expected.
#[derive(Default)]
pub(super) struct Gathering(Option<Instant>);

impl Gathering {
    /// A post has begun.
    pub(super) fn began(&mut self, now: Instant, wait: Duration) {
        self.0 = Some(now + wait);
    }

    /// How long messages are still gathered.
    pub(super) fn wait(&self, now: Instant) -> Duration {
        self.0
            .map_or(Duration::ZERO, |until| until.saturating_duration_since(now))
    }
}

/// How a destination joins messages, if it does.
pub(super) fn joined(destination: &PlannedDestination) -> Option<(Batching, Joins)> {
    destination.batch.zip(destination.destination.joins())
}

/// Claims the messages of one post with `claimed`, which takes a due time and a limit: those of a conversation follow each
/// other, in order.
pub(super) async fn claims<E>(
    lane: &LaneState,
    batch: Batching,
    joins: Joins,
    claimed: impl AsyncFnOnce(Timestamp, usize) -> Result<Vec<Claim>, E>,
) -> Result<Vec<Claim>, E> {
    let now = lane.clock.now();
    let heads = match joins {
        Joins::Any => batch.max,
        Joins::Conversation => 1,
    };
    let heads = claimed(now, heads).await?;
    let mut room = batch.max.saturating_sub(heads.len());
    let mut claims = Vec::new();
    for head in heads {
        let following = match room {
            0 => Vec::new(),
            _ => lane
                .store
                .claim_following(&head, now, room)
                .await
                .unwrap_or_default(),
        };
        room = room.saturating_sub(following.len());
        claims.push(head);
        claims.extend(following);
    }
    Ok(claims)
}

/// How many of these can go as one post. One whose content was removed is given up alone.
pub(super) fn sendable(claims: &[Claim]) -> usize {
    let mut all = claims.iter();
    let redacted = all.position(|claim| claim.message.redacted_at.is_some());
    redacted.map_or(claims.len(), |at| at.max(1))
}
