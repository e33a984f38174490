//! Lists and shows deliveries.

use crate::cli::client::Daemon;
use crate::cli::listing::{count, digits, say_next, shortened, state};
use crate::cli::table::{Table, fields, terminal_width, wrapped};
use crate::cli::{CommandError, Exit, Global, print, style, time};
use crate::control::DISCARDED;
use crate::control::view::{DeliveryView, Page, PendingCause, PendingView};
use crate::model::delivery::{AcknowledgedBy, Attempt, Verdict};
use crate::model::message::{MessageId, Name, Timestamp};
use crate::template::one_line;

use super::List;

/// `desk`, or `desk (night@example.com)` for one of its recipients.
fn to(delivery: &DeliveryView) -> String {
    match &delivery.recipient {
        Some(recipient) => format!("{} ({})", delivery.destination, one_line(recipient)),
        None => delivery.destination.to_string(),
    }
}

/// The origin of the delivery, if not a route.
fn origin(delivery: &DeliveryView) -> Option<String> {
    match &delivery.fallback_of {
        Some(destination) => Some(match &delivery.handed_over {
            Some(late) => format!("fallback of {destination} ({})", one_line(late)),
            None => format!("fallback of {destination}"),
        }),
        None => delivery.resent.then(|| "resent by the operator".to_owned()),
    }
}

/// A delivery and its attempts, as shown below a message.
pub(in crate::cli) fn brief(delivery: &DeliveryView, now: Timestamp) -> String {
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

pub(super) fn list(global: &Global, daemon: &Daemon, list: &List) -> Result<Exit, CommandError> {
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

pub(super) fn one(global: &Global, daemon: &Daemon, id: &str) -> Result<Exit, CommandError> {
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

/// Why a delivery is pending, when its next attempt starts, and how many deliveries are ahead of it.
pub(super) fn waits(pending: &PendingView, now: Timestamp) -> String {
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
