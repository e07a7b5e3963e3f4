//! Runs of a raw image: the object's bytes are the disk, and where its maps hold nothing are zeroes.

use crate::image::run::{Run, RunKind};
use crate::object::Piece;
use crate::volume::Extent;
use crate::{Error, Kind, Result, Subject};

/// Extents asked for at a time.
const EXTENTS_AT_A_TIME: usize = 1024;

/// The one run of a raw file of which no holes are known.
pub fn whole(length: u64) -> impl Iterator<Item = Result<Run>> {
    let run = Run {
        guest_offset: 0,
        length,
        kind: RunKind::Stored { file_offset: 0 },
    };
    (length > 0).then_some(Ok(run)).into_iter()
}

/// The runs of a body of `pieces`, one behind the other; `extents` asks the map of a piece for the
/// allocation of a range (offset, length, how many at most).
pub(crate) fn runs<'a, F>(
    pieces: &'a [Piece],
    mut extents: F,
) -> impl Iterator<Item = Result<Run>> + use<'a, F>
where
    F: FnMut(&Piece, u64, u64, usize) -> Result<Vec<Extent>>,
{
    let mut pieces = pieces.iter();
    let mut piece: Option<(&Piece, u64)> = None;
    let mut guest_offset = 0;
    let mut ready = Vec::new().into_iter();
    let mut failed = false;
    let mut next = move || -> Result<Option<Run>> {
        loop {
            if let Some(run) = ready.next() {
                return Ok(Some(run));
            }
            let (current, done) = match piece.filter(|(piece, done)| *done < piece.length_bytes) {
                Some(open) => open,
                None => match pieces.next() {
                    Some(next) => (next, 0),
                    None => return Ok(None),
                },
            };
            let (offset, left) = (current.offset_bytes + done, current.length_bytes - done);
            let runs = if left == 0 {
                Vec::new()
            } else {
                translate(
                    &extents(current, offset, left, EXTENTS_AT_A_TIME)?,
                    offset,
                    left,
                    guest_offset,
                )?
            };
            let length: u64 = runs.iter().map(|run| run.length).sum();
            guest_offset += length;
            piece = Some((current, done + length));
            ready = runs.into_iter();
        }
    };
    std::iter::from_fn(move || {
        if failed {
            return None;
        }
        let run = next().transpose();
        failed = matches!(run, Some(Err(_)));
        run
    })
}

/// Extents from `offset` on as runs from `guest_offset` on, of at most `left` bytes.
fn translate(extents: &[Extent], offset: u64, left: u64, guest_offset: u64) -> Result<Vec<Run>> {
    let mut runs = Vec::with_capacity(extents.len());
    let mut done = 0;
    for extent in extents {
        if done == left || extent.offset != offset + done || extent.length == 0 {
            break;
        }
        let length = extent.length.min(left - done);
        let guest_offset = guest_offset + done;
        let kind = if extent.data {
            RunKind::Stored {
                file_offset: guest_offset,
            }
        } else {
            RunKind::Zero
        };
        runs.push(Run {
            guest_offset,
            length,
            kind,
        });
        done += length;
    }
    if done == 0 {
        return Err(Error::new(
            Kind::Internal,
            Subject::Image,
            format!(
                "the allocation of a map at {offset} is not told: {:?}",
                extents.first()
            ),
        ));
    }
    Ok(runs)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::runs;
    use crate::image::run::{Run, RunKind};
    use crate::object::Piece;
    use crate::volume::Extent;
    use crate::{Lsn, MapId, SealedMap};

    #[test]
    fn holes_in_pieces_become_zeroes_and_the_rest_lies_where_the_guest_sees_it() {
        let piece = |map, offset_bytes, length_bytes| Piece {
            sealed: SealedMap {
                map: MapId(map),
                lsn: Lsn(1),
                length_bytes: 1 << 20,
            },
            offset_bytes,
            length_bytes,
        };
        let pieces = [piece(0, 0, 12288), piece(1, 4096, 0), piece(2, 4096, 5000)];
        // Every second block of a map holds data; at most two extents are told at once.
        let extents = |_: &Piece, offset: u64, length: u64, _: usize| {
            let block = |at: u64| Extent {
                offset: at,
                length: (at / 4096 + 1) * 4096 - at,
                data: (at / 4096).is_multiple_of(2),
            };
            let first = block(offset);
            let second = block(first.offset + first.length);
            Ok(if first.length < length {
                vec![first, second]
            } else {
                vec![first]
            })
        };
        let found: Vec<Run> = runs(&pieces, extents).map(Result::unwrap).collect();
        let run = |guest_offset, length, data| Run {
            guest_offset,
            length,
            kind: if data {
                RunKind::Stored {
                    file_offset: guest_offset,
                }
            } else {
                RunKind::Zero
            },
        };
        let want = [
            run(0, 4096, true),
            run(4096, 4096, false),
            run(8192, 4096, true),
            run(12288, 4096, false),
            run(16384, 904, true),
        ];
        assert_eq!(found, want);
    }
}
