//! Buckets: create, list, head, remove, and the little that S3 asks of them besides.

use super::access::bucket_list;
use super::acl::{self, Acl};
use super::settings::{self, OWNER_ENFORCED};
use super::{Door, caller, lists, stamp, who};
use ::access::Principal;
use blockstore::object::{BucketConfig, ObjectLock, VersionQuery};
use blockstore::{Kind, Store, Who};
use s3s::dto::{
    Bucket, BucketLocationConstraint, CreateBucketInput, CreateBucketOutput, DeleteBucketInput,
    DeleteBucketOutput, GetBucketLocationInput, GetBucketLocationOutput, HeadBucketInput,
    HeadBucketOutput, ListBucketsInput, ListBucketsOutput, ObjectOwnership,
};
use s3s::{S3Request, S3Result, s3_error};

/// S3's first region has rules of its own.
const FIRST_REGION: &str = "us-east-1";
/// Buckets on one page at most.
const PAGE_MAX: i32 = 10_000;

pub(super) async fn list(
    door: &Door,
    request: S3Request<ListBucketsInput>,
) -> S3Result<ListBucketsOutput> {
    let caller = caller(&request.extensions);
    let input = request.input;
    let max = input.max_buckets.unwrap_or(PAGE_MAX);
    let Some(max) = usize::try_from(max)
        .ok()
        .filter(|max| (1..=10_000).contains(max))
    else {
        return Err(s3_error!(
            InvalidArgument,
            "max-buckets must be 1 to {PAGE_MAX}, not {max}"
        ));
    };
    let mut found = door.ask(|store| store.buckets()).await?;
    found.sort_by(|one, two| one.name.cmp(&two.name));
    // To the operator all buckets are shown, to everybody else those of their project.
    let project = caller.principal.project();
    let all = matches!(
        caller.principal,
        Principal::Root | Principal::Service { .. }
    );
    found.retain(|bucket| all || bucket.project == project);
    let prefix = input.prefix.as_deref().unwrap_or_default();
    // The token is the last name shown: names are no secret to who may list them.
    let after = input.continuation_token.as_deref().unwrap_or_default();
    found.retain(|bucket| bucket.name.starts_with(prefix) && bucket.name.as_str() > after);
    let more = found.len() > max;
    found.truncate(max);
    Ok(ListBucketsOutput {
        continuation_token: found
            .last()
            .filter(|_| more)
            .map(|bucket| bucket.name.clone()),
        buckets: Some(
            found
                .into_iter()
                .map(|bucket| Bucket {
                    bucket_region: None,
                    creation_date: Some(stamp(bucket.created_ms)),
                    name: Some(bucket.name),
                })
                .collect(),
        ),
        owner: Some(acl::owner(project)),
        prefix: input.prefix,
    })
}

pub(super) async fn create(
    door: &Door,
    request: S3Request<CreateBucketInput>,
) -> S3Result<CreateBucketOutput> {
    let who = who(&request.extensions);
    let headers = request.headers;
    let input = request.input;
    let ownership = input
        .object_ownership
        .as_ref()
        .map_or("", ObjectOwnership::as_str)
        .to_owned();
    if !ownership.is_empty() {
        settings::check_ownership(&ownership)?;
    }
    let config = BucketConfig {
        lock: (input.object_lock_enabled_for_bucket == Some(true))
            .then_some(ObjectLock { default: None }),
        ownership,
        ..BucketConfig::default()
    };
    let name = input.bucket;
    let location = format!("/{name}");
    let again = door.region == FIRST_REGION;
    let made = door
        .ask(move |store| {
            let owner = who.project.clone();
            let is_project = |name: &str| lists::is_project(store, name);
            let list = match Acl::of_headers(&headers, &owner, &owner, &is_project) {
                Ok(list) => list.filter(|list| !list.is_private()),
                Err(refused) => return Ok(Err(refused)),
            };
            if list.is_some() && config.ownership == OWNER_ENFORCED {
                return Ok(Err(s3_error!(
                    InvalidBucketAclWithObjectOwnership,
                    "Bucket cannot have ACLs set with ObjectOwnership's BucketOwnerEnforced setting"
                )));
            }
            match store.bucket_create_with(&who, &name, config) {
                Ok(_) => {
                    if let Some(list) = list {
                        settings::write_list(store, &who, &name, &list)?;
                    }
                    Ok(Ok(()))
                }
                // Whose it is decides what a client should do next.
                Err(taken) if taken.kind() == Kind::Conflict => match store.bucket(&name) {
                    Ok(found) if found.project != owner => Ok(Err(s3_error!(
                        BucketAlreadyExists,
                        "The requested bucket name is not available. The bucket namespace is \
                         shared by all projects of this store. Please select a different name and \
                         try again: {name:?}"
                    ))),
                    // There, and there only, S3 lets an owner make a bucket again ("CreateBucket", Amazon
                    // S3 API reference); not where that would change who may read it.
                    Ok(found) if again => {
                        let present = bucket_list(store, &found)?;
                        if list.unwrap_or_else(|| Acl::private(&owner)) == present {
                            return Ok(Ok(()));
                        }
                        Ok(Err(s3_error!(
                            BucketAlreadyExists,
                            "The requested bucket name is not available: you own {name:?}, with \
                             another ACL. To change that, put a bucket ACL."
                        )))
                    }
                    _ => Err(taken),
                },
                Err(refused) => Err(refused),
            }
        })
        .await?;
    made?;
    Ok(CreateBucketOutput {
        location: Some(location),
    })
}

pub(super) async fn head(
    door: &Door,
    request: S3Request<HeadBucketInput>,
) -> S3Result<HeadBucketOutput> {
    door.ask(move |store| store.bucket(&request.input.bucket))
        .await?;
    let bucket_region = Some(door.region.clone());
    Ok(HeadBucketOutput {
        bucket_region,
        ..HeadBucketOutput::default()
    })
}

pub(super) async fn remove(
    door: &Door,
    request: S3Request<DeleteBucketInput>,
) -> S3Result<DeleteBucketOutput> {
    let who = who(&request.extensions);
    let name = request.input.bucket;
    // What a conflict means depends on the call: here the bucket is in use, not there already.
    let removed = door
        .ask(move |store| match store.bucket_remove(&who, &name) {
            Err(full) if full.kind() == Kind::Conflict => {
                forget_uploads(store, &who, &name)?;
                match store.bucket_remove(&who, &name) {
                    Err(full) if full.kind() == Kind::Conflict => Ok(Err(full.to_string())),
                    other => other.map(Ok),
                }
            }
            other => other.map(Ok),
        })
        .await?;
    removed.map_err(|why| {
        s3_error!(
            BucketNotEmpty,
            "The bucket you tried to delete is not empty: {why}"
        )
    })?;
    Ok(DeleteBucketOutput {})
}

/// Uploads under way keep no bucket alive ("DeleteBucket", Amazon S3 API reference, asks for its
/// objects and versions to be gone); where those are left, nothing is touched.
fn forget_uploads(store: &Store, who: &Who, name: &str) -> blockstore::Result<()> {
    let one = VersionQuery {
        max: 1,
        ..VersionQuery::default()
    };
    if !store.object_versions(name, &one)?.versions.is_empty() {
        return Ok(());
    }
    for upload in store.uploads(name)? {
        match store.upload_abort(who, &upload) {
            // Somebody else was quicker.
            Err(gone) if gone.kind() == Kind::NotFound => {}
            other => other?,
        }
    }
    Ok(())
}

pub(super) async fn location(
    door: &Door,
    request: S3Request<GetBucketLocationInput>,
) -> S3Result<GetBucketLocationOutput> {
    door.ask(move |store| store.bucket(&request.input.bucket))
        .await?;
    // S3 says nothing of its first region ("GetBucketLocation", Amazon S3 API reference).
    let named = Some(door.region.clone()).filter(|region| region != FIRST_REGION);
    let location_constraint = named.map(BucketLocationConstraint::from);
    Ok(GetBucketLocationOutput {
        location_constraint,
    })
}
