//! Groups and their members.

use super::{Call, delete_conflict, users, xml};
use crate::query::Refused;
use access::identity::Group;

pub(super) fn create(call: &Call<'_>) -> Result<String, Refused> {
    let name = call.fields.need("GroupName")?;
    call.may("group", name)?;
    let group = call
        .access
        .group_create(&call.who(), call.project(), name, call.path())?;
    Ok(xml::within("Group", &shown(&group)))
}

pub(super) fn get(call: &Call<'_>) -> Result<String, Refused> {
    let name = call.fields.need("GroupName")?;
    call.may("group", name)?;
    let group = call.access.group(call.project(), name)?;
    let members = group
        .members
        .iter()
        .filter_map(|member| call.access.user(call.project(), member).ok())
        .map(|user| users::shown(&user));
    let members = xml::list("Users", members);
    Ok(xml::within("Group", &shown(&group)) + &members)
}

pub(super) fn list(call: &Call<'_>) -> Result<String, Refused> {
    call.may("group", "*")?;
    let prefix = call.fields.get("PathPrefix").unwrap_or("/");
    let groups = call.access.groups(Some(call.project()));
    let groups = groups.iter().filter(|group| group.path.starts_with(prefix));
    Ok(xml::list("Groups", groups.map(|group| shown(group))))
}

pub(super) fn delete(call: &Call<'_>) -> Result<String, Refused> {
    let name = call.fields.need("GroupName")?;
    call.may("group", name)?;
    call.access
        .group_remove(&call.who(), call.project(), name, false)
        .map_err(delete_conflict)?;
    Ok(String::new())
}

pub(super) fn join(call: &Call<'_>) -> Result<String, Refused> {
    let (group, user) = (
        call.fields.need("GroupName")?,
        call.fields.need("UserName")?,
    );
    call.may("group", group)?;
    call.access
        .group_add(&call.who(), call.project(), group, user)?;
    Ok(String::new())
}

pub(super) fn leave(call: &Call<'_>) -> Result<String, Refused> {
    let (group, user) = (
        call.fields.need("GroupName")?,
        call.fields.need("UserName")?,
    );
    call.may("group", group)?;
    call.access
        .group_take(&call.who(), call.project(), group, user)?;
    Ok(String::new())
}

pub(super) fn of_user(call: &Call<'_>) -> Result<String, Refused> {
    let user = call.fields.need("UserName")?;
    call.may("user", user)?;
    let groups = call.access.groups_of(call.project(), user)?;
    Ok(xml::list("Groups", groups.iter().map(|group| shown(group))))
}

fn shown(group: &Group) -> String {
    [
        xml::text("Path", &group.path),
        xml::text("GroupName", &group.name),
        xml::text("GroupId", &group.id),
        xml::text("Arn", &group.arn()),
        xml::date("CreateDate", group.created_ms),
    ]
    .concat()
}
