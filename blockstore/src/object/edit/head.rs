//! The head under an edit: when there is one, what it is over, and how it is published and let go.

use super::{
    BUFFERED_BYTES_MAX, Begin, Bytes, COMPOSED_BYTES_MAX, DEPTH_MAX, EditHead, EditRow, Editing,
    HEAD_BYTES, ObjectEdit, Place, holder, index, unprepared,
};
use crate::catalog::{Catalog, HEAD, MapRow, keys};
use crate::image::compose::compose;
use crate::image::run::{ImageFile, Run, RunKind};
use crate::object::row::{self, Draft};
use crate::object::{Body, Object, ObjectMeta, Piece, Precondition, ReadAt};
use crate::{Entry, Error, Kind, LogId, Result, SealedMap, Subject, Who, clock};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

impl ObjectEdit {
    /// Makes the bytes writable up to `end`.
    pub(super) fn prepare(&self, editing: &mut Editing, end: u64) -> Result<()> {
        self.prepare_to(editing, self.length_bytes().max(end))
    }

    /// The same where they will have `length_bytes`.
    pub(super) fn prepare_to(&self, editing: &mut Editing, length_bytes: u64) -> Result<()> {
        if let Bytes::Sealed(reader) = &editing.bytes
            && reader.length_bytes() <= BUFFERED_BYTES_MAX
        {
            let mut buffer = vec![0; index(reader.length_bytes())];
            reader.read_at(0, &mut buffer)?;
            editing.bytes = Bytes::Buffered(buffer);
        }
        match &editing.bytes {
            Bytes::Head(_) => Ok(()),
            Bytes::Buffered(_) if length_bytes <= BUFFERED_BYTES_MAX => Ok(()),
            Bytes::Sealed(reader) => {
                let begin = self.begin(editing.base.as_ref(), reader)?;
                editing.bytes = Bytes::Head(self.begin_head(begin, editing.base.as_ref())?);
                Ok(())
            }
            Bytes::Buffered(buffer) => {
                let head = self.begin_head(Begin::Empty, None)?;
                head.unsealed.store(true, Ordering::Release);
                let written = self.store.shared.engine.write_bytes(&head.head, 0, buffer);
                match written {
                    Ok(()) => {
                        editing.bytes = Bytes::Head(head);
                        Ok(())
                    }
                    Err(error) => {
                        self.end_head(&head);
                        Err(error)
                    }
                }
            }
        }
    }

    /// What a head over this body begins with.
    fn begin(&self, base: Option<&Object>, reader: &Arc<dyn ReadAt>) -> Result<Begin> {
        let catalog = &self.store.shared.catalog;
        let pieces = match base.map(|base| &base.body) {
            Some(Body::Map(sealed)) => {
                if let Some(row) = catalog.map(sealed.map)?
                    && row.length_bytes == HEAD_BYTES
                    && !catalog.cuts(sealed.map)?.contains(&HEAD)
                {
                    return Ok(Begin::Continue(*sealed));
                }
                if depth(catalog, *sealed)? < DEPTH_MAX {
                    return Ok(Begin::Child(*sealed));
                }
                vec![Piece {
                    sealed: *sealed,
                    offset_bytes: 0,
                    length_bytes: sealed.length_bytes,
                }]
            }
            Some(Body::Concat(pieces)) => pieces.clone(),
            // A body in the catalog is edited in memory until it outgrows it.
            Some(Body::Inline) | None => return Err(unprepared()),
        };
        let length_bytes = reader.length_bytes();
        if length_bytes > COMPOSED_BYTES_MAX {
            let text = format!(
                "{} consists of many pieces and has {length_bytes} bytes; up to {COMPOSED_BYTES_MAX} can be edited in place: copy it to one piece first",
                self.place().key
            );
            return Err(Error::new(Kind::Unsupported, Subject::Object, text));
        }
        let mut composer = self.store.shared.engine.composer()?;
        let image = ImageFile {
            file: reader.as_ref(),
            packing: None,
        };
        let all = Run {
            guest_offset: 0,
            length: length_bytes,
            kind: RunKind::Stored { file_offset: 0 },
        };
        compose(&mut composer, &pieces, image, std::iter::once(Ok(all)))?;
        let (sealed, row) = composer.finish(length_bytes)?;
        Ok(Begin::Composed(sealed, row))
    }

    /// Makes the head and pins it, in one transaction in which the name still shows `base`.
    fn begin_head(&self, begin: Begin, base: Option<&Object>) -> Result<EditHead> {
        let shared = &self.store.shared;
        shared.engine.admit_write()?;
        let continued = match &begin {
            Begin::Continue(sealed) => Some(*sealed),
            Begin::Empty | Begin::Child(_) | Begin::Composed(..) => None,
        };
        let map = match continued {
            Some(sealed) => sealed.map,
            None => shared.catalog.map_ids(1)?,
        };
        let Place { bucket, key } = self.place().clone();
        let body = base.map(|base| base.body.clone());
        let composed = match &begin {
            Begin::Composed(sealed, row) => Some((*sealed, row.clone())),
            Begin::Empty | Begin::Child(_) | Begin::Continue(_) => None,
        };
        let begun = shared.catalog.transact(move |txn| {
            if let Some(body) = body {
                let now = row::read(txn, &bucket, &key)?;
                if now.is_none_or(|now| now.object.body != body) {
                    let text = format!(
                        "{bucket}/{key} was replaced while it was opened for writing; open it again"
                    );
                    return Err(Error::new(Kind::Precondition, Subject::Object, text));
                }
            }
            let parent = match begin {
                Begin::Empty => None,
                Begin::Child(sealed) => Some(sealed),
                Begin::Composed(sealed, row) => {
                    txn.put_map(sealed.map, &row)?;
                    Some(sealed)
                }
                Begin::Continue(sealed) => {
                    if txn.cuts(sealed.map)?.contains(&HEAD) {
                        return Ok(false);
                    }
                    None
                }
            };
            if continued.is_none() {
                let row = MapRow {
                    log: LogId(map.0),
                    parent,
                    length_bytes: HEAD_BYTES,
                    borrows: Vec::new(),
                    created_ms: clock::now_ms(),
                };
                txn.put_map(map, &row)?;
            }
            txn.pin(map, HEAD, &holder(map))?;
            txn.put(&keys::edit(map), keys::encode(&EditRow { bucket, key })?);
            Ok(true)
        });
        if begun.is_err()
            && let Some((sealed, row)) = composed
        {
            self.store.abandon(sealed, row);
        }
        if begun? {
            let head = EditHead {
                map,
                head: shared.engine.head(map)?,
                unsealed: AtomicBool::new(false),
            };
            if continued.is_none_or(|sealed| shared.engine.ends_with(&head.head, sealed.lsn)) {
                return Ok(head);
            }
            // Somebody wrote on behind this body: another object's edit, or one that was given up.
            self.end_head(&head);
        }
        match continued {
            Some(sealed) => self.begin_head(Begin::Child(sealed), base),
            None => Err(unprepared()),
        }
    }

    pub(super) fn zero_head(&self, head: &EditHead, from: u64, upto: u64) -> Result<()> {
        head.unsealed.store(true, Ordering::Release);
        let engine = &self.store.shared.engine;
        engine.zero_bytes(&head.head, from, upto - from)
    }

    // ---- publishing

    /// The same body once more, under other metadata.
    pub(super) fn publish_again(
        &self,
        who: &Who,
        editing: &Editing,
        reader: &dyn ReadAt,
        meta: ObjectMeta,
        condition: &Precondition,
    ) -> Result<Object> {
        let Some(base) = editing.base.clone() else {
            return Err(unprepared());
        };
        let mut inline = Vec::new();
        if base.body == Body::Inline {
            inline.resize(index(reader.length_bytes()), 0);
            reader.read_at(0, &mut inline)?;
        }
        let draft = Draft {
            bucket: base.bucket.clone(),
            key: base.key.clone(),
            meta,
            length_bytes: base.length_bytes,
            parts: base.parts.clone(),
            body: base.body.clone(),
            inline,
            identity: None,
        };
        let entry = Entry::new("object.put", row::subject(&base.bucket, &base.key))
            .bytes("written", 0)
            .bytes("shared", base.length_bytes)
            .detail("edited");
        let (who, condition) = (who.clone(), condition.clone());
        let shared = &self.store.shared;
        let object = shared.catalog.transact(move |txn| {
            let now = row::read(txn, &base.bucket, &base.key)?;
            if now.is_none_or(|now| now.object.body != base.body) {
                return Err(row::missing(&base.bucket, &base.key));
            }
            row::put(txn, &who, draft, &condition, entry)
        })?;
        shared.engine.sweep_soon();
        Ok(object)
    }

    pub(super) fn publish_head(
        &self,
        who: &Who,
        head: &EditHead,
        meta: ObjectMeta,
        condition: &Precondition,
    ) -> Result<Object> {
        let Place { bucket, key } = self.place().clone();
        let shared = &self.store.shared;
        let sealed = SealedMap {
            length_bytes: self.length_bytes(),
            ..shared.engine.seal(&head.head)?
        };
        let entry = Entry::new("object.put", row::subject(&bucket, &key))
            .bytes("written", self.written_bytes.load(Ordering::Relaxed))
            .detail("edited");
        let draft = Draft::of_map(&bucket, &key, meta, sealed);
        let (who, condition) = (who.clone(), condition.clone());
        let committed = shared
            .catalog
            .transact(move |txn| row::put(txn, &who, draft, &condition, entry));
        // Committed or not, from here on the catalog's answer counts.
        shared.engine.sealed(&head.head, sealed.lsn)?;
        let object = committed?;
        head.unsealed.store(false, Ordering::Release);
        shared.engine.sweep_soon();
        Ok(object)
    }

    /// Ends the pin of a head; what was not published goes with it.
    pub(super) fn end_head(&self, head: &EditHead) {
        let shared = &self.store.shared;
        let map = head.map;
        let settled = if head.unsealed.load(Ordering::Acquire) {
            // Whoever goes on with this line of history must see all of it in the index.
            shared.engine.settle()
        } else {
            Ok(())
        };
        let ended = settled.and_then(|()| {
            shared.catalog.transact(move |txn| {
                txn.delete(&keys::edit(map));
                txn.unpin(map, HEAD, &holder(map))
            })
        });
        shared.engine.drop_head(map);
        match ended {
            Ok(()) => shared.engine.sweep_soon(),
            // The next opening finds its row.
            Err(error) => {
                tracing::warn!(%map, error = error.chain(), "an edited map stays pinned until restart");
            }
        }
    }
}

/// How many maps lie below one another, up to where it matters.
fn depth(catalog: &Catalog, sealed: SealedMap) -> Result<usize> {
    let (mut depth, mut map) = (1, sealed.map);
    while depth < DEPTH_MAX
        && let Some(row) = catalog.map(map)?
        && let Some(parent) = row.parent
    {
        depth += 1;
        map = parent.map;
    }
    Ok(depth)
}
