//! The journal: one durable, ordered event log. State changes, who did what, byte counters.
//!
//! 1. An event that tells of a catalog change is committed in the same batch as the change.
//! 2. Sequence numbers only grow and have no gaps; a cursor is the last number seen.
//! 3. Readers never hold up writers.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Who asks, and under which request id; every change carries it into the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Who {
    /// The identity, e.g. `root`.
    pub actor: String,
    /// The request id that logs and error replies carry too.
    pub request: String,
}

impl Who {
    /// The server itself, for work nobody asked for.
    pub fn server() -> Self {
        Self { actor: "infall".into(), request: "-".into() }
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
        Self { kind, subject: subject.into(), bytes: BTreeMap::new(), detail: String::new() }
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
