//! All identities in memory, as of one moment: a decision asks nothing else.
//!
//! A change writes its record, then reads everything anew and swaps the snapshot; whoever decides
//! meanwhile keeps the one it began with. Texts that did not change keep their parsed policy.

use super::built_in;
use super::rows::{Given, Group, KeyRow, ManagedPolicy, Project, Role, Row, User};
use crate::policy::{Form, IDENTITY_BYTES_MAX, Policy};
use blockstore::{Error, Kind, Result, Store, Subject};
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// A project, and a name in it.
pub(crate) type Place = (String, String);

/// A policy that somebody was given, and what it is called in the audit.
#[derive(Clone, Debug)]
pub(crate) struct Named {
    pub(crate) name: String,
    pub(crate) policy: Arc<Policy>,
}

/// Everything.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    pub(crate) projects: BTreeMap<String, Arc<Project>>,
    pub(crate) users: BTreeMap<Place, Arc<User>>,
    pub(crate) groups: BTreeMap<Place, Arc<Group>>,
    pub(crate) roles: BTreeMap<Place, Arc<Role>>,
    pub(crate) policies: BTreeMap<Place, Arc<ManagedPolicy>>,
    pub(crate) keys: HashMap<String, Arc<KeyRow>>,
    user_grants: HashMap<Place, Arc<[Named]>>,
    role_grants: HashMap<Place, Arc<[Named]>>,
    parsed: HashMap<String, Arc<Policy>>,
}

impl Snapshot {
    /// Reads all records; `before` lends what it has parsed.
    pub(crate) fn read(store: &Store, before: &Self) -> Result<Self> {
        let mut new = Self::default();
        for project in rows::<Project>(store, "project")? {
            new.projects.insert(project.name.clone(), Arc::new(project));
        }
        new.projects.entry("root".into()).or_insert_with(|| {
            Arc::new(Project {
                name: "root".into(),
                description: "the operator's own".into(),
                created_ms: 0,
                quota: Default::default(),
            })
        });
        new.users = placed(rows::<User>(store, User::KIND)?);
        new.groups = placed(rows::<Group>(store, Group::KIND)?);
        new.roles = placed(rows::<Role>(store, Role::KIND)?);
        new.policies = placed(rows::<ManagedPolicy>(store, ManagedPolicy::KIND)?);
        new.policies.extend(placed(built_in::all()));
        for key in rows::<KeyRow>(store, "iam-key")? {
            new.keys.insert(key.id.clone(), Arc::new(key));
        }
        new.grant(before);
        Ok(new)
    }

    /// What a user was given: in line, attached, and through groups.
    pub(crate) fn of_user(&self, project: &str, name: &str) -> Option<Arc<[Named]>> {
        let place = (project.to_owned(), name.to_owned());
        self.user_grants.get(&place).cloned()
    }

    /// What a role was given.
    pub(crate) fn of_role(&self, project: &str, name: &str) -> Option<Arc<[Named]>> {
        let place = (project.to_owned(), name.to_owned());
        self.role_grants.get(&place).cloned()
    }

    /// The managed policy of an ARN that `project` may attach: its own, or one that is built in.
    pub(crate) fn attachable(&self, project: &str, arn: &str) -> Option<&Arc<ManagedPolicy>> {
        let rest = arn.strip_prefix("arn:aws:iam::")?;
        let (owner, path) = rest.split_once(":policy/")?;
        if owner != project && owner != built_in::BUILT_IN_PROJECT {
            return None;
        }
        let name = path.rsplit_once('/').map_or(path, |(_, name)| name);
        let found = self.policies.get(&(owner.to_owned(), name.to_owned()))?;
        (found.arn() == arn).then_some(found)
    }

    fn grant(&mut self, before: &Self) {
        let mut parsed = HashMap::new();
        let mut user_grants = HashMap::new();
        for (place, user) in &self.users {
            let mut all = Vec::new();
            let holder = format!("user/{}", user.name);
            self.collect(
                &place.0,
                &holder,
                &user.given,
                before,
                &mut parsed,
                &mut all,
            );
            for group in self.groups.values() {
                if group.project == place.0 && group.members.contains(&user.name) {
                    let holder = format!("group/{}", group.name);
                    self.collect(
                        &place.0,
                        &holder,
                        &group.given,
                        before,
                        &mut parsed,
                        &mut all,
                    );
                }
            }
            user_grants.insert(place.clone(), Arc::from(all));
        }
        let mut role_grants = HashMap::new();
        for (place, role) in &self.roles {
            let mut all = Vec::new();
            let holder = format!("role/{}", role.name);
            self.collect(
                &place.0,
                &holder,
                &role.given,
                before,
                &mut parsed,
                &mut all,
            );
            role_grants.insert(place.clone(), Arc::from(all));
        }
        self.user_grants = user_grants;
        self.role_grants = role_grants;
        self.parsed = parsed;
    }

    fn collect(
        &self,
        project: &str,
        holder: &str,
        given: &Given,
        before: &Self,
        parsed: &mut HashMap<String, Arc<Policy>>,
        all: &mut Vec<Named>,
    ) {
        let inline = given
            .inline
            .iter()
            .map(|(name, text)| (format!("{holder} inline {name}"), text.as_str()));
        let attached = given.attached.iter().map(|arn| {
            let document = self
                .attachable(project, arn)
                .map_or("", |policy| policy.document());
            (format!("{holder} attached {arn}"), document)
        });
        for (name, text) in inline.chain(attached) {
            let policy = match parsed.get(text).or_else(|| before.parsed.get(text)) {
                Some(known) => Arc::clone(known),
                None => Arc::new(read_stored(&name, text)),
            };
            parsed
                .entry(text.to_owned())
                .or_insert_with(|| Arc::clone(&policy));
            all.push(Named { name, policy });
        }
    }
}

/// A stored policy was read before it was stored; one that does not read now denies everything.
fn read_stored(name: &str, text: &str) -> Policy {
    Policy::parse(text, Form::Identity, IDENTITY_BYTES_MAX).unwrap_or_else(|error| {
        tracing::error!(policy = name, %error, "a stored policy does not read and denies everything");
        Policy::deny_all()
    })
}

fn placed<T: Row>(rows: Vec<T>) -> BTreeMap<Place, Arc<T>> {
    rows.into_iter()
        .map(|row| {
            (
                (row.project().to_owned(), row.name().to_owned()),
                Arc::new(row),
            )
        })
        .collect()
}

/// All rows of a kind.
pub(crate) fn rows<T: DeserializeOwned>(store: &Store, kind: &str) -> Result<Vec<T>> {
    let listed = store.record_list(kind)?;
    let read = listed.into_iter().map(|(name, value)| {
        serde_json::from_value(value).map_err(|cause| {
            // The cause may quote what the row holds, and that may be a secret: only its place is told.
            let text = format!(
                "the {kind} record {name:?} does not read (line {}, column {}): run infall check",
                cause.line(),
                cause.column()
            );
            Error::new(Kind::Corrupt, Subject::Identity, text)
        })
    });
    read.collect()
}
