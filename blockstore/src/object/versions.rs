//! Listing versions: current and older ones merged in one order, of one moment.
//!
//! Entries are versions and rolled-up prefixes, in byte order of keys and prefixes, and the newest
//! version of a key first. Both kinds of rows are walked only as far as a page needs, past what it rolls
//! up.

use super::list::rolled_up;
use super::{Object, bucket, row, version};
use crate::catalog::{Frozen, Step, keys};
use crate::{Result, Store};

/// Which versions to list.
#[derive(Clone, Debug, Default)]
pub struct VersionQuery {
    /// Only keys that start so.
    pub prefix: String,
    /// Roll up keys behind the first such string after the prefix.
    pub delimiter: Option<String>,
    /// Only keys (and rolled-up prefixes) behind this one, in byte order.
    pub key_marker: Option<String>,
    /// And of that key itself only versions older than this one.
    pub version_marker: Option<String>,
    /// At most this many versions and prefixes together; 0 gives an empty, complete page.
    pub max: usize,
}

/// A page of versions, keys in byte order, the newest version first.
#[derive(Clone, Debug, Default)]
pub struct VersionPage {
    /// Versions, delete markers among them.
    pub versions: Vec<Object>,
    /// Rolled-up prefixes.
    pub prefixes: Vec<String>,
    /// Give these as `key_marker` and `version_marker` to go on; `None` where the listing is complete.
    pub next: Option<(String, Option<String>)>,
}

/// Where an entry stands: its key or prefix, then NOT seq of the version (0 for a prefix).
type Position = (String, u64);

struct Entry {
    at: Position,
    /// `None` for a prefix.
    version: Option<Object>,
}

impl Store {
    /// One page of a bucket's versions and rolled-up prefixes. NotFound if the bucket is missing, Invalid
    /// for a marker that is no version id.
    pub fn object_versions(&self, bucket: &str, query: &VersionQuery) -> Result<VersionPage> {
        self.shared.catalog.frozen(|rows| page(rows, bucket, query))
    }
}

fn page(rows: &Frozen<'_>, bucket: &str, query: &VersionQuery) -> Result<VersionPage> {
    bucket::expect(rows, bucket)?;
    if query.max == 0 {
        return Ok(VersionPage::default());
    }
    let start = start(rows, bucket, query)?;
    let mut entries = current(rows, bucket, query, start.as_ref())?;
    entries.extend(older(rows, bucket, query, start.as_ref())?);
    entries.sort_by(|a, b| a.at.cmp(&b.at));
    entries.dedup_by(|a, b| a.at == b.at);
    let more = entries.len() > query.max;
    entries.truncate(query.max);
    let mut page = VersionPage::default();
    if more && let Some(last) = entries.last() {
        let version = last.version.as_ref().map(|object| object.version.clone());
        page.next = Some((last.at.0.clone(), version));
    }
    for Entry { at, version } in entries {
        match version {
            Some(object) => page.versions.push(object),
            None => page.prefixes.push(at.0),
        }
    }
    mark_latest(rows, bucket, &mut page.versions)?;
    Ok(page)
}

/// The position behind which the page begins; `None` for the beginning.
fn start(rows: &Frozen<'_>, bucket: &str, query: &VersionQuery) -> Result<Option<Position>> {
    let Some(key) = &query.key_marker else {
        return Ok(None);
    };
    if let Some(prefix) = rolled(query, key) {
        return Ok(Some((prefix.to_owned(), u64::MAX)));
    }
    let order = match &query.version_marker {
        None => u64::MAX,
        Some(version) => match version::seq_of(version)? {
            Some(seq) => !seq,
            // One that went meanwhile does not say which were older: on with the next key.
            None => {
                version::find(rows, bucket, key, version)?.map_or(u64::MAX, |found| !found.row.seq)
            }
        },
    };
    Ok(Some((key.clone(), order)))
}

fn current(
    rows: &Frozen<'_>,
    bucket: &str,
    query: &VersionQuery,
    start: Option<&Position>,
) -> Result<Vec<Entry>> {
    let all = keys::objects_of(bucket);
    let stored = |key: &str| [&all, key.as_bytes()].concat();
    // The current version of the marker's own key may be behind it, if what the marker named went.
    let from = start.map_or_else(|| stored(""), |(key, _)| stored(key));
    let mut entries = Vec::new();
    rows.walk(&stored(&query.prefix), &from, &mut |at, value| {
        let key = keys::text_behind(&all, at)?;
        if let Some(prefix) = rolled(query, key) {
            push_prefix(&mut entries, prefix, start);
            let next = keys::behind(&stored(prefix));
            return Ok(go_on(query, &entries, next.map_or(Step::Stop, Step::Seek)));
        }
        let row = row::decode(at, value)?;
        let position = (key.to_owned(), !row.seq);
        if start.is_none_or(|start| position > *start) {
            let mut object = row.object;
            object.latest = true;
            entries.push(Entry {
                at: position,
                version: Some(object),
            });
        }
        Ok(go_on(query, &entries, Step::Next))
    })?;
    Ok(entries)
}

fn older(
    rows: &Frozen<'_>,
    bucket: &str,
    query: &VersionQuery,
    start: Option<&Position>,
) -> Result<Vec<Entry>> {
    let from = match start {
        None => Vec::new(),
        Some((key, order)) => {
            let mut from = keys::version(bucket, key, !order);
            from.push(0);
            from
        }
    };
    let mut entries = Vec::new();
    let below = keys::versions_below(bucket, &query.prefix);
    rows.walk(&below, &from, &mut |at, value| {
        let (key, seq) = keys::parse_version(bucket, at)?;
        if let Some(prefix) = rolled(query, &key) {
            push_prefix(&mut entries, prefix, start);
            let next = keys::behind(&keys::versions_below(bucket, prefix));
            return Ok(go_on(query, &entries, next.map_or(Step::Stop, Step::Seek)));
        }
        entries.push(Entry {
            at: (key, !seq),
            version: Some(row::decode(at, value)?.object),
        });
        Ok(go_on(query, &entries, Step::Next))
    })?;
    Ok(entries)
}

fn push_prefix(entries: &mut Vec<Entry>, prefix: &str, start: Option<&Position>) {
    let at = (prefix.to_owned(), 0);
    if start.is_none_or(|start| at > *start) {
        entries.push(Entry { at, version: None });
    }
}

/// A page and one more are enough: what more says is that there is more.
fn go_on(query: &VersionQuery, entries: &[Entry], step: Step) -> Step {
    if entries.len() > query.max {
        Step::Stop
    } else {
        step
    }
}

/// Of older rows only a delete marker can be the newest of its key.
fn mark_latest(rows: &Frozen<'_>, bucket: &str, versions: &mut [Object]) -> Result<()> {
    for object in versions.iter_mut().filter(|object| object.marker) {
        let latest = version::latest(rows, bucket, &object.key)?;
        object.latest = latest.is_some_and(|row| row.object.version == object.version);
    }
    Ok(())
}

fn rolled<'a>(query: &VersionQuery, key: &'a str) -> Option<&'a str> {
    rolled_up(&query.prefix, query.delimiter.as_deref(), key)
}
