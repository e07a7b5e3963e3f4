//! Versions: kept, hidden, found again, listed; conditions on them; and how buckets are configured.

use super::{always, bytes, get, meta, open, put, read, reopen, sound, who};
use blockstore::object::{
    BucketChange, BucketConfig, Change, Delete, ObjectLock, Precondition, VersionQuery, Versioning,
};
use blockstore::{Kind, Store, Subject};
use std::collections::BTreeMap;

fn versioning(store: &Store, versioning: Versioning) {
    let change = BucketChange {
        versioning: Some(versioning),
        ..BucketChange::default()
    };
    store.bucket_configure(&who(), "abc", &change).unwrap();
}

fn delete(key: &str, version: Option<&str>) -> Delete {
    Delete {
        key: key.into(),
        version: version.map(Into::into),
        ..Delete::default()
    }
}

/// Version, whether a marker, whether latest.
fn listed(store: &Store, query: &VersionQuery) -> Vec<(String, String, bool, bool)> {
    let page = store.object_versions("abc", query).unwrap();
    assert_eq!(page.next, None);
    page.versions
        .into_iter()
        .map(|object| (object.key, object.version, object.marker, object.latest))
        .collect()
}

fn all() -> VersionQuery {
    VersionQuery {
        max: 1000,
        ..VersionQuery::default()
    }
}

#[test]
fn what_is_replaced_or_deleted_stays_and_comes_back() {
    let (directory, store) = open();
    // From before versioning: the version null, also after it got older.
    put(&store, "k", &bytes(0, 50_000));
    versioning(&store, Versioning::Enabled);
    put(&store, "k", &bytes(1, 60_000));
    put(&store, "k", b"two");
    let versions: Vec<String> = listed(&store, &all())
        .into_iter()
        .map(|(_, version, ..)| version)
        .collect();
    assert_eq!((versions.len(), versions[2].as_str()), (3, "null"));
    assert!(versions[0] < versions[1], "the newest sorts first");
    let hidden = store
        .object_delete(&who(), "abc", &delete("k", None))
        .unwrap();
    let marker = hidden.marker.unwrap();
    assert_eq!(hidden.gone, None);
    let store = reopen(&directory, store);
    let error = store.object_head("abc", "k").unwrap_err();
    assert_eq!(
        (error.kind(), error.subject()),
        (Kind::NotFound, Subject::Object)
    );
    assert_eq!(store.object_latest("abc", "k").unwrap(), marker);
    let of = |version: &str| read(&*store.object_version_open("abc", "k", version).unwrap().1);
    assert!(of("null") == bytes(0, 50_000));
    assert!(of(&versions[1]) == bytes(1, 60_000));
    assert!(of(&versions[0]) == b"two");
    let error = store
        .object_version_open("abc", "k", &marker.version)
        .err()
        .unwrap();
    assert_eq!(
        (error.kind(), error.subject()),
        (Kind::Invalid, Subject::Version)
    );
    // The marker goes: the object is back. So do versions one by one.
    let gone = store
        .object_delete(&who(), "abc", &delete("k", Some(&marker.version)))
        .unwrap();
    assert!(gone.gone.unwrap().marker);
    assert!(get(&store, "k") == b"two");
    store
        .object_delete(&who(), "abc", &delete("k", Some(&versions[0])))
        .unwrap();
    assert!(get(&store, "k") == bytes(1, 60_000));
    store
        .object_delete(&who(), "abc", &delete("k", Some(&versions[1])))
        .unwrap();
    assert!(get(&store, "k") == bytes(0, 50_000));
    assert_eq!(store.object_head("abc", "k").unwrap().version, "null");
    sound(&store, 1);
    let error = store.bucket_remove(&who(), "abc").unwrap_err();
    assert_eq!(error.kind(), Kind::Conflict);
    store
        .object_delete(&who(), "abc", &delete("k", Some("null")))
        .unwrap();
    store.bucket_remove(&who(), "abc").unwrap();
    sound(&store, 0);
}

#[test]
fn a_suspended_bucket_replaces_only_the_version_null() {
    let (_directory, store) = open();
    versioning(&store, Versioning::Enabled);
    put(&store, "k", b"kept");
    let kept = store.object_head("abc", "k").unwrap().version;
    versioning(&store, Versioning::Suspended);
    put(&store, "k", b"first null");
    put(&store, "k", &bytes(1, 20_000));
    let shown = |store: &Store| {
        let rows = listed(store, &all());
        rows.into_iter()
            .map(|(_, version, marker, latest)| (version, marker, latest))
            .collect::<Vec<_>>()
    };
    let null = |marker| ("null".to_owned(), marker, true);
    assert_eq!(shown(&store), [null(false), (kept.clone(), false, false)]);
    store
        .object_delete(&who(), "abc", &delete("k", None))
        .unwrap();
    assert_eq!(shown(&store), [null(true), (kept.clone(), false, false)]);
    store
        .object_delete(&who(), "abc", &delete("k", None))
        .unwrap();
    assert_eq!(shown(&store), [null(true), (kept.clone(), false, false)]);
    store
        .object_delete(&who(), "abc", &delete("k", Some("null")))
        .unwrap();
    assert!(get(&store, "k") == b"kept");
    sound(&store, 0);
    let change = BucketChange {
        versioning: Some(Versioning::Unversioned),
        ..BucketChange::default()
    };
    let error = store.bucket_configure(&who(), "abc", &change).unwrap_err();
    assert_eq!(
        (error.kind(), error.subject()),
        (Kind::Invalid, Subject::Bucket)
    );
}

#[test]
fn versions_are_listed_page_by_page_and_rolled_up() {
    let (_directory, store) = open();
    versioning(&store, Versioning::Enabled);
    let keys = ["a/1", "a/2", "a\0", "a\0/x", "b", "c/d/e", "é"];
    for key in keys {
        for n in 0..3 {
            put(&store, key, &[n]);
        }
    }
    store
        .object_delete(&who(), "abc", &delete("a/2", None))
        .unwrap();
    let whole = listed(&store, &all());
    assert_eq!(whole.len(), 22);
    let mut order: Vec<&str> = whole.iter().map(|row| row.0.as_str()).collect();
    order.dedup();
    let mut sorted = keys.to_vec();
    sorted.sort_unstable();
    assert_eq!(order, sorted);
    for row in whole.windows(2).filter(|pair| pair[0].0 == pair[1].0) {
        assert!(row[0].1 < row[1].1 && !row[1].3, "newest first: {row:?}");
    }
    for max in 1..8 {
        let mut query = VersionQuery { max, ..all() };
        let mut shown = Vec::new();
        loop {
            let page = store.object_versions("abc", &query).unwrap();
            assert!(page.versions.len() <= max);
            shown.extend(
                page.versions
                    .into_iter()
                    .map(|object| (object.key, object.version, object.marker, object.latest)),
            );
            match page.next {
                Some((key, version)) => {
                    query.key_marker = Some(key);
                    query.version_marker = version;
                }
                None => break,
            }
        }
        assert_eq!(shown, whole, "{max}");
        // With a delimiter each prefix shows once, whatever the page's size.
        let mut query = VersionQuery {
            delimiter: Some("/".into()),
            max,
            ..all()
        };
        let (mut prefixes, mut shown) = (Vec::new(), 0);
        loop {
            let page = store.object_versions("abc", &query).unwrap();
            prefixes.extend(page.prefixes);
            shown += page.versions.len();
            match page.next {
                Some((key, version)) => {
                    query.key_marker = Some(key);
                    query.version_marker = version;
                }
                None => break,
            }
        }
        assert_eq!(
            (prefixes, shown),
            (vec!["a\0/".into(), "a/".into(), "c/".into()], 9)
        );
    }
    let below = VersionQuery {
        prefix: "a/2".into(),
        ..all()
    };
    assert_eq!(listed(&store, &below).len(), 4);
    let odd = VersionQuery {
        key_marker: Some("a/1".into()),
        version_marker: Some("odd".into()),
        ..all()
    };
    assert_eq!(
        store.object_versions("abc", &odd).unwrap_err().subject(),
        Subject::Version
    );
}

#[test]
fn conditions_hold_for_deletes_too_and_one_refused_delete_leaves_the_others() {
    let (_directory, store) = open();
    put(&store, "a", b"12345");
    put(&store, "b", b"12345");
    put(&store, "c", b"12345");
    let modified_ms = store.object_head("abc", "a").unwrap().modified_ms;
    let refused = [
        Precondition {
            if_match: vec!["other".into()],
            ..always()
        },
        Precondition {
            length_bytes: Some(4),
            ..always()
        },
        Precondition {
            modified_ms: Some(modified_ms + 1000),
            ..always()
        },
    ];
    for condition in refused {
        let ask = Delete {
            condition,
            ..delete("a", None)
        };
        let error = store.object_delete(&who(), "abc", &ask).unwrap_err();
        assert_eq!(
            (error.kind(), error.subject()),
            (Kind::Precondition, Subject::Object)
        );
    }
    let held = Precondition {
        if_match: vec!["e".into()],
        length_bytes: Some(5),
        modified_ms: Some(modified_ms / 1000 * 1000),
        ..always()
    };
    let asks = [
        Delete {
            condition: held.clone(),
            ..delete("a", None)
        },
        Delete {
            condition: Precondition {
                length_bytes: Some(6),
                ..always()
            },
            ..delete("b", None)
        },
        delete("c", Some("no version")),
        delete("none", None),
        Delete {
            condition: held,
            ..delete("none", None)
        },
    ];
    let kinds: Vec<Result<bool, Kind>> = store
        .objects_delete(&who(), "abc", &asks)
        .unwrap()
        .into_iter()
        .map(|answer| {
            answer
                .map(|deleted| deleted.gone.is_some())
                .map_err(|error| error.kind())
        })
        .collect();
    assert_eq!(
        kinds,
        [
            Ok(true),
            Err(Kind::Precondition),
            Err(Kind::Invalid),
            Ok(false),
            Err(Kind::NotFound)
        ]
    );
    assert!(store.object_head("abc", "a").is_err());
    assert!(get(&store, "b") == b"12345");
    let many = vec![Delete::default(); 1001];
    assert_eq!(
        store
            .objects_delete(&who(), "abc", &many)
            .unwrap_err()
            .kind(),
        Kind::Invalid
    );
    sound(&store, 0);
}

#[test]
fn metadata_changes_in_place_and_only_under_its_condition() {
    let (directory, store) = open();
    versioning(&store, Versioning::Enabled);
    put(&store, "k", &bytes(1, 30_000));
    let before = store.object_head("abc", "k").unwrap();
    put(&store, "k", b"newer");
    let change = Change {
        tags: Some(BTreeMap::from([("colour".into(), "red".into())])),
        user: Some(BTreeMap::from([("a".into(), "b".into())])),
        properties: BTreeMap::from([("cdmi".into(), Some(serde_json::json!({"x": [1, 2]})))]),
        ..Change::default()
    };
    let version = Some(before.version.as_str());
    let stale = Precondition {
        if_match: vec!["stale".into()],
        ..always()
    };
    let refused = store.object_change(&who(), "abc", "k", version, &change, &stale);
    assert_eq!(refused.unwrap_err().kind(), Kind::Precondition);
    let after = store
        .object_change(&who(), "abc", "k", version, &change, &always())
        .unwrap();
    assert_eq!(after.meta.tags["colour"], "red");
    let store = reopen(&directory, store);
    let found = store.object_version("abc", "k", &before.version).unwrap();
    assert_eq!(found, after);
    assert_eq!(
        (found.modified_ms, &found.meta.etag, found.length_bytes),
        (before.modified_ms, &before.meta.etag, 30_000)
    );
    assert_eq!(found.meta.properties["cdmi"]["x"][1], 2);
    let (_, reader) = store
        .object_version_open("abc", "k", &before.version)
        .unwrap();
    assert!(read(&*reader) == bytes(1, 30_000));
    let change = Change {
        properties: BTreeMap::from([("cdmi".into(), None)]),
        ..Change::default()
    };
    let cleared = store
        .object_change(&who(), "abc", "k", version, &change, &always())
        .unwrap();
    assert!(cleared.meta.properties.is_empty() && cleared.meta.tags.len() == 1);
    let endless = Change {
        user: Some(BTreeMap::from([("x".into(), "x".repeat(1 << 20))])),
        ..Change::default()
    };
    let refused = store.object_change(&who(), "abc", "k", version, &endless, &always());
    assert_eq!(refused.unwrap_err().kind(), Kind::Invalid);
    sound(&store, 1);
}

#[test]
fn copies_and_parts_come_from_the_version_that_was_named() {
    let (_directory, store) = open();
    versioning(&store, Versioning::Enabled);
    put(&store, "k", &bytes(1, 100_000));
    let old = store.object_head("abc", "k").unwrap().version;
    put(&store, "k", &bytes(2, 100_000));
    let source = ("abc", "k", Some(old.as_str()));
    let (copy, copied) = store
        .object_copy_version(&who(), source, ("abc", "copy"), None, &always(), &always())
        .unwrap();
    assert!(get(&store, "copy") == bytes(1, 100_000));
    assert_eq!(copied.shared_bytes, 100_000);
    assert_ne!(copy.id, store.object_head("abc", "k").unwrap().id);
    let upload = store.upload_create(&who(), "abc", "up", meta("")).unwrap();
    store
        .upload_part_copy_version(
            &who(),
            &upload,
            1,
            source,
            &always(),
            Some((4096, 50_000)),
            &mut |reader| {
                assert!(read(reader) == bytes(1, 100_000)[4096..54_096]);
                Ok(("e".into(), BTreeMap::new()))
            },
        )
        .unwrap();
    store
        .upload_complete(&who(), &upload, &[(1, "e".into())], meta("e-1"), &always())
        .unwrap();
    assert!(get(&store, "up") == bytes(1, 100_000)[4096..54_096]);
    let missing = ("abc", "k", Some("0123456789abcdef"));
    let error = store
        .object_copy_version(&who(), missing, ("abc", "x"), None, &always(), &always())
        .unwrap_err();
    assert_eq!(
        (error.kind(), error.subject()),
        (Kind::NotFound, Subject::Version)
    );
    sound(&store, 2);
}

#[test]
fn a_bucket_keeps_its_documents_and_its_owner_and_takes_them_along() {
    let (directory, store) = open();
    let mut owner = who();
    owner.project = "blue".into();
    let config = BucketConfig {
        lock: Some(ObjectLock::default()),
        ..BucketConfig::default()
    };
    let bucket = store.bucket_create_with(&owner, "owned", config).unwrap();
    assert_eq!(
        (bucket.project.as_str(), bucket.config.versioning),
        ("blue", Versioning::Enabled)
    );
    assert_eq!(store.bucket("abc").unwrap().project, "root");
    assert_ne!(store.bucket("abc").unwrap().id, bucket.id);
    store
        .bucket_document_put(&who(), "owned", "policy", "{}")
        .unwrap();
    let store = reopen(&directory, store);
    assert_eq!(
        store.bucket_document("owned", "policy").unwrap().as_deref(),
        Some("{}")
    );
    assert_eq!(store.bucket_document("abc", "policy").unwrap(), None);
    assert_eq!(store.bucket_documents("owned").unwrap().len(), 1);
    for (bucket, name, text, kind) in [
        ("gone", "policy", String::new(), Kind::NotFound),
        ("owned", "Policy", String::new(), Kind::Invalid),
        (
            "owned",
            "policy",
            "x".repeat((256 << 10) + 1),
            Kind::Invalid,
        ),
    ] {
        let refused = store.bucket_document_put(&who(), bucket, name, &text);
        assert_eq!(refused.unwrap_err().kind(), kind);
    }
    for n in 0..63 {
        let name = format!("d{n}");
        store
            .bucket_document_put(&who(), "owned", &name, "x")
            .unwrap();
    }
    let refused = store.bucket_document_put(&who(), "owned", "more", "x");
    assert_eq!(refused.unwrap_err().kind(), Kind::Conflict);
    store
        .bucket_document_put(&who(), "owned", "policy", "{}")
        .unwrap();
    store.bucket_remove(&who(), "owned").unwrap();
    assert_eq!(
        store.object_by_id(bucket.id).unwrap_err().kind(),
        Kind::NotFound
    );
    store.bucket_create(&who(), "owned").unwrap();
    assert_eq!(store.bucket_document("owned", "policy").unwrap(), None);
    assert!(
        store
            .bucket_document_put(&who(), "owned", "cors", "")
            .is_ok()
    );
    assert!(
        store
            .bucket_document_remove(&who(), "owned", "cors")
            .unwrap()
    );
    assert!(
        !store
            .bucket_document_remove(&who(), "owned", "cors")
            .unwrap()
    );
}
