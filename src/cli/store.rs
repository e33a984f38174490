//! `smsbridge store`: creates, migrates and shows the database of the store.

use clap::Subcommand;

use super::service::Places;
use super::table::{Table, fields};
use super::{CommandError, Exit, Global, print, style};
use crate::config::Database;
use crate::daemon::store::pool;
use crate::store::postgres::{self, ConnectError, Connection, Overview, Pool, SchemaError};

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Create the tables in an empty database
    Init,
    /// Bring the tables to the version of this program; a daemon does the same when it starts
    Migrate,
    /// Show the server, the tables, and which daemon serves which destination; needs no daemon
    Status,
}

pub(super) fn run(global: &Global, action: &Action) -> Result<Exit, CommandError> {
    let places = Places::find(global);
    let store = places.read(&["store"])?.store;
    let Some(database) = &store.database else {
        return Err(CommandError::wrong(format!(
            "the store {} is a folder, which the daemon creates and migrates itself; `smsbridge store` is for \
             `kind = \"postgres\"`",
            store.path.display()
        )));
    };
    run_with(database, async |pool, _| {
        let mut connection = pool.get().await.map_err(|error| explain(&error))?;
        match action {
            Action::Init => init(global, &mut connection).await,
            Action::Migrate => migrate(global, &mut connection).await,
            Action::Status => status(global, database, &connection).await,
        }
    })
}

/// Runs something with the connections to the database.
pub(super) fn run_with<T>(
    database: &Database,
    work: impl AsyncFnOnce(Pool, String) -> Result<T, CommandError>,
) -> Result<T, CommandError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| CommandError::failed(format!("no async runtime: {error}")))?;
    let result = runtime.block_on(async {
        let (pool, node) = pool(database)?;
        work(pool, node).await
    });
    // A name lookup that hangs may still be running, and its result is not needed.
    runtime.shutdown_background();
    result
}

fn explain(error: &ConnectError) -> CommandError {
    match error {
        ConnectError::Refused(_) => CommandError::refused(error.to_string()),
        ConnectError::Unavailable(_) => CommandError::failed(error.to_string()),
    }
}

impl From<SchemaError> for CommandError {
    fn from(error: SchemaError) -> Self {
        match error {
            SchemaError::Newer { .. } | SchemaError::Forbidden(_) => Self::refused(error.to_string()),
            SchemaError::Failed(_) => Self::failed(error.to_string()),
        }
    }
}

async fn init(global: &Global, connection: &mut Connection) -> Result<Exit, CommandError> {
    let found = postgres::version(connection).await?;
    if found > 0 {
        return Err(CommandError::refused(format!(
            "the database already has tables, of schema version {found}"
        )));
    }
    let migrated = postgres::migrate(connection).await?;
    postgres::index_words(connection).await?;
    report(
        global,
        migrated,
        format!("created the tables, schema version {}", migrated.to),
    )
}

async fn migrate(global: &Global, connection: &mut Connection) -> Result<Exit, CommandError> {
    if postgres::version(connection).await? == 0 {
        return Err(CommandError::refused(
            "the database has no tables: create them with `smsbridge store init`",
        ));
    }
    let migrated = postgres::migrate(connection).await?;
    postgres::index_words(connection).await?;
    let words = match migrated.from == migrated.to {
        true => format!("nothing to do: the database has schema version {}", migrated.to),
        false => format!(
            "migrated from schema version {} to {}",
            migrated.from, migrated.to
        ),
    };
    report(global, migrated, words)
}

fn report(global: &Global, migrated: postgres::Migrated, words: String) -> Result<Exit, CommandError> {
    if global.json {
        print::json(&serde_json::json!({ "from": migrated.from, "to": migrated.to }))?;
    } else {
        print::text(&(words + "\n"))?;
    }
    Ok(Exit::Done)
}

/// A daemon that has not reported for this many seconds is not running.
const SILENT: i64 = 30;

async fn status(global: &Global, database: &Database, connection: &Connection) -> Result<Exit, CommandError> {
    let schema = postgres::version(connection).await?;
    let overview = Overview::read(connection, schema)
        .await
        .map_err(CommandError::failed)?;
    if global.json {
        print::json(&overview)?;
        return Ok(Exit::Done);
    }
    let hosts = database
        .address()
        .map(|address| address.hosts())
        .map_err(CommandError::failed)?;
    let size = bytesize::ByteSize(overview.bytes.try_into().unwrap_or_default())
        .display()
        .iec()
        .to_string();
    let standbys = match overview.synchronous_standbys.as_str() {
        "" => "no synchronous standby".to_owned(),
        names => format!("synchronous standbys {names}"),
    };
    let schema = match overview.schema {
        0 => "none; create the tables with `smsbridge store init`".to_owned(),
        version if version == postgres::VERSION => version.to_string(),
        version => format!("{version}, this program has version {}", postgres::VERSION),
    };
    print::text(&fields(&[
        ("server", Some(format!("PostgreSQL {}, {hosts}", overview.server))),
        ("schema", Some(schema)),
        ("size", Some(size)),
        (
            "commit",
            Some(format!(
                "synchronous_commit = {}, {standbys}",
                overview.synchronous_commit
            )),
        ),
    ]))?;
    nodes(&overview)?;
    lanes(&overview)
}

fn nodes(overview: &Overview) -> Result<(), CommandError> {
    let header = ["NODE", "VERSION", "CONFIGURATION", "RUNNING FOR", "LAST SEEN"];
    let mut table = Table::new(&header).whole(&[0]).optional(&[3]);
    for node in &overview.nodes {
        let style = match node.seen > SILENT {
            true => style::WARNING,
            false => anstyle::Style::new(),
        };
        table.row(
            style,
            [
                node.name.clone(),
                node.version.clone(),
                node.configuration.clone(),
                duration(node.up),
                format!("{} ago", duration(node.seen)),
            ],
        );
    }
    print::text("\n")?;
    table.print("no daemon has used the database")?;
    let mut running = overview.nodes.iter().filter(|node| node.seen <= SILENT);
    let first = running.next();
    if running.any(|node| first.is_some_and(|first| first.configuration != node.configuration)) {
        print::remark("the daemons have different configurations");
    }
    Ok(())
}

fn lanes(overview: &Overview) -> Result<Exit, CommandError> {
    let mut table = Table::new(&["DESTINATION", "SERVED BY", "FOR", "PENDING", "PAUSED"])
        .whole(&[0, 1])
        .right(&[3]);
    for lane in &overview.lanes {
        table.row(
            anstyle::Style::new(),
            [
                lane.destination.clone(),
                lane.node.clone().unwrap_or_else(|| "-".to_owned()),
                lane.since.map_or_else(|| "-".to_owned(), duration),
                lane.pending.to_string(),
                if lane.paused { "yes" } else { "no" }.to_owned(),
            ],
        );
    }
    print::text("\n")?;
    table.print("no destination has been served")?;
    Ok(Exit::Done)
}

/// Seconds in words, with the two largest units.
fn duration(seconds: i64) -> String {
    let seconds = seconds.try_into().unwrap_or_default();
    let seconds = match seconds {
        0..3600 => seconds,
        3600..86400 => seconds / 60 * 60,
        _ => seconds / 3600 * 3600,
    };
    humantime::format_duration(std::time::Duration::from_secs(seconds)).to_string()
}
