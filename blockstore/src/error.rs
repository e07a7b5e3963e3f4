//! What can go wrong at the store's edge, said so that a caller knows what to do next.
//!
//! A [`Kind`] answers "what should the caller do?", a [`Subject`] says which sort of thing it was
//! about (S3 needs to tell a missing bucket from a missing key), the text names the value.

use std::fmt;

/// The store's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What the caller should do. Each door turns it into its own code in one exhaustive match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The request makes no sense as it stands: change it.
    Invalid,
    /// It is not there: look at a listing.
    NotFound,
    /// It is there already, or in use: choose another name, or release it first.
    Conflict,
    /// A stated precondition does not hold: read again, then decide.
    Precondition,
    /// Not allowed.
    Denied,
    /// Another writer has taken over: attach again.
    Fenced,
    /// Not now (shutting down, refusing after an I/O failure): later, or after a restart.
    Unavailable,
    /// The disk is full: delete, collect, or add space.
    NoSpace,
    /// Stored bytes or records are not what was written: a person must look.
    Corrupt,
    /// A newer or foreign format, or a feature this release has not got.
    Unsupported,
    /// A defect of ours, or an operating system error without a better name.
    Internal,
}

/// What the error is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The store as a whole, its directory or its disk.
    Store,
    /// A bucket.
    Bucket,
    /// An object (a key in a bucket).
    Object,
    /// A version of an object.
    Version,
    /// A multipart upload.
    Upload,
    /// A part of a multipart upload.
    Part,
    /// A byte range of an object, or a block range of a volume.
    Range,
    /// A volume.
    Volume,
    /// A snapshot.
    Snapshot,
    /// An image.
    Image,
    /// A record kept for another layer (an instance, a host).
    Record,
    /// A journal cursor.
    Journal,
    /// A user, group, role, policy or access key, or what one may do.
    Identity,
    /// A project or its quota.
    Project,
}

/// Kind, subject, context and source.
pub struct Error {
    kind: Kind,
    subject: Subject,
    context: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// A new error; `context` names the value and, where it helps, what to do next.
    pub fn new(kind: Kind, subject: Subject, context: impl Into<String>) -> Self {
        Self {
            kind,
            subject,
            context: context.into(),
            source: None,
        }
    }

    /// The same error with the cause below it.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// What the caller should do.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// What it is about.
    pub fn subject(&self) -> Subject {
        self.subject
    }

    /// An operating system error met while doing `what` to `path`; a full disk keeps its own kind.
    pub fn io(what: &str, path: &std::path::Path, source: std::io::Error) -> Self {
        let kind = match source.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Kind::NoSpace,
            std::io::ErrorKind::PermissionDenied => Kind::Denied,
            _ => Kind::Internal,
        };
        Self::new(
            kind,
            Subject::Store,
            format!("cannot {what} {}", path.display()),
        )
        .because(source)
    }

    /// The whole chain in one line, for logs and for people.
    pub fn chain(&self) -> String {
        let mut text = self.context.clone();
        let mut next = std::error::Error::source(self);
        while let Some(cause) = next {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            next = cause.source();
        }
        text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.context)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:?} {:?}: {}", self.kind, self.subject, self.chain())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source
            .as_deref()
            .map(|cause| cause as &(dyn std::error::Error + 'static))
    }
}
