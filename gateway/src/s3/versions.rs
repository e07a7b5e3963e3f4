//! Versions: which one a request means, how they are listed, and turning them on.
//!
//! ("Retaining multiple versions of objects with S3 Versioning", Amazon S3 user guide.)

use super::access::object_list;
use super::acl;
use super::checksum::{Algorithm, TYPE};
use super::listing::{Spelling, common_prefix, page_size, some_text};
use super::objects::{checksum_type, etag};
use super::settings::enforces_owner;
use super::{Door, stamp, who};
use blockstore::object::{Bucket, BucketChange, Object, ReadAt, VersionQuery, Versioning};
use blockstore::{Kind, Store, Subject};
use http::{HeaderMap, HeaderValue};
use s3s::dto::{
    BucketVersioningStatus, ChecksumAlgorithm, DeleteMarkerEntry, GetBucketVersioningInput,
    GetBucketVersioningOutput, ListObjectVersionsInput, ListObjectVersionsOutput, ObjectVersion,
    ObjectVersionStorageClass, PutBucketVersioningInput, PutBucketVersioningOutput,
};
use s3s::{S3Error, S3Request, S3Result, s3_error};
use std::sync::Arc;

/// A version that a request means.
pub(super) struct Found {
    pub(super) object: Object,
    /// Its id, where the bucket has versions.
    pub(super) shown_id: Option<String>,
}

/// The id that replies show: none where the bucket never had versions.
pub(super) fn shown_id(bucket: &Bucket, object: &Object) -> Option<String> {
    (bucket.config.versioning != Versioning::Unversioned).then(|| object.version.clone())
}

/// The id that the reply to a write shows: only where it made a version that stays.
pub(super) fn written_id(bucket: &Bucket, object: &Object) -> Option<String> {
    (bucket.config.versioning == Versioning::Enabled).then(|| object.version.clone())
}

/// Whether the bucket has, or had, versions.
pub(super) fn is_versioned(store: &Store, bucket: &str) -> blockstore::Result<bool> {
    Ok(store.bucket(bucket)?.config.versioning != Versioning::Unversioned)
}

/// The version that a request means, with its delete markers told as S3 tells them. Blocks.
pub(super) fn look(
    store: &Store,
    bucket: &str,
    key: &str,
    version: Option<&str>,
) -> blockstore::Result<S3Result<Found>> {
    let object = match version.filter(|version| !version.is_empty()) {
        None => store.object_latest(bucket, key)?,
        Some(version) => store.object_version(bucket, key, version)?,
    };
    if object.marker {
        return Ok(Err(marker(&object, version.is_some())));
    }
    let shown_id = shown_id(&store.bucket(bucket)?, &object);
    Ok(Ok(Found { object, shown_id }))
}

/// As [`look`], with the bytes.
pub(super) fn open(
    store: &Store,
    bucket: &str,
    key: &str,
    version: Option<&str>,
) -> blockstore::Result<S3Result<(Found, Arc<dyn ReadAt>)>> {
    let version = version.filter(|version| !version.is_empty());
    let opened = match version {
        None => store.object_open(bucket, key),
        Some(version) => store.object_version_open(bucket, key, version),
    };
    match opened {
        Ok((object, body)) => {
            let shown_id = shown_id(&store.bucket(bucket)?, &object);
            Ok(Ok((Found { object, shown_id }, body)))
        }
        // Perhaps a marker: then the reply says so.
        Err(refused) if matches!(refused.kind(), Kind::NotFound | Kind::Invalid) => {
            match look(store, bucket, key, version) {
                Ok(Err(marker)) => Ok(Err(marker)),
                _ => Err(refused),
            }
        }
        Err(refused) => Err(refused),
    }
}

/// A delete marker: not found where it hides a key, no thing to be read where it was named.
fn marker(object: &Object, named: bool) -> S3Error {
    let mut error = if named {
        s3_error!(
            MethodNotAllowed,
            "The specified method is not allowed against this resource: the version is a delete \
             marker"
        )
    } else {
        s3_error!(
            NoSuchKey,
            "The specified key does not exist: its latest version is a delete marker"
        )
    };
    let mut headers = HeaderMap::new();
    headers.insert("x-amz-delete-marker", HeaderValue::from_static("true"));
    if let Ok(version) = HeaderValue::try_from(&object.version) {
        headers.insert("x-amz-version-id", version);
    }
    error.set_headers(headers);
    error
}

impl Door {
    /// The version that a request means.
    pub(super) async fn version(
        &self,
        bucket: &str,
        key: &str,
        version: Option<&str>,
    ) -> S3Result<Object> {
        let (bucket, key) = (bucket.to_owned(), key.to_owned());
        let version = version.map(ToOwned::to_owned);
        self.ask(move |store| look(store, &bucket, &key, version.as_deref()))
            .await?
            .map(|found| found.object)
    }

    /// The id of a version as replies show it.
    pub(super) async fn shown_version(&self, object: &Object) -> S3Result<Option<String>> {
        let bucket = object.bucket.clone();
        let found = self.ask(move |store| store.bucket(&bucket)).await?;
        Ok(shown_id(&found, object))
    }
}

pub(super) async fn get(
    door: &Door,
    request: S3Request<GetBucketVersioningInput>,
) -> S3Result<GetBucketVersioningOutput> {
    let found = door
        .ask(move |store| store.bucket(&request.input.bucket))
        .await?;
    let status = match found.config.versioning {
        // As for a bucket where it was never set: nothing is said.
        Versioning::Unversioned => None,
        Versioning::Enabled => Some(BucketVersioningStatus::ENABLED),
        Versioning::Suspended => Some(BucketVersioningStatus::SUSPENDED),
    };
    Ok(GetBucketVersioningOutput {
        status: status.map(BucketVersioningStatus::from_static),
        ..GetBucketVersioningOutput::default()
    })
}

pub(super) async fn put(
    door: &Door,
    request: S3Request<PutBucketVersioningInput>,
) -> S3Result<PutBucketVersioningOutput> {
    let who = who(&request.extensions);
    let input = request.input;
    let asked = input.versioning_configuration;
    if asked
        .mfa_delete
        .is_some_and(|state| state.as_str() != "Disabled")
    {
        return Err(s3_error!(
            NotImplemented,
            "A header you provided implies functionality that is not implemented: MFA delete"
        ));
    }
    let versioning = match asked.status.as_ref().map(BucketVersioningStatus::as_str) {
        Some(BucketVersioningStatus::ENABLED) => Versioning::Enabled,
        Some(BucketVersioningStatus::SUSPENDED) => Versioning::Suspended,
        _ => {
            return Err(s3_error!(
                IllegalVersioningConfigurationException,
                "The Versioning element must be specified: Status is Enabled or Suspended"
            ));
        }
    };
    let change = BucketChange {
        versioning: Some(versioning),
        ..BucketChange::default()
    };
    let changed = door
        .ask(
            move |store| match store.bucket_configure(&who, &input.bucket, &change) {
                Err(locked)
                    if locked.kind() == Kind::Conflict && locked.subject() == Subject::Bucket =>
                {
                    Ok(Err(locked.to_string()))
                }
                other => other.map(Ok),
            },
        )
        .await?;
    changed.map_err(|why| {
        s3_error!(
            InvalidBucketState,
            "An Object Lock configuration is present on this bucket, so the versioning state \
             cannot be changed: {why}"
        )
    })?;
    Ok(PutBucketVersioningOutput::default())
}

pub(super) async fn list(
    door: &Door,
    request: S3Request<ListObjectVersionsInput>,
) -> S3Result<ListObjectVersionsOutput> {
    let input = request.input;
    let spell = Spelling::asked(input.encoding_type.as_ref())?;
    let (max, max_keys) = page_size(input.max_keys, "max-keys")?;
    let prefix = input.prefix.clone().unwrap_or_default();
    let delimiter = some_text(input.delimiter);
    let key_marker = some_text(input.key_marker.clone());
    let version_marker = some_text(input.version_id_marker.clone());
    if version_marker.is_some() && key_marker.is_none() {
        return Err(s3_error!(
            InvalidArgument,
            "A version-id marker cannot be specified without a key marker."
        ));
    }
    let query = VersionQuery {
        prefix: prefix.clone(),
        delimiter: delimiter.clone(),
        key_marker,
        version_marker,
        max,
    };
    let bucket = input.bucket.clone();
    let (found, page) = door
        .ask(move |store| {
            Ok((
                store.bucket(&bucket)?,
                store.object_versions(&bucket, &query)?,
            ))
        })
        .await?;
    let (mut versions, mut markers) = (Vec::new(), Vec::new());
    for object in page.versions {
        let owner = if enforces_owner(&found) {
            found.project.clone()
        } else {
            object_list(&object, &found.project).owner
        };
        let owner = Some(acl::owner(&owner));
        if object.marker {
            markers.push(DeleteMarkerEntry {
                is_latest: Some(object.latest),
                key: Some(spell.text(&object.key)),
                last_modified: Some(stamp(object.modified_ms)),
                owner,
                version_id: Some(object.version),
            });
            continue;
        }
        let algorithms = object.meta.checksums.keys().filter(|name| *name != TYPE);
        let algorithms: Vec<ChecksumAlgorithm> = algorithms
            .filter_map(|name| Algorithm::named(name))
            .map(|algorithm| ChecksumAlgorithm::from(algorithm.s3_name().to_owned()))
            .collect();
        versions.push(ObjectVersion {
            checksum_algorithm: (!algorithms.is_empty()).then_some(algorithms),
            checksum_type: checksum_type(&object.meta.checksums),
            e_tag: etag(&object.meta.etag),
            is_latest: Some(object.latest),
            key: Some(spell.text(&object.key)),
            last_modified: Some(stamp(object.modified_ms)),
            owner,
            size: i64::try_from(object.length_bytes).ok(),
            storage_class: Some(ObjectVersionStorageClass::from_static(
                ObjectVersionStorageClass::STANDARD,
            )),
            version_id: Some(object.version),
            ..ObjectVersion::default()
        });
    }
    let prefixes = page.prefixes.iter();
    let prefixes = prefixes
        .map(|prefix| common_prefix(prefix, spell))
        .collect();
    let (next_key, next_version) = match page.next {
        Some((key, version)) => (Some(spell.text(&key)), version),
        None => (None, None),
    };
    Ok(ListObjectVersionsOutput {
        common_prefixes: Some(prefixes),
        delete_markers: Some(markers),
        delimiter: delimiter.map(|delimiter| spell.text(&delimiter)),
        encoding_type: input.encoding_type,
        is_truncated: Some(next_key.is_some()),
        key_marker: Some(spell.text(input.key_marker.as_deref().unwrap_or_default())),
        max_keys: Some(max_keys),
        name: Some(input.bucket),
        next_key_marker: next_key,
        next_version_id_marker: next_version,
        prefix: Some(spell.text(&prefix)),
        version_id_marker: Some(input.version_id_marker.unwrap_or_default()),
        versions: Some(versions),
        ..ListObjectVersionsOutput::default()
    })
}
