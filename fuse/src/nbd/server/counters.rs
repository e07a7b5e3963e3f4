//! What was asked of each export since the server started.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Exports remembered after their last connection ended.
const EXPORTS_REMEMBERED_MAX: usize = 1024;

/// Requests answered with success, and their bytes, of one export.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// The export's canonical name.
    pub export: String,
    /// Connections now.
    pub connections: u64,
    /// READ requests.
    pub reads: u64,
    /// Bytes read, holes included.
    pub read_bytes: u64,
    /// WRITE requests.
    pub writes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// TRIM and WRITE_ZEROES requests.
    pub zeroes: u64,
    /// Bytes trimmed or zeroed.
    pub zeroed_bytes: u64,
    /// FLUSH requests, and other requests with FUA.
    pub flushes: u64,
    /// Requests answered with an error.
    pub errors: u64,
}

/// The live counters of one export.
#[derive(Default)]
pub(super) struct Tally {
    pub(super) connections: AtomicU64,
    pub(super) reads: AtomicU64,
    pub(super) read_bytes: AtomicU64,
    pub(super) writes: AtomicU64,
    pub(super) written_bytes: AtomicU64,
    pub(super) zeroes: AtomicU64,
    pub(super) zeroed_bytes: AtomicU64,
    pub(super) flushes: AtomicU64,
    pub(super) errors: AtomicU64,
}

/// Counts one operation of `bytes` bytes.
pub(super) fn count(operations: &AtomicU64, total_bytes: &AtomicU64, bytes: u64) {
    operations.fetch_add(1, Ordering::Relaxed);
    total_bytes.fetch_add(bytes, Ordering::Relaxed);
}

/// All exports' counters.
#[derive(Default)]
pub(super) struct Tallies {
    by_export: Mutex<BTreeMap<String, Arc<Tally>>>,
}

impl Tallies {
    /// The tally of `export`, made if it is new.
    pub(super) fn of(&self, export: &str) -> Arc<Tally> {
        let mut by_export = self
            .by_export
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(tally) = by_export.get(export) {
            return Arc::clone(tally);
        }
        if by_export.len() >= EXPORTS_REMEMBERED_MAX {
            by_export.retain(|_, tally| tally.connections.load(Ordering::Relaxed) > 0);
        }
        let tally = Arc::new(Tally::default());
        by_export.insert(export.to_owned(), Arc::clone(&tally));
        tally
    }

    pub(super) fn snapshot(&self) -> Vec<Counters> {
        let by_export = self
            .by_export
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        by_export
            .iter()
            .map(|(export, tally)| {
                let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
                Counters {
                    export: export.clone(),
                    connections: get(&tally.connections),
                    reads: get(&tally.reads),
                    read_bytes: get(&tally.read_bytes),
                    writes: get(&tally.writes),
                    written_bytes: get(&tally.written_bytes),
                    zeroes: get(&tally.zeroes),
                    zeroed_bytes: get(&tally.zeroed_bytes),
                    flushes: get(&tally.flushes),
                    errors: get(&tally.errors),
                }
            })
            .collect()
    }
}
