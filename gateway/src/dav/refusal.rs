//! What is refused, in the words of RFC 4918, 16: a status, and a `DAV:error` body that says why.
//!
//! A store's error has the status that the JSON API gives it; the condition codes of the standard
//! (`propfind-finite-depth`, `lock-token-submitted`, …) stand beside the message for people.

use axum::body::Body;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use blockstore::{Error, Kind};

/// An answer that is no success.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    /// A precondition or postcondition code of RFC 4918, 16, with its content, as XML.
    condition: String,
    words: String,
}

impl Refusal {
    /// A status and why.
    pub(super) fn new(status: StatusCode, words: impl Into<String>) -> Self {
        Self {
            status,
            condition: String::new(),
            words: words.into(),
        }
    }

    /// The same with a condition code, as XML in the namespace prefix `D`.
    pub(super) fn with_condition(mut self, xml: impl Into<String>) -> Self {
        self.condition = xml.into();
        self
    }

    /// Its status.
    #[cfg(test)]
    pub(super) fn status(&self) -> StatusCode {
        self.status
    }

    /// What it says.
    pub(super) fn words(&self) -> &str {
        &self.words
    }

    /// As the client gets it.
    pub(super) fn into_response(self) -> Response {
        let text = format!(
            "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<D:error xmlns:D=\"DAV:\">{}<i:message \
             xmlns:i=\"urn:infall:dav\">{}</i:message></D:error>\n",
            self.condition,
            escaped(&self.words)
        );
        let mut response = Response::new(Body::from(text));
        *response.status_mut() = self.status;
        response.headers_mut().insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/xml; charset=utf-8"),
        );
        response
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        if matches!(error.kind(), Kind::Internal | Kind::Corrupt) {
            tracing::error!("{}", error.chain());
        }
        Self::new(crate::api::status(error.kind()), error.to_string())
    }
}

/// What the protocol layer means by a status that it gives without words.
pub(super) fn explained(method: &Method, status: StatusCode, href: &str) -> Refusal {
    let words = match (method.as_str(), status.as_u16()) {
        (_, 404) => format!("nothing is at {href}: list its collection with PROPFIND"),
        ("MKCOL", 405) => format!("{href} exists already"),
        ("GET" | "HEAD", 405) => {
            format!("{href} is a collection: list it with PROPFIND, Depth: 1")
        }
        (_, 409) => format!(
            "the collection that {href} would lie in does not exist: make it with MKCOL first"
        ),
        ("MKCOL", 415) => "MKCOL takes no body".to_owned(),
        ("COPY" | "MOVE", 403) => format!("{href} cannot be copied or moved onto itself"),
        (_, 412) => format!(
            "a condition of the request (If, If-Match, If-None-Match, Overwrite: F) does not hold at {href}"
        ),
        (_, 416) => format!("the range lies outside {href}"),
        (_, 423) => format!("{href} is locked: show the lock's token in an If header, or wait"),
        (_, 400) => "a header or the body is malformed, or the body is shorter or longer than \
                     announced"
            .to_owned(),
        (_, 413) => "the body is too large".to_owned(),
        (_, 501) => format!("{method} is not served"),
        (_, code) => format!("{method} {href} was refused with {code}"),
    };
    let refusal = Refusal::new(status, words);
    match (method.as_str(), status.as_u16()) {
        ("LOCK", 423) => refusal.with_condition("<D:no-conflicting-lock/>"),
        (_, 423) => refusal.with_condition(format!(
            "<D:lock-token-submitted><D:href>{}</D:href></D:lock-token-submitted>",
            escaped(href)
        )),
        _ => refusal,
    }
}

/// Text as XML 1.0 can hold it: what it has no character for is shown as U+FFFD.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            '\t' | '\n' => out.push(letter),
            '\r' => out.push_str("&#13;"),
            letter if letter < ' ' || matches!(letter, '\u{fffe}' | '\u{ffff}') => {
                out.push('\u{fffd}');
            }
            letter => out.push(letter),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_wrote_cannot_become_markup() {
        assert_eq!(
            escaped("a<b>&\"\u{1}\r"),
            "a&lt;b&gt;&amp;&quot;\u{fffd}&#13;"
        );
    }

    #[test]
    fn a_locked_resource_is_named_in_the_standards_words() {
        let refusal = explained(&Method::PUT, StatusCode::LOCKED, "/dav/b/k");
        assert!(refusal.condition.contains("lock-token-submitted"));
        assert!(refusal.condition.contains("/dav/b/k"));
    }
}
