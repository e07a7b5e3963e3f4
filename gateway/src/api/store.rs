//! The store as a whole: figures, structure, collection, check.

use super::{Json, Problem, Reply, Route};
use crate::blocking::run;
use axum::extract::State;
use axum::routing::{get, post};
use blockstore::{CheckReport, Collected, Stats, Store};
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
        let stats = store.stats()?;
        Ok::<_, Problem>(StoreStatus {
            version: env!("CARGO_PKG_VERSION").into(),
            directory: store.directory().display().to_string(),
            shown_bytes: stats.shown_bytes,
            stats,
        })
    })
    .await
    .map(Json)
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
