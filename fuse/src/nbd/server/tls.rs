//! TLS below an established connection, for threads that read and write it at the same time.
//!
//! ```text
//! receive: socket ──► reading ──► conn ──► plain bytes      one reader at a time
//! send:    plain bytes ──► conn ──► writing ──► socket      one writer at a time
//! ```
//! 1. Nobody waits for the socket while holding `conn`, so that a reader waiting for requests does not
//!    hold up replies.
//! 2. Records leave in the order they were made: `writing` is held from the one to the other.
//! 3. At most one piece of ciphertext is read ahead.

use rustls::{ServerConfig, ServerConnection};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Ciphertext read at a time: a few records.
const READ_BYTES: usize = 64 << 10;
/// Plain bytes encrypted at a time.
const WRITE_BYTES: usize = 64 << 10;
/// How long saying goodbye may take.
const GOODBYE_LIMIT: Duration = Duration::from_millis(200);

/// The server's side of TLS.
pub(super) struct Tls {
    conn: Mutex<ServerConnection>,
    reading: Mutex<Ahead>,
    writing: Mutex<Vec<u8>>,
}

/// Ciphertext that was read and not yet taken: `bytes[start..end]`.
struct Ahead {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Tls")
    }
}

impl Tls {
    /// Shakes hands, by `deadline` at the latest.
    pub(super) fn accept(
        config: Arc<ServerConfig>,
        socket: &TcpStream,
        deadline: Instant,
    ) -> io::Result<Self> {
        let mut conn = ServerConnection::new(config).map_err(io::Error::other)?;
        // What one send encrypts is written before the next: nothing gathers.
        conn.set_buffer_limit(None);
        let mut socket = socket;
        while conn.is_handshaking() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            socket.set_read_timeout(Some(left))?;
            socket.set_write_timeout(Some(left))?;
            if conn.wants_write() {
                conn.write_tls(&mut socket)?;
                continue;
            }
            if conn.read_tls(&mut socket)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if let Err(error) = conn.process_new_packets() {
                // Tells the client why, if it listens.
                let _ = conn.write_tls(&mut socket);
                return Err(io::Error::new(io::ErrorKind::InvalidData, error));
            }
        }
        while conn.wants_write() {
            conn.write_tls(&mut socket)?;
        }
        Ok(Self {
            conn: Mutex::new(conn),
            reading: Mutex::new(Ahead {
                bytes: vec![0; READ_BYTES].into_boxed_slice(),
                start: 0,
                end: 0,
            }),
            writing: Mutex::default(),
        })
    }

    /// Some plain bytes; none is the end of the stream.
    pub(super) fn receive(&self, socket: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
        let mut ahead = locked(&self.reading);
        loop {
            let mut conn = locked(&self.conn);
            match conn.reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return other,
            }
            if ahead.start < ahead.end {
                let mut cipher = &ahead.bytes[ahead.start..ahead.end];
                let taken = conn.read_tls(&mut cipher)?;
                ahead.start += taken;
                let state = conn.process_new_packets();
                let answers = conn.wants_write();
                drop(conn);
                if answers {
                    // A key update's answer, or an alert that says what was wrong.
                    self.send(socket, &[])?;
                }
                state.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
                continue;
            }
            drop(conn);
            let mut from = socket;
            let count = from.read(&mut ahead.bytes)?;
            if count == 0 {
                // Without a goodbye. NBD has its own end of a session, so nothing can be cut off here
                // that was not asked for again.
                return Ok(0);
            }
            (ahead.start, ahead.end) = (0, count);
        }
    }

    pub(super) fn send(&self, socket: &TcpStream, bytes: &[u8]) -> io::Result<()> {
        let mut writing = locked(&self.writing);
        let mut pieces = bytes.chunks(WRITE_BYTES);
        loop {
            let piece = pieces.next();
            writing.clear();
            {
                let mut conn = locked(&self.conn);
                conn.writer().write_all(piece.unwrap_or_default())?;
                while conn.wants_write() {
                    conn.write_tls(&mut *writing)?;
                }
            }
            let mut to = socket;
            to.write_all(&writing)?;
            if pieces.len() == 0 {
                return Ok(());
            }
        }
    }

    /// Tells the client that nothing follows, if it can be told at once.
    pub(super) fn goodbye(&self, socket: &TcpStream) {
        // Somebody who is stuck in a send has a client that does not listen.
        if self.writing.try_lock().is_err() {
            return;
        }
        locked(&self.conn).send_close_notify();
        let told = socket
            .set_write_timeout(Some(GOODBYE_LIMIT))
            .and_then(|()| self.send(socket, &[]));
        if let Err(error) = told {
            tracing::debug!(%error, "an NBD client left before TLS ended");
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
