//! WebDAV (RFC 4918): PROPFIND one level at a time, GET by range, PUT beside the target and MOVE.
//!
//! 1. A member counts only if it lies one level below the collection that was asked for.
//! 2. A file takes its name by MOVE, after what arrived was read back; until then it lies beside
//!    under a name of its own.

use super::http::{self, DEPTH_MAX};
use super::tree::growing;
use super::web::{self, Web};
use super::{Chunks, Found, Held, Remote, multistatus};
use crate::exit::{Exit, Failure, Outcome};
use crate::stage::location::{self, Place, decode};
use crate::stage::names;
use crate::stage::plan::Entry;
use async_trait::async_trait;
use hyper::header::{self, HeaderMap, HeaderName};
use hyper::{Method, StatusCode};
use multistatus::Member;
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

const DOCUMENT_BYTES_MAX: usize = 64 << 20;

/// A collection and all below it.
pub(crate) struct Dav {
    web: Web,
    place: Place,
    /// Parents that are there, so that they are asked for once.
    made: Mutex<BTreeSet<String>>,
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
            web,
            place,
            made: Mutex::default(),
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
            status => return Err(self.web.refused(&what, status)),
        }
        let document = self.web.document(&what, answer, DOCUMENT_BYTES_MAX).await?;
        let members = multistatus::members(&document).map_err(|why| {
            let message = format!("cannot {what}: the answer is no multistatus");
            Failure::new(Exit::Invalid, "server", message).because(why)
        })?;
        Ok(Some(members))
    }

    fn made(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn make_parents(&self, path: &str) -> Outcome {
        let method = Method::from_bytes(b"MKCOL").unwrap_or_default();
        let mut made = self.web.base().to_owned();
        let parents = path.rsplit_once('/').map_or("", |(parents, _)| parents);
        if self.made().contains(parents) {
            return Ok(());
        }
        // The root first: it need not exist either, nor what it lies in.
        let root = made.clone();
        let above: Vec<&str> = root
            .match_indices('/')
            .skip(1)
            .map(|(at, _)| &root[..=at])
            .collect();
        if self.propfind("", &root, "0").await?.is_none() {
            for collection in above {
                // What is there already says so, and what may not be made is missed below.
                self.web.ask(&method, collection, &HeaderMap::new()).await?;
            }
        }
        for part in parents.split('/').filter(|part| !part.is_empty()) {
            made.push_str(&location::encode(part));
            made.push('/');
            let answer = self.web.ask(&method, &made, &HeaderMap::new()).await?;
            match answer.status() {
                // 405: it is there already (RFC 4918, 9.3.1).
                StatusCode::METHOD_NOT_ALLOWED => {}
                status if status.is_success() => {}
                status => {
                    let what = format!("make the collection {}{made}", self.web.server());
                    return Err(self.web.refused(&what, status));
                }
            }
        }
        self.made().insert(parents.to_owned());
        Ok(())
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
        format!("{}{}", self.place, location::encode(path))
    }

    async fn list(&self, found: &mut Found) -> Outcome {
        let mut open = vec![(String::new(), 0)];
        while let Some((directory, depth)) = open.pop() {
            let base = self.web.at(&directory);
            let Some(members) = self.propfind(&directory, &base, "1").await? else {
                continue;
            };
            for member in members {
                match kind(&member.href, self.web.server(), &base) {
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
        let members = self.propfind(path, &self.web.at(path), "0").await?;
        let Some(member) = members.unwrap_or_default().into_iter().next() else {
            return Ok(None);
        };
        if member.collection {
            let message = format!("{} is a collection", self.url(path));
            return Err(Failure::new(Exit::Invalid, "file", message).hint("A tree ends in a slash"));
        }
        let mut entry = entry(path, &member);
        // A HEAD may know a digest; a server that has none loses a round trip.
        if let Ok(Some(head)) = http::head(&self.web, "look", path).await {
            entry.sums = head.sums;
            entry.ranges = head.ranges;
            entry.length_bytes = entry.length_bytes.or(head.length_bytes);
        }
        Ok(Some(entry))
    }

    async fn read(&self, entry: &Entry, range: Option<Range<u64>>) -> Outcome<Chunks> {
        http::get(&self.web, &self.url(&entry.path), entry, range).await
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
        _only_new: bool,
    ) -> Outcome<Held> {
        let beside = growing(path);
        // Parents first: after a refused body there is nothing left to send again.
        self.make_parents(path).await?;
        let what = format!("put {}", self.url(path));
        let at = self.web.at(&beside);
        let answer = self
            .web
            .upload(&at, &http::uploading(length_bytes, false), body)
            .await?;
        http::taken(&self.web, &what, &answer)?;
        Ok(Held { path: beside })
    }

    async fn settle(&self, held: &Held, path: &str, only_new: bool) -> Outcome {
        let what = format!("move {} to its name", self.url(path));
        let method = Method::from_bytes(b"MOVE").unwrap_or_default();
        let target = format!("{}{}", self.web.server(), self.web.at(path));
        let headers = web::headers([
            (HeaderName::from_static("destination"), target.as_str()),
            (
                HeaderName::from_static("overwrite"),
                if only_new { "F" } else { "T" },
            ),
        ]);
        let answer = self
            .web
            .ask(&method, &self.web.at(&held.path), &headers)
            .await?;
        if answer.status().is_success() {
            return Ok(());
        }
        Err(self.web.refused(&what, answer.status()))
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
