//! Issuers: whose tokens are believed.

use super::super::{Json, Path, Problem, Reply, Route};
use super::Asking;
use crate::blocking::run;
use access::federation::{Issuer, IssuerAdd};
use axum::Extension;
use axum::http::StatusCode;
use axum::routing::{delete, get};
use serde::{Deserialize, Serialize};

/// Issuers by name.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct IssuerList {
    /// All of them.
    pub issuers: Vec<Issuer>,
}

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route {
            path: "/issuers",
            methods: &["get", "post"],
            answer: get(list).post(add),
        },
        Route {
            path: "/issuers/{issuer}",
            methods: &["delete"],
            answer: delete(remove),
        },
    ]
}

async fn list((Extension(access), _): Asking) -> Reply<Json<IssuerList>> {
    run(move || {
        let issuers = access.issuers()?;
        Ok(Json(IssuerList { issuers }))
    })
    .await
}

async fn add(
    (Extension(access), Extension(caller)): Asking,
    Json(ask): Json<IssuerAdd>,
) -> Reply<(StatusCode, Json<Issuer>)> {
    run(move || {
        let added = access.issuer_add(&caller.who(), ask)?;
        Ok((StatusCode::CREATED, Json(added)))
    })
    .await
}

async fn remove(
    (Extension(access), Extension(caller)): Asking,
    Path(name): Path<String>,
) -> Reply<StatusCode> {
    run(move || {
        access.issuer_remove(&caller.who(), &name)?;
        Ok::<_, Problem>(())
    })
    .await?;
    Ok(StatusCode::NO_CONTENT)
}
