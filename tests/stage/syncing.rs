//! `infall stage sync`: what differs is copied, and only what it may take away is taken away.

use crate::{json, read, text, with_bucket, write};

/// Lengths of the report's lists.
fn counts(report: &serde_json::Value) -> [usize; 3] {
    ["copied", "same", "deleted"].map(|name| report[name].as_array().unwrap().len())
}

#[test]
fn a_sync_copies_what_differs_and_a_second_one_nothing() {
    let server = with_bucket();
    let tree = server.scratch().join("tree");
    write(&tree, &[("a", b"1"), ("b/c", b"22"), ("b/d", b"333")]);
    let sync = |more: &[&str]| {
        let tree = text(&tree);
        let words = [&["stage", "sync", &tree, "s3://data/t/", "--json"], more].concat();
        json(server.infall(&words))
    };
    assert_eq!(counts(&sync(&[])), [3, 0, 0]);
    assert_eq!(counts(&sync(&[])), [0, 3, 0]);
    // Another length, then the same length but newer.
    write(&tree, &[("a", b"11")]);
    assert_eq!(counts(&sync(&[])), [1, 2, 0]);
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(100);
    let touched = std::fs::File::options()
        .write(true)
        .open(tree.join("b/c"))
        .unwrap();
    touched.set_modified(later).unwrap();
    assert_eq!(counts(&sync(&["--compare", "checksum"])), [0, 3, 0]);
    assert_eq!(counts(&sync(&[])), [1, 2, 0]);
    std::fs::remove_file(tree.join("b/d")).unwrap();
    assert_eq!(counts(&sync(&["--compare", "length"])), [0, 2, 0]);
    let planned = sync(&["--compare", "length", "--delete", "--dry-run"]);
    let actions: Vec<&str> = planned["planned"]
        .as_array()
        .unwrap()
        .iter()
        .map(|step| step["action"].as_str().unwrap())
        .collect();
    assert_eq!(actions, ["same", "same", "delete"], "{planned}");
    assert_eq!(
        counts(&sync(&["--compare", "length", "--delete"])),
        [0, 2, 1]
    );
    let back = server.scratch().join("back");
    server
        .infall(&["stage", "sync", "s3://data/t/", &text(&back)])
        .ok();
    assert!(read(&back) == read(&tree));
    // Times came along: nothing is copied a second time in this direction either.
    let again = json(server.infall(&["stage", "sync", "s3://data/t/", &text(&back), "--json"]));
    assert_eq!(counts(&again), [0, 2, 0]);
}

#[test]
fn what_is_excluded_is_neither_copied_nor_deleted() {
    let server = with_bucket();
    let (tree, copy) = (server.scratch().join("tree"), server.scratch().join("copy"));
    write(&tree, &[("a.csv", b"1"), ("a.tmp", b"2")]);
    write(&copy, &[("old.csv", b"3"), ("old.tmp", b"4")]);
    let words = [
        "stage",
        "sync",
        &text(&tree),
        &text(&copy),
        "--delete",
        "--exclude",
        "*.tmp",
    ];
    server.infall(&words).ok();
    let names: Vec<String> = read(&copy).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["a.csv", "old.tmp"]);
}

#[test]
fn a_sync_from_nothing_deletes_nothing() {
    let server = with_bucket();
    let (tree, copy) = (server.scratch().join("tree"), server.scratch().join("copy"));
    std::fs::create_dir(&tree).unwrap();
    write(&copy, &[("precious", b"p")]);
    server
        .infall(&["stage", "sync", &text(&tree), &text(&copy), "--delete"])
        .fails(10);
    server
        .infall(&["stage", "sync", "s3://data/", &text(&copy), "--delete"])
        .fails(4);
    server
        .infall(&[
            "stage",
            "sync",
            &text(&server.scratch().join("none")),
            &text(&copy),
            "--delete",
        ])
        .fails(4);
    assert_eq!(read(&copy).len(), 1);
}
