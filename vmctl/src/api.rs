//! Instances and the host in the JSON API. Paths are relative to where the router is merged.
//!
//! ```text
//! POST   /vms                          InstanceSpec      201 Instance
//! GET    /vms                                            {"instances": [Instance]}
//! GET    /vms/{name}                                     Instance
//! POST   /vms/{name}/start                               Instance
//! POST   /vms/{name}/stop?timeout_s=60&force=false       Instance
//! GET    /vms/{name}/console?lines=100                   Console
//! DELETE /vms/{name}?disks=false                         {"name", "volumes"}
//! GET    /hosts                                          {"hosts": [Host]}
//! POST   /hosts/probe                                    Verdict
//! ```
//!
//! Errors look as everywhere in the API: `{"error": {"kind", "subject", "message", "source"}}`.

use crate::console::Console;
use crate::instance::{Host, Machines};
use crate::probe::Verdict;
use crate::record::Instance;
use crate::spec::InstanceSpec;
use access::{Access, Caller, Resource};
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use blockstore::{Error, Kind, Subject, Who};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Seconds a stop waits for the guest unless told otherwise.
pub const STOP_TIMEOUT_S: u64 = 60;
/// Seconds a stop may be asked to wait at most.
pub const STOP_TIMEOUT_S_MAX: u64 = 600;
/// Lines of a console log unless told otherwise.
pub const CONSOLE_LINES: usize = 100;

/// All instances.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct InstanceList {
    /// By name.
    pub instances: Vec<Instance>,
}

/// All hosts: this one.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HostList {
    /// One.
    pub hosts: Vec<Host>,
}

/// What a removal took away.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Removed {
    /// The instance.
    pub name: String,
    /// Volumes that went with it.
    pub volumes: Vec<String>,
}

/// How to stop.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct StopQuery {
    timeout_s: Option<u64>,
    force: bool,
}

/// How much of the log.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ConsoleQuery {
    lines: Option<usize>,
}

/// What goes with the instance.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RemoveQuery {
    disks: bool,
}

/// The routes. The [`Who`] for the journal comes from the request's extensions, else it is the server.
pub fn router(machines: Machines) -> Router {
    Router::new()
        .route("/vms", get(list).post(run))
        .route("/vms/{name}", get(show).delete(remove))
        .route("/vms/{name}/start", post(start))
        .route("/vms/{name}/stop", post(stop))
        .route("/vms/{name}/console", get(console))
        .route("/hosts", get(hosts))
        .route("/hosts/probe", post(probe))
        .with_state(machines)
}

type Asker = Option<Extension<Who>>;
type Asked<T> = Result<Query<T>, QueryRejection>;
type Reply<T> = Result<Json<T>, Failure>;

async fn run(
    State(machines): State<Machines>,
    asker: Asker,
    spec: Result<Json<InstanceSpec>, JsonRejection>,
) -> Result<(StatusCode, Json<Instance>), Failure> {
    let Json(spec) = spec?;
    let Json(instance) = blocking(move || machines.run(&who(asker), spec)).await?;
    Ok((StatusCode::CREATED, Json(instance)))
}

/// Where a caller is known, only what they may describe.
async fn list(
    State(machines): State<Machines>,
    access: Option<Extension<Access>>,
    caller: Option<Extension<Caller>>,
) -> Reply<InstanceList> {
    blocking(move || {
        let mut instances = machines.list()?;
        if let (Some(Extension(access)), Some(Extension(caller))) = (access, caller) {
            instances.retain(|instance| {
                let resource = Resource::Instance(&instance.name);
                access.visible(&caller, "vm:Describe", &resource)
            });
        }
        Ok(InstanceList { instances })
    })
    .await
}

async fn show(State(machines): State<Machines>, Path(name): Path<String>) -> Reply<Instance> {
    blocking(move || machines.get(&name)).await
}

async fn start(
    State(machines): State<Machines>,
    asker: Asker,
    Path(name): Path<String>,
) -> Reply<Instance> {
    blocking(move || machines.start(&who(asker), &name)).await
}

async fn stop(
    State(machines): State<Machines>,
    asker: Asker,
    Path(name): Path<String>,
    query: Asked<StopQuery>,
) -> Reply<Instance> {
    let Query(query) = query?;
    let timeout_s = query.timeout_s.unwrap_or(STOP_TIMEOUT_S);
    if timeout_s > STOP_TIMEOUT_S_MAX {
        let context = format!("timeout_s {timeout_s} is more than {STOP_TIMEOUT_S_MAX}");
        return Err(Failure::from(Error::new(
            Kind::Invalid,
            Subject::Record,
            context,
        )));
    }
    blocking(move || {
        machines.stop(
            &who(asker),
            &name,
            Duration::from_secs(timeout_s),
            query.force,
        )
    })
    .await
}

async fn console(
    State(machines): State<Machines>,
    Path(name): Path<String>,
    query: Asked<ConsoleQuery>,
) -> Reply<Console> {
    let Query(query) = query?;
    blocking(move || machines.console(&name, query.lines.unwrap_or(CONSOLE_LINES))).await
}

async fn remove(
    State(machines): State<Machines>,
    asker: Asker,
    Path(name): Path<String>,
    query: Asked<RemoveQuery>,
) -> Reply<Removed> {
    let Query(query) = query?;
    blocking(move || {
        let volumes = machines.remove(&who(asker), &name, query.disks)?;
        Ok(Removed { name, volumes })
    })
    .await
}

async fn hosts(State(machines): State<Machines>, asker: Asker) -> Reply<HostList> {
    blocking(move || {
        Ok(HostList {
            hosts: vec![machines.host(&who(asker))?],
        })
    })
    .await
}

async fn probe(State(machines): State<Machines>, asker: Asker) -> Reply<Verdict> {
    blocking(move || machines.probe(&who(asker))).await
}

fn who(asker: Asker) -> Who {
    asker.map_or_else(Who::server, |Extension(who)| who)
}

/// libvirt and the store block; a runtime thread must not. The request's log span goes along.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> blockstore::Result<T> + Send + 'static,
) -> Reply<T> {
    let span = tracing::Span::current();
    match tokio::task::spawn_blocking(move || span.in_scope(work)).await {
        Ok(done) => Ok(Json(done?)),
        Err(failure) => {
            let error = Error::new(
                Kind::Internal,
                Subject::Record,
                "a call to the hypervisor did not come back",
            );
            Err(error.because(failure).into())
        }
    }
}

/// An error on its way to the wire.
#[derive(Debug)]
struct Failure {
    status: StatusCode,
    body: ErrorReply,
}

#[derive(Debug, Serialize)]
struct ErrorReply {
    error: ErrorBody,
}

#[derive(Debug, Serialize)]
struct ErrorBody {
    kind: &'static str,
    subject: &'static str,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<String>,
}

impl Failure {
    fn new(kind: Kind, subject: &'static str, message: String, source: Option<String>) -> Self {
        let (status, kind) = names(kind);
        Self {
            status,
            body: ErrorReply {
                error: ErrorBody {
                    kind,
                    subject,
                    message,
                    source,
                },
            },
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let message = error.to_string();
        let source = error
            .chain()
            .strip_prefix(message.as_str())
            .map(|rest| rest.trim_start_matches(": ").to_owned())
            .filter(|rest| !rest.is_empty());
        Self::new(error.kind(), subject_name(error.subject()), message, source)
    }
}

impl From<JsonRejection> for Failure {
    fn from(rejection: JsonRejection) -> Self {
        let failure = Self::new(Kind::Invalid, "body", rejection.body_text(), None);
        match rejection.status() {
            status @ (StatusCode::PAYLOAD_TOO_LARGE | StatusCode::UNSUPPORTED_MEDIA_TYPE) => {
                Self { status, ..failure }
            }
            _ => failure,
        }
    }
}

impl From<QueryRejection> for Failure {
    fn from(rejection: QueryRejection) -> Self {
        Self::new(Kind::Invalid, "query", rejection.body_text(), None)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let ErrorBody {
            kind,
            message,
            source,
            ..
        } = &self.body.error;
        let source = source.as_deref().unwrap_or_default();
        if self.status == StatusCode::INTERNAL_SERVER_ERROR {
            tracing::error!(kind, source, "{message}");
        } else {
            tracing::debug!(kind, source, "{message}");
        }
        (self.status, Json(self.body)).into_response()
    }
}

/// Status (RFC 9110, and RFC 4918 for 507) and name of a kind, the same as for the rest of the API.
fn names(kind: Kind) -> (StatusCode, &'static str) {
    match kind {
        Kind::Invalid => (StatusCode::BAD_REQUEST, "invalid"),
        Kind::NotFound => (StatusCode::NOT_FOUND, "not_found"),
        Kind::Conflict => (StatusCode::CONFLICT, "conflict"),
        Kind::Precondition => (StatusCode::PRECONDITION_FAILED, "precondition"),
        Kind::Denied => (StatusCode::FORBIDDEN, "denied"),
        Kind::Fenced => (StatusCode::CONFLICT, "fenced"),
        Kind::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
        Kind::NoSpace => (StatusCode::INSUFFICIENT_STORAGE, "no_space"),
        Kind::Corrupt => (StatusCode::INTERNAL_SERVER_ERROR, "corrupt"),
        Kind::Unsupported => (StatusCode::NOT_IMPLEMENTED, "unsupported"),
        Kind::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
    }
}

/// Instances and hosts are the only records there are.
fn subject_name(subject: Subject) -> &'static str {
    match subject {
        Subject::Store => "store",
        Subject::Bucket => "bucket",
        Subject::Object => "object",
        Subject::Version => "version",
        Subject::Upload => "upload",
        Subject::Part => "part",
        Subject::Range => "range",
        Subject::Volume => "volume",
        Subject::Snapshot => "snapshot",
        Subject::Image => "image",
        Subject::Record => "instance",
        Subject::Journal => "journal",
        Subject::Identity => "identity",
        Subject::Project => "project",
    }
}
