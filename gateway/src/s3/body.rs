//! The body of a request on its way in, watched before the signature layer sees it.
//!
//! 1. A body that ends early, stands still, or breaks its framing ends in an error, never in a
//!    short body that looks whole.
//! 2. A document (a body of XML that one handler reads whole) is hashed on the way and refused
//!    before it is acted on, if it is not what its headers claim.
//! 3. Why a body was refused is left in [`Fault`]: the layers in between only know that reading
//!    failed, and the front answers with the reason.

use super::checksum::{Algorithm, Digests};
use super::chunked::{Framing, Misframed, SIGNED_CHUNK_BYTES_MAX};
use super::claims::Claims;
use super::drain::Drained;
use super::{XML_BYTES_MAX, admission};
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Method, StatusCode};
use hyper::body::{Body, Frame, SizeHint};
use s3s::{S3Error, S3Result, s3_error};
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep};

/// How long a body may stand still.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// Why a body was refused; set once, by whoever saw it first.
#[derive(Clone, Default)]
pub(super) struct Fault(Arc<Mutex<Option<S3Error>>>);

impl Fault {
    pub(super) fn take(&self) -> Option<S3Error> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn set(&self, reason: S3Error) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert(reason);
    }
}

/// What the layers in between see of a fault.
#[derive(Debug, thiserror::Error)]
#[error("the request's body was refused")]
pub(super) struct Refused;

/// A request's body, watched.
pub(super) struct Watched {
    inner: Drained,
    framing: Option<Framing>,
    document: Option<Document>,
    onward: VecDeque<Bytes>,
    idle: Pin<Box<Sleep>>,
    fault: Fault,
    ended: bool,
}

struct Document {
    claims: Claims,
    /// Lower-case hex, from `x-amz-content-sha256`.
    sha256: Option<String>,
    digests: Digests,
    /// Bytes still to come, if the request says how many.
    left: Option<u64>,
}

impl Watched {
    /// InvalidDigest or InvalidRequest where the headers make no sense.
    pub(super) fn new(parts: &Parts, inner: Drained, fault: Fault) -> S3Result<Self> {
        let framing = admission::framing(&parts.headers).map(Framing::new);
        let document = if is_document(parts) && !super::post::is_form(parts) {
            Some(Document::announced_by(parts)?)
        } else {
            None
        };
        let idle = Box::pin(tokio::time::sleep(IDLE_MAX));
        Ok(Self {
            inner,
            framing,
            document,
            onward: VecDeque::new(),
            idle,
            fault,
            ended: false,
        })
    }

    fn arrived(&mut self, bytes: Bytes) -> Result<(), S3Error> {
        self.idle.as_mut().reset(Instant::now() + IDLE_MAX);
        if let Some(document) = &mut self.document {
            document.digests.update(&bytes);
            document.left = document
                .left
                .map(|left| left.saturating_sub(bytes.len() as u64));
            // The layer below stops at the announced length and would see only that it differs.
            if document.left == Some(0)
                && let Some(whole) = self.document.take()
            {
                whole.check()?;
            }
        }
        match &mut self.framing {
            None => {
                self.onward.push_back(bytes);
                Ok(())
            }
            Some(framing) => framing.push(&bytes, &mut self.onward).map_err(misframed),
        }
    }

    fn finished(&mut self) -> Result<(), S3Error> {
        if let Some(framing) = &self.framing {
            framing.finish().map_err(misframed)?;
        }
        self.document.take().map_or(Ok(()), Document::check)
    }

    fn refuse(&mut self, reason: S3Error) -> Poll<Option<Result<Frame<Bytes>, Refused>>> {
        self.fault.set(reason);
        self.ended = true;
        self.onward.clear();
        Poll::Ready(Some(Err(Refused)))
    }
}

impl Body for Watched {
    type Data = Bytes;
    type Error = Refused;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Refused>>> {
        loop {
            if let Some(bytes) = self.onward.pop_front() {
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
            if self.ended {
                return Poll::Ready(None);
            }
            match Pin::new(&mut self.inner).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => {
                    let Ok(bytes) = frame.into_data() else {
                        continue;
                    };
                    if let Err(reason) = self.arrived(bytes) {
                        return self.refuse(reason);
                    }
                }
                Poll::Ready(Some(Err(broken))) => {
                    let reason = incomplete(&format!("the connection broke: {broken}"));
                    return self.refuse(reason);
                }
                Poll::Ready(None) => {
                    self.ended = true;
                    if let Err(reason) = self.finished() {
                        return self.refuse(reason);
                    }
                }
                Poll::Pending => {
                    return match self.idle.as_mut().poll(context) {
                        Poll::Pending => Poll::Pending,
                        Poll::Ready(()) => self.refuse(stood_still()),
                    };
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        // The document's check and the framing's end want a last look, so the end is only told
        // by a poll.
        self.ended && self.onward.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        if self.framing.is_some() {
            SizeHint::default()
        } else {
            self.inner.size_hint()
        }
    }
}

impl Document {
    fn announced_by(parts: &Parts) -> S3Result<Self> {
        // The checksum headers of a completion speak of the object to be, not of its XML.
        let about_the_object = query_has(parts, "uploadId");
        let claims = if about_the_object {
            Claims::of_md5(&parts.headers)?
        } else {
            Claims::of(&parts.headers)?
        };
        let left = content_length(&parts.headers);
        if left.is_some_and(|bytes| bytes > XML_BYTES_MAX as u64) {
            return Err(too_long());
        }
        let sha256 = content_sha256(&parts.headers);
        let mut algorithms: Vec<Algorithm> = claims.algorithm().into_iter().collect();
        if sha256.is_some() && !algorithms.contains(&Algorithm::Sha256) {
            algorithms.push(Algorithm::Sha256);
        }
        Ok(Self {
            claims,
            sha256,
            digests: Digests::new(&algorithms),
            left,
        })
    }

    fn check(self) -> S3Result<()> {
        let sums = self.digests.finish();
        if let Some(claimed) = self.sha256
            && sums
                .hex(Algorithm::Sha256)
                .is_some_and(|arrived| arrived != claimed)
        {
            return Err(sha256_mismatch());
        }
        self.claims.check(&sums, None)
    }
}

/// The body was not what `x-amz-content-sha256` says.
pub(super) fn sha256_mismatch() -> S3Error {
    super::error::custom(
        "XAmzContentSHA256Mismatch",
        StatusCode::BAD_REQUEST,
        "The provided 'x-amz-content-sha256' header does not match what was computed. Nothing was \
         stored; send it again.",
    )
}

fn too_long() -> S3Error {
    s3_error!(
        MaxMessageLengthExceeded,
        "Your request was too big: at most {XML_BYTES_MAX} bytes of XML are read"
    )
}

/// Fewer or more bytes than were announced.
pub(super) fn incomplete(why: &str) -> S3Error {
    s3_error!(
        IncompleteBody,
        "You did not provide the number of bytes specified by the Content-Length HTTP header \
         ({why}). Nothing was stored; send it again."
    )
}

fn stood_still() -> S3Error {
    s3_error!(
        RequestTimeout,
        "Your socket connection to the server was not read from or written to within the timeout \
         period of {} s.",
        IDLE_MAX.as_secs()
    )
}

fn misframed(what: Misframed) -> S3Error {
    match what {
        Misframed::Truncated => incomplete("the last aws-chunked chunk is missing"),
        Misframed::Malformed(why) => {
            s3_error!(
                InvalidRequest,
                "The aws-chunked framing of the body is malformed: {why}"
            )
        }
        Misframed::TooLarge(bytes) => s3_error!(
            InvalidRequest,
            "A signed aws-chunked chunk of {bytes} bytes is too large: at most \
             {SIGNED_CHUNK_BYTES_MAX} are taken"
        ),
    }
}

/// Everything but the bytes of an object or a part.
fn is_document(parts: &Parts) -> bool {
    let key = parts
        .uri
        .path()
        .trim_start_matches('/')
        .split_once('/')
        .map(|(_, key)| key);
    let about_the_object = ["acl", "legal-hold", "retention", "tagging"];
    parts.method != Method::PUT
        || key.is_none_or(str::is_empty)
        || about_the_object.iter().any(|name| query_has(parts, name))
}

fn query_has(parts: &Parts, name: &str) -> bool {
    let query = parts.uri.query().unwrap_or_default();
    form_urlencoded::parse(query.as_bytes()).any(|(key, _)| key == name)
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get("content-length")?.to_str().ok()?.parse().ok()
}

fn content_sha256(headers: &HeaderMap) -> Option<String> {
    let value = headers.get("x-amz-content-sha256")?.to_str().ok()?;
    let hex = value.len() == 64 && value.bytes().all(|byte| byte.is_ascii_hexdigit());
    hex.then(|| value.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    fn parts(method: &str, uri: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = http::Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn drained(parts: &Parts, body: impl Into<axum::body::Body>) -> Drained {
        Drained::new(&parts.headers, body.into())
    }

    async fn read(parts: &Parts, body: impl Into<axum::body::Body>) -> Result<Vec<u8>, String> {
        let fault = Fault::default();
        let watched = Watched::new(parts, drained(parts, body), fault.clone()).unwrap();
        match watched.collect().await {
            Ok(all) => Ok(all.to_bytes().to_vec()),
            Err(Refused) => Err(fault.take().unwrap().code().as_str().to_owned()),
        }
    }

    #[tokio::test]
    async fn a_document_that_is_not_what_its_headers_claim_is_refused() {
        // Of "hello".
        let sha256 = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
        for (name, value, code) in [
            ("x-amz-content-sha256", sha256, "XAmzContentSHA256Mismatch"),
            ("content-md5", "XUFAKrxLKna5cZ2REBfFkg==", "BadDigest"),
            ("x-amz-checksum-crc32", "NhCmhg==", "BadDigest"),
        ] {
            let delete = parts("POST", "/bucket?delete", &[(name, value)]);
            assert_eq!(read(&delete, "hello").await.unwrap(), b"hello");
            assert_eq!(read(&delete, "hellO").await.unwrap_err(), code);
        }
        // A completion's checksum is that of the object.
        let complete = parts(
            "POST",
            "/b/k?uploadId=1",
            &[("x-amz-checksum-crc32", "NhCmhg==")],
        );
        assert_eq!(read(&complete, "<x/>").await.unwrap(), b"<x/>");
    }

    #[tokio::test]
    async fn a_document_of_announced_length_is_judged_before_its_last_byte_goes_on() {
        let pairs = [
            ("content-md5", "XUFAKrxLKna5cZ2REBfFkg=="),
            ("content-length", "5"),
        ];
        let delete = parts("POST", "/bucket?delete", &pairs);
        let fault = Fault::default();
        let body = drained(&delete, "hellO");
        let mut watched = Watched::new(&delete, body, fault.clone()).unwrap();
        assert!(watched.frame().await.unwrap().is_err());
        assert_eq!(fault.take().unwrap().code().as_str(), "BadDigest");
    }

    #[tokio::test]
    async fn a_document_without_measure_is_refused_by_its_length() {
        let long = parts("POST", "/bucket?delete", &[("content-length", "4194305")]);
        let refused = Watched::new(&long, drained(&long, ""), Fault::default());
        assert!(refused.is_err_and(|refused| *refused.code() == s3s::S3ErrorCode::MaxMessageLengthExceeded));
        // The bytes of an object have another measure.
        let put = parts("PUT", "/bucket/key", &[("content-length", "4194305")]);
        assert!(Watched::new(&put, drained(&put, ""), Fault::default()).is_ok());
    }

    #[tokio::test]
    async fn the_bytes_of_an_object_pass_unhashed() {
        let put = parts(
            "PUT",
            "/b/k",
            &[("content-md5", "XUFAKrxLKna5cZ2REBfFkg==")],
        );
        assert_eq!(read(&put, "anything").await.unwrap(), b"anything");
        assert!(is_document(&parts("PUT", "/b", &[])) && is_document(&parts("PUT", "/b/", &[])));
        assert!(!is_document(&parts("PUT", "/b//", &[])));
    }

    #[tokio::test]
    async fn a_framed_body_that_lacks_its_end_is_incomplete() {
        let put = parts(
            "PUT",
            "/b/k",
            &[("x-amz-content-sha256", "STREAMING-UNSIGNED-PAYLOAD-TRAILER")],
        );
        assert_eq!(
            read(&put, "5\r\nhello\r\n0\r\n\r\n").await.unwrap(),
            b"5\r\nhello\r\n0\r\n\r\n"
        );
        assert_eq!(
            read(&put, "5\r\nhello\r\n").await.unwrap_err(),
            "IncompleteBody"
        );
        assert_eq!(
            read(&put, "5\r\nhelloo\r\n").await.unwrap_err(),
            "InvalidRequest"
        );
    }

    #[tokio::test]
    async fn a_broken_connection_is_an_incomplete_body() {
        let broken = futures::stream::iter([
            Ok(Bytes::from_static(b"half")),
            Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof)),
        ]);
        let body = axum::body::Body::from_stream(broken);
        assert_eq!(
            read(&parts("PUT", "/b/k", &[]), body).await.unwrap_err(),
            "IncompleteBody"
        );
    }
}
