//! The server's own errors, and the store's in NBD's terms.

use crate::nbd::codec::answer::Refusal;
use crate::nbd::codec::numbers::Errno;
use blockstore::Kind;
use std::io;
use std::path::PathBuf;

/// Why a server could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another process answers on the socket.
    #[error("{} is in use by a running server: stop it, or choose another socket path", .0.display())]
    SocketInUse(PathBuf),
    /// There is a file, but no socket.
    #[error("{} exists and is not a socket: remove it, or choose another socket path", .0.display())]
    NotASocket(PathBuf),
    /// The socket could not be made.
    #[error("cannot listen for NBD on {address}: check that it is free and allowed")]
    Listen {
        /// A path or an address.
        address: String,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The accepting thread could not be started.
    #[error("cannot start a thread for the NBD server: raise the limit on threads")]
    Thread(#[source] io::Error),
}

/// The server's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The store's kinds as errors of the transmission phase (proto.md, "Error values").
pub(super) fn errno(kind: Kind) -> Errno {
    match kind {
        // ENOTSUP is kept for a fast zero that would not be fast ("Error values").
        Kind::Invalid | Kind::Precondition | Kind::Unsupported => Errno::Inval,
        Kind::Conflict | Kind::Denied => Errno::Perm,
        Kind::NoSpace => Errno::NoSpc,
        // Both say: attach again. ESHUTDOWN is the one that makes a client disconnect.
        Kind::Fenced | Kind::Unavailable => Errno::Shutdown,
        Kind::NotFound | Kind::Corrupt | Kind::Internal => Errno::Io,
    }
}

/// The store's kinds as refusals of an option (proto.md, "Option reply types").
pub(super) fn refusal(kind: Kind) -> Refusal {
    match kind {
        Kind::Invalid => Refusal::Invalid,
        Kind::Denied => Refusal::Policy,
        Kind::Unavailable => Refusal::Shutdown,
        // "The requested export is not available"; the message says why.
        Kind::NotFound
        | Kind::Conflict
        | Kind::Precondition
        | Kind::Fenced
        | Kind::NoSpace
        | Kind::Corrupt
        | Kind::Unsupported
        | Kind::Internal => Refusal::UnknownExport,
    }
}

/// Whether a person must look: the one place that decides how a store error is logged.
pub(super) fn is_grave(kind: Kind) -> bool {
    match kind {
        Kind::Corrupt | Kind::Internal => true,
        Kind::Invalid
        | Kind::NotFound
        | Kind::Conflict
        | Kind::Precondition
        | Kind::Denied
        | Kind::Fenced
        | Kind::Unavailable
        | Kind::NoSpace
        | Kind::Unsupported => false,
    }
}
