//! A web server: GET and HEAD, index pages as listings, PUT where it takes it.
//!
//! Whether a part can be asked for is what `Accept-Ranges` says; without it the body comes in one
//! piece, and a download that broke off starts at the front (RFC 9110, 14.3).

use super::web::{self, Web};
use super::{Chunks, Found, Held, Remote, index};
use crate::exit::{Exit, Failure, Outcome};
use crate::stage::checksum::Algorithm;
use crate::stage::location::Place;
use crate::stage::plan::Entry;
use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt, stream};
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Response, StatusCode};
use std::ops::Range;

/// Levels of directories.
pub(crate) const DEPTH_MAX: usize = 64;
const PAGE_BYTES_MAX: usize = 16 << 20;
/// Asked at once for the lengths of what a page lists.
const LOOKS_AT_ONCE: usize = 8;

/// A web server.
pub(crate) struct Http {
    web: Web,
    place: Place,
}

impl Http {
    /// `place` is the root.
    pub(crate) fn new(web: Web, place: Place) -> Self {
        Self { web, place }
    }
}

/// What an answer's headers say about a file.
pub(crate) fn entry(path: &str, headers: &HeaderMap) -> Entry {
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
            if super::super::checksum::decode(value).is_some_and(|bytes| bytes.len() == length) {
                found.push((algorithm, value.to_owned()));
            }
        }
    }
    found
}

/// What to ask for so that a checksum comes.
pub(crate) fn wanting_digests() -> HeaderMap {
    web::headers([
        (HeaderName::from_static("want-repr-digest"), "sha-256=10"),
        (HeaderName::from_static("want-digest"), "sha-256, md5;q=0.5"),
        (header::ACCEPT_ENCODING, "identity"),
    ])
}

/// Looks at a file by HEAD.
pub(crate) async fn head(web: &Web, what: &str, path: &str) -> Outcome<Option<Entry>> {
    let answer = web
        .ask(&Method::HEAD, &web.at(path), &wanting_digests())
        .await?;
    match answer.status() {
        StatusCode::NOT_FOUND | StatusCode::GONE => Ok(None),
        status if status.is_success() => Ok(Some(entry(path, answer.headers()))),
        status => Err(web.refused(what, status)),
    }
}

/// Reads a file or a range of it.
pub(crate) async fn get(
    web: &Web,
    url: &str,
    entry: &Entry,
    range: Option<Range<u64>>,
) -> Outcome<Chunks> {
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
    let answer = web
        .ask(&Method::GET, &web.at(&entry.path), &headers)
        .await?;
    if answer.status() == StatusCode::PRECONDITION_FAILED {
        return Err(changed(url));
    }
    let now = self::entry(&entry.path, answer.headers());
    let seconds = |entry: &Entry| entry.modified_ms.map(|ms| ms / 1000);
    let other_etag = entry.etag.is_some() && now.etag.is_some() && entry.etag != now.etag;
    let other_time = entry.etag.is_none()
        && seconds(entry).is_some_and(|then| seconds(&now).is_some_and(|now| now != then));
    if answer.status().is_success() && (other_etag || other_time) {
        return Err(changed(url));
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
        (status, _) => return Err(web.refused(&what, status)),
    }
    Ok(web::chunks(what, answer.into_body()))
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
pub(crate) fn uploading(length_bytes: u64, only_new: bool) -> HeaderMap {
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

/// A status that means that it was taken.
pub(crate) fn taken(web: &Web, what: &str, answer: &Response<Incoming>) -> Outcome {
    if answer.status().is_success() {
        return Ok(());
    }
    let status = answer.status();
    let failure = web.refused(what, status);
    if matches!(
        status,
        StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED
    ) {
        return Err(Failure::new(
            Exit::Invalid,
            "server",
            format!("cannot {what}: the server takes no PUT there"),
        ));
    }
    Err(failure)
}

#[async_trait]
impl Remote for Http {
    fn url(&self, path: &str) -> String {
        format!("{}{}", self.place, crate::stage::location::encode(path))
    }

    async fn list(&self, found: &mut Found) -> Outcome {
        let mut open = vec![(String::new(), 0)];
        while let Some((directory, depth)) = open.pop() {
            let base = self.web.at(&directory);
            let what = format!("list {}", self.url(&directory));
            let headers = web::headers([
                (header::ACCEPT, "text/html"),
                (header::ACCEPT_ENCODING, "identity"),
            ]);
            let answer = self.web.ask(&Method::GET, &base, &headers).await?;
            if !answer.status().is_success() {
                return Err(self.web.refused(&what, answer.status()));
            }
            let kind = web::text(answer.headers(), header::CONTENT_TYPE).unwrap_or_default();
            if !kind.starts_with("text/html") {
                let message = format!("cannot {what}: it is {kind:?}, no index page");
                return Err(Failure::new(Exit::Invalid, "server", message)
                    .hint("Name one file, without the slash"));
            }
            let page = self.web.document(&what, answer, PAGE_BYTES_MAX).await?;
            let mut files = Vec::new();
            for name in index::entries(&String::from_utf8_lossy(&page), &base) {
                let path = format!("{directory}{name}");
                match name.strip_suffix('/') {
                    Some(bare) if super::names::objection(bare).is_some() || bare.contains('/') => {
                        found.refuse(&path, "leads elsewhere")?;
                    }
                    Some(_) if depth >= DEPTH_MAX => found.refuse(&path, "lies too deep")?,
                    Some(_) => {
                        found.count()?;
                        open.push((path, depth + 1));
                    }
                    None if name.contains('/') => found.refuse(&path, "leads elsewhere")?,
                    None => files.push(path),
                }
            }
            let looked: Vec<(String, Option<Entry>)> = stream::iter(files)
                .map(|path| async move {
                    let entry = self.stat(&path).await?;
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
        }
        Ok(())
    }

    async fn stat(&self, path: &str) -> Outcome<Option<Entry>> {
        let what = format!("look at {}", self.url(path));
        match head(&self.web, &what, path).await {
            // Some servers know only GET, as do URLs that are signed for it.
            Err(failure) if matches!(failure.exit(), Exit::Denied | Exit::Invalid) => {
                let headers = web::headers([
                    (header::RANGE, "bytes=0-0"),
                    (header::ACCEPT_ENCODING, "identity"),
                ]);
                let answer = self
                    .web
                    .ask(&Method::GET, &self.web.at(path), &headers)
                    .await?;
                let mut about = entry(path, answer.headers());
                match answer.status() {
                    StatusCode::OK => Ok(Some(about)),
                    StatusCode::PARTIAL_CONTENT => {
                        let range =
                            web::text(answer.headers(), header::CONTENT_RANGE).unwrap_or_default();
                        about.length_bytes =
                            range.rsplit_once('/').and_then(|(_, all)| all.parse().ok());
                        about.ranges = true;
                        Ok(Some(about))
                    }
                    StatusCode::NOT_FOUND => Ok(None),
                    _ => Err(failure),
                }
            }
            looked => looked,
        }
    }

    async fn read(&self, entry: &Entry, range: Option<Range<u64>>) -> Outcome<Chunks> {
        get(&self.web, &self.url(&entry.path), entry, range).await
    }

    async fn delete(&self, path: &str) -> Outcome {
        let what = format!("delete {}", self.url(path));
        let answer = self
            .web
            .ask(&Method::DELETE, &self.web.at(path), &HeaderMap::new())
            .await?;
        match answer.status() {
            StatusCode::NOT_FOUND | StatusCode::GONE => Ok(()),
            status if status.is_success() => Ok(()),
            status => Err(self.web.refused(&what, status)),
        }
    }

    async fn put(
        &self,
        path: &str,
        length_bytes: u64,
        body: Chunks,
        only_new: bool,
    ) -> Outcome<Held> {
        let what = format!("put {}", self.url(path));
        let answer = self
            .web
            .upload(&self.web.at(path), &uploading(length_bytes, only_new), body)
            .await?;
        taken(&self.web, &what, &answer)?;
        Ok(Held { path: path.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_tell_length_time_and_digest() {
        let sum = super::super::super::checksum::encode(&Algorithm::Sha256.of(b"x"));
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
}
