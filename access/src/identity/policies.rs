//! Policies: managed ones under a name, and those in line of a user, group or role.

use super::rows::{Given, Group, ManagedPolicy, PolicyVersion, Role, Row, User};
use super::{
    BUILT_IN_PROJECT, POLICIES_PER_HOLDER_MAX, check_name, held, missing, new_id, now_ms,
    of_project,
};
use crate::Access;
use crate::policy::{Form, IDENTITY_BYTES_MAX, Policy};
use blockstore::{Entry, Error, Kind, Result, Subject, Who};
use std::sync::Arc;

const NAME_BYTES_MAX: usize = 128;
/// Texts that a managed policy keeps.
pub const VERSIONS_MAX: usize = 5;

/// What policies are given to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HolderSort {
    /// A user.
    User,
    /// A group.
    Group,
    /// A role.
    Role,
}

/// One user, group or role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder<'a> {
    /// Which of them.
    pub sort: HolderSort,
    /// Its project.
    pub project: &'a str,
    /// Its name there.
    pub name: &'a str,
}

impl Access {
    /// Makes a managed policy with its first version.
    pub fn policy_create(
        &self,
        who: &Who,
        project: &str,
        name: &str,
        path: &str,
        description: &str,
        document: &str,
    ) -> Result<ManagedPolicy> {
        read(name, document)?;
        check_description(description)?;
        let policy = ManagedPolicy {
            project: project.into(),
            name: name.into(),
            path: path.into(),
            id: new_id("ANPA"),
            created_ms: now_ms(),
            updated_ms: now_ms(),
            description: description.into(),
            versions: vec![PolicyVersion {
                id: "v1".into(),
                document: document.into(),
                created_ms: now_ms(),
            }],
            default_version: "v1".into(),
        };
        let _one = self.writing();
        self.admit_new(&policy, NAME_BYTES_MAX)?;
        self.make(who, &policy, Entry::new("policy.created", policy.arn()))?;
        Ok(policy)
    }

    /// A managed policy of the project, or else one that is built in.
    pub fn policy(&self, project: &str, name: &str) -> Result<Arc<ManagedPolicy>> {
        let snapshot = self.snapshot();
        let found = [project, BUILT_IN_PROJECT].into_iter().find_map(|owner| {
            let place = (owner.to_owned(), name.to_owned());
            snapshot.policies.get(&place).cloned()
        });
        found.ok_or_else(|| missing("policy", project, name))
    }

    /// The managed policy of an ARN that `project` may use.
    pub fn policy_of_arn(&self, project: &str, arn: &str) -> Result<Arc<ManagedPolicy>> {
        let snapshot = self.snapshot();
        snapshot.attachable(project, arn).cloned().ok_or_else(|| {
            let text = format!("no policy {arn:?} that project {project:?} may use");
            Error::new(Kind::NotFound, Subject::Identity, text)
        })
    }

    /// Managed policies of a project (of all without one), then those that are built in.
    pub fn policies(&self, project: Option<&str>) -> Vec<Arc<ManagedPolicy>> {
        let snapshot = self.snapshot();
        let built_in = of_project(&snapshot.policies, BUILT_IN_PROJECT);
        match project {
            Some(project) => of_project(&snapshot.policies, project)
                .chain(built_in.filter(|_| project != BUILT_IN_PROJECT))
                .cloned()
                .collect(),
            None => snapshot
                .policies
                .values()
                .filter(|policy| policy.project != BUILT_IN_PROJECT)
                .chain(built_in)
                .cloned()
                .collect(),
        }
    }

    /// Adds a version; it counts from now on if `default`. Conflict over [`VERSIONS_MAX`].
    pub fn policy_version_create(
        &self,
        who: &Who,
        project: &str,
        name: &str,
        document: &str,
        default: bool,
    ) -> Result<ManagedPolicy> {
        read(name, document)?;
        let _one = self.writing();
        let mut policy = self.own_policy(project, name)?;
        if policy.versions.len() >= VERSIONS_MAX {
            let text = format!(
                "policy {name:?} has {VERSIONS_MAX} versions, the most there may be: remove one"
            );
            return Err(Error::new(Kind::Conflict, Subject::Identity, text));
        }
        let last = policy
            .versions
            .iter()
            .filter_map(|version| version.id.strip_prefix('v')?.parse::<u64>().ok())
            .max();
        let id = format!("v{}", last.unwrap_or(0).saturating_add(1));
        policy.versions.push(PolicyVersion {
            id: id.clone(),
            document: document.into(),
            created_ms: now_ms(),
        });
        policy.updated_ms = now_ms();
        if default {
            policy.default_version = id.clone();
        }
        let entry = Entry::new("policy.changed", policy.arn()).detail(id);
        self.keep(who, &policy, entry)?;
        Ok(policy)
    }

    /// Replaces the text that counts, as one version; the oldest other one goes if there are too many.
    pub fn policy_replace(
        &self,
        who: &Who,
        project: &str,
        name: &str,
        document: &str,
    ) -> Result<ManagedPolicy> {
        let policy = self.own_policy(project, name)?;
        if policy.versions.len() >= VERSIONS_MAX {
            let oldest = policy
                .versions
                .iter()
                .find(|version| version.id != policy.default_version);
            if let Some(oldest) = oldest {
                self.policy_version_remove(who, project, name, &oldest.id)?;
            }
        }
        self.policy_version_create(who, project, name, document, true)
    }

    /// Makes a version the one that counts.
    pub fn policy_version_default(
        &self,
        who: &Who,
        project: &str,
        name: &str,
        version: &str,
    ) -> Result<ManagedPolicy> {
        let _one = self.writing();
        let mut policy = self.own_policy(project, name)?;
        if policy.version(version).is_none() {
            return Err(missing(
                &format!("version of policy {name:?}"),
                project,
                version,
            ));
        }
        policy.default_version = version.into();
        let entry = Entry::new("policy.changed", policy.arn()).detail(version);
        self.keep(who, &policy, entry)?;
        Ok(policy)
    }

    /// Removes a version that does not count.
    pub fn policy_version_remove(
        &self,
        who: &Who,
        project: &str,
        name: &str,
        version: &str,
    ) -> Result<()> {
        let _one = self.writing();
        let mut policy = self.own_policy(project, name)?;
        if policy.version(version).is_none() {
            return Err(missing(
                &format!("version of policy {name:?}"),
                project,
                version,
            ));
        }
        if policy.default_version == version {
            let text =
                format!("{version} is what policy {name:?} says: make another the default first");
            return Err(Error::new(Kind::Conflict, Subject::Identity, text));
        }
        policy.versions.retain(|other| other.id != version);
        let entry = Entry::new("policy.changed", policy.arn()).detail(format!("{version} removed"));
        self.keep(who, &policy, entry)
    }

    /// Who has it attached: sort and name.
    pub fn policy_holders(&self, project: &str, arn: &str) -> Vec<(HolderSort, String)> {
        let snapshot = self.snapshot();
        let has = |given: &Given| given.attached.iter().any(|attached| attached == arn);
        let users = of_project(&snapshot.users, project)
            .filter(|user| has(&user.given))
            .map(|user| (HolderSort::User, user.name.clone()));
        let groups = of_project(&snapshot.groups, project)
            .filter(|group| has(&group.given))
            .map(|group| (HolderSort::Group, group.name.clone()));
        let roles = of_project(&snapshot.roles, project)
            .filter(|role| has(&role.given))
            .map(|role| (HolderSort::Role, role.name.clone()));
        users.chain(groups).chain(roles).collect()
    }

    /// Removes a managed policy. Conflict while somebody has it attached.
    pub fn policy_remove(&self, who: &Who, project: &str, name: &str) -> Result<()> {
        let _one = self.writing();
        let policy = self.own_policy(project, name)?;
        if let Some((sort, holder)) = self.policy_holders(project, &policy.arn()).first() {
            let by = format!("{} {holder:?} that it is attached to", sort.word());
            return Err(held("policy", name, &by));
        }
        self.drop_row(who, &policy, Entry::new("policy.removed", policy.arn()))
    }

    /// What a user, group or role was given.
    pub fn given(&self, holder: Holder<'_>) -> Result<Given> {
        let Holder { project, name, .. } = holder;
        Ok(match holder.sort {
            HolderSort::User => self.user(project, name)?.given.clone(),
            HolderSort::Group => self.group(project, name)?.given.clone(),
            HolderSort::Role => self.role(project, name)?.given.clone(),
        })
    }

    /// Writes a policy in line.
    pub fn inline_put(
        &self,
        who: &Who,
        holder: Holder<'_>,
        name: &str,
        document: &str,
    ) -> Result<()> {
        check_name("policy", name, NAME_BYTES_MAX)?;
        read(name, document)?;
        let entry = |arn| Entry::new("policy.put", arn).detail(name);
        self.give(who, holder, entry, |given| {
            if !given.inline.contains_key(name) && given.inline.len() >= POLICIES_PER_HOLDER_MAX {
                return Err(too_many(holder));
            }
            given.inline.insert(name.into(), document.into());
            Ok(())
        })
    }

    /// Removes a policy in line.
    pub fn inline_remove(&self, who: &Who, holder: Holder<'_>, name: &str) -> Result<()> {
        let entry = |arn| Entry::new("policy.taken", arn).detail(name);
        self.give(who, holder, entry, |given| {
            let removed = given.inline.remove(name);
            let what = format!("policy in line of {} {:?}", holder.sort.word(), holder.name);
            removed
                .map(drop)
                .ok_or_else(|| missing(&what, holder.project, name))
        })
    }

    /// Attaches a managed policy; nothing happens if it is.
    pub fn attach(&self, who: &Who, holder: Holder<'_>, arn: &str) -> Result<()> {
        self.policy_of_arn(holder.project, arn)?;
        let entry = |of| Entry::new("policy.attached", of).detail(arn);
        self.give(who, holder, entry, |given| {
            if given.attached.iter().any(|attached| attached == arn) {
                return Ok(());
            }
            if given.attached.len() >= POLICIES_PER_HOLDER_MAX {
                return Err(too_many(holder));
            }
            given.attached.push(arn.into());
            Ok(())
        })
    }

    /// Detaches a managed policy.
    pub fn detach(&self, who: &Who, holder: Holder<'_>, arn: &str) -> Result<()> {
        let entry = |of| Entry::new("policy.detached", of).detail(arn);
        self.give(who, holder, entry, |given| {
            let before = given.attached.len();
            given.attached.retain(|attached| attached != arn);
            if given.attached.len() < before {
                return Ok(());
            }
            let what = format!(
                "policy attached to {} {:?}",
                holder.sort.word(),
                holder.name
            );
            Err(missing(&what, holder.project, arn))
        })
    }

    fn give(
        &self,
        who: &Who,
        holder: Holder<'_>,
        entry: impl FnOnce(String) -> Entry,
        change: impl FnOnce(&mut Given) -> Result<()>,
    ) -> Result<()> {
        let Holder { project, name, .. } = holder;
        let _one = self.writing();
        match holder.sort {
            HolderSort::User => {
                let mut row = User::clone(&*self.user(project, name)?);
                change(&mut row.given)?;
                let entry = entry(Row::arn(&row));
                self.keep(who, &row, entry)
            }
            HolderSort::Group => {
                let mut row = Group::clone(&*self.group(project, name)?);
                change(&mut row.given)?;
                let entry = entry(Row::arn(&row));
                self.keep(who, &row, entry)
            }
            HolderSort::Role => {
                let mut row = Role::clone(&*self.role(project, name)?);
                change(&mut row.given)?;
                let entry = entry(Row::arn(&row));
                self.keep(who, &row, entry)
            }
        }
    }

    /// A policy of the project that can be changed.
    fn own_policy(&self, project: &str, name: &str) -> Result<ManagedPolicy> {
        let policy = self.policy(project, name)?;
        if policy.project == BUILT_IN_PROJECT {
            let text =
                format!("policy {name:?} is built in and stays as it is: make one of your own");
            return Err(Error::new(Kind::Denied, Subject::Identity, text));
        }
        Ok(ManagedPolicy::clone(&policy))
    }
}

impl HolderSort {
    /// As people and ARNs call it.
    pub fn word(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Group => "group",
            Self::Role => "role",
        }
    }
}

fn read(name: &str, document: &str) -> Result<Policy> {
    Policy::parse(document, Form::Identity, IDENTITY_BYTES_MAX).map_err(|error| {
        let text = format!("policy {name:?}: {error}");
        Error::new(Kind::Invalid, Subject::Identity, text)
    })
}

pub(super) fn check_description(text: &str) -> Result<()> {
    if text.len() <= 1000 && !text.chars().any(char::is_control) {
        return Ok(());
    }
    let text = "a description has up to 1000 bytes and no control characters";
    Err(Error::new(Kind::Invalid, Subject::Identity, text))
}

fn too_many(holder: Holder<'_>) -> Error {
    let text = format!(
        "{} {:?} has {POLICIES_PER_HOLDER_MAX} such policies, the most there may be: join some",
        holder.sort.word(),
        holder.name
    );
    Error::new(Kind::Conflict, Subject::Identity, text)
}
