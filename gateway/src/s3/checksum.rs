//! Checksums: what a client claims about bytes, what the bytes say, and how parts add up.
//!
//! 1. Whatever a client claims (Content-MD5, an `x-amz-checksum-*` header or trailer) is compared
//!    with the bytes before anything is committed.
//! 2. Every byte is hashed once: the MD5 that the ETag needs and the asked checksums in one pass.
//! 3. A full-object CRC of a multipart upload is combined from the parts' CRCs, nothing is read
//!    again ("Checking object integrity", Amazon S3 user guide).

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use blockstore::object::ReadAt;
use crc_fast::CrcAlgorithm;
use http::HeaderMap;
use s3s::crypto::{Checksum as _, Md5, Sha1, Sha256};
use s3s::{S3Error, S3Result, s3_error};
use std::collections::BTreeMap;

/// Under this name [`blockstore::object::ObjectMeta::checksums`] keeps how a checksum came about.
pub(super) const TYPE: &str = "type";
/// Under this name an upload's `checksums` keep the algorithm it was begun with.
pub(super) const ALGORITHM: &str = "algorithm";
/// A checksum over all bytes.
pub(super) const FULL_OBJECT: &str = "FULL_OBJECT";
/// A checksum over the parts' checksums.
pub(super) const COMPOSITE: &str = "COMPOSITE";

/// The `x-amz-checksum-…` headers that are no checksums themselves.
const NOT_A_VALUE: [&str; 3] = ["algorithm", "mode", "type"];
const HEADER_PREFIX: &str = "x-amz-checksum-";
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
    pub(super) const ALL: [Self; 5] =
        [Self::Crc32, Self::Crc32c, Self::Crc64Nvme, Self::Sha1, Self::Sha256];

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
        Self::ALL.into_iter().find(|algorithm| algorithm.name().eq_ignore_ascii_case(name))
    }

    fn crc(self) -> Option<CrcAlgorithm> {
        match self {
            Self::Crc32 => Some(CrcAlgorithm::Crc32IsoHdlc),
            Self::Crc32c => Some(CrcAlgorithm::Crc32Iscsi),
            Self::Crc64Nvme => Some(CrcAlgorithm::Crc64Nvme),
            Self::Sha1 | Self::Sha256 => None,
        }
    }

    fn digest_bytes(self) -> usize {
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
        Self { md5: Md5::new(), others: algorithms.iter().map(hasher).collect() }
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
        Sums { md5: self.md5.finalize(), others: self.others.into_iter().map(digest).collect() }
    }
}

/// Hashes everything behind `body`, reading a mebibyte at a time. Blocks.
pub(super) fn sums_of(body: &dyn ReadAt, algorithms: &[Algorithm]) -> blockstore::Result<Sums> {
    let mut digests = Digests::new(algorithms);
    let length = body.length_bytes();
    let mut buffer = vec![0; HASHED_AT_A_TIME];
    let mut offset = 0;
    while offset < length {
        let take = usize::try_from(length - offset).unwrap_or(usize::MAX).min(buffer.len());
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

/// What a client says about the body of its request.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Claims {
    md5: Option<[u8; 16]>,
    value: Option<(Algorithm, Vec<u8>)>,
    trailer: Option<Algorithm>,
}

impl Claims {
    /// From a request's headers. InvalidDigest or InvalidRequest where they make no sense.
    pub(super) fn of(headers: &HeaderMap) -> S3Result<Self> {
        let mut claims = Self { md5: content_md5(headers)?, ..Self::default() };
        for (name, value) in headers {
            let Some(kind) = name.as_str().strip_prefix(HEADER_PREFIX) else { continue };
            if NOT_A_VALUE.contains(&kind) {
                continue;
            }
            let Some(algorithm) = Algorithm::named(kind) else {
                return Err(s3_error!(InvalidRequest, "{name} names no checksum that S3 knows"));
            };
            if claims.value.is_some() {
                return Err(several());
            }
            claims.value = Some((algorithm, value_of(algorithm, value.to_str().ok())?));
        }
        for name in trailer_names(headers) {
            let algorithm = name.strip_prefix(HEADER_PREFIX).and_then(Algorithm::named);
            let Some(algorithm) = algorithm else {
                return Err(s3_error!(
                    InvalidRequest,
                    "the trailer {name:?} is not supported: only x-amz-checksum-* ones are"
                ));
            };
            if claims.value.is_some() || claims.trailer.is_some() {
                return Err(several());
            }
            claims.trailer = Some(algorithm);
        }
        if let Some(said) = headers.get("x-amz-sdk-checksum-algorithm") {
            let said = said.to_str().unwrap_or_default();
            match (Algorithm::named(said), claims.algorithm()) {
                (Some(said), Some(given)) if said == given => {}
                (Some(_), None) if claims.md5.is_none() => {
                    return Err(s3_error!(
                        InvalidRequest,
                        "x-amz-sdk-checksum-algorithm specified, but no corresponding \
                         x-amz-checksum-* or x-amz-trailer headers were found."
                    ));
                }
                (Some(_), None) => {}
                _ => {
                    return Err(s3_error!(
                        InvalidRequest,
                        "Value for x-amz-sdk-checksum-algorithm header is invalid: {said:?}"
                    ));
                }
            }
        }
        Ok(claims)
    }

    /// Only the Content-MD5, where `x-amz-checksum-*` speak of something else than this body.
    pub(super) fn of_md5(headers: &HeaderMap) -> S3Result<Self> {
        Ok(Self { md5: content_md5(headers)?, ..Self::default() })
    }

    /// Which checksum must be computed to check the claim.
    pub(super) fn algorithm(&self) -> Option<Algorithm> {
        self.value.as_ref().map(|(algorithm, _)| *algorithm).or(self.trailer)
    }

    /// Compares the claims with what arrived. `trailers` are the body's own, read to its end.
    pub(super) fn check(&self, sums: &Sums, trailers: Option<&HeaderMap>) -> S3Result<()> {
        if let Some(md5) = &self.md5
            && *md5 != sums.md5
        {
            return Err(s3_error!(
                BadDigest,
                "The Content-MD5 you specified did not match what we received: {} was claimed, \
                 {} arrived. Nothing was stored; send it again.",
                BASE64.encode(md5),
                BASE64.encode(sums.md5)
            ));
        }
        if let Some((algorithm, claimed)) = &self.value {
            compare(*algorithm, claimed, sums)?;
        }
        if let Some(algorithm) = self.trailer {
            let name = format!("{HEADER_PREFIX}{}", algorithm.name());
            let mut values = trailers.iter().flat_map(|trailers| trailers.get_all(&name));
            let (Some(value), None) = (values.next(), values.next()) else {
                return Err(malformed_trailer(&name));
            };
            compare(algorithm, &value_of(algorithm, value.to_str().ok())?, sums)?;
        }
        Ok(())
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
        let digest = BASE64.decode(value).ok().filter(|d| d.len() == algorithm.digest_bytes())?;
        let part = digest.iter().fold(0_u64, |sum, &byte| sum << 8 | u64::from(byte));
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
        let digest = BASE64.decode(value).ok().filter(|d| d.len() == algorithm.digest_bytes())?;
        digests.update(&digest);
        count += 1;
    }
    let sums = digests.finish();
    Some(format!("{}-{count}", BASE64.encode(sums.others.get(&algorithm)?)))
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

fn compare(algorithm: Algorithm, claimed: &[u8], sums: &Sums) -> S3Result<()> {
    let arrived = sums.others.get(&algorithm);
    assert!(arrived.is_some(), "a claimed checksum is always computed");
    match arrived {
        Some(arrived) if arrived != claimed => {
            Err(mismatch(algorithm, &BASE64.encode(claimed), &BASE64.encode(arrived)))
        }
        _ => Ok(()),
    }
}

fn content_md5(headers: &HeaderMap) -> S3Result<Option<[u8; 16]>> {
    let mut values = headers.get_all("content-md5").into_iter();
    let Some(value) = values.next() else { return Ok(None) };
    let digest = BASE64.decode(value.as_bytes()).ok().and_then(|digest| digest.try_into().ok());
    match (digest, values.next()) {
        (Some(digest), None) => Ok(Some(digest)),
        _ => Err(s3_error!(
            InvalidDigest,
            "The Content-MD5 you specified was invalid: {value:?} is not the base64 of 16 bytes"
        )),
    }
}

fn value_of(algorithm: Algorithm, value: Option<&str>) -> S3Result<Vec<u8>> {
    let digest = value.and_then(|value| BASE64.decode(value.trim()).ok());
    digest.filter(|digest| digest.len() == algorithm.digest_bytes()).ok_or_else(|| {
        s3_error!(
            InvalidRequest,
            "Value for {HEADER_PREFIX}{} header is invalid: {:?} is not the base64 of {} bytes",
            algorithm.name(),
            value.unwrap_or("(not text)"),
            algorithm.digest_bytes()
        )
    })
}

fn trailer_names(headers: &HeaderMap) -> impl Iterator<Item = String> + '_ {
    headers
        .get_all("x-amz-trailer")
        .into_iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|name| name.trim().to_ascii_lowercase())
        .filter(|name| !name.is_empty())
}

fn several() -> S3Error {
    s3_error!(
        InvalidRequest,
        "Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed."
    )
}

fn malformed_trailer(name: &str) -> S3Error {
    super::error::custom(
        "MalformedTrailerError",
        http::StatusCode::BAD_REQUEST,
        format!("x-amz-trailer promised {name} once, and the body did not end with it"),
    )
}

fn crc_bytes(algorithm: Algorithm, value: u64) -> Vec<u8> {
    value.to_be_bytes()[8 - algorithm.digest_bytes()..].to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

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
        assert_eq!(sums(b"123456789", &[]).etag(), "25f9e794323b453885f5181f1b624d0b");
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
                assert_eq!(combined.unwrap(), value(&whole, algorithm), "{algorithm:?} at {cut}");
            }
        }
    }

    #[test]
    fn a_hash_does_not_combine_and_a_bad_part_is_no_checksum() {
        assert_eq!(full_object(Algorithm::Sha256, [("AAAA", 1)].into_iter()), None);
        assert_eq!(full_object(Algorithm::Crc32, [("AAAA", 1)].into_iter()), None);
        assert_eq!(full_object(Algorithm::Crc32, [("not base64", 1)].into_iter()), None);
        assert_eq!(full_object(Algorithm::Crc32, std::iter::empty()), None);
    }

    #[test]
    fn a_composite_is_the_checksum_of_the_checksums_with_their_count() {
        let parts = [value(b"one", Algorithm::Sha256), value(b"two", Algorithm::Sha256)];
        let bytes: Vec<u8> = parts.iter().flat_map(|part| BASE64.decode(part).unwrap()).collect();
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
    fn a_right_claim_passes_and_a_wrong_one_is_a_bad_digest() {
        let good = sums(b"hello", &Algorithm::ALL);
        let bad = sums(b"hellO", &Algorithm::ALL);
        for algorithm in Algorithm::ALL {
            let name: http::HeaderName =
                format!("x-amz-checksum-{}", algorithm.name()).parse().unwrap();
            let given: HeaderValue = value(b"hello", algorithm).parse().unwrap();
            let header = HeaderMap::from_iter([(name.clone(), given.clone())]);
            let claims = Claims::of(&header).unwrap();
            assert_eq!(claims.algorithm(), Some(algorithm));
            claims.check(&good, None).unwrap();
            assert_eq!(claims.check(&bad, None).unwrap_err().code().as_str(), "BadDigest");

            let trailed = Claims::of(&headers(&[("x-amz-trailer", name.as_str())])).unwrap();
            assert_eq!(trailed.algorithm(), Some(algorithm));
            let trailers = HeaderMap::from_iter([(name, given)]);
            trailed.check(&good, Some(&trailers)).unwrap();
            assert_eq!(
                trailed.check(&bad, Some(&trailers)).unwrap_err().code().as_str(),
                "BadDigest"
            );
            let missing = trailed.check(&good, None).unwrap_err();
            assert_eq!(missing.code().as_str(), "MalformedTrailerError");
        }
        let md5 = Claims::of(&headers(&[("content-md5", "XUFAKrxLKna5cZ2REBfFkg==")])).unwrap();
        md5.check(&good, None).unwrap();
        assert_eq!(md5.check(&bad, None).unwrap_err().code().as_str(), "BadDigest");
    }

    #[test]
    fn claims_that_make_no_sense_are_refused_before_the_body_is_read() {
        for (pairs, code) in [
            (&[("content-md5", "not base64")][..], "InvalidDigest"),
            (&[("content-md5", "AAAA")], "InvalidDigest"),
            (&[("x-amz-checksum-crc32", "AAAA")], "InvalidRequest"),
            (&[("x-amz-checksum-md4", "AAAA")], "InvalidRequest"),
            (
                &[("x-amz-checksum-crc32", "AAAAAA=="), ("x-amz-checksum-crc32c", "AAAAAA==")],
                "InvalidRequest",
            ),
            (
                &[("x-amz-checksum-crc32", "AAAAAA=="), ("x-amz-trailer", "x-amz-checksum-crc32")],
                "InvalidRequest",
            ),
            (&[("x-amz-trailer", "x-amz-meta-late")], "InvalidRequest"),
            (&[("x-amz-sdk-checksum-algorithm", "CRC32")], "InvalidRequest"),
            (
                &[
                    ("x-amz-sdk-checksum-algorithm", "SHA1"),
                    ("x-amz-checksum-crc32", "AAAAAA=="),
                ],
                "InvalidRequest",
            ),
        ] {
            let refused = Claims::of(&headers(pairs)).unwrap_err();
            assert_eq!(refused.code().as_str(), code, "{pairs:?}");
        }
        let plain = headers(&[("x-amz-checksum-mode", "ENABLED"), ("x-amz-checksum-type", "X")]);
        assert_eq!(Claims::of(&plain).unwrap(), Claims::default());
    }

    #[test]
    fn which_types_an_algorithm_allows_follows_the_user_guide() {
        assert!(Algorithm::Crc32.allows(COMPOSITE) && Algorithm::Crc32.allows(FULL_OBJECT));
        assert!(!Algorithm::Crc64Nvme.allows(COMPOSITE));
        assert!(!Algorithm::Sha256.allows(FULL_OBJECT));
        assert!(!Algorithm::Sha256.allows("SIDEWAYS"));
    }
}
