//! The gate of the JSON API: finds a request's rule, asks the policy engine for each of its needs,
//! and lets it through to its handler, or not.
//!
//! ```text
//! authenticated ─▶ matched route ─▶ rule ─▶ needs: path, query, body ─▶ authorize, each ─▶ handler
//! ```
//! 1. A route without a rule is refused, whoever asks: an endpoint that somebody forgot is closed.
//! 2. Names come from where the handler reads them: axum's own decoding of the path, and the same
//!    bytes of the body. Bodies are read into memory up to the API's limit.
//! 3. A need whose name is missing is asked about everything of its kind: the handler then says what
//!    is missing, to those who may know.

use super::rules::{self, Name, On, Rule};
use super::{BODY_BYTES_MAX, PREFIX, Problem, s3_url};
use crate::blocking::run;
use access::{Access, Caller, Need, Resource};
use axum::body::{Body, Bytes};
use axum::extract::{FromRequestParts, MatchedPath, RawPathParams, Request, State};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use blockstore::{Kind, Store};
use std::collections::BTreeMap;

/// What the gate asks with.
#[derive(Clone)]
pub(super) struct Gate {
    pub(super) store: Store,
    pub(super) access: Access,
}

/// Lets a request through, or answers why not.
pub(super) async fn pass(State(gate): State<Gate>, request: Request, next: Next) -> Response {
    match decide(gate, request).await {
        Ok(request) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

async fn decide(gate: Gate, request: Request) -> Result<Request, Problem> {
    let Some(matched) = request.extensions().get::<MatchedPath>() else {
        // No route: the fallback says so.
        return Ok(request);
    };
    let path = matched.as_str();
    let path = path.strip_prefix(PREFIX).unwrap_or(path).to_owned();
    // HEAD is answered as GET is, without the body (RFC 9110, 9.3.2).
    let method = match request.method() {
        &Method::HEAD => "get",
        method => method.as_str(),
    };
    let Some(rule) = rules::find(method, &path) else {
        if rules::knows(&path) {
            return Err(Problem::no_method(request.method(), request.uri().path()));
        }
        let message = format!("{PREFIX}{path} is not open to anybody: it has no rule");
        return Err(Problem::new(Kind::Denied, "endpoint", message));
    };
    let Some(caller) = request.extensions().get::<Caller>().cloned() else {
        return Err(Problem::unauthenticated("the request has no caller"));
    };
    let (mut parts, body) = request.into_parts();
    let params = RawPathParams::from_request_parts(&mut parts, &()).await;
    let params = params.map_err(|bad| Problem::new(Kind::Invalid, "path", bad.body_text()))?;
    let mut said = Said {
        path: params
            .iter()
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
        query: parts.uri.query().unwrap_or_default().to_owned(),
        body: serde_json::Value::Null,
    };
    let body = if reads_body(rule) {
        let bytes = read(body).await?;
        // What is no JSON names nothing; the handler refuses it.
        said.body = serde_json::from_slice(&bytes).unwrap_or_default();
        Body::from(bytes)
    } else {
        body
    };
    run(move || ask(&gate, &caller, rule, &said).map_err(Problem::from)).await?;
    Ok(Request::from_parts(parts, body))
}

async fn read(body: Body) -> Result<Bytes, Problem> {
    let read = axum::body::to_bytes(body, BODY_BYTES_MAX).await;
    read.map_err(|bad| {
        let message = format!("the body does not end within {BODY_BYTES_MAX} bytes, or broke off");
        Problem::too_large(message).because(bad.to_string())
    })
}

fn reads_body(rule: &Rule) -> bool {
    let needs = std::iter::once(&rule.on).chain(rule.also.iter().map(|(_, on)| on));
    let flags = rule.flags.iter().map(|(_, name)| *name);
    needs
        .flat_map(On::names)
        .chain(flags)
        .any(|name| matches!(name, Name::Body(_)))
}

impl On {
    fn names(&self) -> Vec<Name> {
        match *self {
            Self::Nothing | Self::All | Self::Store | Self::Host => Vec::new(),
            Self::Object(one, other) | Self::DeprecatedImage(one, other) => vec![one, other],
            Self::Bucket(name)
            | Self::ObjectUrl(name)
            | Self::Volume(name)
            | Self::Snapshot(name)
            | Self::Image(name)
            | Self::Instance(name)
            | Self::Disks(name)
            | Self::Export(name)
            | Self::HostPart(name)
            | Self::Project(name)
            | Self::Identity(_, name)
            | Self::Identities(_, name) => vec![name],
        }
    }
}

/// What a request says.
struct Said {
    path: BTreeMap<String, String>,
    query: String,
    body: serde_json::Value,
}

impl Said {
    fn value(&self, name: Name) -> Option<serde_json::Value> {
        match name {
            Name::Path(name) => self.path.get(name).cloned().map(Into::into),
            Name::Query(name) => form_urlencoded::parse(self.query.as_bytes())
                .find(|(key, _)| key == name)
                .map(|(_, value)| value.into_owned().into()),
            Name::Body(pointer) => self.body.pointer(pointer).cloned(),
        }
        .filter(|value| !value.is_null())
    }

    fn text(&self, name: Name) -> Option<String> {
        self.value(name)?.as_str().map(str::to_owned)
    }
}

/// Asks for everything the rule needs of this request.
fn ask(gate: &Gate, caller: &Caller, rule: &Rule, said: &Said) -> blockstore::Result<()> {
    if rule.on == On::Nothing {
        return Ok(());
    }
    let flags = rule.flags.iter().map(|(key, name)| {
        let asked = said.value(*name) == Some(serde_json::Value::Bool(true));
        (*key, if asked { "true" } else { "false" })
    });
    let context: Vec<(&str, &str)> = flags.collect();
    let first = std::iter::once((rule.action, &rule.on, true));
    let also = rule.also.iter().map(|(action, on)| (*action, on, false));
    for (action, on, always) in first.chain(also) {
        for (action, thing) in gate.things(caller, action, on, always, said)? {
            let need = Need {
                context: &context,
                ..Need::new(action, thing.resource())
            };
            gate.access.authorize_need(caller, &need)?;
        }
    }
    Ok(())
}

/// A resource with its names.
enum Thing {
    All,
    Store,
    Host,
    Bucket(String),
    Object(String, String),
    Volume(String),
    Snapshot(String),
    Image(String),
    Instance(String),
    Project(String),
    Identity(&'static str, String, String),
}

impl Thing {
    fn resource(&self) -> Resource<'_> {
        match self {
            Self::All => Resource::All,
            Self::Store => Resource::Store,
            Self::Host => Resource::Host("local"),
            Self::Bucket(name) => Resource::Bucket(name),
            Self::Object(bucket, key) => Resource::Object(bucket, key),
            Self::Volume(name) => Resource::Volume(name),
            Self::Snapshot(name) => Resource::Snapshot(name),
            Self::Image(name) => Resource::Image(name),
            Self::Instance(name) => Resource::Instance(name),
            Self::Project(name) => Resource::Project(name),
            Self::Identity(sort, project, name) => Resource::Identity(sort, project, name),
        }
    }
}

impl Gate {
    fn things(
        &self,
        caller: &Caller,
        action: &'static str,
        on: &On,
        always: bool,
        said: &Said,
    ) -> blockstore::Result<Vec<(&'static str, Thing)>> {
        let one = |name: Name, make: fn(String) -> Thing| match said.text(name) {
            Some(name) if !name.is_empty() => vec![(action, make(name))],
            _ if always => vec![(action, Thing::All)],
            _ => Vec::new(),
        };
        Ok(match *on {
            On::Nothing => Vec::new(),
            On::All => vec![(action, Thing::All)],
            On::Store => vec![(action, Thing::Store)],
            On::Host => vec![(action, Thing::Host)],
            On::Bucket(name) => one(name, Thing::Bucket),
            On::Volume(name) => one(name, Thing::Volume),
            On::Snapshot(name) => one(name, Thing::Snapshot),
            On::Image(name) => one(name, Thing::Image),
            On::DeprecatedImage(name, said_so) => match (said.text(name), said.value(said_so)) {
                (Some(image), Some(serde_json::Value::Bool(true))) => {
                    vec![(action, Thing::Image(image))]
                }
                _ => Vec::new(),
            },
            On::Instance(name) => one(name, Thing::Instance),
            On::Project(name) => one(name, Thing::Project),
            On::Object(bucket, key) => match (said.text(bucket), said.text(key)) {
                (Some(bucket), Some(key)) => vec![(action, Thing::Object(bucket, key))],
                _ if always => vec![(action, Thing::All)],
                _ => Vec::new(),
            },
            On::ObjectUrl(name) => match said.text(name).as_deref().and_then(s3_url) {
                Some((bucket, key)) => vec![(action, Thing::Object(bucket.into(), key.into()))],
                _ if always => vec![(action, Thing::All)],
                _ => Vec::new(),
            },
            On::Disks(name) => match said.value(name) {
                Some(serde_json::Value::Array(disks)) => {
                    let mut things = Vec::new();
                    for disk in disks.iter().filter_map(serde_json::Value::as_str) {
                        things.push(self.disk(disk)?);
                    }
                    things
                }
                _ => Vec::new(),
            },
            On::Export(name) => match said.text(name) {
                Some(export) => vec![self.export(&export)?],
                None => vec![(action, Thing::All)],
            },
            On::HostPart(name) => match said.text(name).as_deref() {
                // These are no part of the host.
                None | Some("user" | "none") => Vec::new(),
                Some(_) => vec![(action, Thing::Host)],
            },
            On::Identity(sort, name) => {
                let name = said.text(name).unwrap_or_default();
                let (project, name) = super::identities::place(caller, &name);
                vec![(action, Thing::Identity(sort, project, name))]
            }
            On::Identities(sort, name) => {
                let project = said.text(name).filter(|project| !project.is_empty());
                let project = project.unwrap_or_else(|| caller.principal.project().to_owned());
                vec![(action, Thing::Identity(sort, project, "*".into()))]
            }
        })
    }

    /// A disk of an instance, as vmctl reads it: `s3://bucket/key`, a volume or a snapshot, with `:ro`
    /// or `:rw` behind it.
    fn disk(&self, text: &str) -> blockstore::Result<(&'static str, Thing)> {
        let (source, writable) = match text.rsplit_once(':') {
            Some((source, "ro")) => (source, false),
            Some((source, "rw")) => (source, true),
            _ => (text, false),
        };
        if let Some((bucket, key)) = s3_url(source) {
            return Ok(("s3:GetObject", Thing::Object(bucket.into(), key.into())));
        }
        match self.store.volume_info(source) {
            Err(missing) if missing.kind() == Kind::NotFound => {
                Ok(("snapshot:Read", Thing::Snapshot(source.into())))
            }
            Err(error) if error.kind() != Kind::Invalid => Err(error),
            _ if writable => Ok(("volume:Attach", Thing::Volume(source.into()))),
            _ => Ok(("volume:AttachReadOnly", Thing::Volume(source.into()))),
        }
    }

    /// What NBD serves under a name. Whether it may be written is asked where the ticket is made.
    fn export(&self, export: &str) -> blockstore::Result<(&'static str, Thing)> {
        if let Some(name) = export.strip_prefix("snapshot:") {
            return Ok(("snapshot:Read", Thing::Snapshot(name.into())));
        }
        if let Some(name) = export.strip_prefix("image:") {
            return Ok(("image:Read", Thing::Image(name.into())));
        }
        if let Some(path) = export.strip_prefix("object:") {
            let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
            return Ok(("s3:GetObject", Thing::Object(bucket.into(), key.into())));
        }
        Ok(("volume:AttachReadOnly", Thing::Volume(export.into())))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{openapi, router};
    use super::*;
    use access::Credentials;
    use access::identity::{Holder, HolderSort};
    use axum::Router;
    use axum::http::StatusCode;
    use axum::routing::{MethodFilter, on};
    use blockstore::Options;
    use tower::ServiceExt;

    struct Lab {
        api: Router,
        access: Access,
        store: Store,
        root: String,
        user: String,
        _directory: tempfile::TempDir,
    }

    /// The API with a user who was given nothing; what the program adds is answered by 200.
    fn lab() -> Lab {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path(), Options::default()).unwrap();
        let root = Credentials::generate();
        let access = Access::open(store.clone(), root.clone()).unwrap();
        let who = Caller::root("r").who();
        access
            .project_create(&who, "p", "", Default::default())
            .unwrap();
        access.user_create(&who, "p", "nobody", "/", false).unwrap();
        let key = access.key_create(&who, "p", "nobody").unwrap();
        let own = super::super::routes();
        let added = rules::RULES
            .iter()
            .filter(|rule| own.iter().all(|route| route.path != rule.path));
        let extra = added.fold(Router::new(), |router, rule| {
            let method = rule.method.to_ascii_uppercase();
            let filter = MethodFilter::try_from(Method::from_bytes(method.as_bytes()).unwrap());
            router.route(rule.path, on(filter.unwrap(), || async { "added" }))
        });
        let extra = extra.route("/forgotten", axum::routing::get(|| async { "open" }));
        Lab {
            api: router(store.clone(), access.clone(), extra),
            access,
            store,
            root: format!("{}:{}", root.access_key, root.secret_key),
            user: format!("{}:{}", key.info.id, key.secret_key.reveal()),
            _directory: directory,
        }
    }

    impl Lab {
        async fn ask(&self, key: &str, method: &str, path: &str, body: &str) -> (u16, String) {
            let request = Request::builder()
                .method(method.to_ascii_uppercase().as_str())
                .uri(path)
                .header("authorization", format!("Bearer {key}"))
                .header("content-type", "application/json")
                .body(Body::from(body.to_owned()))
                .unwrap();
            let response = self.api.clone().oneshot(request).await.unwrap();
            let status = response.status().as_u16();
            let body = axum::body::to_bytes(response.into_body(), 1 << 22)
                .await
                .unwrap();
            (status, String::from_utf8_lossy(&body).into_owned())
        }
    }

    /// A request that a route's own checks would let through to its work, or nearly.
    fn filled(path: &str) -> String {
        let mut filled = String::new();
        for part in path.split('/').skip(1) {
            filled.push('/');
            filled.push_str(if part.starts_with('{') { "thing" } else { part });
        }
        filled
    }

    const BODY: &str = r#"{"name":"thing","bucket":"thing","key":"k","as":"thing","export":"thing",
        "path":"/nowhere","document":"{}","action":"s3:GetObject","on":"*"}"#;

    #[tokio::test]
    async fn whoever_was_given_nothing_is_refused_at_every_operation() {
        let lab = lab();
        for operation in openapi::operations() {
            let (method, path) = operation.split_once(' ').unwrap();
            let rule = rules::find(method, path).unwrap_or_else(|| panic!("no rule: {operation}"));
            let (status, text) = lab.ask(&lab.user, method, &filled(path), BODY).await;
            if rule.on == On::Nothing {
                assert_eq!(status, 200, "{operation}: {text}");
                continue;
            }
            assert_eq!(status, 403, "{operation}: {text}");
            assert!(text.contains("may not"), "{operation}: {text}");
            let (status, text) = lab.ask(&lab.root, method, &filled(path), BODY).await;
            assert_ne!(status, 403, "root, {operation}: {text}");
            let (status, _) = lab.ask("x:y", method, &filled(path), BODY).await;
            assert_eq!(status, 401, "{operation}");
        }
    }

    #[tokio::test]
    async fn every_rule_is_an_operation_of_the_document_and_of_a_door() {
        let operations = openapi::operations();
        for rule in rules::RULES {
            let operation = format!("{} {}", rule.method, rule.path);
            assert!(operations.contains(&operation), "{operation}");
        }
    }

    #[tokio::test]
    async fn a_route_that_somebody_forgot_is_closed_to_root_too() {
        let lab = lab();
        let (status, text) = lab.ask(&lab.root, "get", "/forgotten", "").await;
        assert_eq!(status, 403, "{text}");
        let (status, _) = lab.ask(&lab.root, "get", "/nowhere", "").await;
        assert_eq!(status, 404);
        let (status, _) = lab.ask(&lab.root, "patch", "/volumes", "").await;
        assert_eq!(status, 405);
    }

    #[tokio::test]
    async fn what_a_request_uses_beside_its_subject_is_asked_for_too() {
        let lab = lab();
        let who = Caller::root("r").who();
        let holder = Holder {
            sort: HolderSort::User,
            project: "p",
            name: "nobody",
        };
        let policy = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow",
            "Action":["vm:Run","volume:Create","volume:Snapshot","image:Add"],"Resource":"*"},
            {"Effect":"Allow","Action":"image:Use","Resource":"arn:infall:image:::usable"}]}"#;
        lab.access.inline_put(&who, holder, "w", policy).unwrap();
        for (path, body, what) in [
            ("/vms", r#"{"name":"v","image":"i"}"#, "image:Use"),
            ("/vms", r#"{"name":"v","root_volume":"r"}"#, "volume:Attach"),
            (
                "/vms",
                r#"{"name":"v","boot_file":"/etc/shadow"}"#,
                "host:Use",
            ),
            ("/vms", r#"{"name":"v","kernel":"/etc/shadow"}"#, "host:Use"),
            ("/vms", r#"{"name":"v","network":"bridge:br0"}"#, "host:Use"),
            (
                "/vms",
                r#"{"name":"v","volumes":["s3://b/k"]}"#,
                "s3:GetObject",
            ),
            (
                "/vms",
                r#"{"name":"v","volumes":["x:rw"]}"#,
                "snapshot:Read",
            ),
            (
                "/volumes",
                r#"{"name":"v","origin":{"image":"i"}}"#,
                "image:Use",
            ),
            (
                "/volumes",
                r#"{"name":"v","origin":{"snapshot":"s"}}"#,
                "snapshot:Read",
            ),
            (
                "/volumes/v/snapshot",
                r#"{"publish":"s3://b/k"}"#,
                "s3:PutObject",
            ),
            (
                "/images",
                r#"{"name":"i","bucket":"b","key":"k"}"#,
                "s3:GetObject",
            ),
            (
                "/vms",
                r#"{"name":"v","image":"usable","deprecated":true}"#,
                "image:UseDeprecated",
            ),
            (
                "/volumes",
                r#"{"name":"v","origin":{"image":"usable"},"deprecated":true}"#,
                "image:UseDeprecated",
            ),
        ] {
            let (status, text) = lab.ask(&lab.user, "post", path, body).await;
            assert_eq!(status, 403, "{path} {body}: {text}");
            assert!(text.contains(what), "{path} {body}: {text} lacks {what}");
        }
        let (status, text) = lab
            .ask(
                &lab.user,
                "post",
                "/vms",
                r#"{"name":"v","network":"user"}"#,
            )
            .await;
        assert_eq!(status, 200, "{text}");
    }

    #[tokio::test]
    async fn lists_hold_only_what_their_reader_may_describe() {
        let lab = lab();
        let root = Caller::root("r").who();
        let mut theirs = root.clone();
        theirs.project = "p".into();
        for (who, name) in [(&root, "root-thing"), (&theirs, "p-thing")] {
            lab.store.bucket_create(who, name).unwrap();
            let empty = blockstore::volume::Origin::Empty;
            lab.store
                .volume_create(who, name, Some(1 << 20), &empty)
                .unwrap();
            lab.store
                .snapshot_create(who, name, Some(name), None)
                .unwrap();
        }
        let holder = Holder {
            sort: HolderSort::User,
            project: "p",
            name: "nobody",
        };
        let read = "arn:aws:iam::aws:policy/ReadOnlyAccess";
        lab.access.attach(&root, holder, read).unwrap();
        for path in ["/buckets", "/volumes", "/snapshots"] {
            let (status, text) = lab.ask(&lab.user, "get", path, "").await;
            assert_eq!(status, 200, "{path}: {text}");
            assert!(text.contains("p-thing"), "{path}: {text}");
            assert!(!text.contains("root-thing"), "{path}: {text}");
            let (_, text) = lab.ask(&lab.root, "get", path, "").await;
            assert!(text.contains("p-thing") && text.contains("root-thing"));
        }
        // Nor does a misspelt name find the name of somebody else's.
        let (status, text) = lab.ask(&lab.user, "get", "/volumes/root-thin", "").await;
        assert_eq!(status, 404, "{text}");
        assert!(!text.contains("root-thing"), "{text}");
        let (_, text) = lab.ask(&lab.user, "get", "/volumes/p-thin", "").await;
        assert!(text.contains("p-thing"), "{text}");
        let (_, text) = lab.ask(&lab.user, "get", "/projects", "").await;
        let shown: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            shown["projects"].as_array().map(Vec::len),
            Some(1),
            "{text}"
        );
        let (status, _) = lab.ask(&lab.user, "get", "/users?project=root", "").await;
        assert_eq!(status, StatusCode::FORBIDDEN.as_u16());
    }

    #[tokio::test]
    async fn nobody_but_root_touches_the_root_key() {
        let lab = lab();
        let who = Caller::root("r").who();
        lab.access
            .user_create(&who, "root", "boss", "/", false)
            .unwrap();
        let holder = Holder {
            sort: HolderSort::User,
            project: "root",
            name: "boss",
        };
        let admin = "arn:aws:iam::aws:policy/AdministratorAccess";
        lab.access.attach(&who, holder, admin).unwrap();
        let key = lab.access.key_create(&who, "root", "boss").unwrap();
        let boss = format!("{}:{}", key.info.id, key.secret_key.reveal());
        for (method, path) in [
            ("get", "/users/root/keys"),
            ("post", "/users/root/keys"),
            ("post", "/users/root/keys/x/rotate"),
            ("delete", "/users/root%2Froot/keys/x"),
        ] {
            let (status, text) = lab.ask(&boss, method, path, "{}").await;
            assert_eq!(status, 403, "{method} {path}: {text}");
        }
        let refused = lab.access.user_create(&who, "root", "root", "/", false);
        assert_eq!(refused.unwrap_err().kind(), Kind::Invalid);
    }

    #[tokio::test]
    async fn a_projects_admin_manages_its_users_over_the_api() {
        let lab = lab();
        let who = Caller::root("r").who();
        let holder = Holder {
            sort: HolderSort::User,
            project: "p",
            name: "nobody",
        };
        let admin = "arn:aws:iam::aws:policy/ProjectAdmin";
        lab.access.attach(&who, holder, admin).unwrap();
        let user = &lab.user;
        let (status, text) = lab.ask(user, "post", "/users", r#"{"name":"eve"}"#).await;
        assert_eq!(status, 201, "{text}");
        let (status, text) = lab.ask(user, "post", "/users/eve/keys", "").await;
        assert_eq!(status, 201, "{text}");
        assert!(text.contains("secret_key"));
        let (_, text) = lab.ask(user, "get", "/users/eve/keys", "").await;
        assert!(!text.contains("secret"), "{text}");
        let (status, text) = lab
            .ask(user, "put", "/users/eve/attached/ProjectReader", "")
            .await;
        assert_eq!(status, 204, "{text}");
        let ask = r#"{"as":"eve","action":"volume:Delete","on":"volume:x"}"#;
        let (_, text) = lab.ask(user, "post", "/policy-test", ask).await;
        assert!(text.contains(r#""allowed":false"#), "{text}");
        let ask = r#"{"name":"q/mallory"}"#;
        let (status, text) = lab.ask(user, "post", "/users", ask).await;
        assert_eq!(status, 403, "{text}");
        let (status, text) = lab.ask(user, "get", "/users/evv", "").await;
        assert_eq!(status, 404);
        assert!(text.contains(r#""nearest":"eve""#), "{text}");
    }
}
