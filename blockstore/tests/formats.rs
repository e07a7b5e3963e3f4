//! Every landed format opens. A fixture is a closed data directory as a release wrote it; later releases
//! add theirs and keep the old ones. INFALL_WRITE_FIXTURE=FILE.tar.gz writes one with this release.

#![allow(clippy::unwrap_used, reason = "a failure is the message")]

use blockstore::object::{ObjectMeta, Precondition};
use blockstore::volume::Origin;
use blockstore::{Options, Store, Who};
use std::path::{Path, PathBuf};
use std::process::Command;

fn options() -> Options {
    Options {
        segment_bytes: 1 << 20,
        reserve_bytes: 1 << 20,
        collector: false,
        cache_bytes: 4 << 20,
    }
}

fn run(command: &mut Command) {
    let status = command.status().unwrap();
    assert!(status.success(), "{command:?}: {status}");
}

/// What the fixture of format 1 holds; never change it.
fn write(directory: &Path) {
    let who = Who::server();
    let store = Store::open(directory, options()).unwrap();
    store.bucket_create(&who, "bucket").unwrap();
    for (key, length) in [("small", 100), ("large", 300_000)] {
        let mut body = store.object_writer("bucket").unwrap();
        body.write(&vec![b'x'; length]).unwrap();
        body.commit(
            &who,
            key,
            ObjectMeta {
                etag: key.into(),
                ..ObjectMeta::default()
            },
            &Precondition::default(),
        )
        .unwrap();
    }
    store.image_add(&who, "bucket", "large", "base").unwrap();
    store
        .volume_create(&who, "clone", Some(2 << 20), &Origin::Image("base".into()))
        .unwrap();
    let volume = store.volume_open("clone").unwrap();
    let writer = volume.writer("test").unwrap();
    writer.write_at(4096, &[1; 8192]).unwrap();
    store
        .snapshot_create(&who, "clone", Some("before"), Some(("bucket", "published")))
        .unwrap();
    writer.write_at(8192, &[2; 8192]).unwrap();
    writer.zero(0, 4096).unwrap();
    writer.flush().unwrap();
    drop((writer, volume));
    store
        .record_put(
            &who,
            "instance",
            "vm",
            &serde_json::json!({"name": "vm"}),
            None,
        )
        .unwrap();
    store.close().unwrap();
}

fn verify(directory: &Path) {
    let store = Store::open(directory, options()).unwrap();
    let mut read = vec![0; 16384];
    store
        .volume_open("clone")
        .unwrap()
        .read_at(0, &mut read)
        .unwrap();
    let part = |read: &[u8], index: usize| read[index * 4096];
    assert_eq!(
        [
            part(&read, 0),
            part(&read, 1),
            part(&read, 2),
            part(&read, 3)
        ],
        [0, 1, 2, 2]
    );
    let (object, body) = store.object_open("bucket", "published").unwrap();
    assert_eq!(object.length_bytes, 2 << 20);
    body.read_at(0, &mut read).unwrap();
    assert_eq!(
        [
            part(&read, 0),
            part(&read, 1),
            part(&read, 2),
            part(&read, 3)
        ],
        [b'x', 1, 1, b'x']
    );
    let (_, body) = store.object_open("bucket", "small").unwrap();
    let mut small = [0; 100];
    body.read_at(0, &mut small).unwrap();
    assert_eq!(small, [b'x'; 100]);
    assert_eq!(store.image("base").unwrap().length_bytes, 303_104);
    assert_eq!(store.record_list("instance").unwrap().len(), 1);
    let events = store.journal_after(0, 100).unwrap();
    assert_eq!(events.first().map(|event| event.seq), Some(1));
    let report = store.check(true).unwrap();
    assert!(report.problems.is_empty(), "{:?}", report.problems);
    // It can also be written to.
    store
        .volume_open("clone")
        .unwrap()
        .writer("test")
        .unwrap()
        .write_at(0, &[9; 4096])
        .unwrap();
    store.close().unwrap();
}

#[test]
fn what_this_release_writes_it_reads() {
    let scratch = tempfile::tempdir().unwrap();
    let data = scratch.path().join("data");
    write(&data);
    if let Some(file) = std::env::var_os("INFALL_WRITE_FIXTURE") {
        run(Command::new("tar")
            .arg("-C")
            .arg(scratch.path())
            .arg("-czf")
            .arg(file)
            .args(["--exclude=LOG*", "data"]));
    }
    verify(&data);
}

#[test]
fn every_landed_format_opens() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let found: Vec<PathBuf> = std::fs::read_dir(fixtures)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert!(!found.is_empty());
    for fixture in found {
        let scratch = tempfile::tempdir().unwrap();
        run(Command::new("tar")
            .arg("-C")
            .arg(scratch.path())
            .arg("-xzf")
            .arg(&fixture));
        verify(&scratch.path().join("data"));
    }
}
