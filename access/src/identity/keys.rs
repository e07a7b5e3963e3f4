//! Access keys: several per user, each on or off, its secret shown once.

use super::rows::{KeyRow, Secret, User};
use super::{missing, now_ms, value_of};
use crate::{Access, Credentials};
use blockstore::{Entry, Error, Kind, Result, Subject, Who};
use serde::{Deserialize, Serialize};
use std::sync::PoisonError;

/// Keys of one user.
pub const KEYS_PER_USER_MAX: usize = 8;

/// A key without its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyInfo {
    /// `INF4…`
    pub id: String,
    /// Its user; `root` for the operator's own.
    pub user: String,
    /// The user's project.
    pub project: String,
    /// Whether it opens anything.
    pub active: bool,
    /// When it was made, milliseconds since the Unix epoch.
    pub created_ms: u64,
}

/// A key as it is shown once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewKey {
    /// All but the secret.
    #[serde(flatten)]
    pub info: KeyInfo,
    /// What its owner signs with.
    pub secret_key: Secret,
}

impl Access {
    /// Makes a key for a user.
    pub fn key_create(&self, who: &Who, project: &str, user: &str) -> Result<NewKey> {
        let _one = self.writing();
        let owner = self.user(project, user)?;
        let count = self.keys(project, user)?.len();
        if count >= KEYS_PER_USER_MAX {
            let text = format!(
                "user {user:?} has {KEYS_PER_USER_MAX} access keys, the most there may be: remove one"
            );
            return Err(Error::new(Kind::Conflict, Subject::Identity, text));
        }
        let made = self.new_key(who, &owner)?;
        self.reload()?;
        Ok(made)
    }

    /// A user's keys, oldest first.
    pub fn keys(&self, project: &str, user: &str) -> Result<Vec<KeyInfo>> {
        self.user(project, user)?;
        let snapshot = self.snapshot();
        let mut keys: Vec<KeyInfo> = snapshot
            .keys
            .values()
            .filter(|key| key.project == project && key.user == user)
            .map(|key| info(key))
            .collect();
        keys.sort_by(|one, other| (one.created_ms, &one.id).cmp(&(other.created_ms, &other.id)));
        Ok(keys)
    }

    /// Whose key it is.
    pub fn key_info(&self, id: &str) -> Result<KeyInfo> {
        let snapshot = self.snapshot();
        let found = snapshot.keys.get(id).map(|key| info(key));
        found.ok_or_else(|| no_key(id))
    }

    /// Switches a key on or off.
    pub fn key_activate(
        &self,
        who: &Who,
        project: &str,
        user: &str,
        id: &str,
        active: bool,
    ) -> Result<KeyInfo> {
        let _one = self.writing();
        let mut key = self.key_of(project, user, id)?;
        key.active = active;
        let kind = if active {
            "key.activated"
        } else {
            "key.deactivated"
        };
        let entry = Entry::new(kind, id).detail(format!("of user/{user}"));
        let value = value_of(&key)?;
        let store = &self.inner.store;
        store.record_put(who, "iam-key", id, &value, Some(entry))?;
        self.reload()?;
        Ok(info(&key))
    }

    /// Removes a key.
    pub fn key_remove(&self, who: &Who, project: &str, user: &str, id: &str) -> Result<()> {
        let _one = self.writing();
        let key = self.key_of(project, user, id)?;
        let entry = Entry::new("key.removed", id).detail(format!("of user/{}", key.user));
        let store = &self.inner.store;
        store.record_remove(who, "iam-key", id, Some(entry))?;
        self.reload()
    }

    /// Makes a new key and removes the old one. The new one exists before the old one goes.
    pub fn key_rotate(&self, who: &Who, project: &str, user: &str, id: &str) -> Result<NewKey> {
        let _one = self.writing();
        let owner = self.user(project, user)?;
        self.key_of(project, user, id)?;
        let made = self.new_key(who, &owner)?;
        let entry = Entry::new("key.removed", id).detail(format!("rotated, now {}", made.info.id));
        let store = &self.inner.store;
        store.record_remove(who, "iam-key", id, Some(entry))?;
        self.reload()?;
        Ok(made)
    }

    /// Makes a new root key in place of the old one, which opens nothing from then on.
    pub fn root_rotate(&self, who: &Who) -> Result<NewKey> {
        let _one = self.writing();
        let file = self.inner.root_file.get().ok_or_else(|| {
            let text = "the root key is not kept in a file here and cannot be rotated";
            Error::new(Kind::Unsupported, Subject::Identity, text)
        })?;
        let made = Credentials::generate();
        let before = self.root();
        made.replace(file).map_err(|cause| {
            let text = "the root key could not be replaced; the old one still counts";
            Error::new(Kind::Internal, Subject::Identity, text).because(cause)
        })?;
        let info = KeyInfo {
            id: made.access_key.clone(),
            user: "root".into(),
            project: "root".into(),
            active: true,
            created_ms: now_ms(),
        };
        let secret_key = Secret(made.secret_key.clone());
        *self
            .inner
            .root
            .write()
            .unwrap_or_else(PoisonError::into_inner) = made;
        let entry =
            Entry::new("key.rotated", &info.id).detail(format!("was {}", before.access_key));
        self.inner.store.journal_append(who, entry)?;
        Ok(NewKey { info, secret_key })
    }

    /// The root key as the operator sees it in a list.
    pub fn root_key(&self) -> KeyInfo {
        KeyInfo {
            id: self.root().access_key,
            user: "root".into(),
            project: "root".into(),
            active: true,
            created_ms: 0,
        }
    }

    fn new_key(&self, who: &Who, owner: &User) -> Result<NewKey> {
        let pair = Credentials::generate();
        let key = KeyRow {
            id: pair.access_key.clone(),
            project: owner.project.clone(),
            user: owner.name.clone(),
            active: true,
            created_ms: now_ms(),
            secret: Secret(pair.secret_key),
        };
        let entry = Entry::new("key.created", &key.id).detail(format!("of {}", owner.arn()));
        let value = value_of(&key)?;
        let store = &self.inner.store;
        store.record_create(who, "iam-key", &key.id, &value, Some(entry))?;
        Ok(NewKey {
            info: info(&key),
            secret_key: key.secret,
        })
    }

    fn key_of(&self, project: &str, user: &str, id: &str) -> Result<KeyRow> {
        self.user(project, user)?;
        let snapshot = self.snapshot();
        let found = snapshot
            .keys
            .get(id)
            .filter(|key| key.project == project && key.user == user);
        found
            .map(|key| KeyRow::clone(key))
            .ok_or_else(|| missing(&format!("access key of user {user:?}"), project, id))
    }
}

fn info(key: &KeyRow) -> KeyInfo {
    KeyInfo {
        id: key.id.clone(),
        user: key.user.clone(),
        project: key.project.clone(),
        active: key.active,
        created_ms: key.created_ms,
    }
}

fn no_key(id: &str) -> Error {
    let text = format!("no access key {id:?}");
    Error::new(Kind::NotFound, Subject::Identity, text)
}
