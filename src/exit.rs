//! Exit codes, and the failure that carries one to the end of the program.
//!
//! A script needs to know what to do next, so codes follow kinds: one exhaustive match turns a
//! [`Kind`] into an [`Exit`].

use blockstore::Kind;
use gateway::api::{ErrorBody, ErrorReply, kind_name, kind_of};
use serde::Serialize;
use std::fmt;

/// What `infall help exit-codes` says.
pub(crate) const EXIT_CODES: &str = "\
  0  done
  1  internal: a defect, or an operating system error without a better name
  2  usage: arguments or configuration that make no sense as they stand
  3  unavailable: no server, a tool or a device missing, or the store refusing after an I/O error
  4  not found: list what is there, names are suggested
  5  conflict or failed precondition: it exists already, or is in use
  6  denied: wrong or missing key, or no permission on a file
  7  no space: delete, collect, or add space
  8  corrupt: stored bytes or records are not what was written; look with infall check --scrub
  9  invalid or unsupported: the server understood and refused the values, or cannot do this yet
 10  nothing matched: infall stage had files to choose from, and the patterns took none
 11  partly done: infall stage copied some files and failed at others, which it names
 12  interrupted: infall stage was told to end; run it again to go on where it stopped";

/// How the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// A defect, or an operating system error without a better name.
    Internal = 1,
    /// Arguments or configuration that make no sense.
    Usage = 2,
    /// No server, or the environment lacks something.
    Unavailable = 3,
    /// It is not there.
    NotFound = 4,
    /// It exists already, or is in use.
    Conflict = 5,
    /// Wrong or missing key.
    Denied = 6,
    /// A disk is full.
    NoSpace = 7,
    /// Stored bytes are not what was written.
    Corrupt = 8,
    /// The values were refused, or this cannot be done yet.
    Invalid = 9,
    /// Nothing was chosen.
    Nothing = 10,
    /// Some of it was done.
    Partial = 11,
    /// Told to end before it was done.
    Interrupted = 12,
}

impl From<Kind> for Exit {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Invalid | Kind::Unsupported => Self::Invalid,
            Kind::NotFound => Self::NotFound,
            Kind::Conflict | Kind::Precondition | Kind::Fenced => Self::Conflict,
            Kind::Denied => Self::Denied,
            Kind::Unavailable => Self::Unavailable,
            Kind::NoSpace => Self::NoSpace,
            Kind::Corrupt => Self::Corrupt,
            Kind::Internal => Self::Internal,
        }
    }
}

/// Why a command did not do what it was asked. Boxed: it travels through every result.
#[derive(Clone, Debug)]
pub(crate) struct Failure(Box<Details>);

#[derive(Clone, Debug)]
struct Details {
    exit: Exit,
    body: ErrorBody,
    hint: Option<String>,
}

/// What a command returns.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    /// A new one. The message names what was wrong and with which value.
    pub(crate) fn new(exit: Exit, subject: &str, message: impl Into<String>) -> Self {
        let kind = match exit {
            Exit::Internal => kind_name(Kind::Internal),
            Exit::Usage => "usage",
            Exit::Unavailable => kind_name(Kind::Unavailable),
            Exit::NotFound => kind_name(Kind::NotFound),
            Exit::Conflict => kind_name(Kind::Conflict),
            Exit::Denied => kind_name(Kind::Denied),
            Exit::NoSpace => kind_name(Kind::NoSpace),
            Exit::Corrupt => kind_name(Kind::Corrupt),
            Exit::Invalid => kind_name(Kind::Invalid),
            Exit::Nothing => "nothing_matched",
            Exit::Partial => "partial",
            Exit::Interrupted => "interrupted",
        };
        let body = ErrorBody {
            kind: kind.into(),
            subject: subject.into(),
            message: message.into(),
            ..ErrorBody::default()
        };
        Self(Box::new(Details {
            exit,
            body,
            hint: None,
        }))
    }

    /// An operating system error met while doing `what` (`"read /etc/x"`).
    pub(crate) fn io(what: impl fmt::Display, source: &std::io::Error) -> Self {
        let exit = match source.kind() {
            std::io::ErrorKind::NotFound => Exit::NotFound,
            std::io::ErrorKind::AlreadyExists => Exit::Conflict,
            std::io::ErrorKind::PermissionDenied => Exit::Denied,
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Exit::NoSpace,
            _ => Exit::Internal,
        };
        Self::new(exit, "file", format!("cannot {what}")).because(source)
    }

    /// The same with the cause below it.
    #[must_use]
    pub(crate) fn because(mut self, source: impl fmt::Display) -> Self {
        self.0.body.source = Some(source.to_string());
        self
    }

    /// The same with what to do next, a sentence or two.
    #[must_use]
    pub(crate) fn hint(mut self, next: impl Into<String>) -> Self {
        self.0.hint = Some(next.into());
        self
    }

    /// There is no `subject` called `asked`; the name in `existing` most like it is suggested.
    pub(crate) fn missing(
        subject: &str,
        asked: &str,
        existing: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> Self {
        gateway::api::Problem::missing(subject, asked, existing)
            .into_body()
            .into()
    }

    /// Whether it is about an `image`, a `volume`, ….
    pub(crate) fn is_about(&self, subject: &str) -> bool {
        self.0.body.subject == subject
    }

    /// How the program ends.
    pub(crate) fn exit(&self) -> Exit {
        self.0.exit
    }

    /// The JSON form, for `--json`.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        #[derive(Serialize)]
        struct Reply<'a> {
            #[serde(flatten)]
            reply: &'a ErrorReply,
            exit: u8,
        }
        let reply = ErrorReply {
            error: self.0.body.clone(),
        };
        serde_json::to_value(Reply {
            reply: &reply,
            exit: self.0.exit as u8,
        })
        .unwrap_or_default()
    }
}

impl From<ErrorBody> for Failure {
    /// What the server answered, with the listing to look at.
    fn from(body: ErrorBody) -> Self {
        let kind = kind_of(&body.kind);
        let hint = match (kind, body.subject.as_str()) {
            (Kind::NotFound, "image") => Some("List them: infall image ls"),
            (Kind::NotFound, "volume") => Some("List them: infall volume ls"),
            (Kind::NotFound, "snapshot") => Some("List them: infall snapshot ls"),
            (Kind::NotFound, "bucket") => Some("List them: infall bucket ls"),
            (Kind::NotFound, "instance" | "vm") => Some("List them: infall vm ls"),
            (Kind::NotFound, "user") => Some("List them: infall user ls"),
            (Kind::NotFound, "group") => Some("List them: infall group ls"),
            (Kind::NotFound, "role") => Some("List them: infall role ls"),
            (Kind::NotFound, "policy") => Some("List them: infall policy ls"),
            (Kind::NotFound, "project") => Some("List them: infall project ls"),
            (Kind::NotFound, "mount") => Some("List them: infall mount --list"),
            (Kind::NoSpace, _) => Some("Free some: infall store collect"),
            (Kind::Corrupt, _) => Some("Look closer: infall check --scrub"),
            _ => None,
        };
        let mut body = body;
        // The commands to look with are told once, and here.
        if let (Some(_), Some((plain, _))) = (hint, body.message.split_once("; list them:")) {
            body.message = plain.to_owned();
        }
        Self(Box::new(Details {
            exit: Exit::from(kind),
            body,
            hint: hint.map(str::to_owned),
        }))
    }
}

impl From<blockstore::Error> for Failure {
    fn from(error: blockstore::Error) -> Self {
        let problem = gateway::api::Problem::from(error);
        Self::from(problem.into_body())
    }
}

impl fmt::Display for Failure {
    /// One line: `no image "debain-12" (nearest: debian-12). List them: infall image ls`.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.0.body.message.trim_end_matches('.'))?;
        if let Some(source) = &self.0.body.source {
            write!(out, ": {source}")?;
        }
        if let Some(nearest) = &self.0.body.nearest {
            write!(out, " (nearest: {nearest})")?;
        }
        match &self.0.hint {
            // The message may have said it already.
            Some(hint) if !self.0.body.message.contains(hint.as_str()) => write!(out, ". {hint}"),
            _ => Ok(()),
        }
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_the_exit_code_that_the_help_documents() {
        let documented = [
            (Kind::Internal, 1, "internal"),
            (Kind::Unavailable, 3, "unavailable"),
            (Kind::NotFound, 4, "not found"),
            (Kind::Conflict, 5, "conflict"),
            (Kind::Precondition, 5, "failed precondition"),
            (Kind::Fenced, 5, "conflict"),
            (Kind::Denied, 6, "denied"),
            (Kind::NoSpace, 7, "no space"),
            (Kind::Corrupt, 8, "corrupt"),
            (Kind::Invalid, 9, "invalid"),
            (Kind::Unsupported, 9, "unsupported"),
        ];
        for (kind, code, word) in documented {
            assert_eq!(Exit::from(kind) as u8, code, "{kind:?}");
            let line = EXIT_CODES
                .lines()
                .find(|line| line.trim_start().starts_with(&code.to_string()));
            assert!(
                line.is_some_and(|line| line.contains(word)),
                "{code} is not documented as {word}"
            );
        }
    }

    #[test]
    fn a_name_not_found_reads_as_one_line_with_the_nearest_and_the_listing() {
        let failure = Failure::from(ErrorBody {
            kind: "not_found".into(),
            subject: "image".into(),
            message: "no image \"debain-12\"".into(),
            source: None,
            nearest: Some("debian-12".into()),
        });
        assert_eq!(
            failure.to_string(),
            "no image \"debain-12\" (nearest: debian-12). List them: infall image ls"
        );
        assert_eq!(failure.exit() as u8, 4);
        assert_eq!(failure.to_json()["exit"], 4);
        assert_eq!(failure.to_json()["error"]["subject"], "image");
    }
}
