//! Makes the map of an image out of the maps of an object: what lies on the 4 KiB grid is shown as it
//! is, the rest is written.
//!
//! 1. Guest offsets only grow, whether shown or written; no byte of an image comes twice.
//! 2. A block is shown only if all of it lies in one piece of the object and on the grid of that
//!    piece's map. All other blocks are put together and written, but for those of zeroes.
//! 3. Memory: one piece of a write (1 MiB), two clusters.

use crate::engine::Composer;
use crate::image::run::{ImageFile, Run, RunKind, RunReader};
use crate::object::Piece;
use crate::{BLOCK, Result, SealedMap};

const BLOCK_BYTES: u64 = BLOCK as u64;
/// Written at once.
const WRITE_BYTES: usize = 1 << 20;
const ZEROES: [u8; BLOCK] = [0; BLOCK];

/// What an image's map is made on.
pub(crate) trait Target {
    /// Shows the births of `from`; everything is a multiple of 4096.
    fn show(
        &mut self,
        guest_offset: u64,
        length: u64,
        from: SealedMap,
        from_offset: u64,
    ) -> Result<()>;
    /// Writes whole blocks anew.
    fn write(&mut self, guest_offset: u64, bytes: &[u8]) -> Result<()>;
}

impl Target for Composer {
    fn show(
        &mut self,
        guest_offset: u64,
        length: u64,
        from: SealedMap,
        from_offset: u64,
    ) -> Result<()> {
        Composer::show(self, guest_offset, length, from, from_offset)
    }

    fn write(&mut self, guest_offset: u64, bytes: &[u8]) -> Result<()> {
        Composer::write(self, guest_offset, bytes)
    }
}

/// What was shared and written, for the report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Bytes shown by one more map.
    pub(crate) shared_bytes: u64,
    /// Bytes of blocks written; blocks of zeroes are left out.
    pub(crate) written_bytes: u64,
    /// Compressed clusters unpacked.
    pub(crate) clusters_unpacked: u64,
    /// Bytes that lie in no map, because the object is kept in the catalog.
    pub(crate) inline_bytes: u64,
    /// Bytes off the grid.
    pub(crate) unaligned_bytes: u64,
}

/// Shows and writes `runs` of `image`, whose file is the object that consists of `pieces` (none: it
/// lies in no map).
pub(crate) fn compose(
    target: &mut impl Target,
    pieces: &[Piece],
    image: ImageFile<'_>,
    runs: impl Iterator<Item = Result<Run>>,
) -> Result<Tally> {
    let blocks = Blocks {
        target,
        start: 0,
        bytes: Vec::new(),
        written_bytes: 0,
    };
    let mut composing = Composing {
        blocks,
        pieces: Pieces::new(pieces),
        reader: image.reader()?,
        tally: Tally::default(),
    };
    let mut cluster = Vec::new();
    for run in runs {
        let run = run?;
        match run.kind {
            RunKind::Zero => {}
            RunKind::Stored { file_offset } => composing.stored(&run, file_offset)?,
            RunKind::Compressed { .. } => {
                composing.tally.clusters_unpacked += 1;
                composing.copy(&run, 0, run.length, &mut cluster)?;
            }
        }
    }
    composing.blocks.flush()?;
    Ok(Tally {
        written_bytes: composing.blocks.written_bytes,
        ..composing.tally
    })
}

struct Composing<'a, T> {
    blocks: Blocks<'a, T>,
    pieces: Pieces<'a>,
    reader: RunReader<'a>,
    tally: Tally,
}

impl<T: Target> Composing<'_, T> {
    fn stored(&mut self, run: &Run, file_offset: u64) -> Result<()> {
        let mut buffer = Vec::new();
        let mut skip = 0;
        while skip < run.length {
            let left = run.length - skip;
            let Some(found) = self.pieces.at(file_offset + skip) else {
                self.tally.inline_bytes += left;
                return self.copy(run, skip, left, &mut buffer);
            };
            let length = left.min(found.length);
            let guest = run.guest_offset + skip;
            let (first, last) = (
                guest.next_multiple_of(BLOCK_BYTES),
                (guest + length) / BLOCK_BYTES * BLOCK_BYTES,
            );
            if guest % BLOCK_BYTES == found.map_offset % BLOCK_BYTES && first < last {
                self.tally.unaligned_bytes += length - (last - first);
                self.copy(run, skip, first - guest, &mut buffer)?;
                self.blocks.flush()?;
                self.blocks.target.show(
                    first,
                    last - first,
                    found.sealed,
                    found.map_offset + (first - guest),
                )?;
                self.tally.shared_bytes += last - first;
                self.copy(
                    run,
                    skip + (last - guest),
                    guest + length - last,
                    &mut buffer,
                )?;
            } else {
                self.tally.unaligned_bytes += length;
                self.copy(run, skip, length, &mut buffer)?;
            }
            skip += length;
        }
        Ok(())
    }

    fn copy(&mut self, run: &Run, skip: u64, length: u64, buffer: &mut Vec<u8>) -> Result<()> {
        let mut done = 0;
        while done < length {
            let step = (length - done).min(WRITE_BYTES as u64);
            buffer.resize(usize::try_from(step).unwrap_or(usize::MAX), 0);
            self.reader.read(run, skip + done, buffer)?;
            self.blocks.put(run.guest_offset + skip + done, buffer)?;
            done += step;
        }
        Ok(())
    }
}

/// Finds the piece behind an offset of the object.
struct Pieces<'a> {
    pieces: &'a [Piece],
    starts: Vec<u64>,
}

struct Found {
    sealed: SealedMap,
    map_offset: u64,
    /// Bytes from there to the piece's end.
    length: u64,
}

impl<'a> Pieces<'a> {
    fn new(pieces: &'a [Piece]) -> Self {
        let mut starts = Vec::with_capacity(pieces.len());
        let mut end = 0;
        for piece in pieces {
            starts.push(end);
            end += piece.length_bytes;
        }
        Self { pieces, starts }
    }

    fn at(&self, offset: u64) -> Option<Found> {
        let index = self
            .starts
            .partition_point(|start| *start <= offset)
            .checked_sub(1)?;
        let (piece, skip) = (&self.pieces[index], offset - self.starts[index]);
        (skip < piece.length_bytes).then(|| Found {
            sealed: piece.sealed,
            map_offset: piece.offset_bytes + skip,
            length: piece.length_bytes - skip,
        })
    }
}

/// Puts bytes together to whole blocks, and writes those that are not zeroes.
struct Blocks<'a, T> {
    target: &'a mut T,
    /// Guest offset of the first byte held; the beginning of a block.
    start: u64,
    bytes: Vec<u8>,
    written_bytes: u64,
}

impl<T: Target> Blocks<'_, T> {
    fn put(&mut self, guest_offset: u64, bytes: &[u8]) -> Result<()> {
        let held_end = self.start + self.bytes.len() as u64;
        assert!(
            guest_offset >= held_end || self.bytes.is_empty(),
            "guest offsets grow: {guest_offset} after {held_end}"
        );
        if self.bytes.is_empty() || guest_offset > held_end.next_multiple_of(BLOCK_BYTES) {
            self.flush()?;
            self.start = guest_offset / BLOCK_BYTES * BLOCK_BYTES;
        }
        let gap = guest_offset - self.start;
        self.bytes
            .resize(usize::try_from(gap).unwrap_or(usize::MAX), 0);
        self.bytes.extend_from_slice(bytes);
        let whole = self.bytes.len() / BLOCK * BLOCK;
        if whole >= WRITE_BYTES {
            let rest = self.bytes.split_off(whole);
            self.flush()?;
            self.start += whole as u64;
            self.bytes = rest;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        self.bytes
            .resize(self.bytes.len().next_multiple_of(BLOCK), 0);
        let mut at = 0;
        for same in self
            .bytes
            .chunks_exact(BLOCK)
            .collect::<Vec<_>>()
            .chunk_by(|a, b| is_zero(a) == is_zero(b))
        {
            let length = same.len() * BLOCK;
            if !is_zero(same[0]) {
                self.target
                    .write(self.start + at as u64, &self.bytes[at..at + length])?;
                self.written_bytes += length as u64;
            }
            at += length;
        }
        self.bytes.clear();
        Ok(())
    }
}

fn is_zero(block: &[u8]) -> bool {
    block == ZEROES
}

impl Tally {
    /// Why bytes were written; empty if none were.
    pub(crate) fn why(&self) -> String {
        let mut reasons = Vec::new();
        match self.clusters_unpacked {
            0 => {}
            1 => reasons.push("1 compressed cluster unpacked".to_owned()),
            many => reasons.push(format!("{many} compressed clusters unpacked")),
        }
        if self.unaligned_bytes > 0 {
            reasons.push(format!(
                "{} bytes lie off the 4 KiB grid of the object's maps",
                self.unaligned_bytes
            ));
        }
        if self.inline_bytes > 0 {
            reasons.push(format!(
                "{} bytes of a small object lie in the catalog, not in a map",
                self.inline_bytes
            ));
        }
        reasons.join("; ")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::{Tally, Target, compose};
    use crate::image::run::tests::Bytes;
    use crate::image::run::{ImageFile, Run, RunKind};
    use crate::object::Piece;
    use crate::{Lsn, MapId, Result, SealedMap};
    use proptest::prelude::{Just, Strategy, any, prop};

    /// A disk in memory, over maps in memory.
    struct Disk {
        maps: Vec<Vec<u8>>,
        bytes: Vec<u8>,
        end: u64,
    }

    impl Disk {
        fn put(&mut self, guest_offset: u64, bytes: &[u8]) {
            assert!(guest_offset >= self.end, "offsets grow");
            assert!(
                guest_offset.is_multiple_of(4096)
                    && bytes.len().is_multiple_of(4096)
                    && !bytes.is_empty()
            );
            self.end = guest_offset + bytes.len() as u64;
            let start = usize::try_from(guest_offset).unwrap();
            self.bytes[start..start + bytes.len()].copy_from_slice(bytes);
        }
    }

    impl Target for Disk {
        fn show(
            &mut self,
            guest_offset: u64,
            length: u64,
            from: SealedMap,
            from_offset: u64,
        ) -> Result<()> {
            assert!(from_offset.is_multiple_of(4096));
            let start = usize::try_from(from_offset).unwrap();
            let map = &self.maps[usize::try_from(from.map.0).unwrap()];
            let bytes = map[start..start + usize::try_from(length).unwrap()].to_vec();
            self.put(guest_offset, &bytes);
            Ok(())
        }

        fn write(&mut self, guest_offset: u64, bytes: &[u8]) -> Result<()> {
            self.put(guest_offset, bytes);
            Ok(())
        }
    }

    /// Pieces cut from maps, and the object they make.
    fn object(cuts: &[(u64, u64)]) -> (Vec<Vec<u8>>, Vec<Piece>, Vec<u8>) {
        let (mut maps, mut pieces, mut object) = (Vec::new(), Vec::new(), Vec::new());
        for (index, (offset, length)) in cuts.iter().enumerate() {
            let seed = index as u64 + 1;
            let map_bytes = (offset + length).next_multiple_of(4096);
            let map: Vec<u8> = (0..map_bytes)
                .map(|at| u8::try_from((at / 512 * 31 + at + seed) % 251).unwrap())
                .collect();
            object.extend_from_slice(
                &map[usize::try_from(*offset).unwrap()..usize::try_from(offset + length).unwrap()],
            );
            let sealed = SealedMap {
                map: MapId(index as u64),
                lsn: Lsn(1),
                length_bytes: map_bytes,
            };
            pieces.push(Piece {
                sealed,
                offset_bytes: *offset,
                length_bytes: *length,
            });
            maps.push(map);
        }
        (maps, pieces, object)
    }

    fn check(cuts: &[(u64, u64)], runs: &[Run]) -> Tally {
        let (maps, pieces, file) = object(cuts);
        let guest_bytes = runs.last().map_or(0, Run::end);
        let rounded = usize::try_from(guest_bytes.next_multiple_of(4096)).unwrap();
        let mut want = vec![0; rounded];
        for run in runs {
            if let RunKind::Stored { file_offset } = run.kind {
                let (guest, from) = (
                    usize::try_from(run.guest_offset).unwrap(),
                    usize::try_from(file_offset).unwrap(),
                );
                let length = usize::try_from(run.length).unwrap();
                want[guest..guest + length].copy_from_slice(&file[from..from + length]);
            }
        }
        let file = Bytes(file);
        let mut disk = Disk {
            maps,
            bytes: vec![0; rounded],
            end: 0,
        };
        let image = ImageFile {
            file: &file,
            packing: None,
        };
        let tally = compose(&mut disk, &pieces, image, runs.iter().copied().map(Ok)).unwrap();
        assert!(disk.bytes == want, "the composed disk differs");
        assert!(tally.shared_bytes + tally.written_bytes <= rounded as u64);
        tally
    }

    fn stored(guest_offset: u64, length: u64, file_offset: u64) -> Run {
        Run {
            guest_offset,
            length,
            kind: RunKind::Stored { file_offset },
        }
    }

    #[test]
    fn aligned_parts_are_shown_without_a_copy() {
        let parts = [(0, 8 << 20), (0, 8 << 20), (0, 5 << 20)];
        let tally = check(&parts, &[stored(0, 21 << 20, 0)]);
        assert_eq!(
            tally,
            Tally {
                shared_bytes: 21 << 20,
                ..Tally::default()
            }
        );
        assert_eq!(tally.why(), "");
    }

    #[test]
    fn an_odd_part_costs_a_copy_only_from_there_on() {
        let tally = check(
            &[(0, 1 << 20), (0, 1 << 20 | 512), (0, 1 << 20)],
            &[stored(0, 3 << 20 | 512, 0)],
        );
        assert_eq!(tally.shared_bytes, 2 << 20);
        assert_eq!(tally.written_bytes, 1 << 20 | 4096);
        assert_eq!(tally.unaligned_bytes, 1 << 20 | 512);
        assert!(tally.why().contains("off the 4 KiB grid"));
    }

    #[test]
    fn clusters_smaller_than_a_block_are_put_together() {
        let zero = Run {
            guest_offset: 512,
            length: 1024,
            kind: RunKind::Zero,
        };
        let tally = check(
            &[(0, 1 << 20)],
            &[
                stored(0, 512, 8192),
                zero,
                stored(1536, 2560, 512),
                stored(4096, 8192, 4096),
            ],
        );
        assert_eq!((tally.shared_bytes, tally.written_bytes), (8192, 4096));
    }

    #[test]
    fn an_object_without_maps_is_written() {
        let file = Bytes(vec![9; 5000]);
        let mut disk = Disk {
            maps: Vec::new(),
            bytes: vec![0; 8192],
            end: 0,
        };
        let image = ImageFile {
            file: &file,
            packing: None,
        };
        let tally = compose(
            &mut disk,
            &[],
            image,
            std::iter::once(Ok(stored(0, 5000, 0))),
        )
        .unwrap();
        assert_eq!((tally.inline_bytes, tally.written_bytes), (5000, 8192));
        assert!(
            disk.bytes[..5000].iter().all(|byte| *byte == 9)
                && disk.bytes[5000..].iter().all(|byte| *byte == 0)
        );
    }

    fn length() -> impl Strategy<Value = u64> {
        proptest::prop_oneof![
            1..100_u64,
            (1..40_u64).prop_map(|n| n * 512),
            (1..20_u64).prop_map(|n| n * 4096)
        ]
    }

    proptest::proptest! {
        #[test]
        fn any_pieces_and_runs_compose_to_the_disk_they_describe(
            cuts in prop::collection::vec((proptest::prop_oneof![Just(0), Just(4096), length()], length()), 1..8),
            wanted in prop::collection::vec((length(), any::<Option<prop::sample::Index>>()), 1..30),
        ) {
            let file_bytes: u64 = cuts.iter().map(|(_, length)| length).sum();
            let mut at = 0;
            let runs: Vec<Run> = wanted.iter().map(|(length, place)| {
                let run = match place {
                    None => Run { guest_offset: at, length: *length, kind: RunKind::Zero },
                    Some(place) => {
                        let file_offset = place.index(usize::try_from(file_bytes).unwrap()) as u64;
                        let file_offset = if at % 3 == 0 { file_offset } else { file_offset / 512 * 512 };
                        stored(at, (*length).min(file_bytes - file_offset), file_offset)
                    }
                };
                at = run.end();
                run
            }).collect();
            check(&cuts, &runs);
        }
    }
}
