//! A client's connection, unix or TCP, and who is at the other end.

use rustix::net::sockopt;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// When a silent TCP peer is asked whether it is still there, how often, and how many times: a dead
/// client must not keep a volume's writer token.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(20);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(5);
const KEEPALIVE_PROBES: u32 = 4;
/// Room in a unix socket, so that a reply of the usual sizes leaves in one call.
const UNIX_BUFFER_BYTES: usize = 1 << 20;

#[derive(Debug)]
pub(super) enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Stream {
    /// Sets what the protocol and our own bounds want of the socket.
    pub(super) fn prepare(&self) -> io::Result<()> {
        match self {
            Self::Unix(stream) => sockopt::set_socket_send_buffer_size(stream, UNIX_BUFFER_BYTES)?,
            Self::Tcp(stream) => {
                // proto.md, "Protocol phases": both sides should disable Nagle's algorithm.
                stream.set_nodelay(true)?;
                sockopt::set_socket_keepalive(stream, true)?;
                sockopt::set_tcp_keepidle(stream, KEEPALIVE_AFTER)?;
                sockopt::set_tcp_keepintvl(stream, KEEPALIVE_EVERY)?;
                sockopt::set_tcp_keepcnt(stream, KEEPALIVE_PROBES)?;
            }
        }
        Ok(())
    }

    /// Under which name the peer holds a writer token: its process, or over TCP its host.
    pub(super) fn holder(&self, connection: u64) -> String {
        match self {
            Self::Unix(stream) => {
                let pid = match sockopt::socket_peercred(stream) {
                    Ok(credentials) => credentials.pid.as_raw_pid(),
                    Err(_) => 0,
                };
                match std::fs::read_to_string(format!("/proc/{pid}/comm")) {
                    Ok(command) => format!("pid {pid} ({})", command.trim_end()),
                    // Gone already, or of another pid namespace: then connections cannot be told to be
                    // of one process, and each is a holder of its own.
                    Err(_) => format!("pid {pid} (unknown, connection {connection})"),
                }
            }
            Self::Tcp(stream) => match stream.peer_addr() {
                Ok(peer) => peer.ip().to_canonical().to_string(),
                Err(_) => format!("unknown peer (connection {connection})"),
            },
        }
    }

    /// Some bytes; none is the end of the stream.
    pub(super) fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let outcome = match self {
                Self::Unix(stream) => (&mut &*stream).read(buffer),
                Self::Tcp(stream) => (&mut &*stream).read(buffer),
            };
            match outcome {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }

    pub(super) fn send(&self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Unix(stream) => (&mut &*stream).write_all(bytes),
            Self::Tcp(stream) => (&mut &*stream).write_all(bytes),
        }
    }

    /// Ends one direction or both; a peer that is gone already is no error.
    pub(super) fn shutdown(&self, how: Shutdown) {
        let outcome = match self {
            Self::Unix(stream) => stream.shutdown(how),
            Self::Tcp(stream) => stream.shutdown(how),
        };
        if let Err(error) = outcome
            && error.kind() != io::ErrorKind::NotConnected
        {
            tracing::debug!(%error, "shutting down an NBD connection");
        }
    }

    /// Limits how long one receive and one send may take.
    pub(super) fn set_timeouts(&self, limit: Option<Duration>) -> io::Result<()> {
        match self {
            Self::Unix(stream) => {
                stream.set_read_timeout(limit)?;
                stream.set_write_timeout(limit)
            }
            Self::Tcp(stream) => {
                stream.set_read_timeout(limit)?;
                stream.set_write_timeout(limit)
            }
        }
    }
}
