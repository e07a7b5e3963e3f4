//! Checksums: what the bytes say, and how the parts of an upload add up.
//!
//! 1. Every byte is hashed once: the MD5 that the ETag needs and the asked checksums in one pass.
//! 2. A full-object CRC of a multipart upload is combined from the parts' CRCs, nothing is read
//!    again ("Checking object integrity", Amazon S3 user guide).

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use blockstore::object::ReadAt;
use crc_fast::CrcAlgorithm;
use s3s::crypto::{Checksum as _, Md5, Sha1, Sha256};
use s3s::{S3Error, s3_error};
use std::collections::BTreeMap;

/// Under this name [`blockstore::object::ObjectMeta::checksums`] keeps how a checksum came about.
pub(super) const TYPE: &str = "type";
/// Under this name an upload's `checksums` keep the algorithm it was begun with.
pub(super) const ALGORITHM: &str = "algorithm";
/// A checksum over all bytes.
pub(super) const FULL_OBJECT: &str = "FULL_OBJECT";
/// A checksum over the parts' checksums.
pub(super) const COMPOSITE: &str = "COMPOSITE";

/// Bytes read at a time where a range is hashed.
const HASHED_AT_A_TIME: usize = 1 << 20;

/// A checksum that S3 names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Algorithm {
    Crc32,
    Crc32c,
    Crc64Nvme,
    Sha1,
    Sha256,
}

impl Algorithm {
    pub(super) const ALL: [Self; 5] = [
        Self::Crc32,
        Self::Crc32c,
        Self::Crc64Nvme,
        Self::Sha1,
        Self::Sha256,
    ];

    /// As headers and the store's rows spell it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Crc32 => "crc32",
            Self::Crc32c => "crc32c",
            Self::Crc64Nvme => "crc64nvme",
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
        }
    }

    /// As `x-amz-checksum-algorithm` and XML spell it.
    pub(super) fn s3_name(self) -> &'static str {
        match self {
            Self::Crc32 => "CRC32",
            Self::Crc32c => "CRC32C",
            Self::Crc64Nvme => "CRC64NVME",
            Self::Sha1 => "SHA1",
            Self::Sha256 => "SHA256",
        }
    }

    /// By either spelling.
    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|algorithm| algorithm.name().eq_ignore_ascii_case(name))
    }

    fn crc(self) -> Option<CrcAlgorithm> {
        match self {
            Self::Crc32 => Some(CrcAlgorithm::Crc32IsoHdlc),
            Self::Crc32c => Some(CrcAlgorithm::Crc32Iscsi),
            Self::Crc64Nvme => Some(CrcAlgorithm::Crc64Nvme),
            Self::Sha1 | Self::Sha256 => None,
        }
    }

    pub(super) fn digest_bytes(self) -> usize {
        match self {
            Self::Crc32 | Self::Crc32c => 4,
            Self::Crc64Nvme => 8,
            Self::Sha1 => 20,
            Self::Sha256 => 32,
        }
    }

    /// How a multipart upload with this algorithm adds up where the client does not say.
    pub(super) fn default_type(self) -> &'static str {
        match self {
            Self::Crc64Nvme => FULL_OBJECT,
            Self::Crc32 | Self::Crc32c | Self::Sha1 | Self::Sha256 => COMPOSITE,
        }
    }

    /// Whether parts can add up so: only CRCs combine, and CRC64NVME knows no other way.
    pub(super) fn allows(self, kind: &str) -> bool {
        match kind {
            FULL_OBJECT => self.crc().is_some(),
            COMPOSITE => self != Self::Crc64Nvme,
            _ => false,
        }
    }
}

/// One pass over bytes.
pub(super) struct Digests {
    md5: Md5,
    others: Vec<(Algorithm, Hasher)>,
}

enum Hasher {
    Crc(crc_fast::Digest),
    Sha1(Sha1),
    Sha256(Sha256),
}

impl Digests {
    pub(super) fn new(algorithms: &[Algorithm]) -> Self {
        let hasher = |&algorithm: &Algorithm| {
            let hasher = match (algorithm.crc(), algorithm) {
                (Some(crc), _) => Hasher::Crc(crc_fast::Digest::new(crc)),
                (None, Algorithm::Sha1) => Hasher::Sha1(Sha1::new()),
                (None, _) => Hasher::Sha256(Sha256::new()),
            };
            (algorithm, hasher)
        };
        Self {
            md5: Md5::new(),
            others: algorithms.iter().map(hasher).collect(),
        }
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.md5.update(bytes);
        for (_, hasher) in &mut self.others {
            match hasher {
                Hasher::Crc(crc) => crc.update(bytes),
                Hasher::Sha1(sha) => sha.update(bytes),
                Hasher::Sha256(sha) => sha.update(bytes),
            }
        }
    }

    pub(super) fn finish(self) -> Sums {
        let digest = |(algorithm, hasher): (Algorithm, Hasher)| {
            let digest: Vec<u8> = match hasher {
                Hasher::Crc(crc) => crc_bytes(algorithm, crc.finalize()),
                Hasher::Sha1(sha) => sha.finalize().to_vec(),
                Hasher::Sha256(sha) => sha.finalize().to_vec(),
            };
            (algorithm, digest)
        };
        Sums {
            md5: self.md5.finalize(),
            others: self.others.into_iter().map(digest).collect(),
        }
    }
}

/// Hashes everything behind `body`, reading a mebibyte at a time. Blocks.
pub(super) fn sums_of(body: &dyn ReadAt, algorithms: &[Algorithm]) -> blockstore::Result<Sums> {
    let mut digests = Digests::new(algorithms);
    let length = body.length_bytes();
    let mut buffer = vec![0; HASHED_AT_A_TIME];
    let mut offset = 0;
    while offset < length {
        let take = usize::try_from(length - offset)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        body.read_at(offset, &mut buffer[..take])?;
        digests.update(&buffer[..take]);
        offset += take as u64;
    }
    Ok(digests.finish())
}

/// What the bytes say.
pub(super) struct Sums {
    md5: [u8; 16],
    others: BTreeMap<Algorithm, Vec<u8>>,
}

impl Sums {
    /// The ETag of these bytes as one piece.
    pub(super) fn etag(&self) -> String {
        hex::encode(self.md5)
    }

    pub(super) fn md5(&self) -> [u8; 16] {
        self.md5
    }

    /// One checksum, if it was computed.
    pub(super) fn digest(&self, algorithm: Algorithm) -> Option<&Vec<u8>> {
        self.others.get(&algorithm)
    }

    /// One checksum in lower-case hex, if it was computed.
    pub(super) fn hex(&self, algorithm: Algorithm) -> Option<String> {
        self.others.get(&algorithm).map(hex::encode)
    }

    /// The checksums as the store keeps them, with their type.
    pub(super) fn kept(&self, kind: &str) -> BTreeMap<String, String> {
        let mut kept: BTreeMap<String, String> = self
            .others
            .iter()
            .map(|(algorithm, digest)| (algorithm.name().into(), BASE64.encode(digest)))
            .collect();
        if !kept.is_empty() {
            kept.insert(TYPE.into(), kind.into());
        }
        kept
    }
}

/// The ETag of a completed multipart upload: the MD5 of the parts' MD5s, and their number.
/// `None` if a part's ETag is no MD5.
pub(super) fn multipart_etag<'a>(etags: impl Iterator<Item = &'a str>) -> Option<String> {
    let mut md5 = Md5::new();
    let mut count = 0_u32;
    for etag in etags {
        let mut digest = [0; 16];
        hex::decode_to_slice(etag, &mut digest).ok()?;
        md5.update(&digest);
        count += 1;
    }
    Some(format!("{}-{count}", hex::encode(md5.finalize())))
}

/// The checksum over all parts' bytes, from the parts' checksums (base64) and lengths.
/// `None` if one is no such checksum, or if this algorithm does not combine.
pub(super) fn full_object<'a>(
    algorithm: Algorithm,
    parts: impl Iterator<Item = (&'a str, u64)>,
) -> Option<String> {
    let crc = algorithm.crc()?;
    let mut all: Option<u64> = None;
    for (value, length_bytes) in parts {
        let digest = BASE64
            .decode(value)
            .ok()
            .filter(|d| d.len() == algorithm.digest_bytes())?;
        let part = digest
            .iter()
            .fold(0_u64, |sum, &byte| sum << 8 | u64::from(byte));
        all = Some(match all {
            None => part,
            // Nothing follows: the combining table has no entry for a shift by nothing.
            Some(before) if length_bytes == 0 => before,
            Some(before) => crc_fast::checksum_combine(crc, before, part, length_bytes),
        });
    }
    Some(BASE64.encode(crc_bytes(algorithm, all?)))
}

/// The checksum over the parts' checksums (base64), and their number.
pub(super) fn composite<'a>(
    algorithm: Algorithm,
    parts: impl Iterator<Item = &'a str>,
) -> Option<String> {
    let mut digests = Digests::new(&[algorithm]);
    let mut count = 0_u32;
    for value in parts {
        let digest = BASE64
            .decode(value)
            .ok()
            .filter(|d| d.len() == algorithm.digest_bytes())?;
        digests.update(&digest);
        count += 1;
    }
    let sums = digests.finish();
    Some(format!(
        "{}-{count}",
        BASE64.encode(sums.others.get(&algorithm)?)
    ))
}

/// A mismatch, worded as S3 words it, with both values.
pub(super) fn mismatch(algorithm: Algorithm, claimed: &str, arrived: &str) -> S3Error {
    s3_error!(
        BadDigest,
        "The {} you specified did not match the calculated checksum: {claimed} was claimed, \
         {arrived} arrived. Nothing was stored; send it again.",
        algorithm.s3_name()
    )
}

fn crc_bytes(algorithm: Algorithm, value: u64) -> Vec<u8> {
    value.to_be_bytes()[8 - algorithm.digest_bytes()..].to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sums(bytes: &[u8], algorithms: &[Algorithm]) -> Sums {
        let mut digests = Digests::new(algorithms);
        digests.update(bytes);
        digests.finish()
    }

    fn value(bytes: &[u8], algorithm: Algorithm) -> String {
        sums(bytes, &[algorithm]).kept(FULL_OBJECT)[algorithm.name()].clone()
    }

    #[test]
    fn the_check_values_of_the_algorithms_are_known() {
        // The check values over "123456789" of the CRC catalogue (reveng.sourceforge.io), and
        // those of RFC 1321 and FIPS 180 by coreutils.
        for (algorithm, expected) in [
            (Algorithm::Crc32, "cbf43926"),
            (Algorithm::Crc32c, "e3069283"),
            (Algorithm::Crc64Nvme, "ae8b14860a799888"),
            (Algorithm::Sha1, "f7c3bc1d808e04732adf679965ccc34ca7ae3441"),
            (
                Algorithm::Sha256,
                "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225",
            ),
        ] {
            assert_eq!(
                value(b"123456789", algorithm),
                BASE64.encode(hex::decode(expected).unwrap()),
                "{algorithm:?}"
            );
        }
        assert_eq!(
            sums(b"123456789", &[]).etag(),
            "25f9e794323b453885f5181f1b624d0b"
        );
    }

    #[test]
    fn crcs_of_parts_combine_to_the_crc_of_the_whole_at_every_cut() {
        let whole: Vec<u8> = (0..4000_u32).map(|n| (n * 7 % 251) as u8).collect();
        for algorithm in [Algorithm::Crc32, Algorithm::Crc32c, Algorithm::Crc64Nvme] {
            for cut in [0, 1, 7, 256, 3999, 4000] {
                let (head, tail) = whole.split_at(cut);
                let parts = [
                    (value(head, algorithm), head.len() as u64),
                    (value(tail, algorithm), tail.len() as u64),
                    (value(b"", algorithm), 0),
                ];
                let combined = full_object(algorithm, parts.iter().map(|(v, n)| (v.as_str(), *n)));
                assert_eq!(
                    combined.unwrap(),
                    value(&whole, algorithm),
                    "{algorithm:?} at {cut}"
                );
            }
        }
    }

    #[test]
    fn a_hash_does_not_combine_and_a_bad_part_is_no_checksum() {
        assert_eq!(
            full_object(Algorithm::Sha256, [("AAAA", 1)].into_iter()),
            None
        );
        assert_eq!(
            full_object(Algorithm::Crc32, [("AAAA", 1)].into_iter()),
            None
        );
        assert_eq!(
            full_object(Algorithm::Crc32, [("not base64", 1)].into_iter()),
            None
        );
        assert_eq!(full_object(Algorithm::Crc32, std::iter::empty()), None);
    }

    #[test]
    fn a_composite_is_the_checksum_of_the_checksums_with_their_count() {
        let parts = [
            value(b"one", Algorithm::Sha256),
            value(b"two", Algorithm::Sha256),
        ];
        let bytes: Vec<u8> = parts
            .iter()
            .flat_map(|part| BASE64.decode(part).unwrap())
            .collect();
        assert_eq!(
            composite(Algorithm::Sha256, parts.iter().map(String::as_str)).unwrap(),
            format!("{}-2", value(&bytes, Algorithm::Sha256))
        );
    }

    #[test]
    fn a_multipart_etag_is_the_md5_of_the_md5s_with_their_count() {
        let (one, two) = (sums(b"one", &[]), sums(b"two", &[]));
        let both = [one.md5, two.md5].concat();
        let (one, two) = (one.etag(), two.etag());
        assert_eq!(
            multipart_etag([one.as_str(), two.as_str()].into_iter()).unwrap(),
            format!("{}-2", sums(&both, &[]).etag())
        );
        assert_eq!(multipart_etag(["short"].into_iter()), None);
    }

    #[test]
    fn which_types_an_algorithm_allows_follows_the_user_guide() {
        assert!(Algorithm::Crc32.allows(COMPOSITE) && Algorithm::Crc32.allows(FULL_OBJECT));
        assert!(!Algorithm::Crc64Nvme.allows(COMPOSITE));
        assert!(!Algorithm::Sha256.allows(FULL_OBJECT));
        assert!(!Algorithm::Sha256.allows("SIDEWAYS"));
    }
}
