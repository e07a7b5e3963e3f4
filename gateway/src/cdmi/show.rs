//! Objects as CDMI shows them: the fields of CDMI 1.1.1, Tables 19 and 33.

use super::ask::Work;
use super::dialect::{Media, Version};
use super::failure::{Failure, Reply};
use super::metadata::{Given, Slot, select, time};
use super::place::Place;
use super::query::Selection;
use super::{capabilities, identity};
use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use blockstore::object::{Bucket, Object};
use serde_json::{Map, Value};

/// What S3 and CDMI say of a value whose type nobody told.
pub(super) const DEFAULT_TYPE: &str = "application/octet-stream";
/// Children of one answer at most; `?children:<first>-<last>` asks for the next.
pub(super) const CHILDREN_MAX: u64 = 1000;

/// What is known of a container.
pub(super) struct Container {
    pub(super) bucket: Bucket,
    /// What CDMI keeps of it.
    pub(super) slot: Slot,
    /// The object that marks it, where it is deeper than a bucket and was made explicitly.
    pub(super) marker: Option<Object>,
}

/// A page of children.
#[derive(Default)]
pub(super) struct Children {
    pub(super) names: Vec<String>,
    /// The place of the first in the listing.
    pub(super) first: u64,
    /// Whether more follow.
    pub(super) more: bool,
}

/// The media type of a data object.
pub(super) fn mimetype(object: &Object) -> &str {
    object
        .meta
        .headers
        .get("content-type")
        .map_or(DEFAULT_TYPE, String::as_str)
}

/// The fields that every object has; `known` is the object at the place, where it was read already.
pub(super) fn common(
    work: &Work,
    media: Media,
    place: &Place,
    known: Option<&Object>,
    processing: bool,
) -> Reply<Map<String, Value>> {
    fields(work, &work.ask.selection, media, place, (known, processing))
}

fn fields(
    work: &Work,
    selection: &Selection,
    media: Media,
    place: &Place,
    (known, processing): (Option<&Object>, bool),
) -> Reply<Map<String, Value>> {
    let mut shown = Map::new();
    let mut put = |name: &str, value: String| {
        shown.insert(name.to_owned(), Value::String(value));
    };
    if selection.shows("objectType") {
        put("objectType", media.text().to_owned());
    }
    if selection.shows("objectID") {
        put("objectID", identity::id_of(&work.door, place, known)?);
    }
    if selection.shows("objectName") {
        put("objectName", place.name());
    }
    if let Some(parent) = place.parent() {
        if selection.shows("parentURI") {
            put("parentURI", parent.uri(work.root()));
        }
        if selection.shows("parentID") {
            put("parentID", identity::id_of(&work.door, &parent, None)?);
        }
    }
    if selection.shows("capabilitiesURI") {
        put("capabilitiesURI", capabilities::of(place).uri(work.root()));
    }
    if selection.shows("completionStatus") {
        let status = if processing { "Processing" } else { "Complete" };
        put("completionStatus", status.to_owned());
    }
    Ok(shown)
}

/// A data object without its value.
pub(super) fn data_object(
    work: &Work,
    selection: &Selection,
    place: &Place,
    object: &Object,
    slot: &Slot,
) -> Reply<Map<String, Value>> {
    let known = (Some(object), slot.processing);
    let mut shown = fields(work, selection, Media::Object, place, known)?;
    if selection.shows("mimetype") {
        shown.insert("mimetype".to_owned(), mimetype(object).into());
    }
    if selection.shows("metadata") {
        let mut items = Given::of(&object.meta.user, slot).into_items();
        items.extend(work.door.node.provided());
        for (name, value) in [
            ("cdmi_size", object.length_bytes.to_string()),
            ("cdmi_ctime", time(object.created_ms)),
            ("cdmi_mtime", time(object.modified_ms)),
            ("cdmi_owner", object.owner.clone()),
        ] {
            if !value.is_empty() {
                items.insert(name.to_owned(), value.into());
            }
        }
        if let Some(hash) = hash(object) {
            items.insert("cdmi_hash".to_owned(), hash.into());
            items.insert("cdmi_value_hash_provided".to_owned(), "SHA256".into());
        }
        let items = select(items, &selection.metadata());
        shown.insert("metadata".to_owned(), Value::Object(items));
    }
    if selection.shows("valuetransferencoding") {
        let encoding = slot.encoding_of(object);
        shown.insert("valuetransferencoding".to_owned(), encoding.text().into());
    }
    Ok(shown)
}

/// A container without its children.
pub(super) fn container(
    work: &Work,
    place: &Place,
    known: &Container,
) -> Reply<Map<String, Value>> {
    let selection = &work.ask.selection;
    let marker = known.marker.as_ref();
    let mut shown = common(work, Media::Container, place, marker, false)?;
    if selection.shows("metadata") {
        let user = marker.map(|marker| marker.meta.user.clone());
        let mut items = Given::of(&user.unwrap_or_default(), &known.slot).into_items();
        items.extend(work.door.node.provided());
        let (created, owner) = match (marker, place) {
            (Some(marker), _) => (Some(marker.created_ms), Some(marker.owner.clone())),
            (None, Place::Container { prefix, .. }) if prefix.is_empty() => (
                Some(known.bucket.created_ms),
                Some(known.bucket.project.clone()),
            ),
            (None, _) => (None, None),
        };
        if let Some(created) = created {
            items.insert("cdmi_ctime".to_owned(), time(created).into());
        }
        if let Some(owner) = owner.filter(|owner| !owner.is_empty()) {
            items.insert("cdmi_owner".to_owned(), owner.into());
        }
        let items = select(items, &selection.metadata());
        shown.insert("metadata".to_owned(), Value::Object(items));
    }
    Ok(shown)
}

/// The bucket as it is served by S3 (CDMI 1.1.1, 13: exported protocols).
pub(super) fn bucket_exports(work: &Work, bucket: &str) -> Value {
    let host = work.ask.headers.get(header::HOST);
    let domain = host.and_then(|host| host.to_str().ok()).unwrap_or_default();
    exported(work.ask.dialect.version, "Network/S3", "S3", |export| {
        export.insert("identifier".to_owned(), bucket.into());
        export.insert("domain".to_owned(), domain.into());
        export.insert(
            "permissions".to_owned(),
            Value::from(vec!["decided by policies"]),
        );
    })
}

/// One export: 1.1.1 names it by its protocol, 2.0.0 has the protocol as its `type`.
pub(super) fn exported(
    version: Version,
    first: &str,
    kind: &str,
    fill: impl FnOnce(&mut Map<String, Value>),
) -> Value {
    let mut export = Map::new();
    let name = match version {
        Version::V1 => first.to_owned(),
        Version::V2 => {
            export.insert("type".to_owned(), kind.into());
            kind.to_ascii_lowercase()
        }
    };
    fill(&mut export);
    Value::Object(Map::from_iter([(name, Value::Object(export))]))
}

/// Puts a list of children whole or in the asked range.
pub(super) fn put_children(
    shown: &mut Map<String, Value>,
    selection: &Selection,
    all: &[String],
) -> Reply<bool> {
    let count = all.len() as u64;
    let (first, last) = match selection.children() {
        Some(span) => (span.first, span.last.min(count.saturating_sub(1))),
        None => (0, count.saturating_sub(1)),
    };
    let last = last.min(first.saturating_add(CHILDREN_MAX - 1));
    let page = |position: u64| usize::try_from(position).unwrap_or(usize::MAX);
    let names: Vec<String> = all
        .iter()
        .skip(page(first))
        .take(page((last + 1).saturating_sub(first)))
        .cloned()
        .collect();
    let more = last + 1 < count;
    insert_children(shown, selection, &Children { names, first, more });
    Ok(more)
}

/// Puts a page of children with its range.
pub(super) fn insert_children(
    shown: &mut Map<String, Value>,
    selection: &Selection,
    children: &Children,
) {
    if selection.shows("childrenrange") || selection.children().is_some() {
        let range = match children.names.len() as u64 {
            0 => String::new(),
            count => format!("{}-{}", children.first, children.first + count - 1),
        };
        shown.insert("childrenrange".to_owned(), range.into());
    }
    if selection.shows("children") {
        let names = children.names.iter().cloned().map(Value::from);
        shown.insert("children".to_owned(), names.collect());
    }
}

/// SHA-256 of the whole value in hexadecimal, where a door has computed it.
fn hash(object: &Object) -> Option<String> {
    let checksums = &object.meta.checksums;
    let whole = checksums
        .get("type")
        .is_none_or(|kind| kind == "FULL_OBJECT");
    let sum = BASE64.decode(checksums.get("sha256")?).ok()?;
    (whole && sum.len() == 32).then(|| hex::encode(sum))
}

/// An answer in CDMI.
pub(super) fn json(status: StatusCode, media: Media, shown: &Map<String, Value>) -> Response {
    let text = Value::Object(shown.clone()).to_string();
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(media.text()));
    response
}

/// An answer without a body.
pub(super) fn empty(status: StatusCode) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

/// An answer that leads elsewhere.
pub(super) fn redirect(status: StatusCode, location: &str) -> Reply {
    let mut response = empty(status);
    let location = HeaderValue::from_str(location).map_err(|_| {
        Failure::invalid(
            "uri",
            format!("{location:?} is no URI that a header carries"),
        )
    })?;
    response.headers_mut().insert(header::LOCATION, location);
    Ok(response)
}
