//! Renames: one step, with the id, without the bytes; and stable ids.

use super::{MIB, always, bytes, get, open, put, reopen, sound, who};
use blockstore::object::{BucketConfig, ListQuery, Named, Versioning};
use blockstore::{Kind, Store, Subject};

fn keys(store: &Store, bucket: &str, prefix: &str) -> Vec<String> {
    let query = ListQuery {
        prefix: prefix.into(),
        max: 10_000,
        ..ListQuery::default()
    };
    let page = store.object_list(bucket, &query).unwrap();
    page.objects.into_iter().map(|object| object.key).collect()
}

#[test]
fn an_id_stays_with_its_key_through_replacing_and_renaming_and_never_goes_to_a_copy() {
    let (directory, store) = open();
    put(&store, "k", b"1");
    let first = store.object_head("abc", "k").unwrap();
    put(&store, "k", &bytes(1, 30_000));
    let second = store.object_head("abc", "k").unwrap();
    assert_eq!((first.id, first.created_ms), (second.id, second.created_ms));
    let (copy, _) = store
        .object_copy(
            &who(),
            ("abc", "k"),
            ("abc", "l"),
            None,
            &always(),
            &always(),
        )
        .unwrap();
    assert_ne!(copy.id, first.id);
    let renamed = store
        .object_rename(&who(), ("abc", "k"), ("abc", "m"), false)
        .unwrap();
    assert_eq!(
        (renamed.id, renamed.modified_ms, &renamed.meta),
        (second.id, second.modified_ms, &second.meta)
    );
    let store = reopen(&directory, store);
    let named = |id| store.object_by_id(id).map_err(|error| error.kind());
    let object = |key: &str| {
        Ok(Named::Object {
            bucket: "abc".into(),
            key: key.into(),
        })
    };
    assert_eq!(named(first.id), object("m"));
    assert_eq!(named(copy.id), object("l"));
    assert_eq!(
        named(store.bucket("abc").unwrap().id),
        Ok(Named::Bucket("abc".into()))
    );
    assert!(get(&store, "m") == bytes(1, 30_000));
    // Over another: that one's id goes with it.
    let over = store.object_rename(&who(), ("abc", "m"), ("abc", "l"), false);
    let error = over.unwrap_err();
    assert_eq!(
        (error.kind(), error.subject()),
        (Kind::Conflict, Subject::Object)
    );
    store
        .object_rename(&who(), ("abc", "m"), ("abc", "l"), true)
        .unwrap();
    assert_eq!(named(copy.id), Err(Kind::NotFound));
    assert_eq!(named(first.id), object("l"));
    store.object_remove(&who(), "abc", "l", &always()).unwrap();
    assert_eq!(named(first.id), Err(Kind::NotFound));
    put(&store, "l", b"");
    assert_ne!(store.object_head("abc", "l").unwrap().id, first.id);
    sound(&store, 0);
}

#[test]
fn a_directory_is_renamed_in_one_step_and_writes_nothing() {
    let (_directory, store) = open();
    put(&store, "d/", b"");
    put(&store, "d/large", &bytes(1, 2 * MIB));
    for n in 0..2000 {
        put(&store, &format!("d/sub/{n:04}"), b"small");
    }
    put(&store, "dd", b"a neighbour");
    let written = store.stats().unwrap().written_copy_bytes;
    std::thread::scope(|scope| {
        let renaming = scope.spawn(|| {
            store
                .prefix_rename(&who(), ("abc", "d/"), ("abc", "e/"), false)
                .unwrap()
        });
        // Whoever looks meanwhile sees one or the other.
        while !renaming.is_finished() {
            let page = keys(&store, "abc", "");
            assert_eq!(page.len(), 2003);
        }
        assert_eq!(renaming.join().unwrap(), 2002);
    });
    assert_eq!(store.stats().unwrap().written_copy_bytes, written);
    assert_eq!(keys(&store, "abc", "d"), ["dd"]);
    assert_eq!(keys(&store, "abc", "e/")[..2], ["e/", "e/large"]);
    assert!(get(&store, "e/large") == bytes(1, 2 * MIB));
    assert!(get(&store, "e/sub/1999") == b"small");
    store.bucket_create(&who(), "other").unwrap();
    store
        .prefix_rename(&who(), ("abc", "e/sub/"), ("other", "x/"), false)
        .unwrap();
    assert_eq!(keys(&store, "other", "").len(), 2000);
    assert_eq!(store.bucket_usage("other").unwrap().bytes, 10_000);
    sound(&store, 1);
    // Renamed rows let go of what they hold as any other.
    store
        .object_remove(&who(), "abc", "e/large", &always())
        .unwrap();
    sound(&store, 0);
}

#[test]
fn a_rename_that_makes_no_sense_changes_nothing() {
    let (_directory, store) = open();
    put(&store, "d/a", b"1");
    put(&store, "e/a", b"2");
    let rename = |source, target, overwrite| {
        store
            .prefix_rename(&who(), ("abc", source), ("abc", target), overwrite)
            .map_err(|error| error.kind())
    };
    assert_eq!(rename("d/", "d/sub/", false), Err(Kind::Invalid));
    assert_eq!(rename("d/a/", "d/", false), Err(Kind::Invalid));
    assert_eq!(rename("d", "x/", false), Err(Kind::Invalid));
    assert_eq!(rename("none/", "x/", false), Err(Kind::NotFound));
    assert_eq!(rename("d/", "e/", false), Err(Kind::Conflict));
    let long = format!("{}/", "x".repeat(1023));
    assert_eq!(rename("d/", &long, false), Err(Kind::Invalid));
    assert_eq!(keys(&store, "abc", ""), ["d/a", "e/a"]);
    assert!(get(&store, "d/a") == b"1");
    assert_eq!(rename("d/", "d/", false), Ok(1));
    assert_eq!(rename("d/", "e/", true), Ok(1));
    assert_eq!(keys(&store, "abc", ""), ["e/a"]);
    assert!(get(&store, "e/a") == b"1");
    sound(&store, 0);
}

#[test]
fn where_versions_are_kept_a_rename_keeps_them_too() {
    let (_directory, store) = open();
    let config = BucketConfig {
        versioning: Versioning::Enabled,
        ..BucketConfig::default()
    };
    store.bucket_create_with(&who(), "kept", config).unwrap();
    put(&store, "k", &bytes(1, 50_000));
    let id = store.object_head("abc", "k").unwrap().id;
    store
        .object_rename(&who(), ("abc", "k"), ("kept", "k"), false)
        .unwrap();
    let moved = store
        .object_rename(&who(), ("kept", "k"), ("kept", "l"), false)
        .unwrap();
    assert_eq!(moved.id, id);
    let left = store.object_latest("kept", "k").unwrap();
    assert!(left.marker && left.id != id);
    // Without the marker it shows again, under the id that this key has by now.
    let ask = blockstore::object::Delete {
        key: "k".into(),
        version: Some(left.version),
        ..Default::default()
    };
    store.object_delete(&who(), "kept", &ask).unwrap();
    let back = store.object_head("kept", "k").unwrap();
    assert_eq!((back.id, back.length_bytes), (left.id, 50_000));
    assert_eq!(
        store.object_by_id(id).unwrap(),
        Named::Object {
            bucket: "kept".into(),
            key: "l".into()
        }
    );
    sound(&store, 1);
}

#[test]
fn what_one_transaction_cannot_hold_is_refused_and_stays() {
    let (_directory, store) = open();
    std::thread::scope(|scope| {
        for directory in 0..50 {
            let store = &store;
            scope.spawn(move || {
                for n in 0..2000 {
                    put(store, &format!("d/{directory}/{n}"), b"");
                }
            });
        }
    });
    put(&store, "d/more", b"");
    let rename = || store.prefix_rename(&who(), ("abc", "d/"), ("abc", "e/"), false);
    assert_eq!(rename().unwrap_err().kind(), Kind::Unsupported);
    let freeze = || store.bucket_snapshot_create(&who(), "abc", "", "s");
    assert_eq!(freeze().unwrap_err().kind(), Kind::Unsupported);
    assert!(keys(&store, "abc", "e/").is_empty());
    store
        .object_remove(&who(), "abc", "d/more", &always())
        .unwrap();
    assert_eq!(freeze().unwrap().objects, 100_000);
    assert_eq!(rename().unwrap(), 100_000);
    assert!(keys(&store, "abc", "d/").is_empty());
    let report = store.check(false).unwrap();
    assert!(report.problems.is_empty(), "{:?}", report.problems);
}
