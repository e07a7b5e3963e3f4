//! The S3 door: objects, their versions, tags, lists and locks, uploads in parts, buckets and all that
//! belongs to one.

use super::client::{Answer, Ask, Way};
use super::steps::{Site, Step, Try};

const B: &str = "arn:aws:s3:::box";
const K: &str = "arn:aws:s3:::box/k";
const FROM: &str = "arn:aws:s3:::box/from";
const LOCKED: &str = "arn:aws:s3:::locked/k";
const NEW: &str = "arn:aws:s3:::fresh";
/// Far enough ahead to lock, short enough to write.
const UNTIL: &str = "2099-01-01T00:00:00Z";

const TAGS: &str = "<Tagging><TagSet><Tag><Key>a</Key><Value>b</Value></Tag></TagSet></Tagging>";
const OWNERSHIP: &str = "<OwnershipControls><Rule><ObjectOwnership>ObjectWriter</ObjectOwnership></Rule></OwnershipControls>";
const CORS: &str = "<CORSConfiguration><CORSRule><AllowedMethod>GET</AllowedMethod><AllowedOrigin>*</AllowedOrigin></CORSRule></CORSConfiguration>";
const BLOCK: &str = "<PublicAccessBlockConfiguration><BlockPublicAcls>false</BlockPublicAcls></PublicAccessBlockConfiguration>";
const POLICY: &str = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Deny","Principal":"*","Action":"s3:GetObject","Resource":"arn:aws:s3:::box/never"}]}"#;
const ENCRYPTION: &str = "<ServerSideEncryptionConfiguration><Rule><ApplyServerSideEncryptionByDefault><SSEAlgorithm>AES256</SSEAlgorithm></ApplyServerSideEncryptionByDefault></Rule></ServerSideEncryptionConfiguration>";
const RULES: &str = "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled></ObjectLockConfiguration>";

/// S3 says AccessDenied: as the whole answer, or, of DeleteObjects, of each key.
pub(crate) fn refused(answer: &Answer) -> bool {
    let told = answer.body.contains("<Code>AccessDenied</Code>");
    // A HEAD has no body to say it in.
    told || answer.status == 403 && answer.body.is_empty()
}

/// What all steps find: a bucket with versions and lists, one with locks, something in both.
pub(crate) fn prepare(site: &Site) {
    site.root(&Ask::s3("PUT", "/box"));
    site.root(&Ask::s3("PUT", "/locked").header("x-amz-bucket-object-lock-enabled", "true"));
    let on = "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>";
    site.root(&Ask::s3("PUT", "/box?versioning").digested(on));
    site.root(&Ask::s3("PUT", "/box?ownershipControls").digested(OWNERSHIP));
    site.root(&Ask::s3("PUT", "/box?publicAccessBlock").digested(BLOCK));
    put(site, "/box/k");
    put(site, "/box/from");
}

/// Puts an object; its version.
fn put(site: &Site, path: &str) -> String {
    let answer = site.root(&Ask::s3("PUT", path).body("x"));
    answer.header("x-amz-version-id")
}

/// The path of a version that was just made.
fn version(site: &Site, path: &str, more: &str) -> String {
    format!("{path}?{more}versionId={}", put(site, path))
}

/// An upload in parts with one part of it there: its id, and the part's tag.
fn upload(site: &Site) -> (String, String) {
    let begun = site.root(&Ask::s3("POST", "/box/k?uploads"));
    let id = begun.tag("UploadId");
    let part = Ask::s3("PUT", "/box/k?partNumber=1").query("uploadId", &id);
    let part = site.root(&part.body("x"));
    (id, part.header("etag"))
}

fn locked(site: &Site, until: &str) -> String {
    let put = Ask::s3("PUT", "/locked/k")
        .header("x-amz-object-lock-mode", "GOVERNANCE")
        .header("x-amz-object-lock-retain-until-date", until)
        .digested("x");
    site.root(&put).header("x-amz-version-id")
}

fn retention() -> String {
    format!(
        "<Retention><Mode>GOVERNANCE</Mode><RetainUntilDate>{UNTIL}</RetainUntilDate></Retention>"
    )
}

fn deletes(version: &str) -> String {
    let version = match version {
        "" => String::new(),
        id => format!("<VersionId>{id}</VersionId>"),
    };
    format!("<Delete><Object><Key>k</Key>{version}</Object></Delete>")
}

/// A bucket that the operator has made for this step; another step's is taken away.
fn fresh(site: &Site) {
    gone(site);
    site.root(&Ask::s3("PUT", "/fresh"));
}

fn gone(site: &Site) {
    site.root_tries(&Ask::s3("DELETE", "/fresh"));
}

/// A document of the bucket, there before it is asked for.
fn with(site: &Site, name: &str, text: &str) {
    site.root(&Ask::s3("PUT", &format!("/box?{name}")).digested(text));
}

fn get(path: &str) -> Ask {
    Ask::s3("GET", path)
}

fn of_bucket(method: &str, what: &str, action: &str) -> Try {
    Ask::s3(method, &format!("/box{what}")).needs(&[(action, B)])
}

/// What is refused by name once it may be asked for.
fn unserved(method: &str, what: &str, action: &str) -> Try {
    of_bucket(method, what, action).passes(501, "S3 has it and this server does not")
}

pub(crate) const OBJECTS: &[Step] = &[
    ("GetObject", |_| get("/box/k").needs(&[("s3:GetObject", K)])),
    ("GetObject, a version", |site| {
        get(&version(site, "/box/k", "")).needs(&[("s3:GetObjectVersion", K)])
    }),
    ("GetObject, by a presigned URL", |_| {
        get("/box/k")
            .way(Way::Presigned)
            .needs(&[("s3:GetObject", K)])
    }),
    ("HeadObject", |_| {
        Ask::s3("HEAD", "/box/k").needs(&[("s3:GetObject", K)])
    }),
    ("HeadObject, a version", |site| {
        Ask::s3("HEAD", &version(site, "/box/k", "")).needs(&[("s3:GetObjectVersion", K)])
    }),
    ("GetObject, of a key that is missing", |_| {
        get("/box/none")
            .needs(&[("s3:ListBucket", B)])
            .passes(404, "that it is missing is what was asked for")
    }),
    ("GetObjectAttributes", |_| {
        get("/box/k?attributes")
            .header("x-amz-object-attributes", "ETag")
            .needs(&[("s3:GetObject", K), ("s3:GetObjectAttributes", K)])
    }),
    ("GetObjectAttributes, of a version", |site| {
        get(&version(site, "/box/k", "attributes&"))
            .header("x-amz-object-attributes", "ETag")
            .needs(&[
                ("s3:GetObjectVersion", K),
                ("s3:GetObjectVersionAttributes", K),
            ])
    }),
    ("PutObject", |_| {
        Ask::s3("PUT", "/box/k")
            .body("x")
            .needs(&[("s3:PutObject", K)])
    }),
    ("PutObject, by a presigned URL", |_| {
        Ask::s3("PUT", "/box/k")
            .way(Way::Presigned)
            .body("x")
            .needs(&[("s3:PutObject", K)])
    }),
    ("PutObject, with an access control list", |_| {
        Ask::s3("PUT", "/box/k")
            .header("x-amz-acl", "public-read")
            .body("x")
            .needs(&[("s3:PutObject", K), ("s3:PutObjectAcl", K)])
    }),
    ("PutObject, with tags", |_| {
        Ask::s3("PUT", "/box/k")
            .body("x")
            .header("x-amz-tagging", "a=b")
            .needs(&[("s3:PutObject", K), ("s3:PutObjectTagging", K)])
    }),
    ("PutObject, with a retention", |_| {
        Ask::s3("PUT", "/locked/k")
            .header("x-amz-object-lock-mode", "GOVERNANCE")
            .header("x-amz-object-lock-retain-until-date", UNTIL)
            .digested("x")
            .needs(&[("s3:PutObject", LOCKED), ("s3:PutObjectRetention", LOCKED)])
    }),
    ("PutObject, with a legal hold", |_| {
        Ask::s3("PUT", "/locked/k")
            .header("x-amz-object-lock-legal-hold", "ON")
            .digested("x")
            .needs(&[("s3:PutObject", LOCKED), ("s3:PutObjectLegalHold", LOCKED)])
    }),
    ("PostObject", |_| {
        Ask::s3("POST", "/box/k")
            .way(Way::Form)
            .body("x")
            .needs(&[("s3:PutObject", K)])
    }),
    ("PostObject, with an access control list", |_| {
        Ask::s3("POST", "/box/k")
            .way(Way::Form)
            .header("acl", "public-read")
            .needs(&[("s3:PutObject", K), ("s3:PutObjectAcl", K)])
    }),
    ("PostObject, with tags", |_| {
        Ask::s3("POST", "/box/k")
            .way(Way::Form)
            .header("tagging", TAGS)
            .needs(&[("s3:PutObject", K), ("s3:PutObjectTagging", K)])
    }),
    ("CreateMultipartUpload", |_| {
        Ask::s3("POST", "/box/k?uploads").needs(&[("s3:PutObject", K)])
    }),
    ("CreateMultipartUpload, with tags", |_| {
        Ask::s3("POST", "/box/k?uploads")
            .header("x-amz-tagging", "a=b")
            .needs(&[("s3:PutObject", K), ("s3:PutObjectTagging", K)])
    }),
    ("UploadPart", |site| {
        let ask = Ask::s3("PUT", "/box/k?partNumber=2").query("uploadId", &upload(site).0);
        ask.body("x").needs(&[("s3:PutObject", K)])
    }),
    ("UploadPartCopy", |site| {
        let ask = Ask::s3("PUT", "/box/k?partNumber=2").query("uploadId", &upload(site).0);
        ask.header("x-amz-copy-source", "/box/from")
            .needs(&[("s3:PutObject", K), ("s3:GetObject", FROM)])
    }),
    ("UploadPartCopy, of a version", |site| {
        let ask = Ask::s3("PUT", "/box/k?partNumber=2").query("uploadId", &upload(site).0);
        ask.header("x-amz-copy-source", &version(site, "/box/from", ""))
            .needs(&[("s3:PutObject", K), ("s3:GetObjectVersion", FROM)])
    }),
    ("ListParts", |site| {
        get("/box/k")
            .query("uploadId", &upload(site).0)
            .needs(&[("s3:ListMultipartUploadParts", K)])
    }),
    ("CompleteMultipartUpload", |site| {
        let (id, tag) = upload(site);
        let parts = format!(
            "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{tag}</ETag></Part></CompleteMultipartUpload>"
        );
        let ask = Ask::s3("POST", "/box/k").query("uploadId", &id);
        ask.body(parts).needs(&[("s3:PutObject", K)])
    }),
    ("AbortMultipartUpload", |site| {
        Ask::s3("DELETE", "/box/k")
            .query("uploadId", &upload(site).0)
            .needs(&[("s3:AbortMultipartUpload", K)])
    }),
    ("CopyObject", |_| {
        Ask::s3("PUT", "/box/k")
            .header("x-amz-copy-source", "/box/from")
            .needs(&[("s3:PutObject", K), ("s3:GetObject", FROM)])
    }),
    ("CopyObject, of a version", |site| {
        Ask::s3("PUT", "/box/k")
            .header("x-amz-copy-source", &version(site, "/box/from", ""))
            .needs(&[("s3:PutObject", K), ("s3:GetObjectVersion", FROM)])
    }),
    ("DeleteObject", |site| {
        put(site, "/box/k");
        Ask::s3("DELETE", "/box/k").needs(&[("s3:DeleteObject", K)])
    }),
    ("DeleteObject, a version", |site| {
        Ask::s3("DELETE", &version(site, "/box/k", "")).needs(&[("s3:DeleteObjectVersion", K)])
    }),
    ("DeleteObject, a version against its retention", |site| {
        let id = locked(site, UNTIL);
        Ask::s3("DELETE", "/locked/k")
            .query("versionId", &id)
            .header("x-amz-bypass-governance-retention", "true")
            .needs(&[
                ("s3:DeleteObjectVersion", LOCKED),
                ("s3:BypassGovernanceRetention", LOCKED),
            ])
    }),
    ("DeleteObjects", |site| {
        put(site, "/box/k");
        let ask = Ask::s3("POST", "/box?delete").digested(&deletes(""));
        ask.needs(&[("s3:DeleteObject", K)])
    }),
    ("DeleteObjects, versions", |site| {
        let id = put(site, "/box/k");
        let ask = Ask::s3("POST", "/box?delete").digested(&deletes(&id));
        ask.needs(&[("s3:DeleteObjectVersion", K)])
    }),
    ("DeleteObjects, versions against their retention", |site| {
        let id = locked(site, UNTIL);
        Ask::s3("POST", "/locked?delete")
            .header("x-amz-bypass-governance-retention", "true")
            .digested(&deletes(&id))
            .needs(&[
                ("s3:DeleteObjectVersion", LOCKED),
                ("s3:BypassGovernanceRetention", LOCKED),
            ])
    }),
    ("GetObjectTagging", |site| {
        put(site, "/box/k");
        get("/box/k?tagging").needs(&[("s3:GetObjectTagging", K)])
    }),
    ("GetObjectTagging, of a version", |site| {
        get(&version(site, "/box/k", "tagging&")).needs(&[("s3:GetObjectVersionTagging", K)])
    }),
    ("PutObjectTagging", |_| {
        Ask::s3("PUT", "/box/k?tagging")
            .digested(TAGS)
            .needs(&[("s3:PutObjectTagging", K)])
    }),
    ("PutObjectTagging, of a version", |site| {
        Ask::s3("PUT", &version(site, "/box/k", "tagging&"))
            .digested(TAGS)
            .needs(&[("s3:PutObjectVersionTagging", K)])
    }),
    ("DeleteObjectTagging", |_| {
        Ask::s3("DELETE", "/box/k?tagging").needs(&[("s3:DeleteObjectTagging", K)])
    }),
    ("DeleteObjectTagging, of a version", |site| {
        Ask::s3("DELETE", &version(site, "/box/k", "tagging&"))
            .needs(&[("s3:DeleteObjectVersionTagging", K)])
    }),
    ("GetObjectAcl", |_| {
        get("/box/k?acl").needs(&[("s3:GetObjectAcl", K)])
    }),
    ("GetObjectAcl, of a version", |site| {
        get(&version(site, "/box/k", "acl&")).needs(&[("s3:GetObjectVersionAcl", K)])
    }),
    ("PutObjectAcl", |_| {
        Ask::s3("PUT", "/box/k?acl")
            .header("x-amz-acl", "private")
            .needs(&[("s3:PutObjectAcl", K)])
    }),
    ("PutObjectAcl, of a version", |site| {
        Ask::s3("PUT", &version(site, "/box/k", "acl&"))
            .header("x-amz-acl", "private")
            .needs(&[("s3:PutObjectVersionAcl", K)])
    }),
    ("GetObjectRetention", |site| {
        locked(site, UNTIL);
        get("/locked/k?retention").needs(&[("s3:GetObjectRetention", LOCKED)])
    }),
    ("PutObjectRetention", |site| {
        put_locked(site);
        Ask::s3("PUT", "/locked/k?retention")
            .digested(&retention())
            .needs(&[("s3:PutObjectRetention", LOCKED)])
    }),
    ("PutObjectRetention, against the one there is", |site| {
        locked(site, "2100-01-01T00:00:00Z");
        Ask::s3("PUT", "/locked/k?retention")
            .header("x-amz-bypass-governance-retention", "true")
            .digested(&retention())
            .needs(&[
                ("s3:PutObjectRetention", LOCKED),
                ("s3:BypassGovernanceRetention", LOCKED),
            ])
    }),
    ("GetObjectLegalHold", |site| {
        hold(site);
        get("/locked/k?legal-hold").needs(&[("s3:GetObjectLegalHold", LOCKED)])
    }),
    ("PutObjectLegalHold", |site| {
        put_locked(site);
        Ask::s3("PUT", "/locked/k?legal-hold")
            .digested("<LegalHold><Status>OFF</Status></LegalHold>")
            .needs(&[("s3:PutObjectLegalHold", LOCKED)])
    }),
];

fn put_locked(site: &Site) {
    site.root(&Ask::s3("PUT", "/locked/k").digested("x"));
}

fn hold(site: &Site) {
    let put = Ask::s3("PUT", "/locked/k").header("x-amz-object-lock-legal-hold", "ON");
    site.root(&put.digested("x"));
}

pub(crate) const BUCKETS: &[Step] = &[
    ("ListBuckets", |_| {
        get("/").needs(&[("s3:ListAllMyBuckets", "arn:aws:s3:::*")])
    }),
    ("CreateBucket", |site| {
        gone(site);
        Ask::s3("PUT", "/fresh").needs(&[("s3:CreateBucket", NEW)])
    }),
    ("CreateBucket, with an ownership and a list", |site| {
        gone(site);
        Ask::s3("PUT", "/fresh")
            .header("x-amz-acl", "public-read")
            .header("x-amz-object-ownership", "ObjectWriter")
            .needs(&[
                ("s3:CreateBucket", NEW),
                ("s3:PutBucketAcl", NEW),
                ("s3:PutBucketOwnershipControls", NEW),
            ])
    }),
    ("CreateBucket, with an ownership", |site| {
        gone(site);
        Ask::s3("PUT", "/fresh")
            .header("x-amz-object-ownership", "ObjectWriter")
            .needs(&[
                ("s3:CreateBucket", NEW),
                ("s3:PutBucketOwnershipControls", NEW),
            ])
    }),
    ("CreateBucket, with object lock", |site| {
        gone(site);
        Ask::s3("PUT", "/fresh")
            .header("x-amz-bucket-object-lock-enabled", "true")
            .needs(&[
                ("s3:CreateBucket", NEW),
                ("s3:PutBucketVersioning", NEW),
                ("s3:PutBucketObjectLockConfiguration", NEW),
            ])
    }),
    ("DeleteBucket", |site| {
        fresh(site);
        Ask::s3("DELETE", "/fresh").needs(&[("s3:DeleteBucket", NEW)])
    }),
    ("HeadBucket", |_| of_bucket("HEAD", "", "s3:ListBucket")),
    ("ListObjects", |_| of_bucket("GET", "", "s3:ListBucket")),
    ("ListObjectsV2", |_| {
        of_bucket("GET", "?list-type=2", "s3:ListBucket")
    }),
    ("ListObjectVersions", |_| {
        of_bucket("GET", "?versions", "s3:ListBucketVersions")
    }),
    ("ListMultipartUploads", |_| {
        of_bucket("GET", "?uploads", "s3:ListBucketMultipartUploads")
    }),
    ("GetBucketLocation", |_| {
        of_bucket("GET", "?location", "s3:GetBucketLocation")
    }),
    ("GetBucketVersioning", |_| {
        of_bucket("GET", "?versioning", "s3:GetBucketVersioning")
    }),
    ("PutBucketVersioning", |_| {
        let on = "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>";
        let ask = Ask::s3("PUT", "/box?versioning").digested(on);
        ask.needs(&[("s3:PutBucketVersioning", B)])
    }),
    ("GetBucketAcl", |_| {
        of_bucket("GET", "?acl", "s3:GetBucketAcl")
    }),
    ("PutBucketAcl", |_| {
        let ask = Ask::s3("PUT", "/box?acl").header("x-amz-acl", "private");
        ask.needs(&[("s3:PutBucketAcl", B)])
    }),
    ("GetBucketPolicy", |site| {
        with(site, "policy", POLICY);
        of_bucket("GET", "?policy", "s3:GetBucketPolicy")
    }),
    ("GetBucketPolicyStatus", |site| {
        with(site, "policy", POLICY);
        of_bucket("GET", "?policyStatus", "s3:GetBucketPolicyStatus")
    }),
    ("PutBucketPolicy", |_| {
        let ask = Ask::s3("PUT", "/box?policy").digested(POLICY);
        ask.needs(&[("s3:PutBucketPolicy", B)])
    }),
    ("DeleteBucketPolicy", |_| {
        of_bucket("DELETE", "?policy", "s3:DeleteBucketPolicy")
    }),
    ("GetBucketCors", |site| {
        with(site, "cors", CORS);
        of_bucket("GET", "?cors", "s3:GetBucketCORS")
    }),
    ("PutBucketCors", |_| {
        let ask = Ask::s3("PUT", "/box?cors").digested(CORS);
        ask.needs(&[("s3:PutBucketCORS", B)])
    }),
    ("DeleteBucketCors", |_| {
        of_bucket("DELETE", "?cors", "s3:PutBucketCORS")
    }),
    ("GetBucketTagging", |site| {
        with(site, "tagging", TAGS);
        of_bucket("GET", "?tagging", "s3:GetBucketTagging")
    }),
    ("PutBucketTagging", |_| {
        let ask = Ask::s3("PUT", "/box?tagging").digested(TAGS);
        ask.needs(&[("s3:PutBucketTagging", B)])
    }),
    ("DeleteBucketTagging", |_| {
        of_bucket("DELETE", "?tagging", "s3:PutBucketTagging")
    }),
    ("GetPublicAccessBlock", |_| {
        of_bucket("GET", "?publicAccessBlock", "s3:GetBucketPublicAccessBlock")
    }),
    ("PutPublicAccessBlock", |_| {
        let ask = Ask::s3("PUT", "/box?publicAccessBlock").digested(BLOCK);
        ask.needs(&[("s3:PutBucketPublicAccessBlock", B)])
    }),
    ("DeletePublicAccessBlock", |_| {
        of_bucket(
            "DELETE",
            "?publicAccessBlock",
            "s3:PutBucketPublicAccessBlock",
        )
    }),
    ("GetBucketOwnershipControls", |_| {
        of_bucket("GET", "?ownershipControls", "s3:GetBucketOwnershipControls")
    }),
    ("PutBucketOwnershipControls", |_| {
        let ask = Ask::s3("PUT", "/box?ownershipControls").digested(OWNERSHIP);
        ask.needs(&[("s3:PutBucketOwnershipControls", B)])
    }),
    ("DeleteBucketOwnershipControls", |_| {
        of_bucket(
            "DELETE",
            "?ownershipControls",
            "s3:PutBucketOwnershipControls",
        )
    }),
    ("GetObjectLockConfiguration", |_| {
        let on = "arn:aws:s3:::locked";
        get("/locked?object-lock").needs(&[("s3:GetBucketObjectLockConfiguration", on)])
    }),
    ("PutObjectLockConfiguration", |_| {
        let on = "arn:aws:s3:::locked";
        let ask = Ask::s3("PUT", "/locked?object-lock").digested(RULES);
        ask.needs(&[("s3:PutBucketObjectLockConfiguration", on)])
    }),
    ("GetBucketEncryption", |_| {
        of_bucket("GET", "?encryption", "s3:GetEncryptionConfiguration")
            .passes(404, "there is none")
    }),
    ("PutBucketEncryption", |_| {
        Ask::s3("PUT", "/box?encryption")
            .digested(ENCRYPTION)
            .needs(&[("s3:PutEncryptionConfiguration", B)])
            .passes(501, "S3 has it and this server does not")
    }),
    ("DeleteBucketEncryption", |_| {
        of_bucket("DELETE", "?encryption", "s3:PutEncryptionConfiguration")
    }),
    ("GetBucketRequestPayment", |_| {
        of_bucket("GET", "?requestPayment", "s3:GetBucketRequestPayment")
    }),
    ("GetBucketLifecycleConfiguration", |_| {
        unserved("GET", "?lifecycle", "s3:GetLifecycleConfiguration")
    }),
    ("PutBucketLifecycleConfiguration", |_| {
        unserved("PUT", "?lifecycle", "s3:PutLifecycleConfiguration")
    }),
    ("DeleteBucketLifecycle", |_| {
        unserved("DELETE", "?lifecycle", "s3:PutLifecycleConfiguration")
    }),
    ("GetBucketLogging", |_| {
        unserved("GET", "?logging", "s3:GetBucketLogging")
    }),
    ("GetBucketNotificationConfiguration", |_| {
        unserved("GET", "?notification", "s3:GetBucketNotification")
    }),
    ("GetBucketWebsite", |_| {
        unserved("GET", "?website", "s3:GetBucketWebsite")
    }),
    ("GetBucketReplication", |_| {
        unserved("GET", "?replication", "s3:GetReplicationConfiguration")
    }),
    ("GetBucketAccelerateConfiguration", |_| {
        unserved("GET", "?accelerate", "s3:GetAccelerateConfiguration")
    }),
    ("whatever else S3 has", |_| {
        unserved("GET", "?analytics&id=x", "s3:*")
    }),
];
