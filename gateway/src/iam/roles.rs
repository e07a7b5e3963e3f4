//! Roles and who may become them.

use super::{Call, delete_conflict, malformed, xml};
use crate::query::Refused;
use access::identity::{Role, RoleChange};

pub(super) fn create(call: &Call<'_>) -> Result<String, Refused> {
    let name = call.fields.need("RoleName")?;
    call.may("role", name)?;
    let change = RoleChange {
        trust: Some(call.fields.need("AssumeRolePolicyDocument")?.to_owned()),
        description: call.fields.get("Description").map(str::to_owned),
        session_seconds_max: call.fields.number("MaxSessionDuration")?,
    };
    let role = call
        .access
        .role_create(&call.who(), call.project(), name, call.path(), change)
        .map_err(malformed)?;
    Ok(xml::within("Role", &shown(&role)))
}

pub(super) fn get(call: &Call<'_>) -> Result<String, Refused> {
    let name = call.fields.need("RoleName")?;
    call.may("role", name)?;
    let role = call.access.role(call.project(), name)?;
    Ok(xml::within("Role", &shown(&role)))
}

pub(super) fn list(call: &Call<'_>) -> Result<String, Refused> {
    call.may("role", "*")?;
    let prefix = call.fields.get("PathPrefix").unwrap_or("/");
    let roles = call.access.roles(Some(call.project()));
    let roles = roles.iter().filter(|role| role.path.starts_with(prefix));
    Ok(xml::list("Roles", roles.map(|role| shown(role))))
}

pub(super) fn delete(call: &Call<'_>) -> Result<String, Refused> {
    let name = call.fields.need("RoleName")?;
    call.may("role", name)?;
    call.access
        .role_remove(&call.who(), call.project(), name, false)
        .map_err(delete_conflict)?;
    Ok(String::new())
}

pub(super) fn trust(call: &Call<'_>) -> Result<String, Refused> {
    let change = RoleChange {
        trust: Some(call.fields.need("PolicyDocument")?.to_owned()),
        ..RoleChange::default()
    };
    apply(call, change)
}

pub(super) fn update(call: &Call<'_>) -> Result<String, Refused> {
    let change = RoleChange {
        trust: None,
        description: call.fields.get("Description").map(str::to_owned),
        session_seconds_max: call.fields.number("MaxSessionDuration")?,
    };
    apply(call, change)
}

fn apply(call: &Call<'_>, change: RoleChange) -> Result<String, Refused> {
    let name = call.fields.need("RoleName")?;
    call.may("role", name)?;
    call.access
        .role_change(&call.who(), call.project(), name, change)
        .map_err(malformed)?;
    Ok(String::new())
}

fn shown(role: &Role) -> String {
    [
        xml::text("Path", &role.path),
        xml::text("RoleName", &role.name),
        xml::text("RoleId", &role.id),
        xml::text("Arn", &role.arn()),
        xml::date("CreateDate", role.created_ms),
        xml::document("AssumeRolePolicyDocument", &role.trust),
        xml::text("Description", &role.description),
        xml::text("MaxSessionDuration", &role.session_seconds_max.to_string()),
    ]
    .concat()
}
