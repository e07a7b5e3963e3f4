//! Between protocols: each peer a program that is not ours, or a second server of ours.

use crate::peers::{Peer, noise};
use crate::{foreign, json, read, text, with_bucket, write};
use std::path::Path;

/// A tree with what protocols trip over: spaces, umlauts, characters of URLs, an empty file.
fn odd_tree(folder: &Path) {
    write(
        folder,
        &[
            ("plain.txt", b"plain"),
            ("empty", b""),
            ("a b/c+d & e.txt", b"spaces"),
            ("\u{e4}/100%#?.bin", &noise(300_000, 3)),
            ("deep/er/still/x", &noise(9 << 20, 4)),
        ],
    );
}

const LOGIN: [(&str, &str); 4] = [
    ("INFALL_TARGET_USER", "u"),
    ("INFALL_TARGET_PASSWORD", "p"),
    ("INFALL_SOURCE_USER", "u"),
    ("INFALL_SOURCE_PASSWORD", "p"),
];

/// How each copied file was verified.
fn proofs(report: &serde_json::Value) -> Vec<&str> {
    report["copied"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["verified"].as_str().unwrap())
        .collect()
}

#[test]
fn webdav_is_written_and_read_and_everything_is_read_back() {
    let server = with_bucket();
    let (tree, there) = (server.scratch().join("tree"), server.scratch().join("dav"));
    odd_tree(&tree);
    std::fs::create_dir(&there).unwrap();
    let peer = Peer::webdav(&there);
    let url = format!("dav://{}/in/run/", peer.address);
    let put = json(foreign(
        &server,
        &LOGIN,
        &["stage", "put", &text(&tree), &url, "--json"],
    ));
    assert_eq!(put["copied"].as_array().unwrap().len(), 5, "{put}");
    assert!(
        proofs(&put)
            .iter()
            .all(|proof| *proof == "sha256 read back"),
        "{put}"
    );
    assert!(read(&there.join("in/run")) == read(&tree));
    let back = server.scratch().join("back");
    foreign(&server, &LOGIN, &["stage", "get", &url, &text(&back)]).ok();
    assert!(read(&back) == read(&tree));
    // Into our own store and out of it again, without touching a disk of ours.
    let ours = format!("s3+{}/data/from-dav/", server.endpoint());
    foreign(&server, &LOGIN, &["stage", "get", &url, &ours]).ok();
    let out = format!("dav://{}/out/", peer.address);
    foreign(&server, &LOGIN, &["stage", "put", &ours, &out]).ok();
    assert!(read(&there.join("out")) == read(&tree));
    // Without the password, or with a wrong one, nothing.
    foreign(
        &server,
        &[],
        &["stage", "get", &url, &text(&server.scratch().join("no"))],
    )
    .fails(6);
    let wrong = [("INFALL_SOURCE_USER", "u"), ("INFALL_SOURCE_PASSWORD", "q")];
    foreign(
        &server,
        &wrong,
        &["stage", "get", &url, &text(&server.scratch().join("no"))],
    )
    .fails(6);
}

#[test]
fn a_dav_target_that_is_there_is_refused_replaced_and_deleted_as_told() {
    let server = with_bucket();
    let (tree, there) = (server.scratch().join("tree"), server.scratch().join("dav"));
    write(&tree, &[("a", b"new"), ("b/c", b"c")]);
    write(&there, &[("a", b"old"), ("gone", b"x")]);
    let peer = Peer::webdav(&there);
    let url = format!("dav://{}/", peer.address);
    let stage = |words: &[&str]| foreign(&server, &LOGIN, &[&["stage"], words].concat());
    stage(&["put", &text(&tree), &url]).fails(5);
    assert_eq!(std::fs::read(there.join("a")).unwrap(), b"old");
    stage(&[
        "sync",
        &text(&tree),
        &url,
        "--compare",
        "checksum",
        "--delete",
    ])
    .ok();
    assert!(read(&there) == read(&tree));
}

#[test]
fn web_servers_are_read_with_and_without_ranges() {
    let server = with_bucket();
    let tree = server.scratch().join("tree");
    odd_tree(&tree);
    write(&tree, &[("long", &noise((20 << 20) + 1, 5))]);
    for (name, peer) in [
        ("rclone", Peer::rclone_http(&tree)),
        ("python", Peer::python_http(&tree)),
    ] {
        let back = server.scratch().join(name);
        let url = format!("http://{}/", peer.address);
        let got = json(foreign(
            &server,
            &[],
            &["stage", "get", &url, &text(&back), "--json"],
        ));
        assert_eq!(got["copied"].as_array().unwrap().len(), 6, "{name}: {got}");
        assert!(read(&back) == read(&tree), "{name}");
        let one = server.scratch().join(format!("{name}-one"));
        foreign(
            &server,
            &[],
            &[
                "stage",
                "get",
                &format!("{url}a%20b/c+d%20&%20e.txt"),
                &text(&one),
            ],
        )
        .ok();
        assert_eq!(std::fs::read(one).unwrap(), b"spaces");
        // Straight into our store, in parts.
        let ours = format!("s3+{}/data/{name}/", server.endpoint());
        foreign(&server, &[], &["stage", "get", &url, &ours]).ok();
        let again = server.scratch().join(format!("{name}-again"));
        server
            .infall(&["stage", "get", &format!("s3://data/{name}/"), &text(&again)])
            .ok();
        assert!(read(&again) == read(&tree), "{name}");
    }
}

#[test]
fn a_web_server_that_takes_put_is_written_and_one_that_does_not_says_so() {
    let server = with_bucket();
    let folder = server.scratch().join("web");
    std::fs::create_dir(&folder).unwrap();
    let body = "    def do_PUT(self):\n        \
        body = self.rfile.read(int(self.headers['Content-Length']))\n        \
        open('.' + self.path, 'wb').write(body); self.say(201)\n    \
        def do_HEAD(self): self.do_GET()\n    \
        def do_GET(self):\n        \
        if not os.path.isfile('.' + self.path): return self.say(404)\n        \
        self.say(200, open('.' + self.path, 'rb').read())\n    \
        def do_DELETE(self): os.remove('.' + self.path); self.say(204)";
    let peer = Peer::python(&folder, body);
    let source = server.scratch().join("f");
    std::fs::write(&source, noise(3 << 20, 6)).unwrap();
    let url = format!("http://{}/f", peer.address);
    let put = json(foreign(
        &server,
        &[],
        &["stage", "put", &text(&source), &url, "--json"],
    ));
    assert_eq!(proofs(&put), ["sha256 read back"]);
    assert!(read(&folder) == [("f".to_owned(), noise(3 << 20, 6))]);
    let plain = Peer::python_http(&folder);
    let url = format!("http://{}/g", plain.address);
    let said = foreign(&server, &[], &["stage", "put", &text(&source), &url]).fails(9);
    assert!(said.contains("takes no PUT"), "{said}");
}

#[test]
fn a_target_that_stores_something_else_is_found_out_and_cleaned() {
    let server = with_bucket();
    let folder = server.scratch().join("web");
    std::fs::create_dir(&folder).unwrap();
    // It turns the last byte over.
    let body = "    def do_PUT(self):\n        \
        body = self.rfile.read(int(self.headers['Content-Length']))\n        \
        open('.' + self.path, 'wb').write(body[:-1] + bytes([body[-1] ^ 1])); self.say(201)\n    \
        def do_HEAD(self): self.do_GET()\n    \
        def do_GET(self):\n        \
        if not os.path.isfile('.' + self.path): return self.say(404)\n        \
        self.say(200, open('.' + self.path, 'rb').read())\n    \
        def do_DELETE(self): os.remove('.' + self.path); self.say(204)";
    let peer = Peer::python(&folder, body);
    let source = server.scratch().join("f");
    std::fs::write(&source, "payload").unwrap();
    let said = foreign(
        &server,
        &[],
        &[
            "stage",
            "put",
            &text(&source),
            &format!("http://{}/f", peer.address),
        ],
    )
    .fails(8);
    assert!(said.contains("not what was sent"), "{said}");
    assert!(read(&folder).is_empty());
}

#[test]
fn a_body_that_is_not_what_its_digest_says_never_appears() {
    let server = with_bucket();
    let body = "    def do_HEAD(self): self.do_GET()\n    def do_GET(self):\n        \
        digest = base64.b64encode(hashlib.sha256(b'other').digest()).decode()\n        \
        self.say(200, b'bytes', Repr_Digest='sha-256=:' + digest + ':')";
    let peer = Peer::python(server.scratch(), body);
    let target = server.scratch().join("t");
    let url = format!("http://{}/x", peer.address);
    let said = foreign(&server, &[], &["stage", "get", &url, &text(&target)]).fails(8);
    assert!(said.contains("sha256"), "{said}");
    assert!(!target.exists() && !server.scratch().join(".t.infall-partial").exists());
    let ours = format!("s3+{}/data/x", server.endpoint());
    foreign(&server, &[], &["stage", "get", &url, &ours]).fails(8);
    server
        .infall(&["stage", "get", "s3://data/x", &text(&target)])
        .fails(4);
}

#[test]
fn one_s3_is_copied_to_another() {
    let (one, other) = (with_bucket(), with_bucket());
    let tree = one.scratch().join("tree");
    odd_tree(&tree);
    write(&tree, &[("long", &noise((20 << 20) + 1, 5))]);
    one.infall(&["stage", "put", &text(&tree), "s3://data/"])
        .ok();
    let (access, secret) = other.credentials();
    let keys = [
        ("INFALL_TARGET_ACCESS_KEY", access.as_str()),
        ("INFALL_TARGET_SECRET_KEY", secret.as_str()),
    ];
    let (source, target) = (
        format!("s3+{}/data/", one.endpoint()),
        format!("s3+{}/data/", other.endpoint()),
    );
    let put = json(foreign(
        &one,
        &keys,
        &["stage", "put", &source, &target, "--json"],
    ));
    assert_eq!(put["copied"].as_array().unwrap().len(), 6);
    let back = other.scratch().join("back");
    other
        .infall(&["stage", "get", "s3://data/", &text(&back)])
        .ok();
    assert!(read(&back) == read(&tree));
    // Proven to be the same without a body travelling.
    let again = json(foreign(
        &one,
        &keys,
        &[
            "stage",
            "sync",
            &source,
            &target,
            "--compare",
            "checksum",
            "--json",
        ],
    ));
    assert_eq!(again["same"].as_array().unwrap().len(), 6, "{again}");
}

/// A tree that goes to this server by `protocol` below `path` and comes back, by it and by S3.
fn round_trip(protocol: &str, path: &str) {
    let server = with_bucket();
    let tree = server.scratch().join("tree");
    odd_tree(&tree);
    let url = format!("{protocol}://{}{path}/data/in/", server.address());
    let put = server.json(&["stage", "put", &text(&tree), &url]);
    assert_eq!(put["copied"].as_array().unwrap().len(), 5, "{put}");
    for from in [url.as_str(), "s3://data/in/"] {
        let back = server.scratch().join("back");
        server.infall(&["stage", "get", from, &text(&back)]).ok();
        assert!(read(&back) == read(&tree), "{from}");
        std::fs::remove_dir_all(back).unwrap();
    }
}

#[test]
fn cdmi_is_written_and_read() {
    round_trip("cdmi", "/cdmi");
}

#[test]
fn our_webdav_is_written_and_read() {
    round_trip("dav", "/dav");
}

#[test]
fn a_server_over_https_is_trusted_by_its_own_ca_alone() {
    let mut server = with_bucket();
    server.infall(&["tls", "make"]).ok();
    server.stop();
    server.restart();
    let tree = server.scratch().join("tree");
    odd_tree(&tree);
    let host = server.endpoint();
    let host = host.strip_prefix("https://").unwrap();
    let ca = text(&server.data().join("tls/ca-cert.pem"));
    let (access, secret) = server.credentials();
    let token = format!("{access}:{secret}");
    let login = [
        ("INFALL_SOURCE_TOKEN", token.as_str()),
        ("INFALL_TARGET_TOKEN", token.as_str()),
    ];
    let places = [
        format!("s3+https://{host}/data/s3/"),
        format!("davs://{host}/dav/data/dav/"),
        format!("cdmis://{host}/cdmi/data/cdmi/"),
    ];
    for place in &places {
        let put = ["stage", "put", &text(&tree), place];
        let said = foreign(&server, &login, &put).fails(6);
        assert!(
            said.contains("not trusted") && said.contains("--ca"),
            "{said}"
        );
        foreign(&server, &login, &[&put[..], &["--ca", &ca]].concat()).ok();
        // From one protocol straight into the next: to a file, to compare.
        let back = server.scratch().join("back");
        foreign(
            &server,
            &login,
            &["stage", "get", place, &text(&back), "--ca", &ca],
        )
        .ok();
        assert!(read(&back) == read(&tree), "{place}");
        std::fs::remove_dir_all(back).unwrap();
    }
    // Commands on the server's own machine find its CA by themselves.
    let back = server.scratch().join("own");
    server
        .infall(&["stage", "get", "s3://data/dav/", &text(&back)])
        .ok();
    assert!(read(&back) == read(&tree));
}
