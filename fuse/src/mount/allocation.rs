//! Where a sparse file has bytes: `st_blocks`, SEEK_DATA and SEEK_HOLE from the store's extents.

use super::failure::{Failure, Result};
use blockstore::BLOCK;
use blockstore::object::ReadAt;
use blockstore::volume::Extent;

/// Runs asked for at once while allocated bytes are counted.
const RUNS_PER_CALL: usize = 65536;
/// Calls after which the rest is estimated: stat(2) must not take seconds on a large file.
const CALLS_MAX: usize = 4;

/// What an lseek looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seek {
    /// The next byte that is stored.
    Data,
    /// The next byte that is not; the end of the file counts as one.
    Hole,
}

/// The first offset at or behind `offset` of the wanted nature.
pub(super) fn seek(file: &dyn ReadAt, offset: u64, wanted: Seek) -> Result<u64> {
    let length = file.length_bytes();
    if offset >= length {
        return Err(Failure::NothingBehind);
    }
    let mut at = offset;
    while at < length {
        // The first question is about one block: the answer is often "right here", and the store
        // need not then find the end of a run that may span the whole file.
        let one_block = (BLOCK as u64).min(length - at);
        let here = first(file, at, one_block)?;
        if here.data == (wanted == Seek::Data) {
            return Ok(at);
        }
        let run = first(file, at, length - at)?;
        at = run.offset + run.length;
    }
    match wanted {
        Seek::Data => Err(Failure::NothingBehind),
        Seek::Hole => Ok(length),
    }
}

/// The run at `at`, which must make progress: a store that answers with nothing would loop us.
fn first(file: &dyn ReadAt, at: u64, length: u64) -> Result<Extent> {
    let run = file.extents(at, length, 1)?.first().copied();
    run.filter(|run| run.offset <= at && run.offset + run.length > at)
        .ok_or(Failure::NothingBehind)
}

/// Bytes stored for the file: counted from its beginning, and where that takes too many calls,
/// estimated from what was counted.
pub(super) fn allocated_bytes(file: &dyn ReadAt) -> Result<u64> {
    let length = file.length_bytes();
    let (mut at, mut stored) = (0, 0);
    for _ in 0..CALLS_MAX {
        if at >= length {
            break;
        }
        let runs = file.extents(at, length - at, RUNS_PER_CALL)?;
        let Some(last) = runs.last() else { break };
        stored += runs
            .iter()
            .filter(|run| run.data)
            .map(|run| run.length)
            .sum::<u64>();
        at = last.offset + last.length;
    }
    if at == 0 || at >= length {
        return Ok(stored);
    }
    let scaled = u128::from(stored) * u128::from(length) / u128::from(at);
    Ok(u64::try_from(scaled).unwrap_or(length).min(length))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Blocks of a file, `#` stored and `.` not.
    struct Blocks(&'static str);

    impl ReadAt for Blocks {
        fn length_bytes(&self) -> u64 {
            (self.0.len() * BLOCK) as u64
        }
        fn read_at(&self, _offset: u64, _buffer: &mut [u8]) -> blockstore::Result<()> {
            unreachable!("only its allocation is asked for")
        }
        fn extents(&self, offset: u64, length: u64, max: usize) -> blockstore::Result<Vec<Extent>> {
            let mut runs: Vec<Extent> = Vec::new();
            let mut at = offset;
            while at < offset + length {
                let data = self.0.as_bytes()[at as usize / BLOCK] == b'#';
                let end = ((at / BLOCK as u64 + 1) * BLOCK as u64).min(offset + length);
                let full = runs.len() == max;
                match runs.last_mut() {
                    Some(run) if run.data == data => run.length += end - at,
                    _ if full => break,
                    _ => runs.push(Extent {
                        offset: at,
                        length: end - at,
                        data,
                    }),
                }
                at = end;
            }
            Ok(runs)
        }
    }

    const B: u64 = BLOCK as u64;

    #[test]
    fn seek_finds_the_borders_between_data_and_holes() {
        let file = Blocks("..##.#");
        assert_eq!(seek(&file, 0, Seek::Data).unwrap(), 2 * B);
        assert_eq!(seek(&file, 0, Seek::Hole).unwrap(), 0);
        assert_eq!(seek(&file, 2 * B + 7, Seek::Data).unwrap(), 2 * B + 7);
        assert_eq!(seek(&file, 2 * B + 7, Seek::Hole).unwrap(), 4 * B);
        assert_eq!(seek(&file, 4 * B + 1, Seek::Data).unwrap(), 5 * B);
        assert_eq!(
            seek(&file, 5 * B, Seek::Hole).unwrap(),
            6 * B,
            "the end is a hole"
        );
    }

    #[test]
    fn seek_behind_the_last_data_or_the_end_finds_nothing() {
        let file = Blocks("#..");
        assert!(matches!(
            seek(&file, B, Seek::Data),
            Err(Failure::NothingBehind)
        ));
        assert!(matches!(
            seek(&file, 3 * B, Seek::Hole),
            Err(Failure::NothingBehind)
        ));
        assert!(matches!(
            seek(&file, 99 * B, Seek::Data),
            Err(Failure::NothingBehind)
        ));
    }

    #[test]
    fn allocated_bytes_are_the_stored_runs() {
        assert_eq!(allocated_bytes(&Blocks("..##.#")).unwrap(), 3 * B);
        assert_eq!(allocated_bytes(&Blocks("....")).unwrap(), 0);
        assert_eq!(allocated_bytes(&Blocks("####")).unwrap(), 4 * B);
    }

    /// Alternating blocks: more runs than are counted.
    struct Striped(u64);

    impl ReadAt for Striped {
        fn length_bytes(&self) -> u64 {
            self.0 * B
        }
        fn read_at(&self, _offset: u64, _buffer: &mut [u8]) -> blockstore::Result<()> {
            unreachable!("only its allocation is asked for")
        }
        fn extents(&self, offset: u64, length: u64, max: usize) -> blockstore::Result<Vec<Extent>> {
            let first = offset / B;
            let count = (length / B).min(max as u64);
            Ok((first..first + count)
                .map(|block| Extent {
                    offset: block * B,
                    length: B,
                    data: block % 4 == 0,
                })
                .collect())
        }
    }

    #[test]
    fn a_very_fragmented_file_is_estimated_from_what_was_counted() {
        let blocks = (RUNS_PER_CALL * CALLS_MAX * 3) as u64;
        let estimate = allocated_bytes(&Striped(blocks)).unwrap();
        assert_eq!(estimate, blocks * B / 4);
    }
}
