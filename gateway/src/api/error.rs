//! Errors as the JSON API shows them: `{"error":{"kind":"not_found","subject":"image","message":"…"}}`.
//!
//! The kind tells a program what to do, the message tells a person what was wrong. One exhaustive
//! match turns a [`Kind`] into an HTTP status, and one gives it its name on the wire.

use super::PREFIX;
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use blockstore::{Kind, Subject};
use serde::{Deserialize, Serialize};

/// What a handler returns.
pub type Reply<T> = Result<T, Problem>;

/// The body of every reply that is not a success.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ErrorReply {
    /// The one error.
    pub error: ErrorBody,
}

/// An error on the wire.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What the caller should do: a name given by [`kind_name`].
    pub kind: String,
    /// What it is about: `image`, `volume`, `store`, …
    pub subject: String,
    /// What was wrong, with which value.
    pub message: String,
    /// The causes below it, outermost first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// The existing name most like the one that was not found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nearest: Option<String>,
}

/// An error on its way to the wire.
#[derive(Clone, Debug)]
pub struct Problem {
    kind: Kind,
    status: StatusCode,
    subject: String,
    message: String,
    source: Option<String>,
    nearest: Option<String>,
}

impl Problem {
    /// A new one; the status follows from the kind.
    pub fn new(kind: Kind, subject: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            kind,
            status: status(kind),
            subject: subject.into(),
            message: message.into(),
            source: None,
            nearest: None,
        }
    }

    /// There is no `subject` called `asked`; the name in `existing` most like it is suggested.
    pub fn missing(
        subject: &str,
        asked: &str,
        existing: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> Self {
        let message = format!("no {subject} {asked:?}");
        Self::new(Kind::NotFound, subject, message).suggest(asked, existing)
    }

    /// The same with the causes below it.
    #[must_use]
    pub fn because(mut self, source: impl Into<String>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The same about something that its door has a better word for.
    #[must_use]
    pub fn about(mut self, subject: impl Into<String>) -> Self {
        self.subject = subject.into();
        self
    }

    /// The same, and if something was not found, the name in `existing` most like `asked`.
    #[must_use]
    pub fn suggest(
        mut self,
        asked: &str,
        existing: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> Self {
        if self.kind == Kind::NotFound && self.nearest.is_none() {
            self.nearest = nearest(asked, existing);
        }
        self
    }

    /// What the caller should do.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// What it is about.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// Nobody showed a valid key.
    pub(super) fn unauthenticated(message: &str) -> Self {
        Self {
            status: StatusCode::UNAUTHORIZED,
            ..Self::new(Kind::Denied, "credentials", message)
        }
    }

    /// A body that is too long.
    pub(super) fn too_large(message: String) -> Self {
        Self {
            status: StatusCode::PAYLOAD_TOO_LARGE,
            ..Self::new(Kind::Invalid, "body", message)
        }
    }

    /// No such path under `/api/v1`.
    pub(super) fn no_route(method: &axum::http::Method, path: &str) -> Self {
        let message =
            format!("no endpoint {method} {PREFIX}{path}; GET {PREFIX}/openapi.json lists them");
        Self::new(Kind::NotFound, "endpoint", message)
    }

    /// The path exists, the method does not.
    pub(super) fn no_method(method: &axum::http::Method, path: &str) -> Self {
        let message = format!(
            "{PREFIX}{path} does not answer {method}; GET {PREFIX}/openapi.json lists what it answers"
        );
        Self {
            status: StatusCode::METHOD_NOT_ALLOWED,
            ..Self::new(Kind::Unsupported, "endpoint", message)
        }
    }

    /// As it goes over the wire.
    pub fn into_body(self) -> ErrorBody {
        ErrorBody {
            kind: kind_name(self.kind).into(),
            subject: self.subject,
            message: self.message,
            source: self.source,
            nearest: self.nearest,
        }
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(&self.message)?;
        match &self.source {
            Some(source) => write!(out, ": {source}"),
            None => Ok(()),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        // Logged here, where it is handled, and only here. A person must look at the first two.
        match self.kind {
            Kind::Internal | Kind::Corrupt => tracing::error!(subject = %self.subject, "{self}"),
            Kind::Unavailable | Kind::NoSpace => tracing::warn!(subject = %self.subject, "{self}"),
            _ => tracing::debug!(kind = kind_name(self.kind), subject = %self.subject, "{self}"),
        }
        let status = self.status;
        let reply = ErrorReply {
            error: self.into_body(),
        };
        let mut response = (status, axum::Json(reply)).into_response();
        if status == StatusCode::UNAUTHORIZED {
            let challenge = HeaderValue::from_static("Bearer realm=\"infall\"");
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

impl From<blockstore::Error> for Problem {
    fn from(error: blockstore::Error) -> Self {
        let causes = error.chain();
        let message = error.to_string();
        let source = causes
            .strip_prefix(message.as_str())
            .map(|rest| rest.trim_start_matches(": "))
            .filter(|rest| !rest.is_empty())
            .map(str::to_owned);
        Self {
            source,
            ..Self::new(error.kind(), subject_name(error.subject()), message)
        }
    }
}

impl From<JsonRejection> for Problem {
    fn from(rejection: JsonRejection) -> Self {
        let status = rejection.status();
        let problem = Self::new(Kind::Invalid, "body", rejection.body_text());
        // Too long and of the wrong type have statuses of their own in HTTP.
        match status {
            StatusCode::PAYLOAD_TOO_LARGE | StatusCode::UNSUPPORTED_MEDIA_TYPE => {
                Self { status, ..problem }
            }
            _ => problem,
        }
    }
}

impl From<QueryRejection> for Problem {
    fn from(rejection: QueryRejection) -> Self {
        Self::new(Kind::Invalid, "query", rejection.body_text())
    }
}

impl From<PathRejection> for Problem {
    fn from(rejection: PathRejection) -> Self {
        Self::new(Kind::Invalid, "path", rejection.body_text())
    }
}

/// The HTTP status of a kind (RFC 9110, and RFC 4918 for 507).
pub fn status(kind: Kind) -> StatusCode {
    match kind {
        Kind::Invalid => StatusCode::BAD_REQUEST,
        Kind::NotFound => StatusCode::NOT_FOUND,
        Kind::Conflict | Kind::Fenced => StatusCode::CONFLICT,
        Kind::Precondition => StatusCode::PRECONDITION_FAILED,
        Kind::Denied => StatusCode::FORBIDDEN,
        Kind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Kind::NoSpace => StatusCode::INSUFFICIENT_STORAGE,
        Kind::Unsupported => StatusCode::NOT_IMPLEMENTED,
        Kind::Corrupt | Kind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// Every kind, for reading names back.
const KINDS: [Kind; 11] = [
    Kind::Invalid,
    Kind::NotFound,
    Kind::Conflict,
    Kind::Precondition,
    Kind::Denied,
    Kind::Fenced,
    Kind::Unavailable,
    Kind::NoSpace,
    Kind::Corrupt,
    Kind::Unsupported,
    Kind::Internal,
];

/// The name of a kind on the wire.
pub fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Invalid => "invalid",
        Kind::NotFound => "not_found",
        Kind::Conflict => "conflict",
        Kind::Precondition => "precondition",
        Kind::Denied => "denied",
        Kind::Fenced => "fenced",
        Kind::Unavailable => "unavailable",
        Kind::NoSpace => "no_space",
        Kind::Corrupt => "corrupt",
        Kind::Unsupported => "unsupported",
        Kind::Internal => "internal",
    }
}

/// The kind behind a name on the wire; a name from a newer server is `Internal`.
pub fn kind_of(name: &str) -> Kind {
    KINDS
        .into_iter()
        .find(|kind| kind_name(*kind) == name)
        .unwrap_or(Kind::Internal)
}

fn subject_name(subject: Subject) -> &'static str {
    match subject {
        Subject::Store => "store",
        Subject::Bucket => "bucket",
        Subject::Object => "object",
        Subject::Version => "version",
        Subject::Upload => "upload",
        Subject::Part => "part",
        Subject::Range => "range",
        Subject::Volume => "volume",
        Subject::Snapshot => "snapshot",
        Subject::Image => "image",
        Subject::Record => "record",
        Subject::Journal => "journal",
        Subject::Identity => "identity",
        Subject::Project => "project",
    }
}

/// The name most like `asked`, if one is like it at all.
pub fn nearest(asked: &str, existing: impl IntoIterator<Item = impl AsRef<str>>) -> Option<String> {
    existing
        .into_iter()
        .map(|name| {
            (
                strsim::damerau_levenshtein(asked, name.as_ref()),
                name.as_ref().to_owned(),
            )
        })
        .min()
        // Half of the letters may be wrong; beyond that a suggestion is noise.
        .filter(|(distance, _)| *distance * 2 <= asked.chars().count())
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_comes_back_from_its_name() {
        for kind in KINDS {
            assert_eq!(kind_of(kind_name(kind)), kind);
        }
        assert_eq!(kind_of("something_newer"), Kind::Internal);
    }

    #[test]
    fn a_misspelt_name_finds_the_one_that_was_meant() {
        let images = ["debian-12", "debian-13", "alpine"];
        assert_eq!(nearest("debain-12", images).as_deref(), Some("debian-12"));
        assert_eq!(nearest("windows", images), None);
        assert_eq!(nearest("x", Vec::<String>::new()), None);
    }

    #[test]
    fn only_what_was_not_found_gets_a_suggestion() {
        let missing =
            Problem::new(Kind::NotFound, "image", "no image \"a1\"").suggest("a1", ["a2"]);
        assert_eq!(missing.into_body().nearest.as_deref(), Some("a2"));
        let taken = Problem::new(Kind::Conflict, "image", "there is \"a1\"").suggest("a1", ["a2"]);
        assert_eq!(taken.into_body().nearest, None);
    }

    #[test]
    fn a_store_error_keeps_its_causes_apart_from_its_message() {
        let error =
            blockstore::Error::new(Kind::Corrupt, Subject::Volume, "volume \"v\" does not read")
                .because(std::io::Error::other("checksum differs"));
        let body = Problem::from(error).into_body();
        assert_eq!(body.kind, "corrupt");
        assert_eq!(body.subject, "volume");
        assert_eq!(body.message, "volume \"v\" does not read");
        assert_eq!(body.source.as_deref(), Some("checksum differs"));
    }
}
