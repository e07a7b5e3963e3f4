//! The value log: append, sync, read. It is the write-ahead log of everything.
//!
//! 1. One segment is active; batches go to its end in the order in which their entries were minted.
//! 2. A sync covers every batch before it, of all writers (group commit); the batch after a sync starts
//!    on a page of its own, so that no later write touches synced bytes.
//! 3. After a failed write or sync the log refuses everything but reads until the store is reopened.
//! 4. A full segment gets a footer and is never written again.
//! 5. Between small syncs the log writes zeroes a little ahead of its end, under the lock that appends
//!    take. A sync of bytes that overwrite durable ones needs no entry in the file system's journal: it
//!    costs one device write instead of three. Zeroes are no batch, so that recovery ends before them.

pub(crate) mod disk;
pub(crate) mod format;
pub(crate) mod scan;

use crate::{BLOCK, Error, Kind, Result, SegmentId, Subject};
use disk::{Disk, DiskFile};
use format::{BATCH_ALIGN, Batch, Footer, LogEntry, Position, SEGMENT_HEADER, SegmentHeader};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};

/// A sync that covers less than this is small…
const SMALL_SYNC_BYTES: u64 = 64 << 10;
/// …and sends this many zeroes ahead, once what it sent before is used up.
const AHEAD_BYTES: u64 = ZEROES.len() as u64;
static ZEROES: [u8; 256 << 10] = [0; 256 << 10];

/// Which part of the disk a write may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// A user's write: refused when it would eat into the reserve.
    Ordinary,
    /// What frees space (deletes, collection): may use the reserve.
    Reserve,
}

/// What does not change while the log is open.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub(crate) store: [u8; 16],
    pub(crate) boot: u64,
    pub(crate) segment_bytes: u64,
    pub(crate) reserve_bytes: u64,
}

/// Where an append landed.
pub(crate) struct Appended {
    /// The segment.
    pub(crate) segment: SegmentId,
    /// File offset of each entry's payload.
    pub(crate) offsets: Vec<u64>,
    /// Sync through here to make it durable.
    pub(crate) end: Position,
}

struct Active {
    segment: SegmentId,
    /// None until the first append after opening or rolling.
    file: Option<Arc<dyn DiskFile>>,
    offset: u64,
    previous: u32,
    footer: Footer,
    /// The next batch starts on a new page: a sync came in between.
    page_next: bool,
    /// Files with bytes that no sync has covered, in order.
    unsynced: Vec<Arc<dyn DiskFile>>,
    unsynced_bytes: u64,
    /// Written up to here in the active segment, with zeroes behind `offset`.
    filled: u64,
    names_changed: bool,
}

struct SyncState {
    synced: Position,
    running: bool,
}

/// The log of one node.
pub(crate) struct ValueLog {
    disk: Arc<dyn Disk>,
    settings: Settings,
    first: SegmentId,
    active: Mutex<Active>,
    sync: Mutex<SyncState>,
    sync_done: Condvar,
    files: RwLock<HashMap<SegmentId, Arc<dyn DiskFile>>>,
    refusing: Mutex<Option<String>>,
    syncs: AtomicU64,
    read_bytes: AtomicU64,
}

impl ValueLog {
    /// A log that goes on in segment `next`; everything before it is sealed and synced.
    pub(crate) fn new(disk: Arc<dyn Disk>, settings: Settings, next: SegmentId) -> Self {
        let start = Position {
            segment: next,
            offset: 0,
        };
        Self {
            disk,
            settings,
            first: next,
            active: Mutex::new(Active {
                segment: next,
                file: None,
                offset: 0,
                previous: 0,
                footer: Footer::default(),
                page_next: false,
                unsynced: Vec::new(),
                unsynced_bytes: 0,
                filled: 0,
                names_changed: false,
            }),
            sync: Mutex::new(SyncState {
                synced: start,
                running: false,
            }),
            sync_done: Condvar::new(),
            files: RwLock::new(HashMap::new()),
            refusing: Mutex::new(None),
            syncs: AtomicU64::new(0),
            read_bytes: AtomicU64::new(0),
        }
    }

    /// The file of a segment.
    pub(crate) fn name(segment: SegmentId) -> String {
        format!("{:016x}.seg", segment.0)
    }

    /// The segment a file name stands for.
    pub(crate) fn segment_of(name: &str) -> Option<SegmentId> {
        let digits = name.strip_suffix(".seg")?;
        if digits.len() != 16 {
            return None;
        }
        u64::from_str_radix(digits, 16).ok().map(SegmentId)
    }

    /// Appends one batch. `payload` holds one slice per entry that has payload, in order, of
    /// `count` blocks. `then` runs under the log's lock, so that what it queues is in log order.
    pub(crate) fn append(
        &self,
        entries: Vec<LogEntry>,
        payload: &[&[u8]],
        room: Room,
        then: impl FnOnce(&Appended, Vec<LogEntry>),
    ) -> Result<Position> {
        self.admit()?;
        let mut active = lock(&self.active);
        let payload_bytes = payload.iter().map(|slice| slice.len() as u64).sum::<u64>();
        debug_assert_eq!(
            payload_bytes,
            entries.iter().map(|e| u64::from(e.count)).sum::<u64>() * BLOCK as u64
        );
        let needed = Batch::head_bytes(&entries) as u64 + payload_bytes + BLOCK as u64;
        if active.file.is_some() && active.offset + needed > self.settings.segment_bytes {
            self.roll(&mut active)?;
        }
        if active.file.is_none() {
            self.begin_segment(&mut active, room)?;
        }
        let alignment = if active.page_next {
            BLOCK as u64
        } else {
            BATCH_ALIGN
        };
        let at = Position {
            segment: active.segment,
            offset: active.offset.next_multiple_of(alignment),
        };
        let synced = lock(&self.sync).synced;
        let batch = Batch {
            at,
            boot: self.settings.boot,
            synced,
            previous: active.previous,
            entries,
        };
        let (head, crc) = batch.encode();
        let mut slices = Vec::with_capacity(1 + payload.len());
        slices.push(head.as_slice());
        slices.extend_from_slice(payload);
        let Some(file) = active.file.clone() else {
            return Err(self.refusal("no active segment"));
        };
        if let Err(failure) = file.write_at(at.offset, &slices) {
            return Err(self.refuse("write to the value log", failure));
        }
        let end = batch.end();
        let offsets = batch.payload_offsets().map(|(offset, _)| offset).collect();
        for (offset, entry) in batch.payload_offsets() {
            if entry.count > 0 {
                active.footer.entries.push((offset, entry.clone()));
            }
        }
        active.page_next = false;
        active.previous = crc;
        active.unsynced_bytes += end - active.offset;
        active.offset = end;
        if !active
            .unsynced
            .iter()
            .any(|known| Arc::ptr_eq(known, &file))
        {
            active.unsynced.push(file);
        }
        let appended = Appended {
            segment: at.segment,
            offsets,
            end: Position {
                segment: at.segment,
                offset: end,
            },
        };
        then(&appended, batch.entries);
        Ok(appended.end)
    }

    /// The end of what has been appended.
    pub(crate) fn end(&self) -> Position {
        let active = lock(&self.active);
        Position {
            segment: active.segment,
            offset: active.offset,
        }
    }

    /// Bytes appended and not yet synced.
    pub(crate) fn unsynced_bytes(&self) -> u64 {
        lock(&self.active).unsynced_bytes
    }

    /// Everything below is durable.
    pub(crate) fn synced(&self) -> Position {
        lock(&self.sync).synced
    }

    /// Makes everything appended before `through` durable. Concurrent callers share one device sync.
    pub(crate) fn sync(&self, through: Position) -> Result<()> {
        let mut state = lock(&self.sync);
        loop {
            // Refused even where nothing is left to sync: a flush is no place to learn that all is well.
            self.admit()?;
            if state.synced >= through {
                return Ok(());
            }
            if !state.running {
                break;
            }
            state = self
                .sync_done
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        state.running = true;
        drop(state);
        let outcome = self.sync_active();
        let mut state = lock(&self.sync);
        state.running = false;
        if let Ok(target) = &outcome {
            state.synced = *target;
        }
        self.sync_done.notify_all();
        outcome.map(|_| ())
    }

    fn sync_active(&self) -> Result<Position> {
        let (target, files, names) = {
            let mut active = lock(&self.active);
            if active.unsynced_bytes < SMALL_SYNC_BYTES {
                self.fill_ahead(&mut active)?;
            }
            active.page_next = true;
            active.unsynced_bytes = 0;
            let target = Position {
                segment: active.segment,
                offset: active.offset,
            };
            let names = std::mem::take(&mut active.names_changed);
            (target, std::mem::take(&mut active.unsynced), names)
        };
        for file in files {
            self.syncs.fetch_add(1, Relaxed);
            if let Err(failure) = file.sync() {
                return Err(self.refuse("sync the value log", failure));
            }
        }
        if names && let Err(failure) = self.disk.sync_names() {
            return Err(self.refuse("sync the segment directory", failure));
        }
        Ok(target)
    }

    /// Writes zeroes behind the end of the active segment, if there are none yet.
    fn fill_ahead(&self, active: &mut Active) -> Result<()> {
        let Some(file) = active.file.clone() else {
            return Ok(());
        };
        let end = active.offset.next_multiple_of(BLOCK as u64);
        let upto = (end + AHEAD_BYTES).min(self.settings.segment_bytes);
        // What is left must take a few more batches, each on a page of its own.
        if end + 8 * BLOCK as u64 <= active.filled || upto <= end {
            return Ok(());
        }
        let zeroes = &ZEROES[..usize::try_from(upto - end).unwrap_or(0)];
        if let Err(failure) = file.write_at(end, &[zeroes]) {
            return Err(self.refuse("write ahead in the value log", failure));
        }
        active.filled = upto;
        Ok(())
    }

    /// Ends the active segment, so that all of its space can be collected.
    pub(crate) fn seal_active(&self) -> Result<()> {
        self.admit()?;
        let mut active = lock(&self.active);
        if active.file.is_some() {
            self.roll(&mut active)
        } else {
            Ok(())
        }
    }

    fn roll(&self, active: &mut MutexGuard<'_, Active>) -> Result<()> {
        let Some(file) = active.file.take() else {
            return Ok(());
        };
        let mut footer = std::mem::take(&mut active.footer);
        footer.end = active.offset;
        let (at, bytes) = (
            footer.place(),
            footer.encode(active.segment, self.settings.boot),
        );
        let outcome = file
            .write_at(at, &[&bytes])
            .and_then(|()| file.truncate(at + bytes.len() as u64));
        if let Err(failure) = outcome {
            return Err(self.refuse("seal a segment of the value log", failure));
        }
        if !active
            .unsynced
            .iter()
            .any(|known| Arc::ptr_eq(known, &file))
        {
            active.unsynced.push(file);
        }
        active.segment = SegmentId(active.segment.0 + 1);
        active.offset = 0;
        active.page_next = false;
        Ok(())
    }

    fn begin_segment(&self, active: &mut MutexGuard<'_, Active>, room: Room) -> Result<()> {
        let segment = active.segment;
        self.room_for_segment(room)?;
        let begin = || -> std::io::Result<(Arc<dyn DiskFile>, u32)> {
            let file = self.disk.create(&Self::name(segment))?;
            let header = SegmentHeader {
                store: self.settings.store,
                segment,
                boot: self.settings.boot,
                first: self.first,
            };
            let prepared = file
                .reserve(self.settings.segment_bytes + (1 << 20))
                .and_then(|()| file.write_at(0, &[&header.encode()]));
            if let Err(failure) = prepared {
                // Nothing was appended yet: a full disk here is a refusal, not a failed write.
                let _ = self.disk.remove(&Self::name(segment));
                return Err(failure);
            }
            Ok((file, header.chain()))
        };
        let (file, chain) = begin().map_err(|failure| match failure.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Error::io(
                "begin a segment",
                std::path::Path::new(&Self::name(segment)),
                failure,
            ),
            _ => self.refuse("begin a segment of the value log", failure),
        })?;
        write(&self.files).insert(segment, Arc::clone(&file));
        active.file = Some(file);
        active.offset = SEGMENT_HEADER as u64;
        active.filled = 0;
        active.previous = chain;
        active.page_next = false;
        active.names_changed = true;
        Ok(())
    }

    /// Whether a new segment would fit; ordinary writes leave the reserve alone.
    fn room_for_segment(&self, room: Room) -> Result<()> {
        let free = self.disk.free_bytes().map_err(|failure| {
            Error::new(Kind::Internal, Subject::Store, "cannot read the free space")
                .because(failure)
        })?;
        let keep = if room == Room::Ordinary {
            self.settings.reserve_bytes
        } else {
            0
        };
        if free < self.settings.segment_bytes + keep {
            return Err(Error::new(
                Kind::NoSpace,
                Subject::Store,
                format!(
                    "the disk is full: {free} bytes free, {keep} of them kept so that deletes work; \
                     delete something and run `infall store collect --wait`, or add space"
                ),
            ));
        }
        Ok(())
    }

    /// Refuses early what would need a new segment that ordinary writes may not have.
    pub(crate) fn admit_ordinary(&self, bytes: u64) -> Result<()> {
        self.admit()?;
        let left = {
            let active = lock(&self.active);
            if active.file.is_some() {
                self.settings.segment_bytes.saturating_sub(active.offset)
            } else {
                0
            }
        };
        if bytes <= left {
            Ok(())
        } else {
            self.room_for_segment(Room::Ordinary)
        }
    }

    /// Reads from a segment; the caller verifies.
    pub(crate) fn read(
        &self,
        segment: SegmentId,
        offset: u64,
        buffer: &mut [u8],
    ) -> std::io::Result<()> {
        self.read_bytes.fetch_add(buffer.len() as u64, Relaxed);
        self.file(segment)?.read_at(offset, buffer)
    }

    /// The open file of a segment.
    pub(crate) fn file(&self, segment: SegmentId) -> std::io::Result<Arc<dyn DiskFile>> {
        if let Some(file) = self
            .files
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&segment)
        {
            return Ok(Arc::clone(file));
        }
        let file = self.disk.open(&Self::name(segment))?;
        let mut files = write(&self.files);
        if files.len() >= 512 {
            // Readers keep their own handle; the active file stays open through `active`.
            files.clear();
        }
        files.insert(segment, Arc::clone(&file));
        Ok(file)
    }

    /// Unlinks a segment; those who still read it keep their handle.
    pub(crate) fn remove(&self, segment: SegmentId) -> Result<()> {
        write(&self.files).remove(&segment);
        self.disk
            .remove(&Self::name(segment))
            .and_then(|()| self.disk.sync_names())
            .map_err(|failure| {
                Error::io(
                    "remove",
                    std::path::Path::new(&Self::name(segment)),
                    failure,
                )
            })
    }

    /// The disk below.
    pub(crate) fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    /// Device syncs and bytes read since opening.
    pub(crate) fn counters(&self) -> (u64, u64) {
        (self.syncs.load(Relaxed), self.read_bytes.load(Relaxed))
    }

    /// Why writes are refused, if they are.
    pub(crate) fn refusing(&self) -> Option<String> {
        lock(&self.refusing).clone()
    }

    /// From now on only reads.
    pub(crate) fn refuse(
        &self,
        what: &str,
        failure: impl std::error::Error + Send + Sync + 'static,
    ) -> Error {
        let text = format!("failed to {what}: {failure}");
        tracing::error!(%failure, what, "the value log refuses writes until the store is reopened");
        lock(&self.refusing).get_or_insert_with(|| text.clone());
        self.sync_done.notify_all();
        self.refusal(&text).because(failure)
    }

    /// The store is closed: no more writes, and nothing wrong.
    pub(crate) fn stop(&self) {
        lock(&self.refusing).get_or_insert_with(|| "it was closed".into());
        self.sync_done.notify_all();
    }

    fn refusal(&self, why: &str) -> Error {
        Error::new(
            Kind::Unavailable,
            Subject::Store,
            format!(
                "the store takes no writes until it is reopened ({why}); check the disk, then restart the server"
            ),
        )
    }

    /// An error while writes are refused.
    pub(crate) fn admit(&self) -> Result<()> {
        match lock(&self.refusing).as_deref() {
            None => Ok(()),
            Some(why) => Err(self.refusal(why)),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}
