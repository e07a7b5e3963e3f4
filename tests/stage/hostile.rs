//! Listings and trees that want out: refused by name, before anything is copied.

use crate::peers::Peer;
use crate::{foreign, read, text, with_bucket, write};

/// The inside of a handler that answers every GET and HEAD with an index page of these links, and
/// every file with its name.
fn index(links: &str) -> String {
    format!(
        "    def do_HEAD(self): self.do_GET()\n    def do_GET(self):\n        \
         if self.path.endswith('/'): return self.say(200, {links:?}.encode(), Content_Type='text/html')\n        \
         self.say(200, self.path.encode())"
    )
}

#[test]
fn a_listing_that_leads_out_of_the_target_is_refused_by_name() {
    let server = with_bucket();
    let folder = server.scratch().join("in");
    for (name, escaped) in [
        ("../../escaped", "..%2f..%2fescaped"),
        ("..", "%2e%2e"),
        ("/etc/escaped", "%2fetc%2fescaped"),
        ("nul", "nul%00"),
    ] {
        let peer = Peer::python(
            server.scratch(),
            &index(&format!("<a href='ok'>x</a><a href='{escaped}'>x</a>")),
        );
        let url = format!("http://{}/d/", peer.address);
        let said = foreign(&server, &[], &["stage", "get", &url, &text(&folder)]).fails(9);
        assert!(
            said.contains(name) && said.contains("nothing was copied"),
            "{said}"
        );
        assert!(!folder.exists());
    }
}

#[test]
fn a_webdav_server_that_lists_what_lies_elsewhere_is_refused() {
    let server = with_bucket();
    let body = "    def do_PROPFIND(self):\n        \
        self.rfile.read(int(self.headers.get('Content-Length', 0)))\n        \
        self.say(207, b'<multistatus xmlns=\"DAV:\"><response><href>/d/</href></response>'\n            \
        b'<response><href>/other/secret</href></response></multistatus>')";
    let peer = Peer::python(server.scratch(), body);
    let target = server.scratch().join("in");
    let url = format!("dav://{}/d/", peer.address);
    let said = foreign(&server, &[], &["stage", "get", &url, &text(&target)]).fails(9);
    assert!(said.contains("/other/secret"), "{said}");
    let bomb = "    def do_PROPFIND(self):\n        \
        self.rfile.read(int(self.headers.get('Content-Length', 0)))\n        \
        self.say(207, b'<!DOCTYPE x [<!ENTITY a \"aaaaaaaaaa\"><!ENTITY b \"&a;&a;\">]><multistatus xmlns=\"DAV:\">&b;</multistatus>')";
    let peer = Peer::python(server.scratch(), bomb);
    let url = format!("dav://{}/d/", peer.address);
    foreign(&server, &[], &["stage", "get", &url, &text(&target)]).fails(9);
    assert!(!target.exists());
}

#[test]
fn a_link_in_the_target_is_no_way_out() {
    let server = with_bucket();
    let outside = server.scratch().join("outside");
    let (tree, target) = (server.scratch().join("tree"), server.scratch().join("in"));
    write(&outside, &[("untouched", b"u")]);
    write(&tree, &[("link/x", b"x"), ("file", b"new")]);
    server
        .infall(&["stage", "put", &text(&tree), "s3://data/"])
        .ok();
    std::fs::create_dir(&target).unwrap();
    std::os::unix::fs::symlink(&outside, target.join("link")).unwrap();
    let said = server
        .infall(&["stage", "get", "s3://data/", &text(&target)])
        .fails(9);
    assert!(said.contains("link"), "{said}");
    for words in [
        &["get", "--existing", "replace"][..],
        &["sync"],
        &["sync", "--delete"],
    ] {
        let done = server.infall(
            &[
                &["stage", words[0], "s3://data/", &text(&target)],
                &words[1..],
            ]
            .concat(),
        );
        assert!(done.code != 0, "{words:?} {}", done.stdout);
    }
    assert!(read(&outside) == [("untouched".to_owned(), b"u".to_vec())]);
}

#[test]
fn keys_that_no_file_system_holds_are_refused_and_can_be_excluded() {
    let server = with_bucket();
    let file = server.scratch().join("f");
    std::fs::write(&file, "x").unwrap();
    for key in [
        "s3://data/a//b",
        "s3://data/Makefile",
        "s3://data/makefile",
        "s3://data/caf\u{e9}",
        "s3://data/cafe\u{301}",
        "s3://data/ok",
    ] {
        server.infall(&["stage", "put", &text(&file), key]).ok();
    }
    let target = server.scratch().join("in");
    let get = |more: &[&str]| {
        let target = text(&target);
        server.infall(&[&["stage", "get", "s3://data/", &target], more].concat())
    };
    let said = get(&[]).fails(9);
    assert!(said.contains("a//b"), "{said}");
    let said = get(&["--exclude", "a*"]).fails(9);
    assert!(said.contains("akefile") && said.contains("caf"), "{said}");
    assert!(!target.exists());
    get(&["--exclude", "a*", "--exclude", "M*", "--exclude", "cafe*"]).ok();
    assert_eq!(read(&target).len(), 3);
    get(&["--exclude", "a*", "--similar-names"]).ok();
    assert_eq!(read(&target).len(), 5);
    // What is a file and a directory at once is neither.
    server
        .infall(&["stage", "put", &text(&file), "s3://data/ok/below"])
        .ok();
    let said = get(&["--exclude", "*", "--include", "ok*"]).fails(9);
    assert!(said.contains("ok/below"), "{said}");
}

#[test]
fn a_listing_without_an_end_ends() {
    let server = with_bucket();
    // Every directory holds a directory.
    let peer = Peer::python(server.scratch(), &index("<a href='again/'>x</a>"));
    let target = server.scratch().join("in");
    let url = format!("http://{}/", peer.address);
    let said = foreign(&server, &[], &["stage", "get", &url, &text(&target)]).fails(9);
    assert!(said.contains("too deep"), "{said}");
    // Every directory holds ten.
    let many: String = (0..10).map(|n| format!("<a href='{n}/'>x</a>")).collect();
    let peer = Peer::python(server.scratch(), &index(&many));
    let url = format!("http://{}/", peer.address);
    let said = foreign(
        &server,
        &[],
        &["stage", "get", &url, &text(&target), "--entries-max", "500"],
    )
    .fails(9);
    assert!(said.contains("more than 500 entries"), "{said}");
}

#[test]
fn a_redirect_takes_no_key_along() {
    let server = with_bucket();
    let thief = Peer::python(
        server.scratch(),
        "    def do_HEAD(self): self.do_GET()\n    def do_GET(self):\n        \
        open('stolen', 'a').write(self.headers.get('Authorization', 'nothing') + '\\n'); self.say(200, b'x')",
    );
    let body = format!(
        "    def do_HEAD(self): self.do_GET()\n    def do_GET(self):\n        \
         self.say(302, Location='http://{}/x')",
        thief.address
    );
    let peer = Peer::python(server.scratch(), &body);
    let target = server.scratch().join("t");
    let token = [("INFALL_SOURCE_TOKEN", "secret")];
    foreign(
        &server,
        &token,
        &[
            "stage",
            "get",
            &format!("http://{}/x", peer.address),
            &text(&target),
        ],
    )
    .ok();
    let stolen = std::fs::read_to_string(server.scratch().join("stolen")).unwrap();
    assert!(
        !stolen.contains("secret") && stolen.contains("nothing"),
        "{stolen}"
    );
}
