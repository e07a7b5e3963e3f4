//! Users, and who asks.

use super::super::{Json, Path, Problem, Query, Reply, Route};
use super::{
    Asking, GivenShown, ListQuery, RemoveQuery, given_routes, given_shown, listed, place, suggest,
};
use crate::blocking::run;
use access::identity::{HolderSort, User};
use access::{Access, Caller, Principal};
use axum::Extension;
use axum::http::StatusCode;
use axum::routing::get;
use serde::{Deserialize, Serialize};

/// Asks for a user.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserCreate {
    /// `NAME` or `PROJECT/NAME`.
    pub name: String,
    /// As IAM has it.
    #[serde(default = "root_path", skip_serializing_if = "is_root_path")]
    pub path: String,
    /// A program rather than a person.
    #[serde(default)]
    pub service: bool,
}

/// A user.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct UserShown {
    /// The project.
    pub project: String,
    /// The name there.
    pub name: String,
    /// As policies name it.
    pub arn: String,
    /// Never reused.
    pub id: String,
    /// A program rather than a person.
    pub service: bool,
    /// When they were made, milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// Their groups.
    pub groups: Vec<String>,
    /// Policies.
    pub given: GivenShown,
    /// Access keys, on and off.
    pub keys: usize,
}

/// Users by project and name.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct UserList {
    /// The users.
    pub users: Vec<UserShown>,
}

/// Who asks.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct IdentityShown {
    /// As policies name it.
    pub arn: String,
    /// As the journal names it.
    pub name: String,
    /// The project that owns what is made.
    pub project: String,
}

fn root_path() -> String {
    "/".into()
}

fn is_root_path(path: &str) -> bool {
    path == "/"
}

pub(super) fn routes() -> Vec<Route> {
    let mut all = vec![
        Route {
            path: "/identity",
            methods: &["get"],
            answer: get(identity),
        },
        Route {
            path: "/users",
            methods: &["get", "post"],
            answer: get(list).post(create),
        },
        Route {
            path: "/users/{user}",
            methods: &["get", "delete"],
            answer: get(show).delete(remove),
        },
    ];
    all.extend(given_routes(HolderSort::User));
    all
}

async fn identity(Extension(caller): Extension<Caller>) -> Json<IdentityShown> {
    Json(IdentityShown {
        arn: caller.principal.arn(),
        name: caller.principal.to_string(),
        project: caller.principal.project().to_owned(),
    })
}

async fn list(
    (Extension(access), Extension(caller)): Asking,
    Query(query): Query<ListQuery>,
) -> Reply<Json<UserList>> {
    let project = listed(&caller, &query);
    let users = access.users(project.as_deref());
    let users = users.iter().map(|user| shown(&access, user)).collect();
    Ok(Json(UserList { users }))
}

async fn create(
    (Extension(access), Extension(caller)): Asking,
    Json(ask): Json<UserCreate>,
) -> Reply<(StatusCode, Json<UserShown>)> {
    run(move || {
        let (project, name) = place(&caller, &ask.name);
        access
            .user_create(&caller.who(), &project, &name, &ask.path, ask.service)
            .map(|user| (StatusCode::CREATED, Json(shown(&access, &user))))
            .map_err(|error| suggest(&access, error, "user", &project, &project))
    })
    .await
}

async fn show(
    (Extension(access), Extension(caller)): Asking,
    Path(user): Path<String>,
) -> Reply<Json<UserShown>> {
    let (project, name) = place(&caller, &user);
    if name == "root" && caller.principal == Principal::Root {
        return Ok(Json(root(&access)));
    }
    access
        .user(&project, &name)
        .map(|user| Json(shown(&access, &user)))
        .map_err(|error| suggest(&access, error, "user", &project, &name))
}

async fn remove(
    (Extension(access), Extension(caller)): Asking,
    Path(user): Path<String>,
    Query(query): Query<RemoveQuery>,
) -> Reply<StatusCode> {
    run(move || {
        let (project, name) = place(&caller, &user);
        access
            .user_remove(&caller.who(), &project, &name, query.with_all)
            .map_err(|error| suggest(&access, error, "user", &project, &name))
    })
    .await?;
    Ok::<_, Problem>(StatusCode::NO_CONTENT)
}

fn shown(access: &Access, user: &User) -> UserShown {
    let groups = access.groups_of(&user.project, &user.name);
    let keys = access.keys(&user.project, &user.name);
    UserShown {
        project: user.project.clone(),
        name: user.name.clone(),
        arn: user.arn(),
        id: user.id.clone(),
        service: user.service,
        created_ms: user.created_ms,
        groups: groups
            .unwrap_or_default()
            .iter()
            .map(|group| group.name.clone())
            .collect(),
        given: given_shown(&user.given),
        keys: keys.map_or(0, |keys| keys.len()),
    }
}

/// The operator as a user among others.
fn root(access: &Access) -> UserShown {
    UserShown {
        project: "root".into(),
        name: "root".into(),
        arn: Principal::Root.arn(),
        id: access.root_key().id,
        service: false,
        created_ms: 0,
        groups: Vec::new(),
        given: GivenShown::default(),
        keys: 1,
    }
}
