//! The index: maps and locations. RocksDB is named in `rocks` only; keys and values are drawn here.
//!
//! ```text
//! maps       map (8, big endian) · leaf (4) · !lsn (8)     → leaf version (see `leaf`)
//! locations  log (8) · first lsn (8)                       → epoch 4 · segment 8 · offset 8 · map 8 · block 8 · count 4 · check 4 …
//! meta       `covered`                                     → segment 8 · offset 8: the log up to here is in
//!            `seg/` · segment (8)                          → live blocks 8 · blocks 8
//!            `log/` · log (8)                              → next lsn 8
//!            `format`                                      → version 4
//! ```

pub(crate) mod leaf;
pub(crate) mod rocks;
pub(crate) mod tables;

use crate::valuelog::format::{Fields, FormatError, Position};
use crate::{Epoch, Error, Kind, LogId, Lsn, MapId, Result, SegmentId, Subject};
use leaf::Version;
use std::sync::Arc;
use tables::{Change, Table, Tables};

const VERSION: u32 = 1;

/// Where a run of births lies on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Location {
    pub(crate) epoch: Epoch,
    pub(crate) segment: SegmentId,
    /// File offset of the first block.
    pub(crate) offset: u64,
    /// The map it was written through, and from which block of it on.
    pub(crate) map: MapId,
    pub(crate) block: u64,
    /// One per block: `crc32(payload) ^ crc32(birth)`.
    pub(crate) checks: Arc<[u32]>,
}

impl Location {
    /// Blocks in the run.
    pub(crate) fn count(&self) -> u64 {
        self.checks.len() as u64
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(40 + 4 * self.checks.len());
        out.extend_from_slice(&self.epoch.0.to_le_bytes());
        for field in [self.segment.0, self.offset, self.map.0, self.block] {
            out.extend_from_slice(&field.to_le_bytes());
        }
        out.extend_from_slice(
            &u32::try_from(self.checks.len())
                .unwrap_or(u32::MAX)
                .to_le_bytes(),
        );
        for check in self.checks.iter() {
            out.extend_from_slice(&check.to_le_bytes());
        }
        out
    }

    fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut fields = Fields::of(bytes, "location");
        let epoch = Epoch(fields.u32()?);
        let segment = SegmentId(fields.u64()?);
        let (offset, map, block) = (fields.u64()?, MapId(fields.u64()?), fields.u64()?);
        let count = fields.u32()? as usize;
        if fields.rest() != count * 4 {
            return Err(FormatError::Invalid { what: "location" });
        }
        let checks = (0..count)
            .map(|_| fields.u32())
            .collect::<Result<Arc<[u32]>, _>>()?;
        Ok(Self {
            epoch,
            segment,
            offset,
            map,
            block,
            checks,
        })
    }
}

/// How much of a segment is alive; a hint for the collector, the maps decide.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SegmentFigures {
    pub(crate) live_blocks: u64,
    pub(crate) blocks: u64,
}

/// A batch of changes under construction.
#[derive(Default)]
pub(crate) struct IndexBatch {
    changes: Vec<Change>,
}

impl IndexBatch {
    fn put(&mut self, table: Table, key: Vec<u8>, value: Vec<u8>) {
        self.changes.push(Change {
            table,
            key,
            value: Some(value),
        });
    }

    fn delete(&mut self, table: Table, key: Vec<u8>) {
        self.changes.push(Change {
            table,
            key,
            value: None,
        });
    }

    pub(crate) fn put_version(&mut self, map: MapId, leaf: u32, lsn: Lsn, version: &Version) {
        self.put(Table::Maps, version_key(map, leaf, lsn), version.encode());
    }

    pub(crate) fn delete_version(&mut self, map: MapId, leaf: u32, lsn: Lsn) {
        self.delete(Table::Maps, version_key(map, leaf, lsn));
    }

    pub(crate) fn put_location(&mut self, log: LogId, lsn: Lsn, location: &Location) {
        self.put(Table::Locations, pair(log.0, lsn.0), location.encode());
    }

    pub(crate) fn delete_location(&mut self, log: LogId, lsn: Lsn) {
        self.delete(Table::Locations, pair(log.0, lsn.0));
    }

    pub(crate) fn put_covered(&mut self, position: Position) {
        self.put(
            Table::Meta,
            b"covered".to_vec(),
            pair(position.segment.0, position.offset),
        );
    }

    pub(crate) fn put_figures(&mut self, segment: SegmentId, figures: SegmentFigures) {
        self.put(
            Table::Meta,
            named(b"seg/", segment.0),
            pair(figures.live_blocks, figures.blocks),
        );
    }

    pub(crate) fn delete_figures(&mut self, segment: SegmentId) {
        self.delete(Table::Meta, named(b"seg/", segment.0));
    }

    pub(crate) fn put_log_end(&mut self, log: LogId, next: Lsn) {
        self.put(
            Table::Meta,
            named(b"log/", log.0),
            next.0.to_be_bytes().to_vec(),
        );
    }
}

/// The typed index over its tables.
pub(crate) struct Index {
    tables: Box<dyn Tables>,
}

impl Index {
    /// Checks the format; a new index is marked with ours.
    pub(crate) fn open(tables: Box<dyn Tables>) -> Result<Self> {
        match tables.get(Table::Meta, b"format")? {
            None => {
                let value = Some(VERSION.to_be_bytes().to_vec());
                tables.write(vec![Change {
                    table: Table::Meta,
                    key: b"format".to_vec(),
                    value,
                }])?;
                tables.checkpoint()?;
            }
            Some(found) if found == VERSION.to_be_bytes() => {}
            Some(found) => {
                let text = format!(
                    "the index has format {found:?}, this release reads {VERSION}; use the release that wrote it"
                );
                return Err(Error::new(Kind::Unsupported, Subject::Store, text));
            }
        }
        Ok(Self { tables })
    }

    pub(crate) fn write(&self, batch: IndexBatch) -> Result<()> {
        self.tables.write(batch.changes)
    }

    pub(crate) fn checkpoint(&self) -> Result<()> {
        self.tables.checkpoint()
    }

    /// The versions of a leaf at or below `at`, newest first, down to an image or the oldest.
    pub(crate) fn chain(&self, map: MapId, leaf: u32, at: Lsn) -> Result<Vec<(Lsn, Version)>> {
        self.versions_from(map, leaf, at, true)
    }

    /// Every version of a leaf, newest first.
    pub(crate) fn versions(&self, map: MapId, leaf: u32) -> Result<Vec<(Lsn, Version)>> {
        self.versions_from(map, leaf, Lsn(u64::MAX), false)
    }

    fn versions_from(
        &self,
        map: MapId,
        leaf: u32,
        at: Lsn,
        stop_at_image: bool,
    ) -> Result<Vec<(Lsn, Version)>> {
        let from = version_key(map, leaf, at);
        let mut versions = Vec::new();
        self.tables.scan(Table::Maps, &from, &mut |key, value| {
            if key.len() != 20 || key[..12] != from[..12] {
                return Ok(false);
            }
            let version = Version::decode(value).map_err(damaged)?;
            let image = version.image;
            versions.push((Lsn(!be(&key[12..])), version));
            Ok(!(image && stop_at_image))
        })?;
        Ok(versions)
    }

    /// The first leaf of `map` at or behind `from` that has a version.
    pub(crate) fn next_leaf(&self, map: MapId, from: u32) -> Result<Option<u32>> {
        let row = self
            .tables
            .next(Table::Maps, &version_key(map, from, Lsn(u64::MAX)))?;
        Ok(row
            .filter(|(key, _)| key.len() == 20 && be(&key[..8]) == map.0)
            .map(|(key, _)| leaf_of(&key)))
    }

    /// The first map at or behind `from` that has leaves.
    pub(crate) fn next_map(&self, from: MapId) -> Result<Option<MapId>> {
        let row = self
            .tables
            .next(Table::Maps, &version_key(from, 0, Lsn(u64::MAX)))?;
        Ok(row.map(|(key, _)| MapId(be(&key[..8]))))
    }

    /// The run that holds this lsn of a log, with its first lsn.
    pub(crate) fn location(&self, log: LogId, lsn: Lsn) -> Result<Option<(Lsn, Location)>> {
        let Some((key, value)) = self
            .tables
            .previous(Table::Locations, &pair(log.0, lsn.0))?
        else {
            return Ok(None);
        };
        if key.len() != 16 || be(&key[..8]) != log.0 {
            return Ok(None);
        }
        let first = Lsn(be(&key[8..]));
        let location = Location::decode(&value).map_err(damaged)?;
        Ok((lsn.0 - first.0 < location.count()).then_some((first, location)))
    }

    /// The log below is in the index.
    pub(crate) fn covered(&self) -> Result<Option<Position>> {
        let value = self.tables.get(Table::Meta, b"covered")?;
        Ok(value.map(|value| Position {
            segment: SegmentId(be(&value[..8])),
            offset: be(&value[8..]),
        }))
    }

    /// The figures of all segments.
    pub(crate) fn figures(&self) -> Result<Vec<(SegmentId, SegmentFigures)>> {
        let mut found = Vec::new();
        self.tables.scan(Table::Meta, b"seg/", &mut |key, value| {
            let Some(segment) = key.strip_prefix(b"seg/") else {
                return Ok(false);
            };
            let figures = SegmentFigures {
                live_blocks: be(&value[..8]),
                blocks: be(&value[8..]),
            };
            found.push((SegmentId(be(segment)), figures));
            Ok(true)
        })?;
        Ok(found)
    }

    /// The lsn that comes next in a log; 1 for a new one.
    pub(crate) fn log_end(&self, log: LogId) -> Result<Lsn> {
        let value = self.tables.get(Table::Meta, &named(b"log/", log.0))?;
        Ok(value.map_or(Lsn(1), |value| Lsn(be(&value))))
    }
}

fn damaged(failure: FormatError) -> Error {
    Error::new(
        Kind::Corrupt,
        Subject::Store,
        "the index holds a record it cannot read",
    )
    .because(failure)
}

fn be(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .take(8)
        .fold(0, |value, byte| value << 8 | u64::from(*byte))
}

fn leaf_of(key: &[u8]) -> u32 {
    key[8..12]
        .iter()
        .fold(0, |value, byte| value << 8 | u32::from(*byte))
}

fn pair(first: u64, second: u64) -> Vec<u8> {
    let mut key = first.to_be_bytes().to_vec();
    key.extend_from_slice(&second.to_be_bytes());
    key
}

fn named(prefix: &[u8], id: u64) -> Vec<u8> {
    let mut key = prefix.to_vec();
    key.extend_from_slice(&id.to_be_bytes());
    key
}

fn version_key(map: MapId, leaf: u32, lsn: Lsn) -> Vec<u8> {
    let mut key = map.0.to_be_bytes().to_vec();
    key.extend_from_slice(&leaf.to_be_bytes());
    key.extend_from_slice(&(!lsn.0).to_be_bytes());
    key
}
