//! Users: people and programs with keys of their own.

use super::rows::{Row, User};
use super::{
    check_name, check_path, held, missing, new_id, now_ms, of_project, record_name, value_of,
};
use crate::Access;
use blockstore::{Entry, Error, Kind, Result, Subject, Who};
use std::sync::Arc;

/// Bytes of a user's name (IAM, "IAM and AWS STS quotas").
const NAME_BYTES_MAX: usize = 64;

impl Access {
    /// Makes a user; `service` says that it is a program.
    pub fn user_create(
        &self,
        who: &Who,
        project: &str,
        name: &str,
        path: &str,
        service: bool,
    ) -> Result<User> {
        let user = User {
            project: project.into(),
            name: name.into(),
            path: path.into(),
            id: new_id("AIDA"),
            created_ms: now_ms(),
            service,
            given: Default::default(),
            tags: Default::default(),
        };
        check_user_name(name)?;
        let _one = self.writing();
        self.admit_new(&user, NAME_BYTES_MAX)?;
        self.make(who, &user, Entry::new("user.created", user.arn()))?;
        Ok(user)
    }

    /// A user.
    pub fn user(&self, project: &str, name: &str) -> Result<Arc<User>> {
        let snapshot = self.snapshot();
        let place = (project.to_owned(), name.to_owned());
        let found = snapshot.users.get(&place).cloned();
        found.ok_or_else(|| missing("user", project, name))
    }

    /// A project's users, by name; of all projects without one.
    pub fn users(&self, project: Option<&str>) -> Vec<Arc<User>> {
        let snapshot = self.snapshot();
        match project {
            Some(project) => of_project(&snapshot.users, project).cloned().collect(),
            None => snapshot.users.values().cloned().collect(),
        }
    }

    /// Gives a user another name or path. Keys and groups follow; policies that name the old ARN do not.
    pub fn user_rename(
        &self,
        who: &Who,
        project: &str,
        name: &str,
        new_name: Option<&str>,
        new_path: Option<&str>,
    ) -> Result<User> {
        let _one = self.writing();
        let mut user = User::clone(&*self.user(project, name)?);
        let old = user.arn();
        if let Some(path) = new_path {
            check_path(path)?;
            user.path = path.into();
        }
        let renamed = new_name.filter(|new| *new != name);
        let Some(new) = renamed else {
            let entry = Entry::new("user.changed", old);
            self.keep(who, &user, entry)?;
            return Ok(user);
        };
        check_user_name(new)?;
        user.name = new.into();
        let entry = Entry::new("user.renamed", &old).detail(format!("now {}", user.arn()));
        self.make(who, &user, entry)?;
        // The user under the new name exists before anything leads there, and the old one goes last:
        // a crash in between leaves both, and no key without its user.
        for group in of_project(&self.snapshot().groups, project) {
            if group.members.iter().any(|member| member == name) {
                let mut group = super::Group::clone(group);
                group.members.retain(|member| member != name);
                group.members.push(new.into());
                let entry = Entry::new("group.changed", group.arn());
                self.keep(who, &group, entry)?;
            }
        }
        for key in self.snapshot().keys.values() {
            if key.project == project && key.user == name {
                let mut key = super::KeyRow::clone(key);
                key.user = new.into();
                let value = value_of(&key)?;
                let store = &self.inner.store;
                store.record_put(who, "iam-key", &key.id, &value, None)?;
            }
        }
        self.ssh_keys_follow(who, project, name, new)?;
        let store = &self.inner.store;
        store.record_remove(who, User::KIND, &record_name(project, name), None)?;
        self.reload()?;
        Ok(user)
    }

    /// Removes a user. Conflict while they have keys, policies or groups, unless `with_all`.
    pub fn user_remove(&self, who: &Who, project: &str, name: &str, with_all: bool) -> Result<()> {
        let _one = self.writing();
        let user = self.user(project, name)?;
        let snapshot = self.snapshot();
        let keys: Vec<_> = snapshot
            .keys
            .values()
            .filter(|key| key.project == project && key.user == name)
            .collect();
        let groups: Vec<_> = of_project(&snapshot.groups, project)
            .filter(|group| group.members.iter().any(|member| member == name))
            .collect();
        if !with_all {
            if !keys.is_empty() {
                return Err(held("user", name, "access keys"));
            }
            if !groups.is_empty() {
                return Err(held("user", name, "groups"));
            }
            if !user.given.inline.is_empty() || !user.given.attached.is_empty() {
                return Err(held("user", name, "policies"));
            }
        }
        // Keys first: from then on nobody gets in as this user, whatever happens next.
        for key in keys {
            let entry = Entry::new("key.removed", &key.id).detail(format!("of {}", user.arn()));
            let store = &self.inner.store;
            store.record_remove(who, "iam-key", &key.id, Some(entry))?;
        }
        for group in groups {
            let mut group = super::Group::clone(group);
            group.members.retain(|member| member != name);
            let entry = Entry::new("group.changed", group.arn());
            self.keep(who, &group, entry)?;
        }
        self.ssh_keys_end(who, project, name)?;
        self.drop_row(who, &*user, Entry::new("user.removed", user.arn()))?;
        self.sessions_of_user_end(who, project, name)
    }
}

/// `root` is the operator, who is no user.
fn check_user_name(name: &str) -> Result<()> {
    check_name("user", name, NAME_BYTES_MAX)?;
    if name != "root" {
        return Ok(());
    }
    let text = "\"root\" is the operator and no user: choose another name";
    Err(Error::new(Kind::Invalid, Subject::Identity, text))
}
