//! A tree on a web server: what plain HTTP, WebDAV and CDMI do alike.
//!
//! 1. What is missing is `None`, never an error; every other status that is no success is one
//!    ([`Web::found`]).
//! 2. Bytes are read from the content that was looked at: a source that became another is noticed.
//! 3. The collections that a file lies in are made once, from the first that is missing on.

use super::web::{self, Web};
use super::{Chunks, Found, Remote};
use crate::exit::{Exit, Failure, Outcome};
use crate::stage::checksum::{self, Algorithm};
use crate::stage::location::{self, Place};
use crate::stage::plan::Entry;
use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt, stream};
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Response, StatusCode};
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Levels of directories.
pub(super) const DEPTH_MAX: usize = 64;
/// A listing or a page of one.
pub(super) const DOCUMENT_BYTES_MAX: usize = 64 << 20;
/// Files of a listing that are looked at at once.
const LOOKS_AT_ONCE: usize = 8;

/// A tree on a web server.
pub(super) struct Site {
    pub(super) web: Web,
    place: Place,
    /// Parents that are there, so that they are asked for once.
    made: Mutex<BTreeSet<String>>,
}

/// A protocol that has collections, by their place on the wire.
#[async_trait]
pub(super) trait Collections: Sync {
    /// What people call one.
    const NAME: &str;

    /// Whether it is there.
    async fn is_there(&self, at: &str) -> bool;

    /// Makes it.
    async fn make(&self, at: &str) -> Outcome<Response<Incoming>>;
}

impl Site {
    /// `place` is the root.
    pub(super) fn new(web: Web, place: Place) -> Self {
        Self {
            web,
            place,
            made: Mutex::default(),
        }
    }

    /// What people call a path of it.
    pub(super) fn url(&self, path: &str) -> String {
        format!("{}{}", self.place, location::encode(path))
    }

    /// Looks at a file by HEAD.
    pub(super) async fn head(&self, path: &str) -> Outcome<Option<Entry>> {
        let what = format!("look at {}", self.url(path));
        let at = self.web.at(path);
        let answer = self.web.ask(&Method::HEAD, &at, &wanting_digests()).await?;
        let found = self.web.found(&what, answer)?;
        Ok(found.map(|answer| entry(path, answer.headers())))
    }

    /// Looks at what a listing named without saying more.
    pub(super) async fn look(
        &self,
        remote: &dyn Remote,
        files: Vec<String>,
        found: &mut Found,
    ) -> Outcome {
        let looked: Vec<(String, Option<Entry>)> = stream::iter(files)
            .map(|path| async move {
                let entry = remote.stat(&path).await?;
                Ok::<_, Failure>((path, entry))
            })
            .buffered(LOOKS_AT_ONCE)
            .try_collect()
            .await?;
        for (path, entry) in looked {
            match entry {
                Some(entry) => found.add(entry)?,
                None => found.leave_out(self.url(&path))?,
            }
        }
        Ok(())
    }

    /// Reads a file or a range of it.
    pub(super) async fn read(&self, entry: &Entry, range: Option<Range<u64>>) -> Outcome<Chunks> {
        let url = self.url(&entry.path);
        let what = format!("get {url}");
        let mut headers = web::headers([(header::ACCEPT_ENCODING, "identity")]);
        if let Some(range) = &range {
            let text = format!("bytes={}-{}", range.start, range.end.saturating_sub(1));
            headers.extend(web::headers([(header::RANGE, text.as_str())]));
        }
        // Weak ones do not hold for bytes (RFC 9110, 13.1.1).
        let etag = entry.etag.as_deref().filter(|etag| etag.starts_with('"'));
        if let Some(etag) = etag {
            headers.extend(web::headers([(header::IF_MATCH, etag)]));
        }
        let answer = self
            .web
            .ask(&Method::GET, &self.web.at(&entry.path), &headers)
            .await?;
        if answer.status() == StatusCode::PRECONDITION_FAILED {
            return Err(changed(&url));
        }
        let now = self::entry(&entry.path, answer.headers());
        let seconds = |entry: &Entry| entry.modified_ms.map(|ms| ms / 1000);
        let other_etag = entry.etag.is_some() && now.etag.is_some() && entry.etag != now.etag;
        let other_time = entry.etag.is_none()
            && seconds(entry).is_some_and(|then| seconds(&now).is_some_and(|now| now != then));
        if answer.status().is_success() && (other_etag || other_time) {
            return Err(changed(&url));
        }
        if answer.headers().contains_key(header::CONTENT_ENCODING) {
            let message = format!("{url} comes encoded, though it was asked for as it is");
            return Err(Failure::new(Exit::Invalid, "server", message));
        }
        match (answer.status(), &range) {
            (StatusCode::OK, None) => {}
            (StatusCode::OK, Some(range))
                if range.start == 0 && entry.length_bytes == Some(range.end) => {}
            (StatusCode::PARTIAL_CONTENT, Some(range)) => {
                let text = web::text(answer.headers(), header::CONTENT_RANGE).unwrap_or_default();
                let asked = format!("bytes {}-{}/", range.start, range.end.saturating_sub(1));
                if !text.starts_with(&asked) {
                    let message = format!("{url}: asked for {asked}…, the server sends {text:?}");
                    return Err(Failure::new(Exit::Invalid, "server", message));
                }
            }
            (StatusCode::OK, Some(_)) => {
                let message = format!("{url} comes whole, though a part was asked for");
                return Err(Failure::new(Exit::Invalid, "server", message)
                    .hint("Try again with --jobs 1 --no-ranges"));
            }
            (status, _) => return Err(self.web.refused(&what, status)),
        }
        Ok(web::chunks(what, answer.into_body()))
    }

    /// Takes a file away; that it is gone already is fine.
    pub(super) async fn delete(&self, path: &str) -> Outcome {
        let what = format!("delete {}", self.url(path));
        let at = self.web.at(path);
        let answer = self
            .web
            .ask(&Method::DELETE, &at, &HeaderMap::new())
            .await?;
        self.web.found(&what, answer).map(drop)
    }

    /// Puts the body of `path` to the path `held`: the same, or one beside it.
    pub(super) async fn put(
        &self,
        path: &str,
        held: &str,
        length_bytes: u64,
        body: Chunks,
        only_new: bool,
    ) -> Outcome {
        let what = format!("put {}", self.url(path));
        let headers = uploading(length_bytes, only_new);
        let at = self.web.at(held);
        let answer = self.web.upload(&at, &headers, body).await?;
        match answer.status() {
            status if status.is_success() => Ok(()),
            StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED => Err(Failure::new(
                Exit::Invalid,
                "server",
                format!("cannot {what}: the server takes no PUT there"),
            )),
            status => Err(self.web.refused(&what, status)),
        }
    }

    /// Makes the collections that `path` lies in, where they are missing; the root's own too: it
    /// need not exist either, nor what it lies in.
    pub(super) async fn make_parents<C: Collections>(&self, protocol: &C, path: &str) -> Outcome {
        let parents = path.rsplit_once('/').map_or("", |(parents, _)| parents);
        if self.made().contains(parents) {
            return Ok(());
        }
        let root = self.web.base();
        let wanted = collections(root, parents);
        // From the end: mostly all of it is there.
        let mut missing = Vec::new();
        for at in wanted.iter().rev() {
            if protocol.is_there(at).await {
                break;
            }
            missing.push(at);
        }
        for at in missing.into_iter().rev() {
            let answer = protocol.make(at).await?;
            let status = answer.status();
            // 405: somebody else made it just now (RFC 4918, 9.3.1). What lies above the root may
            // be no collection, and not ours to make: if it is missing, the next one says so.
            let there = status.is_success() || status == StatusCode::METHOD_NOT_ALLOWED;
            if !there && at.len() > root.len() {
                let what = format!("make the {} {}{at}", C::NAME, self.web.server());
                return Err(self.web.refused(&what, status));
            }
        }
        self.made().insert(parents.to_owned());
        Ok(())
    }

    fn made(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// From the server's first collection down to the last of `parents`, below `root`.
fn collections(root: &str, parents: &str) -> Vec<String> {
    let above = root.match_indices('/').skip(1);
    let mut all: Vec<String> = above.map(|(at, _)| root[..=at].to_owned()).collect();
    let mut below = root.to_owned();
    for part in parents.split('/').filter(|part| !part.is_empty()) {
        below.push_str(&location::encode(part));
        below.push('/');
        all.push(below.clone());
    }
    all
}

/// What an answer's headers say about a file.
pub(super) fn entry(path: &str, headers: &HeaderMap) -> Entry {
    let length = || web::text(headers, header::CONTENT_LENGTH)?.parse().ok();
    // "Content-Length" of an encoded body is not the file's.
    let encoded = headers.contains_key(header::CONTENT_ENCODING);
    Entry {
        path: path.into(),
        length_bytes: if encoded { None } else { length() },
        modified_ms: web::text(headers, header::LAST_MODIFIED).and_then(web::http_date),
        etag: web::text(headers, header::ETAG).map(str::to_owned),
        sums: digests(headers),
        ranges: web::text(headers, header::ACCEPT_RANGES) == Some("bytes") && !encoded,
    }
}

/// `Repr-Digest` (RFC 9530) and the older `Digest` (RFC 3230).
fn digests(headers: &HeaderMap) -> Vec<(Algorithm, String)> {
    let algorithm = |name: &str| match name.trim().to_ascii_lowercase().as_str() {
        "sha-256" => Some(Algorithm::Sha256),
        "md5" => Some(Algorithm::Md5),
        "crc32c" => Some(Algorithm::Crc32c),
        _ => None,
    };
    let mut found = Vec::new();
    for name in ["repr-digest", "digest"] {
        for part in web::text(headers, name).unwrap_or_default().split(',') {
            let Some((name, value)) = part.split_once('=') else {
                continue;
            };
            let value = value.trim().trim_start_matches(':').trim_end_matches(':');
            let Some(algorithm) = algorithm(name) else {
                continue;
            };
            let length = algorithm.begin().bytes().len();
            if checksum::decode(value).is_some_and(|bytes| bytes.len() == length) {
                found.push((algorithm, value.to_owned()));
            }
        }
    }
    found
}

/// What to ask for so that a checksum comes.
fn wanting_digests() -> HeaderMap {
    web::headers([
        (HeaderName::from_static("want-repr-digest"), "sha-256=10"),
        (HeaderName::from_static("want-digest"), "sha-256, md5;q=0.5"),
        (header::ACCEPT_ENCODING, "identity"),
    ])
}

/// A source that became another while it was read.
fn changed(url: &str) -> Failure {
    Failure::new(
        Exit::Conflict,
        "source",
        format!("{url} changed while it was read"),
    )
    .hint("Run again when it is at rest")
}

/// The headers of an upload.
fn uploading(length_bytes: u64, only_new: bool) -> HeaderMap {
    let length = length_bytes.to_string();
    let mut headers = web::headers([
        (header::CONTENT_LENGTH, length.as_str()),
        (header::CONTENT_TYPE, "application/octet-stream"),
    ]);
    if only_new {
        headers.insert(header::IF_NONE_MATCH, HeaderValue::from_static("*"));
    }
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_tell_length_time_and_digest() {
        let sum = checksum::encode(&Algorithm::Sha256.of(b"x"));
        let digest = format!("sha-256=:{sum}:, unixsum=3");
        let headers = web::headers([
            (header::CONTENT_LENGTH, "12"),
            (header::ACCEPT_RANGES, "bytes"),
            (header::ETAG, "\"e\""),
            (HeaderName::from_static("repr-digest"), digest.as_str()),
        ]);
        let entry = entry("a", &headers);
        assert_eq!((entry.length_bytes, entry.ranges), (Some(12), true));
        assert_eq!(entry.sums, [(Algorithm::Sha256, sum)]);
        let wrong = web::headers([(HeaderName::from_static("digest"), "sha-256=eA==,md5")]);
        assert!(digests(&wrong).is_empty());
    }

    #[test]
    fn collections_are_made_from_the_servers_first_to_the_files_own() {
        let all = collections("/a/b/", "c d/e");
        assert_eq!(all, ["/a/", "/a/b/", "/a/b/c%20d/", "/a/b/c%20d/e/"]);
        assert_eq!(collections("/", ""), Vec::<String>::new());
    }
}
