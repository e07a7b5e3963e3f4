//! WebDAV (RFC 4918): PROPFIND one level at a time, GET by range, PUT beside the target and MOVE.
//!
//! 1. A member counts only if it lies one level below the collection that was asked for.
//! 2. A file takes its name by MOVE, after what arrived was read back; until then it lies beside
//!    under a name of its own.

use super::site::{Collections, DEPTH_MAX, DOCUMENT_BYTES_MAX, Site};
use super::tree::growing;
use super::web::{self, Web};
use super::{Chunks, Found, Held, Remote, multistatus};
use crate::exit::{Exit, Failure, Outcome};
use crate::stage::location::{Place, decode};
use crate::stage::names;
use crate::stage::plan::Entry;
use async_trait::async_trait;
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderName};
use hyper::{Method, Response, StatusCode};
use multistatus::Member;
use std::ops::Range;

/// A collection and all below it.
pub(crate) struct Dav {
    site: Site,
}

/// What a member of a listing is.
#[derive(Debug, PartialEq, Eq)]
enum Kind {
    /// The collection itself.
    Itself,
    /// A member, by its name.
    Below(String),
    /// Nothing that belongs there.
    Elsewhere,
}

impl Dav {
    /// `place` is the root.
    pub(crate) fn new(web: Web, place: Place) -> Self {
        Self {
            site: Site::new(web, place),
        }
    }

    /// Members of a collection, or the one resource; nothing where there is none.
    async fn propfind(&self, path: &str, at: &str, depth: &str) -> Outcome<Option<Vec<Member>>> {
        let what = format!("list {}", self.url(path));
        let method = Method::from_bytes(b"PROPFIND").unwrap_or_default();
        let headers = web::headers([
            (HeaderName::from_static("depth"), depth),
            (header::CONTENT_TYPE, "application/xml; charset=utf-8"),
        ]);
        let answer = self
            .site
            .web
            .send(&method, at, &headers, multistatus::PROPFIND.into())
            .await?;
        match answer.status() {
            StatusCode::MULTI_STATUS => {}
            StatusCode::NOT_FOUND => return Ok(None),
            StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED => {
                let message = format!("cannot {what}: the server speaks no WebDAV there");
                return Err(Failure::new(Exit::Invalid, "server", message)
                    .hint("Read it as http:// or https://"));
            }
            status => return Err(self.site.web.refused(&what, status)),
        }
        let document = self
            .site
            .web
            .document(&what, answer, DOCUMENT_BYTES_MAX)
            .await?;
        let members = multistatus::members(&document).map_err(|why| {
            let message = format!("cannot {what}: the answer is no multistatus");
            Failure::new(Exit::Invalid, "server", message).because(why)
        })?;
        Ok(Some(members))
    }
}

#[async_trait]
impl Collections for Dav {
    const NAME: &str = "collection";

    async fn is_there(&self, at: &str) -> bool {
        matches!(self.propfind("", at, "0").await, Ok(Some(_)))
    }

    async fn make(&self, at: &str) -> Outcome<Response<Incoming>> {
        let method = Method::from_bytes(b"MKCOL").unwrap_or_default();
        self.site.web.ask(&method, at, &HeaderMap::new()).await
    }
}

/// Where a member lies: `base` is on the wire and ends in `/`.
fn kind(href: &str, server: &str, base: &str) -> Kind {
    let path = href.strip_prefix(server).unwrap_or(href);
    let path = match path.find("://") {
        // A server behind a proxy names itself as it knows itself.
        Some(at) => path[at + 3..]
            .find('/')
            .map_or("/", |slash| &path[at + 3 + slash..]),
        None => path,
    };
    // Servers differ in what they escape; the text decides.
    let (Some(path), Some(base)) = (decode(path), decode(base)) else {
        return Kind::Elsewhere;
    };
    if path == base || format!("{path}/") == base {
        return Kind::Itself;
    }
    match path.strip_prefix(&base) {
        Some(name) => {
            let name = name.strip_suffix('/').unwrap_or(name);
            if name.is_empty() {
                Kind::Elsewhere
            } else {
                Kind::Below(name.into())
            }
        }
        None => Kind::Elsewhere,
    }
}

fn entry(path: &str, member: &Member) -> Entry {
    Entry {
        path: path.into(),
        length_bytes: member.length_bytes,
        modified_ms: member.modified.as_deref().and_then(web::http_date),
        etag: member.etag.clone(),
        sums: Vec::new(),
        // RFC 4918 leaves it open; whoever cannot answers whole, which is noticed.
        ranges: true,
    }
}

#[async_trait]
impl Remote for Dav {
    fn url(&self, path: &str) -> String {
        self.site.url(path)
    }

    async fn list(&self, found: &mut Found) -> Outcome {
        let mut open = vec![(String::new(), 0)];
        while let Some((directory, depth)) = open.pop() {
            let base = self.site.web.at(&directory);
            let Some(members) = self.propfind(&directory, &base, "1").await? else {
                continue;
            };
            for member in members {
                match kind(&member.href, self.site.web.server(), &base) {
                    Kind::Itself => {}
                    Kind::Elsewhere => {
                        found.refuse(&member.href, "lies outside of what was listed")?;
                    }
                    Kind::Below(name)
                        if name.contains('/') || names::objection(&name).is_some() =>
                    {
                        let ours = name.ends_with(names::PARTIAL) && !name.contains('/');
                        if !ours {
                            found.refuse(&format!("{directory}{name}"), "leads elsewhere")?;
                        }
                    }
                    Kind::Below(name) if member.collection => {
                        let path = format!("{directory}{name}/");
                        if depth >= DEPTH_MAX {
                            found.refuse(&path, "lies too deep")?;
                        } else {
                            found.count()?;
                            open.push((path, depth + 1));
                        }
                    }
                    Kind::Below(name) => {
                        found.add(entry(&format!("{directory}{name}"), &member))?;
                    }
                }
            }
        }
        Ok(())
    }

    async fn stat(&self, path: &str) -> Outcome<Option<Entry>> {
        let members = self.propfind(path, &self.site.web.at(path), "0").await?;
        let Some(member) = members.unwrap_or_default().into_iter().next() else {
            return Ok(None);
        };
        if member.collection {
            let message = format!("{} is a collection", self.url(path));
            return Err(Failure::new(Exit::Invalid, "file", message).hint("A tree ends in a slash"));
        }
        let mut entry = entry(path, &member);
        // A HEAD may know a digest; a server that has none loses a round trip.
        if let Ok(Some(head)) = self.site.head(path).await {
            entry.sums = head.sums;
            entry.ranges = head.ranges;
            entry.length_bytes = entry.length_bytes.or(head.length_bytes);
        }
        Ok(Some(entry))
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
        _only_new: bool,
    ) -> Outcome<Held> {
        let beside = growing(path);
        // Parents first: after a refused body there is nothing left to send again.
        self.site.make_parents(self, path).await?;
        self.site
            .put(path, &beside, length_bytes, body, false)
            .await?;
        Ok(Held { path: beside })
    }

    async fn settle(&self, held: &Held, path: &str, only_new: bool) -> Outcome {
        let what = format!("move {} to its name", self.url(path));
        let method = Method::from_bytes(b"MOVE").unwrap_or_default();
        let target = format!("{}{}", self.site.web.server(), self.site.web.at(path));
        let headers = web::headers([
            (HeaderName::from_static("destination"), target.as_str()),
            (
                HeaderName::from_static("overwrite"),
                if only_new { "F" } else { "T" },
            ),
        ]);
        let answer = self
            .site
            .web
            .ask(&method, &self.site.web.at(&held.path), &headers)
            .await?;
        if answer.status().is_success() {
            return Ok(());
        }
        Err(self.site.web.refused(&what, answer.status()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_members_one_level_down_are_taken() {
        let of = |href: &str| kind(href, "http://h", "/d/e%20f/");
        assert_eq!(of("/d/e%20f/"), Kind::Itself);
        assert_eq!(of("http://h/d/e%20f"), Kind::Itself);
        assert_eq!(of("/d/e f/x"), Kind::Below("x".into()));
        assert_eq!(of("http://behind:81/d/e%20f/x/"), Kind::Below("x".into()));
        for href in ["/d/other", "/", "../x", "/d/e%20fx", "%ff"] {
            assert_eq!(of(href), Kind::Elsewhere, "{href}");
        }
        assert_eq!(of("/d/e%20f/..%2f..%2fx"), Kind::Below("../../x".into()));
    }
}
