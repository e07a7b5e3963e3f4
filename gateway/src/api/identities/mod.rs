//! Users, groups, roles, policies, keys and projects in the JSON API.
//!
//! A name is `NAME`, of the asker's own project, or `PROJECT/NAME` (in a path: `PROJECT%2FNAME`).
//! What each route needs is in [`super::rules`]; here it has been allowed.

mod groups;
mod issuers;
mod keys;
mod policies;
mod projects;
mod roles;
mod ssh_keys;
mod users;

pub use groups::{GroupCreate, GroupList, GroupShown};
pub use issuers::IssuerList;
pub use keys::{KeyChange, KeyList};
pub use policies::{Checked, Document, PolicyCreate, PolicyList, PolicyShown, TestAsk, Tested};
pub use projects::{ProjectCreate, ProjectList, ProjectShown};
pub use roles::{RoleCreate, RoleList, RoleShown, Trust};
pub use ssh_keys::{SshKeyAdd, SshKeyList};
pub use users::{IdentityShown, UserCreate, UserList, UserShown};

use super::{Asking, Problem, Route};
use access::identity::{Given, Holder, HolderSort};
use access::{Access, Caller, Principal};
use blockstore::{Kind, Subject};
use serde::{Deserialize, Serialize};

/// What a user, group or role was given, as it is shown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GivenShown {
    /// Names of policies in line.
    #[serde(default)]
    pub inline: Vec<String>,
    /// ARNs of attached policies.
    #[serde(default)]
    pub attached: Vec<String>,
}

/// What goes with it.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RemoveQuery {
    /// Keys, policies and memberships go, too.
    with_all: bool,
}

/// Whose.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ListQuery {
    /// The project; the asker's own if absent, for root all.
    project: Option<String>,
}

pub(super) fn routes() -> Vec<Route> {
    let mut all = users::routes();
    all.extend(keys::routes());
    all.extend(ssh_keys::routes());
    all.extend(groups::routes());
    all.extend(roles::routes());
    all.extend(policies::routes());
    all.extend(projects::routes());
    all.extend(issuers::routes());
    all
}

/// Project and name of `NAME` or `PROJECT/NAME`.
pub(super) fn place(caller: &Caller, text: &str) -> (String, String) {
    match text.split_once('/') {
        Some((project, name)) => (project.to_owned(), name.to_owned()),
        None => (caller.principal.project().to_owned(), text.to_owned()),
    }
}

/// The project a list is of; None: of all.
fn listed(caller: &Caller, query: &ListQuery) -> Option<String> {
    match &query.project {
        Some(project) if !project.is_empty() => Some(project.clone()),
        _ if caller.principal == Principal::Root => None,
        _ => Some(caller.principal.project().to_owned()),
    }
}

/// The name as the asker writes it: bare in their own project.
fn shown_name(caller: &Caller, project: &str, name: &str) -> String {
    if project == caller.principal.project() {
        name.to_owned()
    } else {
        format!("{project}/{name}")
    }
}

fn given_shown(given: &Given) -> GivenShown {
    GivenShown {
        inline: given.inline.keys().cloned().collect(),
        attached: given.attached.clone(),
    }
}

/// The ARN of a policy that is named by ARN or by name.
fn policy_arn(access: &Access, project: &str, named: &str) -> Result<String, Problem> {
    if named.starts_with("arn:") {
        return Ok(access.policy_of_arn(project, named)?.arn());
    }
    let found = access.policy(project, named);
    found
        .map(|policy| policy.arn())
        .map_err(|error| suggest(access, error, "policy", project, named))
}

/// The problem, with the nearest name if one was not found.
fn suggest(
    access: &Access,
    error: blockstore::Error,
    sort: &str,
    project: &str,
    asked: &str,
) -> Problem {
    if error.kind() != Kind::NotFound {
        return error.into();
    }
    if error.subject() == Subject::Project {
        let names = access.projects();
        return Problem::missing("project", asked, names.iter().map(|one| &one.name));
    }
    let project = Some(project);
    let names: Vec<String> = match sort {
        "user" => access
            .users(project)
            .iter()
            .map(|one| one.name.clone())
            .collect(),
        "group" => access
            .groups(project)
            .iter()
            .map(|one| one.name.clone())
            .collect(),
        "role" => access
            .roles(project)
            .iter()
            .map(|one| one.name.clone())
            .collect(),
        "policy" => access
            .policies(project)
            .iter()
            .map(|one| one.name.clone())
            .collect(),
        _ => Vec::new(),
    };
    let message = error.to_string();
    Problem::new(Kind::NotFound, sort, message).suggest(asked, names)
}

/// As [`suggest`], for what belongs to a holder.
fn holder_problem(access: &Access, error: blockstore::Error, holder: Holder<'_>) -> Problem {
    suggest(
        access,
        error,
        holder.sort.word(),
        holder.project,
        holder.name,
    )
}

/// Routes of policies in line and attached, for one sort of holder.
fn given_routes(sort: HolderSort) -> Vec<Route> {
    match sort {
        HolderSort::User => policies::holder_routes::<policies::OfUser>(
            "/users/{user}/policies/{policy}",
            "/users/{user}/attached/{policy}",
        ),
        HolderSort::Group => policies::holder_routes::<policies::OfGroup>(
            "/groups/{group}/policies/{policy}",
            "/groups/{group}/attached/{policy}",
        ),
        HolderSort::Role => policies::holder_routes::<policies::OfRole>(
            "/roles/{role}/policies/{policy}",
            "/roles/{role}/attached/{policy}",
        ),
    }
}
