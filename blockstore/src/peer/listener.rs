//! The listener: TLS, and whether it is a member that calls or a joiner.
//!
//! 1. Whoever has not shown who they are costs a bounded share: so many connections, each for so long.
//!    When there are more, the oldest goes, so a crowd of silent strangers does not lock members out.
//! 2. A joiner is led to the join and nowhere else; a member's connection needs a certificate.

use super::dial::{Reached, buffered};
use super::events::EventKind;
use super::identity::{ALPN_JOIN, ALPN_PEER};
use super::shared::Shared;
use super::trust::handshake_failed;
use super::{inbound, join};
use rustls::pki_types::UnixTime;
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

/// A pause after the system refused to give us a connection (too many files open).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// What is read away so that the reason for a refusal arrives before the connection is reset.
const DRAINED_BYTES_MAX: u64 = 64 << 10;
const DRAINED_FOR: Duration = Duration::from_millis(200);

/// Connections that have not shown yet who they are, the oldest first.
pub(super) struct HalfOpen {
    most: usize,
    list: Mutex<(u64, VecDeque<(u64, CancellationToken)>)>,
}

impl HalfOpen {
    pub(super) fn new(most: usize) -> Self {
        Self {
            most: most.max(1),
            list: Mutex::default(),
        }
    }

    fn enter(&self) -> (u64, CancellationToken) {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        let (next, waiting) = &mut *list;
        *next += 1;
        let entry = (*next, CancellationToken::new());
        waiting.push_back(entry.clone());
        if waiting.len() > self.most
            && let Some((_, oldest)) = waiting.pop_front()
        {
            oldest.cancel();
        }
        entry
    }

    fn leave(&self, number: u64) {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        list.1.retain(|(entry, _)| *entry != number);
    }
}

/// Accepts until the transport stops.
pub(super) async fn listen(shared: Arc<Shared>, listener: TcpListener) {
    loop {
        let accepted = tokio::select! {
            () = shared.stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let (tcp, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a peer's connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // In the order of their coming, whichever task runs first.
        let place = shared.half_open.enter();
        let served = serve(Arc::clone(&shared), tcp, address, place);
        shared.tasks.spawn_on(served, &shared.handle);
    }
}

async fn serve(
    shared: Arc<Shared>,
    tcp: TcpStream,
    address: SocketAddr,
    (number, evicted): (u64, CancellationToken),
) {
    let address = address.to_string();
    let secured = tokio::select! {
        secured = timeout(shared.options.pace.handshake, secure(&shared, tcp, &address)) => secured.ok().flatten(),
        () = evicted.cancelled() => None,
        () = shared.stop.cancelled() => None,
    };
    match secured {
        None => {}
        Some(Secured::Member(reached)) => {
            shared.half_open.leave(number);
            inbound::serve(Arc::clone(&shared), reached, address).await;
        }
        Some(Secured::Joiner(tls)) => {
            tokio::select! {
                () = join::serve(&shared, tls, &address) => {}
                () = evicted.cancelled() => {}
                () = shared.stop.cancelled() => {}
            }
        }
    }
    shared.half_open.leave(number);
}

enum Secured {
    Member(Reached),
    Joiner(Box<TlsStream<BufReader<TcpStream>>>),
}

async fn secure(shared: &Shared, tcp: TcpStream, address: &str) -> Option<Secured> {
    let current = shared.way.identity()?.current();
    let stranger = |error: &io::Error| {
        let failed = handshake_failed(error);
        let (code, text) = (failed.code, failed.text);
        if code.is_none() {
            // A port scan, a health check, a peer that died: nothing was shown, nothing is told.
            tracing::debug!(address, %text, "a connection ended before it was one");
            return;
        }
        let text = format!("somebody at {address} was turned away: {text}");
        shared
            .told
            .tell(EventKind::Stranger, None, address, code, text);
    };
    let tcp = buffered(tcp).ok()?;
    let acceptor = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), tcp);
    let started = match acceptor.await {
        Ok(started) => started,
        Err(error) => {
            stranger(&error);
            return None;
        }
    };
    let hello = started.client_hello();
    let joins = hello
        .alpn()
        .is_some_and(|mut names| names.any(|name| name == ALPN_JOIN));
    let config = if joins {
        &current.serve_join
    } else {
        &current.serve_peers
    };
    let accepted = started.into_stream(Arc::clone(config)).into_fallible();
    let tls = match accepted.await {
        Ok(tls) => tls,
        Err((error, tcp)) => {
            stranger(&error);
            drain(tcp).await;
            return None;
        }
    };
    if joins {
        return Some(Secured::Joiner(Box::new(tls)));
    }
    let (_, session) = tls.get_ref();
    let chain = session.peer_certificates().unwrap_or_default();
    let examined = match chain.split_first() {
        Some((own, between)) if session.alpn_protocol() == Some(ALPN_PEER) => current
            .trust
            .examine(own, between, UnixTime::now())
            .map_err(io::Error::other),
        _ => Err(io::Error::other(rustls::Error::NoApplicationProtocol)),
    };
    match examined {
        Ok(examined) => Some(Secured::Member(Reached {
            stream: Box::new(tls),
            named: examined.named,
            shown: Some((examined.issuer, examined.not_after_s)),
        })),
        Err(error) => {
            stranger(&error);
            None
        }
    }
}

/// Lets the alert that was sent arrive: closing over unread bytes would reset the connection.
async fn drain(mut tcp: BufReader<TcpStream>) {
    let _ = tcp.shutdown().await;
    let mut sink = tokio::io::sink();
    let mut rest = tcp.take(DRAINED_BYTES_MAX);
    let _ = timeout(DRAINED_FOR, tokio::io::copy(&mut rest, &mut sink)).await;
}
