//! Snapshots of buckets: they show one moment, and keep it.

use super::{MIB, always, bytes, get, open, put, read, reopen, sound, who};
use blockstore::object::ListQuery;
use blockstore::{Kind, Subject};

#[test]
fn a_snapshot_shows_the_bucket_as_it_was_and_shares_its_bytes() {
    let (directory, store) = open();
    put(&store, "d/large", &bytes(1, 3 * MIB));
    put(&store, "d/small", b"small");
    put(&store, "elsewhere", b"not in it");
    let written = store.stats().unwrap().written_client_bytes;
    let snapshot = store
        .bucket_snapshot_create(&who(), "abc", "d/", "monday")
        .unwrap();
    assert_eq!((snapshot.objects, snapshot.bytes), (2, 3 * MIB as u64 + 5));
    assert_eq!(store.stats().unwrap().written_client_bytes, written);
    put(&store, "d/small", b"other");
    store
        .object_remove(&who(), "abc", "d/large", &always())
        .unwrap();
    put(&store, "d/new", b"new");
    let store = reopen(&directory, store);
    store.collect().unwrap();
    let read = |key: &str| read(&*store.snapshot_object_open("abc", "monday", key).unwrap().1);
    assert!(read("d/large") == bytes(1, 3 * MIB));
    assert!(read("d/small") == b"small");
    assert!(get(&store, "d/small") == b"other");
    let query = ListQuery {
        prefix: "d/".into(),
        max: 10,
        ..ListQuery::default()
    };
    let page = store.snapshot_object_list("abc", "monday", &query).unwrap();
    let listed: Vec<_> = page
        .objects
        .iter()
        .map(|object| object.key.as_str())
        .collect();
    assert_eq!(listed, ["d/large", "d/small"]);
    for key in ["elsewhere", "d/new"] {
        let error = store
            .snapshot_object_head("abc", "monday", key)
            .unwrap_err();
        assert_eq!(
            (error.kind(), error.subject()),
            (Kind::NotFound, Subject::Object)
        );
    }
    sound(&store, 1);
    assert_eq!(store.bucket_snapshots("abc").unwrap(), [snapshot]);
    store
        .bucket_snapshot_remove(&who(), "abc", "monday")
        .unwrap();
    sound(&store, 0);
    assert_eq!(store.stats().unwrap().live_bytes, 0);
}

#[test]
fn a_snapshot_has_a_name_of_its_own_and_keeps_its_bucket() {
    let (_directory, store) = open();
    put(&store, "k", b"1");
    store
        .bucket_snapshot_create(&who(), "abc", "", "s")
        .unwrap();
    let refused = |bucket: &str, name: &str| {
        let error = store
            .bucket_snapshot_create(&who(), bucket, "", name)
            .unwrap_err();
        (error.kind(), error.subject())
    };
    assert_eq!(refused("abc", "s"), (Kind::Conflict, Subject::Snapshot));
    assert_eq!(refused("abc", "a/b"), (Kind::Invalid, Subject::Snapshot));
    assert_eq!(refused("none", "s"), (Kind::NotFound, Subject::Bucket));
    store.object_remove(&who(), "abc", "k", &always()).unwrap();
    let error = store.bucket_remove(&who(), "abc").unwrap_err();
    assert_eq!(
        (error.kind(), error.subject()),
        (Kind::Conflict, Subject::Bucket)
    );
    store.bucket_snapshot_remove(&who(), "abc", "s").unwrap();
    let error = store
        .bucket_snapshot_remove(&who(), "abc", "s")
        .unwrap_err();
    assert_eq!(
        (error.kind(), error.subject()),
        (Kind::NotFound, Subject::Snapshot)
    );
    store.bucket_remove(&who(), "abc").unwrap();
    sound(&store, 0);
}
