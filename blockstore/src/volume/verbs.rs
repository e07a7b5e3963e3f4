//! The verbs on volumes and snapshots, and their rows.
//!
//! | key | value |
//! |---|---|
//! | `volume/` name | [`VolumeInfo`] (without the writer, who is not stored) |
//! | `snapshot/` id | [`SnapshotInfo`] |
//! | `snapshot-name/` name | `{"v":1,"id":…}` |
//!
//! `volume:<name>#<map>` pins the head, `snapshot:<id>` its cut; an object that a snapshot was published
//! as has a pin of its own and outlives it.

use super::handle::Volume;
use super::{Origin, SnapshotInfo, VOLUME_BYTES_MAX, VOLUME_BYTES_MIN, VolumeInfo};
use crate::catalog::{Catalog, HEAD, MapRow, Txn, keys};
use crate::engine::View;
use crate::image::ImageInfo;
use crate::object::row::signed;
use crate::object::usage::{self, Delta};
use crate::object::{Copied, ObjectMeta, Precondition, row as object_row};
use crate::{
    BLOCK, Entry, Error, Kind, LogId, MapId, Result, SealedMap, Store, Subject, Who, clock,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

const VOLUMES: &[u8] = b"volume/";
const SNAPSHOTS: &[u8] = b"snapshot/";
const SNAPSHOT_NAMES: &[u8] = b"snapshot-name/";
const NAME_BYTES_MAX: usize = 64;

#[derive(Serialize, Deserialize)]
struct NameRow {
    id: String,
}

fn key(prefix: &[u8], name: &str) -> Vec<u8> {
    [prefix, name.as_bytes()].concat()
}

fn holder(info: &VolumeInfo) -> String {
    format!("volume:{}#{}", info.name, info.map.0)
}

fn check_name(name: &str, subject: Subject) -> Result<()> {
    let fits = !name.is_empty()
        && name.len() <= NAME_BYTES_MAX
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        && !name.starts_with(['.', '-'])
        && !name.starts_with("snap-");
    if fits {
        return Ok(());
    }
    let text = format!(
        "{name:?} is not a name: 1 to {NAME_BYTES_MAX} letters, digits, `.`, `_`, `-`, beginning with a letter or digit, not with `snap-`"
    );
    Err(Error::new(Kind::Invalid, subject, text))
}

fn check_length(length_bytes: u64) -> Result<()> {
    if !(VOLUME_BYTES_MIN..=VOLUME_BYTES_MAX).contains(&length_bytes)
        || !length_bytes.is_multiple_of(BLOCK as u64)
    {
        let text = format!(
            "a volume has {VOLUME_BYTES_MIN} (1 MiB) to {VOLUME_BYTES_MAX} (64 TiB) bytes, a multiple of {BLOCK}; {length_bytes} does not fit"
        );
        return Err(Error::new(Kind::Invalid, Subject::Volume, text));
    }
    Ok(())
}

fn missing(subject: Subject, what: &str, name: &str) -> Error {
    Error::new(Kind::NotFound, subject, format!("no {what} {name:?}"))
}

fn volume_row(txn: &Txn<'_>, name: &str) -> Result<VolumeInfo> {
    let at = key(VOLUMES, name);
    let row = txn
        .get(&at)?
        .ok_or_else(|| missing(Subject::Volume, "volume", name))?;
    keys::decode(&at, &row)
}

fn rows<T: serde::de::DeserializeOwned>(catalog: &Catalog, prefix: &[u8]) -> Result<Vec<T>> {
    let mut found = Vec::new();
    catalog.scan(prefix, prefix, &mut |key, value| {
        found.push(keys::decode(key, value)?);
        Ok(true)
    })?;
    Ok(found)
}

/// A sealed map to begin with, and what it is called.
struct Begin {
    sealed: SealedMap,
    label: String,
    found: Found,
    /// What a person should know of it.
    remark: Option<String>,
}

/// Where a sealed map was found.
enum Found {
    Image(Box<ImageInfo>),
    /// By id.
    Snapshot(String),
}

impl Begin {
    /// The origin must still show the same map when the pin is made.
    fn still_there(&self, txn: &Txn<'_>) -> Result<()> {
        let now = match &self.found {
            Found::Image(judged) => {
                let now = crate::image::row::find(txn, &judged.id)?;
                // Whether it may be used was asked of what it was.
                if !now.stands_as(judged) {
                    return Err(self.replaced());
                }
                now.sealed
            }
            Found::Snapshot(id) => {
                let at = key(SNAPSHOTS, id);
                let row = txn
                    .get(&at)?
                    .ok_or_else(|| missing(Subject::Snapshot, "snapshot", id))?;
                keys::decode::<SnapshotInfo>(&at, &row)?.sealed
            }
        };
        if now == self.sealed {
            return Ok(());
        }
        Err(self.replaced())
    }

    fn replaced(&self) -> Error {
        let text = format!("{} was changed meanwhile; try again", self.label);
        Error::new(Kind::Conflict, Subject::Volume, text)
    }
}

impl Store {
    /// `length_bytes: None` takes the origin's length; a larger one grows, a smaller one is refused.
    pub fn volume_create(
        &self,
        who: &Who,
        name: &str,
        length_bytes: Option<u64>,
        origin: &Origin,
    ) -> Result<(VolumeInfo, Copied)> {
        check_name(name, Subject::Volume)?;
        self.shared.engine.admit_write()?;
        let begin = self.begin(who, name, origin)?;
        let least = begin
            .as_ref()
            .map(|begin| begin.sealed.length_bytes.next_multiple_of(BLOCK as u64));
        let length_bytes = match (length_bytes, least) {
            (Some(wanted), Some(least)) if wanted < least => {
                let text = format!(
                    "{wanted} bytes are too small for an origin of {least} bytes; ask for {least} or more"
                );
                return Err(Error::new(Kind::Invalid, Subject::Volume, text));
            }
            (Some(wanted), _) => wanted,
            (None, Some(least)) => least.max(VOLUME_BYTES_MIN),
            (None, None) => {
                let text = "an empty volume needs a size, e.g. --size 10G";
                return Err(Error::new(Kind::Invalid, Subject::Volume, text));
            }
        };
        check_length(length_bytes)?;
        // Held until the pin is made: what a folded map borrows must not be swept before.
        let _held = match &begin {
            Some(begin) => Some(self.shared.engine.view(begin.sealed)?),
            None => None,
        };
        let folded = match &begin {
            Some(begin) => self.shared.engine.folded(begin.sealed)?,
            None => None,
        };
        let below = folded.as_ref().map(|(folded, _)| *folded);
        let parent = below.or(begin.as_ref().map(|begin| begin.sealed));
        let map = self.shared.catalog.map_ids(1)?;
        let info = VolumeInfo {
            name: name.into(),
            length_bytes,
            created_ms: clock::now_ms(),
            map,
            origin: begin.as_ref().map(|begin| begin.label.clone()),
            project: who.project.clone(),
            writer: None,
        };
        let copied = Copied {
            shared_bytes: begin.as_ref().map_or(0, |begin| begin.sealed.length_bytes),
            rewritten_bytes: 0,
            why: begin
                .as_ref()
                .and_then(|begin| begin.remark.clone())
                .unwrap_or_default(),
        };
        let (who, row) = (who.clone(), info.clone());
        let shared_bytes = copied.shared_bytes;
        let given_up = folded.clone();
        let mut detail = info.origin.clone().unwrap_or_default();
        if let Some(remark) = begin.as_ref().and_then(|begin| begin.remark.as_ref()) {
            detail = format!("{detail}: {remark}");
        }
        let created = self.shared.catalog.transact(move |txn| {
            let at = key(VOLUMES, &row.name);
            if txn.get(&at)?.is_some() {
                let text = format!("volume {:?} exists already; choose another name", row.name);
                return Err(Error::new(Kind::Conflict, Subject::Volume, text));
            }
            if let Some(begin) = &begin {
                begin.still_there(txn)?;
            }
            let map_row = MapRow {
                log: LogId(map.0),
                parent,
                length_bytes,
                borrows: Vec::new(),
                created_ms: row.created_ms,
            };
            if let Some((folded, folded_row)) = &folded {
                txn.put_map(folded.map, folded_row)?;
            }
            let delta = Delta {
                volumes: 1,
                volume_bytes: signed(length_bytes),
                ..Delta::default()
            };
            usage::charge(txn, &row.project, delta)?;
            txn.put_map(map, &map_row)?;
            txn.pin(map, HEAD, &holder(&row))?;
            txn.put(&at, keys::encode(&row)?);
            let entry = Entry::new("volume.created", &*row.name)
                .bytes("length", length_bytes)
                .bytes("shared", shared_bytes)
                .bytes("written", 0)
                .detail(detail);
            txn.journal(&who, entry)?;
            Ok(())
        });
        if created.is_err()
            && let Some((folded, row)) = given_up
        {
            self.abandon(folded, row);
        }
        created?;
        Ok((info, copied))
    }

    fn begin(&self, who: &Who, volume: &str, origin: &Origin) -> Result<Option<Begin>> {
        Ok(match origin {
            Origin::Empty => None,
            Origin::Image(name) | Origin::DeprecatedImage(name) => {
                let image = self.image(name)?;
                let even_deprecated = matches!(origin, Origin::DeprecatedImage(_));
                let purpose = format!("for volume {volume:?}");
                let remark = self.image_admit(who, &image, even_deprecated, &purpose)?;
                Some(Begin {
                    sealed: image.sealed,
                    label: format!("image:{name}"),
                    found: Found::Image(Box::new(image)),
                    remark,
                })
            }
            Origin::Snapshot(name) => {
                let snapshot = self.snapshot(name)?;
                Some(Begin {
                    sealed: snapshot.sealed,
                    label: format!("snapshot:{name}"),
                    found: Found::Snapshot(snapshot.id),
                    remark: None,
                })
            }
        })
    }

    /// All volumes, ordered by name.
    pub fn volumes(&self) -> Result<Vec<VolumeInfo>> {
        let mut volumes: Vec<VolumeInfo> = rows(&self.shared.catalog, VOLUMES)?;
        for volume in &mut volumes {
            volume.writer = self.shared.tokens.holder(&volume.name);
        }
        Ok(volumes)
    }

    /// One volume.
    pub fn volume_info(&self, name: &str) -> Result<VolumeInfo> {
        let at = key(VOLUMES, name);
        let row = self
            .shared
            .catalog
            .get(&at)?
            .ok_or_else(|| missing(Subject::Volume, "volume", name))?;
        let mut info: VolumeInfo = keys::decode(&at, &row)?;
        info.writer = self.shared.tokens.holder(name);
        Ok(info)
    }

    /// Removes a volume; [`Kind::Conflict`] while a writer holds it. Its snapshots stay.
    pub fn volume_remove(&self, who: &Who, name: &str) -> Result<()> {
        // The token keeps writers out until the row is gone.
        let volume = self.volume_open(name)?;
        let _token = volume.writer("infall: removal")?;
        let (who, name) = (who.clone(), name.to_owned());
        let map = self.shared.catalog.transact(move |txn| {
            let info = volume_row(txn, &name)?;
            let delta = Delta {
                volumes: -1,
                volume_bytes: -signed(info.length_bytes),
                ..Delta::default()
            };
            usage::charge(txn, &info.project, delta)?;
            txn.delete(&key(VOLUMES, &name));
            txn.unpin(info.map, HEAD, &holder(&info))?;
            txn.journal(
                &who,
                Entry::new("volume.removed", name).bytes("length", info.length_bytes),
            )?;
            Ok(info.map)
        })?;
        self.shared.engine.drop_head(map);
        self.shared.engine.sweep_soon();
        Ok(())
    }

    /// Changes the length. Shrinking is refused unless `shrink`; cut blocks are freed and read as zeroes
    /// if the volume grows again.
    pub fn volume_resize(
        &self,
        who: &Who,
        name: &str,
        length_bytes: u64,
        shrink: bool,
    ) -> Result<VolumeInfo> {
        check_length(length_bytes)?;
        let info = self.volume_info(name)?;
        if length_bytes < info.length_bytes && !shrink {
            let text = format!(
                "volume {name:?} has {} bytes; {length_bytes} would cut off data: say so with --shrink",
                info.length_bytes
            );
            return Err(Error::new(Kind::Conflict, Subject::Volume, text));
        }
        let head = self.shared.engine.head(info.map)?;
        if length_bytes < info.length_bytes {
            // Nobody may see a disk that is longer than its row says: cut first, then say so.
            self.shared.engine.resize(&head, length_bytes)?;
        }
        let (who, owned, map) = (who.clone(), name.to_owned(), info.map);
        self.shared.catalog.transact(move |txn| {
            let mut info = volume_row(txn, &owned)?;
            let mut row = txn
                .map(map)?
                .ok_or_else(|| missing(Subject::Volume, "map of volume", &owned))?;
            let delta = Delta {
                volume_bytes: signed(length_bytes) - signed(info.length_bytes),
                ..Delta::default()
            };
            usage::charge(txn, &info.project, delta)?;
            row.length_bytes = length_bytes;
            info.length_bytes = length_bytes;
            txn.put_map(map, &row)?;
            txn.put(&key(VOLUMES, &owned), keys::encode(&info)?);
            txn.journal(
                &who,
                Entry::new("volume.resized", owned).bytes("length", length_bytes),
            )?;
            Ok(())
        })?;
        if length_bytes > info.length_bytes {
            self.shared.engine.resize(&head, length_bytes)?;
        }
        self.volume_info(name)
    }

    /// Opens for reading and, once asked for a writer, writing.
    pub fn volume_open(&self, name: &str) -> Result<Volume> {
        let info = self.volume_info(name)?;
        Ok(Volume {
            name: name.into(),
            engine: self.shared.engine.clone(),
            head: self.shared.engine.head(info.map)?,
            tokens: std::sync::Arc::clone(&self.shared.tokens),
        })
    }

    /// Seals; `publish` (bucket, key) also makes it an object. Nothing is copied.
    pub fn snapshot_create(
        &self,
        who: &Who,
        volume: &str,
        name: Option<&str>,
        publish: Option<(&str, &str)>,
    ) -> Result<SnapshotInfo> {
        if let Some(name) = name {
            check_name(name, Subject::Snapshot)?;
        }
        if let Some((bucket, _)) = publish {
            self.bucket(bucket)?;
        }
        let info = self.volume_info(volume)?;
        let head = self.shared.engine.head(info.map)?;
        let sealed = self.shared.engine.seal(&head)?;
        let id = format!("snap-{:016x}", rand::random::<u64>());
        let snapshot = SnapshotInfo {
            name: name.map_or_else(|| id.clone(), str::to_owned),
            id,
            volume: volume.into(),
            created_ms: clock::now_ms(),
            sealed,
            published: publish.map(|(bucket, key)| format!("s3://{bucket}/{key}")),
            project: who.project.clone(),
        };
        let publish = publish.map(|(bucket, key)| (bucket.to_owned(), key.to_owned()));
        let (who, row) = (who.clone(), snapshot.clone());
        let committed = self.shared.catalog.transact(move |txn| {
            let held = volume_row(txn, &row.volume)?;
            if held.map != row.sealed.map {
                return Err(missing(Subject::Volume, "volume", &row.volume));
            }
            let named = key(SNAPSHOT_NAMES, &row.name);
            if txn.get(&named)?.is_some() {
                let text = format!(
                    "snapshot {:?} exists already; choose another name",
                    row.name
                );
                return Err(Error::new(Kind::Conflict, Subject::Snapshot, text));
            }
            txn.pin(
                row.sealed.map,
                row.sealed.lsn,
                &format!("snapshot:{}", row.id),
            )?;
            txn.put(&key(SNAPSHOTS, &row.id), keys::encode(&row)?);
            txn.put(&named, keys::encode(&NameRow { id: row.id.clone() })?);
            let entry = Entry::new("snapshot.created", &*row.name)
                .bytes("shared", row.sealed.length_bytes)
                .bytes("written", 0)
                .detail(format!("of {}", row.volume));
            txn.journal(&who, entry)?;
            if let Some((bucket, key)) = publish {
                let draft =
                    object_row::Draft::of_map(&bucket, &key, published_meta(&row), row.sealed);
                let entry = Entry::new("object.put", object_row::subject(&bucket, &key))
                    .bytes("shared", row.sealed.length_bytes)
                    .bytes("written", 0)
                    .detail(format!("published from {}", row.id));
                object_row::put(txn, &who, draft, &Precondition::default(), entry)?;
            }
            Ok(())
        });
        // Committed or not, from here on the catalog's answer counts.
        self.shared.engine.sealed(&head, sealed.lsn)?;
        committed?;
        Ok(snapshot)
    }

    /// All snapshots, ordered by id.
    pub fn snapshots(&self) -> Result<Vec<SnapshotInfo>> {
        rows(&self.shared.catalog, SNAPSHOTS)
    }

    /// One snapshot, by name or id.
    pub fn snapshot(&self, name: &str) -> Result<SnapshotInfo> {
        let catalog = &self.shared.catalog;
        let named = key(SNAPSHOT_NAMES, name);
        let id = match catalog.get(&named)? {
            Some(row) => keys::decode::<NameRow>(&named, &row)?.id,
            None => name.to_owned(),
        };
        let at = key(SNAPSHOTS, &id);
        let row = catalog
            .get(&at)?
            .ok_or_else(|| missing(Subject::Snapshot, "snapshot", name))?;
        keys::decode(&at, &row)
    }

    /// Removes a snapshot; clones of it and objects published from it stay.
    pub fn snapshot_remove(&self, who: &Who, name: &str) -> Result<()> {
        let snapshot = self.snapshot(name)?;
        let (who, name) = (who.clone(), name.to_owned());
        self.shared.catalog.transact(move |txn| {
            let at = key(SNAPSHOTS, &snapshot.id);
            txn.get(&at)?
                .ok_or_else(|| missing(Subject::Snapshot, "snapshot", &name))?;
            txn.delete(&at);
            txn.delete(&key(SNAPSHOT_NAMES, &snapshot.name));
            txn.unpin(
                snapshot.sealed.map,
                snapshot.sealed.lsn,
                &format!("snapshot:{}", snapshot.id),
            )?;
            txn.journal(&who, Entry::new("snapshot.removed", snapshot.name))?;
            Ok(())
        })?;
        self.shared.engine.sweep_soon();
        Ok(())
    }

    /// Any sealed map, read only (snapshots, images).
    pub fn sealed_open(&self, sealed: SealedMap) -> Result<View> {
        self.shared.engine.view(sealed)
    }
}

/// A published snapshot has no MD5 of its bytes: its ETag names the map, in the form of a multipart ETag.
fn published_meta(snapshot: &SnapshotInfo) -> ObjectMeta {
    let SealedMap {
        map: MapId(map),
        lsn,
        ..
    } = snapshot.sealed;
    ObjectMeta {
        etag: format!("{map:016x}{:016x}-1", lsn.0),
        headers: BTreeMap::from([("content-type".into(), "application/octet-stream".into())]),
        user: BTreeMap::from([("infall-snapshot".into(), snapshot.id.clone())]),
        ..ObjectMeta::default()
    }
}
