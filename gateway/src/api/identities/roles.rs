//! Roles and who may become them.

use super::super::{Json, Path, Query, Reply, Route};
use super::{
    Asking, GivenShown, ListQuery, RemoveQuery, given_routes, given_shown, listed, place, suggest,
};
use crate::blocking::run;
use access::identity::{HolderSort, Role, RoleChange};
use axum::Extension;
use axum::http::StatusCode;
use axum::routing::{get, put};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Asks for a role.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoleCreate {
    /// `NAME` or `PROJECT/NAME`.
    pub name: String,
    /// Who may become it: a policy.
    pub trust: Value,
    /// For people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Seconds that a session lasts at most; 3600 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_seconds_max: Option<u64>,
}

/// Who may become a role.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trust {
    /// A policy.
    pub trust: Value,
}

/// A role.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RoleShown {
    /// The project.
    pub project: String,
    /// The name there.
    pub name: String,
    /// As policies name it.
    pub arn: String,
    /// For people.
    pub description: String,
    /// When it was made, milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// Seconds that a session lasts at most.
    pub session_seconds_max: u64,
    /// Who may become it.
    pub trust: Value,
    /// Policies.
    pub given: GivenShown,
}

/// Roles by project and name.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RoleList {
    /// The roles.
    pub roles: Vec<RoleShown>,
}

pub(super) fn routes() -> Vec<Route> {
    let mut all = vec![
        Route {
            path: "/roles",
            methods: &["get", "post"],
            answer: get(list).post(create),
        },
        Route {
            path: "/roles/{role}",
            methods: &["get", "delete"],
            answer: get(show).delete(remove),
        },
        Route {
            path: "/roles/{role}/trust",
            methods: &["put"],
            answer: put(trust),
        },
    ];
    all.extend(given_routes(HolderSort::Role));
    all
}

async fn list(
    (Extension(access), Extension(caller)): Asking,
    Query(query): Query<ListQuery>,
) -> Reply<Json<RoleList>> {
    let project = listed(&caller, &query);
    let roles = access.roles(project.as_deref());
    let roles = roles.iter().map(|role| shown(role)).collect();
    Ok(Json(RoleList { roles }))
}

async fn create(
    (Extension(access), Extension(caller)): Asking,
    Json(ask): Json<RoleCreate>,
) -> Reply<(StatusCode, Json<RoleShown>)> {
    run(move || {
        let (project, name) = place(&caller, &ask.name);
        let change = RoleChange {
            trust: Some(ask.trust.to_string()),
            description: Some(ask.description),
            session_seconds_max: ask.session_seconds_max,
        };
        access
            .role_create(&caller.who(), &project, &name, "/", change)
            .map(|role| (StatusCode::CREATED, Json(shown(&role))))
            .map_err(|error| suggest(&access, error, "role", &project, &project))
    })
    .await
}

async fn show(
    (Extension(access), Extension(caller)): Asking,
    Path(role): Path<String>,
) -> Reply<Json<RoleShown>> {
    let (project, name) = place(&caller, &role);
    access
        .role(&project, &name)
        .map(|role| Json(shown(&role)))
        .map_err(|error| suggest(&access, error, "role", &project, &name))
}

async fn remove(
    (Extension(access), Extension(caller)): Asking,
    Path(role): Path<String>,
    Query(query): Query<RemoveQuery>,
) -> Reply<StatusCode> {
    run(move || {
        let (project, name) = place(&caller, &role);
        access
            .role_remove(&caller.who(), &project, &name, query.with_all)
            .map_err(|error| suggest(&access, error, "role", &project, &name))
    })
    .await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn trust(
    (Extension(access), Extension(caller)): Asking,
    Path(role): Path<String>,
    Json(ask): Json<Trust>,
) -> Reply<Json<RoleShown>> {
    run(move || {
        let (project, name) = place(&caller, &role);
        let change = RoleChange {
            trust: Some(ask.trust.to_string()),
            ..RoleChange::default()
        };
        access
            .role_change(&caller.who(), &project, &name, change)
            .map(|role| Json(shown(&role)))
            .map_err(|error| suggest(&access, error, "role", &project, &name))
    })
    .await
}

fn shown(role: &Role) -> RoleShown {
    RoleShown {
        project: role.project.clone(),
        name: role.name.clone(),
        arn: role.arn(),
        description: role.description.clone(),
        created_ms: role.created_ms,
        session_seconds_max: role.session_seconds_max,
        trust: serde_json::from_str(&role.trust).unwrap_or_default(),
        given: given_shown(&role.given),
    }
}
