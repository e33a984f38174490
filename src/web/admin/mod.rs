//! The admin API, metrics and the web page: on a unix socket that is protected by its permissions, and optionally
//! over TCP with a token.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures_util::Stream;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use warp::Filter as _;
use warp::path::FullPath;
use warp::reply::Response;

use super::body::{Unread, collect};
use super::serve::{Authorization, Filter, Peer};
use super::{error, method_not_allowed};
use crate::control::{Control, Error};

mod api;
mod attempts;
mod backup;
mod capacity;
mod done;
mod events;
mod login;
mod page;
mod query;

pub use capacity::Capacity;
use done::Done;
pub use events::Watching;
use login::Entry;
pub use login::Guard;

/// Upper bound of a request body: a list of ids, or a message for testing the routes.
const BODY_MAX: usize = 512 * 1024;

/// Upper bound of an unauthenticated request body: the token of the login.
const OPEN_BODY_MAX: usize = 4 * 1024;

/// Time limit for receiving a body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// The state that the admin API uses.
pub struct Admin {
    /// Executes the requests.
    pub control: Arc<Control>,
    /// Authenticates clients over TCP; `None` on the unix socket, which is protected by its permissions.
    pub guard: Guard,
    /// Sends events to pages.
    pub watching: Watching,
    /// The limits for all requests together.
    pub capacity: Capacity,
}

/// A request with its complete body.
struct Call {
    method: Method,
    path: String,
    query: String,
    headers: HeaderMap,
    body: Bytes,
    peer: Peer,
    /// The client address, taken from trusted proxies if there are any.
    client: IpAddr,
}

impl Call {
    /// The client's name for the log: the user on the socket, or the holder of the token.
    fn who(&self) -> String {
        match self.peer {
            Peer::Unix { uid: Some(uid) } => format!("uid {uid}"),
            Peer::Unix { uid: None } => "the admin socket".to_owned(),
            Peer::Tcp(_) => format!("the token's holder at {}", self.client),
        }
    }

    fn is_change(&self) -> bool {
        self.method != Method::GET && self.method != Method::HEAD
    }
}

/// The filters of the admin listeners.
#[must_use]
pub fn filter(admin: Arc<Admin>) -> Filter {
    let query = warp::query::raw().or(warp::any().map(String::new)).unify();
    warp::method()
        .and(warp::path::full())
        .and(query)
        .and(warp::ext::optional::<Peer>())
        .and(warp::ext::optional::<Authorization>())
        .and(warp::header::headers_cloned())
        .and(warp::body::stream())
        .then(
            move |method: Method,
                  path: FullPath,
                  query: String,
                  peer: Option<Peer>,
                  authorization: Option<Authorization>,
                  headers: HeaderMap,
                  body| {
                let admin = admin.clone();
                async move {
                    let Some(peer) = peer else {
                        return error(StatusCode::INTERNAL_SERVER_ERROR, "the connection has no peer");
                    };
                    let path = path.as_str().to_owned();
                    let call = Call {
                        method,
                        path,
                        query,
                        client: super::inbound::client(&admin.control.plan(), Some(peer), &headers),
                        headers,
                        body: Bytes::new(),
                        peer,
                    };
                    guarded(&admin, call, authorization, body).await
                }
            },
        )
        .boxed()
}

/// Responds to a request if it is permitted, and adds the headers that protect browsers.
///
/// An unauthorized request is rejected before its body is read.
async fn guarded<B: Buf>(
    admin: &Admin,
    call: Call,
    authorization: Option<Authorization>,
    body: impl Stream<Item = Result<B, warp::Error>>,
) -> Response {
    let entry = admin.guard.entry(&call);
    if let (Some(authorization), Entry::Known) = (authorization, &entry) {
        authorization.grant();
    }
    let body_max = match entry {
        Entry::Known => BODY_MAX,
        Entry::Open | Entry::Refused(_) | Entry::WrongToken => OPEN_BODY_MAX,
    };
    let mut response = match entry {
        Entry::Refused(refusal) => refusal,
        Entry::WrongToken => admin.guard.wrong_token(&call).await,
        Entry::Known | Entry::Open => {
            // The reserved memory is held until the end, because the parsed form of the body takes as much.
            let mut room = None;
            let body = collect(&call.headers, body, body_max, |length| {
                admin.capacity.grow(&mut room, length)
            });
            match tokio::time::timeout(BODY_TIMEOUT, body).await {
                Ok(Ok(body)) => answer(admin, &Call { body, ..call }).await,
                Ok(Err(unread)) => unreadable(unread),
                Err(_elapsed) => error(StatusCode::REQUEST_TIMEOUT, "the body took too long"),
            }
        }
    };
    let fields = response.headers_mut();
    for (name, value) in [
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CONTENT_SECURITY_POLICY, CONTENT_POLICY),
    ] {
        fields.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// No inline scripts or styles, no other origins, no framing.
const CONTENT_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
     connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

async fn answer(admin: &Admin, call: &Call) -> Response {
    let segments: Vec<&str> = call.path.split('/').skip(1).collect();
    match segments.as_slice() {
        ["healthz"] => super::inbound::probe(&call.method, Ok(Vec::new())),
        ["readyz"] => super::inbound::probe(&call.method, admin.control.ready()),
        ["api", "v1", "events"] => admin.watching.answer(call),
        [""] | ["assets", ..] | ["api", "v1", "openapi.json"] => page::answer(&call.method, &call.path),
        ["login"] => admin.guard.login(call).await,
        ["logout"] => admin.guard.logout(call),
        ["metrics"] => metrics(admin, call).await,
        ["api", "v1", "backup"] => {
            tracing::info!("a backup is taken by {}", call.who());
            backup::answer(&admin.control, &admin.capacity, &call.method).await
        }
        ["api", "v1", rest @ ..] => {
            let response = api::answer(&admin.control, &admin.capacity, call, rest).await;
            if call.is_change() {
                let done = response.extensions().get::<Done>();
                let done = done.map(|Done(what)| format!(": {what}")).unwrap_or_default();
                tracing::info!(
                    status = response.status().as_u16(),
                    "{} {} by {}{done}",
                    call.method,
                    call.path,
                    call.who()
                );
            }
            response
        }
        _ => error(StatusCode::NOT_FOUND, "no such path"),
    }
}

async fn metrics(admin: &Admin, call: &Call) -> Response {
    if call.is_change() {
        return method_not_allowed("GET, HEAD");
    }
    match admin.control.metrics().await {
        Ok(text) => {
            let media_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            let mut response = warp::reply::Response::new(text.into());
            response
                .headers_mut()
                .insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
            response
        }
        Err(failure) => refused(&failure),
    }
}

/// The HTTP status for an error of an action.
fn refused(failure: &Error) -> Response {
    use crate::store::Error as Store;
    let status = match failure {
        Error::NotFound(_) | Error::Store(Store::NotFound) => StatusCode::NOT_FOUND,
        Error::Wrong(_) => StatusCode::BAD_REQUEST,
        Error::Store(Store::LostClaim) => StatusCode::CONFLICT,
        Error::Unavailable(_)
        | Error::Store(
            Store::Busy | Store::Full(_) | Store::Slow | Store::Unavailable(_) | Store::Failed(_),
        ) => StatusCode::SERVICE_UNAVAILABLE,
    };
    error(status, &failure.to_string())
}

fn unreadable(unread: Unread) -> Response {
    match unread {
        Unread::TooBig(limit) => error(
            StatusCode::PAYLOAD_TOO_LARGE,
            &format!("the body is over {limit} bytes"),
        ),
        Unread::Broken => error(StatusCode::BAD_REQUEST, "the body could not be read"),
        Unread::NoRoom => capacity::busy(),
    }
}
