//! Public ssh keys of users: what a guest they make lets in, besides certificates.

use super::super::{Json, Path, Problem, Reply, Route};
use super::{Asking, place, suggest};
use crate::blocking::run;
use access::identity::SshKey;
use axum::Extension;
use axum::http::StatusCode;
use axum::routing::{delete, get};
use blockstore::Kind;
use serde::{Deserialize, Serialize};

/// A user's public keys, oldest first.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SshKeyList {
    /// The keys.
    pub keys: Vec<SshKey>,
}

/// A public key to add.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SshKeyAdd {
    /// The line of a `.pub` file.
    pub public_key: String,
}

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route {
            path: "/users/{user}/ssh-keys",
            methods: &["get", "post"],
            answer: get(list).post(add),
        },
        Route {
            path: "/users/{user}/ssh-keys/{key}",
            methods: &["delete"],
            answer: delete(remove),
        },
    ]
}

async fn list(
    (Extension(access), Extension(caller)): Asking,
    Path(user): Path<String>,
) -> Reply<Json<SshKeyList>> {
    run(move || {
        let (project, name) = place(&caller, &user);
        access
            .ssh_keys(&project, &name)
            .map(|keys| Json(SshKeyList { keys }))
            .map_err(|error| suggest(&access, error, "user", &project, &name))
    })
    .await
}

async fn add(
    (Extension(access), Extension(caller)): Asking,
    Path(user): Path<String>,
    Json(ask): Json<SshKeyAdd>,
) -> Reply<(StatusCode, Json<SshKey>)> {
    run(move || {
        let (project, name) = place(&caller, &user);
        let added = access.ssh_key_add(&caller.who(), &project, &name, &ask.public_key);
        let added = added.map(|key| (StatusCode::CREATED, Json(key)));
        added.map_err(|error| match error.kind() {
            Kind::NotFound => suggest(&access, error, "user", &project, &name),
            _ => Problem::from(error),
        })
    })
    .await
}

async fn remove(
    (Extension(access), Extension(caller)): Asking,
    Path((user, key)): Path<(String, String)>,
) -> Reply<StatusCode> {
    run(move || {
        let (project, name) = place(&caller, &user);
        let removed = access.ssh_key_remove(&caller.who(), &project, &name, &key);
        removed.map_err(Problem::from)
    })
    .await?;
    Ok(StatusCode::NO_CONTENT)
}
