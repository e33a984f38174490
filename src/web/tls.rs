//! The TCP listeners for carriers: plain HTTP, or TLS while the plan has a certificate.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;

use super::inbound::Inbound;
use super::serve::{self, Peer};

/// Read the plan for each new connection, so that a reload replaces the certificate while open connections keep
/// theirs. All sockets share one set of limits, so more sockets do not allow more load.
pub struct Listener {
    tcp: Vec<TcpListener>,
    /// The socket to poll first; alternates for fairness.
    first: AtomicUsize,
    inbound: Arc<Inbound>,
}

impl Listener {
    /// Serves the filters of `inbound`.
    #[must_use]
    pub fn new(tcp: Vec<TcpListener>, inbound: Arc<Inbound>) -> Self {
        Self {
            tcp,
            first: AtomicUsize::new(0),
            inbound,
        }
    }

    fn poll_accept(&self, context: &mut Context<'_>) -> Poll<io::Result<(TcpStream, SocketAddr)>> {
        let first = self.first.fetch_add(1, Ordering::Relaxed) % self.tcp.len();
        let (before, after) = self.tcp.split_at(first);
        for listener in after.iter().chain(before) {
            if let Poll::Ready(accepted) = listener.poll_accept(context) {
                return Poll::Ready(accepted);
            }
        }
        Poll::Pending
    }
}

impl serve::Listener for Listener {
    type Stream = Either<Box<TlsStream<TcpStream>>, TcpStream>;
    type Opening = BoxFuture<'static, io::Result<Self::Stream>>;

    async fn accept(&self) -> io::Result<(Self::Opening, Peer)> {
        let (stream, address) = poll_fn(|context| self.poll_accept(context)).await?;
        stream.set_nodelay(true)?;
        Ok((Box::pin(open(stream, self.inbound.clone())), Peer::Tcp(address)))
    }
}

async fn open(stream: TcpStream, inbound: Arc<Inbound>) -> io::Result<<Listener as serve::Listener>::Stream> {
    let server = inbound.plan.borrow().tls.as_ref().map(|tls| tls.server().clone());
    let Some(server) = server else {
        return Ok(Either::Right(stream));
    };
    match TlsAcceptor::from(server).accept(stream).await {
        Ok(stream) => Ok(Either::Left(Box::new(stream))),
        Err(error) => {
            inbound.handshake_failed(&error);
            Err(error)
        }
    }
}
