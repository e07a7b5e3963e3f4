//! One change of metadata at a time for a name.
//!
//! Metadata is changed by reading it, changing it and writing it back, and a change of metadata
//! alone leaves the ETag as it is: no precondition of the store's tells two such changes apart. So
//! they take turns here. A lock stands for many names; it is held over one commit, never over an
//! await, and never by one that holds another.

use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks; two names that share one only wait for one another.
const LOCKS: usize = 256;

/// The turns of all names.
pub(super) struct Turns {
    locks: Vec<Mutex<()>>,
    hasher: RandomState,
}

impl Turns {
    pub(super) fn new() -> Self {
        Self {
            locks: (0..LOCKS).map(|_| Mutex::new(())).collect(),
            hasher: RandomState::new(),
        }
    }

    /// Waits until nobody else changes the metadata of this name.
    pub(super) fn take(&self, bucket: &str, key: &str) -> MutexGuard<'_, ()> {
        let hash = self.hasher.hash_one((bucket, key));
        let place = usize::try_from(hash % LOCKS as u64).unwrap_or(0);
        self.locks[place]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
