//! Objects as the catalog keeps them: rows, preconditions, pins of what they show.
//!
//! 1. Reading, checking and writing a row happen in one transaction: nothing comes in between.
//! 2. The new incarnation's pins are made before the old one's end.
//! 3. The row under `o/` is the newest version of its key, unless that is a delete marker: then there is
//!    no such row. Everything else lies under `ov/` (see [`super::version`]).

use super::bucket::{self, Versioning};
use super::identity::{self, Identity};
use super::usage::{self, Delta};
use super::version::{self, Found, Place};
use super::{Body, Bucket, Object, ObjectMeta, Piece, Precondition, lock};
use crate::catalog::{Rows, Txn, keys};
use crate::{Entry, Error, Kind, Lsn, MapId, Result, SealedMap, Subject, Who, clock};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

const KEY_BYTES_MAX: usize = 1024;
/// Of all that a version carries besides its bytes. Doors that promise less refuse sooner.
const META_BYTES_MAX: usize = 1 << 20;

/// An object and the event that made this incarnation of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ObjectRow {
    pub(crate) seq: u64,
    pub(crate) object: Object,
    /// Under which holder it pins what it shows, where that is not told by its name: it was renamed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) holder: Option<String>,
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
    /// The id its key is to have; otherwise it keeps its own, or gets a new one.
    pub(crate) identity: Option<Identity>,
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
            identity: None,
        }
    }
}

/// The row behind a key of the catalog.
pub(crate) fn decode(at: &[u8], value: &[u8]) -> Result<ObjectRow> {
    let mut row: ObjectRow = keys::decode(at, value)?;
    // Rows of format 1 had none of these. The id of such a key is its incarnation's: the upgrade made
    // a row that leads back.
    let object = &mut row.object;
    if object.id == 0 {
        object.id = row.seq;
    }
    if object.created_ms == 0 {
        object.created_ms = object.modified_ms;
    }
    if object.changed_ms == 0 {
        object.changed_ms = object.modified_ms;
    }
    Ok(row)
}

/// The current version; `None` if there is none (the bucket may be missing too).
pub(super) fn read(rows: &impl Rows, bucket: &str, key: &str) -> Result<Option<ObjectRow>> {
    let at = keys::object(bucket, key);
    let Some(value) = rows.row(&at)? else {
        return Ok(None);
    };
    let mut row = decode(&at, &value)?;
    row.object.latest = true;
    Ok(Some(row))
}

/// As [`read`], but NotFound says whether the bucket or the object is missing.
pub(super) fn expect(rows: &impl Rows, bucket: &str, key: &str) -> Result<ObjectRow> {
    match read(rows, bucket, key)? {
        Some(row) => Ok(row),
        None => {
            bucket::expect(rows, bucket)?;
            Err(missing(bucket, key))
        }
    }
}

/// Commits an object over whatever has its name, with its pins and its event (`entry`, which gets a
/// counter `released` for bytes replaced). NotFound for a missing bucket; NotFound or Precondition as
/// [`check`] says; NoSpace over a quota. Maps of the body must have their rows, and pins or this
/// transaction's leave.
pub(crate) fn put(
    txn: &mut Txn<'_>,
    who: &Who,
    draft: Draft,
    condition: &Precondition,
    entry: Entry,
) -> Result<Object> {
    let bucket = bucket::expect(txn, &draft.bucket)?;
    put_in(txn, who, &bucket, draft, condition, entry)
}

/// As [`put`], into a bucket that was read in this transaction.
pub(super) fn put_in(
    txn: &mut Txn<'_>,
    who: &Who,
    bucket: &Bucket,
    draft: Draft,
    condition: &Precondition,
    mut entry: Entry,
) -> Result<Object> {
    check_key(&draft.key)?;
    check_meta(&draft.meta)?;
    let old = read(txn, &bucket.name, &draft.key)?;
    check(
        condition,
        old.as_ref().map(|row| &row.object),
        &draft.bucket,
        &draft.key,
    )?;
    let row = new_row(txn, who, bucket, draft.identity, &old, draft.object())?;
    let holder = holder(&row);
    for (map, lsn) in cuts_of(&row.object.body) {
        txn.pin(map, lsn, &holder)?;
    }
    if row.object.body == Body::Inline {
        txn.put(&keys::body(row.seq), draft.inline);
    }
    let replaced = make_way(txn, bucket, &row.object.key, old)?;
    write(txn, &row, Place::Current)?;
    let delta = Delta {
        bytes: signed(row.object.length_bytes) - signed(replaced.bytes),
        objects: 1 - i64::from(replaced.was_current),
        versions: 1 - replaced.destroyed,
        ..Delta::default()
    };
    usage::charge_bucket(txn, bucket, delta)?;
    if replaced.destroyed > 0 {
        entry = entry.bytes("released", replaced.bytes);
    }
    let at = txn.journal(who, entry)?;
    assert_eq!(at, row.seq, "an incarnation is named by its own event");
    Ok(row.object)
}

impl Draft {
    fn object(&self) -> Object {
        Object {
            bucket: self.bucket.clone(),
            key: self.key.clone(),
            length_bytes: self.length_bytes,
            meta: self.meta.clone(),
            parts: self.parts.clone(),
            body: self.body.clone(),
            ..Object::default()
        }
    }
}

/// An incarnation with its number, version, id and lock. The next event of the transaction must be its.
fn new_row(
    txn: &mut Txn<'_>,
    who: &Who,
    bucket: &Bucket,
    identity: Option<Identity>,
    old: &Option<ObjectRow>,
    mut object: Object,
) -> Result<ObjectRow> {
    let seq = txn.seq_next();
    let now_ms = clock::now_ms();
    let known = match (old, bucket.config.versioning) {
        (Some(old), _) => Some(identity_of(&old.object)),
        (None, Versioning::Unversioned) => None,
        (None, _) => version::newest_older(txn, &bucket.name, &object.key)?
            .map(|row| identity_of(&row.object)),
    };
    let identity = match (identity, known) {
        (Some(given), known) => {
            if let Some(known) = known
                && known != given
            {
                identity::forget(txn, known.id);
            }
            identity::lead(txn, given.id, &bucket.name, Some(&object.key))?;
            given
        }
        (None, Some(known)) => known,
        (None, None) => {
            identity::lead(txn, seq, &bucket.name, Some(&object.key))?;
            Identity {
                id: seq,
                created_ms: now_ms,
            }
        }
    };
    object.version = match bucket.config.versioning {
        Versioning::Enabled => version::name_of(seq),
        Versioning::Unversioned | Versioning::Suspended => version::null(),
    };
    if !object.marker {
        object.meta.lock = lock::of_new(bucket, object.meta.lock)?;
    }
    object.id = identity.id;
    object.created_ms = identity.created_ms;
    object.modified_ms = now_ms;
    object.changed_ms = now_ms;
    object.latest = true;
    object.owner.clone_from(&who.actor);
    Ok(ObjectRow {
        seq,
        object,
        holder: None,
    })
}

/// What gave way to a new version.
pub(super) struct Replaced {
    /// Visible bytes of what was removed for good.
    bytes: u64,
    /// How many versions that were.
    destroyed: i64,
    /// Whether there was a current version.
    was_current: bool,
}

/// Visible bytes that go for good when a new version of this key comes: what [`make_way`] destroys.
pub(super) fn freed(rows: &impl Rows, bucket: &Bucket, key: &str) -> Result<u64> {
    let old = read(rows, &bucket.name, key)?;
    let bytes = |row: ObjectRow| row.object.length_bytes;
    Ok(match bucket.config.versioning {
        Versioning::Unversioned => old.map_or(0, bytes),
        Versioning::Enabled => 0,
        Versioning::Suspended => match old {
            Some(row) if version::is_null(&row.object.version) => bytes(row),
            _ => version::older_null(rows, &bucket.name, key)?.map_or(0, |null| bytes(null.row)),
        },
    })
}

/// Makes the old current version an older one, or removes it, as the bucket wants; where versioning is
/// suspended the version `null` goes, wherever it lies. The caller writes over the current row.
fn make_way(
    txn: &mut Txn<'_>,
    bucket: &Bucket,
    key: &str,
    old: Option<ObjectRow>,
) -> Result<Replaced> {
    let mut replaced = Replaced {
        bytes: 0,
        destroyed: 0,
        was_current: old.is_some(),
    };
    let mut destroy = |txn: &mut Txn<'_>, found: &Found| {
        replaced.bytes += found.row.object.length_bytes;
        replaced.destroyed += 1;
        version::destroy(txn, found, false)
    };
    let current = |row| Found {
        row,
        place: Place::Current,
    };
    match bucket.config.versioning {
        Versioning::Unversioned => {
            if let Some(row) = old {
                destroy(txn, &current(row))?;
            }
        }
        Versioning::Enabled => {
            if let Some(row) = old {
                version::archive(txn, &row)?;
            }
        }
        Versioning::Suspended => match old {
            Some(row) if version::is_null(&row.object.version) => destroy(txn, &current(row))?,
            old => {
                if let Some(row) = old {
                    version::archive(txn, &row)?;
                }
                if let Some(null) = version::older_null(txn, &bucket.name, key)? {
                    destroy(txn, &null)?;
                }
            }
        },
    }
    Ok(replaced)
}

/// Puts a delete marker on top of a key, also of one that has nothing. With an `identity` the key gets
/// that.
pub(super) fn put_marker(
    txn: &mut Txn<'_>,
    who: &Who,
    bucket: &Bucket,
    key: &str,
    identity: Option<Identity>,
    old: Option<ObjectRow>,
) -> Result<Object> {
    check_key(key)?;
    let object = Object {
        bucket: bucket.name.clone(),
        key: key.to_owned(),
        marker: true,
        ..Object::default()
    };
    let row = new_row(txn, who, bucket, identity, &old, object)?;
    let replaced = make_way(txn, bucket, key, old)?;
    txn.delete(&keys::object(&bucket.name, key));
    write(txn, &row, Place::Older)?;
    let delta = Delta {
        bytes: -signed(replaced.bytes),
        objects: -i64::from(replaced.was_current),
        versions: 1 - replaced.destroyed,
        ..Delta::default()
    };
    usage::note_bucket(txn, bucket, delta)?;
    let entry = Entry::new("object.hidden", subject(&bucket.name, key))
        .bytes("released", replaced.bytes)
        .detail(format!("delete marker {}", row.object.version));
    let at = txn.journal(who, entry)?;
    assert_eq!(at, row.seq, "an incarnation is named by its own event");
    Ok(row.object)
}

/// Writes a row where it belongs.
pub(super) fn write(txn: &mut Txn<'_>, row: &ObjectRow, place: Place) -> Result<()> {
    let (bucket, key) = (&row.object.bucket, &row.object.key);
    match place {
        Place::Current => txn.put(&keys::object(bucket, key), keys::encode(row)?),
        Place::Older => {
            txn.put(&keys::version(bucket, key, row.seq), keys::encode(row)?);
            if version::is_null(&row.object.version) {
                version::lead_to_null(txn, row)?;
            }
        }
    }
    Ok(())
}

/// Ends what a row that is gone held.
pub(super) fn release(txn: &mut Txn<'_>, row: &ObjectRow) -> Result<()> {
    let holder = holder(row);
    for (map, lsn) in cuts_of(&row.object.body) {
        txn.unpin(map, lsn, &holder)?;
    }
    if row.object.body == Body::Inline && !row.object.marker {
        txn.delete(&keys::body(row.seq));
    }
    Ok(())
}

/// `condition` against the current object. NotFound where it asks for an ETag, a time or a length and
/// there is no object (S3 API, PutObject, `If-Match`).
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
    let asks = !condition.if_match.is_empty()
        || condition.modified_ms.is_some()
        || condition.length_bytes.is_some();
    if asks {
        let object = current.ok_or_else(|| missing(bucket, key))?;
        if !condition.if_match.is_empty() && !any_of(&condition.if_match, object) {
            let wanted = condition.if_match.join(", ");
            return refused(format!(
                "has ETag {:?}, not {wanted:?} as If-Match asks",
                object.meta.etag
            ));
        }
        if let Some(wanted) = condition.modified_ms
            && wanted / 1000 != object.modified_ms / 1000
        {
            return refused(format!(
                "was modified {} s after 1970, not {} s as the condition asks",
                object.modified_ms / 1000,
                wanted / 1000
            ));
        }
        if let Some(wanted) = condition.length_bytes
            && wanted != object.length_bytes
        {
            return refused(format!(
                "has {} bytes, not {wanted} as the condition asks",
                object.length_bytes
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

pub(super) fn identity_of(object: &Object) -> Identity {
    Identity {
        id: object.id,
        created_ms: object.created_ms,
    }
}

/// A count as a difference; no store holds 2⁶³ bytes.
pub(crate) fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
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

/// Invalid for more metadata than a row should hold.
pub(super) fn check_meta(meta: &ObjectMeta) -> Result<()> {
    let texts = [&meta.headers, &meta.user, &meta.checksums, &meta.tags];
    let texts = texts
        .into_iter()
        .flatten()
        .map(|(name, value)| name.len() + value.len());
    let properties = meta
        .properties
        .iter()
        .map(|(name, value)| name.len() + value.to_string().len());
    let bytes: usize = texts.chain(properties).sum();
    if bytes <= META_BYTES_MAX {
        return Ok(());
    }
    let text = format!(
        "an object carries up to {META_BYTES_MAX} bytes of metadata, this would be {bytes}: keep less with it"
    );
    Err(Error::new(Kind::Invalid, Subject::Object, text))
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

/// Under which holder a row pins what it shows: the name it was born under.
pub(super) fn holder(row: &ObjectRow) -> String {
    row.holder.clone().unwrap_or_else(|| {
        format!(
            "object:{}/{}#{}",
            row.object.bucket, row.object.key, row.seq
        )
    })
}

pub(super) fn cuts_of(body: &Body) -> BTreeSet<(MapId, Lsn)> {
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
