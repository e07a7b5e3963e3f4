//! Requests that nobody should send: refused in the protocol's words, bounded, and without a trace.

use crate::server::{Server, curl, status_line};

#[test]
fn nobody_is_answered_without_a_key() {
    let server = Server::start();
    server.make("closed");
    let pair = format!(
        "{}:{}",
        server.credentials.access_key, server.credentials.secret_key
    );
    let wrong = format!("{}:{}", server.credentials.access_key, "wrong-secret-123");
    for method in ["GET", "PROPFIND", "OPTIONS", "PUT", "COPY", "TRACK"] {
        for more in [
            vec![],
            vec!["-u", wrong.as_str()],
            vec!["-u", ":"],
            vec!["-H", "Authorization: Basic !!!"],
            vec!["-H", "Authorization: Bearer"],
            vec!["-H", "Authorization: Digest abc"],
            vec!["-H", "X-Forwarded-For: 127.0.0.1"],
        ] {
            let reply = curl(method, &server.url("closed/"), &more).is(401);
            assert!(reply.header("www-authenticate").starts_with("Basic realm="));
            assert!(!reply.body.contains("wrong-secret"), "{}", reply.body);
        }
    }
    let bearer = format!("Authorization: {}", server.bearer());
    curl(
        "PROPFIND",
        &server.url("closed/"),
        &["-H", "Depth: 0", "-H", &bearer],
    )
    .is(207);
    curl(
        "PROPFIND",
        &server.url("closed/"),
        &["-H", "Depth: 0", "-u", &pair],
    )
    .is(207);
}

#[test]
fn hostile_paths_are_refused_and_never_normalised() {
    let server = Server::start();
    server.make("paths");
    server.make("other");
    server.put("other/secret", "s");
    let long = format!("paths/{}", "x".repeat(1100));
    let overlong = format!("paths/{}", "%2e".repeat(3000));
    for (path, status) in [
        ("paths/../other/secret", 400),
        ("paths/%2e%2e/other/secret", 400),
        ("paths/..%2fother/secret", 400),
        ("paths/a%2Fb", 400),
        ("paths/a%00b", 400),
        ("paths//a", 400),
        ("paths/./a", 400),
        ("paths/%zz", 400),
        ("paths/%c3%28", 400),
        (&long, 414),
        (&overlong, 414),
    ] {
        for method in ["GET", "PUT", "MKCOL", "DELETE", "PROPFIND", "LOCK", "MOVE"] {
            let reply = server.curl(method, path, &["--data", ""]);
            assert_eq!(reply.status, status, "{method} {path}: {reply:?}");
        }
        let to = format!("Destination: /dav/{path}");
        let copy = server.curl("COPY", "other/secret", &["-H", &to]);
        assert_eq!(copy.status, status, "COPY to {path}: {copy:?}");
    }
    assert_eq!(server.get("other/secret"), "s");
}

#[test]
fn a_destination_elsewhere_or_over_its_own_source_is_refused() {
    let server = Server::start();
    server.make("here");
    server.make("there");
    server.make("here/dir");
    server.put("here/dir/k", "1");
    let ask = |method: &str, path: &str, to: &str| {
        let to = format!("Destination: {to}");
        server.curl(method, path, &["-H", &to])
    };
    // Another server: only as a copy between servers, and that is not allowed here.
    let push = ask("COPY", "here/dir/k", "https://storage.example.org/x").is(403);
    assert!(push.body.contains("dav.tpc_hosts"), "{}", push.body);
    ask("MOVE", "here/dir/k", "https://storage.example.org/x").is(502);
    ask("COPY", "here/dir/k", "not a url").is(400);
    server.curl("COPY", "here/dir/k", &[]).is(400);
    // Buckets are made by MKCOL, and keep their names.
    ask("COPY", "here/dir", "/dav/newbucket").is(403);
    ask("MOVE", "here/dir", "/dav/there").is(403);
    ask("MOVE", "here", "/dav/there/x").is(403);
    ask("MOVE", "", "/dav/there/x").is(403);
    ask("MOVE", "here/dir/k", "/other/x").is(404);
    // Nothing becomes what it lies in.
    ask("MOVE", "here/dir", "/dav/here/dir/sub").is(403);
    ask("COPY", "here/dir/k", "/dav/here/dir").is(403);
    ask("COPY", "here/dir/k", "/dav/here/dir/k").is(403);
    // Another bucket is fine.
    ask("COPY", "here/dir", "/dav/there/dir").is(201);
    ask("MOVE", "here/dir/k", "/dav/there/k").is(201);
    assert_eq!(server.get("there/k"), "1");
    assert_eq!(server.get("there/dir/k"), "1");
    server.curl("GET", "here/dir/k", &[]).is(404);
    let odd = ["-H", "Destination: /dav/here/x", "-H", "Overwrite: yes"];
    server.curl("MOVE", "there/k", &odd).is(400);
}

#[test]
fn xml_that_bites_is_refused_before_it_is_parsed() {
    let server = Server::start();
    server.make("xml");
    server.put("xml/k", "1");
    let scratch = tempfile::tempdir().unwrap();
    let laughs = "<!DOCTYPE l [<!ENTITY a \"ha\"><!ENTITY b \"&a;&a;&a;&a;&a;&a;\">]>\
                  <D:propfind xmlns:D=\"DAV:\"><D:prop><x>&b;</x></D:prop></D:propfind>";
    let outside = "<!DOCTYPE l SYSTEM \"file:///etc/passwd\"><D:propfind xmlns:D=\"DAV:\"/>";
    let deep = format!("{}{}", "<a>".repeat(9000), "</a>".repeat(9000));
    let wide = format!("<a>{}</a>", "<b/>".repeat(5000));
    let huge = format!("<a>{}</a>", " ".repeat(80_000));
    for (name, body, status) in [
        ("laughs", laughs, 400),
        ("outside", outside, 400),
        ("deep", deep.as_str(), 400),
        ("wide", wide.as_str(), 400),
        ("huge", huge.as_str(), 413),
        ("cut", "<a><b>", 400),
        ("text", "hello", 400),
        ("binary", "\u{1}\u{2}", 400),
        ("other", "<D:other xmlns:D=\"DAV:\"/>", 400),
    ] {
        let file = scratch.path().join(name);
        std::fs::write(&file, body).unwrap();
        let data = format!("@{}", file.display());
        for method in ["PROPFIND", "PROPPATCH", "LOCK"] {
            let more = ["--data-binary", data.as_str(), "-H", "Depth: 0"];
            let reply = server.curl(method, "xml/k", &more);
            assert_eq!(reply.status, status, "{method} {name}: {reply:?}");
        }
    }
    server.curl("MKCOL", "xml/new", &["--data", "<a/>"]).is(415);
    assert_eq!(server.store.record_list("dav-lock").unwrap().len(), 0);
}

#[test]
fn depth_infinity_is_for_small_trees() {
    let server = Server::start();
    server.make("wide");
    server.make("wide/small");
    server.make("wide/small/er");
    server.put("wide/small/er/k", "1");
    for depth in [&["-H", "Depth: infinity"][..], &[]] {
        let all = server.curl("PROPFIND", "wide/small", depth).is(207);
        assert!(all.body.contains("/dav/wide/small/er/k<"), "{}", all.body);
        let root = server.curl("PROPFIND", "", depth).is(403);
        assert!(root.body.contains("propfind-finite-depth"), "{}", root.body);
    }
    let who = blockstore::Who::server();
    for n in 0..1001 {
        let writer = server.store.object_writer("wide").unwrap();
        let meta = blockstore::object::ObjectMeta::default();
        let key = format!("many/{n}");
        writer
            .commit(&who, &key, meta, &Default::default())
            .unwrap();
    }
    let refused = server.curl(
        "PROPFIND",
        "wide",
        &["-H", "Depth: infinity", "-H", "X-Litmus: 1"],
    );
    assert!(refused.is(403).body.contains("propfind-finite-depth"));
    let paged = server
        .curl("PROPFIND", "wide/many", &["-H", "Depth: 1"])
        .is(207);
    assert_eq!(paged.body.matches("<D:response>").count(), 1002);
    assert!(paged.body.trim_end().ends_with("</D:multistatus>"));
    server.curl("PROPFIND", "wide", &["-H", "Depth: 2"]).is(400);
}

#[test]
fn methods_and_headers_that_are_not_served_are_named() {
    let server = Server::start();
    server.make("odd");
    server.put("odd/k", "0123");
    for method in ["PATCH", "POST", "TRACE", "REPORT", "SEARCH", "BREW"] {
        let reply = server.curl(method, "odd/k", &[]);
        assert_eq!(reply.status, 405, "{method}: {reply:?}");
    }
    let ranged = ["-H", "Content-Range: bytes 0-0/4", "--data-binary", "x"];
    server.curl("PUT", "odd/k", &ranged).is(400);
    server.curl("PUT", "odd", &["--data-binary", "x"]).is(405);
    server
        .curl("PUT", "odd/dir/", &["--data-binary", "x"])
        .is(405);
    server.curl("DELETE", "", &[]).is(403);
    server.curl("LOCK", "", &["--data", "<a/>"]).is(403);
    server.curl("MKCOL", "Bad_Bucket_Name", &[]).is(400);
    server
        .curl("UNLOCK", "odd/k", &["-H", "Lock-Token: <urn:uuid:no>"])
        .is(409);
    server.curl("UNLOCK", "odd/k", &[]).is(400);
    assert_eq!(server.get("odd/k"), "0123");
    let options = server.curl("OPTIONS", "odd/k", &[]).is(200);
    assert_eq!(options.header("dav"), "1, 2, 3");
    // Two lengths, or a length and chunks, are a smuggler's.
    for framing in [
        "Content-Length: 3\r\nContent-Length: 4",
        "Content-Length: -1",
        "Transfer-Encoding: gzip, identity",
    ] {
        let head = format!(
            "PUT /dav/odd/smuggled HTTP/1.1\r\nHost: x\r\nAuthorization: {}\r\n{framing}\r\n\r\nabcd",
            server.bearer()
        );
        let status = status_line(server.raw(&head));
        assert!(
            status.contains(" 400 ") || status.is_empty(),
            "{framing}: {status}"
        );
    }
    server.curl("GET", "odd/smuggled", &[]).is(404);
}
