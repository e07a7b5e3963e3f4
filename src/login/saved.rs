//! Sessions of this user, by server, in a file that only they can read.

use crate::context::variable;
use crate::exit::{Exit, Failure, Outcome};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// A session as it was issued.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Saved {
    /// `INF4…`
    pub(crate) access_key: String,
    /// What to sign with.
    pub(crate) secret_key: String,
    /// Shown beside the key.
    pub(crate) session_token: String,
    /// When it ends, milliseconds since the Unix epoch.
    pub(crate) expires_ms: u64,
    /// Its role's ARN.
    pub(crate) role: String,
}

type All = BTreeMap<String, Saved>;

/// The session at a server, if there is one that has not ended.
pub(crate) fn of_server(server: &str) -> Outcome<Option<Saved>> {
    let Some(path) = path() else {
        return Ok(None);
    };
    let mut all = read(&path)?;
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let live = |saved: &Saved| u128::from(saved.expires_ms) > now.as_millis();
    Ok(all.remove(server).filter(live))
}

/// Keeps one; the one before it at that server is forgotten.
pub(crate) fn keep(server: &str, saved: &Saved) -> Outcome {
    let path = path().ok_or_else(|| {
        Failure::new(
            Exit::Usage,
            "session",
            "neither XDG_STATE_HOME nor HOME is set",
        )
        .hint("Set one, so that the session has a place")
    })?;
    let mut all = read(&path)?;
    all.insert(server.to_owned(), saved.clone());
    write(&path, &all)
}

/// Forgets the one at a server; whether there was one.
pub(crate) fn forget(server: &str) -> Outcome<bool> {
    let Some(path) = path() else {
        return Ok(false);
    };
    let mut all = read(&path)?;
    let was = all.remove(server).is_some();
    if was {
        write(&path, &all)?;
    }
    Ok(was)
}

fn path() -> Option<PathBuf> {
    let state = variable("XDG_STATE_HOME").map(PathBuf::from).or_else(|| {
        let home = PathBuf::from(variable("HOME")?);
        Some(home.join(".local/state"))
    })?;
    Some(state.join("infall/sessions.json"))
}

fn read(path: &Path) -> Outcome<All> {
    match std::fs::read(path) {
        // A file that cannot be read as ours holds no session that would still be good.
        Ok(bytes) => Ok(serde_json::from_slice(&bytes).unwrap_or_default()),
        Err(missing) if missing.kind() == std::io::ErrorKind::NotFound => Ok(All::new()),
        Err(error) => Err(Failure::io(format_args!("read {}", path.display()), &error)),
    }
}

fn write(path: &Path, all: &All) -> Outcome {
    let failed = |error: std::io::Error| {
        Failure::io(
            format_args!("keep the session in {}", path.display()),
            &error,
        )
    };
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(failed)?;
    let fresh = path.with_extension(format!("{}", std::process::id()));
    let written = (|| {
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&fresh)?;
        file.write_all(&serde_json::to_vec_pretty(all).map_err(std::io::Error::other)?)?;
        file.sync_all()?;
        std::fs::rename(&fresh, path)
    })();
    written.map_err(|error| {
        // What is half written is no session.
        let _ = std::fs::remove_file(&fresh);
        failed(error)
    })
}
