//! How everything is, and what is wrong with it in words.

use super::view::{CountsView, DestinationView, RatesView, StatusView, StoreView};
use super::{Control, Error};
use crate::message::{Name, Timestamp};
use crate::plan::Plan;
use crate::store::Health;

/// A text that has waited longer than this is worth a word, whatever the reason.
const LATE: std::time::Duration = std::time::Duration::from_secs(15 * 60);

impl Control {
    /// The daemon at a glance.
    ///
    /// # Errors
    /// The store's.
    pub async fn status(&self) -> Result<StatusView, Error> {
        let (plan, now) = (self.plan(), self.clock.now());
        let health = self.store.health();
        let counts = self.store.counts().await?;
        let destinations = self.destinations(&plan).await?;
        let taking = self.store.ready();
        let mut problems = store_problems(&health, taking.as_ref().err());
        problems.extend(self.clock.doubt().map(|doubt| doubt.to_string()));
        problems.extend(plan.tls.as_ref().and_then(|tls| tls.doubt(self.clock.wall())));
        problems.extend(
            destinations
                .iter()
                .filter_map(|view| trouble(view, self.clock.wall())),
        );
        problems.extend(self.drift.problems());
        problems.extend(self.metrics.log.problem());
        Ok(StatusView {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at: self.started_at,
            now: self.clock.wall(),
            ready: taking.is_ok(),
            problems,
            store: StoreView {
                bytes: health.bytes,
                free_bytes: health.free,
                commit_ms: health.commit_last.map(|took| took.as_secs_f64() * 1000.0),
                commits: health.commits,
                findings: health.findings,
            },
            messages: CountsView {
                accepted: counts.accepted,
                purged: counts.messages_purged,
                pending: counts.pending,
                delivered: counts.delivered,
                dead: counts.dead,
            },
            rates: RatesView {
                accepted: self.metrics.rates.accepted.per_minute(now),
                delivered: self.metrics.rates.delivered.per_minute(now),
            },
            destinations,
        })
    }

    /// How many deliveries wait.
    ///
    /// # Errors
    /// The store's.
    pub async fn pending(&self) -> Result<u64, Error> {
        Ok(self.store.counts().await?.pending)
    }

    /// Every destination that is configured, and those that are not but are still owed something.
    ///
    /// # Errors
    /// The store's.
    pub async fn destinations(&self, plan: &Plan) -> Result<Vec<DestinationView>, Error> {
        let mut names: Vec<Name> = plan.destinations.keys().cloned().collect();
        for name in self.store.destinations().await? {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        let mut views = Vec::with_capacity(names.len());
        for name in names {
            let view = self.destination(plan, &name).await?;
            if view.kind.is_some() || view.pending > 0 || view.dead > 0 {
                views.push(view);
            }
        }
        Ok(views)
    }

    /// One destination.
    ///
    /// # Errors
    /// The store's.
    pub async fn destination(&self, plan: &Plan, name: &Name) -> Result<DestinationView, Error> {
        let backlog = self.store.backlog(name).await?;
        let planned = plan.destinations.get(name);
        // The lane of a removed destination lives until everything under way has ended.
        let status = planned.and_then(|_| self.lanes.status(name));
        let shown = |moment: Option<Timestamp>| moment.map(|moment| self.clock.shown(moment));
        let of =
            |field: fn(&crate::engine::lanes::Status) -> Option<Timestamp>| status.as_ref().and_then(field);
        Ok(DestinationView {
            name: name.clone(),
            kind: planned.map(|planned| planned.kind.to_owned()),
            state: status
                .as_ref()
                .map_or("removed", |status| status.state)
                .to_owned(),
            since: shown(of(|status| status.since)),
            until: shown(of(|status| status.until)),
            reason: status.as_ref().and_then(|status| status.reason.clone()),
            pending: backlog.pending,
            dead: backlog.dead,
            oldest: backlog.oldest.map(|oldest| self.clock.ago(oldest)),
            attempting_since: of(|status| status.attempting_since).map(|since| self.clock.ago(since)),
            delivered_at: of(|status| status.delivered_at),
            fallback: planned.and_then(|planned| planned.fallback.clone()),
        })
    }
}

/// `refused` is why no texts are taken, if none are.
fn store_problems(health: &Health, refused: Option<&String>) -> Vec<String> {
    let mut problems = Vec::new();
    if let Some(failed) = &health.failed {
        problems.push(format!("the store failed and takes nothing more: {failed}"));
    }
    if health.full {
        problems.push(match health.file_limit {
            Some(limit) => format!(
                "the store is full: its file may not grow beyond {limit} bytes (RLIMIT_FSIZE), so carriers are asked to \
                 send their texts again; raise LimitFSIZE= of the unit, or `ulimit -f`"
            ),
            None => "the disk is full: carriers are asked to send their texts again; free some space".to_owned(),
        });
    }
    if health.no_inodes {
        problems.push(
            "the store's file system has no free inodes: delete files there; until then the store cannot be compacted, and \
             may not start again"
                .to_owned(),
        );
    }
    if let (None, false, Some(why)) = (&health.failed, health.full, refused) {
        problems.push(format!("texts are not taken, the disk may hang: {why}"));
    }
    problems.extend(health.findings.iter().map(|finding| format!("store: {finding}")));
    problems
}

/// An attempt that lasts longer than this is worth a word: a mail server may take ten minutes to answer.
const SLOW: std::time::Duration = std::time::Duration::from_secs(60);

/// What an operator should do something about, or know.
fn trouble(view: &DestinationView, now: Timestamp) -> Option<String> {
    let name = &view.name;
    let waiting = match view.pending {
        0 => String::new(),
        1 => ", 1 text waits".to_owned(),
        many => format!(", {many} texts wait"),
    };
    let reason = view.reason.as_deref().unwrap_or("no reason given");
    match view.state.as_str() {
        "parked" => Some(format!("{name} is parked until it is mended{waiting}: {reason}")),
        "down" => Some(format!("{name} takes no texts{waiting}: {reason}")),
        "paused" if view.pending > 0 => Some(format!("{name} is paused by the operator{waiting}")),
        "removed" if view.pending > 0 => Some(format!(
            "{name} is no longer configured{waiting}: configure it again, or discard them"
        )),
        _ if view.attempting_since.is_some_and(|since| now.since(since) > SLOW) => Some(format!(
            "{name} does not answer: an attempt has been under way for {}{waiting}",
            minutes(now, view.attempting_since)
        )),
        _ if view.oldest.is_some_and(|oldest| now.since(oldest) > LATE) => Some(format!(
            "{name} is late{waiting}, the oldest for {}",
            minutes(now, view.oldest)
        )),
        _ if view.dead > 0 => Some(format!(
            "{name} has {} dead: see `smsbridge delivery list --destination {name} --state dead`",
            view.dead
        )),
        _ => None,
    }
}

fn minutes(now: Timestamp, since: Option<Timestamp>) -> String {
    let age = since.map(|since| now.since(since)).unwrap_or_default();
    humantime::format_duration(std::time::Duration::from_secs(age.as_secs() / 60 * 60)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(attempting_since: Option<i64>) -> DestinationView {
        DestinationView {
            name: "desk".parse().unwrap(),
            kind: Some("email".to_owned()),
            state: "up".to_owned(),
            since: None,
            until: None,
            reason: None,
            pending: 3,
            dead: 0,
            oldest: Some(Timestamp(0)),
            attempting_since: attempting_since.map(Timestamp),
            delivered_at: None,
            fallback: None,
        }
    }

    #[test]
    fn an_attempt_that_lasts_for_minutes_is_a_problem_before_its_message_is_late() {
        let now = Timestamp(200_000);
        assert_eq!(trouble(&view(None), now), None);
        assert_eq!(trouble(&view(Some(150_000)), now), None);
        assert_eq!(
            trouble(&view(Some(10_000)), now).unwrap(),
            "desk does not answer: an attempt has been under way for 3m, 3 texts wait"
        );
    }
}
