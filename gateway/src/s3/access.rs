//! Who asks over S3, and whether they may: the signature's key names the caller, the one policy
//! engine decides.
//!
//! ```text
//! key, token ──▶ secret ──▶ signature checked by s3s ──▶ Caller
//! operation  ──▶ needs (actions.rs) ──┬─ the bucket's and the object's list: does it grant?
//!                                     ▼
//!                         access::authorize, once per need ──▶ go on, or Access Denied
//! ```
//! 1. Every operation passes here before its body is read; what a body names (the keys of
//!    DeleteObjects) is asked here again, by [`ask`].
//! 2. A list is only asked for callers of other projects: in its own project the policies decide.
//! 3. Whether a key exists is told to those only who may list it: to all others a missing key and
//!    a forbidden one look the same ("GetObject", Amazon S3 API reference, "Permissions").

use super::acl::{Acl, Permission};
use super::actions::{self, Context, Need};
use super::metadata::refuse_unserved;
use super::settings::{self, Document};
use super::{Door, front};
use ::access::{Access, Caller, Principal, Resource, Unknown};
use blockstore::object::{Bucket, Object, ObjectMeta};
use blockstore::{Kind, Store, Subject};
use http::Extensions;
use s3s::access::{S3Access, S3AccessContext};
use s3s::auth::{S3Auth, SecretKey};
use s3s::path::S3Path;
use s3s::{S3Result, s3_error};

/// Where an object keeps its list among its properties.
pub(super) const OBJECT_LIST: &str = "acl";

/// What decisions are made with.
#[derive(Clone)]
pub(super) struct Gate {
    pub(super) store: Store,
    pub(super) access: Access,
}

/// The condition keys of a request, for whoever asks again.
#[derive(Clone, Default)]
struct Asked(Context);

/// The keys of all users.
pub(super) struct Keys(pub(super) Access);

#[async_trait::async_trait]
impl S3Auth for Keys {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        let token = front::token();
        self.0
            .key(access_key, token.as_deref())
            .map(|key| SecretKey::from(key.secret))
            .map_err(unknown)
    }
}

pub(super) fn unknown(why: Unknown) -> s3s::S3Error {
    match why {
        Unknown::Key => s3_error!(
            InvalidAccessKeyId,
            "The AWS Access Key Id you provided does not exist in our records. infall env prints \
             the one that does."
        ),
        Unknown::Inactive => s3_error!(InvalidAccessKeyId, "{why}"),
        Unknown::Token => s3_error!(InvalidToken, "{why}"),
        Unknown::Expired => s3_error!(ExpiredToken, "{why}"),
    }
}

/// What a request may ask.
pub(super) struct Decisions(pub(super) Gate);

#[async_trait::async_trait]
impl S3Access for Decisions {
    async fn check(&self, context: &mut S3AccessContext<'_>) -> S3Result<()> {
        let mut caller = super::caller(context.extensions_mut());
        if let Some(shown) = context.credentials() {
            let token = front::token();
            let key = self.0.access.key(&shown.access_key, token.as_deref());
            caller.principal = key.map_err(unknown)?.principal;
        }
        let query = context.uri().query();
        let presigned = query.is_some_and(|query| query.contains("X-Amz-Signature="));
        let signed = context.credentials().is_some();
        let keys = actions::context(query, context.headers(), presigned, signed)?;
        let operation = context.s3_op().name();
        let needs = actions::needs(operation, context.s3_path(), query, context.headers())?;
        if let S3Path::Object { key, .. } = context.s3_path() {
            check_key(key)?;
        }
        let unserved = refuse_unserved(context.headers());
        let expected = expected_owners(context.s3_path(), context.headers());
        let extensions = context.extensions_mut();
        extensions.insert(caller.clone());
        extensions.insert(Asked(keys.clone()));
        let gate = self.0.clone();
        crate::blocking::run(move || {
            gate.decide(&caller, &needs, &keys)?;
            gate.check_owners(&expected)
        })
        .await
        .map_err(super::error::failed)?;
        // What is not served is told to those only who might have asked for it.
        unserved
    }
}

/// The condition keys of a request.
pub(super) fn keys(extensions: &Extensions) -> Context {
    extensions.get::<Asked>().cloned().unwrap_or_default().0
}

/// Asks for what only the body of a request told.
pub(super) async fn ask(
    door: &Door,
    extensions: &Extensions,
    needs: Vec<Need>,
    more: Context,
) -> S3Result<()> {
    let caller = super::caller(extensions);
    let mut keys = keys(extensions);
    keys.extend(more);
    let gate = door.gate.clone();
    crate::blocking::run(move || gate.decide(&caller, &needs, &keys))
        .await
        .map_err(super::error::failed)
}

impl Gate {
    /// Whether all of `needs` are allowed. Blocks.
    pub(super) fn decide(
        &self,
        caller: &Caller,
        needs: &[Need],
        keys: &Context,
    ) -> blockstore::Result<()> {
        // The operator, and parts of the system itself: no list and no tag changes the answer.
        let plain = matches!(
            caller.principal,
            Principal::Root | Principal::Service { .. }
        );
        // What a new bucket shall have is asked before it is there.
        let making = needs.iter().any(|need| need.action == "s3:CreateBucket");
        for need in needs {
            if plain || making {
                self.authorize(caller, need, keys, None)?;
            } else {
                self.decide_one(caller, need, keys)?;
            }
        }
        Ok(())
    }

    fn decide_one(&self, caller: &Caller, need: &Need, keys: &Context) -> blockstore::Result<()> {
        if need.bucket.is_empty() {
            return self.authorize(caller, need, keys, None);
        }
        // A missing bucket is no secret: its name is taken or free for everybody.
        let bucket = match self.store.bucket(&need.bucket) {
            Err(unnamed) if unnamed.kind() == Kind::NotFound => {
                return match self.authorize(caller, need, keys, None) {
                    Err(denied) if denied.kind() == Kind::Denied => Err(unnamed),
                    other => other,
                };
            }
            found => found?,
        };
        if !need.spared_for.is_empty() && need.spared_for.iter().all(|id| *id == bucket.project) {
            return Ok(());
        }
        let object = match &need.key {
            Some(key) if need.existing => {
                match self.find(&need.bucket, key, need.version.as_deref()) {
                    Ok(object) => Some(object),
                    Err(missing) if missing.kind() == Kind::NotFound => {
                        return self.may_know(caller, &bucket, key, keys);
                    }
                    Err(other) => return Err(other),
                }
            }
            _ => None,
        };
        let mut keys = keys.clone();
        if let Some(object) = &object {
            keys.extend(actions::present_tags(&object.meta.tags));
        }
        let granted = self.granted(caller, &bucket, object.as_ref(), need.list)?;
        self.authorize(caller, need, &keys, granted.as_deref())
    }

    /// Whether `caller` may be told that there is no such key: that takes the right to list it.
    fn may_know(
        &self,
        caller: &Caller,
        bucket: &Bucket,
        key: &str,
        keys: &Context,
    ) -> blockstore::Result<()> {
        let list = actions::need("s3:ListBucket", &bucket.name, None, Some(Permission::Read));
        let mut keys = keys.clone();
        keys.retain(|(name, _)| name != "s3:prefix");
        keys.push(("s3:prefix".to_owned(), key.to_owned()));
        let granted = self.granted(caller, bucket, None, list.list)?;
        self.authorize(caller, &list, &keys, granted.as_deref())
    }

    fn find(&self, bucket: &str, key: &str, version: Option<&str>) -> blockstore::Result<Object> {
        match version {
            None => self.store.object_head(bucket, key),
            Some(version) => self.store.object_version(bucket, key, version),
        }
    }

    /// The list that grants `wanted` to the caller, if one does.
    fn granted(
        &self,
        caller: &Caller,
        bucket: &Bucket,
        object: Option<&Object>,
        wanted: Option<Permission>,
    ) -> blockstore::Result<Option<String>> {
        let Some(wanted) = wanted else {
            return Ok(None);
        };
        let project = match caller.principal {
            Principal::Anonymous => None,
            _ => Some(caller.principal.project()),
        };
        if project == Some(bucket.project.as_str()) || settings::enforces_owner(bucket) {
            return Ok(None);
        }
        let block = settings::public_access_block(&self.store, &bucket.name)?;
        let (list, of) = match object {
            Some(object) => (
                object_list(object, &bucket.project),
                format!("acl of {}/{}", bucket.name, object.key),
            ),
            None => (
                bucket_list(&self.store, bucket)?,
                format!("acl of {}", bucket.name),
            ),
        };
        Ok(list
            .grants(project, wanted, block.ignore_public_acls)
            .then_some(of))
    }

    fn authorize(
        &self,
        caller: &Caller,
        need: &Need,
        keys: &Context,
        granted: Option<&str>,
    ) -> blockstore::Result<()> {
        let resource = match (&need.key, need.bucket.as_str()) {
            (_, "") => Resource::All,
            (None, bucket) => Resource::Bucket(bucket),
            (Some(key), bucket) => Resource::Object(bucket, key),
        };
        let keys: Vec<(&str, &str)> = keys
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        self.access
            .authorize_granted(caller, need.action, &resource, &keys, granted)
    }

    /// `x-amz-expected-bucket-owner`: whoever owns the bucket by now must be whom the client means.
    fn check_owners(&self, expected: &[(String, String)]) -> blockstore::Result<()> {
        for (bucket, owner) in expected {
            let found = self.store.bucket(bucket)?;
            if found.project != *owner {
                return Err(blockstore::Error::new(
                    Kind::Denied,
                    Subject::Bucket,
                    format!("Access Denied: the bucket {bucket:?} is not owned by {owner:?}"),
                ));
            }
        }
        Ok(())
    }
}

/// The list of an object; one that keeps none is private to the bucket's owner.
pub(super) fn object_list(object: &Object, bucket_owner: &str) -> Acl {
    list_in(&object.meta).unwrap_or_else(|| Acl::private(bucket_owner))
}

/// The list that is kept with an object, if one is.
pub(super) fn list_in(meta: &ObjectMeta) -> Option<Acl> {
    let kept = meta.properties.get(OBJECT_LIST)?;
    serde_json::from_value(kept.clone()).ok()
}

/// The list of a bucket; one that keeps none is private.
pub(super) fn bucket_list(store: &Store, bucket: &Bucket) -> blockstore::Result<Acl> {
    let kept = settings::read(store, &bucket.name, Document::Acl)?;
    Ok(kept.unwrap_or_else(|| Acl::private(&bucket.project)))
}

/// Which buckets must be whose.
fn expected_owners(path: &S3Path, headers: &http::HeaderMap) -> Vec<(String, String)> {
    let text = |name: &str| {
        headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .map(ToOwned::to_owned)
    };
    let mut expected = Vec::new();
    if let (Some(bucket), Some(owner)) =
        (path.get_bucket_name(), text("x-amz-expected-bucket-owner"))
    {
        expected.push((bucket.to_owned(), owner));
    }
    if let (Some(source), Some(owner)) = (
        text("x-amz-copy-source"),
        text("x-amz-source-expected-bucket-owner"),
    ) && let Ok(s3s::dto::CopySource::Bucket { bucket, .. }) =
        s3s::dto::CopySource::parse(&source)
    {
        expected.push((bucket.into(), owner));
    }
    expected
}

/// Keys are any UTF-8 of up to 1024 bytes ("Naming Amazon S3 objects"), but for NUL: neither XML
/// nor a file system could show such a key again.
pub(super) fn check_key(key: &str) -> S3Result<()> {
    if key.is_empty() || key.len() > 1024 {
        return Err(s3_error!(
            KeyTooLongError,
            "A key has 1 to 1024 bytes, this one {}",
            key.len()
        ));
    }
    if key.contains('\0') {
        return Err(s3_error!(InvalidURI, "A key cannot contain NUL: {key:?}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_keys_are_kept_as_they_are_where_legal() {
        for key in [
            "../../etc/passwd",
            "a//b",
            "/",
            " ",
            "\u{1}\u{7f}",
            "ключ",
            "a\nb",
            "%00",
        ] {
            assert!(check_key(key).is_ok(), "{key:?}");
        }
        assert_eq!(check_key("a\0b").unwrap_err().code().as_str(), "InvalidURI");
        assert_eq!(
            check_key(&"k".repeat(1025)).unwrap_err().code().as_str(),
            "KeyTooLongError"
        );
        assert!(check_key(&"k".repeat(1024)).is_ok());
    }

    #[tokio::test]
    async fn an_unknown_access_key_has_no_secret() {
        let directory = tempfile::tempdir().unwrap();
        let store = blockstore::Store::open(directory.path(), Default::default()).unwrap();
        let pair = ::access::Credentials::generate();
        let root = Keys(Access::open(store, pair.clone()).unwrap());
        assert_eq!(
            root.get_secret_key(&pair.access_key)
                .await
                .unwrap()
                .expose(),
            pair.secret_key
        );
        let refused = root.get_secret_key("INF4AAAA").await.unwrap_err();
        assert_eq!(refused.code().as_str(), "InvalidAccessKeyId");
    }
}
