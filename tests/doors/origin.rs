//! Where a request came from, as the audit has it.

use super::tool;
use crate::harness::{self, Server};
use std::time::{Duration, Instant};

/// An address of nobody (RFC 5737).
const CLAIMED: &str = "203.0.113.9";

/// The journal, once it has a line with all of `words`.
fn audit(server: &Server, words: &[&str]) -> String {
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        let events = server.infall(&["events", "--json"]).ok();
        let found = events
            .lines()
            .any(|line| words.iter().all(|word| line.contains(word)));
        if found {
            return events;
        }
        assert!(Instant::now() < until, "no line with {words:?}:\n{events}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// An S3 request whose headers claim another address in both ways there are.
fn claim(server: &Server) {
    server.infall(&["bucket", "create", "data"]).ok();
    let script = "import boto3, botocore, os\n\
        v4 = botocore.config.Config(signature_version='s3v4')\n\
        s3 = boto3.client('s3', endpoint_url=os.environ['AWS_ENDPOINT_URL'], config=v4)\n\
        print(s3.generate_presigned_url('head_bucket', Params={'Bucket': 'data'}))\n";
    let mut python = crate::traffic::tool(server, "python");
    let url = harness::run(python.args(["-c", script])).ok();
    let (one, two) = (
        format!("X-Forwarded-For: 10.1.1.1, {CLAIMED}"),
        format!("Forwarded: for={CLAIMED};proto=https"),
    );
    let words = [
        "-sS",
        "-I",
        "-f",
        "-H",
        &one,
        "-H",
        &two,
        "-A",
        "probe/1",
        url.trim(),
    ];
    tool("curl", &words).ok();
}

#[test]
fn a_strangers_forwarded_for_changes_nothing() {
    let server = Server::start();
    claim(&server);
    let events = audit(&server, &["s3:ListBucket", "127.0.0.1", "probe/1"]);
    assert!(
        !events.contains(CLAIMED) && !events.contains("10.1.1.1"),
        "{events}"
    );
}

#[test]
fn a_trusted_proxy_names_the_client_and_what_stands_before_is_not_believed() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config.toml");
    std::fs::write(&config, "[serve]\ntrusted_proxies = \"127.0.0.0/8\"\n").unwrap();
    let server = Server::start_with(&["--config", config.to_str().unwrap()]);
    claim(&server);
    let events = audit(&server, &["s3:ListBucket", CLAIMED, "probe/1"]);
    assert!(!events.contains("10.1.1.1"), "{events}");
}

#[test]
fn who_opens_the_operators_nbd_socket_is_on_record_by_process_and_user() {
    let server = Server::start();
    server
        .infall(&["volume", "create", "v1", "--length", "1M"])
        .ok();
    let url = server.infall(&["volume", "url", "v1"]).ok();
    tool("nbdinfo", &["--size", url.trim()]).ok();
    audit(&server, &["volume:Attach", "nbdinfo pid", "uid "]);
}
