//! Copies: an object, or a range of one as a part. Bytes are shared, not moved; only a checksum
//! that the source has not got, or the MD5 of a part, makes a copy read them.

use super::access::check_key;
use super::checksum::{self, Algorithm, FULL_OBJECT, TYPE};
use super::condition::{self, Conditions};
use super::dress::dress;
use super::error::failed;
use super::metadata::describe;
use super::multipart::{Scheme, check_number};
use super::objects::{checksum_type, etag, missing_target, show_checksums};
use super::versions::{self, Found, written_id};
use super::{Door, caller, range, stamp, who};
use blockstore::object::{Object, Precondition};
use http::HeaderMap;
use s3s::dto::{
    CopyObjectInput, CopyObjectOutput, CopyObjectResult, CopyPartResult, CopySource, ETagCondition,
    MetadataDirective, TaggingDirective, UploadPartCopyInput, UploadPartCopyOutput,
};
use s3s::{S3Request, S3Result, s3_error};
use std::collections::BTreeMap;

pub(super) async fn copy(
    door: &Door,
    request: S3Request<CopyObjectInput>,
) -> S3Result<CopyObjectOutput> {
    let caller = caller(&request.extensions);
    let headers = request.headers;
    let input = request.input;
    let source = Source::named(input.copy_source)?;
    let target = (input.bucket, input.key);
    let directive = |name: &str, value: Option<&str>| match value {
        None | Some(MetadataDirective::COPY) => Ok(false),
        Some(MetadataDirective::REPLACE) => Ok(true),
        Some(other) => Err(s3_error!(
            InvalidArgument,
            "Unknown metadata directive {other:?}: {name} is COPY or REPLACE"
        )),
    };
    let replace = directive(
        "x-amz-metadata-directive",
        input
            .metadata_directive
            .as_ref()
            .map(MetadataDirective::as_str),
    )?;
    let retag = directive(
        "x-amz-tagging-directive",
        input
            .tagging_directive
            .as_ref()
            .map(TaggingDirective::as_str),
    )?;
    let itself = source.bucket == target.0 && source.key == target.1 && source.version.is_none();
    if itself && !replace && !retag {
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
    let condition = of_target(&headers)?;
    let wanted = input
        .checksum_algorithm
        .map(|algorithm| Scheme::algorithm(algorithm.as_str()));
    let wanted = wanted.transpose()?;

    let Found {
        object: found,
        shown_id: source_version,
    } = source.head(door).await?;
    conditions.judge_source(&found)?;
    let mut meta = found.meta.clone();
    if replace {
        let described = describe(&headers, input.metadata)?;
        (meta.headers, meta.user) = (described.headers, described.user);
    }
    if let Some(algorithm) = wanted.filter(|algorithm| !has(&found, *algorithm)) {
        meta.checksums = computed(door, &source, algorithm, &found.meta.etag).await?;
    }
    let present = std::mem::take(&mut meta.tags);
    // What was judged, and what the checksums are of, is what gets copied.
    let same = Precondition {
        if_match: vec![found.meta.etag],
        ..Precondition::default()
    };
    let (object, version_id) = door
        .ask(move |store| {
            let bucket = store.bucket(&target.0)?;
            if let Err(refused) = dress(store, &caller, &bucket, &headers, &mut meta) {
                return Ok(Err(refused));
            }
            if !retag {
                meta.tags = present;
            }
            let target = (&*target.0, &*target.1);
            let copied = store.object_copy_version(
                &caller.who(),
                source.borrowed(),
                target,
                Some(meta),
                &same,
                &condition,
            );
            match copied {
                Ok((object, copied)) => {
                    tracing::debug!(?copied, "copied");
                    let shown = written_id(&bucket, &object);
                    Ok(Ok((object, shown)))
                }
                Err(refused) => Err(missing_target(store, target, &condition, refused)),
            }
        })
        .await??;
    let mut result = CopyObjectResult {
        e_tag: etag(&object.meta.etag),
        checksum_type: checksum_type(&object.meta.checksums),
        last_modified: Some(stamp(object.modified_ms)),
        ..CopyObjectResult::default()
    };
    show_checksums!(result, &object.meta.checksums);
    Ok(CopyObjectOutput {
        copy_object_result: Some(result),
        copy_source_version_id: source_version,
        version_id,
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
    let source = Source::named(input.copy_source)?;
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
    let Found {
        object: found,
        shown_id: source_version,
    } = source.head(door).await?;
    conditions.judge_source(&found)?;
    let range = input.copy_source_range.as_deref();
    let range = range
        .map(|text| range::of_copy(found.length_bytes, text))
        .transpose()?;
    let range = range.map(|range| (range.start, range.end - range.start));
    // Judged again where the part is committed: another source by then is a precondition failed.
    let same = Precondition {
        if_match: vec![found.meta.etag],
        ..Precondition::default()
    };
    let part = door
        .ask(move |store| {
            let mut etag_of = |bytes: &dyn blockstore::object::ReadAt| {
                let sums = checksum::sums_of(bytes, &[scheme.algorithm])?;
                Ok((sums.etag(), sums.kept(FULL_OBJECT)))
            };
            let source = source.borrowed();
            let (part, copied) = store.upload_part_copy_version(
                &who,
                &upload,
                number,
                source,
                &same,
                range,
                &mut etag_of,
            )?;
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
        copy_source_version_id: source_version,
        ..UploadPartCopyOutput::default()
    })
}

/// What is copied.
#[derive(Clone)]
struct Source {
    bucket: String,
    key: String,
    version: Option<String>,
}

impl Source {
    fn named(source: CopySource) -> S3Result<Self> {
        match source {
            CopySource::Bucket {
                bucket,
                key,
                version_id,
            } => {
                check_key(&key)?;
                Ok(Self {
                    bucket: bucket.into(),
                    key: key.into(),
                    version: version_id.map(Into::into),
                })
            }
            CopySource::AccessPoint { .. } | CopySource::Outpost { .. } => Err(s3_error!(
                NotImplemented,
                "Copy Source must be <bucket>/<key>: there are no access points here"
            )),
        }
    }

    async fn head(&self, door: &Door) -> S3Result<Found> {
        let source = self.clone();
        door.ask(move |store| {
            versions::look(
                store,
                &source.bucket,
                &source.key,
                source.version.as_deref(),
            )
        })
        .await?
    }

    fn borrowed(&self) -> (&str, &str, Option<&str>) {
        (&self.bucket, &self.key, self.version.as_deref())
    }
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
    source: &Source,
    algorithm: Algorithm,
    etag: &str,
) -> S3Result<BTreeMap<String, String>> {
    let asked = source.clone();
    let (object, sums) = door
        .ask(move |store| {
            let (bucket, key, version) = asked.borrowed();
            let (object, body) = match version {
                None => store.object_open(bucket, key)?,
                Some(version) => store.object_version_open(bucket, key, version)?,
            };
            Ok((object, checksum::sums_of(&*body, &[algorithm])?))
        })
        .await?;
    if object.meta.etag != etag {
        return Err(failed(blockstore::Error::new(
            blockstore::Kind::Precondition,
            blockstore::Subject::Object,
            format!(
                "the source {}/{} changed while it was copied",
                source.bucket, source.key
            ),
        )));
    }
    Ok(sums.kept(FULL_OBJECT))
}
