//! `smsbridge delivery`: lists, shows, retries, discards and acknowledges deliveries.

use clap::{ArgGroup, Args, Subcommand};
use serde_json::json;

use super::client::Daemon;
use super::listing::{self, ID, Paging, count, digits, say_next, shortened, state};
use super::progress::Progress;
use super::table::{Table, fields, terminal_width, wrapped};
use super::{CommandError, Exit, Global, examples, print, prompt, style, time};
use crate::control::view::{
    DeliveryView, DestinationView, Page, PendingCause, PendingView, Retried, RetryOutcome, RetryView,
};
use crate::control::{DEAD_ALREADY, DISCARDED};
use crate::model::delivery::{AcknowledgedBy, Attempt, Verdict};
use crate::model::message::{MessageId, Name, Timestamp};
use crate::template::one_line;

/// The actions on deliveries.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// List deliveries, newest first
    #[command(after_help = examples::DELIVERY_LIST)]
    List(List),
    /// Show a delivery in full, with all stored attempts
    #[command(after_help = examples::DELIVERY_SHOW)]
    Show {
        #[arg(help = ID, value_parser = listing::id)]
        id: String,
    },
    /// Attempt dead or pending deliveries again now, except where the destination is paused or asked for a pause
    #[command(after_help = examples::DELIVERY_RETRY)]
    Retry(Which),
    /// Give up pending deliveries: they become dead, and `retry` makes them pending again
    #[command(after_help = examples::DELIVERY_DISCARD)]
    Discard(Which),
    /// Acknowledge dead deliveries: they are no longer reported as a problem and stay listed
    Acknowledge(Acknowledge),
}

/// The deliveries to list.
#[derive(Debug, Args)]
pub struct List {
    /// Only deliveries to this destination
    #[arg(long, value_name = "NAME")]
    destination: Option<Name>,
    /// Only deliveries in this state
    #[arg(long, value_parser = ["pending", "delivered", "dead"])]
    state: Option<String>,
    #[command(flatten)]
    paging: Paging,
}

/// The deliveries to change: some by id, or all of a destination.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("which").required(true).args(["ids", "destination"])))]
pub struct Which {
    /// Delivery ids: in full, the first 6 or more digits and `-N`, or `latest`
    #[arg(value_name = "ID", value_parser = listing::id)]
    ids: Vec<String>,
    /// All deliveries to this destination
    #[arg(long, value_name = "NAME")]
    destination: Option<Name>,
    /// Only deliveries in this state [default: pending for `discard`, else dead]
    #[arg(long, requires = "destination", value_parser = ["dead", "pending"])]
    state: Option<String>,
    /// Do not ask for confirmation
    #[arg(long)]
    yes: bool,
}

/// The deliveries to acknowledge.
#[derive(Debug, Args)]
pub struct Acknowledge {
    #[command(flatten)]
    which: Which,
    /// Given up at or after this: RFC 3339, or how long ago (2h, 3d)
    #[arg(long, value_name = "WHEN", requires = "destination", value_parser = time::parse)]
    since: Option<Timestamp>,
}

/// An action on many deliveries.
#[derive(Clone, Copy)]
struct Change {
    /// Its name in the API.
    verb: &'static str,
    /// The label of its progress display.
    doing: &'static str,
    /// What was done, for the summary.
    done: &'static str,
    /// The state of the selected deliveries by default.
    state: &'static str,
    /// Why a given delivery may remain unchanged.
    unchanged: &'static str,
}

const RETRY: Change = Change {
    verb: "retry",
    doing: "retrying",
    done: "due now",
    state: "dead",
    unchanged: "unknown, delivered already, or in progress",
};

const DISCARD: Change = Change {
    verb: "discard",
    doing: "discarding",
    done: "discarded",
    state: "pending",
    unchanged: "unknown, already ended, or in progress",
};

const ACKNOWLEDGE: Change = Change {
    verb: "acknowledge",
    doing: "acknowledging",
    done: "acknowledged",
    state: "dead",
    unchanged: "unknown, not dead, or acknowledged already",
};

pub(super) fn run(global: &Global, action: &Action) -> Result<Exit, CommandError> {
    let daemon = Daemon::find(global)?;
    match action {
        Action::List(list) => self::list(global, &daemon, list),
        Action::Show { id } => show(global, &daemon, id),
        Action::Retry(which) => change(global, &daemon, RETRY, which, None),
        Action::Acknowledge(Acknowledge { which, .. }) if which.state.as_deref() == Some("pending") => Err(
            CommandError::wrong("`--state`: only dead deliveries can be acknowledged"),
        ),
        Action::Acknowledge(Acknowledge { which, since }) => {
            change(global, &daemon, ACKNOWLEDGE, which, *since)
        }
        // The daemon would refuse this too, but only after the confirmation.
        Action::Discard(which) if which.state.as_deref() == Some("dead") => {
            Err(CommandError::wrong(DEAD_ALREADY))
        }
        Action::Discard(which) => change(global, &daemon, DISCARD, which, None),
    }
}

/// `desk`, or `desk (night@example.com)` for one of its recipients.
fn to(delivery: &DeliveryView) -> String {
    match &delivery.recipient {
        Some(recipient) => format!("{} ({})", delivery.destination, one_line(recipient)),
        None => delivery.destination.to_string(),
    }
}

/// What created it, if not a route.
fn origin(delivery: &DeliveryView) -> Option<String> {
    match &delivery.fallback_of {
        Some(destination) => Some(format!("fallback of {destination}")),
        None => delivery.resent.then(|| "resent by the operator".to_owned()),
    }
}

/// A delivery and its attempts, as shown below a message.
pub(super) fn brief(delivery: &DeliveryView, now: Timestamp) -> String {
    let origin = origin(delivery).map(|origin| format!(", {origin}"));
    let head = format!(
        "  {} to {}{}: {}\n",
        delivery.id,
        to(delivery),
        origin.unwrap_or_default(),
        standing(delivery, now)
    );
    let head = wrapped(head.trim(), 4, terminal_width());
    style::on_stdout(style::of_state(delivery.state), &format!("  {head}")) + "\n" + &attempts(delivery, now)
}

fn list(global: &Global, daemon: &Daemon, list: &List) -> Result<Exit, CommandError> {
    let mut query = vec![
        ("destination", list.destination.as_ref().map(Name::to_string)),
        ("state", list.state.clone()),
    ];
    query.extend(list.paging.query());
    let answer = daemon.get("/deliveries", &query)?;
    if global.json {
        print::document(answer.raw())?;
        return Ok(Exit::Done);
    }
    let page: Page<DeliveryView> = answer.read()?;
    table(&page.items, time::now(), terminal_width()).print("No deliveries match")?;
    say_next(&page);
    Ok(Exit::Done)
}

fn table(deliveries: &[DeliveryView], now: Timestamp, width: Option<u16>) -> Table {
    let ids: Vec<MessageId> = deliveries.iter().map(|delivery| delivery.id.message).collect();
    let digits = digits(&ids, width);
    let header = ["ID", "DESTINATION", "STATE", "CREATED", "TRIED", "NEXT", "REASON"];
    let mut table = Table::new(&header)
        .right(&[4])
        .whole(&[0, 2])
        .optional(&[4, 3, 5, 6, 1]);
    for delivery in deliveries {
        let id = shortened(delivery.id.message, digits);
        table.row(
            style::of_state(delivery.state),
            [
                format!("{id}-{}", delivery.id.ordinal),
                to(delivery),
                listed_state(delivery),
                time::relative(delivery.created_at, now),
                delivery.attempts_made.to_string(),
                next(delivery, now),
                reason(delivery),
            ],
        );
    }
    table
}

/// Why it failed last; before the first attempt, what it waits for.
fn reason(delivery: &DeliveryView) -> String {
    let waits = || delivery.pending.as_ref().map(|pending| one_line(&pending.why));
    delivery.reason.clone().or_else(waits).unwrap_or_default()
}

/// The state, with a note if a dead delivery needs no attention.
fn listed_state(delivery: &DeliveryView) -> String {
    match delivery.acknowledged_by {
        Some(_) if delivery.reason.as_deref() == Some(DISCARDED) => "discarded".to_owned(),
        Some(AcknowledgedBy::Operator | AcknowledgedBy::Delivery) => "dead, acknowledged".to_owned(),
        Some(AcknowledgedBy::Fallback) => "dead (fallback)".to_owned(),
        None => state(delivery.state).to_owned(),
    }
}

/// When the next attempt starts, for a column.
fn next(delivery: &DeliveryView, now: Timestamp) -> String {
    let Some(pending) = &delivery.pending else {
        return "-".to_owned();
    };
    match (pending.cause, pending.next_attempt) {
        (_, Some(next)) => time::relative(next, now),
        (PendingCause::Attempting, None) => "under way".to_owned(),
        (PendingCause::Due, None) => "now".to_owned(),
        (PendingCause::Paused, None) => "paused".to_owned(),
        (PendingCause::Removed, None) => "never".to_owned(),
        (_, None) => "in turn".to_owned(),
    }
}

fn show(global: &Global, daemon: &Daemon, id: &str) -> Result<Exit, CommandError> {
    let answer = daemon.get(&format!("/deliveries/{id}"), &[])?;
    if global.json {
        print::document(answer.raw())?;
        return Ok(Exit::Done);
    }
    let delivery: DeliveryView = answer.read()?;
    let now = time::now();
    let head = fields(&[
        ("delivery", Some(delivery.id.to_string())),
        ("message", Some(delivery.id.message.to_string())),
        ("destination", Some(delivery.destination.to_string())),
        ("recipient", delivery.recipient.clone()),
        ("origin", origin(&delivery)),
        ("route", route(&delivery)),
        ("created", Some(time::exact(delivery.created_at, now))),
        ("retried", delivery.retried_at.map(|at| time::exact(at, now))),
        ("state", Some(standing(&delivery, now))),
        ("tried", Some(tried(&delivery))),
    ]);
    print::text(&(head + &attempts(&delivery, now)))?;
    Ok(Exit::Done)
}

/// The route that created it.
fn route(delivery: &DeliveryView) -> Option<String> {
    match origin(delivery) {
        None => delivery.route.as_ref().map(Name::to_string),
        Some(_) => None,
    }
}

/// The state with its time and reason.
fn standing(delivery: &DeliveryView, now: Timestamp) -> String {
    let mut said = state(delivery.state).to_owned();
    if let Some(pending) = &delivery.pending {
        said += &format!(": {}", waits(pending, now));
    }
    if let Some(ended) = delivery.ended_at {
        said += &format!(" at {}", time::exact(ended, now));
    }
    if let (Some(reason), None) = (&delivery.reason, &delivery.pending) {
        said += &format!(": {}", one_line(reason));
    }
    match (delivery.acknowledged_at, delivery.acknowledged_by) {
        (Some(at), Some(AcknowledgedBy::Fallback)) => {
            let by = delivery.delivered_by.as_ref();
            let by = by.map(|name| format!(" {name}")).unwrap_or_default();
            said += &format!(
                "; acknowledged: delivered by fallback{by} at {}",
                time::exact(at, now)
            );
        }
        (Some(_), _) if delivery.reason.as_deref() == Some(DISCARDED) => {}
        (Some(at), Some(AcknowledgedBy::Delivery)) => {
            said += &format!(
                "; acknowledged: another delivery to {} delivered the message (at {})",
                delivery.destination,
                time::exact(at, now)
            );
        }
        (Some(at), _) => said += &format!("; acknowledged at {}", time::exact(at, now)),
        (None, _) => {}
    }
    said
}

/// What a pending delivery waits for, when its next attempt starts, and how many deliveries are ahead of it.
fn waits(pending: &PendingView, now: Timestamp) -> String {
    let mut said = one_line(&pending.why);
    if let Some(since) = pending.attempting_since {
        said += &format!(" since {}", time::exact(since, now));
    }
    if let Some(end) = pending.pause_until {
        said += &format!("; it asked for a pause until {}", time::exact(end, now));
    }
    let is_first = pending.ahead.is_none_or(|ahead| ahead == 0);
    match pending.next_attempt {
        Some(next) if pending.pause_until == Some(next) => {}
        Some(next) if is_first => said += &format!("; next attempt {}", time::exact(next, now)),
        Some(next) => said += &format!("; no attempt before {}", time::exact(next, now)),
        None => {}
    }
    match pending.ahead {
        None | Some(0) => {}
        Some(ahead) => said += &format!("; {} ahead of it", count(ahead)),
    }
    said
}

fn tried(delivery: &DeliveryView) -> String {
    match delivery.attempts_made {
        0 => "never".to_owned(),
        1 => "once".to_owned(),
        many => format!("{many} times"),
    }
}

/// The stored attempts, and the number of those that were not stored: only the first and the latest are.
fn attempts(delivery: &DeliveryView, now: Timestamp) -> String {
    let mut lines: Vec<String> = delivery
        .attempts
        .iter()
        .map(|attempt| self::attempt(attempt, now))
        .collect();
    let hidden = (delivery.attempts_made as usize).saturating_sub(lines.len());
    if hidden > 0 {
        let attempts = if hidden == 1 { "attempt is" } else { "attempts are" };
        let line =
            format!("    {hidden} more {attempts} not shown: only the first and the latest are stored\n");
        lines.insert(
            lines.len().min(1),
            style::on_stdout(style::DIM, line.trim_end()) + "\n",
        );
    }
    lines.concat()
}

fn attempt(attempt: &Attempt, now: Timestamp) -> String {
    let (verdict, style) = match attempt.verdict {
        Verdict::Delivered => ("delivered", style::SUCCESS),
        Verdict::Transient => ("transient", style::WARNING),
        Verdict::Permanent => ("permanent", style::ERROR),
        Verdict::Parked => ("parked", style::ERROR),
    };
    let line = format!(
        "{}  took {} ms  {verdict}  {}",
        time::exact(attempt.at, now),
        attempt.took_ms,
        one_line(&attempt.detail)
    );
    let line = wrapped(&line, 6, terminal_width());
    format!(
        "    {}\n",
        line.replacen(verdict, &style::on_stdout(style, verdict), 1)
    )
}

fn change(
    global: &Global,
    daemon: &Daemon,
    change: Change,
    which: &Which,
    since: Option<Timestamp>,
) -> Result<Exit, CommandError> {
    let body = match &which.destination {
        None => json!({ "ids": which.ids }),
        Some(name) => {
            let state = which.state.as_deref().unwrap_or(change.state);
            agree(daemon, change, name, state, which.yes)?;
            match since {
                None => json!({ "destination": name, "state": state }),
                Some(since) => json!({ "destination": name, "state": state, "since": since }),
            }
        }
    };
    let progress = Progress::waiting(global, change.doing);
    let answer = daemon.post(&format!("/deliveries/{}", change.verb), &body)?;
    drop(progress);
    let touched: Retried = answer.read()?;
    let wanted = which.ids.len() as u64;
    if global.json {
        print::document(answer.raw())?;
    } else if !touched.results.is_empty() && which.destination.is_none() {
        print::text(&retried(&touched.results, time::now()))?;
    } else {
        let held_up: String = touched
            .results
            .iter()
            .map(|result| held_up(result, time::now()))
            .collect();
        print::text(&format!("{}\n{held_up}", summary(change, &touched)))?;
    }
    let idle = |result: &&RetryView| {
        use RetryOutcome::{Attempting, Delivered, Unknown};
        matches!(result.outcome, Attempting | Delivered | Unknown)
    };
    let left = match touched.results.is_empty() {
        true => wanted.saturating_sub(touched.deliveries),
        false => touched.results.iter().filter(idle).count() as u64,
    };
    if left > 0 {
        return Err(CommandError::failed(format!(
            "{} not changed: {}; see `smsbridge delivery show`",
            count(left),
            change.unchanged
        )));
    }
    Ok(Exit::Done)
}

/// The result for all selected deliveries of a destination. Zeros are omitted if another part is not zero.
fn summary(change: Change, touched: &Retried) -> String {
    let one_or_many = |number: u64, one: &str, many: &str| {
        let what = if number == 1 { one } else { many };
        (number > 0).then(|| format!("{} {what}", count(number)))
    };
    let parts = [
        one_or_many(touched.deliveries, change.done, change.done),
        one_or_many(touched.already_due, "was due already", "were due already"),
        one_or_many(
            touched.attempting,
            "has an attempt in progress",
            "have an attempt in progress",
        ),
        one_or_many(
            touched.redacted,
            "skipped: the content of its message was removed (store.redact_after)",
            "skipped: the content of their messages was removed (store.redact_after)",
        ),
    ];
    let said: Vec<String> = parts.into_iter().flatten().collect();
    match said.is_empty() {
        true => format!("{} {}", count(0), change.done),
        false => said.join("; "),
    }
}

/// The result for each delivery, one per line.
fn retried(results: &[RetryView], now: Timestamp) -> String {
    results
        .iter()
        .map(|result| retried_one(result, now) + "\n")
        .collect()
}

/// Why some deliveries of a destination are not sent now.
fn held_up(result: &RetryView, now: Timestamp) -> String {
    match &result.pending {
        Some(pending) if result.outcome == RetryOutcome::Probed => {
            format!(
                "{}; one delivery is attempted now as a probe\n",
                waits(pending, now)
            )
        }
        Some(pending) => format!("nothing was sent: {}\n", waits(pending, now)),
        None => String::new(),
    }
}

fn retried_one(result: &RetryView, now: Timestamp) -> String {
    let waits = result.pending.as_ref().map(|pending| waits(pending, now));
    let waits = waits.unwrap_or_default();
    let id = result.id.map(|id| id.to_string()).unwrap_or_default();
    let to = result.destination.as_ref().map(|name| format!(" to {name}"));
    let what = match result.outcome {
        RetryOutcome::Tried => "attempted now".to_owned(),
        RetryOutcome::Probed => format!("its destination is probed now with another delivery: {waits}"),
        RetryOutcome::Waiting => format!("nothing was sent: {waits}"),
        RetryOutcome::Attempting => "an attempt is in progress already".to_owned(),
        RetryOutcome::Delivered => "delivered already".to_owned(),
        RetryOutcome::Unknown => "no such delivery".to_owned(),
    };
    let line = format!("{id}{}: {what}", to.unwrap_or_default());
    wrapped(&line, 4, terminal_width())
}

/// Asks for confirmation, with the number of deliveries.
fn agree(daemon: &Daemon, change: Change, name: &Name, state: &str, yes: bool) -> Result<(), CommandError> {
    let destinations: Vec<DestinationView> = daemon.get("/destinations", &[])?.read()?;
    let found = destinations.iter().find(|destination| destination.name == *name);
    let destination = found.ok_or_else(|| {
        CommandError::failed(format!(
            "no destination `{name}` is configured, and no delivery is pending for that name"
        ))
    })?;
    let (number, others) = match state {
        "dead" => (destination.dead, destination.acknowledged),
        _ => (destination.pending, 0),
    };
    let many = match number {
        1 => format!("1 {state} delivery"),
        many => format!("{many} {state} deliveries"),
    };
    let others = match others {
        0 => String::new(),
        1 => " (1 other needs no attention)".to_owned(),
        many => format!(" ({many} others need no attention)"),
    };
    prompt::confirm(
        &format!("{} {many} of {name}{others}?", capital(change.verb)),
        yes,
    )
}

fn capital(verb: &str) -> String {
    let mut letters = verb.chars();
    letters.next().map_or_else(String::new, |first| {
        first.to_uppercase().collect::<String>() + letters.as_str()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delivery(attempts_made: u32) -> DeliveryView {
        let attempt = |at: &str| serde_json::json!({"at": at, "took_ms": 3, "verdict": "transient", "detail": "cannot reach 127.0.0.1:9000"});
        serde_json::from_value(serde_json::json!({
            "id": "0193a2b3c4d57000800000000000000f-1", "destination": "desk", "recipient": "night@example.com",
            "route": null, "state": "pending", "created_at": "2026-11-22T03:00:00Z", "due": "2026-11-22T03:06:00Z",
            "ended_at": null, "reason": "cannot reach 127.0.0.1:9000: Connection refused", "attempts_made": attempts_made,
            "attempts": [attempt("2026-11-22T03:00:00Z"), attempt("2026-11-22T03:04:00Z")],
        }))
        .unwrap()
    }

    #[test]
    fn attempts_that_were_not_stored_are_counted() {
        let now = "2026-11-22T03:05:00Z".parse().unwrap();
        assert_eq!(attempts(&delivery(2), now).lines().count(), 2);
        let shown = attempts(&delivery(30), now);
        let lines: Vec<&str> = shown.lines().collect();
        assert!(
            lines.len() == 3 && lines[1].contains("28 more attempts are not shown"),
            "{shown}"
        );
    }

    #[test]
    fn a_retry_reports_the_result_for_all_selected_deliveries() {
        let said = |deliveries, already_due, attempting, redacted| {
            let touched = Retried {
                deliveries,
                already_due,
                attempting,
                redacted,
                results: Vec::new(),
            };
            summary(RETRY, &touched)
        };
        assert_eq!(said(0, 0, 0, 0), "0 deliveries due now");
        assert_eq!(said(12, 0, 0, 0), "12 deliveries due now");
        assert_eq!(said(0, 3, 0, 0), "3 deliveries were due already");
        assert_eq!(
            said(2, 1, 1, 1),
            "2 deliveries due now; 1 delivery was due already; 1 delivery has an attempt in progress; 1 delivery skipped: the \
             content of its message was removed (store.redact_after)"
        );
    }

    #[test]
    fn a_list_fits_eighty_columns() {
        let now = "2026-11-22T03:05:00Z".parse().unwrap();
        // Ids of the same millisecond differ only near their ends.
        let states = [
            (serde_json::Value::Null, "pending"),
            ("operator".into(), "dead, acknowledged"),
            ("fallback".into(), "dead (fallback)"),
        ];
        for (by, state) in states {
            let mut one = serde_json::to_value(delivery(30)).unwrap();
            one["acknowledged_by"] = by;
            let mut two = one.clone();
            two["id"] = "0193a2b3c4d57000800000000001000f-1".into();
            let both = [one, two].map(|view| serde_json::from_value(view).unwrap());
            for width in [80, 60] {
                let shown = table(&both, now, Some(width)).render(Some(width));
                let width = usize::from(width);
                assert!(shown.lines().all(|line| line.chars().count() <= width), "{shown}");
                assert!(shown.contains(state), "{shown}");
                assert!(shown.contains("0193a2b3c4d57000800000000001-1"), "{shown}");
            }
        }
        let shown = table(&[delivery(30)], now, Some(80)).render(Some(80));
        assert!(shown.contains("0193a2b3c4d5-1  desk (night@"), "{shown}");
    }
}
