//! IAM: users, groups, roles, keys and policies in the words of AWS (IAM API Reference 2010-05-08).
//!
//! A call works on the project of whoever asks. Each needs the action of its own name (`iam:CreateUser`)
//! on what it names; what is not in [`CALLS`] is not served and answers at once.
//!
//! Lists come whole: a project has at most 5000 of each, so nothing is ever truncated.

mod groups;
mod policies;
mod roles;
mod users;
mod xml;

use crate::query::{Fields, Refused};
use access::identity::{Holder, HolderSort};
use access::{Access, Caller, Principal, Resource};
use axum::http::StatusCode;
use blockstore::{Error, Kind, Who};

/// The version that its requests name.
pub(crate) const VERSION: &str = "2010-05-08";

/// What answers a call: what stands within `<ActionResult>`.
type Answer = fn(&Call<'_>) -> Result<String, Refused>;

/// All calls that are served.
const CALLS: &[(&str, Answer)] = &[
    ("CreateUser", users::create),
    ("GetUser", users::get),
    ("ListUsers", users::list),
    ("UpdateUser", users::update),
    ("DeleteUser", users::delete),
    ("CreateAccessKey", users::key_create),
    ("ListAccessKeys", users::key_list),
    ("UpdateAccessKey", users::key_update),
    ("DeleteAccessKey", users::key_delete),
    ("CreateGroup", groups::create),
    ("GetGroup", groups::get),
    ("ListGroups", groups::list),
    ("DeleteGroup", groups::delete),
    ("AddUserToGroup", groups::join),
    ("RemoveUserFromGroup", groups::leave),
    ("ListGroupsForUser", groups::of_user),
    ("CreateRole", roles::create),
    ("GetRole", roles::get),
    ("ListRoles", roles::list),
    ("DeleteRole", roles::delete),
    ("UpdateAssumeRolePolicy", roles::trust),
    ("UpdateRole", roles::update),
    ("CreatePolicy", policies::create),
    ("GetPolicy", policies::get),
    ("ListPolicies", policies::list),
    ("DeletePolicy", policies::delete),
    ("CreatePolicyVersion", policies::version_create),
    ("GetPolicyVersion", policies::version_get),
    ("ListPolicyVersions", policies::version_list),
    ("DeletePolicyVersion", policies::version_delete),
    ("SetDefaultPolicyVersion", policies::version_default),
    ("ListEntitiesForPolicy", policies::holders),
    ("PutUserPolicy", policies::inline_put),
    ("PutGroupPolicy", policies::inline_put),
    ("PutRolePolicy", policies::inline_put),
    ("GetUserPolicy", policies::inline_get),
    ("GetGroupPolicy", policies::inline_get),
    ("GetRolePolicy", policies::inline_get),
    ("ListUserPolicies", policies::inline_list),
    ("ListGroupPolicies", policies::inline_list),
    ("ListRolePolicies", policies::inline_list),
    ("DeleteUserPolicy", policies::inline_delete),
    ("DeleteGroupPolicy", policies::inline_delete),
    ("DeleteRolePolicy", policies::inline_delete),
    ("AttachUserPolicy", policies::attach),
    ("AttachGroupPolicy", policies::attach),
    ("AttachRolePolicy", policies::attach),
    ("DetachUserPolicy", policies::detach),
    ("DetachGroupPolicy", policies::detach),
    ("DetachRolePolicy", policies::detach),
    ("ListAttachedUserPolicies", policies::attached),
    ("ListAttachedGroupPolicies", policies::attached),
    ("ListAttachedRolePolicies", policies::attached),
];

/// One call: who asks for what.
struct Call<'a> {
    access: &'a Access,
    caller: &'a Caller,
    action: &'a str,
    fields: &'a Fields,
}

/// Answers one call: what stands within `<ActionResult>`. Blocks.
pub(crate) fn answer(
    access: &Access,
    caller: &Caller,
    action: &str,
    fields: &Fields,
) -> Result<String, Refused> {
    if caller.principal == Principal::Anonymous {
        return Err(Refused::new(
            StatusCode::FORBIDDEN,
            "MissingAuthenticationToken",
            "Request is missing Authentication Token: sign it with an access key",
        ));
    }
    let known = CALLS.iter().find(|(name, _)| *name == action);
    let (_, answer) = known.ok_or_else(|| Refused::unserved(action))?;
    answer(&Call {
        access,
        caller,
        action,
        fields,
    })
}

impl Call<'_> {
    /// The project it works on.
    fn project(&self) -> &str {
        self.caller.principal.project()
    }

    fn who(&self) -> Who {
        self.caller.who()
    }

    /// Asks whether it may be done to a `sort` (`user`, …) of this name.
    fn may(&self, sort: &str, name: &str) -> Result<(), Refused> {
        let action = format!("iam:{}", self.action);
        let resource = Resource::Identity(sort, self.project(), name);
        self.access
            .authorize(self.caller, &action, &resource, &[])
            .map_err(Refused::from)
    }

    /// As [`Self::may`], for a managed policy of this ARN, which may be one that is built in.
    fn may_policy(&self, arn: &str) -> Result<(), Refused> {
        let name = arn.split_once(":policy/").map_or(arn, |(_, name)| name);
        self.may("policy", name)
    }

    /// The user it names, or else whoever asks.
    fn user(&self) -> Result<String, Refused> {
        if let Some(name) = self.fields.get("UserName") {
            return Ok(name.to_owned());
        }
        match &self.caller.principal {
            Principal::User { name, .. } => Ok(name.clone()),
            Principal::Root => Ok("root".to_owned()),
            Principal::Anonymous | Principal::Session { .. } | Principal::Service { .. } => Err(
                invalid("Must specify userName when calling with non-User credentials"),
            ),
        }
    }

    fn path(&self) -> &str {
        self.fields.get("Path").unwrap_or("/")
    }

    /// The user, group or role that a call on policies is about.
    fn holder(&self) -> Result<(HolderSort, &str), Refused> {
        let sorts = [
            (HolderSort::User, "User", "UserName"),
            (HolderSort::Group, "Group", "GroupName"),
            (HolderSort::Role, "Role", "RoleName"),
        ];
        for (sort, word, field) in sorts {
            if self.action.contains(word) {
                return Ok((sort, self.fields.need(field)?));
            }
        }
        Err(Refused::unserved(self.action))
    }

    /// The same, asked for.
    fn allowed_holder(&self) -> Result<Holder<'_>, Refused> {
        let (sort, name) = self.holder()?;
        self.may(sort.word(), name)?;
        Ok(Holder {
            sort,
            project: self.project(),
            name,
        })
    }
}

/// A refusal of a value.
fn invalid(message: impl Into<String>) -> Refused {
    Refused::new(StatusCode::BAD_REQUEST, "ValidationError", message)
}

/// What IAM calls it when something cannot be removed yet.
fn delete_conflict(error: Error) -> Refused {
    named(error, Kind::Conflict, "DeleteConflict")
}

/// What IAM calls it when there are too many.
fn limit_exceeded(error: Error) -> Refused {
    named(error, Kind::Conflict, "LimitExceeded")
}

/// What IAM calls a policy that does not read.
fn malformed(error: Error) -> Refused {
    match error.to_string().contains("malformed policy") {
        true => named(error, Kind::Invalid, "MalformedPolicyDocument"),
        false => error.into(),
    }
}

fn named(error: Error, kind: Kind, code: &'static str) -> Refused {
    let is = error.kind() == kind;
    let refused = Refused::from(error);
    Refused {
        code: if is { code } else { refused.code },
        ..refused
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documents_table_has_every_call_with_its_action() {
        let document = include_str!("../../../docs/SECURITY.md");
        for (name, _) in CALLS {
            let row = format!("| iam | `{name}` | `iam:{name}` | ");
            assert!(document.contains(&row), "docs/SECURITY.md lacks {row}");
        }
        let rows = document.lines().filter(|line| line.starts_with("| iam | "));
        let operations: std::collections::BTreeSet<_> =
            rows.filter_map(|row| row.split('`').nth(1)).collect();
        assert_eq!(operations.len(), CALLS.len());
    }
}
