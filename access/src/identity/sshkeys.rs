//! Public ssh keys of users: what a guest they make lets in, besides certificates.
//!
//! 1. A key is kept as it was read, never as it was typed: type, key and comment, no options.
//! 2. Keys are read from the catalog when asked for; no decision depends on them.

use super::{now_ms, value_of};
use crate::Access;
use blockstore::{Entry, Error, Kind, Result, Subject, Who};
use serde::{Deserialize, Serialize};
use ssh_key::{HashAlg, PublicKey};

/// Keys of one user.
pub const SSH_KEYS_PER_USER_MAX: usize = 16;
/// Bytes of the line of a `.pub` file; an RSA key of 16,384 bits has 2,800.
const LINE_BYTES_MAX: usize = 8 << 10;
const RECORD_KIND: &str = "iam-sshkey";

/// A user's public ssh key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SshKey {
    /// Its user's project.
    pub project: String,
    /// Its user.
    pub user: String,
    /// `SHA256:…`, as `ssh-keygen -l` shows it.
    pub fingerprint: String,
    /// `ssh-ed25519 AAAA… comment`
    pub public_key: String,
    /// When it was added, milliseconds since the Unix epoch.
    pub created_ms: u64,
}

impl Access {
    /// Adds a user's public key, the line of a `.pub` file. Conflict if they have it.
    pub fn ssh_key_add(&self, who: &Who, project: &str, user: &str, line: &str) -> Result<SshKey> {
        let key = read_ssh_key(line)?;
        let _one = self.writing();
        let owner = self.user(project, user)?;
        if self.ssh_keys(project, user)?.len() >= SSH_KEYS_PER_USER_MAX {
            let text = format!(
                "user {user:?} has {SSH_KEYS_PER_USER_MAX} ssh keys, the most there may be: remove one"
            );
            return Err(Error::new(Kind::Conflict, Subject::Identity, text));
        }
        let fingerprint = key.fingerprint(HashAlg::Sha256);
        let row = SshKey {
            project: project.into(),
            user: user.into(),
            fingerprint: fingerprint.to_string(),
            public_key: key.to_openssh().map_err(|cause| unreadable(&cause))?,
            created_ms: now_ms(),
        };
        let entry = Entry::new("sshkey.added", &row.fingerprint).detail(owner.arn());
        let name = record_name(project, user, fingerprint.as_bytes());
        let value = value_of(&row)?;
        let store = &self.inner.store;
        let made = store.record_create(who, RECORD_KIND, &name, &value, Some(entry));
        made.map_err(|error| match error.kind() {
            Kind::Conflict => {
                let text = format!("user {user:?} has the key {} already", row.fingerprint);
                Error::new(Kind::Conflict, Subject::Identity, text)
            }
            _ => error,
        })?;
        Ok(row)
    }

    /// A user's public keys, oldest first.
    pub fn ssh_keys(&self, project: &str, user: &str) -> Result<Vec<SshKey>> {
        self.user(project, user)?;
        let mut keys = self.ssh_keys_left(project, user)?;
        keys.sort_by(|a, b| (a.created_ms, &a.fingerprint).cmp(&(b.created_ms, &b.fingerprint)));
        Ok(keys)
    }

    /// Removes a user's key by its fingerprint. Guests that were made with it keep it.
    pub fn ssh_key_remove(
        &self,
        who: &Who,
        project: &str,
        user: &str,
        fingerprint: &str,
    ) -> Result<()> {
        let _one = self.writing();
        let owner = self.user(project, user)?;
        let entry = Entry::new("sshkey.removed", fingerprint).detail(owner.arn());
        let parsed: Option<ssh_key::Fingerprint> = fingerprint.parse().ok();
        let missing = || {
            let text = format!(
                "user {user:?} has no ssh key {fingerprint:?}; list them: infall user sshkey ls {user}"
            );
            Error::new(Kind::NotFound, Subject::Identity, text)
        };
        let parsed = parsed.ok_or_else(missing)?;
        let name = record_name(project, user, parsed.as_bytes());
        let removed = self
            .inner
            .store
            .record_remove(who, RECORD_KIND, &name, Some(entry));
        removed.map_err(|error| match error.kind() {
            Kind::NotFound => missing(),
            _ => error,
        })
    }

    /// All keys of somebody who is about to go.
    pub(super) fn ssh_keys_end(&self, who: &Who, project: &str, user: &str) -> Result<()> {
        for key in self.ssh_keys_left(project, user)? {
            self.ssh_key_remove_row(who, &key)?;
        }
        Ok(())
    }

    /// The keys follow a user to another name.
    pub(super) fn ssh_keys_follow(
        &self,
        who: &Who,
        project: &str,
        user: &str,
        new: &str,
    ) -> Result<()> {
        for key in self.ssh_keys_left(project, user)? {
            let print = print_of(&key)?;
            let moved = SshKey {
                user: new.into(),
                ..key.clone()
            };
            let value = value_of(&moved)?;
            let name = record_name(project, new, print.as_bytes());
            let store = &self.inner.store;
            store.record_put(who, RECORD_KIND, &name, &value, None)?;
            self.ssh_key_remove_row(who, &key)?;
        }
        Ok(())
    }

    fn ssh_key_remove_row(&self, who: &Who, key: &SshKey) -> Result<()> {
        let name = record_name(&key.project, &key.user, print_of(key)?.as_bytes());
        let store = &self.inner.store;
        store.record_remove(who, RECORD_KIND, &name, None)
    }

    fn ssh_keys_left(&self, project: &str, user: &str) -> Result<Vec<SshKey>> {
        let rows = self.inner.store.record_list(RECORD_KIND)?;
        let place = format!("{project}/{user}/");
        let own = rows
            .into_iter()
            .filter(|(name, _)| name.starts_with(&place));
        own.map(|(name, value)| {
            serde_json::from_value(value).map_err(|cause| {
                let text = format!("the ssh key {name:?} does not read");
                Error::new(Kind::Corrupt, Subject::Identity, text).because(cause)
            })
        })
        .collect()
    }
}

/// Reads the line of a `.pub` file (sshd(8), "AUTHORIZED_KEYS FILE FORMAT", without options).
pub fn read_ssh_key(line: &str) -> Result<PublicKey> {
    let line = line.trim();
    if line.len() > LINE_BYTES_MAX || line.contains(['\n', '\r', '\0']) {
        let text = format!(
            "a public ssh key is one line of up to {LINE_BYTES_MAX} bytes; this has {}",
            line.len()
        );
        return Err(Error::new(Kind::Invalid, Subject::Identity, text));
    }
    PublicKey::from_openssh(line).map_err(|cause| unreadable(&cause))
}

/// What was given may be a private key by mistake: it is not repeated.
fn unreadable(cause: &ssh_key::Error) -> Error {
    let text = "this is no public ssh key: give the line of a .pub file, e.g. ssh-ed25519 AAAA… me";
    Error::new(Kind::Invalid, Subject::Identity, text).because(cause.to_string())
}

fn print_of(key: &SshKey) -> Result<ssh_key::Fingerprint> {
    key.fingerprint.parse().map_err(|cause: ssh_key::Error| {
        let text = format!("the fingerprint {:?} does not read", key.fingerprint);
        Error::new(Kind::Corrupt, Subject::Identity, text).because(cause)
    })
}

/// `<project>/<user>/<fingerprint in hexadecimal>`
fn record_name(project: &str, user: &str, fingerprint: &[u8]) -> String {
    let hexadecimal: String = fingerprint
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("{project}/{user}/{hexadecimal}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Credentials;
    use blockstore::{Options, Store};

    const KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIILEtPFQ2rfaMfQw4lDS7PWLw6XyyuCG2UbUBkVy6gXk me@here";

    #[test]
    fn a_users_keys_are_read_when_they_come_and_go_with_the_user() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path(), Options::default()).unwrap();
        let access = Access::open(store, Credentials::generate()).unwrap();
        let who = Who::server();
        access
            .project_create(&who, "p", "", Default::default())
            .unwrap();
        access.user_create(&who, "p", "alice", "/", false).unwrap();
        access.user_create(&who, "p", "al", "/", false).unwrap();
        let added = access
            .ssh_key_add(&who, "p", "alice", &format!("  {KEY}\n"))
            .unwrap();
        assert_eq!(added.public_key, KEY);
        assert!(added.fingerprint.starts_with("SHA256:"), "{added:?}");
        let again = access.ssh_key_add(&who, "p", "alice", KEY).unwrap_err();
        assert_eq!(again.kind(), Kind::Conflict);
        for bad in [
            "",
            "hello",
            "-----BEGIN OPENSSH PRIVATE KEY-----",
            "command=\"x\" ssh-ed25519 AAAA",
            &format!("{KEY}\n{KEY}"),
        ] {
            let error = access.ssh_key_add(&who, "p", "alice", bad).unwrap_err();
            assert_eq!(error.kind(), Kind::Invalid, "{bad}");
        }
        assert!(access.ssh_keys("p", "al").unwrap().is_empty());
        access
            .user_rename(&who, "p", "alice", Some("alicia"), None)
            .unwrap();
        let moved = access.ssh_keys("p", "alicia").unwrap();
        assert_eq!((moved.len(), moved[0].user.as_str()), (1, "alicia"));
        let gone = access.ssh_key_remove(&who, "p", "alicia", "SHA256:x");
        assert_eq!(gone.unwrap_err().kind(), Kind::NotFound);
        access
            .ssh_key_remove(&who, "p", "alicia", &added.fingerprint)
            .unwrap();
        access.ssh_key_add(&who, "p", "alicia", KEY).unwrap();
        access.user_remove(&who, "p", "alicia", true).unwrap();
        access.user_create(&who, "p", "alicia", "/", false).unwrap();
        assert!(access.ssh_keys("p", "alicia").unwrap().is_empty());
    }
}
