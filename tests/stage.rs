//! `infall stage`: files and trees between any two places, whole, verified, continued after a kill,
//! and never over what is there.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "stage/continuing.rs"]
mod continuing;
mod harness;
#[path = "stage/hostile.rs"]
mod hostile;
#[path = "stage/manifests.rs"]
mod manifests;
#[path = "stage/peers.rs"]
mod peers;
#[path = "stage/protocols.rs"]
mod protocols;
#[path = "stage/syncing.rs"]
mod syncing;

use harness::{Done, Server, program, run};
use peers::noise;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A server with the bucket `data`.
fn with_bucket() -> Server {
    let server = Server::start();
    server.infall(&["bucket", "create", "data"]).ok();
    server
}

/// The program on another machine, which knows only the server's key; and its home.
fn elsewhere(server: &Server) -> (Command, PathBuf) {
    let home = server.scratch().join("elsewhere");
    std::fs::create_dir_all(&home).unwrap();
    let (access, secret) = server.credentials();
    let mut command = program(&home);
    command
        .env("AWS_ACCESS_KEY_ID", access)
        .env("AWS_SECRET_ACCESS_KEY", secret)
        .env("AWS_REGION", "infall");
    (command, home)
}

/// Runs it there.
fn foreign(server: &Server, more: &[(&str, &str)], words: &[&str]) -> Done {
    let (mut command, _) = elsewhere(server);
    command.envs(more.iter().copied());
    run(command.args(words))
}

/// A path as an argument.
fn text(path: &Path) -> String {
    path.display().to_string()
}

/// The JSON of a success.
#[track_caller]
fn json(done: Done) -> serde_json::Value {
    serde_json::from_str(&done.ok()).unwrap()
}

/// Writes files, with their directories.
fn write(folder: &Path, files: &[(&str, &[u8])]) {
    for (name, bytes) in files {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
}

/// All files below a directory, with their content.
fn read(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let (mut files, mut open) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                let name = text(path.strip_prefix(folder).unwrap());
                files.push((name, std::fs::read(path).unwrap()));
            }
        }
    }
    files.sort();
    files
}

#[test]
fn a_file_in_many_parts_comes_back_the_same_and_verified() {
    let server = with_bucket();
    let bytes = noise((37 << 20) + 12_345, 7);
    let source = server.scratch().join("big.raw");
    std::fs::write(&source, &bytes).unwrap();
    for checksum in ["crc32", "sha256"] {
        let url = format!("s3://data/{checksum}.raw");
        let put = server.json(&["stage", "put", &text(&source), &url, "--checksum", checksum]);
        let verified = put["copied"][0]["verified"].as_str().unwrap();
        assert!(verified.starts_with(checksum), "{put}");
        assert_eq!(put["length_bytes"], bytes.len());
        let target = server.scratch().join(format!("{checksum}.back"));
        let got = server.json(&["stage", "get", &url, &text(&target)]);
        let verified = got["copied"][0]["verified"].as_str().unwrap();
        assert!(verified.starts_with(checksum), "{got}");
        assert!(std::fs::read(&target).unwrap() == bytes, "{checksum}");
    }
}

#[test]
fn a_tree_comes_back_as_it_was() {
    let server = with_bucket();
    let tree = server.scratch().join("tree");
    let files = [("one", 0), ("a/two", 5), ("a/b c/ä+?#%", 9 << 20)];
    for (name, length) in files {
        write(&tree, &[(name, &noise(length, length as u64))]);
    }
    std::os::unix::fs::symlink("/etc/passwd", tree.join("a/link")).unwrap();
    let put = server.json(&["stage", "put", &text(&tree), "s3://data/run-7"]);
    assert_eq!(put["copied"].as_array().unwrap().len(), 3, "{put}");
    assert_eq!(put["left_out"].as_array().unwrap().len(), 1, "{put}");
    let back = server.scratch().join("back");
    server.json(&["stage", "get", "s3://data/run-7/", &text(&back)]);
    std::fs::remove_file(tree.join("a/link")).unwrap();
    assert!(read(&back) == read(&tree));
}

#[test]
fn what_is_there_is_refused_kept_or_replaced_as_told() {
    let server = with_bucket();
    let (old, new) = (server.scratch().join("old"), server.scratch().join("new"));
    std::fs::write(&old, "old").unwrap();
    std::fs::write(&new, "new").unwrap();
    let content = || {
        let target = server.scratch().join("content");
        server.json(&[
            "stage",
            "get",
            "s3://data/k",
            &text(&target),
            "--existing",
            "replace",
        ]);
        std::fs::read_to_string(target).unwrap()
    };
    server
        .infall(&["stage", "put", &text(&old), "s3://data/k"])
        .ok();
    let said = server
        .infall(&["stage", "put", &text(&new), "s3://data/k"])
        .fails(5);
    assert!(
        said.contains("s3://data/k") && said.contains("--existing replace"),
        "{said}"
    );
    assert_eq!(content(), "old");
    // The same content is no conflict: a copy that was cut short can be run again.
    let same = server.json(&["stage", "put", &text(&old), "s3://data/k"]);
    assert_eq!(same["same"], serde_json::json!(["s3://data/k"]));
    let kept = server.json(&[
        "stage",
        "put",
        &text(&new),
        "s3://data/k",
        "--existing",
        "keep",
    ]);
    assert_eq!(kept["kept"], serde_json::json!(["s3://data/k"]));
    assert_eq!(content(), "old");
    server
        .infall(&[
            "stage",
            "put",
            &text(&new),
            "s3://data/k",
            "--existing",
            "replace",
        ])
        .ok();
    assert_eq!(content(), "new");
    server
        .infall(&["stage", "get", "s3://data/k", &text(&old)])
        .fails(5);
    assert_eq!(std::fs::read_to_string(&old).unwrap(), "old");
}

#[test]
fn what_is_missing_is_named_and_nothing_is_left_behind() {
    let server = with_bucket();
    let target = server.scratch().join("t");
    for (source, word) in [
        ("s3://data/nothing", "s3://data/nothing"),
        ("s3://data/nothing/", "s3://data/nothing/"),
        ("s3://no-such-bucket/x", "no-such-bucket"),
    ] {
        let said = server
            .infall(&["stage", "get", source, &text(&target)])
            .fails(4);
        assert!(said.contains(word), "{said}");
        assert!(!target.exists());
    }
    let said = server
        .infall(&["stage", "put", "/no/such/file", "s3://data/x"])
        .fails(4);
    assert!(said.contains("/no/such/file"), "{said}");
    let source = server.scratch().join("f");
    std::fs::write(&source, noise(20 << 20, 3)).unwrap();
    let said = server
        .infall(&["stage", "put", &text(&source), "s3://no-such-bucket/x"])
        .fails(4);
    assert!(said.contains("no-such-bucket"), "{said}");
    let said = server
        .infall(&["stage", "put", &text(&source), "data/x"])
        .fails(2);
    assert!(said.contains("s3://bucket/key"), "{said}");
    let said = server
        .infall(&["stage", "put", &text(&source), "http://u:p@h/x"])
        .fails(2);
    assert!(said.contains("user name"), "{said}");
}

#[test]
fn a_rate_is_held_over_all_transfers() {
    let server = with_bucket();
    let tree = server.scratch().join("tree");
    for name in ["a", "b", "c"] {
        write(&tree, &[(name, &noise(8 << 20, 5))]);
    }
    let began = std::time::Instant::now();
    let put = server.json(&[
        "stage",
        "put",
        &text(&tree),
        "s3://data/",
        "--bandwidth",
        "12MiB",
    ]);
    // 24 MiB at 12 MiB a second, an eighth of a second ahead.
    let took = began.elapsed().as_secs_f64();
    assert_eq!(put["length_bytes"], 24 << 20);
    assert!((1.5..30.0).contains(&took), "{took}");
    let began = std::time::Instant::now();
    server.json(&[
        "stage",
        "get",
        "s3://data/",
        &text(&server.scratch().join("back")),
        "--bandwidth",
        "12MiB",
    ]);
    let took = began.elapsed().as_secs_f64();
    assert!((1.5..30.0).contains(&took), "{took}");
    assert!(read(&tree) == read(&server.scratch().join("back")));
}

#[test]
fn exit_codes_tell_scripts_what_happened() {
    let server = with_bucket();
    let tree = server.scratch().join("tree");
    write(&tree, &[("a.txt", b"a"), ("b.txt", b"b")]);
    let put = |more: &[&str]| {
        let tree = text(&tree);
        server.infall(&[&["stage", "put", &tree, "s3://data/"], more].concat())
    };
    put(&["--exclude", "*"]).fails(10);
    let planned: serde_json::Value =
        serde_json::from_str(&put(&["--dry-run", "--json"]).ok()).unwrap();
    assert_eq!(planned["planned"].as_array().unwrap().len(), 2, "{planned}");
    server
        .infall(&[
            "stage",
            "get",
            "s3://data/",
            &text(&server.scratch().join("t")),
        ])
        .fails(4);
    put(&["--exclude", "*", "--include", "a*"]).ok();
    server
        .infall(&["stage", "get", "s3://data/b.txt", "."])
        .fails(4);
    server
        .infall(&["stage", "get", "s3://data/", &text(&tree)])
        .ok();
    std::fs::write(tree.join("a.txt"), "c").unwrap();
    put(&[]).fails(5);
    let nobody = server.infall(&[
        "--endpoint",
        "http://127.0.0.1:1",
        "stage",
        "put",
        &text(&tree),
        "s3://data/",
        "--retries",
        "0",
    ]);
    nobody.fails(3);
    // One file of two cannot be read: the other arrives.
    let body = "    def do_HEAD(self): self.do_GET()\n    def do_GET(self):\n        \
        if self.path == '/': return self.say(200, b'<a href=\"bad\">x</a><a href=\"good\">x</a>', Content_Type='text/html')\n        \
        if self.path == '/bad' and self.command == 'GET': return self.say(500)\n        \
        self.say(200, b'good')";
    let peer = peers::Peer::python(server.scratch(), body);
    let partly = server.scratch().join("partly");
    let got = server.infall(&[
        "stage",
        "get",
        &format!("http://{}/", peer.address),
        &text(&partly),
        "--retries",
        "1",
    ]);
    let said = got.fails(11);
    assert!(said.contains("/bad"), "{said}");
    assert!(read(&partly) == [("good".to_owned(), b"good".to_vec())]);
}
