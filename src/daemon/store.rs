//! Opens the store that the configuration names. Nothing else depends on its kind.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;

use super::notify;
use crate::config;
use crate::control::process;
use crate::engine::clock::Stopwatch;
use crate::metrics::Metrics;
use crate::plan::Plan;
use crate::store::Store;
use crate::store::postgres::{self, ConnectError, Pool, Postgres};
use crate::store::sled::{self, Sled};

/// While the store is being opened, a line is logged after this time and whenever the time has doubled: opening for
/// an hour logs ten lines.
const FIRST_PROGRESS: Duration = Duration::from_secs(5);

/// The pause between two attempts to reach the database at the start.
const RETRY: Duration = Duration::from_secs(1);

/// Opens the store. Extends systemd's start timeout meanwhile, because a large store is audited first, and a database
/// may be away.
///
/// # Errors
/// When it cannot be opened without an operator.
pub async fn open(plan: &Plan, metrics: &Metrics) -> anyhow::Result<Arc<dyn Store>> {
    let place = plan.store.place();
    tracing::info!(store = %place, "opening the store {place}");
    let stopwatch = Stopwatch::start();
    let store = match &plan.store.database {
        None => open_folder(plan, metrics, &place, &stopwatch).await?,
        Some(database) => open_database(plan, database, metrics, &place, &stopwatch).await?,
    };
    let took_ms = stopwatch.elapsed().as_millis();
    tracing::info!(store = %place, took_ms, "opened the store {place} in {took_ms} ms");
    for finding in store.health().findings {
        tracing::warn!("store: {finding}");
    }
    Ok(store)
}

/// A carrier must get a 503 before its request times out.
fn answer_within(plan: &Plan) -> Duration {
    plan.server
        .request_timeout
        .mul_f64(0.8)
        .min(Duration::from_secs(10))
}

async fn open_folder(
    plan: &Plan,
    metrics: &Metrics,
    place: &str,
    stopwatch: &Stopwatch,
) -> anyhow::Result<Arc<dyn Store>> {
    let mut options = sled::Options::new(&plan.store.path, plan.store.min_free);
    options.commits = Some(metrics.store_commit.clone());
    options.commit_deadline = options.commit_deadline.min(answer_within(plan));
    let opening = tokio::task::spawn_blocking(move || Sled::open(&options));
    let why = || "all of it is read and verified".to_owned();
    let store = patiently(opening, place, stopwatch, why).await;
    let store = store.context("opening the store was interrupted")?;
    Ok(Arc::new(store.map_err(|error| {
        anyhow::anyhow!("the store cannot be opened: {error}")
    })?))
}

async fn open_database(
    plan: &Plan,
    database: &config::Database,
    metrics: &Metrics,
    place: &str,
    stopwatch: &Stopwatch,
) -> anyhow::Result<Arc<dyn Store>> {
    if let Some(folder) = plan.admin.socket.parent() {
        // By default the socket is in the folder of the store on disk, which nothing else creates here.
        std::fs::create_dir_all(folder).with_context(|| {
            format!(
                "the folder of `admin.socket` cannot be created: {}",
                folder.display()
            )
        })?;
    }
    let (pool, node) = pool(database)?;
    let reason = std::sync::Mutex::new(String::new());
    let why = || reason.lock().map(|reason| reason.clone()).unwrap_or_default();
    let opening = async {
        loop {
            let mut connection = match pool.get().await {
                Ok(connection) => connection,
                Err(ConnectError::Unavailable(why)) => {
                    if let Ok(mut reason) = reason.lock() {
                        *reason = why;
                    }
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
                Err(error @ ConnectError::Refused(_)) => anyhow::bail!("the store cannot be opened: {error}"),
            };
            let migrated = postgres::migrate(&mut connection)
                .await
                .context("the store cannot be opened")?;
            if migrated.from != migrated.to {
                tracing::info!(
                    "migrated the database from schema version {} to {}",
                    migrated.from,
                    migrated.to
                );
            }
            drop(connection);
            let options = postgres::Options {
                pool: pool.clone(),
                node: node.clone(),
                lease: database.lane_lease,
                fingerprint: plan.fingerprint(),
                answer_within: answer_within(plan),
                commits: Some(metrics.store_commit.clone()),
            };
            return Postgres::open(options)
                .await
                .context("the store cannot be opened");
        }
    };
    let store = patiently(opening, place, stopwatch, why).await?;
    tracing::info!(node = %node, "this daemon is node {node}");
    Ok(Arc::new(store))
}

/// The connections to a database, and the name of this daemon.
///
/// # Errors
/// When the configuration is invalid, or gives no name and the host has none.
pub fn pool(database: &config::Database) -> anyhow::Result<(Pool, String)> {
    let address = database
        .address()
        .map_err(|error| anyhow::anyhow!("store: {error}"))?;
    let node = match &database.node {
        Some(node) => node.to_string(),
        None => process::host_name().context("the host has no usable name; set `store.node`")?,
    };
    let pool = Pool::new(address, &node, database.synchronous_commit, database.pool);
    Ok((pool, node))
}

/// Waits for the store, and meanwhile logs why it takes long.
async fn patiently<T>(
    opening: impl Future<Output = T>,
    place: &str,
    stopwatch: &Stopwatch,
    why: impl Fn() -> String,
) -> T {
    tokio::pin!(opening);
    let mut extension = tokio::time::interval(Duration::from_secs(5));
    let mut told = FIRST_PROGRESS;
    loop {
        tokio::select! {
            opened = &mut opening => return opened,
            _ = extension.tick() => notify::going_on("opening the store", Duration::from_secs(20)),
        }
        let elapsed = stopwatch.elapsed();
        if elapsed >= told {
            tracing::info!(
                "still opening the store {place} after {} s: {}",
                elapsed.as_secs(),
                why()
            );
            told = elapsed * 2;
        }
    }
}
