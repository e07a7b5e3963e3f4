//! AWS's query protocol: `POST /` with a form (`Action=…&Version=…`), XML back. IAM and STS speak it.
//!
//! 1. Whoever is not anonymous signs with Signature Version 4 for service `iam` or `sts`; a signature
//!    that does not hold is refused, never taken for none.
//! 2. Forms, fields and replies are bounded; what is not known answers 501 at once.
//! 3. No token and no secret of a form is ever logged.

pub(crate) mod fields;
mod reply;
mod sign;

pub(crate) use fields::Fields;
pub(crate) use reply::{Refused, escape};

use crate::sts::Sts;
use access::{Caller, Origin, Principal};
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, header};
use axum::response::Response;
use http_body_util::{BodyExt, Limited};
use tracing::Instrument;

/// A form has at most this many bytes: a policy of 20 KiB, percent-encoded, and room.
const FORM_BYTES_MAX: usize = 256 << 10;

/// Whether a request speaks this protocol.
pub fn is_query(request: &Request) -> bool {
    let form = request.headers().get(header::CONTENT_TYPE);
    let form = form.is_some_and(|kind| {
        kind.as_bytes()
            .to_ascii_lowercase()
            .starts_with(b"application/x-www-form-urlencoded")
    });
    request.method() == Method::POST && request.uri().path() == "/" && form
}

/// IAM and STS at `/`.
pub fn query_service(sts: Sts) -> axum::Router {
    axum::Router::new().fallback(answer).with_state(sts)
}

async fn answer(State(sts): State<Sts>, request: Request) -> Response {
    let id = uuid::Uuid::new_v4().to_string();
    let span = tracing::info_span!("request", id = %id, door = "query");
    async {
        let mut version = String::new();
        let done = perform(&sts, request, &id, &mut version).await;
        match done {
            Ok((action, inner)) => reply::done(&action, &version, &inner, &id),
            Err(refused) => {
                tracing::debug!(code = refused.code, message = refused.message, "refused");
                reply::refused(&refused, &version, &id)
            }
        }
    }
    .instrument(span)
    .await
}

async fn perform(
    sts: &Sts,
    request: Request,
    id: &str,
    version: &mut String,
) -> Result<(String, String), Refused> {
    let (parts, body) = request.into_parts();
    let body = read(body).await?;
    let fields = Fields::parse(&body)?;
    let action = fields.need("Action")?.to_owned();
    fields.need("Version")?.clone_into(version);
    let origin = parts
        .extensions
        .get::<Origin>()
        .cloned()
        .unwrap_or_default();
    let principal = match sign::shown(&parts) {
        false => Principal::Anonymous,
        true => sign::verify(sts.access(), &parts, &body)?,
    };
    let caller = Caller {
        principal,
        origin,
        request: id.to_owned(),
    };
    let inner = match version.as_str() {
        crate::sts::VERSION => Box::pin(sts.answer(&caller, &action, &fields)).await?,
        crate::iam::VERSION => {
            let (access, action) = (sts.access().clone(), action.clone());
            crate::blocking::run(move || crate::iam::answer(&access, &caller, &action, &fields))
                .await?
        }
        other => {
            return Err(Refused::new(
                StatusCode::BAD_REQUEST,
                "NoSuchVersion",
                format!(
                    "Version {other:?} is not spoken here: {} for IAM, {} for STS",
                    crate::iam::VERSION,
                    crate::sts::VERSION
                ),
            ));
        }
    };
    Ok((action, inner))
}

async fn read(body: Body) -> Result<bytes::Bytes, Refused> {
    let body = Limited::new(body, FORM_BYTES_MAX).collect().await;
    body.map(http_body_util::Collected::to_bytes).map_err(|_| {
        Refused::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "RequestEntityTooLarge",
            format!("a form of at most {FORM_BYTES_MAX} bytes is read, to its end"),
        )
    })
}
