//! The completion of a multipart upload. It moves no bytes: the store concatenates the parts' maps,
//! and the ETag and checksums are put together from the parts' own.

use super::checksum::{
    Algorithm, FULL_OBJECT, TYPE, composite, full_object, mismatch, multipart_etag,
};
use super::multipart::{Scheme, check_number};
use super::objects::{checksum_type, etag, missing_target, show_checksums};
use super::versions::written_id;
use super::{Door, condition, error, who};
use blockstore::object::{ObjectMeta, Part, Upload};
use blockstore::{Kind, Subject};
use s3s::dto::{CompleteMultipartUploadInput, CompleteMultipartUploadOutput, CompletedPart};
use s3s::{S3Request, S3Result, s3_error};
use std::collections::BTreeMap;

/// Bytes of every part but the last, at least ("Amazon S3 multipart upload limits").
const PART_BYTES_MIN: u64 = 5 << 20;

pub(super) async fn complete(
    door: &Door,
    request: S3Request<CompleteMultipartUploadInput>,
) -> S3Result<CompleteMultipartUploadOutput> {
    let who = who(&request.extensions);
    let mut input = request.input;
    let condition = condition::of_write(input.if_match.as_ref(), input.if_none_match.as_ref())?;
    let listed = input
        .multipart_upload
        .take()
        .and_then(|listed| listed.parts)
        .unwrap_or_default();
    let listed = in_order(listed)?;
    let target = (input.bucket.clone(), input.key.clone());
    let id = input.upload_id.clone();
    let found = door
        .ask({
            let (bucket, key) = target.clone();
            move |store| match store.upload(&bucket, &key, &id) {
                Ok(upload) => store
                    .upload_parts(&upload)
                    .map(|parts| Some((upload, parts))),
                Err(gone) if gone.kind() == Kind::NotFound && gone.subject() == Subject::Upload => {
                    Ok(None)
                }
                Err(other) => Err(other),
            }
        })
        .await?;
    let Some((upload, parts)) = found else {
        return completed_before(door, target, &input.upload_id, &listed).await;
    };
    let scheme = Scheme::of(&upload);
    let chosen = choose(&listed, &parts)?;
    let length: u64 = chosen.iter().map(|part| part.length_bytes).sum();
    if let Some(size) = input.mpu_object_size
        && u64::try_from(size) != Ok(length)
    {
        return Err(s3_error!(
            InvalidRequest,
            "The provided 'x-amz-mp-object-size' header does not match what was computed: {size} \
             against {length}"
        ));
    }
    let meta = completed_meta(&upload, scheme, &chosen)?;
    check_object_claims(&input, scheme, &meta)?;

    let mut output = shown(&target, &meta);
    let parts: Vec<(u32, String)> = chosen
        .iter()
        .map(|part| (part.number, part.etag.clone()))
        .collect();
    output.version_id = door
        .ask(move |store| {
            let found = store.bucket(&target.0)?;
            let object = store
                .upload_complete(&who, &upload, &parts, meta, &condition)
                .map_err(|refused| {
                    missing_target(store, (&target.0, &target.1), &condition, refused)
                })?;
            Ok(written_id(&found, &object))
        })
        .await?;
    Ok(output)
}

/// A part as the completing client names it.
struct Listed {
    number: u32,
    etag: String,
    checksums: BTreeMap<&'static str, String>,
}

fn in_order(parts: Vec<CompletedPart>) -> S3Result<Vec<Listed>> {
    if parts.is_empty() {
        return Err(s3_error!(
            MalformedXML,
            "The XML you provided did not validate against our published schema: it names no part"
        ));
    }
    let mut listed: Vec<Listed> = Vec::with_capacity(parts.len());
    for part in parts {
        let (Some(number), Some(etag)) = (part.part_number, part.e_tag) else {
            return Err(s3_error!(
                MalformedXML,
                "A part of the list has no PartNumber or no ETag"
            ));
        };
        let number = check_number(number)?;
        if listed.last().is_some_and(|before| before.number >= number) {
            return Err(s3_error!(
                InvalidPartOrder,
                "The list of parts was not in ascending order: part {number} stands behind a later \
                 one. Parts must be ordered by part number."
            ));
        }
        let given = [
            ("crc32", part.checksum_crc32),
            ("crc32c", part.checksum_crc32c),
            ("crc64nvme", part.checksum_crc64nvme),
            ("sha1", part.checksum_sha1),
            ("sha256", part.checksum_sha256),
        ];
        listed.push(Listed {
            number,
            etag: etag.into_value(),
            checksums: given
                .into_iter()
                .filter_map(|(name, value)| Some((name, value?)))
                .collect(),
        });
    }
    Ok(listed)
}

/// The stored parts that the client named, if all are there and what it says they are.
fn choose<'a>(listed: &[Listed], parts: &'a [Part]) -> S3Result<Vec<&'a Part>> {
    let stored: BTreeMap<u32, &Part> = parts.iter().map(|part| (part.number, part)).collect();
    let mut chosen = Vec::with_capacity(listed.len());
    for named in listed {
        let matching = stored.get(&named.number).filter(|part| {
            let same = |(name, value): (&&str, &String)| part.checksums.get(*name) == Some(value);
            part.etag == named.etag && named.checksums.iter().all(same)
        });
        let Some(part) = matching else {
            return Err(s3_error!(
                InvalidPart,
                "One or more of the specified parts could not be found: part {}. The part may not \
                 have been uploaded, or the specified entity tag or checksum may not match.",
                named.number
            ));
        };
        chosen.push(*part);
    }
    let small = chosen
        .iter()
        .rev()
        .skip(1)
        .find(|part| part.length_bytes < PART_BYTES_MIN);
    match small {
        None => Ok(chosen),
        Some(part) => Err(s3_error!(
            EntityTooSmall,
            "Your proposed upload is smaller than the minimum allowed size: part {} has {} bytes, \
             every part but the last must have {PART_BYTES_MIN}",
            part.number,
            part.length_bytes
        )),
    }
}

fn completed_meta(upload: &Upload, scheme: Scheme, parts: &[&Part]) -> S3Result<ObjectMeta> {
    let damaged = |what: &str| {
        error::failed(blockstore::Error::new(
            Kind::Corrupt,
            Subject::Part,
            format!("the {what} of a part of upload {} is none", upload.id),
        ))
    };
    let tag = multipart_etag(parts.iter().map(|part| part.etag.as_str()));
    let mut meta = ObjectMeta {
        etag: tag.ok_or_else(|| damaged("ETag"))?,
        checksums: BTreeMap::new(),
        // Headers, metadata, tags, lock and list, as the upload was begun with.
        ..upload.meta.clone()
    };
    let name = scheme.algorithm.name();
    let values: Option<Vec<(&str, u64)>> = parts
        .iter()
        .map(|part| Some((part.checksums.get(name)?.as_str(), part.length_bytes)))
        .collect();
    let values = values.ok_or_else(|| damaged(name))?;
    let value = if scheme.kind == FULL_OBJECT {
        full_object(scheme.algorithm, values.into_iter())
    } else {
        composite(scheme.algorithm, values.into_iter().map(|(value, _)| value))
    };
    meta.checksums
        .insert(name.into(), value.ok_or_else(|| damaged(name))?);
    meta.checksums.insert(TYPE.into(), scheme.kind.into());
    scheme.keep_parts(&mut meta, parts);
    Ok(meta)
}

/// What the completing client says of the object as a whole.
fn check_object_claims(
    input: &CompleteMultipartUploadInput,
    scheme: Scheme,
    meta: &ObjectMeta,
) -> S3Result<()> {
    if let Some(kind) = &input.checksum_type
        && kind.as_str() != scheme.kind
    {
        return Err(s3_error!(
            InvalidRequest,
            "The upload was created using the {} checksum mode. The complete request must use the \
             same checksum mode, not {}.",
            scheme.kind,
            kind.as_str()
        ));
    }
    let claims = [
        (Algorithm::Crc32, &input.checksum_crc32),
        (Algorithm::Crc32c, &input.checksum_crc32c),
        (Algorithm::Crc64Nvme, &input.checksum_crc64nvme),
        (Algorithm::Sha1, &input.checksum_sha1),
        (Algorithm::Sha256, &input.checksum_sha256),
    ];
    for (algorithm, claimed) in claims {
        let Some(claimed) = claimed else { continue };
        let Some(arrived) = meta.checksums.get(algorithm.name()) else {
            return Err(s3_error!(
                InvalidRequest,
                "The upload was created using a {} checksum; {} cannot be checked.",
                scheme.algorithm.name(),
                algorithm.name()
            ));
        };
        // Some clients leave the number of parts off a composite.
        let bare = arrived.split('-').next().unwrap_or_default();
        if claimed != arrived && claimed != bare {
            return Err(mismatch(algorithm, claimed, arrived));
        }
    }
    Ok(())
}

/// The upload is gone: either it never was, or this completion is a client's second try after it
/// lost the answer to the first. Then the object is there, with the ETag that these parts make.
async fn completed_before(
    door: &Door,
    target: (String, String),
    upload_id: &str,
    listed: &[Listed],
) -> S3Result<CompleteMultipartUploadOutput> {
    let none = s3_error!(
        NoSuchUpload,
        "The specified multipart upload does not exist: {upload_id:?}. The upload ID might be \
         invalid, or the multipart upload might have been aborted or completed."
    );
    let (bucket, key) = target.clone();
    let object = door
        .ask(move |store| store.object_head(&bucket, &key))
        .await;
    let wanted = multipart_etag(listed.iter().map(|part| part.etag.as_str()));
    let Some(object) = object
        .ok()
        .filter(|object| Some(&object.meta.etag) == wanted.as_ref())
    else {
        return Err(none);
    };
    Ok(shown(&target, &object.meta))
}

fn shown(target: &(String, String), meta: &ObjectMeta) -> CompleteMultipartUploadOutput {
    let mut output = CompleteMultipartUploadOutput {
        bucket: Some(target.0.clone()),
        checksum_type: checksum_type(&meta.checksums),
        e_tag: etag(&meta.etag),
        key: Some(target.1.clone()),
        location: Some(format!("/{}/{}", target.0, target.1)),
        ..CompleteMultipartUploadOutput::default()
    };
    show_checksums!(output, &meta.checksums);
    output
}

#[cfg(test)]
mod tests {
    use super::*;
    use s3s::dto::ETag;

    fn listed(numbers: &[i32]) -> Result<Vec<u32>, String> {
        let parts = numbers.iter().map(|number| CompletedPart {
            part_number: Some(*number),
            e_tag: Some(ETag::Strong("e".into())),
            ..CompletedPart::default()
        });
        in_order(parts.collect())
            .map(|listed| listed.iter().map(|part| part.number).collect())
            .map_err(|refused| refused.code().as_str().to_owned())
    }

    #[test]
    fn parts_are_listed_in_rising_order() {
        assert_eq!(listed(&[1, 3, 10_000]), Ok(vec![1, 3, 10_000]));
        assert_eq!(listed(&[2, 1]), Err("InvalidPartOrder".into()));
        assert_eq!(listed(&[1, 1]), Err("InvalidPartOrder".into()));
        assert_eq!(listed(&[]), Err("MalformedXML".into()));
        for number in [0, -1, 10_001] {
            assert_eq!(listed(&[number]), Err("InvalidArgument".into()));
        }
    }

    fn stored(number: u32, length_bytes: u64) -> Part {
        Part {
            number,
            length_bytes,
            etag: "e".into(),
            checksums: BTreeMap::from([("crc32".to_owned(), "AAAAAA==".to_owned())]),
            modified_ms: 0,
            pieces: Vec::new(),
        }
    }

    fn named(number: u32, etag: &str, crc32: Option<&str>) -> Listed {
        let checksums = crc32
            .map(|value| ("crc32", value.to_owned()))
            .into_iter()
            .collect();
        Listed {
            number,
            etag: etag.into(),
            checksums,
        }
    }

    #[test]
    fn a_part_that_is_not_what_the_client_says_is_refused() {
        let parts = [stored(1, PART_BYTES_MIN), stored(2, 1)];
        let code = |listed: &[Listed]| {
            choose(listed, &parts)
                .map(|chosen| chosen.len())
                .map_err(|refused| refused.code().clone())
        };
        assert_eq!(
            code(&[named(1, "e", None), named(2, "e", Some("AAAAAA=="))]),
            Ok(2)
        );
        assert_eq!(code(&[named(2, "e", None)]), Ok(1));
        for wrong in [
            named(2, "x", None),
            named(3, "e", None),
            named(2, "e", Some("AAAAAQ==")),
        ] {
            assert_eq!(code(&[wrong]), Err(s3s::S3ErrorCode::InvalidPart));
        }
    }

    #[test]
    fn only_the_last_part_may_be_small() {
        let parts = [stored(1, PART_BYTES_MIN - 1), stored(2, 1)];
        let refused = choose(&[named(1, "e", None), named(2, "e", None)], &parts).unwrap_err();
        assert_eq!(refused.code().as_str(), "EntityTooSmall");
        assert!(choose(&[named(1, "e", None)], &parts).is_ok());
    }
}
