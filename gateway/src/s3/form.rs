//! The fields of a browser's upload form: who signed it, and what its policy allows.
//!
//! 1. A policy document must allow every field of the form but those that sign it, and each of its
//!    conditions must hold ("POST policy", Amazon S3 API reference). Nothing else limits a form, so
//!    a form without a policy is anonymous, whatever else it says.
//! 2. Both of S3's form signatures are known: version 4, and version 2, whose HMAC-SHA1 is sound for
//!    what it signs here, a policy that expires. Everywhere else there is version 4 only.
//! 3. Signatures are compared in constant time.

use super::error::custom;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, Mac};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use s3s::dto::Timestamp;
use s3s::post_policy::{PostPolicy, PostPolicyCondition, PostPolicyError};
use s3s::{S3Error, S3Result, s3_error};
use sha1::Sha1;
use sha2::Sha256;
use subtle::ConstantTimeEq;

/// Fields of one form at most, and bytes of all of them.
pub(super) const FIELDS_MAX: usize = 100;
pub(super) const FIELDS_BYTES_MAX: usize = 64 << 10;
const SCHEME: &str = "AWS4-HMAC-SHA256";

/// The fields in front of the file, by their names in lower case; each name once.
#[derive(Debug, Default)]
pub(super) struct Fields {
    fields: Vec<(String, String)>,
    bytes: usize,
}

/// A key that a form shows, and the proof that its secret is known.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Signed<'a> {
    pub(super) access_key: &'a str,
    pub(super) token: Option<&'a str>,
    policy: &'a str,
    proof: Proof<'a>,
}

#[derive(Debug, PartialEq, Eq)]
enum Proof<'a> {
    /// HMAC-SHA1 of the policy, in base64.
    Version2 { signature: &'a str },
    /// HMAC-SHA256 of the policy under a key derived for `<date>/<region>/s3`, in hex.
    Version4 {
        date: &'a str,
        region: &'a str,
        signature: &'a str,
    },
}

impl Fields {
    /// Refuses what is too much, and a second field of one name.
    pub(super) fn add(&mut self, name: &str, value: String) -> S3Result<()> {
        let name = name.to_ascii_lowercase();
        self.bytes += name.len() + value.len();
        if self.fields.len() == FIELDS_MAX || self.bytes > FIELDS_BYTES_MAX {
            return Err(s3_error!(
                MaxPostPreDataLengthExceededError,
                "Your POST request fields preceding the upload file were too large: at most \
                 {FIELDS_MAX} fields and {FIELDS_BYTES_MAX} bytes are read"
            ));
        }
        if self.get(&name).is_some() {
            return Err(s3_error!(
                InvalidArgument,
                "The form has the field {name:?} twice"
            ));
        }
        self.fields.push((name, value));
        Ok(())
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let mut fields = self.fields.iter();
        fields
            .find(|(field, _)| field == name)
            .map(|(_, value)| value.as_str())
    }

    /// The key of the object to be; `${filename}` stands for what the file is called.
    pub(super) fn key(&self, file_name: Option<&str>) -> S3Result<String> {
        let key = self.get("key").ok_or_else(|| {
            s3_error!(
                InvalidArgument,
                "Bucket POST must contain a field named 'key'. If it is specified, please check the \
                 order of the fields: the file comes last."
            )
        })?;
        // Of a path, the last part: browsers tell it all.
        let file_name = file_name.unwrap_or_default();
        let bare = file_name.rsplit(['/', '\\']).next().unwrap_or_default();
        Ok(key.replace("${filename}", bare))
    }

    /// The fields as a PUT would have said the same in headers.
    pub(super) fn headers(&self) -> S3Result<HeaderMap> {
        const PLAIN: [&str; 6] = [
            "cache-control",
            "content-type",
            "content-disposition",
            "content-encoding",
            "content-language",
            "expires",
        ];
        // They sign the form, and say nothing of the object.
        const SIGNING: [&str; 5] = [
            "x-amz-signature",
            "x-amz-credential",
            "x-amz-algorithm",
            "x-amz-date",
            "x-amz-security-token",
        ];
        let mut headers = HeaderMap::new();
        for (name, value) in &self.fields {
            let header = match name.as_str() {
                "acl" => "x-amz-acl",
                other if PLAIN.contains(&other) => other,
                other if other.starts_with("x-amz-") && !SIGNING.contains(&other) => other,
                _ => continue,
            };
            let (Ok(header), Ok(value)) = (
                HeaderName::try_from(header),
                HeaderValue::from_bytes(value.as_bytes()),
            ) else {
                return Err(s3_error!(
                    InvalidArgument,
                    "The field {name:?} has a value that no header can carry"
                ));
            };
            headers.insert(header, value);
        }
        Ok(headers)
    }

    /// Who signed the form; `None` for a form without policy and signature.
    pub(super) fn signed(&self) -> S3Result<Option<Signed<'_>>> {
        let Some(policy) = self.get("policy") else {
            let signature = ["signature", "x-amz-signature"].map(|name| self.get(name));
            return match signature {
                [None, None] => Ok(None),
                _ => Err(missing("policy")),
            };
        };
        let field = |name: &'static str| self.get(name).ok_or_else(|| missing(name));
        if self.get("x-amz-signature").is_none() && self.get("x-amz-algorithm").is_none() {
            return Ok(Some(Signed {
                access_key: field("awsaccesskeyid")?,
                token: self.get("x-amz-security-token"),
                policy,
                proof: Proof::Version2 {
                    signature: field("signature")?,
                },
            }));
        }
        let algorithm = field("x-amz-algorithm")?;
        let credential = field("x-amz-credential")?;
        let mut scope = credential.rsplitn(5, '/');
        let parts = [
            scope.next(),
            scope.next(),
            scope.next(),
            scope.next(),
            scope.next(),
        ];
        let [
            Some("aws4_request"),
            Some("s3"),
            Some(region),
            Some(date),
            Some(access_key),
        ] = parts
        else {
            return Err(s3_error!(
                InvalidArgument,
                "X-Amz-Credential must be <access key>/<date>/<region>/s3/aws4_request"
            ));
        };
        if algorithm != SCHEME || !field("x-amz-date")?.starts_with(date) {
            return Err(s3_error!(
                InvalidArgument,
                "X-Amz-Algorithm must be {SCHEME}, and X-Amz-Date of the day in X-Amz-Credential"
            ));
        }
        Ok(Some(Signed {
            access_key,
            token: self.get("x-amz-security-token"),
            policy,
            proof: Proof::Version4 {
                date,
                region,
                signature: field("x-amz-signature")?,
            },
        }))
    }

    /// Holds the policy against the fields. Returns the sizes that the file may have.
    pub(super) fn allowed(&self, bucket: &str, key: &str, now: &Timestamp) -> S3Result<(u64, u64)> {
        let mut sizes = (0, u64::MAX);
        let Some(policy) = self.get("policy") else {
            return Ok(sizes);
        };
        check_expiration(policy)?;
        let policy = PostPolicy::from_base64(policy).map_err(|why| malformed(&why))?;
        if policy.expiration <= *now {
            return Err(refused("Policy expired."));
        }
        let value = |field: &str| match field {
            "bucket" => Some(bucket),
            "key" => Some(key),
            other => self.get(other),
        };
        for condition in &policy.conditions {
            match condition {
                PostPolicyCondition::Eq {
                    field,
                    value: wanted,
                } => {
                    let field = field.to_ascii_lowercase();
                    if value(&field) != Some(wanted.as_str()) {
                        return Err(refused(&format!(
                            "Policy Condition failed: [\"eq\", \"${field}\", \"{wanted}\"]"
                        )));
                    }
                }
                PostPolicyCondition::StartsWith { field, prefix } => {
                    let field = field.to_ascii_lowercase();
                    if !value(&field).is_some_and(|value| value.starts_with(prefix.as_str())) {
                        return Err(refused(&format!(
                            "Policy Condition failed: [\"starts-with\", \"${field}\", \"{prefix}\"]"
                        )));
                    }
                }
                PostPolicyCondition::ContentLengthRange { min, max } => {
                    sizes = (sizes.0.max(*min), sizes.1.min(*max));
                }
            }
        }
        let named = |name: &str| {
            policy.conditions.iter().any(|condition| match condition {
                PostPolicyCondition::Eq { field, .. }
                | PostPolicyCondition::StartsWith { field, .. } => field.eq_ignore_ascii_case(name),
                PostPolicyCondition::ContentLengthRange { .. } => false,
            })
        };
        let signs = |name: &str| {
            matches!(
                name,
                "policy" | "signature" | "awsaccesskeyid" | "x-amz-signature" | "submit" | "bucket"
            ) || name.starts_with("x-ignore-")
                // A checksum only makes sure that the file arrives as it was sent.
                || name.starts_with("x-amz-checksum-")
        };
        let extra = self
            .fields
            .iter()
            .find(|(name, _)| !signs(name) && !named(name));
        if let Some((name, _)) = extra {
            return Err(refused(&format!("Extra input fields: {name}")));
        }
        if self.get("bucket").is_some_and(|named| named != bucket) {
            return Err(refused(&format!(
                "the field bucket does not name this bucket, {bucket:?}"
            )));
        }
        Ok(sizes)
    }
}

impl Signed<'_> {
    /// Whether `secret` made this signature.
    pub(super) fn verify(&self, secret: &str) -> S3Result<()> {
        let matches = match &self.proof {
            Proof::Version2 { signature } => {
                let made = BASE64.encode(chain::<Hmac<Sha1>>(secret.as_bytes(), &[self.policy]));
                made.as_bytes().ct_eq(signature.as_bytes())
            }
            Proof::Version4 {
                date,
                region,
                signature,
            } => {
                let secret = format!("AWS4{secret}");
                let words = [*date, *region, "s3", "aws4_request", self.policy];
                let made = hex::encode(chain::<Hmac<Sha256>>(secret.as_bytes(), &words));
                made.as_bytes().ct_eq(signature.as_bytes())
            }
        };
        if bool::from(matches) {
            return Ok(());
        }
        Err(s3_error!(
            SignatureDoesNotMatch,
            "The request signature we calculated does not match the signature you provided. Check \
             your secret key and signing method."
        ))
    }
}

/// Only `2007-12-01T12:00:00.000Z` is a date here; other spellings of RFC 3339 are refused.
fn check_expiration(policy: &str) -> S3Result<()> {
    let decoded = BASE64.decode(policy).unwrap_or_default();
    let document: serde_json::Value = serde_json::from_slice(&decoded).unwrap_or_default();
    let text = document.get("expiration").and_then(|text| text.as_str());
    match text {
        Some(text) if text.as_bytes().get(10) == Some(&b'T') && text.ends_with('Z') => Ok(()),
        // What is missing or no JSON at all, the next step says better.
        None => Ok(()),
        Some(text) => Err(s3_error!(
            InvalidPolicyDocument,
            "Invalid Policy: Invalid 'expiration' value: {text:?}"
        )),
    }
}

/// Each word under a key that the words before it made.
fn chain<M: Mac + hmac::digest::KeyInit>(key: &[u8], words: &[&str]) -> Vec<u8> {
    words.iter().fold(key.to_vec(), |key, word| {
        match <M as Mac>::new_from_slice(&key) {
            Ok(mac) => mac
                .chain_update(word.as_bytes())
                .finalize()
                .into_bytes()
                .to_vec(),
            // HMAC takes keys of any length (RFC 2104, 2); an empty result matches no signature.
            Err(_) => Vec::new(),
        }
    })
}

/// Now, as policies compare it.
pub(super) fn now() -> Timestamp {
    Timestamp::from(std::time::SystemTime::now())
}

fn missing(field: &str) -> S3Error {
    s3_error!(
        InvalidArgument,
        "Bucket POST must contain a field named '{field}'. If it is specified, please check the \
         order of the fields: the file comes last."
    )
}

fn malformed(why: &PostPolicyError) -> S3Error {
    s3_error!(
        InvalidPolicyDocument,
        "The content of the form does not meet the conditions specified in the policy document: \
         {why}"
    )
}

fn refused(why: &str) -> S3Error {
    custom(
        "AccessDenied",
        StatusCode::FORBIDDEN,
        format!("Invalid according to Policy: {why}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use s3s::dto::TimestampFormat;

    fn form(pairs: &[(&str, &str)]) -> Fields {
        let mut fields = Fields::default();
        for (name, value) in pairs {
            fields.add(name, (*value).to_owned()).unwrap();
        }
        fields
    }

    fn policy(conditions: &str) -> String {
        BASE64.encode(format!(
            "{{\"expiration\":\"2030-01-01T00:00:00Z\",\"conditions\":{conditions}}}"
        ))
    }

    fn at(text: &str) -> Timestamp {
        Timestamp::parse(TimestampFormat::DateTime, text).unwrap()
    }

    fn allowed(conditions: &str, pairs: &[(&str, &str)]) -> Result<(u64, u64), String> {
        let policy = policy(conditions);
        let mut all = vec![("policy", policy.as_str()), ("key", "foo.txt")];
        all.extend(pairs);
        form(&all)
            .allowed("b", "foo.txt", &at("2029-01-01T00:00:00Z"))
            .map_err(|refused| refused.code().as_str().to_owned())
    }

    #[test]
    fn every_condition_must_hold_and_every_field_be_named() {
        let all = "[{\"bucket\":\"b\"},[\"starts-with\",\"$key\",\"foo\"],[\"content-length-range\",2,9]]";
        assert_eq!(allowed(all, &[]), Ok((2, 9)));
        let denied = Err("AccessDenied".to_owned());
        assert_eq!(allowed(all, &[("acl", "private")]), denied);
        assert_eq!(allowed("[[\"starts-with\",\"$key\",\"bar\"]]", &[]), denied);
        assert_eq!(
            allowed("[{\"bucket\":\"c\"},{\"key\":\"foo.txt\"}]", &[]),
            denied
        );
        assert_eq!(
            allowed("[{\"key\":\"foo.txt\"}]", &[("bucket", "c")]),
            denied
        );
        assert_eq!(
            allowed(
                "[{\"key\":\"foo.txt\"}]",
                &[("x-ignore-this", "1"), ("submit", "go")]
            ),
            Ok((0, u64::MAX))
        );
        assert_eq!(allowed("[", &[]), Err("InvalidPolicyDocument".into()));
    }

    #[test]
    fn an_expired_policy_allows_nothing() {
        let policy = policy("[{\"key\":\"k\"}]");
        let fields = form(&[("policy", &policy), ("key", "k")]);
        assert!(
            fields
                .allowed("b", "k", &at("2029-12-31T23:59:59Z"))
                .is_ok()
        );
        assert!(
            fields
                .allowed("b", "k", &at("2030-01-01T00:00:00Z"))
                .is_err()
        );
    }

    #[test]
    fn both_signatures_are_checked_against_the_policy() {
        // From the worked example of "Browser-based uploads using POST (AWS signature version 4)".
        let policy = "eyAiZXhwaXJhdGlvbiI6ICIyMDE1LTEyLTMwVDEyOjAwOjAwLjAwMFoiLA0KICAiY29uZGl0aW9ucyI6IFsNCiAgICB7ImJ1Y2tldCI6ICJzaWd2NGV4YW1wbGVidWNrZXQifSwNCiAgICBbInN0YXJ0cy13aXRoIiwgIiRrZXkiLCAidXNlci91c2VyMS8iXSwNCiAgICB7ImFjbCI6ICJwdWJsaWMtcmVhZCJ9LA0KICAgIHsic3VjY2Vzc19hY3Rpb25fcmVkaXJlY3QiOiAiaHR0cDovL3NpZ3Y0ZXhhbXBsZWJ1Y2tldC5zMy5hbWF6b25hd3MuY29tL3N1Y2Nlc3NmdWxfdXBsb2FkLmh0bWwifSwNCiAgICBbInN0YXJ0cy13aXRoIiwgIiRDb250ZW50LVR5cGUiLCAiaW1hZ2UvIl0sDQogICAgeyJ4LWFtei1tZXRhLXV1aWQiOiAiMTQzNjUxMjM2NTEyNzQifSwNCiAgICB7IngtYW16LXNlcnZlci1zaWRlLWVuY3J5cHRpb24iOiAiQUVTMjU2In0sDQogICAgWyJzdGFydHMtd2l0aCIsICIkeC1hbXotbWV0YS10YWciLCAiIl0sDQoNCiAgICB7IngtYW16LWNyZWRlbnRpYWwiOiAiQUtJQUlPU0ZPRE5ON0VYQU1QTEUvMjAxNTEyMjkvdXMtZWFzdC0xL3MzL2F3czRfcmVxdWVzdCJ9LA0KICAgIHsieC1hbXotYWxnb3JpdGhtIjogIkFXUzQtSE1BQy1TSEEyNTYifSwNCiAgICB7IngtYW16LWRhdGUiOiAiMjAxNTEyMjlUMDAwMDAwWiIgfQ0KICBdDQp9";
        let fields = form(&[
            ("policy", policy),
            ("X-Amz-Algorithm", SCHEME),
            (
                "X-Amz-Credential",
                "AKIAIOSFODNN7EXAMPLE/20151229/us-east-1/s3/aws4_request",
            ),
            ("X-Amz-Date", "20151229T000000Z"),
            (
                "X-Amz-Signature",
                "8afdbf4008c03f22c2cd3cdb72e4afbb1f6a588f3255ac628749a66d7f09699e",
            ),
        ]);
        let signed = fields.signed().unwrap().unwrap();
        assert_eq!(signed.access_key, "AKIAIOSFODNN7EXAMPLE");
        signed
            .verify("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
            .unwrap();
        assert!(signed.verify("another").is_err());

        let signature = BASE64.encode(chain::<Hmac<Sha1>>(b"secret", &["cG9saWN5"]));
        let fields = form(&[
            ("policy", "cG9saWN5"),
            ("AWSAccessKeyId", "INF4"),
            ("signature", &signature),
        ]);
        let signed = fields.signed().unwrap().unwrap();
        signed.verify("secret").unwrap();
        assert!(signed.verify("Secret").is_err());
    }

    #[test]
    fn half_signed_forms_are_refused_and_unsigned_ones_are_anonymous() {
        assert!(form(&[("key", "k")]).signed().unwrap().is_none());
        for half in [
            &[("signature", "x")][..],
            &[("policy", "cA=="), ("signature", "x")],
            &[("policy", "cA=="), ("awsaccesskeyid", "x")],
            &[("policy", "cA=="), ("x-amz-signature", "x")],
        ] {
            assert!(form(half).signed().is_err(), "{half:?}");
        }
    }

    #[test]
    fn fields_are_bounded_and_said_once() {
        let mut fields = Fields::default();
        fields.add("Key", "a".into()).unwrap();
        assert!(fields.add("key", "b".into()).is_err());
        assert!(fields.add("x", "y".repeat(FIELDS_BYTES_MAX)).is_err());
        assert_eq!(fields.key(None).unwrap(), "a");
        let named = form(&[("key", "in/${filename}")]);
        assert_eq!(named.key(Some("C:\\tmp\\cat.png")).unwrap(), "in/cat.png");
    }
}
