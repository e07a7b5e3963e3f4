//! Checksums of whole bodies, as RFC 3230 asks for them and tells them: `adler32`, `md5`, `sha-256`.
//!
//! What was computed once is kept with the object under the name `digest`, bound to the ETag of the
//! bytes it is of:
//!
//! ```text
//! {"v":1,"of":"<etag>","adler32":"03da0195","sha-256":"<base64>"}
//! ```

use axum::http::HeaderMap;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use blockstore::object::{Change, Object, Precondition, ReadAt};
use blockstore::{Result, Store, Who};
use md5::{Digest as _, Md5};
use serde_json::{Map, Value, json};
use sha2::Sha256;
use simd_adler32::Adler32;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

/// Under this name an object keeps them.
const KEPT: &str = "digest";
/// Bytes read at a time.
const STEP: usize = 1 << 20;

/// A checksum that clients ask for by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Algorithm {
    Adler32,
    Md5,
    Sha256,
}

impl Algorithm {
    pub(super) const ALL: [Self; 3] = [Self::Adler32, Self::Md5, Self::Sha256];

    /// As the `Digest` header spells it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Adler32 => "adler32",
            Self::Md5 => "md5",
            Self::Sha256 => "sha-256",
        }
    }

    /// By its name, and by the spellings that clients have for it.
    pub(super) fn named(name: &str) -> Option<Self> {
        let name = name.trim();
        if name.eq_ignore_ascii_case("sha256") {
            return Some(Self::Sha256);
        }
        Self::ALL
            .into_iter()
            .find(|algorithm| algorithm.name().eq_ignore_ascii_case(name))
    }

    /// A value in its usual spelling, from any that is used for it: hexadecimal or base64.
    pub(super) fn value(self, text: &str) -> Option<String> {
        let text = text.trim();
        let length = match self {
            Self::Adler32 => 4,
            Self::Md5 => 16,
            Self::Sha256 => 32,
        };
        let padded = if self == Self::Adler32 && text.len() < 8 {
            format!("{text:0>8}")
        } else {
            text.to_owned()
        };
        let bytes = hex::decode(&padded)
            .ok()
            .filter(|bytes| bytes.len() == length)
            .or_else(|| BASE64.decode(text).ok())
            .filter(|bytes| bytes.len() == length)?;
        Some(match self {
            Self::Adler32 => hex::encode(bytes),
            Self::Md5 | Self::Sha256 => BASE64.encode(bytes),
        })
    }
}

/// Values by algorithm, each in its usual spelling: adler32 in hexadecimal, the others in base64.
pub(super) type Values = BTreeMap<Algorithm, String>;

/// One pass over bytes.
pub(super) struct Hashing {
    adler32: Adler32,
    md5: Md5,
    sha256: Option<Sha256>,
}

impl Hashing {
    /// Adler-32 and MD5 always: the one is what the grid asks for, the other is the ETag.
    pub(super) fn new(sha256: bool) -> Self {
        Self {
            adler32: Adler32::new(),
            md5: Md5::new(),
            sha256: sha256.then(Sha256::new),
        }
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.adler32.write(bytes);
        self.md5.update(bytes);
        if let Some(sha256) = &mut self.sha256 {
            sha256.update(bytes);
        }
    }

    /// The values, and the ETag.
    pub(super) fn finish(self) -> (Values, String) {
        let md5 = self.md5.finalize();
        let mut values = Values::from([
            (Algorithm::Adler32, format!("{:08x}", self.adler32.finish())),
            (Algorithm::Md5, BASE64.encode(md5)),
        ]);
        if let Some(sha256) = self.sha256 {
            values.insert(Algorithm::Sha256, BASE64.encode(sha256.finalize()));
        }
        (values, hex::encode(md5))
    }
}

/// What a request claims of its body: `Digest` (RFC 3230), `Content-MD5` (RFC 1864), `OC-Checksum`.
/// The text is what is wrong with a claim.
pub(super) fn claimed(headers: &HeaderMap) -> Result<Values, String> {
    let mut claims = Values::new();
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let mut claim = |name: &str, value: &str| {
        // Unknown algorithms are no claim that could be judged (RFC 3230, 4.3.2).
        let Some(algorithm) = Algorithm::named(name) else {
            return Ok::<(), String>(());
        };
        let value = algorithm
            .value(value)
            .ok_or_else(|| format!("{value:?} is no {} checksum", algorithm.name()))?;
        claims.insert(algorithm, value);
        Ok(())
    };
    for one in text("digest").into_iter().flat_map(|all| all.split(',')) {
        if let Some((name, value)) = one.split_once('=') {
            claim(name, value)?;
        }
    }
    if let Some(value) = text("content-md5") {
        claim("md5", value)?;
    }
    if let Some((name, value)) = text("oc-checksum").and_then(|text| text.split_once(':')) {
        claim(name, value)?;
    }
    Ok(claims)
}

/// The text is which claim does not hold.
pub(super) fn verify(claims: &Values, found: &Values) -> Result<(), String> {
    for (algorithm, claim) in claims {
        match found.get(algorithm) {
            Some(found) if found == claim => {}
            Some(found) => {
                return Err(format!(
                    "the bytes have {} {found}, not {claim} as was claimed",
                    algorithm.name()
                ));
            }
            None => return Err(format!("{} was not computed", algorithm.name())),
        }
    }
    Ok(())
}

/// What `Want-Digest` asks for most (RFC 3230, 4.3.1); nothing if it names none of ours.
pub(super) fn wanted(headers: &HeaderMap) -> Option<Algorithm> {
    let mut best: Option<(f32, Algorithm)> = None;
    let all = headers.get_all("want-digest");
    let texts = all.iter().filter_map(|value| value.to_str().ok());
    for one in texts.flat_map(|text| text.split(',')) {
        let (name, quality) = one.split_once(';').unwrap_or((one, ""));
        let quality = quality.trim().strip_prefix("q=").unwrap_or("1");
        let quality = quality.trim().parse::<f32>().unwrap_or(0.0);
        let Some(algorithm) = Algorithm::named(name) else {
            continue;
        };
        if quality > 0.0 && best.is_none_or(|(most, _)| quality > most) {
            best = Some((quality, algorithm));
        }
    }
    best.map(|(_, algorithm)| algorithm)
}

/// A value that is known without reading the bytes.
pub(super) fn known(object: &Object, algorithm: Algorithm) -> Option<String> {
    let etag = &object.meta.etag;
    if algorithm == Algorithm::Md5 && etag.len() == 32 {
        return algorithm.value(etag);
    }
    if algorithm == Algorithm::Sha256
        && let Some(sha256) = object.meta.checksums.get("sha256")
        && let Some(value) = algorithm.value(sha256)
        && object
            .meta
            .checksums
            .get("type")
            .is_none_or(|kind| kind == "FULL_OBJECT")
    {
        return Some(value);
    }
    let kept = object.meta.properties.get(KEPT)?;
    // Of a newer format nothing is guessed: the value is computed again.
    if kept.get("v")? != 1 || kept.get("of")?.as_str()? != etag {
        return None;
    }
    algorithm.value(kept.get(algorithm.name())?.as_str()?)
}

/// The values as an object keeps them.
pub(super) fn kept(etag: &str, values: &Values) -> (String, Value) {
    let mut map = Map::from_iter([("v".to_owned(), json!(1)), ("of".to_owned(), json!(etag))]);
    for (algorithm, value) in values {
        // An MD5 is the ETag where it is one at all.
        if *algorithm != Algorithm::Md5 || etag.len() != 32 {
            map.insert(algorithm.name().to_owned(), json!(value));
        }
    }
    (KEPT.to_owned(), Value::Object(map))
}

/// Reads a body and computes; `None` if `stopped` was set meanwhile. Blocks.
pub(super) fn compute(
    body: &dyn ReadAt,
    sha256: bool,
    stopped: &AtomicBool,
) -> Result<Option<Values>> {
    let mut hashing = Hashing::new(sha256);
    let mut buffer = vec![0; STEP];
    let mut offset = 0;
    let length = body.length_bytes();
    while offset < length {
        if stopped.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let count = usize::try_from(length - offset)
            .unwrap_or(usize::MAX)
            .min(STEP);
        body.read_at(offset, &mut buffer[..count])?;
        hashing.update(&buffer[..count]);
        offset += count as u64;
    }
    Ok(Some(hashing.finish().0))
}

/// Keeps values with the object they are of; nothing happens if it was replaced meanwhile.
pub(super) fn keep(store: &Store, who: &Who, object: &Object, values: &Values) {
    let mut values = values.clone();
    for algorithm in Algorithm::ALL {
        if let Some(value) = known(object, algorithm) {
            values.entry(algorithm).or_insert(value);
        }
    }
    let etag = &object.meta.etag;
    let (name, value) = kept(etag, &values);
    let change = Change {
        properties: BTreeMap::from([(name, Some(value))]),
        ..Change::default()
    };
    let same = Precondition {
        if_match: vec![etag.clone()],
        ..Precondition::default()
    };
    let done = store.object_change(who, &object.bucket, &object.key, None, &change, &same);
    if let Err(error) = done {
        tracing::debug!("a checksum is not kept: {}", error.chain());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect()
    }

    #[test]
    fn the_usual_vectors_hold() {
        let mut hashing = Hashing::new(true);
        hashing.update(b"Wiki");
        hashing.update(b"pedia");
        let (values, etag) = hashing.finish();
        assert_eq!(values[&Algorithm::Adler32], "11e60398");
        assert_eq!(etag, "9c677286866aad38f8e9b660f5411814");
        assert_eq!(
            values[&Algorithm::Md5],
            Algorithm::Md5.value(&etag).unwrap()
        );
        let (empty, _) = Hashing::new(false).finish();
        assert_eq!(empty[&Algorithm::Adler32], "00000001");
        assert!(!empty.contains_key(&Algorithm::Sha256));
    }

    #[test]
    fn the_most_wanted_digest_is_told() {
        for (asked, found) in [
            ("adler32", Some(Algorithm::Adler32)),
            ("ADLER32, md5;q=0.5", Some(Algorithm::Adler32)),
            ("md5;q=0.2, sha-256;q=0.9", Some(Algorithm::Sha256)),
            ("crc32c, unixsum;q=1", None),
            ("md5;q=0", None),
            (";;;,,", None),
        ] {
            assert_eq!(
                wanted(&headers(&[("want-digest", asked)])),
                found,
                "{asked}"
            );
        }
    }

    #[test]
    fn claims_are_read_in_every_spelling_and_judged() {
        let claims = claimed(&headers(&[
            ("digest", "adler32=11e60398, unknown=7"),
            ("content-md5", "nGdyhoZqrTj46bZg9UEYFA=="),
        ]))
        .unwrap();
        let mut hashing = Hashing::new(false);
        hashing.update(b"Wikipedia");
        let (values, _) = hashing.finish();
        assert_eq!(claims.len(), 2);
        assert!(verify(&claims, &values).is_ok());
        let wrong = claimed(&headers(&[("oc-checksum", "ADLER32:11e60399")])).unwrap();
        assert!(verify(&wrong, &values).unwrap_err().contains("11e60399"));
        assert!(claimed(&headers(&[("digest", "md5=zz")])).is_err());
        assert_eq!(Algorithm::Adler32.value("1").unwrap(), "00000001");
    }
}
