//! Buckets as hosts: `bucket.s3.example.org` ("Virtual hosting of buckets", Amazon S3 User Guide).
//!
//! 1. A host is a bucket only below a domain that the operator named; any other host, an address and
//!    the domain itself included, is spoken to in path style.
//! 2. On a bucket's host every path is a key: `/cdmi/x` there is the key `cdmi/x`, and no other door.
//! 3. Case, port and a dot at the end of a host do not count (RFC 3986, 3.2.2; RFC 1034, 3.1).

use axum::http::request::Parts;
use axum::http::{HeaderMap, Uri, header};
use s3s::S3Result;
use s3s::host::{S3Host, VirtualHost};
use std::sync::Arc;

/// The domains that buckets are hosts of; a cheap handle.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Domains(Arc<[String]>);

/// A list that cannot be one.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BadDomain {
    /// It is no name.
    #[error("{0:?} is no domain: write one such as s3.example.org, without port and *")]
    Name(String),
    /// A host could be a bucket of both.
    #[error("{0} lies within {1}, so a host could mean two buckets: name one of them")]
    Within(String, String),
}

impl std::str::FromStr for Domains {
    type Err = BadDomain;

    /// Names with commas between; none is fine.
    fn from_str(text: &str) -> Result<Self, BadDomain> {
        let mut domains: Vec<String> = Vec::new();
        let names = text.split([',', ' ']).filter(|name| !name.is_empty());
        for name in names {
            let name = name.to_ascii_lowercase();
            if !is_domain(&name) {
                return Err(BadDomain::Name(name));
            }
            for other in &domains {
                for (inner, outer) in [(&name, other), (other, &name)] {
                    if inner == outer || below(inner, outer).is_some() {
                        return Err(BadDomain::Within(inner.clone(), outer.clone()));
                    }
                }
            }
            domains.push(name);
        }
        Ok(Self(domains.into()))
    }
}

/// RFC 1123, 2.1; what reads as an address is none.
fn is_domain(name: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    let last = name.rsplit('.').next().unwrap_or_default();
    name.len() <= 253
        && name.split('.').all(label)
        && !last.bytes().all(|byte| byte.is_ascii_digit())
}

/// What stands before a domain.
fn below<'a>(host: &'a str, domain: &str) -> Option<&'a str> {
    let bucket = host.strip_suffix(domain)?.strip_suffix('.')?;
    (!bucket.is_empty()).then_some(bucket)
}

impl Domains {
    /// The bucket that a host is.
    fn bucket_of(&self, host: &str) -> Option<String> {
        if self.0.is_empty() {
            return None;
        }
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
            _ => host,
        };
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        let mut found = self.0.iter().filter_map(|domain| below(&name, domain));
        found.next().map(str::to_owned)
    }

    /// The bucket that a request names by its host.
    pub fn bucket(&self, uri: &Uri, headers: &HeaderMap) -> Option<String> {
        let host = match headers.get(header::HOST) {
            Some(host) => host.to_str().ok()?,
            None => uri.authority()?.as_str(),
        };
        self.bucket_of(host)
    }

    /// A request's path as it would be in path style.
    pub(super) fn path(&self, parts: &Parts) -> String {
        let path = parts.uri.path();
        match self.bucket(&parts.uri, &parts.headers) {
            Some(bucket) => format!("/{bucket}{path}"),
            None => path.to_owned(),
        }
    }
}

impl S3Host for Domains {
    fn parse_host_header<'a>(&'a self, host: &'a str) -> S3Result<VirtualHost<'a>> {
        let plain = VirtualHost::new(host);
        Ok(match self.bucket_of(host) {
            Some(bucket) => plain.with_bucket(bucket),
            None => plain,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_bucket_only_below_a_domain_that_was_named() {
        let domains: Domains = "s3.example.org, S3.Other.test".parse().unwrap();
        let of = |host: &str| domains.bucket_of(host);
        assert_eq!(of("images.s3.example.org").as_deref(), Some("images"));
        assert_eq!(of("Images.S3.example.org.:9000").as_deref(), Some("images"));
        assert_eq!(of("a.b.s3.other.test:443").as_deref(), Some("a.b"));
        for host in [
            "s3.example.org",
            ".s3.example.org",
            "s3.example.org:9000",
            "xs3.example.org",
            "images.example.org",
            "s3.example.org.evil.test",
            "127.0.0.1:9000",
            "[::1]:9000",
            "localhost",
            "",
        ] {
            assert_eq!(of(host), None, "{host}");
        }
        assert_eq!(Domains::default().bucket_of("images.s3.example.org"), None);
    }

    #[test]
    fn domains_that_are_none_or_lie_within_each_other_are_refused() {
        let bad = |text: &str| text.parse::<Domains>().unwrap_err();
        for text in [
            "*.s3.test",
            "s3.test:9000",
            "-a.test",
            "a..test",
            "10.0.0.1",
            "a_b",
        ] {
            assert!(matches!(bad(text), BadDomain::Name(_)), "{text}");
        }
        for text in ["s3.test,s3.test", "test, s3.test", "s3.test,test"] {
            assert!(matches!(bad(text), BadDomain::Within(..)), "{text}");
        }
        assert_eq!("".parse::<Domains>().unwrap(), Domains::default());
    }
}
