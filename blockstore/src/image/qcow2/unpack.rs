//! Unpacks one compressed cluster, to exactly its size and with bounded memory.

use crate::image::run::Method;
use crate::{Error, Kind, Result, Subject};
use flate2::{Decompress, FlushDecompress, Status};
use zstd::stream::raw::{Decoder, InBuffer, Operation, OutBuffer};
use zstd::zstd_safe::DParameter;

/// Largest window a zstd frame may ask for, as a power of two: 16 MiB. QEMU writes 2 MiB at most.
const ZSTD_WINDOW_LOG_MAX: u32 = 24;

/// A decompressor, used again for cluster after cluster.
pub struct Unpacker(Engine);

enum Engine {
    Deflate(Decompress),
    Zstd(Decoder<'static>),
}

/// What kept a cluster from being unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The stream is not what its method says.
    #[error("the {method} data is malformed")]
    Malformed {
        /// `deflate` or `zstd`.
        method: &'static str,
        /// What the decoder said.
        #[source]
        source: std::io::Error,
    },
    /// The stream ends too early.
    #[error("the {method} data ends after {unpacked} bytes")]
    Short {
        /// `deflate` or `zstd`.
        method: &'static str,
        /// Bytes it gave.
        unpacked: usize,
    },
}

impl Unpacker {
    /// A decompressor for `method`.
    pub fn new(method: Method) -> Result<Self> {
        let failed = |source| {
            Error::new(Kind::Internal, Subject::Image, "cannot make a zstd decoder").because(source)
        };
        Ok(Self(match method {
            Method::Deflate => Engine::Deflate(Decompress::new(false)),
            Method::Zstd => {
                let mut decoder = Decoder::new().map_err(failed)?;
                decoder
                    .set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW_LOG_MAX))
                    .map_err(failed)?;
                Engine::Zstd(decoder)
            }
        }))
    }

    /// Fills `cluster` from the beginning of `packed`, and returns how many bytes of it that took.
    /// What lies behind belongs to other clusters.
    pub fn unpack(&mut self, packed: &[u8], cluster: &mut [u8]) -> Result<usize, UnpackError> {
        match &mut self.0 {
            Engine::Deflate(decoder) => inflate(decoder, packed, cluster),
            Engine::Zstd(decoder) => unzstd(decoder, packed, cluster),
        }
    }
}

fn inflate(
    decoder: &mut Decompress,
    packed: &[u8],
    cluster: &mut [u8],
) -> Result<usize, UnpackError> {
    let method = "deflate";
    decoder.reset(false);
    let (mut taken, mut given) = (0, 0);
    while given < cluster.len() {
        let status = decoder
            .decompress(
                &packed[taken..],
                &mut cluster[given..],
                FlushDecompress::Finish,
            )
            .map_err(|problem| UnpackError::Malformed {
                method,
                source: problem.into(),
            })?;
        let (before_taken, before_given) = (taken, given);
        taken = usize::try_from(decoder.total_in()).unwrap_or(usize::MAX);
        given = usize::try_from(decoder.total_out()).unwrap_or(usize::MAX);
        let stuck = taken == before_taken && given == before_given;
        if given < cluster.len() && (status == Status::StreamEnd || stuck) {
            return Err(UnpackError::Short {
                method,
                unpacked: given,
            });
        }
    }
    Ok(taken)
}

fn unzstd(
    decoder: &mut Decoder<'static>,
    packed: &[u8],
    cluster: &mut [u8],
) -> Result<usize, UnpackError> {
    let method = "zstd";
    let malformed = |source| UnpackError::Malformed { method, source };
    decoder.reinit().map_err(malformed)?;
    let (mut taken, mut given) = (0, 0);
    // A cluster can be several frames: QEMU reads on behind the end of one until it is full.
    while given < cluster.len() {
        let mut input = InBuffer::around(&packed[taken..]);
        let mut output = OutBuffer::around(&mut cluster[given..]);
        decoder.run(&mut input, &mut output).map_err(malformed)?;
        let (took, gave) = (input.pos(), output.pos());
        taken += took;
        given += gave;
        if took == 0 && gave == 0 {
            return Err(UnpackError::Short {
                method,
                unpacked: given,
            });
        }
    }
    Ok(taken)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::{UnpackError, Unpacker};
    use crate::image::run::Method;
    use std::io::Write;

    fn deflated(bytes: &[u8]) -> Vec<u8> {
        let mut encoder =
            flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn content() -> Vec<u8> {
        (0..65536_u32)
            .map(|at| u8::try_from(at * at % 251).unwrap())
            .collect()
    }

    #[test]
    fn a_cluster_is_unpacked_and_what_follows_it_is_left_alone() {
        for method in [Method::Deflate, Method::Zstd] {
            let mut packed = match method {
                Method::Deflate => deflated(&content()),
                Method::Zstd => zstd::bulk::compress(&content(), 3).unwrap(),
            };
            let length = packed.len();
            packed.extend_from_slice(&[0xa5; 700]);
            let mut unpacker = Unpacker::new(method).unwrap();
            for _ in 0..2 {
                let mut cluster = vec![0; 65536];
                let taken = unpacker.unpack(&packed, &mut cluster).unwrap();
                assert_eq!(cluster, content());
                assert!(taken <= length + 8, "{method:?} took {taken} of {length}");
            }
        }
    }

    #[test]
    fn a_cluster_of_several_zstd_frames_is_unpacked() {
        let mut packed = zstd::bulk::compress(&content()[..1000], 3).unwrap();
        packed.extend(zstd::bulk::compress(&content()[1000..], 3).unwrap());
        let mut cluster = vec![0; 65536];
        Unpacker::new(Method::Zstd)
            .unwrap()
            .unpack(&packed, &mut cluster)
            .unwrap();
        assert_eq!(cluster, content());
    }

    #[test]
    fn a_short_or_cut_stream_is_refused_and_the_unpacker_goes_on() {
        for method in [Method::Deflate, Method::Zstd] {
            let pack = |bytes: &[u8]| match method {
                Method::Deflate => deflated(bytes),
                Method::Zstd => zstd::bulk::compress(bytes, 3).unwrap(),
            };
            let mut unpacker = Unpacker::new(method).unwrap();
            let mut cluster = vec![0; 65536];
            let short = unpacker
                .unpack(&pack(&content()[..4096]), &mut cluster)
                .unwrap_err();
            assert!(
                matches!(short, UnpackError::Short { unpacked: 4096, .. }),
                "{short}"
            );
            let whole = pack(&content());
            for cut in [0, 1, whole.len() / 2] {
                assert!(
                    unpacker.unpack(&whole[..cut], &mut cluster).is_err(),
                    "{method:?} cut at {cut}"
                );
            }
            unpacker.unpack(&whole, &mut cluster).unwrap();
            assert_eq!(cluster, content());
        }
    }

    #[test]
    fn a_zstd_frame_that_asks_for_a_huge_window_is_refused() {
        // Magic, a frame header with window log 31 and no content size, then a raw block.
        let packed = [
            0x28,
            0xb5,
            0x2f,
            0xfd,
            0x00,
            (31 - 10) << 3,
            0x01,
            0x00,
            0x00,
        ];
        let mut cluster = vec![0; 65536];
        assert!(
            Unpacker::new(Method::Zstd)
                .unwrap()
                .unpack(&packed, &mut cluster)
                .is_err()
        );
    }
}
