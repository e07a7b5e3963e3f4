//! Where clients come in: a unix socket or a TCP address, and which exports are open there.
//!
//! A unix socket gets its mode and group before it listens, so that nobody slips in between. A socket
//! file left by a killed server is replaced; one that still answers is refused.

use super::errors::{Error, Result};
use super::guard::Guard;
use super::stream::Stream;
use access::Access;
use rustix::net::{AddressFamily, Shutdown, SocketAddrUnix, SocketFlags, SocketType};
use rustls::ServerConfig;
use std::fs::Permissions;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Connections the kernel may hold before they are accepted.
const BACKLOG: i32 = 128;

/// Which exports a listener shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exports {
    /// Everything the store has.
    All,
    /// Only these, under exactly these names. A single one is also the default export (the empty name).
    Only(Vec<String>),
}

impl Exports {
    /// The export meant by `asked`, if it is shown.
    pub(super) fn resolve<'a>(&'a self, asked: &'a str) -> Option<&'a str> {
        match self {
            Self::All => Some(asked).filter(|name| !name.is_empty()),
            Self::Only(names) => match (asked, names.as_slice()) {
                ("", [only]) => Some(only),
                _ => names
                    .iter()
                    .find(|name| name.as_str() == asked)
                    .map(String::as_str),
            },
        }
    }
}

/// A bound socket, not yet served.
#[derive(Debug)]
pub struct Listener {
    pub(super) socket: Socket,
    pub(super) exports: Exports,
    pub(super) guard: Guard,
    /// TLS before anything else.
    pub(super) tls: Option<Arc<ServerConfig>>,
}

#[derive(Debug)]
pub(super) enum Socket {
    Unix {
        listener: UnixListener,
        file: SocketFile,
    },
    Tcp {
        listener: TcpListener,
        address: SocketAddr,
    },
}

/// The file of a unix socket, known by inode, so that only our own is removed.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl Listener {
    /// Binds the unix socket `path` with permission bits `mode` and, if given, the group id `group`.
    pub fn unix(path: &Path, mode: u32, group: Option<u32>, exports: Exports) -> Result<Self> {
        remove_stale(path)?;
        let (listener, file) = bind_unix(path, mode, group).map_err(|source| Error::Listen {
            address: path.display().to_string(),
            source,
        })?;
        Ok(Self {
            socket: Socket::Unix { listener, file },
            exports,
            guard: Guard::Socket,
            tls: None,
        })
    }

    /// Takes whoever opens this unix socket for the operator, and has each opening decided and recorded.
    #[must_use]
    pub fn operator(mut self, access: Access) -> Self {
        self.guard = Guard::Operator(access);
        self
    }

    /// Binds a TCP address; port 0 takes a free one. Everything the store has is there for those who
    /// show a ticket for it. With `tls`, nothing is said before TLS (proto.md, "FORCEDTLS mode").
    pub fn tcp(
        address: SocketAddr,
        access: Access,
        tls: Option<Arc<ServerConfig>>,
    ) -> Result<Self> {
        let (listener, address) = TcpListener::bind(address)
            .and_then(|listener| listener.local_addr().map(|bound| (listener, bound)))
            .map_err(|source| Error::Listen {
                address: address.to_string(),
                source,
            })?;
        Ok(Self {
            socket: Socket::Tcp { listener, address },
            exports: Exports::All,
            guard: Guard::Tickets(access),
            tls,
        })
    }
}

impl Socket {
    /// Waits for the next connection.
    pub(super) fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Unix { listener, .. } => {
                listener.accept().map(|(stream, _)| Stream::Unix(stream))
            }
            Self::Tcp { listener, .. } => listener.accept().map(|(stream, _)| Stream::tcp(stream)),
        }
    }

    /// Makes `accept` fail from now on, also the one that is waiting.
    pub(super) fn close(&self) -> io::Result<()> {
        let socket = match self {
            Self::Unix { listener, .. } => listener.as_fd(),
            Self::Tcp { listener, .. } => listener.as_fd(),
        };
        rustix::net::shutdown(socket, Shutdown::Both)?;
        Ok(())
    }

    pub(super) fn path(&self) -> Option<&Path> {
        match self {
            Self::Unix { file, .. } => Some(&file.path),
            Self::Tcp { .. } => None,
        }
    }

    pub(super) fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Unix { .. } => None,
            Self::Tcp { address, .. } => Some(*address),
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = std::fs::symlink_metadata(&self.path)
            .is_ok_and(|found| found.dev() == self.device && found.ino() == self.inode);
        if ours && let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "the NBD socket file could not be removed");
        }
    }
}

fn bind_unix(path: &Path, mode: u32, group: Option<u32>) -> io::Result<(UnixListener, SocketFile)> {
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    let made = std::fs::symlink_metadata(path)?;
    let file = SocketFile {
        path: path.to_owned(),
        device: made.dev(),
        inode: made.ino(),
    };
    if group.is_some() {
        std::os::unix::fs::chown(path, None, group)?;
    }
    std::fs::set_permissions(path, Permissions::from_mode(mode))?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok((UnixListener::from(socket), file))
}

/// Removes a socket file nobody answers on. Two servers cannot race here for one path as long as it
/// lies in a store's directory, which one process has at a time.
fn remove_stale(path: &Path) -> Result<()> {
    let listen = |source| Error::Listen {
        address: path.display().to_string(),
        source,
    };
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(listen(error)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(Error::NotASocket(path.to_owned()));
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(Error::SocketInUse(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            tracing::info!(path = %path.display(), "replacing the NBD socket file of a server that is gone");
            std::fs::remove_file(path).map_err(listen)
        }
        Err(error) => Err(listen(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::{Error, Exports, Listener};
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("nbd.sock");
        // What a killed server leaves: dropping std's listener does not remove the file.
        drop(std::os::unix::net::UnixListener::bind(&path).expect("a socket"));
        let live =
            Listener::unix(&path, 0o660, None, Exports::All).expect("the stale file is replaced");
        let mode = std::fs::metadata(&path)
            .expect("the socket")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o660);
        match Listener::unix(&path, 0o660, None, Exports::All) {
            Err(Error::SocketInUse(found)) => assert_eq!(found, path),
            other => panic!("{other:?}"),
        }
        drop(live);
        assert!(!path.exists());
    }

    #[test]
    fn a_file_that_is_no_socket_is_left_alone() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("precious");
        std::fs::write(&path, "data").expect("a file");
        assert!(matches!(
            Listener::unix(&path, 0o600, None, Exports::All),
            Err(Error::NotASocket(_))
        ));
        assert_eq!(std::fs::read(&path).expect("the file"), b"data");
    }

    #[test]
    fn a_socket_file_of_somebody_else_is_not_removed() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("nbd.sock");
        let ours = Listener::unix(&path, 0o600, None, Exports::All).expect("a socket");
        std::fs::rename(&path, directory.path().join("moved")).expect("a rename");
        std::fs::write(&path, "another").expect("a file");
        drop(ours);
        assert!(path.exists());
    }

    #[test]
    fn the_default_export_is_the_only_one_there_is() {
        let one = Exports::Only(vec!["root1".to_owned()]);
        assert_eq!(one.resolve(""), Some("root1"));
        assert_eq!(one.resolve("root1"), Some("root1"));
        assert_eq!(one.resolve("root2"), None);
        let two = Exports::Only(vec!["a".to_owned(), "b".to_owned()]);
        assert_eq!(two.resolve(""), None);
        assert_eq!(two.resolve("b"), Some("b"));
        assert_eq!(Exports::All.resolve(""), None);
        assert_eq!(Exports::All.resolve("any"), Some("any"));
    }
}
