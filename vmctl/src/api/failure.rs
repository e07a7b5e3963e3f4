//! Errors of instances in the JSON API, in the shape that all of it has.

use axum::Json;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use blockstore::{Error, Kind, Subject};
use serde::Serialize;

/// An error on its way to the wire.
#[derive(Debug)]
pub(super) struct Failure {
    status: StatusCode,
    body: ErrorReply,
}

#[derive(Debug, Serialize)]
struct ErrorReply {
    error: ErrorBody,
}

#[derive(Debug, Serialize)]
struct ErrorBody {
    kind: &'static str,
    subject: &'static str,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<String>,
}

impl Failure {
    pub(super) fn new(
        kind: Kind,
        subject: &'static str,
        message: String,
        source: Option<String>,
    ) -> Self {
        let (status, kind) = names(kind);
        Self {
            status,
            body: ErrorReply {
                error: ErrorBody {
                    kind,
                    subject,
                    message,
                    source,
                },
            },
        }
    }
}

impl Failure {
    /// The client did not ask to change over (RFC 9110, 15.5.22).
    pub(super) fn no_upgrade() -> Self {
        let message = format!(
            "this endpoint moves bytes: ask with \"Connection: upgrade\" and \"Upgrade: {}\"",
            crate::tunnel::PROTOCOL
        );
        Self {
            status: StatusCode::UPGRADE_REQUIRED,
            ..Self::new(Kind::Invalid, "request", message, None)
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let message = error.to_string();
        let source = error
            .chain()
            .strip_prefix(message.as_str())
            .map(|rest| rest.trim_start_matches(": ").to_owned())
            .filter(|rest| !rest.is_empty());
        Self::new(error.kind(), subject_name(error.subject()), message, source)
    }
}

impl From<JsonRejection> for Failure {
    fn from(rejection: JsonRejection) -> Self {
        let failure = Self::new(Kind::Invalid, "body", rejection.body_text(), None);
        match rejection.status() {
            status @ (StatusCode::PAYLOAD_TOO_LARGE | StatusCode::UNSUPPORTED_MEDIA_TYPE) => {
                Self { status, ..failure }
            }
            _ => failure,
        }
    }
}

impl From<QueryRejection> for Failure {
    fn from(rejection: QueryRejection) -> Self {
        Self::new(Kind::Invalid, "query", rejection.body_text(), None)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let ErrorBody {
            kind,
            message,
            source,
            ..
        } = &self.body.error;
        let source = source.as_deref().unwrap_or_default();
        if self.status == StatusCode::INTERNAL_SERVER_ERROR {
            tracing::error!(kind, source, "{message}");
        } else {
            tracing::debug!(kind, source, "{message}");
        }
        let status = self.status;
        let mut response = (status, Json(self.body)).into_response();
        if status == StatusCode::UPGRADE_REQUIRED {
            let protocol = HeaderValue::from_static(crate::tunnel::PROTOCOL);
            response.headers_mut().insert(header::UPGRADE, protocol);
        }
        response
    }
}

/// Status (RFC 9110, and RFC 4918 for 507) and name of a kind, the same as for the rest of the API.
fn names(kind: Kind) -> (StatusCode, &'static str) {
    match kind {
        Kind::Invalid => (StatusCode::BAD_REQUEST, "invalid"),
        Kind::NotFound => (StatusCode::NOT_FOUND, "not_found"),
        Kind::Conflict => (StatusCode::CONFLICT, "conflict"),
        Kind::Precondition => (StatusCode::PRECONDITION_FAILED, "precondition"),
        Kind::Denied => (StatusCode::FORBIDDEN, "denied"),
        Kind::Fenced => (StatusCode::CONFLICT, "fenced"),
        Kind::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
        Kind::NoSpace => (StatusCode::INSUFFICIENT_STORAGE, "no_space"),
        Kind::Corrupt => (StatusCode::INTERNAL_SERVER_ERROR, "corrupt"),
        Kind::Unsupported => (StatusCode::NOT_IMPLEMENTED, "unsupported"),
        Kind::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
    }
}

/// Instances and hosts are the only records there are.
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
        Subject::Record => "instance",
        Subject::Journal => "journal",
        Subject::Identity => "identity",
        Subject::Project => "project",
    }
}
