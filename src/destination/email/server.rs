//! The connection pool of one mail server: a limited number of connections, kept for a while, replaced when they
//! break.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::classes::{Cause, Trouble};
use super::reply::Step;
use super::session::{Login, Mechanism, Protection, Session};
use super::token::{Token, Tokens};
use super::transaction::{Envelope, Receipt};
use crate::mask::Mask;
use crate::model::secret::{Secret, Secrets};
use crate::resolver::Resolver;

/// How long an idle connection is kept. Servers close theirs after some minutes, and home routers forget them
/// earlier.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// How long a message waits for a free connection. It only takes this long if the server does not respond to messages
/// for minutes; then the delivery fails, so that the operator sees it.
const WAIT_MAX: Duration = Duration::from_secs(300);

/// Upper bound of the remembered tokens: one for each possible open connection.
const TOKENS_MAX: usize = 4;

/// The login of each new connection.
pub(super) enum Account {
    Nobody,
    Password {
        username: String,
        password: Secrets,
        mechanisms: &'static [Mechanism],
    },
    Token {
        username: String,
        tokens: Tokens,
    },
}

/// A mail server: its idle connections, and permits to open more.
pub struct Server {
    host: String,
    port: u16,
    resolver: Resolver,
    hello: String,
    protection: Protection,
    account: Account,
    data_timeout: Duration,
    permits: Arc<Semaphore>,
    idle: Mutex<VecDeque<(Session, Instant)>>,
    /// The latest tokens, to be masked in responses.
    tokens: Mutex<VecDeque<Secret>>,
}

impl Server {
    /// The host and port.
    pub fn address(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("host", &self.host)
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}

impl Server {
    pub(super) fn new(
        (host, port): (String, u16),
        resolver: Resolver,
        hello: String,
        protection: Protection,
        account: Account,
        data_timeout: Duration,
        max_connections: usize,
    ) -> Self {
        let permits = Arc::new(Semaphore::new(max_connections));
        Self {
            host,
            port,
            resolver,
            hello,
            protection,
            account,
            data_timeout,
            permits,
            idle: Mutex::default(),
            tokens: Mutex::default(),
        }
    }

    /// Time limit for the response to a message, in addition to `timeout` for everything before it.
    pub(super) fn data_timeout(&self) -> Duration {
        self.data_timeout
    }

    /// Waits until a message may be sent. The `timeout` starts only afterwards: waiting for other messages is not the
    /// fault of the server, and could otherwise make a message time out in the middle of its content.
    pub(super) async fn permit(&self) -> Result<OwnedSemaphorePermit, Trouble> {
        match tokio::time::timeout(WAIT_MAX, self.permits.clone().acquire_owned()).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) | Err(_) => Err(Trouble {
                step: Step::Connect,
                cause: Cause::Busy(WAIT_MAX),
            }),
        }
    }

    /// Masks the secrets of the login in responses.
    pub(super) fn mask(&self) -> Mask {
        let tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        let mask = tokens.iter().fold(Mask::default(), Mask::secret);
        match &self.account {
            Account::Password { password, .. } => mask.secrets(password),
            Account::Nobody | Account::Token { .. } => mask,
        }
    }

    /// Sends one message, over an idle connection if there is one. If that connection is dead, a new one is tried
    /// once: the server may have closed it at any time since its last use. The caller holds a permit.
    pub(super) async fn send(&self, envelope: &Envelope<'_>, timeout: Duration) -> Result<Receipt, Trouble> {
        let deadline = Instant::now() + timeout;
        if let Some(mut session) = self.take_idle() {
            match session.send(envelope, deadline, self.data_timeout).await {
                Err(trouble) if trouble.is_stale_connection() => self.forget_idle(),
                result => return self.keep(session, result),
            }
        }
        let mut session = self.connect(deadline).await?;
        let result = session.send(envelope, deadline, self.data_timeout).await;
        self.keep(session, result)
    }

    /// Opens a connection. A cached token may have expired; if it is rejected, a new one is tried before the failure
    /// is reported.
    async fn connect(&self, deadline: Instant) -> Result<Session, Trouble> {
        match &self.account {
            Account::Nobody => self.open(&Login::Nobody, deadline).await,
            Account::Password {
                username,
                password,
                mechanisms,
            } => {
                let Some(password) = password.all().first() else {
                    return self.open(&Login::Nobody, deadline).await;
                };
                self.open(
                    &Login::Password {
                        username,
                        password,
                        mechanisms,
                    },
                    deadline,
                )
                .await
            }
            Account::Token { username, tokens } => {
                let token = self.fetch(tokens, deadline).await?;
                let result = self
                    .open(
                        &Login::Token {
                            username,
                            token: &token.secret,
                        },
                        deadline,
                    )
                    .await;
                if !result.as_ref().is_err_and(Trouble::is_refused_login) {
                    return result;
                }
                tokens.forget(&token.secret).await;
                if !token.kept {
                    return result;
                }
                let token = self.fetch(tokens, deadline).await?;
                self.open(
                    &Login::Token {
                        username,
                        token: &token.secret,
                    },
                    deadline,
                )
                .await
            }
        }
    }

    async fn fetch(&self, tokens: &Tokens, deadline: Instant) -> Result<Token, Trouble> {
        let token = fetch(tokens, deadline).await?;
        let mut latest = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        if !latest.contains(&token.secret) {
            latest.push_front(token.secret.clone());
            latest.truncate(TOKENS_MAX);
        }
        Ok(token)
    }

    async fn open(&self, login: &Login<'_>, deadline: Instant) -> Result<Session, Trouble> {
        Session::open(
            (&self.host, self.port),
            &self.resolver,
            &self.protection,
            &self.hello,
            login,
            deadline,
        )
        .await
    }

    /// Keeps the session for the next message unless it failed.
    fn keep(&self, session: Session, result: Result<Receipt, Trouble>) -> Result<Receipt, Trouble> {
        if result.is_ok() && session.is_usable() {
            self.idle
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push_back((session, Instant::now()));
        }
        result
    }

    /// The most recently used connection. Closes those that have been idle for long.
    fn take_idle(&self) -> Option<Session> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        while idle.front().is_some_and(|(_, since)| since.elapsed() > IDLE_MAX) {
            idle.pop_front();
        }
        idle.pop_back().map(|(session, _)| session)
    }

    fn forget_idle(&self) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

async fn fetch(tokens: &Tokens, deadline: Instant) -> Result<Token, Trouble> {
    let trouble = |cause| Trouble {
        step: Step::Login,
        cause,
    };
    match tokio::time::timeout_at(deadline, tokens.get()).await {
        Ok(result) => result.map_err(|why| trouble(Cause::NoToken(why))),
        Err(_) => Err(trouble(Cause::NoToken(
            "there was no token within `timeout`".to_owned(),
        ))),
    }
}
