//! The engine: value log and index under one roof, and the threads that carry the one into the other.
//!
//! ```text
//! write ──► head (mints lsns) ──► value log ──► queue ──(sync)──► index batch ──(checkpoint)──► durable index
//! ```
//! 1. An index batch holds only entries whose data is synced, and the position it covers.
//! 2. The queue is in log order; one writer at a time changes the index.
//! 3. What is queued shows at once: heads hold the slots, `fresh` the locations.
//! 4. The log is synced by itself within [`SYNC_INTERVAL`] or [`UNSYNCED_MAX`]; the index is checkpointed
//!    every [`CHECKPOINT_BYTES`] of log, which bounds what an opening has to read again.

mod apply;
mod build;
mod check;
mod collect;
mod head;
pub(crate) mod names;
mod read;
mod recover;
mod sweep;

pub(crate) use build::{Composer, MapBuilder};
pub(crate) use head::Head;
pub use read::View;

use crate::index::leaf::Leaf;
use crate::index::{Index, Location, SegmentFigures};
use crate::valuelog::disk::Disk;
use crate::valuelog::format::Position;
use crate::valuelog::{Settings, ValueLog};
use crate::{BLOCK, Epoch, Error, Kind, LogId, Lsn, MapId, Result, SealedMap, SegmentId, Subject};
use names::Names;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

/// Unsynced bytes are synced after this at the latest.
pub(crate) const SYNC_INTERVAL: Duration = Duration::from_secs(1);
/// Unsynced bytes are synced when there are this many.
pub(crate) const UNSYNCED_MAX: u64 = 64 << 20;
/// Log bytes between two checkpoints of the index.
pub(crate) const CHECKPOINT_BYTES: u64 = 256 << 20;
/// Operations that may wait for the index before writers wait.
const QUEUE_MAX: usize = 1 << 17;
/// Blocks whose place is remembered: about 100 bytes each, 1 GiB of hot 4 KiB blocks.
const PLACES_MAX: usize = 1 << 18;
/// Deltas of a leaf before they are folded into an image.
const FOLD_AFTER: u8 = 16;

/// Births that an operation took out of the head, to be freed once it is synced.
#[derive(Clone, Copy, Debug)]
struct Dead {
    log: LogId,
    lsn: Lsn,
    count: u64,
}

/// A log entry on its way into the index.
enum Operation {
    Write {
        log: LogId,
        lsn: Lsn,
        map: MapId,
        block: u64,
        location: Location,
        dead: Vec<Dead>,
    },
    /// `leaves` are those in which something showed.
    Zero {
        log: LogId,
        lsn: Lsn,
        map: MapId,
        block: u64,
        count: u64,
        leaves: Vec<u32>,
        dead: Vec<Dead>,
    },
    /// Deltas before and after must not be merged.
    Seal { log: LogId, lsn: Lsn, map: MapId },
    /// Takes an lsn and changes nothing in the index.
    Mark { log: LogId, lsn: Lsn },
    Move {
        log: LogId,
        lsn: Lsn,
        location: Location,
    },
}

struct Queued {
    end: Position,
    operation: Operation,
}

#[derive(Default)]
struct Progress {
    applied: Position,
    checkpointed: Position,
    /// Log bytes since the last checkpoint.
    since_checkpoint: u64,
}

struct Ingest {
    log: LogId,
    next: Lsn,
}

/// Payload bytes written since opening, by cause.
#[derive(Default)]
pub(crate) struct Written {
    pub(crate) client: AtomicU64,
    pub(crate) copied: AtomicU64,
    pub(crate) moved: AtomicU64,
}

/// What opening needs to know.
pub(crate) struct EngineOptions {
    pub(crate) settings: Settings,
    /// Leaves of sealed maps kept in memory.
    pub(crate) leaf_cache: usize,
    /// Run the threads (a simulation steps by hand).
    pub(crate) threads: bool,
    /// Collect in the background.
    pub(crate) collector: bool,
}

struct Inner {
    log: ValueLog,
    index: Index,
    names: Arc<dyn Names>,
    epoch: Epoch,
    threads: bool,
    queue: Mutex<VecDeque<Queued>>,
    queue_room: Condvar,
    /// Locations that are queued and not yet in the index.
    fresh: RwLock<BTreeMap<(LogId, Lsn), Location>>,
    progress: Mutex<Progress>,
    progressed: Condvar,
    /// Held by whoever changes the index.
    index_writer: Mutex<apply::WriterState>,
    figures: Mutex<BTreeMap<SegmentId, SegmentFigures>>,
    heads: Mutex<HashMap<MapId, Head>>,
    ingest: Mutex<Ingest>,
    leaves: quick_cache::sync::Cache<(MapId, u32, Lsn), Arc<Leaf>>,
    /// Where single blocks were found last; each read proves it.
    places: quick_cache::sync::Cache<(LogId, Lsn), read::Place>,
    parents: Mutex<HashMap<MapId, Option<SealedMap>>>,
    views: Mutex<HashMap<MapId, usize>>,
    /// Body maps whose row may not be in the catalog yet.
    building: Mutex<HashSet<MapId>>,
    /// Body maps that were given up; the next sweep takes their leaves.
    abandoned: Mutex<Vec<MapId>>,
    written: Written,
    collecting: Mutex<()>,
    wake: Mutex<Wake>,
    woken: Condvar,
    stopping: AtomicBool,
    running: Mutex<Vec<std::thread::JoinHandle<()>>>,
}

#[derive(Default)]
struct Wake {
    sync: bool,
    sweep: bool,
}

/// The engine; a cheap handle.
#[derive(Clone)]
pub(crate) struct Engine {
    inner: Arc<Inner>,
}

impl Engine {
    /// Opens over a disk, tables and names: reads the tail of the log back, then starts the threads.
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        index: Index,
        names: Arc<dyn Names>,
        options: &EngineOptions,
    ) -> Result<Self> {
        let found = recover::read_tail(disk.as_ref(), &index, options.settings)?;
        let epoch = Epoch(u32::try_from(options.settings.boot).unwrap_or(u32::MAX));
        let ingest = LogId(names.map_id()?.0);
        let start = Position {
            segment: found.next,
            offset: 0,
        };
        let figures = index.figures()?.into_iter().collect();
        let inner = Inner {
            log: ValueLog::new(disk, options.settings, found.next),
            index,
            names,
            epoch,
            threads: options.threads,
            queue: Mutex::default(),
            queue_room: Condvar::new(),
            fresh: RwLock::default(),
            progress: Mutex::new(Progress {
                applied: start,
                checkpointed: start,
                since_checkpoint: 0,
            }),
            progressed: Condvar::new(),
            index_writer: Mutex::default(),
            figures: Mutex::new(figures),
            heads: Mutex::default(),
            ingest: Mutex::new(Ingest {
                log: ingest,
                next: Lsn(1),
            }),
            leaves: quick_cache::sync::Cache::new(options.leaf_cache.max(64)),
            places: quick_cache::sync::Cache::new(PLACES_MAX),
            parents: Mutex::default(),
            views: Mutex::default(),
            building: Mutex::default(),
            abandoned: Mutex::default(),
            written: Written::default(),
            collecting: Mutex::default(),
            wake: Mutex::default(),
            woken: Condvar::new(),
            stopping: AtomicBool::new(false),
            running: Mutex::default(),
        };
        let engine = Self {
            inner: Arc::new(inner),
        };
        engine.replay(found.batches, start)?;
        engine.sweep_unfinished()?;
        if options.threads {
            engine.spawn("infall-sync", |engine| engine.inner.sync_loop())?;
            engine.spawn("infall-index", |engine| engine.inner.index_loop())?;
            if options.collector {
                engine.spawn("infall-collect", Self::collect_loop)?;
            }
        }
        Ok(engine)
    }

    fn spawn(&self, name: &str, work: fn(&Self)) -> Result<()> {
        let engine = self.clone();
        let thread = std::thread::Builder::new()
            .name(name.into())
            .spawn(move || work(&engine))
            .map_err(|failure| {
                Error::new(
                    Kind::Internal,
                    Subject::Store,
                    format!("cannot start {name}"),
                )
                .because(failure)
            })?;
        lock(&self.inner.running).push(thread);
        Ok(())
    }

    /// Syncs, applies, checkpoints and stops the threads. The last call on an engine.
    pub(crate) fn close(&self) -> Result<()> {
        let done = self
            .inner
            .log
            .seal_active()
            .and_then(|()| self.checkpoint());
        self.inner.stopping.store(true, Relaxed);
        self.inner.woken.notify_all();
        self.inner.progressed.notify_all();
        self.inner.log.stop();
        for thread in std::mem::take(&mut *lock(&self.inner.running)) {
            drop(thread.join());
        }
        done
    }

    /// Makes everything appended so far durable and visible in the index.
    pub(crate) fn settle(&self) -> Result<()> {
        self.settle_through(self.inner.log.end())
    }

    /// The same up to a position.
    pub(crate) fn settle_through(&self, through: Position) -> Result<()> {
        self.inner.log.sync(through)?;
        self.inner.wait_applied(through)
    }

    /// Syncs, applies and makes the index durable.
    pub(crate) fn checkpoint(&self) -> Result<()> {
        self.settle()?;
        self.inner.checkpoint()
    }

    /// Refuses early (NoSpace) when ordinary writes may not take more of the disk.
    pub(crate) fn admit_write(&self) -> Result<()> {
        self.inner.log.admit_ordinary(BLOCK as u64 * 64)
    }

    /// Wakes the sweeper after a transaction that unpinned something.
    pub(crate) fn sweep_soon(&self) {
        lock(&self.inner.wake).sweep = true;
        self.inner.woken.notify_all();
    }

    /// Why writes are refused, if they are.
    pub(crate) fn refusing(&self) -> Option<String> {
        self.inner.log.refusing()
    }

    /// Payload written since opening, by cause.
    pub(crate) fn written(&self) -> &Written {
        &self.inner.written
    }

    /// Device syncs and bytes read since opening.
    pub(crate) fn log_counters(&self) -> (u64, u64) {
        self.inner.log.counters()
    }

    /// The figures of each segment.
    pub(crate) fn figures(&self) -> BTreeMap<SegmentId, SegmentFigures> {
        lock(&self.inner.figures).clone()
    }

    /// Free bytes of the disk, and what the segments take of it, with each segment's share.
    pub(crate) fn space(&self) -> Result<(u64, BTreeMap<SegmentId, u64>)> {
        let disk = self.inner.log.disk();
        let unreadable = |failure| {
            Error::new(
                Kind::Internal,
                Subject::Store,
                "cannot read the disk's figures",
            )
            .because(failure)
        };
        let mut segments = BTreeMap::new();
        for name in disk.list().map_err(unreadable)? {
            // A segment that the collector removed meanwhile takes nothing.
            if let Some(segment) = ValueLog::segment_of(&name)
                && let Ok(file) = self.inner.log.file(segment)
            {
                segments.insert(segment, file.allocated().map_err(unreadable)?);
            }
        }
        Ok((disk.free_bytes().map_err(unreadable)?, segments))
    }

    /// The head of a writable map.
    pub(crate) fn head(&self, map: MapId) -> Result<Head> {
        self.inner.head(map)
    }

    /// Forgets the head of a map whose volume is gone.
    pub(crate) fn drop_head(&self, map: MapId) {
        lock(&self.inner.heads).remove(&map);
    }
}

impl Inner {
    /// Queues operations; called under the log's lock, so in log order.
    fn queue(&self, end: Position, operations: Vec<Operation>) {
        {
            let mut fresh = self.fresh.write().unwrap_or_else(PoisonError::into_inner);
            for operation in &operations {
                if let Operation::Write {
                    log, lsn, location, ..
                }
                | Operation::Move { log, lsn, location } = operation
                {
                    fresh.insert((*log, *lsn), location.clone());
                }
            }
        }
        let mut queue = lock(&self.queue);
        queue.extend(
            operations
                .into_iter()
                .map(|operation| Queued { end, operation }),
        );
    }

    /// Waits while too much is queued, and asks for a sync when too much is unsynced.
    fn throttle(&self) -> Result<()> {
        if self.log.unsynced_bytes() >= UNSYNCED_MAX {
            if self.threads {
                lock(&self.wake).sync = true;
                self.woken.notify_all();
            } else {
                self.log.sync(self.log.end())?;
            }
        }
        let mut queue = lock(&self.queue);
        while queue.len() >= QUEUE_MAX && self.threads {
            self.log.admit()?;
            lock(&self.wake).sync = true;
            self.woken.notify_all();
            let (again, _) = self
                .queue_room
                .wait_timeout(queue, Duration::from_millis(50))
                .unwrap_or_else(PoisonError::into_inner);
            queue = again;
        }
        Ok(())
    }

    fn sync_loop(&self) {
        while !self.stopping.load(Relaxed) {
            let wake = lock(&self.wake);
            let (mut wake, _) = self
                .woken
                .wait_timeout_while(wake, SYNC_INTERVAL, |wake| {
                    !wake.sync && !self.stopping.load(Relaxed)
                })
                .unwrap_or_else(PoisonError::into_inner);
            wake.sync = false;
            drop(wake);
            // A failure makes the log refuse and is logged there.
            let _ = self.log.sync(self.log.end());
            self.progressed.notify_all();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The leaf a block is in, and its place there.
fn leaf_of(block: u64) -> (u32, usize) {
    let leaf = u32::try_from(block / crate::LEAF_BLOCKS as u64).unwrap_or(u32::MAX);
    (
        leaf,
        usize::try_from(block % crate::LEAF_BLOCKS as u64).unwrap_or(0),
    )
}
