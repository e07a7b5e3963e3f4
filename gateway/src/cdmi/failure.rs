//! Refusals as CDMI tells them: a status of the standard's table and a JSON body.
//!
//! The standard names the statuses (CDMI 1.1.1, 7.1) and leaves the body open; ours is the one of
//! the JSON API, so that a program reads one shape at every door.

use crate::api::{ErrorBody, ErrorReply, Problem, kind_name};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use blockstore::{Error, Kind};

/// What a handler returns.
pub(super) type Reply<T = Response> = Result<T, Failure>;

/// Why a request is refused.
#[derive(Debug)]
pub(super) struct Failure {
    status: StatusCode,
    kind: Kind,
    body: Box<ErrorBody>,
    headers: HeaderMap,
}

/// The status of a kind: CDMI 1.1.1, Table 6, and where it has none, HTTP's own.
fn status(kind: Kind) -> StatusCode {
    match kind {
        Kind::Invalid => StatusCode::BAD_REQUEST,
        Kind::NotFound => StatusCode::NOT_FOUND,
        Kind::Denied => StatusCode::FORBIDDEN,
        Kind::Conflict | Kind::Fenced => StatusCode::CONFLICT,
        Kind::Precondition => StatusCode::PRECONDITION_FAILED,
        Kind::Unsupported => StatusCode::NOT_IMPLEMENTED,
        Kind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Kind::NoSpace => StatusCode::INSUFFICIENT_STORAGE,
        Kind::Corrupt | Kind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl Failure {
    /// A refusal; the status follows from the kind.
    pub(super) fn new(kind: Kind, subject: &str, message: impl Into<String>) -> Self {
        Self {
            status: status(kind),
            kind,
            body: Box::new(ErrorBody {
                kind: kind_name(kind).to_owned(),
                subject: subject.to_owned(),
                message: message.into(),
                ..ErrorBody::default()
            }),
            headers: HeaderMap::new(),
        }
    }

    /// 400: the request makes no sense as it stands.
    pub(super) fn invalid(subject: &str, message: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, subject, message)
    }

    /// 404.
    pub(super) fn missing(subject: &str, message: impl Into<String>) -> Self {
        Self::new(Kind::NotFound, subject, message)
    }

    /// 403: understood, and not done here.
    pub(super) fn forbidden(subject: &str, message: impl Into<String>) -> Self {
        Self::new(Kind::Denied, subject, message)
    }

    /// 406: nothing to show in a form the client accepts.
    pub(super) fn not_acceptable(message: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, "accept", message).with_status(StatusCode::NOT_ACCEPTABLE)
    }

    /// 401: nobody, or somebody unknown.
    pub(super) fn unauthenticated(message: &str) -> Self {
        let mut failure =
            Self::new(Kind::Denied, "credentials", message).with_status(StatusCode::UNAUTHORIZED);
        for scheme in [
            "Basic realm=\"infall\", charset=\"UTF-8\"",
            "Bearer realm=\"infall\"",
        ] {
            let value = HeaderValue::from_static(scheme);
            failure.headers.append(header::WWW_AUTHENTICATE, value);
        }
        failure
    }

    /// The same under another status.
    pub(super) fn with_status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    /// The same with a header; a value that no header can carry is left out.
    pub(super) fn with_header(mut self, name: HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(name, value);
        }
        self
    }

    /// What was wrong.
    #[cfg(test)]
    pub(super) fn message(&self) -> &str {
        &self.body.message
    }

    /// What the caller should do.
    pub(super) fn kind(&self) -> Kind {
        self.kind
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let kind = error.kind();
        Self {
            status: status(kind),
            kind,
            body: Box::new(Problem::from(error).into_body()),
            headers: HeaderMap::new(),
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let Self {
            status,
            kind,
            body,
            headers,
        } = self;
        // Logged here, where it is handled, and only here.
        let told = body.source.as_deref().unwrap_or_default();
        match kind {
            Kind::Internal | Kind::Corrupt => {
                tracing::error!(subject = body.subject, source = told, "{}", body.message);
            }
            Kind::Unavailable | Kind::NoSpace => {
                tracing::warn!(subject = body.subject, source = told, "{}", body.message);
            }
            Kind::Invalid
            | Kind::NotFound
            | Kind::Conflict
            | Kind::Precondition
            | Kind::Denied
            | Kind::Fenced
            | Kind::Unsupported => {
                tracing::debug!(subject = body.subject, "{}", body.message);
            }
        }
        let reply = axum::Json(ErrorReply { error: *body });
        let mut response = (status, reply).into_response();
        response.headers_mut().extend(headers);
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use blockstore::Subject;

    #[test]
    fn a_store_error_becomes_the_status_of_the_table() {
        for (kind, status) in [
            (Kind::Invalid, 400),
            (Kind::Denied, 403),
            (Kind::NotFound, 404),
            (Kind::Conflict, 409),
            (Kind::Fenced, 409),
            (Kind::Precondition, 412),
            (Kind::Corrupt, 500),
            (Kind::Internal, 500),
            (Kind::Unsupported, 501),
            (Kind::Unavailable, 503),
            (Kind::NoSpace, 507),
        ] {
            let failure = Failure::from(Error::new(kind, Subject::Object, "x"));
            assert_eq!(failure.into_response().status().as_u16(), status);
        }
    }
}
