//! Volumes as files: reads, writes, holes, and the one writer token of the mount.
//!
//! ```text
//!   handle ──┐                     first write: take the token      last writing handle
//!   handle ──┼─▶ OpenVolume ─▶ none ──────────────────────────▶ held ─────────────────▶ none
//!   handle ──┘                                                       closed: flush, release
//! ```
//! 1. All handles of a mount on one volume share one `OpenVolume`, and through it one token.
//! 2. A handle that never wrote holds nothing: a file opened read-write and only read leaves the
//!    volume to others.
//! 3. The token goes back only after a flush.

use super::allocation::{self, Seek};
use super::failure::{Failure, Result};
use super::locked;
use blockstore::volume::VolumeInfo;
use blockstore::{MapId, Store, Volume, Writer};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

/// How long a count of allocated bytes is believed when this mount wrote nothing meanwhile.
const MEASURE_VALID: Duration = Duration::from_secs(1);

/// A volume that some handle of this mount has open.
pub(super) struct OpenVolume {
    volume: Volume,
    /// Under which name the mount takes the token.
    holder: Arc<str>,
    writing: Mutex<Writing>,
    /// Writes and punches through this mount so far.
    changes: AtomicU64,
    /// When the last of them was, milliseconds since the Unix epoch; 0 for never.
    modified_ms: Arc<AtomicU64>,
    measured: Mutex<Option<Measured>>,
}

/// The token, and how many handles wrote with it.
#[derive(Default)]
struct Writing {
    writer: Option<Writer>,
    handles: usize,
}

struct Measured {
    at: Instant,
    changes: u64,
    allocated_bytes: u64,
}

impl OpenVolume {
    pub(super) fn new(volume: Volume, holder: Arc<str>, modified_ms: Arc<AtomicU64>) -> Self {
        let (writing, measured) = (Mutex::default(), Mutex::default());
        Self {
            volume,
            holder,
            writing,
            changes: AtomicU64::new(0),
            modified_ms,
            measured,
        }
    }

    /// Bytes stored, counted again after a change or a second.
    pub(super) fn allocated_bytes(&self) -> Result<u64> {
        let changes = self.changes.load(Ordering::Acquire);
        let mut measured = locked(&self.measured);
        let valid =
            |known: &&Measured| known.changes == changes && known.at.elapsed() < MEASURE_VALID;
        if let Some(known) = measured.as_ref().filter(valid) {
            return Ok(known.allocated_bytes);
        }
        let allocated_bytes = allocation::allocated_bytes(&self.volume)?;
        *measured = Some(Measured {
            at: Instant::now(),
            changes,
            allocated_bytes,
        });
        Ok(allocated_bytes)
    }

    fn flush(&self) -> Result<()> {
        let writer = locked(&self.writing).writer.clone();
        match writer {
            Some(writer) => Ok(writer.flush()?),
            None => Ok(()),
        }
    }

    fn changed(&self) {
        self.changes.fetch_add(1, Ordering::Release);
        self.modified_ms.store(now_ms(), Ordering::Relaxed);
    }
}

/// One open file on a volume.
pub(super) struct VolumeHandle {
    open: Arc<OpenVolume>,
    may_write: bool,
    wrote: AtomicBool,
}

impl VolumeHandle {
    pub(super) fn new(open: Arc<OpenVolume>, may_write: bool) -> Self {
        Self {
            open,
            may_write,
            wrote: AtomicBool::new(false),
        }
    }

    /// Fills `buffer` from `offset`, less at the volume's end.
    pub(super) fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let volume = &self.open.volume;
        let count = within(offset, buffer.len(), volume.length_bytes());
        if count > 0 {
            volume.read_at(offset, &mut buffer[..count])?;
        }
        Ok(count)
    }

    /// Writes what fits before the volume's end; with `sync` it is on the device on return.
    pub(super) fn write(&self, offset: u64, bytes: &[u8], sync: bool) -> Result<usize> {
        let length_bytes = self.open.volume.length_bytes();
        let count = within(offset, bytes.len(), length_bytes);
        if count == 0 && !bytes.is_empty() {
            return Err(Failure::PastEnd {
                offset,
                length_bytes,
            });
        }
        let writer = self.writer()?;
        writer.write_at(offset, &bytes[..count])?;
        self.open.changed();
        if sync {
            writer.flush()?;
        }
        Ok(count)
    }

    /// Frees a range; what lies behind the end is no concern of it.
    pub(super) fn punch(&self, offset: u64, length: u64) -> Result<()> {
        let length_bytes = self.open.volume.length_bytes();
        let count = length.min(length_bytes.saturating_sub(offset));
        let writer = self.writer()?;
        if count > 0 {
            writer.zero(offset, count)?;
            self.open.changed();
        }
        Ok(())
    }

    /// As `punch`, but a range that would make the file longer is refused.
    pub(super) fn zero_range(&self, offset: u64, length: u64) -> Result<()> {
        let length_bytes = self.open.volume.length_bytes();
        if offset
            .checked_add(length)
            .is_none_or(|end| end > length_bytes)
        {
            return Err(Failure::PastEnd {
                offset: offset.saturating_add(length),
                length_bytes,
            });
        }
        self.punch(offset, length)
    }

    pub(super) fn seek(&self, offset: u64, wanted: Seek) -> Result<u64> {
        allocation::seek(&self.open.volume, offset, wanted)
    }

    /// Everything written to the volume through this mount, by any handle, is on the device.
    pub(super) fn sync(&self) -> Result<()> {
        self.open.flush()
    }

    /// A descriptor of this handle is being closed: if it wrote, its caller learns how that ended.
    pub(super) fn closing(&self) -> Result<()> {
        if self.wrote.load(Ordering::Acquire) {
            self.open.flush()
        } else {
            Ok(())
        }
    }

    /// The last descriptor is closed: flush, and give the token back if nobody else here writes.
    pub(super) fn release(&self) -> Result<()> {
        let flushed = self.closing();
        let mut writing = locked(&self.open.writing);
        if self.wrote.swap(false, Ordering::AcqRel) {
            assert!(writing.handles > 0, "a handle that wrote is counted");
            writing.handles -= 1;
            if writing.handles == 0 {
                writing.writer = None;
            }
        }
        flushed
    }

    /// The token, taken at the first write of the mount's first writing handle.
    fn writer(&self) -> Result<Writer> {
        if !self.may_write {
            return Err(Failure::BadHandle);
        }
        let mut writing = locked(&self.open.writing);
        let writer = match &writing.writer {
            Some(writer) => writer.clone(),
            None => self.open.volume.writer(&self.open.holder)?,
        };
        writing.writer = Some(writer.clone());
        if !self.wrote.swap(true, Ordering::AcqRel) {
            writing.handles += 1;
        }
        Ok(writer)
    }
}

/// The volume `name` if it is still the one with this map.
pub(super) fn volume_as(store: &Store, name: &str, map: MapId) -> Result<VolumeInfo> {
    let volume = store.volume_info(name).map_err(super::tree::gone)?;
    if volume.map == map {
        Ok(volume)
    } else {
        Err(Failure::Replaced)
    }
}

/// How many of `count` bytes from `offset` lie before `length`.
pub(super) fn within(offset: u64, count: usize, length: u64) -> usize {
    usize::try_from(length.saturating_sub(offset))
        .unwrap_or(usize::MAX)
        .min(count)
}

/// The wall clock, milliseconds since the Unix epoch.
pub(super) fn now_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
