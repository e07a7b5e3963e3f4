//! Projects: who owns what, and how much of it there may be.

use super::rows::{Project, Quota};
use super::{no_project, now_ms, of_project, policies, value_of};
use crate::Access;
use blockstore::{Entry, Error, Kind, Result, Subject, Who};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Names that mean something else in ARNs.
const RESERVED: [&str; 3] = ["aws", "root", "infall"];
/// Projects at most.
const PROJECTS_MAX: usize = 10_000;

/// What a project uses now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Usage {
    /// Bytes that its objects, volumes and images show.
    pub bytes: u64,
    /// Objects, versions included.
    pub objects: u64,
    /// Volumes.
    pub volumes: u64,
    /// VMs.
    pub vms: u64,
}

impl Access {
    /// Makes a project.
    pub fn project_create(
        &self,
        who: &Who,
        name: &str,
        description: &str,
        quota: Quota,
    ) -> Result<Project> {
        check(name)?;
        policies::check_description(description)?;
        let project = Project {
            name: name.into(),
            description: description.into(),
            created_ms: now_ms(),
            quota,
        };
        let _one = self.writing();
        if self.snapshot().projects.len() >= PROJECTS_MAX {
            let text = format!("there are {PROJECTS_MAX} projects, the most there may be");
            return Err(Error::new(Kind::Conflict, Subject::Project, text));
        }
        let value = value_of(&project)?;
        let entry = Entry::new("project.created", name);
        let store = &self.inner.store;
        let made = store.record_create(who, "project", name, &value, Some(entry));
        made.map_err(|error| match error.kind() {
            Kind::Conflict => {
                let text = format!("project {name:?} exists already: choose another name");
                Error::new(Kind::Conflict, Subject::Project, text)
            }
            _ => error,
        })?;
        self.reload()?;
        Ok(project)
    }

    /// A project.
    pub fn project(&self, name: &str) -> Result<Arc<Project>> {
        let found = self.snapshot().projects.get(name).cloned();
        found.ok_or_else(|| no_project(name))
    }

    /// All projects, by name.
    pub fn projects(&self) -> Vec<Arc<Project>> {
        self.snapshot().projects.values().cloned().collect()
    }

    /// What a project may use at most; no limits where there is no such project.
    pub fn quota(&self, project: &str) -> Quota {
        let snapshot = self.snapshot();
        let found = snapshot.projects.get(project);
        found.map(|project| project.quota).unwrap_or_default()
    }

    /// Sets what a project may use at most.
    pub fn project_set_quota(&self, who: &Who, name: &str, quota: Quota) -> Result<Project> {
        let _one = self.writing();
        let mut project = Project::clone(&*self.project(name)?);
        project.quota = quota;
        let value = value_of(&project)?;
        let detail = serde_json::to_string(&quota).unwrap_or_default();
        let entry = Entry::new("project.quota", name).detail(detail);
        let store = &self.inner.store;
        store.record_put(who, "project", name, &value, Some(entry))?;
        self.reload()?;
        Ok(project)
    }

    /// Removes a project. Conflict while it has users, groups, roles, policies, or owns anything in
    /// the store.
    pub fn project_remove(&self, who: &Who, name: &str) -> Result<()> {
        let _one = self.writing();
        self.project(name)?;
        if name == "root" {
            let text = "project \"root\" is the operator's own and stays";
            return Err(Error::new(Kind::Denied, Subject::Project, text));
        }
        let snapshot = self.snapshot();
        let has = [
            ("users", of_project(&snapshot.users, name).next().is_some()),
            (
                "groups",
                of_project(&snapshot.groups, name).next().is_some(),
            ),
            ("roles", of_project(&snapshot.roles, name).next().is_some()),
            (
                "policies",
                of_project(&snapshot.policies, name).next().is_some(),
            ),
        ];
        if let Some((what, _)) = has.iter().find(|(_, has)| *has) {
            return Err(in_use(name, what));
        }
        if let Some(what) = self.owned(name)? {
            return Err(in_use(name, what));
        }
        let entry = Entry::new("project.removed", name);
        let store = &self.inner.store;
        store.record_remove(who, "project", name, Some(entry))?;
        self.reload()
    }
}

fn in_use(name: &str, what: &str) -> Error {
    let text = format!("project {name:?} still has {what}: remove them first");
    Error::new(Kind::Conflict, Subject::Project, text)
}

fn check(name: &str) -> Result<()> {
    let fits = name.len() <= 63
        && name.bytes().all(|byte| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-._".contains(&byte)
        })
        && name
            .bytes()
            .next()
            .is_some_and(|first| first.is_ascii_alphanumeric());
    if fits && !RESERVED.contains(&name) {
        return Ok(());
    }
    let text = format!(
        "{name:?} is no name of a project: 1 to 63 of a-z, 0-9, - . _, beginning with a letter or \
         a digit, and none of {}",
        RESERVED.join(", ")
    );
    Err(Error::new(Kind::Invalid, Subject::Project, text))
}
