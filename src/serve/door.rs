//! One address, two doors: the JSON API under its prefix, S3 everywhere else.
//!
//! A bucket may be called `api`. So a request that carries an S3 signature goes to S3 whatever its
//! path; the API's own clients show a bearer key instead.

use axum::extract::{Request, State};
use axum::http::header;
use axum::response::Response;
use axum::{Extension, Router};
use gateway::api::{Closing, PREFIX};
use std::convert::Infallible;
use tower::ServiceExt;

#[derive(Clone)]
struct Doors {
    api: Router,
    s3: Router,
}

/// Both doors as one application.
pub(crate) fn application(api: Router, s3: Router, closing: Closing) -> Router {
    let doors = Doors {
        api: Router::new().nest(PREFIX, api),
        s3,
    };
    Router::new()
        .fallback(choose)
        .with_state(doors)
        .layer(Extension(closing))
}

async fn choose(State(doors): State<Doors>, request: Request) -> Result<Response, Infallible> {
    let door = if is_api(&request) {
        doors.api
    } else {
        doors.s3
    };
    door.oneshot(request).await
}

fn is_api(request: &Request) -> bool {
    let below = request.uri().path().strip_prefix(PREFIX);
    below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/')) && !is_signed(request)
}

/// Signature Version 4, in the header or in the query (Amazon S3 API Reference, "Authenticating
/// Requests").
fn is_signed(request: &Request) -> bool {
    let header = request.headers().get(header::AUTHORIZATION);
    header.is_some_and(|value| value.as_bytes().starts_with(b"AWS"))
        || request
            .uri()
            .query()
            .is_some_and(|query| query.contains("X-Amz-Signature="))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;

    fn request(path: &str, authorization: &str) -> Request {
        let request = Request::builder()
            .uri(path)
            .header(header::AUTHORIZATION, authorization);
        request.body(Body::empty()).unwrap()
    }

    #[test]
    fn a_bucket_called_api_is_still_a_bucket() {
        assert!(is_api(&request("/api/v1", "Bearer x")));
        assert!(is_api(&request("/api/v1/volumes", "")));
        assert!(!is_api(&request(
            "/api/v1/volumes",
            "AWS4-HMAC-SHA256 Credential=x"
        )));
        assert!(!is_api(&request(
            "/api/v1/x?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Signature=0",
            ""
        )));
        assert!(!is_api(&request("/api/v10", "Bearer x")));
        assert!(!is_api(&request("/images/api/v1", "Bearer x")));
    }
}
