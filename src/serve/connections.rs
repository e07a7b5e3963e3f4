//! HTTP connections: how many, from where, how long they may take, encrypted or not.
//!
//! 1. There are at most so many connections; the next ones wait in the kernel's queue. One address
//!    has at most half of the places (a trusted proxy may have all): beyond, it is told to go.
//! 2. A connection that is between two requests, or in the head of one, ends after [`HEAD_LIMIT`]; a
//!    handshake after [`HANDSHAKE_LIMIT`]. Heads have at most [`HEADERS_MAX`] headers and
//!    [`HEAD_BYTES_MAX`]. Bodies and replies are held to a pace by [`super::pace`].
//! 3. Each request carries its [`access::Origin`], which nothing in the request can forge.

use super::door::Door;
use super::origin::Proxies;
use super::pace::{Crowd, PacedBody, PacedStream};
use super::strict;
use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

/// From the end of a request to the end of the head of the next one.
const HEAD_LIMIT: Duration = Duration::from_secs(30);
/// From the first byte of TLS to its end.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// Headers of a request.
const HEADERS_MAX: usize = 128;
/// Bytes of a request's line and headers.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// Bytes of a connection that are read or written at a time.
const BUFFER_BYTES_MAX: usize = 128 << 10;
/// For a client to read why it is sent away.
const LEAVE_LIMIT: Duration = Duration::from_secs(1);
/// After an `accept` that failed for want of something (descriptors, memory).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The first byte of every TLS connection (RFC 8446, 5.1: handshake).
const TLS_HANDSHAKE: u8 = 22;

/// What is known of the connections before the first one comes.
pub(crate) struct Terms {
    /// TLS, if it is spoken.
    pub(crate) tls: Option<Arc<rustls::ServerConfig>>,
    /// Whose word on the client's address counts.
    pub(crate) proxies: Proxies,
    /// Connections at once.
    pub(crate) connections_max: usize,
    /// How long requests under way may take when stopping.
    pub(crate) deadline: Duration,
}

/// Serves until `stopped`, then lets requests under way finish until the deadline.
pub(crate) async fn serve(
    listener: TcpListener,
    application: Router,
    terms: Terms,
    stopped: impl Future<Output = ()>,
) {
    let deadline = terms.deadline;
    let room = Arc::new(Semaphore::new(terms.connections_max));
    let hall = Arc::new(Hall {
        application,
        tls: terms.tls.map(TlsAcceptor::from),
        proxies: terms.proxies,
        share: terms.connections_max / 2,
        guests: Mutex::default(),
        slow_bodies: Crowd::default(),
        slow_readers: Crowd::default(),
        stop: CancellationToken::new(),
        end: CancellationToken::new(),
    });
    let connections = TaskTracker::new();
    tokio::pin!(stopped);
    loop {
        let next = async {
            let place = Arc::clone(&room).acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            () = &mut stopped => break,
            next = next => next,
        };
        match (place, accepted) {
            (Ok(place), Ok((stream, peer))) => {
                if let Some(guest) = Guest::admit(&hall, peer, place) {
                    connections.spawn(attend(Arc::clone(&hall), stream, guest));
                } else {
                    connections.spawn(turn_away(stream, peer));
                }
            }
            (_, Err(error)) if is_of_the_client(&error) => {}
            (_, Err(error)) => {
                tracing::warn!(%error, "an HTTP client could not be let in; trying on");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
            (Err(_), _) => break,
        }
    }
    drop(listener);
    hall.stop.cancel();
    connections.close();
    if tokio::time::timeout(deadline, connections.wait())
        .await
        .is_err()
    {
        tracing::warn!(
            seconds = deadline.as_secs(),
            connections = connections.len(),
            "requests were still under way at the deadline"
        );
        hall.end.cancel();
        connections.wait().await;
    }
}

/// What all connections share.
struct Hall {
    application: Router,
    tls: Option<TlsAcceptor>,
    proxies: Proxies,
    /// Connections of one address.
    share: usize,
    guests: Mutex<HashMap<IpAddr, usize>>,
    slow_bodies: Crowd,
    slow_readers: Crowd,
    /// No new requests.
    stop: CancellationToken,
    /// No requests at all.
    end: CancellationToken,
}

/// A connection's place, given back when dropped.
struct Guest {
    hall: Arc<Hall>,
    address: IpAddr,
    _place: OwnedSemaphorePermit,
}

impl Guest {
    fn admit(hall: &Arc<Hall>, peer: SocketAddr, place: OwnedSemaphorePermit) -> Option<Self> {
        let address = peer.ip().to_canonical();
        let mut guests = hall.guests.lock().unwrap_or_else(PoisonError::into_inner);
        let count = guests.entry(address).or_default();
        if *count >= hall.share && !hall.proxies.trust(address) {
            return None;
        }
        *count += 1;
        drop(guests);
        Some(Self {
            hall: Arc::clone(hall),
            address,
            _place: place,
        })
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut guests = self
            .hall
            .guests
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = guests.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                guests.remove(&self.address);
            }
        }
    }
}

/// Errors of `accept` that tell of one client only (accept(2)).
fn is_of_the_client(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
    )
}

/// Says something and closes. What the client has sent is read away first, within bounds: closing over
/// unread bytes resets the connection, and the answer with it.
async fn say_and_leave(mut stream: TcpStream, answer: &str) -> io::Result<()> {
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await?;
    let mut scratch = [0; 4096];
    for _ in 0..16 {
        match tokio::time::timeout(LEAVE_LIMIT, stream.read(&mut scratch)).await {
            Ok(Ok(count)) if count > 0 => {}
            _ => break,
        }
    }
    Ok(())
}

async fn turn_away(stream: TcpStream, peer: SocketAddr) {
    tracing::debug!(%peer, "an HTTP client is turned away: it has too many connections");
    let answer = short_answer(
        "503 Service Unavailable",
        "too many connections from your address: close some",
    );
    // Whoever is turned away need not hear why.
    let _ = tokio::time::timeout(LEAVE_LIMIT, say_and_leave(stream, &answer)).await;
}

fn short_answer(status: &str, text: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}\n",
        text.len() + 1
    )
}

/// One connection, from its first byte to its last.
async fn attend(hall: Arc<Hall>, stream: TcpStream, guest: Guest) {
    // Small answers go at once; if this fails the connection is only slower.
    let _ = stream.set_nodelay(true);
    let Some(acceptor) = &hall.tls else {
        let stream = PacedStream::new(stream, hall.slow_readers.clone());
        return converse(&hall, stream, guest.address, false).await;
    };
    let greeted = async {
        let mut first = [0];
        if stream.peek(&mut first).await? == 1 && first[0] != TLS_HANDSHAKE {
            let answer = short_answer("400 Bad Request", "TLS is spoken here: use https://");
            say_and_leave(stream, &answer).await?;
            return Ok::<_, io::Error>(None);
        }
        let paced = PacedStream::new(stream, hall.slow_readers.clone());
        acceptor.accept(paced).await.map(Some)
    };
    let greeted = tokio::select! {
        greeted = tokio::time::timeout(HANDSHAKE_LIMIT, greeted) => greeted,
        () = hall.stop.cancelled() => return,
    };
    match greeted {
        Ok(Ok(Some(stream))) => converse(&hall, stream, guest.address, true).await,
        Ok(Ok(None)) => {
            tracing::debug!(peer = %guest.address, "a client spoke HTTP where TLS is spoken");
        }
        Ok(Err(error)) => tracing::debug!(peer = %guest.address, %error, "a TLS handshake failed"),
        Err(_) => tracing::debug!(peer = %guest.address, "a TLS handshake took too long"),
    }
}

async fn converse<S>(hall: &Arc<Hall>, stream: S, peer: IpAddr, tls: bool)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service =
        hyper::service::service_fn(|request| answer(Arc::clone(hall), request, peer, tls));
    let conversation = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .max_headers(HEADERS_MAX)
        .max_header_size(HEAD_BYTES_MAX)
        .max_buf_size(BUFFER_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    tokio::pin!(conversation);
    let mut stopping = false;
    let ended = loop {
        tokio::select! {
            ended = conversation.as_mut() => break ended,
            () = hall.stop.cancelled(), if !stopping => {
                stopping = true;
                conversation.as_mut().graceful_shutdown();
            }
            () = hall.end.cancelled() => return,
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, error = %chain(&error), "an HTTP connection ended badly");
    }
}

async fn answer(
    hall: Arc<Hall>,
    request: Request<Incoming>,
    peer: IpAddr,
    tls: bool,
) -> Result<Response<Body>, Infallible> {
    if let Err(refused) = strict::check(&request) {
        tracing::debug!(%peer, ?refused, "a request is refused as it stands");
        return Ok(refused.answer(Door::of(request.uri().path())));
    }
    let origin = hall.proxies.origin(peer, tls, request.headers());
    let crowd = hall.slow_bodies.clone();
    let mut request = request.map(|body| Body::new(PacedBody::new(body, crowd)));
    request.extensions_mut().insert(origin);
    hall.application.clone().oneshot(request).await
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(deeper) = cause {
        text.push_str(&format!(": {deeper}"));
        cause = deeper.source();
    }
    text
}
