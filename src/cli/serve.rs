//! `smsbridge serve`: runs the daemon in the foreground and handles signals.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::service::Places;
use super::{Exit, Global, check};
use crate::config::{Outside, Problems, Purpose};
use crate::daemon::{Daemon, Sockets, Start, log, notify, store};
use crate::engine::clock::Clock;
use crate::metrics::Metrics;
use crate::plan::{self, Loaded, Loader, Plan};

/// The interval of the health checks of the store.
const PULSE: Duration = Duration::from_millis(500);

/// A commit that takes this long stops the watchdog notifications.
const COMMIT_DEAD: Duration = Duration::from_secs(20);

/// Threads for reading the store and files. `TasksMax` of the unit allows for these and for name lookups.
const BLOCKING_MAX: usize = 64;

pub(super) fn run(global: &Global) -> anyhow::Result<Exit> {
    if let Err(refused) = Places::find(global).refuse_by_hand() {
        return Ok(refused.print());
    }
    let Loaded { plan, warnings } = match check::load(global, Purpose::Serve) {
        Ok(loaded) => loaded,
        Err(exit) => return Ok(exit),
    };
    super::keep_files_private();
    let metrics = Arc::new(Metrics::default());
    let flush = log::start(&plan.log, global.louder(), metrics.log.clone())?;
    warn(&warnings);
    let exit = run_logging(global, plan, metrics).unwrap_or_else(|error| {
        // Not written to standard error like the errors of other commands: a blocked reader would keep the process
        // alive.
        tracing::error!("{error:#}");
        Exit::Failed
    });
    drop(flush);
    Ok(exit)
}

fn run_logging(global: &Global, plan: Plan, metrics: Arc<Metrics>) -> anyhow::Result<Exit> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_MAX)
        .build()
        .context("no async runtime")?;
    let exit = runtime.block_on(serve(global, plan, metrics));
    // Only reads or lookups that hang are still running, and their results are not needed.
    runtime.shutdown_background();
    exit
}

async fn serve(global: &Global, plan: Plan, metrics: Arc<Metrics>) -> anyhow::Result<Exit> {
    let mut signals = Signals::listen()?;
    let sockets = Sockets::passed()?;
    // Opening a store on disk is not interrupted, because it soon ends.
    let may_wait = plan.store.database.is_some();
    let store = tokio::select! {
        store = store::open(&plan, &metrics) => store?,
        () = signals.end.recv(), if may_wait => {
            tracing::info!("stopped before the database was available");
            return Ok(Exit::Done);
        }
    };
    let clock = Clock::system();
    let daemon = Daemon::start(Start {
        plan,
        loader: loader(global),
        clock,
        store,
        metrics,
        sockets,
    })
    .await?;
    let addresses: Vec<String> = daemon
        .public_addresses()
        .iter()
        .map(ToString::to_string)
        .collect();
    let status = format!("listening on {}", addresses.join(" and "));
    let config = Places::find(global).config;
    announce(&daemon, &config, &status).await;
    let exit = attend(&daemon, &mut signals, &status).await;
    notify::stopping();
    tracing::info!("stopping");
    let mut stop = Box::pin(daemon.stop());
    let stopped = tokio::select! {
        stopped = &mut stop => stopped,
        () = signals.end.recv() => {
            tracing::warn!("second signal: stopping immediately; attempts in progress are aborted, their deliveries stay pending and are sent again");
            // A normal exit would run destructors that wait for the disk. Everything acknowledged is already on disk.
            std::mem::forget(stop);
            return Ok(exit);
        }
    };
    match stopped {
        Ok(()) => {}
        Err(error) if exit == Exit::StoreFailed => tracing::debug!("{error:#}"),
        Err(error) => {
            tracing::error!(
                "the store failed while the daemon stopped; check the disk, then start it again: {error:#}"
            );
            return Ok(Exit::StoreFailed);
        }
    }
    tracing::info!("stopped");
    Ok(exit)
}

async fn announce(daemon: &Daemon, config: &Path, status: &str) {
    let plan = daemon.control().plan();
    for (name, source) in &plan.sources {
        for address in daemon.public_addresses() {
            tracing::info!(source = %name, "source {name} receives webhooks on {}://{address}{}", plan.scheme(), source.path);
        }
    }
    let pending = daemon.control().pending().await.unwrap_or_default();
    let health = daemon.store_health();
    if health.full {
        let space = health.space();
        tracing::warn!(
            pending,
            "not ready: {status}, but {space}; new messages are answered 503 until then; {pending} deliveries pending from \
             the previous run"
        );
    } else {
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            config = %config.display(),
            store = %plan.store.place(),
            destinations = plan.destinations.len(),
            routes = plan.routes.all().len(),
            pending,
            "ready: {status}; {pending} deliveries pending from the previous run"
        );
    }
    notify::ready(status);
}

/// Runs until a stop signal: reloads on SIGHUP, notifies the watchdog, and ends when the store has failed.
async fn attend(daemon: &Daemon, signals: &mut Signals, status: &str) -> Exit {
    let mut pulse = tokio::time::interval(PULSE);
    let mut watchdog = notify::watchdog_interval().map(tokio::time::interval);
    // A reload reads files, which may not respond. Everything else continues meanwhile.
    let mut reloading = None;
    loop {
        tokio::select! {
            () = signals.end.recv() => return Exit::Done,
            _ = signals.hang_up.recv(), if reloading.is_none() => {
                reloading = Some(Box::pin(reload(daemon, status)));
            }
            () = ended(&mut reloading) => reloading = None,
            _ = pulse.tick() => {
                if let Some(failed) = daemon.store_health().failed {
                    tracing::error!("the store failed and no more messages can be stored; the daemon exits; check the disk, then start it again: {failed}");
                    return Exit::StoreFailed;
                }
            }
            () = tick(&mut watchdog) => {
                if daemon.store_health().commit_running.is_none_or(|running| running < COMMIT_DEAD) {
                    notify::alive();
                }
            }
        }
    }
}

async fn tick(interval: &mut Option<tokio::time::Interval>) {
    match interval {
        Some(interval) => {
            interval.tick().await;
        }
        None => std::future::pending().await,
    }
}

async fn ended(task: &mut Option<impl Future<Output = ()> + Unpin>) {
    match task {
        Some(task) => task.await,
        None => std::future::pending().await,
    }
}

async fn reload(daemon: &Daemon, status: &str) {
    notify::reloading();
    // Every reload logs its result.
    let _ = daemon.control().reload().await;
    notify::ready(status);
}

struct Signals {
    end: End,
    hang_up: Signal,
    /// Never read: while a handler is installed, a write beyond RLIMIT_FSIZE is an error and does not kill the
    /// process.
    _file_size: Signal,
}

/// SIGTERM and SIGINT.
struct End {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> anyhow::Result<Self> {
        let of = |kind| signal(kind).context("signals cannot be received");
        Ok(Self {
            end: End {
                terminate: of(SignalKind::terminate())?,
                interrupt: of(SignalKind::interrupt())?,
            },
            hang_up: of(SignalKind::hangup())?,
            _file_size: of(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw()))?,
        })
    }
}

impl End {
    async fn recv(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

fn loader(global: &Global) -> Loader {
    let path = Places::find(global).config;
    Loader::new(&path.clone(), move |reading, old| {
        let outside = Outside::of_process().watched(reading.clone());
        plan::load(&path, Purpose::Serve, &outside, old)
    })
}

fn warn(warnings: &Problems) {
    for problem in warnings.all() {
        tracing::warn!("{}", warnings.place(problem));
    }
}
