//! Serves HTTP/1 with hyper around warp's filters, and limits everything that a client could make the daemon
//! wait for or hold: connections, heads, header fields, whole requests.

use std::convert::Infallible;
use std::future::{Future, Ready, ready};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use http::header::{CONNECTION, HOST, TRANSFER_ENCODING};
use http::{HeaderValue, Method, Request, StatusCode, Version};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use warp::filters::BoxedFilter;
use warp::reply::Response;

pub use super::unauthorized::Authorization;
use super::unauthorized::Slots;

/// Maximum length of a request's head in bytes; a longer one is answered 431.
const HEAD_MAX: usize = 16 * 1024;

/// Maximum number of header fields of a request; more are answered 431.
const HEADERS_MAX: usize = 100;

/// How long a client may leave an answer unread before the connection is dropped.
const WRITE_TIMEOUT: Duration = Duration::from_secs(20);

/// How long a connection without a request is kept when stopping, because its first request may be in
/// transit.
const FIRST_REQUEST: Duration = Duration::from_secs(1);

/// Delay after a failed `accept` (usually because no file descriptors are left).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The client of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A TCP client.
    Tcp(SocketAddr),
    /// A process of this machine, with its user id if the kernel provides it.
    Unix {
        /// The user id.
        uid: Option<u32>,
    },
}

/// The filter that answers requests.
pub type Filter = BoxedFilter<(Response,)>;

/// Limits of one listener.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Maximum number of connections; more wait in the kernel's queue. When all are in use, the oldest ones
    /// without an authorized request are closed.
    pub connections: usize,
    /// Time limit for the head of a request, for a TLS handshake before it, and for an idle connection.
    pub header_timeout: Duration,
    /// Time limit for a whole request with its answer; `None` for streams.
    pub request_timeout: Option<Duration>,
}

/// A source of connections.
pub trait Listener: Send + 'static {
    /// A connection that requests can be read from.
    type Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static;

    /// The step before the first request: a TLS handshake, or nothing. It runs in the connection's own task and
    /// time, so that a slow client delays no other.
    type Opening: Future<Output = io::Result<Self::Stream>> + Send + 'static;

    /// Waits for the next connection.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Opening, Peer)>> + Send;
}

impl Listener for TcpListener {
    type Stream = tokio::net::TcpStream;
    type Opening = Ready<io::Result<Self::Stream>>;

    async fn accept(&self) -> io::Result<(Self::Opening, Peer)> {
        let (stream, address) = Self::accept(self).await?;
        stream.set_nodelay(true)?;
        Ok((ready(Ok(stream)), Peer::Tcp(address)))
    }
}

impl Listener for UnixListener {
    type Stream = tokio::net::UnixStream;
    type Opening = Ready<io::Result<Self::Stream>>;

    async fn accept(&self) -> io::Result<(Self::Opening, Peer)> {
        let (stream, _) = Self::accept(self).await?;
        let uid = stream.peer_cred().ok().map(|cred| cred.uid());
        Ok((ready(Ok(stream)), Peer::Unix { uid }))
    }
}

/// Serves until `stop`, then lets requests in progress end. The caller limits that wait.
pub async fn serve<L: Listener>(listener: L, filter: Filter, limits: Limits, stop: CancellationToken) {
    let slots = Slots::new(limits.connections);
    let tracker = TaskTracker::new();
    loop {
        let permit = tokio::select! {
            () = stop.cancelled() => break,
            permit = slots.acquire() => permit,
        };
        let Some(permit) = permit else { break };
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((opening, peer)) => {
                let slot = slots.occupy(permit);
                let client = Client {
                    peer,
                    authorization: slot.authorization(),
                };
                let (filter, stop) = (filter.clone(), stop.clone());
                tracker.spawn(async move {
                    let served = async {
                        if let Some(stream) = opened(opening, limits.header_timeout).await {
                            connection(stream, client, filter, limits, stop).await;
                        }
                    };
                    tokio::select! {
                        () = served => {}
                        () = slot.leave.cancelled() => tracing::debug!("a connection was closed for another"),
                    }
                });
            }
            Err(error) => {
                tracing::warn!("a connection could not be accepted: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    tracker.close();
    tracker.wait().await;
}

/// The result of the opening, if it ended in time. Stopping does not interrupt it: like a head in transit, it
/// has its own limit.
async fn opened<S>(opening: impl Future<Output = io::Result<S>>, limit: Duration) -> Option<S> {
    match tokio::time::timeout(limit, opening).await {
        Ok(Ok(stream)) => return Some(stream),
        Ok(Err(error)) => tracing::debug!("a connection could not be opened: {error}"),
        Err(_) => tracing::debug!("a connection was not opened in time"),
    }
    None
}

/// The client of a connection.
#[derive(Clone)]
struct Client {
    peer: Peer,
    authorization: Authorization,
}

async fn connection<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    stream: S,
    client: Client,
    filter: Filter,
    limits: Limits,
    stop: CancellationToken,
) {
    let routes = TowerToHyperService::new(warp::service(filter));
    let asked = CancellationToken::new();
    let service = service_fn(|request| {
        asked.cancel();
        answer(routes.clone(), client.clone(), limits.request_timeout, request)
    });
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(WRITE_TIMEOUT));
    let stream = Box::pin(stream);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_headers(4 * HEADERS_MAX)
        .max_buf_size(4 * HEAD_MAX)
        // A carrier that closes its side after posting still gets its answer; a stream ends with its reader.
        .half_close(limits.request_timeout.is_some())
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    // A graceful shutdown would at once close a connection that has not been read from.
    let stopping = async {
        stop.cancelled().await;
        let _ = tokio::time::timeout(FIRST_REQUEST, asked.cancelled()).await;
    };
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stopping => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!("a connection ended early: {error}");
    }
}

async fn answer<S>(
    routes: S,
    client: Client,
    timeout: Option<Duration>,
    mut request: Request<Incoming>,
) -> Result<Response, Infallible>
where
    S: Service<Request<Incoming>, Response = Response, Error = Infallible>,
{
    if let Some(refusal) = refusal(&request) {
        return Ok(refusal);
    }
    request.extensions_mut().insert(client.peer);
    request.extensions_mut().insert(client.authorization);
    if let Some(target) = request.uri().path_and_query().cloned() {
        request.extensions_mut().insert(target);
    }
    // hyper drops a Content-Length next to a Transfer-Encoding; a proxy may see the next request begin
    // elsewhere.
    let is_last = request.headers().contains_key(TRANSFER_ENCODING);
    let answer = routes.call(request);
    let answer = match timeout {
        None => answer.await,
        Some(timeout) => tokio::time::timeout(timeout, answer)
            .await
            .unwrap_or_else(|_| Ok(too_slow())),
    };
    if is_last { answer.map(closing) } else { answer }
}

/// Rejects requests that warp must not see (it panics on `CONNECT host:port`), heads that a proxy in front
/// could interpret differently, and heads that are too large.
fn refusal(request: &Request<Incoming>) -> Option<Response> {
    if let Some(why) = ambiguous(request) {
        return Some(closing(super::error(StatusCode::BAD_REQUEST, why)));
    }
    if request.method() == Method::CONNECT {
        return Some(super::method_not_allowed("GET, POST"));
    }
    if !request.uri().path().starts_with('/') {
        return Some(super::error(StatusCode::NOT_FOUND, "no such path"));
    }
    let fields = request.headers();
    let bytes: usize = fields
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 4)
        .sum();
    let target = request
        .uri()
        .path_and_query()
        .map_or(0, |target| target.as_str().len());
    (fields.len() > HEADERS_MAX || bytes + target > HEAD_MAX).then(|| {
        super::error(
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            "the request's head is too big",
        )
    })
}

/// Why it is uncertain where this request ends or which host it is for. Such heads are used to smuggle one
/// request behind another through a proxy ([RFC 9112][1], sections 3.2 and 6.3).
///
/// [1]: https://www.rfc-editor.org/rfc/rfc9112
fn ambiguous(request: &Request<Incoming>) -> Option<&'static str> {
    let fields = request.headers();
    let count = |name| fields.get_all(name).iter().count();
    let hosts = count(HOST);
    if count(TRANSFER_ENCODING) > 1 {
        Some("more than one Transfer-Encoding field")
    } else if hosts > 1 {
        Some("more than one Host field")
    } else if hosts == 0 && request.version() == Version::HTTP_11 {
        Some("no Host field")
    } else {
        None
    }
}

fn too_slow() -> Response {
    closing(super::error(
        StatusCode::REQUEST_TIMEOUT,
        "the request took too long",
    ))
}

/// Marks the answer as the last one of its connection.
fn closing(mut response: Response) -> Response {
    response
        .headers_mut()
        .insert(CONNECTION, HeaderValue::from_static("close"));
    response
}
