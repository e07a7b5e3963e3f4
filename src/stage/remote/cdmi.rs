//! CDMI (ISO 17826): containers as directories, values by plain HTTP.
//!
//! Containers and metadata are asked for in CDMI's own media types, version 1.1.1 or 2.0.0,
//! whichever the server speaks; values travel as raw bytes, by range (CDMI 1.1.1, 8.4 and 8.5).

use super::site::{Collections, DEPTH_MAX, DOCUMENT_BYTES_MAX, Site};
use super::web::{self, Web};
use super::{Chunks, Found, Held, Remote};
use crate::exit::{Exit, Failure, Outcome};
use crate::stage::checksum::{self, Algorithm};
use crate::stage::location::Place;
use crate::stage::names;
use crate::stage::plan::Entry;
use async_trait::async_trait;
use hyper::body::Incoming;
use hyper::header::{self, HeaderName};
use hyper::{Method, Response};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::ops::Range;

/// What a container is asked for and made in.
const CONTAINER: &str = "application/cdmi-container";
const VERSIONS: &str = "2.0.0, 1.1.1";
/// Children asked for at once, where a container is longer.
const CHILDREN_AT_ONCE: usize = 1000;

/// A container and all below it.
pub(crate) struct Cdmi {
    site: Site,
}

/// The fields that matter here.
#[derive(Debug, Deserialize)]
struct Object {
    #[serde(default)]
    children: Vec<String>,
    #[serde(default)]
    childrenrange: String,
    #[serde(default)]
    metadata: BTreeMap<String, serde_json::Value>,
    #[serde(default, rename = "completionStatus")]
    completion: String,
}

impl Cdmi {
    /// `place` is the root.
    pub(crate) fn new(web: Web, place: Place) -> Self {
        Self {
            site: Site::new(web, place),
        }
    }

    async fn object(&self, path: &str, at: &str, media: &str) -> Outcome<Option<Object>> {
        let what = format!("look at {}", self.url(path));
        let headers = web::headers([
            (header::ACCEPT, media),
            (
                HeaderName::from_static("x-cdmi-specification-version"),
                VERSIONS,
            ),
        ]);
        let answer = self.site.web.ask(&Method::GET, at, &headers).await?;
        let Some(answer) = self.site.web.found(&what, answer)? else {
            return Ok(None);
        };
        let kind = web::text(answer.headers(), header::CONTENT_TYPE)
            .unwrap_or_default()
            .to_owned();
        if !kind.starts_with("application/cdmi-") && !kind.starts_with("application/json") {
            let message =
                format!("cannot {what}: the answer is {kind:?}, the server speaks no CDMI there");
            return Err(Failure::new(Exit::Invalid, "server", message)
                .hint("Read it as http:// or https://"));
        }
        let document = self
            .site
            .web
            .document(&what, answer, DOCUMENT_BYTES_MAX)
            .await?;
        let object = serde_json::from_slice(&document).map_err(|error| {
            let message = format!("cannot {what}: the answer is no CDMI object");
            Failure::new(Exit::Invalid, "server", message).because(error)
        })?;
        Ok(Some(object))
    }

    /// All children of a container, a range at a time where it gives fewer than it has.
    async fn children(&self, directory: &str, found: &mut Found) -> Outcome<Vec<String>> {
        let at = self.site.web.at(directory);
        let Some(first) = self.object(directory, &at, CONTAINER).await? else {
            return Ok(Vec::new());
        };
        let mut children = first.children;
        let mut range = first.childrenrange;
        // "0-999" of a container that goes on: ask until nothing comes.
        while let Some(last) = range
            .rsplit_once('-')
            .and_then(|(_, last)| last.parse::<usize>().ok())
        {
            if last + 1 < CHILDREN_AT_ONCE || children.len() != last + 1 {
                break;
            }
            children.iter().try_for_each(|_| found.count())?;
            let next = format!(
                "{at}?childrenrange;children:{}-{}",
                last + 1,
                last + CHILDREN_AT_ONCE
            );
            let more = match self.object(directory, &next, CONTAINER).await {
                Ok(Some(more)) if !more.children.is_empty() => more,
                _ => break,
            };
            range = format!("{}-{}", last + 1, last + more.children.len());
            children.extend(more.children);
        }
        Ok(children)
    }
}

#[async_trait]
impl Collections for Cdmi {
    const NAME: &str = "container";

    async fn is_there(&self, at: &str) -> bool {
        matches!(self.object("", at, CONTAINER).await, Ok(Some(_)))
    }

    async fn make(&self, at: &str) -> Outcome<Response<Incoming>> {
        let headers = web::headers([
            (header::CONTENT_TYPE, CONTAINER),
            (header::ACCEPT, CONTAINER),
            (
                HeaderName::from_static("x-cdmi-specification-version"),
                "1.1.1",
            ),
        ]);
        let web = &self.site.web;
        web.send(&Method::PUT, at, &headers, "{}".into()).await
    }
}

/// What storage system metadata says (CDMI 1.1.1, 16.3).
fn entry(path: &str, metadata: &BTreeMap<String, serde_json::Value>) -> Entry {
    let text = |name: &str| metadata.get(name).and_then(serde_json::Value::as_str);
    let number = |name: &str| match metadata.get(name) {
        Some(serde_json::Value::Number(number)) => number.as_u64(),
        Some(serde_json::Value::String(text)) => text.parse().ok(),
        _ => None,
    };
    let modified = text("cdmi_mtime").and_then(|time| time.parse::<jiff::Timestamp>().ok());
    let algorithm = match text("cdmi_value_hash_provided").or(text("cdmi_value_hash")) {
        Some("SHA256" | "SHA-256" | "sha256") => Some(Algorithm::Sha256),
        Some("MD5" | "md5") => Some(Algorithm::Md5),
        _ => None,
    };
    let hash = text("cdmi_hash").and_then(checksum::unhex);
    // Without a name, a hash is known by its length.
    let algorithm = algorithm.or(match hash.as_deref().map(<[u8]>::len) {
        Some(32) => Some(Algorithm::Sha256),
        Some(16) => Some(Algorithm::Md5),
        _ => None,
    });
    let fits =
        |(algorithm, hash): &(Algorithm, Vec<u8>)| hash.len() == algorithm.begin().bytes().len();
    Entry {
        path: path.into(),
        length_bytes: number("cdmi_size"),
        modified_ms: modified.map(jiff::Timestamp::as_millisecond),
        etag: None,
        sums: algorithm
            .zip(hash)
            .filter(fits)
            .map(|(algorithm, hash)| (algorithm, checksum::encode(&hash)))
            .into_iter()
            .collect(),
        ranges: true,
    }
}

#[async_trait]
impl Remote for Cdmi {
    fn url(&self, path: &str) -> String {
        self.site.url(path)
    }

    async fn list(&self, found: &mut Found) -> Outcome {
        let mut open = vec![(String::new(), 0)];
        while let Some((directory, depth)) = open.pop() {
            let mut files = Vec::new();
            for child in self.children(&directory, found).await? {
                let (name, container) = match child.strip_suffix('/') {
                    Some(name) => (name, true),
                    None => (child.as_str(), false),
                };
                let path = format!("{directory}{child}");
                // The containers of the system itself, and snapshots, are no files of the tree.
                if container && name.starts_with("cdmi_") {
                    continue;
                }
                if name.contains('/') || names::objection(name).is_some() {
                    found.refuse(&path, "leads elsewhere")?;
                } else if container && depth >= DEPTH_MAX {
                    found.refuse(&path, "lies too deep")?;
                } else if container {
                    found.count()?;
                    open.push((path, depth + 1));
                } else if child.ends_with('?') {
                    found.leave_out(self.url(&path))?;
                } else {
                    files.push(path);
                }
            }
            self.site.look(self, files, found).await?;
        }
        Ok(())
    }

    async fn stat(&self, path: &str) -> Outcome<Option<Entry>> {
        let at = format!("{}?metadata;completionStatus", self.site.web.at(path));
        let Some(object) = self.object(path, &at, "application/cdmi-object").await? else {
            return Ok(None);
        };
        if !matches!(object.completion.as_str(), "" | "Complete") {
            let message = format!("{} is {}, not complete", self.url(path), object.completion);
            return Err(Failure::new(Exit::Unavailable, "object", message));
        }
        let mut about = entry(path, &object.metadata);
        // What plain HTTP says of it is what its ranges will be checked by.
        if let Ok(Some(head)) = self.site.head(path).await {
            about.etag = head.etag;
            about.length_bytes = about.length_bytes.or(head.length_bytes);
            if about.sums.is_empty() {
                about.sums = head.sums;
            }
        }
        Ok(Some(about))
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
        self.site.make_parents(self, path).await?;
        self.site
            .put(path, path, length_bytes, body, only_new)
            .await?;
        Ok(Held { path: path.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_tells_length_time_and_hash() {
        let hash = checksum::hex(&Algorithm::Sha256.of(b"x"));
        let metadata = serde_json::json!({
            "cdmi_size": "12", "cdmi_mtime": "2026-01-31T12:00:00.000000Z", "cdmi_hash": hash,
            "cdmi_acl": [{"acetype": "ALLOW"}],
        });
        let metadata = serde_json::from_value(metadata).unwrap();
        let entry = entry("a", &metadata);
        assert_eq!(entry.length_bytes, Some(12));
        assert_eq!(entry.modified_ms, Some(1_769_860_800_000));
        assert_eq!(
            entry.sums,
            [(
                Algorithm::Sha256,
                checksum::encode(&Algorithm::Sha256.of(b"x"))
            )]
        );
        let odd = serde_json::json!({"cdmi_size": -1, "cdmi_mtime": "x", "cdmi_hash": "zz", "cdmi_value_hash": "SHA256"});
        let entry = super::entry("a", &serde_json::from_value(odd).unwrap());
        assert_eq!(
            (entry.length_bytes, entry.modified_ms, entry.sums.len()),
            (None, None, 0)
        );
    }
}
