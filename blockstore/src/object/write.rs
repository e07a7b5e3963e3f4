//! Bodies on their way in.

use super::row::{self, Draft};
use super::{
    Body, INLINE_BYTES_MAX, Object, ObjectMeta, Part, Piece, Precondition, Upload, bucket, upload,
};
use crate::catalog::MapRow;
use crate::engine::MapBuilder;
use crate::{Entry, Result, SealedMap, Store, Who};
use std::collections::BTreeMap;

/// A body on its way in. Small ones stay in memory until the commit.
pub struct ObjectWriter {
    store: Store,
    bucket: String,
    body: Growing,
    /// Whether its bytes come from inside the store: they are counted apart.
    copy: bool,
    /// How many bytes the quota of the bucket's project leaves.
    room: Option<u64>,
    /// Bytes of what this body replaces; the commit looks again.
    freed: u64,
}

enum Growing {
    Buffered(Vec<u8>),
    Map(MapBuilder),
}

impl Store {
    /// Begins a body. NotFound where the bucket is missing. Dropping the writer forgets the bytes.
    pub fn object_writer(&self, bucket: &str) -> Result<ObjectWriter> {
        self.writer(bucket, None, false)
    }

    /// As [`Self::object_writer`], for a body of this key: what it replaces makes room under a quota.
    pub fn object_writer_for(&self, bucket: &str, key: &str) -> Result<ObjectWriter> {
        self.writer(bucket, Some(key), false)
    }

    /// As [`Self::object_writer`], for a stated copy.
    pub(super) fn copy_writer(&self, bucket: &str) -> Result<ObjectWriter> {
        self.writer(bucket, None, true)
    }

    fn writer(&self, bucket: &str, key: Option<&str>, copy: bool) -> Result<ObjectWriter> {
        self.shared.engine.admit_write()?;
        let bucket = bucket::expect(&self.shared.catalog, bucket)?;
        let freed = match key {
            Some(key) => row::freed(&self.shared.catalog, &bucket, key)?,
            None => 0,
        };
        Ok(ObjectWriter {
            store: self.clone(),
            room: self.quota_room(&bucket, freed)?,
            freed,
            bucket: bucket.name,
            body: Growing::Buffered(Vec::new()),
            copy,
        })
    }

    fn new_map(&self, copy: bool) -> Result<MapBuilder> {
        if copy {
            self.shared.engine.body_copy()
        } else {
            self.shared.engine.body()
        }
    }

    /// Hands a finished map that got no name to the sweeper.
    pub(crate) fn abandon(&self, sealed: SealedMap, row: MapRow) {
        let abandoned = self.shared.catalog.transact(move |txn| {
            txn.put_map(sealed.map, &row)?;
            txn.loosen(sealed.map);
            Ok(())
        });
        match abandoned {
            Ok(()) => self.shared.engine.sweep_soon(),
            // The next opening finds it among the unfinished maps.
            Err(error) => {
                tracing::warn!(map = %sealed.map, error = error.chain(), "an unnamed body stays until restart");
            }
        }
    }
}

impl ObjectWriter {
    /// Appends bytes in order. NoSpace as soon as they go beyond the quota of the bucket's project.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let length_bytes = self.length_bytes() + bytes.len() as u64;
        if self.room.is_some_and(|room| length_bytes > room) {
            // The quota may have changed since; its own words name it.
            let bucket = bucket::expect(&self.store.shared.catalog, &self.bucket)?;
            self.store
                .admit(&bucket.project, length_bytes, self.freed)?;
        }
        if let Growing::Buffered(buffered) = &mut self.body {
            if buffered.len() + bytes.len() <= INLINE_BYTES_MAX {
                buffered.extend_from_slice(bytes);
                return Ok(());
            }
            let mut map = self.store.new_map(self.copy)?;
            map.write(buffered)?;
            self.body = Growing::Map(map);
        }
        match &mut self.body {
            Growing::Map(map) => map.write(bytes),
            Growing::Buffered(_) => Ok(()),
        }
    }

    /// Bytes so far.
    pub fn length_bytes(&self) -> u64 {
        match &self.body {
            Growing::Buffered(buffered) => buffered.len() as u64,
            Growing::Map(map) => map.length_bytes(),
        }
    }

    /// Syncs, then commits the object in one catalog batch.
    pub fn commit(
        self,
        who: &Who,
        key: &str,
        meta: ObjectMeta,
        condition: &Precondition,
    ) -> Result<Object> {
        row::check_key(key)?;
        // Refuse before the sync what would be refused after it; the batch checks again.
        let current = row::read(&self.store.shared.catalog, &self.bucket, key)?;
        row::check(
            condition,
            current.as_ref().map(|row| &row.object),
            &self.bucket,
            key,
        )?;

        let length_bytes = self.length_bytes();
        let Self {
            store,
            bucket,
            body,
            ..
        } = self;
        let (map, body, inline) = match body {
            Growing::Buffered(bytes) => (None, Body::Inline, bytes),
            Growing::Map(map) => {
                let (sealed, row) = map.finish()?;
                (Some((sealed, row)), Body::Map(sealed), Vec::new())
            }
        };
        let entry =
            Entry::new("object.put", row::subject(&bucket, key)).bytes("written", length_bytes);
        let draft = Draft {
            bucket,
            key: key.into(),
            meta,
            length_bytes,
            parts: Vec::new(),
            body,
            inline,
            identity: None,
        };
        let (who, condition, new) = (who.clone(), condition.clone(), map.clone());
        let committed = store.shared.catalog.transact(move |txn| {
            if let Some((sealed, row)) = &new {
                txn.put_map(sealed.map, row)?;
            }
            row::put(txn, &who, draft, &condition, entry)
        });
        settle(&store, map, committed)
    }

    /// Syncs, then commits it as a part (replacing an earlier one of that number).
    pub fn commit_part(
        self,
        who: &Who,
        upload: &Upload,
        number: u32,
        etag: String,
        checksums: BTreeMap<String, String>,
    ) -> Result<Part> {
        upload::check_number(number)?;
        let length_bytes = self.length_bytes();
        let Self {
            store, body, copy, ..
        } = self;
        let map = match body {
            Growing::Buffered(bytes) if bytes.is_empty() => None,
            Growing::Buffered(bytes) => {
                let mut map = store.new_map(copy)?;
                map.write(&bytes)?;
                Some(map.finish()?)
            }
            Growing::Map(map) => Some(map.finish()?),
        };
        let piece = map.as_ref().map(|(sealed, _)| Piece {
            sealed: *sealed,
            offset_bytes: 0,
            length_bytes,
        });
        let part = upload::DraftPart {
            number,
            etag,
            checksums,
            length_bytes,
            pieces: piece.into_iter().collect(),
        };
        let (who, upload, new) = (who.clone(), upload.clone(), map.clone());
        let committed = store.shared.catalog.transact(move |txn| {
            if let Some((sealed, row)) = &new {
                txn.put_map(sealed.map, row)?;
            }
            upload::put_part(txn, &who, &upload, part, "written")
        });
        settle(&store, map, committed)
    }
}

/// What follows a commit: it may have replaced something, or left its own map without a name.
fn settle<T>(store: &Store, map: Option<(SealedMap, MapRow)>, committed: Result<T>) -> Result<T> {
    match (&committed, map) {
        (Ok(_), _) => store.shared.engine.sweep_soon(),
        (Err(_), Some((sealed, row))) => store.abandon(sealed, row),
        (Err(_), None) => {}
    }
    committed
}
