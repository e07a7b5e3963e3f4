//! Mounts of the store as files. They live in the server, so that there is one writer of the store.
//!
//! 1. A mount acts as the caller who made it: what they may not do is refused in it, too.
//! 2. One that other local users can enter lends them the caller's rights. That wants a grant of its
//!    own: the API's gate asks for `mount:Create` with the condition key `infall:AllowOther`.

use crate::exit::{Exit, Failure, Outcome};
use access::{Access, Caller};
use axum::Extension;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use blockstore::{Kind, Store};
use fuse::mount::{MountError, MountOptions, Mounted};
use gateway::api::{Json, Problem, Query, Reply};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Mounts at once.
const MOUNTS_MAX: usize = 64;

/// Asks for a mount.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MountAsk {
    /// An empty directory, absolute.
    pub(crate) path: PathBuf,
    /// Let other users see it, too.
    #[serde(default)]
    pub(crate) allow_other: bool,
    /// Nothing can be written.
    #[serde(default)]
    pub(crate) read_only: bool,
}

/// Which mount to take away.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Which {
    path: PathBuf,
}

/// A mount.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct MountShown {
    /// Where it is.
    pub(crate) path: PathBuf,
    /// Whether other users see it.
    pub(crate) allow_other: bool,
    /// Whether nothing can be written.
    pub(crate) read_only: bool,
    /// Files that programs have open in it.
    pub(crate) open_files: usize,
    /// As whom it acts.
    #[serde(default)]
    pub(crate) actor: String,
}

/// All mounts.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct MountList {
    /// By path.
    pub(crate) mounts: Vec<MountShown>,
}

/// The mounts of this server.
#[derive(Clone)]
pub(crate) struct Mounts {
    store: Store,
    access: Access,
    live: Arc<Mutex<BTreeMap<PathBuf, Live>>>,
}

struct Live {
    mounted: Mounted,
    options: MountOptions,
    actor: String,
}

impl Mounts {
    /// None yet.
    pub(crate) fn new(store: Store, access: Access) -> Self {
        Self {
            store,
            access,
            live: Arc::default(),
        }
    }

    /// Unmounts all; files still open in them are cut off.
    pub(crate) fn stop(&self) -> Outcome {
        let all = std::mem::take(&mut *self.locked());
        let mut outcome = Ok(());
        for (path, live) in all {
            if let Err(error) = live.mounted.unmount() {
                tracing::error!(path = %path.display(), error = %problem(&error), "unmounting");
                let failure = Failure::new(Exit::Internal, "mount", problem(&error).to_string());
                outcome = outcome.and(Err(failure));
            }
        }
        outcome
    }

    fn add(&self, caller: Caller, ask: &MountAsk) -> Reply<MountShown> {
        if !ask.path.is_absolute() {
            let message = format!("{} is not an absolute path", ask.path.display());
            return Err(Problem::new(Kind::Invalid, "mount", message));
        }
        let mut live = self.locked();
        live.retain(|_, live| live.mounted.is_live());
        if live.len() >= MOUNTS_MAX {
            let message = format!("{MOUNTS_MAX} mounts are the most; take one away first");
            return Err(Problem::new(Kind::Unavailable, "mount", message));
        }
        let options = MountOptions {
            allow_other: ask.allow_other,
            read_only: ask.read_only,
        };
        let actor = caller.principal.to_string();
        let (store, access) = (self.store.clone(), self.access.clone());
        let mounted = fuse::mount::mount(store, access, caller, &ask.path, options)
            .map_err(|error| problem(&error))?;
        let added = Live {
            mounted,
            options,
            actor,
        };
        let shown = added.shown();
        live.insert(shown.path.clone(), added);
        Ok(shown)
    }

    fn list(&self) -> MountList {
        let mut live = self.locked();
        live.retain(|_, live| live.mounted.is_live());
        MountList {
            mounts: live.values().map(Live::shown).collect(),
        }
    }

    fn remove(&self, path: &PathBuf) -> Reply<()> {
        let mut live = self.locked();
        let Some(removed) = live.remove(path) else {
            let message = format!("nothing is mounted at {}", path.display());
            let existing: Vec<String> =
                live.keys().map(|path| path.display().to_string()).collect();
            let problem = Problem::new(Kind::NotFound, "mount", message);
            return Err(problem.suggest(&path.display().to_string(), existing));
        };
        // Unmounting waits for requests; others may mount meanwhile.
        drop(live);
        removed.mounted.unmount().map_err(|error| problem(&error))
    }

    fn locked(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Live>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `GET`, `POST` and `DELETE /mounts`.
pub(crate) fn router(mounts: Mounts) -> Router {
    Router::new()
        .route("/mounts", get(list).post(add).delete(remove))
        .with_state(mounts)
}

async fn list(State(mounts): State<Mounts>) -> Reply<Json<MountList>> {
    blocking(move || Ok(mounts.list())).await.map(Json)
}

async fn add(
    State(mounts): State<Mounts>,
    Extension(caller): Extension<Caller>,
    Json(ask): Json<MountAsk>,
) -> Reply<(StatusCode, Json<MountShown>)> {
    blocking(move || mounts.add(caller, &ask))
        .await
        .map(|shown| (StatusCode::CREATED, Json(shown)))
}

async fn remove(State(mounts): State<Mounts>, Query(which): Query<Which>) -> Reply<StatusCode> {
    blocking(move || mounts.remove(&which.path))
        .await
        .map(|()| StatusCode::NO_CONTENT)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Reply<T> + Send + 'static) -> Reply<T> {
    let span = tracing::Span::current();
    tokio::task::spawn_blocking(move || span.in_scope(work))
        .await
        .unwrap_or_else(|error| {
            let problem = Problem::new(Kind::Internal, "mount", "a mount call did not come back");
            Err(problem.because(error.to_string()))
        })
}

impl Live {
    fn shown(&self) -> MountShown {
        MountShown {
            path: self.mounted.mountpoint().to_owned(),
            allow_other: self.options.allow_other,
            read_only: self.options.read_only,
            open_files: self.mounted.open_files(),
            actor: self.actor.clone(),
        }
    }
}

fn problem(error: &MountError) -> Problem {
    let problem = Problem::new(error.kind(), "mount", error.to_string());
    match std::error::Error::source(error) {
        Some(source) => problem.because(source.to_string()),
        None => problem,
    }
}
