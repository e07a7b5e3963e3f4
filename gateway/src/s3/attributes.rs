//! GetObjectAttributes: chosen facts of a version, and the parts it was completed from.

use super::checksum::ALGORITHM;
use super::multipart::part_checksum;
use super::objects::{checksum_type, show_checksums};
use super::versions::{self, Found};
use super::{Door, stamp};
use s3s::dto::{
    Checksum, ETag, GetObjectAttributesInput, GetObjectAttributesOutput, GetObjectAttributesParts,
    ObjectPart, StorageClass,
};
use s3s::{S3Request, S3Result, s3_error};

/// Parts on one page at most.
const PAGE_MAX: i32 = 1000;
const KNOWN: [&str; 5] = [
    "ETag",
    "Checksum",
    "ObjectParts",
    "StorageClass",
    "ObjectSize",
];

pub(super) async fn get(
    door: &Door,
    request: S3Request<GetObjectAttributesInput>,
) -> S3Result<GetObjectAttributesOutput> {
    let input = request.input;
    let asked: Vec<String> = input
        .object_attributes
        .iter()
        .flat_map(|listed| listed.as_str().split(','))
        .map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty())
        .collect();
    if let Some(unknown) = asked.iter().find(|name| !KNOWN.contains(&name.as_str())) {
        return Err(s3_error!(
            InvalidArgument,
            "Invalid attribute name specified: {unknown:?}; {} are known",
            KNOWN.join(", ")
        ));
    }
    if asked.is_empty() {
        return Err(s3_error!(
            InvalidArgument,
            "The x-amz-object-attributes header specifying the attributes to be retrieved is \
             either missing or empty"
        ));
    }
    let wants = |name: &str| asked.iter().any(|asked| asked == name);
    let most = input.max_parts.unwrap_or(PAGE_MAX).min(PAGE_MAX);
    let marker = input.part_number_marker.unwrap_or(0);
    let (Ok(page), Ok(after)) = (usize::try_from(most), usize::try_from(marker)) else {
        return Err(super::multipart::negative(
            "x-amz-max-parts and x-amz-part-number-marker",
        ));
    };
    let (bucket, key, version) = (input.bucket, input.key, input.version_id);
    let Found { object, shown_id } = door
        .ask(move |store| versions::look(store, &bucket, &key, version.as_deref()))
        .await??;

    let kept = &object.meta.checksums;
    let checksum = (wants("Checksum") && kept.keys().any(|name| name != ALGORITHM)).then(|| {
        let mut checksum = Checksum {
            checksum_type: checksum_type(kept),
            ..Checksum::default()
        };
        show_checksums!(checksum, kept);
        checksum
    });
    let object_parts = (wants("ObjectParts") && !object.parts.is_empty()).then(|| {
        let rest = object.parts.iter().enumerate().skip(after);
        let parts: Vec<ObjectPart> = rest
            .take(page)
            .map(|(place, length)| {
                let mut part = ObjectPart {
                    part_number: i32::try_from(place + 1).ok(),
                    size: i64::try_from(*length).ok(),
                    ..ObjectPart::default()
                };
                show_checksums!(part, &part_checksum(&object, place));
                part
            })
            .collect();
        let more = after.saturating_add(parts.len()) < object.parts.len();
        GetObjectAttributesParts {
            is_truncated: Some(more),
            max_parts: Some(most),
            next_part_number_marker: parts.last().and_then(|part| part.part_number),
            part_number_marker: Some(marker),
            parts: Some(parts),
            total_parts_count: i32::try_from(object.parts.len()).ok(),
        }
    });
    Ok(GetObjectAttributesOutput {
        checksum,
        e_tag: wants("ETag").then(|| ETag::Strong(object.meta.etag.clone())),
        last_modified: Some(stamp(object.modified_ms)),
        object_parts,
        object_size: wants("ObjectSize")
            .then(|| i64::try_from(object.length_bytes).ok())
            .flatten(),
        storage_class: wants("StorageClass")
            .then(|| StorageClass::from_static(StorageClass::STANDARD)),
        version_id: shown_id,
        ..GetObjectAttributesOutput::default()
    })
}
