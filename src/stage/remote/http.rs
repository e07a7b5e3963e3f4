//! A web server: GET and HEAD, index pages as listings, PUT where it takes it.
//!
//! Whether a part can be asked for is what `Accept-Ranges` says; without it the body comes in one
//! piece, and a download that broke off starts at the front (RFC 9110, 14.3).

use super::site::{DEPTH_MAX, Site, entry};
use super::web::{self, Web};
use super::{Chunks, Found, Held, Remote, index};
use crate::exit::{Exit, Failure, Outcome};
use crate::stage::location::Place;
use crate::stage::plan::Entry;
use async_trait::async_trait;
use hyper::header;
use hyper::{Method, StatusCode};
use std::ops::Range;

const PAGE_BYTES_MAX: usize = 16 << 20;

/// A web server.
pub(crate) struct Http {
    site: Site,
}

impl Http {
    /// `place` is the root.
    pub(crate) fn new(web: Web, place: Place) -> Self {
        Self {
            site: Site::new(web, place),
        }
    }
}

#[async_trait]
impl Remote for Http {
    fn url(&self, path: &str) -> String {
        self.site.url(path)
    }

    async fn list(&self, found: &mut Found) -> Outcome {
        let mut open = vec![(String::new(), 0)];
        while let Some((directory, depth)) = open.pop() {
            let base = self.site.web.at(&directory);
            let what = format!("list {}", self.url(&directory));
            let headers = web::headers([
                (header::ACCEPT, "text/html"),
                (header::ACCEPT_ENCODING, "identity"),
            ]);
            let answer = self.site.web.ask(&Method::GET, &base, &headers).await?;
            if !answer.status().is_success() {
                return Err(self.site.web.refused(&what, answer.status()));
            }
            let kind = web::text(answer.headers(), header::CONTENT_TYPE).unwrap_or_default();
            if !kind.starts_with("text/html") {
                let message = format!("cannot {what}: it is {kind:?}, no index page");
                return Err(Failure::new(Exit::Invalid, "server", message)
                    .hint("Name one file, without the slash"));
            }
            let page = self
                .site
                .web
                .document(&what, answer, PAGE_BYTES_MAX)
                .await?;
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
            self.site.look(self, files, found).await?;
        }
        Ok(())
    }

    async fn stat(&self, path: &str) -> Outcome<Option<Entry>> {
        match self.site.head(path).await {
            // Some servers know only GET, as do URLs that are signed for it.
            Err(failure) if matches!(failure.exit(), Exit::Denied | Exit::Invalid) => {
                let headers = web::headers([
                    (header::RANGE, "bytes=0-0"),
                    (header::ACCEPT_ENCODING, "identity"),
                ]);
                let answer = self
                    .site
                    .web
                    .ask(&Method::GET, &self.site.web.at(path), &headers)
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
        self.site.read(entry, range).await
    }

    async fn delete(&self, path: &str) -> Outcome {
        self.site.delete(path).await
    }

    async fn put(
        &self,
        path: &str,
        length_bytes: u64,
        body: Chunks,
        only_new: bool,
    ) -> Outcome<Held> {
        self.site
            .put(path, path, length_bytes, body, only_new)
            .await?;
        Ok(Held { path: path.into() })
    }
}
