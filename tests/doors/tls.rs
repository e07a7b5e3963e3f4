//! TLS: certificates that `infall tls` makes, loads and replaces, seen by clients that people use.

use super::{tool, with_tls};
use crate::harness::{self, Server};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A connection over TLS that stays open.
struct Client(rustls::StreamOwned<rustls::ClientConnection, TcpStream>);

impl Client {
    fn connect(server: &Server, ca: &Path) -> Self {
        let mut roots = rustls::RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_file(ca).unwrap())
            .unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from("store.example.org").unwrap();
        let client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
        let socket = TcpStream::connect(server.address()).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        let mut stream = rustls::StreamOwned::new(client, socket);
        stream.flush().unwrap();
        Self(stream)
    }

    fn ask(&mut self) -> String {
        self.0
            .write_all(b"GET /api/v1/volumes HTTP/1.1\r\nHost: store.example.org\r\n\r\n")
            .unwrap();
        let mut answer = vec![0; 16 << 10];
        let count = self.0.read(&mut answer).unwrap();
        String::from_utf8_lossy(&answer[..count]).into_owned()
    }

    fn certificate(&mut self) -> Vec<u8> {
        self.ask();
        self.0.conn.peer_certificates().unwrap()[0].to_vec()
    }
}

#[test]
fn aws_curl_openssl_and_infall_trust_the_certificate_that_infall_made() {
    let server = with_tls(&[]);
    let file = server.file().unwrap();
    assert_eq!(server.endpoint(), format!("https://{}", server.address()));
    let ca = file["ca"].as_str().unwrap();
    // Our own commands find the CA by themselves.
    server.infall(&["bucket", "create", "data"]).ok();
    let env = server.json(&["env"]);
    assert_eq!(env["AWS_CA_BUNDLE"], ca);
    // aws, by its variable and by its flag.
    let mut aws = crate::traffic::tool(&server, "aws");
    let listed = harness::run(aws.args(["s3", "ls", "--ca-bundle", ca])).ok();
    assert!(listed.contains("data"), "{listed}");
    let mut aws = crate::traffic::tool(&server, "aws");
    harness::run(aws.args(["s3", "ls"]).env("AWS_CA_BUNDLE", ca)).ok();
    let mut aws = crate::traffic::tool(&server, "aws");
    let refused = harness::run(aws.args(["s3", "ls"]));
    assert!(
        refused.stderr.contains("CERTIFICATE_VERIFY_FAILED"),
        "{refused:?}"
    );
    // curl, by name.
    let (_, port) = server
        .address()
        .rsplit_once(':')
        .map(|(a, b)| (a.to_owned(), b.to_owned()))
        .unwrap();
    let url = format!("https://store.example.org:{port}/api/v1/volumes");
    let resolve = format!("store.example.org:{port}:127.0.0.1");
    let words = ["-sS", "--cacert", ca, "--resolve", &resolve, &url];
    assert!(tool("curl", &words).ok().contains("credentials"));
    let distrusted = tool("curl", &["-sS", "--resolve", &resolve, &url]);
    assert_eq!(distrusted.code, 60, "{distrusted:?}");
    // openssl, and the oldest version that is spoken.
    let address = server.address();
    for version in ["-tls1_2", "-tls1_3"] {
        let words = [
            "s_client", "-connect", &address, "-CAfile", ca, version, "-brief",
        ];
        let seen = tool("openssl", &words);
        assert!(seen.stderr.contains("Verification: OK"), "{seen:?}");
    }
    let words = ["s_client", "-connect", &address, "-CAfile", ca, "-tls1_1"];
    assert_ne!(tool("openssl", &words).code, 0);
    // Somebody else's CA convinces nobody, and the words say what to do.
    let other = tempfile::tempdir().unwrap();
    let data = other.path().to_str().unwrap();
    let mut program = harness::program(other.path());
    harness::run(program.args(["--data", data, "tls", "make"])).ok();
    let wrong = other.path().join("tls/ca-cert.pem");
    let said = server
        .infall(&["--ca", wrong.to_str().unwrap(), "status"])
        .fails(6);
    assert!(
        said.contains("not trusted") && said.contains("--ca"),
        "{said}"
    );
}

#[test]
fn who_speaks_plain_http_to_tls_is_told_so() {
    let server = with_tls(&[]);
    let mut stream = TcpStream::connect(server.address()).unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 400 ") && answer.contains("https://"),
        "{answer}"
    );
}

#[test]
fn a_new_certificate_is_taken_by_signal_and_by_itself_and_no_connection_drops() {
    let server = with_tls(&[]);
    let ca = server.data().join("tls/ca-cert.pem");
    let mut old = Client::connect(&server, &ca);
    let first = old.certificate();
    // By SIGHUP, at once.
    server.infall(&["tls", "make", "store.example.org"]).ok();
    let pid = rustix::process::Pid::from_raw(i32::try_from(server.pid()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    let fresh = |unlike: &[u8]| {
        let until = Instant::now() + Duration::from_secs(15);
        loop {
            let found = Client::connect(&server, &ca).certificate();
            if found != unlike {
                return found;
            }
            assert!(Instant::now() < until, "the old certificate goes on");
            std::thread::sleep(Duration::from_millis(100));
        }
    };
    let second = fresh(&first);
    // By itself, soon.
    server.infall(&["tls", "make", "store.example.org"]).ok();
    fresh(&second);
    // A pair that does not fit is not taken.
    std::fs::write(server.data().join("tls/server-key.pem"), "nonsense").unwrap();
    std::thread::sleep(Duration::from_secs(5));
    Client::connect(&server, &ca).certificate();
    assert!(server.log().contains("the old certificate goes on"));
    assert!(
        old.ask().starts_with("HTTP/1.1 401 "),
        "the old connection stands"
    );
}

#[test]
fn off_loopback_nothing_is_served_without_tls_and_the_words_say_how_to_get_it() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let serve = |more: &[&str]| {
        let mut program = harness::program(folder.path());
        program.arg("--data").arg(&data).arg("serve").args(more);
        harness::run(&mut program)
    };
    let said = serve(&["--listen", "0.0.0.0:0"]).fails(2);
    assert!(
        said.contains("serve.listen = 0.0.0.0:0") && said.contains("infall tls make"),
        "{said}"
    );
    let said = serve(&["--listen", "127.0.0.1:0", "--nbd-tcp", "0.0.0.0:0"]).fails(2);
    assert!(
        said.contains("serve.nbd_tcp") && said.contains("infall tls make"),
        "{said}"
    );
    assert!(!data.join("credentials").exists(), "nothing was made");
}

#[test]
fn a_certificate_from_elsewhere_is_loaded_and_shown() {
    let mut server = Server::start();
    let there = server.scratch().join("elsewhere");
    let mut program = harness::program(server.scratch());
    let made = ["tls", "make", "store.example.org"];
    harness::run(program.arg("--data").arg(&there).args(made)).ok();
    let file = |name: &str| there.join("tls").join(name).to_str().unwrap().to_owned();
    let (cert, key, ca) = (
        file("server-cert.pem"),
        file("server-key.pem"),
        file("ca-cert.pem"),
    );
    // A key of another pair is refused, and nothing is changed.
    let other = file("ca-key.pem");
    let said = server
        .infall(&["tls", "load", "--cert", &cert, "--key", &other])
        .fails(9);
    assert!(said.contains("are no pair"), "{said}");
    server.infall(&["tls", "show"]).fails(4);
    let words = [
        "tls", "load", "--cert", &cert, "--key", &key, "--issuer", &ca,
    ];
    server.infall(&words).ok();
    let shown = server.json(&["tls", "show"]);
    assert!(
        shown["names"]
            .as_array()
            .unwrap()
            .iter()
            .any(|name| name == "store.example.org")
    );
    server.stop();
    server.restart();
    assert!(server.endpoint().starts_with("https://"));
    server.infall(&["status"]).ok();
}
