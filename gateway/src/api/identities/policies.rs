//! Policies: managed, in line and attached; a check of a text, and a test of what it would decide.
//!
//! A document travels as a string, as it was written: the engine then sees doubled names, which a
//! JSON value would have lost.

use super::super::{Json, Path, Problem, Query, Reply, Route, s3_url};
use super::{Asking, ListQuery, holder_problem, listed, place, policy_arn, shown_name, suggest};
use crate::blocking::run;
use access::identity::{BUILT_IN_PROJECT, Holder, HolderSort, ManagedPolicy};
use access::policy::{BUCKET_BYTES_MAX, Form, IDENTITY_BYTES_MAX, Policy, SESSION_BYTES_MAX};
use access::{Access, Caller, Need, Origin, Resource};
use axum::Extension;
use axum::http::StatusCode;
use axum::routing::{get, post, put};
use blockstore::Kind;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Asks for a managed policy.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyCreate {
    /// `NAME` or `PROJECT/NAME`.
    pub name: String,
    /// The policy, as text.
    pub document: String,
    /// For people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
}

/// A policy's text.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Document {
    /// The policy, as text.
    pub document: String,
    /// For a check: `identity` (the default), `bucket`, `trust` or `session`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub form: Option<String>,
}

/// A managed policy.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PolicyShown {
    /// The project; `aws` for those that are built in.
    pub project: String,
    /// The name there.
    pub name: String,
    /// As it is attached by.
    pub arn: String,
    /// For people.
    pub description: String,
    /// When it was made, milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// The version that counts.
    pub version: String,
    /// The text that counts.
    pub document: String,
    /// Who has it attached: `user/alice`.
    pub holders: Vec<String>,
}

/// Managed policies, those that are built in last.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PolicyList {
    /// The policies.
    pub policies: Vec<PolicyShown>,
}

/// A document that reads.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Checked {
    /// Always; what does not read is an error.
    pub reads: bool,
    /// Whether it lets in everybody.
    pub public: bool,
}

/// Asks what would be decided.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TestAsk {
    /// A user (`NAME` or `PROJECT/NAME`), `root` or `anonymous`.
    #[serde(rename = "as")]
    pub caller: String,
    /// `s3:GetObject`
    pub action: String,
    /// `s3://bucket/key`, `volume:NAME`, `image:NAME`, `vm:NAME`, …, or `*`.
    pub on: String,
    /// Condition keys beside those of every request.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub context: BTreeMap<String, String>,
    /// From which address; this machine if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<std::net::IpAddr>,
}

/// What would be decided.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Tested {
    /// Whether it may be done.
    pub allowed: bool,
    /// In words.
    pub why: String,
    /// The policy that decided; empty where none says anything.
    pub policy: String,
    /// Its Sid or number.
    pub statement: String,
    /// Who was asked about.
    pub arn: String,
    /// What it was asked about.
    pub resource: String,
}

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route {
            path: "/policies",
            methods: &["get", "post"],
            answer: get(list).post(create),
        },
        Route {
            path: "/policies/{policy}",
            methods: &["get", "put", "delete"],
            answer: get(show).put(replace).delete(remove),
        },
        Route {
            path: "/policy-check",
            methods: &["post"],
            answer: post(check),
        },
        Route {
            path: "/policy-test",
            methods: &["post"],
            answer: post(test),
        },
    ]
}

/// A sort of holder, for the routes that all sorts have.
pub(super) trait Of: 'static {
    /// Which.
    const SORT: HolderSort;
}

/// Users.
pub(super) struct OfUser;
/// Groups.
pub(super) struct OfGroup;
/// Roles.
pub(super) struct OfRole;

impl Of for OfUser {
    const SORT: HolderSort = HolderSort::User;
}

impl Of for OfGroup {
    const SORT: HolderSort = HolderSort::Group;
}

impl Of for OfRole {
    const SORT: HolderSort = HolderSort::Role;
}

/// Policies in line and attached, of one sort of holder.
pub(super) fn holder_routes<T: Of>(inline: &'static str, attached: &'static str) -> Vec<Route> {
    vec![
        Route {
            path: inline,
            methods: &["put", "delete"],
            answer: put(inline_put::<T>).delete(inline_remove::<T>),
        },
        Route {
            path: attached,
            methods: &["put", "delete"],
            answer: put(attach::<T>).delete(detach::<T>),
        },
    ]
}

/// What the paths of [`holder_routes`] name: a holder and a policy.
type Named = Path<(String, String)>;

async fn inline_put<T: Of>(
    (Extension(access), Extension(caller)): Asking,
    Path((name, policy)): Named,
    Json(ask): Json<Document>,
) -> Reply<StatusCode> {
    with_holder::<T>(access, caller, name, move |access, caller, holder| {
        access.inline_put(&caller.who(), holder, &policy, &ask.document)
    })
    .await
}

async fn inline_remove<T: Of>(
    (Extension(access), Extension(caller)): Asking,
    Path((name, policy)): Named,
) -> Reply<StatusCode> {
    with_holder::<T>(access, caller, name, move |access, caller, holder| {
        access.inline_remove(&caller.who(), holder, &policy)
    })
    .await
}

async fn attach<T: Of>(
    (Extension(access), Extension(caller)): Asking,
    Path((name, policy)): Named,
) -> Reply<StatusCode> {
    let (project, _) = place(&caller, &name);
    let arn = policy_arn(&access, &project, &policy)?;
    with_holder::<T>(access, caller, name, move |access, caller, holder| {
        access.attach(&caller.who(), holder, &arn)
    })
    .await
}

async fn detach<T: Of>(
    (Extension(access), Extension(caller)): Asking,
    Path((name, policy)): Named,
) -> Reply<StatusCode> {
    let (project, _) = place(&caller, &name);
    let arn = policy_arn(&access, &project, &policy)?;
    with_holder::<T>(access, caller, name, move |access, caller, holder| {
        access.detach(&caller.who(), holder, &arn)
    })
    .await
}

async fn with_holder<T: Of>(
    access: Access,
    caller: Caller,
    name: String,
    work: impl FnOnce(&Access, &Caller, Holder<'_>) -> blockstore::Result<()> + Send + 'static,
) -> Reply<StatusCode> {
    run(move || {
        let (project, name) = place(&caller, &name);
        let holder = Holder {
            sort: T::SORT,
            project: &project,
            name: &name,
        };
        access
            .given(holder)
            .map_err(|error| holder_problem(&access, error, holder))?;
        work(&access, &caller, holder).map_err(Problem::from)
    })
    .await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn list(
    (Extension(access), Extension(caller)): Asking,
    Query(query): Query<ListQuery>,
) -> Reply<Json<PolicyList>> {
    let project = listed(&caller, &query);
    let policies = access.policies(project.as_deref());
    let policies = policies
        .iter()
        .map(|policy| shown(&access, &caller, policy))
        .collect();
    Ok(Json(PolicyList { policies }))
}

async fn create(
    (Extension(access), Extension(caller)): Asking,
    Json(ask): Json<PolicyCreate>,
) -> Reply<(StatusCode, Json<PolicyShown>)> {
    run(move || {
        let (project, name) = place(&caller, &ask.name);
        let who = caller.who();
        let (description, document) = (&ask.description, &ask.document);
        access
            .policy_create(&who, &project, &name, "/", description, document)
            .map(|policy| (StatusCode::CREATED, Json(shown(&access, &caller, &policy))))
            .map_err(|error| suggest(&access, error, "policy", &project, &project))
    })
    .await
}

async fn show(
    (Extension(access), Extension(caller)): Asking,
    Path(policy): Path<String>,
) -> Reply<Json<PolicyShown>> {
    let (project, name) = place(&caller, &policy);
    access
        .policy(&project, &name)
        .map(|policy| Json(shown(&access, &caller, &policy)))
        .map_err(|error| suggest(&access, error, "policy", &project, &name))
}

async fn replace(
    (Extension(access), Extension(caller)): Asking,
    Path(policy): Path<String>,
    Json(ask): Json<Document>,
) -> Reply<Json<PolicyShown>> {
    run(move || {
        let (project, name) = place(&caller, &policy);
        access
            .policy_replace(&caller.who(), &project, &name, &ask.document)
            .map(|policy| Json(shown(&access, &caller, &policy)))
            .map_err(|error| suggest(&access, error, "policy", &project, &name))
    })
    .await
}

async fn remove(
    (Extension(access), Extension(caller)): Asking,
    Path(policy): Path<String>,
) -> Reply<StatusCode> {
    run(move || {
        let (project, name) = place(&caller, &policy);
        access
            .policy_remove(&caller.who(), &project, &name)
            .map_err(|error| suggest(&access, error, "policy", &project, &name))
    })
    .await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn check(Json(ask): Json<Document>) -> Reply<Json<Checked>> {
    let (form, bytes_max) = match ask.form.as_deref().unwrap_or("identity") {
        "identity" => (Form::Identity, IDENTITY_BYTES_MAX),
        "bucket" => (Form::Resource, BUCKET_BYTES_MAX),
        "trust" => (Form::Trust, SESSION_BYTES_MAX),
        "session" => (Form::Session, SESSION_BYTES_MAX),
        other => {
            let message = format!("form {other:?} is none of identity, bucket, trust, session");
            return Err(Problem::new(Kind::Invalid, "policy", message));
        }
    };
    let policy = Policy::parse(&ask.document, form, bytes_max)
        .map_err(|bad| Problem::new(Kind::Invalid, "policy", bad.to_string()))?;
    Ok(Json(Checked {
        reads: true,
        public: policy.is_public(),
    }))
}

async fn test(
    (Extension(access), Extension(caller)): Asking,
    Json(ask): Json<TestAsk>,
) -> Reply<Json<Tested>> {
    run(move || {
        let (project, name) = place(&caller, &ask.caller);
        let principal = access
            .caller_named(&name, &project)
            .map_err(|error| suggest(&access, error, "user", &project, &name))?;
        let asked = Caller {
            principal,
            origin: Origin {
                address: ask.address,
                ..caller.origin.clone()
            },
            request: caller.request.clone(),
        };
        let resource = resource(&ask.on)?;
        let context: Vec<(&str, &str)> = ask
            .context
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
            .collect();
        let need = Need {
            action: &ask.action,
            resource,
            context: &context,
            granted: None,
        };
        let decision = access.explain(&asked, &need)?;
        Ok::<_, Problem>(Json(Tested {
            allowed: decision.allowed,
            why: decision.why,
            policy: decision.policy,
            statement: decision.statement,
            arn: asked.principal.arn(),
            resource: need.resource.to_string(),
        }))
    })
    .await
}

/// What `s3://bucket/key`, `volume:NAME` and so on name.
fn resource(on: &str) -> Result<Resource<'_>, Problem> {
    if let Some((bucket, key)) = s3_url(on) {
        return Ok(match key {
            "" => Resource::Bucket(bucket),
            key => Resource::Object(bucket, key),
        });
    }
    Ok(match on.split_once(':') {
        _ if on == "*" => Resource::All,
        _ if on == "store" => Resource::Store,
        Some(("volume", name)) => Resource::Volume(name),
        Some(("snapshot", name)) => Resource::Snapshot(name),
        Some(("image", name)) => Resource::Image(name),
        Some(("vm", name)) => Resource::Instance(name),
        Some(("host", name)) => Resource::Host(name),
        Some(("project", name)) => Resource::Project(name),
        _ => {
            let message = format!(
                "{on:?} is none of s3://BUCKET[/KEY], volume:NAME, snapshot:NAME, image:NAME, \
                 vm:NAME, host:NAME, project:NAME, store, *"
            );
            return Err(Problem::new(Kind::Invalid, "resource", message));
        }
    })
}

fn shown(access: &Access, caller: &Caller, policy: &ManagedPolicy) -> PolicyShown {
    // Who has a built-in policy is told of the asker's own project only.
    let project = match policy.project.as_str() {
        BUILT_IN_PROJECT => caller.principal.project(),
        project => project,
    };
    let holders = access.policy_holders(project, &policy.arn());
    PolicyShown {
        project: policy.project.clone(),
        name: policy.name.clone(),
        arn: policy.arn(),
        description: policy.description.clone(),
        created_ms: policy.created_ms,
        version: policy.default_version.clone(),
        document: policy.document().to_owned(),
        holders: holders
            .into_iter()
            .map(|(sort, name)| {
                let name = shown_name(caller, project, &name);
                format!("{}/{name}", sort.word())
            })
            .collect(),
    }
}
