//! Editing an object in place: random writes onto a child of its map, published as a new version.
//!
//! ```text
//!               first change            > BUFFERED_BYTES_MAX
//!   Sealed ───────────────▶ Buffered ───────────────▶ Head ──┐ publish: seal, commit;
//!  (as opened)  └─────────────── larger body ──────────▶     ◀┘ the head goes on
//! ```
//! 1. One editor for a key at a time; a second one is a conflict.
//! 2. Nobody sees a change before `publish`; then everybody sees all of it. The data is synced before
//!    the name is committed, and the name is committed only while it still shows what was opened.
//! 3. A small body is edited in memory and written anew. A larger one is a head on a map whose parent
//!    is the body it was opened with: no byte is copied. A body that was itself an edit goes on as one
//!    line of history, so that maps do not pile up and what was overwritten is freed.
//! 4. What grows beyond a quota is refused at the write: nobody learns at the end only that it was
//!    too long. The quota is asked again where it is published.
//! 5. A head under edit is pinned by its row under `edit/`; the pin goes with the editor, or at the
//!    next opening of the store. What was not published by then is gone, and nothing else is.

mod editors;
mod head;
mod room;

pub(crate) use editors::{Editors, sweep_unfinished};

use super::row;
use super::{Object, ObjectMeta, Precondition, ReadAt};
use crate::catalog::MapRow;
use crate::engine::Head;
use crate::volume::{Extent, VOLUME_BYTES_MAX};
use crate::{BLOCK, Error, Kind, LEAF, MapId, Result, SealedMap, Store, Subject, Who};
use editors::{EditRow, Place, holder};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Bodies up to this many bytes are edited in memory.
pub const BUFFERED_BYTES_MAX: u64 = 128 << 10;
/// The longest object an editor makes (S3 user guide, "Amazon S3 multipart upload limits").
pub const EDIT_BYTES_MAX: u64 = 5 << 40;
/// Maps below one another before an edit begins with a map of its own again.
const DEPTH_MAX: usize = 8;
/// The longest body whose map is composed anew: that takes 8 KiB of memory for each MiB.
const COMPOSED_BYTES_MAX: u64 = 64 << 30;
/// Room of a head under edit. No volume has it, which tells the two kinds of heads apart.
const HEAD_BYTES: u64 = VOLUME_BYTES_MAX + LEAF as u64;

/// How an object is opened for editing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EditHow {
    /// Begin an empty one where there is none; it appears with its first `publish`.
    pub create: bool,
    /// With `create`: only where there is none.
    pub exclusive: bool,
    /// Begin with no bytes, whatever it holds now.
    pub truncate: bool,
}

/// An object opened for writing at any offset. Dropping it forgets what was not published.
pub struct ObjectEdit {
    store: Store,
    place: Mutex<Place>,
    editing: RwLock<Editing>,
    /// Whether it gave up its name.
    orphaned: AtomicBool,
    length_bytes: AtomicU64,
    /// How long it may become without another look at the quota.
    admitted_bytes: AtomicU64,
    /// Whether the bytes differ from what the name shows.
    changed: AtomicBool,
    /// Bytes written since the last publication, for the journal.
    written_bytes: AtomicU64,
}

struct Editing {
    /// What the name showed when it was opened or last published; `None` before the first time.
    base: Option<Object>,
    bytes: Bytes,
}

enum Bytes {
    Sealed(Arc<dyn ReadAt>),
    Buffered(Vec<u8>),
    Head(EditHead),
}

struct EditHead {
    map: MapId,
    head: Head,
    /// Whether something was written since the last seal.
    unsealed: AtomicBool,
}

/// Where a head under edit begins.
enum Begin {
    Empty,
    /// The line of history that the body already is the end of.
    Continue(SealedMap),
    Child(SealedMap),
    Composed(SealedMap, MapRow),
}

impl Store {
    /// Opens an object for writing. [`Kind::Conflict`] while another editor has it; NotFound where it
    /// is missing and `how` does not create it; [`Kind::Precondition`] where it exists and must not.
    pub fn object_edit(
        &self,
        who: &Who,
        bucket: &str,
        key: &str,
        how: EditHow,
    ) -> Result<ObjectEdit> {
        row::check_key(key)?;
        self.shared.engine.admit_write()?;
        let place = Place {
            bucket: bucket.into(),
            key: key.into(),
        };
        self.shared.edits.take(&place, &who.actor)?;
        match self.opened(&place, how) {
            Ok(editing) => {
                let length_bytes = editing.length_bytes();
                let changed = editing.base.is_none() || how.truncate;
                Ok(ObjectEdit {
                    store: self.clone(),
                    place: Mutex::new(place),
                    editing: RwLock::new(editing),
                    orphaned: AtomicBool::new(false),
                    length_bytes: AtomicU64::new(length_bytes),
                    admitted_bytes: AtomicU64::new(length_bytes),
                    changed: AtomicBool::new(changed),
                    written_bytes: AtomicU64::new(0),
                })
            }
            Err(error) => {
                self.shared.edits.release(&place);
                Err(error)
            }
        }
    }

    fn opened(&self, place: &Place, how: EditHow) -> Result<Editing> {
        let Place { bucket, key } = place;
        let (base, reader) = match self.object_open(bucket, key) {
            Ok((object, _)) if how.create && how.exclusive => {
                let text = format!(
                    "{bucket}/{key} exists already ({} bytes); choose another key",
                    object.length_bytes
                );
                return Err(Error::new(Kind::Precondition, Subject::Object, text));
            }
            Ok((object, reader)) => (Some(object), Some(reader)),
            Err(error)
                if error.kind() == Kind::NotFound
                    && error.subject() == Subject::Object
                    && how.create =>
            {
                (None, None)
            }
            Err(error) => return Err(error),
        };
        let bytes = match reader {
            Some(reader) if !how.truncate => Bytes::Sealed(reader),
            _ => Bytes::Buffered(Vec::new()),
        };
        Ok(Editing { base, bytes })
    }
}

impl Editing {
    fn length_bytes(&self) -> u64 {
        match (&self.bytes, &self.base) {
            (Bytes::Sealed(reader), _) => reader.length_bytes(),
            (Bytes::Buffered(bytes), _) => bytes.len() as u64,
            (Bytes::Head(_), Some(base)) => base.length_bytes,
            (Bytes::Head(_), None) => 0,
        }
    }
}

impl ObjectEdit {
    /// The bucket it is in.
    pub fn bucket(&self) -> String {
        self.place().bucket.clone()
    }

    /// The key it is published under.
    pub fn key(&self) -> String {
        self.place().key.clone()
    }

    /// The object as it was opened or last published; `None` for one that is not published yet.
    pub fn published(&self) -> Option<Object> {
        self.shared().base.clone()
    }

    /// Bytes, those not published yet among them.
    pub fn length_bytes(&self) -> u64 {
        self.length_bytes.load(Ordering::Acquire)
    }

    /// Whether there is something to publish: a new object, or other bytes.
    pub fn is_changed(&self) -> bool {
        self.changed.load(Ordering::Acquire)
    }

    /// Writes at any offset; bytes between the end and `offset` become zeroes. NoSpace where the
    /// object would become longer than the quota of its project has room for.
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let end = bounded(offset, bytes.len() as u64)?;
        self.admit(end)?;
        // Beside other readers and writers, which the head puts in order by itself.
        let shared = self.shared();
        let done = match &shared.bytes {
            Bytes::Head(head) => Some(self.write_head(head, offset, bytes)),
            Bytes::Sealed(_) | Bytes::Buffered(_) => None,
        };
        drop(shared);
        match done {
            Some(Ok(())) => Ok(()),
            Some(Err(error)) => {
                self.cut_behind_end(end);
                Err(error)
            }
            None => self.write_alone(offset, end, bytes),
        }
    }

    fn write_alone(&self, offset: u64, end: u64, bytes: &[u8]) -> Result<()> {
        let mut editing = self.alone();
        self.prepare(&mut editing, end)?;
        match &mut editing.bytes {
            Bytes::Buffered(buffer) => {
                let (from, upto) = (index(offset), index(end));
                if buffer.len() < upto {
                    buffer.resize(upto, 0);
                }
                buffer[from..upto].copy_from_slice(bytes);
                self.wrote(end, bytes.len());
                Ok(())
            }
            Bytes::Head(head) => self.write_head(head, offset, bytes),
            Bytes::Sealed(_) => Err(unprepared()),
        }
    }

    /// The caller holds the lock until the length has followed: nothing is sealed in between.
    fn write_head(&self, head: &EditHead, offset: u64, bytes: &[u8]) -> Result<()> {
        head.unsealed.store(true, Ordering::Release);
        let engine = &self.store.shared.engine;
        engine.write_bytes(&head.head, offset, bytes)?;
        self.wrote(offset + bytes.len() as u64, bytes.len());
        Ok(())
    }

    fn wrote(&self, end: u64, count: usize) {
        self.length_bytes.fetch_max(end, Ordering::AcqRel);
        self.written_bytes
            .fetch_add(count as u64, Ordering::Relaxed);
        self.changed.store(true, Ordering::Release);
    }

    /// A write that failed may have left bytes behind the end, where only zeroes may come to light.
    fn cut_behind_end(&self, end: u64) {
        let editing = self.alone();
        let length_bytes = self.length_bytes();
        if let Bytes::Head(head) = &editing.bytes
            && length_bytes < end
            && let Err(error) = self.zero_head(head, length_bytes, end)
        {
            tracing::debug!(error = error.chain(), "a failed write is not undone");
        }
    }

    /// Makes the part of the range that lies before the end read as zeroes, and frees whole blocks.
    pub fn zero(&self, offset: u64, length: u64) -> Result<()> {
        let mut editing = self.alone();
        let all = self.length_bytes();
        let end = bounded(offset, length)?.min(all);
        if offset >= end {
            return Ok(());
        }
        self.prepare(&mut editing, all)?;
        match &mut editing.bytes {
            Bytes::Buffered(buffer) => buffer[index(offset)..index(end)].fill(0),
            Bytes::Head(head) => self.zero_head(head, offset, end)?,
            Bytes::Sealed(_) => return Err(unprepared()),
        }
        self.changed.store(true, Ordering::Release);
        Ok(())
    }

    /// Cuts or lengthens (with zeroes) to this many bytes; NoSpace as for [`Self::write_at`].
    pub fn truncate(&self, length_bytes: u64) -> Result<()> {
        bounded(length_bytes, 0)?;
        self.admit(length_bytes)?;
        let mut editing = self.alone();
        let before = self.length_bytes();
        if length_bytes == before {
            return Ok(());
        }
        if let Bytes::Sealed(reader) = &editing.bytes
            && length_bytes <= BUFFERED_BYTES_MAX
        {
            // What is left is small, however long the old body was.
            let mut buffer = vec![0; index(length_bytes.min(before))];
            reader.read_at(0, &mut buffer)?;
            editing.bytes = Bytes::Buffered(buffer);
        }
        self.prepare_to(&mut editing, length_bytes)?;
        match &mut editing.bytes {
            Bytes::Buffered(buffer) => buffer.resize(index(length_bytes), 0),
            // A last block that is shown in part holds zeroes behind the end.
            Bytes::Head(head) if length_bytes < before => {
                self.zero_head(head, length_bytes, before.next_multiple_of(BLOCK as u64))?;
            }
            Bytes::Head(_) => {}
            Bytes::Sealed(_) => return Err(unprepared()),
        }
        self.length_bytes.store(length_bytes, Ordering::Release);
        self.changed.store(true, Ordering::Release);
        Ok(())
    }

    /// Fills `buffer` from `offset`, with what was written here; [`Kind::Invalid`] past the end.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let editing = self.shared();
        let length_bytes = self.length_bytes();
        let end = offset.checked_add(buffer.len() as u64);
        if end.is_none_or(|end| end > length_bytes) {
            let text = format!(
                "{} bytes from {offset} reach behind the end at {length_bytes}",
                buffer.len()
            );
            return Err(Error::new(Kind::Invalid, Subject::Range, text));
        }
        match &editing.bytes {
            Bytes::Sealed(reader) => reader.read_at(offset, buffer),
            Bytes::Buffered(bytes) => {
                let from = index(offset);
                buffer.copy_from_slice(&bytes[from..from + buffer.len()]);
                Ok(())
            }
            Bytes::Head(head) => self.store.shared.engine.read(&head.head, offset, buffer),
        }
    }

    /// Allocation of `offset..offset+length`, which must lie before the end: adjoining runs in order,
    /// at most `max`, never nothing. A body that is not on a head yet is one run of data.
    pub fn extents(&self, offset: u64, length: u64, max: usize) -> Result<Vec<Extent>> {
        let editing = self.shared();
        if let Bytes::Head(head) = &editing.bytes {
            let engine = &self.store.shared.engine;
            return engine.extents(&head.head, offset, length, max);
        }
        Ok(vec![Extent {
            offset,
            length,
            data: true,
        }])
    }

    /// Syncs what was written and commits it under the name, in one catalog transaction; the editor
    /// goes on from there. An empty ETag in `meta` gets one of the store's.
    ///
    /// [`Kind::Precondition`] where the name no longer shows what was opened: the editor keeps its
    /// bytes, and can only be dropped.
    pub fn publish(&self, who: &Who, mut meta: ObjectMeta) -> Result<Object> {
        let mut editing = self.alone();
        let Place { bucket, key } = self.place().clone();
        if self.orphaned.load(Ordering::Acquire) {
            let text = format!("{bucket}/{key} was removed while it was written");
            return Err(Error::new(Kind::Precondition, Subject::Object, text));
        }
        if meta.etag.is_empty() {
            meta.etag = match (&editing.bytes, &editing.base) {
                (Bytes::Sealed(_), Some(base)) => base.meta.etag.clone(),
                // As every map view's: no MD5 of the bytes, and never twice the same.
                _ => format!("{:032x}-1", rand::random::<u128>()),
            };
        }
        let condition = match &editing.base {
            Some(base) => Precondition {
                if_match: vec![base.meta.etag.clone()],
                ..Precondition::default()
            },
            None => Precondition {
                if_none_match: vec!["*".into()],
                ..Precondition::default()
            },
        };
        let published = match &editing.bytes {
            Bytes::Sealed(reader) => {
                self.publish_again(who, &editing, reader.as_ref(), meta, &condition)
            }
            Bytes::Buffered(bytes) => {
                let mut writer = self.store.object_writer_for(&bucket, &key)?;
                writer.write(bytes)?;
                writer.commit(who, &key, meta, &condition)
            }
            Bytes::Head(head) => self.publish_head(who, head, meta, &condition),
        };
        let object = published.map_err(|error| match error.kind() {
            Kind::Precondition | Kind::NotFound if error.subject() == Subject::Object => {
                let text = format!(
                    "{bucket}/{key} is not what it was when it was opened for writing; open it again"
                );
                Error::new(Kind::Precondition, Subject::Object, text).because(error)
            }
            _ => error,
        })?;
        editing.base = Some(object.clone());
        self.changed.store(false, Ordering::Release);
        self.written_bytes.store(0, Ordering::Relaxed);
        Ok(object)
    }

    /// The object was renamed meanwhile, from the editor's present name to this one: it goes on there.
    pub fn renamed(&self, bucket: &str, key: &str) -> Result<()> {
        let mut editing = self.alone();
        let target = Place {
            bucket: bucket.into(),
            key: key.into(),
        };
        if editing.base.is_some() {
            let now = self.store.object_head(bucket, key)?;
            editing.base = Some(now);
        }
        let mut place = self.place();
        self.store.shared.edits.rename(&place, &target)?;
        *place = target;
        Ok(())
    }

    /// Gives up the name, which somebody is about to remove or replace: it is free for another editor.
    /// The bytes stay here, are never published, and go with this editor.
    pub fn orphan(&self) -> Result<()> {
        let mut editing = self.alone();
        if matches!(editing.bytes, Bytes::Sealed(_)) {
            // Once the name is gone, nothing else holds the body that a first write would be over.
            self.prepare(&mut editing, 0)?;
        }
        if !self.orphaned.swap(true, Ordering::AcqRel) {
            self.store.shared.edits.release(&self.place());
        }
        Ok(())
    }

    /// Forgets what was not published.
    pub fn abandon(self) {
        drop(self);
    }

    // ---- locks

    fn place(&self) -> MutexGuard<'_, Place> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn shared(&self) -> RwLockReadGuard<'_, Editing> {
        self.editing.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn alone(&self) -> RwLockWriteGuard<'_, Editing> {
        self.editing.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ObjectEdit {
    fn drop(&mut self) {
        let editing = self.alone();
        if let Bytes::Head(head) = &editing.bytes {
            self.end_head(head);
        }
        drop(editing);
        if !self.orphaned.load(Ordering::Acquire) {
            self.store.shared.edits.release(&self.place());
        }
    }
}

impl ReadAt for ObjectEdit {
    fn length_bytes(&self) -> u64 {
        Self::length_bytes(self)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        Self::read_at(self, offset, buffer)
    }

    fn extents(&self, offset: u64, length: u64, max: usize) -> Result<Vec<Extent>> {
        Self::extents(self, offset, length, max)
    }
}

fn bounded(offset: u64, length: u64) -> Result<u64> {
    match offset.checked_add(length) {
        Some(end) if end <= EDIT_BYTES_MAX => Ok(end),
        _ => {
            let text = format!(
                "{length} bytes at {offset} end behind {EDIT_BYTES_MAX} (5 TiB), the longest an object can be"
            );
            Err(Error::new(Kind::Invalid, Subject::Range, text))
        }
    }
}

fn index(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

fn unprepared() -> Error {
    Error::new(
        Kind::Internal,
        Subject::Object,
        "an editor was not made writable before it was written",
    )
}
