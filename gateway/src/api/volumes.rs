//! Volumes and their snapshots. Blocks go over NBD; here are names, sizes and clones.

use super::{Asking, Json, Path, Problem, Reply, Route, buckets, images, s3_url, sees};
use crate::blocking::run;
use access::Resource;
use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use blockstore::object::Copied;
use blockstore::volume::{Origin, SnapshotInfo, VolumeInfo};
use blockstore::{Kind, Store, Subject, Who};
use serde::{Deserialize, Serialize};

/// Asks for a new volume.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VolumeCreate {
    /// What to call it.
    pub name: String,
    /// Bytes, a multiple of 4096; the origin's length if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length_bytes: Option<u64>,
    /// What it shows at first: `{"image":"…"}`, `{"snapshot":"…"}`; zeroes if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<OriginName>,
    /// The image may be a deprecated one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deprecated: bool,
}

/// What a new volume is a clone of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OriginName {
    /// An image, by name or id.
    Image(String),
    /// A snapshot, by name or id.
    Snapshot(String),
}

/// A new volume and what it cost.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct VolumeCreated {
    /// The volume.
    pub volume: VolumeInfo,
    /// Bytes shared and bytes written anew.
    pub copied: Copied,
}

/// All volumes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct VolumeList {
    /// The volumes.
    pub volumes: Vec<VolumeInfo>,
}

/// Asks for another length.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VolumeResize {
    /// Bytes, a multiple of 4096.
    pub length_bytes: u64,
    /// Needed to make it shorter: what lies behind the new end is gone.
    #[serde(default)]
    pub shrink: bool,
}

/// Asks for a snapshot.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SnapshotCreate {
    /// What to call it; its id if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Also shows it as the object `s3://bucket/key`, without a copy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub publish: Option<String>,
}

/// All snapshots.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SnapshotList {
    /// The snapshots.
    pub snapshots: Vec<SnapshotInfo>,
}

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route {
            path: "/volumes",
            methods: &["get", "post"],
            answer: get(list).post(create),
        },
        Route {
            path: "/volumes/{volume}",
            methods: &["get", "delete"],
            answer: get(show).delete(remove),
        },
        Route {
            path: "/volumes/{volume}/resize",
            methods: &["post"],
            answer: post(resize),
        },
        Route {
            path: "/volumes/{volume}/snapshot",
            methods: &["post"],
            answer: post(snapshot),
        },
        Route {
            path: "/snapshots",
            methods: &["get"],
            answer: get(snapshots),
        },
        Route {
            path: "/snapshots/{snapshot}",
            methods: &["get", "delete"],
            answer: get(snapshot_show).delete(snapshot_remove),
        },
    ]
}

async fn list(
    State(store): State<Store>,
    (Extension(access), Extension(caller)): Asking,
) -> Reply<Json<VolumeList>> {
    let volumes = run(move || {
        let mut volumes = store.volumes()?;
        volumes.retain(|volume| {
            let resource = Resource::Volume(&volume.name);
            access.visible(&caller, "volume:Describe", &resource)
        });
        Ok::<_, Problem>(volumes)
    })
    .await?;
    Ok(Json(VolumeList { volumes }))
}

async fn create(
    State(store): State<Store>,
    Extension(who): Extension<Who>,
    Json(ask): Json<VolumeCreate>,
) -> Reply<(StatusCode, Json<VolumeCreated>)> {
    let (volume, copied) = run(move || {
        let origin = match &ask.origin {
            None => Origin::Empty,
            Some(OriginName::Image(name)) if ask.deprecated => {
                Origin::DeprecatedImage(name.clone())
            }
            Some(OriginName::Image(name)) => Origin::Image(name.clone()),
            Some(OriginName::Snapshot(name)) => Origin::Snapshot(name.clone()),
        };
        store
            .volume_create(&who, &ask.name, ask.length_bytes, &origin)
            .map_err(|error| match &origin {
                Origin::Image(image) | Origin::DeprecatedImage(image) => {
                    images::suggest(&store, &who, error, image)
                }
                Origin::Snapshot(snapshot) => suggest(&store, &who, error, snapshot),
                Origin::Empty => error.into(),
            })
    })
    .await?;
    Ok((StatusCode::CREATED, Json(VolumeCreated { volume, copied })))
}

async fn show(
    State(store): State<Store>,
    Extension(who): Extension<Who>,
    Path(name): Path<String>,
) -> Reply<Json<VolumeInfo>> {
    run(move || {
        store
            .volume_info(&name)
            .map_err(|error| suggest(&store, &who, error, &name))
    })
    .await
    .map(Json)
}

async fn remove(
    State(store): State<Store>,
    Extension(who): Extension<Who>,
    Path(name): Path<String>,
) -> Reply<StatusCode> {
    run(move || {
        store
            .volume_remove(&who, &name)
            .map_err(|error| suggest(&store, &who, error, &name))
    })
    .await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn resize(
    State(store): State<Store>,
    Extension(who): Extension<Who>,
    Path(name): Path<String>,
    Json(ask): Json<VolumeResize>,
) -> Reply<Json<VolumeInfo>> {
    run(move || {
        let resized = store.volume_resize(&who, &name, ask.length_bytes, ask.shrink);
        resized.map_err(|error| suggest(&store, &who, error, &name))
    })
    .await
    .map(Json)
}

async fn snapshot(
    State(store): State<Store>,
    Extension(who): Extension<Who>,
    Path(volume): Path<String>,
    Json(ask): Json<SnapshotCreate>,
) -> Reply<(StatusCode, Json<SnapshotInfo>)> {
    let snapshot = run(move || {
        let publish = ask.publish.as_deref().map(object_of).transpose()?;
        let sealed = store.snapshot_create(&who, &volume, ask.name.as_deref(), publish);
        sealed.map_err(|error| match publish {
            Some((bucket, _)) if error.subject() == Subject::Bucket => {
                buckets::suggest(&store, &who, error, bucket)
            }
            _ => suggest(&store, &who, error, &volume),
        })
    })
    .await?;
    Ok((StatusCode::CREATED, Json(snapshot)))
}

async fn snapshots(
    State(store): State<Store>,
    (Extension(access), Extension(caller)): Asking,
) -> Reply<Json<SnapshotList>> {
    let snapshots = run(move || {
        let mut snapshots = store.snapshots()?;
        snapshots.retain(|snapshot| {
            [&snapshot.id, &snapshot.name]
                .into_iter()
                .map(|name| Resource::Snapshot(name))
                .any(|resource| access.visible(&caller, "snapshot:Describe", &resource))
        });
        Ok::<_, Problem>(snapshots)
    })
    .await?;
    Ok(Json(SnapshotList { snapshots }))
}

async fn snapshot_show(
    State(store): State<Store>,
    Extension(who): Extension<Who>,
    Path(name): Path<String>,
) -> Reply<Json<SnapshotInfo>> {
    run(move || {
        store
            .snapshot(&name)
            .map_err(|error| suggest(&store, &who, error, &name))
    })
    .await
    .map(Json)
}

async fn snapshot_remove(
    State(store): State<Store>,
    Extension(who): Extension<Who>,
    Path(name): Path<String>,
) -> Reply<StatusCode> {
    run(move || {
        store
            .snapshot_remove(&who, &name)
            .map_err(|error| suggest(&store, &who, error, &name))
    })
    .await?;
    Ok(StatusCode::NO_CONTENT)
}

fn object_of(url: &str) -> Reply<(&str, &str)> {
    s3_url(url)
        .filter(|(_, key)| !key.is_empty())
        .ok_or_else(|| {
            let message = format!("{url:?} names no object; write s3://bucket/key");
            Problem::new(Kind::Invalid, "object", message)
        })
}

/// The problem, with the nearest volume or snapshot if one was not found.
fn suggest(store: &Store, who: &Who, error: blockstore::Error, asked: &str) -> Problem {
    match (error.kind(), error.subject()) {
        (Kind::NotFound, Subject::Volume) => {
            let mut existing = store.volumes().unwrap_or_default();
            existing.retain(|volume| sees(who, &volume.project));
            Problem::missing("volume", asked, existing.iter().map(|volume| &volume.name))
        }
        (Kind::NotFound, Subject::Snapshot) => {
            let mut existing = store.snapshots().unwrap_or_default();
            existing.retain(|snapshot| sees(who, &snapshot.project));
            Problem::missing(
                "snapshot",
                asked,
                existing.iter().map(|snapshot| &snapshot.name),
            )
        }
        _ => error.into(),
    }
}
