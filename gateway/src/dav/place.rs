//! Where a URL below `/dav` points: the root, a bucket, a key in it.
//!
//! 1. A path is taken as it is written or refused: nothing is normalised away. So the place that is
//!    authorised is the place that is served, whatever reads the path after us.
//! 2. A segment is UTF-8, not empty, neither `.` nor `..`, and holds neither `/` nor NUL, written
//!    plainly or as `%2F` and `%00`.

use super::refusal::Refusal;
use axum::http::StatusCode;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};

/// Where the door is.
pub(super) const PREFIX: &str = "/dav";
/// Bytes of a path as it is written; a key of 1024 bytes has at most three times as many.
const PATH_BYTES_MAX: usize = 4096;
/// Bytes of a key in the store.
const KEY_BYTES_MAX: usize = 1024;

/// RFC 3986, 2.3, and the slash between segments.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~')
    .remove(b'/');

/// A place in the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Empty for the root.
    pub(super) bucket: String,
    /// Without a slash at its end; empty for the root and for a bucket.
    pub(super) key: String,
    /// Whether the URL ends in a slash.
    pub(super) collection: bool,
}

impl Place {
    /// The place a path names, which begins with [`PREFIX`].
    pub(super) fn of_path(path: &str) -> Result<Self, Refusal> {
        if path.len() > PATH_BYTES_MAX {
            let words = format!(
                "the path has {} bytes, {PATH_BYTES_MAX} are the most",
                path.len()
            );
            return Err(Refusal::new(StatusCode::URI_TOO_LONG, words));
        }
        let below = path
            .strip_prefix(PREFIX)
            .filter(|rest| rest.is_empty() || rest.starts_with('/'));
        let Some(below) = below else {
            let words = format!("{path:?} does not lie below {PREFIX}/");
            return Err(Refusal::new(StatusCode::NOT_FOUND, words));
        };
        let below = below.strip_prefix('/').unwrap_or(below);
        let (below, collection) = match below.strip_suffix('/') {
            Some(below) => (below, true),
            None => (below, below.is_empty()),
        };
        let mut place = Self {
            bucket: String::new(),
            key: String::new(),
            collection,
        };
        if below.is_empty() {
            // "/dav//" would be a segment without a name.
            return if path.ends_with("//") {
                Err(hostile(path, "has an empty segment"))
            } else {
                Ok(place)
            };
        }
        for (at, segment) in below.split('/').enumerate() {
            let name = decoded(path, segment)?;
            match at {
                0 => place.bucket = name,
                1 => place.key = name,
                _ => {
                    place.key.push('/');
                    place.key.push_str(&name);
                }
            }
        }
        // A collection's marker has a slash more.
        if place.key.len() + usize::from(collection) > KEY_BYTES_MAX {
            let words = format!(
                "the key has {} bytes, {KEY_BYTES_MAX} are the most",
                place.key.len()
            );
            return Err(Refusal::new(StatusCode::URI_TOO_LONG, words));
        }
        Ok(place)
    }

    /// The place of a path that is decoded already and lies below the prefix.
    pub(super) fn of_decoded(path: &[u8]) -> Option<Self> {
        let path = std::str::from_utf8(path).ok()?;
        let path = path.strip_prefix('/').unwrap_or(path);
        let (path, collection) = match path.strip_suffix('/') {
            Some(path) => (path, true),
            None => (path, path.is_empty()),
        };
        let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
        Some(Self {
            bucket: bucket.into(),
            key: key.into(),
            collection,
        })
    }

    /// Whether it is the root, where buckets are.
    pub(super) fn is_root(&self) -> bool {
        self.bucket.is_empty()
    }

    /// Whether it is a bucket.
    pub(super) fn is_bucket(&self) -> bool {
        !self.bucket.is_empty() && self.key.is_empty()
    }

    /// What the keys of its members begin with; empty for a bucket.
    pub(super) fn prefix(&self) -> String {
        if self.key.is_empty() {
            String::new()
        } else {
            format!("{}/", self.key)
        }
    }

    /// The collection it lies in.
    pub(super) fn parent(&self) -> Self {
        let (bucket, key) = match (self.key.rsplit_once('/'), self.key.is_empty()) {
            (_, true) => ("", ""),
            (Some((parent, _)), false) => (self.bucket.as_str(), parent),
            (None, false) => (self.bucket.as_str(), ""),
        };
        Self {
            bucket: bucket.into(),
            key: key.into(),
            collection: true,
        }
    }

    /// `bucket/key`, without a slash at its end: how locks name it. The root is empty.
    pub(super) fn name(&self) -> String {
        if self.key.is_empty() {
            self.bucket.clone()
        } else {
            format!("{}/{}", self.bucket, self.key)
        }
    }

    /// Whether it is `other` or lies below it.
    pub(super) fn is_within(&self, other: &Self) -> bool {
        let (own, other) = (self.name(), other.name());
        other.is_empty()
            || own == other
            || own
                .strip_prefix(&other)
                .is_some_and(|rest| rest.starts_with('/'))
    }

    /// Its path as URLs write it.
    pub(super) fn href(&self) -> String {
        let name = self.name();
        let slash = if self.collection && !name.is_empty() {
            "/"
        } else {
            ""
        };
        format!("{PREFIX}/{}{slash}", percent_encode(name.as_bytes(), PLAIN))
    }
}

fn decoded(path: &str, segment: &str) -> Result<String, Refusal> {
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'%' => {
                let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
                let (Some(high), Some(low)) = (digit(rest.next()), digit(rest.next())) else {
                    return Err(hostile(path, "has a % without two hexadecimal digits"));
                };
                bytes.push(u8::try_from(high * 16 + low).unwrap_or_default());
            }
            b'?' | b'#' => return Err(hostile(path, "has a query or a fragment")),
            0x21..=0x7e => bytes.push(byte),
            _ => return Err(hostile(path, "has a character that URLs write with %")),
        }
    }
    let Ok(name) = String::from_utf8(bytes) else {
        return Err(hostile(path, "is not UTF-8"));
    };
    match name.as_str() {
        "" => Err(hostile(path, "has an empty segment")),
        "." | ".." => Err(hostile(path, "has a segment . or ..")),
        _ if name.contains('/') => Err(hostile(path, "has a slash inside a segment (%2F)")),
        _ if name.contains('\0') => Err(hostile(path, "has NUL in it")),
        _ => Ok(name),
    }
}

fn hostile(path: &str, why: &str) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, format!("the path {path:?} {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(bucket: &str, key: &str, collection: bool) -> Place {
        Place {
            bucket: bucket.into(),
            key: key.into(),
            collection,
        }
    }

    #[test]
    fn a_path_is_a_bucket_and_a_key() {
        for (path, expected) in [
            ("/dav", place("", "", true)),
            ("/dav/", place("", "", true)),
            ("/dav/data", place("data", "", false)),
            ("/dav/data/", place("data", "", true)),
            ("/dav/data/a", place("data", "a", false)),
            ("/dav/data/a/b%20c/", place("data", "a/b c", true)),
            ("/dav/data/%C3%A9...", place("data", "é...", false)),
        ] {
            let found = Place::of_path(path).unwrap();
            assert_eq!(found, expected, "{path}");
            let again = Place::of_path(&found.href()).unwrap();
            assert_eq!(again.name(), found.name(), "{path}");
        }
        assert_eq!(
            place("data", "a/b", false).parent(),
            place("data", "a", true)
        );
        assert_eq!(place("data", "a", true).parent(), place("data", "", true));
        assert_eq!(place("data", "", true).parent(), place("", "", true));
    }

    #[test]
    fn hostile_paths_are_refused_and_not_normalised() {
        let long = format!("/dav/data/{}", "x".repeat(1025));
        let overlong = format!("/dav/data/{}", "x/".repeat(4000));
        for (path, status) in [
            ("/dav/data/../other", 400),
            ("/dav/data/%2e%2e/other", 400),
            ("/dav/./data", 400),
            ("/dav/data/a%2Fb", 400),
            ("/dav/data/a%2fb", 400),
            ("/dav/data/a%00b", 400),
            ("/dav/data/a%0", 400),
            ("/dav/data/a%zz", 400),
            ("/dav/data/%ff%fe", 400),
            ("/dav/data//a", 400),
            ("/dav/?", 400),
            ("/dav/data/a#b", 400),
            ("/dav//", 400),
            ("/dav/data/\u{e9}", 400),
            ("/davx/data", 404),
            ("/other", 404),
            (&long, 414),
            (&overlong, 414),
        ] {
            let refused = Place::of_path(path).unwrap_err();
            assert_eq!(refused.status().as_u16(), status, "{path}");
        }
    }

    #[test]
    fn within_means_whole_segments() {
        let coll = place("data", "a", true);
        assert!(place("data", "a/b", false).is_within(&coll));
        assert!(place("data", "a", false).is_within(&coll));
        assert!(!place("data", "ab", false).is_within(&coll));
        assert!(!place("dat", "a/b", false).is_within(&coll));
        assert!(coll.is_within(&place("", "", true)));
    }

    proptest::proptest! {
        #[test]
        fn whoever_reads_an_accepted_path_after_us_finds_the_same_place(
            path in "/dav(/([a-z]|%[0-9a-fA-F]{2}|%2[eEfF]|\\.|[#?%;&=+~é ]){0,4}){0,4}/?",
        ) {
            use dav_server::davpath::DavPath;
            if let Ok(place) = Place::of_path(&path) {
                let mut theirs = DavPath::new(&path).unwrap();
                theirs.set_prefix(PREFIX).unwrap();
                proptest::prop_assert_eq!(Place::of_decoded(theirs.as_bytes()), Some(place));
            }
        }
    }
}
