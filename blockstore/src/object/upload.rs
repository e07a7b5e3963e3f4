//! Multipart uploads: parts are sealed maps from the start, completing one only names them.
//!
//! 1. A part pins its pieces until it is replaced, or its upload completed or aborted.
//! 2. Completing copies nothing: the object shows the parts' pieces one behind the other.

use super::row::{self, Draft, cuts_of_pieces, signed};
use super::usage::{self, Delta};
use super::{Body, Bucket, Object, ObjectMeta, Part, Piece, Precondition, Upload, bucket, lock};
use crate::catalog::{Catalog, Frozen, Step, Txn, keys};
use crate::{Entry, Error, Kind, Result, Store, Subject, Who, clock};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Every part but the last has at least this many bytes (S3 user guide, "Amazon S3 multipart upload limits").
const PART_BYTES_MIN: u64 = 5 << 20;
const PART_NUMBER_MAX: u32 = 10_000;

/// A part and the event that made this incarnation of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct PartRow {
    seq: u64,
    part: Part,
}

/// A part about to be committed.
pub(super) struct DraftPart {
    pub(super) number: u32,
    pub(super) etag: String,
    pub(super) checksums: BTreeMap<String, String>,
    pub(super) length_bytes: u64,
    pub(super) pieces: Vec<Piece>,
}

impl Store {
    /// Begins an upload. NotFound where the bucket is missing.
    pub fn upload_create(
        &self,
        who: &Who,
        bucket: &str,
        key: &str,
        meta: ObjectMeta,
    ) -> Result<Upload> {
        self.shared.engine.admit_write()?;
        create(&self.shared.catalog, who, bucket, key, meta)
    }

    /// An upload under way; NotFound if there is none of that id to that key.
    pub fn upload(&self, bucket: &str, key: &str, id: &str) -> Result<Upload> {
        let at = keys::upload(bucket, id);
        match self.shared.catalog.get(&at)? {
            Some(row) => keys::decode(&at, &row).and_then(|upload| of_key(upload, key)),
            None => {
                bucket::expect(&self.shared.catalog, bucket)?;
                Err(missing(id))
            }
        }
    }

    /// Uploads under way, ordered by key then id.
    pub fn uploads(&self, bucket: &str) -> Result<Vec<Upload>> {
        bucket::expect(&self.shared.catalog, bucket)?;
        let prefix = keys::uploads_of(bucket);
        let mut uploads: Vec<Upload> = Vec::new();
        self.shared.catalog.scan(&prefix, &prefix, &mut |at, row| {
            uploads.push(keys::decode(at, row)?);
            Ok(true)
        })?;
        uploads.sort_by(|a, b| (&a.key, &a.id).cmp(&(&b.key, &b.id)));
        Ok(uploads)
    }

    /// Committed parts, ordered by number.
    pub fn upload_parts(&self, upload: &Upload) -> Result<Vec<Part>> {
        parts(&self.shared.catalog, upload)
    }

    /// Checks that the parts exist with these ETags in rising order, then commits the concat. `meta`
    /// carries the final ETag, checksums, headers. Parts not named are dropped with the upload.
    pub fn upload_complete(
        &self,
        who: &Who,
        upload: &Upload,
        parts: &[(u32, String)],
        meta: ObjectMeta,
        condition: &Precondition,
    ) -> Result<Object> {
        let object = complete(&self.shared.catalog, who, upload, parts, meta, condition)?;
        self.shared.engine.sweep_soon();
        Ok(object)
    }

    /// Drops an upload and its parts.
    pub fn upload_abort(&self, who: &Who, upload: &Upload) -> Result<()> {
        abort(&self.shared.catalog, who, upload)?;
        self.shared.engine.sweep_soon();
        Ok(())
    }
}

fn create(
    catalog: &Catalog,
    who: &Who,
    bucket: &str,
    key: &str,
    meta: ObjectMeta,
) -> Result<Upload> {
    row::check_key(key)?;
    let id = uuid::Uuid::new_v4().simple().to_string();
    let upload = Upload {
        id,
        bucket: bucket.into(),
        key: key.into(),
        created_ms: clock::now_ms(),
        meta,
        owner: who.actor.clone(),
    };
    let who = who.clone();
    catalog.transact(move |txn| {
        let bucket = bucket::expect(txn, &upload.bucket)?;
        // Refused now rather than after all its parts.
        lock::of_new(&bucket, upload.meta.lock)?;
        txn.put(
            &keys::upload(&upload.bucket, &upload.id),
            keys::encode(&upload)?,
        );
        let subject = row::subject(&upload.bucket, &upload.key);
        txn.journal(
            &who,
            Entry::new("upload.created", subject).detail(format!("upload {}", upload.id)),
        )?;
        Ok(upload)
    })
}

fn parts(catalog: &Catalog, upload: &Upload) -> Result<Vec<Part>> {
    let at = keys::upload(&upload.bucket, &upload.id);
    if catalog.get(&at)?.is_none() {
        return Err(missing(&upload.id));
    }
    let prefix = keys::parts_of(&upload.id);
    let mut parts = Vec::new();
    catalog.scan(&prefix, &prefix, &mut |at, row| {
        parts.push(keys::decode::<PartRow>(at, row)?.part);
        Ok(true)
    })?;
    Ok(parts)
}

pub(super) fn check_number(number: u32) -> Result<()> {
    if (1..=PART_NUMBER_MAX).contains(&number) {
        return Ok(());
    }
    let text = format!("part {number} is out of range: parts are numbered 1 to {PART_NUMBER_MAX}");
    Err(Error::new(Kind::Invalid, Subject::Part, text))
}

/// Commits a part over an earlier one of its number. `cause` names the byte counter: `written` or
/// `shared`. The pieces' maps must be pinned, or get their rows in this transaction.
pub(super) fn put_part(
    txn: &mut Txn<'_>,
    who: &Who,
    upload: &Upload,
    draft: DraftPart,
    cause: &str,
) -> Result<Part> {
    check_number(draft.number)?;
    expect(txn, upload)?;
    let seq = txn.seq_next();
    let DraftPart {
        number,
        etag,
        checksums,
        length_bytes,
        pieces,
    } = draft;
    let part = Part {
        number,
        length_bytes,
        etag,
        checksums,
        modified_ms: clock::now_ms(),
        pieces,
    };
    let row = PartRow { seq, part };
    let holder = holder(upload, &row);
    for (map, lsn) in cuts_of_pieces(&row.part.pieces) {
        txn.pin(map, lsn, &holder)?;
    }
    let at = keys::part(&upload.id, number);
    let old: Option<PartRow> = txn
        .get(&at)?
        .map(|old| keys::decode(&at, &old))
        .transpose()?;
    txn.put(&at, keys::encode(&row)?);
    let replaced = old.as_ref().map_or(0, |old| old.part.length_bytes);
    let bucket = bucket::expect(txn, &upload.bucket)?;
    let delta = signed(length_bytes) - signed(replaced);
    usage::charge_bucket(txn, &bucket, of_bytes(delta))?;
    let mut entry = Entry::new("part.put", row::subject(&upload.bucket, &upload.key))
        .bytes(cause, length_bytes)
        .detail(format!("part {number} of upload {}", upload.id));
    if let Some(old) = old {
        entry = entry.bytes("released", old.part.length_bytes);
        release(txn, upload, &old)?;
    }
    let told = txn.journal(who, entry)?;
    assert_eq!(told, seq, "an incarnation is named by its own event");
    Ok(row.part)
}

fn complete(
    catalog: &Catalog,
    who: &Who,
    upload: &Upload,
    named: &[(u32, String)],
    meta: ObjectMeta,
    condition: &Precondition,
) -> Result<Object> {
    let (who, upload, named) = (who.clone(), upload.clone(), named.to_vec());
    let condition = condition.clone();
    catalog.transact(move |txn| {
        expect(txn, &upload)?;
        let stored = stored(txn, &upload)?;
        let chosen = choose(&stored, &named)?;
        let parts: Vec<u64> = chosen.iter().map(|part| part.length_bytes).collect();
        let length_bytes: u64 = parts.iter().sum();
        let released: u64 = stored
            .values()
            .map(|row| row.part.length_bytes)
            .sum::<u64>()
            - length_bytes;
        let mut entry = Entry::new(
            "upload.completed",
            row::subject(&upload.bucket, &upload.key),
        )
        .bytes("shared", length_bytes)
        .detail(format!("upload {}, {} parts", upload.id, parts.len()));
        if released > 0 {
            entry = entry.bytes("dropped", released);
        }
        let draft = Draft {
            bucket: upload.bucket.clone(),
            key: upload.key.clone(),
            meta,
            length_bytes,
            parts,
            body: body_of(&chosen),
            inline: Vec::new(),
            identity: None,
        };
        // The parts' bytes become the object's: they must not stand against it.
        let bucket = bucket::expect(txn, &upload.bucket)?;
        uncharge(txn, &bucket, &stored)?;
        let object = row::put_in(txn, &who, &bucket, draft, &condition, entry)?;
        forget(txn, &upload, &stored)?;
        Ok(object)
    })
}

fn abort(catalog: &Catalog, who: &Who, upload: &Upload) -> Result<()> {
    let (who, upload) = (who.clone(), upload.clone());
    catalog.transact(move |txn| {
        expect(txn, &upload)?;
        let stored = stored(txn, &upload)?;
        let entry = Entry::new("upload.aborted", row::subject(&upload.bucket, &upload.key))
            .bytes(
                "released",
                stored.values().map(|row| row.part.length_bytes).sum(),
            )
            .detail(format!("upload {}", upload.id));
        let bucket = bucket::expect(txn, &upload.bucket)?;
        uncharge(txn, &bucket, &stored)?;
        forget(txn, &upload, &stored)?;
        txn.journal(&who, entry).map(|_| ())
    })
}

/// The named parts, if they are what the client says they are.
fn choose<'a>(
    stored: &'a BTreeMap<u32, PartRow>,
    named: &[(u32, String)],
) -> Result<Vec<&'a Part>> {
    let invalid = |text: String| Error::new(Kind::Invalid, Subject::Part, text);
    if named.is_empty() {
        return Err(invalid(
            "an upload is completed from at least one part, none is named".into(),
        ));
    }
    if let Some(pair) = named.windows(2).find(|pair| pair[0].0 >= pair[1].0) {
        let text = format!(
            "part {} is named behind part {}: parts come in rising order",
            pair[1].0, pair[0].0
        );
        return Err(invalid(text));
    }
    let mut chosen = Vec::with_capacity(named.len());
    for (number, etag) in named {
        let row = stored
            .get(number)
            .ok_or_else(|| invalid(format!("part {number} was not uploaded")))?;
        if row.part.etag != *etag {
            return Err(invalid(format!(
                "part {number} has ETag {:?}, not {etag:?}",
                row.part.etag
            )));
        }
        chosen.push(&row.part);
    }
    let all_but_last = &chosen[..chosen.len() - 1];
    if let Some(part) = all_but_last
        .iter()
        .find(|part| part.length_bytes < PART_BYTES_MIN)
    {
        let text = format!(
            "part {} is too small: it has {} bytes, all parts but the last need {PART_BYTES_MIN}",
            part.number, part.length_bytes
        );
        return Err(invalid(text));
    }
    Ok(chosen)
}

/// The parts' pieces one behind the other; neighbours in one map become one piece, a whole map a map.
fn body_of(parts: &[&Part]) -> Body {
    let mut pieces: Vec<Piece> = Vec::new();
    for piece in parts.iter().flat_map(|part| &part.pieces) {
        match pieces.last_mut() {
            Some(last)
                if last.sealed == piece.sealed
                    && last.offset_bytes + last.length_bytes == piece.offset_bytes =>
            {
                last.length_bytes += piece.length_bytes;
            }
            _ => pieces.push(*piece),
        }
    }
    match pieces.as_slice() {
        [] => Body::Inline,
        [only] if only.offset_bytes == 0 && only.length_bytes == only.sealed.length_bytes => {
            Body::Map(only.sealed)
        }
        _ => Body::Concat(pieces),
    }
}

fn stored(txn: &Txn<'_>, upload: &Upload) -> Result<BTreeMap<u32, PartRow>> {
    let rows = txn.scan_prefix(&keys::parts_of(&upload.id), usize::MAX)?;
    let mut parts = BTreeMap::new();
    for (at, row) in rows {
        let row: PartRow = keys::decode(&at, &row)?;
        parts.insert(row.part.number, row);
    }
    Ok(parts)
}

/// Removes an upload and its parts with their pins.
fn forget(txn: &mut Txn<'_>, upload: &Upload, stored: &BTreeMap<u32, PartRow>) -> Result<()> {
    for row in stored.values() {
        txn.delete(&keys::part(&upload.id, row.part.number));
        release(txn, upload, row)?;
    }
    txn.delete(&keys::upload(&upload.bucket, &upload.id));
    Ok(())
}

/// Parts that go are no longer counted.
fn uncharge(txn: &mut Txn<'_>, bucket: &Bucket, stored: &BTreeMap<u32, PartRow>) -> Result<()> {
    let bytes: i64 = stored
        .values()
        .map(|row| signed(row.part.length_bytes))
        .sum();
    usage::charge_bucket(txn, bucket, of_bytes(-bytes))
}

fn of_bytes(bytes: i64) -> Delta {
    Delta {
        bytes,
        ..Delta::default()
    }
}

/// Bytes of parts by bucket, one entry for each upload under way.
pub(super) fn bytes_under_way(rows: &Frozen<'_>) -> Result<Vec<(String, u64)>> {
    let mut uploads = Vec::new();
    rows.walk(keys::UPLOADS, keys::UPLOADS, &mut |at, row| {
        let upload: Upload = keys::decode(at, row)?;
        uploads.push((upload.bucket, upload.id));
        Ok(Step::Next)
    })?;
    let mut found = Vec::with_capacity(uploads.len());
    for (bucket, id) in uploads {
        let mut bytes = 0;
        let prefix = keys::parts_of(&id);
        rows.walk(&prefix, &prefix, &mut |at, row| {
            bytes += keys::decode::<PartRow>(at, row)?.part.length_bytes;
            Ok(Step::Next)
        })?;
        found.push((bucket, bytes));
    }
    Ok(found)
}

fn release(txn: &mut Txn<'_>, upload: &Upload, row: &PartRow) -> Result<()> {
    let holder = holder(upload, row);
    for (map, lsn) in cuts_of_pieces(&row.part.pieces) {
        txn.unpin(map, lsn, &holder)?;
    }
    Ok(())
}

/// NotFound unless the upload is under way in this transaction.
fn expect(txn: &Txn<'_>, upload: &Upload) -> Result<()> {
    let at = keys::upload(&upload.bucket, &upload.id);
    let row = txn.get(&at)?.ok_or_else(|| missing(&upload.id))?;
    of_key(keys::decode(&at, &row)?, &upload.key).map(|_| ())
}

fn of_key(upload: Upload, key: &str) -> Result<Upload> {
    if upload.key == key {
        Ok(upload)
    } else {
        Err(missing(&upload.id))
    }
}

fn missing(id: &str) -> Error {
    let text = format!(
        "no upload {id:?} to this key is under way: it was completed or aborted, or never begun"
    );
    Error::new(Kind::NotFound, Subject::Upload, text)
}

fn holder(upload: &Upload, row: &PartRow) -> String {
    format!("part:{}/{}#{}", upload.id, row.part.number, row.seq)
}

#[cfg(test)]
mod tests;
