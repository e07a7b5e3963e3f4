//! What a file operation can be refused with, and the errno it becomes.

use blockstore::{Kind, Subject};
use rustix::io::Errno;
use thiserror::Error;

/// The tree's result.
pub(super) type Result<T, E = Failure> = std::result::Result<T, E>;

/// Why an operation on the tree did not happen.
#[derive(Debug, Error)]
pub(super) enum Failure {
    #[error("there is no such file or directory")]
    Missing,
    #[error("a name has at most 255 bytes")]
    NameTooLong,
    #[error("it is not a directory")]
    NotADirectory,
    #[error("it is a directory")]
    IsADirectory,
    /// Snapshots, images, and everything in a mount made read-only.
    #[error(
        "it is read-only here; snapshots and images never change, the rest through a mount without read_only"
    )]
    ReadOnly,
    /// Volumes are made, removed and renamed by commands, not as files.
    #[error("volumes are made and removed with `infall volume create` and `infall volume rm`")]
    NotByFile,
    #[error(
        "a volume has {length_bytes} bytes and keeps them; change its length with `infall volume resize` (dd: conv=notrunc, qemu-img convert: -n)"
    )]
    FixedLength { length_bytes: u64 },
    #[error("the range begins at {offset}, behind the volume's end at {length_bytes}")]
    PastEnd { offset: u64, length_bytes: u64 },
    #[error("no data, or no hole, from here on")]
    NothingBehind,
    #[error("what the name showed has been replaced; open it again")]
    Replaced,
    #[error("it exists already")]
    Exists,
    #[error("the directory is not empty")]
    NotEmpty,
    #[error("a directory cannot become a part of itself")]
    IntoItself,
    #[error("it is in another bucket: copy it there")]
    OtherBucket,
    #[error("a key has at most 1024 bytes, this path would have {bytes}")]
    KeyTooLong { bytes: usize },
    #[error("objects have no owner but their project's; chown changes nothing here")]
    NoOwner,
    #[error("objects are files and directories; links and devices are none")]
    NoSuchKind,
    #[error("there is no such attribute")]
    NoAttribute,
    #[error("user metadata of an object take at most 2048 bytes")]
    AttributesFull,
    /// The policies say no.
    #[error("{0}")]
    Refused(String),
    /// Another door changed the object while it was open for writing here.
    #[error("{0}")]
    Overtaken(String),
    #[error("{0}")]
    Unsupported(&'static str),
    #[error("the file is not open, or not for this")]
    BadHandle,
    #[error("it was unmounted while the file was open")]
    Unmounted,
    #[error(transparent)]
    Store(#[from] blockstore::Error),
}

impl Failure {
    /// What the caller of the system call sees.
    pub(super) fn errno(&self) -> Errno {
        match self {
            Self::Missing => Errno::NOENT,
            Self::NameTooLong => Errno::NAMETOOLONG,
            Self::NotADirectory => Errno::NOTDIR,
            Self::IsADirectory => Errno::ISDIR,
            Self::ReadOnly => Errno::ROFS,
            Self::NotByFile | Self::FixedLength { .. } => Errno::PERM,
            Self::PastEnd { .. } => Errno::FBIG,
            Self::NothingBehind => Errno::NXIO,
            Self::Exists => Errno::EXIST,
            Self::NotEmpty => Errno::NOTEMPTY,
            Self::IntoItself => Errno::INVAL,
            Self::OtherBucket => Errno::XDEV,
            Self::KeyTooLong { .. } => Errno::NAMETOOLONG,
            Self::NoOwner | Self::NoSuchKind => Errno::PERM,
            Self::NoAttribute => Errno::NODATA,
            Self::AttributesFull => Errno::NOSPC,
            Self::Refused(_) => Errno::ACCESS,
            Self::Replaced | Self::Overtaken(_) => Errno::STALE,
            Self::Unsupported(_) => Errno::OPNOTSUPP,
            Self::BadHandle => Errno::BADF,
            Self::Unmounted => Errno::NOTCONN,
            Self::Store(error) => errno_of(error.kind(), error.subject()),
        }
    }

    /// The whole chain in one line, for the log.
    pub(super) fn chain(&self) -> String {
        match self {
            Self::Store(error) => error.chain(),
            other => other.to_string(),
        }
    }

    /// Whether a person must look: the log's ERROR.
    pub(super) fn is_alarming(&self) -> bool {
        matches!(self, Self::Store(error) if matches!(error.kind(), Kind::Corrupt | Kind::Internal))
    }

    /// Whether there is simply nothing under a name.
    pub(super) fn is_missing(&self) -> bool {
        match self {
            Self::Missing => true,
            Self::Store(error) => error.kind() == Kind::NotFound,
            _ => false,
        }
    }
}

/// The FUSE mount's one table of kinds. EIO stands where a program can do nothing about it.
fn errno_of(kind: Kind, subject: Subject) -> Errno {
    match kind {
        // A write or truncation behind the longest an object can be.
        Kind::Invalid if subject == Subject::Range => Errno::FBIG,
        Kind::Invalid => Errno::INVAL,
        Kind::NotFound => Errno::NOENT,
        Kind::Conflict => Errno::BUSY,
        Kind::Precondition | Kind::Fenced => Errno::STALE,
        Kind::Denied if subject == Subject::Identity => Errno::ACCESS,
        // An object under lock.
        Kind::Denied => Errno::PERM,
        Kind::NoSpace if subject == Subject::Project => Errno::DQUOT,
        Kind::NoSpace => Errno::NOSPC,
        Kind::Unsupported => Errno::OPNOTSUPP,
        Kind::Unavailable | Kind::Corrupt | Kind::Internal => Errno::IO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use blockstore::Error;

    #[test]
    fn a_held_token_is_busy_and_a_full_disk_is_no_space() {
        let busy = Failure::from(Error::new(Kind::Conflict, Subject::Volume, "held by nbd 1"));
        assert_eq!(busy.errno(), Errno::BUSY);
        assert_eq!(busy.chain(), "held by nbd 1");
        assert!(!busy.is_alarming());
        let full = Failure::from(Error::new(Kind::NoSpace, Subject::Store, "full"));
        assert_eq!(full.errno(), Errno::NOSPC);
    }

    #[test]
    fn rot_is_an_io_error_that_alarms() {
        let rot = Failure::from(Error::new(Kind::Corrupt, Subject::Range, "seg-1"));
        assert_eq!(rot.errno(), Errno::IO);
        assert!(rot.is_alarming());
    }
}
