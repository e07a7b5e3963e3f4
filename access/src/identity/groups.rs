//! Groups: users who are given the same.

use super::rows::Group;
use super::{held, missing, new_id, now_ms, of_project};
use crate::Access;
use blockstore::{Entry, Error, Kind, Result, Subject, Who};
use std::sync::Arc;

const NAME_BYTES_MAX: usize = 128;
/// Users of a group at most.
const MEMBERS_MAX: usize = 5000;

impl Access {
    /// Makes a group.
    pub fn group_create(&self, who: &Who, project: &str, name: &str, path: &str) -> Result<Group> {
        let group = Group {
            project: project.into(),
            name: name.into(),
            path: path.into(),
            id: new_id("AGPA"),
            created_ms: now_ms(),
            members: Vec::new(),
            given: Default::default(),
        };
        let _one = self.writing();
        self.admit_new(&group, NAME_BYTES_MAX)?;
        self.make(who, &group, Entry::new("group.created", group.arn()))?;
        Ok(group)
    }

    /// A group.
    pub fn group(&self, project: &str, name: &str) -> Result<Arc<Group>> {
        let snapshot = self.snapshot();
        let place = (project.to_owned(), name.to_owned());
        let found = snapshot.groups.get(&place).cloned();
        found.ok_or_else(|| missing("group", project, name))
    }

    /// A project's groups, by name; of all projects without one.
    pub fn groups(&self, project: Option<&str>) -> Vec<Arc<Group>> {
        let snapshot = self.snapshot();
        match project {
            Some(project) => of_project(&snapshot.groups, project).cloned().collect(),
            None => snapshot.groups.values().cloned().collect(),
        }
    }

    /// The groups of a user.
    pub fn groups_of(&self, project: &str, user: &str) -> Result<Vec<Arc<Group>>> {
        self.user(project, user)?;
        let mut groups = self.groups(Some(project));
        groups.retain(|group| group.members.iter().any(|member| member == user));
        Ok(groups)
    }

    /// Adds a user; nothing happens if they are in it.
    pub fn group_add(&self, who: &Who, project: &str, name: &str, user: &str) -> Result<Group> {
        let _one = self.writing();
        let mut group = Group::clone(&*self.group(project, name)?);
        self.user(project, user)?;
        if group.members.iter().any(|member| member == user) {
            return Ok(group);
        }
        if group.members.len() >= MEMBERS_MAX {
            let text = format!("group {name:?} has {MEMBERS_MAX} users, the most there may be");
            return Err(Error::new(Kind::Conflict, Subject::Identity, text));
        }
        group.members.push(user.into());
        let entry = Entry::new("group.joined", group.arn()).detail(format!("user/{user}"));
        self.keep(who, &group, entry)?;
        Ok(group)
    }

    /// Takes a user out. NotFound if they are not in it.
    pub fn group_take(&self, who: &Who, project: &str, name: &str, user: &str) -> Result<Group> {
        let _one = self.writing();
        let mut group = Group::clone(&*self.group(project, name)?);
        let before = group.members.len();
        group.members.retain(|member| member != user);
        if group.members.len() == before {
            return Err(missing(&format!("member of group {name:?}"), project, user));
        }
        let entry = Entry::new("group.left", group.arn()).detail(format!("user/{user}"));
        self.keep(who, &group, entry)?;
        Ok(group)
    }

    /// Removes a group. Conflict while it has members or policies, unless `with_all`.
    pub fn group_remove(&self, who: &Who, project: &str, name: &str, with_all: bool) -> Result<()> {
        let _one = self.writing();
        let group = self.group(project, name)?;
        if !with_all {
            if !group.members.is_empty() {
                return Err(held("group", name, "users"));
            }
            if !group.given.inline.is_empty() || !group.given.attached.is_empty() {
                return Err(held("group", name, "policies"));
            }
        }
        self.drop_row(who, &*group, Entry::new("group.removed", group.arn()))
    }
}
