//! `smsbridge message`: the stored messages.

use clap::{Args, Subcommand};

use super::client::Daemon;
use super::table::{Table, fields};
use super::{Exit, Global, Stop, delivery, moment, paint, print};
use crate::control::view::{MessageView, Page, Touched};
use crate::message::{Media, MessageId, Name, Timestamp};
use crate::template::{one_line, visible};

/// What there is to do with messages.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// List them, newest first
    List(List),
    /// Show one in full, with everything that was tried
    Show {
        /// Its id
        #[arg(value_parser = message_id)]
        id: MessageId,
    },
    /// Owe one again, to whom it was owed before or to others
    Resend {
        /// Its id
        #[arg(value_parser = message_id)]
        id: MessageId,
        /// To these destinations instead
        #[arg(long, value_name = "NAME", num_args = 1..)]
        destination: Vec<Name>,
    },
}

/// Which messages. All conditions given must hold.
#[derive(Debug, Args)]
pub struct List {
    /// Sender, exact or with `*` at one end
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    from: Option<String>,
    /// Receiver, the same way
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    to: Option<String>,
    /// Part of the text, in any case
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    text: Option<String>,
    /// The source it came from
    #[arg(long, value_name = "NAME")]
    source: Option<Name>,
    /// What became of it
    #[arg(long, value_parser = ["pending", "delivered", "dead", "kept", "unrouted"])]
    state: Option<String>,
    /// Received at or after this: RFC 3339, or how long ago (2h, 3d)
    #[arg(long, value_name = "WHEN", value_parser = moment::parse)]
    since: Option<Timestamp>,
    /// Received before this
    #[arg(long, value_name = "WHEN", value_parser = moment::parse)]
    until: Option<Timestamp>,
    #[command(flatten)]
    paging: Paging,
}

/// Which part of a long list.
#[derive(Debug, Args)]
pub struct Paging {
    /// At most this many
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=500))]
    limit: u16,
    /// Go on after the page that gave this
    #[arg(long, value_name = "CURSOR")]
    cursor: Option<u64>,
}

impl Paging {
    /// As parameters of the API.
    pub(super) fn query(&self) -> [(&'static str, Option<String>); 2] {
        [
            ("limit", Some(self.limit.to_string())),
            ("cursor", self.cursor.map(|cursor| cursor.to_string())),
        ]
    }
}

pub(super) fn run(global: &Global, action: &Action) -> Result<Exit, Stop> {
    let daemon = Daemon::find(global)?;
    match action {
        Action::List(list) => self::list(global, &daemon, list),
        Action::Show { id } => show(global, &daemon, *id),
        Action::Resend { id, destination } => resend(global, &daemon, *id, destination),
    }
}

/// As a whole: the beginnings of ids are times, and alike.
fn message_id(text: &str) -> Result<MessageId, String> {
    text.parse()
        .map_err(|_| "a message id has 32 hexadecimal digits".to_owned())
}

/// How to see more, where it does not disturb who reads the list.
pub(super) fn say_next<T>(page: &Page<T>) {
    if let Some(cursor) = &page.next {
        print::remark(&format!("there are more: add --cursor {}", one_line(cursor)));
    }
}

fn list(global: &Global, daemon: &Daemon, list: &List) -> Result<Exit, Stop> {
    let mut query = vec![
        ("from", list.from.clone()),
        ("to", list.to.clone()),
        ("text", list.text.clone()),
        ("source", list.source.as_ref().map(Name::to_string)),
        ("state", list.state.clone()),
        ("since", list.since.map(|since| since.to_string())),
        ("until", list.until.map(|until| until.to_string())),
    ];
    query.extend(list.paging.query());
    let answer = daemon.get("/messages", &query)?;
    if global.json {
        print::document(answer.raw())?;
        return Ok(Exit::Done);
    }
    let page: Page<MessageView> = answer.read()?;
    let now = moment::now();
    let mut table = Table::new(&["ID", "RECEIVED", "STATE", "FROM", "TO", "TEXT"]);
    for message in &page.items {
        table.row(
            paint::of_state(message.state),
            [
                message.id.to_string(),
                moment::relative(message.received_at, now),
                delivery::state(message.state).to_owned(),
                message.from.clone(),
                message.to.clone(),
                summary(message),
            ],
        );
    }
    table.print("no message is like that")?;
    say_next(&page);
    Ok(Exit::Done)
}

/// The text, and that there is more than text.
fn summary(message: &MessageView) -> String {
    match (message.redacted_at, message.media.len()) {
        (Some(_), _) => "(forgotten)".to_owned(),
        (None, 0) => message.text.clone(),
        (None, 1) => format!("{} (1 attachment)", message.text),
        (None, many) => format!("{} ({many} attachments)", message.text),
    }
}

fn show(global: &Global, daemon: &Daemon, id: MessageId) -> Result<Exit, Stop> {
    let answer = daemon.get(&format!("/messages/{id}"), &[])?;
    if global.json {
        print::document(answer.raw())?;
    } else {
        print::text(&describe(&answer.read()?, moment::now()))?;
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
        ("received", Some(moment::exact(message.received_at, now))),
        ("from", Some(named(&message.from, message.from_name.as_deref()))),
        ("to", Some(named(&message.to, message.to_name.as_deref()))),
        ("source", Some(message.source.to_string())),
        ("provider id", Some(message.provider_id.clone())),
        ("routes", Some(routes)),
        ("state", Some(delivery::state(message.state).to_owned())),
        ("forgotten", message.redacted_at.map(|at| moment::exact(at, now))),
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
                .map(|owed| delivery::brief(owed, now))
                .collect::<String>(),
        );
    }
    shown
}

fn section(title: &str, content: &str) -> String {
    format!("\n{}\n{content}", paint::on_stdout(paint::DIM, title))
}

/// Indented, so that no line of a text looks like one of ours.
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

fn resend(global: &Global, daemon: &Daemon, id: MessageId, destinations: &[Name]) -> Result<Exit, Stop> {
    let body = serde_json::json!({ "destinations": destinations });
    let answer = daemon.post(&format!("/messages/{id}/resend"), &body)?;
    if global.json {
        print::document(answer.raw())?;
        return Ok(Exit::Done);
    }
    let touched: Touched = answer.read()?;
    let ids: String = touched.ids.iter().map(|id| format!("  {id}\n")).collect();
    print::text(&format!("{} owed:\n{ids}", delivery::count(touched.deliveries)))?;
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_line_of_a_text_looks_like_ours() {
        let text = visible("hi\r\nstate        delivered\u{1b}[2J");
        assert_eq!(indent(&text), "  hi\n  state        delivered[U+001B][2J\n");
        assert_eq!(indent(""), "  \n");
    }
}
