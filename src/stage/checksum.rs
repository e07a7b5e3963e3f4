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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

    /// Adds the part that follows; only CRCs can.
    pub(crate) fn append(&mut self, next: &Self) {
        match (self, next) {
            (Self::Crc(digest, _), Self::Crc(next, _)) => digest.combine(next),
            _ => unreachable!("asked only where Algorithm::combines holds"),
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

/// The best proof among what a source says: each algorithm's text (`<base64>` or `<base64>-<n>`),
/// then the ETag, which is an MD5 where it is 32 hex digits.
pub(crate) fn proof(shown: &[(Algorithm, Option<&str>)], etag: Option<&str>) -> Proof {
    for (algorithm, text) in shown {
        let Some(text) = text else { continue };
        // Base64 has no '-', so the last one starts the number of parts.
        if let Some((_, parts)) = text.rsplit_once('-') {
            if let Ok(parts @ 1..) = parts.parse() {
                return Proof::Parts(*algorithm, (*text).to_owned(), parts);
            }
        } else if let Ok(bytes) = STANDARD.decode(text) {
            return Proof::Whole(*algorithm, bytes);
        }
    }
    let etag = etag.unwrap_or_default().trim_matches('"');
    match unhex(etag) {
        Some(bytes) if bytes.len() == 16 => Proof::Whole(Algorithm::Md5, bytes),
        _ => Proof::Nothing,
    }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
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

    fn of(algorithm: Algorithm, bytes: &[u8]) -> Vec<u8> {
        let mut running = algorithm.begin();
        running.update(bytes);
        running.bytes()
    }

    #[test]
    fn checksums_have_their_published_values() {
        // The check values of the CRC catalogue, FIPS 180-4 and RFC 1321, of "123456789".
        assert_eq!(
            of(Algorithm::Crc32, b"123456789"),
            0xcbf4_3926u32.to_be_bytes()
        );
        assert_eq!(
            of(Algorithm::Crc32c, b"123456789"),
            0xe306_9283u32.to_be_bytes()
        );
        assert_eq!(
            of(Algorithm::Crc64Nvme, b"123456789"),
            0xae8b_1486_0a79_9888u64.to_be_bytes()
        );
        assert_eq!(of(Algorithm::Sha256, b"")[..4], [0xe3, 0xb0, 0xc4, 0x42]);
        assert_eq!(of(Algorithm::Md5, b"")[..4], [0xd4, 0x1d, 0x8c, 0xd9]);
    }

    #[test]
    fn parts_combine_into_the_whole() {
        let bytes: Vec<u8> = (0..100_000u32).map(|n| (n * 7) as u8).collect();
        for algorithm in [Algorithm::Crc32, Algorithm::Crc32c, Algorithm::Crc64Nvme] {
            let mut whole = algorithm.begin();
            for part in bytes.chunks(33_333) {
                let mut running = algorithm.begin();
                running.update(part);
                whole.append(&running);
            }
            assert_eq!(whole.bytes(), of(algorithm, &bytes), "{algorithm:?}");
        }
    }

    #[test]
    fn the_best_proof_is_found_in_what_a_source_says() {
        let crc = encode(&[1, 2, 3, 4]);
        let shown = [
            (Algorithm::Sha256, None),
            (Algorithm::Crc32, Some(crc.as_str())),
        ];
        assert_eq!(
            proof(&shown, None),
            Proof::Whole(Algorithm::Crc32, vec![1, 2, 3, 4])
        );
        let parts = format!("{crc}-3");
        let shown = [(Algorithm::Crc32, Some(parts.as_str()))];
        assert_eq!(
            proof(&shown, None),
            Proof::Parts(Algorithm::Crc32, parts.clone(), 3)
        );
        let md5 = "\"d41d8cd98f00b204e9800998ecf8427e\"";
        assert!(
            matches!(proof(&[], Some(md5)), Proof::Whole(Algorithm::Md5, bytes) if bytes.len() == 16)
        );
        assert_eq!(
            proof(&[], Some("\"d41d8cd98f00b204e9800998ecf8427e-2\"")),
            Proof::Nothing
        );
        assert_eq!(
            proof(&[(Algorithm::Crc32, Some("?"))], Some("ä")),
            Proof::Nothing
        );
    }

    #[test]
    fn a_composite_counts_its_parts() {
        let parts = [of(Algorithm::Sha256, b"a"), of(Algorithm::Sha256, b"b")];
        let text = composite(Algorithm::Sha256, &parts);
        assert!(text.ends_with("-2"), "{text}");
    }
}
