//! The JSON API under `/api/v1`: what `infall`'s own commands and other programs speak.
//!
//! 1. Every request shows `Authorization: Bearer <access key>:<secret key>`; without it nothing is
//!    answered, not even which paths exist.
//! 2. Every request has an id, which its reply (`x-request-id`), its log lines and the journal
//!    entries of what it changed carry.
//! 3. No route is answered that has no rule in `rules`, and none whose needs the policy engine does
//!    not allow; lists hold only what the asker may describe.
//! 4. Payload never travels here: objects move over S3, blocks over NBD.
//!
//! The routes are one table (`routes`), so that a test can hold `openapi.json` against it.

mod buckets;
mod error;
mod events;
mod guard;
pub mod identities;
mod images;
mod openapi;
mod rules;
mod standing;
mod store;
mod volumes;

pub use buckets::{BucketCreate, BucketList, ObjectPage, ObjectsQuery};
pub use error::{ErrorBody, ErrorReply, Problem, Reply, kind_name, kind_of, nearest, status};
pub use events::{Closing, EVENTS_MAX, EventPage, EventsQuery, WAIT_MS_MAX};
pub use images::{ImageAdd, ImageAdded, ImageList};
pub use openapi::{DOCUMENT as OPENAPI, operations};
pub use standing::{ImageDeprecate, ImageEndorse, ImageExpire, ImageShown};
pub use store::{CheckAsk, StoreStatus};
pub use volumes::{
    OriginName, SnapshotCreate, SnapshotList, VolumeCreate, VolumeCreated, VolumeList, VolumeResize,
};

use access::{Access, Caller, Origin};
use axum::extract::{FromRequest, FromRequestParts, Request, State};
use axum::http::{HeaderName, HeaderValue, Method, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::MethodRouter;
use blockstore::{Store, Who};
use tracing::Instrument;

/// Where the API is served.
pub const PREFIX: &str = "/api/v1";
/// The header that carries the request id back.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Bytes of a request's body at most; cloud-init user data is the largest thing sent.
const BODY_BYTES_MAX: usize = 1 << 20;

/// The API's routes, without their prefix. `extra` (instances, mounts) stands behind the same
/// authentication and sees the same [`Who`].
pub fn router(store: Store, access: Access, extra: axum::Router) -> axum::Router {
    let own = routes()
        .into_iter()
        .fold(axum::Router::new(), |router, route| {
            router.route(route.path, route.answer)
        });
    let gate = guard::Gate {
        store: store.clone(),
        access: access.clone(),
    };
    own.with_state(store)
        .merge(extra)
        .fallback(|method: Method, uri: Uri| async move { Problem::no_route(&method, uri.path()) })
        .method_not_allowed_fallback(|method: Method, uri: Uri| async move {
            Problem::no_method(&method, uri.path())
        })
        .layer(axum::extract::DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(axum::middleware::from_fn_with_state(gate, guard::pass))
        .layer(axum::middleware::from_fn_with_state(access, admit))
}

/// Who decides and who asks, for handlers that leave out what the asker may not see.
type Asking = (axum::Extension<Access>, axum::Extension<Caller>);

/// One path and what it answers.
struct Route {
    path: &'static str,
    #[allow(
        dead_code,
        reason = "the test reads it that holds openapi.json against this table"
    )]
    methods: &'static [&'static str],
    answer: MethodRouter<Store>,
}

fn routes() -> Vec<Route> {
    let mut all = buckets::routes();
    all.extend(images::routes());
    all.extend(standing::routes());
    all.extend(volumes::routes());
    all.extend(store::routes());
    all.extend(events::routes());
    all.extend(identities::routes());
    all.extend(openapi::routes());
    all
}

/// Authenticates, names the request, and tells the log how it went.
async fn admit(State(access): State<Access>, mut request: Request, next: Next) -> Response {
    let id = uuid::Uuid::new_v4().simple().to_string();
    let span = tracing::info_span!(
        "request", id = %id, method = %request.method(), path = %request.uri().path()
    );
    let began = std::time::Instant::now();
    let mut response = async {
        let shown = request.headers().get(header::AUTHORIZATION);
        let principal = match bearer(shown).map(|token| access.bearer(token)) {
            Some(Ok(principal)) => principal,
            Some(Err(unknown)) => {
                return Problem::unauthenticated(&unknown.to_string()).into_response();
            }
            None => {
                return Problem::unauthenticated(
                    "no valid key: send \"Authorization: Bearer <access key>:<secret key>\"; \
                     infall env prints both",
                )
                .into_response();
            }
        };
        let origin = request.extensions().get::<Origin>().cloned();
        let caller = Caller {
            principal,
            origin: origin.unwrap_or_default(),
            request: id.clone(),
        };
        request.extensions_mut().insert(caller.who());
        request.extensions_mut().insert(caller);
        request.extensions_mut().insert(access);
        let response = next.run(request).await;
        let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        tracing::debug!(status = response.status().as_u16(), took_ms, "answered");
        response
    }
    .instrument(span)
    .await;
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response
}

/// What an `Authorization` header shows behind `Bearer`.
fn bearer(shown: Option<&HeaderValue>) -> Option<&str> {
    let (scheme, token) = shown?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Whether names of a project may be suggested to somebody: those of others are none of theirs.
fn sees(who: &Who, project: &str) -> bool {
    who.project == project || who.actor == "root"
}

/// JSON in, checked, with our own error shape.
#[derive(FromRequest)]
#[from_request(via(axum::Json), rejection(Problem))]
pub struct Json<T>(pub T);

/// The query string, checked, with our own error shape.
#[derive(FromRequestParts)]
#[from_request(via(axum::extract::Query), rejection(Problem))]
pub struct Query<T>(pub T);

/// A part of the path, checked, with our own error shape.
#[derive(FromRequestParts)]
#[from_request(via(axum::extract::Path), rejection(Problem))]
pub struct Path<T>(pub T);

impl<T: serde::Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        axum::Json(self.0).into_response()
    }
}

/// Bucket and key of `s3://bucket/key`; the key may be empty.
pub fn s3_url(text: &str) -> Option<(&str, &str)> {
    let rest = text.strip_prefix("s3://")?;
    let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
    (!bucket.is_empty()).then_some((bucket, key))
}
