//! Write locks (RFC 4918, 6 and 7), kept in the catalog.
//!
//! ```text
//! LOCK ──► record dav-lock/<token> durable ──► table in memory ──► reply
//! ```
//! 1. A lock is answered only when its record is durable, so it outlives a restart; it ends with
//!    UNLOCK, with its resource, or when its time is over.
//! 2. The table in memory is the records, no more: one process has the store. Whoever changes locks
//!    holds `changing` over the record and the table; readers never wait for the disk.
//! 3. Locks bind those who come through this door. S3, CDMI and mounts do not know them.

use super::place::Place;
use blockstore::{Error, Kind, Result, Store, Subject, Who};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The kind of their records.
const RECORD: &str = "dav-lock";
const VERSION: u32 = 1;
/// Locks of everybody together.
const LOCKS_MAX: usize = 10_000;
/// Locks of one principal.
const LOCKS_OF_ONE_MAX: usize = 1000;
/// Bytes of what a client says of itself in `owner`.
const OWNER_BYTES_MAX: usize = 4096;
/// How long a lock lasts where the client asks for ever.
const PATIENCE_MAX: Duration = Duration::from_secs(3600);

/// A lock as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Lock {
    v: u32,
    /// `urn:uuid:…`, which is also the record's name.
    pub(super) token: String,
    /// `bucket/key` without a slash at its end; empty for the root.
    pub(super) name: String,
    /// The path as URLs write it.
    pub(super) href: String,
    /// Who holds it.
    pub(super) principal: String,
    /// What the client says of itself, an XML element; empty for nothing.
    #[serde(default)]
    pub(super) owner: String,
    /// Whether others may hold shared locks beside it.
    pub(super) shared: bool,
    /// Whether it covers everything below.
    pub(super) deep: bool,
    /// How long it was asked for, seconds.
    pub(super) seconds: u64,
    /// When it ends, milliseconds since the Unix epoch.
    pub(super) until_ms: u64,
}

/// What is asked for by LOCK.
pub(super) struct Wanted {
    pub(super) place: Place,
    pub(super) principal: String,
    pub(super) owner: String,
    pub(super) timeout: Option<Duration>,
    pub(super) shared: bool,
    pub(super) deep: bool,
}

/// All locks; a cheap handle.
#[derive(Clone)]
pub(super) struct Locks {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    changing: Mutex<()>,
    /// By name, so that what lies below a collection is one range.
    table: RwLock<BTreeMap<String, Vec<Lock>>>,
}

/// Why there is no lock.
#[derive(Debug)]
pub(super) enum NoLock {
    /// Somebody else's lock is in the way.
    Held(Box<Lock>),
    /// The store said no.
    Failed(Error),
}

impl Locks {
    /// The locks as the store has them.
    pub(super) fn open(store: Store) -> Result<Self> {
        let mut table: BTreeMap<String, Vec<Lock>> = BTreeMap::new();
        for (token, value) in store.record_list(RECORD)? {
            let lock: Lock = serde_json::from_value(value).map_err(|cause| {
                let text = format!("lock {token} is not what this door wrote");
                Error::new(Kind::Corrupt, Subject::Record, text).because(cause)
            })?;
            if lock.v > VERSION {
                let text = format!(
                    "lock {token} has format {}, this release reads up to {VERSION}",
                    lock.v
                );
                return Err(Error::new(Kind::Unsupported, Subject::Record, text));
            }
            table.entry(lock.name.clone()).or_default().push(lock);
        }
        Ok(Self {
            inner: Arc::new(Inner {
                store,
                changing: Mutex::new(()),
                table: RwLock::new(table),
            }),
        })
    }

    /// Takes a lock. Blocks until it is durable.
    pub(super) fn take(&self, who: &Who, wanted: Wanted) -> Result<Lock, NoLock> {
        let _changing = self.changing();
        let now = now_ms();
        self.forget_expired(who, now).map_err(NoLock::Failed)?;
        let name = wanted.place.name();
        let mut near = self.covering(&name);
        if wanted.deep {
            near.extend(self.below(&name));
        }
        // RFC 4918, 6.2: shared beside shared, anything else alone.
        if let Some(held) = near
            .into_iter()
            .find(|held| !(held.shared && wanted.shared))
        {
            return Err(NoLock::Held(Box::new(held)));
        }
        self.admit(&wanted).map_err(NoLock::Failed)?;
        let timeout = wanted.timeout.unwrap_or(PATIENCE_MAX).min(PATIENCE_MAX);
        let lock = Lock {
            v: VERSION,
            token: uuid::Uuid::new_v4().urn().to_string(),
            name,
            href: wanted.place.href(),
            principal: wanted.principal,
            owner: wanted.owner,
            shared: wanted.shared,
            deep: wanted.deep,
            seconds: timeout.as_secs(),
            until_ms: now.saturating_add(millis(timeout)),
        };
        self.write(who, &lock, true).map_err(NoLock::Failed)?;
        let mut table = self.table_mut();
        table
            .entry(lock.name.clone())
            .or_default()
            .push(lock.clone());
        Ok(lock)
    }

    /// Gives a lock another end. `None` if there is none of that token over the place.
    pub(super) fn refresh(
        &self,
        who: &Who,
        place: &Place,
        token: &str,
        timeout: Option<Duration>,
    ) -> Result<Option<Lock>> {
        let _changing = self.changing();
        let found = self
            .covering(&place.name())
            .into_iter()
            .find(|lock| lock.token == token);
        let Some(mut lock) = found else {
            return Ok(None);
        };
        let timeout = timeout.unwrap_or(PATIENCE_MAX).min(PATIENCE_MAX);
        lock.seconds = timeout.as_secs();
        lock.until_ms = now_ms().saturating_add(millis(timeout));
        self.write(who, &lock, false)?;
        let mut table = self.table_mut();
        for held in table.entry(lock.name.clone()).or_default() {
            if held.token == lock.token {
                held.clone_from(&lock);
            }
        }
        Ok(Some(lock))
    }

    /// Ends a lock. `false` if there is none of that token over the place.
    pub(super) fn release(&self, who: &Who, place: &Place, token: &str) -> Result<bool> {
        let _changing = self.changing();
        let found = self
            .covering(&place.name())
            .into_iter()
            .find(|lock| lock.token == token);
        match found {
            Some(lock) => self.end(who, &[lock]).map(|()| true),
            None => Ok(false),
        }
    }

    /// Ends all locks at a place and below it, which is gone.
    pub(super) fn release_below(&self, who: &Who, place: &Place) -> Result<()> {
        let _changing = self.changing();
        let name = place.name();
        let mut gone = self.at(&name);
        gone.extend(self.below(&name));
        self.end(who, &gone)
    }

    /// The locks that hold at a name: its own, and deep ones above it.
    pub(super) fn covering(&self, name: &str) -> Vec<Lock> {
        let now = now_ms();
        let table = self.table();
        let mut found = Vec::new();
        for above in ancestors(name) {
            let own = above == name;
            let locks = table.get(above).into_iter().flatten();
            found.extend(
                locks
                    .filter(|lock| lock.until_ms > now && (own || lock.deep))
                    .cloned(),
            );
        }
        found
    }

    /// The locks at a name itself.
    pub(super) fn at(&self, name: &str) -> Vec<Lock> {
        let now = now_ms();
        let table = self.table();
        let locks = table.get(name).into_iter().flatten();
        locks.filter(|lock| lock.until_ms > now).cloned().collect()
    }

    /// The locks below a name.
    pub(super) fn below(&self, name: &str) -> Vec<Lock> {
        let now = now_ms();
        let table = self.table();
        let prefix = if name.is_empty() {
            String::new()
        } else {
            format!("{name}/")
        };
        table
            .range::<str, _>((Bound::Included(prefix.as_str()), Bound::Unbounded))
            .take_while(|(name, _)| name.starts_with(&prefix))
            .filter(|(below, _)| *below != name)
            .flat_map(|(_, locks)| locks)
            .filter(|lock| lock.until_ms > now)
            .cloned()
            .collect()
    }

    fn admit(&self, wanted: &Wanted) -> Result<()> {
        let table = self.table();
        let full = |text: String| Err(Error::new(Kind::NoSpace, Subject::Record, text));
        let all: usize = table.values().map(Vec::len).sum();
        if all >= LOCKS_MAX {
            return full(format!("{all} locks are held already: wait for one to end"));
        }
        let own = table
            .values()
            .flatten()
            .filter(|lock| lock.principal == wanted.principal)
            .count();
        if own >= LOCKS_OF_ONE_MAX {
            return full(format!("you hold {own} locks already: UNLOCK some first"));
        }
        if wanted.owner.len() > OWNER_BYTES_MAX {
            let text = format!(
                "the lock's owner has {} bytes, {OWNER_BYTES_MAX} are the most",
                wanted.owner.len()
            );
            return Err(Error::new(Kind::Invalid, Subject::Record, text));
        }
        Ok(())
    }

    fn write(&self, who: &Who, lock: &Lock, new: bool) -> Result<()> {
        let value = serde_json::to_value(lock).map_err(|cause| {
            Error::new(Kind::Internal, Subject::Record, "a lock has no JSON").because(cause)
        })?;
        let store = &self.inner.store;
        if new {
            store.record_create(who, RECORD, &lock.token, &value, None)
        } else {
            store.record_put(who, RECORD, &lock.token, &value, None)
        }
    }

    fn forget_expired(&self, who: &Who, now: u64) -> Result<()> {
        let expired: Vec<Lock> = {
            let table = self.table();
            let locks = table.values().flatten();
            locks.filter(|lock| lock.until_ms <= now).cloned().collect()
        };
        self.end(who, &expired)
    }

    fn end(&self, who: &Who, locks: &[Lock]) -> Result<()> {
        for lock in locks {
            match self
                .inner
                .store
                .record_remove(who, RECORD, &lock.token, None)
            {
                Ok(()) => {}
                Err(gone) if gone.kind() == Kind::NotFound => {}
                Err(error) => return Err(error),
            }
            let mut table = self.table_mut();
            if let Some(held) = table.get_mut(&lock.name) {
                held.retain(|held| held.token != lock.token);
                if held.is_empty() {
                    table.remove(&lock.name);
                }
            }
        }
        Ok(())
    }

    fn changing(&self) -> std::sync::MutexGuard<'_, ()> {
        let changing = &self.inner.changing;
        changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn table(&self) -> std::sync::RwLockReadGuard<'_, BTreeMap<String, Vec<Lock>>> {
        let table = &self.inner.table;
        table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn table_mut(&self) -> std::sync::RwLockWriteGuard<'_, BTreeMap<String, Vec<Lock>>> {
        let table = &self.inner.table;
        table.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A name and all above it, the root (empty) first.
fn ancestors(name: &str) -> impl Iterator<Item = &str> {
    let inner = name
        .char_indices()
        .filter(|(_, letter)| *letter == '/')
        .map(|(at, _)| &name[..at]);
    let own = (!name.is_empty()).then_some(name);
    std::iter::once("").chain(inner).chain(own)
}

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, millis)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(path: &str, shared: bool, deep: bool, seconds: u64) -> Wanted {
        Wanted {
            place: Place::of_path(path).unwrap(),
            principal: "arn:aws:iam::root:root".into(),
            owner: String::new(),
            timeout: Some(Duration::from_secs(seconds)),
            shared,
            deep,
        }
    }

    #[test]
    fn a_lock_outlives_a_restart_and_ends_with_its_time() {
        let directory = tempfile::tempdir().unwrap();
        let who = Who::server();
        let (long, name) = {
            let store = Store::open(directory.path(), Default::default()).unwrap();
            let locks = Locks::open(store.clone()).unwrap();
            let long = locks
                .take(&who, wanted("/dav/data/a", false, true, 600))
                .unwrap();
            locks
                .take(&who, wanted("/dav/data/short", false, true, 0))
                .unwrap();
            let refused = locks.take(&who, wanted("/dav/data/a/b", true, false, 9));
            assert!(matches!(refused, Err(NoLock::Held(held)) if held.token == long.token));
            store.close().unwrap();
            (long.token, "data/a/b".to_owned())
        };
        let store = Store::open(directory.path(), Default::default()).unwrap();
        let locks = Locks::open(store.clone()).unwrap();
        assert_eq!(locks.covering(&name).len(), 1);
        assert!(locks.covering("data/short").is_empty(), "its time is over");
        let place = Place::of_path("/dav/data/a").unwrap();
        assert!(!locks.release(&who, &place, "urn:uuid:no").unwrap());
        assert!(locks.release(&who, &place, &long).unwrap());
        locks
            .take(&who, wanted("/dav/data/a/b", true, false, 9))
            .unwrap();
        assert_eq!(
            store.record_list(RECORD).unwrap().len(),
            1,
            "what is over is forgotten when the next lock is taken"
        );
    }

    #[test]
    fn shared_locks_stand_beside_one_another_and_deep_ones_look_below() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path(), Default::default()).unwrap();
        let locks = Locks::open(store).unwrap();
        let who = Who::server();
        for _ in 0..2 {
            locks
                .take(&who, wanted("/dav/data/a/b", true, false, 60))
                .unwrap();
        }
        assert!(
            locks
                .take(&who, wanted("/dav/data/a/b", false, false, 60))
                .is_err()
        );
        assert!(
            locks
                .take(&who, wanted("/dav/data/", false, true, 60))
                .is_err()
        );
        locks
            .take(&who, wanted("/dav/data/", false, false, 60))
            .unwrap();
        assert_eq!(locks.below("data").len(), 2);
        assert!(locks.below("dat").is_empty());
        locks
            .release_below(&who, &Place::of_path("/dav/data/a").unwrap())
            .unwrap();
        assert!(locks.below("data").is_empty());
        assert_eq!(locks.covering("data").len(), 1);
        assert!(locks.covering("data/a").is_empty(), "it was not deep");
    }
}
