//! Containers: buckets and prefixes of keys. Made, changed and listed.
//!
//! 1. A container below a bucket exists while a key begins with its name. Making one explicitly
//!    puts an empty object under the name itself, its marker, which S3 shows as `prefix/`.
//! 2. Children come in the byte order of keys, a page at a time; a page costs its own entries and
//!    those before it, however deep the tree below them is.

use super::ask::Work;
use super::body::Members;
use super::dialect::Media;
use super::failure::{Failure, Reply};
use super::metadata::{Given, SLOT, Slot};
use super::place::Place;
use super::query::Span;
use super::show::{self, CHILDREN_MAX, Children, Container};
use super::{PARTIAL, snapshots, transfer};
use access::Resource;
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use blockstore::Kind;
use blockstore::object::{Change, ListPage, ListQuery, ObjectMeta, Precondition};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Entries that are skipped at a time on the way to the first asked child.
const SKIP: usize = 1000;

/// What is known of a container. NotFound where nothing is there.
pub(super) fn known(work: &Work, bucket: &str, prefix: &str) -> Reply<Container> {
    let found = work.store().bucket(bucket)?;
    if prefix.is_empty() {
        let kept = work.store().bucket_document(bucket, SLOT)?;
        let slot = kept.and_then(|kept| serde_json::from_str(&kept).ok());
        return Ok(Container {
            bucket: found,
            slot: slot.unwrap_or_default(),
            marker: None,
        });
    }
    let marker = work.object(bucket, prefix)?;
    if marker.is_none() && !work.is_prefix(bucket, prefix)? {
        return Err(Failure::missing(
            "container",
            format!("no container {prefix:?} in {bucket:?}: look at the children of its parent"),
        ));
    }
    Ok(Container {
        bucket: found,
        slot: marker.as_ref().map(Slot::of).unwrap_or_default(),
        marker,
    })
}

/// GET of a container.
pub(super) fn read(work: &Work, bucket: &str, prefix: &str) -> Reply<Response> {
    work.may_list(bucket, prefix)?;
    let known = known(work, bucket, prefix)?;
    work.ask.dialect.wants(Media::Container)?;
    let shown = described(work, &known)?;
    finished(work, StatusCode::OK, shown, |query| {
        Ok(work.store().object_list(bucket, query)?)
    })
}

/// GET of the root container.
pub(super) fn read_root(work: &Work) -> Reply<Response> {
    work.may("s3:ListAllMyBuckets", &Resource::All, &[])?;
    work.ask.dialect.wants(Media::Container)?;
    let mut shown = show::common(work, Media::Container, &work.ask.place, None, false)?;
    if work.ask.selection.shows("metadata") {
        shown.insert(
            "metadata".to_owned(),
            Value::Object(work.door.node.provided()),
        );
    }
    let mut names: Vec<String> = work
        .store()
        .buckets()?
        .into_iter()
        .filter(|bucket| work.sees("s3:ListBucket", &Resource::Bucket(&bucket.name)))
        .map(|bucket| format!("{}/", bucket.name))
        .collect();
    names.push(Place::Volumes.name());
    let more = show::put_children(&mut shown, &work.ask.selection, &names)?;
    let mut response = show::json(StatusCode::OK, Media::Container, &shown);
    mark_partial(&mut response, more);
    Ok(response)
}

/// Puts the asked children of a listing into an answer.
pub(super) fn finished(
    work: &Work,
    status: StatusCode,
    mut shown: Map<String, Value>,
    list: impl FnMut(&ListQuery) -> Reply<ListPage>,
) -> Reply<Response> {
    let selection = &work.ask.selection;
    let mut more = false;
    if selection.shows("children") || selection.shows("childrenrange") {
        let children = children(&work.ask.place, selection.children(), list)?;
        more = children.more;
        show::insert_children(&mut shown, selection, &children);
    }
    let mut response = show::json(status, Media::Container, &shown);
    mark_partial(&mut response, more);
    Ok(response)
}

fn mark_partial(response: &mut Response, more: bool) {
    if more {
        response
            .headers_mut()
            .insert(PARTIAL, HeaderValue::from_static("true"));
    }
}

/// The asked children, by their places in the listing.
fn children(
    place: &Place,
    span: Option<Span>,
    mut list: impl FnMut(&ListQuery) -> Reply<ListPage>,
) -> Reply<Children> {
    let prefix = match place {
        Place::Container { prefix, .. } => prefix.clone(),
        Place::FrozenContainer { prefix, below, .. } => format!("{prefix}{below}"),
        _ => String::new(),
    };
    let span = span.unwrap_or(Span {
        first: 0,
        last: CHILDREN_MAX - 1,
    });
    let wanted = usize::try_from(span.count().min(CHILDREN_MAX)).unwrap_or(SKIP);
    let mut query = ListQuery {
        prefix: prefix.clone(),
        delimiter: Some("/".to_owned()),
        // The container's own marker comes first and is no child.
        start_after: Some(prefix.clone()).filter(|prefix| !prefix.is_empty()),
        max: SKIP,
    };
    let mut skipped = 0;
    while skipped < span.first {
        let left = span.first - skipped;
        query.max = SKIP.min(usize::try_from(left).unwrap_or(SKIP));
        let page = list(&query)?;
        skipped += (page.objects.len() + page.prefixes.len()) as u64;
        match page.next {
            Some(next) => query.start_after = Some(next),
            None => {
                return Ok(Children {
                    first: span.first,
                    ..Children::default()
                });
            }
        }
    }
    query.max = wanted;
    let page = list(&query)?;
    let mut names: BTreeMap<String, String> = BTreeMap::new();
    for object in &page.objects {
        let name = object.key.strip_prefix(&prefix).unwrap_or(&object.key);
        let mark = if Slot::of(object).reference.is_some() {
            "?"
        } else {
            ""
        };
        names.insert(name.to_owned(), format!("{name}{mark}"));
    }
    for below in &page.prefixes {
        let name = below.strip_prefix(&prefix).unwrap_or(below);
        names.insert(name.to_owned(), name.to_owned());
    }
    Ok(Children {
        names: names.into_values().collect(),
        first: span.first,
        more: page.next.is_some(),
    })
}

/// PUT of a container: makes it, or changes it. With `patch` it must be there, and only what is
/// named changes.
pub(super) fn put(work: &Work, body: &Members, patch: bool) -> Reply<Response> {
    let Place::Container { bucket, prefix } = &work.ask.place else {
        return Err(Failure::invalid("uri", "this is no container"));
    };
    let (bucket, prefix) = (bucket.as_str(), prefix.as_str());
    body.only(
        &["metadata", "copy", "move", "snapshot", "exports"],
        "a container",
    )?;
    body.one_of(&["copy", "move", "snapshot"])?;
    if body.get("exports").is_some() {
        return Err(Failure::forbidden(
            "exports",
            "exports follow from what is served and are not set: a bucket is in S3 by itself",
        ));
    }
    let there = match known(work, bucket, prefix) {
        Ok(known) => Some(known),
        Err(missing) if missing.kind() == Kind::NotFound => None,
        Err(refused) => return Err(refused),
    };
    for name in ["copy", "move"] {
        if let Some(source) = body.text(name)? {
            return transfer::container(work, name == "move", source, body, there.is_some());
        }
    }
    match there {
        Some(_) => {
            // Conditions of RFC 9110 that say "only if there is none".
            if work
                .precondition()?
                .if_none_match
                .iter()
                .any(|tag| tag == "*")
            {
                return Err(Failure::new(
                    Kind::Precondition,
                    "container",
                    "the container exists, and If-None-Match: * wants none",
                ));
            }
            change(work, body, patch)?;
            Ok(show::empty(StatusCode::NO_CONTENT))
        }
        None if patch => Err(Failure::missing(
            "container",
            format!("no container {:?}: PUT makes one", work.ask.place.name()),
        )),
        None => {
            create(work, bucket, prefix, body)?;
            created(work)
        }
    }
}

/// The answer to what made the container that was asked for.
pub(super) fn created(work: &Work) -> Reply<Response> {
    let Place::Container { bucket, prefix } = &work.ask.place else {
        return Ok(show::empty(StatusCode::CREATED));
    };
    let known = known(work, bucket, prefix)?;
    let shown = described(work, &known)?;
    let mut response = finished(work, StatusCode::CREATED, shown, |query| {
        Ok(work.store().object_list(bucket, query)?)
    })?;
    if let Ok(location) = HeaderValue::from_str(&work.ask.place.uri(work.root())) {
        response
            .headers_mut()
            .insert(axum::http::header::LOCATION, location);
    }
    Ok(response)
}

fn described(work: &Work, known: &Container) -> Reply<Map<String, Value>> {
    let mut shown = show::container(work, &work.ask.place, known)?;
    let selection = &work.ask.selection;
    if let Place::Container { bucket, prefix } = &work.ask.place {
        if prefix.is_empty() && selection.shows("exports") {
            shown.insert("exports".to_owned(), show::bucket_exports(work, bucket));
        }
        if selection.shows("snapshots") {
            let names = snapshots::uris(work, bucket, prefix)?;
            shown.insert("snapshots".to_owned(), names.into());
        }
    }
    Ok(shown)
}

fn create(work: &Work, bucket: &str, prefix: &str, body: &Members) -> Reply<()> {
    work.ask.place.expect_free_name()?;
    if body.get("snapshot").is_some() {
        return Err(Failure::missing(
            "container",
            "a snapshot is taken of a container that is there",
        ));
    }
    let given = match body.get("metadata") {
        Some(metadata) => Given::read(metadata, &work.door.node)?,
        None => Given::default(),
    };
    if prefix.is_empty() {
        work.may_bucket("s3:CreateBucket", bucket)?;
        work.store().bucket_create(&work.who(), bucket)?;
        return keep_of_bucket(work, bucket, given, Slot::default());
    }
    work.may_object("s3:PutObject", bucket, prefix)?;
    expect_parent(work)?;
    mark(work, bucket, prefix, given)
}

/// 404 where the container that this is to be made in is not there (CDMI 1.1.1, 9.2.1).
pub(super) fn expect_parent(work: &Work) -> Reply<()> {
    match work.ask.place.parent() {
        Some(Place::Container { bucket, prefix }) => known(work, &bucket, &prefix).map(|_| ()),
        _ => Ok(()),
    }
}

/// Puts the marker of a container below a bucket.
pub(super) fn mark(work: &Work, bucket: &str, prefix: &str, given: Given) -> Reply<()> {
    let (user, own) = given.split();
    let slot = Slot {
        metadata: own,
        ..Slot::default()
    };
    let sums = super::stream::Digests::new().finish();
    let meta = ObjectMeta {
        etag: sums.etag,
        checksums: sums.checksums,
        user,
        headers: BTreeMap::from([(
            "content-type".to_owned(),
            "application/x-directory".to_owned(),
        )]),
        properties: BTreeMap::from([(SLOT.to_owned(), slot.kept()?)]),
        ..ObjectMeta::default()
    };
    let none = Precondition {
        if_none_match: vec!["*".to_owned()],
        ..Precondition::default()
    };
    let writer = work.store().object_writer(bucket)?;
    writer
        .commit(&work.who(), prefix, meta, &none)
        .map_err(|error| Work::raced(&Precondition::default(), error))?;
    Ok(())
}

/// Applies a body's changes to a container that is there.
pub(super) fn change(work: &Work, body: &Members, patch: bool) -> Reply<()> {
    let Place::Container { bucket, prefix } = &work.ask.place else {
        return Ok(());
    };
    if let Some(name) = body.text("snapshot")? {
        snapshots::take(work, bucket, prefix, name)?;
    }
    let Some(metadata) = body.get("metadata") else {
        return Ok(());
    };
    if prefix.is_empty() {
        work.may_bucket("s3:PutBucketTagging", bucket)?;
    } else {
        work.may_object("s3:PutObject", bucket, prefix)?;
    }
    let given = Given::read(metadata, &work.door.node)?;
    let _alone = work.door.turns.take(bucket, prefix);
    let known = known(work, bucket, prefix)?;
    let user = known.marker.as_ref().map(|marker| marker.meta.user.clone());
    let user = user.unwrap_or_default();
    let given = changed(work, Given::of(&user, &known.slot), given, patch)?;
    if prefix.is_empty() {
        return keep_of_bucket(work, bucket, given, known.slot.clone());
    }
    let Some(marker) = &known.marker else {
        return mark(work, bucket, prefix, given);
    };
    let (user, own) = given.split();
    let slot = Slot {
        metadata: own,
        ..known.slot.clone()
    };
    let change = Change {
        user: Some(user),
        properties: BTreeMap::from([(SLOT.to_owned(), Some(slot.kept()?))]),
        ..Change::default()
    };
    let same = Precondition {
        if_match: vec![marker.meta.etag.clone()],
        ..Precondition::default()
    };
    work.store()
        .object_change(&work.who(), bucket, prefix, None, &change, &same)
        .map_err(|error| Work::raced(&Precondition::default(), error))?;
    Ok(())
}

/// Metadata after a change: items by name, merged, or all anew.
pub(super) fn changed(work: &Work, mut now: Given, given: Given, patch: bool) -> Reply<Given> {
    let names = work.ask.selection.metadata();
    if !names.is_empty() {
        now.replace(&names, &given)?;
        return Ok(now);
    }
    if patch {
        now.merge(&given)?;
        return Ok(now);
    }
    Ok(given)
}

fn keep_of_bucket(work: &Work, bucket: &str, given: Given, slot: Slot) -> Reply<()> {
    let slot = Slot {
        metadata: given
            .into_items()
            .into_iter()
            .filter(|(_, value)| !value.is_null())
            .collect(),
        ..slot
    };
    if slot.metadata.is_empty() && work.store().bucket_document(bucket, SLOT)?.is_none() {
        return Ok(());
    }
    let text = slot.kept()?.to_string();
    work.store()
        .bucket_document_put(&work.who(), bucket, SLOT, &text)?;
    Ok(())
}
