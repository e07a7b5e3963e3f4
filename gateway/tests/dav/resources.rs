//! What the door promises of resources: whole or not at all, properties and locks kept.

use crate::server::{Server, status_line};
use blockstore::object::ListQuery;
use std::collections::BTreeSet;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const LOCK: &str = r#"<?xml version="1.0"?><D:lockinfo xmlns:D="DAV:"><D:lockscope><D:exclusive/></D:lockscope><D:locktype><D:write/></D:locktype><D:owner><D:href>mailto:a@example.org</D:href></D:owner></D:lockinfo>"#;
const COLOUR: &str = r#"<D:propertyupdate xmlns:D="DAV:" xmlns:x="urn:x"><D:set><D:prop><x:colour a="1">red &amp; <x:b/>blue</x:colour></D:prop></D:set></D:propertyupdate>"#;
const ASK: &str = r#"<D:propfind xmlns:D="DAV:" xmlns:x="urn:x"><D:prop><x:colour/><x:absent/><D:getetag/><D:getcontenttype/><D:getcontentlength/></D:prop></D:propfind>"#;

fn keys(server: &Server, bucket: &str) -> Vec<String> {
    let all = ListQuery {
        max: 1000,
        ..ListQuery::default()
    };
    let page = server.store.object_list(bucket, &all).unwrap();
    page.objects.into_iter().map(|object| object.key).collect()
}

fn properties(server: &Server, path: &str) -> String {
    let reply = server.curl("PROPFIND", path, &["-H", "Depth: 0", "--data", ASK]);
    reply.is(207).body
}

fn lock(server: &Server, path: &str) -> String {
    let reply = server.curl("LOCK", path, &["--data", LOCK, "-H", "Timeout: Second-300"]);
    assert!(matches!(reply.status, 200 | 201), "{reply:?}");
    let token = reply.header("lock-token").to_owned();
    assert!(token.starts_with("<urn:uuid:"), "{reply:?}");
    token
}

#[test]
fn a_body_that_breaks_off_leaves_nothing() {
    let server = Server::start();
    server.make("half");
    server.put("half/old", "as it was");
    for (path, framing, sent) in [
        ("half/new", "Content-Length: 4000000", "x".repeat(3_000_000)),
        ("half/old", "Content-Length: 400", "x".repeat(300)),
        (
            "half/chunked",
            "Transfer-Encoding: chunked",
            format!("1000\r\n{}\r\n", "x".repeat(4096)),
        ),
    ] {
        let head = format!(
            "PUT /dav/{path} HTTP/1.1\r\nHost: x\r\nAuthorization: {}\r\n{framing}\r\n\r\n{sent}",
            server.bearer()
        );
        let stream = server.raw(&head);
        std::thread::sleep(Duration::from_millis(200));
        drop(stream);
    }
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(keys(&server, "half"), ["old"]);
    assert_eq!(server.get("half/old"), "as it was");
    let report = server.store.check(true).unwrap();
    assert_eq!(report.problems, Vec::<String>::new());
}

#[test]
fn a_body_that_is_not_what_it_claims_is_refused_and_nothing_is_stored() {
    let server = Server::start();
    server.make("claims");
    for header in [
        "Digest: adler32=00000002",
        "Digest: sha-256=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
        "Content-MD5: AAAAAAAAAAAAAAAAAAAAAA==",
        "Digest: md5=no",
    ] {
        let put = server.curl(
            "PUT",
            "claims/k",
            &["--data-binary", "Wikipedia", "-H", header],
        );
        put.is(400);
    }
    assert!(keys(&server, "claims").is_empty());
    let right = [
        "--data-binary",
        "Wikipedia",
        "-H",
        "Digest: ADLER32=11e60398",
    ];
    server.curl("PUT", "claims/k", &right).is(201);
}

#[test]
fn a_wanted_digest_is_told_computed_or_kept() {
    let server = Server::start();
    server.make("sums");
    server.put("sums/k", "Wikipedia");
    for (wanted, told) in [
        ("adler32", "adler32=11e60398"),
        ("md5;q=0.1, adler32;q=0.9", "adler32=11e60398"),
        ("md5", "md5=nGdyhoZqrTj46bZg9UEYFA=="),
        ("crc32c", ""),
    ] {
        let header = format!("Want-Digest: {wanted}");
        for method in ["HEAD", "GET"] {
            let reply = server.curl(method, "sums/k", &["-H", &header]).is(200);
            assert_eq!(reply.header("digest"), told, "{wanted}");
        }
    }
    // Nobody computed this one yet; afterwards it is with the object.
    let before = server.store.object_head("sums", "k").unwrap();
    let reply = server.curl("HEAD", "sums/k", &["-H", "Want-Digest: SHA-256"]);
    let told = reply.is(200).header("digest").to_owned();
    assert!(told.starts_with("sha-256="), "{told}");
    let after = server.store.object_head("sums", "k").unwrap();
    let kept = &after.meta.properties["digest"];
    assert_eq!(
        format!("sha-256={}", kept["sha-256"].as_str().unwrap()),
        told
    );
    assert_eq!(kept["adler32"], "11e60398");
    assert_eq!(after.modified_ms, before.modified_ms, "no new version");
    // Other bytes have another one, though nobody asked in between.
    server.put("sums/k", "wikipedia");
    let reply = server.curl("HEAD", "sums/k", &["-H", "Want-Digest: adler32"]);
    assert_ne!(reply.is(200).header("digest"), "adler32=11e60398");
}

#[test]
fn properties_are_kept_moved_and_copied_with_their_resource() {
    let server = Server::start();
    server.make("props");
    server.make("props/dir");
    server
        .curl(
            "PUT",
            "props/dir/k",
            &["-H", "Content-Type: text/x-odd", "--data-binary", "123"],
        )
        .is(201);
    for path in ["props", "props/dir/", "props/dir/k"] {
        server.curl("PROPPATCH", path, &["--data", COLOUR]).is(207);
        let shown = properties(&server, path);
        assert!(shown.contains(">red &amp; <"), "{path}: {shown}");
        assert!(
            shown.contains("<n:absent xmlns:n=\"urn:x\"/>") && shown.contains("404 Not Found"),
            "{path}: {shown}"
        );
    }
    let shown = properties(&server, "props/dir/k");
    for expected in [
        "<D:getetag>&quot;202cb962ac59075b964b07152d234b70&quot;</D:getetag>",
        "<D:getcontenttype>text/x-odd</D:getcontenttype>",
        "<D:getcontentlength>3</D:getcontentlength>",
    ] {
        assert!(shown.contains(expected), "{shown}");
    }
    let to = |path: &str| format!("Destination: {}", server.url(path));
    server
        .curl("MOVE", "props/dir", &["-H", &to("props/moved/")])
        .is(201);
    server
        .curl("COPY", "props/moved/", &["-H", &to("props/copied/")])
        .is(201);
    for path in [
        "props/moved/",
        "props/moved/k",
        "props/copied/",
        "props/copied/k",
    ] {
        assert!(properties(&server, path).contains(">red &amp; <"), "{path}");
    }
    // A restart forgets none of it.
    let server = server.restarted();
    for path in ["props", "props/moved/k", "props/copied/"] {
        assert!(properties(&server, path).contains(">red &amp; <"), "{path}");
    }
    // What is put anew begins anew.
    server.put("props/moved/k", "4");
    assert!(!properties(&server, "props/moved/k").contains("red"));
    let remove = r#"<D:propertyupdate xmlns:D="DAV:" xmlns:x="urn:x"><D:remove><D:prop><x:colour/></D:prop></D:remove></D:propertyupdate>"#;
    server
        .curl("PROPPATCH", "props/copied/", &["--data", remove])
        .is(207);
    assert!(!properties(&server, "props/copied/").contains("red"));
}

#[test]
fn a_move_is_one_transaction_and_replaces_what_is_there() {
    let server = Server::start();
    server.make("moves");
    server.make("moves/a");
    for n in 0..20 {
        server.put(&format!("moves/a/{n}"), &n.to_string());
    }
    server.make("moves/b");
    server.put("moves/b/old", "goes");
    let to = format!("Destination: {}", server.url("moves/b"));
    let kept = server.curl("MOVE", "moves/a", &["-H", &to, "-H", "Overwrite: F"]);
    kept.is(412);
    // Whoever looks meanwhile sees the one tree or the other.
    let moved = AtomicBool::new(false);
    let seen = std::thread::scope(|scope| {
        let watching = scope.spawn(|| {
            let mut seen = BTreeSet::new();
            while !moved.load(Ordering::Relaxed) {
                seen.insert(keys(&server, "moves"));
            }
            seen
        });
        server.curl("MOVE", "moves/a", &["-H", &to]).is(204);
        moved.store(true, Ordering::Relaxed);
        watching.join().unwrap()
    });
    assert!(seen.len() <= 2, "{seen:?}");
    assert!(
        seen.iter().all(|keys| matches!(keys.len(), 21 | 23)),
        "{seen:?}"
    );
    let keys = keys(&server, "moves");
    assert_eq!(keys.len(), 21, "{keys:?}");
    assert!(keys.iter().all(|key| key.starts_with("b/")), "{keys:?}");
    assert!(!keys.contains(&"b/old".to_owned()), "{keys:?}");
    // An object over an object keeps its id; the copy shares its bytes and has its own.
    let large = "x".repeat(100_000);
    server.put("moves/one", &large);
    let id = server.store.object_head("moves", "one").unwrap().id;
    let to = format!("Destination: {}", server.url("moves/two"));
    server.curl("MOVE", "moves/one", &["-H", &to]).is(201);
    assert_eq!(server.store.object_head("moves", "two").unwrap().id, id);
    let written = server.store.stats().unwrap().written_copy_bytes;
    let to = format!("Destination: {}", server.url("moves/three"));
    server.curl("COPY", "moves/two", &["-H", &to]).is(201);
    assert_eq!(server.store.stats().unwrap().written_copy_bytes, written);
    assert_eq!(server.get("moves/three").len(), large.len());
}

#[test]
fn a_lock_binds_others_outlives_a_restart_and_goes_with_its_resource() {
    let server = Server::start();
    server.make("locks");
    server.put("locks/k", "1");
    let token = lock(&server, "locks/k");
    let held = server
        .curl("PUT", "locks/k", &["--data-binary", "2"])
        .is(423);
    assert!(held.body.contains("lock-token-submitted"), "{}", held.body);
    let server = server.restarted();
    server
        .curl("PUT", "locks/k", &["--data-binary", "2"])
        .is(423);
    server.curl("DELETE", "locks/k", &[]).is(423);
    let again = server.curl("LOCK", "locks/k", &["--data", LOCK]).is(423);
    assert!(again.body.contains("no-conflicting-lock"), "{}", again.body);
    let ours = format!("If: ({token})");
    server
        .curl("PUT", "locks/k", &["--data-binary", "2", "-H", &ours])
        .is(204);
    let shown = server
        .curl("PROPFIND", "locks/k", &["-H", "Depth: 0"])
        .is(207);
    assert!(
        shown.body.contains(token.trim_matches(['<', '>'])),
        "{}",
        shown.body
    );
    assert!(
        shown.body.contains("mailto:a@example.org"),
        "{}",
        shown.body
    );
    // A token that is no lock's holds nowhere, locked or not (RFC 4918, 10.4.4).
    let bogus = "If: (<urn:uuid:00000000-0000-4000-8000-000000000000>)";
    server
        .curl("PUT", "locks/other", &["--data-binary", "2", "-H", bogus])
        .is(412);
    server.curl("DELETE", "locks/k", &["-H", &ours]).is(204);
    server.put("locks/k", "3");
    assert_eq!(server.store.record_list("dav-lock").unwrap().len(), 0);
}

#[test]
fn a_collections_own_lock_guards_its_members() {
    let server = Server::start();
    server.make("guard");
    server.make("guard/dir");
    server.put("guard/dir/k", "1");
    let shallow = server.curl(
        "LOCK",
        "guard/dir/",
        &["--data", LOCK, "-H", "Depth: 0", "-H", "Timeout: Second-2"],
    );
    let token = shallow.is(200).header("lock-token").to_owned();
    let ours = format!("If: <{}> ({token})", server.url("guard/dir/"));
    server
        .curl("PUT", "guard/dir/new", &["--data-binary", "1"])
        .is(423);
    server.curl("MKCOL", "guard/dir/sub", &[]).is(423);
    server.curl("DELETE", "guard/dir/k", &[]).is(423);
    // Its members' own bytes are not what it guards (RFC 4918, 7.4).
    server
        .curl("PUT", "guard/dir/k", &["--data-binary", "2"])
        .is(204);
    server
        .curl("PUT", "guard/dir/new", &["--data-binary", "1", "-H", &ours])
        .is(201);
    let began = Instant::now();
    loop {
        let put = server.curl("PUT", "guard/dir/later", &["--data-binary", "1"]);
        if put.status == 201 {
            break;
        }
        assert_eq!(put.status, 423);
        assert!(began.elapsed() < Duration::from_secs(20), "it never ended");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn what_s3_made_is_a_tree_here() {
    let server = Server::start();
    server.make("mixed");
    let who = blockstore::Who::server();
    for key in [
        "a/b/c",
        "a/x",
        "twin",
        "twin/inner",
        "odd//name",
        "dots/../k",
    ] {
        let mut writer = server.store.object_writer("mixed").unwrap();
        writer.write(key.as_bytes()).unwrap();
        let meta = blockstore::object::ObjectMeta::default();
        writer.commit(&who, key, meta, &Default::default()).unwrap();
    }
    let listed = |path: &str| {
        let reply = server.curl("PROPFIND", path, &["-H", "Depth: 1"]).is(207);
        let parts = reply.body.split("<D:href>").skip(1);
        let hrefs = parts.map(|part| part.split('<').next().unwrap().to_owned());
        hrefs.collect::<Vec<_>>()
    };
    assert_eq!(listed(""), ["/dav/", "/dav/mixed/"]);
    assert_eq!(
        listed("mixed"),
        [
            "/dav/mixed/",
            "/dav/mixed/twin",
            "/dav/mixed/a/",
            "/dav/mixed/dots/",
            "/dav/mixed/odd/",
            "/dav/mixed/twin/"
        ]
    );
    assert_eq!(
        listed("mixed/a"),
        ["/dav/mixed/a/", "/dav/mixed/a/x", "/dav/mixed/a/b/"]
    );
    assert_eq!(
        listed("mixed/odd"),
        ["/dav/mixed/odd/"],
        "a URL cannot say what is in it"
    );
    assert_eq!(server.get("mixed/twin"), "twin");
    assert_eq!(server.get("mixed/twin/inner"), "twin/inner");
    server.curl("MKCOL", "mixed/a", &[]).is(405);
    server.curl("GET", "mixed/a/", &[]).is(405);
    server.curl("HEAD", "mixed/a/", &[]).is(200);
    server
        .curl("PUT", "mixed/no/such", &["--data-binary", "1"])
        .is(409);
    server.curl("DELETE", "mixed/a", &[]).is(204);
    assert!(
        !keys(&server, "mixed")
            .iter()
            .any(|key| key.starts_with("a/"))
    );
    server.curl("DELETE", "mixed", &[]).is(409);
}

#[test]
fn conditions_and_ranges_hold() {
    let server = Server::start();
    server.make("cond");
    server.put("cond/k", "0123456789");
    let etag = server
        .curl("HEAD", "cond/k", &[])
        .is(200)
        .header("etag")
        .to_owned();
    assert_eq!(etag, "\"781e5e245d69b566979b86e28d23f2c7\"");
    let none = ["-H", "If-None-Match: *", "--data-binary", "x"];
    server.curl("PUT", "cond/k", &none).is(412);
    server.curl("PUT", "cond/new", &none).is(201);
    let matching = format!("If-Match: {etag}");
    server
        .curl(
            "PUT",
            "cond/k",
            &["-H", "If-Match: \"no\"", "--data-binary", "x"],
        )
        .is(412);
    let range = |range: &str| server.curl("GET", "cond/k", &["-H", &format!("Range: {range}")]);
    assert_eq!(range("bytes=2-4").is(206).body, "234");
    assert_eq!(range("bytes=-3").is(206).body, "789");
    range("bytes=10-").is(416);
    let many = format!("bytes={}", vec!["0-"; 500].join(","));
    assert_eq!(range(&many).is(200).body, "0123456789", "no amplifier");
    server
        .curl("PUT", "cond/k", &["-H", &matching, "--data-binary", "x"])
        .is(204);
    let not_modified = format!(
        "If-None-Match: {}",
        server.curl("HEAD", "cond/k", &[]).header("etag")
    );
    server.curl("GET", "cond/k", &["-H", &not_modified]).is(304);
}

#[test]
fn a_slow_answerer_is_not_needed_for_a_refusal() {
    let server = Server::start();
    server.make("early");
    // The refusal comes before the body: nobody reads a gigabyte to say no.
    let head = format!(
        "PUT /dav/early/no/such HTTP/1.1\r\nHost: x\r\nAuthorization: {}\r\nContent-Length: \
         1000000000\r\n\r\n",
        server.bearer()
    );
    let mut stream = server.raw(&head);
    stream.write_all(b"some").unwrap();
    assert!(status_line(stream).contains(" 409 "));
}
