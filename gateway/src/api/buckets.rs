//! Buckets, and the listing of their objects. Bodies go in and out over S3 only.

use super::{Asking, Json, Path, Problem, Query, Reply, Route, sees};
use crate::blocking::run;
use access::Resource;
use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{delete, get};
use blockstore::object::{Bucket, ListQuery, Object};
use blockstore::{Kind, Store, Subject, Who};
use serde::{Deserialize, Serialize};

/// Objects and prefixes on one page at most.
const PAGE_MAX: usize = 1000;

/// Asks for a new bucket.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BucketCreate {
    /// 3 to 63 characters, as S3 wants them.
    pub name: String,
}

/// All buckets, by name.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BucketList {
    /// The buckets.
    pub buckets: Vec<Bucket>,
}

/// Which objects to list.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ObjectsQuery {
    /// Only keys that start so.
    pub prefix: String,
    /// Roll up keys behind the first such string after the prefix.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delimiter: Option<String>,
    /// Only keys behind this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// At most so many, and never more than 1000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<usize>,
}

/// A page of objects in byte order of their keys.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ObjectPage {
    /// Objects.
    pub objects: Vec<Object>,
    /// Rolled-up prefixes.
    pub prefixes: Vec<String>,
    /// Give this as `after` to go on; absent where the listing is complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route {
            path: "/buckets",
            methods: &["get", "post"],
            answer: get(list).post(create),
        },
        Route {
            path: "/buckets/{bucket}",
            methods: &["get", "delete"],
            answer: get(show).merge(delete(remove)),
        },
        Route {
            path: "/buckets/{bucket}/objects",
            methods: &["get"],
            answer: get(objects),
        },
    ]
}

async fn list(
    State(store): State<Store>,
    (Extension(access), Extension(caller)): Asking,
) -> Reply<Json<BucketList>> {
    let buckets = run(move || {
        let mut buckets = store.buckets()?;
        buckets.retain(|bucket| {
            let resource = Resource::Bucket(&bucket.name);
            access.visible(&caller, "s3:ListBucket", &resource)
        });
        Ok::<_, Problem>(buckets)
    })
    .await?;
    Ok(Json(BucketList { buckets }))
}

async fn create(
    State(store): State<Store>,
    Extension(who): Extension<Who>,
    Json(ask): Json<BucketCreate>,
) -> Reply<(StatusCode, Json<Bucket>)> {
    let bucket = run(move || store.bucket_create(&who, &ask.name).map_err(Problem::from)).await?;
    Ok((StatusCode::CREATED, Json(bucket)))
}

async fn show(
    State(store): State<Store>,
    Extension(who): Extension<Who>,
    Path(name): Path<String>,
) -> Reply<Json<Bucket>> {
    run(move || {
        store
            .bucket(&name)
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
            .bucket_remove(&who, &name)
            .map_err(|error| suggest(&store, &who, error, &name))
    })
    .await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn objects(
    State(store): State<Store>,
    Extension(who): Extension<Who>,
    Path(bucket): Path<String>,
    Query(query): Query<ObjectsQuery>,
) -> Reply<Json<ObjectPage>> {
    let wanted = ListQuery {
        prefix: query.prefix,
        delimiter: query.delimiter,
        start_after: query.after,
        max: query.max.unwrap_or(PAGE_MAX).min(PAGE_MAX),
    };
    let page = run(move || {
        store
            .object_list(&bucket, &wanted)
            .map_err(|error| suggest(&store, &who, error, &bucket))
    })
    .await?;
    Ok(Json(ObjectPage {
        objects: page.objects,
        prefixes: page.prefixes,
        next: page.next,
    }))
}

/// The problem, with the nearest bucket if one was not found.
pub(super) fn suggest(store: &Store, who: &Who, error: blockstore::Error, asked: &str) -> Problem {
    if (error.kind(), error.subject()) != (Kind::NotFound, Subject::Bucket) {
        return error.into();
    }
    let mut existing = store.buckets().unwrap_or_default();
    existing.retain(|bucket| sees(who, &bucket.project));
    Problem::missing("bucket", asked, existing.iter().map(|bucket| &bucket.name))
}
