//! Object ids of places, and places of object ids.
//!
//! What the catalog numbers (buckets, objects, the markers of containers) keeps its id over
//! overwriting and renaming. What has only a place (a container that is no more than a prefix of
//! keys, things in snapshots) has an id made of that place, and a record `cdmi-place` that leads
//! back, written when the id is first shown.

use super::Door;
use super::capabilities;
use super::failure::{Failure, Reply};
use super::objectid::Subject;
use super::place::Place;
use blockstore::object::{Named, Object};
use blockstore::{Kind, Store, Who};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The kind of the records that lead from an id to a place.
const RECORD: &str = "cdmi-place";
/// The fixed id of the container of the volumes; capabilities follow from 16 on.
const VOLUMES: u16 = 1;
const CAPABILITIES: u16 = 16;

#[derive(Serialize, Deserialize)]
struct PlaceRow {
    v: u32,
    path: String,
}

/// Tells the numbers of this store from those of others.
pub(super) fn store_tag(store: &Store) -> u64 {
    let digest = Sha256::digest(store.id().as_bytes());
    let mut tag = [0; 8];
    tag.copy_from_slice(&digest[..8]);
    u64::from_be_bytes(tag)
}

/// The id of a place; `known` is the object there, where it was read already.
pub(super) fn id_of(door: &Door, place: &Place, known: Option<&Object>) -> Reply<String> {
    let numbered = |object: &Object| (object.id != 0).then_some(Subject::Numbered(object.id));
    let subject = match place {
        Place::Root => Some(Subject::Root),
        Place::Container { bucket, prefix } if prefix.is_empty() => {
            let id = door.store.bucket(bucket)?.id;
            (id != 0).then_some(Subject::Numbered(id))
        }
        Place::Container { bucket, prefix } => match known {
            Some(marker) => numbered(marker),
            None => match door.store.object_head(bucket, prefix) {
                Ok(marker) => numbered(&marker),
                Err(missing) if missing.kind() == Kind::NotFound => None,
                Err(error) => return Err(error.into()),
            },
        },
        Place::Object { bucket, key } => match known {
            Some(object) => numbered(object),
            None => numbered(&door.store.object_head(bucket, key)?),
        },
        Place::Volumes => Some(Subject::Fixed(VOLUMES)),
        Place::Volume(name) => Some(Subject::Volume(door.store.volume_info(name)?.map.0)),
        Place::Capabilities(path) => capabilities::number_of(path)
            .map(|number| Subject::Fixed(CAPABILITIES.saturating_add(number))),
        Place::Snapshots { .. }
        | Place::FrozenContainer { .. }
        | Place::FrozenObject { .. }
        | Place::ById(_) => None,
    };
    let subject = match subject {
        Some(subject) => subject,
        None => placed(door, place)?,
    };
    Ok(door.ids.written(&subject))
}

/// The place that an id stands for. 400 for what is no id, 404 for one that leads nowhere.
pub(super) fn find(door: &Door, id: &str) -> Reply<Place> {
    let missing = || Failure::missing("object", format!("no object has the id {id:?}"));
    let subject = door.ids.read(id).map_err(|malformed| match malformed {
        super::objectid::Malformed::Foreign => missing(),
        other => Failure::invalid("objectID", format!("{id:?}: {other}")),
    })?;
    match subject {
        Subject::Root => Ok(Place::Root),
        Subject::Numbered(number) => match door.store.object_by_id(number) {
            Ok(Named::Bucket(bucket)) => Ok(Place::Container {
                bucket,
                prefix: String::new(),
            }),
            Ok(Named::Object { bucket, key }) if key.ends_with('/') => Ok(Place::Container {
                bucket,
                prefix: key,
            }),
            Ok(Named::Object { bucket, key }) => Ok(Place::Object { bucket, key }),
            Err(error) if error.kind() == Kind::NotFound => Err(missing()),
            Err(error) => Err(error.into()),
        },
        Subject::Placed(digest) => {
            let row = door.store.record_get(RECORD, &record_name(digest))?;
            let row: PlaceRow = row
                .and_then(|row| serde_json::from_value(row).ok())
                .ok_or_else(missing)?;
            Place::read(&row.path)
        }
        Subject::Volume(map) => {
            let volumes = door.store.volumes()?;
            let found = volumes.into_iter().find(|volume| volume.map.0 == map);
            Ok(Place::Volume(found.ok_or_else(missing)?.name))
        }
        Subject::Fixed(VOLUMES) => Ok(Place::Volumes),
        Subject::Fixed(number) => number
            .checked_sub(CAPABILITIES)
            .and_then(capabilities::path_of)
            .map(|path| Place::Capabilities(path.to_owned()))
            .ok_or_else(missing),
    }
}

/// The id of what has only a place, findable from now on.
fn placed(door: &Door, place: &Place) -> Reply<Subject> {
    let path = place.encoded();
    let digest = Sha256::digest(path.as_bytes());
    let mut short = [0; 16];
    short.copy_from_slice(&digest[..16]);
    let digest = u128::from_be_bytes(short);
    let name = record_name(digest);
    if door.store.record_get(RECORD, &name)?.is_none() {
        let row = serde_json::json!(PlaceRow { v: 1, path });
        door.store
            .record_put(&Who::server(), RECORD, &name, &row, None)?;
    }
    Ok(Subject::Placed(digest))
}

fn record_name(digest: u128) -> String {
    format!("{digest:032x}")
}
