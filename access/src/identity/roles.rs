//! Roles: what somebody may become for a while, and who that is.

use super::rows::Role;
use super::{held, missing, new_id, now_ms, of_project};
use crate::Access;
use crate::policy::{Form, Policy, SESSION_BYTES_MAX};
use blockstore::{Entry, Error, Kind, Result, Subject, Who};
use std::sync::Arc;

const NAME_BYTES_MAX: usize = 64;
/// Seconds of a session (STS, AssumeRole: 900 to 43200).
const SESSION_SECONDS: std::ops::RangeInclusive<u64> = 3600..=43_200;

/// What changes of a role; what is absent stays.
#[derive(Clone, Debug, Default)]
pub struct RoleChange {
    /// Who may become it: a policy's text.
    pub trust: Option<String>,
    /// For people.
    pub description: Option<String>,
    /// Seconds that a session lasts at most.
    pub session_seconds_max: Option<u64>,
}

impl Access {
    /// Makes a role; `change` needs a trust.
    pub fn role_create(
        &self,
        who: &Who,
        project: &str,
        name: &str,
        path: &str,
        change: RoleChange,
    ) -> Result<Role> {
        let mut role = Role {
            project: project.into(),
            name: name.into(),
            path: path.into(),
            id: new_id("AROA"),
            created_ms: now_ms(),
            description: String::new(),
            trust: String::new(),
            session_seconds_max: 3600,
            given: Default::default(),
        };
        apply(&mut role, change)?;
        if role.trust.is_empty() {
            let text = format!("role {name:?} needs a trust policy that says who may assume it");
            return Err(Error::new(Kind::Invalid, Subject::Identity, text));
        }
        let _one = self.writing();
        self.admit_new(&role, NAME_BYTES_MAX)?;
        self.make(who, &role, Entry::new("role.created", role.arn()))?;
        Ok(role)
    }

    /// A role.
    pub fn role(&self, project: &str, name: &str) -> Result<Arc<Role>> {
        let snapshot = self.snapshot();
        let place = (project.to_owned(), name.to_owned());
        let found = snapshot.roles.get(&place).cloned();
        found.ok_or_else(|| missing("role", project, name))
    }

    /// The role of an ARN.
    pub fn role_of_arn(&self, arn: &str) -> Result<Arc<Role>> {
        let unknown = || {
            let text = format!("no role {arn:?}; an ARN looks like arn:aws:iam::PROJECT:role/NAME");
            Error::new(Kind::NotFound, Subject::Identity, text)
        };
        let rest = arn.strip_prefix("arn:aws:iam::").ok_or_else(unknown)?;
        let (project, path) = rest.split_once(":role/").ok_or_else(unknown)?;
        let name = path.rsplit_once('/').map_or(path, |(_, name)| name);
        let role = self.role(project, name).map_err(|_| unknown())?;
        if role.arn() == arn {
            Ok(role)
        } else {
            Err(unknown())
        }
    }

    /// A project's roles, by name; of all projects without one.
    pub fn roles(&self, project: Option<&str>) -> Vec<Arc<Role>> {
        let snapshot = self.snapshot();
        match project {
            Some(project) => of_project(&snapshot.roles, project).cloned().collect(),
            None => snapshot.roles.values().cloned().collect(),
        }
    }

    /// Changes a role's trust, description or longest session.
    pub fn role_change(
        &self,
        who: &Who,
        project: &str,
        name: &str,
        change: RoleChange,
    ) -> Result<Role> {
        let _one = self.writing();
        let mut role = Role::clone(&*self.role(project, name)?);
        apply(&mut role, change)?;
        self.keep(who, &role, Entry::new("role.changed", role.arn()))?;
        Ok(role)
    }

    /// Removes a role, and with it its sessions. Conflict while it has policies, unless `with_all`.
    pub fn role_remove(&self, who: &Who, project: &str, name: &str, with_all: bool) -> Result<()> {
        let _one = self.writing();
        let role = self.role(project, name)?;
        if !with_all && (!role.given.inline.is_empty() || !role.given.attached.is_empty()) {
            return Err(held("role", name, "policies"));
        }
        self.drop_row(who, &*role, Entry::new("role.removed", role.arn()))?;
        self.sessions_of_role_end(who, project, name)
    }
}

fn apply(role: &mut Role, change: RoleChange) -> Result<()> {
    let invalid = |text: String| Error::new(Kind::Invalid, Subject::Identity, text);
    if let Some(trust) = change.trust {
        Policy::parse(&trust, Form::Trust, SESSION_BYTES_MAX)
            .map_err(|error| invalid(format!("the trust of role {:?}: {error}", role.name)))?;
        role.trust = trust;
    }
    if let Some(description) = change.description {
        super::policies::check_description(&description)?;
        role.description = description;
    }
    if let Some(seconds) = change.session_seconds_max {
        if !SESSION_SECONDS.contains(&seconds) {
            return Err(invalid(format!(
                "a session of {seconds} s: a role's longest is {} to {} s",
                SESSION_SECONDS.start(),
                SESSION_SECONDS.end()
            )));
        }
        role.session_seconds_max = seconds;
    }
    Ok(())
}
