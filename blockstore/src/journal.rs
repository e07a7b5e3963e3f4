//! The journal: one durable, ordered event log. State changes, who did what, byte counters.
//!
//! 1. An event that tells of a catalog change is committed in the same batch as the change.
//! 2. Sequence numbers only grow and have no gaps; a cursor is the last number seen.
//! 3. Readers never hold up writers.

use crate::catalog::{Catalog, keys};
use crate::{Error, Kind, Result, Store, Subject};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// Who asks, and under which request id; every change carries it into the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Who {
    /// The identity, e.g. `root`.
    pub actor: String,
    /// The request id that logs and error replies carry too.
    pub request: String,
    /// The project that owns what this request makes.
    pub project: String,
}

impl Who {
    /// The server itself, for work nobody asked for.
    pub fn server() -> Self {
        Self {
            actor: "infall".into(),
            request: "-".into(),
            project: "root".into(),
        }
    }
}

/// One line of the journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Position; assigned by the journal.
    pub seq: u64,
    /// Milliseconds since the Unix epoch.
    pub time_ms: u64,
    /// What happened, `subject.verb`: `volume.created`, `object.put`, `instance.started`.
    pub kind: String,
    /// To what: a bucket and key, a volume, an instance.
    pub subject: String,
    /// Who did it.
    pub actor: String,
    /// The request id.
    pub request: String,
    /// Byte counters by cause (`shared`, `written`, `freed`, …).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub bytes: BTreeMap<String, u64>,
    /// Anything more, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

/// An event before it has its place.
#[derive(Clone, Debug)]
pub struct Entry {
    kind: &'static str,
    subject: String,
    bytes: BTreeMap<String, u64>,
    detail: String,
}

impl Entry {
    /// `kind` is `subject.verb`.
    pub fn new(kind: &'static str, subject: impl Into<String>) -> Self {
        Self {
            kind,
            subject: subject.into(),
            bytes: BTreeMap::new(),
            detail: String::new(),
        }
    }

    /// Adds a byte counter under its cause.
    #[must_use]
    pub fn bytes(mut self, cause: &str, count: u64) -> Self {
        self.bytes.insert(cause.into(), count);
        self
    }

    /// Adds a remark for people.
    #[must_use]
    pub fn detail(mut self, text: impl Into<String>) -> Self {
        self.detail = text.into();
        self
    }

    pub(crate) fn into_event(self, seq: u64, who: &Who) -> Event {
        Event {
            seq,
            time_ms: crate::clock::now_ms(),
            kind: self.kind.into(),
            subject: self.subject,
            actor: who.actor.clone(),
            request: who.request.clone(),
            bytes: self.bytes,
            detail: self.detail,
        }
    }
}

impl Store {
    /// Appends an event that tells of no change in the store; returns its number.
    pub fn journal_append(&self, who: &Who, entry: Entry) -> Result<u64> {
        let who = who.clone();
        self.shared
            .catalog
            .transact(move |txn| txn.journal(&who, entry))
    }

    /// Up to `max` events behind `cursor` (0: from the beginning). Invalid for a cursor that this
    /// journal has not reached.
    pub fn journal_after(&self, cursor: u64, max: usize) -> Result<Vec<Event>> {
        after(&self.shared.catalog, cursor, max)
    }

    /// As [`Self::journal_after`], but waits up to `patience` for the first event.
    pub fn journal_wait(&self, cursor: u64, max: usize, patience: Duration) -> Result<Vec<Event>> {
        wait(&self.shared.catalog, cursor, max, patience)
    }
}

fn after(catalog: &Catalog, cursor: u64, max: usize) -> Result<Vec<Event>> {
    let last = catalog.journal_last(u64::MAX, Duration::ZERO)?;
    if cursor > last {
        let text = format!("cursor {cursor} lies behind the last event, {last}: begin again at 0");
        return Err(Error::new(Kind::Invalid, Subject::Journal, text));
    }
    let mut events = Vec::new();
    if max == 0 || cursor == last {
        return Ok(events);
    }
    catalog.scan(
        keys::JOURNAL,
        &keys::event(cursor + 1),
        &mut |key, value| {
            events.push(keys::decode(key, value)?);
            Ok(events.len() < max)
        },
    )?;
    Ok(events)
}

fn wait(catalog: &Catalog, cursor: u64, max: usize, patience: Duration) -> Result<Vec<Event>> {
    // A cursor from elsewhere is refused before it waits for ever.
    let events = after(catalog, cursor, max)?;
    if !events.is_empty() || max == 0 {
        return Ok(events);
    }
    catalog.journal_last(cursor, patience)?;
    after(catalog, cursor, max)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    fn append(catalog: &Catalog, subject: &str) -> u64 {
        let entry = Entry::new("test.event", subject)
            .bytes("written", 7)
            .detail("d");
        catalog
            .transact(|txn| txn.journal(&Who::server(), entry))
            .unwrap()
    }

    #[test]
    fn events_are_read_in_order_from_a_cursor() {
        let directory = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(directory.path()).unwrap();
        assert!(after(&catalog, 0, 10).unwrap().is_empty());
        for n in 1..=300_u64 {
            assert_eq!(append(&catalog, &n.to_string()), n);
        }
        let events = after(&catalog, 254, 3).unwrap();
        let subjects: Vec<_> = events
            .iter()
            .map(|event| (event.seq, event.subject.as_str()))
            .collect();
        assert_eq!(subjects, [(255, "255"), (256, "256"), (257, "257")]);
        assert_eq!(events[0].bytes["written"], 7);
        assert!(after(&catalog, 300, 3).unwrap().is_empty());
        let error = after(&catalog, 301, 3).unwrap_err();
        assert_eq!(
            (error.kind(), error.subject()),
            (Kind::Invalid, Subject::Journal)
        );
    }

    #[test]
    fn a_waiting_reader_gets_the_next_event_as_soon_as_it_is_durable() {
        let directory = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(directory.path()).unwrap();
        let began = Instant::now();
        assert!(
            wait(&catalog, 0, 10, Duration::from_millis(30))
                .unwrap()
                .is_empty()
        );
        assert!(began.elapsed() >= Duration::from_millis(30));
        let reader = {
            let catalog = catalog.clone();
            std::thread::spawn(move || wait(&catalog, 0, 10, Duration::from_secs(60)).unwrap())
        };
        append(&catalog, "x");
        assert_eq!(reader.join().unwrap().len(), 1);
        assert!(began.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn closing_wakes_waiting_readers() {
        let directory = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(directory.path()).unwrap();
        let reader = {
            let catalog = catalog.clone();
            std::thread::spawn(move || {
                wait(&catalog, 0, 10, Duration::from_secs(60))
                    .unwrap_err()
                    .kind()
            })
        };
        std::thread::sleep(Duration::from_millis(20));
        catalog.close();
        assert_eq!(reader.join().unwrap(), Kind::Unavailable);
    }
}
