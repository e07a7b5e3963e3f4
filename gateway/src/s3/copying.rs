//! Copies: an object, or a range of one as a part. Bytes are shared, not moved; only a checksum
//! that the source has not got, or the MD5 of a part, makes a copy read them.

use super::access::check_key;
use super::checksum::{self, Algorithm, FULL_OBJECT, TYPE};
use super::condition::{self, Conditions};
use super::error::failed;
use super::metadata::{describe, refuse_version};
use super::multipart::{Scheme, check_number};
use super::objects::{checksum_type, etag, missing_target, show_checksums};
use super::{Door, range, stamp, who};
use blockstore::object::{Object, ObjectMeta, Precondition};
use http::HeaderMap;
use s3s::dto::{
    CopyObjectInput, CopyObjectOutput, CopyObjectResult, CopyPartResult, CopySource, ETagCondition,
    MetadataDirective, UploadPartCopyInput, UploadPartCopyOutput,
};
use s3s::{S3Request, S3Result, s3_error};
use std::collections::BTreeMap;

pub(super) async fn copy(
    door: &Door,
    request: S3Request<CopyObjectInput>,
) -> S3Result<CopyObjectOutput> {
    let who = who(&request.extensions);
    let input = request.input;
    let source = named(input.copy_source)?;
    let target = (input.bucket, input.key);
    let directive = input
        .metadata_directive
        .as_ref()
        .map(MetadataDirective::as_str);
    let replace = match directive {
        None | Some(MetadataDirective::COPY) => false,
        Some(MetadataDirective::REPLACE) => true,
        Some(other) => {
            return Err(s3_error!(
                InvalidArgument,
                "Unknown metadata directive {other:?}: x-amz-metadata-directive is COPY or REPLACE"
            ));
        }
    };
    if source == target && !replace {
        return Err(s3_error!(
            InvalidRequest,
            "This copy request is illegal because it is trying to copy an object to itself without \
             changing the object's metadata, storage class, website redirect location or \
             encryption attributes."
        ));
    }
    let conditions = Conditions {
        if_match: input.copy_source_if_match,
        if_none_match: input.copy_source_if_none_match,
        if_modified_since: input.copy_source_if_modified_since,
        if_unmodified_since: input.copy_source_if_unmodified_since,
    };
    let condition = of_target(&request.headers)?;
    let wanted = input
        .checksum_algorithm
        .map(|algorithm| Scheme::algorithm(algorithm.as_str()));
    let wanted = wanted.transpose()?;

    let found = head(door, &source).await?;
    conditions.judge_source(&found)?;
    let mut meta = None;
    if replace {
        let mut described = describe(&request.headers, input.metadata)?;
        described.etag.clone_from(&found.meta.etag);
        described.checksums.clone_from(&found.meta.checksums);
        meta = Some(described);
    }
    if let Some(algorithm) = wanted.filter(|algorithm| !has(&found, *algorithm)) {
        let checksums = computed(door, &source, algorithm, &found.meta.etag).await?;
        let kept: &mut ObjectMeta = meta.get_or_insert_with(|| found.meta.clone());
        kept.checksums = checksums;
    }
    // What was judged, and what the checksums are of, is what gets copied.
    let same = Precondition {
        if_match: vec![found.meta.etag],
        ..Precondition::default()
    };
    let object = door
        .ask(move |store| {
            let (source, target) = ((&*source.0, &*source.1), (&*target.0, &*target.1));
            let copied = store.object_copy(&who, source, target, meta, &same, &condition);
            match copied {
                Ok((object, copied)) => {
                    tracing::debug!(?copied, "copied");
                    Ok(object)
                }
                Err(refused) => Err(missing_target(store, target, &condition, refused)),
            }
        })
        .await?;
    let mut result = CopyObjectResult {
        e_tag: etag(&object.meta.etag),
        checksum_type: checksum_type(&object.meta.checksums),
        last_modified: Some(stamp(object.modified_ms)),
        ..CopyObjectResult::default()
    };
    show_checksums!(result, &object.meta.checksums);
    Ok(CopyObjectOutput {
        copy_object_result: Some(result),
        ..CopyObjectOutput::default()
    })
}

pub(super) async fn part(
    door: &Door,
    request: S3Request<UploadPartCopyInput>,
) -> S3Result<UploadPartCopyOutput> {
    let who = who(&request.extensions);
    let input = request.input;
    let number = check_number(input.part_number)?;
    let source = named(input.copy_source)?;
    let conditions = Conditions {
        if_match: input.copy_source_if_match,
        if_none_match: input.copy_source_if_none_match,
        if_modified_since: input.copy_source_if_modified_since,
        if_unmodified_since: input.copy_source_if_unmodified_since,
    };
    let upload = door
        .ask(move |store| store.upload(&input.bucket, &input.key, &input.upload_id))
        .await?;
    let scheme = Scheme::of(&upload);
    let found = head(door, &source).await?;
    conditions.judge_source(&found)?;
    let range = input.copy_source_range.as_deref();
    let range = range
        .map(|text| range::of_copy(found.length_bytes, text))
        .transpose()?;
    let range = range.map(|range| (range.start, range.end - range.start));
    let part = door
        .ask(move |store| {
            let mut etag_of = |bytes: &dyn blockstore::object::ReadAt| {
                let sums = checksum::sums_of(bytes, &[scheme.algorithm])?;
                Ok((sums.etag(), sums.kept(FULL_OBJECT)))
            };
            let source = (&*source.0, &*source.1);
            let (part, copied) =
                store.upload_part_copy(&who, &upload, number, source, range, &mut etag_of)?;
            tracing::debug!(?copied, "copied");
            Ok(part)
        })
        .await?;
    let mut result = CopyPartResult {
        e_tag: etag(&part.etag),
        last_modified: Some(stamp(part.modified_ms)),
        ..CopyPartResult::default()
    };
    show_checksums!(result, &part.checksums);
    Ok(UploadPartCopyOutput {
        copy_part_result: Some(result),
        ..UploadPartCopyOutput::default()
    })
}

fn named(source: CopySource) -> S3Result<(String, String)> {
    match source {
        CopySource::Bucket {
            bucket,
            key,
            version_id,
        } => {
            check_key(&key)?;
            refuse_version(version_id.as_deref())?;
            Ok((bucket.into(), key.into()))
        }
        CopySource::AccessPoint { .. } | CopySource::Outpost { .. } => Err(s3_error!(
            NotImplemented,
            "Copy Source must be <bucket>/<key>: there are no access points here"
        )),
    }
}

async fn head(door: &Door, source: &(String, String)) -> S3Result<Object> {
    let (bucket, key) = source.clone();
    door.ask(move |store| store.object_head(&bucket, &key))
        .await
}

/// The conditions on what the copy replaces, which the protocol layer does not parse.
fn of_target(headers: &HeaderMap) -> S3Result<Precondition> {
    let parse = |name: &str| {
        let condition = headers
            .get(name)
            .map(|value| ETagCondition::parse_http_header(value.as_bytes()));
        condition
            .transpose()
            .map_err(|bad| s3_error!(bad, InvalidArgument, "{name} is no ETag"))
    };
    condition::of_write(
        parse("if-match")?.as_ref(),
        parse("if-none-match")?.as_ref(),
    )
}

/// Whether the source has this checksum over all its bytes.
fn has(object: &Object, algorithm: Algorithm) -> bool {
    let kept = &object.meta.checksums;
    kept.contains_key(algorithm.name()) && kept.get(TYPE).is_some_and(|kind| kind == FULL_OBJECT)
}

/// Reads the source for a checksum that it has not got.
async fn computed(
    door: &Door,
    source: &(String, String),
    algorithm: Algorithm,
    etag: &str,
) -> S3Result<BTreeMap<String, String>> {
    let (bucket, key) = source.clone();
    let (object, sums) = door
        .ask(move |store| {
            let (object, body) = store.object_open(&bucket, &key)?;
            Ok((object, checksum::sums_of(&*body, &[algorithm])?))
        })
        .await?;
    if object.meta.etag != etag {
        return Err(failed(blockstore::Error::new(
            blockstore::Kind::Precondition,
            blockstore::Subject::Object,
            format!(
                "the source {}/{} changed while it was copied",
                source.0, source.1
            ),
        )));
    }
    Ok(sums.kept(FULL_OBJECT))
}
