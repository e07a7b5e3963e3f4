//! What a client says about an object besides its bytes, on the way in and out.

use blockstore::object::ObjectMeta;
use http::HeaderMap;
use s3s::dto::{Metadata, Timestamp, TimestampFormat};
use s3s::{S3Result, s3_error};
use std::collections::BTreeMap;

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
    refuse_contradiction(headers)?;
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
            "storage-class" if value != "STANDARD" => {
                return Err(s3_error!(
                    InvalidStorageClass,
                    "The storage class you specified is not valid: {value:?}; there is only STANDARD"
                ));
            }
            "website-redirect-location" => return Err(unserved("websites")),
            "write-offset-bytes" => return Err(unserved("appending")),
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

/// Encryption that is asked for in two ways at once is a mistake, served or not.
fn refuse_contradiction(headers: &HeaderMap) -> S3Result<()> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let by_server = text("x-amz-server-side-encryption");
    let by_key = text("x-amz-server-side-encryption-customer-algorithm");
    let kms_key = text("x-amz-server-side-encryption-aws-kms-key-id");
    let why = match (by_server, by_key, kms_key) {
        (Some(_), Some(_), _) => {
            "a key of the customer's and one of the server's exclude each other"
        }
        (Some("AES256"), _, Some(_)) => "a KMS key goes with aws:kms, not with AES256",
        (Some("AES256" | "aws:kms" | "aws:kms:dsse"), _, _) | (None, _, _) => return Ok(()),
        (Some(_), _, _) => "the encryption method specified is not supported",
    };
    Err(s3_error!(InvalidArgument, "Server Side Encryption: {why}"))
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
            ("x-amz-storage-class", "GLACIER", "InvalidStorageClass"),
            ("x-amz-server-side-encryption", "AES256", "NotImplemented"),
            (
                "x-amz-server-side-encryption-customer-key",
                "k",
                "NotImplemented",
            ),
            ("x-amz-website-redirect-location", "/", "NotImplemented"),
        ] {
            let refused = refuse_unserved(&headers(&[(name, value)])).unwrap_err();
            assert_eq!(refused.code().as_str(), code, "{name}");
        }
        let fine = [
            ("x-amz-acl", "private"),
            ("x-amz-storage-class", "STANDARD"),
            ("x-amz-meta-grant-read", "v"),
            ("x-amz-tagging", "a=b"),
        ];
        assert!(refuse_unserved(&headers(&fine)).is_ok());
    }
}
