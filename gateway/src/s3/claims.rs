//! What a client claims about the bytes of its body, and whether they keep it.
//!
//! Content-MD5, an `x-amz-checksum-*` header or trailer: each is compared with the bytes before
//! anything is committed ("Checking object integrity", Amazon S3 user guide).

use super::checksum::{Algorithm, Sums, mismatch};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::HeaderMap;
use s3s::{S3Error, S3Result, s3_error};

/// The `x-amz-checksum-…` headers that are no checksums themselves.
const NOT_A_VALUE: [&str; 3] = ["algorithm", "mode", "type"];
const HEADER_PREFIX: &str = "x-amz-checksum-";

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
        let mut claims = Self {
            md5: content_md5(headers)?,
            ..Self::default()
        };
        for (name, value) in headers {
            let Some(kind) = name.as_str().strip_prefix(HEADER_PREFIX) else {
                continue;
            };
            if NOT_A_VALUE.contains(&kind) {
                continue;
            }
            let Some(algorithm) = Algorithm::named(kind) else {
                return Err(s3_error!(
                    InvalidRequest,
                    "{name} names no checksum that S3 knows"
                ));
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
        Ok(Self {
            md5: content_md5(headers)?,
            ..Self::default()
        })
    }

    /// Which checksum must be computed to check the claim.
    pub(super) fn algorithm(&self) -> Option<Algorithm> {
        self.value
            .as_ref()
            .map(|(algorithm, _)| *algorithm)
            .or(self.trailer)
    }

    /// Compares the claims with what arrived. `trailers` are the body's own, read to its end.
    pub(super) fn check(&self, sums: &Sums, trailers: Option<&HeaderMap>) -> S3Result<()> {
        if let Some(md5) = &self.md5
            && *md5 != sums.md5()
        {
            return Err(s3_error!(
                BadDigest,
                "The Content-MD5 you specified did not match what we received: {} was claimed, \
                 {} arrived. Nothing was stored; send it again.",
                BASE64.encode(md5),
                BASE64.encode(sums.md5())
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

fn compare(algorithm: Algorithm, claimed: &[u8], sums: &Sums) -> S3Result<()> {
    let arrived = sums.digest(algorithm);
    assert!(arrived.is_some(), "a claimed checksum is always computed");
    match arrived {
        Some(arrived) if arrived != claimed => Err(mismatch(
            algorithm,
            &BASE64.encode(claimed),
            &BASE64.encode(arrived),
        )),
        _ => Ok(()),
    }
}

fn content_md5(headers: &HeaderMap) -> S3Result<Option<[u8; 16]>> {
    let mut values = headers.get_all("content-md5").into_iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let digest = BASE64
        .decode(value.as_bytes())
        .ok()
        .and_then(|digest| digest.try_into().ok());
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
    digest
        .filter(|digest| digest.len() == algorithm.digest_bytes())
        .ok_or_else(|| {
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

#[cfg(test)]
mod tests {
    use super::super::checksum::Digests;
    use super::*;
    use http::HeaderValue;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect()
    }

    fn sums(bytes: &[u8]) -> Sums {
        let mut digests = Digests::new(&Algorithm::ALL);
        digests.update(bytes);
        digests.finish()
    }

    #[test]
    fn a_right_claim_passes_and_a_wrong_one_is_a_bad_digest() {
        let good = sums(b"hello");
        let bad = sums(b"hellO");
        for algorithm in Algorithm::ALL {
            let name: http::HeaderName = format!("x-amz-checksum-{}", algorithm.name())
                .parse()
                .unwrap();
            let given: HeaderValue = BASE64
                .encode(good.digest(algorithm).unwrap())
                .parse()
                .unwrap();
            let header = HeaderMap::from_iter([(name.clone(), given.clone())]);
            let claims = Claims::of(&header).unwrap();
            assert_eq!(claims.algorithm(), Some(algorithm));
            claims.check(&good, None).unwrap();
            assert_eq!(
                claims.check(&bad, None).unwrap_err().code().as_str(),
                "BadDigest"
            );

            let trailed = Claims::of(&headers(&[("x-amz-trailer", name.as_str())])).unwrap();
            assert_eq!(trailed.algorithm(), Some(algorithm));
            let trailers = HeaderMap::from_iter([(name, given)]);
            trailed.check(&good, Some(&trailers)).unwrap();
            assert_eq!(
                trailed
                    .check(&bad, Some(&trailers))
                    .unwrap_err()
                    .code()
                    .as_str(),
                "BadDigest"
            );
            let missing = trailed.check(&good, None).unwrap_err();
            assert_eq!(missing.code().as_str(), "MalformedTrailerError");
        }
        let md5 = Claims::of(&headers(&[("content-md5", "XUFAKrxLKna5cZ2REBfFkg==")])).unwrap();
        md5.check(&good, None).unwrap();
        assert_eq!(
            md5.check(&bad, None).unwrap_err().code().as_str(),
            "BadDigest"
        );
    }

    #[test]
    fn claims_that_make_no_sense_are_refused_before_the_body_is_read() {
        for (pairs, code) in [
            (&[("content-md5", "not base64")][..], "InvalidDigest"),
            (&[("content-md5", "AAAA")], "InvalidDigest"),
            (&[("x-amz-checksum-crc32", "AAAA")], "InvalidRequest"),
            (&[("x-amz-checksum-md4", "AAAA")], "InvalidRequest"),
            (
                &[
                    ("x-amz-checksum-crc32", "AAAAAA=="),
                    ("x-amz-checksum-crc32c", "AAAAAA=="),
                ],
                "InvalidRequest",
            ),
            (
                &[
                    ("x-amz-checksum-crc32", "AAAAAA=="),
                    ("x-amz-trailer", "x-amz-checksum-crc32"),
                ],
                "InvalidRequest",
            ),
            (&[("x-amz-trailer", "x-amz-meta-late")], "InvalidRequest"),
            (
                &[("x-amz-sdk-checksum-algorithm", "CRC32")],
                "InvalidRequest",
            ),
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
        let plain = headers(&[
            ("x-amz-checksum-mode", "ENABLED"),
            ("x-amz-checksum-type", "X"),
        ]);
        assert_eq!(Claims::of(&plain).unwrap(), Claims::default());
    }
}
