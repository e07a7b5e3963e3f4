//! Snapshots of containers (CDMI 1.1.1, 14): taken by writing `{"snapshot": "<name>"}` to a
//! container, read below its `cdmi_snapshots/`.
//!
//! What lies in a snapshot is protected by the same actions on the same keys as when it was live.

use super::ask::Work;
use super::containers::finished;
use super::dialect::Media;
use super::failure::{Failure, Reply};
use super::metadata::{Given, Slot, select, time};
use super::place::Place;
use super::show;
use axum::http::StatusCode;
use axum::response::Response;
use blockstore::object::{BucketSnapshot, ListQuery, Object, ReadAt};
use serde_json::Value;
use std::sync::Arc;

/// Bucket, prefix of the container, snapshot, path inside.
pub(super) type Frozen<'a> = (&'a str, &'a str, &'a str, &'a str);

/// Takes a snapshot of a container.
pub(super) fn take(work: &Work, bucket: &str, prefix: &str, name: &str) -> Reply<()> {
    work.may_bucket("snapshot:Create", bucket)?;
    let fits = !name.is_empty()
        && !name.contains('/')
        && !name.starts_with("cdmi_")
        && !name.chars().any(char::is_control);
    if !fits {
        return Err(Failure::invalid(
            "snapshot",
            format!("{name:?} is no name for a snapshot: no slashes, no control characters"),
        ));
    }
    work.store()
        .bucket_snapshot_create(&work.who(), bucket, prefix, name)?;
    Ok(())
}

/// The URIs of a container's snapshots.
pub(super) fn uris(work: &Work, bucket: &str, prefix: &str) -> Reply<Vec<String>> {
    let names = names(work, bucket, prefix)?;
    let uris = names.into_iter().map(|snapshot| {
        Place::FrozenContainer {
            bucket: bucket.to_owned(),
            prefix: prefix.to_owned(),
            snapshot,
            below: String::new(),
        }
        .uri(work.root())
    });
    Ok(uris.collect())
}

fn names(work: &Work, bucket: &str, prefix: &str) -> Reply<Vec<String>> {
    let all = work.store().bucket_snapshots(bucket)?;
    Ok(all
        .into_iter()
        .filter(|snapshot| snapshot.prefix == prefix)
        .map(|snapshot| snapshot.name)
        .collect())
}

/// The snapshot, if it is one of this container.
pub(super) fn expect(work: &Work, bucket: &str, prefix: &str, name: &str) -> Reply<BucketSnapshot> {
    let snapshot = work.store().bucket_snapshot(bucket, name)?;
    if snapshot.prefix != prefix {
        return Err(Failure::missing(
            "snapshot",
            format!(
                "no snapshot {name:?} of this container: it is one of {:?}",
                snapshot.prefix
            ),
        ));
    }
    Ok(snapshot)
}

/// GET of the container of a container's snapshots.
pub(super) fn read_all(work: &Work, bucket: &str, prefix: &str) -> Reply<Response> {
    work.may_list(bucket, prefix)?;
    work.ask.dialect.wants(Media::Container)?;
    let mut shown = show::common(work, Media::Container, &work.ask.place, None, false)?;
    let children: Vec<String> = names(work, bucket, prefix)?
        .into_iter()
        .map(|name| format!("{name}/"))
        .collect();
    if work.ask.selection.shows("metadata") {
        shown.insert(
            "metadata".to_owned(),
            Value::Object(work.door.node.provided()),
        );
    }
    show::put_children(&mut shown, &work.ask.selection, &children)?;
    Ok(show::json(StatusCode::OK, Media::Container, &shown))
}

/// GET of a container in a snapshot.
pub(super) fn read(work: &Work, (bucket, prefix, name, below): Frozen<'_>) -> Reply<Response> {
    let whole = format!("{prefix}{below}");
    work.may_list(bucket, &whole)?;
    let snapshot = expect(work, bucket, prefix, name)?;
    work.ask.dialect.wants(Media::Container)?;
    let list = |query: &ListQuery| Ok(work.store().snapshot_object_list(bucket, name, query)?);
    if !below.is_empty() {
        let any = ListQuery {
            prefix: whole.clone(),
            max: 1,
            ..ListQuery::default()
        };
        let page: Reply<blockstore::object::ListPage> = list(&any);
        if page?.objects.is_empty() {
            return Err(Failure::missing(
                "container",
                format!("no container {below:?} in the snapshot {name:?}"),
            ));
        }
    }
    let mut shown = show::common(work, Media::Container, &work.ask.place, None, false)?;
    if work.ask.selection.shows("metadata") {
        let marker = work.store().snapshot_object_head(bucket, name, &whole).ok();
        let mut items = match &marker {
            Some(marker) if !whole.is_empty() => {
                Given::of(&marker.meta.user, &Slot::of(marker)).into_items()
            }
            _ => serde_json::Map::new(),
        };
        items.extend(work.door.node.provided());
        items.insert("cdmi_ctime".to_owned(), time(snapshot.created_ms).into());
        let items = select(items, &work.ask.selection.metadata());
        shown.insert("metadata".to_owned(), Value::Object(items));
    }
    finished(work, StatusCode::OK, shown, list)
}

/// A data object in a snapshot.
pub(super) fn open(
    work: &Work,
    (bucket, prefix, name, below): Frozen<'_>,
) -> Reply<(Object, Arc<dyn ReadAt>)> {
    let key = format!("{prefix}{below}");
    work.may_object("s3:GetObject", bucket, &key)?;
    expect(work, bucket, prefix, name)?;
    Ok(work.store().snapshot_object_open(bucket, name, &key)?)
}
