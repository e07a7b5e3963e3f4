//! The CDMI door: SNIA's Cloud Data Management Interface under `/cdmi`, over the same names as S3.
//!
//! ```text
//! request ── dialect ── place ── admission ──▶ reading · writing · raw · partial · transfer · removing
//!            version,   what     who asks      containers · snapshots · volumes · capabilities
//!            media      it names
//! ```
//! First-level containers are buckets, deeper ones are prefixes of keys, data objects are objects:
//! nothing is copied or kept twice, and what one door changes the other shows at once. What S3 has
//! no place for (metadata that no header carries, the encoding of a value, references) lies in the
//! row of the object itself, under the property `cdmi`.
//!
//! 1. Whatever is done to a name is authorized first, by the action S3 has for it.
//! 2. A capability is listed where the operation behind it works, and nowhere else.
//! 3. Memory per request is bounded: CDMI bodies by [`JSON_BYTES_MAX`], values by two buffers.
//! 4. One object id names one object for its whole life, over every door.
//!
//! Tested against the tables of the standard, 1.1.1 and 2.0.0: `gateway/tests/cdmi`.

mod admission;
mod ask;
mod body;
mod capabilities;
mod containers;
mod dialect;
mod failure;
mod identity;
mod metadata;
mod objectid;
mod partial;
mod place;
mod placement;
mod query;
mod raw;
mod reading;
mod removing;
mod show;
mod snapshots;
mod stream;
mod transfer;
mod turns;
mod volumes;
mod writing;

use access::Access;
use ask::{Ask, Work};
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use blockstore::{Kind, Store};
use dialect::{Dialect, Media, Version};
use failure::{Failure, Reply};
use objectid::Ids;
use place::Place;
use placement::Node;
use query::Selection;
use std::convert::Infallible;
use std::sync::Arc;
use tokio::sync::Semaphore;
use tracing::Instrument;
use turns::Turns;

/// Bytes of a CDMI body at most; larger values travel as they are, or in ranges.
pub const JSON_BYTES_MAX: usize = 8 << 20;
/// Large CDMI bodies in memory at once.
const JSON_AT_ONCE: usize = 8;
/// CDMI bodies up to this size need no turn.
const SMALL_BYTES: u64 = 64 << 10;
/// Values on their way in at the same time.
const INCOMING_MAX: usize = 64;
/// Large values on their way out at the same time.
const OUTGOING_MAX: usize = 64;
/// The header that carries the request id back.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Says that more of a value is to come (CDMI 1.1.1, 8.2), or that more children follow.
const PARTIAL: HeaderName = HeaderName::from_static("x-cdmi-partial");

/// What the operator says of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Its country, ISO 3166-1 alpha-2 (`provider.country`). Unknown, it satisfies no placement but
    /// "anywhere".
    pub country: Option<String>,
    /// The provider's enterprise number with IANA (`provider.enterprise_number`), which object ids
    /// carry. The default is the one of RFC 5612, for documentation.
    pub enterprise: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            country: None,
            enterprise: 32473,
        }
    }
}

impl Settings {
    /// Whether `code` is a country: two capital letters of ISO 3166-1.
    pub fn is_country(code: &str) -> bool {
        placement::is_country(code)
    }
}

/// What every request works on.
struct Door {
    store: Store,
    access: Access,
    ids: Ids,
    node: Node,
    turns: Turns,
    json: Arc<Semaphore>,
    incoming: Arc<Semaphore>,
    outgoing: Arc<Semaphore>,
}

/// CDMI, for paths that begin with `/cdmi`.
pub fn router(store: Store, access: Access, settings: Settings) -> axum::Router {
    let country = settings.country.filter(|code| {
        let known = Settings::is_country(code);
        if !known {
            tracing::warn!(
                code,
                "provider.country is no code of ISO 3166-1: taken for unknown"
            );
        }
        known
    });
    let ids = Ids {
        enterprise: settings.enterprise,
        store: identity::store_tag(&store),
    };
    let door = Arc::new(Door {
        store,
        access,
        ids,
        node: Node { country },
        turns: Turns::new(),
        json: Arc::new(Semaphore::new(JSON_AT_ONCE)),
        incoming: Arc::new(Semaphore::new(INCOMING_MAX)),
        outgoing: Arc::new(Semaphore::new(OUTGOING_MAX)),
    });
    axum::Router::new().fallback_service(tower::service_fn(move |request: Request| {
        let door = Arc::clone(&door);
        async move { Ok::<_, Infallible>(Box::pin(answer(door, request)).await) }
    }))
}

/// Answers one request, whatever it is.
async fn answer(door: Arc<Door>, request: Request) -> Response {
    let id = uuid::Uuid::new_v4().simple().to_string();
    let (parts, body) = request.into_parts();
    let uri = parts.uri.clone();
    let span = tracing::info_span!("request", id = %id, method = %parts.method, path = %uri.path());
    let body = Body::new(crate::s3::drain::Drained::new(&parts.headers, body));
    let began = std::time::Instant::now();
    async {
        let mut response = match Dialect::read(uri.path(), &parts.headers) {
            Err(refused) => refused.into_response(),
            Ok((dialect, below)) => {
                let answered = pass(door, &parts, &uri, dialect.clone(), below, &id, body).await;
                let mut response = answered.unwrap_or_else(IntoResponse::into_response);
                dialect.stamp(&mut response);
                response
            }
        };
        if let Ok(value) = HeaderValue::from_str(&id) {
            response.headers_mut().insert(REQUEST_ID, value);
        }
        let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        tracing::debug!(status = response.status().as_u16(), took_ms, "answered");
        response
    }
    .instrument(span)
    .await
}

async fn pass(
    door: Arc<Door>,
    parts: &axum::http::request::Parts,
    uri: &axum::http::Uri,
    dialect: Dialect,
    below: &str,
    id: &str,
    body: Body,
) -> Reply {
    let method = parts.method.clone();
    let place = Place::read(below)?;
    let selection = Selection::read(uri.query())?;
    let caller = {
        let (access, headers) = (door.access.clone(), parts.headers.clone());
        let (origin, id) = (parts.extensions.get().cloned(), id.to_owned());
        crate::blocking::run(move || admission::caller(&access, &headers, origin, id)).await?
    };
    let ask = Ask {
        caller,
        dialect,
        selection,
        place,
        headers: parts.headers.clone(),
        query: uri.query().map(str::to_owned),
    };
    let work = Work { door, ask };
    let work = crate::blocking::run(move || work.located()).await?;
    match method {
        Method::GET | Method::HEAD => reading::read(work).await,
        Method::PUT => put(work, body).await,
        Method::PATCH if work.ask.dialect.version >= Version::V2 => patch(work, body).await,
        Method::POST => post(work, body).await,
        Method::DELETE => crate::blocking::run(move || removing::remove(&work)).await,
        _ => Err(no_method(&method, work.ask.dialect.version)),
    }
}

/// PUT makes what is not there and changes what is.
async fn put(work: Work, body: Body) -> Reply {
    let cdmi = work.is_cdmi_body()?;
    match (&work.ask.place, cdmi) {
        (Place::Container { .. }, Some(Media::Container) | None) => {
            let body = match cdmi {
                Some(_) => body::json(&work, body).await?,
                None => body::none(body).await?,
            };
            crate::blocking::run(move || containers::put(&work, &body, false)).await
        }
        (Place::Object { .. }, Some(Media::Object)) => {
            let body = body::json(&work, body).await?;
            writing::put(work, body, false).await
        }
        (Place::Object { .. }, None) => raw::put(work, body).await,
        (place, Some(media)) => Err(wrong_media(place, media)),
        (place, None) => Err(no_write(place)),
    }
}

/// PATCH changes what is there, and only what it names (CDMI 2.0.0).
async fn patch(work: Work, body: Body) -> Reply {
    match (&work.ask.place, work.is_cdmi_body()?) {
        (Place::Container { .. }, Some(Media::Container)) => {
            let body = body::json(&work, body).await?;
            crate::blocking::run(move || containers::put(&work, &body, true)).await
        }
        (Place::Object { .. }, Some(Media::Object)) => {
            let body = body::json(&work, body).await?;
            writing::put(work, body, true).await
        }
        (Place::Object { .. }, None) => raw::patch(work, body).await,
        (place, Some(media)) => Err(wrong_media(place, media)),
        (place, None) => Err(no_write(place)),
    }
}

/// POST makes a data object under a name that the server chooses.
async fn post(work: Work, body: Body) -> Reply {
    let Place::Container { .. } = &work.ask.place else {
        return Err(match &work.ask.place {
            Place::ById(_) => Failure::forbidden(
                "capability",
                "data objects belong to containers here: the capability \
                 cdmi_post_dataobject_by_ID is not there; POST to a container",
            ),
            _ => Failure::invalid(
                "uri",
                "POST makes a data object in a container: end the URI with its slash",
            ),
        });
    };
    match work.is_cdmi_body()? {
        Some(Media::Object) => {
            let body = body::json(&work, body).await?;
            writing::post(work, body).await
        }
        None => raw::post(work, body).await,
        Some(media) => Err(wrong_media(&work.ask.place, media)),
    }
}

fn wrong_media(place: &Place, media: Media) -> Failure {
    let text = match (place, media) {
        (_, Media::Queue | Media::Domain) => format!(
            "{} is not served here: GET /cdmi/cdmi_capabilities/ tells what is",
            media.text()
        ),
        (Place::Object { .. }, Media::Container) => {
            "a container's URI ends with a slash".to_owned()
        }
        (Place::Container { .. }, Media::Object) => {
            "a data object's URI does not end with a slash".to_owned()
        }
        _ => return no_write(place),
    };
    Failure::invalid("content-type", text)
}

fn no_write(place: &Place) -> Failure {
    let what = match place {
        Place::FrozenContainer { .. } | Place::FrozenObject { .. } => "a snapshot is read-only",
        Place::Snapshots { .. } => {
            "a snapshot is taken by writing {\"snapshot\":\"<name>\"} to its container"
        }
        Place::Volume(_) | Place::Volumes => "volumes are made through the JSON API",
        Place::Capabilities(_) => "capabilities are read-only",
        Place::Root => "the root container is read-only",
        Place::Container { .. } | Place::Object { .. } | Place::ById(_) => {
            "this cannot be written to"
        }
    };
    Failure::forbidden("capability", what)
}

fn no_method(method: &Method, version: Version) -> Failure {
    let allowed = match version {
        Version::V1 => "GET, HEAD, PUT, POST, DELETE",
        Version::V2 => "GET, HEAD, PUT, PATCH, POST, DELETE",
    };
    Failure::new(
        Kind::Unsupported,
        "method",
        format!("CDMI {} has no {method} here: {allowed}", version.text()),
    )
    .with_status(StatusCode::METHOD_NOT_ALLOWED)
    .with_header(header::ALLOW, allowed)
}
