//! What a bucket's owner has set: policy, public access block, ownership controls, CORS, tags,
//! lists, and the settings that S3 shows without anybody setting them.
//!
//! Each is a document of the bucket (docs/FORMATS.md), written by one operation here and read where
//! it matters: the policy and the public access block by the policy engine, the rules of CORS by
//! the front, the lists by [`super::access`].

use super::access::bucket_list;
use super::acl::Acl;
use super::cors::Rules;
use super::{Door, tags, who};
use ::access::policy::{BUCKET_BYTES_MAX, Form, Policy};
use blockstore::object::{Bucket, BucketChange};
use blockstore::{Error, Kind, Store, Subject, Who};
use s3s::dto::{
    self, DeleteBucketCorsInput, DeleteBucketCorsOutput, DeleteBucketEncryptionInput,
    DeleteBucketEncryptionOutput, DeleteBucketOwnershipControlsInput,
    DeleteBucketOwnershipControlsOutput, DeleteBucketPolicyInput, DeleteBucketPolicyOutput,
    DeleteBucketTaggingInput, DeleteBucketTaggingOutput, DeletePublicAccessBlockInput,
    DeletePublicAccessBlockOutput, GetBucketCorsInput, GetBucketCorsOutput,
    GetBucketEncryptionInput, GetBucketEncryptionOutput, GetBucketOwnershipControlsInput,
    GetBucketOwnershipControlsOutput, GetBucketPolicyInput, GetBucketPolicyOutput,
    GetBucketPolicyStatusInput, GetBucketPolicyStatusOutput, GetBucketRequestPaymentInput,
    GetBucketRequestPaymentOutput, GetBucketTaggingInput, GetBucketTaggingOutput,
    GetPublicAccessBlockInput, GetPublicAccessBlockOutput, OwnershipControls,
    OwnershipControlsRule, Payer, PolicyStatus, PublicAccessBlockConfiguration, PutBucketCorsInput,
    PutBucketCorsOutput, PutBucketOwnershipControlsInput, PutBucketOwnershipControlsOutput,
    PutBucketPolicyInput, PutBucketPolicyOutput, PutBucketTaggingInput, PutBucketTaggingOutput,
    PutPublicAccessBlockInput, PutPublicAccessBlockOutput,
};
use s3s::{S3Error, S3Request, S3Result, s3_error};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// No list is asked, everything belongs to the bucket's owner.
pub(super) const OWNER_ENFORCED: &str = "BucketOwnerEnforced";
/// A writer that grants the bucket's owner everything gives the object away.
pub(super) const OWNER_PREFERRED: &str = "BucketOwnerPreferred";
/// An object belongs to the project that wrote it.
pub(super) const OBJECT_WRITER: &str = "ObjectWriter";

/// A document of a bucket that this door keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Document {
    Acl,
    Cors,
    Policy,
    PublicAccessBlock,
    Tagging,
}

impl Document {
    fn name(self) -> &'static str {
        match self {
            Self::Acl => "acl",
            Self::Cors => "cors",
            Self::Policy => "policy",
            Self::PublicAccessBlock => "public-access-block",
            Self::Tagging => "tagging",
        }
    }
}

/// "Blocking public access to your Amazon S3 storage", Amazon S3 user guide. By S3's own names, as
/// the policy engine reads the document too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct PublicAccessBlock {
    pub(super) block_public_acls: bool,
    pub(super) ignore_public_acls: bool,
    pub(super) block_public_policy: bool,
    pub(super) restrict_public_buckets: bool,
}

/// A document, if the bucket has it.
pub(super) fn read<T: DeserializeOwned>(
    store: &Store,
    bucket: &str,
    document: Document,
) -> blockstore::Result<Option<T>> {
    let Some(text) = store.bucket_document(bucket, document.name())? else {
        return Ok(None);
    };
    serde_json::from_str(&text).map(Some).map_err(|bad| {
        let name = document.name();
        let text = format!("the document {name:?} of bucket {bucket:?} does not read");
        Error::new(Kind::Corrupt, Subject::Bucket, text).because(bad)
    })
}

fn write<T: Serialize>(
    store: &Store,
    who: &Who,
    bucket: &str,
    document: Document,
    value: &T,
) -> blockstore::Result<()> {
    let text = serde_json::to_string(value).map_err(|bad| {
        Error::new(
            Kind::Internal,
            Subject::Bucket,
            "a document cannot be written",
        )
        .because(bad)
    })?;
    store.bucket_document_put(who, bucket, document.name(), &text)
}

/// Keeps the list of a bucket.
pub(super) fn write_list(
    store: &Store,
    who: &Who,
    bucket: &str,
    list: &Acl,
) -> blockstore::Result<()> {
    write(store, who, bucket, Document::Acl, list)
}

async fn remove(door: &Door, who: Who, bucket: String, document: Document) -> S3Result<()> {
    door.ask(move |store| store.bucket_document_remove(&who, &bucket, document.name()))
        .await
        .map(drop)
}

/// Whether lists say nothing in this bucket.
pub(super) fn enforces_owner(bucket: &Bucket) -> bool {
    bucket.config.ownership == OWNER_ENFORCED
}

/// What is blocked; nothing where nobody set it.
pub(super) fn public_access_block(
    store: &Store,
    bucket: &str,
) -> blockstore::Result<PublicAccessBlock> {
    Ok(read(store, bucket, Document::PublicAccessBlock)?.unwrap_or_default())
}

/// The rules of CORS, if there are any.
pub(super) fn cors(store: &Store, bucket: &str) -> blockstore::Result<Option<Rules>> {
    read(store, bucket, Document::Cors)
}

pub(super) async fn put_policy(
    door: &Door,
    request: S3Request<PutBucketPolicyInput>,
) -> S3Result<PutBucketPolicyOutput> {
    let who = who(&request.extensions);
    let input = request.input;
    let (bucket, text) = (input.bucket, input.policy);
    let malformed = |why: &str| s3_error!(MalformedPolicy, "{why}");
    let policy = Policy::parse(&text, Form::Resource, BUCKET_BYTES_MAX)
        .map_err(|bad| malformed(&bad.to_string()))?;
    // "Policy has invalid resource", as S3 says it: a bucket's policy speaks of that bucket.
    let foreign = policy.resources().find(|resource| {
        let named = resource.strip_prefix("arn:aws:s3:::").unwrap_or(resource);
        let named = named.split_once('/').map_or(named, |(named, _)| named);
        !names(named, &bucket)
    });
    if let Some(foreign) = foreign {
        return Err(malformed(&format!(
            "Policy has invalid resource: {foreign:?} is not of the bucket {bucket:?}"
        )));
    }
    let public = policy.is_public();
    let blocked = door
        .ask(move |store| {
            let block = public_access_block(store, &bucket)?;
            if public && block.block_public_policy {
                return Ok(true);
            }
            store.bucket_document_put(&who, &bucket, Document::Policy.name(), &text)?;
            Ok(false)
        })
        .await?;
    if blocked {
        return Err(blocked_policy());
    }
    Ok(PutBucketPolicyOutput {})
}

/// Whether a pattern with `*` and `?` stands for `name`.
fn names(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
    let (mut at, mut here) = (0, 0);
    // Where the last `*` stood, and how much of the name it has taken so far.
    let mut star: Option<(usize, usize)> = None;
    while here < name.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, here));
                at += 1;
            }
            Some(letter) if *letter == b'?' || *letter == name[here] => {
                at += 1;
                here += 1;
            }
            _ => match star {
                Some((behind, taken)) => {
                    star = Some((behind, taken + 1));
                    at = behind + 1;
                    here = taken + 1;
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|letter| *letter == b'*')
}

fn blocked_policy() -> S3Error {
    s3_error!(
        AccessDenied,
        "Access Denied: the policy is public, and the bucket's public access block has \
         BlockPublicPolicy"
    )
}

pub(super) async fn get_policy(
    door: &Door,
    request: S3Request<GetBucketPolicyInput>,
) -> S3Result<GetBucketPolicyOutput> {
    let policy = policy_of(door, request.input.bucket).await?;
    Ok(GetBucketPolicyOutput {
        policy: Some(policy),
    })
}

async fn policy_of(door: &Door, bucket: String) -> S3Result<String> {
    let found = door
        .ask(move |store| store.bucket_document(&bucket, Document::Policy.name()))
        .await?;
    found.ok_or_else(|| s3_error!(NoSuchBucketPolicy, "The bucket policy does not exist"))
}

pub(super) async fn delete_policy(
    door: &Door,
    request: S3Request<DeleteBucketPolicyInput>,
) -> S3Result<DeleteBucketPolicyOutput> {
    let who = who(&request.extensions);
    remove(door, who, request.input.bucket, Document::Policy).await?;
    Ok(DeleteBucketPolicyOutput {})
}

pub(super) async fn policy_status(
    door: &Door,
    request: S3Request<GetBucketPolicyStatusInput>,
) -> S3Result<GetBucketPolicyStatusOutput> {
    let bucket = request.input.bucket;
    let (text, list, block) = door
        .ask(move |store| {
            let found = store.bucket(&bucket)?;
            let text = store.bucket_document(&bucket, Document::Policy.name())?;
            let block = public_access_block(store, &bucket)?;
            let list = (!enforces_owner(&found))
                .then(|| bucket_list(store, &found))
                .transpose()?;
            Ok((text, list, block))
        })
        .await?;
    let by_list = !block.ignore_public_acls && list.is_some_and(|list| list.is_public());
    let by_policy = text.is_some_and(|text| {
        Policy::parse(&text, Form::Resource, BUCKET_BYTES_MAX)
            .is_ok_and(|policy| policy.is_public())
    });
    let public = by_list || (by_policy && !block.restrict_public_buckets);
    Ok(GetBucketPolicyStatusOutput {
        policy_status: Some(PolicyStatus {
            is_public: Some(public),
        }),
    })
}

pub(super) async fn put_block(
    door: &Door,
    request: S3Request<PutPublicAccessBlockInput>,
) -> S3Result<PutPublicAccessBlockOutput> {
    let who = who(&request.extensions);
    let input = request.input;
    let asked = input.public_access_block_configuration;
    let block = PublicAccessBlock {
        block_public_acls: asked.block_public_acls.unwrap_or_default(),
        ignore_public_acls: asked.ignore_public_acls.unwrap_or_default(),
        block_public_policy: asked.block_public_policy.unwrap_or_default(),
        restrict_public_buckets: asked.restrict_public_buckets.unwrap_or_default(),
    };
    door.ask(move |store| {
        write(
            store,
            &who,
            &input.bucket,
            Document::PublicAccessBlock,
            &block,
        )
    })
    .await?;
    Ok(PutPublicAccessBlockOutput {})
}

pub(super) async fn get_block(
    door: &Door,
    request: S3Request<GetPublicAccessBlockInput>,
) -> S3Result<GetPublicAccessBlockOutput> {
    let bucket = request.input.bucket;
    let found: Option<PublicAccessBlock> = door
        .ask(move |store| read(store, &bucket, Document::PublicAccessBlock))
        .await?;
    let Some(block) = found else {
        return Err(super::error::custom(
            "NoSuchPublicAccessBlockConfiguration",
            http::StatusCode::NOT_FOUND,
            "The public access block configuration was not found",
        ));
    };
    Ok(GetPublicAccessBlockOutput {
        public_access_block_configuration: Some(PublicAccessBlockConfiguration {
            block_public_acls: Some(block.block_public_acls),
            block_public_policy: Some(block.block_public_policy),
            ignore_public_acls: Some(block.ignore_public_acls),
            restrict_public_buckets: Some(block.restrict_public_buckets),
        }),
    })
}

pub(super) async fn delete_block(
    door: &Door,
    request: S3Request<DeletePublicAccessBlockInput>,
) -> S3Result<DeletePublicAccessBlockOutput> {
    let who = who(&request.extensions);
    remove(door, who, request.input.bucket, Document::PublicAccessBlock).await?;
    Ok(DeletePublicAccessBlockOutput {})
}

/// One of S3's three words for who owns what is written.
pub(super) fn check_ownership(word: &str) -> S3Result<()> {
    if [OWNER_ENFORCED, OWNER_PREFERRED, OBJECT_WRITER].contains(&word) {
        return Ok(());
    }
    Err(s3_error!(
        MalformedXML,
        "ObjectOwnership is {OWNER_ENFORCED}, {OWNER_PREFERRED} or {OBJECT_WRITER}, not {word:?}"
    ))
}

pub(super) async fn put_ownership(
    door: &Door,
    request: S3Request<PutBucketOwnershipControlsInput>,
) -> S3Result<PutBucketOwnershipControlsOutput> {
    let who = who(&request.extensions);
    let input = request.input;
    let rules = input.ownership_controls.rules;
    let [rule] = rules.as_slice() else {
        return Err(s3_error!(
            MalformedXML,
            "OwnershipControls has one rule, not {}",
            rules.len()
        ));
    };
    let word = rule.object_ownership.as_str().to_owned();
    check_ownership(&word)?;
    let enforce = word == OWNER_ENFORCED;
    let granted = door
        .ask(move |store| {
            let bucket = store.bucket(&input.bucket)?;
            if enforce && !bucket_list(store, &bucket)?.is_private() {
                return Ok(true);
            }
            let change = BucketChange {
                ownership: Some(word),
                ..BucketChange::default()
            };
            store.bucket_configure(&who, &input.bucket, &change)?;
            Ok(false)
        })
        .await?;
    if granted {
        return Err(s3_error!(
            InvalidBucketAclWithObjectOwnership,
            "Bucket cannot have ACLs set with ObjectOwnership's BucketOwnerEnforced setting: make \
             its ACL private first"
        ));
    }
    Ok(PutBucketOwnershipControlsOutput {})
}

pub(super) async fn get_ownership(
    door: &Door,
    request: S3Request<GetBucketOwnershipControlsInput>,
) -> S3Result<GetBucketOwnershipControlsOutput> {
    let bucket = request.input.bucket;
    let word = door
        .ask(move |store| store.bucket(&bucket))
        .await?
        .config
        .ownership;
    if word.is_empty() {
        return Err(s3_error!(
            OwnershipControlsNotFoundError,
            "The bucket ownership controls were not found"
        ));
    }
    Ok(GetBucketOwnershipControlsOutput {
        ownership_controls: Some(OwnershipControls {
            rules: vec![OwnershipControlsRule {
                object_ownership: dto::ObjectOwnership::from(word),
            }],
        }),
    })
}

pub(super) async fn delete_ownership(
    door: &Door,
    request: S3Request<DeleteBucketOwnershipControlsInput>,
) -> S3Result<DeleteBucketOwnershipControlsOutput> {
    let who = who(&request.extensions);
    let bucket = request.input.bucket;
    let change = BucketChange {
        ownership: Some(String::new()),
        ..BucketChange::default()
    };
    door.ask(move |store| store.bucket_configure(&who, &bucket, &change))
        .await?;
    Ok(DeleteBucketOwnershipControlsOutput {})
}

pub(super) async fn put_cors(
    door: &Door,
    request: S3Request<PutBucketCorsInput>,
) -> S3Result<PutBucketCorsOutput> {
    let who = who(&request.extensions);
    let input = request.input;
    let rules = Rules::of(input.cors_configuration)?;
    door.ask(move |store| write(store, &who, &input.bucket, Document::Cors, &rules))
        .await?;
    Ok(PutBucketCorsOutput {})
}

pub(super) async fn get_cors(
    door: &Door,
    request: S3Request<GetBucketCorsInput>,
) -> S3Result<GetBucketCorsOutput> {
    let bucket = request.input.bucket;
    let rules = door.ask(move |store| cors(store, &bucket)).await?;
    let rules = rules.ok_or_else(|| {
        s3_error!(
            NoSuchCORSConfiguration,
            "The CORS configuration does not exist"
        )
    })?;
    Ok(GetBucketCorsOutput {
        cors_rules: Some(rules.shown()),
    })
}

pub(super) async fn delete_cors(
    door: &Door,
    request: S3Request<DeleteBucketCorsInput>,
) -> S3Result<DeleteBucketCorsOutput> {
    let who = who(&request.extensions);
    remove(door, who, request.input.bucket, Document::Cors).await?;
    Ok(DeleteBucketCorsOutput {})
}

pub(super) async fn put_tagging(
    door: &Door,
    request: S3Request<PutBucketTaggingInput>,
) -> S3Result<PutBucketTaggingOutput> {
    let who = who(&request.extensions);
    let input = request.input;
    let set = tags::of_xml(input.tagging.tag_set, tags::BUCKET_MAX)?;
    door.ask(move |store| write(store, &who, &input.bucket, Document::Tagging, &set))
        .await?;
    Ok(PutBucketTaggingOutput {})
}

pub(super) async fn get_tagging(
    door: &Door,
    request: S3Request<GetBucketTaggingInput>,
) -> S3Result<GetBucketTaggingOutput> {
    let bucket = request.input.bucket;
    let set: Option<tags::Tags> = door
        .ask(move |store| read(store, &bucket, Document::Tagging))
        .await?;
    let set = set.ok_or_else(|| s3_error!(NoSuchTagSet, "The TagSet does not exist"))?;
    Ok(GetBucketTaggingOutput {
        tag_set: tags::shown(&set),
    })
}

pub(super) async fn delete_tagging(
    door: &Door,
    request: S3Request<DeleteBucketTaggingInput>,
) -> S3Result<DeleteBucketTaggingOutput> {
    let who = who(&request.extensions);
    remove(door, who, request.input.bucket, Document::Tagging).await?;
    Ok(DeleteBucketTaggingOutput {})
}

/// Nothing is encrypted by the server, so there is nothing to show and nothing to take away.
pub(super) async fn get_encryption(
    door: &Door,
    request: S3Request<GetBucketEncryptionInput>,
) -> S3Result<GetBucketEncryptionOutput> {
    let bucket = request.input.bucket;
    door.ask(move |store| store.bucket(&bucket)).await?;
    let mut none = s3_error!(
        ServerSideEncryptionConfigurationNotFoundError,
        "The server side encryption configuration was not found"
    );
    none.set_status_code(http::StatusCode::NOT_FOUND);
    Err(none)
}

pub(super) async fn delete_encryption(
    door: &Door,
    request: S3Request<DeleteBucketEncryptionInput>,
) -> S3Result<DeleteBucketEncryptionOutput> {
    let bucket = request.input.bucket;
    door.ask(move |store| store.bucket(&bucket)).await?;
    Ok(DeleteBucketEncryptionOutput {})
}

/// The owner pays, always.
pub(super) async fn request_payment(
    door: &Door,
    request: S3Request<GetBucketRequestPaymentInput>,
) -> S3Result<GetBucketRequestPaymentOutput> {
    let bucket = request.input.bucket;
    door.ask(move |store| store.bucket(&bucket)).await?;
    Ok(GetBucketRequestPaymentOutput {
        payer: Some(Payer::from_static(Payer::BUCKET_OWNER)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_names_what_it_stands_for() {
        for (pattern, name, fits) in [
            ("abc", "abc", true),
            ("abc", "abcd", false),
            ("*", "abc", true),
            ("a*", "abc", true),
            ("*c", "abc", true),
            ("a*b*c", "aXbYbZc", true),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("", "", true),
            ("b*", "abc", false),
        ] {
            assert_eq!(names(pattern, name), fits, "{pattern} {name}");
        }
        // A pattern that an attacker wrote takes no more steps than its length times the name's.
        assert!(!names(&"*a".repeat(5000), &"a".repeat(4999)));
    }
}
