//! Reading segments back: the valid batches of one, and where an unsealed one is cut.

use super::disk::DiskFile;
use super::format::{
    BATCH_ALIGN, BATCH_HEADER, Batch, Footer, FormatError, Position, SEGMENT_HEADER, SegmentHeader,
    TRAILER, birth_crc,
};
use crate::{BLOCK, SegmentId};
use std::io;

/// A segment as found on the disk.
pub(crate) struct Scan {
    pub(crate) header: SegmentHeader,
    /// Valid batches in order.
    pub(crate) batches: Vec<Batch>,
    /// Where the valid part ends.
    pub(crate) end: u64,
    /// It has a footer: it was being sealed at least.
    pub(crate) footer: Option<Footer>,
    /// A valid header behind the end claims that bytes at the end were synced: rot, not a torn tail.
    pub(crate) rot: bool,
}

/// What can go wrong in reading one.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ScanError {
    #[error(transparent)]
    Format(#[from] FormatError),
    #[error("cannot read the segment")]
    Read(#[from] io::Error),
}

/// Reads the footer of a sealed segment; None where there is none.
pub(crate) fn footer(file: &dyn DiskFile, segment: SegmentId) -> Result<Option<Footer>, ScanError> {
    let length = file.length()?;
    if length < (SEGMENT_HEADER + TRAILER) as u64 {
        return Ok(None);
    }
    let mut trailer = [0; TRAILER];
    file.read_at(length - TRAILER as u64, &mut trailer)?;
    let located = match Footer::locate(&trailer, segment) {
        Ok(found) => found,
        Err(FormatError::Invalid { .. }) => return Ok(None),
        Err(newer) => return Err(newer.into()),
    };
    if located.at.checked_add(located.bytes) != Some(length - TRAILER as u64) {
        return Err(FormatError::Invalid {
            what: "segment trailer",
        }
        .into());
    }
    let mut body = vec![0; usize::try_from(located.bytes).unwrap_or(usize::MAX)];
    file.read_at(located.at, &mut body)?;
    Ok(Some(Footer::decode(&body, located)?))
}

/// Reads the batches of a segment; payload from `verify_from` on is checked too.
/// A segment whose first page is not ours yields None: it was created, and lost before its first sync.
pub(crate) fn scan(
    file: &dyn DiskFile,
    segment: SegmentId,
    verify_from: u64,
) -> Result<Option<Scan>, ScanError> {
    let length = file.length()?;
    if length < SEGMENT_HEADER as u64 {
        return Ok(None);
    }
    let mut page = vec![0; SEGMENT_HEADER];
    file.read_at(0, &mut page)?;
    let header = match SegmentHeader::decode(&page) {
        Ok(header) if header.segment == segment => header,
        // Somebody's data under a wrong name must not be taken for a segment that was never synced.
        Ok(_) => {
            return Err(FormatError::Invalid {
                what: "segment: its header names another one",
            }
            .into());
        }
        Err(FormatError::Invalid { .. }) => return Ok(None),
        Err(newer) => return Err(newer.into()),
    };
    // A torn footer is no footer: the segment was being sealed.
    let footer = match footer(file, segment) {
        Err(ScanError::Format(FormatError::Invalid { .. })) => None,
        other => other?,
    };
    let mut found = Scan {
        header,
        batches: Vec::new(),
        end: SEGMENT_HEADER as u64,
        footer,
        rot: false,
    };
    let mut previous = header.chain();
    // A batch follows at once, or on the next page where a sync came in between.
    while let Some((batch, crc)) = next_batch(file, &found, previous, length, verify_from)? {
        found.end = batch.end();
        previous = crc;
        found.batches.push(batch);
    }
    if found.footer.is_none() {
        found.rot = claims_beyond(file, &header, found.end, length)?;
    }
    Ok(Some(found))
}

fn next_batch(
    file: &dyn DiskFile,
    found: &Scan,
    previous: u32,
    length: u64,
    verify_from: u64,
) -> Result<Option<(Batch, u32)>, ScanError> {
    let near = found.end.next_multiple_of(BATCH_ALIGN);
    let page = found.end.next_multiple_of(BLOCK as u64);
    for at in [near, page] {
        if let Some((batch, crc)) = batch_at(file, &found.header, at, length)?
            && batch.previous == previous
            && (batch.at.offset < verify_from || payload_holds(file, &batch)?)
        {
            return Ok(Some((batch, crc)));
        }
    }
    Ok(None)
}

fn batch_at(
    file: &dyn DiskFile,
    header: &SegmentHeader,
    at: u64,
    length: u64,
) -> Result<Option<(Batch, u32)>, ScanError> {
    if at + BATCH_HEADER as u64 > length {
        return Ok(None);
    }
    let mut fixed = [0; BATCH_HEADER];
    file.read_at(at, &mut fixed)?;
    let Ok(head_bytes) = Batch::peek(&fixed) else {
        return Ok(None);
    };
    if at + head_bytes as u64 > length {
        return Ok(None);
    }
    let mut head = vec![0; head_bytes];
    file.read_at(at, &mut head)?;
    let Ok((batch, crc)) = Batch::decode(&head) else {
        return Ok(None);
    };
    let place = Position {
        segment: header.segment,
        offset: at,
    };
    let ours = batch.at == place && batch.boot == header.boot && batch.end() <= length;
    Ok(ours.then_some((batch, crc)))
}

fn payload_holds(file: &dyn DiskFile, batch: &Batch) -> Result<bool, ScanError> {
    let mut block = vec![0; BLOCK];
    for (offset, entry) in batch.payload_offsets() {
        for (index, check) in (0..entry.count).zip(&entry.checks) {
            file.read_at(offset + u64::from(index) * BLOCK as u64, &mut block)?;
            if crc32fast::hash(&block) ^ birth_crc(entry.birth(index)) != *check {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// Looks behind the cut for a header which says that more than the valid part had been synced.
/// The first batch after a sync starts on a page, so pages are enough.
fn claims_beyond(
    file: &dyn DiskFile,
    header: &SegmentHeader,
    end: u64,
    length: u64,
) -> Result<bool, ScanError> {
    let mut at = end.next_multiple_of(BLOCK as u64);
    while at + BATCH_HEADER as u64 <= length {
        if let Some((batch, _)) = batch_at(file, header, at, length)?
            && batch.synced
                > (Position {
                    segment: header.segment,
                    offset: end,
                })
        {
            return Ok(true);
        }
        at += BLOCK as u64;
    }
    Ok(false)
}
