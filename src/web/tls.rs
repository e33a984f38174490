//! The carriers' listener: plain HTTP, or TLS while the plan has a certificate.

use std::io;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;

use super::inbound::Inbound;
use super::serve::{self, Peer};

/// A TCP listener that asks the plan for each new connection, so that a reload exchanges the certificate and
/// connections that are open keep theirs.
pub struct Listener {
    tcp: TcpListener,
    inbound: Arc<Inbound>,
}

impl Listener {
    /// Serves what `inbound` has planned.
    #[must_use]
    pub fn new(tcp: TcpListener, inbound: Arc<Inbound>) -> Self {
        Self { tcp, inbound }
    }
}

impl serve::Listener for Listener {
    type Stream = Either<Box<TlsStream<TcpStream>>, TcpStream>;
    type Opening = BoxFuture<'static, io::Result<Self::Stream>>;

    async fn accept(&self) -> io::Result<(Self::Opening, Peer)> {
        let (opening, peer) = serve::Listener::accept(&self.tcp).await?;
        Ok((Box::pin(open(opening.into_inner(), self.inbound.clone())), peer))
    }
}

async fn open(
    stream: io::Result<TcpStream>,
    inbound: Arc<Inbound>,
) -> io::Result<<Listener as serve::Listener>::Stream> {
    let stream = stream?;
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
