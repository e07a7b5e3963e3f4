//! The checksums that S3 names, over bytes that come in parts.
//!
//! CRCs of parts combine into the whole object's (`FULL_OBJECT`); digests do not, so S3 digests the
//! parts' digests (`COMPOSITE`, written `<base64>-<parts>`). Amazon S3 User Guide, "Checking object
//! integrity".

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use crc_fast::CrcAlgorithm;
use md5::Md5;
use sha2::{Digest, Sha256};

/// A checksum that S3 names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Algorithm {
    /// CRC-32/ISO-HDLC.
    Crc32,
    /// CRC-32/ISCSI.
    Crc32c,
    /// CRC-64/NVME.
    Crc64Nvme,
    /// SHA-256.
    Sha256,
    /// MD5, as the ETag of an object put in one piece.
    Md5,
}

impl Algorithm {
    /// Its name for people.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Crc32 => "crc32",
            Self::Crc32c => "crc32c",
            Self::Crc64Nvme => "crc64nvme",
            Self::Sha256 => "sha256",
            Self::Md5 => "md5",
        }
    }

    /// Whether parts' checksums combine into the whole's.
    pub(crate) fn combines(self) -> bool {
        matches!(self, Self::Crc32 | Self::Crc32c | Self::Crc64Nvme)
    }

    /// The checksum of these bytes, big-endian.
    pub(crate) fn of(self, bytes: &[u8]) -> Vec<u8> {
        let mut running = self.begin();
        running.update(bytes);
        running.bytes()
    }

    /// The whole's checksum from those of its parts and their lengths; only CRCs have one.
    pub(crate) fn combined<'a>(
        self,
        parts: impl IntoIterator<Item = (&'a [u8], u64)>,
    ) -> Option<Vec<u8>> {
        let (crc, width) = match self {
            Self::Crc32 => (CrcAlgorithm::Crc32IsoHdlc, 4),
            Self::Crc32c => (CrcAlgorithm::Crc32Iscsi, 4),
            Self::Crc64Nvme => (CrcAlgorithm::Crc64Nvme, 8),
            Self::Sha256 | Self::Md5 => return None,
        };
        let mut whole: Option<u64> = None;
        for (sum, length_bytes) in parts {
            let mut value = [0; 8];
            value
                .get_mut(8 - sum.len().min(8)..)?
                .copy_from_slice(sum.get(..8.min(sum.len()))?);
            let value = u64::from_be_bytes(value);
            whole = Some(match whole {
                None => value,
                Some(before) => crc_fast::checksum_combine(crc, before, value, length_bytes),
            });
        }
        let whole = whole.unwrap_or_else(|| crc_fast::Digest::new(crc).finalize());
        Some(whole.to_be_bytes()[8 - width..].to_vec())
    }

    /// Begins one.
    pub(crate) fn begin(self) -> Running {
        match self {
            Self::Crc32 => Running::Crc(crc_fast::Digest::new(CrcAlgorithm::Crc32IsoHdlc), 4),
            Self::Crc32c => Running::Crc(crc_fast::Digest::new(CrcAlgorithm::Crc32Iscsi), 4),
            Self::Crc64Nvme => Running::Crc(crc_fast::Digest::new(CrcAlgorithm::Crc64Nvme), 8),
            Self::Sha256 => Running::Sha256(Sha256::new()),
            Self::Md5 => Running::Md5(Md5::new()),
        }
    }
}

/// A checksum under way.
#[derive(Clone)]
pub(crate) enum Running {
    /// A CRC of so many bytes.
    Crc(crc_fast::Digest, usize),
    /// SHA-256.
    Sha256(Sha256),
    /// MD5.
    Md5(Md5),
}

impl Running {
    /// Adds bytes in order.
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Crc(digest, _) => digest.update(bytes),
            Self::Sha256(digest) => digest.update(bytes),
            Self::Md5(digest) => digest.update(bytes),
        }
    }

    /// The checksum, big-endian.
    pub(crate) fn bytes(self) -> Vec<u8> {
        match self {
            Self::Crc(digest, width) => digest.finalize().to_be_bytes()[8 - width..].to_vec(),
            Self::Sha256(digest) => digest.finalize().to_vec(),
            Self::Md5(digest) => digest.finalize().to_vec(),
        }
    }
}

/// Base64, as headers carry it.
pub(crate) fn encode(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// The checksum of parts' checksums, as S3 writes it.
pub(crate) fn composite(algorithm: Algorithm, parts: &[Vec<u8>]) -> String {
    let mut whole = algorithm.begin();
    for part in parts {
        whole.update(part);
    }
    format!("{}-{}", encode(&whole.bytes()), parts.len())
}

/// What must hold at the end of a download.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Proof {
    /// The whole object's checksum, big-endian.
    Whole(Algorithm, Vec<u8>),
    /// The checksum of the checksums of this many parts.
    Parts(Algorithm, String, u64),
    /// The source keeps none.
    Nothing,
}

/// The best proof among what a source says, each as `<base64>` or `<base64>-<parts>`.
pub(crate) fn proof(sums: &[(Algorithm, String)]) -> Proof {
    let whole = |(algorithm, text): &(Algorithm, String)| {
        // Base64 has no '-', so one starts the number of parts.
        let bytes = STANDARD.decode(text).ok()?;
        (!bytes.is_empty()).then_some(Proof::Whole(*algorithm, bytes))
    };
    let parts = |(algorithm, text): &(Algorithm, String)| {
        let count = text
            .rsplit_once('-')?
            .1
            .parse()
            .ok()
            .filter(|count| *count > 0)?;
        Some(Proof::Parts(*algorithm, text.clone(), count))
    };
    // Those that are put together from pieces first, and of them the wider.
    let mut sums: Vec<&(Algorithm, String)> = sums.iter().collect();
    sums.sort_by_key(|(algorithm, _)| {
        (
            !algorithm.combines(),
            *algorithm != Algorithm::Crc64Nvme,
            *algorithm,
        )
    });
    let found = sums.iter().find_map(|sum| whole(sum));
    found
        .or_else(|| sums.iter().find_map(|sum| parts(sum)))
        .unwrap_or(Proof::Nothing)
}

/// Base64 of bytes written in hex, as an MD5 in an ETag.
pub(crate) fn base64_of_hex(text: &str) -> Option<String> {
    unhex(text.trim_matches('"')).map(|bytes| encode(&bytes))
}

/// Bytes as two hex digits each.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Bytes of base64.
pub(crate) fn decode(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok()
}

/// Bytes of hex digits.
pub(crate) fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.is_ascii() || !text.len().is_multiple_of(2) {
        return None;
    }
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_have_their_published_values() {
        // The check values of the CRC catalogue, FIPS 180-4 and RFC 1321, of "123456789".
        let of = |algorithm: Algorithm| algorithm.of(b"123456789");
        assert_eq!(of(Algorithm::Crc32), 0xcbf4_3926u32.to_be_bytes());
        assert_eq!(of(Algorithm::Crc32c), 0xe306_9283u32.to_be_bytes());
        assert_eq!(
            of(Algorithm::Crc64Nvme),
            0xae8b_1486_0a79_9888u64.to_be_bytes()
        );
        assert_eq!(Algorithm::Sha256.of(b"")[..4], [0xe3, 0xb0, 0xc4, 0x42]);
        assert_eq!(Algorithm::Md5.of(b"")[..4], [0xd4, 0x1d, 0x8c, 0xd9]);
    }

    #[test]
    fn parts_combine_into_the_whole() {
        let bytes: Vec<u8> = (0..100_000u32).map(|n| (n * 7) as u8).collect();
        for algorithm in [Algorithm::Crc32, Algorithm::Crc32c, Algorithm::Crc64Nvme] {
            let parts: Vec<(Vec<u8>, u64)> = bytes
                .chunks(33_333)
                .map(|part| (algorithm.of(part), part.len() as u64))
                .collect();
            let whole =
                algorithm.combined(parts.iter().map(|(sum, length)| (sum.as_slice(), *length)));
            assert_eq!(whole, Some(algorithm.of(&bytes)), "{algorithm:?}");
            assert_eq!(
                algorithm.combined([]),
                Some(algorithm.of(b"")),
                "{algorithm:?}"
            );
        }
        assert_eq!(Algorithm::Md5.combined([]), None);
    }

    #[test]
    fn the_best_proof_is_found_in_what_a_source_says() {
        let crc = encode(&[1, 2, 3, 4]);
        let md5 = base64_of_hex("\"d41d8cd98f00b204e9800998ecf8427e\"").unwrap();
        let sums = [
            (Algorithm::Md5, md5.clone()),
            (Algorithm::Crc32, crc.clone()),
        ];
        assert_eq!(
            proof(&sums),
            Proof::Whole(Algorithm::Crc32, vec![1, 2, 3, 4])
        );
        let parts = format!("{crc}-3");
        let sums = [(Algorithm::Crc32, parts.clone())];
        assert_eq!(
            proof(&sums),
            Proof::Parts(Algorithm::Crc32, parts.clone(), 3)
        );
        let sums = [(Algorithm::Crc32, parts), (Algorithm::Md5, md5)];
        assert!(matches!(proof(&sums), Proof::Whole(Algorithm::Md5, bytes) if bytes.len() == 16));
        assert_eq!(
            base64_of_hex("\"d41d8cd98f00b204e9800998ecf8427e-2\""),
            None
        );
        assert_eq!(proof(&[(Algorithm::Crc32, "?".into())]), Proof::Nothing);
        assert_eq!(proof(&[]), Proof::Nothing);
    }

    #[test]
    fn a_composite_counts_its_parts() {
        let parts = [Algorithm::Sha256.of(b"a"), Algorithm::Sha256.of(b"b")];
        let text = composite(Algorithm::Sha256, &parts);
        assert!(text.ends_with("-2"), "{text}");
    }
}
