//! Promises 5 to 7: snapshots, images and buckets.

use crate::lab::{Lab, MIB, errno, noise, run, text, who};
use fuse::mount::MountOptions;
use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

fn names(directory: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    let list: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let set: BTreeSet<_> = list.iter().cloned().collect();
    assert_eq!(list.len(), set.len(), "a name is listed once");
    set
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn keys_are_shown_as_paths_by_the_rule() {
    let lab = Lab::new();
    assert_eq!(
        names(&lab.path("")),
        set(&["volumes", "snapshots", "images", "buckets"])
    );
    lab.store.bucket_create(&who(), "data").unwrap();
    lab.store.bucket_create(&who(), "empty").unwrap();
    let long = "x".repeat(256);
    let keys = [
        "top",
        "a/b/c",
        "a/b/d",
        "marker/",
        "both",
        "both-1",
        "both/inner",
        "/leading",
        "gap//inner",
        "dot/./x",
        "dots/../x",
        &long,
        "umlaut-ä/ö",
        "space in it",
    ];
    for key in keys {
        lab.put("data", key, key.as_bytes());
    }
    assert_eq!(names(&lab.path("buckets")), set(&["data", "empty"]));
    assert_eq!(names(&lab.path("buckets/empty")), set(&[]));
    let shown = [
        "top",
        "a",
        "marker",
        "both",
        "both-1",
        "gap",
        "dot",
        "dots",
        "umlaut-ä",
        "space in it",
    ];
    assert_eq!(names(&lab.path("buckets/data")), set(&shown));
    assert_eq!(names(&lab.path("buckets/data/a/b")), set(&["c", "d"]));
    assert_eq!(
        names(&lab.path("buckets/data/both")),
        set(&["inner"]),
        "the directory wins"
    );
    for empty in ["marker", "gap", "dot", "dots"] {
        assert_eq!(
            names(&lab.path(&format!("buckets/data/{empty}"))),
            set(&[]),
            "{empty}"
        );
    }
    for key in [
        "top",
        "a/b/c",
        "both/inner",
        "both-1",
        "umlaut-ä/ö",
        "space in it",
    ] {
        let file = lab.path(&format!("buckets/data/{key}"));
        assert_eq!(std::fs::read_to_string(&file).unwrap(), key);
    }
    assert_eq!(errno(lab.path("buckets/nope").metadata()), libc::ENOENT);
    assert_eq!(
        errno(lab.path("buckets/data/nope").metadata()),
        libc::ENOENT
    );
    assert_eq!(
        errno(lab.path("buckets/data/top/x").metadata()),
        libc::ENOTDIR
    );
}

#[test]
fn thousands_of_keys_are_listed_each_once() {
    let lab = Lab::new();
    lab.store.bucket_create(&who(), "many").unwrap();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let lab = &lab;
            scope.spawn(move || {
                for number in 0..450 {
                    lab.put("many", &format!("flat/{thread}-{number:04}.txt"), b"x");
                }
                // Each hides a file whose directory comes pages later.
                lab.put("many", &format!("flat/{thread}"), b"hidden");
                lab.put("many", &format!("flat/{thread}/inner"), b"shown");
            });
        }
    });
    let mut expected = BTreeSet::new();
    for thread in 0..8 {
        expected.insert(thread.to_string());
        expected.extend((0..450).map(|number| format!("{thread}-{number:04}.txt")));
    }
    assert_eq!(names(&lab.path("buckets/many/flat")), expected);
    let files = run(
        "find",
        &[
            text(&lab.path("buckets/many")),
            "-type",
            "f",
            "-size",
            "-9c",
        ],
    );
    assert_eq!(
        files.lines().count(),
        8 * 450 + 8,
        "each with its attributes"
    );
    let listed = run("ls", &["-1f", text(&lab.path("buckets/many/flat"))]);
    assert_eq!(listed.lines().count(), expected.len() + 2);
}

#[test]
fn snapshots_images_and_the_root_are_read_only() {
    let lab = Lab::new();
    lab.volume("disk", MIB);
    lab.store
        .snapshot_create(&who(), "disk", Some("monday"), None)
        .unwrap();
    let file = lab.path("snapshots/monday.raw");
    for refused in [
        OpenOptions::new().write(true).open(&file).map(drop),
        OpenOptions::new()
            .write(true)
            .truncate(true)
            .open(&file)
            .map(drop),
        std::fs::remove_file(&file),
        std::fs::rename(&file, lab.path("snapshots/other.raw")),
    ] {
        assert_eq!(errno(refused), libc::EROFS);
    }
    for new in ["new", "snapshots/new.raw", "images/new.raw"] {
        assert_eq!(errno(File::create(lab.path(new))), libc::EROFS, "{new}");
        assert_eq!(
            errno(std::fs::create_dir(lab.path(new))),
            libc::EROFS,
            "{new}"
        );
    }
    assert_eq!(errno(std::fs::remove_dir(lab.path("buckets"))), libc::EROFS);
    assert_eq!(std::fs::read(&file).unwrap().len(), 1 << 20);
}

#[test]
fn a_read_only_mount_writes_nothing() {
    let lab = Lab::with(MountOptions {
        read_only: true,
        ..MountOptions::default()
    });
    let file = lab.volume("disk", MIB);
    assert_eq!(
        errno(OpenOptions::new().write(true).open(&file)),
        libc::EROFS
    );
    assert_eq!(
        errno(File::create(lab.path("volumes/new.raw"))),
        libc::EROFS
    );
    lab.store.bucket_create(&who(), "data").unwrap();
    lab.put("data", "key", b"bytes");
    let key = lab.path("buckets/data/key");
    assert_eq!(
        errno(File::create(lab.path("buckets/data/new"))),
        libc::EROFS
    );
    assert_eq!(errno(File::create(&key)), libc::EROFS);
    assert_eq!(errno(std::fs::remove_file(&key)), libc::EROFS);
    assert_eq!(std::fs::read(&key).unwrap(), b"bytes");
    assert_eq!(std::fs::read(&file).unwrap().len(), 1 << 20);
}

#[test]
fn an_open_object_stays_what_it_was_and_the_name_shows_the_new_one() {
    let lab = Lab::new();
    lab.store.bucket_create(&who(), "data").unwrap();
    let (old, new) = (noise(1, 3 << 20), noise(2, 2 << 20));
    lab.put("data", "key", &old);
    let path = lab.path("buckets/data/key");
    let open = File::open(&path).unwrap();
    let mut half = vec![0; 1 << 20];
    open.read_exact_at(&mut half, 0).unwrap();
    assert!(half == old[..1 << 20]);

    // Within the second for which the kernel believes the name.
    lab.put("data", "key", &new);
    assert!(
        std::fs::read(&path).unwrap() == new,
        "a new open sees the new object"
    );
    let mut rest = vec![0; 2 << 20];
    open.read_exact_at(&mut rest, 1 << 20).unwrap();
    assert!(
        rest == old[1 << 20..],
        "the open file goes on with the old one"
    );
    assert_eq!(open.metadata().unwrap().len(), 3 * MIB);

    lab.store
        .object_remove(&who(), "data", "key", &Default::default())
        .unwrap();
    assert_eq!(errno(File::open(&path)), libc::ENOENT);
    let mut again = vec![0; 3 << 20];
    open.read_exact_at(&mut again, 0).unwrap();
    assert!(again == old, "also when it has no name any more");
}

#[test]
fn an_inline_object_put_anew_with_the_same_length_is_seen() {
    let lab = Lab::new();
    lab.store.bucket_create(&who(), "data").unwrap();
    let path = lab.path("buckets/data/key");
    for round in 0..50 {
        let body = format!("body {round:03}");
        lab.put("data", "key", body.as_bytes());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), body);
    }
}

#[test]
fn a_snapshot_is_a_sparse_file_that_does_not_change() {
    let lab = Lab::new();
    let file = lab.volume("disk", 64 * MIB);
    let open = OpenOptions::new().write(true).open(&file).unwrap();
    let then = noise(7, 2 << 20);
    open.write_all_at(&then, 8 * MIB).unwrap();
    lab.store
        .snapshot_create(&who(), "disk", Some("monday"), None)
        .unwrap();
    open.write_all_at(&noise(8, 2 << 20), 8 * MIB).unwrap();

    let snapshot = lab.path("snapshots/monday.raw");
    assert_eq!(names(&lab.path("snapshots")), set(&["monday.raw"]));
    let metadata = snapshot.metadata().unwrap();
    assert_eq!(
        (metadata.len(), metadata.blocks() * 512),
        (64 * MIB, 2 * MIB)
    );
    let opened = File::open(&snapshot).unwrap();
    let mut seen = vec![0; 2 << 20];
    opened.read_exact_at(&mut seen, 8 * MIB).unwrap();
    assert!(seen == then);
    lab.store.snapshot_remove(&who(), "monday").unwrap();
    opened.read_exact_at(&mut seen, 8 * MIB).unwrap();
    assert!(seen == then, "removed, but open");
}
