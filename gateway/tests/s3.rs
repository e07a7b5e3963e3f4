//! The S3 door, driven by the clients that people use and by requests that nobody should send.
//!
//! Each test starts the router on a free loopback port over a store in a temporary directory and
//! runs one script of `tests/clients/`, whose claims are listed in the output. A client that is not
//! installed fails the test: `scripts/packages` installs them all.

#![allow(
    clippy::unwrap_used,
    reason = "a test may unwrap: its failure is the message"
)]

#[path = "s3/people.rs"]
mod people;
#[path = "../../tests/tools/mod.rs"]
mod tools;

use access::{Access, Credentials};
use blockstore::object::ListQuery;
use blockstore::{Options, Store};
use gateway::s3_service;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use tokio::runtime::Runtime;

/// Not S3's default, so that a client that asks for the region must be told the right one.
const REGION: &str = "eu-central-1";

/// A running door.
struct Server {
    address: SocketAddr,
    credentials: Credentials,
    store: Store,
    access: Access,
    // Ends the server's tasks before the store's directory goes.
    _runtime: Runtime,
    _directory: Option<tempfile::TempDir>,
}

impl Server {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut server = Self::open(directory.path(), Options::default(), REGION);
        server._directory = Some(directory);
        server
    }

    fn open(path: &Path, options: Options, region: &str) -> Self {
        let store = Store::open(path, options).unwrap();
        let credentials = Credentials::generate();
        let access = Access::open(store.clone(), credentials.clone()).unwrap();
        let runtime = Runtime::new().unwrap();
        let door = s3_service(
            store.clone(),
            access.clone(),
            region,
            gateway::Domains::default(),
        );
        let listener = runtime
            .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
            .unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(async move { axum::serve(listener, door).await });
        Self {
            address,
            credentials,
            store,
            access,
            _runtime: runtime,
            _directory: None,
        }
    }

    /// Runs a script with the tools' Python. Its claims are its output; it fails if one fails.
    fn run(&self, script: &str) {
        self.run_with(script, &[]);
    }

    /// As [`Self::run`], with more in its environment.
    fn run_with(&self, script: &str, more: &[(&str, &str)]) {
        let python = tools::tool("bin/python");
        let clients = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients");
        let ran = Command::new(python)
            .arg(clients.join(script))
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("S3_ENDPOINT", format!("http://{}", self.address))
            .env("AWS_ACCESS_KEY_ID", &self.credentials.access_key)
            .env("AWS_SECRET_ACCESS_KEY", &self.credentials.secret_key)
            .env("AWS_DEFAULT_REGION", REGION)
            .env_remove("AWS_SESSION_TOKEN")
            .env_remove("AWS_PROFILE")
            .envs(more.iter().copied())
            .output()
            .unwrap();
        print!("{}", String::from_utf8_lossy(&ran.stdout));
        eprint!("{}", String::from_utf8_lossy(&ran.stderr));
        assert!(ran.status.success(), "{script}: {}", ran.status);
    }
}

fn expect_command(name: &str) {
    let found = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(name).exists()));
    assert!(found, "{name} is missing. Run scripts/packages");
}

#[test]
fn boto3_sees_s3_as_it_knows_it() {
    let server = Server::start();
    server.run("boto.py");
    // Every change is in the journal under the id that its reply carried.
    let events = server.store.journal_after(0, 10_000).unwrap();
    let puts: Vec<_> = events
        .iter()
        .filter(|event| event.kind == "object.put")
        .collect();
    assert!(puts.len() > 50);
    assert!(
        puts.iter()
            .all(|event| event.actor == "root" && event.request.len() == 32)
    );
}

#[test]
fn aws_rclone_and_s3cmd_work_as_they_come() {
    expect_command("rclone");
    expect_command("s3cmd");
    let server = Server::start();
    server.run("tools.py");
    assert!(
        server.store.buckets().unwrap().is_empty(),
        "each tool removed what it made"
    );
}

#[test]
fn bad_input_is_refused_in_s3_s_own_words_and_nothing_is_committed() {
    let server = Server::start();
    server.run("raw.py");
    let all = ListQuery {
        max: 1000,
        ..ListQuery::default()
    };
    let page = server.store.object_list("raw-claims", &all).unwrap();
    let keys: Vec<_> = page
        .objects
        .iter()
        .map(|object| object.key.as_str())
        .collect();
    assert_eq!(
        keys,
        [
            "expected",
            "expected-empty",
            "good",
            "long",
            "signed-chunks",
            "skewed-little",
            "trailed-CRC32-200",
            "trailed-SHA256-200"
        ]
    );
}
