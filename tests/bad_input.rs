//! Requests that two readers could read differently, sent byte by byte to the real program: each one is
//! refused, or read in one way and the connection closed behind it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod harness;
mod traffic;

use harness::Server;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// Everything the server answers to `bytes` until it closes, or is silent for two seconds.
fn send(server: &Server, bytes: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(server.address()).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(2)))
        .unwrap();
    // It may close before it has read everything.
    let _ = stream.write_all(bytes);
    let mut text = Vec::new();
    let closed = match stream.read_to_end(&mut text) {
        Ok(_) => true,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    };
    Answer {
        text: String::from_utf8_lossy(&text).into_owned(),
        closed,
    }
}

#[derive(Debug)]
struct Answer {
    text: String,
    closed: bool,
}

impl Answer {
    /// The statuses of all answers, in order.
    fn statuses(&self) -> Vec<u16> {
        let starts = self.text.match_indices("HTTP/1.1 ");
        starts
            .filter_map(|(at, _)| self.text.get(at + 9..at + 12)?.parse().ok())
            .collect()
    }

    /// One answer, a refusal, and the end of the connection.
    #[track_caller]
    fn is_refused(&self) {
        let statuses = self.statuses();
        assert!(
            statuses.len() <= 1 && statuses.iter().all(|status| (400..=501).contains(status)),
            "{self:?}"
        );
        assert!(self.closed, "{self:?}");
    }
}

/// What hides behind a request: were it read as one of its own, it would be answered.
const HIDDEN: &str = "GET /api/v1/hidden HTTP/1.1\r\nHost: x\r\n\r\n";

#[test]
fn a_length_and_chunks_together_hide_nothing() {
    let server = Server::start();
    for order in [
        "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 6\r\n",
    ] {
        for path in ["/api/v1/volumes", "/bucket/key"] {
            let head = format!("POST {path} HTTP/1.1\r\nHost: x\r\n{order}\r\n");
            let answer = send(&server, format!("{head}0\r\n\r\n{HIDDEN}").as_bytes());
            assert_eq!(answer.statuses().len(), 1, "{answer:?}");
            assert!(answer.closed, "{answer:?}");
        }
    }
}

#[test]
fn lengths_that_differ_or_are_no_numbers_are_refused() {
    let server = Server::start();
    for lengths in [
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length: 5, 6\r\n",
        "Content-Length: 5, 5\r\n",
        "Content-Length: +5\r\n",
        "Content-Length: -1\r\n",
        "Content-Length: 0x5\r\n",
        "Content-Length: 5 5\r\n",
        "Content-Length:\r\n",
        "Content-Length: 18446744073709551616\r\n",
        "Content-Length: 18446744073709551615\r\n",
    ] {
        let head = format!("PUT /b/k HTTP/1.1\r\nHost: x\r\n{lengths}\r\n");
        send(&server, format!("{head}hello{HIDDEN}").as_bytes()).is_refused();
    }
    // Twice the same is one length (RFC 9110, 8.6), and what follows is the next request.
    let head = "POST /api/v1/volumes HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n";
    let answer = send(&server, format!("{head}{{}}{HIDDEN}").as_bytes());
    assert_eq!(answer.statuses(), [401, 401], "{answer:?}");
}

#[test]
fn transfer_codings_other_than_chunked_are_refused() {
    let server = Server::start();
    for coding in [
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Transfer-Encoding: identity\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: \"chunked\"\r\n",
        "Transfer-Encoding : chunked\r\n",
        "Transfer_Encoding: chunked\r\nTransfer-Encoding:\x0bchunked\r\n",
    ] {
        let head = format!("POST /api/v1/volumes HTTP/1.1\r\nHost: x\r\n{coding}\r\n");
        send(&server, format!("{head}0\r\n\r\n{HIDDEN}").as_bytes()).is_refused();
    }
    let old = "POST /api/v1/volumes HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    send(&server, format!("{old}{HIDDEN}").as_bytes()).is_refused();
}

#[test]
fn folded_and_broken_headers_are_refused() {
    let server = Server::start();
    for head in [
        "GET / HTTP/1.1\r\nHost: x\r\nX-A: 1\r\n folded\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\n\tfolded: 1\r\n\r\n",
        "GET / HTTP/1.1\r\n Host: x\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\nX-A\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\nX-A : 1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\nX-A: a\0b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\nX-A: a\rb\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\n: empty\r\n\r\n",
        "GET /a b HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET / HTTP/2.0\r\nHost: x\r\n\r\n",
        "GET / HTTP/1.1 \r\nHost: x\r\n\r\n",
        "G\0T / HTTP/1.1\r\nHost: x\r\n\r\n",
    ] {
        send(&server, format!("{head}{HIDDEN}").as_bytes()).is_refused();
    }
}

/// A bare LF may end a line (RFC 9112, 2.2), and does so for every header alike: nothing that one line
/// holds can become two by another reading.
#[test]
fn a_bare_lf_ends_a_line_wherever_it_stands() {
    let server = Server::start();
    let answer = send(
        &server,
        b"GET /api/v1/volumes HTTP/1.1\nHost: x\nX-A: 1\nConnection: close\n\n",
    );
    assert_eq!(answer.statuses(), [401], "{answer:?}");
    // Within chunks it does not: their framing knows CRLF alone (RFC 9112, 7.1).
    let head = "POST /api/v1/volumes HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
    let answer = send(&server, format!("{head}2\n{{}}\n0\n\n{HIDDEN}").as_bytes());
    assert!(answer.statuses().len() <= 1 && answer.closed, "{answer:?}");
}

#[test]
fn one_request_has_one_host() {
    let server = Server::start();
    for (head, door) in [
        ("GET /api/v1/volumes HTTP/1.1\r\n\r\n", "application/json"),
        (
            "GET /api/v1/volumes HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
            "application/json",
        ),
        (
            "GET http://b/api/v1/volumes HTTP/1.1\r\nHost: a\r\n\r\n",
            "application/json",
        ),
        (
            "GET /b/k HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
            "<Code>InvalidRequest</Code>",
        ),
        (
            "GET http://b/k HTTP/1.1\r\nHost: a\r\n\r\n",
            "<Code>InvalidRequest</Code>",
        ),
        (
            "CONNECT x:1 HTTP/1.1\r\nHost: x:1\r\n\r\n",
            "MethodNotAllowed",
        ),
    ] {
        let answer = send(&server, format!("{head}{HIDDEN}").as_bytes());
        answer.is_refused();
        // In the words of the door it knocked at.
        assert!(answer.text.contains(door), "{head}: {answer:?}");
    }
    let same = "GET http://A:9/api/v1/volumes HTTP/1.1\r\nHost: a:9\r\nConnection: close\r\n\r\n";
    assert_eq!(send(&server, same.as_bytes()).statuses(), [401]);
}

#[test]
fn chunks_that_lie_about_themselves_end_the_connection() {
    let server = Server::start();
    let (key, secret) = server.credentials();
    let head = format!(
        "POST /api/v1/volumes HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}:{secret}\r\n\
         Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    let endless = format!("2;{}\r\n{{}}\r\n0\r\n\r\n", "x".repeat(1 << 20));
    let many = format!("{}0\r\n\r\n", "1;a=b\r\nx\r\n".repeat(20_000));
    let trailers = format!("0\r\n{}\r\n", "X-T: 1\r\n".repeat(100_000));
    for body in [
        "10000000000000000\r\n{}\r\n0\r\n\r\n",
        "-2\r\n{}\r\n0\r\n\r\n",
        "0x2\r\n{}\r\n0\r\n\r\n",
        "2 2\r\n{}\r\n0\r\n\r\n",
        "\r\n{}\r\n0\r\n\r\n",
        "2\r\n{}}\r\n0\r\n\r\n",
        "2\r{}\r\n0\r\n\r\n",
        endless.as_str(),
        many.as_str(),
        trailers.as_str(),
    ] {
        let answer = send(&server, format!("{head}{body}{HIDDEN}").as_bytes());
        let shown = &body[..body.len().min(40)];
        assert!(!answer.text.contains("hidden"), "{shown:?}: {answer:?}");
        let statuses = answer.statuses();
        assert!(
            statuses.len() <= 1 && statuses.iter().all(|status| (400..500).contains(status)),
            "{shown:?}: {answer:?}"
        );
        assert!(answer.closed, "{shown:?}: {answer:?}");
    }
    // As long as a number can say: all that follows is its content, so nothing hides in it.
    let vast = format!("{head}FFFFFFFFFFFFFFFF\r\n{{}}\r\n0\r\n\r\n{HIDDEN}");
    assert_eq!(send(&server, vast.as_bytes()).text, "");
    let flood = format!("{head}FFFFFFFFFFFFFFFF\r\n{}", "x".repeat(4 << 20));
    send(&server, flood.as_bytes()).is_refused();
    // An extension that stays within reason means nothing.
    let fine = "2;name=value\r\n{}\r\n0\r\n\r\n";
    let answer = send(&server, format!("{head}{fine}{HIDDEN}").as_bytes());
    assert_eq!(answer.statuses().len(), 2, "{answer:?}");
}

#[test]
fn heads_are_bounded_in_bytes_and_in_number() {
    let server = Server::start();
    let long = format!(
        "GET / HTTP/1.1\r\nHost: x\r\nX-A: {}\r\n\r\n",
        "a".repeat(200 << 10)
    );
    let many = format!(
        "GET / HTTP/1.1\r\nHost: x\r\n{}\r\n",
        "X-A: 1\r\n".repeat(1000)
    );
    for head in [long, many] {
        let answer = send(&server, head.as_bytes());
        assert!(
            answer.statuses().iter().all(|status| *status == 431) && answer.closed,
            "{:?}",
            answer.statuses()
        );
    }
    let path = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(70 << 10));
    let answer = send(&server, path.as_bytes());
    assert!(
        answer
            .statuses()
            .iter()
            .all(|status| [414, 431].contains(status))
            && answer.closed
    );
    // Whoever behaves goes on being served.
    let fine = "GET /api/v1/volumes HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    assert_eq!(send(&server, fine.as_bytes()).statuses(), [401]);
}

#[test]
fn names_that_lead_to_other_doors_make_no_buckets() {
    let server = Server::start();
    for name in ["api", "cdmi", "dav", "metrics", "sts", "oidc"] {
        let said = server.infall(&["bucket", "create", name]).fails(9);
        assert!(
            said.contains(name) && said.contains("another protocol"),
            "{said}"
        );
    }
    // Over S3 in S3's words, also where the path is that of another door.
    for name in ["api", "cdmi", "dav"] {
        let mut aws = traffic::tool(&server, "aws");
        let said = harness::run(aws.args(["s3api", "create-bucket", "--bucket", name]));
        assert!(said.stderr.contains("InvalidBucketName"), "{said:?}");
    }
    server.infall(&["bucket", "create", "apis"]).ok();
}
