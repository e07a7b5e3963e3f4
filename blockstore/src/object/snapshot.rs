//! Snapshots of a bucket, or of a directory in it: every current version as it was, under a name.
//!
//! 1. A snapshot is taken in one transaction: it shows one moment.
//! 2. It pins the maps its objects show, and outlives their removal. Small bodies are copied: they lie
//!    in the catalog, each its own.
//! 3. It counts for its bucket's usage like any other name of the bytes, and keeps the bucket.

use super::copy::inline_of;
use super::list;
use super::row::{self, ObjectRow, cuts_of, signed};
use super::usage::{self, Delta};
use super::{Body, ListPage, ListQuery, Object, ReadAt, bucket};
use crate::catalog::{Frozen, Rows, Step, keys};
use crate::{Entry, Error, Kind, Result, Store, Subject, Who, clock};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Objects that one snapshot shows.
const OBJECTS_MAX: usize = 100_000;
/// Bytes of small bodies that one snapshot copies.
const INLINE_BYTES_MAX: u64 = 64 << 20;
const NAME_BYTES_MAX: usize = 255;

/// A snapshot of a bucket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BucketSnapshot {
    /// Of which bucket.
    pub bucket: String,
    /// Of the keys that begin so.
    pub prefix: String,
    /// Its name, unique in the bucket.
    pub name: String,
    /// Its id, of the numbers of [`Object::id`].
    pub id: u64,
    /// When it was taken, milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// How many objects it shows.
    pub objects: u64,
    /// Their visible bytes.
    pub bytes: u64,
}

impl Store {
    /// Takes a snapshot of the objects whose keys begin with `prefix`. Conflict if the name is taken,
    /// Unsupported for more than one transaction may hold.
    pub fn bucket_snapshot_create(
        &self,
        who: &Who,
        bucket: &str,
        prefix: &str,
        name: &str,
    ) -> Result<BucketSnapshot> {
        check_name(name)?;
        self.shared.engine.admit_write()?;
        let (who, bucket) = (who.clone(), bucket.to_owned());
        let (prefix, name) = (prefix.to_owned(), name.to_owned());
        self.shared.catalog.transact(move |txn| {
            let bucket = bucket::expect(txn, &bucket)?;
            let at = keys::frozen(&bucket.name, &name);
            if txn.get(&at)?.is_some() {
                let text = format!(
                    "bucket {:?} has a snapshot {name:?} already: choose another name",
                    bucket.name
                );
                return Err(Error::new(Kind::Conflict, Subject::Snapshot, text));
            }
            let rows = txn.scan_prefix(&keys::object(&bucket.name, &prefix), OBJECTS_MAX + 1)?;
            if rows.len() > OBJECTS_MAX {
                return Err(too_large(&bucket.name, &prefix, OBJECTS_MAX, "objects"));
            }
            let id = txn.seq_next();
            let (mut bytes, mut inline_bytes) = (0, 0);
            let objects = rows.len() as u64;
            for (at, value) in rows {
                let mut row = row::decode(&at, &value)?;
                row.holder = Some(format!("frozen:{id}#{}", row.seq));
                for (map, lsn) in cuts_of(&row.object.body) {
                    txn.pin(map, lsn, &row::holder(&row))?;
                }
                if row.object.body == Body::Inline {
                    let inline = inline_of(txn, &row)?;
                    inline_bytes += inline.len() as u64;
                    txn.put(&keys::frozen_body(id, row.seq), inline);
                }
                if inline_bytes > INLINE_BYTES_MAX {
                    let max = usize::try_from(INLINE_BYTES_MAX).unwrap_or(usize::MAX);
                    return Err(too_large(
                        &bucket.name,
                        &prefix,
                        max,
                        "bytes of small objects",
                    ));
                }
                bytes += row.object.length_bytes;
                txn.put(
                    &keys::frozen_object(id, &row.object.key),
                    keys::encode(&row)?,
                );
            }
            let snapshot = BucketSnapshot {
                bucket: bucket.name.clone(),
                prefix,
                name,
                id,
                created_ms: clock::now_ms(),
                objects,
                bytes,
            };
            txn.put(&at, keys::encode(&snapshot)?);
            usage::charge_bucket(txn, &bucket, of_bytes(signed(bytes)))?;
            let entry = Entry::new("bucket.frozen", subject(&snapshot))
                .bytes("shared", bytes - inline_bytes)
                .bytes("written", inline_bytes)
                .detail(format!("{objects} objects below {:?}", snapshot.prefix));
            txn.journal(&who, entry)?;
            Ok(snapshot)
        })
    }

    /// All snapshots of a bucket, by name.
    pub fn bucket_snapshots(&self, bucket: &str) -> Result<Vec<BucketSnapshot>> {
        bucket::expect(&self.shared.catalog, bucket)?;
        let prefix = keys::frozen_of(bucket);
        let mut found = Vec::new();
        self.shared.catalog.scan(&prefix, &prefix, &mut |at, row| {
            found.push(keys::decode(at, row)?);
            Ok(true)
        })?;
        Ok(found)
    }

    /// One snapshot of a bucket.
    pub fn bucket_snapshot(&self, bucket: &str, name: &str) -> Result<BucketSnapshot> {
        expect(&self.shared.catalog, bucket, name)
    }

    /// Removes a snapshot; the objects of the bucket stay as they are.
    pub fn bucket_snapshot_remove(&self, who: &Who, bucket: &str, name: &str) -> Result<()> {
        let (who, bucket, name) = (who.clone(), bucket.to_owned(), name.to_owned());
        self.shared.catalog.transact(move |txn| {
            let owner = bucket::expect(txn, &bucket)?;
            let snapshot = expect(txn, &bucket, &name)?;
            for (at, value) in txn.scan_prefix(&keys::frozen_objects(snapshot.id), usize::MAX)? {
                let row = row::decode(&at, &value)?;
                for (map, lsn) in cuts_of(&row.object.body) {
                    txn.unpin(map, lsn, &row::holder(&row))?;
                }
                if row.object.body == Body::Inline {
                    txn.delete(&keys::frozen_body(snapshot.id, row.seq));
                }
                txn.delete(&at);
            }
            txn.delete(&keys::frozen(&bucket, &name));
            usage::charge_bucket(txn, &owner, of_bytes(-signed(snapshot.bytes)))?;
            let entry =
                Entry::new("bucket.thawed", subject(&snapshot)).bytes("released", snapshot.bytes);
            txn.journal(&who, entry).map(|_| ())
        })?;
        self.shared.engine.sweep_soon();
        Ok(())
    }

    /// One page of a snapshot's objects, as [`Self::object_list`]; keys are whole, with the prefix.
    pub fn snapshot_object_list(
        &self,
        bucket: &str,
        snapshot: &str,
        query: &ListQuery,
    ) -> Result<ListPage> {
        let catalog = &self.shared.catalog;
        let snapshot = expect(catalog, bucket, snapshot)?;
        list::page_of(catalog, &keys::frozen_objects(snapshot.id), query)
    }

    /// An object as it was when the snapshot was taken.
    pub fn snapshot_object_head(&self, bucket: &str, snapshot: &str, key: &str) -> Result<Object> {
        let (_, row) = frozen_row(&self.shared.catalog, bucket, snapshot, key)?;
        Ok(row.object)
    }

    /// As [`Self::snapshot_object_head`], with its bytes.
    pub fn snapshot_object_open(
        &self,
        bucket: &str,
        snapshot: &str,
        key: &str,
    ) -> Result<(Object, Arc<dyn ReadAt>)> {
        let catalog = &self.shared.catalog;
        let id = expect(catalog, bucket, snapshot)?.id;
        let find = || frozen_row(catalog, bucket, snapshot, key).map(|(_, row)| row);
        let (row, reader) = self.open_found(&find, &|row| keys::frozen_body(id, row.seq))?;
        Ok((row.object, reader))
    }
}

/// All snapshots of all buckets.
pub(super) fn all(rows: &Frozen<'_>) -> Result<Vec<BucketSnapshot>> {
    let mut found = Vec::new();
    rows.walk(keys::FROZEN, keys::FROZEN, &mut |at, row| {
        found.push(keys::decode(at, row)?);
        Ok(Step::Next)
    })?;
    Ok(found)
}

fn expect(rows: &impl Rows, bucket: &str, name: &str) -> Result<BucketSnapshot> {
    let at = keys::frozen(bucket, name);
    match rows.row(&at)? {
        Some(row) => keys::decode(&at, &row),
        None => {
            bucket::expect(rows, bucket)?;
            let text =
                format!("bucket {bucket:?} has no snapshot {name:?}: look at the list of them");
            Err(Error::new(Kind::NotFound, Subject::Snapshot, text))
        }
    }
}

fn frozen_row(
    rows: &impl Rows,
    bucket: &str,
    snapshot: &str,
    key: &str,
) -> Result<(BucketSnapshot, ObjectRow)> {
    let snapshot = expect(rows, bucket, snapshot)?;
    let at = keys::frozen_object(snapshot.id, key);
    let row = rows
        .row(&at)?
        .ok_or_else(|| row::missing(bucket, key))
        .and_then(|value| row::decode(&at, &value))?;
    Ok((snapshot, row))
}

fn subject(snapshot: &BucketSnapshot) -> String {
    format!("{}@{}", snapshot.bucket, snapshot.name)
}

fn of_bytes(bytes: i64) -> Delta {
    Delta {
        bytes,
        ..Delta::default()
    }
}

fn too_large(bucket: &str, prefix: &str, max: usize, what: &str) -> Error {
    let text = format!(
        "{bucket}/{prefix} holds more than {max} {what}, too much for one snapshot: take snapshots of its parts"
    );
    Error::new(Kind::Unsupported, Subject::Snapshot, text)
}

fn check_name(name: &str) -> Result<()> {
    let fits = (1..=NAME_BYTES_MAX).contains(&name.len())
        && !name
            .chars()
            .any(|letter| letter == '/' || letter.is_control());
    if fits {
        return Ok(());
    }
    let text = format!(
        "{name:?} is no name of a snapshot: 1 to {NAME_BYTES_MAX} bytes without `/` and control characters"
    );
    Err(Error::new(Kind::Invalid, Subject::Snapshot, text))
}
