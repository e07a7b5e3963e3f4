//! Errors of instances in the JSON API, told as all of it tells them.

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::response::{IntoResponse, Response};
use blockstore::{Error, Subject};
use gateway::api::Problem;

/// A [`Problem`]: neither it nor what asks for it is ours.
pub(super) struct Told(Problem);

impl vmctl::api::Failure for Told {
    fn of(error: Error) -> Self {
        let about_instance = error.subject() == Subject::Record;
        let problem = Problem::from(error);
        Self(match about_instance {
            true => problem.about("instance"),
            false => problem,
        })
    }
}

impl From<JsonRejection> for Told {
    fn from(rejection: JsonRejection) -> Self {
        Self(rejection.into())
    }
}

impl From<QueryRejection> for Told {
    fn from(rejection: QueryRejection) -> Self {
        Self(rejection.into())
    }
}

impl IntoResponse for Told {
    fn into_response(self) -> Response {
        self.0.into_response()
    }
}
