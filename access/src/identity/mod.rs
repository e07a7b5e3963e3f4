//! Users, groups, roles, policies, keys, sessions and projects: kept as records in the catalog, read
//! into one snapshot.
//!
//! ```text
//! a change ─▶ lock ─▶ check against the snapshot ─▶ one record and its event ─▶ new snapshot
//! a decision ─▶ the snapshot as it is
//! ```
//! 1. Changes are made one after another; a change that was answered counts for the next decision.
//! 2. A name belongs to its project; two projects may have the same.
//! 3. A policy is read before it is stored, and nothing unreadable is stored.
//! 4. Secrets lie in the rows of keys and sessions only, and leave them only to be signed with, or
//!    once, to whoever the key was made for.

mod built_in;
mod groups;
mod keys;
mod policies;
mod projects;
mod roles;
pub(crate) mod rows;
pub(crate) mod sessions;
pub(crate) mod snapshot;
mod sshkeys;
#[cfg(test)]
mod tests;
mod users;

pub use built_in::BUILT_IN_PROJECT;
pub use keys::{KEYS_PER_USER_MAX, KeyInfo, NewKey};
pub use policies::{Holder, HolderSort, VERSIONS_MAX};
pub use projects::Usage;
pub use roles::RoleChange;
pub use rows::{
    Given, Group, KeyRow, ManagedPolicy, PolicyVersion, Project, Quota, Role, Secret, User,
};
pub use sessions::{Begin, Session, SessionSubject};
pub use sshkeys::{SSH_KEYS_PER_USER_MAX, SshKey, read_ssh_key};

use crate::Access;
use blockstore::{Entry, Error, Kind, Result, Subject, Who};
use rand::Rng;
use rows::Row;
use snapshot::Snapshot;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

/// Users, groups, roles or policies of one project at most.
const PER_PROJECT_MAX: usize = 5000;
/// Policies in line that one holder has at most, and as many attached.
const POLICIES_PER_HOLDER_MAX: usize = 20;

impl Access {
    /// The identities as they are now.
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        let snapshot = self.inner.snapshot.read();
        Arc::clone(&snapshot.unwrap_or_else(PoisonError::into_inner))
    }

    /// One change at a time.
    fn writing(&self) -> MutexGuard<'_, ()> {
        let lock = self.inner.writing.lock();
        lock.unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads everything anew; called while [`Self::writing`] is held.
    fn reload(&self) -> Result<()> {
        let before = self.snapshot();
        let new = Arc::new(Snapshot::read(&self.inner.store, &before)?);
        let mut current = self
            .inner
            .snapshot
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *current = new;
        Ok(())
    }

    fn make<T: Row>(&self, who: &Who, row: &T, entry: Entry) -> Result<()> {
        let (kind, name) = (T::KIND, record_name(row.project(), row.name()));
        let value = value_of(row)?;
        let made = self
            .inner
            .store
            .record_create(who, kind, &name, &value, Some(entry));
        made.map_err(|error| match error.kind() {
            Kind::Conflict => taken(T::SORT, row.project(), row.name()),
            _ => error,
        })?;
        self.reload()
    }

    fn keep<T: Row>(&self, who: &Who, row: &T, entry: Entry) -> Result<()> {
        let (kind, name) = (T::KIND, record_name(row.project(), row.name()));
        let value = value_of(row)?;
        self.inner
            .store
            .record_put(who, kind, &name, &value, Some(entry))?;
        self.reload()
    }

    fn drop_row<T: Row>(&self, who: &Who, row: &T, entry: Entry) -> Result<()> {
        let name = record_name(row.project(), row.name());
        self.inner
            .store
            .record_remove(who, T::KIND, &name, Some(entry))?;
        self.reload()
    }

    /// Refuses what cannot be a name, a project that is not there, and more than there may be.
    fn admit_new<T: Row>(&self, row: &T, name_bytes_max: usize) -> Result<()> {
        check_name(T::SORT, row.name(), name_bytes_max)?;
        check_path(row.path())?;
        let snapshot = self.snapshot();
        if !snapshot.projects.contains_key(row.project()) {
            return Err(no_project(row.project()));
        }
        let count = match T::KIND {
            User::KIND => of_project(&snapshot.users, row.project()).count(),
            Group::KIND => of_project(&snapshot.groups, row.project()).count(),
            Role::KIND => of_project(&snapshot.roles, row.project()).count(),
            _ => of_project(&snapshot.policies, row.project()).count(),
        };
        if count >= PER_PROJECT_MAX {
            let text = format!(
                "project {:?} has {count} of these already, the most there may be: remove some",
                row.project()
            );
            return Err(Error::new(Kind::Conflict, Subject::Identity, text));
        }
        Ok(())
    }
}

/// Rows of one project, by name.
fn of_project<'a, T>(
    rows: &'a std::collections::BTreeMap<snapshot::Place, Arc<T>>,
    project: &'a str,
) -> impl Iterator<Item = &'a Arc<T>> {
    rows.range((project.to_owned(), String::new())..)
        .take_while(move |((of, _), _)| of == project)
        .map(|(_, row)| row)
}

fn record_name(project: &str, name: &str) -> String {
    format!("{project}/{name}")
}

fn value_of(row: &impl serde::Serialize) -> Result<serde_json::Value> {
    serde_json::to_value(row).map_err(|cause| {
        let text = "an identity cannot be written as JSON";
        Error::new(Kind::Internal, Subject::Identity, text).because(cause)
    })
}

/// Milliseconds since the Unix epoch.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

/// An id that is never given out again: `AIDA` and 17 letters and digits.
fn new_id(prefix: &str) -> String {
    const LETTERS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let mut random = rand::rng();
    let mut id = prefix.to_owned();
    for _ in 0..17 {
        id.push(char::from(LETTERS[random.random_range(0..LETTERS.len())]));
    }
    id
}

/// IAM's letters ("IAM identifiers"): what stands in an ARN without being mistaken for its parts.
pub(crate) fn check_name(sort: &str, name: &str, bytes_max: usize) -> Result<()> {
    let fits = !name.is_empty()
        && name.len() <= bytes_max
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"+=,.@_-".contains(&byte));
    if fits {
        return Ok(());
    }
    let text = format!(
        "{name:?} is no name of a {sort}: 1 to {bytes_max} letters, digits and + = , . @ _ -"
    );
    Err(Error::new(Kind::Invalid, Subject::Identity, text))
}

fn check_path(path: &str) -> Result<()> {
    let fits = path.starts_with('/')
        && path.ends_with('/')
        && path.len() <= 512
        && path
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"/+=,.@_-".contains(&byte));
    if fits {
        return Ok(());
    }
    let text = format!("{path:?} is no path: write / or /division/, letters and digits between");
    Err(Error::new(Kind::Invalid, Subject::Identity, text))
}

fn no_project(project: &str) -> Error {
    let text = format!("no project {project:?}; list them: infall project ls");
    Error::new(Kind::NotFound, Subject::Project, text)
}

fn missing(sort: &str, project: &str, name: &str) -> Error {
    let text = format!("no {sort} {name:?} in project {project:?}");
    Error::new(Kind::NotFound, Subject::Identity, text)
}

fn taken(sort: &str, project: &str, name: &str) -> Error {
    let text = format!(
        "the {sort} {name:?} exists already in project {project:?}: choose another name, or remove it first"
    );
    Error::new(Kind::Conflict, Subject::Identity, text)
}

fn held(sort: &str, name: &str, by: &str) -> Error {
    let text = format!("the {sort} {name:?} still has {by}: remove these first");
    Error::new(Kind::Conflict, Subject::Identity, text)
}
