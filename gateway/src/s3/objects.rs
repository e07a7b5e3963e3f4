//! Objects: put, get, head, delete, delete many.

use super::access::check_key;
use super::checksum::{Algorithm, FULL_OBJECT, TYPE};
use super::claims::Claims;
use super::condition::{self, Conditions, Verdict};
use super::dress::{Making, make};
use super::metadata::{self, DEFAULT_TYPE, describe};
use super::multipart::part_checksum;
use super::range::{self, Slice};
use super::receive::{Incoming, Length, receive};
use super::send::send;
use super::versions::{self, Found};
use super::{Door, Headed, actions, caller, locks, stamp, who};
use blockstore::object::{Delete, Deleted, Object, Precondition};
use blockstore::{Kind, Store, Subject};
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
    let caller = caller(&request.extensions);
    let input = request.input;
    let condition = condition::of_write(input.if_match.as_ref(), input.if_none_match.as_ref())?;
    let mut meta = describe(&request.headers, input.metadata)?;
    let claims = Claims::of(&request.headers)?;
    // S3 keeps a CRC64NVME of whatever came without a checksum.
    let wanted = claims.algorithm().unwrap_or(Algorithm::Crc64Nvme);
    let incoming = Incoming {
        body: input.body,
        length: Length::Announced,
        headers: &request.headers,
        trailers: request.trailing_headers,
        claims: &claims,
        key: Some(&input.key),
    };
    let received = receive(door, &input.bucket, incoming, &[wanted]).await?;
    meta.etag = received.sums.etag();
    meta.checksums = received.sums.kept(FULL_OBJECT);
    let making = Making {
        caller,
        bucket: input.bucket,
        key: input.key,
        headers: request.headers,
        meta,
        condition,
    };
    let (object, version_id) = make(door, making, received.writer).await?;
    let mut output = PutObjectOutput {
        e_tag: etag(&object.meta.etag),
        checksum_type: checksum_type(&object.meta.checksums),
        version_id,
        ..PutObjectOutput::default()
    };
    show_checksums!(output, &object.meta.checksums);
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
    let (bucket, key, version) = (input.bucket, input.key, input.version_id);
    let (found, body) = door
        .ask(move |store| versions::open(store, &bucket, &key, version.as_deref()))
        .await??;
    let Found { object, shown_id } = found;
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
        object_lock_legal_hold_status: locks::hold_of(&object),
        object_lock_mode: locks::mode_of(&object),
        object_lock_retain_until_date: locks::until_of(&object),
        parts_count: shown.parts,
        tag_count: shown.tag_count(),
        version_id: shown_id,
        ..GetObjectOutput::default()
    };
    show_checksums!(output, &shown.checksums);
    Ok(output)
}

pub(super) async fn head(
    door: &Door,
    request: S3Request<HeadObjectInput>,
) -> S3Result<Headed<HeadObjectOutput>> {
    let input = request.input;
    let (bucket, key, version) = (input.bucket, input.key, input.version_id);
    let found = door
        .ask(move |store| versions::look(store, &bucket, &key, version.as_deref()))
        .await??;
    let Found { object, shown_id } = found;
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
        object_lock_legal_hold_status: locks::hold_of(&object),
        object_lock_mode: locks::mode_of(&object),
        object_lock_retain_until_date: locks::until_of(&object),
        parts_count: shown.parts,
        version_id: shown_id,
        ..HeadObjectOutput::default()
    };
    show_checksums!(output, &shown.checksums);
    let mut headers = HeaderMap::new();
    if let Some(count) = shown.tag_count() {
        headers.insert("x-amz-tagging-count", HeaderValue::from(count));
    }
    Ok(Headed(output, headers))
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
            checksums: match part_place(part_number) {
                _ if !asked => BTreeMap::new(),
                Some(place) if !object.parts.is_empty() => of_part(object, place),
                _ if whole => object.meta.checksums.clone(),
                _ => BTreeMap::new(),
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

    fn tag_count(&self) -> Option<i32> {
        let count = self.object.meta.tags.len();
        i32::try_from(count).ok().filter(|count| *count > 0)
    }

    fn user(&self) -> Option<Metadata> {
        let user = &self.object.meta.user;
        (!user.is_empty()).then(|| user.clone().into_iter().collect())
    }
}

/// A part's place among the parts, from 0.
fn part_place(number: Option<i32>) -> Option<usize> {
    usize::try_from(number?.checked_sub(1)?).ok()
}

/// The checksum of a part, with how the object's own came about.
fn of_part(object: &Object, place: usize) -> BTreeMap<String, String> {
    let mut checksums = part_checksum(object, place);
    if !checksums.is_empty()
        && let Some(kind) = object.meta.checksums.get(TYPE)
    {
        checksums.insert(TYPE.to_owned(), kind.clone());
    }
    checksums
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
    let bypass_governance = actions::is_true(&request.headers, "x-amz-bypass-governance-retention");
    let input = request.input;
    let mut condition = condition::of_write(input.if_match.as_ref(), None)?;
    condition.modified_ms = input
        .if_match_last_modified_time
        .as_ref()
        .map(condition::milliseconds);
    condition.length_bytes = input.if_match_size.map(condition::size);
    let bucket = input.bucket;
    let asked = Delete {
        key: input.key,
        version: input.version_id.filter(|version| !version.is_empty()),
        condition,
        bypass_governance,
    };
    let named = asked.version.clone();
    let (deleted, versioned) = door
        .ask(move |store| {
            let deleted = gone_is_fine(store.object_delete(&who, &bucket, &asked))?;
            Ok((deleted, versions::is_versioned(store, &bucket)?))
        })
        .await?;
    let told = Told::of(&deleted, named, versioned);
    Ok(DeleteObjectOutput {
        delete_marker: told.marker.then_some(true),
        version_id: told.version,
        ..DeleteObjectOutput::default()
    })
}

/// To delete what is not there succeeds, with a condition and without one ("DeleteObject", Amazon S3
/// API reference).
fn gone_is_fine(deleted: blockstore::Result<Deleted>) -> blockstore::Result<Deleted> {
    match deleted {
        Err(missing)
            if missing.kind() == Kind::NotFound && missing.subject() == Subject::Object =>
        {
            Ok(Deleted::default())
        }
        other => other,
    }
}

/// What a delete tells of versions ("DeleteObject", Amazon S3 API reference).
struct Told {
    /// Whether a delete marker was made, or one was removed.
    marker: bool,
    /// The version that was made or removed.
    version: Option<String>,
}

impl Told {
    fn of(deleted: &Deleted, named: Option<String>, versioned: bool) -> Self {
        if let Some(made) = &deleted.marker {
            return Self {
                marker: true,
                version: Some(made.version.clone()),
            };
        }
        Self {
            marker: deleted.gone.as_ref().is_some_and(|gone| gone.marker),
            version: named.filter(|_| versioned),
        }
    }
}

pub(super) async fn delete_many(
    door: &Door,
    request: S3Request<DeleteObjectsInput>,
) -> S3Result<DeleteObjectsOutput> {
    let who = who(&request.extensions);
    let caller = caller(&request.extensions);
    let keys = super::access::keys(&request.extensions);
    let bypass = actions::is_true(&request.headers, "x-amz-bypass-governance-retention");
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
    let gate = door.gate.clone();
    let results = door
        .ask(move |store| {
            store.bucket(&bucket)?;
            let versioned = versions::is_versioned(store, &bucket)?;
            // What may not be deleted never reaches the one transaction that deletes the rest.
            let admitted: Vec<(Listed, Result<Delete, S3Error>)> = asked
                .into_iter()
                .map(|object| {
                    let listed = Listed::of(&object);
                    let version = listed.version.as_deref();
                    let needs = actions::deleting(&bucket, &listed.key, version, bypass);
                    let admitted = to_delete(object, bypass).and_then(|delete| {
                        let allowed = gate.decide(&caller, &needs, &keys);
                        allowed.map(|()| delete).map_err(super::error::failed)
                    });
                    (listed, admitted)
                })
                .collect();
            let deletes: Vec<Delete> = admitted
                .iter()
                .filter_map(|(_, admitted)| admitted.as_ref().ok().cloned())
                .collect();
            let mut done = store.objects_delete(&who, &bucket, &deletes)?.into_iter();
            let results = admitted.into_iter().map(|(listed, admitted)| {
                let result = admitted.and_then(|_| match done.next() {
                    Some(deleted) => gone_is_fine(deleted).map_err(super::error::failed),
                    None => Err(s3_error!(InternalError)),
                });
                (listed, result)
            });
            Ok((versioned, results.collect::<Vec<_>>()))
        })
        .await?;

    let quiet = input.delete.quiet == Some(true);
    let (versioned, results) = results;
    let (mut deleted, mut errors) = (Vec::new(), Vec::new());
    for (listed, result) in results {
        match result {
            Ok(_) if quiet => {}
            Ok(done) => {
                let told = Told::of(&done, listed.version.clone(), versioned);
                let named = listed.version.is_some();
                deleted.push(DeletedObject {
                    delete_marker: told.marker.then_some(true),
                    delete_marker_version_id: told.version.clone().filter(|_| told.marker),
                    key: Some(listed.key),
                    version_id: told.version.filter(|_| named),
                });
            }
            Err(refused) => errors.push(Error {
                code: Some(refused.code().as_str().to_owned()),
                key: Some(listed.key),
                message: refused.message().map(ToOwned::to_owned),
                version_id: listed.version,
            }),
        }
    }
    Ok(DeleteObjectsOutput {
        deleted: Some(deleted),
        errors: Some(errors),
        ..DeleteObjectsOutput::default()
    })
}

/// An entry of DeleteObjects, as replies name it.
struct Listed {
    key: String,
    version: Option<String>,
}

impl Listed {
    fn of(object: &ObjectIdentifier) -> Self {
        Self {
            key: object.key.clone(),
            version: object
                .version_id
                .clone()
                .filter(|version| !version.is_empty()),
        }
    }
}

fn to_delete(object: ObjectIdentifier, bypass_governance: bool) -> S3Result<Delete> {
    check_key(&object.key)?;
    let wanted = object.e_tag.as_ref().map(|etag| etag.value().to_owned());
    Ok(Delete {
        key: object.key,
        version: object.version_id.filter(|version| !version.is_empty()),
        condition: Precondition {
            if_match: wanted.into_iter().collect(),
            modified_ms: object
                .last_modified_time
                .as_ref()
                .map(condition::milliseconds),
            length_bytes: object.size.map(condition::size),
            ..Precondition::default()
        },
        bypass_governance,
    })
}
