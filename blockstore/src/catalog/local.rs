//! The catalog of one node: each batch is one synced write here.

use super::committer::{Base, Carrier, Committed, Failure, synced};
use super::txn::{Overlay, into_batch};
use rocksdb::DB;
use std::sync::Arc;

pub(super) struct Local {
    database: Arc<DB>,
    committed: Arc<Committed>,
    seq_next: u64,
}

impl Local {
    pub(super) fn new(database: Arc<DB>, committed: Arc<Committed>, seq_last: u64) -> Self {
        Self {
            database,
            committed,
            seq_next: seq_last + 1,
        }
    }
}

impl Carrier for Local {
    fn base<'a>(&mut self, database: &'a DB) -> Result<Base<'a>, Failure> {
        Ok(Base {
            rows: database.snapshot(),
            seq_next: self.seq_next,
        })
    }

    fn carry(&mut self, changed: &Overlay) -> Result<(), Failure> {
        if changed.is_empty() {
            return Ok(());
        }
        #[cfg(test)]
        if let Some(text) = self.committed.failing() {
            return Err(Failure::Disk(text));
        }
        self.database
            .write_opt(into_batch(changed), &synced())
            .map_err(|cause| Failure::Disk(cause.to_string()))?;
        if let Some(last) = super::txn::last_event(changed.iter().rev()) {
            self.seq_next = last + 1;
            self.committed.grow(last);
        }
        Ok(())
    }
}
