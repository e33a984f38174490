//! Current problems: one list for the API, the commands and the page, each entry with its cause and the next step.

use std::time::Duration;

use super::view::{DestinationView, ProblemKind, ProblemView};
use crate::model::delivery::{Delivery, State};
use crate::model::destination_state::DestinationState;
use crate::model::message::Timestamp;
use crate::plan::Severity;

/// A problem that does not belong to one destination.
pub(super) fn general(severity: Severity, kind: ProblemKind, message: String) -> ProblemView {
    ProblemView {
        severity,
        kind,
        destination: None,
        message,
        cause: None,
        address: None,
        since: None,
        pending: 0,
        dead: 0,
        oldest: None,
    }
}

/// The daemon is stopping, and waits for this.
pub(super) fn stopping(what: &str) -> ProblemView {
    let message = format!(
        "smsbridge is stopping: {what}; no message is accepted and no delivery is begun until it is started again"
    );
    ProblemView {
        cause: Some(what.to_owned()),
        ..general(Severity::Warning, ProblemKind::Stopping, message)
    }
}

/// An attempt that lasts longer than this is a problem, although a mail server may take ten minutes to answer.
const SLOW: Duration = Duration::from_secs(60);

/// The input for the problems of one destination.
pub(super) struct Facts<'a> {
    pub(super) view: &'a DestinationView,
    /// Its `late_after`.
    pub(super) late_after: Duration,
    /// Whether the destination has a `rate`.
    pub(super) has_rate: bool,
    pub(super) now: Timestamp,
}

impl Facts<'_> {
    /// The problem that keeps messages pending: the first one that applies. `last_failure` is the failure of the
    /// oldest pending delivery.
    pub(super) fn holding_up(&self, last_failure: Option<String>) -> Option<ProblemView> {
        let view = self.view;
        let kind = self.kind()?;
        let reason = || {
            Some(
                view.reason
                    .clone()
                    .unwrap_or_else(|| "no reason given".to_owned()),
            )
        };
        let (severity, cause, since) = match kind {
            ProblemKind::Parked | ProblemKind::Down => (Severity::Error, reason(), view.since),
            ProblemKind::Limited => (Severity::Warning, reason(), view.since),
            ProblemKind::Removed => (Severity::Error, None, None),
            ProblemKind::Slow => (Severity::Warning, None, view.attempting_since),
            ProblemKind::Late => (Severity::Warning, last_failure, None),
            _ => (Severity::Warning, None, None),
        };
        Some(ProblemView {
            message: self.words(kind, cause.as_deref()),
            cause,
            since,
            ..self.about(severity, kind)
        })
    }

    /// The problem of dead deliveries, with the reason of the newest one.
    pub(super) fn dead(&self, newest: Option<String>) -> Option<ProblemView> {
        let (name, dead) = (&self.view.name, self.view.dead);
        let count = match dead {
            0 => return None,
            1 => "1 dead delivery".to_owned(),
            many => format!("{many} dead deliveries"),
        };
        let why = newest
            .as_ref()
            .map(|reason| format!(", the newest: {reason}"))
            .unwrap_or_default();
        let place = self.place(newest.as_deref());
        Some(ProblemView {
            message: format!(
                "destination {name}{place} has {count}{why}; list them with `smsbridge delivery list --destination {name} --state \
                 dead`, then `retry` or `acknowledge` them"
            ),
            cause: newest,
            ..self.about(Severity::Error, ProblemKind::Dead)
        })
    }

    /// Returns true if the oldest pending delivery is late and no other problem explains it.
    pub(super) fn is_late(&self) -> bool {
        self.kind() == Some(ProblemKind::Late)
    }

    /// The failure of the oldest pending delivery as the cause of its lateness. A failure before the last success no
    /// longer explains it, unless the delivery is still waiting for its retry.
    pub(super) fn cause_of(&self, oldest: Option<Delivery>) -> Option<String> {
        let mut delivery = oldest?;
        let last = delivery.attempts.pop()?;
        let waits = matches!(delivery.state, State::Waiting { due } if due > self.now);
        let is_current = self.view.delivered_at.is_none_or(|at| at < last.at);
        (waits || is_current).then_some(last.detail)
    }

    fn kind(&self) -> Option<ProblemKind> {
        let view = self.view;
        let is_slow = || {
            view.attempting_since
                .is_some_and(|since| self.now.since(since) > SLOW)
        };
        match view.state {
            DestinationState::Parked => Some(ProblemKind::Parked),
            DestinationState::Down => Some(ProblemKind::Down),
            DestinationState::Paused => Some(ProblemKind::Paused),
            DestinationState::Removed => (view.pending > 0).then_some(ProblemKind::Removed),
            _ if is_slow() => Some(ProblemKind::Slow),
            DestinationState::Limited => (view.pending > 0).then_some(ProblemKind::Limited),
            _ => self.is_overdue().then_some(ProblemKind::Late),
        }
    }

    /// Returns true if the oldest pending delivery is older than `late_after`.
    fn is_overdue(&self) -> bool {
        let oldest = self.view.oldest;
        oldest.is_some_and(|oldest| self.now.since(oldest) > self.late_after)
    }

    fn about(&self, severity: Severity, kind: ProblemKind) -> ProblemView {
        let view = self.view;
        ProblemView {
            destination: Some(view.name.clone()),
            address: view.address.clone(),
            pending: view.pending,
            dead: view.dead,
            oldest: view.oldest,
            ..general(severity, kind, String::new())
        }
    }

    /// ` (mail.example:25)`, unless the cause names it.
    fn place(&self, cause: Option<&str>) -> String {
        match (&self.view.address, cause) {
            (Some(address), Some(cause)) if cause.contains(address.as_str()) => String::new(),
            (Some(address), _) => format!(" ({address})"),
            (None, _) => String::new(),
        }
    }

    /// A sentence with the cause, then the backlog, then the next step.
    fn words(&self, kind: ProblemKind, cause: Option<&str>) -> String {
        let view = self.view;
        let (name, pending) = (&view.name, self.pending());
        let cause = cause.map(one_clause);
        let place = self.place(cause.as_deref());
        let cause = cause.unwrap_or_default();
        let lasting = lasting(self.now, view.since);
        let late_after = humantime::format_duration(self.late_after);
        match kind {
            ProblemKind::Parked => format!(
                "destination {name}{place} has been parked for {lasting}: {cause}; {pending}; fix its configuration or \
                 account, then `smsbridge reload`"
            ),
            ProblemKind::Down => {
                let next = match view.pending {
                    0 => format!("`smsbridge destination test {name}` tries it"),
                    _ => "it is tried again automatically; check that it runs and can be reached from here"
                        .to_owned(),
                };
                format!("destination {name}{place} has been down for {lasting}: {cause}; {pending}; {next}")
            }
            ProblemKind::Limited if !self.is_overdue() => format!(
                "destination {name}{place} is rate limited: {cause}; {pending}, next attempt {}",
                self.next_attempt()
            ),
            ProblemKind::Limited => format!(
                "destination {name}{place} is rate limited: {cause}; {pending} (late after {late_after}), next attempt \
                 {}; raise the limit there, or send it fewer messages",
                self.next_attempt()
            ),
            ProblemKind::Slow => format!(
                "destination {name}{place} does not answer: an attempt has been running for {}; {pending}; check it",
                self::lasting(self.now, view.attempting_since)
            ),
            ProblemKind::Paused => format!(
                "destination {name}{place} is paused by the operator; {pending}; `smsbridge destination resume {name}` ends that"
            ),
            ProblemKind::Removed => format!(
                "destination {name} is no longer configured; {pending}; configure it again, or `smsbridge delivery \
                 discard --destination {name} --state pending`"
            ),
            _ if cause.is_empty() => format!(
                "destination {name}{place} is late: {pending} (late after {late_after}); messages arrive faster than it \
                 accepts them: raise its {}, or send it fewer",
                if self.has_rate {
                    "`rate` or `concurrency`"
                } else {
                    "`concurrency`"
                }
            ),
            _ => format!(
                "destination {name}{place} is late: {cause}; {pending} (late after {late_after}); `smsbridge delivery \
                 list --destination {name} --state pending` lists them"
            ),
        }
    }

    /// `29 pending, the oldest for 11m`
    fn pending(&self) -> String {
        let oldest = self
            .view
            .oldest
            .map(|oldest| format!(", the oldest for {}", lasting(self.now, Some(oldest))));
        format!("{} pending{}", self.view.pending, oldest.unwrap_or_default())
    }

    fn next_attempt(&self) -> String {
        match self.view.until.map(|until| until.since(self.now)) {
            Some(left) if left >= Duration::from_secs(1) => format!("in {}", rounded(left)),
            _ => "now".to_owned(),
        }
    }
}

/// Removes the full stop at the end of a cause, because the sentence continues after it.
fn one_clause(cause: &str) -> String {
    cause.trim_end_matches(['.', ';', ' ']).to_owned()
}

fn lasting(now: Timestamp, since: Option<Timestamp>) -> String {
    rounded(since.map(|since| now.since(since)).unwrap_or_default())
}

/// Whole minutes, or seconds below one minute.
fn rounded(duration: Duration) -> String {
    let unit = if duration.as_secs() < 60 { 1 } else { 60 };
    humantime::format_duration(Duration::from_secs(duration.as_secs() / unit * unit)).to_string()
}

/// Errors first.
pub(super) fn sorted(mut problems: Vec<ProblemView>) -> Vec<ProblemView> {
    problems.sort_by_key(|problem| problem.severity == Severity::Warning);
    problems
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::delivery::{Attempt, DeliveryId, Verdict};

    const MINUTE: i64 = 60_000;

    fn view(state: DestinationState) -> DestinationView {
        DestinationView {
            name: "desk".parse().unwrap(),
            kind: Some("email".to_owned()),
            address: Some("mail.example:25".to_owned()),
            state,
            since: Some(Timestamp(0)),
            until: Some(Timestamp(20 * MINUTE)),
            pause_until: None,
            reason: Some("HTTP 403 Forbidden.".to_owned()),
            pending: 3,
            dead: 2,
            acknowledged: 0,
            oldest: Some(Timestamp(MINUTE)),
            attempting_since: None,
            delivered_at: None,
            last_attempt: None,
            fallback: None,
            node: None,
            node_since: None,
        }
    }

    fn problem_of(view: &DestinationView, minutes: i64, last_failure: Option<&str>) -> Option<ProblemView> {
        let facts = Facts {
            view,
            late_after: Duration::from_secs(120),
            has_rate: true,
            now: Timestamp(minutes * MINUTE),
        };
        facts.holding_up(last_failure.map(str::to_owned))
    }

    #[test]
    fn a_problem_says_the_cause_and_then_the_next_step() {
        let cases = [
            (
                DestinationState::Parked,
                "destination desk (mail.example:25) has been parked for 10m: HTTP 403 Forbidden; 3 pending, the oldest for \
                 9m; fix its configuration or account, then `smsbridge reload`",
            ),
            (
                DestinationState::Down,
                "destination desk (mail.example:25) has been down for 10m: HTTP 403 Forbidden; 3 pending, the oldest for \
                 9m; it is tried again automatically; check that it runs and can be reached from here",
            ),
            (
                DestinationState::Limited,
                "destination desk (mail.example:25) is rate limited: HTTP 403 Forbidden; 3 \
                 pending, the oldest for 9m (late after 2m), next attempt in 10m; raise the limit there, or send it \
                 fewer messages",
            ),
            (
                DestinationState::Paused,
                "destination desk (mail.example:25) is paused by the operator; 3 pending, the oldest for 9m; `smsbridge destination resume \
                 desk` ends that",
            ),
            (
                DestinationState::Removed,
                "destination desk is no longer configured; 3 pending, the oldest for 9m; configure it again, or \
                 `smsbridge delivery discard --destination desk --state pending`",
            ),
            (
                DestinationState::Up,
                "destination desk (mail.example:25) is late: 3 pending, the oldest for 9m (late after 2m); messages arrive \
                 faster than it accepts them: raise its `rate` or `concurrency`, or send it fewer",
            ),
        ];
        for (state, words) in cases {
            let problem = problem_of(&view(state), 10, None).unwrap();
            assert_eq!(problem.message, words);
            assert_eq!(
                (problem.pending, problem.dead, problem.oldest),
                (3, 2, Some(Timestamp(MINUTE)))
            );
            assert_eq!(problem.address.as_deref(), Some("mail.example:25"));
        }
    }

    #[test]
    fn a_failure_before_the_last_success_is_not_the_cause_of_a_backlog() {
        let failed = |due| {
            let delivery = Delivery::new(
                DeliveryId {
                    message: "00000000000000000000000000000001".parse().unwrap(),
                    ordinal: 1,
                },
                "desk".parse().unwrap(),
                None,
                Timestamp(0),
            );
            let attempt = Attempt::new(Timestamp(1_000), Duration::ZERO, Verdict::Transient, "refused");
            Some(delivery.retry(attempt, Timestamp(due)))
        };
        let now = Timestamp(10_000);
        let cause = |delivered_at, due| {
            let view = DestinationView {
                delivered_at,
                ..view(DestinationState::Up)
            };
            let facts = Facts {
                view: &view,
                late_after: Duration::from_secs(2),
                has_rate: false,
                now,
            };
            facts.cause_of(failed(due))
        };
        let refused = Some("refused".to_owned());
        assert_eq!(cause(None, 5_000), refused, "nothing was delivered since");
        assert_eq!(cause(Some(Timestamp(500)), 5_000), refused);
        assert_eq!(cause(Some(Timestamp(9_000)), 5_000), None, "it recovered");
        assert_eq!(cause(Some(Timestamp(9_000)), 20_000), refused, "a full mailbox");
    }

    #[test]
    fn a_backlog_is_a_problem_once_it_is_late_and_a_full_mailbox_is_its_cause() {
        for state in [DestinationState::Up, DestinationState::Untested] {
            assert_eq!(problem_of(&view(state), 3, None), None, "{state}");
            assert!(problem_of(&view(state), 4, None).is_some(), "{state}");
        }
        let problem = problem_of(
            &view(DestinationState::Up),
            3 * 24 * 60,
            Some("452 4.2.2 mailbox full"),
        )
        .unwrap();
        assert_eq!(
            problem.message,
            "destination desk (mail.example:25) is late: 452 4.2.2 mailbox full; 3 pending, the oldest for 2days 23h 59m \
             (late after 2m); `smsbridge delivery list --destination desk --state pending` lists them"
        );
        assert_eq!(problem.cause.as_deref(), Some("452 4.2.2 mailbox full"));
    }

    #[test]
    fn an_attempt_that_lasts_for_minutes_is_a_problem_before_its_message_is_late() {
        let view = DestinationView {
            oldest: Some(Timestamp(0)),
            attempting_since: Some(Timestamp(10_000)),
            ..view(DestinationState::Up)
        };
        assert_eq!(problem_of(&view, 1, None), None);
        assert_eq!(
            problem_of(&view, 2, None).unwrap().message,
            "destination desk (mail.example:25) does not answer: an attempt has been running for 1m; 3 pending, the \
             oldest for 2m; check it"
        );
    }

    #[test]
    fn dead_deliveries_are_a_problem_of_their_own() {
        let view = view(DestinationState::Down);
        let facts = Facts {
            view: &view,
            late_after: Duration::from_secs(120),
            has_rate: true,
            now: Timestamp(0),
        };
        let dead = facts.dead(Some("HTTP 400 Bad Request".to_owned())).unwrap();
        assert_eq!(
            dead.message,
            "destination desk (mail.example:25) has 2 dead deliveries, the newest: HTTP 400 Bad Request; list them with `smsbridge delivery \
             list --destination desk --state dead`, then `retry` or `acknowledge` them"
        );
        assert!(facts.holding_up(None).is_some());
    }

    #[test]
    fn a_rate_limit_is_reported_immediately_and_a_pause_even_with_nothing_pending() {
        let asked = DestinationView {
            pause_until: Some(Timestamp(20 * MINUTE)),
            ..view(DestinationState::Limited)
        };
        assert_eq!(
            problem_of(&asked, 1, None).unwrap().message,
            "destination desk (mail.example:25) is rate limited: HTTP 403 Forbidden; 3 \
             pending, the oldest for 0s, next attempt in 19m"
        );
        assert_eq!(
            problem_of(&view(DestinationState::Limited), 1, None)
                .unwrap()
                .message,
            "destination desk (mail.example:25) is rate limited: HTTP 403 Forbidden; 3 pending, the oldest for 0s, next \
             attempt in 19m"
        );
        let idle = |state| DestinationView {
            pending: 0,
            oldest: None,
            ..view(state)
        };
        assert_eq!(problem_of(&idle(DestinationState::Limited), 1, None), None);
        assert_eq!(
            problem_of(&idle(DestinationState::Paused), 1, None)
                .unwrap()
                .message,
            "destination desk (mail.example:25) is paused by the operator; 0 pending; `smsbridge destination resume desk` ends that"
        );
    }

    #[test]
    fn raising_the_rate_is_advised_only_if_a_rate_is_set() {
        let view = view(DestinationState::Up);
        let facts = Facts {
            view: &view,
            late_after: Duration::from_secs(1),
            has_rate: false,
            now: Timestamp(10 * MINUTE),
        };
        let message = facts.holding_up(None).unwrap().message;
        assert!(message.contains("raise its `concurrency`, or send"), "{message}");
    }
}
