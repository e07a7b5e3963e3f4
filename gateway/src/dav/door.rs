//! The order in which a request is answered: identified, placed, authorised, handed on, explained.

use super::files::{Files, READ_BYTES};
use super::gate::{self, Destination};
use super::locking::Locking;
use super::locks::Locks;
use super::place::{PREFIX, Place};
use super::refusal::{self, Refusal};
use super::session::{Session, Shared};
use super::shelf::Found;
use super::transfer::{TransferSettings, Transfers};
use super::{digest, identity, if_header, propfind, receiving, xml};
use crate::blocking;
use access::{Access, Caller, Origin, Principal};
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;
use blockstore::{Error, Kind, Store, Subject};
use bytes::Bytes;
use dav_server::{DavConfig, DavHandler};
use futures::{FutureExt, StreamExt};
use std::collections::HashSet;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Semaphore;
use tracing::Instrument;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const DIGEST: HeaderName = HeaderName::from_static("digest");
const METHODS: &str = "OPTIONS, GET, HEAD, PUT, DELETE, PROPFIND, PROPPATCH, MKCOL, COPY, MOVE, \
                       LOCK, UNLOCK";
/// How long a client may be silent inside a body.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// Ranges of one GET; of more the whole is sent.
const RANGES_MAX: usize = 8;
/// Bodies that are hashed because somebody wants their digest, at the same time.
const HASHED_MAX: usize = 4;

/// What answers.
pub(super) struct Door {
    store: Store,
    access: Access,
    locks: Locks,
    transfers: Transfers,
    incoming: Arc<Semaphore>,
    hashed: Arc<Semaphore>,
}

impl Door {
    pub(super) fn open(
        store: Store,
        access: Access,
        transfers: TransferSettings,
    ) -> blockstore::Result<Self> {
        let incoming = Arc::new(Semaphore::new(receiving::INCOMING_MAX));
        Ok(Self {
            locks: Locks::open(store.clone())?,
            transfers: Transfers::new(store.clone(), transfers, Arc::clone(&incoming))?,
            store,
            access,
            incoming,
            hashed: Arc::new(Semaphore::new(HASHED_MAX)),
        })
    }

    /// Answers any request.
    pub(super) async fn answer(&self, request: Request) -> Response {
        let id = uuid::Uuid::new_v4().simple().to_string();
        let span = tracing::info_span!(
            "dav", id = %id, method = %request.method(), path = %request.uri().path()
        );
        let began = std::time::Instant::now();
        let answered = async {
            let answered = Box::pin(self.served(request, &id)).await;
            let response = answered.unwrap_or_else(Refusal::into_response);
            let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
            tracing::debug!(status = response.status().as_u16(), took_ms, "answered");
            response
        };
        let mut response = answered.instrument(span).await;
        if response.status() == StatusCode::UNAUTHORIZED {
            identity::challenge(&mut response);
        }
        if let Ok(value) = HeaderValue::from_str(&id) {
            response.headers_mut().insert(REQUEST_ID, value);
        }
        response
    }

    async fn served(&self, request: Request, id: &str) -> Result<Response, Refusal> {
        let principal = self.identified(request.headers().clone()).await?;
        let caller = Caller {
            principal,
            origin: request
                .extensions()
                .get::<Origin>()
                .cloned()
                .unwrap_or_default(),
            request: id.to_owned(),
        };
        let place = Place::of_path(request.uri().path())?;
        let (parts, body) = request.into_parts();
        let mut session = Session {
            access: self.access.clone(),
            caller,
            method: parts.method.clone(),
            headers: parts.headers.clone(),
            place,
            object: None,
            target: None,
            changes_members: false,
            incoming: Arc::clone(&self.incoming),
            decided: Mutex::new(HashSet::new()),
            failure: Mutex::new(None),
        };
        match parts.method.as_str() {
            "OPTIONS" => return Ok(options()),
            "GET" | "HEAD" | "PUT" | "DELETE" | "PROPFIND" | "PROPPATCH" | "MKCOL" | "LOCK"
            | "UNLOCK" | "COPY" | "MOVE" => {}
            other => {
                let words = format!("{other} is not served here; these are: {METHODS}");
                return Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, words));
            }
        }
        gate::check_headers(&session)?;
        let conditions = if_header::check(&parts.headers)?;
        if matches!(parts.method.as_str(), "COPY" | "MOVE") {
            let destination = gate::destination(&parts.headers)?;
            match (parts.method.as_str(), destination) {
                ("COPY", destination) if parts.headers.contains_key("source") => {
                    let locks = self.locks.clone();
                    return self
                        .transfers
                        .pull(session, locks, destination.is_some())
                        .await;
                }
                ("COPY", Some(Destination::Elsewhere(url))) => {
                    return self.transfers.push(session, &url).await;
                }
                (_, Some(Destination::Elsewhere(url))) => {
                    let words = format!(
                        "{url:?} lies on another server: COPY takes a copy there, and DELETE then \
                         ends this one"
                    );
                    return Err(Refusal::new(StatusCode::BAD_GATEWAY, words));
                }
                (_, Some(Destination::Here(target))) => session.target = Some(target),
                (_, None) => {}
            }
        }
        let (store, locks) = (self.store.clone(), self.locks.clone());
        let admitted = blocking::run(move || {
            let found = gate::admit(&store, &locks, &mut session);
            Ok::<_, blockstore::Error>(found.map(|found| (session, found)))
        });
        let (session, found) = admitted.await??;
        let session: Shared = Arc::new(session);
        let found_collection = found.as_ref().is_some_and(Found::is_collection);
        match parts.method.as_str() {
            "PROPFIND" => {
                let body = small(body).await?;
                if !body.is_empty() {
                    xml::check(&body)?;
                }
                propfind::answer(self.store.clone(), self.locks.clone(), session, &body).await
            }
            "HEAD" if found_collection => Ok(Response::new(Body::empty())),
            "GET" if found_collection => Err(refusal::explained(
                &parts.method,
                StatusCode::METHOD_NOT_ALLOWED,
                &session.place.href(),
            )),
            _ => {
                let body = match parts.method.as_str() {
                    "PUT" => patient(body),
                    method => {
                        let body = small(body).await?;
                        if !body.is_empty() && matches!(method, "PROPPATCH" | "LOCK") {
                            xml::check(&body)?;
                        }
                        Body::from(body)
                    }
                };
                let digest = self.digest(&session).await?;
                let mut request = Request::from_parts(parts, body);
                tidy(&mut request, &session, conditions);
                let response = self.handled(request, &session).await;
                Ok(finished(response, &session, digest))
            }
        }
    }

    /// Who asks. On a thread that may block: keys are looked up in the store.
    async fn identified(&self, headers: HeaderMap) -> Result<Principal, Refusal> {
        let access = self.access.clone();
        let identified = move || Ok::<_, blockstore::Error>(identity::identify(&access, &headers));
        blocking::run(identified).await?
    }

    /// What the protocol layer says.
    async fn handled(&self, request: Request, session: &Shared) -> Response {
        let locking = Locking {
            locks: self.locks.clone(),
            session: Arc::clone(session),
        };
        let files = Files {
            store: self.store.clone(),
        };
        let handler: DavHandler<Shared> = DavConfig::new()
            .filesystem(Box::new(files))
            .locksystem(Box::new(locking))
            .strip_prefix(PREFIX)
            .hide_symlinks(false)
            .read_buf_size(READ_BYTES)
            .build_handler();
        let handled = handler.handle_guarded(request, session.principal(), Arc::clone(session));
        // Its parsers of headers have tripped over what strangers sent before: that is the request's
        // end, not the connection's.
        match AssertUnwindSafe(handled).catch_unwind().await {
            Ok(response) => response.map(Body::new),
            Err(_) => {
                let text = "the protocol layer could not read the request";
                let error = Error::new(Kind::Invalid, Subject::Object, text);
                session.failed(error);
                let mut response = Response::new(Body::empty());
                *response.status_mut() = StatusCode::BAD_REQUEST;
                response
            }
        }
    }

    /// The value of the `Digest` header, where one is wanted of an object that is read.
    async fn digest(&self, session: &Shared) -> Result<Option<HeaderValue>, Refusal> {
        let reads = matches!(session.method.as_str(), "GET" | "HEAD");
        let (Some(object), true, Some(algorithm)) =
            (&session.object, reads, digest::wanted(&session.headers))
        else {
            return Ok(None);
        };
        let value = match digest::known(object, algorithm) {
            Some(value) => Some(value),
            None => {
                let Ok(turn) = Arc::clone(&self.hashed).acquire_owned().await else {
                    return Ok(None);
                };
                let stopped = Arc::new(AtomicBool::new(false));
                // Dropped with this request: then nobody waits for the value any more.
                let _watch = Watch(Arc::clone(&stopped));
                let (store, who, object) = (self.store.clone(), session.who(), object.clone());
                blocking::run(move || {
                    let _turn = turn;
                    let (now, body) = store.object_open(&object.bucket, &object.key)?;
                    let sha256 = algorithm == digest::Algorithm::Sha256;
                    let values = digest::compute(body.as_ref(), sha256, &stopped)?;
                    let same = now.meta.etag == object.meta.etag;
                    let Some(values) = values.filter(|_| same) else {
                        return Ok(None);
                    };
                    digest::keep(&store, &who, &now, &values);
                    Ok::<_, blockstore::Error>(values.get(&algorithm).cloned())
                })
                .await?
            }
        };
        let text = value.map(|value| format!("{}={value}", algorithm.name()));
        Ok(text.and_then(|text| HeaderValue::from_str(&text).ok()))
    }
}

/// Tells a thread that its work is no longer wanted.
struct Watch(Arc<AtomicBool>);

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn options() -> Response {
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    headers.insert("dav", HeaderValue::from_static("1, 2, 3"));
    headers.insert(header::ALLOW, HeaderValue::from_static(METHODS));
    headers.insert("ms-author-via", HeaderValue::from_static("DAV"));
    response
}

/// A body that is small, whole.
async fn small(body: Body) -> Result<Bytes, Refusal> {
    let read = axum::body::to_bytes(body, xml::BODY_BYTES_MAX);
    match tokio::time::timeout(SILENCE_MAX, read).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(_)) => Err(Refusal::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!(
                "the body broke off, or has more than {} bytes",
                xml::BODY_BYTES_MAX
            ),
        )),
        Err(_) => Err(Refusal::new(
            StatusCode::REQUEST_TIMEOUT,
            format!("the body did not arrive within {} s", SILENCE_MAX.as_secs()),
        )),
    }
}

/// The body, which breaks off if its client falls silent.
fn patient(body: Body) -> Body {
    let pieces = body.into_data_stream();
    Body::from_stream(futures::stream::unfold(Some(pieces), |pieces| async move {
        let mut pieces = pieces?;
        match tokio::time::timeout(SILENCE_MAX, pieces.next()).await {
            Ok(Some(Ok(piece))) => Some((Ok(piece), Some(pieces))),
            Ok(Some(Err(error))) => Some((Err(std::io::Error::other(error)), None)),
            Ok(None) => None,
            Err(_) => Some((Err(std::io::ErrorKind::TimedOut.into()), None)),
        }
    }))
}

/// What the protocol layer reads is what was judged.
fn tidy(request: &mut Request, session: &Session, conditions: Option<HeaderValue>) {
    let headers = request.headers_mut();
    if let Some(conditions) = conditions {
        headers.insert("if", conditions);
    }
    headers.remove("x-litmus");
    headers.remove("x-expected-entity-length");
    let ranges = headers.get(header::RANGE).map_or(0, |range| {
        range.as_bytes().split(|byte| *byte == b',').count()
    });
    if ranges > RANGES_MAX {
        headers.remove(header::RANGE);
    }
    if let Some(target) = &session.target
        && let Ok(href) = HeaderValue::from_str(&target.href())
    {
        headers.insert("destination", href);
    }
}

/// The protocol layer's reply with what it cannot know: words, the kept type, the digest.
fn finished(mut response: Response, session: &Session, digest: Option<HeaderValue>) -> Response {
    let status = response.status();
    if status.is_client_error() || status.is_server_error() {
        let href = session.place.href();
        let mut told = refusal::explained(&session.method, status, &href);
        if let Some(failure) = session.take_failure() {
            // A missing parent is a conflict and an existing collection a wrong method: there the
            // protocol layer knows better.
            let status = match failure.kind() {
                Kind::NotFound | Kind::Conflict => status,
                kind => crate::api::status(kind),
            };
            told = Refusal::new(status, Refusal::from(failure).words());
        } else if status == StatusCode::INTERNAL_SERVER_ERROR {
            tracing::error!("the protocol layer failed without a reason");
        }
        let mut refused = told.into_response();
        for name in [header::CONNECTION, header::CONTENT_RANGE, header::ETAG] {
            if let Some(value) = response.headers().get(&name) {
                refused.headers_mut().insert(name, value.clone());
            }
        }
        return refused;
    }
    let reads = matches!(session.method.as_str(), "GET" | "HEAD");
    if reads && let Some(object) = &session.object {
        let headers = response.headers_mut();
        let several = headers
            .get(header::CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(b"multipart/byteranges"));
        for (name, value) in &object.meta.headers {
            let known = HeaderName::try_from(name.as_str());
            if let (Ok(name), Ok(value)) = (known, HeaderValue::from_str(value))
                && !(several && name == header::CONTENT_TYPE)
            {
                headers.insert(name, value);
            }
        }
        if !object.meta.headers.contains_key("content-type") && !several {
            headers.insert(
                header::CONTENT_TYPE,
                HeaderValue::from_static("application/octet-stream"),
            );
        }
        if let Some(digest) = digest {
            headers.insert(DIGEST, digest);
        }
    }
    response
}
