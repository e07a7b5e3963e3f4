//! Objects: put, get, head, delete, delete many.

use super::access::check_key;
use super::checksum::{Algorithm, FULL_OBJECT, TYPE};
use super::claims::Claims;
use super::condition::{self, Conditions, Verdict};
use super::metadata::{self, DEFAULT_TYPE, describe};
use super::range::{self, Slice};
use super::receive::{Incoming, receive};
use super::send::send;
use super::{Door, error, stamp, who};
use blockstore::object::{Object, Precondition};
use blockstore::{Kind, Store, Subject, Who};
use futures::StreamExt;
use http::{HeaderMap, HeaderValue};
use s3s::dto::{
    ChecksumMode, ChecksumType, DeleteObjectInput, DeleteObjectOutput, DeleteObjectsInput,
    DeleteObjectsOutput, DeletedObject, ETag, Error, GetObjectInput, GetObjectOutput,
    HeadObjectInput, HeadObjectOutput, Metadata, ObjectIdentifier, PutObjectInput, PutObjectOutput,
    TimestampFormat,
};
use s3s::{S3Error, S3Request, S3Result, s3_error};
use std::collections::BTreeMap;

/// Keys of one DeleteObjects at most.
const DELETED_MAX: usize = 1000;
/// Deletes of one DeleteObjects under way at the same time; they share the catalog's syncs.
const DELETES_AT_A_TIME: usize = 16;

/// Fills in the checksum fields that many of the protocol's types share.
macro_rules! show_checksums {
    ($output:expr, $kept:expr) => {{
        let kept: &std::collections::BTreeMap<String, String> = $kept;
        $output.checksum_crc32 = kept.get("crc32").cloned();
        $output.checksum_crc32c = kept.get("crc32c").cloned();
        $output.checksum_crc64nvme = kept.get("crc64nvme").cloned();
        $output.checksum_sha1 = kept.get("sha1").cloned();
        $output.checksum_sha256 = kept.get("sha256").cloned();
    }};
}
pub(super) use show_checksums;

/// How the kept checksums came about.
pub(super) fn checksum_type(kept: &BTreeMap<String, String>) -> Option<ChecksumType> {
    kept.get(TYPE).cloned().map(ChecksumType::from)
}

pub(super) fn etag(value: &str) -> Option<ETag> {
    Some(ETag::Strong(value.to_owned()))
}

pub(super) async fn put(
    door: &Door,
    request: S3Request<PutObjectInput>,
) -> S3Result<PutObjectOutput> {
    let who = who(&request.extensions);
    let input = request.input;
    let condition = condition::of_write(input.if_match.as_ref(), input.if_none_match.as_ref())?;
    let mut meta = describe(&request.headers, input.metadata)?;
    let claims = Claims::of(&request.headers)?;
    // S3 keeps a CRC64NVME of whatever came without a checksum.
    let wanted = claims.algorithm().unwrap_or(Algorithm::Crc64Nvme);
    let incoming = Incoming {
        body: input.body,
        headers: &request.headers,
        trailers: request.trailing_headers,
        claims: &claims,
    };
    let received = receive(door, &input.bucket, incoming, &[wanted]).await?;
    meta.etag = received.sums.etag();
    meta.checksums = received.sums.kept(FULL_OBJECT);

    let mut output = PutObjectOutput {
        e_tag: etag(&meta.etag),
        checksum_type: checksum_type(&meta.checksums),
        ..PutObjectOutput::default()
    };
    show_checksums!(output, &meta.checksums);
    let (bucket, key, writer) = (input.bucket, input.key, received.writer);
    door.ask(move |store| {
        writer
            .commit(&who, &key, meta, &condition)
            .map_err(|refused| missing_target(store, (&bucket, &key), &condition, refused))
    })
    .await?;
    Ok(output)
}

/// A write that replaces a certain object, where there is none, is told that there is none.
pub(super) fn missing_target(
    store: &Store,
    target: (&str, &str),
    condition: &Precondition,
    refused: blockstore::Error,
) -> blockstore::Error {
    if refused.kind() != Kind::Precondition || condition.if_match.is_empty() {
        return refused;
    }
    match store.object_head(target.0, target.1) {
        Err(missing) if missing.kind() == Kind::NotFound => missing,
        _ => refused,
    }
}

pub(super) async fn get(
    door: &Door,
    request: S3Request<GetObjectInput>,
) -> S3Result<GetObjectOutput> {
    let input = request.input;
    let (bucket, key) = (input.bucket, input.key);
    let (object, body) = door
        .ask(move |store| store.object_open(&bucket, &key))
        .await?;
    let conditions = Conditions {
        if_match: input.if_match,
        if_none_match: input.if_none_match,
        if_modified_since: input.if_modified_since,
        if_unmodified_since: input.if_unmodified_since,
    };
    hold(&conditions, &object)?;
    let slice = range::slice(
        object.length_bytes,
        &object.parts,
        input.range.as_ref(),
        input.part_number,
    )?;
    let shown = Shown::of(
        &object,
        &slice,
        input.checksum_mode.as_ref(),
        input.part_number,
    );
    let body = send(door, body, slice.bytes).await?;
    let mut output = GetObjectOutput {
        accept_ranges: Some("bytes".into()),
        body: Some(body),
        cache_control: shown.header("cache-control"),
        checksum_type: checksum_type(&shown.checksums),
        content_disposition: shown.header("content-disposition"),
        content_encoding: shown.header("content-encoding"),
        content_language: shown.header("content-language"),
        content_length: Some(shown.length),
        content_range: slice.content_range,
        content_type: Some(shown.content_type()),
        e_tag: etag(&object.meta.etag),
        expires: metadata::expires(&object.meta),
        last_modified: Some(stamp(object.modified_ms)),
        metadata: shown.user(),
        parts_count: shown.parts,
        ..GetObjectOutput::default()
    };
    show_checksums!(output, &shown.checksums);
    Ok(output)
}

pub(super) async fn head(
    door: &Door,
    request: S3Request<HeadObjectInput>,
) -> S3Result<HeadObjectOutput> {
    let input = request.input;
    let (bucket, key) = (input.bucket, input.key);
    let object = door
        .ask(move |store| store.object_head(&bucket, &key))
        .await?;
    let conditions = Conditions {
        if_match: input.if_match,
        if_none_match: input.if_none_match,
        if_modified_since: input.if_modified_since,
        if_unmodified_since: input.if_unmodified_since,
    };
    hold(&conditions, &object)?;
    let slice = range::slice(
        object.length_bytes,
        &object.parts,
        input.range.as_ref(),
        input.part_number,
    )?;
    let shown = Shown::of(
        &object,
        &slice,
        input.checksum_mode.as_ref(),
        input.part_number,
    );
    let mut output = HeadObjectOutput {
        accept_ranges: Some("bytes".into()),
        cache_control: input
            .response_cache_control
            .or_else(|| shown.header("cache-control")),
        checksum_type: checksum_type(&shown.checksums),
        content_disposition: input
            .response_content_disposition
            .or_else(|| shown.header("content-disposition")),
        content_encoding: input
            .response_content_encoding
            .or_else(|| shown.header("content-encoding")),
        content_language: input
            .response_content_language
            .or_else(|| shown.header("content-language")),
        content_length: Some(shown.length),
        content_range: slice.content_range,
        content_type: Some(
            input
                .response_content_type
                .unwrap_or_else(|| shown.content_type()),
        ),
        e_tag: etag(&object.meta.etag),
        expires: input
            .response_expires
            .or_else(|| metadata::expires(&object.meta)),
        last_modified: Some(stamp(object.modified_ms)),
        metadata: shown.user(),
        parts_count: shown.parts,
        ..HeadObjectOutput::default()
    };
    show_checksums!(output, &shown.checksums);
    Ok(output)
}

/// What GET and HEAD show of an object alike.
struct Shown<'a> {
    object: &'a Object,
    length: i64,
    checksums: BTreeMap<String, String>,
    parts: Option<i32>,
}

impl<'a> Shown<'a> {
    fn of(
        object: &'a Object,
        slice: &Slice,
        mode: Option<&ChecksumMode>,
        part_number: Option<i32>,
    ) -> Self {
        let asked = mode.is_some_and(|mode| mode.as_str() == ChecksumMode::ENABLED);
        // The kept checksum is that of all bytes; beside a part of them it would mislead.
        let whole = slice.content_range.is_none();
        Self {
            object,
            length: i64::try_from(slice.bytes.end - slice.bytes.start).unwrap_or(i64::MAX),
            checksums: if asked && whole {
                object.meta.checksums.clone()
            } else {
                BTreeMap::new()
            },
            parts: part_number
                .and_then(|_| i32::try_from(object.parts.len()).ok())
                .filter(|count| *count > 0),
        }
    }

    fn header(&self, name: &str) -> Option<String> {
        self.object.meta.headers.get(name).cloned()
    }

    fn content_type(&self) -> String {
        self.header("content-type")
            .unwrap_or_else(|| DEFAULT_TYPE.into())
    }

    fn user(&self) -> Option<Metadata> {
        let user = &self.object.meta.user;
        (!user.is_empty()).then(|| user.clone().into_iter().collect())
    }
}

fn hold(conditions: &Conditions, object: &Object) -> S3Result<()> {
    match conditions.judge(object) {
        Verdict::Holds => Ok(()),
        Verdict::Failed(header) => Err(s3_error!(
            PreconditionFailed,
            "At least one of the pre-conditions you specified did not hold: {header}"
        )),
        Verdict::NotModified => Err(not_modified(object)),
    }
}

/// With the headers that RFC 9110, 15.4.5 wants.
fn not_modified(object: &Object) -> S3Error {
    let mut headers = HeaderMap::new();
    let mut add = |name: &'static str, value: Option<String>| {
        if let Some(value) = value.and_then(|value| HeaderValue::try_from(value).ok()) {
            headers.insert(name, value);
        }
    };
    add("etag", Some(format!("\"{}\"", object.meta.etag)));
    let mut date = Vec::new();
    let modified = stamp(object.modified_ms).format(TimestampFormat::HttpDate, &mut date);
    add(
        "last-modified",
        modified.ok().and_then(|()| String::from_utf8(date).ok()),
    );
    add(
        "cache-control",
        object.meta.headers.get("cache-control").cloned(),
    );
    add("expires", object.meta.headers.get("expires").cloned());
    let mut error = s3_error!(NotModified);
    error.set_headers(headers);
    error
}

pub(super) async fn delete(
    door: &Door,
    request: S3Request<DeleteObjectInput>,
) -> S3Result<DeleteObjectOutput> {
    let who = who(&request.extensions);
    let input = request.input;
    if input.if_match_last_modified_time.is_some() || input.if_match_size.is_some() {
        return Err(only_if_match());
    }
    let condition = condition::of_write(input.if_match.as_ref(), None)?;
    let (bucket, key) = (input.bucket, input.key);
    door.ask(move |store| delete_one(store, &who, (&bucket, &key), &condition))
        .await?;
    Ok(DeleteObjectOutput::default())
}

/// To delete what is not there succeeds, with and without a condition ("DeleteObject", Amazon S3
/// API reference).
fn delete_one(
    store: &Store,
    who: &Who,
    target: (&str, &str),
    condition: &Precondition,
) -> blockstore::Result<()> {
    match store.object_remove(who, target.0, target.1, condition) {
        Ok(_) => Ok(()),
        Err(missing)
            if missing.kind() == Kind::NotFound && missing.subject() == Subject::Object =>
        {
            Ok(())
        }
        Err(refused) => match missing_target(store, target, condition, refused) {
            missing if missing.kind() == Kind::NotFound && missing.subject() == Subject::Object => {
                Ok(())
            }
            refused => Err(refused),
        },
    }
}

pub(super) async fn delete_many(
    door: &Door,
    request: S3Request<DeleteObjectsInput>,
) -> S3Result<DeleteObjectsOutput> {
    let who = who(&request.extensions);
    let input = request.input;
    let asked = input.delete.objects;
    if asked.is_empty() || asked.len() > DELETED_MAX {
        return Err(s3_error!(
            MalformedXML,
            "The XML you provided did not validate against our published schema: it names {} \
             objects, 1 to {DELETED_MAX} are taken",
            asked.len()
        ));
    }
    let bucket = input.bucket;
    door.ask({
        let bucket = bucket.clone();
        move |store| store.bucket(&bucket)
    })
    .await?;
    let results: Vec<(String, S3Result<()>)> = futures::stream::iter(asked)
        .map(|object| {
            let (who, bucket) = (who.clone(), bucket.clone());
            async move {
                let key = object.key.clone();
                (key, delete_listed(door, who, bucket, object).await)
            }
        })
        .buffered(DELETES_AT_A_TIME)
        .collect()
        .await;

    let quiet = input.delete.quiet == Some(true);
    let (mut deleted, mut errors) = (Vec::new(), Vec::new());
    for (key, result) in results {
        match result {
            Ok(()) if quiet => {}
            Ok(()) => deleted.push(DeletedObject {
                key: Some(key),
                ..DeletedObject::default()
            }),
            Err(refused) => errors.push(Error {
                code: Some(refused.code().as_str().to_owned()),
                key: Some(key),
                message: refused.message().map(ToOwned::to_owned),
                version_id: None,
            }),
        }
    }
    Ok(DeleteObjectsOutput {
        deleted: Some(deleted),
        errors: Some(errors),
        ..DeleteObjectsOutput::default()
    })
}

async fn delete_listed(
    door: &Door,
    who: Who,
    bucket: String,
    object: ObjectIdentifier,
) -> S3Result<()> {
    check_key(&object.key)?;
    metadata::refuse_version(object.version_id.as_deref())?;
    if object.last_modified_time.is_some() || object.size.is_some() {
        return Err(only_if_match());
    }
    let wanted = object.e_tag.as_ref().map(|etag| etag.value().to_owned());
    let condition = Precondition {
        if_match: wanted.into_iter().collect(),
        ..Precondition::default()
    };
    door.ask(move |store| delete_one(store, &who, (&bucket, &object.key), &condition))
        .await
}

fn only_if_match() -> S3Error {
    error::custom(
        "NotImplemented",
        http::StatusCode::NOT_IMPLEMENTED,
        "A header you provided implies functionality that is not implemented: a delete takes an \
         ETag as its condition, no size and no time",
    )
}
