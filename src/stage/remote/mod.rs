//! One side of a copy: what every protocol can do, and where each does it.
//!
//! A side has a root; paths are below it, parts divided by `/`. Each protocol lists, looks, reads
//! a range and deletes. Taking bytes comes in two ways: in pieces that can be continued
//! ([`Pieces`]: files, S3), or as one body that appears when it is whole ([`Remote::put`]).

pub(crate) mod cdmi;
pub(crate) mod dav;
pub(crate) mod http;
pub(crate) mod index;
pub(crate) mod local;
pub(crate) mod multistatus;
pub(crate) mod s3;
pub(crate) mod sdk;
mod site;
pub(crate) mod tree;
pub(crate) mod upload;
pub(crate) mod web;

use super::checksum::Algorithm;
use super::filter::Filter;
use super::journal::Done;
use super::names;
use super::plan::{Entry, Listing};
use crate::exit::{Exit, Failure, Outcome};
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use std::collections::BTreeMap;
use std::ops::Range;

/// A body as it comes.
pub(crate) type Chunks = BoxStream<'static, Outcome<Bytes>>;

/// One side.
#[async_trait]
pub(crate) trait Remote: Send + Sync {
    /// What people call a path of it; never with a secret.
    fn url(&self, path: &str) -> String;

    /// All files below the root.
    async fn list(&self, found: &mut Found) -> Outcome;

    /// One file; nothing where there is none.
    async fn stat(&self, path: &str) -> Outcome<Option<Entry>>;

    /// Its bytes, all or a range, of the content that `entry` was of.
    async fn read(&self, entry: &Entry, range: Option<Range<u64>>) -> Outcome<Chunks>;

    /// Takes one file away. That it is gone already is fine.
    async fn delete(&self, path: &str) -> Outcome;

    /// Whether its names are those of a file system, and may clash or lead elsewhere.
    fn has_paths(&self) -> bool {
        true
    }

    /// How long the parts are that a checksum of parts is of.
    async fn part_bytes(&self, _entry: &Entry) -> Option<u64> {
        None
    }

    /// The way in pieces, if it has one.
    fn pieces(&self) -> Option<&dyn Pieces> {
        None
    }

    /// Takes one body, under a name that shows nothing yet where the protocol has such.
    async fn put(
        &self,
        path: &str,
        length_bytes: u64,
        body: Chunks,
        only_new: bool,
    ) -> Outcome<Held> {
        let (_, _, _, _) = (path, length_bytes, body, only_new);
        Err(Failure::new(
            Exit::Invalid,
            "stage",
            "this side takes no bytes",
        ))
    }

    /// Gives the held body its name.
    async fn settle(&self, held: &Held, path: &str, only_new: bool) -> Outcome {
        let (_, _, _) = (held, path, only_new);
        Ok(())
    }

    /// Takes the held body away.
    async fn give_up(&self, held: &Held) -> Outcome {
        self.delete(&held.path).await
    }

    /// The file of this machine that it is.
    fn is_local(&self) -> bool {
        false
    }
}

/// A body that arrived, before it was proven.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    /// Where it lies.
    pub(crate) path: String,
}

/// What is there of something unfinished.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct There {
    /// Bytes of the piece.
    pub(crate) length: u64,
    /// What the side calls it.
    pub(crate) etag: Option<String>,
    /// Its checksum, if the side tells.
    pub(crate) sum: Option<(Algorithm, Vec<u8>)>,
}

/// What a finished copy is known by.
#[derive(Clone, Debug, Default)]
pub(crate) struct Settled {
    /// What the target itself compared: `crc32`, `sha256 of 3 parts`; nothing for a file.
    pub(crate) verified: Option<String>,
    /// The checksum it shows.
    pub(crate) checksum: Option<String>,
    /// Its ETag.
    pub(crate) etag: Option<String>,
}

/// What a piece or a small file is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Piece<'a> {
    /// The path of the file.
    pub(crate) path: &'a str,
    /// Counted from 0.
    pub(crate) number: u64,
    /// Where it begins.
    pub(crate) offset: u64,
    /// The checksum to keep, of these bytes.
    pub(crate) sum: (Algorithm, &'a [u8]),
}

/// How a finished file is to appear.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Finish<'a> {
    /// The path of the file.
    pub(crate) path: &'a str,
    /// All its bytes.
    pub(crate) length_bytes: u64,
    /// What the target keeps.
    pub(crate) keep: Algorithm,
    /// Whether what somebody made meanwhile must stay.
    pub(crate) only_new: bool,
    /// The source's time.
    pub(crate) modified_ms: Option<i64>,
}

/// Taking bytes in pieces that can be continued after a kill.
#[async_trait]
pub(crate) trait Pieces: Send + Sync {
    /// Begins; the token names it from now on.
    async fn begin(&self, path: &str, keep: Algorithm) -> Outcome<String>;

    /// The pieces that are there; nothing where the whole thing is gone.
    async fn resume(
        &self,
        path: &str,
        token: &str,
        piece_bytes: u64,
    ) -> Outcome<Option<BTreeMap<u64, There>>>;

    /// The bytes of a piece that is there, where that costs no way.
    async fn read_back(&self, path: &str, token: &str, range: Range<u64>)
    -> Outcome<Option<Bytes>>;

    /// Takes one; answers what it calls it.
    async fn piece(&self, token: &str, piece: Piece<'_>, bytes: Bytes) -> Outcome<Option<String>>;

    /// Makes the file of them, and compares.
    async fn finish(
        &self,
        token: &str,
        finish: Finish<'_>,
        pieces: &BTreeMap<u64, Done>,
    ) -> Outcome<Settled>;

    /// Takes the unfinished thing away.
    async fn abandon(&self, path: &str, token: &str) -> Outcome;

    /// Takes a file that is one piece.
    async fn small(&self, finish: Finish<'_>, sum: &[u8], bytes: Bytes) -> Outcome<Settled>;
}

/// What a listing brought, within its bounds.
#[derive(Debug)]
pub(crate) struct Found {
    /// The files.
    pub(crate) entries: Listing,
    /// What is neither file nor directory, or has no name that can be written.
    pub(crate) left_out: Vec<String>,
    /// Names that may not become files, and why.
    pub(crate) refused: Vec<(String, &'static str)>,
    filter: Filter,
    strict: bool,
    entries_max: usize,
    seen: usize,
}

impl Found {
    /// `strict` refuses names that are no paths.
    pub(crate) fn new(filter: Filter, strict: bool, entries_max: usize) -> Self {
        Self {
            entries: Listing::new(),
            left_out: Vec::new(),
            refused: Vec::new(),
            filter,
            strict,
            entries_max,
            seen: 0,
        }
    }

    /// One more.
    pub(crate) fn add(&mut self, entry: Entry) -> Outcome {
        self.count()?;
        if !self.filter.takes(&entry.path) {
            return Ok(());
        }
        let objection = names::objection(&entry.path).filter(|_| self.strict);
        if let Some(why) = objection {
            self.refused.push((entry.path, why));
        } else if let Some(twice) = self.entries.insert(entry.path.clone(), entry) {
            self.refused.push((twice.path, "was listed twice"));
        }
        Ok(())
    }

    /// One that is left out.
    pub(crate) fn leave_out(&mut self, name: String) -> Outcome {
        self.count()?;
        self.left_out.push(name);
        Ok(())
    }

    /// Whether something may be added here at all: asked before a directory is entered.
    pub(crate) fn refuse(&mut self, name: &str, why: &'static str) -> Outcome {
        self.count()?;
        if self.filter.takes(name) {
            self.refused.push((name.to_owned(), why));
        }
        Ok(())
    }

    /// How many entries it brought, whether they take part or not.
    pub(crate) fn seen(&self) -> usize {
        self.seen
    }

    /// Counts everything that a listing brings, so that one that never ends is noticed.
    pub(crate) fn count(&mut self) -> Outcome {
        self.seen += 1;
        if self.seen <= self.entries_max {
            return Ok(());
        }
        let message = format!("the listing has more than {} entries", self.entries_max);
        Err(Failure::new(Exit::Invalid, "listing", message)
            .hint("Copy a part of the tree, or allow more: --entries-max"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str) -> Entry {
        Entry {
            path: path.into(),
            ..Entry::default()
        }
    }

    #[test]
    fn an_endless_listing_ends() {
        let mut found = Found::new(Filter::default(), true, 3);
        for name in ["a", "b", "c"] {
            found.add(entry(name)).unwrap();
        }
        assert_eq!(found.add(entry("d")).unwrap_err().exit(), Exit::Invalid);
    }

    #[test]
    fn hostile_names_are_refused_by_name_unless_they_are_excluded() {
        let mut found = Found::new(Filter::default(), true, 10);
        for name in ["../x", "ok", "ok"] {
            found.add(entry(name)).unwrap();
        }
        let names: Vec<&str> = found
            .refused
            .iter()
            .map(|(name, _)| name.as_str())
            .collect();
        assert_eq!(names, ["../x", "ok"]);
        let exclude = super::super::filter::Rule {
            include: false,
            pattern: "../*".parse().unwrap(),
        };
        let mut found = Found::new(Filter(vec![exclude]), true, 10);
        found.add(entry("../x")).unwrap();
        assert!(found.refused.is_empty() && found.entries.is_empty());
    }
}
