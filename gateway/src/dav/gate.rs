//! What a request may do: its headers, its place, its target, the caller's rights.
//!
//! The rights are asked by what is at the place, before anything is answered that tells what is there.
//!
//! | method | what is asked |
//! |---|---|
//! | GET, HEAD, PROPFIND of an object, or of nothing | `s3:GetObject` |
//! | HEAD, PROPFIND of a collection; of the root | `s3:ListBucket`; `s3:ListAllMyBuckets` |
//! | PUT, LOCK, UNLOCK, PROPPATCH, MKCOL below a bucket | `s3:PutObject` |
//! | MKCOL, DELETE, PROPPATCH of a bucket | `s3:CreateBucket`, `s3:DeleteBucket`, `s3:PutBucketTagging` |
//! | DELETE below a bucket | `s3:DeleteObject` of it and of each member |
//! | COPY | `s3:GetObject` there, `s3:PutObject` here, of each member |
//! | MOVE | as COPY, and `s3:DeleteObject` there |

use super::locks::Locks;
use super::place::Place;
use super::refusal::Refusal;
use super::session::Session;
use super::shelf::{self, Found};
use access::Resource;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use blockstore::Store;
use blockstore::object::{Object, ReadAt};
use std::sync::Arc;

/// Where `Destination` leads.
#[derive(Debug)]
pub(super) enum Destination {
    /// To a place of ours.
    Here(Place),
    /// To another server.
    Elsewhere(String),
}

/// Reads `Destination` (RFC 4918, 10.3): a URL of this server, or a path.
pub(super) fn destination(headers: &HeaderMap) -> Result<Option<Destination>, Refusal> {
    let Some(value) = headers.get("destination") else {
        return Ok(None);
    };
    let refused = || {
        let words = "the Destination is neither a URL nor a path";
        Refusal::new(StatusCode::BAD_REQUEST, words)
    };
    let text = value.to_str().map_err(|_| refused())?;
    let uri: Uri = text.parse().map_err(|_| refused())?;
    if uri.query().is_some() || text.contains('#') {
        return Err(refused());
    }
    let Some(authority) = uri.authority() else {
        return match text.starts_with('/') {
            true => Place::of_path(uri.path()).map(|place| Some(Destination::Here(place))),
            false => Err(refused()),
        };
    };
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok());
    if host.is_some_and(|host| host.eq_ignore_ascii_case(authority.as_str())) {
        return Place::of_path(uri.path()).map(|place| Some(Destination::Here(place)));
    }
    Ok(Some(Destination::Elsewhere(text.to_owned())))
}

/// Refuses headers that the protocol layer would read its own way.
pub(super) fn check_headers(session: &Session) -> Result<(), Refusal> {
    let headers = &session.headers;
    let refused = |words: &str| Err(Refusal::new(StatusCode::BAD_REQUEST, words));
    if let Some(overwrite) = headers.get("overwrite")
        && !matches!(overwrite.as_bytes(), b"T" | b"F")
    {
        return refused("Overwrite is T or F");
    }
    if session.method == "PUT" && headers.contains_key(header::CONTENT_RANGE) {
        return refused("an object is replaced whole: PUT takes no Content-Range");
    }
    if let Some(depth) = headers.get("depth") {
        let depth = depth.to_str().unwrap_or_default();
        if !matches!(depth, "0" | "1") && !depth.eq_ignore_ascii_case("infinity") {
            return refused("Depth is 0, 1 or infinity");
        }
    }
    Ok(())
}

/// Authorises a request, then refuses what makes no sense at its place. Blocks. Sets what the session
/// knows of the place.
pub(super) fn admit(
    store: &Store,
    locks: &Locks,
    session: &mut Session,
) -> Result<Option<Found>, Refusal> {
    let found = shelf::look(store, &session.place)?;
    authorise(session, found.as_ref())?;
    if copies_members(session, found.as_ref())
        && let Some(target) = &session.target
    {
        shelf::may_copy_all(store, session, target)?;
    }
    check_place(session, found.as_ref())?;
    let target = match &session.target {
        Some(target) => shelf::look(store, target)?,
        None => None,
    };
    session.changes_members = match session.method.as_str() {
        "DELETE" | "MOVE" | "MKCOL" => true,
        "PUT" => found.is_none(),
        "COPY" => target.is_none(),
        _ => false,
    };
    if session.method == "UNLOCK" {
        check_holder(locks, session)?;
    }
    if let Some(Found::Object(object)) = &found {
        session.object = Some(object.clone());
    }
    Ok(found)
}

/// Whether it is a COPY of a collection with all it holds (RFC 4918, 9.8.3).
fn copies_members(session: &Session, found: Option<&Found>) -> bool {
    let depth = session.headers.get("depth");
    session.method == "COPY"
        && found.is_some_and(Found::is_collection)
        && depth.is_none_or(|depth| depth != "0")
}

fn authorise(session: &Session, found: Option<&Found>) -> blockstore::Result<()> {
    let Place { bucket, key, .. } = &session.place;
    let marker = session.place.prefix();
    let collection = found.is_some_and(Found::is_collection);
    // A collection is its marker, whether it has one or not.
    let own = if collection { marker.as_str() } else { key };
    match session.method.as_str() {
        "GET" | "HEAD" | "PROPFIND" => match found {
            Some(Found::Root) => session.may("s3:ListAllMyBuckets", &Resource::All),
            Some(Found::Bucket(_) | Found::Collection(_)) => {
                session.may("s3:ListBucket", &Resource::Bucket(bucket))
            }
            Some(Found::Object(_)) | None => session.may_object("s3:GetObject", bucket, key),
        },
        "MKCOL" if session.place.is_bucket() => {
            session.may("s3:CreateBucket", &Resource::Bucket(bucket))
        }
        "MKCOL" => session.may_object("s3:PutObject", bucket, &marker),
        "PROPPATCH" if session.place.is_bucket() => {
            session.may("s3:PutBucketTagging", &Resource::Bucket(bucket))
        }
        "PUT" | "LOCK" | "UNLOCK" | "PROPPATCH" => session.may_object("s3:PutObject", bucket, own),
        "DELETE" if session.place.is_bucket() => {
            session.may("s3:DeleteBucket", &Resource::Bucket(bucket))
        }
        "DELETE" => session.may_object("s3:DeleteObject", bucket, own),
        "COPY" | "MOVE" => {
            if session.place.is_bucket() {
                session.may("s3:ListBucket", &Resource::Bucket(bucket))?;
            } else {
                session.may_object("s3:GetObject", bucket, own)?;
            }
            if session.method == "MOVE" {
                session.may_object("s3:DeleteObject", bucket, own)?;
            }
            match &session.target {
                Some(target) => {
                    let key = if collection {
                        target.prefix()
                    } else {
                        target.key.clone()
                    };
                    session.may_object("s3:PutObject", &target.bucket, &key)
                }
                None => Ok(()),
            }
        }
        _ => Ok(()),
    }
}

fn check_place(session: &Session, found: Option<&Found>) -> Result<(), Refusal> {
    let method = session.method.as_str();
    let place = &session.place;
    let refused = |status, words: String| Err(Refusal::new(status, words));
    let reads = matches!(method, "GET" | "HEAD" | "PROPFIND" | "OPTIONS");
    if place.is_root() && !reads {
        return refused(
            StatusCode::FORBIDDEN,
            format!("{} is the collection of buckets and stays", place.href()),
        );
    }
    if method == "PUT" {
        if place.is_bucket() {
            return refused(
                StatusCode::METHOD_NOT_ALLOWED,
                "the first level holds buckets: make one with MKCOL, and PUT below it".into(),
            );
        }
        if place.collection || found.is_some_and(Found::is_collection) {
            return refused(
                StatusCode::METHOD_NOT_ALLOWED,
                format!("{} is a collection, which has no body", place.href()),
            );
        }
    }
    if method == "LOCK" && found.is_none() && (place.collection || place.is_bucket()) {
        return refused(
            StatusCode::CONFLICT,
            format!("{} does not exist: make it with MKCOL first", place.href()),
        );
    }
    let Some(target) = &session.target else {
        return match method {
            "COPY" | "MOVE" => refused(
                StatusCode::BAD_REQUEST,
                format!("{method} needs a Destination"),
            ),
            _ => Ok(()),
        };
    };
    if target.is_root() || target.is_bucket() {
        return refused(
            StatusCode::FORBIDDEN,
            format!(
                "{} is a bucket's place: make the bucket with MKCOL, and {method} below it",
                target.href()
            ),
        );
    }
    if method == "MOVE" && place.is_bucket() {
        return refused(
            StatusCode::FORBIDDEN,
            format!("bucket {:?} keeps its name: move its members", place.bucket),
        );
    }
    let nested = place.is_within(target) || target.is_within(place);
    if nested && place.name() != target.name() {
        return refused(
            StatusCode::FORBIDDEN,
            format!(
                "{} and {} lie in one another: neither can become the other",
                place.href(),
                target.href()
            ),
        );
    }
    Ok(())
}

/// RFC 4918, 9.11: a lock is its holder's, or the operator's, to end.
fn check_holder(locks: &Locks, session: &Session) -> Result<(), Refusal> {
    let token = session
        .headers
        .get("lock-token")
        .and_then(|token| token.to_str().ok())
        .map(|token| token.trim().trim_matches(['<', '>']));
    let principal = session.principal();
    let foreign = locks
        .covering(&session.place.name())
        .into_iter()
        .any(|lock| Some(lock.token.as_str()) == token && lock.principal != principal);
    if foreign && !session.is_root() {
        return Err(Refusal::new(
            StatusCode::FORBIDDEN,
            "the lock is somebody else's: it is theirs to end, or its time's",
        ));
    }
    Ok(())
}

/// Whether what another server has may land at the place. Blocks.
pub(super) fn admit_pull(store: &Store, locks: &Locks, session: &Session) -> Result<(), Refusal> {
    let overwrite = session
        .headers
        .get("overwrite")
        .is_none_or(|value| value == "T");
    let place = &session.place;
    session.may_object("s3:PutObject", &place.bucket, &place.key)?;
    if place.is_root() || place.is_bucket() || place.collection {
        let words = format!("{} is no object's place", place.href());
        return Err(Refusal::new(StatusCode::FORBIDDEN, words));
    }
    let refused = |status, words: String| Err(Refusal::new(status, words));
    match shelf::look(store, place)? {
        Some(found) if found.is_collection() => {
            let words = format!("{} is a collection", place.href());
            return refused(StatusCode::METHOD_NOT_ALLOWED, words);
        }
        Some(_) if !overwrite => {
            let words = format!("{} exists already and Overwrite is F", place.href());
            return refused(StatusCode::PRECONDITION_FAILED, words);
        }
        Some(_) | None => {}
    }
    if shelf::expect_parent(store, place).is_err() {
        let words = format!(
            "the collection that {} would lie in does not exist: make it with MKCOL first",
            place.href()
        );
        return refused(StatusCode::CONFLICT, words);
    }
    let shown = session
        .headers
        .get("if")
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let principal = session.principal();
    let held = locks.covering(&place.name()).into_iter().any(|lock| {
        let ours = lock.principal == principal && shown.contains(&format!("<{}>", lock.token));
        !ours && !lock.shared
    });
    if held {
        return Err(super::refusal::explained(
            &session.method,
            StatusCode::LOCKED,
            &place.href(),
        ));
    }
    Ok(())
}

/// The object that another server shall have. Blocks.
pub(super) fn admit_push(
    store: &Store,
    session: &Session,
) -> Result<(Object, Arc<dyn ReadAt>), Refusal> {
    let place = &session.place;
    session.may_object("s3:GetObject", &place.bucket, &place.key)?;
    match shelf::find(store, place)? {
        Found::Object(_) => Ok(store.object_open(&place.bucket, &place.key)?),
        Found::Root | Found::Bucket(_) | Found::Collection(_) => Err(Refusal::new(
            StatusCode::FORBIDDEN,
            format!(
                "{} is a collection: only objects are sent to other servers, one by one",
                place.href()
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(destination: &str) -> HeaderMap {
        [("host", "door.example:9000"), ("destination", destination)]
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect()
    }

    #[test]
    fn a_destination_is_here_or_elsewhere_or_refused() {
        for here in [
            "http://door.example:9000/dav/b/k",
            "https://DOOR.example:9000/dav/b/k",
            "/dav/b/k",
        ] {
            match destination(&headers(here)).unwrap() {
                Some(Destination::Here(place)) => assert_eq!(place.name(), "b/k", "{here}"),
                other => panic!("{here}: {other:?}"),
            }
        }
        for elsewhere in [
            "http://door.example/dav/b/k",
            "http://other.example:9000/dav/b/k",
            "https://door.example:9001/dav/b/k",
        ] {
            let found = destination(&headers(elsewhere)).unwrap();
            assert!(
                matches!(found, Some(Destination::Elsewhere(_))),
                "{elsewhere}: {found:?}"
            );
        }
        for bad in [
            "b/k",
            "",
            "/dav/b/../k",
            "/dav/b/a%2Fb",
            "/dav/b/k?x",
            "/other/b",
            "http://door.example:9000/dav/b/%00",
        ] {
            assert!(destination(&headers(bad)).is_err(), "{bad}");
        }
    }
}
