//! The NBD server: fixed newstyle over a unix socket or TCP, on plain threads.
//!
//! ```text
//! listener ──accept──► haggling ──export chosen──► session ──► export ──► blockstore
//!                      one thread                  1 to 16 threads, in turns
//! ```
//!
//! 1. Everything a client can make the server hold is bounded: connections, time to haggle, option
//!    data, requests under way, payload bytes.
//! 2. A volume's writer token is taken at the first write of a connection and let go when it ends;
//!    connections of one process share it (over TCP: of one ticket). Others read.
//! 3. A reply to a write means that it is in the value log; a reply to FLUSH, or to a write with FUA,
//!    that everything answered before, on any connection, is on the disk.
//! 4. Stopping: no new clients, requests under way are answered within [`STOP_LIMIT`], then the
//!    connections close without a word, so that clients which can reconnect do.

mod buffers;
mod connections;
mod counters;
mod errors;
mod export;
mod guard;
mod haggling;
mod input;
mod listener;
mod reply;
mod session;
mod stored;
mod stream;
#[cfg(test)]
mod tests;
mod tls;

pub use counters::Counters;
pub use errors::{Error, Result};
pub use guard::asks;
pub use listener::{Exports, Listener};

use buffers::Pool;
use connections::{Connections, Departure};
use counters::Tallies;
use export::{Attached, Exporter};
use guard::{Desk, Guard};
use listener::Socket;
use session::Session;
use std::net::{Shutdown, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use stream::Stream;

/// How long requests under way may take when the server stops.
pub const STOP_LIMIT: Duration = Duration::from_secs(5);
/// After an `accept` that failed for want of something (descriptors, memory).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A running NBD server. Dropping it stops it.
pub struct Server {
    shared: Arc<Shared>,
    accepting: Mutex<Option<JoinHandle<()>>>,
    /// Held until the server has stopped: dropping it removes a unix socket's file.
    socket: Mutex<Option<Arc<Socket>>>,
    address: Option<SocketAddr>,
    path: Option<std::path::PathBuf>,
}

/// What all connections of a server share.
struct Shared {
    exporter: Box<dyn Exporter>,
    exports: Exports,
    guard: Guard,
    tls: Option<Arc<rustls::ServerConfig>>,
    tallies: Tallies,
    pool: Arc<Pool>,
    stopping: Arc<AtomicBool>,
    connections: Arc<Connections>,
}

/// Serves the exports of `store` on `listener` until the server is stopped.
pub fn serve(store: blockstore::Store, listener: Listener) -> Result<Server> {
    serve_exporter(Box::new(store), listener)
}

/// The one name of the export that `name` leads to, as policies and tickets know it.
pub fn canonical(store: &blockstore::Store, name: &str) -> blockstore::Result<String> {
    Exporter::open(store, name, "nobody").map(|opened| opened.listed.name)
}

fn serve_exporter(exporter: Box<dyn Exporter>, listener: Listener) -> Result<Server> {
    let Listener {
        socket,
        exports,
        guard,
        tls,
    } = listener;
    let shared = Arc::new(Shared {
        exporter,
        exports,
        guard,
        tls,
        tallies: Tallies::default(),
        pool: Arc::default(),
        stopping: Arc::default(),
        connections: Arc::default(),
    });
    let socket = Arc::new(socket);
    let (address, path) = (socket.address(), socket.path().map(Path::to_owned));
    let accepting = std::thread::Builder::new()
        .name("nbd-accept".to_owned())
        .spawn({
            let (shared, socket) = (Arc::clone(&shared), Arc::clone(&socket));
            move || accept(&shared, &socket)
        })
        .map_err(Error::Thread)?;
    Ok(Server {
        shared,
        accepting: Mutex::new(Some(accepting)),
        socket: Mutex::new(Some(socket)),
        address,
        path,
    })
}

impl Server {
    /// The TCP address, with the port that was taken.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.address
    }

    /// The unix socket's path.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// What was asked of each export since the server started, by name.
    pub fn counters(&self) -> Vec<Counters> {
        self.shared.tallies.snapshot()
    }

    /// Stops accepting, waits up to [`STOP_LIMIT`] for the requests under way, closes the connections
    /// and removes the socket file. Can be called again; then there is nothing left to do.
    pub fn stop(&self) {
        let Some(socket) = self
            .socket
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
        else {
            return;
        };
        self.shared.stopping.store(true, Ordering::Relaxed);
        if let Err(error) = socket.close() {
            tracing::debug!(%error, "closing the NBD socket");
        }
        if let Some(accepting) = self
            .accepting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
            && accepting.join().is_err()
        {
            tracing::error!("the thread that accepts NBD connections died");
        }
        // The file goes before the clients do, so that none finds it and nobody behind it.
        drop(socket);
        self.shared.connections.shutdown(Shutdown::Read);
        let left = self.shared.connections.wait_until_empty(STOP_LIMIT);
        if left > 0 {
            tracing::warn!(
                connections = left,
                "closing NBD connections with requests under way"
            );
            self.shared.connections.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

fn accept(shared: &Arc<Shared>, socket: &Socket) {
    loop {
        let stream = match socket.accept() {
            Ok(stream) => Arc::new(stream),
            Err(_) if shared.stopping.load(Ordering::Relaxed) => return,
            Err(error) => {
                tracing::warn!(%error, "an NBD client could not be let in; trying on");
                std::thread::sleep(ACCEPT_PAUSE);
                continue;
            }
        };
        let Some(departure) = shared.connections.admit(&stream) else {
            tracing::warn!(
                limit = connections::CONNECTIONS_MAX,
                "an NBD client is turned away: too many connections"
            );
            continue;
        };
        let connection = Arc::clone(shared);
        let started = std::thread::Builder::new()
            .name("nbd".to_owned())
            .spawn(move || connection.attend(stream, departure));
        if let Err(error) = started {
            tracing::warn!(%error, "an NBD client is turned away: no thread for it");
        }
    }
}

impl Shared {
    /// One connection, from its first byte to its last.
    fn attend(&self, stream: Arc<Stream>, departure: Departure) {
        if let Err(error) = stream.prepare() {
            tracing::debug!(%error, "an NBD client is gone before it began");
            return;
        }
        let peer = stream.peer(departure.id);
        let desk = Desk::new(&self.guard, &self.exports, &peer);
        let exporter = self.exporter.as_ref();
        let agreement = match haggling::haggle(&stream, exporter, &desk, self.tls.as_ref()) {
            Ok(agreement) => agreement,
            Err(haggling::Ended::ByClient) => return,
            Err(reason) => {
                let cause = std::error::Error::source(&reason).map(ToString::to_string);
                tracing::info!(client = peer.holder, %reason, cause, "an NBD handshake failed");
                return;
            }
        };
        let holder = peer.holder;
        let name = agreement.opened.listed.name;
        tracing::debug!(
            client = holder,
            export = name,
            connection = departure.id,
            "an NBD client is attached"
        );
        let attached = Attached {
            tally: self.tallies.of(&name),
            name,
            export: agreement.opened.export,
        };
        let terms = (agreement.structured, agreement.allocation);
        let session = Session::new(
            stream,
            attached,
            terms,
            Arc::clone(&self.pool),
            Arc::clone(&self.stopping),
            departure,
        );
        Arc::new(session).work();
    }
}
