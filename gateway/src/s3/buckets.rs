//! Buckets: create, list, head, remove, and the little that S3 asks of them besides.

use super::metadata::OWNER;
use super::{Door, stamp, who};
use blockstore::Kind;
use s3s::dto::{
    Bucket, BucketLocationConstraint, CreateBucketInput, CreateBucketOutput, DeleteBucketInput,
    DeleteBucketOutput, GetBucketLocationInput, GetBucketLocationOutput, GetBucketVersioningInput,
    GetBucketVersioningOutput, HeadBucketInput, HeadBucketOutput, ListBucketsInput,
    ListBucketsOutput, Owner,
};
use s3s::{S3Request, S3Result, s3_error};

/// Buckets on one page at most.
const PAGE_MAX: i32 = 10_000;

pub(super) fn owner() -> Owner {
    Owner {
        display_name: Some(OWNER.into()),
        id: Some(OWNER.into()),
    }
}

pub(super) async fn list(
    door: &Door,
    request: S3Request<ListBucketsInput>,
) -> S3Result<ListBucketsOutput> {
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
        owner: Some(owner()),
        prefix: input.prefix,
    })
}

pub(super) async fn create(
    door: &Door,
    request: S3Request<CreateBucketInput>,
) -> S3Result<CreateBucketOutput> {
    let who = who(&request.extensions);
    let name = request.input.bucket;
    let location = format!("/{name}");
    door.ask(move |store| store.bucket_create(&who, &name))
        .await?;
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
            Err(full) if full.kind() == Kind::Conflict => Ok(Err(full.to_string())),
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

pub(super) async fn location(
    door: &Door,
    request: S3Request<GetBucketLocationInput>,
) -> S3Result<GetBucketLocationOutput> {
    door.ask(move |store| store.bucket(&request.input.bucket))
        .await?;
    // S3 says nothing of its first region ("GetBucketLocation", Amazon S3 API reference).
    let named = Some(door.region.clone()).filter(|region| region != "us-east-1");
    let location_constraint = named.map(BucketLocationConstraint::from);
    Ok(GetBucketLocationOutput {
        location_constraint,
    })
}

/// Nothing is versioned: the answer has no status, as for a bucket where it never was.
pub(super) async fn versioning(
    door: &Door,
    request: S3Request<GetBucketVersioningInput>,
) -> S3Result<GetBucketVersioningOutput> {
    door.ask(move |store| store.bucket(&request.input.bucket))
        .await?;
    Ok(GetBucketVersioningOutput::default())
}
