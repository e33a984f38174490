//! `smsbridge intelepeer webhook`: shows and sets the webhooks of numbers.

use std::time::Duration;

use clap::{Args, Subcommand};
use tokio::time::Instant;

use super::account::{Account, Which};
use super::report::{self, Action as Done, Line};
use crate::cli::{CommandError, Exit, Global, client, print, prompt};
use crate::model::secret::Secret;
use crate::source::intelepeer::api::{self, Client, Outcome, Row, State, mask_url};

/// The interval between two checks of the progress.
const WATCH_PAUSE: Duration = Duration::from_secs(2);

/// The maximum duration of the wait.
const WATCH_MAX: Duration = Duration::from_secs(10 * 60);

/// The actions on webhooks.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Show the current webhooks of numbers
    Get {
        /// The numbers [default: those in `api.numbers`]
        #[arg(value_name = "NUMBER", value_parser = endpoint)]
        numbers: Vec<String>,
        #[command(flatten)]
        which: Which,
    },
    /// Point numbers at this bridge, or at another URL
    Set {
        /// The numbers
        #[arg(value_name = "NUMBER", required = true, value_parser = endpoint)]
        numbers: Vec<String>,
        /// The webhook URL [default: `server.public_url` and the source's path, with its `basic_auth`]
        #[arg(long, value_name = "URL")]
        url: Option<String>,
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        care: Care,
    },
    /// Make every number in `api.numbers` point at this bridge; changes only those that do not
    Sync {
        /// Only show what would change
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        care: Care,
    },
}

/// The options of a change.
#[derive(Debug, Args)]
pub struct Care {
    /// Do not ask for confirmation
    #[arg(long)]
    yes: bool,
    /// Wait until the provider has activated the change, at most ten minutes
    #[arg(long)]
    watch: bool,
}

pub(super) fn run(global: &Global, action: &Action) -> Result<Exit, CommandError> {
    match action {
        Action::Get { numbers, which } => get(global, numbers, which),
        Action::Set {
            numbers,
            url,
            which,
            care,
        } => set(global, numbers, url.as_deref(), which, care),
        Action::Sync { dry_run, which, care } => sync(global, *dry_run, which, care),
    }
}

fn endpoint(text: &str) -> Result<String, String> {
    api::endpoint(text).map_err(|error| error.to_string())
}

/// Parsed here and not by clap, whose errors repeat the argument: it may contain a password.
fn web_url(text: &str) -> Result<Secret, CommandError> {
    let url =
        url::Url::parse(text).map_err(|error| CommandError::wrong(format!("--url is not a URL: {error}")))?;
    if matches!(url.scheme(), "http" | "https") {
        Ok(Secret::new(text))
    } else {
        Err(CommandError::wrong(
            "--url must begin with `https://` or `http://`",
        ))
    }
}

fn get(global: &Global, numbers: &[String], which: &Which) -> Result<Exit, CommandError> {
    let account = Account::open(global, which)?;
    let numbers = match numbers {
        [] => account.numbers()?,
        numbers => numbers.to_vec(),
    };
    let (client, wanted) = (account.client()?, account.webhook_url()?);
    let outcomes = client::runtime()?.block_on(client.get(&numbers));
    let rows = report::rows(wanted.as_ref(), outcomes);
    let lines: Vec<Line> = rows.into_iter().map(Line::seen).collect();
    report::print(global, &lines, report::found)
}

fn set(
    global: &Global,
    numbers: &[String],
    url: Option<&str>,
    which: &Which,
    care: &Care,
) -> Result<Exit, CommandError> {
    let account = Account::open(global, which)?;
    let client = account.client()?;
    let url = match url {
        Some(url) => web_url(url)?,
        None => account.wanted_url()?,
    };
    agree(numbers, &url, care)?;
    let lines = client::runtime()?.block_on(point(&client, numbers, &url, care.watch));
    report::print(global, &lines, report::changed)
}

fn sync(global: &Global, dry_run: bool, which: &Which, care: &Care) -> Result<Exit, CommandError> {
    let account = Account::open(global, which)?;
    let (client, wanted, numbers) = (account.client()?, account.wanted_url()?, account.numbers()?);
    let runtime = client::runtime()?;
    let found = runtime.block_on(client.get(&numbers));
    let mut lines = difference(&wanted, found);
    let to_set: Vec<String> = lines
        .iter()
        .filter(|line| line.action == Done::WouldSet)
        .map(|line| line.row.number.clone())
        .collect();
    if dry_run || to_set.is_empty() {
        return report::print(global, &lines, report::changed);
    }
    if !global.json {
        report::changed(&lines).print("no number is configured")?;
    }
    agree(&to_set, &wanted, care)?;
    for after in runtime.block_on(point(&client, &to_set, &wanted, care.watch)) {
        if let Some(line) = lines.iter_mut().find(|line| line.row.number == after.row.number) {
            *line = after;
        }
    }
    report::print(global, &lines, report::changed)
}

/// The change that each number needs.
fn difference(wanted: &Secret, found: Vec<(String, Outcome)>) -> Vec<Line> {
    let known: Vec<bool> = found
        .iter()
        .map(|(_, outcome)| matches!(outcome, Outcome::Known(_)))
        .collect();
    let lines = report::rows(Some(wanted), found).into_iter().zip(known);
    lines
        .map(|(row, known)| {
            let action = match (known, in_order(&row)) {
                (false, _) => Done::Failed,
                (true, true) => Done::Unchanged,
                (true, false) => Done::WouldSet,
            };
            Line { row, action }
        })
        .collect()
}

/// Returns true if a number has the right webhook and it is going to stay.
fn in_order(row: &Row) -> bool {
    let leaving = matches!(
        row.state,
        Some(State::Error | State::Derequested | State::Deprovisioning)
    );
    row.ours && !leaving
}

fn agree(numbers: &[String], url: &Secret, care: &Care) -> Result<(), CommandError> {
    let (messages, these) = match numbers {
        [one] => (format!("messages for {one}"), "this number's"),
        many => (
            format!("messages for {} numbers ({})", many.len(), many.join(", ")),
            "these numbers'",
        ),
    };
    let consequence = format!(
        "From now on the provider sends {messages} to {}; {these} messages no longer go to the provider's own messaging platform.",
        mask_url(url.reveal())
    );
    if care.yes {
        print::remark(&consequence);
    }
    prompt::confirm(&format!("{consequence} Continue?"), care.yes)
}

/// Sets these numbers, and with `watch` waits until the change is active.
async fn point(client: &Client, numbers: &[String], url: &Secret, watch: bool) -> Vec<Line> {
    let rows = report::rows(Some(url), client.set(numbers, url).await);
    let mut lines: Vec<Line> = rows.into_iter().map(Line::set).collect();
    if watch {
        self::watch(client, url, &mut lines).await;
    }
    lines
}

/// Checks until every number that was set is provisioned or failed, or the time is over.
async fn watch(client: &Client, url: &Secret, lines: &mut [Line]) {
    let deadline = Instant::now() + WATCH_MAX;
    loop {
        let open: Vec<String> = lines
            .iter()
            .filter(|line| is_open(line))
            .map(|line| line.row.number.clone())
            .collect();
        if open.is_empty() {
            return;
        }
        if Instant::now() >= deadline {
            give_up(lines);
            return;
        }
        print::remark(&format!(
            "waiting for the provider to provision {}",
            open.join(", ")
        ));
        tokio::time::sleep(WATCH_PAUSE).await;
        for row in report::rows(Some(url), client.get(&open).await) {
            if let Some(line) = lines.iter_mut().find(|line| line.row.number == row.number) {
                *line = Line::watched(row);
            }
        }
    }
}

fn is_open(line: &Line) -> bool {
    line.action == Done::Set && line.row.state != Some(State::Provisioned)
}

fn give_up(lines: &mut [Line]) {
    for line in lines.iter_mut().filter(|line| is_open(line)) {
        line.action = Done::Failed;
        line.row.problem = Some("not active after ten minutes: check again later with `webhook get`".into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::intelepeer::api::Webhook;

    #[test]
    fn only_what_differs_is_changed() {
        let wanted = Secret::new("https://sms.example.com/in");
        let known = |url: &str, state| {
            Outcome::Known(Webhook {
                url: Some(url.to_owned()),
                state: Some(state),
            })
        };
        let here = "https://sms.example.com/in";
        for (outcome, action) in [
            (known(here, State::Provisioned), Done::Unchanged),
            (known(here, State::Provisioning), Done::Unchanged),
            (known(here, State::Error), Done::WouldSet),
            (known(here, State::Deprovisioning), Done::WouldSet),
            (
                known("https://other.example.com/", State::Provisioned),
                Done::WouldSet,
            ),
            (
                Outcome::Known(Webhook {
                    url: None,
                    state: None,
                }),
                Done::WouldSet,
            ),
            (Outcome::NotOurs("HTTP 404".into()), Done::Failed),
            (Outcome::Failed("HTTP 500".into()), Done::Failed),
        ] {
            let lines = difference(&wanted, vec![("+12161112222".to_owned(), outcome.clone())]);
            assert_eq!(lines[0].action, action, "{outcome:?}");
        }
    }

    #[test]
    fn a_wrong_url_is_not_repeated() {
        assert!(web_url("https://u:p@sms.example.com/in").is_ok());
        for wrong in ["ftp://u:canary@x/", "u:canary@x"] {
            assert!(!format!("{:?}", web_url(wrong)).contains("canary"));
        }
    }
}
