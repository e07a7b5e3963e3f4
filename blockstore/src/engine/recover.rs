//! Opening: reads back what the log holds beyond the index, cuts what never was synced, refuses rot.
//!
//! 1. Everything up to the first invalid batch or missing segment counts; the rest is cut and never returns (the segment is
//!    sealed, new segments carry a new boot number).
//! 2. Some valid header, or the index, says that more had been synced than is valid: that is rot, and
//!    opening is refused.
//! 3. What survives above the synced watermark is written again and synced before anybody may rely on it:
//!    after a failed sync the page cache proves nothing.

use super::{Engine, Inner, Operation, Position};
use crate::index::{Index, Location};
use crate::valuelog::disk::{Disk, DiskFile};
use crate::valuelog::format::{Batch, EntryKind, Footer};
use crate::valuelog::scan::{self, Scan};
use crate::valuelog::{Settings, ValueLog};
use crate::{Error, Kind, MapId, Result, SegmentId, Subject};
use std::collections::HashMap;
use std::sync::Arc;

/// What the log holds beyond the index.
pub(super) struct Tail {
    /// Valid batches behind the covered position, in order.
    pub(super) batches: Vec<Batch>,
    /// The segment that comes next; never used before.
    pub(super) next: SegmentId,
}

struct Found {
    segment: SegmentId,
    file: Arc<dyn DiskFile>,
    scan: Scan,
    /// Sealed, with every batch that its footer names.
    complete: bool,
}

fn corrupt(text: String) -> Error {
    Error::new(Kind::Corrupt, Subject::Store, text)
}

fn name(segment: SegmentId) -> String {
    ValueLog::name(segment)
}

/// Reads, cuts, rewrites and seals.
pub(super) fn read_tail(disk: &dyn Disk, index: &Index, settings: Settings) -> Result<Tail> {
    let covered = index.covered()?.unwrap_or_default();
    let listed = disk.list().map_err(|failure| {
        Error::new(Kind::Internal, Subject::Store, "cannot list the segments").because(failure)
    })?;
    let mut segments: Vec<SegmentId> = listed
        .iter()
        .filter_map(|name| ValueLog::segment_of(name))
        .collect();
    segments.sort_unstable();
    let mut newest = segments
        .last()
        .copied()
        .unwrap_or_default()
        .max(covered.segment);
    for (segment, figures) in index.figures()? {
        newest = newest.max(segment);
        if figures.live_blocks > 0 && segments.binary_search(&segment).is_err() {
            let name = name(segment);
            return Err(corrupt(format!(
                "segment {name} is missing and held {} live blocks; put it back, or restore from a backup",
                figures.live_blocks
            )));
        }
    }
    let mut valid: Vec<Found> = Vec::new();
    let mut cut: Option<Position> = None;
    let mut claimed = covered;
    let mut behind_cut = Vec::new();
    for segment in segments
        .into_iter()
        .filter(|segment| *segment >= covered.segment)
    {
        let unreadable = |failure: Box<dyn std::error::Error + Send + Sync>| {
            let text = format!("segment {} cannot be read", name(segment));
            let newer = failure.to_string().contains("format version");
            Error::new(
                if newer {
                    Kind::Unsupported
                } else {
                    Kind::Corrupt
                },
                Subject::Store,
                text,
            )
            .because(failure)
        };
        let file = disk
            .open(&name(segment))
            .map_err(|failure| unreadable(failure.into()))?;
        let verify_from = if segment == covered.segment {
            covered.offset
        } else {
            0
        };
        let scan = scan::scan(file.as_ref(), segment, verify_from)
            .map_err(|failure| unreadable(failure.into()))?;
        let Some(scan) = scan else {
            cut.get_or_insert(Position { segment, offset: 0 });
            behind_cut.push(segment);
            continue;
        };
        if scan.header.store != settings.store {
            return Err(corrupt(format!(
                "segment {} belongs to another store; take it out",
                name(segment)
            )));
        }
        claimed = scan
            .batches
            .iter()
            .map(|batch| batch.synced)
            .fold(claimed, Position::max);
        if scan.rot {
            return Err(rot(segment, scan.end));
        }
        // A segment of the same boot that vanished took the order of things with it.
        let follows = segment == scan.header.first
            // The covered segment itself may have been collected since.
            || segment.0 <= covered.segment.0 + 1
            || valid.last().is_some_and(|last| last.segment.0 + 1 == segment.0);
        if !follows {
            cut.get_or_insert(Position { segment, offset: 0 });
        }
        if cut.is_some() {
            behind_cut.push(segment);
            continue;
        }
        let carrying = scan
            .batches
            .iter()
            .flat_map(|batch| &batch.entries)
            .filter(|entry| entry.count > 0)
            .count();
        let complete = scan.footer.as_ref().is_some_and(|footer| {
            // Marks carry no payload and are in no footer: without the end, a lost last one would
            // go unnoticed, and later segments would be taken for its sequel.
            footer.entries.len() == carrying && (footer.end == 0 || footer.end == scan.end)
        });
        if !complete {
            cut = Some(Position {
                segment,
                offset: scan.end,
            });
        }
        valid.push(Found {
            segment,
            file,
            scan,
            complete,
        });
    }
    if let Some(cut) = cut
        && claimed > cut
    {
        return Err(rot(cut.segment, cut.offset));
    }
    for segment in behind_cut {
        disk.remove(&name(segment))
            .map_err(|failure| Error::io("remove", name(segment).as_ref(), failure))?;
    }
    for found in &valid {
        repair(disk, found, claimed).map_err(|failure| {
            Error::io(
                "write again the tail of",
                name(found.segment).as_ref(),
                failure,
            )
        })?;
    }
    disk.sync_names()
        .map_err(|failure| Error::io("sync", "the segment directory".as_ref(), failure))?;
    let batches = valid
        .into_iter()
        .flat_map(|found| found.scan.batches)
        .filter(|batch| batch.at >= covered)
        .collect();
    Ok(Tail {
        batches,
        next: SegmentId(newest.0 + 1),
    })
}

fn rot(segment: SegmentId, offset: u64) -> Error {
    corrupt(format!(
        "segment {} is damaged at byte {offset}, in a part that was synced; nothing was changed. \
         Restore the file from a copy of this disk, then run `infall check`",
        name(segment)
    ))
}

/// Writes the part above the watermark once more, cuts the rest, seals and syncs.
fn repair(disk: &dyn Disk, found: &Found, claimed: Position) -> std::io::Result<()> {
    let Found {
        segment,
        file,
        scan,
        complete,
    } = found;
    if scan.batches.is_empty() && !complete {
        return disk.remove(&name(*segment));
    }
    let end = if *complete { file.length()? } else { scan.end };
    let from = if claimed.segment == *segment {
        claimed.offset.min(end)
    } else if claimed.segment > *segment {
        end
    } else {
        0
    };
    let mut at = from;
    let mut piece = vec![0; 1 << 20];
    while at < end {
        let count = usize::try_from((end - at).min(piece.len() as u64)).unwrap_or(piece.len());
        file.read_at(at, &mut piece[..count])?;
        file.write_at(at, &[&piece[..count]])?;
        at += count as u64;
    }
    if from < end || !complete {
        // Also where it looks right: a cut that a failed sync lost would leave zeroes behind the footer.
        file.truncate(end)?;
    }
    if !complete {
        let mut footer = Footer {
            end,
            ..Footer::default()
        };
        for batch in &scan.batches {
            for (offset, entry) in batch.payload_offsets().filter(|(_, entry)| entry.count > 0) {
                footer.entries.push((offset, entry.clone()));
            }
        }
        file.write_at(
            footer.place(),
            &[&footer.encode(*segment, scan.header.boot)],
        )?;
    }
    if from < end || !complete {
        file.sync()
    } else {
        Ok(())
    }
}

impl Engine {
    /// Takes the tail into heads and index; nothing is served before that.
    pub(super) fn replay(&self, batches: Vec<Batch>, upto: Position) -> Result<()> {
        let inner = &self.inner;
        let any = !batches.is_empty();
        let mut rows: HashMap<MapId, Option<bool>> = HashMap::new();
        for batch in batches {
            let end = Position {
                segment: batch.at.segment,
                offset: batch.end(),
            };
            for (offset, entry) in batch.payload_offsets() {
                if entry.kind == EntryKind::Move {
                    let location = location_of(entry, batch.at.segment, offset);
                    let operation = Operation::Move {
                        log: entry.log,
                        lsn: entry.lsn,
                        location,
                    };
                    inner.queue(end, vec![operation]);
                    continue;
                }
                // None: no row; Some(true): a volume's, written through its head.
                let known = match rows.get(&entry.map) {
                    Some(known) => *known,
                    None => {
                        let row = inner.names.map(entry.map)?;
                        *rows
                            .entry(entry.map)
                            .or_insert(row.map(|row| row.log.0 == entry.map.0))
                    }
                };
                inner.replay_entry(entry, known, batch.at.segment, offset, end)?;
            }
            while lock_len(inner) > super::QUEUE_MAX && inner.apply_ready()? {}
        }
        while inner.apply_ready()? {}
        // Heads of removed volumes served the replay only.
        super::lock(&inner.heads).clear();
        super::lock(&inner.progress).applied = upto;
        if any { inner.checkpoint() } else { Ok(()) }
    }
}

fn lock_len(inner: &Inner) -> usize {
    super::lock(&inner.queue).len()
}

fn location_of(
    entry: &crate::valuelog::format::LogEntry,
    segment: SegmentId,
    offset: u64,
) -> Location {
    super::head::located(entry.clone(), segment, offset)
}

impl Inner {
    fn replay_entry(
        &self,
        entry: &crate::valuelog::format::LogEntry,
        known: Option<bool>,
        segment: SegmentId,
        offset: u64,
        end: Position,
    ) -> Result<()> {
        let (log, lsn, map) = (entry.log, entry.lsn, entry.map);
        match (entry.kind, known) {
            (EntryKind::Write, Some(true)) => {
                self.replay_write(entry, location_of(entry, segment, offset), end)
            }
            (EntryKind::Write, Some(false)) => {
                let location = location_of(entry, segment, offset);
                let operation = Operation::Write {
                    log,
                    lsn,
                    map,
                    block: entry.block,
                    location,
                    dead: Vec::new(),
                };
                self.queue(end, vec![operation]);
                Ok(())
            }
            // A map that nobody named, or that is gone: its blocks are garbage in their segment.
            (EntryKind::Write, None) => {
                super::lock(&self.figures)
                    .entry(segment)
                    .or_default()
                    .blocks += u64::from(entry.count);
                self.queue(
                    end,
                    vec![Operation::Mark {
                        log,
                        lsn: crate::Lsn(lsn.0 + u64::from(entry.count) - 1),
                    }],
                );
                Ok(())
            }
            (
                EntryKind::Start | EntryKind::Zero | EntryKind::Seal | EntryKind::Resize,
                Some(true),
            ) => self.replay_mark(entry, end),
            (
                EntryKind::Start
                | EntryKind::Zero
                | EntryKind::Seal
                | EntryKind::Resize
                | EntryKind::Move,
                _,
            ) => {
                self.queue(end, vec![Operation::Mark { log, lsn }]);
                Ok(())
            }
        }
    }
}
