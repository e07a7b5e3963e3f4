//! The journal: one durable, ordered event log. State changes, who did what, byte counters.
//!
//! 1. An event that tells of a catalog change is committed in the same batch as the change.
//! 2. Sequence numbers only grow and have no gaps; a cursor is the last number seen.
//! 3. Readers never hold up writers.
//! 4. Old events go oldest first and in bounded steps ([`Store::journal_trim`]); the last event always
//!    stays, so numbers never begin again. A cursor that points behind what is kept is told so.

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

/// The project of what was made before there were projects.
pub(crate) fn root_project() -> String {
    "root".into()
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

/// How much of the journal is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// Events younger than this stay.
    pub age: Duration,
    /// And of those the last so many.
    pub events: u64,
}

impl Default for Keep {
    fn default() -> Self {
        Self {
            age: Duration::from_secs(90 * 24 * 60 * 60),
            events: 10_000_000,
        }
    }
}

/// Events removed in one transaction at most.
const TRIM_STEP: u64 = 1000;

#[derive(Serialize, Deserialize)]
struct TrimRow {
    through: u64,
}

impl Store {
    /// Appends events that tell of no change in the store, in order and in one transaction.
    pub fn journal_append_many(&self, entries: &[(Who, Entry)]) -> Result<()> {
        let entries = entries.to_vec();
        self.shared.catalog.transact(move |txn| {
            for (who, entry) in entries {
                txn.journal(&who, entry)?;
            }
            Ok(())
        })
    }

    /// Removes up to `steps` times a thousand events that `keep` does not keep, oldest first; returns
    /// how many went. To be called again while it returns as many as it may.
    pub fn journal_trim(&self, keep: &Keep, steps: usize) -> Result<u64> {
        trim(&self.shared.catalog, keep, steps)
    }

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
    let trimmed = trimmed(catalog)?;
    if cursor != 0 && cursor < trimmed {
        let text = format!(
            "events up to {trimmed} are no longer kept, and cursor {cursor} wants those behind {cursor}: \
             begin again at 0 or {trimmed}, or keep more (journal.keep_days, journal.keep_events)"
        );
        return Err(Error::new(Kind::Invalid, Subject::Journal, text));
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

/// The last event that was removed; 0 if none was.
fn trimmed(catalog: &Catalog) -> Result<u64> {
    let row = catalog.get(keys::JOURNAL_TRIM)?;
    let row = row.map(|row| keys::decode::<TrimRow>(keys::JOURNAL_TRIM, &row));
    Ok(row.transpose()?.map_or(0, |row| row.through))
}

fn trim(catalog: &Catalog, keep: &Keep, steps: usize) -> Result<u64> {
    let age_ms = u64::try_from(keep.age.as_millis()).unwrap_or(u64::MAX);
    let youngest_gone = crate::clock::now_ms().saturating_sub(age_ms);
    let mut removed = 0;
    for _ in 0..steps {
        let last = catalog.journal_last(u64::MAX, Duration::ZERO)?;
        let first = trimmed(catalog)? + 1;
        // The last one stays: it says where numbers go on.
        let by_count = last.saturating_sub(keep.events.max(1));
        let mut through = first - 1;
        let start = keys::event(first);
        catalog.scan(keys::JOURNAL, &start, &mut |key, value| {
            let seq = keys::number_behind(keys::JOURNAL, key)?;
            let old = seq <= by_count || keys::decode::<Event>(key, value)?.time_ms < youngest_gone;
            let goes = old && seq < last && seq < first + TRIM_STEP;
            if goes {
                through = seq;
            }
            Ok(goes)
        })?;
        if through < first {
            break;
        }
        catalog.transact(move |txn| {
            for seq in first..=through {
                txn.delete(&keys::event(seq));
            }
            txn.put(keys::JOURNAL_TRIM, keys::encode(&TrimRow { through })?);
            Ok(())
        })?;
        removed += through + 1 - first;
    }
    Ok(removed)
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
    fn old_events_go_oldest_first_and_numbers_go_on() {
        let directory = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(directory.path()).unwrap();
        for n in 1..=2500_u64 {
            append(&catalog, &n.to_string());
        }
        let keep = |events| Keep {
            age: Duration::from_secs(3600),
            events,
        };
        assert_eq!(trim(&catalog, &keep(5000), 10).unwrap(), 0);
        assert_eq!(trim(&catalog, &keep(100), 1).unwrap(), TRIM_STEP);
        assert_eq!(trim(&catalog, &keep(100), 10).unwrap(), 1400);
        assert_eq!(trim(&catalog, &keep(100), 10).unwrap(), 0);
        let error = after(&catalog, 17, 3).unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid);
        assert!(
            error.to_string().contains("begin again at 0 or 2400"),
            "{error}"
        );
        assert_eq!(after(&catalog, 2400, 1).unwrap()[0].seq, 2401);
        assert_eq!(after(&catalog, 0, 1).unwrap()[0].seq, 2401);
        // By age everything may go but the last one, which says where numbers go on.
        std::thread::sleep(Duration::from_millis(5));
        let none = Keep {
            age: Duration::ZERO,
            events: 5000,
        };
        assert_eq!(trim(&catalog, &none, 10).unwrap(), 99);
        catalog.close();
        drop(catalog);
        let catalog = Catalog::open(directory.path()).unwrap();
        assert_eq!(append(&catalog, "x"), 2501);
        assert_eq!(after(&catalog, 2499, 10).unwrap().len(), 2);
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
