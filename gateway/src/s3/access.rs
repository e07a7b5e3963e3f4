//! Who may do what: the root key may do everything, nobody else anything.
//!
//! The check runs behind the signature's, for every operation, so what it refuses it tells only
//! to those who showed a valid key.

use super::metadata::{refuse_unserved, refuse_version};
use crate::Credentials;
use s3s::access::{S3Access, S3AccessContext};
use s3s::auth::{S3Auth, SecretKey};
use s3s::path::S3Path;
use s3s::{S3Result, s3_error};
use subtle::ConstantTimeEq;

/// The one key pair.
pub(super) struct RootKey(pub(super) Credentials);

#[async_trait::async_trait]
impl S3Auth for RootKey {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        if bool::from(access_key.as_bytes().ct_eq(self.0.access_key.as_bytes())) {
            return Ok(SecretKey::from(self.0.secret_key.clone()));
        }
        Err(s3_error!(
            InvalidAccessKeyId,
            "The AWS Access Key Id you provided does not exist in our records: {access_key:?}. \
             infall env prints the one that does."
        ))
    }
}

/// What a signed request may ask.
pub(super) struct RootOnly;

#[async_trait::async_trait]
impl S3Access for RootOnly {
    async fn check(&self, context: &mut S3AccessContext<'_>) -> S3Result<()> {
        if context.credentials().is_none() {
            return Err(s3_error!(
                AccessDenied,
                "Access Denied: the request shows no valid key"
            ));
        }
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
        let pair = Credentials::generate();
        let root = RootKey(pair.clone());
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
