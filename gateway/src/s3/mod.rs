//! The S3 door: Amazon's S3 REST API, path style, over the store.
//!
//! `s3s` speaks the protocol (signatures, XML, typed operations); this module decides. A request
//! passes [`front`] and [`admission`], then `s3s` checks its signature and [`access`], then the
//! file of its operation family answers:
//!
//! ```text
//! buckets     create, list, head, remove       receive, send  bytes in and out, bounded
//! objects     put, get, head, delete           body, chunked  the body as it arrives
//! copying     without moving bytes             claims         what a client says of the bytes
//! listing     objects v1 and v2, uploads       checksum       what the bytes say
//! multipart   uploads and their parts          condition, range, metadata
//! completion  of an upload
//! ```
//!
//! 1. Nothing is answered to a request without a valid signature, and nothing unsigned counts.
//! 2. Nothing is committed that is not what its checksums and lengths claim.
//! 3. Memory per request is bounded, whatever the object's size.
//! 4. What is not served is refused by name, never ignored.

mod access;
mod admission;
mod body;
mod buckets;
mod checksum;
mod chunked;
mod claims;
mod completion;
mod condition;
mod copying;
mod drain;
mod error;
mod front;
mod listing;
mod metadata;
mod multipart;
mod objects;
mod range;
mod receive;
mod send;

use ::access::{Access, Caller, Origin, Principal};
use axum::extract::Request;
use blockstore::{Store, Who};
use s3s::config::{S3Config, StaticConfigProvider};
use s3s::dto::{
    AbortMultipartUploadInput, AbortMultipartUploadOutput, CompleteMultipartUploadInput,
    CompleteMultipartUploadOutput, CopyObjectInput, CopyObjectOutput, CreateBucketInput,
    CreateBucketOutput, CreateMultipartUploadInput, CreateMultipartUploadOutput, DeleteBucketInput,
    DeleteBucketOutput, DeleteObjectInput, DeleteObjectOutput, DeleteObjectsInput,
    DeleteObjectsOutput, GetBucketLocationInput, GetBucketLocationOutput, GetBucketVersioningInput,
    GetBucketVersioningOutput, GetObjectInput, GetObjectOutput, HeadBucketInput, HeadBucketOutput,
    HeadObjectInput, HeadObjectOutput, ListBucketsInput, ListBucketsOutput,
    ListMultipartUploadsInput, ListMultipartUploadsOutput, ListObjectsInput, ListObjectsOutput,
    ListObjectsV2Input, ListObjectsV2Output, ListPartsInput, ListPartsOutput, PutObjectInput,
    PutObjectOutput, Timestamp, UploadPartCopyInput, UploadPartCopyOutput, UploadPartInput,
    UploadPartOutput,
};
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
pub fn s3_service(store: Store, access: Access, region: &str) -> axum::Router {
    let mut config = S3Config::default();
    config.xml_max_body_size = XML_BYTES_MAX;
    let mut builder = S3ServiceBuilder::new(Door {
        store,
        region: region.to_owned(),
        incoming: Arc::new(Semaphore::new(INCOMING_MAX)),
        outgoing: Arc::new(Semaphore::new(OUTGOING_MAX)),
    });
    builder.set_config(Arc::new(StaticConfigProvider::new(Arc::new(config))));
    builder.set_auth(access::Keys(access.clone()));
    builder.set_access(access::Decisions(access));
    let protocol = builder.build();
    axum::Router::new().fallback_service(tower::service_fn(move |request: Request| {
        let protocol = protocol.clone();
        async move { Ok::<_, Infallible>(front::answer(protocol, request).await) }
    }))
}

/// What the operations work on.
pub(crate) struct Door {
    store: Store,
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

/// Forwards operations to the functions that answer them.
macro_rules! operations {
    ($($name:ident: $input:ident -> $output:ident = $answer:path;)*) => {
        #[async_trait::async_trait]
        impl S3 for Door {
            $(async fn $name(&self, request: S3Request<$input>) -> S3Result<S3Response<$output>> {
                Box::pin($answer(self, request)).await.map(S3Response::new)
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
    get_bucket_versioning: GetBucketVersioningInput -> GetBucketVersioningOutput = buckets::versioning;
    put_object: PutObjectInput -> PutObjectOutput = objects::put;
    get_object: GetObjectInput -> GetObjectOutput = objects::get;
    head_object: HeadObjectInput -> HeadObjectOutput = objects::head;
    delete_object: DeleteObjectInput -> DeleteObjectOutput = objects::delete;
    delete_objects: DeleteObjectsInput -> DeleteObjectsOutput = objects::delete_many;
    copy_object: CopyObjectInput -> CopyObjectOutput = copying::copy;
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
