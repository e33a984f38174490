//! A limited number of connections, opened when they are needed and kept open.

use std::collections::HashMap;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Notification, Statement};

use super::address::Address;
use super::session::{self, ConnectError, Session, SynchronousCommit, WAIT};

/// The connections of a daemon.
#[derive(Clone)]
pub struct Pool(Arc<Inner>);

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Pool").field(&self.0.address).finish()
    }
}

struct Inner {
    address: Address,
    node: String,
    commit: SynchronousCommit,
    /// The statement that begins a transaction.
    begin: String,
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<Idle>>,
    /// The host that accepted the last connection.
    host: AtomicUsize,
    /// Connections of an earlier generation are closed instead of reused.
    generation: AtomicU64,
}

struct Idle {
    session: Session,
    statements: Mutex<HashMap<&'static str, Statement>>,
    generation: u64,
}

/// A connection in use. Dropping it makes it available to others.
pub struct Connection {
    /// `None` only while it is dropped.
    idle: Option<Idle>,
    is_discarded: AtomicBool,
    pool: Arc<Inner>,
    _permit: OwnedSemaphorePermit,
}

impl Pool {
    /// A pool of at most `size` connections. None is opened yet.
    #[must_use]
    pub fn new(address: Address, node: &str, commit: SynchronousCommit, size: usize) -> Self {
        Self(Arc::new(Inner {
            address,
            node: node.to_owned(),
            commit,
            begin: format!(
                "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL synchronous_commit = {}",
                commit.as_str()
            ),
            permits: Arc::new(Semaphore::new(size)),
            idle: Mutex::default(),
            host: AtomicUsize::new(0),
            generation: AtomicU64::new(0),
        }))
    }

    /// A connection, within ten seconds.
    ///
    /// # Errors
    /// When no server accepts writes or may be used, or all connections are in use.
    pub async fn get(&self) -> Result<Connection, ConnectError> {
        let waited = tokio::time::timeout(WAIT, self.wait()).await;
        waited.unwrap_or_else(|_| {
            Err(ConnectError::Unavailable(format!(
                "no connection within {} s",
                WAIT.as_secs()
            )))
        })
    }

    async fn wait(&self) -> Result<Connection, ConnectError> {
        let permit = self.0.permits.clone().acquire_owned().await;
        let permit = permit.map_err(|_| ConnectError::Unavailable("the store is closed".to_owned()))?;
        let idle = match self.0.reusable() {
            Some(idle) => idle,
            None => {
                let generation = self.0.generation.load(Ordering::Acquire);
                Idle {
                    session: self.open().await?.0,
                    statements: Mutex::default(),
                    generation,
                }
            }
        };
        Ok(Connection {
            idle: Some(idle),
            is_discarded: AtomicBool::new(false),
            pool: self.0.clone(),
            _permit: permit,
        })
    }

    /// A connection that is not one of the pool's, with the notifications that it receives. It closes when it is
    /// dropped.
    ///
    /// # Errors
    /// When no server accepts writes or may be used.
    pub async fn dedicated(&self) -> Result<(Dedicated, mpsc::Receiver<Notification>), ConnectError> {
        let (session, notifications) = self.open().await?;
        Ok((Dedicated(session), notifications))
    }

    /// Closes the idle connections, and those in use when they are no longer used: the server they belong to does not
    /// accept writes any more.
    pub fn renew(&self) {
        self.0.generation.fetch_add(1, Ordering::AcqRel);
        self.0.idle().clear();
        self.0.host.fetch_add(1, Ordering::Relaxed);
    }

    /// Closes all connections. Further requests fail.
    pub fn close(&self) {
        self.0.permits.close();
        self.renew();
    }

    async fn open(&self) -> Result<(Session, mpsc::Receiver<Notification>), ConnectError> {
        let inner = &*self.0;
        let first = inner.host.load(Ordering::Relaxed);
        let opened = session::connect(&inner.address, first, &inner.node, inner.commit).await;
        let (session, notifications, host) = opened?;
        inner.host.store(host, Ordering::Relaxed);
        Ok((session, notifications))
    }
}

impl Inner {
    fn idle(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the most recently used idle connection that is open. The server may close the others while they are unused.
    fn reusable(&self) -> Option<Idle> {
        let mut idle = self.idle();
        while let Some(found) = idle.pop() {
            if !found.session.client.is_closed() {
                return Some(found);
            }
        }
        None
    }
}

impl Connection {
    /// Prepares a statement once for each connection.
    ///
    /// # Errors
    /// Errors of the database.
    pub async fn prepare_cached(&self, sql: &'static str) -> Result<Statement, tokio_postgres::Error> {
        let statements = || {
            let idle = self.idle.as_ref();
            idle.map(|idle| idle.statements.lock().unwrap_or_else(PoisonError::into_inner))
        };
        if let Some(known) = statements().and_then(|statements| statements.get(sql).cloned()) {
            return Ok(known);
        }
        let statement = self.prepare(sql).await?;
        if let Some(mut statements) = statements() {
            statements.insert(sql, statement.clone());
        }
        Ok(statement)
    }

    /// Begins a transaction with the isolation and durability that the store needs. The session has both as its defaults;
    /// behind a connection pooler, the transaction may run in another session.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn begin(&self) -> Result<(), tokio_postgres::Error> {
        self.batch_execute(&self.pool.begin).await
    }

    /// Runs one statement in a transaction of its own, with the durability that the store needs.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn execute_durably(
        &self,
        statement: &Statement,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<u64, tokio_postgres::Error> {
        // Sent in this order without waiting for the answers. After an error, the COMMIT is a rollback.
        let (begun, executed, committed) = futures_util::future::join3(
            self.begin(),
            self.execute(statement, parameters),
            self.batch_execute("COMMIT"),
        )
        .await;
        begun?;
        let count = executed?;
        committed?;
        Ok(count)
    }

    /// What a commit waits for, as the value of the setting `synchronous_commit`.
    #[must_use]
    pub fn durability(&self) -> &'static str {
        self.pool.commit.as_str()
    }

    /// Closes the connection instead of reusing it, because its state is unknown.
    pub fn discard(&self) {
        self.is_discarded.store(true, Ordering::Relaxed);
    }
}

impl Deref for Connection {
    type Target = Client;

    #[expect(clippy::expect_used, reason = "it is taken when the connection is dropped")]
    fn deref(&self) -> &Client {
        &self.idle.as_ref().expect("a connection").session.client
    }
}

impl DerefMut for Connection {
    #[expect(clippy::expect_used, reason = "it is taken when the connection is dropped")]
    fn deref_mut(&mut self) -> &mut Client {
        &mut self.idle.as_mut().expect("a connection").session.client
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let Some(idle) = self.idle.take() else {
            return;
        };
        let is_current = idle.generation == self.pool.generation.load(Ordering::Acquire);
        let is_usable =
            is_current && !self.is_discarded.load(Ordering::Relaxed) && !idle.session.client.is_closed();
        if is_usable {
            self.pool.idle().push(idle);
        }
    }
}

/// A connection outside the pool.
pub struct Dedicated(Session);

impl Deref for Dedicated {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.0.client
    }
}

impl DerefMut for Dedicated {
    fn deref_mut(&mut self) -> &mut Client {
        &mut self.0.client
    }
}
