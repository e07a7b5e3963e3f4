//! Instances and the host in the JSON API. Paths are relative to where the router is merged.
//!
//! ```text
//! POST   /vms                          InstanceSpec      201 Instance
//! GET    /vms                                            {"instances": [Instance]}
//! GET    /vms/{name}                                     Instance
//! GET    /vms/{name}/explain                             Explanation
//! POST   /vms/{name}/start                               Instance
//! POST   /vms/{name}/stop?timeout_s=60&force=false       Instance
//! GET    /vms/{name}/console?lines=100                   Console
//! GET    /vms/{name}/console?after=4711                  Console, from there on
//! GET    /vms/{name}/console/attach                      101, bytes both ways
//! POST   /vms/{name}/ssh               SshAsk            201 SshCertificate
//! GET    /vms/{name}/ssh                                 101, bytes both ways with the guest's sshd
//! GET    /vms/{name}/addresses?greeting=false            Addresses
//! DELETE /vms/{name}?disks=false                         {"name", "volumes"}
//! GET    /hosts                                          {"hosts": [Host]}
//! POST   /hosts/probe                                    Verdict
//! ```
//!
//! Errors look as everywhere in the API: whoever merges the routes says how ([`Failure`]).

mod failure;

use crate::console::Console;
use crate::instance::entering::{self, Guest};
use crate::instance::{Addresses, Explanation, Host, Machines, Pass};
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
pub use failure::Failure;
use failure::no_upgrade;
use hyper::upgrade::OnUpgrade;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use tokio::net::TcpStream;

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

/// Whether to hear its ssh server, too.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct AddressesQuery {
    greeting: bool,
}

/// What goes with the instance.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RemoveQuery {
    disks: bool,
}

/// The routes. The [`Who`] for the journal comes from the request's extensions, else it is the server.
pub fn router<F: Failure>(machines: Machines) -> Router {
    Router::new()
        .route("/vms", get(list::<F>).post(run::<F>))
        .route("/vms/{name}", get(show::<F>).delete(remove::<F>))
        .route("/vms/{name}/explain", get(explain::<F>))
        .route("/vms/{name}/start", post(start::<F>))
        .route("/vms/{name}/stop", post(stop::<F>))
        .route("/vms/{name}/console", get(console::<F>))
        .route("/vms/{name}/console/attach", get(attach::<F>))
        .route("/vms/{name}/ssh", get(connect::<F>).post(certify::<F>))
        .route("/vms/{name}/addresses", get(addresses::<F>))
        .route("/hosts", get(hosts::<F>))
        .route("/hosts/probe", post(probe::<F>))
        .with_state(machines)
}

type Asker = Option<Extension<Who>>;
type Engine = Option<Extension<Access>>;
type Calling = Option<Extension<Caller>>;
type Asked<T> = Result<Query<T>, QueryRejection>;
type Reply<T, F> = Result<Json<T>, F>;

async fn run<F: Failure>(
    State(machines): State<Machines>,
    asker: Asker,
    (access, caller): (Engine, Calling),
    spec: Result<Json<InstanceSpec>, JsonRejection>,
) -> Result<(StatusCode, Json<Instance>), F> {
    let Json(mut spec) = spec?;
    let Json(instance) = blocking::<_, F>(move || {
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
async fn list<F: Failure>(
    State(machines): State<Machines>,
    access: Engine,
    caller: Calling,
) -> Reply<InstanceList, F> {
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

async fn show<F: Failure>(
    State(machines): State<Machines>,
    Path(name): Path<String>,
) -> Reply<Instance, F> {
    blocking(move || machines.get(&name)).await
}

async fn explain<F: Failure>(
    State(machines): State<Machines>,
    Path(name): Path<String>,
) -> Reply<Explanation, F> {
    blocking(move || machines.explain(&name)).await
}

async fn start<F: Failure>(
    State(machines): State<Machines>,
    asker: Asker,
    Path(name): Path<String>,
) -> Reply<Instance, F> {
    blocking(move || machines.start(&who(asker), &name)).await
}

async fn stop<F: Failure>(
    State(machines): State<Machines>,
    asker: Asker,
    Path(name): Path<String>,
    query: Asked<StopQuery>,
) -> Reply<Instance, F> {
    let Query(query) = query?;
    let timeout_s = query.timeout_s.unwrap_or(STOP_TIMEOUT_S);
    if timeout_s > STOP_TIMEOUT_S_MAX {
        let context = format!("timeout_s {timeout_s} is more than {STOP_TIMEOUT_S_MAX}");
        return Err(F::of(Error::new(Kind::Invalid, Subject::Record, context)));
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

async fn console<F: Failure>(
    State(machines): State<Machines>,
    Path(name): Path<String>,
    query: Asked<ConsoleQuery>,
) -> Reply<Console, F> {
    let Query(query) = query?;
    let lines = query.lines.unwrap_or(CONSOLE_LINES);
    blocking(move || machines.console(&name, lines, query.after)).await
}

async fn attach<F: Failure>(
    State(machines): State<Machines>,
    Path(name): Path<String>,
    asker: Asker,
    (access, caller): (Engine, Calling),
    mut request: Request,
) -> Result<Response, F> {
    let Some(upgrade) = upgrade(&mut request) else {
        return Ok(no_upgrade::<F>());
    };
    let user = user(access, caller, "vm:Console", &name);
    let Json((terminal, pass)) =
        blocking::<_, F>(move || machines.enter_console(&who(asker), &name)).await?;
    let terminal = tunnel::terminal(&terminal).map_err(F::of)?;
    Ok(tunnel::begin(upgrade, terminal, pass, user))
}

async fn certify<F: Failure>(
    State(machines): State<Machines>,
    Path(name): Path<String>,
    asker: Asker,
    ask: Result<Json<SshAsk>, JsonRejection>,
) -> Result<(StatusCode, Json<SshCertificate>), F> {
    let Json(ask) = ask?;
    let given =
        blocking::<_, F>(move || machines.ssh_certificate(&who(asker), &name, &ask)).await?;
    Ok((StatusCode::CREATED, given))
}

async fn connect<F: Failure>(
    State(machines): State<Machines>,
    Path(name): Path<String>,
    asker: Asker,
    (access, caller): (Engine, Calling),
    mut request: Request,
) -> Result<Response, F> {
    let Some(upgrade) = upgrade(&mut request) else {
        return Ok(no_upgrade::<F>());
    };
    let user = user(access, caller, "vm:Ssh", &name);
    let entered = name.clone();
    let (stream, pass) = through(
        machines.clone(),
        name,
        entering::GREETING_LIMIT,
        move || machines.enter_ssh(&who(asker), &entered),
    )
    .await
    .map_err(F::of)?;
    Ok(tunnel::begin(upgrade, stream, pass, user))
}

async fn addresses<F: Failure>(
    State(machines): State<Machines>,
    Path(name): Path<String>,
    query: Asked<AddressesQuery>,
) -> Reply<Addresses, F> {
    let Query(query) = query?;
    let (asked, of) = (machines.clone(), name.clone());
    let Json(addresses) = blocking::<_, F>(move || asked.addresses(&of)).await?;
    let mut found = Addresses {
        addresses,
        greeting: None,
    };
    if query.greeting {
        let (asked, of) = (machines.clone(), name.clone());
        let open = move || asked.knock_ssh(&of);
        match through(machines, name, entering::KNOCK_LIMIT, open).await {
            Ok((stream, _pass)) => found.greeting = entering::greeting(&stream).await,
            // Not up yet, or not known where: that is what was asked.
            Err(error) if error.kind() == Kind::Unavailable => {}
            Err(error) => return Err(F::of(error)),
        }
    }
    Ok(Json(found))
}

/// A connection to the guest's ssh server by a way that is opened for it and closed behind it. A task of
/// its own: a client that goes away must not leave the way into the guest open.
async fn through(
    machines: Machines,
    name: String,
    patience: Duration,
    open: impl FnOnce() -> blockstore::Result<(Guest, Pass)> + Send + 'static,
) -> blockstore::Result<(TcpStream, Pass)> {
    let way = tokio::spawn(async move {
        let (guest, pass) = off_thread(open).await?;
        let stream = guest.connect(&name, patience).await;
        off_thread(move || {
            machines.leave_ssh(&guest);
            Ok(())
        })
        .await?;
        Ok((stream?, pass))
    });
    way.await.map_err(gone)?
}

/// The client's side of a connection that is to be changed over, if it asked for that.
fn upgrade(request: &mut Request) -> Option<OnUpgrade> {
    tunnel::wanted(request.headers())
        .then(|| request.extensions_mut().remove::<OnUpgrade>())
        .flatten()
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

async fn remove<F: Failure>(
    State(machines): State<Machines>,
    asker: Asker,
    Path(name): Path<String>,
    query: Asked<RemoveQuery>,
) -> Reply<Removed, F> {
    let Query(query) = query?;
    blocking(move || {
        let volumes = machines.remove(&who(asker), &name, query.disks)?;
        Ok(Removed { name, volumes })
    })
    .await
}

async fn hosts<F: Failure>(State(machines): State<Machines>, asker: Asker) -> Reply<HostList, F> {
    blocking(move || {
        Ok(HostList {
            hosts: vec![machines.host(&who(asker))?],
        })
    })
    .await
}

async fn probe<F: Failure>(State(machines): State<Machines>, asker: Asker) -> Reply<Verdict, F> {
    blocking(move || machines.probe(&who(asker))).await
}

fn who(asker: Asker) -> Who {
    asker.map_or_else(Who::server, |Extension(who)| who)
}

/// As [`off_thread`], for an answer.
async fn blocking<T: Send + 'static, F: Failure>(
    work: impl FnOnce() -> blockstore::Result<T> + Send + 'static,
) -> Reply<T, F> {
    off_thread(work).await.map(Json).map_err(F::of)
}

/// libvirt and the store block; a runtime thread must not. The request's log span goes along.
async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> blockstore::Result<T> + Send + 'static,
) -> blockstore::Result<T> {
    let span = tracing::Span::current();
    let done = tokio::task::spawn_blocking(move || span.in_scope(work)).await;
    done.map_err(gone)?
}

fn gone(failure: tokio::task::JoinError) -> Error {
    let text = "a call to the hypervisor did not come back";
    Error::new(Kind::Internal, Subject::Record, text).because(failure)
}
