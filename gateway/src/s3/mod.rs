//! The S3 door: Amazon's S3 REST API, path style, over the store.
//!
//! `s3s` speaks the protocol (signatures, XML, typed operations); this module decides. A request
//! passes [`front`] and [`admission`], then `s3s` checks its signature and [`access`], then the
//! file of its operation family answers:
//!
//! ```text
//! buckets     create, list, head, remove       receive, send  bytes in and out, bounded
//! objects     put, get, head, delete           body, chunked  the body as it arrives
//! dress       what a new object gets besides   claims         what a client says of the bytes
//! copying     without moving bytes             checksum       what the bytes say
//! listing     objects v1 and v2, uploads       condition, range, metadata
//! versions    which, listing them, on and off  actions        an operation's actions and keys
//! multipart   uploads and their parts          acl, lists     access control lists
//! completion  of an upload                     settings       documents of a bucket
//! tags, locks, attributes                      post, form     uploads by a browser's form
//! cors        other sites' scripts
//! ```
//!
//! 1. Nobody gets more than the one policy engine allows, with a signature or without, and nothing
//!    unsigned counts in a signed request.
//! 2. Nothing is committed that is not what its checksums and lengths claim.
//! 3. Memory per request is bounded, whatever the object's size.
//! 4. What is not served is refused by name, never ignored.

mod access;
mod acl;
mod actions;
mod admission;
mod attributes;
mod body;
mod buckets;
mod checksum;
mod chunked;
mod claims;
mod completion;
mod condition;
mod copying;
mod cors;
mod domains;
pub(crate) mod drain;
mod dress;
mod error;
mod form;
mod front;
mod listing;
mod lists;
mod locks;
mod metadata;
mod multipart;
mod objects;
mod post;
mod range;
mod receive;
mod send;
mod settings;
mod tags;
mod versions;

pub use domains::{BadDomain, Domains};

use ::access::{Access, Caller, Origin, Principal};
use axum::extract::Request;
use blockstore::{Store, Who};
use s3s::config::{S3Config, StaticConfigProvider};
use s3s::dto::{self, Timestamp};
use s3s::service::S3ServiceBuilder;
use s3s::{S3, S3Request, S3Response, S3Result, s3_error};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes of a request's XML at most: a completion of 10,000 parts with checksums has about 2 MiB.
const XML_BYTES_MAX: usize = 4 << 20;
/// Bodies on their way in at the same time, at two buffers each; more wait their turn.
const INCOMING_MAX: usize = 64;
/// Bodies over one buffer on their way out at the same time.
const OUTGOING_MAX: usize = 64;
/// How long a body waits for its turn.
const TURN_PATIENCE: Duration = Duration::from_secs(20);

/// The S3 API at `/`, to be merged as the fallback of the server's routes. `region` is what the
/// store calls itself; a request may be signed for any region, as there is only this one store.
/// Below `domains` each bucket is a host of its own; all are there in path style, too.
pub fn s3_service(store: Store, access: Access, region: &str, domains: Domains) -> axum::Router {
    let mut config = S3Config::default();
    config.xml_max_body_size = XML_BYTES_MAX;
    let gate = access::Gate {
        store: store.clone(),
        access: access.clone(),
    };
    let door = Door {
        store,
        gate: gate.clone(),
        region: region.to_owned(),
        incoming: Arc::new(Semaphore::new(INCOMING_MAX)),
        outgoing: Arc::new(Semaphore::new(OUTGOING_MAX)),
    };
    let mut builder = S3ServiceBuilder::new(door.clone());
    builder.set_config(Arc::new(StaticConfigProvider::new(Arc::new(config))));
    builder.set_host(domains.clone());
    builder.set_auth(access::Keys(access));
    builder.set_access(access::Decisions(gate));
    let front = Arc::new(front::Front {
        protocol: builder.build(),
        door,
        domains,
    });
    axum::Router::new().fallback_service(tower::service_fn(move |request: Request| {
        let front = Arc::clone(&front);
        async move { Ok::<_, Infallible>(front::answer(&front, request).await) }
    }))
}

/// What the operations work on.
#[derive(Clone)]
pub(crate) struct Door {
    store: Store,
    gate: access::Gate,
    region: String,
    incoming: Arc<Semaphore>,
    outgoing: Arc<Semaphore>,
}

impl Door {
    /// One store call on a thread that may block, its error as S3 tells it.
    async fn ask<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> blockstore::Result<T> + Send + 'static,
    ) -> S3Result<T> {
        let store = self.store.clone();
        crate::blocking::run(move || work(&store))
            .await
            .map_err(error::failed)
    }
}

/// A turn among the bodies on their way. SlowDown if none comes.
async fn slot(turns: &Arc<Semaphore>) -> S3Result<OwnedSemaphorePermit> {
    match tokio::time::timeout(TURN_PATIENCE, Arc::clone(turns).acquire_owned()).await {
        Ok(Ok(permit)) => Ok(permit),
        Ok(Err(_)) | Err(_) => Err(s3_error!(
            SlowDown,
            "Please reduce your request rate: too many bodies are under way; this one waited {} s",
            TURN_PATIENCE.as_secs()
        )),
    }
}

/// Who asks, for the journal.
fn who(extensions: &http::Extensions) -> Who {
    caller(extensions).who()
}

/// Who asks, as [`access`] has found.
fn caller(extensions: &http::Extensions) -> Caller {
    extensions
        .get::<Caller>()
        .cloned()
        .unwrap_or_else(|| Caller {
            principal: Principal::Anonymous,
            origin: extensions.get::<Origin>().cloned().unwrap_or_default(),
            request: extensions
                .get::<front::RequestId>()
                .map_or("-", |id| id.0.as_str())
                .to_owned(),
        })
}

/// Milliseconds since the Unix epoch as the protocol layer wants them.
fn stamp(ms: u64) -> Timestamp {
    Timestamp::from(UNIX_EPOCH + Duration::from_millis(ms))
}

/// What an operation answers: an output, or one with headers that it has no field for.
trait Answer<T> {
    fn reply(self) -> S3Response<T>;
}

impl<T> Answer<T> for T {
    fn reply(self) -> S3Response<T> {
        S3Response::new(self)
    }
}

/// An output with headers.
struct Headed<T>(T, http::HeaderMap);

impl<T> Answer<T> for Headed<T> {
    fn reply(self) -> S3Response<T> {
        S3Response::with_headers(self.0, self.1)
    }
}

/// Forwards operations to the functions that answer them.
macro_rules! operations {
    ($($name:ident: $input:ident -> $output:ident = $answer:path;)*) => {
        /// What is answered, by the name of the input.
        #[cfg(test)]
        const OPERATIONS: &[&str] = &[$(stringify!($input)),*];

        #[async_trait::async_trait]
        impl S3 for Door {
            $(async fn $name(
                &self,
                request: S3Request<dto::$input>,
            ) -> S3Result<S3Response<dto::$output>> {
                Box::pin($answer(self, request)).await.map(Answer::reply)
            })*
        }
    };
}

operations! {
    list_buckets: ListBucketsInput -> ListBucketsOutput = buckets::list;
    create_bucket: CreateBucketInput -> CreateBucketOutput = buckets::create;
    head_bucket: HeadBucketInput -> HeadBucketOutput = buckets::head;
    delete_bucket: DeleteBucketInput -> DeleteBucketOutput = buckets::remove;
    get_bucket_location: GetBucketLocationInput -> GetBucketLocationOutput = buckets::location;
    get_bucket_versioning: GetBucketVersioningInput -> GetBucketVersioningOutput = versions::get;
    put_bucket_versioning: PutBucketVersioningInput -> PutBucketVersioningOutput = versions::put;
    list_object_versions: ListObjectVersionsInput -> ListObjectVersionsOutput = versions::list;
    get_bucket_acl: GetBucketAclInput -> GetBucketAclOutput = lists::of_bucket;
    put_bucket_acl: PutBucketAclInput -> PutBucketAclOutput = lists::put_bucket;
    get_bucket_policy: GetBucketPolicyInput -> GetBucketPolicyOutput = settings::get_policy;
    put_bucket_policy: PutBucketPolicyInput -> PutBucketPolicyOutput = settings::put_policy;
    delete_bucket_policy: DeleteBucketPolicyInput -> DeleteBucketPolicyOutput = settings::delete_policy;
    get_bucket_policy_status: GetBucketPolicyStatusInput -> GetBucketPolicyStatusOutput = settings::policy_status;
    get_public_access_block: GetPublicAccessBlockInput -> GetPublicAccessBlockOutput = settings::get_block;
    put_public_access_block: PutPublicAccessBlockInput -> PutPublicAccessBlockOutput = settings::put_block;
    delete_public_access_block: DeletePublicAccessBlockInput -> DeletePublicAccessBlockOutput = settings::delete_block;
    get_bucket_ownership_controls: GetBucketOwnershipControlsInput -> GetBucketOwnershipControlsOutput = settings::get_ownership;
    put_bucket_ownership_controls: PutBucketOwnershipControlsInput -> PutBucketOwnershipControlsOutput = settings::put_ownership;
    delete_bucket_ownership_controls: DeleteBucketOwnershipControlsInput -> DeleteBucketOwnershipControlsOutput = settings::delete_ownership;
    get_bucket_cors: GetBucketCorsInput -> GetBucketCorsOutput = settings::get_cors;
    put_bucket_cors: PutBucketCorsInput -> PutBucketCorsOutput = settings::put_cors;
    delete_bucket_cors: DeleteBucketCorsInput -> DeleteBucketCorsOutput = settings::delete_cors;
    get_bucket_tagging: GetBucketTaggingInput -> GetBucketTaggingOutput = settings::get_tagging;
    put_bucket_tagging: PutBucketTaggingInput -> PutBucketTaggingOutput = settings::put_tagging;
    delete_bucket_tagging: DeleteBucketTaggingInput -> DeleteBucketTaggingOutput = settings::delete_tagging;
    get_bucket_encryption: GetBucketEncryptionInput -> GetBucketEncryptionOutput = settings::get_encryption;
    delete_bucket_encryption: DeleteBucketEncryptionInput -> DeleteBucketEncryptionOutput = settings::delete_encryption;
    get_bucket_request_payment: GetBucketRequestPaymentInput -> GetBucketRequestPaymentOutput = settings::request_payment;
    get_object_lock_configuration: GetObjectLockConfigurationInput -> GetObjectLockConfigurationOutput = locks::get_configuration;
    put_object_lock_configuration: PutObjectLockConfigurationInput -> PutObjectLockConfigurationOutput = locks::put_configuration;
    put_object: PutObjectInput -> PutObjectOutput = objects::put;
    get_object: GetObjectInput -> GetObjectOutput = objects::get;
    head_object: HeadObjectInput -> HeadObjectOutput = objects::head;
    get_object_attributes: GetObjectAttributesInput -> GetObjectAttributesOutput = attributes::get;
    delete_object: DeleteObjectInput -> DeleteObjectOutput = objects::delete;
    delete_objects: DeleteObjectsInput -> DeleteObjectsOutput = objects::delete_many;
    copy_object: CopyObjectInput -> CopyObjectOutput = copying::copy;
    get_object_acl: GetObjectAclInput -> GetObjectAclOutput = lists::of_object;
    put_object_acl: PutObjectAclInput -> PutObjectAclOutput = lists::put_object;
    get_object_tagging: GetObjectTaggingInput -> GetObjectTaggingOutput = tags::get;
    put_object_tagging: PutObjectTaggingInput -> PutObjectTaggingOutput = tags::put;
    delete_object_tagging: DeleteObjectTaggingInput -> DeleteObjectTaggingOutput = tags::delete;
    get_object_retention: GetObjectRetentionInput -> GetObjectRetentionOutput = locks::get_retention;
    put_object_retention: PutObjectRetentionInput -> PutObjectRetentionOutput = locks::put_retention;
    get_object_legal_hold: GetObjectLegalHoldInput -> GetObjectLegalHoldOutput = locks::get_hold;
    put_object_legal_hold: PutObjectLegalHoldInput -> PutObjectLegalHoldOutput = locks::put_hold;
    list_objects: ListObjectsInput -> ListObjectsOutput = listing::version_1;
    list_objects_v2: ListObjectsV2Input -> ListObjectsV2Output = listing::version_2;
    create_multipart_upload: CreateMultipartUploadInput -> CreateMultipartUploadOutput = multipart::create;
    upload_part: UploadPartInput -> UploadPartOutput = multipart::part;
    upload_part_copy: UploadPartCopyInput -> UploadPartCopyOutput = copying::part;
    complete_multipart_upload: CompleteMultipartUploadInput -> CompleteMultipartUploadOutput = completion::complete;
    abort_multipart_upload: AbortMultipartUploadInput -> AbortMultipartUploadOutput = multipart::abort;
    list_parts: ListPartsInput -> ListPartsOutput = multipart::list_parts;
    list_multipart_uploads: ListMultipartUploadsInput -> ListMultipartUploadsOutput = listing::uploads;
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_documents_table_has_every_operation() {
        let document = include_str!("../../../docs/SECURITY.md");
        for input in super::OPERATIONS {
            let row = format!("| s3 | `{}` | ", input.trim_end_matches("Input"));
            assert!(document.contains(&row), "docs/SECURITY.md lacks {row}");
        }
    }
}
