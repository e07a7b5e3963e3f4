//! Policies: managed ones with their versions, in line, and attached.

use super::{Call, delete_conflict, invalid, limit_exceeded, malformed, xml};
use crate::query::Refused;
use access::identity::{BUILT_IN_PROJECT, HolderSort, ManagedPolicy, PolicyVersion};
use axum::http::StatusCode;
use std::sync::Arc;

pub(super) fn create(call: &Call<'_>) -> Result<String, Refused> {
    let name = call.fields.need("PolicyName")?;
    call.may("policy", name)?;
    let description = call.fields.get("Description").unwrap_or_default();
    let document = call.fields.need("PolicyDocument")?;
    let (who, project, path) = (call.who(), call.project(), call.path());
    let policy = call
        .access
        .policy_create(&who, project, name, path, description, document)
        .map_err(malformed)?;
    Ok(xml::within("Policy", &shown(call, &policy)))
}

pub(super) fn get(call: &Call<'_>) -> Result<String, Refused> {
    let policy = named(call)?;
    Ok(xml::within("Policy", &shown(call, &policy)))
}

pub(super) fn list(call: &Call<'_>) -> Result<String, Refused> {
    call.may("policy", "*")?;
    let scope = call.fields.get("Scope").unwrap_or("All");
    let prefix = call.fields.get("PathPrefix").unwrap_or("/");
    let only_attached = call.fields.get("OnlyAttached") == Some("true");
    let policies = call.access.policies(Some(call.project()));
    let policies = policies.iter().filter(|policy| {
        let built_in = policy.project == BUILT_IN_PROJECT;
        let of_scope = match scope {
            "AWS" => built_in,
            "Local" => !built_in,
            _ => true,
        };
        of_scope && policy.path.starts_with(prefix) && (!only_attached || count(call, policy) > 0)
    });
    Ok(xml::list(
        "Policies",
        policies.map(|policy| shown(call, policy)),
    ))
}

pub(super) fn delete(call: &Call<'_>) -> Result<String, Refused> {
    let policy = own(call)?;
    if policy.versions.len() > 1 {
        let message = "Cannot delete a policy that has versions beside its default one";
        return Err(Refused::new(
            StatusCode::CONFLICT,
            "DeleteConflict",
            message,
        ));
    }
    call.access
        .policy_remove(&call.who(), call.project(), &policy.name)
        .map_err(delete_conflict)?;
    Ok(String::new())
}

pub(super) fn version_create(call: &Call<'_>) -> Result<String, Refused> {
    let policy = own(call)?;
    let document = call.fields.need("PolicyDocument")?;
    let default = call.fields.get("SetAsDefault") == Some("true");
    let (who, project) = (call.who(), call.project());
    let made = call
        .access
        .policy_version_create(&who, project, &policy.name, document, default)
        .map_err(|error| match error.kind() {
            blockstore::Kind::Conflict => limit_exceeded(error),
            _ => malformed(error),
        })?;
    let version = made.versions.last();
    let version = version.map(|version| version_shown(&made, version, false));
    Ok(xml::within("PolicyVersion", &version.unwrap_or_default()))
}

pub(super) fn version_get(call: &Call<'_>) -> Result<String, Refused> {
    let policy = named(call)?;
    let id = call.fields.need("VersionId")?;
    let version = policy.version(id).ok_or_else(|| {
        let message = format!("Policy {} has no version {id}", policy.arn());
        Refused::new(StatusCode::NOT_FOUND, "NoSuchEntity", message)
    })?;
    Ok(xml::within(
        "PolicyVersion",
        &version_shown(&policy, version, true),
    ))
}

pub(super) fn version_list(call: &Call<'_>) -> Result<String, Refused> {
    let policy = named(call)?;
    // The newest first, as IAM lists them.
    let versions = policy.versions.iter().rev();
    let versions = versions.map(|version| version_shown(&policy, version, false));
    Ok(xml::list("Versions", versions))
}

pub(super) fn version_delete(call: &Call<'_>) -> Result<String, Refused> {
    let policy = own(call)?;
    let version = call.fields.need("VersionId")?;
    call.access
        .policy_version_remove(&call.who(), call.project(), &policy.name, version)
        .map_err(delete_conflict)?;
    Ok(String::new())
}

pub(super) fn version_default(call: &Call<'_>) -> Result<String, Refused> {
    let policy = own(call)?;
    let version = call.fields.need("VersionId")?;
    call.access
        .policy_version_default(&call.who(), call.project(), &policy.name, version)?;
    Ok(String::new())
}

pub(super) fn holders(call: &Call<'_>) -> Result<String, Refused> {
    let policy = named(call)?;
    let holders = call.access.policy_holders(call.project(), &policy.arn());
    let of = |wanted: HolderSort, list: &str, field: &str| {
        let names = holders.iter().filter(|(sort, _)| *sort == wanted);
        xml::plain_list(list, names.map(|(_, name)| xml::text(field, name)))
    };
    Ok([
        of(HolderSort::Group, "PolicyGroups", "GroupName"),
        of(HolderSort::User, "PolicyUsers", "UserName"),
        of(HolderSort::Role, "PolicyRoles", "RoleName"),
        xml::text("IsTruncated", "false"),
    ]
    .concat())
}

pub(super) fn inline_put(call: &Call<'_>) -> Result<String, Refused> {
    let holder = call.allowed_holder()?;
    let name = call.fields.need("PolicyName")?;
    let document = call.fields.need("PolicyDocument")?;
    call.access
        .inline_put(&call.who(), holder, name, document)
        .map_err(|error| match error.kind() {
            blockstore::Kind::Conflict => limit_exceeded(error),
            _ => malformed(error),
        })?;
    Ok(String::new())
}

pub(super) fn inline_get(call: &Call<'_>) -> Result<String, Refused> {
    let holder = call.allowed_holder()?;
    let name = call.fields.need("PolicyName")?;
    let given = call.access.given(holder)?;
    let document = given.inline.get(name).ok_or_else(|| {
        let message = format!(
            "{} {} has no policy {name} in line",
            holder.sort.word(),
            holder.name
        );
        Refused::new(StatusCode::NOT_FOUND, "NoSuchEntity", message)
    })?;
    let field = match holder.sort {
        HolderSort::User => "UserName",
        HolderSort::Group => "GroupName",
        HolderSort::Role => "RoleName",
    };
    Ok([
        xml::text(field, holder.name),
        xml::text("PolicyName", name),
        xml::document("PolicyDocument", document),
    ]
    .concat())
}

pub(super) fn inline_list(call: &Call<'_>) -> Result<String, Refused> {
    let holder = call.allowed_holder()?;
    let given = call.access.given(holder)?;
    let members: String = given
        .inline
        .keys()
        .map(|name| xml::text("member", name))
        .collect();
    Ok(xml::within("PolicyNames", &members) + &xml::text("IsTruncated", "false"))
}

pub(super) fn inline_delete(call: &Call<'_>) -> Result<String, Refused> {
    let holder = call.allowed_holder()?;
    let name = call.fields.need("PolicyName")?;
    call.access.inline_remove(&call.who(), holder, name)?;
    Ok(String::new())
}

pub(super) fn attach(call: &Call<'_>) -> Result<String, Refused> {
    let holder = call.allowed_holder()?;
    let arn = call.fields.need("PolicyArn")?;
    call.access
        .attach(&call.who(), holder, arn)
        .map_err(limit_exceeded)?;
    Ok(String::new())
}

pub(super) fn detach(call: &Call<'_>) -> Result<String, Refused> {
    let holder = call.allowed_holder()?;
    let arn = call.fields.need("PolicyArn")?;
    call.access.detach(&call.who(), holder, arn)?;
    Ok(String::new())
}

pub(super) fn attached(call: &Call<'_>) -> Result<String, Refused> {
    let holder = call.allowed_holder()?;
    let given = call.access.given(holder)?;
    let attached = given.attached.iter().map(|arn| {
        let name = arn.rsplit_once('/').map_or(arn.as_str(), |(_, name)| name);
        xml::text("PolicyName", name) + &xml::text("PolicyArn", arn)
    });
    Ok(xml::list("AttachedPolicies", attached))
}

/// The managed policy that a call names by ARN, asked for.
fn named(call: &Call<'_>) -> Result<Arc<ManagedPolicy>, Refused> {
    let arn = call.fields.need("PolicyArn")?;
    if !arn.starts_with("arn:aws:iam::") {
        return Err(invalid(format!("PolicyArn {arn:?} is no ARN of a policy")));
    }
    call.may_policy(arn)?;
    Ok(call.access.policy_of_arn(call.project(), arn)?)
}

/// The same, if it can be changed: not one that is built in, whose name the project's own may bear.
fn own(call: &Call<'_>) -> Result<Arc<ManagedPolicy>, Refused> {
    let policy = named(call)?;
    if policy.project != BUILT_IN_PROJECT {
        return Ok(policy);
    }
    let message = format!("{} is built in and stays as it is", policy.arn());
    Err(Refused::new(StatusCode::FORBIDDEN, "AccessDenied", message))
}

fn count(call: &Call<'_>, policy: &ManagedPolicy) -> usize {
    call.access
        .policy_holders(call.project(), &policy.arn())
        .len()
}

fn shown(call: &Call<'_>, policy: &ManagedPolicy) -> String {
    [
        xml::text("PolicyName", &policy.name),
        xml::text("PolicyId", &policy.id),
        xml::text("Arn", &policy.arn()),
        xml::text("Path", &policy.path),
        xml::text("DefaultVersionId", &policy.default_version),
        xml::text("AttachmentCount", &count(call, policy).to_string()),
        xml::text("PermissionsBoundaryUsageCount", "0"),
        xml::text("IsAttachable", "true"),
        xml::text("Description", &policy.description),
        xml::date("CreateDate", policy.created_ms),
        xml::date("UpdateDate", policy.updated_ms),
    ]
    .concat()
}

fn version_shown(policy: &ManagedPolicy, version: &PolicyVersion, whole: bool) -> String {
    let document = match whole {
        true => xml::document("Document", &version.document),
        false => String::new(),
    };
    let default = policy.default_version == version.id;
    [
        document,
        xml::text("VersionId", &version.id),
        xml::text("IsDefaultVersion", &default.to_string()),
        xml::date("CreateDate", version.created_ms),
    ]
    .concat()
}
