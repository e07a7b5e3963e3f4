//! What somebody needs who has no key yet: where to log in, and which roles a token opens.
//!
//! ```text
//! GET  /login           the issuers: name, url, client id, and their endpoints
//! POST /login/roles     {"token": "…"} → the roles that this identity may assume
//! ```
//! Keys are then had from STS, like everybody's. Nothing else is answered without a key.

use super::Sts;
use crate::api::{Json, Problem, Reply};
use access::{Caller, Origin, Principal};
use axum::extract::{DefaultBodyLimit, State};
use axum::routing::{get, post};
use axum::{Extension, Router};
use blockstore::Kind;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

/// A token and its frame.
const BODY_BYTES_MAX: usize = 32 << 10;
/// How long a list of issuers is taken for true.
const LISTED_FOR: Duration = Duration::from_secs(10);

/// Where one can log in.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LoginIssuer {
    /// What it is called here.
    pub name: String,
    /// Its `iss`.
    pub url: String,
    /// The client to log in as.
    pub client_id: String,
    /// Its certificates, if they are not the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_pem: Option<String>,
    /// Where a browser goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authorization_endpoint: Option<String>,
    /// Where codes become tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_endpoint: Option<String>,
    /// Where a device asks for a code (RFC 8628, 3.1).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_authorization_endpoint: Option<String>,
    /// Why the endpoints are missing, if they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

/// All of them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LoginIssuers {
    /// By name.
    pub issuers: Vec<LoginIssuer>,
}

/// A token to be looked at.
#[derive(Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RolesAsk {
    /// An ID token.
    pub token: String,
}

/// What it opens.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LoginRoles {
    /// Whom it shows.
    pub subject: String,
    /// Their groups, as `vo[:sub][#role]`.
    pub groups: Vec<String>,
    /// ARNs of roles.
    pub roles: Vec<String>,
}

#[derive(Clone)]
struct Door {
    sts: Sts,
    /// Anybody may ask, so issuers are not asked each time.
    listed: Arc<Mutex<Option<(Instant, LoginIssuers)>>>,
}

/// The routes under `/login`.
pub fn login_service(sts: Sts) -> Router {
    Router::new()
        .route("/login", get(issuers))
        .route("/login/roles", post(roles))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(Door {
            sts,
            listed: Arc::default(),
        })
}

async fn issuers(State(door): State<Door>) -> Reply<Json<LoginIssuers>> {
    let mut listed = door.listed.lock().await;
    if let Some((at, known)) = listed.as_ref()
        && at.elapsed() < LISTED_FOR
    {
        return Ok(Json(known.clone()));
    }
    let found = look(&door.sts).await?;
    *listed = Some((Instant::now(), found.clone()));
    Ok(Json(found))
}

async fn look(sts: &Sts) -> Result<LoginIssuers, Problem> {
    let access = sts.access.clone();
    let known = crate::blocking::run(move || access.issuers().map_err(Problem::from)).await?;
    let mut shown = Vec::new();
    for issuer in known {
        let found = super::issuers::discover(&issuer).await;
        let (found, failure) = match found {
            Ok(found) => (Some(found), None),
            Err(why) => (None, Some(why)),
        };
        let client_id = issuer.login_client().to_owned();
        let mut one = LoginIssuer {
            name: issuer.name,
            url: issuer.url,
            client_id,
            ca_pem: issuer.ca_pem,
            authorization_endpoint: None,
            token_endpoint: None,
            device_authorization_endpoint: None,
            failure,
        };
        if let Some(found) = found {
            one.authorization_endpoint = found.authorization_endpoint;
            one.token_endpoint = found.token_endpoint;
            one.device_authorization_endpoint = found.device_authorization_endpoint;
        }
        shown.push(one);
    }
    Ok(LoginIssuers { issuers: shown })
}

async fn roles(
    State(Door { sts, .. }): State<Door>,
    origin: Option<Extension<Origin>>,
    Json(ask): Json<RolesAsk>,
) -> Reply<Json<LoginRoles>> {
    let vouched = sts
        .vouched(&ask.token)
        .await
        .map_err(|refused| Problem::new(Kind::Denied, "token", refused.message))?;
    let caller = Caller {
        principal: Principal::Anonymous,
        origin: origin.map(|Extension(origin)| origin).unwrap_or_default(),
        request: uuid::Uuid::new_v4().simple().to_string(),
    };
    let access = sts.access.clone();
    crate::blocking::run(move || {
        let roles = access.roles_open_to(&caller, &vouched)?;
        Ok(Json(LoginRoles {
            subject: vouched.subject,
            groups: vouched.groups,
            roles,
        }))
    })
    .await
}
