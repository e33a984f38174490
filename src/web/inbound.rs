//! The carriers' side: webhooks in, and nothing else. A 200 leaves here only after the store said so.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use futures_util::{Stream, StreamExt as _};
use http::header::{CONNECTION, CONTENT_LENGTH, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use tokio::sync::watch;
use warp::Filter as _;
use warp::path::FullPath;
use warp::reply::Response;

use super::budget::{Budget, Held};
use super::serve::{Filter, Peer, Standing};
use super::{error, json, method_not_allowed};
use crate::engine::webhook_check::Drift;
use crate::intake::Intake;
use crate::message::Name;
use crate::metrics::{Metrics, REASONS, REASONS_WITHOUT_SOURCE, Rejected};
use crate::plan::{Plan, PlannedSource};
use crate::source::{Receipt, Received, Refusal, Request};
use crate::store::{self, Store};

/// How often a reason for refusing a source's requests is logged.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

/// What the bodies of all requests under way may take. It goes by what has come, not by what was announced.
pub const BODIES_BYTES: usize = 16 << 20;

/// When a carrier should come back after a 503.
const RETRY_AFTER_BUSY: &str = "5";

/// The same, when the disk is full.
const RETRY_AFTER_FULL: &str = "60";

/// What the carriers' side works with.
pub struct Inbound {
    /// What is configured at the moment.
    pub plan: watch::Receiver<Arc<Plan>>,
    /// Takes verified texts.
    pub intake: Intake,
    /// For `/readyz`.
    pub store: Arc<dyn Store>,
    /// For `/readyz`.
    pub drift: Arc<Drift>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What was complained about lately.
    pub complaints: Complaints,
    /// What the bodies of all requests under way may take.
    pub bodies: Budget,
}

/// The filters of `server.listen`.
#[must_use]
pub fn filter(inbound: Arc<Inbound>) -> Filter {
    warp::method()
        .and(warp::path::full())
        .and(warp::ext::optional::<Peer>())
        .and(warp::ext::optional::<Standing>())
        .and(warp::header::headers_cloned())
        .and(warp::body::stream())
        .then(move |method, path: FullPath, peer, standing, headers, body| {
            let inbound = inbound.clone();
            async move {
                match path.as_str() {
                    "/healthz" => probe(&method, Ok(Vec::new())),
                    "/readyz" => probe(&method, inbound.store.ready().map(|()| inbound.drift.summary())),
                    path => {
                        let from = (peer, standing);
                        inbound.webhook(&method, path, from, headers, body).await
                    }
                }
            }
        })
        .boxed()
}

/// The answer to `/healthz` and `/readyz`: fine, with remarks, or why not.
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
    async fn webhook<B: Buf>(
        &self,
        method: &Method,
        path: &str,
        (peer, standing): (Option<Peer>, Option<Standing>),
        headers: HeaderMap,
        body: impl Stream<Item = Result<B, warp::Error>>,
    ) -> Response {
        let plan = self.plan.borrow().clone();
        let Some((name, planned)) = plan.sources.iter().find(|(_, source)| source.path == path) else {
            self.count("", "path");
            return error(StatusCode::NOT_FOUND, "no such path");
        };
        if method != Method::POST {
            self.count(name.as_str(), "method");
            return method_not_allowed("POST");
        }
        // Room for the body is held to the end: what is made of the body takes as much.
        let (body, _room) = match collect(&headers, body, plan.server.max_body, &self.bodies).await {
            Ok(body) => body,
            Err(Unread::Wrong(response)) => {
                self.count(name.as_str(), "body");
                return *response;
            }
            Err(Unread::NoRoom) => return self.no_room(name),
        };
        let request = Request {
            client: client(&plan, peer, &headers),
            headers: &headers,
            body: &body,
        };
        let received = planned.source.receive(&request);
        if let (Some(standing), Received::Messages(_) | Received::Ignored) = (standing, &received) {
            standing.admit();
        }
        match received {
            Received::Messages(incoming) => self.accept(&plan, name, planned, incoming).await,
            Received::Ignored => json(StatusCode::OK, &serde_json::json!({ "status": "ignored" })),
            Received::Refused(refusal) => self.refuse(name, refusal),
        }
    }

    async fn accept(
        &self,
        plan: &Plan,
        name: &Name,
        planned: &PlannedSource,
        incoming: Vec<crate::source::Incoming>,
    ) -> Response {
        let mut receipts: Vec<Receipt> = Vec::with_capacity(incoming.len());
        for incoming in incoming {
            match self.intake.receive(plan, name, incoming).await {
                Ok(receipt) => receipts.push(receipt),
                Err(failure) => return self.not_stored(name, &failure),
            }
        }
        json(StatusCode::OK, &planned.source.reply(&receipts))
    }

    /// Too much is being received at once.
    fn no_room(&self, name: &Name) -> Response {
        self.count(name.as_str(), "busy");
        if let Some(more) = self.complaints.news(name.as_str(), "busy") {
            tracing::warn!(source = %name, "a request to source {name} was answered 503: the requests under way take {BODIES_BYTES} bytes{more}");
        }
        let mut response = unavailable(
            "too much is being received at once, send it again",
            RETRY_AFTER_BUSY,
        );
        response
            .headers_mut()
            .insert(CONNECTION, HeaderValue::from_static("close"));
        response
    }

    /// The carrier must try again: nothing is acknowledged that is not on disk.
    fn not_stored(&self, name: &Name, failure: &store::Error) -> Response {
        let reason = match failure {
            store::Error::Busy => "busy",
            store::Error::Full { .. } => "full",
            store::Error::Slow => "slow",
            store::Error::Failed(_) | store::Error::LostClaim | store::Error::NotFound => "failed",
        };
        self.count(name.as_str(), reason);
        if let Some(more) = self.complaints.news(name.as_str(), reason) {
            tracing::error!(source = %name, "a text could not be stored, {name} was asked to send it again: {failure}{more}");
        }
        unavailable(
            "the text could not be stored, send it again",
            match failure {
                store::Error::Full { .. } => RETRY_AFTER_FULL,
                _ => RETRY_AFTER_BUSY,
            },
        )
    }

    fn refuse(&self, name: &Name, refusal: Refusal) -> Response {
        self.count(name.as_str(), refusal.reason);
        if let Some(more) = self.complaints.news(name.as_str(), refusal.reason) {
            let status = refusal.status.as_u16();
            tracing::warn!(source = %name, status, "a webhook for {name} was refused: {}{more}", why(&refusal));
        }
        let mut response = error(refusal.status, &refusal.error);
        if refusal.status == StatusCode::UNAUTHORIZED {
            let challenge = HeaderValue::from_static("Basic realm=\"smsbridge\", charset=\"UTF-8\"");
            response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
        }
        response
    }

    /// A handshake that failed is a webhook that does not come, and only the log can say why.
    pub(super) fn handshake_failed(&self, error: &io::Error) {
        self.count("", "tls");
        // Whoever just tries the port says nothing or no TLS; what rustls refuses may be the carrier.
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
}

/// Why, for the operator: the carrier is not told which of several guesses was wrong.
fn why(refusal: &Refusal) -> &str {
    match refusal.status {
        StatusCode::UNAUTHORIZED => {
            "its Basic auth is wrong or missing; compare `basic_auth` with the webhook's URL"
        }
        StatusCode::FORBIDDEN => {
            "its signature or address is wrong; compare `secret`, `verify` and `allow_from` with the carrier's portal"
        }
        _ => &refusal.error,
    }
}

/// Why a body was not read.
enum Unread {
    Wrong(Box<Response>),
    NoRoom,
}

impl From<Response> for Unread {
    fn from(response: Response) -> Self {
        Self::Wrong(Box::new(response))
    }
}

/// How much of an announced body is made room for before it has come.
const EXPECTED_BYTES: usize = 16 << 10;

/// Reads a body up to its limit. An announced length that is too big is refused before the first byte.
async fn collect<B: Buf>(
    headers: &HeaderMap,
    body: impl Stream<Item = Result<B, warp::Error>>,
    limit: usize,
    budget: &Budget,
) -> Result<(Bytes, Held), Unread> {
    let announced = headers
        .get(CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|length| length > limit) {
        return Err(too_big(limit).into());
    }
    let mut body = std::pin::pin!(body);
    let mut held = budget.take(1).ok_or(Unread::NoRoom)?;
    let mut collected = BytesMut::with_capacity(announced.unwrap_or(0).min(EXPECTED_BYTES));
    while let Some(part) = body.next().await {
        let part = part.map_err(|_| error(StatusCode::BAD_REQUEST, "the body could not be read"))?;
        let length = collected.len() + part.remaining();
        if length > limit {
            return Err(too_big(limit).into());
        }
        if !held.grow(length) {
            return Err(Unread::NoRoom);
        }
        let mut part = part;
        while part.has_remaining() {
            let chunk = part.chunk();
            collected.extend_from_slice(chunk);
            let length = chunk.len();
            part.advance(length);
        }
    }
    Ok((collected.freeze(), held))
}

fn too_big(limit: usize) -> Response {
    let mut response = error(
        StatusCode::PAYLOAD_TOO_LARGE,
        &format!("the body is over {limit} bytes"),
    );
    response
        .headers_mut()
        .insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

fn unavailable(why: &str, retry_after: &'static str) -> Response {
    let mut response = error(StatusCode::SERVICE_UNAVAILABLE, why);
    response
        .headers_mut()
        .insert(RETRY_AFTER, HeaderValue::from_static(retry_after));
    response
}

/// The peer's address, or the last one that a trusted proxy did not add itself.
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

/// Keeps a stranger who knocks all night from filling the log: a reason is logged once a minute per source,
/// with how often it was not.
#[derive(Default)]
pub struct Complaints(Mutex<BTreeMap<(String, &'static str), Lately>>);

/// When a reason was last logged, and how often it came up since.
type Lately = (Instant, u64);

impl Complaints {
    /// How many were not logged since the last time, if this one is to be logged.
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
