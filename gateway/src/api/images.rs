//! Images: sealed maps published for others under an id that is their content's digest.

use super::{Asking, ImageShown, Json, Path, Problem, Reply, Route, buckets, sees};
use crate::blocking::run;
use access::Resource;
use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use blockstore::object::Copied;
use blockstore::{Kind, Store, Subject, Who};
use serde::{Deserialize, Serialize};

/// Asks to register an object as an image.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageAdd {
    /// The object's bucket.
    pub bucket: String,
    /// The object's key.
    pub key: String,
    /// What to call the image.
    pub name: String,
}

/// A registered image and what that cost.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ImageAdded {
    /// The image.
    pub image: ImageShown,
    /// Bytes shared and bytes written anew.
    pub copied: Copied,
}

/// All images.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ImageList {
    /// The images.
    pub images: Vec<ImageShown>,
}

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route {
            path: "/images",
            methods: &["get", "post"],
            answer: get(list).post(add),
        },
        Route {
            path: "/images/{image}",
            methods: &["get", "delete"],
            answer: get(show).delete(remove),
        },
    ]
}

async fn list(
    State(store): State<Store>,
    (Extension(access), Extension(caller)): Asking,
) -> Reply<Json<ImageList>> {
    let images = run(move || {
        let mut images = store.images()?;
        images.retain(|image| {
            // A policy may speak of the id or of any of the names.
            let mut named = std::iter::once(&image.id).chain(&image.names);
            named.any(|name| access.visible(&caller, "image:Describe", &Resource::Image(name)))
        });
        Ok::<_, Problem>(ImageShown::all(&store, images))
    })
    .await?;
    Ok(Json(ImageList { images }))
}

async fn add(
    State(store): State<Store>,
    Extension(who): Extension<Who>,
    Json(ask): Json<ImageAdd>,
) -> Reply<(StatusCode, Json<ImageAdded>)> {
    let (image, copied) = run(move || {
        let added = store.image_add(&who, &ask.bucket, &ask.key, &ask.name);
        added
            .map(|(image, copied)| (ImageShown::of(&store, image), copied))
            .map_err(|error| suggest_object(&store, &who, error, &ask.bucket, &ask.key))
    })
    .await?;
    Ok((StatusCode::CREATED, Json(ImageAdded { image, copied })))
}

async fn show(
    State(store): State<Store>,
    Extension(who): Extension<Who>,
    Path(name): Path<String>,
) -> Reply<Json<ImageShown>> {
    run(move || {
        store
            .image(&name)
            .map(|image| ImageShown::of(&store, image))
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
            .image_remove(&who, &name)
            .map_err(|error| suggest(&store, &who, error, &name))
    })
    .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The problem, with the nearest image name if an image was not found.
pub(super) fn suggest(store: &Store, who: &Who, error: blockstore::Error, asked: &str) -> Problem {
    if (error.kind(), error.subject()) != (Kind::NotFound, Subject::Image) {
        return error.into();
    }
    let mut existing = store.images().unwrap_or_default();
    existing.retain(|image| image.project == "root" || sees(who, &image.project));
    Problem::missing(
        "image",
        asked,
        existing.iter().flat_map(|image| &image.names),
    )
}

/// The problem, with the nearest bucket or, from the first page of the bucket, the nearest key.
fn suggest_object(
    store: &Store,
    who: &Who,
    error: blockstore::Error,
    bucket: &str,
    key: &str,
) -> Problem {
    if (error.kind(), error.subject()) != (Kind::NotFound, Subject::Object) {
        return buckets::suggest(store, who, error, bucket);
    }
    let query = blockstore::object::ListQuery {
        max: 1000,
        ..Default::default()
    };
    let existing = store.object_list(bucket, &query).unwrap_or_default();
    Problem::from(error).suggest(key, existing.objects.iter().map(|object| &object.key))
}
