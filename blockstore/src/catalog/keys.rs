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
//! | `j/` seq u64 | event of the journal |
//! | `journal-trim` | `{"v":1,"through":n}`: events up to n were removed for their age or number |
//! | `map/` map u64 | [`MapRow`](super::MapRow) |
//! | `pin/` map u64 `/` lsn u64 `/` holder | empty; lsn 2⁶⁴−1 is a volume's head |
//! | `loose/` map u64 | empty: lost a cut, waits for the sweeper |
//! | `bucket/` name | bucket |
//! | `o/` bucket `/` key | `{"v":1,"seq":n,"object":{…}}`; seq is the event that made this incarnation |
//! | `ov/` bucket `/` key, escaped `00 00` NOT seq u64 | as `o/`: an older version, or a delete marker |
//! | `null/` bucket `/` key | `{"v":1,"seq":n}`: under `ov/` lies the version `null` |
//! | `b/` seq u64 | raw bytes of the inline body of the incarnation seq |
//! | `id/` id u64 | `{"v":1,"bucket":…,"key":…}`: what has this stable id; no key: the bucket |
//! | `document/` bucket `/` name | `{"v":1,"text":…}`: policy, CORS, … |
//! | `frozen/` bucket `/` name | snapshot of a bucket: `{"v":1,"id":n,…}` |
//! | `frozen-object/` id u64 `/` key, `frozen-body/` id u64 `/` seq u64 | its objects as `o/`, their inline bodies |
//! | `bucket-usage/` name, `project-usage/` name | `{"v":1,"bytes":n,"objects":n,…}`, never counted anew |
//! | `u/` bucket `/` id | upload under way |
//! | `part/` id `/` number u32 | `{"v":1,"seq":n,"part":{…}}` |
//! | `edit/` map u64 | `{"v":1,"bucket":…,"key":…}`: an editor of that object writes this map; `edit:<map>` pins its head |
//! | `r/` kind `/` name | `{"v":1,"value":…}`: record of another layer |
//! | `member-ids` | `{"v":1,"next":n}`: node ids below n are given out |
//! | `member/` node u64 | `{"v":1,"incarnation":…,"address":…,"gone":bool}`: who has, or had, this node id |
//! | `recovery` | `{"v":1,"generation":n}`: how often one node's state was made the whole group |
//! | `volume/` name | volume |
//! | `snapshot/` id, `snapshot-name/` name | snapshot; `{"v":1,"id":…}` |
//! | `image/` id, `image-name/` name | image; `{"v":1,"id":…}` |
//!
//! Rows under `node/` are this node's own: written directly, in no batch of the group, in no snapshot,
//! in no backup.
//!
//! | key | value |
//! |---|---|
//! | `node/boot` | `{"v":1,"boot":n}`: how often the store was opened |
//! | `node/ids` | `{"v":1,"ranges":[{"start":n,"end":n},…]}`: map ids this node has reserved and of which some may be left without a row |
//! | `node/group` | `{"v":1,"group":…,"node":n,"incarnation":…,"generation":n}`: its place in a group |
//! | `node/applied` | `{"v":1,"version":n,"at":…,"last":[[node,boot,number],…]}`: up to where the group's log is in the rows |
//! | `node/members` | `{"v":1,"at":…,"members":…}`: the group's members as of then |
//! | `node/snapshot` | `{"v":1,"at":…}`: the log up to here need not be kept |
//!
//! Rows are JSON objects with a version `v`; a row of a newer version is refused, not guessed at.
//! The row `format` alone has another version: 2 since versions, locks and usage are kept, which an older
//! release would not keep; 3 since what is a node's own lies under `node/`, where an older release would
//! not look for the boot counter. A catalog of format 1 is counted once and becomes one of format 3; of
//! one of format 2, the rows `boot` and `run` move.
//! In `ov/` each zero byte of a key is followed by `ff`, so that all versions of a key lie together, the
//! newest first, and keys keep their order.
//! Holders of pins: `object:<bucket>/<key>#<seq>` (where it was born), `frozen:<id>#<seq>`, `part:<id>/<number>#<seq>`, `map:<id>`,
//! `volume:<name>`, `snapshot:<id>`, `image:<id>`.

use crate::{Error, Kind, Lsn, MapId, Result, Subject};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Version of every row but `format`.
pub(crate) const VERSION: u32 = 1;
/// Version of the catalog as a whole.
pub(crate) const FORMAT_VERSION: u32 = 3;

pub(crate) const FORMAT: &[u8] = b"format";
pub(super) const IDS: &[u8] = b"ids";
pub(super) const MEMBER_IDS: &[u8] = b"member-ids";
#[cfg_attr(not(test), allow(dead_code, reason = "for members of a group"))]
pub(super) const MEMBERS: &[u8] = b"member/";
pub(super) const RECOVERY: &[u8] = b"recovery";
/// What all rows begin with that are this node's own.
pub(super) const NODE: &[u8] = b"node/";
pub(super) const NODE_BOOT: &[u8] = b"node/boot";
pub(super) const NODE_IDS: &[u8] = b"node/ids";
pub(super) const NODE_GROUP: &[u8] = b"node/group";
pub(super) const NODE_APPLIED: &[u8] = b"node/applied";
pub(super) const NODE_MEMBERS: &[u8] = b"node/members";
pub(super) const NODE_SNAPSHOT: &[u8] = b"node/snapshot";
/// Of formats 1 and 2: `{"v":1,"boot":n}`, now [`NODE_BOOT`].
pub(super) const OLD_BOOT: &[u8] = b"boot";
/// Of formats 1 and 2: `{"v":1,"first":n}`, every map below n has a row or is gone; now [`NODE_IDS`].
pub(super) const OLD_RUN: &[u8] = b"run";
pub(crate) const JOURNAL: &[u8] = b"j/";
pub(crate) const JOURNAL_TRIM: &[u8] = b"journal-trim";
pub(crate) const MAPS: &[u8] = b"map/";
pub(crate) const PINS: &[u8] = b"pin/";
pub(super) const LOOSE: &[u8] = b"loose/";
pub(crate) const BUCKETS: &[u8] = b"bucket/";
pub(crate) const OBJECTS: &[u8] = b"o/";
pub(crate) const EDITS: &[u8] = b"edit/";
pub(crate) const VERSIONS: &[u8] = b"ov/";
pub(crate) const UPLOADS: &[u8] = b"u/";
pub(crate) const FROZEN: &[u8] = b"frozen/";
pub(crate) const BUCKET_USAGE: &[u8] = b"bucket-usage/";
pub(crate) const PROJECT_USAGE: &[u8] = b"project-usage/";

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

/// Who has a node id.
#[cfg_attr(not(test), allow(dead_code, reason = "for members of a group"))]
pub(super) fn member(node: u64) -> Vec<u8> {
    joined(&[MEMBERS, &node.to_be_bytes()])
}

pub(super) fn loose(map: MapId) -> Vec<u8> {
    joined(&[LOOSE, &map.0.to_be_bytes()])
}

/// The map under an object that is being edited.
pub(crate) fn edit(map: MapId) -> Vec<u8> {
    joined(&[EDITS, &map.0.to_be_bytes()])
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

/// All older versions of a bucket's objects.
pub(crate) fn versions_of_bucket(bucket: &str) -> Vec<u8> {
    joined(&[VERSIONS, bucket.as_bytes(), b"/"])
}

/// The beginning that all keys of versions of objects have whose key starts with `prefix`.
pub(crate) fn versions_below(bucket: &str, prefix: &str) -> Vec<u8> {
    let mut at = versions_of_bucket(bucket);
    for byte in prefix.bytes() {
        at.push(byte);
        if byte == 0 {
            at.push(u8::MAX);
        }
    }
    at
}

/// All older versions of an object, the newest first.
pub(crate) fn versions_of(bucket: &str, key: &str) -> Vec<u8> {
    let mut at = versions_below(bucket, key);
    at.extend_from_slice(&[0, 0]);
    at
}

pub(crate) fn version(bucket: &str, key: &str, seq: u64) -> Vec<u8> {
    let mut at = versions_of(bucket, key);
    at.extend_from_slice(&(!seq).to_be_bytes());
    at
}

/// The object's key and the incarnation in the key of a version.
pub(crate) fn parse_version(bucket: &str, at: &[u8]) -> Result<(String, u64)> {
    let parse = || {
        let rest = at.strip_prefix(versions_of_bucket(bucket).as_slice())?;
        let (rest, order) = rest.split_last_chunk::<8>()?;
        let escaped = rest.strip_suffix(&[0, 0])?;
        let mut key = Vec::with_capacity(escaped.len());
        let mut bytes = escaped.iter();
        while let Some(byte) = bytes.next() {
            key.push(*byte);
            if *byte == 0 && bytes.next() != Some(&u8::MAX) {
                return None;
            }
        }
        Some((String::from_utf8(key).ok()?, !u64::from_be_bytes(*order)))
    };
    parse().ok_or_else(|| corrupt_key(at))
}

pub(crate) fn null_version(bucket: &str, key: &str) -> Vec<u8> {
    joined(&[b"null/", bucket.as_bytes(), b"/", key.as_bytes()])
}

pub(crate) fn stable_id(id: u64) -> Vec<u8> {
    joined(&[b"id/", &id.to_be_bytes()])
}

/// All documents of a bucket.
pub(crate) fn documents_of(bucket: &str) -> Vec<u8> {
    joined(&[b"document/", bucket.as_bytes(), b"/"])
}

pub(crate) fn document(bucket: &str, name: &str) -> Vec<u8> {
    joined(&[b"document/", bucket.as_bytes(), b"/", name.as_bytes()])
}

/// All snapshots of a bucket.
pub(crate) fn frozen_of(bucket: &str) -> Vec<u8> {
    joined(&[b"frozen/", bucket.as_bytes(), b"/"])
}

pub(crate) fn frozen(bucket: &str, name: &str) -> Vec<u8> {
    joined(&[b"frozen/", bucket.as_bytes(), b"/", name.as_bytes()])
}

/// All objects of a bucket's snapshot.
pub(crate) fn frozen_objects(id: u64) -> Vec<u8> {
    joined(&[b"frozen-object/", &id.to_be_bytes(), b"/"])
}

pub(crate) fn frozen_object(id: u64, key: &str) -> Vec<u8> {
    joined(&[b"frozen-object/", &id.to_be_bytes(), b"/", key.as_bytes()])
}

pub(crate) fn frozen_body(id: u64, seq: u64) -> Vec<u8> {
    joined(&[b"frozen-body/", &id.to_be_bytes(), b"/", &seq.to_be_bytes()])
}

pub(crate) fn bucket_usage(name: &str) -> Vec<u8> {
    joined(&[BUCKET_USAGE, name.as_bytes()])
}

pub(crate) fn project_usage(name: &str) -> Vec<u8> {
    joined(&[PROJECT_USAGE, name.as_bytes()])
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
