//! Every landed format opens. A fixture is a closed data directory as a release wrote it; later releases
//! add theirs and keep the old ones. INFALL_WRITE_FIXTURE=FILE.tar.gz writes one with this release.

#![allow(clippy::unwrap_used, reason = "a failure is the message")]

use blockstore::object::{
    BucketConfig, Delete, Named, ObjectLock, ObjectMeta, Precondition, Usage,
};
use blockstore::volume::Origin;
use blockstore::{Kind, Options, Store, Who};
use std::path::{Path, PathBuf};
use std::process::Command;

fn options() -> Options {
    Options {
        segment_bytes: 1 << 20,
        reserve_bytes: 1 << 20,
        collector: false,
        cache_bytes: 4 << 20,
        ..Options::default()
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

/// What the fixture of format 2 holds besides; never change it.
fn write_versions(directory: &Path) {
    let who = Who {
        project: "blue".into(),
        ..Who::server()
    };
    let store = Store::open(directory, options()).unwrap();
    let config = BucketConfig {
        lock: Some(ObjectLock::default()),
        ..BucketConfig::default()
    };
    store.bucket_create_with(&who, "versions", config).unwrap();
    for (key, length) in [("k", 100), ("k", 50_000), ("hidden", 10), ("moved/k", 10)] {
        let mut body = store.object_writer("versions").unwrap();
        body.write(&vec![b'y'; length]).unwrap();
        let meta = ObjectMeta {
            tags: [("length".to_owned(), length.to_string())].into(),
            ..ObjectMeta::default()
        };
        body.commit(&who, key, meta, &Precondition::default())
            .unwrap();
    }
    store
        .object_hold(&who, "versions", "k", None, true)
        .unwrap();
    let ask = Delete {
        key: "hidden".into(),
        ..Delete::default()
    };
    store.object_delete(&who, "versions", &ask).unwrap();
    store
        .prefix_rename(&who, ("versions", "moved/"), ("bucket", "renamed/"), false)
        .unwrap();
    store
        .object_rename(&who, ("bucket", "large"), ("bucket", "larger"), false)
        .unwrap();
    store
        .object_rename(&who, ("bucket", "larger"), ("bucket", "large"), false)
        .unwrap();
    store
        .bucket_document_put(&who, "versions", "policy", "{}")
        .unwrap();
    store
        .bucket_snapshot_create(&who, "versions", "", "s")
        .unwrap();
    store.close().unwrap();
}

fn verify_versions(directory: &Path) {
    let store = Store::open(directory, options()).unwrap();
    let held = store.object_head("versions", "k").unwrap();
    assert_eq!(
        (held.length_bytes, held.meta.lock.legal_hold),
        (50_000, true)
    );
    assert_eq!(held.meta.tags["length"], "50000");
    let query = blockstore::object::VersionQuery {
        max: 100,
        ..Default::default()
    };
    let page = store.object_versions("versions", &query).unwrap();
    let shown: Vec<_> = page
        .versions
        .iter()
        .map(|object| (object.key.as_str(), object.length_bytes, object.marker))
        .collect();
    assert_eq!(
        shown,
        [
            ("hidden", 0, true),
            ("hidden", 10, false),
            ("k", 50_000, false),
            ("k", 100, false),
            ("moved/k", 0, true),
            ("moved/k", 10, false)
        ]
    );
    for object in &page.versions {
        let ask = Delete {
            key: object.key.clone(),
            version: Some(object.version.clone()),
            ..Delete::default()
        };
        if object.meta.lock.legal_hold {
            let refused = store.object_delete(&Who::server(), "versions", &ask);
            assert_eq!(refused.unwrap_err().kind(), Kind::Denied);
        }
        if !object.marker {
            let opened = store.object_version_open("versions", &object.key, &object.version);
            let mut byte = [0];
            opened.unwrap().1.read_at(0, &mut byte).unwrap();
            assert_eq!(&byte, b"y");
        }
    }
    assert_eq!(
        store
            .object_head("bucket", "renamed/k")
            .unwrap()
            .length_bytes,
        10
    );
    let id = store.object_head("bucket", "large").unwrap().id;
    let large = Named::Object {
        bucket: "bucket".into(),
        key: "large".into(),
    };
    assert_eq!(store.object_by_id(id).unwrap(), large);
    assert_eq!(
        store
            .bucket_document("versions", "policy")
            .unwrap()
            .as_deref(),
        Some("{}")
    );
    let snapshot = store.snapshot_object_open("versions", "s", "k").unwrap();
    assert_eq!(snapshot.1.length_bytes(), 50_000);
    let expected = Usage {
        bytes: 100_120,
        objects: 1,
        versions: 6,
        buckets: 1,
        ..Usage::default()
    };
    assert_eq!(store.usage("blue").unwrap(), expected);
    store.close().unwrap();
}

/// What every release since format 2 knows of what format 1 left.
fn verify_upgraded(directory: &Path) {
    let store = Store::open(directory, options()).unwrap();
    let bucket = store.bucket("bucket").unwrap();
    assert_eq!(bucket.project, "root");
    assert_eq!(
        store.object_by_id(bucket.id).unwrap(),
        Named::Bucket("bucket".into())
    );
    for key in ["small", "large", "published"] {
        let object = store.object_head("bucket", key).unwrap();
        assert_eq!(object.version, "null");
        let named = Named::Object {
            bucket: "bucket".into(),
            key: key.into(),
        };
        assert_eq!(store.object_by_id(object.id).unwrap(), named);
    }
    let usage = store.usage("root").unwrap();
    assert!(usage.bytes >= 100 + 300_000 + (2 << 20) && usage.objects >= 3);
    assert_eq!((usage.volumes, usage.volume_bytes), (1, 2 << 20));
    let upgrades = store.journal_after(0, 1000).unwrap();
    let upgrades = upgrades
        .iter()
        .filter(|event| event.kind == "store.upgraded");
    assert!(upgrades.count() <= 1, "an upgrade is done once");
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
    write_versions(&data);
    if let Some(file) = std::env::var_os("INFALL_WRITE_FIXTURE") {
        run(Command::new("tar")
            .arg("-C")
            .arg(scratch.path())
            .arg("-czf")
            .arg(file)
            .args(["--exclude=LOG*", "data"]));
    }
    verify(&data);
    verify_upgraded(&data);
    verify_versions(&data);
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
        let data = scratch.path().join("data");
        verify(&data);
        verify_upgraded(&data);
        if !fixture.ends_with("format-1.tar.gz") {
            verify_versions(&data);
        }
    }
}
