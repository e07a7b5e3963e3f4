//! `infall stage`: files and trees to S3 and back, whole, verified, and never over what is there.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod harness;

use harness::{Server, program};
use std::path::Path;

/// Bytes without a pattern that a mistake in offsets could hide in.
fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 24) as u8
        })
        .collect()
}

fn with_bucket() -> Server {
    let server = Server::start();
    server.infall(&["bucket", "create", "data"]).ok();
    server
}

fn text(path: &Path) -> String {
    path.display().to_string()
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
        assert!(
            put["copied"][0]["verified"]
                .as_str()
                .unwrap()
                .starts_with(checksum),
            "{put}"
        );
        assert_eq!(put["length_bytes"], bytes.len());
        let target = server.scratch().join(format!("{checksum}.back"));
        let got = server.json(&["stage", "get", &url, &text(&target)]);
        assert!(
            got["copied"][0]["verified"]
                .as_str()
                .unwrap()
                .starts_with(checksum),
            "{got}"
        );
        assert!(std::fs::read(&target).unwrap() == bytes, "{checksum}");
    }
}

#[test]
fn a_tree_comes_back_as_it_was() {
    let server = with_bucket();
    let tree = server.scratch().join("tree");
    std::fs::create_dir_all(tree.join("a/b c")).unwrap();
    let files = [("one", 0), ("a/two", 5), ("a/b c/ä+?#%", 9 << 20)];
    for (name, length) in files {
        std::fs::write(tree.join(name), noise(length, length as u64)).unwrap();
    }
    std::os::unix::fs::symlink("/etc/passwd", tree.join("a/link")).unwrap();
    let put = server.json(&["stage", "put", &text(&tree), "s3://data/run-7"]);
    assert_eq!(put["copied"].as_array().unwrap().len(), 3, "{put}");
    assert_eq!(put["left_out"].as_array().unwrap().len(), 1, "{put}");
    let back = server.scratch().join("back");
    server.json(&["stage", "get", "s3://data/run-7/", &text(&back)]);
    for (name, length) in files {
        assert!(
            std::fs::read(back.join(name)).unwrap() == noise(length, length as u64),
            "{name}"
        );
    }
    assert!(!back.join("a/link").exists());
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
}

#[test]
fn an_interrupted_upload_leaves_neither_object_nor_parts() {
    let server = with_bucket();
    let source = server.scratch().join("long.raw");
    std::fs::File::create(&source)
        .unwrap()
        .set_len(4 << 30)
        .unwrap();
    let mut put = program(server.scratch());
    put.arg("--data")
        .arg(server.data())
        .args(["stage", "put", &text(&source), "s3://data/long"]);
    let mut put = put.stderr(std::process::Stdio::null()).spawn().unwrap();
    let events = || server.infall(&["events", "--json"]).ok();
    while !events().contains("upload.created") {
        assert!(
            put.try_wait().unwrap().is_none(),
            "it was over before it could be interrupted"
        );
    }
    let pid = rustix::process::Pid::from_child(&put);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(put.wait().unwrap().code(), Some(1));
    assert!(events().contains("upload.aborted"), "{}", events());
    server
        .infall(&[
            "stage",
            "get",
            "s3://data/long",
            &text(&server.scratch().join("t")),
        ])
        .fails(4);
}
