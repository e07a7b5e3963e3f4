//! Who asks over S3, and whether they may: the signature's key names the caller, the one policy
//! engine decides.
//!
//! The check runs behind the signature's, for every operation, so what it refuses it tells only
//! to those who showed a valid key.

use super::metadata::{refuse_unserved, refuse_version};
use access::{Access, Resource, Unknown};
use s3s::access::{S3Access, S3AccessContext};
use s3s::auth::{S3Auth, SecretKey};
use s3s::path::S3Path;
use s3s::{S3Result, s3_error};

/// The keys of all users.
pub(super) struct Keys(pub(super) Access);

#[async_trait::async_trait]
impl S3Auth for Keys {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        let known = self.0.key(access_key, None);
        known
            .map(|key| SecretKey::from(key.secret))
            .map_err(unknown)
    }
}

fn unknown(why: Unknown) -> s3s::S3Error {
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

/// What a signed request may ask.
pub(super) struct Decisions(pub(super) Access);

#[async_trait::async_trait]
impl S3Access for Decisions {
    async fn check(&self, context: &mut S3AccessContext<'_>) -> S3Result<()> {
        let Some(shown) = context.credentials() else {
            return Err(s3_error!(
                AccessDenied,
                "Access Denied: the request shows no valid key"
            ));
        };
        let key = self.0.key(&shown.access_key, None).map_err(unknown)?;
        let mut caller = super::caller(context.extensions_mut());
        caller.principal = key.principal;
        let resource = match context.s3_path() {
            S3Path::Root => Resource::All,
            S3Path::Bucket { bucket } => Resource::Bucket(bucket),
            S3Path::Object { bucket, key } => Resource::Object(bucket, key),
        };
        let action = format!("s3:{}", context.s3_op().name());
        self.0
            .authorize(&caller, &action, &resource, &[])
            .map_err(super::error::failed)?;
        context.extensions_mut().insert(caller);
        if let S3Path::Object { key, .. } = context.s3_path() {
            check_key(key)?;
        }
        let query = context.uri().query().unwrap_or_default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            if name == "versionId" {
                refuse_version(Some(&value))?;
            }
        }
        refuse_unserved(context.headers())
    }
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
        let pair = access::Credentials::generate();
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
