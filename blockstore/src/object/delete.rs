//! Deleting: a version for good, or a delete marker on top.
//!
//! ```text
//! bucket        without a version                         with a version
//! unversioned   the object goes                           `null` goes
//! enabled       a marker comes on top                     it goes; the next newest shows
//! suspended     `null` goes, a marker `null` on top       it goes; the next newest shows
//! ```
//! S3 user guide, "Deleting object versions from a versioning-enabled bucket".

use super::bucket::{self, Versioning};
use super::row::{self, signed};
use super::usage::{self, Delta};
use super::version::{self, Found, Place};
use super::{Bucket, Object, Precondition};
use crate::catalog::Txn;
use crate::{Entry, Error, Kind, Result, Store, Subject, Who};

/// How many may be deleted at once (S3 API, DeleteObjects).
const DELETES_MAX: usize = 1000;

/// What to delete.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delete {
    /// The key.
    pub key: String,
    /// This version for good; otherwise the object, as its bucket does that.
    pub version: Option<String>,
    /// Only if this holds, of the version or of the current object.
    pub condition: Precondition,
    /// Though a governance retention keeps it.
    pub bypass_governance: bool,
}

/// What a deletion did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Deleted {
    /// Removed for good; may be a delete marker.
    pub gone: Option<Object>,
    /// The delete marker put on top.
    pub marker: Option<Object>,
}

impl Store {
    /// Deletes an object or one version of it. Deleting what is not there is no error, unless a
    /// condition asks for it. Denied where a lock keeps it.
    pub fn object_delete(&self, who: &Who, bucket: &str, ask: &Delete) -> Result<Deleted> {
        let (who, bucket, ask) = (who.clone(), bucket.to_owned(), ask.clone());
        let deleted = self.shared.catalog.transact(move |txn| {
            let bucket = bucket::expect(txn, &bucket)?;
            delete(txn, &who, &bucket, &ask)
        })?;
        self.shared.engine.sweep_soon();
        Ok(deleted)
    }

    /// Up to 1,000 deletions in one transaction, in their order; each is refused or done by itself.
    pub fn objects_delete(
        &self,
        who: &Who,
        bucket: &str,
        asks: &[Delete],
    ) -> Result<Vec<Result<Deleted>>> {
        if asks.len() > DELETES_MAX {
            let text = format!(
                "{} deletions are too many at once: up to {DELETES_MAX} go together",
                asks.len()
            );
            return Err(Error::new(Kind::Invalid, Subject::Object, text));
        }
        let (who, bucket, asks) = (who.clone(), bucket.to_owned(), asks.to_vec());
        let deleted = self.shared.catalog.transact(move |txn| {
            let bucket = bucket::expect(txn, &bucket)?;
            let mut deleted = Vec::with_capacity(asks.len());
            for ask in &asks {
                deleted.push(match delete(txn, &who, &bucket, ask) {
                    Err(error) if !is_refusal(&error) => return Err(error),
                    answer => answer,
                });
            }
            Ok(deleted)
        })?;
        self.shared.engine.sweep_soon();
        Ok(deleted)
    }

    /// Ok(None): there was nothing (S3 deletes are idempotent). Precondition is checked in the batch.
    /// A bucket with versions keeps the object below a delete marker.
    pub fn object_remove(
        &self,
        who: &Who,
        bucket: &str,
        key: &str,
        condition: &Precondition,
    ) -> Result<Option<Object>> {
        let (who, bucket) = (who.clone(), bucket.to_owned());
        let ask = Delete {
            key: key.to_owned(),
            condition: condition.clone(),
            ..Delete::default()
        };
        let removed = self.shared.catalog.transact(move |txn| {
            let bucket = bucket::expect(txn, &bucket)?;
            let Some(current) = row::read(txn, &bucket.name, &ask.key)? else {
                return Ok(None);
            };
            delete(txn, &who, &bucket, &ask)?;
            Ok(Some(current.object))
        })?;
        if removed.is_some() {
            self.shared.engine.sweep_soon();
        }
        Ok(removed)
    }
}

/// Whether a deletion was refused, before it changed anything: the others may go on.
fn is_refusal(error: &Error) -> bool {
    match error.kind() {
        Kind::Invalid | Kind::NotFound | Kind::Conflict | Kind::Precondition | Kind::Denied => true,
        Kind::Fenced
        | Kind::Unavailable
        | Kind::NoSpace
        | Kind::Corrupt
        | Kind::Unsupported
        | Kind::Internal => false,
    }
}

/// Deletes as the bucket does that. What refuses does so before anything is changed.
pub(super) fn delete(
    txn: &mut Txn<'_>,
    who: &Who,
    bucket: &Bucket,
    ask: &Delete,
) -> Result<Deleted> {
    let key = ask.key.as_str();
    if let Some(version) = &ask.version {
        let Some(found) = version::find(txn, &bucket.name, key, version)? else {
            return Ok(Deleted::default());
        };
        row::check(&ask.condition, Some(&found.row.object), &bucket.name, key)?;
        return remove(txn, who, bucket, &found, ask.bypass_governance);
    }
    let current = row::read(txn, &bucket.name, key)?;
    let object = current.as_ref().map(|row| &row.object);
    row::check(&ask.condition, object, &bucket.name, key)?;
    match (bucket.config.versioning, current) {
        (Versioning::Unversioned, None) => Ok(Deleted::default()),
        (Versioning::Unversioned, Some(row)) => {
            let place = Place::Current;
            remove(
                txn,
                who,
                bucket,
                &Found { row, place },
                ask.bypass_governance,
            )
        }
        (Versioning::Enabled | Versioning::Suspended, current) => {
            let marker = row::put_marker(txn, who, bucket, key, None, current)?;
            Ok(Deleted {
                gone: None,
                marker: Some(marker),
            })
        }
    }
}

/// Removes one version for good.
pub(super) fn remove(
    txn: &mut Txn<'_>,
    who: &Who,
    bucket: &Bucket,
    found: &Found,
    bypass_governance: bool,
) -> Result<Deleted> {
    version::destroy(txn, found, bypass_governance)?;
    let object = &found.row.object;
    let promoted = version::promote(txn, bucket, object)?;
    let delta = Delta {
        bytes: -signed(object.length_bytes),
        objects: i64::from(promoted) - i64::from(found.place == Place::Current),
        versions: -1,
        ..Delta::default()
    };
    usage::charge_bucket(txn, bucket, delta)?;
    let mut entry = Entry::new("object.removed", row::subject(&bucket.name, &object.key))
        .bytes("released", object.length_bytes);
    if bucket.config.versioning != Versioning::Unversioned {
        entry = entry.detail(format!("version {}", object.version));
    }
    txn.journal(who, entry)?;
    Ok(Deleted {
        gone: Some(found.row.object.clone()),
        marker: None,
    })
}
