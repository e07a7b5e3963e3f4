//! Runs: what lies where in an image file, in the order a guest sees it.
//!
//! 1. Runs adjoin: each begins where the one before it ended, the first at 0, and together they are
//!    exactly as long as the disk the guest sees.
//! 2. A compressed run is the visible part of one cluster; only the last one of a disk can be
//!    shorter than a cluster.
//! 3. Memory is bounded by two clusters per reader, whatever the file declares.

use crate::image::qcow2::Unpacker;
use crate::object::ReadAt;
use crate::{Error, Kind, Result, Subject};

/// A stretch of guest bytes of one nature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// First guest byte.
    pub guest_offset: u64,
    /// Guest bytes.
    pub length: u64,
    /// Where they come from.
    pub kind: RunKind,
}

/// Where a run's bytes come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunKind {
    /// They lie in the file as they are, from this offset on.
    Stored {
        /// First byte in the file.
        file_offset: u64,
    },
    /// They are zeroes.
    Zero,
    /// They are the beginning of one cluster, compressed.
    Compressed {
        /// First compressed byte in the file.
        file_offset: u64,
        /// The compressed bytes end at most this many further on.
        length_max: u64,
    },
}

impl Run {
    /// The first guest byte behind it.
    pub fn end(&self) -> u64 {
        self.guest_offset + self.length
    }

    /// Takes `next` in where the two are one run.
    pub(crate) fn merge(&mut self, next: &Run) -> bool {
        let adjoins = match (self.kind, next.kind) {
            (RunKind::Zero, RunKind::Zero) => true,
            (
                RunKind::Stored { file_offset: first },
                RunKind::Stored {
                    file_offset: second,
                },
            ) => first.checked_add(self.length) == Some(second),
            _ => false,
        };
        let joined = adjoins && self.end() == next.guest_offset;
        if joined {
            self.length += next.length;
        }
        joined
    }

    /// The part of it in `start..end` (guest bytes), which must overlap it.
    pub(crate) fn slice(&self, start: u64, end: u64) -> Slice {
        let first = start.max(self.guest_offset);
        let last = end.min(self.end());
        assert!(
            first < last,
            "a slice outside its run: {start}..{end} of {self:?}"
        );
        Slice {
            run: *self,
            skip: first - self.guest_offset,
            length: last - first,
        }
    }
}

/// A part of a run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slice {
    /// The whole run.
    pub(crate) run: Run,
    /// Guest bytes of the run in front of the part.
    pub(crate) skip: u64,
    /// Guest bytes of the part.
    pub(crate) length: u64,
}

impl Slice {
    pub(crate) fn guest_offset(&self) -> u64 {
        self.run.guest_offset + self.skip
    }
}

/// An image file and how to read runs of it; one [`RunReader`] per thread.
#[derive(Clone, Copy)]
pub struct ImageFile<'a> {
    /// The file.
    pub file: &'a dyn ReadAt,
    /// How its compressed clusters are packed; `None` for a format without them.
    pub packing: Option<Packing>,
}

/// How compressed clusters are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packing {
    /// With what.
    pub method: Method,
    /// Bytes in a cluster, unpacked.
    pub cluster_bytes: u64,
}

/// Compression methods of qcow2 (`qcow2.rst`, "Additional fields").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Raw deflate, called zlib in QEMU.
    Deflate,
    /// Zstandard.
    Zstd,
}

impl ImageFile<'_> {
    /// A reader with its own buffers.
    pub fn reader(&self) -> Result<RunReader<'_>> {
        let unpacker = self
            .packing
            .map(|packing| Unpacker::new(packing.method))
            .transpose()?;
        Ok(RunReader {
            image: *self,
            unpacker,
            packed: Vec::new(),
            cluster: Vec::new(),
            held: None,
        })
    }
}

/// Reads the bytes of runs. Keeps the last unpacked cluster, so that its parts are unpacked once; the
/// same bytes under another guest offset are unpacked, and counted, again.
pub struct RunReader<'a> {
    image: ImageFile<'a>,
    unpacker: Option<Unpacker>,
    packed: Vec<u8>,
    cluster: Vec<u8>,
    /// The guest offset of the run whose cluster is in `cluster`.
    held: Option<u64>,
}

impl RunReader<'_> {
    /// Fills `buffer` with the guest bytes of `run` from `skip` bytes behind its beginning.
    /// Returns how many compressed bytes that consumed (0 where the cluster was held already).
    pub fn read(&mut self, run: &Run, skip: u64, buffer: &mut [u8]) -> Result<u64> {
        let length = buffer.len() as u64;
        assert!(
            skip <= run.length && length <= run.length - skip,
            "a read of {length} bytes behind {skip} of {run:?}"
        );
        match run.kind {
            RunKind::Zero => {
                buffer.fill(0);
                Ok(0)
            }
            RunKind::Stored { file_offset } => {
                self.image.file.read_at(file_offset + skip, buffer)?;
                Ok(0)
            }
            RunKind::Compressed {
                file_offset,
                length_max,
            } => {
                let consumed = self.unpack(run.guest_offset, file_offset, length_max)?;
                let skip = usize::try_from(skip).unwrap_or(usize::MAX);
                buffer.copy_from_slice(&self.cluster[skip..skip + buffer.len()]);
                Ok(consumed)
            }
        }
    }

    fn unpack(&mut self, guest_offset: u64, file_offset: u64, length_max: u64) -> Result<u64> {
        if self.held == Some(guest_offset) {
            return Ok(0);
        }
        let (Some(unpacker), Some(packing)) = (self.unpacker.as_mut(), self.image.packing) else {
            return Err(Error::new(
                Kind::Internal,
                Subject::Image,
                format!(
                    "a compressed run at file offset {file_offset} in a format without compression"
                ),
            ));
        };
        self.held = None;
        let packed_bytes =
            usize::try_from(length_max.min(2 * packing.cluster_bytes + 1024)).unwrap_or(usize::MAX);
        self.packed.resize(packed_bytes, 0);
        self.cluster.resize(
            usize::try_from(packing.cluster_bytes).unwrap_or(usize::MAX),
            0,
        );
        self.image.file.read_at(file_offset, &mut self.packed)?;
        let consumed = unpacker.unpack(&self.packed, &mut self.cluster).map_err(|problem| {
            Error::new(
                Kind::Invalid,
                Subject::Image,
                format!("the compressed cluster at file offset {file_offset} does not unpack to {} bytes", packing.cluster_bytes),
            )
            .because(problem)
        })?;
        self.held = Some(guest_offset);
        Ok(consumed as u64)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use super::{ImageFile, Run, RunKind};
    use crate::object::ReadAt;
    use crate::{Error, Kind, Result, Subject};

    /// A file in memory.
    pub(crate) struct Bytes(pub(crate) Vec<u8>);

    impl ReadAt for Bytes {
        fn length_bytes(&self) -> u64 {
            self.0.len() as u64
        }

        fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
            let start = usize::try_from(offset).unwrap();
            let range = self.0.get(start..start + buffer.len());
            buffer.copy_from_slice(
                range.ok_or_else(|| Error::new(Kind::Invalid, Subject::Range, "past the end"))?,
            );
            Ok(())
        }
    }

    #[test]
    fn only_runs_that_adjoin_in_guest_and_file_merge() {
        let stored = |guest_offset, file_offset| Run {
            guest_offset,
            length: 10,
            kind: RunKind::Stored { file_offset },
        };
        let mut run = stored(0, 100);
        assert!(run.merge(&stored(10, 110)));
        assert_eq!(run.length, 20);
        assert!(!run.merge(&stored(20, 130)));
        assert!(!run.merge(&stored(30, 120)));
        assert!(!run.merge(&Run {
            guest_offset: 20,
            length: 1,
            kind: RunKind::Zero
        }));
    }

    #[test]
    fn a_part_of_a_run_reads_its_own_bytes() {
        let file = Bytes((0..200).collect());
        let image = ImageFile {
            file: &file,
            packing: None,
        };
        let run = Run {
            guest_offset: 1000,
            length: 50,
            kind: RunKind::Stored { file_offset: 100 },
        };
        let part = run.slice(1010, 2000);
        assert_eq!((part.guest_offset(), part.length), (1010, 40));
        let mut buffer = [0; 40];
        image
            .reader()
            .unwrap()
            .read(&part.run, part.skip, &mut buffer)
            .unwrap();
        assert_eq!(buffer[..3], [110, 111, 112]);
    }
}
