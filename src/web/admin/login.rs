//! Authentication of the admin API over TCP: by token, or by a session cookie for browsers.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use warp::reply::Response;

use super::Call;
use super::attempts::{self, Attempts};
use crate::metrics::Metrics;
use crate::model::secret::Secrets;
use crate::web::serve::Peer;
use crate::web::{error, json, method_not_allowed};

/// How long a browser session lasts.
const SESSION: Duration = Duration::from_secs(12 * 3600);

/// Upper bound of the sessions; a further one replaces the oldest.
const SESSIONS_MAX: usize = 64;

/// The name of the cookie.
const COOKIE: &str = "smsbridge_session";

/// Authenticates clients of the admin API.
pub struct Guard {
    token: Option<Secrets>,
    sessions: Mutex<BTreeMap<String, Instant>>,
    attempts: Attempts,
    metrics: Arc<Metrics>,
}

/// The result of the check of a request.
pub(super) enum Entry {
    /// The client is authenticated.
    Known,
    /// The path is public.
    Open,
    /// Rejected.
    Refused(Response),
    /// Rejected because of a wrong token: [`Guard::wrong_token`] responds.
    WrongToken,
}

impl Guard {
    /// Requires the token of `admin.token`. Without a token, every request over TCP is rejected.
    #[must_use]
    pub fn new(token: Option<Secrets>, metrics: Arc<Metrics>) -> Self {
        Self {
            token,
            sessions: Mutex::default(),
            attempts: Attempts::default(),
            metrics,
        }
    }

    /// Decides whether this request is permitted.
    pub(super) fn entry(&self, call: &Call) -> Entry {
        if matches!(call.peer, Peer::Unix { .. }) {
            return Entry::Known;
        }
        if is_open(&call.path) {
            return Entry::Open;
        }
        if let Some(token) = bearer(&call.headers) {
            return self.check(call, token);
        }
        if !self.has_session(&call.headers) {
            return Entry::Refused(unauthorized("log in, or send `Authorization: Bearer TOKEN`"));
        }
        if call.is_change() && !same_origin(&call.headers) {
            return Entry::Refused(error(
                StatusCode::FORBIDDEN,
                "this request comes from another site",
            ));
        }
        Entry::Known
    }

    fn check(&self, call: &Call, token: &str) -> Entry {
        if !self.attempts.may_try(call.client) {
            self.metrics.logins_failed.inc();
            return Entry::Refused(too_many());
        }
        match self.is_token(token.as_bytes()) {
            true => Entry::Known,
            false => Entry::WrongToken,
        }
    }

    /// Logs and counts a wrong token, and responds after a delay that grows with their number.
    pub(super) async fn wrong_token(&self, call: &Call) -> Response {
        self.metrics.logins_failed.inc();
        let failed = self.attempts.failed(call.client);
        if let Some(unlogged) = failed.line {
            let more = match unlogged {
                0 => String::new(),
                more => format!(" ({more} more were not logged)"),
            };
            // docs/security.md documents this line for fail2ban.
            tracing::warn!(client = %call.client, "login failed from {}: wrong token{more}", call.client);
        }
        tokio::time::sleep(failed.wait).await;
        unauthorized("the token is wrong")
    }

    /// `POST /login` with `{"token":"…"}`: exchanges the token for a cookie that scripts cannot read.
    pub(super) async fn login(&self, call: &Call) -> Response {
        if call.method != Method::POST {
            return method_not_allowed("POST");
        }
        if !same_origin(&call.headers) {
            return error(StatusCode::FORBIDDEN, "this request comes from another site");
        }
        let body: serde_json::Value = serde_json::from_slice(&call.body).unwrap_or_default();
        let token = body["token"].as_str().unwrap_or_default();
        match self.check(call, token) {
            Entry::Known | Entry::Open => {}
            Entry::Refused(refusal) => return refusal,
            Entry::WrongToken => return self.wrong_token(call).await,
        }
        tracing::info!("login by {}", call.who());
        let session = uuid::Uuid::new_v4().simple().to_string() + &uuid::Uuid::new_v4().simple().to_string();
        let cookie = cookie_of(call, &session, SESSION);
        self.open(session);
        with_cookie(&cookie)
    }

    /// `POST /logout`
    pub(super) fn logout(&self, call: &Call) -> Response {
        if call.method != Method::POST {
            return method_not_allowed("POST");
        }
        if let Some(session) = cookie(&call.headers) {
            self.sessions().remove(session);
        }
        with_cookie(&cookie_of(call, "", Duration::ZERO))
    }

    fn open(&self, session: String) {
        let mut sessions = self.sessions();
        sessions.retain(|_, opened| opened.elapsed() < SESSION);
        if sessions.len() >= SESSIONS_MAX {
            let oldest = sessions
                .iter()
                .min_by_key(|(_, opened)| **opened)
                .map(|(session, _)| session.clone());
            oldest.map(|oldest| sessions.remove(&oldest));
        }
        sessions.insert(session, Instant::now());
    }

    fn has_session(&self, headers: &HeaderMap) -> bool {
        let sessions = self.sessions();
        cookie(headers)
            .and_then(|session| sessions.get(session))
            .is_some_and(|opened| opened.elapsed() < SESSION)
    }

    fn is_token(&self, candidate: &[u8]) -> bool {
        self.token
            .as_ref()
            .is_some_and(|token| token.any_matches(candidate))
    }

    fn sessions(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Instant>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The public paths: the page (which contains no data), the login, and `/healthz`.
fn is_open(path: &str) -> bool {
    path == "/" || path.starts_with("/assets/") || ["/login", "/healthz", "/readyz"].contains(&path)
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// The `Set-Cookie` of a session. A browser that loaded the page over https must not send the cookie over http. A
/// proxy ends the TLS, so the `Origin` sent by the browser decides.
fn cookie_of(call: &Call, session: &str, age: Duration) -> String {
    let origin = call.headers.get(header::ORIGIN);
    let secure = match origin.is_some_and(|origin| origin.as_bytes().starts_with(b"https://")) {
        true => "; Secure",
        false => "",
    };
    format!(
        "{COOKIE}={session}; Path=/; HttpOnly; SameSite=Strict; Max-Age={}{secure}",
        age.as_secs()
    )
}

fn cookie(headers: &HeaderMap) -> Option<&str> {
    let values = headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok());
    let mut pairs = values
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(name, _)| *name == COOKIE).map(|(_, value)| value)
}

/// Browsers send `Origin` with every change; if it differs from `Host`, the request comes from another site. Other
/// clients send no `Origin`, and do not send a cookie unintentionally.
fn same_origin(headers: &HeaderMap) -> bool {
    let text = |name| {
        headers
            .get(name)
            .and_then(|value: &HeaderValue| value.to_str().ok())
    };
    let Some(origin) = text(header::ORIGIN) else {
        return text(header::HeaderName::from_static("sec-fetch-site"))
            .is_none_or(|site| site == "same-origin");
    };
    let host = text(header::HOST).unwrap_or_default();
    origin
        .split_once("://")
        .is_some_and(|(_, authority)| !host.is_empty() && authority == host)
}

/// The response while too many responses to this address are delayed.
fn too_many() -> Response {
    let mut response = error(
        StatusCode::TOO_MANY_REQUESTS,
        "too many wrong tokens from this address: wait a few seconds",
    );
    let wait = HeaderValue::from(attempts::WAIT_MAX.as_secs());
    response.headers_mut().insert(header::RETRY_AFTER, wait);
    response
}

fn unauthorized(what: &str) -> Response {
    let mut response = error(StatusCode::UNAUTHORIZED, what);
    response.headers_mut().insert(
        header::WWW_AUTHENTICATE,
        HeaderValue::from_static("Bearer realm=\"smsbridge\""),
    );
    response
}

fn with_cookie(cookie: &str) -> Response {
    let mut response = json(StatusCode::OK, &serde_json::json!({ "status": "ok" }));
    if let Ok(value) = HeaderValue::from_str(cookie) {
        response.headers_mut().insert(header::SET_COOKIE, value);
    }
    response
}
