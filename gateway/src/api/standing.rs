//! How images stand: deprecated, expired, signed. What is said of one here is weighed by the site's rules at
//! each use (`blockstore::image::trust`).

use super::images::suggest;
use super::{Json, Path, Reply, Route};
use crate::blocking::run;
use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{delete, post, put};
use blockstore::image::ImageInfo;
use blockstore::image::trust::Standing;
use blockstore::{Store, Who};
use serde::{Deserialize, Serialize};

/// An image, and how it stands by the site's rules at this moment.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ImageShown {
    /// The image.
    #[serde(flatten)]
    pub image: ImageInfo,
    /// Whether it may be used, and what its signatures are worth.
    #[serde(default)]
    pub standing: Standing,
}

/// Says that an image should not be used any more.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageDeprecate {
    /// Why, one line.
    pub why: String,
    /// The image to use instead, by name or id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replacement: Option<String>,
}

/// Sets the time from which on an image is not used any more.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageExpire {
    /// Milliseconds since the Unix epoch.
    pub at_ms: u64,
}

/// Hands in a signature over an image.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageEndorse {
    /// What was signed, to the byte.
    pub statement: String,
    /// What `ssh-keygen -Y sign -n infall-image@v1` wrote.
    pub signature: String,
}

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route {
            path: "/images/{image}/deprecation",
            methods: &["put", "delete"],
            answer: put(deprecate).delete(undeprecate),
        },
        Route {
            path: "/images/{image}/expiry",
            methods: &["put", "delete"],
            answer: put(expire).delete(unexpire),
        },
        Route {
            path: "/images/{image}/endorsements",
            methods: &["post"],
            answer: post(endorse),
        },
        Route {
            path: "/images/{image}/endorsements/{key}",
            methods: &["delete"],
            answer: delete(unendorse),
        },
    ]
}

impl ImageShown {
    /// As it stands now.
    pub(super) fn of(store: &Store, image: ImageInfo) -> Self {
        let standing = store.image_standing(&image);
        Self { image, standing }
    }

    /// All of them, with the signers read once.
    pub(super) fn all(store: &Store, images: Vec<ImageInfo>) -> Vec<Self> {
        let standings = store.image_standings(&images);
        let both = images.into_iter().zip(standings);
        both.map(|(image, standing)| Self { image, standing })
            .collect()
    }
}

/// Changes the image called `name`, or says which name was meant.
async fn change<F>(store: Store, who: Who, name: String, change: F) -> Reply<ImageShown>
where
    F: FnOnce(&Store, &Who, &str) -> blockstore::Result<ImageInfo> + Send + 'static,
{
    run(move || match change(&store, &who, &name) {
        Ok(image) => Ok(ImageShown::of(&store, image)),
        Err(error) => Err(suggest(&store, &who, error, &name)),
    })
    .await
}

async fn deprecate(
    State(store): State<Store>,
    Extension(who): Extension<Who>,
    Path(name): Path<String>,
    Json(ask): Json<ImageDeprecate>,
) -> Reply<StatusCode> {
    let ImageDeprecate { why, replacement } = ask;
    if let Some(other) = replacement.clone() {
        // Looked up by itself, so that it is told which of the two is missing.
        change(store.clone(), who.clone(), other, |store, _, other| {
            store.image(other)
        })
        .await?;
    }
    change(store, who, name, move |store, who, name| {
        store.image_deprecate(who, name, &why, replacement.as_deref())
    })
    .await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn undeprecate(
    State(store): State<Store>,
    Extension(who): Extension<Who>,
    Path(name): Path<String>,
) -> Reply<StatusCode> {
    change(store, who, name, Store::image_undeprecate).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn expire(
    State(store): State<Store>,
    Extension(who): Extension<Who>,
    Path(name): Path<String>,
    Json(ask): Json<ImageExpire>,
) -> Reply<StatusCode> {
    change(store, who, name, move |store, who, name| {
        store.image_expire(who, name, Some(ask.at_ms))
    })
    .await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn unexpire(
    State(store): State<Store>,
    Extension(who): Extension<Who>,
    Path(name): Path<String>,
) -> Reply<StatusCode> {
    change(store, who, name, |store, who, name| {
        store.image_expire(who, name, None)
    })
    .await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn endorse(
    State(store): State<Store>,
    Extension(who): Extension<Who>,
    Path(name): Path<String>,
    Json(ask): Json<ImageEndorse>,
) -> Reply<(StatusCode, Json<ImageShown>)> {
    let image = change(store, who, name, move |store, who, name| {
        store.image_endorse(who, name, &ask.statement, &ask.signature)
    })
    .await?;
    Ok((StatusCode::CREATED, Json(image)))
}

async fn unendorse(
    State(store): State<Store>,
    Extension(who): Extension<Who>,
    Path((name, key)): Path<(String, String)>,
) -> Reply<StatusCode> {
    change(store, who, name, move |store, who, name| {
        store.image_unendorse(who, name, &key)
    })
    .await?;
    Ok(StatusCode::NO_CONTENT)
}
