//! `smsbridge message`: lists, shows and resends messages.

use std::collections::BTreeSet;

use clap::{Args, Subcommand};

use super::client::Daemon;
use super::listing::{ID, Paging, count, digits, id, say_next, shortened, state};
use super::table::{Table, fields, terminal_width};
use super::{CommandError, Exit, Global, delivery, examples, print, style, time};
use crate::control::view::{MessageView, Page, Touched};
use crate::model::message::{Media, MessageId, Name, Timestamp};
use crate::store::MessageState;
use crate::template::{one_line, visible};

/// A list ends after this many empty pages in a row.
const EMPTY_PAGES_MAX: usize = 200;

/// The actions on messages.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// List messages, newest first
    #[command(after_help = examples::MESSAGE_LIST)]
    List(List),
    /// Show a message in full, with its deliveries and their attempts
    #[command(after_help = examples::MESSAGE_SHOW)]
    Show {
        #[arg(help = ID, value_parser = id)]
        id: String,
    },
    /// Deliver a message again, to named destinations or to those where it is dead
    #[command(after_help = examples::MESSAGE_RESEND)]
    Resend {
        #[arg(help = ID, value_parser = id)]
        id: String,
        /// To these destinations, even if delivered there before [default: those where it is dead]
        #[arg(long, value_name = "NAME", num_args = 1..)]
        destination: Vec<Name>,
    },
}

/// The messages to list. All given conditions must hold.
#[derive(Debug, Args)]
pub struct List {
    /// Sender, exact or with `*` at one end
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    from: Option<String>,
    /// Receiver, exact or with `*` at one end
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    to: Option<String>,
    /// Part of the message body, ignoring case
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    text: Option<String>,
    /// Only messages from this source
    #[arg(long, value_name = "NAME")]
    source: Option<Name>,
    /// Only messages in this state
    #[arg(long, value_parser = ["pending", "delivered", "dead", "kept", "unrouted"])]
    state: Option<String>,
    /// Received at or after this: RFC 3339, or how long ago (2h, 3d)
    #[arg(long, value_name = "WHEN", value_parser = time::parse)]
    since: Option<Timestamp>,
    /// Received before this
    #[arg(long, value_name = "WHEN", value_parser = time::parse)]
    until: Option<Timestamp>,
    #[command(flatten)]
    paging: Paging,
}

pub(super) fn run(global: &Global, action: &Action) -> Result<Exit, CommandError> {
    let daemon = Daemon::find(global)?;
    match action {
        Action::List(list) => self::list(global, &daemon, list),
        Action::Show { id } => show(global, &daemon, id),
        Action::Resend { id, destination } => resend(global, &daemon, id, destination),
    }
}

fn list(global: &Global, daemon: &Daemon, list: &List) -> Result<Exit, CommandError> {
    let mut query = vec![
        ("from", list.from.clone()),
        ("to", list.to.clone()),
        ("text", list.text.clone()),
        ("source", list.source.as_ref().map(Name::to_string)),
        ("state", list.state.clone()),
        ("since", list.since.map(|since| since.to_string())),
        ("until", list.until.map(|until| until.to_string())),
    ];
    let [limit, cursor] = list.paging.query();
    query.extend([limit, cursor.clone()]);
    let answer = daemon.get("/messages", &query)?;
    if global.json {
        print::document(answer.raw())?;
        return Ok(Exit::Done);
    }
    let mut page: Page<MessageView> = answer.read()?;
    query.retain(|parameter| *parameter != cursor);
    // The daemon limits the time of a search, so an empty page does not mean that no message matches.
    for _ in 0..EMPTY_PAGES_MAX {
        let Some(next) = page.next.take_if(|_| page.items.is_empty()) else {
            break;
        };
        let rest = [query.clone(), vec![("cursor", Some(next))]].concat();
        page = daemon.get("/messages", &rest)?.read()?;
    }
    let none = match page.next {
        Some(_) => "No messages found so far",
        None => "No messages match",
    };
    table(&page.items, time::now(), terminal_width()).print(none)?;
    say_next(&page);
    Ok(Exit::Done)
}

fn table(messages: &[MessageView], now: Timestamp, width: Option<u16>) -> Table {
    let ids: Vec<MessageId> = messages.iter().map(|message| message.id).collect();
    let digits = digits(&ids, width);
    let mut table = Table::new(&["ID", "RECEIVED", "STATE", "FROM", "TO", "TEXT"])
        .whole(&[0, 2])
        .optional(&[4, 1, 5]);
    for message in messages {
        table.row(
            style::of_state(message.state),
            [
                shortened(message.id, digits),
                time::relative(message.received_at, now),
                listed_state(message, width).to_owned(),
                message.from_name.as_ref().unwrap_or(&message.from).clone(),
                message.to_name.as_ref().unwrap_or(&message.to).clone(),
                summary(message),
            ],
        );
    }
    table
}

/// The minimum width of a terminal for long states in a list.
const WIDE: u16 = 100;

/// The state, with a note if a fallback delivered the message.
fn listed_state(message: &MessageView, width: Option<u16>) -> &'static str {
    match message.is_delivered_by_fallback() {
        true if width.is_some_and(|width| width < WIDE) => "by fallback",
        true => "delivered (fallback)",
        false => state(message.state),
    }
}

/// The state, with the names of the fallbacks that delivered the message.
fn whole_state(message: &MessageView) -> String {
    let by = message.deliveries.iter();
    let by: BTreeSet<&str> = by
        .filter_map(|dead| dead.delivered_by.as_ref())
        .map(Name::as_str)
        .collect();
    match message.is_delivered_by_fallback() && !by.is_empty() {
        true => {
            let by: Vec<&str> = by.into_iter().collect();
            format!("{} by fallback {}", state(message.state), by.join(", "))
        }
        false => state(message.state).to_owned(),
    }
}

/// The body, with the number of attachments.
fn summary(message: &MessageView) -> String {
    match (message.redacted_at, message.media.len()) {
        (Some(_), _) => "(redacted)".to_owned(),
        (None, 0) => message.text.clone(),
        (None, 1) => format!("{} (1 attachment)", message.text),
        (None, many) => format!("{} ({many} attachments)", message.text),
    }
}

fn show(global: &Global, daemon: &Daemon, id: &str) -> Result<Exit, CommandError> {
    let answer = daemon.get(&format!("/messages/{id}"), &[])?;
    if global.json {
        print::document(answer.raw())?;
    } else {
        print::text(&describe(&answer.read()?, time::now()))?;
    }
    Ok(Exit::Done)
}

fn describe(message: &MessageView, now: Timestamp) -> String {
    let list = |names: &[Name]| names.iter().map(Name::as_str).collect::<Vec<_>>().join(", ");
    let routes = match message.routes.as_slice() {
        [] => "none matched".to_owned(),
        routes => list(routes),
    };
    let mut shown = fields(&[
        ("message", Some(message.id.to_string())),
        ("received", Some(time::exact(message.received_at, now))),
        ("from", Some(named(&message.from, message.from_name.as_deref()))),
        ("to", Some(named(&message.to, message.to_name.as_deref()))),
        ("source", Some(message.source.to_string())),
        ("provider id", Some(message.provider_id.clone())),
        ("routes", Some(routes)),
        ("state", Some(whole_state(message))),
        ("redacted", message.redacted_at.map(|at| time::exact(at, now))),
    ]);
    if message.redacted_at.is_none() {
        shown += &section("text", &indent(&visible(&message.text)));
    }
    if !message.media.is_empty() {
        shown += &section(
            "attachments",
            &message.media.iter().map(attachment).collect::<String>(),
        );
    }
    if !message.extra.is_empty() {
        let extra = message.extra.iter();
        shown += &section(
            "other fields",
            &extra
                .map(|(name, json)| format!("  {}: {}\n", one_line(name), one_line(json)))
                .collect::<String>(),
        );
    }
    if !message.deliveries.is_empty() {
        let deliveries = message.deliveries.iter();
        shown += &section(
            "deliveries",
            &deliveries
                .map(|delivery| delivery::brief(delivery, now))
                .collect::<String>(),
        );
    }
    shown
}

fn section(title: &str, content: &str) -> String {
    format!("\n{}\n{content}", style::on_stdout(style::DIM, title))
}

/// Indents a string, so that none of its lines can be mistaken for a line of this program.
fn indent(text: &str) -> String {
    text.split('\n').map(|line| format!("  {line}\n")).collect()
}

fn attachment(media: &Media) -> String {
    let parts = [
        Some(&media.link),
        media.content_type.as_ref(),
        media.filename.as_ref(),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().map(|part| one_line(part)).collect();
    format!("  {}\n", parts.join("  "))
}

fn named(number: &str, name: Option<&str>) -> String {
    match name {
        Some(name) => format!("{number} ({name})"),
        None => number.to_owned(),
    }
}

fn resend(global: &Global, daemon: &Daemon, id: &str, destinations: &[Name]) -> Result<Exit, CommandError> {
    let before: MessageView = daemon.get(&format!("/messages/{id}"), &[])?.read()?;
    // `latest` could refer to another message by now.
    let id = before.id;
    let body = serde_json::json!({ "destinations": destinations });
    let answer = daemon.post(&format!("/messages/{id}/resend"), &body)?;
    if global.json {
        print::document(answer.raw())?;
        return Ok(Exit::Done);
    }
    let touched: Touched = answer.read()?;
    let ids: String = touched.ids.iter().map(|id| format!("  {id}\n")).collect();
    let notes = destinations
        .iter()
        .filter_map(|name| repeated(&before, name, time::now()));
    let notes: String = notes.collect();
    print::text(&format!("{} created:\n{ids}{notes}", count(touched.deliveries)))?;
    Ok(Exit::Done)
}

/// A notice if a destination gets the message twice: it has received it before, or another delivery is pending.
fn repeated(before: &MessageView, name: &Name, now: Timestamp) -> Option<String> {
    let mut there = before
        .deliveries
        .iter()
        .filter(|delivery| delivery.destination == *name);
    let is_pending = there.clone().any(|delivery| delivery.pending.is_some());
    let delivered = there.rfind(|delivery| delivery.state == MessageState::Delivered);
    match delivered.and_then(|delivery| delivery.ended_at) {
        Some(at) => Some(format!(
            "already delivered to {name} at {}\n",
            time::exact(at, now)
        )),
        None if is_pending => Some(format!("another delivery to {name} is pending\n")),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_fits_eighty_columns_and_shows_names_and_short_ids() {
        let message = |id: &str| -> MessageView {
            serde_json::from_value(serde_json::json!({
                "id": id, "provider_id": "p", "source": "carrier", "from": "+13035550100",
                "from_name": "Front door alarm of the second building", "to": "+13038675309", "to_name": null,
                "text": "A message that is much longer than a line of a terminal has room for",
                "media": [], "extra": {}, "received_at": "2026-11-22T03:00:00Z", "routes": [], "state": "delivered",
                "redacted_at": null, "deliveries": [],
            }))
            .unwrap()
        };
        let messages = [
            message("0193a2b3c4d57000800000000000000f"),
            message("0193a2b3c4d57001800000000000000f"),
        ];
        let now = "2026-11-22T03:05:00Z".parse().unwrap();
        let narrow = table(&messages, now, Some(60)).render(Some(60));
        assert!(narrow.lines().all(|line| line.chars().count() <= 60), "{narrow}");
        assert!(narrow.contains("  delivered  "), "{narrow}");
        let shown = table(&messages, now, Some(80)).render(Some(80));
        for line in shown.lines() {
            assert!(line.chars().count() <= 80, "{line}");
        }
        assert!(
            shown.contains("\n0193a2b3c4d57001  5m ago    delivered  Front "),
            "{shown}"
        );
        let whole = table(&messages, now, None).render(None);
        assert!(whole.contains("0193a2b3c4d57001800000000000000f"), "{whole}");
    }

    #[test]
    fn lines_of_a_text_cannot_be_mistaken_for_fields() {
        let text = visible("hi\r\nstate        delivered\u{1b}[2J");
        assert_eq!(indent(&text), "  hi\n  state        delivered[U+001B][2J\n");
        assert_eq!(indent(""), "  \n");
    }
}
