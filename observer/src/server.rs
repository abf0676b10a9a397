//! Accepting connections and speaking HTTP/1 on them, with bounds on how many there are and how
//! long one may take to say what it wants.

use std::{io, sync::Arc, time::Duration};

use axum::Router;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    sync::Semaphore,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, warn};

/// Connections served at once per listener; more wait in the kernel's backlog.
const CONNECTIONS: usize = 64;
/// Time to send a request's head, the wait for the next request included.
const HEAD: Duration = Duration::from_secs(30);
/// Time for a TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Bytes of a request's head.
const HEAD_BYTES: usize = 16 * 1024;
/// Pause after an accept that failed, as when file descriptors ran out.
const PAUSE: Duration = Duration::from_millis(200);

/// Something that connections come from.
pub trait Accept {
    /// A connection.
    type Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static;

    /// Waits for the next one.
    fn next(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

impl Accept for TcpListener {
    type Stream = tokio::net::TcpStream;

    async fn next(&self) -> io::Result<Self::Stream> {
        Ok(self.accept().await?.0)
    }
}

impl Accept for UnixListener {
    type Stream = tokio::net::UnixStream;

    async fn next(&self) -> io::Result<Self::Stream> {
        Ok(self.accept().await?.0)
    }
}

/// Serves `routes` to whoever connects, for ever; over TLS if so configured.
pub async fn serve(listener: impl Accept, tls: Option<TlsAcceptor>, routes: Router) {
    let seats = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(seat) = Arc::clone(&seats).acquire_owned().await else {
            return;
        };
        let stream = match listener.next().await {
            Ok(stream) => stream,
            Err(error) => {
                warn!("cannot accept a connection: {error}");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let (tls, routes) = (tls.clone(), routes.clone());
        tokio::spawn(async move {
            match tls {
                None => speak(stream, routes).await,
                Some(tls) => match timeout(HANDSHAKE, tls.accept(stream)).await {
                    Ok(Ok(stream)) => speak(stream, routes).await,
                    Ok(Err(error)) => debug!("TLS handshake failed: {error}"),
                    Err(_) => debug!("TLS handshake took too long"),
                },
            }
            drop(seat);
        });
    }
}

async fn speak(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, routes: Router) {
    let spoken = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes))
        .await;
    if let Err(error) = spoken {
        debug!("connection ended: {error}");
    }
}
