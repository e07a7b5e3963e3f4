//! DELETE: data objects, references, snapshots, and containers with all they hold.
//!
//! 1. Each key of a container is authorized on its own, and all of them before the first goes.
//! 2. A container goes with its snapshots (CDMI 1.1.1, 9.7).

use super::ask::Work;
use super::containers;
use super::failure::{Failure, Reply};
use super::place::Place;
use super::show;
use axum::http::StatusCode;
use axum::response::Response;
use blockstore::object::{Delete, ListQuery};

/// Keys of one transaction.
const PAGE: usize = 1000;

/// DELETE of anything.
pub(super) fn remove(work: &Work) -> Reply<Response> {
    match &work.ask.place {
        Place::Object { bucket, key } if !key.is_empty() => object(work, bucket, key)?,
        Place::Container { bucket, prefix } => container(work, bucket, prefix)?,
        Place::FrozenContainer {
            bucket,
            prefix,
            snapshot,
            below,
        } if below.is_empty() => {
            work.may_bucket("snapshot:Delete", bucket)?;
            super::snapshots::expect(work, bucket, prefix, snapshot)?;
            work.store()
                .bucket_snapshot_remove(&work.who(), bucket, snapshot)?;
        }
        Place::Object { .. } => {
            return Err(Failure::invalid(
                "uri",
                "a container's URI ends with a slash",
            ));
        }
        place => return Err(super::no_write(place)),
    }
    Ok(show::empty(StatusCode::NO_CONTENT))
}

fn object(work: &Work, bucket: &str, key: &str) -> Reply<()> {
    work.may_object("s3:DeleteObject", bucket, key)?;
    let condition = work.precondition()?;
    let removed = work
        .store()
        .object_remove(&work.who(), bucket, key, &condition)?;
    match removed {
        Some(_) => Ok(()),
        None => Err(Failure::missing(
            "object",
            format!("no data object {key:?} in {bucket:?}"),
        )),
    }
}

fn container(work: &Work, bucket: &str, prefix: &str) -> Reply<()> {
    if prefix.is_empty() {
        work.may_bucket("s3:DeleteBucket", bucket)?;
    } else {
        work.may_list(bucket, prefix)?;
    }
    containers::known(work, bucket, prefix)?;
    let snapshots: Vec<_> = work
        .store()
        .bucket_snapshots(bucket)?
        .into_iter()
        .filter(|snapshot| snapshot.prefix.starts_with(prefix))
        .collect();
    if !snapshots.is_empty() {
        work.may_bucket("snapshot:Delete", bucket)?;
    }
    each_page(work, bucket, prefix, |keys| {
        keys.iter()
            .try_for_each(|key| work.may_object("s3:DeleteObject", bucket, key))
    })?;
    let mut gone = 0_u64;
    each_page(work, bucket, prefix, |keys| {
        let deletes: Vec<Delete> = keys
            .iter()
            .map(|key| Delete {
                key: key.clone(),
                ..Delete::default()
            })
            .collect();
        for removed in work.store().objects_delete(&work.who(), bucket, &deletes)? {
            if let Err(error) = removed {
                tracing::info!(bucket, prefix, gone, "a container was removed in part");
                return Err(error.into());
            }
            gone += 1;
        }
        Ok(())
    })?;
    for snapshot in snapshots {
        work.store()
            .bucket_snapshot_remove(&work.who(), bucket, &snapshot.name)?;
    }
    if prefix.is_empty() {
        work.store().bucket_remove(&work.who(), bucket)?;
    }
    Ok(())
}

/// The keys under a prefix, a page at a time.
fn each_page(
    work: &Work,
    bucket: &str,
    prefix: &str,
    mut take: impl FnMut(&[String]) -> Reply<()>,
) -> Reply<()> {
    let mut query = ListQuery {
        prefix: prefix.to_owned(),
        max: PAGE,
        ..ListQuery::default()
    };
    loop {
        let page = work.store().object_list(bucket, &query)?;
        let keys: Vec<String> = page.objects.into_iter().map(|object| object.key).collect();
        take(&keys)?;
        match page.next {
            Some(next) => query.start_after = Some(next),
            None => return Ok(()),
        }
    }
}
