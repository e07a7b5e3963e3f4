//! The front of the S3 door: everything a request meets before and after the protocol layer.
//!
//! ```text
//! request ── id, span ──┬ OPTIONS: the bucket's rules of CORS answer
//!                       ├ a form: post.rs
//!                       └ admission ── body watched ──▶ s3s: signature, access, operation
//! reply   ◀─ id, CORS, error document ─── fault of the body ◀────────────────────────┘
//! ```

use super::body::{Fault, Watched};
use super::domains::Domains;
use super::drain::Drained;
use super::{Door, admission, cors, error, post, settings};
use http::header::{CONNECTION, CONTENT_RANGE, EXPECT, ORIGIN};
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Body;
use percent_encoding::percent_decode_str;
use s3s::path::{S3Path, parse_path_style};
use s3s::service::S3Service;
use s3s::{S3Result, s3_error};
use std::time::Instant;
use tracing::Instrument;

tokio::task_local! {
    /// The session token of the request that this task answers: the layer that checks signatures
    /// asks for the key's secret without it.
    static TOKEN: Option<String>;
}

/// The session token that the request shows, if any.
pub(super) fn token() -> Option<String> {
    TOKEN.try_with(Clone::clone).ok().flatten()
}

/// What answers.
pub(super) struct Front {
    pub(super) protocol: S3Service,
    pub(super) door: Door,
    pub(super) domains: Domains,
}

/// The header that carries the request id back.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-amz-request-id");

/// Names a request in its reply, its log lines and the journal entries of what it changed.
#[derive(Clone, Debug)]
pub(super) struct RequestId(pub(super) String);

/// Answers one request, whatever it is.
pub(super) async fn answer(
    front: &Front,
    request: Request<axum::body::Body>,
) -> Response<axum::body::Body> {
    let id = uuid::Uuid::new_v4().simple().to_string();
    let (parts, body) = request.into_parts();
    let path = front.domains.path(&parts);
    let request = Request::from_parts(parts, body);
    let span = tracing::info_span!("request", id = %id, method = %request.method(), path = %path);
    // A client that waits for "100 Continue" and hears the final answer instead: perhaps its body
    // was not read, so the connection cannot go on (RFC 9110, 10.1.1); or it has none (an empty
    // file), and then botocore misreads the next answer on that connection and hangs. So it ends.
    let expects = request.headers().contains_key(EXPECT);
    let nothing_to_ask_for = request.body().is_end_stream();
    let query = request.uri().query().unwrap_or_default();
    let attributes = query
        .split('&')
        .any(|field| field == "attributes" || field == "attributes=");
    let began = Instant::now();
    let from_elsewhere = request.headers().contains_key(ORIGIN).then(|| {
        (
            request.method().clone(),
            request.headers().clone(),
            bucket_of(&path),
        )
    });
    async {
        let response = match pass(front, request, &path, &id).await {
            Ok(response) => response,
            Err(refused) => error::reply(refused),
        };
        let mut response = error::finish(response, &path, &id);
        // The protocol layer knows a partial answer to GET, but not to HEAD.
        if response.status() == StatusCode::OK && response.headers().contains_key(CONTENT_RANGE) {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        }
        if attributes {
            unquote(&mut response);
        }
        if let Some((method, headers, Some(bucket))) = from_elsewhere
            && method != Method::OPTIONS
            && let Ok(Some(rules)) = front.rules(&bucket).await
        {
            cors::decorate(&rules, method.as_str(), &headers, response.headers_mut());
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
    front: &Front,
    request: Request<axum::body::Body>,
    path: &str,
    id: &str,
) -> S3Result<Response<s3s::Body>> {
    let (mut parts, body) = request.into_parts();
    let body = Drained::new(&parts.headers, body);
    parts.extensions.insert(RequestId(id.to_owned()));
    if parts.method == Method::OPTIONS {
        return front.preflight(path, &parts).await;
    }
    let form = post::is_form(&parts);
    if !form {
        admission::admit(&parts.uri, &parts.headers)?;
    }
    let fault = Fault::default();
    let body = Watched::new(&parts, body, fault.clone())?;
    if form {
        let path = path_of(path)?;
        let answered = Box::pin(post::answer(&front.door, &path, &parts, body)).await;
        return answered.map_err(|refused| fault.take().unwrap_or(refused));
    }
    let token = admission::token(&parts.uri, &parts.headers);
    let request = Request::from_parts(parts, s3s::Body::http_body_unsync(body));
    let response = match TOKEN
        .scope(token, Box::pin(front.protocol.call(request)))
        .await
    {
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

impl Front {
    async fn rules(&self, bucket: &str) -> S3Result<Option<cors::Rules>> {
        let bucket = bucket.to_owned();
        self.door
            .ask(move |store| settings::cors(store, &bucket))
            .await
    }

    async fn preflight(&self, path: &str, parts: &Parts) -> S3Result<Response<s3s::Body>> {
        let rules = match bucket_of(path) {
            Some(bucket) => self.rules(&bucket).await?,
            None => None,
        };
        let headers = cors::preflight(rules.as_ref(), &parts.headers)?;
        let mut response = Response::new(s3s::Body::empty());
        *response.headers_mut() = headers;
        Ok(response)
    }
}

/// GetObjectAttributes alone shows the ETag without its quotes ("GetObjectAttributes", Amazon S3 API
/// reference, response syntax); the protocol layer writes them everywhere.
fn unquote(response: &mut Response<s3s::Body>) {
    let Some(bytes) = response
        .body()
        .bytes()
        .filter(|_| response.status().is_success())
    else {
        return;
    };
    let Ok(text) = std::str::from_utf8(&bytes) else {
        return;
    };
    let bare = text
        .replacen("<ETag>\"", "<ETag>", 1)
        .replacen("\"</ETag>", "</ETag>", 1);
    *response.body_mut() = s3s::Body::from(bytes::Bytes::from(bare));
    response.headers_mut().remove(http::header::CONTENT_LENGTH);
}

/// `path` is in path style, whatever the request's was.
fn path_of(path: &str) -> S3Result<S3Path> {
    let decoded = percent_decode_str(path)
        .decode_utf8()
        .map_err(|_| s3_error!(InvalidURI))?;
    parse_path_style(&decoded).map_err(|bad| s3_error!(bad, InvalidURI))
}

fn bucket_of(path: &str) -> Option<String> {
    path_of(path).ok()?.get_bucket_name().map(ToOwned::to_owned)
}
