//! The front of the S3 door: everything a request meets before and after the protocol layer.
//!
//! ```text
//! request ── id, span ── admission ── body watched ──▶ s3s: signature, access, operation
//! reply   ◀─ id, error document ─── fault of the body ◀────────────────────────┘
//! ```

use super::body::{Fault, Watched};
use super::drain::Drained;
use super::{admission, error};
use http::header::{CONNECTION, CONTENT_RANGE, EXPECT};
use http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use hyper::body::Body;
use s3s::service::S3Service;
use s3s::{S3Result, s3_error};
use std::time::Instant;
use tracing::Instrument;

/// The header that carries the request id back.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-amz-request-id");

/// Names a request in its reply, its log lines and the journal entries of what it changed.
#[derive(Clone, Debug)]
pub(super) struct RequestId(pub(super) String);

/// Answers one request, whatever it is.
pub(super) async fn answer(
    protocol: S3Service,
    request: Request<axum::body::Body>,
) -> Response<axum::body::Body> {
    let id = uuid::Uuid::new_v4().simple().to_string();
    let path = request.uri().path().to_owned();
    let span = tracing::info_span!("request", id = %id, method = %request.method(), path = %path);
    // A client that waits for "100 Continue" and hears the final answer instead: perhaps its body
    // was not read, so the connection cannot go on (RFC 9110, 10.1.1); or it has none (an empty
    // file), and then botocore misreads the next answer on that connection and hangs. So it ends.
    let expects = request.headers().contains_key(EXPECT);
    let nothing_to_ask_for = request.body().is_end_stream();
    let began = Instant::now();
    async {
        let response = match pass(&protocol, request, &id).await {
            Ok(response) => response,
            Err(refused) => error::reply(refused),
        };
        let mut response = error::finish(response, &path, &id);
        // The protocol layer knows a partial answer to GET, but not to HEAD.
        if response.status() == StatusCode::OK && response.headers().contains_key(CONTENT_RANGE) {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        }
        if let Ok(value) = HeaderValue::from_str(&id) {
            response.headers_mut().insert(REQUEST_ID, value);
        }
        if expects && (nothing_to_ask_for || !response.status().is_success()) {
            response
                .headers_mut()
                .insert(CONNECTION, HeaderValue::from_static("close"));
        }
        let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        tracing::debug!(status = response.status().as_u16(), took_ms, "answered");
        response.map(axum::body::Body::new)
    }
    .instrument(span)
    .await
}

async fn pass(
    protocol: &S3Service,
    request: Request<axum::body::Body>,
    id: &str,
) -> S3Result<Response<s3s::Body>> {
    let (mut parts, body) = request.into_parts();
    let body = Drained::new(&parts.headers, body);
    admission::admit(&parts.method, &parts.uri, &parts.headers)?;
    parts.extensions.insert(RequestId(id.to_owned()));
    let fault = Fault::default();
    let body = Watched::new(&parts, body, fault.clone())?;
    let request = Request::from_parts(parts, s3s::Body::http_body_unsync(body));
    let response = match Box::pin(protocol.call(request)).await {
        Ok(response) => response,
        Err(broken) => {
            tracing::error!(?broken, "the protocol layer failed");
            return Err(s3_error!(InternalError));
        }
    };
    match fault.take() {
        // The layers in between only saw that reading failed; this is why.
        Some(reason) if !response.status().is_success() => Err(reason),
        _ => Ok(response),
    }
}
