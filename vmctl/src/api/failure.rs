//! How the routes of instances say what went wrong: in the words of the API that they are merged into,
//! which has one form for all its errors. Nothing here knows it.

use crate::tunnel;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use blockstore::{Error, Kind, Subject};

/// An error as the API around these routes tells it.
pub trait Failure:
    From<JsonRejection> + From<QueryRejection> + IntoResponse + Send + 'static
{
    /// Of ours or the store's; a record is an instance here.
    fn of(error: Error) -> Self;
}

/// The client did not ask to change over (RFC 9110, 15.5.22).
pub(super) fn no_upgrade<F: Failure>() -> Response {
    let text = format!(
        "this endpoint moves bytes: ask with \"Connection: upgrade\" and \"Upgrade: {}\"",
        tunnel::PROTOCOL
    );
    let mut response = F::of(Error::new(Kind::Invalid, Subject::Record, text)).into_response();
    *response.status_mut() = StatusCode::UPGRADE_REQUIRED;
    let protocol = HeaderValue::from_static(tunnel::PROTOCOL);
    response.headers_mut().insert(header::UPGRADE, protocol);
    response
}
