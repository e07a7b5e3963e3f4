//! Keys and rows of the catalog, to the byte.
//!
//! One column family. A key begins with the name of its kind up to the first `/`; no kind's name is
//! the beginning of another's up to there, so kinds never mix in a scan. Numbers in keys are
//! big-endian and of fixed width: byte order is numeric order. Bucket names hold no `/`, so the first
//! `/` behind one ends it, and keys of a bucket sort as their bytes do, whatever bytes they hold.
//!
//! | key | value |
//! |---|---|
//! | `format` | `{"v":1}`; a newer one is refused |
//! | `ids` | `{"v":1,"next":n}`: map ids below n are given out or reserved |
//! | `run` | `{"v":1,"first":n}`: every map below n has a row or is gone |
//! | `j/` seq u64 | event of the journal |
//! | `map/` map u64 | [`MapRow`](super::MapRow) |
//! | `pin/` map u64 `/` lsn u64 `/` holder | empty; lsn 2⁶⁴−1 is a volume's head |
//! | `loose/` map u64 | empty: lost a cut, waits for the sweeper |
//! | `bucket/` name | bucket |
//! | `o/` bucket `/` key | `{"v":1,"seq":n,"object":{…}}`; seq is the event that made this incarnation |
//! | `b/` seq u64 | raw bytes of the inline body of the incarnation seq |
//! | `u/` bucket `/` id | upload under way |
//! | `part/` id `/` number u32 | `{"v":1,"seq":n,"part":{…}}` |
//! | `r/` kind `/` name | `{"v":1,"value":…}`: record of another layer |
//! | `boot` | `{"v":1,"boot":n}`: how often the store was opened |
//! | `volume/` name | volume |
//! | `snapshot/` id, `snapshot-name/` name | snapshot; `{"v":1,"id":…}` |
//! | `image/` id, `image-name/` name | image; `{"v":1,"id":…}` |
//!
//! Rows are JSON objects with a version `v`; a row of a newer version is refused, not guessed at.
//! Holders of pins: `object:<bucket>/<key>#<seq>`, `part:<id>/<number>#<seq>`, `map:<id>`,
//! `volume:<name>`, `snapshot:<id>`, `image:<id>`.

use crate::{Error, Kind, Lsn, MapId, Result, Subject};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Version of the catalog as a whole, and of every row in it.
pub(crate) const VERSION: u32 = 1;

pub(super) const FORMAT: &[u8] = b"format";
pub(super) const IDS: &[u8] = b"ids";
pub(super) const RUN: &[u8] = b"run";
pub(crate) const JOURNAL: &[u8] = b"j/";
pub(crate) const MAPS: &[u8] = b"map/";
pub(crate) const PINS: &[u8] = b"pin/";
pub(super) const LOOSE: &[u8] = b"loose/";
pub(crate) const BUCKETS: &[u8] = b"bucket/";
pub(crate) const OBJECTS: &[u8] = b"o/";

fn joined(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

pub(crate) fn event(seq: u64) -> Vec<u8> {
    joined(&[JOURNAL, &seq.to_be_bytes()])
}

pub(crate) fn map(map: MapId) -> Vec<u8> {
    joined(&[MAPS, &map.0.to_be_bytes()])
}

/// All pins of a map.
pub(super) fn pins_of_map(map: MapId) -> Vec<u8> {
    joined(&[PINS, &map.0.to_be_bytes(), b"/"])
}

/// All pins of a sealed map.
pub(super) fn pins_of_cut(map: MapId, lsn: Lsn) -> Vec<u8> {
    joined(&[PINS, &map.0.to_be_bytes(), b"/", &lsn.0.to_be_bytes(), b"/"])
}

pub(super) fn pin(map: MapId, lsn: Lsn, holder: &str) -> Vec<u8> {
    joined(&[
        PINS,
        &map.0.to_be_bytes(),
        b"/",
        &lsn.0.to_be_bytes(),
        b"/",
        holder.as_bytes(),
    ])
}

/// The map, lsn and holder in a pin's key.
pub(crate) fn parse_pin(key: &[u8]) -> Result<(MapId, Lsn, &str)> {
    let parse = || {
        let rest = key.strip_prefix(PINS)?;
        let (map, rest) = rest.split_first_chunk::<8>()?;
        let (lsn, rest) = rest.strip_prefix(b"/")?.split_first_chunk::<8>()?;
        let holder = std::str::from_utf8(rest.strip_prefix(b"/")?).ok()?;
        Some((
            MapId(u64::from_be_bytes(*map)),
            Lsn(u64::from_be_bytes(*lsn)),
            holder,
        ))
    };
    parse().ok_or_else(|| corrupt_key(key))
}

pub(super) fn loose(map: MapId) -> Vec<u8> {
    joined(&[LOOSE, &map.0.to_be_bytes()])
}

pub(crate) fn bucket(name: &str) -> Vec<u8> {
    joined(&[BUCKETS, name.as_bytes()])
}

/// All objects of a bucket.
pub(crate) fn objects_of(bucket: &str) -> Vec<u8> {
    joined(&[OBJECTS, bucket.as_bytes(), b"/"])
}

pub(crate) fn object(bucket: &str, key: &str) -> Vec<u8> {
    joined(&[OBJECTS, bucket.as_bytes(), b"/", key.as_bytes()])
}

pub(crate) fn body(seq: u64) -> Vec<u8> {
    joined(&[b"b/", &seq.to_be_bytes()])
}

/// All uploads to a bucket.
pub(crate) fn uploads_of(bucket: &str) -> Vec<u8> {
    joined(&[b"u/", bucket.as_bytes(), b"/"])
}

pub(crate) fn upload(bucket: &str, id: &str) -> Vec<u8> {
    joined(&[b"u/", bucket.as_bytes(), b"/", id.as_bytes()])
}

/// All parts of an upload.
pub(crate) fn parts_of(upload: &str) -> Vec<u8> {
    joined(&[b"part/", upload.as_bytes(), b"/"])
}

pub(crate) fn part(upload: &str, number: u32) -> Vec<u8> {
    joined(&[b"part/", upload.as_bytes(), b"/", &number.to_be_bytes()])
}

/// All records of a kind.
pub(crate) fn records_of(kind: &str) -> Vec<u8> {
    joined(&[b"r/", kind.as_bytes(), b"/"])
}

pub(crate) fn record(kind: &str, name: &str) -> Vec<u8> {
    joined(&[b"r/", kind.as_bytes(), b"/", name.as_bytes()])
}

/// The number at the end of a key that is `prefix` and eight bytes.
pub(crate) fn number_behind(prefix: &[u8], key: &[u8]) -> Result<u64> {
    let bytes = key
        .strip_prefix(prefix)
        .and_then(|rest| <[u8; 8]>::try_from(rest).ok());
    bytes
        .map(u64::from_be_bytes)
        .ok_or_else(|| corrupt_key(key))
}

/// The text behind `prefix` in a key.
pub(crate) fn text_behind<'a>(prefix: &[u8], key: &'a [u8]) -> Result<&'a str> {
    let text = key
        .strip_prefix(prefix)
        .and_then(|rest| std::str::from_utf8(rest).ok());
    text.ok_or_else(|| corrupt_key(key))
}

/// The first key behind all that start with `prefix`; `None` if there is none.
pub(crate) fn behind(prefix: &[u8]) -> Option<Vec<u8>> {
    let kept = prefix.iter().rposition(|byte| *byte != u8::MAX)?;
    let mut key = prefix[..=kept].to_vec();
    key[kept] += 1;
    Some(key)
}

fn corrupt_key(key: &[u8]) -> Error {
    let text = format!(
        "catalog key {} is malformed; run `infall check`",
        key.escape_ascii()
    );
    Error::new(Kind::Corrupt, Subject::Store, text)
}

#[derive(Serialize, Deserialize)]
struct Row<T> {
    v: u32,
    #[serde(flatten)]
    row: T,
}

/// A row as it is stored: JSON with the version beside its fields.
pub(crate) fn encode<T: Serialize>(row: &T) -> Result<Vec<u8>> {
    serde_json::to_vec(&Row { v: VERSION, row }).map_err(|cause| {
        Error::new(
            Kind::Internal,
            Subject::Store,
            "a catalog row cannot be written as JSON",
        )
        .because(cause)
    })
}

/// The row behind `key`; Unsupported if a newer release wrote it.
pub(crate) fn decode<T: DeserializeOwned>(key: &[u8], value: &[u8]) -> Result<T> {
    #[derive(Deserialize)]
    struct Version {
        v: u32,
    }
    let cause = match serde_json::from_slice::<Row<T>>(value) {
        Ok(Row { v: VERSION, row }) => return Ok(row),
        Ok(_) => None,
        Err(cause) => Some(cause),
    };
    let shown = key.escape_ascii();
    match (serde_json::from_slice::<Version>(value), cause) {
        (Ok(Version { v }), _) if v > VERSION => Err(Error::new(
            Kind::Unsupported,
            Subject::Store,
            format!(
                "catalog row {shown} has version {v}, this release reads {VERSION}: run the release that wrote it"
            ),
        )),
        (_, cause) => {
            let error = Error::new(
                Kind::Corrupt,
                Subject::Store,
                format!("catalog row {shown} is malformed; run `infall check`"),
            );
            Err(match cause {
                Some(cause) => error.because(cause),
                None => error,
            })
        }
    }
}
