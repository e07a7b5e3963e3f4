//! Multipart uploads: create, part, abort, list parts. Their completion has its own file.

use super::access::list_in;
use super::acl;
use super::checksum::{ALGORITHM, Algorithm, COMPOSITE, FULL_OBJECT, TYPE};
use super::claims::Claims;
use super::dress::dress;
use super::metadata::describe;
use super::objects::{etag, show_checksums};
use super::receive::{Incoming, Length, receive};
use super::{Door, caller, stamp, who};
use blockstore::object::{Object, ObjectMeta, Part, Upload};
use s3s::dto::{
    self, AbortMultipartUploadInput, AbortMultipartUploadOutput, ChecksumAlgorithm, ChecksumType,
    CreateMultipartUploadInput, CreateMultipartUploadOutput, Initiator, ListPartsInput,
    ListPartsOutput, StorageClass, UploadPartInput, UploadPartOutput,
};
use s3s::{S3Error, S3Request, S3Result, s3_error};
use std::collections::BTreeMap;

/// "Amazon S3 multipart upload limits".
const PARTS_MAX: u32 = 10_000;
/// Where an object keeps the checksums of the parts it was completed from, among its properties.
const PARTS: &str = "s3-parts";
/// For so many parts at most.
const KEPT_PARTS_MAX: usize = 256;
/// Parts on one page at most.
const PAGE_MAX: i32 = 1000;

/// The checksum of an upload: which, and how its parts add up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Scheme {
    pub(super) algorithm: Algorithm,
    pub(super) kind: &'static str,
    /// Whether the client chose it. If not, S3 keeps a CRC64NVME by itself.
    chosen: bool,
}

impl Scheme {
    pub(super) fn of(upload: &Upload) -> Self {
        let kept = &upload.meta.checksums;
        let algorithm = kept.get(ALGORITHM).and_then(|name| Algorithm::named(name));
        let full = kept.get(TYPE).is_none_or(|kind| kind == FULL_OBJECT);
        Self {
            algorithm: algorithm.unwrap_or(Algorithm::Crc64Nvme),
            kind: if full { FULL_OBJECT } else { COMPOSITE },
            chosen: algorithm.is_some(),
        }
    }

    /// Keeps the parts' own checksums with an object that is completed from them: S3 shows them, of
    /// an upload that was begun with a checksum. Not of very many parts: every listing reads them.
    pub(super) fn keep_parts(self, meta: &mut ObjectMeta, parts: &[&Part]) {
        if !self.chosen || parts.len() > KEPT_PARTS_MAX {
            return;
        }
        let name = self.algorithm.name();
        let values = parts.iter().map(|part| part.checksums.get(name).cloned());
        if let Some(values) = values.collect::<Option<Vec<String>>>() {
            let kept = serde_json::json!({ name: values });
            meta.properties.insert(PARTS.to_owned(), kept);
        }
    }

    /// The algorithm that a header names.
    pub(super) fn algorithm(name: &str) -> S3Result<Algorithm> {
        Algorithm::named(name).ok_or_else(|| {
            s3_error!(
                InvalidRequest,
                "Checksum algorithm provided is unsupported: {name:?}. Please try again with any of \
                 the valid types: [CRC32, CRC32C, CRC64NVME, SHA1, SHA256]"
            )
        })
    }

    fn asked(algorithm: Option<&str>, kind: Option<&str>) -> S3Result<BTreeMap<String, String>> {
        let Some(name) = algorithm else {
            return match kind {
                None => Ok(BTreeMap::new()),
                Some(_) => Err(s3_error!(
                    InvalidRequest,
                    "The x-amz-checksum-type header can only be used with the \
                     x-amz-checksum-algorithm header."
                )),
            };
        };
        let algorithm = Self::algorithm(name)?;
        let kind = kind.unwrap_or_else(|| algorithm.default_type());
        if !algorithm.allows(kind) {
            return Err(s3_error!(
                InvalidRequest,
                "The {kind} checksum type cannot be used with the {} checksum algorithm.",
                algorithm.name()
            ));
        }
        Ok(BTreeMap::from([
            (ALGORITHM.to_owned(), algorithm.name().to_owned()),
            (TYPE.to_owned(), kind.to_owned()),
        ]))
    }

    fn shown(self) -> (Option<ChecksumAlgorithm>, Option<ChecksumType>) {
        if !self.chosen {
            return (None, None);
        }
        (
            Some(ChecksumAlgorithm::from(self.algorithm.s3_name().to_owned())),
            Some(ChecksumType::from(self.kind.to_owned())),
        )
    }
}

pub(super) async fn create(
    door: &Door,
    request: S3Request<CreateMultipartUploadInput>,
) -> S3Result<CreateMultipartUploadOutput> {
    let caller = caller(&request.extensions);
    let headers = request.headers;
    let input = request.input;
    let mut meta = describe(&headers, input.metadata)?;
    meta.checksums = Scheme::asked(
        input
            .checksum_algorithm
            .as_ref()
            .map(ChecksumAlgorithm::as_str),
        input.checksum_type.as_ref().map(ChecksumType::as_str),
    )?;
    let (bucket, key) = (input.bucket, input.key);
    let upload = door
        .ask(move |store| {
            let found = store.bucket(&bucket)?;
            if let Err(refused) = dress(store, &caller, &found, &headers, &mut meta) {
                return Ok(Err(refused));
            }
            store
                .upload_create(&caller.who(), &bucket, &key, meta)
                .map(Ok)
        })
        .await??;
    let (checksum_algorithm, checksum_type) = Scheme::of(&upload).shown();
    Ok(CreateMultipartUploadOutput {
        bucket: Some(upload.bucket),
        checksum_algorithm,
        checksum_type,
        key: Some(upload.key),
        upload_id: Some(upload.id),
        ..CreateMultipartUploadOutput::default()
    })
}

pub(super) fn check_number(number: i32) -> S3Result<u32> {
    u32::try_from(number).ok().filter(|number| (1..=PARTS_MAX).contains(number)).ok_or_else(|| {
        s3_error!(
            InvalidArgument,
            "Part number must be an integer between 1 and {PARTS_MAX}, inclusive: it is {number}"
        )
    })
}

pub(super) async fn part(
    door: &Door,
    request: S3Request<UploadPartInput>,
) -> S3Result<UploadPartOutput> {
    let who = who(&request.extensions);
    let input = request.input;
    let number = check_number(input.part_number)?;
    let claims = Claims::of(&request.headers)?;
    let upload = door
        .ask({
            let (bucket, key) = (input.bucket.clone(), input.key);
            move |store| store.upload(&bucket, &key, &input.upload_id)
        })
        .await?;
    let scheme = Scheme::of(&upload);
    if let Some(claimed) = claims.algorithm()
        && scheme.chosen
        && claimed != scheme.algorithm
    {
        return Err(s3_error!(
            InvalidRequest,
            "Checksum Type mismatch occurred, expected checksum Type: {}, actual checksum Type: {}",
            scheme.algorithm.name(),
            claimed.name()
        ));
    }
    let incoming = Incoming {
        body: input.body,
        length: Length::Announced,
        headers: &request.headers,
        trailers: request.trailing_headers,
        claims: &claims,
        key: None,
    };
    let received = receive(door, &input.bucket, incoming, &[scheme.algorithm]).await?;
    let mut checksums = received.sums.kept(FULL_OBJECT);
    checksums.remove(TYPE);
    let tag = received.sums.etag();
    let mut output = UploadPartOutput {
        e_tag: etag(&tag),
        ..UploadPartOutput::default()
    };
    show_checksums!(output, &checksums);
    let writer = received.writer;
    door.ask(move |_| writer.commit_part(&who, &upload, number, tag, checksums))
        .await?;
    Ok(output)
}

/// The checksum of one part of a completed object (from 0), by its algorithm, if it is kept.
pub(super) fn part_checksum(object: &Object, place: usize) -> BTreeMap<String, String> {
    let kept = object.meta.properties.get(PARTS);
    let kept = kept.and_then(|kept| kept.as_object()).into_iter().flatten();
    kept.filter_map(|(name, values)| {
        let value = values.as_array()?.get(place)?.as_str()?;
        Some((name.clone(), value.to_owned()))
    })
    .collect()
}

pub(super) async fn abort(
    door: &Door,
    request: S3Request<AbortMultipartUploadInput>,
) -> S3Result<AbortMultipartUploadOutput> {
    let who = who(&request.extensions);
    let input = request.input;
    door.ask(move |store| {
        let upload = store.upload(&input.bucket, &input.key, &input.upload_id)?;
        store.upload_abort(&who, &upload)
    })
    .await?;
    Ok(AbortMultipartUploadOutput::default())
}

pub(super) async fn list_parts(
    door: &Door,
    request: S3Request<ListPartsInput>,
) -> S3Result<ListPartsOutput> {
    let input = request.input;
    let asked = input.max_parts.unwrap_or(PAGE_MAX);
    let marker = input.part_number_marker.unwrap_or(0);
    let (Ok(max), Ok(after)) = (usize::try_from(asked.min(PAGE_MAX)), u32::try_from(marker)) else {
        return Err(negative("max-parts and part-number-marker"));
    };
    let (owner, upload, mut parts) = door
        .ask(move |store| {
            let upload = store.upload(&input.bucket, &input.key, &input.upload_id)?;
            let parts = store.upload_parts(&upload)?;
            let owner = store.bucket(&upload.bucket)?.project;
            Ok((owner, upload, parts))
        })
        .await?;
    parts.retain(|part| part.number > after);
    let more = parts.len() > max;
    parts.truncate(max);
    let number = |part: &Part| i32::try_from(part.number).ok();
    let last = parts.last().and_then(number);
    let (checksum_algorithm, checksum_type) = Scheme::of(&upload).shown();
    let shown = parts
        .iter()
        .map(|part| {
            let mut shown = dto::Part {
                e_tag: etag(&part.etag),
                last_modified: Some(stamp(part.modified_ms)),
                part_number: number(part),
                size: i64::try_from(part.length_bytes).ok(),
                ..dto::Part::default()
            };
            show_checksums!(shown, &part.checksums);
            shown
        })
        .collect();
    let initiator = initiator(&upload, &owner);
    let owner = owner_of(&upload, &owner);
    Ok(ListPartsOutput {
        bucket: Some(upload.bucket),
        checksum_algorithm,
        checksum_type,
        initiator: Some(initiator),
        is_truncated: Some(more),
        key: Some(upload.key),
        max_parts: Some(asked.min(PAGE_MAX)),
        next_part_number_marker: last.filter(|_| more),
        owner: Some(acl::owner(&owner)),
        part_number_marker: Some(marker),
        parts: Some(shown),
        storage_class: Some(StorageClass::from_static(StorageClass::STANDARD)),
        upload_id: Some(upload.id),
        ..ListPartsOutput::default()
    })
}

/// The project that will own what an upload makes: as its list says, or else the bucket's.
pub(super) fn owner_of(upload: &Upload, bucket_owner: &str) -> String {
    list_in(&upload.meta).map_or_else(|| bucket_owner.to_owned(), |list| list.owner)
}

/// Who began an upload. Projects stand here as they do for owners.
pub(super) fn initiator(upload: &Upload, bucket_owner: &str) -> Initiator {
    let owner = acl::owner(&owner_of(upload, bucket_owner));
    Initiator {
        display_name: owner.display_name,
        id: owner.id,
    }
}

pub(super) fn negative(what: &str) -> S3Error {
    s3_error!(InvalidArgument, "{what} must be 0 or more")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upload_s_checksum_is_a_possible_one() {
        let kept = Scheme::asked(Some("CRC32"), None).unwrap();
        assert_eq!(kept[TYPE], COMPOSITE);
        assert_eq!(
            Scheme::asked(Some("CRC32"), Some(FULL_OBJECT)).unwrap()[TYPE],
            FULL_OBJECT
        );
        assert_eq!(
            Scheme::asked(Some("CRC64NVME"), None).unwrap()[TYPE],
            FULL_OBJECT
        );
        assert!(Scheme::asked(Some("SHA256"), Some(FULL_OBJECT)).is_err());
        assert!(Scheme::asked(Some("CRC64NVME"), Some(COMPOSITE)).is_err());
        assert!(Scheme::asked(Some("MD4"), None).is_err());
        assert!(Scheme::asked(None, Some(COMPOSITE)).is_err());
        assert!(Scheme::asked(None, None).unwrap().is_empty());
    }
}
