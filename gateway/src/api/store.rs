//! The store as a whole: figures, structure, collection, check.

use super::{Json, Problem, Reply, Route};
use crate::blocking::run;
use axum::extract::State;
use axum::routing::{get, post};
use blockstore::object::ListQuery;
use blockstore::{CheckReport, Collected, Kind, Stats, Store};
use serde::{Deserialize, Serialize};

/// The store's figures, and what they add up to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StoreStatus {
    /// This release.
    pub version: String,
    /// The data directory.
    pub directory: String,
    /// Bytes that volumes, snapshots, images and objects show; most of it may be shared.
    pub shown_bytes: u64,
    /// Counters.
    pub stats: Stats,
}

/// How thoroughly to check.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CheckAsk {
    /// Also read and verify every live block.
    pub scrub: bool,
}

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route {
            path: "/store",
            methods: &["get"],
            answer: get(status),
        },
        Route {
            path: "/store/tree",
            methods: &["get"],
            answer: get(tree),
        },
        Route {
            path: "/store/collect",
            methods: &["post"],
            answer: post(collect),
        },
        Route {
            path: "/store/check",
            methods: &["post"],
            answer: post(check),
        },
    ]
}

async fn status(State(store): State<Store>) -> Reply<Json<StoreStatus>> {
    run(move || {
        let volumes: u64 = store
            .volumes()?
            .iter()
            .map(|volume| volume.length_bytes)
            .sum();
        let snapshots: u64 = store
            .snapshots()?
            .iter()
            .map(|seal| seal.sealed.length_bytes)
            .sum();
        let images: u64 = store.images()?.iter().map(|image| image.length_bytes).sum();
        let shown = [volumes, snapshots, images, objects_bytes(&store)?];
        Ok::<_, Problem>(StoreStatus {
            version: env!("CARGO_PKG_VERSION").into(),
            directory: store.directory().display().to_string(),
            shown_bytes: shown.into_iter().fold(0, u64::saturating_add),
            stats: store.stats()?,
        })
    })
    .await
    .map(Json)
}

/// One page in memory at a time, however many objects there are.
fn objects_bytes(store: &Store) -> blockstore::Result<u64> {
    let mut bytes = 0u64;
    for bucket in store.buckets()? {
        let mut query = ListQuery {
            max: 1000,
            ..ListQuery::default()
        };
        loop {
            let page = match store.object_list(&bucket.name, &query) {
                // Removed since the buckets were listed.
                Err(gone) if gone.kind() == Kind::NotFound => break,
                page => page?,
            };
            bytes = page
                .objects
                .iter()
                .fold(bytes, |sum, object| sum.saturating_add(object.length_bytes));
            match page.next {
                Some(next) => query.start_after = Some(next),
                None => break,
            }
        }
    }
    Ok(bytes)
}

async fn tree(State(store): State<Store>) -> Reply<Json<serde_json::Value>> {
    run(move || store.tree().map_err(Problem::from))
        .await
        .map(Json)
}

async fn collect(State(store): State<Store>) -> Reply<Json<Collected>> {
    run(move || store.collect().map_err(Problem::from))
        .await
        .map(Json)
}

async fn check(State(store): State<Store>, Json(ask): Json<CheckAsk>) -> Reply<Json<CheckReport>> {
    run(move || store.check(ask.scrub).map_err(Problem::from))
        .await
        .map(Json)
}
