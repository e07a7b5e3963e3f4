//! Bodies: written, opened, replaced, removed, refused, forgotten; and what the journal says of it.

use super::{MIB, always, bytes, get, meta, open, part, put, put_if, read, reopen, sound, who};
use blockstore::object::{Body, Precondition};
use blockstore::{Error, Kind, Store, Subject};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

#[test]
fn bodies_of_every_size_come_back_also_after_reopening() {
    let (directory, store) = open();
    let sizes = [
        0,
        1,
        4096,
        8191,
        8192,
        8193,
        12_288,
        99_999,
        MIB,
        MIB + 1,
        3 * MIB + 777,
    ];
    for size in sizes {
        put(&store, &format!("k/{size}"), &bytes(size as u64, size));
    }
    let check = |store: &Store| {
        for size in sizes {
            let (object, reader) = store.object_open("abc", &format!("k/{size}")).unwrap();
            assert_eq!(matches!(object.body, Body::Inline), size <= 8192);
            assert_eq!(reader.length_bytes(), size as u64);
            assert!(read(&*reader) == bytes(size as u64, size), "{size}");
            let error = reader.read_at(size as u64, &mut [0]).unwrap_err();
            assert_eq!(
                (error.kind(), error.subject()),
                (Kind::Invalid, Subject::Range)
            );
        }
    };
    check(&store);
    let store = reopen(&directory, store);
    check(&store);
    for size in sizes {
        let removed = store
            .object_remove(&who(), "abc", &format!("k/{size}"), &always())
            .unwrap()
            .unwrap();
        assert_eq!(removed.length_bytes, size as u64);
    }
    assert!(
        store
            .object_remove(&who(), "abc", "k/0", &always())
            .unwrap()
            .is_none()
    );
    sound(&store, 0);
    assert_eq!(store.stats().unwrap().live_bytes, 0);
    store.bucket_remove(&who(), "abc").unwrap();
}

#[test]
fn an_opened_object_stays_whole_though_it_is_removed_or_replaced() {
    let (_directory, store) = open();
    for size in [100, 3 * MIB] {
        let (old, new) = (bytes(1, size), bytes(2, size + 1));
        put(&store, "k", &old);
        let (_, replaced) = store.object_open("abc", "k").unwrap();
        put(&store, "k", &new);
        let (_, removed) = store.object_open("abc", "k").unwrap();
        store.object_remove(&who(), "abc", "k", &always()).unwrap();
        store.collect().unwrap();
        assert!(read(&*replaced) == old);
        assert!(read(&*removed) == new);
    }
    // The readers are gone: so are the bytes.
    sound(&store, 0);
    assert_eq!(store.stats().unwrap().live_bytes, 0);
}

#[test]
fn readers_of_an_object_under_replacement_see_one_version_each() {
    let (_directory, store) = open();
    let version = |n: u64| bytes(n, if n.is_multiple_of(2) { 500 } else { 40_000 });
    put(&store, "k", &version(0));
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let readers: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    let mut seen = 0;
                    while !done.load(Ordering::Relaxed) {
                        let (object, reader) = store.object_open("abc", "k").unwrap();
                        let n: u64 = if object.meta.etag == "e" {
                            0
                        } else {
                            object.meta.etag.parse().unwrap()
                        };
                        assert!(read(&*reader) == version(n), "version {n}");
                        seen += 1;
                    }
                    seen
                })
            })
            .collect();
        for n in 1..60 {
            put_if(&store, "k", &version(n), &n.to_string(), &always()).unwrap();
            if n % 20 == 0 {
                store.collect().unwrap();
            }
        }
        done.store(true, Ordering::Relaxed);
        assert!(readers.into_iter().all(|reader| reader.join().unwrap() > 0));
    });
    sound(&store, 1);
}

#[test]
fn conditions_hold_in_the_batch_and_a_refused_body_is_freed() {
    let (_directory, store) = open();
    let absent = Precondition {
        if_none_match: vec!["*".into()],
        ..always()
    };
    let won: Vec<bool> = thread::scope(|scope| {
        let (store, absent) = (&store, &absent);
        let put = |n: u64| match put_if(store, "k", &bytes(n, 200_000), &n.to_string(), absent) {
            Ok(()) => true,
            Err(error) => {
                assert_eq!(
                    (error.kind(), error.subject()),
                    (Kind::Precondition, Subject::Object)
                );
                false
            }
        };
        let threads: Vec<_> = (0..8).map(|n| scope.spawn(move || put(n))).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    assert_eq!(won.iter().filter(|won| **won).count(), 1);
    let winner = won.iter().position(|won| *won).unwrap();
    assert!(get(&store, "k") == bytes(winner as u64, 200_000));
    sound(&store, 1);

    let of = |etag: &str| Precondition {
        if_match: vec![etag.into()],
        ..always()
    };
    let kind = |outcome: Result<(), Error>| outcome.err().map(|error| error.kind());
    assert_eq!(
        kind(put_if(&store, "k", b"x", "new", &of("other"))),
        Some(Kind::Precondition)
    );
    assert_eq!(
        kind(put_if(&store, "none", b"x", "new", &of("other"))),
        Some(Kind::NotFound)
    );
    assert_eq!(
        kind(put_if(&store, "k", b"x", "new", &of(&winner.to_string()))),
        None
    );
    let removed = store.object_remove(&who(), "abc", "k", &of(&winner.to_string()));
    assert_eq!(removed.unwrap_err().kind(), Kind::Precondition);
    assert!(
        store
            .object_remove(&who(), "abc", "k", &of("new"))
            .unwrap()
            .is_some()
    );
    sound(&store, 0);
}

#[test]
fn what_is_not_committed_is_forgotten() {
    let (directory, store) = open();
    let mut dropped = store.object_writer("abc").unwrap();
    dropped.write(&bytes(1, 3 * MIB)).unwrap();
    drop(dropped);
    for key in ["", &"x".repeat(1025)] {
        let mut writer = store.object_writer("abc").unwrap();
        writer.write(&bytes(2, 20_000)).unwrap();
        let error = writer
            .commit(&who(), key, meta("e"), &always())
            .unwrap_err();
        assert_eq!(
            (error.kind(), error.subject()),
            (Kind::Invalid, Subject::Object)
        );
    }
    let missing = store.object_writer("nope").err().unwrap();
    assert_eq!(
        (missing.kind(), missing.subject()),
        (Kind::NotFound, Subject::Bucket)
    );
    store.bucket_create(&who(), "gone").unwrap();
    let mut writer = store.object_writer("gone").unwrap();
    writer.write(&bytes(3, 20_000)).unwrap();
    store.bucket_remove(&who(), "gone").unwrap();
    let error = writer
        .commit(&who(), "k", meta("e"), &always())
        .unwrap_err();
    assert_eq!(
        (error.kind(), error.subject()),
        (Kind::NotFound, Subject::Bucket)
    );
    sound(&store, 0);
    assert_eq!(store.stats().unwrap().live_bytes, 0);

    // A writer whose process ends is forgotten by the next opening.
    let mut writer = store.object_writer("abc").unwrap();
    writer.write(&bytes(4, 2 * MIB)).unwrap();
    drop(writer);
    let store = reopen(&directory, store);
    sound(&store, 0);
    assert_eq!(store.stats().unwrap().live_bytes, 0);
}

#[test]
fn every_change_is_in_the_journal() {
    let (_directory, store) = open();
    put(&store, "k", b"12345");
    put(&store, "k", b"123");
    store
        .object_copy(
            &who(),
            ("abc", "k"),
            ("abc", "l"),
            None,
            &always(),
            &always(),
        )
        .unwrap();
    store.object_remove(&who(), "abc", "l", &always()).unwrap();
    store.object_remove(&who(), "abc", "l", &always()).unwrap();
    let upload = store.upload_create(&who(), "abc", "m", meta("")).unwrap();
    let named = part(&store, &upload, 1, b"1234567");
    store
        .upload_complete(&who(), &upload, &[named], meta("e-1"), &always())
        .unwrap();
    let upload = store.upload_create(&who(), "abc", "m", meta("")).unwrap();
    store.upload_abort(&who(), &upload).unwrap();
    let expected = [
        "bucket.created",
        "object.put",
        "object.put",
        "object.copied",
        "object.removed",
        "upload.created",
        "part.put",
        "upload.completed",
        "upload.created",
        "upload.aborted",
    ];
    assert_eq!(kinds(&store), expected);
    let events = store.journal_after(2, 1).unwrap();
    assert_eq!((events[0].seq, events[0].subject.as_str()), (3, "abc/k"));
    assert_eq!(
        events[0].bytes,
        BTreeMap::from([("released".into(), 5), ("written".into(), 3)])
    );
    let seq = store
        .journal_append(&who(), blockstore::Entry::new("server.started", "x"))
        .unwrap();
    assert_eq!(seq, 11);
}

fn kinds(store: &Store) -> Vec<String> {
    store
        .journal_after(0, usize::MAX)
        .unwrap()
        .into_iter()
        .map(|event| event.kind)
        .collect()
}
