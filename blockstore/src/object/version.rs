//! Versions of a key: where each lies, and how they are named.
//!
//! ```text
//! o/bucket/key                  the newest, unless it is a delete marker
//! ov/bucket/key 00 00 NOT seq   the others, newest first
//! null/bucket/key               where among those the version `null` lies
//! ```
//! 1. Where a key has a row under `o/`, it is newer than all under `ov/`. Where it has none, the newest
//!    under `ov/` is a delete marker, or there is none.
//! 2. A key has at most one version `null`.
//! 3. A key's id is that of its newest version; older ones may have another.
//! 4. A version's name tells where to look, and says nothing else: later versions have smaller names.

use super::row::{self, ObjectRow};
use super::{Bucket, Object, identity, lock};
use crate::catalog::{Rows, Txn, keys};
use crate::{Error, Kind, Result, Subject};
use serde::{Deserialize, Serialize};

/// The version of what was made without versioning.
pub const NULL_VERSION: &str = "null";

/// Where a version lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Under `o/`.
    Current,
    /// Under `ov/`.
    Older,
}

/// A version, and where it lies.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) row: ObjectRow,
    pub(super) place: Place,
}

#[derive(Serialize, Deserialize)]
struct NullRow {
    seq: u64,
}

pub(super) fn null() -> String {
    NULL_VERSION.into()
}

pub(super) fn is_null(version: &str) -> bool {
    version == NULL_VERSION
}

/// How the version is named that an event made.
pub(super) fn name_of(seq: u64) -> String {
    format!("{:016x}", !seq)
}

/// The incarnation a version's name tells of; `None` for `null`. Invalid for what names none.
pub(super) fn seq_of(version: &str) -> Result<Option<u64>> {
    if is_null(version) {
        return Ok(None);
    }
    let fits = version.len() == 16
        && version
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    match u64::from_str_radix(version, 16) {
        Ok(number) if fits => Ok(Some(!number)),
        _ => {
            let text = format!(
                "{version:?} is no version id: take one from the list of the object's versions"
            );
            Err(Error::new(Kind::Invalid, Subject::Version, text))
        }
    }
}

/// The version of that name.
pub(super) fn find(
    rows: &impl Rows,
    bucket: &str,
    key: &str,
    version: &str,
) -> Result<Option<Found>> {
    let seq = seq_of(version)?;
    if let Some(row) = row::read(rows, bucket, key)?
        && row.object.version == version
    {
        let place = Place::Current;
        return Ok(Some(Found { row, place }));
    }
    let found = match seq {
        None => older_null(rows, bucket, key)?,
        Some(seq) => older(rows, bucket, key, seq)?.map(|row| Found {
            row,
            place: Place::Older,
        }),
    };
    let Some(mut found) = found.filter(|found| found.row.object.version == version) else {
        return Ok(None);
    };
    found.row.object.latest =
        newest(rows, bucket, key)?.is_some_and(|newest| newest == found.row.seq);
    Ok(Some(found))
}

/// As [`find`]; NotFound names what is missing.
pub(super) fn expect(rows: &impl Rows, bucket: &str, key: &str, version: &str) -> Result<Found> {
    match find(rows, bucket, key, version)? {
        Some(found) => Ok(found),
        None => {
            super::bucket::expect(rows, bucket)?;
            let text = format!(
                "{bucket}/{key} has no version {version:?}: look at the list of its versions"
            );
            Err(Error::new(Kind::NotFound, Subject::Version, text))
        }
    }
}

/// The version asked for, or the current one where none is.
pub(super) fn chosen(
    rows: &impl Rows,
    bucket: &str,
    key: &str,
    version: Option<&str>,
) -> Result<Found> {
    match version {
        Some(version) => expect(rows, bucket, key, version),
        None => row::expect(rows, bucket, key).map(|row| Found {
            row,
            place: Place::Current,
        }),
    }
}

/// As [`chosen`], but Invalid for a delete marker.
pub(super) fn chosen_object(
    rows: &impl Rows,
    bucket: &str,
    key: &str,
    version: Option<&str>,
) -> Result<Found> {
    let found = chosen(rows, bucket, key, version)?;
    if found.row.object.marker {
        let text = format!(
            "version {} of {bucket}/{key} is a delete marker, it can only be deleted",
            found.row.object.version
        );
        return Err(Error::new(Kind::Invalid, Subject::Version, text));
    }
    Ok(found)
}

/// The newest version, a delete marker too.
pub(super) fn latest(rows: &impl Rows, bucket: &str, key: &str) -> Result<Option<ObjectRow>> {
    if let Some(row) = row::read(rows, bucket, key)? {
        return Ok(Some(row));
    }
    let mut row = newest_older(rows, bucket, key)?;
    if let Some(row) = &mut row {
        row.object.latest = true;
    }
    Ok(row)
}

/// The newest of those under `ov/`.
pub(super) fn newest_older(rows: &impl Rows, bucket: &str, key: &str) -> Result<Option<ObjectRow>> {
    let first = rows.first(&keys::versions_of(bucket, key))?;
    first
        .map(|(at, value)| row::decode(&at, &value))
        .transpose()
}

/// The version `null`, if it lies under `ov/`.
pub(super) fn older_null(rows: &impl Rows, bucket: &str, key: &str) -> Result<Option<Found>> {
    let at = keys::null_version(bucket, key);
    let Some(value) = rows.row(&at)? else {
        return Ok(None);
    };
    let NullRow { seq } = keys::decode(&at, &value)?;
    let row = older(rows, bucket, key, seq)?.ok_or_else(|| {
        let text = format!(
            "the version null of {bucket}/{key} is not where the catalog says; run `infall check`"
        );
        Error::new(Kind::Corrupt, Subject::Version, text)
    })?;
    let place = Place::Older;
    Ok(Some(Found { row, place }))
}

/// Says where under `ov/` the version `null` lies.
pub(super) fn lead_to_null(txn: &mut Txn<'_>, row: &ObjectRow) -> Result<()> {
    let at = keys::null_version(&row.object.bucket, &row.object.key);
    txn.put(&at, keys::encode(&NullRow { seq: row.seq })?);
    Ok(())
}

/// Makes the current version an older one. The caller writes or removes the current row.
pub(super) fn archive(txn: &mut Txn<'_>, row: &ObjectRow) -> Result<()> {
    row::write(txn, row, Place::Older)
}

/// Removes a version for good, unless its lock forbids. What comes to be newest by that is the
/// caller's business.
pub(super) fn destroy(txn: &mut Txn<'_>, found: &Found, bypass_governance: bool) -> Result<()> {
    let row = &found.row;
    lock::check_removal(&row.object, bypass_governance)?;
    let (bucket, key) = (&row.object.bucket, &row.object.key);
    match found.place {
        Place::Current => txn.delete(&keys::object(bucket, key)),
        Place::Older => {
            txn.delete(&keys::version(bucket, key, row.seq));
            if is_null(&row.object.version) {
                txn.delete(&keys::null_version(bucket, key));
            }
        }
    }
    row::release(txn, row)
}

/// After `gone` was removed: the newest version left becomes current, unless it is a delete marker,
/// and has the key's id; the id of a key without versions goes. Whether a version became current.
pub(super) fn promote(txn: &mut Txn<'_>, bucket: &Bucket, gone: &Object) -> Result<bool> {
    let key = &gone.key;
    if !gone.latest {
        return Ok(false);
    }
    let Some(mut row) = newest_older(txn, &bucket.name, key)? else {
        identity::forget(txn, gone.id);
        return Ok(false);
    };
    // It may have been renamed meanwhile, and come again: the key's id is the newest version's.
    let same_id = row.object.id == gone.id;
    row.object.id = gone.id;
    if row.object.marker {
        if !same_id {
            row::write(txn, &row, Place::Older)?;
        }
        return Ok(false);
    }
    txn.delete(&keys::version(&bucket.name, key, row.seq));
    if is_null(&row.object.version) {
        txn.delete(&keys::null_version(&bucket.name, key));
    }
    row::write(txn, &row, Place::Current)?;
    Ok(true)
}

fn older(rows: &impl Rows, bucket: &str, key: &str, seq: u64) -> Result<Option<ObjectRow>> {
    let at = keys::version(bucket, key, seq);
    rows.row(&at)?
        .map(|value| row::decode(&at, &value))
        .transpose()
}

/// The incarnation of the newest version of a key.
fn newest(rows: &impl Rows, bucket: &str, key: &str) -> Result<Option<u64>> {
    Ok(latest(rows, bucket, key)?.map(|row| row.seq))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_s_name_leads_back_and_later_ones_sort_first() {
        for seq in [1, 2, 77, u64::MAX - 1] {
            assert_eq!(seq_of(&name_of(seq)).unwrap(), Some(seq));
            assert!(name_of(seq + 1) < name_of(seq));
        }
        assert_eq!(seq_of("null").unwrap(), None);
        for bad in [
            "",
            "0",
            "+fffffffffffffff",
            "FFFFFFFFFFFFFFFF",
            "x",
            "ffffffffffffffff0",
        ] {
            let error = seq_of(bad).unwrap_err();
            assert_eq!(
                (error.kind(), error.subject()),
                (Kind::Invalid, Subject::Version),
                "{bad}"
            );
        }
    }
}
