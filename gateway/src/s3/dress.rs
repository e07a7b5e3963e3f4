//! What a new object gets besides its bytes and headers: tags, a lock, a list.
//!
//! All writes come through here (PUT, form, copy, the beginning of a multipart upload), so that what
//! a bucket demands of its objects is demanded at each.

use super::access::OBJECT_LIST;
use super::acl::Acl;
use super::objects::missing_target;
use super::settings::{self, OBJECT_WRITER, OWNER_PREFERRED};
use super::{Door, error, lists, locks, tags, versions};
use ::access::{Caller, Principal};
use blockstore::object::{Bucket, Object, ObjectMeta, Precondition};
use blockstore::{Error, Kind, ObjectWriter, Store, Subject};
use http::HeaderMap;
use s3s::S3Result;

/// An object about to be made.
pub(super) struct Making {
    pub(super) caller: Caller,
    pub(super) bucket: String,
    pub(super) key: String,
    pub(super) headers: HeaderMap,
    pub(super) meta: ObjectMeta,
    pub(super) condition: Precondition,
}

/// Commits a received body. With the version id that the reply shows.
pub(super) async fn make(
    door: &Door,
    making: Making,
    writer: ObjectWriter,
) -> S3Result<(Object, Option<String>)> {
    let Making {
        caller,
        bucket,
        key,
        headers,
        mut meta,
        condition,
    } = making;
    door.ask(move |store| {
        let found = store.bucket(&bucket)?;
        if let Err(refused) = dress(store, &caller, &found, &headers, &mut meta) {
            return Ok(Err(refused));
        }
        let object = writer
            .commit(&caller.who(), &key, meta, &condition)
            .map_err(|refused| missing_target(store, (&bucket, &key), &condition, refused))?;
        let shown = versions::written_id(&found, &object);
        Ok(Ok((object, shown)))
    })
    .await?
}

/// Adds what the headers ask for and the bucket demands. Blocks.
pub(super) fn dress(
    store: &Store,
    caller: &Caller,
    bucket: &Bucket,
    headers: &HeaderMap,
    meta: &mut ObjectMeta,
) -> S3Result<()> {
    if let Some(value) = headers.get("x-amz-tagging") {
        let text = std::str::from_utf8(value.as_bytes()).unwrap_or_default();
        meta.tags = tags::of_header(text)?;
    }
    meta.lock = locks::of_headers(headers, bucket)?;
    let list = list_of(store, caller, bucket, headers)?;
    meta.properties.remove(OBJECT_LIST);
    // What says no more than the bucket does is not kept.
    if list != Acl::private(&bucket.project) {
        let kept = serde_json::to_value(&list).map_err(|bad| {
            let text = "a list cannot be written";
            error::failed(Error::new(Kind::Internal, Subject::Object, text).because(bad))
        })?;
        meta.properties.insert(OBJECT_LIST.to_owned(), kept);
    }
    Ok(())
}

/// The list of a new object, and in it who owns it ("Controlling ownership of objects", Amazon S3
/// user guide).
fn list_of(store: &Store, caller: &Caller, bucket: &Bucket, headers: &HeaderMap) -> S3Result<Acl> {
    let ownership = bucket.config.ownership.as_str();
    let writer_owns = matches!(ownership, "" | OBJECT_WRITER | OWNER_PREFERRED);
    let owner = match caller.principal {
        Principal::Root | Principal::Service { .. } | Principal::Anonymous => &bucket.project,
        _ if writer_owns => caller.principal.project(),
        _ => &bucket.project,
    };
    let enforced = settings::enforces_owner(bucket);
    if enforced && !says_nothing(headers) {
        return Err(lists::no_lists());
    }
    let is_project = |name: &str| lists::is_project(store, name);
    let asked = Acl::of_headers(headers, owner, &bucket.project, &is_project)?;
    let asked = asked.unwrap_or_else(|| Acl::private(owner));
    let block = settings::public_access_block(store, &bucket.name).map_err(error::failed)?;
    let mut list = lists::admit_list(asked, block)?;
    let given_away = ownership == OWNER_PREFERRED && list.gives_all_to(&bucket.project);
    if given_away || enforced {
        list = Acl::private(&bucket.project);
    }
    Ok(list)
}

/// Whether no list is asked for but the one that gives the bucket's owner everything, which is so
/// anyway where the owner is enforced.
fn says_nothing(headers: &HeaderMap) -> bool {
    let granted = headers
        .keys()
        .any(|name| name.as_str().starts_with("x-amz-grant-"));
    let canned = headers.get("x-amz-acl");
    !granted && canned.is_none_or(|name| name == "bucket-owner-full-control")
}
