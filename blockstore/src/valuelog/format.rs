//! The bytes of a segment, encoded and decoded without I/O. All integers are little endian.
//!
//! ```text
//! segment  = header page (4096) · batch … · footer · trailer (64)
//! batch    = batch header (80) · entry … · padding to 8 · payload (n × 4096)
//!            starts at a multiple of 64, and at a multiple of 4096 when a sync came before it
//! entry    = fixed part (56) · one CRC (4) for each payload block
//! footer   = footer header (32) · the entries that carry payload, each with its file offset
//! trailer  = where the footer is; a segment with a valid trailer is sealed
//! ```
//!
//! A block's stored check is `crc32(payload) ^ crc32(birth)`: a block found under a wrong birth fails
//! like a damaged one, and the plain CRC of the payload is recovered without reading it.

use crate::{BLOCK, Birth, Epoch, LogId, Lsn, MapId, SegmentId};

/// The version of everything in this file.
pub(crate) const VERSION: u32 = 1;
/// Bytes of the segment header page; the first batch starts behind it.
pub(crate) const SEGMENT_HEADER: usize = 4096;
/// Bytes of a batch header.
pub(crate) const BATCH_HEADER: usize = 80;
/// Bytes of the trailer.
pub(crate) const TRAILER: usize = 64;
/// Batches start at multiples of this.
pub(crate) const BATCH_ALIGN: u64 = 64;
/// Most payload blocks in one batch (4 MiB).
pub(crate) const BATCH_BLOCKS_MAX: usize = 1024;

const ENTRY_FIXED: usize = 56;
const FOOTER_HEADER: usize = 32;
const SEGMENT_MAGIC: &[u8; 8] = b"INFSEGMT";
const BATCH_MAGIC: u32 = u32::from_le_bytes(*b"INFB");
const FOOTER_MAGIC: u32 = u32::from_le_bytes(*b"INFF");
const TRAILER_MAGIC: &[u8; 8] = b"INFSEGND";

/// Why bytes are not what they should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FormatError {
    /// Not ours, or damaged.
    #[error("not a valid {what}")]
    Invalid { what: &'static str },
    /// Written by a later release.
    #[error(
        "{what} has format version {found}, this release reads up to {VERSION}; use the release that wrote it"
    )]
    Newer { what: &'static str, found: u32 },
}

/// A place in the node's sequence of segments; positions only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Position {
    /// Which segment.
    pub(crate) segment: SegmentId,
    /// Byte offset in it.
    pub(crate) offset: u64,
}

/// The first page of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) store: [u8; 16],
    pub(crate) segment: SegmentId,
    pub(crate) boot: u64,
    /// The first segment of this boot: those from there to this one follow without a gap.
    pub(crate) first: SegmentId,
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut page = Vec::with_capacity(SEGMENT_HEADER);
        page.extend_from_slice(SEGMENT_MAGIC);
        page.extend_from_slice(&VERSION.to_le_bytes());
        page.extend_from_slice(&0u32.to_le_bytes());
        page.extend_from_slice(&self.store);
        page.extend_from_slice(&self.segment.0.to_le_bytes());
        page.extend_from_slice(&self.boot.to_le_bytes());
        page.extend_from_slice(&self.first.0.to_le_bytes());
        let crc = crc32fast::hash(&page);
        page.extend_from_slice(&crc.to_le_bytes());
        page.resize(SEGMENT_HEADER, 0);
        page
    }

    pub(crate) fn decode(page: &[u8]) -> Result<Self, FormatError> {
        let what = "segment header";
        let mut fields = Fields::of(page, what);
        if fields.take(8)? != SEGMENT_MAGIC {
            return Err(FormatError::Invalid { what });
        }
        let version = fields.u32()?;
        if version > VERSION {
            return Err(FormatError::Newer {
                what,
                found: version,
            });
        }
        fields.u32()?;
        let mut store = [0; 16];
        store.copy_from_slice(fields.take(16)?);
        let header = Self {
            store,
            segment: SegmentId(fields.u64()?),
            boot: fields.u64()?,
            first: SegmentId(fields.u64()?),
        };
        let end = fields.at;
        if fields.u32()? != crc32fast::hash(&page[..end]) {
            return Err(FormatError::Invalid { what });
        }
        Ok(header)
    }

    /// What the first batch names as its predecessor.
    pub(crate) fn chain(&self) -> u32 {
        crc32fast::hash(&self.encode())
    }
}

/// What an entry says happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EntryKind {
    /// A writer begins under a new epoch; `argument` is the previous end of the log.
    Start,
    /// Blocks written: `count` blocks of payload.
    Write,
    /// `argument` blocks from `block` on read as zeroes.
    Zero,
    /// The map as it is now gets a cut at this lsn.
    Seal,
    /// The map's length becomes `argument` bytes.
    Resize,
    /// Not in any log: live blocks moved here by the collector under their old births.
    Move,
}

impl EntryKind {
    const ALL: [(Self, u8); 6] = [
        (Self::Start, 1),
        (Self::Write, 2),
        (Self::Zero, 3),
        (Self::Seal, 4),
        (Self::Resize, 5),
        (Self::Move, 6),
    ];

    fn code(self) -> u8 {
        Self::ALL
            .iter()
            .find(|(kind, _)| *kind == self)
            .map_or(0, |(_, code)| *code)
    }

    fn of(code: u8) -> Option<Self> {
        Self::ALL
            .iter()
            .find(|(_, known)| *known == code)
            .map(|(kind, _)| *kind)
    }
}

/// One entry of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LogEntry {
    pub(crate) kind: EntryKind,
    pub(crate) log: LogId,
    pub(crate) epoch: Epoch,
    /// The first lsn; a Write takes `count` of them, any other entry one.
    pub(crate) lsn: Lsn,
    /// The map it was written through: the births' home.
    pub(crate) map: MapId,
    /// First block in that map.
    pub(crate) block: u64,
    /// Payload blocks.
    pub(crate) count: u32,
    pub(crate) argument: u64,
    /// One per payload block: `crc32(payload) ^ crc32(birth)`.
    pub(crate) checks: Vec<u32>,
}

impl LogEntry {
    /// How many lsns it takes.
    pub(crate) fn lsns(&self) -> u64 {
        if self.kind == EntryKind::Write {
            u64::from(self.count)
        } else {
            1
        }
    }

    pub(crate) fn birth(&self, index: u32) -> Birth {
        Birth {
            log: self.log,
            epoch: self.epoch,
            lsn: Lsn(self.lsn.0 + u64::from(index)),
        }
    }

    fn encode(&self, out: &mut Vec<u8>, payload_offset: u64) {
        out.extend_from_slice(&[self.kind.code(), 0, 0, 0]);
        out.extend_from_slice(&self.epoch.0.to_le_bytes());
        out.extend_from_slice(&self.log.0.to_le_bytes());
        out.extend_from_slice(&self.lsn.0.to_le_bytes());
        out.extend_from_slice(&self.map.0.to_le_bytes());
        out.extend_from_slice(&self.block.to_le_bytes());
        out.extend_from_slice(&self.count.to_le_bytes());
        let place = u32::try_from(payload_offset).unwrap_or(u32::MAX);
        out.extend_from_slice(&place.to_le_bytes());
        out.extend_from_slice(&self.argument.to_le_bytes());
        for check in &self.checks {
            out.extend_from_slice(&check.to_le_bytes());
        }
    }

    fn decode(fields: &mut Fields<'_>) -> Result<(Self, u32), FormatError> {
        let kind =
            EntryKind::of(fields.take(4)?[0]).ok_or(FormatError::Invalid { what: "entry kind" })?;
        let epoch = Epoch(fields.u32()?);
        let log = LogId(fields.u64()?);
        let lsn = Lsn(fields.u64()?);
        let map = MapId(fields.u64()?);
        let block = fields.u64()?;
        let count = fields.u32()?;
        let place = fields.u32()?;
        let argument = fields.u64()?;
        if count as usize > BATCH_BLOCKS_MAX {
            return Err(FormatError::Invalid {
                what: "entry count",
            });
        }
        let mut checks = Vec::with_capacity(count as usize);
        for _ in 0..count {
            checks.push(fields.u32()?);
        }
        Ok((
            Self {
                kind,
                log,
                epoch,
                lsn,
                map,
                block,
                count,
                argument,
                checks,
            },
            place,
        ))
    }
}

/// The CRC of a birth, the other half of a block's check.
pub(crate) fn birth_crc(birth: Birth) -> u32 {
    let mut bytes = [0; 20];
    bytes[..8].copy_from_slice(&birth.log.0.to_le_bytes());
    bytes[8..12].copy_from_slice(&birth.epoch.0.to_le_bytes());
    bytes[12..].copy_from_slice(&birth.lsn.0.to_le_bytes());
    crc32fast::hash(&bytes)
}

/// A batch header with its entries, before it has a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Batch {
    pub(crate) at: Position,
    pub(crate) boot: u64,
    /// Everything below was synced when this batch was written.
    pub(crate) synced: Position,
    /// CRC of the header before this one.
    pub(crate) previous: u32,
    pub(crate) entries: Vec<LogEntry>,
}

impl Batch {
    /// Bytes of header and entries for these entries, padding included.
    pub(crate) fn head_bytes(entries: &[LogEntry]) -> usize {
        let bytes = entries
            .iter()
            .map(|entry| ENTRY_FIXED + 4 * entry.checks.len())
            .sum::<usize>();
        (BATCH_HEADER + bytes).next_multiple_of(8)
    }

    /// Payload blocks.
    pub(crate) fn payload_blocks(&self) -> u64 {
        self.entries
            .iter()
            .map(|entry| u64::from(entry.count))
            .sum()
    }

    /// Where it ends.
    pub(crate) fn end(&self) -> u64 {
        self.at.offset
            + Self::head_bytes(&self.entries) as u64
            + self.payload_blocks() * BLOCK as u64
    }

    /// Header and entries; returns them with the CRC that the next batch names.
    pub(crate) fn encode(&self) -> (Vec<u8>, u32) {
        let head_bytes = Self::head_bytes(&self.entries);
        let mut head = Vec::with_capacity(head_bytes);
        head.extend_from_slice(&BATCH_MAGIC.to_le_bytes());
        head.extend_from_slice(&[0; 4]);
        head.extend_from_slice(&self.at.segment.0.to_le_bytes());
        head.extend_from_slice(&self.boot.to_le_bytes());
        head.extend_from_slice(&self.at.offset.to_le_bytes());
        head.extend_from_slice(&self.synced.segment.0.to_le_bytes());
        head.extend_from_slice(&self.synced.offset.to_le_bytes());
        head.extend_from_slice(&self.previous.to_le_bytes());
        head.extend_from_slice(
            &u32::try_from(self.entries.len())
                .unwrap_or(u32::MAX)
                .to_le_bytes(),
        );
        head.extend_from_slice(&u32::try_from(head_bytes).unwrap_or(u32::MAX).to_le_bytes());
        head.extend_from_slice(
            &u32::try_from(self.payload_blocks())
                .unwrap_or(u32::MAX)
                .to_le_bytes(),
        );
        head.resize(BATCH_HEADER, 0);
        let mut place = 0;
        for entry in &self.entries {
            entry.encode(&mut head, place);
            place += u64::from(entry.count);
        }
        head.resize(head_bytes, 0);
        let crc = crc32fast::hash(&head[8..]);
        head[4..8].copy_from_slice(&crc.to_le_bytes());
        (head, crc)
    }

    /// How long header and entries say they are; reads only the fixed part.
    pub(crate) fn peek(fixed: &[u8]) -> Result<usize, FormatError> {
        let what = "batch header";
        let mut fields = Fields::of(fixed, what);
        if fields.u32()? != BATCH_MAGIC {
            return Err(FormatError::Invalid { what });
        }
        fields.take(52)?;
        let head_bytes = fields.u32()? as usize;
        let limit = BATCH_HEADER + BATCH_BLOCKS_MAX * (ENTRY_FIXED + 4) + 8;
        if !(BATCH_HEADER..=limit).contains(&head_bytes) {
            return Err(FormatError::Invalid { what });
        }
        Ok(head_bytes)
    }

    /// Decodes header and entries; the payload is checked by the caller.
    pub(crate) fn decode(head: &[u8]) -> Result<(Self, u32), FormatError> {
        let what = "batch header";
        let head_bytes = Self::peek(head)?;
        let head = head
            .get(..head_bytes)
            .ok_or(FormatError::Invalid { what })?;
        let mut fields = Fields::of(head, what);
        fields.u32()?;
        let crc = fields.u32()?;
        if crc != crc32fast::hash(&head[8..]) {
            return Err(FormatError::Invalid { what });
        }
        let segment = SegmentId(fields.u64()?);
        let boot = fields.u64()?;
        let at = Position {
            segment,
            offset: fields.u64()?,
        };
        let synced = Position {
            segment: SegmentId(fields.u64()?),
            offset: fields.u64()?,
        };
        let previous = fields.u32()?;
        let count = fields.u32()?;
        fields.at = BATCH_HEADER;
        let mut entries = Vec::new();
        for _ in 0..count {
            entries.push(LogEntry::decode(&mut fields)?.0);
        }
        if Self::head_bytes(&entries) != head_bytes {
            return Err(FormatError::Invalid { what });
        }
        Ok((
            Self {
                at,
                boot,
                synced,
                previous,
                entries,
            },
            crc,
        ))
    }

    /// The file offset of each entry's payload.
    pub(crate) fn payload_offsets(&self) -> impl Iterator<Item = (u64, &LogEntry)> {
        let mut place = self.at.offset + Self::head_bytes(&self.entries) as u64;
        self.entries.iter().map(move |entry| {
            let offset = place;
            place += u64::from(entry.count) * BLOCK as u64;
            (offset, entry)
        })
    }
}

/// What a sealed segment holds: each entry that carries payload, with its file offset.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Footer {
    pub(crate) entries: Vec<(u64, LogEntry)>,
    /// Where the last batch ends, marks without payload included; 0 where an earlier release sealed.
    pub(crate) end: u64,
}

/// Where a trailer says that the footer lies, and what it says of the batches before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Trailer {
    pub(crate) at: u64,
    pub(crate) bytes: u64,
    pub(crate) crc: u32,
    pub(crate) end: u64,
}

impl Footer {
    /// Where it belongs: on the first page behind the batches.
    pub(crate) fn place(&self) -> u64 {
        self.end.next_multiple_of(BLOCK as u64)
    }

    /// Footer and trailer, to be written at [`Self::place`].
    pub(crate) fn encode(&self, segment: SegmentId, boot: u64) -> Vec<u8> {
        let at = self.place();
        let mut body = Vec::new();
        body.extend_from_slice(&FOOTER_MAGIC.to_le_bytes());
        body.extend_from_slice(&VERSION.to_le_bytes());
        body.extend_from_slice(&segment.0.to_le_bytes());
        body.extend_from_slice(&boot.to_le_bytes());
        body.extend_from_slice(&(self.entries.len() as u64).to_le_bytes());
        for (offset, entry) in &self.entries {
            body.extend_from_slice(&offset.to_le_bytes());
            entry.encode(&mut body, 0);
        }
        let length = body.len() as u64;
        let crc = crc32fast::hash(&body);
        let mut trailer = Vec::with_capacity(TRAILER);
        trailer.extend_from_slice(TRAILER_MAGIC);
        trailer.extend_from_slice(&VERSION.to_le_bytes());
        trailer.extend_from_slice(&crc.to_le_bytes());
        trailer.extend_from_slice(&segment.0.to_le_bytes());
        trailer.extend_from_slice(&at.to_le_bytes());
        trailer.extend_from_slice(&length.to_le_bytes());
        let trailer_crc = crc32fast::hash(&trailer);
        trailer.extend_from_slice(&trailer_crc.to_le_bytes());
        trailer.extend_from_slice(&self.end.to_le_bytes());
        let trailer_crc = crc32fast::hash(&trailer);
        trailer.extend_from_slice(&trailer_crc.to_le_bytes());
        trailer.resize(TRAILER, 0);
        body.extend_from_slice(&trailer);
        body
    }

    /// Reads a trailer.
    pub(crate) fn locate(trailer: &[u8], segment: SegmentId) -> Result<Trailer, FormatError> {
        let what = "segment trailer";
        let mut fields = Fields::of(trailer, what);
        if fields.take(8)? != TRAILER_MAGIC {
            return Err(FormatError::Invalid { what });
        }
        let version = fields.u32()?;
        let crc = fields.u32()?;
        let named = SegmentId(fields.u64()?);
        let (at, bytes) = (fields.u64()?, fields.u64()?);
        let checked = fields.at;
        if fields.u32()? != crc32fast::hash(&trailer[..checked]) || named != segment {
            return Err(FormatError::Invalid { what });
        }
        if version > VERSION {
            return Err(FormatError::Newer {
                what,
                found: version,
            });
        }
        let end = fields.u64()?;
        let checked = fields.at;
        // An earlier release left zeroes here.
        if end != 0 && fields.u32()? != crc32fast::hash(&trailer[..checked]) {
            return Err(FormatError::Invalid { what });
        }
        Ok(Trailer {
            at,
            bytes,
            crc,
            end,
        })
    }

    /// Reads the footer that `trailer` has located.
    pub(crate) fn decode(body: &[u8], trailer: Trailer) -> Result<Self, FormatError> {
        let what = "segment footer";
        let mut fields = Fields::of(body, what);
        if crc32fast::hash(body) != trailer.crc || fields.u32()? != FOOTER_MAGIC {
            return Err(FormatError::Invalid { what });
        }
        fields.at = FOOTER_HEADER - 8;
        let count = fields.u64()?;
        let mut entries = Vec::new();
        for _ in 0..count {
            let offset = fields.u64()?;
            entries.push((offset, LogEntry::decode(&mut fields)?.0));
        }
        Ok(Self {
            entries,
            end: trailer.end,
        })
    }
}

/// Takes fixed-size fields off a slice, never past its end.
pub(crate) struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
    what: &'static str,
}

impl<'a> Fields<'a> {
    pub(crate) fn of(bytes: &'a [u8], what: &'static str) -> Self {
        Self { bytes, at: 0, what }
    }

    pub(crate) fn rest(&self) -> usize {
        self.bytes.len() - self.at
    }

    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], FormatError> {
        let end = self
            .at
            .checked_add(count)
            .ok_or(FormatError::Invalid { what: self.what })?;
        let taken = self
            .bytes
            .get(self.at..end)
            .ok_or(FormatError::Invalid { what: self.what })?;
        self.at = end;
        Ok(taken)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, FormatError> {
        Ok(self.take(1)?[0])
    }

    pub(crate) fn u32(&mut self) -> Result<u32, FormatError> {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(self.take(4)?);
        Ok(u32::from_le_bytes(bytes))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, FormatError> {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(self.take(8)?);
        Ok(u64::from_le_bytes(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry() -> impl Strategy<Value = LogEntry> {
        (
            0..6usize,
            any::<[u64; 4]>(),
            any::<u32>(),
            proptest::collection::vec(any::<u32>(), 0..9),
        )
            .prop_map(|(kind, [log, lsn, map, block], epoch, checks)| LogEntry {
                kind: EntryKind::ALL[kind].0,
                log: LogId(log),
                epoch: Epoch(epoch),
                lsn: Lsn(lsn),
                map: MapId(map),
                block,
                count: u32::try_from(checks.len()).unwrap(),
                argument: log ^ lsn,
                checks,
            })
    }

    proptest! {
        #[test]
        fn batches_and_footers_come_back_as_written(entries in proptest::collection::vec(entry(), 0..6), offset: u64) {
            let at = Position { segment: SegmentId(7), offset: offset >> 8 };
            let batch = Batch { at, boot: 3, synced: Position::default(), previous: 9, entries: entries.clone() };
            let (head, crc) = batch.encode();
            prop_assert_eq!(Batch::decode(&head), Ok((batch, crc)));
            let footer = Footer {
                entries: entries.into_iter().map(|entry| (entry.block, entry)).collect(),
                end: 4160,
            };
            let bytes = footer.encode(SegmentId(7), 3);
            let (body, trailer) = bytes.split_at(bytes.len() - TRAILER);
            let located = Footer::locate(trailer, SegmentId(7)).unwrap();
            prop_assert_eq!((located.at, located.bytes), (8192, body.len() as u64));
            prop_assert_eq!(Footer::decode(body, located), Ok(footer));
        }

        #[test]
        fn damaged_heads_are_refused_and_never_panic(entries in proptest::collection::vec(entry(), 1..4), at: u16, bit in 0..8u8) {
            let at_position = Position { segment: SegmentId(1), offset: 4096 };
            let batch = Batch { at: at_position, boot: 1, synced: Position::default(), previous: 0, entries };
            let (mut head, _) = batch.encode();
            let index = at as usize % head.len();
            head[index] ^= 1 << bit;
            prop_assert!(Batch::decode(&head).is_err());
        }

        #[test]
        fn garbage_is_refused_and_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Batch::decode(&bytes);
            let _ = SegmentHeader::decode(&bytes);
            let located = Trailer {
                at: 0,
                bytes: bytes.len() as u64,
                crc: crc32fast::hash(&bytes),
                end: 0,
            };
            let _ = Footer::decode(&bytes, located);
            let _ = Footer::locate(&bytes, SegmentId(1));
        }
    }

    #[test]
    fn a_newer_segment_is_refused_in_words() {
        let mut page = SegmentHeader {
            store: [1; 16],
            segment: SegmentId(2),
            boot: 3,
            first: SegmentId(1),
        }
        .encode();
        page[8] = 9;
        let refusal = SegmentHeader::decode(&page).unwrap_err();
        assert!(refusal.to_string().contains("version 9"), "{refusal}");
    }
}
