//! Buckets as hosts: `--s3-domain`, over plain HTTP and over TLS with a certificate for all of them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod harness;
mod tools;

use harness::{Server, run};
use std::path::Path;
use std::process::Command;

/// Runs the Python clients against `scheme://s3.infall.test`, which they find on this machine.
fn clients_agree(server: &Server, scheme: &str) {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hosts");
    let address = server.address();
    let port = address.rsplit(':').next().unwrap();
    let (access, secret) = server.credentials();
    let file = server.file().unwrap();
    let mut command = Command::new(tools::tool("bin/python"));
    command
        .arg(here.join("virtual.py"))
        .env_clear()
        .env("HOME", server.scratch())
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("PYTHONPATH", &here)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env(
            "AWS_ENDPOINT_URL",
            format!("{scheme}://s3.infall.test:{port}"),
        )
        .env("AWS_ACCESS_KEY_ID", access)
        .env("AWS_SECRET_ACCESS_KEY", secret)
        .env("AWS_DEFAULT_REGION", "infall");
    if let Some(ca) = file["ca"].as_str() {
        command.env("AWS_CA_BUNDLE", ca).env("SSL_CERT_FILE", ca);
    }
    let said = run(&mut command).ok();
    assert!(said.contains("ok virtual hosts"), "{said}");
}

#[test]
fn boto3_and_aws_speak_to_each_bucket_as_a_host() {
    let server = Server::start_with(&["--s3-domain", "s3.infall.test"]);
    clients_agree(&server, "http");
}

#[test]
fn one_certificate_serves_all_buckets() {
    let mut server = Server::start_with(&["--s3-domain", "s3.infall.test"]);
    server.stop();
    let names = ["tls", "make", "s3.infall.test", "*.s3.infall.test"];
    server.infall(&names).ok();
    server.restart();
    clients_agree(&server, "https");
}

#[test]
fn a_domain_that_is_none_is_refused_before_anything_is_served() {
    let folder = tempfile::tempdir().unwrap();
    for (domain, why) in [
        ("*.s3.example.org", "no domain"),
        ("10.0.0.1", "no domain"),
        ("s3.test, a.s3.test", "lies within"),
    ] {
        let file = folder.path().join("config.toml");
        std::fs::write(&file, format!("[s3]\ndomain = [\"{domain}\"]\n")).unwrap();
        let mut command = harness::program(folder.path());
        command.args(["config", "check", "--config"]).arg(&file);
        let said = run(&mut command).fails(2);
        assert!(said.contains(why) && said.contains("s3.domain"), "{said}");
    }
}
