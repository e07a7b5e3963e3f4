//! Objects as the catalog keeps them: rows, preconditions, pins of what they show.
//!
//! 1. Reading, checking and writing a row happen in one transaction: nothing comes in between.
//! 2. The new incarnation's pins are made before the old one's end.

use super::{Body, Object, ObjectMeta, Piece, Precondition, bucket};
use crate::catalog::{Catalog, Txn, keys};
use crate::{Entry, Error, Kind, Lsn, MapId, Result, SealedMap, Subject, Who, clock};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

const KEY_BYTES_MAX: usize = 1024;

/// An object and the event that made this incarnation of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ObjectRow {
    pub(crate) seq: u64,
    pub(crate) object: Object,
}

/// An object about to be committed.
pub(crate) struct Draft {
    pub(crate) bucket: String,
    pub(crate) key: String,
    pub(crate) meta: ObjectMeta,
    pub(crate) length_bytes: u64,
    /// Sizes of the parts it is completed from.
    pub(crate) parts: Vec<u64>,
    pub(crate) body: Body,
    /// The bytes, where the body is inline.
    pub(crate) inline: Vec<u8>,
}

impl Draft {
    /// An object that shows one sealed map.
    pub(crate) fn of_map(bucket: &str, key: &str, meta: ObjectMeta, sealed: SealedMap) -> Self {
        Self {
            bucket: bucket.into(),
            key: key.into(),
            meta,
            length_bytes: sealed.length_bytes,
            parts: Vec::new(),
            body: Body::Map(sealed),
            inline: Vec::new(),
        }
    }
}

/// Reads a row; `None` if there is none (the bucket may be missing too).
pub(super) fn read(catalog: &Catalog, bucket: &str, key: &str) -> Result<Option<ObjectRow>> {
    let at = keys::object(bucket, key);
    catalog
        .get(&at)?
        .map(|row| keys::decode(&at, &row))
        .transpose()
}

/// As [`read`], but NotFound says whether the bucket or the object is missing.
pub(super) fn expect_now(catalog: &Catalog, bucket: &str, key: &str) -> Result<ObjectRow> {
    match read(catalog, bucket, key)? {
        Some(row) => Ok(row),
        None => {
            bucket::expect_now(catalog, bucket)?;
            Err(missing(bucket, key))
        }
    }
}

/// The row in this transaction; NotFound for a missing bucket.
pub(super) fn current(txn: &Txn<'_>, bucket: &str, key: &str) -> Result<Option<ObjectRow>> {
    bucket::expect(txn, bucket)?;
    let at = keys::object(bucket, key);
    txn.get(&at)?.map(|row| keys::decode(&at, &row)).transpose()
}

/// Commits an object over whatever has its name, with its pins and its event (`entry`, which gets a
/// counter `released` for bytes replaced). NotFound for a missing bucket; NotFound or Precondition as
/// [`check`] says. Maps of the body must have their rows, and pins or this transaction's leave.
pub(crate) fn put(
    txn: &mut Txn<'_>,
    who: &Who,
    draft: Draft,
    condition: &Precondition,
    mut entry: Entry,
) -> Result<Object> {
    check_key(&draft.key)?;
    let old = current(txn, &draft.bucket, &draft.key)?;
    check(
        condition,
        old.as_ref().map(|row| &row.object),
        &draft.bucket,
        &draft.key,
    )?;
    let seq = txn.seq_next();
    let Draft {
        bucket,
        key,
        meta,
        length_bytes,
        parts,
        body,
        inline,
    } = draft;
    let object = Object {
        bucket,
        key,
        length_bytes,
        modified_ms: clock::now_ms(),
        meta,
        parts,
        body,
    };
    let row = ObjectRow { seq, object };
    let holder = holder(&row);
    for (map, lsn) in cuts_of(&row.object.body) {
        txn.pin(map, lsn, &holder)?;
    }
    if row.object.body == Body::Inline {
        txn.put(&keys::body(seq), inline);
    }
    txn.put(
        &keys::object(&row.object.bucket, &row.object.key),
        keys::encode(&row)?,
    );
    if let Some(old) = old {
        entry = entry.bytes("released", old.object.length_bytes);
        release(txn, &old)?;
    }
    let at = txn.journal(who, entry)?;
    assert_eq!(at, seq, "an incarnation is named by its own event");
    Ok(row.object)
}

/// Removes an object, if there is one and `condition` holds.
pub(super) fn remove(
    txn: &mut Txn<'_>,
    who: &Who,
    bucket: &str,
    key: &str,
    condition: &Precondition,
) -> Result<Option<Object>> {
    let Some(row) = current(txn, bucket, key)? else {
        return Ok(None);
    };
    check(condition, Some(&row.object), bucket, key)?;
    txn.delete(&keys::object(bucket, key));
    release(txn, &row)?;
    let entry = Entry::new("object.removed", subject(bucket, key))
        .bytes("released", row.object.length_bytes);
    txn.journal(who, entry)?;
    Ok(Some(row.object))
}

/// Ends what a row that is gone held.
fn release(txn: &mut Txn<'_>, row: &ObjectRow) -> Result<()> {
    let holder = holder(row);
    for (map, lsn) in cuts_of(&row.object.body) {
        txn.unpin(map, lsn, &holder)?;
    }
    if row.object.body == Body::Inline {
        txn.delete(&keys::body(row.seq));
    }
    Ok(())
}

/// `condition` against the current object. NotFound where it asks for an ETag and there is no object
/// (S3 API, PutObject, `If-Match`).
pub(super) fn check(
    condition: &Precondition,
    current: Option<&Object>,
    bucket: &str,
    key: &str,
) -> Result<()> {
    let any_of = |wanted: &[String], object: &Object| {
        wanted
            .iter()
            .any(|etag| etag == "*" || *etag == object.meta.etag)
    };
    let refused = |why: String| {
        let text = format!("{bucket}/{key} {why}: read it again, then decide");
        Err(Error::new(Kind::Precondition, Subject::Object, text))
    };
    if !condition.if_match.is_empty() {
        let object = current.ok_or_else(|| missing(bucket, key))?;
        if !any_of(&condition.if_match, object) {
            let wanted = condition.if_match.join(", ");
            return refused(format!(
                "has ETag {:?}, not {wanted:?} as If-Match asks",
                object.meta.etag
            ));
        }
    }
    match current {
        Some(object) if any_of(&condition.if_none_match, object) => refused(format!(
            "exists with ETag {:?}, which If-None-Match excludes",
            object.meta.etag
        )),
        _ => Ok(()),
    }
}

/// S3 user guide, "Object key naming guidelines": 1 to 1024 bytes of UTF-8.
pub(super) fn check_key(key: &str) -> Result<()> {
    if key.is_empty() || key.len() > KEY_BYTES_MAX {
        let text = format!(
            "an object's key has 1 to {KEY_BYTES_MAX} bytes, this one has {}",
            key.len()
        );
        return Err(Error::new(Kind::Invalid, Subject::Object, text));
    }
    Ok(())
}

pub(super) fn missing(bucket: &str, key: &str) -> Error {
    Error::new(
        Kind::NotFound,
        Subject::Object,
        format!("no object {key:?} in bucket {bucket:?}: look at its listing"),
    )
}

/// How the journal names an object.
pub(crate) fn subject(bucket: &str, key: &str) -> String {
    format!("{bucket}/{key}")
}

fn holder(row: &ObjectRow) -> String {
    format!(
        "object:{}/{}#{}",
        row.object.bucket, row.object.key, row.seq
    )
}

fn cuts_of(body: &Body) -> BTreeSet<(MapId, Lsn)> {
    match body {
        Body::Inline => BTreeSet::new(),
        Body::Map(sealed) => BTreeSet::from([(sealed.map, sealed.lsn)]),
        Body::Concat(pieces) => cuts_of_pieces(pieces),
    }
}

/// The cuts that pieces show, each once.
pub(super) fn cuts_of_pieces(pieces: &[Piece]) -> BTreeSet<(MapId, Lsn)> {
    pieces
        .iter()
        .map(|piece| (piece.sealed.map, piece.sealed.lsn))
        .collect()
}
