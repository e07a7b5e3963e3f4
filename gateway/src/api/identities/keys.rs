//! Access keys. A secret is in one answer: that of the request that made it.

use super::super::{Json, Path, Problem, Reply, Route};
use super::{Asking, place, suggest};
use crate::blocking::run;
use access::identity::{KeyInfo, NewKey};
use access::{Caller, Principal};
use axum::Extension;
use axum::http::StatusCode;
use axum::routing::{get, post};
use blockstore::Kind;
use serde::{Deserialize, Serialize};

/// A user's keys, oldest first.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KeyList {
    /// Without secrets.
    pub keys: Vec<KeyInfo>,
}

/// Switches a key.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyChange {
    /// Whether it opens anything.
    pub active: bool,
}

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route {
            path: "/users/{user}/keys",
            methods: &["get", "post"],
            answer: get(list).post(create),
        },
        Route {
            path: "/users/{user}/keys/{key}",
            methods: &["post", "delete"],
            answer: post(change).delete(remove),
        },
        Route {
            path: "/users/{user}/keys/{key}/rotate",
            methods: &["post"],
            answer: post(rotate),
        },
    ]
}

/// Whether the operator's own key is meant; only the operator touches it.
fn is_root(caller: &Caller, user: &str) -> Result<bool, Problem> {
    let (project, name) = place(caller, user);
    if name != "root" {
        return Ok(false);
    }
    if caller.principal == Principal::Root && project == "root" {
        return Ok(true);
    }
    let message = "the root key is the operator's alone";
    Err(Problem::new(Kind::Denied, "user", message))
}

async fn list(
    (Extension(access), Extension(caller)): Asking,
    Path(user): Path<String>,
) -> Reply<Json<KeyList>> {
    if is_root(&caller, &user)? {
        return Ok(Json(KeyList {
            keys: vec![access.root_key()],
        }));
    }
    let (project, name) = place(&caller, &user);
    access
        .keys(&project, &name)
        .map(|keys| Json(KeyList { keys }))
        .map_err(|error| suggest(&access, error, "user", &project, &name))
}

async fn create(
    (Extension(access), Extension(caller)): Asking,
    Path(user): Path<String>,
) -> Reply<(StatusCode, Json<NewKey>)> {
    if is_root(&caller, &user)? {
        let message = "root has one key; make another in its place: infall user key rotate root";
        return Err(Problem::new(Kind::Conflict, "key", message));
    }
    run(move || {
        let (project, name) = place(&caller, &user);
        access
            .key_create(&caller.who(), &project, &name)
            .map(|made| (StatusCode::CREATED, Json(made)))
            .map_err(|error| suggest(&access, error, "user", &project, &name))
    })
    .await
}

async fn change(
    (Extension(access), Extension(caller)): Asking,
    Path((user, key)): Path<(String, String)>,
    Json(ask): Json<KeyChange>,
) -> Reply<Json<KeyInfo>> {
    if is_root(&caller, &user)? {
        let message = "the root key cannot be switched off; rotate it: infall user key rotate root";
        return Err(Problem::new(Kind::Conflict, "key", message));
    }
    run(move || {
        let (project, name) = place(&caller, &user);
        let changed = access.key_activate(&caller.who(), &project, &name, &key, ask.active);
        changed.map(Json).map_err(Problem::from)
    })
    .await
}

async fn rotate(
    (Extension(access), Extension(caller)): Asking,
    Path((user, key)): Path<(String, String)>,
) -> Reply<(StatusCode, Json<NewKey>)> {
    let root = is_root(&caller, &user)?;
    run(move || {
        let (project, name) = place(&caller, &user);
        let made = match root {
            true => access.root_rotate(&caller.who()),
            false => access.key_rotate(&caller.who(), &project, &name, &key),
        };
        made.map(|made| (StatusCode::CREATED, Json(made)))
            .map_err(Problem::from)
    })
    .await
}

async fn remove(
    (Extension(access), Extension(caller)): Asking,
    Path((user, key)): Path<(String, String)>,
) -> Reply<StatusCode> {
    if is_root(&caller, &user)? {
        let message = "the root key cannot be removed; rotate it: infall user key rotate root";
        return Err(Problem::new(Kind::Conflict, "key", message));
    }
    run(move || {
        let (project, name) = place(&caller, &user);
        let removed = access.key_remove(&caller.who(), &project, &name, &key);
        removed.map_err(Problem::from)
    })
    .await?;
    Ok(StatusCode::NO_CONTENT)
}
