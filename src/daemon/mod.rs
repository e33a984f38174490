//! The daemon: wires everything together, reloads it, and stops it in reverse order.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::timekeeping::Timekeeper;
use crate::control::Control;
use crate::engine::catch_up::CatchingUp;
use crate::engine::checks::Checks;
use crate::engine::clock::Clock;
use crate::engine::events::Events;
use crate::engine::intake::Intake;
use crate::engine::joining::Joining;
use crate::engine::lanes::{LaneContext, Lanes};
use crate::engine::webhook_check;
use crate::engine::{following, node_check, retention};
use crate::metrics::Metrics;
use crate::plan::{Loader, Plan};
use crate::store::{Health, Store};
use crate::web::admin::{self, Admin, Capacity, Guard, Watching};
use crate::web::budget::Budget;
use crate::web::inbound::{self, Inbound};
use crate::web::serve::{Limits, serve};
use crate::web::tls;

mod admin_listeners;
mod drain;
pub mod log;
mod notices;
pub mod notify;
mod series;
mod sockets;
pub mod store;
mod timekeeping;

pub use sockets::Sockets;

/// How long operators' requests may take to end, after everything else.
const GRACE_ADMIN: Duration = Duration::from_secs(2);

/// The parts that a daemon starts with.
pub struct Start {
    /// The first plan.
    pub plan: Plan,
    /// Reads the configuration again at a reload.
    pub loader: Loader,
    /// The clock.
    pub clock: Clock,
    /// The store.
    pub store: Arc<dyn Store>,
    /// The metrics, including those of the store's commits.
    pub metrics: Arc<Metrics>,
    /// Sockets passed by the service manager, in place of those in the configuration.
    pub sockets: Sockets,
}

/// A running daemon.
pub struct Daemon {
    control: Arc<Control>,
    store: Arc<dyn Store>,
    lanes: Arc<Lanes>,
    public: Vec<SocketAddr>,
    socket: Option<admin_listeners::SocketFile>,
    stop_intake: CancellationToken,
    stop: CancellationToken,
    intake_tasks: TaskTracker,
    tasks: TaskTracker,
}

impl Daemon {
    /// Binds, then starts: when this returns, messages are accepted.
    ///
    /// # Errors
    /// The socket that could not be bound or the file that could not be read, with the next step.
    pub async fn start(start: Start) -> anyhow::Result<Self> {
        let Start {
            plan,
            loader,
            clock,
            store,
            metrics,
            sockets,
        } = start;
        let listeners = match sockets.public.is_empty() {
            true => vec![bind("server.listen", plan.server.listen).await?],
            false => adopt(sockets.public)?,
        };
        let (doors, socket) = admin_listeners::bind(&plan.admin, sockets.admin_unix, sockets.admin).await?;
        let public: io::Result<Vec<SocketAddr>> = listeners.iter().map(TcpListener::local_addr).collect();
        let public = public.context("a listening socket has no address")?;
        let limits = limits(&plan);
        let is_set_back = timekeeping::resume(&*store, &clock).await?;
        let (plan_sender, plan) = watch::channel(Arc::new(plan));

        let context = LaneContext {
            store: store.clone(),
            clock: clock.clone(),
            metrics: metrics.clone(),
            events: Events::default(),
        };
        let lanes = Lanes::new(context);
        let paused = store.paused().await.context("the store could not be read")?;
        lanes.resume(store.standings().await.context("the store could not be read")?);
        lanes.reconcile(&plan, Some(&paused));

        let checks = Checks::default();
        let control = Arc::new(Control::new(
            plan_sender,
            loader,
            store.clone(),
            lanes.clone(),
            clock.clone(),
            metrics.clone(),
            checks.clone(),
        ));
        let series = store.series().await.context("the store could not be read")?;
        metrics.series.resume(series.unwrap_or_default());
        control.observe().await.context("the store could not be read")?;
        let intake_tasks = TaskTracker::new();
        let intake = Intake::new(
            store.clone(),
            lanes.clone(),
            clock.clone(),
            metrics.clone(),
            intake_tasks.clone(),
        );
        let catching_up = CatchingUp {
            state: checks.catch_up.clone(),
            intake: intake.clone(),
            store: store.clone(),
            plan: plan.clone(),
        };
        let joining = Joining::new(intake, store.clone(), plan.clone());
        let inbound = Inbound {
            plan: plan.clone(),
            intake: joining.clone(),
            store: store.clone(),
            checks: checks.clone(),
            metrics: metrics.clone(),
            complaints: inbound::Complaints::default(),
            bodies: Budget::new(inbound::BODIES_BYTES),
        };
        let (stop_intake, stop) = (CancellationToken::new(), CancellationToken::new());
        let tasks = TaskTracker::new();
        let inbound = Arc::new(inbound);
        intake_tasks.spawn(serve(
            tls::Listener::new(listeners, inbound.clone()),
            inbound::filter(inbound),
            limits,
            stop_intake.clone(),
        ));
        tasks.spawn(webhook_check::watch(
            checks.webhooks,
            metrics.clone(),
            plan.clone(),
            stop.clone(),
        ));
        tasks.spawn(node_check::watch(checks.nodes, store.clone(), stop.clone()));
        let timekeeper = Timekeeper {
            store: store.clone(),
            lanes: lanes.clone(),
            clock: clock.clone(),
            plan: plan.clone(),
        };
        tasks.spawn(timekeeper.keep(is_set_back, stop.clone()));
        let pruning = retention::prune(store.clone(), plan, clock, stop.clone());
        tasks.spawn(prune_after_joining(joining.clone(), pruning, stop.clone()));
        tasks.spawn(joining.keep(stop.clone()));
        tasks.spawn(following::follow(store.clone(), lanes.clone(), stop.clone()));
        tasks.spawn(catching_up.keep(stop.clone()));
        tasks.spawn(notices::keep(control.clone(), store.clone(), stop.clone()));
        tasks.spawn(series::keep(
            control.clone(),
            store.clone(),
            metrics.clone(),
            stop.clone(),
        ));
        let capacity = Capacity::default();
        for door in doors {
            let admin = Admin {
                control: control.clone(),
                guard: Guard::new(door.token.clone(), metrics.clone()),
                watching: Watching::new(lanes.events().clone(), stop.clone()),
                capacity: capacity.clone(),
            };
            door.open(admin::filter(Arc::new(admin)), &tasks, &stop);
        }
        Ok(Self {
            control,
            store,
            lanes,
            public,
            socket,
            stop_intake,
            stop,
            intake_tasks,
            tasks,
        })
    }

    /// The addresses that accept carriers' webhooks.
    #[must_use]
    pub fn public_addresses(&self) -> &[SocketAddr] {
        &self.public
    }

    /// The queries and actions of operators.
    #[must_use]
    pub fn control(&self) -> &Arc<Control> {
        &self.control
    }

    /// The health of the store.
    #[must_use]
    pub fn store_health(&self) -> Health {
        self.store.health()
    }

    /// Stops in reverse order: first new messages and attempts, then those in flight, then the store.
    ///
    /// # Errors
    /// The last commit or the last checkpoint failed.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.stop_intake.cancel();
        self.intake_tasks.close();
        let plan = self.control.plan();
        // A failed store records no outcome: deliveries in flight are repeated however long the daemon waits
        // for them.
        let grace = match self.store.health().failed {
            Some(_) => Duration::ZERO,
            None => drain::grace(&plan),
        };
        self.control.begin_stop(grace);
        tokio::join!(
            drain::requests(&self.intake_tasks),
            drain::deliveries(&self.lanes, grace)
        );
        self.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(GRACE_ADMIN, self.tasks.wait())
            .await
            .is_err()
        {
            tracing::info!("an operator's request did not end in time and was cut off");
        }
        drop(self.socket);
        self.store.close().await.context("the store was not closed")
    }
}

/// Lets the parts of a previous run be joined before retention may remove them.
async fn prune_after_joining(joining: Joining, pruning: impl Future<Output = ()>, stop: CancellationToken) {
    joining.recover(&stop).await;
    pruning.await;
}

/// Takes over sockets and makes them non-blocking.
fn adopt(sockets: Vec<std::net::TcpListener>) -> anyhow::Result<Vec<TcpListener>> {
    let adopted: io::Result<_> = sockets.into_iter().map(TcpListener::from_std).collect();
    adopted.context("a passed socket cannot be used")
}

async fn bind(key: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!("cannot listen on {address} ({key}): is another smsbridge running, or is the port taken?")
    })
}

fn limits(plan: &Plan) -> Limits {
    Limits {
        connections: plan.server.max_connections,
        header_timeout: plan.server.header_timeout,
        request_timeout: Some(plan.server.request_timeout),
    }
}
