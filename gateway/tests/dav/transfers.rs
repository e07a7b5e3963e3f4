//! Third-party copies: between two doors by davix and curl, and with servers that misbehave.

use crate::server::{Reply, Server, run};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Command;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Two doors; the first may reach the second.
fn pair() -> (Server, Server) {
    let other = Server::start();
    let own = Server::reaching(&other.address.to_string());
    own.make("own");
    other.make("other");
    (own, other)
}

fn copy(server: &Server, path: &str, more: &[String]) -> Reply {
    let mut words = Vec::new();
    for header in more {
        words.push("-H");
        words.push(header.as_str());
    }
    server.curl("COPY", path, &words)
}

fn key_for(other: &Server) -> String {
    format!("TransferHeaderAuthorization: {}", other.bearer())
}

/// The last line of a reply that was accepted.
fn last(reply: Reply) -> String {
    let reply = reply.is(202);
    assert!(
        reply.body.contains("Perf Marker\n\tTimestamp: "),
        "{}",
        reply.body
    );
    assert!(
        reply.body.contains("\tTotal Stripe Count: 1\nEnd\n"),
        "{}",
        reply.body
    );
    reply.body.lines().last().unwrap_or_default().to_owned()
}

/// A server that says one thing to each request in turn, and what it heard.
fn says(replies: Vec<String>) -> (String, JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let heard = std::thread::spawn(move || {
        let mut heard = Vec::new();
        for reply in replies {
            let (mut stream, _) = listener.accept().unwrap();
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) == 1 {
                head.push(byte[0]);
            }
            heard.push(String::from_utf8_lossy(&head).into_owned());
            let _ = stream.write_all(reply.as_bytes());
        }
        heard
    });
    (address, heard)
}

#[test]
fn pull_and_push_between_two_doors_compare_checksums() {
    let (own, other) = pair();
    let text = "0123456789abcdef".repeat(200_000);
    other.put("other/k", "Wikipedia");
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("large");
    std::fs::write(&file, &text).unwrap();
    let data = format!("@{}", file.display());
    own.curl("PUT", "own/large", &["--data-binary", &data])
        .is(201);

    let source = format!("Source: {}", other.url("other/k"));
    let must = "RequireChecksumVerification: true".to_owned();
    let terms = [
        source.clone(),
        key_for(&other),
        must.clone(),
        "Credential: none".into(),
    ];
    let told = last(copy(&own, "own/k", &terms));
    assert!(
        told.starts_with("success: Created own/k") && told.contains("adler32"),
        "{told}"
    );
    assert_eq!(own.get("own/k"), "Wikipedia");

    let mut not_over = terms.to_vec();
    not_over.push("Overwrite: F".into());
    copy(&own, "own/k", &not_over).is(412);

    let target = format!("Destination: {}", other.url("other/pushed"));
    let told = last(copy(
        &own,
        "own/large",
        &[target.clone(), key_for(&other), must],
    ));
    assert!(
        told.starts_with("success: ") && told.contains("adler32"),
        "{told}"
    );
    assert!(other.get("other/pushed") == text);
    let told = last(copy(
        &own,
        "own/k",
        &[target, key_for(&other), "Overwrite: F".into()],
    ));
    assert!(
        told.starts_with("failure: ") && told.contains("Overwrite"),
        "{told}"
    );

    let events = own.store.journal_after(0, 10_000).unwrap();
    let kinds: Vec<&str> = events.iter().map(|event| event.kind.as_str()).collect();
    assert!(kinds.contains(&"transfer.pulled") && kinds.contains(&"transfer.pushed"));
    let secret = &other.credentials.secret_key;
    assert!(events.iter().all(|event| !event.detail.contains(secret)));
}

#[test]
fn davix_copies_between_two_doors_both_ways() {
    let (own, other) = pair();
    other.put("other/k", "from the other side");
    own.put("own/mine", "from this side");
    let key = key_for(&other);
    let davix = |mode: &str, from: &str, to: &str, active: &Server| {
        run(Command::new("davix-cp")
            .args(["--copy-mode", mode, "-H", &key, "--retry", "0"])
            // davix keeps its --userlogin for other requests than COPY.
            .args(["-H", &format!("Authorization: {}", active.bearer())])
            .args(["-H", "Credential: none", from, to]))
    };
    davix("pull", &other.url("other/k"), &own.url("own/pulled"), &own);
    assert_eq!(own.get("own/pulled"), "from the other side");
    davix(
        "push",
        &own.url("own/mine"),
        &other.url("other/pushed"),
        &own,
    );
    assert_eq!(other.get("other/pushed"), "from this side");
}

#[test]
fn nobody_is_reached_who_is_not_listed() {
    let (own, other) = pair();
    own.put("own/k", "1");
    other.put("other/k", "1");
    let closed = Server::start();
    closed.make("closed");
    let source = format!("Source: {}", other.url("other/k"));
    let refused = copy(&closed, "closed/k", &[source]).is(403);
    assert!(refused.body.contains("dav.tpc_hosts"), "{}", refused.body);
    let port = other.address.port();
    for (url, status) in [
        (format!("http://localhost:{port}/dav/other/k"), 403),
        ("http://127.0.0.1:1/x".to_owned(), 403),
        ("http://169.254.169.254/latest/meta-data".to_owned(), 403),
        ("http://[::1]/x".to_owned(), 403),
        ("ftp://127.0.0.1/x".to_owned(), 403),
        ("file:///etc/passwd".to_owned(), 403),
        ("/dav/own/k".to_owned(), 400),
        (format!("http://user:secret@127.0.0.1:{port}/x"), 403),
    ] {
        let reply = copy(&own, "own/new", &[format!("Source: {url}")]);
        assert_eq!(reply.status, status, "{url}: {reply:?}");
        assert!(!reply.body.contains("user:secret"), "{}", reply.body);
    }
    // A listed name that leads to this machine is not this machine's address listed.
    let named = Server::reaching("localhost");
    named.make("named");
    let told = last(copy(
        &named,
        "named/k",
        &[format!("Source: http://localhost:{port}/dav/other/k")],
    ));
    assert!(told.contains("loopback"), "{told}");
    for bad in [
        "Credential: gridsite",
        "RequireChecksumVerification: maybe",
        "TransferHeaderHost: evil",
    ] {
        let source = format!("Source: {}", other.url("other/k"));
        copy(&own, "own/new", &[source, bad.to_owned()]).is(400);
    }
    let both = [
        format!("Source: {}", other.url("other/k")),
        "Destination: /dav/own/x".to_owned(),
    ];
    copy(&own, "own/new", &both).is(400);
    copy(
        &own,
        "own/no/parent",
        &[format!("Source: {}", other.url("other/k"))],
    )
    .is(409);
    own.curl("GET", "own/new", &[]).is(404);
}

#[test]
fn what_the_other_server_does_wrong_is_told_and_nothing_is_stored() {
    let reply =
        |head: &str, body: &str| format!("HTTP/1.1 {head}\r\nConnection: close\r\n\r\n{body}");
    for (replies, expected) in [
        (vec![reply("404 Not Found\r\nContent-Length: 0", "")], "404"),
        (
            vec![reply(
                "200 OK\r\nContent-Length: 9\r\nDigest: adler32=11e60399",
                "Wikipedia",
            )],
            "adler32 11e60398",
        ),
        (
            vec![reply(
                "200 OK\r\nContent-Length: 900\r\nDigest: adler32=11e60398",
                "Wikipedia",
            )],
            "broke off",
        ),
        (
            vec![
                reply("200 OK\r\nContent-Length: 9", "Wikipedia"),
                reply("200 OK\r\nContent-Length: 9", ""),
            ],
            "no checksum",
        ),
        (
            vec![reply(
                "302 Found\r\nContent-Length: 0\r\nLocation: http://127.0.0.1:1/x",
                "",
            )],
            "not among the hosts",
        ),
        (
            vec![reply(
                "302 Found\r\nContent-Length: 0\r\nLocation: http://metadata.example/x",
                "",
            )],
            "not among the hosts",
        ),
        (vec![reply("302 Found\r\nContent-Length: 0", "")], "nowhere"),
        (vec!["nonsense\r\n\r\n".to_owned()], "127.0.0.1"),
    ] {
        let (address, _heard) = says(replies);
        let own = Server::reaching(&address);
        own.make("own");
        let terms = [
            format!("Source: http://{address}/x?token=hidden-in-query"),
            "RequireChecksumVerification: true".to_owned(),
        ];
        let told = last(copy(&own, "own/k", &terms));
        assert!(told.starts_with("failure: "), "{told}");
        assert!(told.contains(expected), "{expected}: {told}");
        assert!(!told.contains("hidden-in-query"), "{told}");
        own.curl("GET", "own/k", &[]).is(404);
    }
}

#[test]
fn a_redirect_within_the_list_is_followed_without_the_first_hosts_key() {
    let body = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\nDigest: adler32=11e60398\r\n\r\nWikipedia";
    let (second, heard_second) = says(vec![body.to_owned()]);
    let redirect = format!(
        "HTTP/1.1 307 Temporary Redirect\r\nLocation: http://{second}/y\r\nContent-Length: 0\r\n\r\n"
    );
    let (first, heard_first) = says(vec![redirect]);
    let own = Server::reaching(&format!("{first}, {second}"));
    own.make("own");
    let terms = [
        format!("Source: http://{first}/x"),
        "TransferHeaderAuthorization: Bearer for-the-first".to_owned(),
        "TransferHeaderX-Trace: 7".to_owned(),
    ];
    let told = last(copy(&own, "own/k", &terms));
    assert!(told.starts_with("success: "), "{told}");
    assert_eq!(own.get("own/k"), "Wikipedia");
    let first = heard_first.join().unwrap().concat().to_lowercase();
    assert!(first.starts_with("get /x http/1.1") && first.contains("bearer for-the-first"));
    let second = heard_second.join().unwrap().concat().to_lowercase();
    assert!(
        second.contains("x-trace: 7") && second.contains("want-digest: "),
        "{second}"
    );
    assert!(!second.contains("for-the-first"), "{second}");
    assert!(!second.contains(&own.credentials.secret_key.to_lowercase()));
}

#[test]
fn a_copy_ends_when_its_client_goes_away() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let own = Server::reaching(&listener.local_addr().unwrap().to_string());
    own.make("own");
    let head = format!(
        "COPY /dav/own/k HTTP/1.1\r\nHost: x\r\nAuthorization: {}\r\nSource: http://{}/x\r\n\r\n",
        own.bearer(),
        listener.local_addr().unwrap()
    );
    let mut client = own.raw(&head);
    let (mut stream, _) = listener.accept().unwrap();
    let _ = stream.read(&mut [0; 4096]).unwrap();
    stream
        .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\nDigest: adler32=1\r\n\r\nabc")
        .unwrap();
    let mut first = [0; 12];
    client.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"HTTP/1.1 202");
    drop(client);
    // The other server sees its connection end.
    stream
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    let began = Instant::now();
    let ended = loop {
        match stream.read(&mut [0; 64]) {
            Ok(0) => break true,
            Ok(_) => {}
            Err(error) => break error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    };
    assert!(ended, "still connected after {:?}", began.elapsed());
    own.curl("GET", "own/k", &[]).is(404);
}

/// A server that answers one request by `head`, then says a letter of its body every 300 ms, `letters`
/// of them, and then nothing; it hears all that it is sent for as long as `hears`.
fn slow(head: &'static str, letters: usize, hears: bool) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut byte = [0];
        let mut heard = Vec::new();
        while !heard.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) == 1 {
            heard.push(byte[0]);
        }
        let _ = stream.write_all(head.as_bytes());
        for _ in 0..letters {
            std::thread::sleep(Duration::from_millis(300));
            if stream.write_all(b"x").is_err() {
                return;
            }
        }
        if hears {
            let _ = std::io::copy(&mut stream, &mut std::io::sink());
        }
        // Held open, so that silence is all there is.
        std::thread::sleep(Duration::from_secs(60));
    });
    address
}

#[test]
fn a_copy_ends_when_the_other_server_is_silent_and_when_it_takes_too_long() {
    const BODY: &str = "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n";
    let large = "0123456789abcdef".repeat(2_000_000);
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("large");
    std::fs::write(&file, &large).unwrap();
    let data = format!("@{}", file.display());
    // What the other server does, what we may wait for, and what ends it.
    for (head, letters, hears, direction, more, times, words) in [
        (
            "",
            0,
            true,
            "Source",
            "",
            (1, 60),
            "did not answer within 1 s",
        ),
        (BODY, 3, true, "Source", "", (1, 60), "sent nothing for 1 s"),
        // Always a little: only the time in all ends it.
        (
            BODY,
            1000,
            true,
            "Source",
            "",
            (1, 3),
            "not done within 3 s",
        ),
        (
            "",
            0,
            false,
            "Destination",
            "",
            (1, 60),
            "took nothing for 1 s",
        ),
        (
            "",
            0,
            true,
            "Destination",
            "Overwrite: F",
            (1, 60),
            "did not answer within 1 s",
        ),
        // All is taken, and then nothing is said.
        (
            "",
            0,
            true,
            "Destination",
            "",
            (1, 60),
            "took nothing for 1 s",
        ),
    ] {
        let address = slow(head, letters, hears);
        let own = Server::waiting(&address, times.0, times.1);
        own.make("own");
        own.curl("PUT", "own/large", &["--data-binary", &data])
            .is(201);
        let path = match direction {
            "Source" => "own/new",
            _ => "own/large",
        };
        let mut terms = vec![format!("{direction}: http://{address}/x")];
        terms.extend((!more.is_empty()).then(|| more.to_owned()));
        let began = Instant::now();
        let told = last(copy(&own, path, &terms));
        assert!(
            told.starts_with("failure: ") && told.contains(words),
            "{words}: {told}"
        );
        let took = began.elapsed();
        assert!(took < Duration::from_secs(20), "{words}: {took:?}");
        own.curl("GET", "own/new", &[]).is(404);
    }
}

/// A certificate authority's PEM, and a server of it that answers every request with one body.
fn tls_server(name: &str) -> (Vec<u8>, std::net::SocketAddr, tokio::runtime::Runtime) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio_rustls::rustls::ServerConfig;
    use tokio_rustls::rustls::pki_types::PrivateKeyDer;
    let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
    let pem = made.cert.pem().into_bytes();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let listener = runtime
        .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
        .unwrap();
    let address = listener.local_addr().unwrap();
    runtime.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else {
                    return;
                };
                let _ = stream.read(&mut [0; 4096]).await;
                let reply = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\nDigest: adler32=11e60398\r\nConnection: close\r\n\r\nWikipedia";
                let _ = stream.write_all(reply.as_bytes()).await;
                let _ = stream.shutdown().await;
            });
        }
    });
    (pem, address, runtime)
}

#[test]
fn https_is_spoken_only_with_a_certificate_of_a_trusted_authority() {
    let (authority, address, _runtime) = tls_server("localhost");
    let port = address.port();
    // The name and, as it is this machine's, the address.
    let hosts = format!("localhost:{port}, 127.0.0.1");
    for (name, authorities, expected) in [
        ("localhost", Some(authority.clone()), "success: "),
        ("localhost", None, "failure: "),
        ("127.0.0.1", Some(authority), "failure: "),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let key = access::Credentials::generate();
        let own = Server::trusting(directory, key, &hosts, authorities);
        own.make("own");
        let source = format!("Source: davs://{name}:{port}/x");
        let told = last(copy(&own, "own/k", &[source]));
        assert!(told.starts_with(expected), "{name}: {told}");
    }
}
