//! Projects: what each uses beside what it may use.

use super::super::{Json, Path, Problem, Reply, Route};
use super::{Asking, suggest};
use crate::blocking::run;
use access::identity::{Project, Quota, Usage};
use access::{Access, Resource};
use axum::Extension;
use axum::http::StatusCode;
use axum::routing::{get, put};
use serde::{Deserialize, Serialize};

/// Asks for a project.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProjectCreate {
    /// 1 to 63 of a-z, 0-9, `-`, `.`, `_`.
    pub name: String,
    /// For people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// What it may use at most.
    #[serde(default)]
    pub quota: Quota,
}

/// A project, and what it uses now.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProjectShown {
    /// The name.
    pub name: String,
    /// For people.
    pub description: String,
    /// When it was made, milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// What it may use at most; absent: no limit.
    pub quota: Quota,
    /// What it uses.
    pub used: Usage,
}

/// Projects by name.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProjectList {
    /// Those that the asker may see.
    pub projects: Vec<ProjectShown>,
}

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route {
            path: "/projects",
            methods: &["get", "post"],
            answer: get(list).post(create),
        },
        Route {
            path: "/projects/{project}",
            methods: &["get", "delete"],
            answer: get(show).delete(remove),
        },
        Route {
            path: "/projects/{project}/quota",
            methods: &["put"],
            answer: put(set_quota),
        },
    ]
}

async fn list((Extension(access), Extension(caller)): Asking) -> Reply<Json<ProjectList>> {
    run(move || {
        let mut projects = Vec::new();
        for project in access.projects() {
            let resource = Resource::Project(&project.name);
            if access.visible(&caller, "project:Describe", &resource) {
                projects.push(shown(&access, &project)?);
            }
        }
        Ok(Json(ProjectList { projects }))
    })
    .await
}

async fn create(
    (Extension(access), Extension(caller)): Asking,
    Json(ask): Json<ProjectCreate>,
) -> Reply<(StatusCode, Json<ProjectShown>)> {
    run(move || {
        let who = caller.who();
        let made = access.project_create(&who, &ask.name, &ask.description, ask.quota)?;
        Ok((StatusCode::CREATED, Json(shown(&access, &made)?)))
    })
    .await
}

async fn show(
    (Extension(access), Extension(_)): Asking,
    Path(name): Path<String>,
) -> Reply<Json<ProjectShown>> {
    run(move || {
        let project = access
            .project(&name)
            .map_err(|error| suggest(&access, error, "project", &name, &name))?;
        shown(&access, &project).map(Json)
    })
    .await
}

async fn remove(
    (Extension(access), Extension(caller)): Asking,
    Path(name): Path<String>,
) -> Reply<StatusCode> {
    run(move || {
        access
            .project_remove(&caller.who(), &name)
            .map_err(|error| suggest(&access, error, "project", &name, &name))
    })
    .await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn set_quota(
    (Extension(access), Extension(caller)): Asking,
    Path(name): Path<String>,
    Json(quota): Json<Quota>,
) -> Reply<Json<ProjectShown>> {
    run(move || {
        let project = access
            .project_set_quota(&caller.who(), &name, quota)
            .map_err(|error| suggest(&access, error, "project", &name, &name))?;
        shown(&access, &project).map(Json)
    })
    .await
}

fn shown(access: &Access, project: &Project) -> Result<ProjectShown, Problem> {
    Ok(ProjectShown {
        name: project.name.clone(),
        description: project.description.clone(),
        created_ms: project.created_ms,
        quota: project.quota,
        used: access.project_usage(&project.name)?,
    })
}
