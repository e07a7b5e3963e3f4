//! Listings: objects in both versions, and uploads under way.
//!
//! Pages hold a thousand entries at most, in byte order of keys. A continuation token is the place
//! to go on behind, in base64, so that it survives any change of the listing.

use super::access::object_list;
use super::acl;
use super::checksum::{Algorithm, TYPE};
use super::multipart::{initiator, negative, owner_of};
use super::objects::{checksum_type, etag};
use super::settings::enforces_owner;
use super::{Door, stamp};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use blockstore::object::{Bucket, ListPage, ListQuery, Object, Upload};
use s3s::dto::{
    self, ChecksumAlgorithm, CommonPrefix, EncodingType, ListMultipartUploadsInput,
    ListMultipartUploadsOutput, ListObjectsInput, ListObjectsOutput, ListObjectsV2Input,
    ListObjectsV2Output, MultipartUpload, ObjectStorageClass, StorageClass,
};
use s3s::{S3Request, S3Result, s3_error};
use std::fmt::Write;

/// Entries on one page at most.
const PAGE_MAX: i32 = 1000;

pub(super) async fn version_1(
    door: &Door,
    request: S3Request<ListObjectsInput>,
) -> S3Result<ListObjectsOutput> {
    let input = request.input;
    let spell = Spelling::asked(input.encoding_type.as_ref())?;
    let (max, max_keys) = page_size(input.max_keys, "max-keys")?;
    let prefix = input.prefix.unwrap_or_default();
    let delimiter = some_text(input.delimiter);
    let query = ListQuery {
        prefix: prefix.clone(),
        delimiter: delimiter.clone(),
        start_after: some_text(input.marker.clone()),
        max,
    };
    let bucket = input.bucket.clone();
    let (found, page) = door
        .ask(move |store| Ok((store.bucket(&bucket)?, store.object_list(&bucket, &query)?)))
        .await?;
    let rolled_up = delimiter.is_some();
    Ok(ListObjectsOutput {
        name: Some(input.bucket),
        prefix: Some(spell.text(&prefix)),
        marker: Some(spell.text(input.marker.as_deref().unwrap_or_default())),
        max_keys: Some(max_keys),
        is_truncated: Some(page.next.is_some()),
        common_prefixes: Some(prefixes(&page, spell)),
        // Without a delimiter a client goes on behind the last key it saw.
        next_marker: page
            .next
            .as_deref()
            .filter(|_| rolled_up)
            .map(|next| spell.text(next)),
        contents: Some(
            page.objects
                .iter()
                .map(|object| entry(object, spell, Some(&found)))
                .collect(),
        ),
        delimiter: delimiter.map(|delimiter| spell.text(&delimiter)),
        encoding_type: input.encoding_type,
        ..ListObjectsOutput::default()
    })
}

pub(super) async fn version_2(
    door: &Door,
    request: S3Request<ListObjectsV2Input>,
) -> S3Result<ListObjectsV2Output> {
    let input = request.input;
    let spell = Spelling::asked(input.encoding_type.as_ref())?;
    let (max, max_keys) = page_size(input.max_keys, "max-keys")?;
    let prefix = input.prefix.unwrap_or_default();
    let delimiter = some_text(input.delimiter);
    let token = input.continuation_token;
    let behind = match token.as_deref().filter(|token| !token.is_empty()) {
        Some(token) => Some(read_token(token)?),
        None => some_text(input.start_after.clone()),
    };
    let query = ListQuery {
        prefix: prefix.clone(),
        delimiter: delimiter.clone(),
        start_after: behind,
        max,
    };
    let bucket = input.bucket.clone();
    let (found, page) = door
        .ask(move |store| Ok((store.bucket(&bucket)?, store.object_list(&bucket, &query)?)))
        .await?;
    let owners = input.fetch_owner == Some(true);
    Ok(ListObjectsV2Output {
        name: Some(input.bucket),
        prefix: Some(spell.text(&prefix)),
        max_keys: Some(max_keys),
        key_count: i32::try_from(page.objects.len() + page.prefixes.len()).ok(),
        continuation_token: token,
        is_truncated: Some(page.next.is_some()),
        next_continuation_token: page.next.as_deref().map(write_token),
        common_prefixes: Some(prefixes(&page, spell)),
        contents: Some(
            page.objects
                .iter()
                .map(|object| entry(object, spell, owners.then_some(&found)))
                .collect(),
        ),
        delimiter: delimiter.map(|delimiter| spell.text(&delimiter)),
        encoding_type: input.encoding_type,
        start_after: input.start_after.map(|after| spell.text(&after)),
        ..ListObjectsV2Output::default()
    })
}

pub(super) async fn uploads(
    door: &Door,
    request: S3Request<ListMultipartUploadsInput>,
) -> S3Result<ListMultipartUploadsOutput> {
    let input = request.input;
    let spell = Spelling::asked(input.encoding_type.as_ref())?;
    let (max, max_uploads) = page_size(input.max_uploads, "max-uploads")?;
    let bucket = input.bucket.clone();
    let (owner, all) = door
        .ask(move |store| Ok((store.bucket(&bucket)?.project, store.uploads(&bucket)?)))
        .await?;
    let prefix = input.prefix.unwrap_or_default();
    let delimiter = some_text(input.delimiter);
    let after = some_text(input.key_marker.clone());
    // Without a key, S3 ignores the id ("ListMultipartUploads", Amazon S3 API reference).
    let after_id = after
        .as_ref()
        .and(some_text(input.upload_id_marker.clone()));
    let page = UploadPage::of(
        all,
        &prefix,
        delimiter.as_deref(),
        after.as_deref().map(|key| (key, after_id.as_deref())),
        max,
    );
    let shown = page.uploads.into_iter().map(|upload| {
        let kept = &upload.meta.checksums;
        let algorithm = kept
            .get(super::checksum::ALGORITHM)
            .and_then(|name| Algorithm::named(name));
        MultipartUpload {
            checksum_algorithm: algorithm
                .map(|algorithm| ChecksumAlgorithm::from(algorithm.s3_name().to_owned())),
            checksum_type: algorithm.and_then(|_| checksum_type(kept)),
            initiated: Some(stamp(upload.created_ms)),
            initiator: Some(initiator(&upload, &owner)),
            key: Some(spell.text(&upload.key)),
            owner: Some(acl::owner(&owner_of(&upload, &owner))),
            storage_class: Some(StorageClass::from_static(StorageClass::STANDARD)),
            upload_id: Some(upload.id),
        }
    });
    let rolled_up = page
        .prefixes
        .iter()
        .map(|prefix| common_prefix(prefix, spell))
        .collect();
    let (next_key_marker, next_upload_id_marker) = match page.next {
        Some((key, id)) => (Some(spell.text(&key)), Some(id)),
        None => (None, None),
    };
    Ok(ListMultipartUploadsOutput {
        bucket: Some(input.bucket),
        common_prefixes: Some(rolled_up),
        is_truncated: Some(next_key_marker.is_some()),
        uploads: Some(shown.collect()),
        delimiter: delimiter.map(|delimiter| spell.text(&delimiter)),
        encoding_type: input.encoding_type,
        key_marker: Some(spell.text(input.key_marker.as_deref().unwrap_or_default())),
        max_uploads: Some(max_uploads),
        next_key_marker,
        next_upload_id_marker,
        prefix: Some(spell.text(&prefix)),
        upload_id_marker: input.upload_id_marker,
        ..ListMultipartUploadsOutput::default()
    })
}

/// How keys are written: as they are, or percent-encoded where XML could not carry them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spelling {
    Plain,
    Url,
}

impl Spelling {
    pub(super) fn asked(encoding: Option<&EncodingType>) -> S3Result<Self> {
        match encoding.map(EncodingType::as_str) {
            None => Ok(Self::Plain),
            Some(EncodingType::URL) => Ok(Self::Url),
            Some(other) => Err(s3_error!(
                InvalidArgument,
                "Invalid Encoding Method specified in Request: {other:?}; only url is known"
            )),
        }
    }

    pub(super) fn text(self, text: &str) -> String {
        if self == Self::Plain {
            return text.to_owned();
        }
        let mut encoded = String::with_capacity(text.len());
        for byte in text.bytes() {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' => {
                    encoded.push(char::from(byte));
                }
                // Writing to a string cannot fail.
                other => drop(write!(encoded, "%{other:02X}")),
            }
        }
        encoded
    }
}

/// `bucket` is given where the entry names the object's owner.
fn entry(object: &Object, spell: Spelling, bucket: Option<&Bucket>) -> dto::Object {
    let owner = bucket.map(|bucket| {
        if enforces_owner(bucket) {
            acl::owner(&bucket.project)
        } else {
            acl::owner(&object_list(object, &bucket.project).owner)
        }
    });
    let kept = &object.meta.checksums;
    let algorithms: Vec<ChecksumAlgorithm> = kept
        .keys()
        .filter(|name| name.as_str() != TYPE)
        .filter_map(|name| Algorithm::named(name))
        .map(|algorithm| ChecksumAlgorithm::from(algorithm.s3_name().to_owned()))
        .collect();
    dto::Object {
        checksum_algorithm: (!algorithms.is_empty()).then_some(algorithms),
        checksum_type: checksum_type(kept),
        e_tag: etag(&object.meta.etag),
        key: Some(spell.text(&object.key)),
        last_modified: Some(stamp(object.modified_ms)),
        owner,
        size: i64::try_from(object.length_bytes).ok(),
        storage_class: Some(ObjectStorageClass::from_static(
            ObjectStorageClass::STANDARD,
        )),
        ..dto::Object::default()
    }
}

fn prefixes(page: &ListPage, spell: Spelling) -> Vec<CommonPrefix> {
    page.prefixes
        .iter()
        .map(|prefix| common_prefix(prefix, spell))
        .collect()
}

pub(super) fn common_prefix(prefix: &str, spell: Spelling) -> CommonPrefix {
    CommonPrefix {
        prefix: Some(spell.text(prefix)),
    }
}

pub(super) fn page_size(asked: Option<i32>, name: &str) -> S3Result<(usize, i32)> {
    let size = asked.unwrap_or(PAGE_MAX).min(PAGE_MAX);
    usize::try_from(size)
        .map(|max| (max, size))
        .map_err(|_| negative(name))
}

pub(super) fn some_text(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}

fn write_token(next: &str) -> String {
    URL_SAFE_NO_PAD.encode(next)
}

fn read_token(token: &str) -> S3Result<String> {
    let text = URL_SAFE_NO_PAD
        .decode(token)
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok());
    text.filter(|text| !text.is_empty()).ok_or_else(|| {
        s3_error!(
            InvalidArgument,
            "The continuation token provided is incorrect: {token:?}"
        )
    })
}

/// A page of uploads under way.
#[derive(Debug, Default)]
struct UploadPage {
    uploads: Vec<Upload>,
    prefixes: Vec<String>,
    /// Key and id to go on behind; the id is empty where a prefix was rolled up.
    next: Option<(String, String)>,
}

impl UploadPage {
    /// `all` is ordered by key, then id.
    fn of(
        all: Vec<Upload>,
        prefix: &str,
        delimiter: Option<&str>,
        after: Option<(&str, Option<&str>)>,
        max: usize,
    ) -> Self {
        let mut page = Self::default();
        let mut last: Option<(String, String)> = None;
        for upload in all {
            let Some(rest) = upload.key.strip_prefix(prefix) else {
                continue;
            };
            let rolled_up = delimiter.and_then(|delimiter| {
                rest.find(delimiter)
                    .map(|at| upload.key[..prefix.len() + at + delimiter.len()].to_owned())
            });
            let seen = match (after, &rolled_up) {
                (None, _) => false,
                (Some((key, _)), Some(prefix)) => prefix.as_str() <= key,
                (Some((key, Some(id))), None) => {
                    (upload.key.as_str(), upload.id.as_str()) <= (key, id)
                }
                (Some((key, None)), None) => upload.key.as_str() <= key,
            };
            let repeated = rolled_up.is_some() && rolled_up.as_ref() == page.prefixes.last();
            if seen || repeated {
                continue;
            }
            if page.uploads.len() + page.prefixes.len() == max {
                page.next = last;
                return page;
            }
            match rolled_up {
                Some(prefix) => {
                    last = Some((prefix.clone(), String::new()));
                    page.prefixes.push(prefix);
                }
                None => {
                    last = Some((upload.key.clone(), upload.id.clone()));
                    page.uploads.push(upload);
                }
            }
        }
        page
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use blockstore::object::ObjectMeta;

    #[test]
    fn keys_that_xml_cannot_carry_are_percent_encoded() {
        assert_eq!(
            Spelling::Url.text("a b+c/ü\u{1}%~"),
            "a%20b%2Bc/%C3%BC%01%25~"
        );
        assert_eq!(Spelling::Plain.text("a b"), "a b");
        assert!(Spelling::asked(Some(&EncodingType::from_static("gzip"))).is_err());
    }

    #[test]
    fn a_token_goes_round_and_a_forged_one_is_refused() {
        for next in ["a", "a/b c", "ключ/", "\u{1}"] {
            assert_eq!(read_token(&write_token(next)).unwrap(), next);
        }
        for bad in ["", "!", "/////w", "a"] {
            assert_eq!(
                read_token(bad).unwrap_err().code().as_str(),
                "InvalidArgument",
                "{bad:?}"
            );
        }
    }

    #[test]
    fn a_page_has_a_thousand_entries_at_most() {
        assert_eq!(page_size(None, "max-keys").unwrap(), (1000, 1000));
        assert_eq!(page_size(Some(i32::MAX), "max-keys").unwrap(), (1000, 1000));
        assert_eq!(page_size(Some(0), "max-keys").unwrap(), (0, 0));
        assert!(page_size(Some(-1), "max-keys").is_err());
    }

    fn all() -> Vec<Upload> {
        let upload = |(key, id): &(&str, &str)| Upload {
            id: (*id).into(),
            bucket: "b".into(),
            key: (*key).into(),
            created_ms: 0,
            meta: ObjectMeta::default(),
            owner: String::new(),
        };
        [
            ("a", "1"),
            ("a", "2"),
            ("d/x", "3"),
            ("d/y", "4"),
            ("e", "5"),
        ]
        .iter()
        .map(upload)
        .collect()
    }

    fn walk(prefix: &str, delimiter: Option<&str>, max: usize) -> Vec<String> {
        let mut seen = Vec::new();
        let mut after: Option<(String, String)> = None;
        loop {
            let marker = after
                .as_ref()
                .map(|(key, id)| (key.as_str(), Some(id.as_str()).filter(|id| !id.is_empty())));
            let page = UploadPage::of(all(), prefix, delimiter, marker, max);
            assert!(page.uploads.len() + page.prefixes.len() <= max);
            seen.extend(
                page.uploads
                    .iter()
                    .map(|upload| format!("{}#{}", upload.key, upload.id)),
            );
            seen.extend(page.prefixes.iter().cloned());
            match page.next {
                Some(next) => after = Some(next),
                None => return seen,
            }
        }
    }

    #[test]
    fn pages_of_uploads_of_any_size_show_each_one_once() {
        for max in 1..7 {
            assert_eq!(walk("", None, max), ["a#1", "a#2", "d/x#3", "d/y#4", "e#5"]);
            assert_eq!(walk("d/", Some("/"), max), ["d/x#3", "d/y#4"]);
            let mut rolled_up = walk("", Some("/"), max);
            rolled_up.sort();
            assert_eq!(rolled_up, ["a#1", "a#2", "d/", "e#5"]);
        }
    }
}
