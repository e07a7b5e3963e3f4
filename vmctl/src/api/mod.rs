//! Instances and the host in the JSON API. Paths are relative to where the router is merged.
//!
//! ```text
//! POST   /vms                          InstanceSpec      201 Instance
//! GET    /vms                                            {"instances": [Instance]}
//! GET    /vms/{name}                                     Instance
//! POST   /vms/{name}/start                               Instance
//! POST   /vms/{name}/stop?timeout_s=60&force=false       Instance
//! GET    /vms/{name}/console?lines=100                   Console
//! GET    /vms/{name}/console?after=4711                  Console, from there on
//! GET    /vms/{name}/console/attach                      101, bytes both ways
//! POST   /vms/{name}/ssh               SshAsk            201 SshCertificate
//! GET    /vms/{name}/ssh                                 101, bytes both ways with the guest's sshd
//! DELETE /vms/{name}?disks=false                         {"name", "volumes"}
//! GET    /hosts                                          {"hosts": [Host]}
//! POST   /hosts/probe                                    Verdict
//! ```
//!
//! Errors look as everywhere in the API: `{"error": {"kind", "subject", "message", "source"}}`.

mod failure;

use crate::console::Console;
use crate::instance::{Host, Machines};
use crate::probe::Verdict;
use crate::record::Instance;
use crate::spec::InstanceSpec;
use crate::ssh::{SshAsk, SshCertificate};
use crate::tunnel;
use access::{Access, Caller, Principal, Resource};
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Path, Query, Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use blockstore::{Error, Kind, Subject, Who};
use failure::Failure;
use hyper::upgrade::OnUpgrade;
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
    after: Option<u64>,
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
        .route("/vms/{name}/console/attach", get(attach))
        .route("/vms/{name}/ssh", get(connect).post(certify))
        .route("/hosts", get(hosts))
        .route("/hosts/probe", post(probe))
        .with_state(machines)
}

type Asker = Option<Extension<Who>>;
type Engine = Option<Extension<Access>>;
type Calling = Option<Extension<Caller>>;
type Asked<T> = Result<Query<T>, QueryRejection>;
type Reply<T> = Result<Json<T>, Failure>;

async fn run(
    State(machines): State<Machines>,
    asker: Asker,
    (access, caller): (Engine, Calling),
    spec: Result<Json<InstanceSpec>, JsonRejection>,
) -> Result<(StatusCode, Json<Instance>), Failure> {
    let Json(mut spec) = spec?;
    let Json(instance) = blocking(move || {
        if spec.ssh_keys.is_empty() {
            spec.ssh_keys = own_keys(access, caller)?;
        }
        machines.run(&who(asker), spec)
    })
    .await?;
    Ok((StatusCode::CREATED, Json(instance)))
}

/// The public keys a user has with their identity.
fn own_keys(access: Engine, caller: Calling) -> blockstore::Result<Vec<String>> {
    let (Some(Extension(access)), Some(Extension(caller))) = (access, caller) else {
        return Ok(Vec::new());
    };
    match &caller.principal {
        Principal::User { name, project } => {
            let keys = access.ssh_keys(project, name)?;
            Ok(keys.into_iter().map(|key| key.public_key).collect())
        }
        Principal::Anonymous
        | Principal::Root
        | Principal::Session { .. }
        | Principal::Service { .. } => Ok(Vec::new()),
    }
}

/// Where a caller is known, only what they may describe.
async fn list(
    State(machines): State<Machines>,
    access: Engine,
    caller: Calling,
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
    let lines = query.lines.unwrap_or(CONSOLE_LINES);
    blocking(move || machines.console(&name, lines, query.after)).await
}

async fn attach(
    State(machines): State<Machines>,
    Path(name): Path<String>,
    asker: Asker,
    (access, caller): (Engine, Calling),
    mut request: Request,
) -> Result<Response, Failure> {
    let upgrade = upgrade(&mut request)?;
    let user = user(access, caller, "vm:Console", &name);
    let Json((terminal, pass)) =
        blocking(move || machines.enter_console(&who(asker), &name)).await?;
    let terminal = tunnel::terminal(&terminal)?;
    Ok(tunnel::begin(upgrade, terminal, pass, user))
}

async fn certify(
    State(machines): State<Machines>,
    Path(name): Path<String>,
    asker: Asker,
    ask: Result<Json<SshAsk>, JsonRejection>,
) -> Result<(StatusCode, Json<SshCertificate>), Failure> {
    let Json(ask) = ask?;
    let given = blocking(move || machines.ssh_certificate(&who(asker), &name, &ask)).await?;
    Ok((StatusCode::CREATED, given))
}

async fn connect(
    State(machines): State<Machines>,
    Path(name): Path<String>,
    asker: Asker,
    (access, caller): (Engine, Calling),
    mut request: Request,
) -> Result<Response, Failure> {
    let upgrade = upgrade(&mut request)?;
    let user = user(access, caller, "vm:Ssh", &name);
    // A task of its own: a client that goes away must not leave the way into the guest open.
    let way = tokio::spawn(async move {
        let (opener, asked) = (machines.clone(), name.clone());
        let Json((guest, pass)) = blocking(move || opener.enter_ssh(&who(asker), &asked)).await?;
        let stream = guest.connect(&name).await;
        let Json(()) = blocking(move || {
            machines.leave_ssh(guest);
            Ok(())
        })
        .await?;
        Ok::<_, Failure>((stream?, pass))
    });
    let (stream, pass) = way.await.map_err(gone)??;
    Ok(tunnel::begin(upgrade, stream, pass, user))
}

/// The client's side of a connection that is to be changed over.
fn upgrade(request: &mut Request) -> Result<OnUpgrade, Failure> {
    if !tunnel::wanted(request.headers()) {
        return Err(Failure::no_upgrade());
    }
    let upgrade = request.extensions_mut().remove::<OnUpgrade>();
    upgrade.ok_or_else(Failure::no_upgrade)
}

fn user(access: Engine, caller: Calling, action: &'static str, name: &str) -> Option<tunnel::User> {
    let (Extension(access), Extension(caller)) = access.zip(caller)?;
    Some(tunnel::User {
        access,
        caller,
        action,
        instance: name.to_owned(),
    })
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
        Err(failure) => Err(gone(failure)),
    }
}

fn gone(failure: tokio::task::JoinError) -> Failure {
    let text = "a call to the hypervisor did not come back";
    let error = Error::new(Kind::Internal, Subject::Record, text);
    error.because(failure).into()
}
