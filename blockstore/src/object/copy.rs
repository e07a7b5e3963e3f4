//! Copies: an object under another name, a range of one as a part. Maps are shared where they can be.

use super::read::Ranged;
use super::row::{self, Draft, ObjectRow};
use super::{
    Body, Copied, Lock, Object, ObjectMeta, Part, Piece, Precondition, ReadAt, Upload, upload,
    version,
};
use crate::catalog::{Rows, keys};
use crate::id::BLOCK;
use crate::{Entry, Error, Kind, Result, Store, Subject, Who};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Bytes read and written at a time where a copy must be made.
const COPY_STEP_BYTES: usize = 1 << 20;

/// How often a part copy follows a source that is being replaced.
const COPY_TRIES: usize = 4;

/// What a door computes by reading: the ETag and the checksums.
type Digests<'a> = dyn FnMut(&dyn ReadAt) -> Result<(String, BTreeMap<String, String>)> + 'a;

impl Store {
    /// Shares the body. `meta: None` keeps the source's, but for its lock. `source_condition` applies to
    /// the source object.
    pub fn object_copy(
        &self,
        who: &Who,
        source: (&str, &str),
        target: (&str, &str),
        meta: Option<ObjectMeta>,
        source_condition: &Precondition,
        condition: &Precondition,
    ) -> Result<(Object, Copied)> {
        let source = (source.0, source.1, None);
        self.object_copy_version(who, source, target, meta, source_condition, condition)
    }

    /// As [`Self::object_copy`], of one version of the source (bucket, key, version).
    pub fn object_copy_version(
        &self,
        who: &Who,
        source: (&str, &str, Option<&str>),
        target: (&str, &str),
        meta: Option<ObjectMeta>,
        source_condition: &Precondition,
        condition: &Precondition,
    ) -> Result<(Object, Copied)> {
        self.shared.engine.admit_write()?;
        let (who, source_condition, condition) =
            (who.clone(), source_condition.clone(), condition.clone());
        let (source_bucket, source_key) = (source.0.to_owned(), source.1.to_owned());
        let version = source.2.map(str::to_owned);
        let (bucket, key) = (target.0.to_owned(), target.1.to_owned());
        let copied = self.shared.catalog.transact(move |txn| {
            let version = version.as_deref();
            let from = version::chosen_object(txn, &source_bucket, &source_key, version)?.row;
            row::check(
                &source_condition,
                Some(&from.object),
                &source_bucket,
                &source_key,
            )?;
            let (inline, copied) = match from.object.body {
                Body::Inline => (
                    inline_of(txn, &from)?,
                    rewritten(
                        from.object.length_bytes,
                        "small bodies lie in the catalog, each its own",
                    ),
                ),
                Body::Map(_) | Body::Concat(_) => (Vec::new(), shared(from.object.length_bytes)),
            };
            let entry = Entry::new("object.copied", row::subject(&bucket, &key))
                .bytes("shared", copied.shared_bytes)
                .bytes("written", copied.rewritten_bytes)
                .detail(format!(
                    "from {}",
                    row::subject(&source_bucket, &source_key)
                ));
            let draft = copy_of(from.object, &bucket, &key, meta, inline);
            Ok((row::put(txn, &who, draft, &condition, entry)?, copied))
        })?;
        // It may have replaced something.
        self.shared.engine.sweep_soon();
        Ok(copied)
    }

    /// Shares the range where it can: block-aligned start in the source; else one stated copy.
    /// `range` is offset and length in bytes; `None` takes the whole source. `etag_of` reads the
    /// range and returns its ETag and checksums.
    pub fn upload_part_copy(
        &self,
        who: &Who,
        upload: &Upload,
        number: u32,
        source: (&str, &str),
        range: Option<(u64, u64)>,
        etag_of: &mut Digests<'_>,
    ) -> Result<(Part, Copied)> {
        let source = (source.0, source.1, None);
        let any = Precondition::default();
        self.upload_part_copy_version(who, upload, number, source, &any, range, etag_of)
    }

    /// As [`Self::upload_part_copy`], of one version of the source (bucket, key, version), and only if
    /// `source_condition` holds for what is copied.
    #[allow(clippy::too_many_arguments, reason = "as many as S3's operation has")]
    pub fn upload_part_copy_version(
        &self,
        who: &Who,
        upload: &Upload,
        number: u32,
        source: (&str, &str, Option<&str>),
        source_condition: &Precondition,
        range: Option<(u64, u64)>,
        etag_of: &mut Digests<'_>,
    ) -> Result<(Part, Copied)> {
        self.shared.engine.admit_write()?;
        upload::check_number(number)?;
        for _ in 0..COPY_TRIES {
            let (from, whole) = self.open_row(source.0, source.1, source.2)?;
            row::check(source_condition, Some(&from.object), source.0, source.1)?;
            let range = ranged(&from.object, whole, range)?;
            let (etag, checksums) = etag_of(&range)?;
            let (offset_bytes, length_bytes) = (range.offset_bytes, range.length_bytes);
            match share(&from.object.body, offset_bytes, length_bytes) {
                Ok(pieces) => {
                    let draft = upload::DraftPart {
                        number,
                        etag,
                        checksums,
                        length_bytes,
                        pieces,
                    };
                    if let Some(part) = self.share_part(who, upload, &from, draft)? {
                        return Ok((part, shared(length_bytes)));
                    }
                }
                Err(why) => {
                    let part = self.copy_part(who, upload, number, &range, (etag, checksums))?;
                    return Ok((part, rewritten(length_bytes, &why)));
                }
            }
        }
        let text = format!(
            "{} is replaced faster than it can be copied: try again",
            row::subject(source.0, source.1)
        );
        Err(Error::new(Kind::Conflict, Subject::Object, text))
    }

    /// Commits a part that shows pieces of `from`; `None` if that version is not there any more, for then
    /// its maps may be on their way out.
    fn share_part(
        &self,
        who: &Who,
        upload: &Upload,
        from: &ObjectRow,
        draft: upload::DraftPart,
    ) -> Result<Option<Part>> {
        let (who, upload, from) = (who.clone(), upload.clone(), from.clone());
        let part = self.shared.catalog.transact(move |txn| {
            let Object {
                bucket,
                key,
                version,
                ..
            } = &from.object;
            let now = version::find(txn, bucket, key, version)?;
            if now.is_none_or(|now| now.row.seq != from.seq) {
                return Ok(None);
            }
            upload::put_part(txn, &who, &upload, draft, "shared").map(Some)
        })?;
        self.shared.engine.sweep_soon();
        Ok(part)
    }

    fn copy_part(
        &self,
        who: &Who,
        upload: &Upload,
        number: u32,
        range: &Ranged,
        (etag, checksums): (String, BTreeMap<String, String>),
    ) -> Result<Part> {
        let mut writer = self.copy_writer(&upload.bucket)?;
        let mut buffer = vec![0; COPY_STEP_BYTES];
        let mut offset = 0;
        while offset < range.length_bytes {
            let count = usize::try_from(range.length_bytes - offset)
                .unwrap_or(usize::MAX)
                .min(COPY_STEP_BYTES);
            range.read_at(offset, &mut buffer[..count])?;
            writer.write(&buffer[..count])?;
            offset += count as u64;
        }
        writer.commit_part(who, upload, number, etag, checksums)
    }
}

fn ranged(object: &Object, whole: Arc<dyn ReadAt>, range: Option<(u64, u64)>) -> Result<Ranged> {
    let (offset_bytes, length_bytes) = range.unwrap_or((0, object.length_bytes));
    match offset_bytes.checked_add(length_bytes) {
        Some(end) if end <= object.length_bytes => Ok(Ranged {
            whole,
            offset_bytes,
            length_bytes,
        }),
        _ => {
            let text = format!(
                "{length_bytes} bytes from {offset_bytes} reach behind the end of {} at {}",
                row::subject(&object.bucket, &object.key),
                object.length_bytes
            );
            Err(Error::new(Kind::Invalid, Subject::Range, text))
        }
    }
}

/// The pieces that show a range of a body, or why it cannot be shown without a copy.
fn share(body: &Body, offset: u64, length: u64) -> Result<Vec<Piece>, String> {
    let whole = |sealed: &crate::SealedMap| Piece {
        sealed: *sealed,
        offset_bytes: 0,
        length_bytes: sealed.length_bytes,
    };
    let pieces = match body {
        Body::Inline if length > 0 => return Err("small bodies lie in the catalog".into()),
        Body::Inline => Vec::new(),
        Body::Map(sealed) => vec![whole(sealed)],
        Body::Concat(pieces) => pieces.clone(),
    };
    let mut shown = Vec::new();
    let (mut skip, mut left) = (offset, length);
    for piece in pieces {
        if left == 0 {
            break;
        }
        if skip >= piece.length_bytes {
            skip -= piece.length_bytes;
            continue;
        }
        let offset_bytes = piece.offset_bytes + skip;
        if offset_bytes % BLOCK as u64 != 0 {
            return Err(format!(
                "the range begins at byte {offset_bytes} of a stored map, inside a block of {BLOCK}"
            ));
        }
        let length_bytes = left.min(piece.length_bytes - skip);
        shown.push(Piece {
            sealed: piece.sealed,
            offset_bytes,
            length_bytes,
        });
        left -= length_bytes;
        skip = 0;
    }
    Ok(shown)
}

/// A draft of another object with the same body.
pub(super) fn copy_of(
    from: Object,
    bucket: &str,
    key: &str,
    meta: Option<ObjectMeta>,
    inline: Vec<u8>,
) -> Draft {
    let meta = meta.unwrap_or_else(|| ObjectMeta {
        lock: Lock::default(),
        ..from.meta
    });
    Draft {
        bucket: bucket.into(),
        key: key.into(),
        meta,
        length_bytes: from.length_bytes,
        parts: from.parts,
        body: from.body,
        inline,
        identity: None,
    }
}

/// The bytes of an inline body.
pub(super) fn inline_of(rows: &impl Rows, row: &ObjectRow) -> Result<Vec<u8>> {
    rows.row(&keys::body(row.seq))?.ok_or_else(|| bodiless(row))
}

fn bodiless(row: &ObjectRow) -> Error {
    let text = format!(
        "{} has no bytes in the catalog; run `infall check`",
        row::subject(&row.object.bucket, &row.object.key)
    );
    Error::new(Kind::Corrupt, Subject::Object, text)
}

fn shared(bytes: u64) -> Copied {
    Copied {
        shared_bytes: bytes,
        rewritten_bytes: 0,
        why: String::new(),
    }
}

fn rewritten(bytes: u64, why: &str) -> Copied {
    let why = if bytes == 0 {
        String::new()
    } else {
        why.to_owned()
    };
    Copied {
        shared_bytes: 0,
        rewritten_bytes: bytes,
        why,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Lsn, MapId, SealedMap};

    fn sealed(map: u64, length_bytes: u64) -> SealedMap {
        SealedMap {
            map: MapId(map),
            lsn: Lsn(1),
            length_bytes,
        }
    }

    fn piece(map: u64, offset_bytes: u64, length_bytes: u64) -> Piece {
        Piece {
            sealed: sealed(map, 1 << 20),
            offset_bytes,
            length_bytes,
        }
    }

    #[test]
    fn a_range_is_shared_when_it_begins_on_a_block_of_its_map() {
        let map = Body::Map(sealed(1, 1 << 20));
        assert_eq!(share(&map, 0, 1 << 20), Ok(vec![piece(1, 0, 1 << 20)]));
        assert_eq!(share(&map, 8192, 5), Ok(vec![piece(1, 8192, 5)]));
        assert!(share(&map, 8191, 5).unwrap_err().contains("byte 8191"));
        // The second piece begins at byte 5 of the object, and on a block of its own map.
        let concat = Body::Concat(vec![piece(1, 4096, 5), piece(2, 0, 10_000), piece(3, 0, 7)]);
        assert_eq!(
            share(&concat, 0, 10_012),
            Ok(vec![piece(1, 4096, 5), piece(2, 0, 10_000), piece(3, 0, 7)])
        );
        assert_eq!(
            share(&concat, 5 + 4096, 5909),
            Ok(vec![piece(2, 4096, 5904), piece(3, 0, 5)])
        );
        assert!(share(&concat, 6, 6000).is_err());
        assert_eq!(share(&map, 77, 0), Ok(vec![]));
        assert_eq!(share(&Body::Inline, 0, 0), Ok(vec![]));
        assert!(share(&Body::Inline, 0, 1).is_err());
    }
}
