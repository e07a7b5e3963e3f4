//! A client's connection, unix or TCP, plain or encrypted, and who is at the other end.

use super::tls::Tls;
use rustix::net::sockopt;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

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
    Tcp {
        socket: TcpStream,
        /// Once TLS is agreed, everything goes through it.
        tls: OnceLock<Box<Tls>>,
    },
}

/// Who is at the other end, as far as the system knows.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    /// Over TCP.
    pub(super) address: Option<IpAddr>,
    /// Under which name it holds a writer token: its process, or over TCP its host.
    pub(super) holder: String,
    /// A process and its user, as the kernel vouches for them (unix(7), `SO_PEERCRED`).
    pub(super) agent: String,
}

impl Stream {
    /// A connection over TCP, not encrypted yet.
    pub(super) fn tcp(socket: TcpStream) -> Self {
        Self::Tcp {
            socket,
            tls: OnceLock::new(),
        }
    }

    /// Sets what the protocol and our own bounds want of the socket.
    pub(super) fn prepare(&self) -> io::Result<()> {
        match self {
            Self::Unix(stream) => sockopt::set_socket_send_buffer_size(stream, UNIX_BUFFER_BYTES)?,
            Self::Tcp { socket, .. } => {
                // proto.md, "Protocol phases": both sides should disable Nagle's algorithm.
                socket.set_nodelay(true)?;
                sockopt::set_socket_keepalive(socket, true)?;
                sockopt::set_tcp_keepidle(socket, KEEPALIVE_AFTER)?;
                sockopt::set_tcp_keepintvl(socket, KEEPALIVE_EVERY)?;
                sockopt::set_tcp_keepcnt(socket, KEEPALIVE_PROBES)?;
            }
        }
        Ok(())
    }

    /// Who is there.
    pub(super) fn peer(&self, connection: u64) -> Peer {
        match self {
            Self::Unix(stream) => process(stream, connection),
            Self::Tcp { socket, .. } => {
                let address = socket.peer_addr().ok().map(|peer| peer.ip().to_canonical());
                Peer {
                    address,
                    holder: match address {
                        Some(address) => address.to_string(),
                        None => format!("unknown peer (connection {connection})"),
                    },
                    agent: "NBD".to_owned(),
                }
            }
        }
    }

    /// Whether nobody on the way can listen: TLS, or a socket of this machine's kernel.
    pub(super) fn is_secure(&self) -> bool {
        match self {
            Self::Unix(_) => true,
            Self::Tcp { socket, tls } => {
                tls.get().is_some()
                    || socket
                        .peer_addr()
                        .is_ok_and(|peer| peer.ip().to_canonical().is_loopback())
            }
        }
    }

    /// Whether TLS has begun.
    pub(super) fn is_encrypted(&self) -> bool {
        match self {
            Self::Unix(_) => false,
            Self::Tcp { tls, .. } => tls.get().is_some(),
        }
    }

    /// Begins TLS; everything behind this goes through it. Once per connection, and not on a unix socket.
    pub(super) fn encrypt(
        &self,
        config: Arc<rustls::ServerConfig>,
        deadline: Instant,
    ) -> io::Result<()> {
        match self {
            Self::Unix(_) => Err(io::ErrorKind::Unsupported.into()),
            Self::Tcp { socket, tls } => {
                let begun = Tls::accept(config, socket, deadline)?;
                tls.set(Box::new(begun))
                    .map_err(|_| io::ErrorKind::AlreadyExists.into())
            }
        }
    }

    /// Some bytes; none is the end of the stream.
    pub(super) fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let outcome = match self {
                Self::Unix(stream) => (&mut &*stream).read(buffer),
                Self::Tcp { socket, tls } => match tls.get() {
                    None => (&mut &*socket).read(buffer),
                    Some(tls) => tls.receive(socket, buffer),
                },
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
            Self::Tcp { socket, tls } => match tls.get() {
                None => (&mut &*socket).write_all(bytes),
                Some(tls) => tls.send(socket, bytes),
            },
        }
    }

    /// Says that nothing follows, where the protocol below NBD has words for it.
    pub(super) fn goodbye(&self) {
        if let Self::Tcp { socket, tls } = self
            && let Some(tls) = tls.get()
        {
            tls.goodbye(socket);
        }
    }

    /// Ends one direction or both; a peer that is gone already is no error.
    pub(super) fn shutdown(&self, how: Shutdown) {
        let outcome = match self {
            Self::Unix(stream) => stream.shutdown(how),
            Self::Tcp { socket, .. } => socket.shutdown(how),
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
            Self::Tcp { socket, .. } => {
                socket.set_read_timeout(limit)?;
                socket.set_write_timeout(limit)
            }
        }
    }
}

fn process(stream: &UnixStream, connection: u64) -> Peer {
    let credentials = sockopt::socket_peercred(stream);
    let (pid, user) = match &credentials {
        Ok(found) => (found.pid.as_raw_pid(), found.uid.as_raw().to_string()),
        Err(_) => (0, "unknown".to_owned()),
    };
    match std::fs::read_to_string(format!("/proc/{pid}/comm")) {
        Ok(command) => {
            let command: String = command.chars().filter(|c| !c.is_control()).collect();
            Peer {
                address: None,
                holder: format!("pid {pid} ({command})"),
                agent: format!("{command} pid {pid} uid {user}"),
            }
        }
        // Gone already, or of another pid namespace: then connections cannot be told to be of one
        // process, and each is a holder of its own.
        Err(_) => Peer {
            address: None,
            holder: format!("pid {pid} (unknown, connection {connection})"),
            agent: format!("unknown pid {pid} uid {user}"),
        },
    }
}
