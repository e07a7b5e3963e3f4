//! One address, several doors, told apart by how the path begins; S3 has everything else, and
//! every path where the host is a bucket.
//!
//! | path | door |
//! |---|---|
//! | `/api/v1` | the JSON API |
//! | `/cdmi` | CDMI |
//! | `/dav` | WebDAV |
//! | `/login` | where to log in |
//! | `/`, a form posted | IAM and STS |
//! | anything else | S3 |
//!
//! No bucket can be made under a name that begins a path here: [`blockstore::object::reserved_bucket`].

use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::Response;
use axum::{Extension, Router};
use gateway::Domains;
use gateway::api::{Closing, PREFIX};
use std::convert::Infallible;
use tower::ServiceExt;

/// Where CDMI is.
pub(crate) const CDMI_PREFIX: &str = "/cdmi";
/// Where WebDAV is.
pub(crate) const DAV_PREFIX: &str = "/dav";

/// Where to log in, for those who have no key yet.
pub(crate) const LOGIN_PREFIX: &str = "/login";

/// Which protocol a request speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Door {
    /// The JSON API.
    Api,
    /// CDMI.
    Cdmi,
    /// WebDAV.
    Dav,
    /// Where to log in.
    Login,
    /// S3.
    S3,
}

impl Door {
    /// By the path of a request.
    pub(crate) fn of(path: &str) -> Self {
        let begins = |prefix: &str| {
            let rest = path.strip_prefix(prefix);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        if begins(PREFIX) {
            Self::Api
        } else if begins(CDMI_PREFIX) {
            Self::Cdmi
        } else if begins(DAV_PREFIX) {
            Self::Dav
        } else if begins(LOGIN_PREFIX) {
            Self::Login
        } else {
            Self::S3
        }
    }
}

/// What answers behind each door. CDMI and WebDAV see whole paths, with their prefix.
#[derive(Clone, Default)]
pub(crate) struct Doors {
    /// The JSON API, without its prefix.
    pub(crate) api: Router,
    /// CDMI.
    pub(crate) cdmi: Option<Router>,
    /// WebDAV.
    pub(crate) dav: Option<Router>,
    /// Where to log in.
    pub(crate) login: Router,
    /// Below which each host is a bucket.
    pub(crate) domains: Domains,
    /// IAM and STS.
    pub(crate) query: Router,
    /// S3.
    pub(crate) s3: Router,
}

/// All doors as one application.
pub(crate) fn application(doors: Doors, closing: Closing) -> Router {
    let doors = Doors {
        api: Router::new().nest(PREFIX, doors.api),
        ..doors
    };
    Router::new()
        .fallback(choose)
        .with_state(doors)
        .layer(Extension(closing))
}

async fn choose(State(doors): State<Doors>, request: Request) -> Result<Response, Infallible> {
    let is_bucket = doors.domains.bucket(request.uri(), request.headers());
    let door = match Door::of(request.uri().path()) {
        _ if is_bucket.is_some() => Some(doors.s3),
        // An S3 client that tries to make or list a bucket of a reserved name hears so from S3.
        Door::Cdmi | Door::Dav | Door::Login if is_signed_for_a_bucket(&request) => Some(doors.s3),
        Door::Api => Some(doors.api),
        Door::Cdmi => doors.cdmi,
        Door::Dav => doors.dav,
        Door::Login => Some(doors.login),
        Door::S3 if gateway::is_query(&request) => Some(doors.query),
        Door::S3 => Some(doors.s3),
    };
    match door {
        Some(door) => door.oneshot(request).await,
        None => {
            let mut response = Response::new("this server does not speak that protocol\n".into());
            *response.status_mut() = StatusCode::NOT_FOUND;
            Ok(response)
        }
    }
}

/// Whether it carries an S3 signature and names no more than a first segment.
fn is_signed_for_a_bucket(request: &Request) -> bool {
    let signed = request.headers().get(header::AUTHORIZATION);
    signed.is_some_and(|value| value.as_bytes().starts_with(b"AWS4-"))
        && !request.uri().path().trim_start_matches('/').contains('/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_leads_to_one_door_and_no_bucket_stands_in_its_way() {
        for (path, door) in [
            ("/api/v1", Door::Api),
            ("/api/v1/volumes", Door::Api),
            ("/api/v10", Door::S3),
            ("/api", Door::S3),
            ("/images/api/v1", Door::S3),
            ("/cdmi", Door::Cdmi),
            ("/cdmi/", Door::Cdmi),
            ("/cdmi_x", Door::S3),
            ("/dav/b/k", Door::Dav),
            ("/dave/k", Door::S3),
            ("/login/roles", Door::Login),
            ("/", Door::S3),
            ("*", Door::S3),
        ] {
            assert_eq!(Door::of(path), door, "{path}");
        }
        for prefix in [PREFIX, CDMI_PREFIX, DAV_PREFIX, LOGIN_PREFIX] {
            let first = prefix.trim_start_matches('/').split('/').next().unwrap();
            assert!(blockstore::object::reserved_bucket(first), "{first}");
        }
    }
}
