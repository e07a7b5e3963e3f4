//! Users and their access keys.

use super::{Call, delete_conflict, invalid, limit_exceeded, xml};
use crate::query::Refused;
use access::Principal;
use access::identity::User;
use axum::http::StatusCode;

pub(super) fn create(call: &Call<'_>) -> Result<String, Refused> {
    let name = call.fields.need("UserName")?;
    call.may("user", name)?;
    let user = call
        .access
        .user_create(&call.who(), call.project(), name, call.path(), false)?;
    Ok(xml::within("User", &shown(&user)))
}

pub(super) fn get(call: &Call<'_>) -> Result<String, Refused> {
    let name = call.user()?;
    call.may("user", &name)?;
    if name == "root" && call.caller.principal == Principal::Root {
        let arn = Principal::Root.arn();
        let root = [
            xml::text("Path", "/"),
            xml::text("UserName", "root"),
            xml::text("UserId", "root"),
            xml::text("Arn", &arn),
            xml::date("CreateDate", 0),
        ];
        return Ok(xml::within("User", &root.concat()));
    }
    let user = call.access.user(call.project(), &name)?;
    Ok(xml::within("User", &shown(&user)))
}

pub(super) fn list(call: &Call<'_>) -> Result<String, Refused> {
    call.may("user", "*")?;
    let prefix = call.fields.get("PathPrefix").unwrap_or("/");
    let users = call.access.users(Some(call.project()));
    let users = users.iter().filter(|user| user.path.starts_with(prefix));
    Ok(xml::list("Users", users.map(|user| shown(user))))
}

pub(super) fn update(call: &Call<'_>) -> Result<String, Refused> {
    let name = call.fields.need("UserName")?;
    call.may("user", name)?;
    let (new_name, new_path) = (call.fields.get("NewUserName"), call.fields.get("NewPath"));
    if let Some(new_name) = new_name {
        call.may("user", new_name)?;
    }
    call.access
        .user_rename(&call.who(), call.project(), name, new_name, new_path)?;
    Ok(String::new())
}

pub(super) fn delete(call: &Call<'_>) -> Result<String, Refused> {
    let name = call.fields.need("UserName")?;
    call.may("user", name)?;
    call.access
        .user_remove(&call.who(), call.project(), name, false)
        .map_err(delete_conflict)?;
    Ok(String::new())
}

pub(super) fn key_create(call: &Call<'_>) -> Result<String, Refused> {
    let name = call.user()?;
    call.may("user", &name)?;
    let key = call
        .access
        .key_create(&call.who(), call.project(), &name)
        .map_err(limit_exceeded)?;
    let key = [
        xml::text("UserName", &name),
        xml::text("AccessKeyId", &key.info.id),
        xml::text("Status", "Active"),
        xml::text("SecretAccessKey", key.secret_key.reveal()),
        xml::date("CreateDate", key.info.created_ms),
    ];
    Ok(xml::within("AccessKey", &key.concat()))
}

pub(super) fn key_list(call: &Call<'_>) -> Result<String, Refused> {
    let name = call.user()?;
    call.may("user", &name)?;
    let keys = match (&call.caller.principal, name.as_str()) {
        (Principal::Root, "root") => vec![call.access.root_key()],
        _ => call.access.keys(call.project(), &name)?,
    };
    let keys = keys.iter().map(|key| {
        let status = if key.active { "Active" } else { "Inactive" };
        [
            xml::text("UserName", &key.user),
            xml::text("AccessKeyId", &key.id),
            xml::text("Status", status),
            xml::date("CreateDate", key.created_ms),
        ]
        .concat()
    });
    Ok(xml::list("AccessKeyMetadata", keys))
}

pub(super) fn key_update(call: &Call<'_>) -> Result<String, Refused> {
    let (name, id) = key(call)?;
    let active = match call.fields.need("Status")? {
        "Active" => true,
        "Inactive" => false,
        other => {
            return Err(invalid(format!(
                "Status {other:?} is neither Active nor Inactive"
            )));
        }
    };
    call.access
        .key_activate(&call.who(), call.project(), &name, &id, active)?;
    Ok(String::new())
}

pub(super) fn key_delete(call: &Call<'_>) -> Result<String, Refused> {
    let (name, id) = key(call)?;
    call.access
        .key_remove(&call.who(), call.project(), &name, &id)?;
    Ok(String::new())
}

fn key(call: &Call<'_>) -> Result<(String, String), Refused> {
    let name = call.user()?;
    call.may("user", &name)?;
    if name == "root" {
        let message =
            "The root key is rotated, not switched or removed: infall user key rotate root";
        return Err(Refused::new(
            StatusCode::CONFLICT,
            "DeleteConflict",
            message,
        ));
    }
    Ok((name, call.fields.need("AccessKeyId")?.to_owned()))
}

pub(super) fn shown(user: &User) -> String {
    [
        xml::text("Path", &user.path),
        xml::text("UserName", &user.name),
        xml::text("UserId", &user.id),
        xml::text("Arn", &user.arn()),
        xml::date("CreateDate", user.created_ms),
    ]
    .concat()
}
