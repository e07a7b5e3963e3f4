//! What HTTP leaves open to two readings is refused, in the words of the door it knocked at.
//!
//! The parser below has refused already what is malformed, differing lengths, and framing after HTTP/1.0.
//! Where a request names a length and chunks, it counts only the chunks and closes behind them (RFC
//! 9112, 6.3), so that nothing can hide in the difference. What is left for here needs the whole head.

use super::door::Door;
use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use axum::response::IntoResponse;
use blockstore::Kind;
use gateway::api::Problem;

/// Why a request is not looked at any further.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    status: StatusCode,
    why: &'static str,
}

/// Looks at the head of a request.
pub(crate) fn check<B>(request: &Request<B>) -> Result<(), Refused> {
    let bad = |why| Refused {
        status: StatusCode::BAD_REQUEST,
        why,
    };
    if request.method() == Method::CONNECT {
        return Err(Refused {
            status: StatusCode::METHOD_NOT_ALLOWED,
            why: "CONNECT is for proxies, which this is not",
        });
    }
    let headers = request.headers();
    let mut hosts = headers.get_all(header::HOST).iter();
    let (host, second) = (hosts.next(), hosts.next());
    if second.is_some() {
        return Err(bad("more than one Host header: send one (RFC 9112, 3.2)"));
    }
    if host.is_none() && request.version() >= Version::HTTP_11 {
        return Err(bad("no Host header: HTTP/1.1 wants one (RFC 9112, 3.2)"));
    }
    if let (Some(authority), Some(host)) = (request.uri().authority(), host)
        && !host
            .as_bytes()
            .eq_ignore_ascii_case(authority.as_str().as_bytes())
    {
        return Err(bad(
            "the request line and the Host header name different hosts",
        ));
    }
    check_framing(headers)
}

fn check_framing(headers: &HeaderMap) -> Result<(), Refused> {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => Ok(()),
        (Some(coding), None) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(()),
        // "A server that receives a request message with a transfer coding it does not understand
        // SHOULD respond with 501" (RFC 9112, 6.1).
        _ => Err(Refused {
            status: StatusCode::NOT_IMPLEMENTED,
            why: "only Transfer-Encoding: chunked, once, is understood",
        }),
    }
}

impl Refused {
    /// As `door` would say it; the connection ends behind it.
    pub(crate) fn answer(&self, door: Door) -> Response<Body> {
        let mut response = match door {
            Door::Api => {
                let kind = match self.status {
                    StatusCode::NOT_IMPLEMENTED => Kind::Unsupported,
                    _ => Kind::Invalid,
                };
                Problem::new(kind, "request", self.why).into_response()
            }
            // "Error responses", Amazon S3 API reference. The words are ours, so nothing to escape.
            Door::S3 => (
                [(header::CONTENT_TYPE, "application/xml")],
                format!(
                    "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{}</Code><Message>{}</Message></Error>",
                    match self.status {
                        StatusCode::NOT_IMPLEMENTED => "NotImplemented",
                        StatusCode::METHOD_NOT_ALLOWED => "MethodNotAllowed",
                        _ => "InvalidRequest",
                    },
                    self.why
                ),
            )
                .into_response(),
            Door::Cdmi | Door::Dav | Door::Login => format!("{}\n", self.why).into_response(),
        };
        *response.status_mut() = self.status;
        response
            .headers_mut()
            .insert(header::CONNECTION, HeaderValue::from_static("close"));
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(uri: &str, version: Version, headers: &[(&'static str, &str)]) -> Option<u16> {
        let mut request = Request::builder().uri(uri).version(version);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let checked = check(&request.body(()).unwrap());
        checked.err().map(|refused| refused.status.as_u16())
    }

    #[test]
    fn what_two_readers_could_read_differently_is_refused() {
        let (one, zero) = (Version::HTTP_11, Version::HTTP_10);
        assert_eq!(status("/", one, &[("host", "a")]), None);
        assert_eq!(status("/", zero, &[]), None);
        assert_eq!(status("/", one, &[]), Some(400));
        assert_eq!(status("/", one, &[("host", "a"), ("host", "a")]), Some(400));
        assert_eq!(status("http://a/x", one, &[("host", "A")]), None);
        assert_eq!(status("http://b/x", one, &[("host", "a")]), Some(400));
        let coded = |coding| status("/", one, &[("host", "a"), ("transfer-encoding", coding)]);
        assert_eq!(coded("Chunked"), None);
        assert_eq!(coded("gzip, chunked"), Some(501));
        assert_eq!(coded("chunked, chunked"), Some(501));
    }

    #[test]
    fn a_refusal_speaks_the_language_of_its_door() {
        let refused = Refused {
            status: StatusCode::BAD_REQUEST,
            why: "so",
        };
        for (door, kind) in [
            (Door::Api, "application/json"),
            (Door::S3, "application/xml"),
            (Door::Dav, "text/plain; charset=utf-8"),
        ] {
            let response = refused.answer(door);
            assert_eq!(response.status(), 400);
            assert_eq!(response.headers()[header::CONTENT_TYPE], kind);
            assert_eq!(response.headers()[header::CONNECTION], "close");
        }
    }
}
