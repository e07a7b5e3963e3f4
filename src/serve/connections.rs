//! HTTP connections: at most so many at once, and a deadline for those under way when stopping.

use axum::Router;
use axum::serve::Listener;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// Connections at once; the next ones wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 1024;

/// Serves until `stopped`, then lets requests under way finish until the deadline.
pub(crate) async fn serve(
    listener: TcpListener,
    application: Router,
    stopped: impl Future<Output = ()>,
    deadline: Duration,
) -> io::Result<()> {
    let stop = CancellationToken::new();
    let listener = Bounded {
        listener,
        room: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
    };
    let serving = axum::serve(listener, application)
        .with_graceful_shutdown(stop.clone().cancelled_owned())
        .into_future();
    tokio::pin!(serving);
    tokio::select! {
        ended = &mut serving => return ended,
        () = stopped => stop.cancel(),
    }
    match tokio::time::timeout(deadline, serving).await {
        Ok(ended) => ended,
        Err(_) => {
            tracing::warn!(
                seconds = deadline.as_secs(),
                "requests were still under way at the deadline"
            );
            Ok(())
        }
    }
}

struct Bounded {
    listener: TcpListener,
    room: Arc<Semaphore>,
}

impl Listener for Bounded {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        let place = Arc::clone(&self.room).acquire_owned().await;
        // This one retries by itself, with a pause where the machine lacks something.
        let (stream, address) = Listener::accept(&mut self.listener).await;
        // Small answers go at once; if this fails the connection is only slower.
        let _ = stream.set_nodelay(true);
        (
            Connection {
                stream,
                _place: place.ok(),
            },
            address,
        )
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection and its place among the many.
struct Connection {
    stream: TcpStream,
    _place: Option<OwnedSemaphorePermit>,
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
