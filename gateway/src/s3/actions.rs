//! Which of AWS's actions an operation needs, on what, and the condition keys it brings.
//!
//! Pure: from the operation's name, path, query and headers to a list of [`Need`]s, all of which
//! the policy engine must allow ("Actions, resources, and condition keys for Amazon S3", Service
//! Authorization Reference). What only a body tells (the keys of DeleteObjects, the tags of
//! PutObjectTagging) is asked where the body is read.

use super::acl::Permission;
use super::tags;
use form_urlencoded::parse;
use http::HeaderMap;
use s3s::path::S3Path;
use s3s::{S3Result, s3_error};

/// One thing an operation must be allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Need {
    /// `s3:GetObject`.
    pub(super) action: &'static str,
    /// The bucket it is about; empty where it is about all of them.
    pub(super) bucket: String,
    /// The object it is about.
    pub(super) key: Option<String>,
    /// Its version, if one was named.
    pub(super) version: Option<String>,
    /// What an access control list would have to grant for it.
    pub(super) list: Option<Permission>,
    /// Whether it is about an object that is there already: its tags and its list count then, and
    /// whether it exists is a secret.
    pub(super) existing: bool,
    /// Not needed where all of these name the bucket's owner; empty: always needed.
    pub(super) spared_for: Vec<String>,
}

/// What a request says that conditions of a policy may ask for.
pub(super) type Context = Vec<(String, String)>;

/// The needs of an operation. Unknown operations need an action of their own name, which nobody
/// but root is likely to have; the protocol layer then says that they are not implemented.
pub(super) fn needs(
    operation: &str,
    path: &S3Path,
    query: Option<&str>,
    headers: &HeaderMap,
) -> S3Result<Vec<Need>> {
    use Permission::{Read, ReadAcp, Write, WriteAcp};
    let version = parse(query.unwrap_or_default().as_bytes())
        .find(|(name, _)| name == "versionId")
        .map(|(_, value)| value.into_owned())
        .filter(|value| !value.is_empty());
    let bucket = path.get_bucket_name().unwrap_or_default();
    let on_all = |action| vec![need(action, "", None, None)];
    let on_bucket = |action, list| vec![need(action, bucket, None, list)];
    let of_version = version.is_some();
    let on_object = |plain: &'static str, versioned: &'static str, list| {
        let action = if of_version { versioned } else { plain };
        let reads = ["Get", "Head"]
            .iter()
            .any(|verb| operation.starts_with(verb));
        let amends = operation.ends_with("Tagging") || operation.ends_with("Acl");
        vec![Need {
            version: version.clone(),
            existing: reads || amends,
            ..need(action, bucket, path.get_object_key(), list)
        }]
    };
    let same = |action, list| on_object(action, action, list);
    let needs = match operation {
        "ListBuckets" => on_all("s3:ListAllMyBuckets"),
        "CreateBucket" => {
            let mut needs = on_bucket("s3:CreateBucket", None);
            let mut also = |action| needs.extend(on_bucket(action, None));
            if names_list(headers) {
                also("s3:PutBucketAcl");
            }
            if headers.contains_key("x-amz-object-ownership") {
                also("s3:PutBucketOwnershipControls");
            }
            if is_true(headers, "x-amz-bucket-object-lock-enabled") {
                also("s3:PutBucketVersioning");
                also("s3:PutBucketObjectLockConfiguration");
            }
            needs
        }
        "DeleteBucket" => on_bucket("s3:DeleteBucket", None),
        "HeadBucket" | "ListObjects" | "ListObjectsV2" => on_bucket("s3:ListBucket", Some(Read)),
        "ListObjectVersions" => on_bucket("s3:ListBucketVersions", Some(Read)),
        "ListMultipartUploads" => on_bucket("s3:ListBucketMultipartUploads", Some(Read)),
        "GetBucketLocation" => on_bucket("s3:GetBucketLocation", None),
        "GetBucketVersioning" => on_bucket("s3:GetBucketVersioning", None),
        "PutBucketVersioning" => on_bucket("s3:PutBucketVersioning", None),
        "GetBucketAcl" => on_bucket("s3:GetBucketAcl", Some(ReadAcp)),
        "PutBucketAcl" => on_bucket("s3:PutBucketAcl", Some(WriteAcp)),
        "GetBucketPolicy" => on_bucket("s3:GetBucketPolicy", None),
        "PutBucketPolicy" => on_bucket("s3:PutBucketPolicy", None),
        "DeleteBucketPolicy" => on_bucket("s3:DeleteBucketPolicy", None),
        "GetBucketPolicyStatus" => on_bucket("s3:GetBucketPolicyStatus", None),
        "GetBucketCors" => on_bucket("s3:GetBucketCORS", None),
        "PutBucketCors" | "DeleteBucketCors" => on_bucket("s3:PutBucketCORS", None),
        "GetBucketTagging" => on_bucket("s3:GetBucketTagging", None),
        "PutBucketTagging" | "DeleteBucketTagging" => on_bucket("s3:PutBucketTagging", None),
        "GetPublicAccessBlock" => on_bucket("s3:GetBucketPublicAccessBlock", None),
        "PutPublicAccessBlock" | "DeletePublicAccessBlock" => {
            on_bucket("s3:PutBucketPublicAccessBlock", None)
        }
        "GetBucketOwnershipControls" => on_bucket("s3:GetBucketOwnershipControls", None),
        "PutBucketOwnershipControls" | "DeleteBucketOwnershipControls" => {
            on_bucket("s3:PutBucketOwnershipControls", None)
        }
        "GetObjectLockConfiguration" => on_bucket("s3:GetBucketObjectLockConfiguration", None),
        "PutObjectLockConfiguration" => on_bucket("s3:PutBucketObjectLockConfiguration", None),
        "GetBucketEncryption" => on_bucket("s3:GetEncryptionConfiguration", None),
        "PutBucketEncryption" | "DeleteBucketEncryption" => {
            on_bucket("s3:PutEncryptionConfiguration", None)
        }
        "GetBucketLifecycleConfiguration" => on_bucket("s3:GetLifecycleConfiguration", None),
        "PutBucketLifecycleConfiguration" | "DeleteBucketLifecycle" => {
            on_bucket("s3:PutLifecycleConfiguration", None)
        }
        "GetBucketRequestPayment" => on_bucket("s3:GetBucketRequestPayment", None),
        "GetBucketLogging" => on_bucket("s3:GetBucketLogging", None),
        "GetBucketNotificationConfiguration" => on_bucket("s3:GetBucketNotification", None),
        "GetBucketWebsite" => on_bucket("s3:GetBucketWebsite", None),
        "GetBucketReplication" => on_bucket("s3:GetReplicationConfiguration", None),
        "GetBucketAccelerateConfiguration" => on_bucket("s3:GetAccelerateConfiguration", None),

        "GetObject" | "HeadObject" => on_object("s3:GetObject", "s3:GetObjectVersion", Some(Read)),
        "GetObjectAttributes" => {
            let mut needs = on_object("s3:GetObject", "s3:GetObjectVersion", Some(Read));
            needs.extend(on_object(
                "s3:GetObjectAttributes",
                "s3:GetObjectVersionAttributes",
                Some(Read),
            ));
            needs
        }
        "PutObject" | "PostObject" | "CreateMultipartUpload" => writing(path, headers),
        "UploadPart" | "CompleteMultipartUpload" => same("s3:PutObject", Some(Write)),
        "CopyObject" => {
            let mut needs = writing(path, headers);
            needs.extend(source(headers)?);
            needs
        }
        "UploadPartCopy" => {
            let mut needs = same("s3:PutObject", Some(Write));
            needs.extend(source(headers)?);
            needs
        }
        "AbortMultipartUpload" => same("s3:AbortMultipartUpload", Some(Write)),
        "ListParts" => same("s3:ListMultipartUploadParts", Some(Write)),
        "DeleteObject" => {
            let mut needs = on_object("s3:DeleteObject", "s3:DeleteObjectVersion", Some(Write));
            if is_true(headers, "x-amz-bypass-governance-retention") {
                needs.extend(same("s3:BypassGovernanceRetention", None));
            }
            needs
        }
        // Asked where the keys, and the tags, are known.
        "DeleteObjects" | "PutObjectTagging" => Vec::new(),
        "GetObjectTagging" => on_object("s3:GetObjectTagging", "s3:GetObjectVersionTagging", None),
        "DeleteObjectTagging" => on_object(
            "s3:DeleteObjectTagging",
            "s3:DeleteObjectVersionTagging",
            None,
        ),
        "GetObjectAcl" => on_object("s3:GetObjectAcl", "s3:GetObjectVersionAcl", Some(ReadAcp)),
        "PutObjectAcl" => on_object("s3:PutObjectAcl", "s3:PutObjectVersionAcl", Some(WriteAcp)),
        "GetObjectRetention" => same("s3:GetObjectRetention", None),
        "PutObjectRetention" => {
            let mut needs = same("s3:PutObjectRetention", None);
            if is_true(headers, "x-amz-bypass-governance-retention") {
                needs.extend(same("s3:BypassGovernanceRetention", None));
            }
            needs
        }
        "GetObjectLegalHold" => same("s3:GetObjectLegalHold", None),
        "PutObjectLegalHold" => same("s3:PutObjectLegalHold", None),
        // Whatever else S3 has is not served; to be told so takes the right to everything.
        _ => vec![need("s3:*", bucket, path.get_object_key(), None)],
    };
    Ok(needs)
}

/// The needs of one entry of DeleteObjects.
pub(super) fn deleting(
    bucket: &str,
    key: &str,
    version: Option<&str>,
    bypass_governance: bool,
) -> Vec<Need> {
    let action = match version {
        None => "s3:DeleteObject",
        Some(_) => "s3:DeleteObjectVersion",
    };
    let one = |action, list| Need {
        version: version.map(ToOwned::to_owned),
        ..need(action, bucket, Some(key), list)
    };
    let mut needs = vec![one(action, Some(Permission::Write))];
    if bypass_governance {
        needs.push(one("s3:BypassGovernanceRetention", None));
    }
    needs
}

/// A single need.
pub(super) fn need(
    action: &'static str,
    bucket: &str,
    key: Option<&str>,
    list: Option<Permission>,
) -> Need {
    Need {
        action,
        bucket: bucket.to_owned(),
        key: key.map(ToOwned::to_owned),
        version: None,
        list,
        existing: false,
        spared_for: Vec::new(),
    }
}

/// A write of an object, and what its headers ask for beside the bytes.
pub(super) fn writing(path: &S3Path, headers: &HeaderMap) -> Vec<Need> {
    let bucket = path.get_bucket_name().unwrap_or_default();
    let on = |action, list| need(action, bucket, path.get_object_key(), list);
    let mut needs = vec![on("s3:PutObject", Some(Permission::Write))];
    let write = Some(Permission::Write);
    // A list of the writer's own object: whoever may write it may say who reads it.
    if names_list(headers) {
        needs.push(Need {
            spared_for: only_ids(headers).unwrap_or_default(),
            ..on("s3:PutObjectAcl", write)
        });
    }
    if headers.contains_key("x-amz-tagging") {
        needs.push(on("s3:PutObjectTagging", write));
    }
    if headers.contains_key("x-amz-object-lock-mode")
        || headers.contains_key("x-amz-object-lock-retain-until-date")
    {
        needs.push(on("s3:PutObjectRetention", None));
    }
    if headers.contains_key("x-amz-object-lock-legal-hold") {
        needs.push(on("s3:PutObjectLegalHold", None));
    }
    needs
}

/// Condition keys of the request as a whole.
pub(super) fn context(
    query: Option<&str>,
    headers: &HeaderMap,
    presigned: bool,
    signed: bool,
) -> S3Result<Context> {
    let mut context = Vec::new();
    for (name, value) in parse(query.unwrap_or_default().as_bytes()) {
        let condition = match &*name {
            "prefix" => "s3:prefix",
            "delimiter" => "s3:delimiter",
            "max-keys" => "s3:max-keys",
            "versionId" => "s3:VersionId",
            _ => continue,
        };
        context.push((condition.to_owned(), value.into_owned()));
    }
    for (header, condition) in [
        ("x-amz-acl", "s3:x-amz-acl"),
        ("x-amz-grant-full-control", "s3:x-amz-grant-full-control"),
        ("x-amz-grant-read", "s3:x-amz-grant-read"),
        ("x-amz-grant-read-acp", "s3:x-amz-grant-read-acp"),
        ("x-amz-grant-write", "s3:x-amz-grant-write"),
        ("x-amz-grant-write-acp", "s3:x-amz-grant-write-acp"),
        ("x-amz-content-sha256", "s3:x-amz-content-sha256"),
        ("x-amz-copy-source", "s3:x-amz-copy-source"),
        ("x-amz-metadata-directive", "s3:x-amz-metadata-directive"),
        ("x-amz-storage-class", "s3:x-amz-storage-class"),
        (
            "x-amz-server-side-encryption",
            "s3:x-amz-server-side-encryption",
        ),
        ("x-amz-object-ownership", "s3:x-amz-object-ownership"),
        ("x-amz-object-lock-mode", "s3:object-lock-mode"),
        (
            "x-amz-object-lock-retain-until-date",
            "s3:object-lock-retain-until-date",
        ),
        ("x-amz-object-lock-legal-hold", "s3:object-lock-legal-hold"),
        ("if-match", "s3:if-match"),
        ("if-none-match", "s3:if-none-match"),
        ("referer", "aws:Referer"),
    ] {
        if let Some(value) = headers.get(header).and_then(|value| value.to_str().ok()) {
            context.push((condition.to_owned(), value.to_owned()));
        }
    }
    if let Some(value) = headers
        .get("x-amz-tagging")
        .and_then(|value| value.to_str().ok())
    {
        context.extend(asked_tags(&tags::of_header(value)?));
    }
    if signed {
        let how = if presigned {
            "REST-QUERY-STRING"
        } else {
            "REST-HEADER"
        };
        context.push(("s3:authType".to_owned(), how.to_owned()));
        context.push((
            "s3:signatureversion".to_owned(),
            "AWS4-HMAC-SHA256".to_owned(),
        ));
    }
    Ok(context)
}

/// The condition keys of tags that a request brings.
pub(super) fn asked_tags(tags: &std::collections::BTreeMap<String, String>) -> Context {
    let each = tags
        .iter()
        .map(|(key, value)| (format!("s3:RequestObjectTag/{key}"), value.clone()));
    let keys = tags
        .keys()
        .map(|key| ("s3:RequestObjectTagKeys".to_owned(), key.clone()));
    each.chain(keys).collect()
}

/// The condition keys of the tags that an object has.
pub(super) fn present_tags(tags: &std::collections::BTreeMap<String, String>) -> Context {
    tags.iter()
        .map(|(key, value)| (format!("s3:ExistingObjectTag/{key}"), value.clone()))
        .collect()
}

/// What a copy needs of its source.
fn source(headers: &HeaderMap) -> S3Result<Option<Need>> {
    let Some(value) = headers.get("x-amz-copy-source") else {
        return Ok(None);
    };
    let text = value.to_str().unwrap_or_default();
    match s3s::dto::CopySource::parse(text) {
        Ok(s3s::dto::CopySource::Bucket {
            bucket,
            key,
            version_id,
        }) => {
            let action = match &version_id {
                None => "s3:GetObject",
                Some(_) => "s3:GetObjectVersion",
            };
            Ok(Some(Need {
                version: version_id.map(Into::into),
                existing: true,
                ..need(action, &bucket, Some(&key), Some(Permission::Read))
            }))
        }
        // The operation itself says what it does not serve.
        Ok(_) => Ok(None),
        Err(_) => Err(s3_error!(
            InvalidArgument,
            "Copy Source must mention the source bucket and key: sourcebucket/sourcekey, not {text:?}"
        )),
    }
}

fn names_list(headers: &HeaderMap) -> bool {
    let granted = headers
        .keys()
        .any(|name| name.as_str().starts_with("x-amz-grant-"));
    let canned = headers.get("x-amz-acl");
    // The list that an object has anyway is no grant, nor is one to the bucket's owner ("Bucket
    // policy examples using condition keys", Amazon S3 user guide: PutObject is enough for that).
    let inside = ["private", "bucket-owner-read", "bucket-owner-full-control"];
    granted || canned.is_some_and(|name| !inside.iter().any(|inside| name == inside))
}

/// Whom the grants in headers name, if all are named by id.
fn only_ids(headers: &HeaderMap) -> Option<Vec<String>> {
    if headers.contains_key("x-amz-acl") {
        return None;
    }
    let grants = headers
        .iter()
        .filter(|(name, _)| name.as_str().starts_with("x-amz-grant-"));
    let mut ids = Vec::new();
    for (_, value) in grants {
        for one in value.to_str().ok()?.split(',') {
            let id = one.trim().strip_prefix("id=")?;
            ids.push(id.trim_matches('"').to_owned());
        }
    }
    Some(ids)
}

pub(super) fn is_true(headers: &HeaderMap, name: &str) -> bool {
    headers
        .get(name)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"true"))
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

    fn asked(operation: &str, query: &str, pairs: &[(&'static str, &str)]) -> Vec<String> {
        let path = S3Path::object("b", "k");
        needs(operation, &path, Some(query), &headers(pairs))
            .unwrap()
            .into_iter()
            .map(|need| {
                let key = need.key.map(|key| format!("/{key}")).unwrap_or_default();
                format!("{} {}{key}", need.action, need.bucket)
            })
            .collect()
    }

    #[test]
    fn a_version_needs_the_action_of_versions() {
        assert_eq!(asked("GetObject", "", &[]), ["s3:GetObject b/k"]);
        assert_eq!(
            asked("GetObject", "versionId=7", &[]),
            ["s3:GetObjectVersion b/k"]
        );
        assert_eq!(asked("HeadObject", "versionId=", &[]), ["s3:GetObject b/k"]);
        assert_eq!(
            asked("DeleteObject", "versionId=7", &[]),
            ["s3:DeleteObjectVersion b/k"]
        );
    }

    #[test]
    fn a_copy_needs_both_ends() {
        let source = [("x-amz-copy-source", "/other/from%20here?versionId=3")];
        assert_eq!(
            asked("CopyObject", "", &source),
            ["s3:PutObject b/k", "s3:GetObjectVersion other/from here"]
        );
        let source = [("x-amz-copy-source", "other/from")];
        assert_eq!(
            asked("UploadPartCopy", "", &source),
            ["s3:PutObject b/k", "s3:GetObject other/from"]
        );
    }

    #[test]
    fn what_headers_ask_for_is_needed_too() {
        assert_eq!(
            asked(
                "PutObject",
                "",
                &[
                    ("x-amz-acl", "public-read"),
                    ("x-amz-tagging", "a=b"),
                    ("x-amz-object-lock-mode", "GOVERNANCE"),
                    ("x-amz-object-lock-legal-hold", "ON"),
                ]
            ),
            [
                "s3:PutObject b/k",
                "s3:PutObjectAcl b/k",
                "s3:PutObjectTagging b/k",
                "s3:PutObjectRetention b/k",
                "s3:PutObjectLegalHold b/k"
            ]
        );
        assert_eq!(
            asked(
                "DeleteObject",
                "",
                &[("x-amz-bypass-governance-retention", "true")]
            ),
            ["s3:DeleteObject b/k", "s3:BypassGovernanceRetention b/k"]
        );
    }

    #[test]
    fn conditions_may_ask_for_prefixes_and_tags() {
        let context = context(
            Some("prefix=a%2F&delimiter=/&max-keys=3"),
            &headers(&[("x-amz-tagging", "k=v")]),
            false,
            true,
        );
        let context = context.unwrap();
        for (name, value) in [
            ("s3:prefix", "a/"),
            ("s3:delimiter", "/"),
            ("s3:max-keys", "3"),
            ("s3:RequestObjectTag/k", "v"),
            ("s3:RequestObjectTagKeys", "k"),
            ("s3:authType", "REST-HEADER"),
        ] {
            assert!(
                context.contains(&(name.to_owned(), value.to_owned())),
                "{name}"
            );
        }
    }
}
