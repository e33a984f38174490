//! The schema: numbered migrations, run under a lock so that daemons can start at the same time.
//!
//! A migration only adds what the previous program version can ignore; a later one removes what no version uses any
//! more. So a new and an old version work on one schema while daemons are replaced one by one.

use tokio_postgres::Transaction;
use tokio_postgres::error::SqlState;

use super::pool::Connection;
use super::session::described;

/// The migrations, the first of them number 1.
const MIGRATIONS: [&str; 2] = [include_str!("schema/0001.sql"), include_str!("schema/0002.sql")];

/// The version that this program needs.
pub const VERSION: i32 = MIGRATIONS.len() as i32;

/// The oldest version that a program must know to work with the schema after the migrations.
const READABLE_BY: i32 = 1;

/// The advisory lock of the migrations: `smsbridg` in ASCII.
const LOCK: i64 = 0x736d_7362_7269_6467;

/// Why the schema cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SchemaError {
    /// A newer version of the program has migrated the database.
    #[error(
        "the database has schema version {found}, this version of smsbridge reads up to {VERSION}: use the newer version"
    )]
    Newer {
        /// The version of the database.
        found: i32,
    },
    /// The user may not create tables.
    #[error("{0}: the user must own the database, or a schema in its search_path")]
    Forbidden(String),
    /// Any other error of the database.
    #[error("{0}")]
    Failed(String),
}

/// The result of the migrations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Migrated {
    /// The version before; 0 for an empty database.
    pub from: i32,
    /// The version now.
    pub to: i32,
}

/// The version of the schema; 0 for an empty database.
///
/// # Errors
/// Errors of the database.
pub async fn version(connection: &Connection) -> Result<i32, SchemaError> {
    let exists = connection
        .query_one("SELECT to_regclass('smsbridge_schema') IS NOT NULL", &[])
        .await;
    let exists: bool = exists
        .and_then(|row| row.try_get(0))
        .map_err(|error| failed(&error))?;
    if !exists {
        return Ok(0);
    }
    let row = connection
        .query_opt("SELECT version FROM smsbridge_schema", &[])
        .await;
    let version = row.and_then(|row| row.map(|row| row.try_get(0)).transpose());
    version
        .map(Option::unwrap_or_default)
        .map_err(|error| failed(&error))
}

/// Runs the migrations that the database lacks.
///
/// # Errors
/// When a newer version of the program has migrated it, or the database refuses.
pub async fn migrate(connection: &mut Connection) -> Result<Migrated, SchemaError> {
    run(connection, &MIGRATIONS, READABLE_BY).await
}

/// Creates the index for searching message bodies, if the extension `pg_trgm` is in the database. It makes
/// accepting messages slower, so the operator decides. Returns true if there is one now.
///
/// # Errors
/// Errors of the database.
pub async fn index_words(connection: &Connection) -> Result<bool, SchemaError> {
    let extension = "SELECT EXISTS (SELECT FROM pg_extension WHERE extname = 'pg_trgm')";
    let exists = connection.query_one(extension, &[]).await;
    let exists: bool = exists
        .and_then(|row| row.try_get(0))
        .map_err(|error| failed(&error))?;
    if exists {
        // The settings below must not apply to later users of the connection, so it is closed.
        connection.discard();
        for statement in [
            "SET statement_timeout = 0",
            "SET lock_timeout = 0",
            "CREATE INDEX CONCURRENTLY IF NOT EXISTS message_words ON message USING gin (folded gin_trgm_ops)",
        ] {
            connection
                .batch_execute(statement)
                .await
                .map_err(|error| failed(&error))?;
        }
    }
    Ok(exists)
}

async fn run(
    connection: &mut Connection,
    migrations: &[&str],
    readable_by: i32,
) -> Result<Migrated, SchemaError> {
    let latest = i32::try_from(migrations.len()).unwrap_or(i32::MAX);
    let transaction = connection.transaction().await.map_err(|error| failed(&error))?;
    let migrated = within(&transaction, migrations, latest, readable_by).await?;
    if migrated.from != migrated.to {
        transaction.commit().await.map_err(|error| failed(&error))?;
    }
    Ok(migrated)
}

async fn within(
    transaction: &Transaction<'_>,
    migrations: &[&str],
    latest: i32,
    readable_by: i32,
) -> Result<Migrated, SchemaError> {
    let failed = |error: tokio_postgres::Error| failed(&error);
    // Waits without a limit, because another daemon may be running a long migration.
    let begin = format!(
        "SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0; SELECT pg_advisory_xact_lock({LOCK})"
    );
    transaction.batch_execute(&begin).await.map_err(failed)?;
    // `to_regclass` may still not see the table that the transaction before created.
    let table = "CREATE TABLE IF NOT EXISTS smsbridge_schema (version integer NOT NULL, readable_by integer NOT NULL); \
                 INSERT INTO smsbridge_schema SELECT 0, 0 WHERE NOT EXISTS (SELECT FROM smsbridge_schema)";
    transaction.batch_execute(table).await.map_err(failed)?;
    let row = transaction
        .query_one("SELECT version, readable_by FROM smsbridge_schema", &[])
        .await
        .map_err(failed)?;
    let (from, needed): (i32, i32) = row
        .try_get(0)
        .and_then(|from| Ok((from, row.try_get(1)?)))
        .map_err(failed)?;
    if needed > latest {
        return Err(SchemaError::Newer { found: from });
    }
    let done = usize::try_from(from).unwrap_or_default();
    for migration in migrations.iter().skip(done) {
        transaction.batch_execute(migration).await.map_err(failed)?;
    }
    let to = from.max(latest);
    if to != from {
        let update = "UPDATE smsbridge_schema SET version = $1, readable_by = $2";
        transaction
            .execute(update, &[&to, &readable_by])
            .await
            .map_err(failed)?;
    }
    Ok(Migrated { from, to })
}

fn failed(error: &tokio_postgres::Error) -> SchemaError {
    match error.code() {
        Some(code) if *code == SqlState::INSUFFICIENT_PRIVILEGE => SchemaError::Forbidden(described(error)),
        _ => SchemaError::Failed(described(error)),
    }
}
