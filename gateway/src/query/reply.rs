//! Replies as XML (IAM API Reference and STS API Reference, "Common Errors").

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use blockstore::{Error, Kind};
use std::borrow::Cow;

/// A refusal in the protocol's words.
#[derive(Clone, Debug)]
pub(crate) struct Refused {
    pub(crate) status: StatusCode,
    pub(crate) code: &'static str,
    pub(crate) message: String,
}

impl Refused {
    pub(crate) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
        }
    }

    /// An action that is not served: at once, so that a client goes on.
    pub(crate) fn unserved(action: &str) -> Self {
        let message = format!("The action {action:?} is not served here");
        Self::new(StatusCode::NOT_IMPLEMENTED, "NotImplemented", message)
    }
}

/// What a store's error is called. No wildcard arm: a new kind must be thought about here.
impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        let (status, code) = match error.kind() {
            Kind::Invalid => (StatusCode::BAD_REQUEST, "ValidationError"),
            Kind::NotFound => (StatusCode::NOT_FOUND, "NoSuchEntity"),
            Kind::Conflict => (StatusCode::CONFLICT, "EntityAlreadyExists"),
            Kind::Precondition => (StatusCode::CONFLICT, "ConcurrentModification"),
            Kind::Denied => (StatusCode::FORBIDDEN, "AccessDenied"),
            Kind::Fenced | Kind::Unavailable => {
                (StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable")
            }
            Kind::NoSpace => (StatusCode::CONFLICT, "LimitExceeded"),
            Kind::Unsupported => (StatusCode::NOT_IMPLEMENTED, "NotImplemented"),
            Kind::Corrupt | Kind::Internal => {
                tracing::error!(failure = error.chain(), "a call of IAM or STS failed");
                return Self::new(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "ServiceFailure",
                    "The server's log says what went wrong, under this request's id",
                );
            }
        };
        Self::new(status, code, error.to_string())
    }
}

fn name_space(version: &str) -> &'static str {
    if version == crate::sts::VERSION {
        "https://sts.amazonaws.com/doc/2011-06-15/"
    } else {
        "https://iam.amazonaws.com/doc/2010-05-08/"
    }
}

pub(super) fn done(action: &str, version: &str, inner: &str, id: &str) -> Response {
    let result = if inner.is_empty() {
        String::new()
    } else {
        format!("<{action}Result>{inner}</{action}Result>")
    };
    let text = format!(
        "<{action}Response xmlns=\"{}\">{result}<ResponseMetadata><RequestId>{id}</RequestId>\
         </ResponseMetadata></{action}Response>",
        name_space(version)
    );
    xml(StatusCode::OK, text, id)
}

pub(super) fn refused(refused: &Refused, version: &str, id: &str) -> Response {
    let side = if refused.status.is_server_error() {
        "Receiver"
    } else {
        "Sender"
    };
    let text = format!(
        "<ErrorResponse xmlns=\"{}\"><Error><Type>{side}</Type><Code>{}</Code><Message>{}</Message>\
         </Error><RequestId>{id}</RequestId></ErrorResponse>",
        name_space(version),
        refused.code,
        escape(&refused.message)
    );
    xml(refused.status, text, id)
}

fn xml(status: StatusCode, text: String, id: &str) -> Response {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/xml"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Ok(id) = HeaderValue::from_str(id) {
        headers.insert("x-amzn-requestid", id);
    }
    response
}

/// Text as XML writes it; letters that XML has no way to write become `?`.
pub(crate) fn escape(text: &str) -> Cow<'_, str> {
    let plain = |letter: char| {
        !matches!(letter, '<' | '>' | '&' | '"') && (letter >= ' ' || matches!(letter, '\n' | '\t'))
    };
    if text.chars().all(plain) {
        return Cow::Borrowed(text);
    }
    let mut written = String::with_capacity(text.len() + 16);
    for letter in text.chars() {
        match letter {
            '<' => written.push_str("&lt;"),
            '>' => written.push_str("&gt;"),
            '&' => written.push_str("&amp;"),
            '"' => written.push_str("&quot;"),
            other if plain(other) => written.push(other),
            _ => written.push('?'),
        }
    }
    Cow::Owned(written)
}
