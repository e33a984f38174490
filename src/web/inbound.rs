//! The carriers' listener. Only webhooks are served here, and 200 is sent only after the messages are stored.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Buf;
use futures_util::Stream;
use http::header::{ALLOW, CONNECTION, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use tokio::sync::watch;
use warp::Filter as _;
use warp::path::FullPath;
use warp::reply::Response;

use super::body::{Unread, collect};
use super::budget::Budget;
use super::serve::{Authorization, Filter, Peer};
use super::{error, json, method_not_allowed};
use crate::engine::checks::Checks;
use crate::engine::joining::Joining;
use crate::engine::url_check;
use crate::metrics::{ByEvent, Metrics, REASONS, REASONS_WITHOUT_SOURCE, Rejected};
use crate::model::message::Name;
use crate::plan::Plan;
use crate::source::{Endpoint, Events, Outcome, Refusal, Reply, Request, Target};
use crate::store::{self, Store};

/// Interval of log lines about rejected requests, per source and reason.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

/// Memory budget for the bodies of all requests in progress. It counts received bytes, not announced ones.
pub const BODIES_BYTES: usize = 16 << 20;

/// The `Retry-After` of a 503.
const RETRY_AFTER_BUSY: &str = "5";

/// The `Retry-After` of a 503 when the disk is full.
const RETRY_AFTER_FULL: &str = "60";

/// The state that the listener uses.
pub struct Inbound {
    /// The current plan.
    pub plan: watch::Receiver<Arc<Plan>>,
    /// Accepts verified messages.
    pub intake: Joining,
    /// For `/readyz`.
    pub store: Arc<dyn Store>,
    /// For `/readyz`, and what is learned from requests.
    pub checks: Checks,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// The reasons that were logged recently.
    pub complaints: Complaints,
    /// The memory budget for bodies.
    pub bodies: Budget,
}

/// The filters of `server.listen`.
#[must_use]
pub fn filter(inbound: Arc<Inbound>) -> Filter {
    warp::method()
        .and(warp::path::full())
        .and(call())
        .and(warp::header::headers_cloned())
        .and(warp::body::stream())
        .then(move |method, path: FullPath, call, headers, body| {
            let inbound = inbound.clone();
            async move {
                match path.as_str() {
                    "/healthz" => probe(&method, Ok(Vec::new())),
                    "/readyz" => probe(&method, inbound.store.ready().map(|()| inbound.remarks())),
                    path => inbound.webhook(&method, path, call, headers, body).await,
                }
            }
        })
        .boxed()
}

/// A request without its body.
struct Call {
    peer: Option<Peer>,
    authorization: Option<Authorization>,
    /// The path and query exactly as received.
    target: Option<PathAndQuery>,
}

fn call() -> impl warp::Filter<Extract = (Call,), Error = std::convert::Infallible> + Copy {
    warp::ext::optional()
        .and(warp::ext::optional())
        .and(warp::ext::optional())
        .map(|peer, authorization, target| Call {
            peer,
            authorization,
            target,
        })
}

/// The response to `/healthz` and `/readyz`: ready, ready with warnings, or the reason why not.
#[must_use]
pub fn probe(method: &Method, state: Result<Vec<String>, String>) -> Response {
    if method != Method::GET && method != Method::HEAD {
        return method_not_allowed("GET, HEAD");
    }
    match state {
        Ok(remarks) if remarks.is_empty() => json(StatusCode::OK, &serde_json::json!({ "status": "ok" })),
        Ok(remarks) => json(
            StatusCode::OK,
            &serde_json::json!({ "status": "ok", "remarks": remarks }),
        ),
        Err(why) => unavailable(&why, RETRY_AFTER_BUSY),
    }
}

impl Inbound {
    /// Problems that do not prevent the daemon from accepting messages.
    fn remarks(&self) -> Vec<String> {
        self.checks.summary(&self.plan.borrow())
    }

    async fn webhook<B: Buf>(
        &self,
        method: &Method,
        path: &str,
        call: Call,
        headers: HeaderMap,
        body: impl Stream<Item = Result<B, warp::Error>>,
    ) -> Response {
        let plan = self.plan.borrow().clone();
        let Some((name, planned)) = plan.sources.iter().find(|(_, source)| source.path == path) else {
            self.count("", "path");
            return error(StatusCode::NOT_FOUND, "no such path");
        };
        let source = &planned.source;
        if !source.methods().contains(method) {
            return self.wrong_method(name, source);
        }
        let max_body = source.max_body().unwrap_or(plan.server.max_body);
        // The reserved memory is held until the end, because the parsed form of the body takes as much.
        let Some(mut room) = self.bodies.take(1) else {
            return self.no_room(name, source);
        };
        let body = match collect(&headers, body, max_body, |length| room.grow(length)).await {
            Ok(body) => body,
            Err(Unread::NoRoom) => return self.no_room(name, source),
            Err(unread) => return self.not_read(name, source, &unread),
        };
        let request = Request {
            client: client(&plan, call.peer, &headers),
            method,
            target: Target {
                public_url: plan.server.public_url.as_ref(),
                path_and_query: call.target.as_ref().map_or(path, PathAndQuery::as_str),
            },
            headers: &headers,
            body: &body,
            now: self.intake.now(),
            admitted: false,
        };
        if let Err(why) = source.prepare(&request).await {
            return self.try_again(name, source, "carrier", &why);
        }
        match source.receive(&request) {
            Ok(events) => {
                if let Some(authorization) = &call.authorization {
                    authorization.grant();
                }
                self.checks.urls.verified(name);
                self.accept(&plan, name, source, events).await
            }
            Err(refusal) if refusal.is_retry() => {
                self.try_again(name, source, refusal.reason, &refusal.error)
            }
            Err(refusal) => self.refuse(&plan, name, source, &refusal),
        }
    }

    async fn accept(&self, plan: &Arc<Plan>, name: &Name, source: &Endpoint, events: Events) -> Response {
        if let Err(why) = source.confirm(&events).await {
            return self.try_again(name, source, "carrier", &why);
        }
        let receipts = match events.messages.is_empty() {
            true => Vec::new(),
            false => match self.intake.receive(plan, name, events.messages).await {
                Ok(receipts) => receipts,
                Err(failure) => return self.not_stored(name, source, &failure),
            },
        };
        // Only now, because the carrier repeats the request after any other answer.
        for (event, count) in [("status", events.statuses), ("other", events.ignored)] {
            self.count_events(name, event, count);
        }
        answer(source.reply(&Outcome::Stored(&receipts)))
    }

    fn wrong_method(&self, name: &Name, source: &Endpoint) -> Response {
        self.count(name.as_str(), "method");
        let words = "method not allowed on this path";
        let refusal = Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "method", words);
        let mut response = answer(source.reply(&Outcome::Refused(&refusal)));
        let methods: Vec<&str> = source.methods().iter().map(Method::as_str).collect();
        if let Ok(allow) = HeaderValue::from_str(&methods.join(", ")) {
            response.headers_mut().insert(ALLOW, allow);
        }
        response
    }

    /// The memory budget is exhausted.
    fn no_room(&self, name: &Name, source: &Endpoint) -> Response {
        self.count(name.as_str(), "busy");
        self.checks.catch_up.outage();
        if let Some(more) = self.complaints.news(name.as_str(), "busy") {
            tracing::warn!(source = %name, "a request to source {name} was answered 503: the requests in progress use {BODIES_BYTES} bytes{more}");
        }
        let why = "too much is being received at once, send it again";
        closing(failing(source, why, RETRY_AFTER_BUSY))
    }

    /// The body was not read completely. A message is lost if the carrier gives up, so a body over the limit is logged.
    fn not_read(&self, name: &Name, source: &Endpoint, unread: &Unread) -> Response {
        self.count(name.as_str(), "body");
        if let Unread::TooBig(limit) = unread
            && let Some(more) = self.complaints.news(name.as_str(), "body")
        {
            tracing::warn!(source = %name, "a request to source {name} was answered 413: its body is over {limit} bytes; raise `max_body` if it came from the carrier{more}");
        }
        unreadable(source, unread)
    }

    /// The carrier must retry: the request cannot be verified at the moment, or a call to the carrier has failed.
    fn try_again(&self, name: &Name, source: &Endpoint, reason: &'static str, why: &str) -> Response {
        self.count(name.as_str(), reason);
        if let Some(more) = self.complaints.news(name.as_str(), reason) {
            tracing::error!(source = %name, "a request to source {name} was answered 503: {why}{more}");
        }
        failing(
            source,
            "not possible at the moment, send it again",
            RETRY_AFTER_BUSY,
        )
    }

    /// The carrier must retry: only stored messages are acknowledged.
    fn not_stored(&self, name: &Name, source: &Endpoint, failure: &store::Error) -> Response {
        self.checks.catch_up.outage();
        let reason = match failure {
            store::Error::Busy => "busy",
            store::Error::Full(_) => "full",
            store::Error::Slow => "slow",
            store::Error::Unavailable(_) => "unavailable",
            store::Error::Failed(_) | store::Error::LostClaim | store::Error::NotFound => "failed",
        };
        self.count(name.as_str(), reason);
        if let Some(more) = self.complaints.news(name.as_str(), reason) {
            tracing::error!(source = %name, "cannot store a message from source {name}, answered 503: {failure}{more}");
        }
        let retry_after = match failure {
            store::Error::Full(_) => RETRY_AFTER_FULL,
            _ => RETRY_AFTER_BUSY,
        };
        failing(
            source,
            "the message could not be stored, send it again",
            retry_after,
        )
    }

    fn refuse(&self, plan: &Plan, name: &Name, source: &Endpoint, refusal: &Refusal) -> Response {
        self.count(name.as_str(), refusal.reason);
        let news = self.complaints.news(name.as_str(), refusal.reason);
        let status = refusal.status.as_u16();
        if let Some(signed_for) = &refusal.signed_for {
            self.checks.urls.rejected(name, signed_for, self.intake.now());
            if let Some(more) = news {
                let why = url_check::advice(plan, signed_for);
                tracing::error!(source = %name, status, "rejected a request to source {name}: {why}{more}");
            }
        } else if let Some(more) = news {
            tracing::warn!(source = %name, status, "rejected a request to source {name}: {}{more}", why(refusal));
        }
        let mut response = answer(source.reply(&Outcome::Refused(refusal)));
        if refusal.status == StatusCode::UNAUTHORIZED {
            let challenge = HeaderValue::from_static("Basic realm=\"smsbridge\", charset=\"UTF-8\"");
            response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
        }
        response
    }

    /// A failed handshake is a webhook that does not arrive, and the carrier does not report it, so it is logged.
    pub(super) fn handshake_failed(&self, error: &io::Error) {
        self.count("", "tls");
        // Port scanners send nothing, or no TLS. A handshake that rustls rejects may come from the carrier.
        if error.kind() != io::ErrorKind::InvalidData {
            return tracing::debug!("a TLS handshake was broken off: {error}");
        }
        if let Some(more) = self.complaints.news("", "tls") {
            tracing::warn!(
                "a TLS handshake failed, so no webhook could come: {error}; if it is the carrier's, see whether \
                 server.tls.certificate holds the whole chain{more}"
            );
        }
    }

    fn count(&self, source: &str, reason: &'static str) {
        debug_assert!(
            REASONS.contains(&reason) || REASONS_WITHOUT_SOURCE.contains(&reason),
            "{reason} has no series from the start"
        );
        self.metrics
            .rejected
            .get_or_create(&Rejected {
                source: source.to_owned(),
                reason,
            })
            .inc();
    }

    fn count_events(&self, source: &Name, event: &'static str, count: usize) {
        if count > 0 {
            let source = source.to_string();
            let by = ByEvent { source, event };
            self.metrics.events.get_or_create(&by).inc_by(count as u64);
        }
    }
}

/// Sends the response of a source unchanged.
fn answer(reply: Reply) -> Response {
    let mut response = Response::new(reply.body.into());
    *response.status_mut() = reply.status;
    if let Some(content_type) = reply.content_type {
        let content_type = HeaderValue::from_static(content_type);
        response.headers_mut().insert(CONTENT_TYPE, content_type);
    }
    response
}

/// The response of the source when the carrier should retry.
fn failing(source: &Endpoint, why: &str, retry_after: &'static str) -> Response {
    let mut response = answer(source.reply(&Outcome::Failing(why)));
    response
        .headers_mut()
        .insert(RETRY_AFTER, HeaderValue::from_static(retry_after));
    response
}

fn closing(mut response: Response) -> Response {
    response
        .headers_mut()
        .insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

/// The response of the source to a body that was not read completely.
fn unreadable(source: &Endpoint, unread: &Unread) -> Response {
    match unread {
        Unread::TooBig(limit) => {
            let words = format!("the body is over {limit} bytes");
            let refusal = Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "body", words);
            closing(answer(source.reply(&Outcome::Refused(&refusal))))
        }
        Unread::Broken | Unread::NoRoom => {
            let refusal = Refusal::new(StatusCode::BAD_REQUEST, "body", "the body could not be read");
            answer(source.reply(&Outcome::Refused(&refusal)))
        }
    }
}

/// The reason, for the operator. The carrier does not learn which check failed.
fn why(refusal: &Refusal) -> &str {
    match refusal.status {
        StatusCode::UNAUTHORIZED => {
            "wrong or missing Basic credentials; compare `basic_auth` with the webhook URL set at the carrier"
        }
        StatusCode::FORBIDDEN => {
            "wrong signature or address; compare the source's keys and `allow_from` with the carrier's settings, and \
             `server.public_url` with the URL there if the carrier signs it"
        }
        _ => &refusal.error,
    }
}

fn unavailable(why: &str, retry_after: &'static str) -> Response {
    let mut response = error(StatusCode::SERVICE_UNAVAILABLE, why);
    response
        .headers_mut()
        .insert(RETRY_AFTER, HeaderValue::from_static(retry_after));
    response
}

/// The address of the peer, or, behind trusted proxies, the last forwarded address that is not a trusted proxy.
pub(super) fn client(plan: &Plan, peer: Option<Peer>, headers: &HeaderMap) -> IpAddr {
    let peer = match peer {
        Some(Peer::Tcp(address)) => address.ip().to_canonical(),
        Some(Peer::Unix { .. }) | None => IpAddr::V4(Ipv4Addr::LOCALHOST),
    };
    if !plan.trusts(peer) {
        return peer;
    }
    let hops: Vec<&str> = headers
        .get_all("x-forwarded-for")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .collect();
    let mut client = peer;
    for hop in hops.iter().rev() {
        let Some(address) = hop_address(hop) else { break };
        client = address;
        if !plan.trusts(address) {
            break;
        }
    }
    client
}

/// `192.0.2.1`, `192.0.2.1:4711`, `2001:db8::1` or `[2001:db8::1]:4711`.
fn hop_address(hop: &str) -> Option<IpAddr> {
    let hop = hop.trim();
    let address = hop
        .parse()
        .ok()
        .or_else(|| hop.parse().map(|socket: std::net::SocketAddr| socket.ip()).ok())?;
    Some(IpAddr::to_canonical(&address))
}

/// Prevents repeated invalid requests from filling the log: each reason is logged once a minute per source, with the
/// number of requests in between.
#[derive(Default)]
pub struct Complaints(Mutex<BTreeMap<(String, &'static str), Lately>>);

/// When a reason was last logged, and how often it has occurred since.
type Lately = (Instant, u64);

impl Complaints {
    /// The number of occurrences that were not logged since the last line, if this one is to be logged; otherwise
    /// `None`.
    fn news(&self, source: &str, reason: &'static str) -> Option<String> {
        let mut lately = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        match lately.entry((source.to_owned(), reason)) {
            Entry::Occupied(mut entry) if now.duration_since(entry.get().0) < COMPLAIN_EVERY => {
                entry.get_mut().1 += 1;
                None
            }
            Entry::Occupied(mut entry) => {
                let (_, silent) = entry.insert((now, 0));
                Some(if silent == 0 {
                    String::new()
                } else {
                    format!(" (and {silent} more since the last line)")
                })
            }
            Entry::Vacant(entry) => {
                entry.insert((now, 0));
                Some(String::new())
            }
        }
    }
}
