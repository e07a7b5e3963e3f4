//! What a client says about an object besides its bytes, on the way in and out.

use super::error::custom;
use blockstore::object::ObjectMeta;
use http::{HeaderMap, StatusCode};
use s3s::dto::{Metadata, Timestamp, TimestampFormat};
use s3s::{S3Result, s3_error};
use std::collections::BTreeMap;

/// The owner that listings name; the one identity of a single-user node.
pub(super) const OWNER: &str = "root";
/// What S3 says of an object that was put without a type.
pub(super) const DEFAULT_TYPE: &str = "binary/octet-stream";

/// System headers that are kept with an object.
const KEPT: [&str; 6] = [
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-type",
    "expires",
];
/// Bytes of names and values of user metadata, as S3 counts them.
const USER_BYTES_MAX: usize = 2 << 10;
/// Bytes of the kept system headers together.
const SYSTEM_BYTES_MAX: usize = 8 << 10;

/// The description of a new object. `user` is the user metadata as the protocol layer decoded it.
pub(super) fn describe(headers: &HeaderMap, user: Option<Metadata>) -> S3Result<ObjectMeta> {
    let mut kept = BTreeMap::new();
    for name in KEPT {
        let Some(value) = headers.get(name) else {
            continue;
        };
        let Ok(value) = std::str::from_utf8(value.as_bytes()) else {
            return Err(s3_error!(
                InvalidArgument,
                "The value of {name} is not UTF-8"
            ));
        };
        let value = if name == "content-encoding" {
            without_chunking(value)
        } else {
            value.into()
        };
        if !value.is_empty() {
            kept.insert(name.to_owned(), value);
        }
    }
    let user: BTreeMap<String, String> = user.into_iter().flatten().collect();
    let bytes = |map: &BTreeMap<String, String>| -> usize {
        map.iter()
            .map(|(name, value)| name.len() + value.len())
            .sum()
    };
    let too_large = |what: &str, size: usize, cap: usize| {
        s3_error!(
            MetadataTooLarge,
            "Your metadata headers exceed the maximum allowed metadata size: {size} bytes of \
             {what}, at most {cap} are kept"
        )
    };
    let (user_bytes, system_bytes) = (bytes(&user), bytes(&kept));
    if user_bytes > USER_BYTES_MAX {
        return Err(too_large("x-amz-meta-*", user_bytes, USER_BYTES_MAX));
    }
    if system_bytes > SYSTEM_BYTES_MAX {
        return Err(too_large("system headers", system_bytes, SYSTEM_BYTES_MAX));
    }
    Ok(ObjectMeta {
        headers: kept,
        user,
        ..ObjectMeta::default()
    })
}

/// `Expires` as the protocol layer wants it; what is no HTTP date is not shown.
pub(super) fn expires(meta: &ObjectMeta) -> Option<Timestamp> {
    Timestamp::parse(TimestampFormat::HttpDate, meta.headers.get("expires")?).ok()
}

/// Refuses headers that ask for what is not done here; to ignore them would be a promise broken.
pub(super) fn refuse_unserved(headers: &HeaderMap) -> S3Result<()> {
    for (name, value) in headers {
        let Some(kind) = name.as_str().strip_prefix("x-amz-") else {
            continue;
        };
        let value = value.to_str().unwrap_or_default();
        let unserved = |what: &str| {
            s3_error!(
                NotImplemented,
                "A header you provided implies functionality that is not implemented: {name} ({what})"
            )
        };
        match kind {
            "acl"
                if !matches!(
                    value,
                    "private" | "bucket-owner-read" | "bucket-owner-full-control"
                ) =>
            {
                return Err(s3_error!(
                    AccessControlListNotSupported,
                    "The bucket does not allow ACLs: everything belongs to its owner, so {value:?} \
                     cannot be granted"
                ));
            }
            "storage-class" if value != "STANDARD" => {
                return Err(s3_error!(
                    InvalidStorageClass,
                    "The storage class you specified is not valid: {value:?}; there is only STANDARD"
                ));
            }
            "expected-bucket-owner" | "source-expected-bucket-owner" if value != OWNER => {
                return Err(s3_error!(
                    AccessDenied,
                    "Access Denied: the bucket's owner is {OWNER:?}, not {value:?} ({name})"
                ));
            }
            "tagging" => return Err(unserved("tags")),
            "website-redirect-location" => return Err(unserved("websites")),
            "write-offset-bytes" => return Err(unserved("appending")),
            "bucket-object-lock-enabled" if value.eq_ignore_ascii_case("true") => {
                return Err(unserved("object locks"));
            }
            _ if kind.starts_with("grant-") => {
                return Err(s3_error!(
                    AccessControlListNotSupported,
                    "The bucket does not allow ACLs"
                ));
            }
            _ if kind.starts_with("object-lock-") => return Err(unserved("object locks")),
            _ if kind.starts_with("server-side-encryption")
                || kind.starts_with("copy-source-server-side-encryption") =>
            {
                return Err(unserved("encryption by the server"));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Refuses a version that is not the one there is.
pub(super) fn refuse_version(version: Option<&str>) -> S3Result<()> {
    match version {
        None | Some("null" | "") => Ok(()),
        Some(other) => Err(custom(
            "NoSuchVersion",
            StatusCode::NOT_FOUND,
            format!("The specified version does not exist: {other:?}; nothing is versioned here"),
        )),
    }
}

/// `Content-Encoding` without the framing of the upload, which is no property of the object.
fn without_chunking(value: &str) -> String {
    let codings = value.split(',').map(str::trim);
    let kept = codings.filter(|coding| !coding.eq_ignore_ascii_case("aws-chunked"));
    kept.filter(|coding| !coding.is_empty())
        .collect::<Vec<_>>()
        .join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect()
    }

    #[test]
    fn the_framing_of_an_upload_is_no_property_of_the_object() {
        for (given, kept) in [
            ("aws-chunked", None),
            ("aws-chunked,gzip", Some("gzip")),
            ("gzip, aws-chunked", Some("gzip")),
            ("gzip", Some("gzip")),
        ] {
            let meta = describe(&headers(&[("content-encoding", given)]), None).unwrap();
            assert_eq!(
                meta.headers.get("content-encoding").map(String::as_str),
                kept,
                "{given}"
            );
        }
    }

    #[test]
    fn user_metadata_is_counted_with_its_names() {
        let user = |size: usize| Some(Metadata::from([("key".to_owned(), "v".repeat(size))]));
        assert!(describe(&HeaderMap::new(), user(2045)).is_ok());
        let refused = describe(&HeaderMap::new(), user(2046)).unwrap_err();
        assert_eq!(refused.code().as_str(), "MetadataTooLarge");
        let long = "x".repeat(9000);
        let refused = describe(&headers(&[("content-type", &long)]), None).unwrap_err();
        assert_eq!(refused.code().as_str(), "MetadataTooLarge");
    }

    #[test]
    fn what_is_not_done_is_refused_by_its_name() {
        for (name, value, code) in [
            ("x-amz-acl", "public-read", "AccessControlListNotSupported"),
            ("x-amz-grant-read", "id=1", "AccessControlListNotSupported"),
            ("x-amz-storage-class", "GLACIER", "InvalidStorageClass"),
            ("x-amz-server-side-encryption", "AES256", "NotImplemented"),
            (
                "x-amz-server-side-encryption-customer-key",
                "k",
                "NotImplemented",
            ),
            ("x-amz-tagging", "a=b", "NotImplemented"),
            ("x-amz-object-lock-mode", "GOVERNANCE", "NotImplemented"),
            (
                "x-amz-expected-bucket-owner",
                "123456789012",
                "AccessDenied",
            ),
        ] {
            let refused = refuse_unserved(&headers(&[(name, value)])).unwrap_err();
            assert_eq!(refused.code().as_str(), code, "{name}");
        }
        let fine = [
            ("x-amz-acl", "private"),
            ("x-amz-storage-class", "STANDARD"),
            ("x-amz-meta-grant-read", "v"),
            ("x-amz-expected-bucket-owner", OWNER),
        ];
        assert!(refuse_unserved(&headers(&fine)).is_ok());
        assert!(refuse_version(Some("null")).is_ok());
        assert!(refuse_version(Some("abc")).is_err());
    }
}
