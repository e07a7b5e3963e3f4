//! A change under construction: puts and deletes over what is stored.
//!
//! 1. Reads see the change's own puts, then those of the changes before it in the same batch, then
//!    the database as it was when the group began.
//! 2. Nothing of a change that fails reaches the batch, its journal numbers included.

use super::{failed, keys};
use crate::{Entry, Result, Who};
use rocksdb::{ReadOptions, Snapshot, WriteBatch};
use std::collections::BTreeMap;
use std::ops::Bound;

/// Changed rows by key; `None` is a delete.
pub(super) type Overlay = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// A batch under construction: reads see its own changes.
pub(crate) struct Txn<'a> {
    base: &'a Snapshot<'a>,
    batch: &'a Overlay,
    own: Overlay,
    seq_next: u64,
}

impl<'a> Txn<'a> {
    pub(super) fn new(base: &'a Snapshot<'a>, batch: &'a Overlay, seq_next: u64) -> Self {
        Self {
            base,
            batch,
            own: Overlay::new(),
            seq_next,
        }
    }

    /// What it changed, and the journal number to go on with.
    pub(super) fn into_changes(self) -> (Overlay, u64) {
        (self.own, self.seq_next)
    }

    /// The row behind `key`.
    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        match self.own.get(key).or_else(|| self.batch.get(key)) {
            Some(changed) => Ok(changed.clone()),
            None => self
                .base
                .get(key)
                .map_err(|cause| failed("read a row of the catalog", cause)),
        }
    }

    /// Writes a row.
    pub(crate) fn put(&mut self, key: &[u8], value: Vec<u8>) {
        self.own.insert(key.to_vec(), Some(value));
    }

    /// Removes a row; nothing happens if there is none.
    pub(crate) fn delete(&mut self, key: &[u8]) {
        self.own.insert(key.to_vec(), None);
    }

    /// The first `max` rows whose key starts with `prefix`, in order.
    pub(crate) fn scan_prefix(&self, prefix: &[u8], max: usize) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let changed: BTreeMap<&[u8], &Option<Vec<u8>>> = self.changed(prefix).collect();
        let mut changed = changed.into_iter().peekable();
        let mut options = ReadOptions::default();
        if let Some(end) = keys::behind(prefix) {
            options.set_iterate_upper_bound(end);
        }
        let mut stored = self.base.raw_iterator_opt(options);
        stored.seek(prefix);
        let mut rows = Vec::new();
        while rows.len() < max {
            let next = stored.item();
            // Of two rows with one key the changed one counts; of two keys the smaller comes first.
            match (changed.peek(), next) {
                (Some((key, _)), Some((stored_key, value))) if stored_key < *key => {
                    rows.push((stored_key.to_vec(), value.to_vec()));
                    stored.next();
                }
                (Some(_), next) => {
                    let Some((key, value)) = changed.next() else {
                        break;
                    };
                    if next.is_some_and(|(stored_key, _)| stored_key == key) {
                        stored.next();
                    }
                    if let Some(value) = value {
                        rows.push((key.to_vec(), value.clone()));
                    }
                }
                (None, Some((stored_key, value))) => {
                    rows.push((stored_key.to_vec(), value.to_vec()));
                    stored.next();
                }
                (None, None) => break,
            }
        }
        stored
            .status()
            .map_err(|cause| failed("scan the catalog", cause))?;
        Ok(rows)
    }

    /// Whether any row's key starts with `prefix`. Changed rows are asked first: they cost nothing.
    pub(super) fn any(&self, prefix: &[u8]) -> Result<bool> {
        let own = within(&self.own, prefix).any(|(_, value)| value.is_some());
        let batch = || {
            within(self.batch, prefix)
                .any(|(key, value)| value.is_some() && !self.own.contains_key(key))
        };
        if own || batch() {
            return Ok(true);
        }
        Ok(!self.scan_prefix(prefix, 1)?.is_empty())
    }

    /// Says that the catalog is now of this release's format.
    pub(crate) fn put_format(&mut self) -> Result<()> {
        let row = super::open::format_row(keys::FORMAT_VERSION)?;
        self.put(keys::FORMAT, row);
        Ok(())
    }

    /// Appends to the journal in this batch; returns the event's number.
    pub(crate) fn journal(&mut self, who: &Who, entry: Entry) -> Result<u64> {
        let seq = self.seq_next;
        let event = entry.into_event(seq, who);
        self.put(&keys::event(seq), keys::encode(&event)?);
        self.seq_next += 1;
        Ok(seq)
    }

    /// The number the next event of this change gets; no other event ever has it once committed.
    pub(crate) fn seq_next(&self) -> u64 {
        self.seq_next
    }

    fn changed(&self, prefix: &[u8]) -> impl Iterator<Item = (&[u8], &Option<Vec<u8>>)> {
        within(self.batch, prefix).chain(within(&self.own, prefix))
    }
}

fn within<'a>(
    overlay: &'a Overlay,
    prefix: &[u8],
) -> impl Iterator<Item = (&'a [u8], &'a Option<Vec<u8>>)> {
    let end = keys::behind(prefix);
    let end = end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
    overlay
        .range::<[u8], _>((Bound::Included(prefix), end))
        .map(|(key, value)| (key.as_slice(), value))
}

/// What a batch does, for the database.
pub(super) fn into_batch(changed: &Overlay) -> WriteBatch {
    let mut batch = WriteBatch::default();
    for (key, value) in changed {
        match value {
            Some(value) => batch.put(key, value),
            None => batch.delete(key),
        }
    }
    batch
}

/// The number of the last event among rows that are put, given from the last to the first.
pub(super) fn last_event<'a>(
    mut changed: impl Iterator<Item = (&'a Vec<u8>, &'a Option<Vec<u8>>)>,
) -> Option<u64> {
    changed.find_map(|(key, value)| {
        value.as_ref()?;
        keys::number_behind(keys::JOURNAL, key).ok()
    })
}
