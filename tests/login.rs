//! Log in with a real OpenID provider: `infall login`, STS by boto3, and the tokens that open nothing.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod harness;
mod tools;

use harness::{Server, program};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use tools::{tool, tools};

fn here(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/login")
        .join(name)
}

/// A running issuer, ended by its process id.
struct Issuer {
    child: Child,
    url: String,
    /// It would end if nobody held the other side of its output.
    _output: BufReader<ChildStdout>,
}

impl Issuer {
    fn start(port: &str, key: &str) -> Self {
        tool("node_modules/oidc-provider");
        let mut child = Command::new("node")
            .arg(here("issuer.mjs"))
            .args([port, key])
            .env("NODE_HOME", tools())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut url = String::new();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        output.read_line(&mut url).unwrap();
        assert!(
            url.starts_with("http://127.0.0.1:"),
            "the issuer did not start: {url:?}"
        );
        Self {
            child,
            url: url.trim().to_owned(),
            _output: output,
        }
    }

    fn port(&self) -> &str {
        self.url.rsplit(':').next().unwrap()
    }
}

impl Drop for Issuer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn trust(issuer: &str, group: &str) -> String {
    let short = issuer.trim_start_matches("http://");
    serde_json::json!({
        "Version": "2012-10-17",
        "Statement": [{
            "Effect": "Allow",
            "Action": "sts:AssumeRoleWithWebIdentity",
            "Principal": { "Federated": issuer },
            "Condition": { "ForAnyValue:StringEquals": { format!("{short}:groups"): group } }
        }]
    })
    .to_string()
}

/// A project with a role that opens to a group, a bucket, and an issuer on the list.
fn provider(server: &Server, issuer: &Issuer) {
    let file = |name: &str, text: &str| {
        let path = server.scratch().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let role = |name: &str, group: &str| {
        let trust = file("trust.json", &trust(&issuer.url, group));
        server
            .infall(&[
                "role",
                "create",
                &format!("physics/{name}"),
                "--trust",
                &trust,
            ])
            .ok();
    };
    server.infall(&["project", "create", "physics"]).ok();
    server
        .infall(&[
            "issuer",
            "add",
            "test",
            "--url",
            &issuer.url,
            "--audience",
            "infall",
        ])
        .ok();
    role("reader", "vo.example.org#member");
    role("admin", "vo.example.org#admin");
    let read = r#"{"Version": "2012-10-17", "Statement": [{"Effect": "Allow",
        "Action": ["s3:GetObject", "s3:ListBucket"], "Resource": "arn:aws:s3:::shared*"}]}"#;
    let read = file("read.json", read);
    server
        .infall(&["role", "policy", "put", "physics/reader", "read", &read])
        .ok();
    // The bucket is root's; its policy lets the project's roles in.
    let (access, secret) = server.credentials();
    let policy = r#"{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": {"AWS": "arn:aws:iam::physics:root"},
        "Action": "s3:*", "Resource": ["arn:aws:s3:::shared", "arn:aws:s3:::shared/*"]}]}"#;
    for words in [
        vec!["s3api", "create-bucket", "--bucket", "shared"],
        vec![
            "s3api",
            "put-bucket-policy",
            "--bucket",
            "shared",
            "--policy",
            policy,
        ],
    ] {
        aws(server, &access, &secret, None, &words, b"");
    }
    aws(
        server,
        &access,
        &secret,
        None,
        &["s3", "cp", "-", "s3://shared/hello"],
        b"hello",
    );
}

#[track_caller]
fn aws(
    server: &Server,
    access: &str,
    secret: &str,
    token: Option<&str>,
    words: &[&str],
    input: &[u8],
) -> String {
    let mut command = Command::new(tool("bin/aws"));
    command
        .args(words)
        .env("AWS_ENDPOINT_URL", server.endpoint())
        .env("AWS_DEFAULT_REGION", "infall")
        .env("AWS_ACCESS_KEY_ID", access)
        .env("AWS_SECRET_ACCESS_KEY", secret)
        .env("HOME", server.scratch())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    match token {
        Some(token) => command.env("AWS_SESSION_TOKEN", token),
        None => command.env_remove("AWS_SESSION_TOKEN"),
    };
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let done = child.wait_with_output().unwrap();
    assert!(
        done.status.success(),
        "aws {words:?}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
    String::from_utf8_lossy(&done.stdout).into_owned()
}

/// `infall login` by the device flow, with `name` at the browser.
fn login(server: &Server, name: &str, more: &[&str]) -> (bool, String) {
    let mut child = program(server.scratch())
        .arg("--data")
        .arg(server.data())
        .arg("login")
        .args(more)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    if let Some(page) = line.trim().strip_prefix("Open ") {
        let browser = Command::new(tool("bin/python"))
            .arg(here("browser.py"))
            .args([page, name])
            .output()
            .unwrap();
        assert!(
            browser.status.success(),
            "{}",
            String::from_utf8_lossy(&browser.stderr)
        );
    }
    let mut said = line;
    lines.read_to_string(&mut said).unwrap();
    let mut output = String::new();
    child
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut output)
        .unwrap();
    (child.wait().unwrap().success(), format!("{output}{said}"))
}

#[test]
fn a_member_logs_in_with_a_code_and_an_outsider_finds_no_role() {
    let issuer = Issuer::start("0", "one");
    let server = Server::start();
    provider(&server, &issuer);

    let (held, said) = login(&server, "alice", &[]);
    assert!(held, "{said}");
    assert!(said.contains("physics:role/reader"), "{said}");
    let kept = server.scratch().join(".local/state/infall/sessions.json");
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&kept).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);

    // The program now speaks as the member, who may not make users; aws does, too.
    server.infall(&["user", "create", "mallory"]).fails(6);
    let variables = server.json(&["env"]);
    let of = |name: &str| variables[name].as_str().unwrap().to_owned();
    let [access, secret, token] = [
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
    ]
    .map(of);
    let read = ["s3", "cp", "s3://shared/hello", "-"];
    assert_eq!(
        aws(&server, &access, &secret, Some(&token), &read, b""),
        "hello"
    );

    server.infall(&["logout"]).ok();
    server.infall(&["user", "create", "physics/carol"]).ok();
    let (held, said) = login(&server, "bob", &[]);
    assert!(!held && said.contains("no role here is open"), "{said}");
    let (held, said) = login(&server, "alice", &["--role", "physics/admin"]);
    assert!(!held && said.contains("not open"), "{said}");

    let log = server.log();
    let events = server.infall(&["events"]).ok();
    for secret in [&secret, &token] {
        assert!(!log.contains(secret.as_str()) && !events.contains(secret.as_str()));
    }
    assert!(
        !log.contains("eyJ") && !events.contains("eyJ"),
        "a token is in the log or the journal"
    );
    assert!(events.contains("sts:AssumeRoleWithWebIdentity"), "{events}");
}

#[test]
fn sts_lets_in_whom_the_trust_names_and_refuses_forged_expired_and_replayed_tokens() {
    let issuer = Issuer::start("0", "one");
    let server = Server::start();
    provider(&server, &issuer);
    let (access, secret) = server.credentials();
    let run = || {
        let done = Command::new(tool("bin/python"))
            .arg(here("sts.py"))
            .arg(&issuer.url)
            .args([
                "arn:aws:iam::physics:role/reader",
                "arn:aws:iam::physics:role/admin",
            ])
            .env("AWS_ENDPOINT_URL", server.endpoint())
            .env("AWS_ACCESS_KEY_ID", &access)
            .env("AWS_SECRET_ACCESS_KEY", &secret)
            .env_remove("AWS_SESSION_TOKEN")
            .output()
            .unwrap();
        assert!(
            done.status.success(),
            "{}",
            String::from_utf8_lossy(&done.stderr)
        );
    };
    run();
}

#[test]
fn keys_are_rotated_and_an_issuer_that_is_down_is_said_to_be() {
    let issuer = Issuer::start("0", "one");
    let server = Server::start();
    provider(&server, &issuer);
    let (held, said) = login(&server, "alice", &[]);
    assert!(held, "{said}");
    server.infall(&["logout"]).ok();

    // The same address, another key: known as soon as a token names it.
    let port = issuer.port().to_owned();
    drop(issuer);
    let (held, said) = login(&server, "alice", &[]);
    assert!(!held && said.contains("does not answer"), "{said}");
    // What it says of itself is taken for true for ten seconds, and as long is not asked again for keys.
    std::thread::sleep(std::time::Duration::from_secs(11));
    let issuer = Issuer::start(&port, "two");
    let (held, said) = login(&server, "alice", &[]);
    assert!(held, "{said}");
    server.infall(&["logout"]).ok();
    server.infall(&["issuer", "rm", "test"]).ok();
    std::thread::sleep(std::time::Duration::from_secs(11));
    let (held, said) = login(&server, "alice", &[]);
    assert!(!held && said.contains("believes no issuer"), "{said}");
    drop(issuer);
}
