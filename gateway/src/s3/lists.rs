//! The operations on access control lists, of buckets and of objects, and which lists are taken.

use super::access::{OBJECT_LIST, bucket_list, object_list};
use super::acl::Acl;
use super::settings::{self, enforces_owner};
use super::versions::{self, Found};
use super::{Door, who};
use blockstore::object::{Change, Precondition};
use blockstore::{Error, Kind, Store, Subject};
use s3s::dto::{
    self, GetBucketAclInput, GetBucketAclOutput, GetObjectAclInput, GetObjectAclOutput,
    PutBucketAclInput, PutBucketAclOutput, PutObjectAclInput, PutObjectAclOutput,
};
use s3s::{S3Error, S3Request, S3Result, s3_error};
use std::collections::BTreeMap;

pub(super) async fn of_object(
    door: &Door,
    request: S3Request<GetObjectAclInput>,
) -> S3Result<GetObjectAclOutput> {
    let input = request.input;
    let list = door
        .ask(move |store| {
            let bucket = store.bucket(&input.bucket)?;
            let found = versions::look(
                store,
                &input.bucket,
                &input.key,
                input.version_id.as_deref(),
            )?;
            Ok(found.map(|Found { object, .. }| {
                if enforces_owner(&bucket) {
                    Acl::private(&bucket.project)
                } else {
                    object_list(&object, &bucket.project)
                }
            }))
        })
        .await??;
    let (owner, grants) = list.shown();
    Ok(GetObjectAclOutput {
        grants: Some(grants),
        owner: Some(owner),
        ..GetObjectAclOutput::default()
    })
}

pub(super) async fn put_object(
    door: &Door,
    request: S3Request<PutObjectAclInput>,
) -> S3Result<PutObjectAclOutput> {
    let who = who(&request.extensions);
    let headers = request.headers;
    let input = request.input;
    let policy = input.access_control_policy;
    let changed = door
        .ask(move |store| {
            let (bucket, key) = (&input.bucket, &input.key);
            let version = input
                .version_id
                .as_deref()
                .filter(|version| !version.is_empty());
            let found = store.bucket(bucket)?;
            let object = match versions::look(store, bucket, key, version)? {
                Ok(Found { object, .. }) => object,
                Err(marker) => return Ok(Err(marker)),
            };
            if enforces_owner(&found) {
                return Ok(Err(no_lists()));
            }
            let owner = object_list(&object, &found.project).owner;
            let block = settings::public_access_block(store, bucket)?;
            let asked = asked_list(store, &headers, policy, &owner, &found.project)
                .and_then(|list| admit_list(list, block));
            let list = match asked {
                Ok(list) => list,
                Err(refused) => return Ok(Err(refused)),
            };
            let kept = serde_json::to_value(&list).map_err(|bad| {
                Error::new(Kind::Internal, Subject::Object, "a list cannot be written").because(bad)
            })?;
            let change = Change {
                properties: BTreeMap::from([(OBJECT_LIST.to_owned(), Some(kept))]),
                ..Change::default()
            };
            // Of this version and no other, whatever is put meanwhile.
            let same = Precondition {
                if_match: vec![object.meta.etag],
                ..Precondition::default()
            };
            store
                .object_change(&who, bucket, key, version, &change, &same)
                .map(|_| Ok(()))
        })
        .await?;
    changed?;
    Ok(PutObjectAclOutput::default())
}

pub(super) async fn of_bucket(
    door: &Door,
    request: S3Request<GetBucketAclInput>,
) -> S3Result<GetBucketAclOutput> {
    let bucket = request.input.bucket;
    let list = door
        .ask(move |store| {
            let bucket = store.bucket(&bucket)?;
            if enforces_owner(&bucket) {
                return Ok(Acl::private(&bucket.project));
            }
            bucket_list(store, &bucket)
        })
        .await?;
    let (owner, grants) = list.shown();
    Ok(GetBucketAclOutput {
        grants: Some(grants),
        owner: Some(owner),
    })
}

pub(super) async fn put_bucket(
    door: &Door,
    request: S3Request<PutBucketAclInput>,
) -> S3Result<PutBucketAclOutput> {
    let who = who(&request.extensions);
    let headers = request.headers;
    let input = request.input;
    let policy = input.access_control_policy;
    let asked = door
        .ask(move |store| {
            let bucket = store.bucket(&input.bucket)?;
            let block = settings::public_access_block(store, &input.bucket)?;
            if enforces_owner(&bucket) {
                return Ok(Err(no_lists()));
            }
            let owner = bucket.project.clone();
            let list = asked_list(store, &headers, policy, &owner, &owner)
                .and_then(|list| admit_list(list, block));
            if let Ok(list) = &list {
                settings::write_list(store, &who, &input.bucket, list)?;
            }
            Ok(list)
        })
        .await?;
    asked.map(|_| PutBucketAclOutput {})
}

/// The list that a request to set one asks for.
fn asked_list(
    store: &Store,
    headers: &http::HeaderMap,
    policy: Option<dto::AccessControlPolicy>,
    owner: &str,
    bucket_owner: &str,
) -> S3Result<Acl> {
    let is_project = |name: &str| is_project(store, name);
    let by_headers = Acl::of_headers(headers, owner, bucket_owner, &is_project)?;
    match (by_headers, policy) {
        (Some(list), None) => Ok(list),
        (None, Some(policy)) => Acl::of_policy(policy, owner, &is_project),
        (Some(_), Some(_)) => Err(s3_error!(
            UnexpectedContent,
            "This request does not support content: the list is in its headers already"
        )),
        (None, None) => Err(s3_error!(
            MissingSecurityHeader,
            "Your request was missing a required header: x-amz-acl, x-amz-grant-* or a body"
        )),
    }
}

/// What a bucket says that has no lists.
pub(super) fn no_lists() -> S3Error {
    s3_error!(
        AccessControlListNotSupported,
        "The bucket does not allow ACLs: everything in it belongs to its owner"
    )
}

/// Whether a bucket takes this list for itself or an object of it.
pub(super) fn admit_list(list: Acl, block: settings::PublicAccessBlock) -> S3Result<Acl> {
    if block.block_public_acls && list.is_public() {
        return Err(s3_error!(
            AccessDenied,
            "Access Denied: the list is public, and the bucket's public access block has \
             BlockPublicAcls"
        ));
    }
    Ok(list)
}

pub(super) fn is_project(store: &Store, name: &str) -> bool {
    name == "root" || matches!(store.record_get("project", name), Ok(Some(_)))
}
