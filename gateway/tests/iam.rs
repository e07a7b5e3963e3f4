//! IAM's query API, driven by boto3. A client that is not installed fails the test:
//! `scripts/packages` installs it.

#![allow(
    clippy::unwrap_used,
    reason = "a test may unwrap: its failure is the message"
)]

use access::{Access, Credentials};
use axum::Router;
use axum::extract::Request;
use blockstore::{Options, Store};
use std::path::Path;
use std::process::Command;
use tower::ServiceExt;

#[path = "../../tests/tools/mod.rs"]
mod tools;

const REGION: &str = "eu-central-1";

#[test]
fn boto3_manages_users_groups_roles_and_policies_and_each_counts_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path(), Options::default()).unwrap();
    let root = Credentials::generate();
    let access = Access::open(store.clone(), root.clone()).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let s3 = gateway::s3_service(
        store.clone(),
        access.clone(),
        REGION,
        gateway::Domains::default(),
    );
    let query = gateway::query_service(gateway::Sts::new(access.clone()));
    let both = Router::new().fallback(move |request: Request| {
        let door = if gateway::is_query(&request) {
            query.clone()
        } else {
            s3.clone()
        };
        async move { door.oneshot(request).await }
    });
    let listener = runtime
        .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
        .unwrap();
    let address = listener.local_addr().unwrap();
    runtime.spawn(async move { axum::serve(listener, both).await });

    let python = tools::tool("bin/python");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/iam.py");
    let ran = Command::new(python)
        .arg(script)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("S3_ENDPOINT", format!("http://{address}"))
        .env("AWS_ACCESS_KEY_ID", &root.access_key)
        .env("AWS_SECRET_ACCESS_KEY", &root.secret_key)
        .env("AWS_DEFAULT_REGION", REGION)
        .env_remove("AWS_SESSION_TOKEN")
        .env_remove("AWS_PROFILE")
        .output()
        .unwrap();
    print!("{}", String::from_utf8_lossy(&ran.stdout));
    eprint!("{}", String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success(), "iam.py: {}", ran.status);

    // Both sides of the story are on record, and no secret is.
    access.flush().unwrap();
    let events = store.journal_after(0, 100_000).unwrap();
    let has = |kind: &str, actor: &str| {
        let mut all = events.iter();
        all.any(|event| event.kind == kind && event.actor == actor)
    };
    assert!(has("access.denied", "user/alice"));
    assert!(has("access.allowed", "user/alice"));
    assert!(has("access.allowed", "role/worker/one"));
    assert!(has("user.created", "root"));
    assert!(!format!("{events:?}").contains(&root.secret_key));
}
