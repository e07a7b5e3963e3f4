//! Reading objects.
//!
//! 1. What was opened stays readable, whole and unchanged, though its name is removed or replaced.
//! 2. A row read outside a transaction may be gone a moment later; opening reads it again then.

use super::row::{self, ObjectRow};
use super::{Body, Object, Piece, ReadAt, version};
use crate::catalog::keys;
use crate::volume::Extent;
use crate::{Error, Kind, Result, SealedMap, Store, Subject, View};
use std::collections::BTreeMap;
use std::sync::Arc;

/// How often opening follows a name that is being replaced.
const OPEN_TRIES: usize = 8;

impl Store {
    /// The current version of an object; NotFound names the bucket or the object.
    pub fn object_head(&self, bucket: &str, key: &str) -> Result<Object> {
        Ok(row::expect(&self.shared.catalog, bucket, key)?.object)
    }

    /// The newest version of a key, also if that is a delete marker.
    pub fn object_latest(&self, bucket: &str, key: &str) -> Result<Object> {
        if let Some(row) = row::read(&self.shared.catalog, bucket, key)? {
            return Ok(row.object);
        }
        self.shared
            .catalog
            .frozen(|rows| match version::latest(rows, bucket, key)? {
                Some(row) => Ok(row.object),
                None => row::expect(rows, bucket, key).map(|row| row.object),
            })
    }

    /// One version of an object; it may be a delete marker. NotFound names the bucket or the version,
    /// Invalid for what is no version id.
    pub fn object_version(&self, bucket: &str, key: &str, version: &str) -> Result<Object> {
        let found = self
            .shared
            .catalog
            .frozen(|rows| version::expect(rows, bucket, key, version))?;
        Ok(found.row.object)
    }

    /// The object and its bytes, which stay readable though it is removed or replaced meanwhile.
    pub fn object_open(&self, bucket: &str, key: &str) -> Result<(Object, Arc<dyn ReadAt>)> {
        let (row, reader) = self.open_row(bucket, key, None)?;
        Ok((row.object, reader))
    }

    /// As [`Self::object_open`], of one version. Invalid for a delete marker: it has no bytes.
    pub fn object_version_open(
        &self,
        bucket: &str,
        key: &str,
        version: &str,
    ) -> Result<(Object, Arc<dyn ReadAt>)> {
        let (row, reader) = self.open_row(bucket, key, Some(version))?;
        Ok((row.object, reader))
    }

    /// As [`Self::object_open`], with the incarnation.
    pub(super) fn open_row(
        &self,
        bucket: &str,
        key: &str,
        version: Option<&str>,
    ) -> Result<(ObjectRow, Arc<dyn ReadAt>)> {
        let catalog = &self.shared.catalog;
        let find = || match version {
            None => row::expect(catalog, bucket, key),
            Some(_) => catalog
                .frozen(|rows| version::chosen_object(rows, bucket, key, version))
                .map(|found| found.row),
        };
        self.open_found(&find, &|row| keys::body(row.seq))
    }

    /// Opens what `find` finds, again if it was replaced in between. `inline` says where in the catalog
    /// a small body lies.
    pub(super) fn open_found(
        &self,
        find: &dyn Fn() -> Result<ObjectRow>,
        inline: &dyn Fn(&ObjectRow) -> Vec<u8>,
    ) -> Result<(ObjectRow, Arc<dyn ReadAt>)> {
        let mut tried: Option<ObjectRow> = None;
        for _ in 0..OPEN_TRIES {
            let row = find()?;
            if let Some(reader) = self.open_body(&row, &inline(&row))? {
                return Ok((row, reader));
            }
            if tried.is_some_and(|tried| tried.seq == row.seq) {
                // The row did not change, so nobody took its bytes away in between.
                let text = format!(
                    "{} names bytes that the store does not have; run `infall check`",
                    row::subject(&row.object.bucket, &row.object.key)
                );
                return Err(Error::new(Kind::Corrupt, Subject::Object, text));
            }
            tried = Some(row);
        }
        let text = match tried {
            Some(row) => row::subject(&row.object.bucket, &row.object.key),
            None => "the object".into(),
        };
        let text = format!("{text} is replaced faster than it can be opened: try again");
        Err(Error::new(Kind::Unavailable, Subject::Object, text))
    }

    /// `None`: the row is no longer the current one.
    fn open_body(&self, row: &ObjectRow, inline: &[u8]) -> Result<Option<Arc<dyn ReadAt>>> {
        let reader: Arc<dyn ReadAt> = match &row.object.body {
            Body::Inline => match self.shared.catalog.get(inline)? {
                Some(bytes) => Arc::new(Inline { bytes }),
                None => return Ok(None),
            },
            Body::Map(sealed) => match self.shared.engine.view(*sealed) {
                Ok(view) => Arc::new(view),
                Err(error) if error.kind() == Kind::NotFound => return Ok(None),
                Err(error) => return Err(error),
            },
            Body::Concat(pieces) => match self.open_pieces(pieces)? {
                Some(concat) => Arc::new(concat),
                None => return Ok(None),
            },
        };
        if reader.length_bytes() != row.object.length_bytes {
            let (found, wanted) = (reader.length_bytes(), row.object.length_bytes);
            let text = format!(
                "{} has {found} bytes stored, {wanted} in its row; run `infall check`",
                row.object.key
            );
            return Err(Error::new(Kind::Corrupt, Subject::Object, text));
        }
        Ok(Some(reader))
    }

    fn open_pieces(&self, pieces: &[Piece]) -> Result<Option<Concat<View>>> {
        let mut views: BTreeMap<SealedMap, View> = BTreeMap::new();
        let mut opened = Vec::with_capacity(pieces.len());
        for piece in pieces {
            let view = match views.get(&piece.sealed) {
                Some(view) => view.clone(),
                None => match self.shared.engine.view(piece.sealed) {
                    Ok(view) => views.entry(piece.sealed).or_insert(view).clone(),
                    Err(error) if error.kind() == Kind::NotFound => return Ok(None),
                    Err(error) => return Err(error),
                },
            };
            opened.push((*piece, view));
        }
        Ok(Some(Concat::new(opened)))
    }
}

struct Inline {
    bytes: Vec<u8>,
}

impl ReadAt for Inline {
    fn length_bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        check_range(offset, buffer.len(), self.length_bytes())?;
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        buffer.copy_from_slice(&self.bytes[start..start + buffer.len()]);
        Ok(())
    }
}

/// Pieces one behind the other.
struct Concat<R> {
    /// Each with the offset at which it begins; none is empty.
    pieces: Vec<(u64, Piece, R)>,
    length_bytes: u64,
}

impl<R> Concat<R> {
    fn new(opened: Vec<(Piece, R)>) -> Self {
        let mut length_bytes = 0;
        let mut pieces = Vec::with_capacity(opened.len());
        for (piece, reader) in opened
            .into_iter()
            .filter(|(piece, _)| piece.length_bytes > 0)
        {
            pieces.push((length_bytes, piece, reader));
            length_bytes += piece.length_bytes;
        }
        Self {
            pieces,
            length_bytes,
        }
    }
}

impl<R: ReadAt> ReadAt for Concat<R> {
    fn length_bytes(&self) -> u64 {
        self.length_bytes
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        check_range(offset, buffer.len(), self.length_bytes)?;
        let mut at = self
            .pieces
            .partition_point(|(start, ..)| *start <= offset)
            .saturating_sub(1);
        let (mut offset, mut rest) = (offset, buffer);
        while !rest.is_empty() {
            let (start, piece, reader) = &self.pieces[at];
            let inside = offset - start;
            let count = usize::try_from(piece.length_bytes - inside)
                .unwrap_or(usize::MAX)
                .min(rest.len());
            let (now, later) = rest.split_at_mut(count);
            reader.read_at(piece.offset_bytes + inside, now)?;
            rest = later;
            offset += count as u64;
            at += 1;
        }
        Ok(())
    }

    fn extents(&self, offset: u64, length: u64, max: usize) -> Result<Vec<Extent>> {
        check_range(offset, 0, self.length_bytes)?;
        let end = offset.saturating_add(length).min(self.length_bytes);
        let first = self.pieces.partition_point(|(start, ..)| *start <= offset);
        let mut runs = Vec::new();
        let mut at = offset;
        for (start, piece, reader) in &self.pieces[first.saturating_sub(1)..] {
            let upto = (start + piece.length_bytes).min(end);
            while at < upto && runs.len() <= max {
                let inside = piece.offset_bytes + (at - start);
                for known in reader.extents(inside, upto - at, max)? {
                    let shown = Extent {
                        offset: start + (known.offset - piece.offset_bytes),
                        ..known
                    };
                    at = shown.offset + shown.length;
                    shown.join(&mut runs);
                }
            }
            if at >= end || runs.len() > max {
                break;
            }
        }
        runs.truncate(max);
        Ok(runs)
    }
}

/// A range of an object as if it were all.
pub(super) struct Ranged {
    pub(super) whole: Arc<dyn ReadAt>,
    pub(super) offset_bytes: u64,
    pub(super) length_bytes: u64,
}

impl ReadAt for Ranged {
    fn length_bytes(&self) -> u64 {
        self.length_bytes
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        check_range(offset, buffer.len(), self.length_bytes)?;
        self.whole.read_at(self.offset_bytes + offset, buffer)
    }

    fn extents(&self, offset: u64, length: u64, max: usize) -> Result<Vec<Extent>> {
        let runs = self
            .whole
            .extents(self.offset_bytes + offset, length, max)?;
        let own = |run: Extent| Extent {
            offset: run.offset - self.offset_bytes,
            ..run
        };
        Ok(runs.into_iter().map(own).collect())
    }
}

fn check_range(offset: u64, count: usize, length_bytes: u64) -> Result<()> {
    match offset.checked_add(count as u64) {
        Some(end) if end <= length_bytes => Ok(()),
        _ => {
            let text =
                format!("{count} bytes from {offset} reach behind the end at {length_bytes}");
            Err(Error::new(Kind::Invalid, Subject::Range, text))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Lsn, MapId};

    #[test]
    fn a_concat_reads_as_its_pieces_side_by_side() {
        let sealed = SealedMap {
            map: MapId(1),
            lsn: Lsn(1),
            length_bytes: 100,
        };
        let piece = |offset_bytes, length_bytes| Piece {
            sealed,
            offset_bytes,
            length_bytes,
        };
        let source = || Inline {
            bytes: (0..100).collect(),
        };
        let pieces = [
            piece(10, 5),
            piece(0, 0),
            piece(50, 1),
            piece(0, 100),
            piece(99, 1),
        ];
        let expected: Vec<u8> = (10..15)
            .chain(50..51)
            .chain(0..100)
            .chain(99..100)
            .collect();
        let concat = Concat::new(pieces.map(|piece| (piece, source())).into());
        assert_eq!(concat.length_bytes(), expected.len() as u64);
        for start in 0..=expected.len() {
            for end in start..=expected.len() {
                let mut buffer = vec![0; end - start];
                concat.read_at(start as u64, &mut buffer).unwrap();
                assert_eq!(buffer, expected[start..end]);
            }
        }
        for (offset, count) in [(107, 1), (100, 8), (u64::MAX, 1), (108, 0)] {
            let error = concat.read_at(offset, &mut vec![0; count]).unwrap_err();
            assert_eq!(
                (error.kind(), error.subject()),
                (Kind::Invalid, Subject::Range)
            );
        }
    }

    /// Ten bytes of data, ten of hole, and so on.
    struct Striped;

    impl ReadAt for Striped {
        fn length_bytes(&self) -> u64 {
            100
        }
        fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
            for (byte, at) in buffer.iter_mut().zip(offset..) {
                *byte = u8::from((at / 10).is_multiple_of(2));
            }
            Ok(())
        }
        fn extents(&self, offset: u64, length: u64, _max: usize) -> Result<Vec<Extent>> {
            // One run a call: less than asked for is allowed.
            let end = (offset / 10 * 10 + 10).min(offset + length);
            let data = (offset / 10).is_multiple_of(2);
            Ok(vec![Extent {
                offset,
                length: end - offset,
                data,
            }])
        }
    }

    #[test]
    fn a_concats_extents_agree_with_its_bytes_and_join_over_its_pieces() {
        let sealed = SealedMap {
            map: MapId(1),
            lsn: Lsn(1),
            length_bytes: 100,
        };
        let piece = |offset_bytes, length_bytes| Piece {
            sealed,
            offset_bytes,
            length_bytes,
        };
        let concat = Concat::new(vec![
            (piece(5, 30), Striped),
            (piece(40, 7), Striped),
            (piece(0, 100), Striped),
        ]);
        let mut bytes = vec![0; 137];
        concat.read_at(0, &mut bytes).unwrap();
        for max in [1, 2, usize::MAX] {
            for start in 0..bytes.len() {
                let length = (bytes.len() - start) as u64;
                let runs = concat.extents(start as u64, length, max).unwrap();
                assert!(!runs.is_empty() && runs.len() <= max);
                let mut at = start as u64;
                for run in &runs {
                    assert_eq!(run.offset, at);
                    at += run.length;
                    let shown = &bytes[index(run.offset)..index(at)];
                    assert!(shown.iter().all(|byte| (*byte == 1) == run.data));
                }
                assert!(runs.windows(2).all(|pair| pair[0].data != pair[1].data));
                assert!(max < usize::MAX || at == bytes.len() as u64);
            }
        }
    }

    fn index(offset: u64) -> usize {
        usize::try_from(offset).unwrap()
    }
}
