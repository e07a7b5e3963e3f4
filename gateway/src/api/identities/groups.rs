//! Groups and their members.

use super::super::{Json, Path, Query, Reply, Route};
use super::{
    Asking, GivenShown, ListQuery, RemoveQuery, given_routes, given_shown, listed, place, suggest,
};
use crate::blocking::run;
use access::identity::{Group, HolderSort};
use axum::Extension;
use axum::http::StatusCode;
use axum::routing::{get, put};
use serde::{Deserialize, Serialize};

/// Asks for a group.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupCreate {
    /// `NAME` or `PROJECT/NAME`.
    pub name: String,
}

/// A group.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GroupShown {
    /// The project.
    pub project: String,
    /// The name there.
    pub name: String,
    /// As policies name it.
    pub arn: String,
    /// When it was made, milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// Users.
    pub members: Vec<String>,
    /// Policies.
    pub given: GivenShown,
}

/// Groups by project and name.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GroupList {
    /// The groups.
    pub groups: Vec<GroupShown>,
}

pub(super) fn routes() -> Vec<Route> {
    let mut all = vec![
        Route {
            path: "/groups",
            methods: &["get", "post"],
            answer: get(list).post(create),
        },
        Route {
            path: "/groups/{group}",
            methods: &["get", "delete"],
            answer: get(show).delete(remove),
        },
        Route {
            path: "/groups/{group}/members/{user}",
            methods: &["put", "delete"],
            answer: put(join).delete(leave),
        },
    ];
    all.extend(given_routes(HolderSort::Group));
    all
}

async fn list(
    (Extension(access), Extension(caller)): Asking,
    Query(query): Query<ListQuery>,
) -> Reply<Json<GroupList>> {
    let project = listed(&caller, &query);
    let groups = access.groups(project.as_deref());
    let groups = groups.iter().map(|group| shown(group)).collect();
    Ok(Json(GroupList { groups }))
}

async fn create(
    (Extension(access), Extension(caller)): Asking,
    Json(ask): Json<GroupCreate>,
) -> Reply<(StatusCode, Json<GroupShown>)> {
    run(move || {
        let (project, name) = place(&caller, &ask.name);
        access
            .group_create(&caller.who(), &project, &name, "/")
            .map(|group| (StatusCode::CREATED, Json(shown(&group))))
            .map_err(|error| suggest(&access, error, "group", &project, &project))
    })
    .await
}

async fn show(
    (Extension(access), Extension(caller)): Asking,
    Path(group): Path<String>,
) -> Reply<Json<GroupShown>> {
    let (project, name) = place(&caller, &group);
    access
        .group(&project, &name)
        .map(|group| Json(shown(&group)))
        .map_err(|error| suggest(&access, error, "group", &project, &name))
}

async fn remove(
    (Extension(access), Extension(caller)): Asking,
    Path(group): Path<String>,
    Query(query): Query<RemoveQuery>,
) -> Reply<StatusCode> {
    run(move || {
        let (project, name) = place(&caller, &group);
        access
            .group_remove(&caller.who(), &project, &name, query.with_all)
            .map_err(|error| suggest(&access, error, "group", &project, &name))
    })
    .await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn join(
    (Extension(access), Extension(caller)): Asking,
    Path((group, user)): Path<(String, String)>,
) -> Reply<Json<GroupShown>> {
    run(move || {
        let (project, name) = place(&caller, &group);
        access
            .group(&project, &name)
            .map_err(|error| suggest(&access, error, "group", &project, &name))?;
        access
            .group_add(&caller.who(), &project, &name, &user)
            .map(|group| Json(shown(&group)))
            .map_err(|error| suggest(&access, error, "user", &project, &user))
    })
    .await
}

async fn leave(
    (Extension(access), Extension(caller)): Asking,
    Path((group, user)): Path<(String, String)>,
) -> Reply<Json<GroupShown>> {
    run(move || {
        let (project, name) = place(&caller, &group);
        access
            .group_take(&caller.who(), &project, &name, &user)
            .map(|group| Json(shown(&group)))
            .map_err(|error| suggest(&access, error, "group", &project, &name))
    })
    .await
}

fn shown(group: &Group) -> GroupShown {
    GroupShown {
        project: group.project.clone(),
        name: group.name.clone(),
        arn: group.arn(),
        created_ms: group.created_ms,
        members: group.members.clone(),
        given: given_shown(&group.given),
    }
}
