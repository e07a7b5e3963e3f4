//! Objects through the store's own edge: bodies inline and in maps, sharing, replacing, multipart.

use blockstore::object::{Body, Copied, ListQuery, ObjectMeta, Precondition, ReadAt, Upload};
use blockstore::{Error, Kind, Options, Store, Subject, Who};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

const MIB: usize = 1 << 20;

fn options() -> Options {
    Options { segment_bytes: 8 << 20, reserve_bytes: 1 << 20, collector: false, cache_bytes: 4 << 20 }
}

fn open() -> (tempfile::TempDir, Store) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path(), options()).unwrap();
    store.bucket_create(&who(), "abc").unwrap();
    (directory, store)
}

fn who() -> Who {
    Who::server()
}

fn always() -> Precondition {
    Precondition::default()
}

fn meta(etag: &str) -> ObjectMeta {
    ObjectMeta { etag: etag.into(), ..ObjectMeta::default() }
}

/// Bytes that differ from block to block and from seed to seed.
fn bytes(seed: u64, count: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(count + 8);
    while bytes.len() < count {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(count);
    bytes
}

fn put_if(store: &Store, key: &str, bytes: &[u8], etag: &str, condition: &Precondition) -> Result<(), Error> {
    let mut writer = store.object_writer("abc")?;
    for part in bytes.chunks(100_001) {
        writer.write(part)?;
    }
    assert_eq!(writer.length_bytes(), bytes.len() as u64);
    let object = writer.commit(&who(), key, meta(etag), condition)?;
    assert_eq!((object.length_bytes, object.key.as_str()), (bytes.len() as u64, key));
    Ok(())
}

fn put(store: &Store, key: &str, bytes: &[u8]) {
    put_if(store, key, bytes, "e", &always()).unwrap();
}

fn read(reader: &dyn ReadAt) -> Vec<u8> {
    let mut buffer = vec![0; usize::try_from(reader.length_bytes()).unwrap()];
    reader.read_at(0, &mut buffer).unwrap();
    buffer
}

fn get(store: &Store, key: &str) -> Vec<u8> {
    read(&*store.object_open("abc", key).unwrap().1)
}

fn part(store: &Store, upload: &Upload, number: u32, bytes: &[u8]) -> (u32, String) {
    let mut writer = store.object_writer(&upload.bucket).unwrap();
    writer.write(bytes).unwrap();
    let etag = format!("part-{number}-{}", bytes.len());
    writer.commit_part(&who(), upload, number, etag.clone(), BTreeMap::new()).unwrap();
    (number, etag)
}

/// Nothing is wrong, nothing is leaked, and so many maps are left.
fn sound(store: &Store, maps: u64) {
    store.collect().unwrap();
    let report = store.check(true).unwrap();
    assert_eq!((report.problems.as_slice(), report.leaked_bytes, report.maps), (&[][..], 0, maps), "{report:?}");
}

fn kinds(store: &Store) -> Vec<String> {
    store.journal_after(0, usize::MAX).unwrap().into_iter().map(|event| event.kind).collect()
}

#[test]
fn bodies_of_every_size_come_back_also_after_reopening() {
    let (directory, store) = open();
    let sizes = [0, 1, 4096, 8191, 8192, 8193, 12_288, 99_999, MIB, MIB + 1, 3 * MIB + 777];
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
            assert_eq!((error.kind(), error.subject()), (Kind::Invalid, Subject::Range));
        }
    };
    check(&store);
    store.close().unwrap();
    assert_eq!(store.object_head("abc", "k/0").unwrap_err().kind(), Kind::Unavailable);
    let store = Store::open(directory.path(), options()).unwrap();
    check(&store);
    for size in sizes {
        let removed = store.object_remove(&who(), "abc", &format!("k/{size}"), &always()).unwrap().unwrap();
        assert_eq!(removed.length_bytes, size as u64);
    }
    assert!(store.object_remove(&who(), "abc", "k/0", &always()).unwrap().is_none());
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
    let version = |n: u64| bytes(n, if n % 2 == 0 { 500 } else { 40_000 });
    put(&store, "k", &version(0));
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let readers: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    let mut seen = 0;
                    while !done.load(Ordering::Relaxed) {
                        let (object, reader) = store.object_open("abc", "k").unwrap();
                        let n: u64 = if object.meta.etag == "e" { 0 } else { object.meta.etag.parse().unwrap() };
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
    let absent = Precondition { if_none_match: vec!["*".into()], ..always() };
    let won: Vec<bool> = thread::scope(|scope| {
        let (store, absent) = (&store, &absent);
        let put = |n: u64| match put_if(store, "k", &bytes(n, 200_000), &n.to_string(), absent) {
            Ok(()) => true,
            Err(error) => {
                assert_eq!((error.kind(), error.subject()), (Kind::Precondition, Subject::Object));
                false
            }
        };
        let threads: Vec<_> = (0..8).map(|n| scope.spawn(move || put(n))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(won.iter().filter(|won| **won).count(), 1);
    let winner = won.iter().position(|won| *won).unwrap();
    assert!(get(&store, "k") == bytes(winner as u64, 200_000));
    sound(&store, 1);

    let of = |etag: &str| Precondition { if_match: vec![etag.into()], ..always() };
    let kind = |outcome: Result<(), Error>| outcome.err().map(|error| error.kind());
    assert_eq!(kind(put_if(&store, "k", b"x", "new", &of("other"))), Some(Kind::Precondition));
    assert_eq!(kind(put_if(&store, "none", b"x", "new", &of("other"))), Some(Kind::NotFound));
    assert_eq!(kind(put_if(&store, "k", b"x", "new", &of(&winner.to_string()))), None);
    let removed = store.object_remove(&who(), "abc", "k", &of(&winner.to_string()));
    assert_eq!(removed.unwrap_err().kind(), Kind::Precondition);
    assert!(store.object_remove(&who(), "abc", "k", &of("new")).unwrap().is_some());
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
        let error = writer.commit(&who(), key, meta("e"), &always()).unwrap_err();
        assert_eq!((error.kind(), error.subject()), (Kind::Invalid, Subject::Object));
    }
    let missing = store.object_writer("nope").err().unwrap();
    assert_eq!((missing.kind(), missing.subject()), (Kind::NotFound, Subject::Bucket));
    store.bucket_create(&who(), "gone").unwrap();
    let mut writer = store.object_writer("gone").unwrap();
    writer.write(&bytes(3, 20_000)).unwrap();
    store.bucket_remove(&who(), "gone").unwrap();
    let error = writer.commit(&who(), "k", meta("e"), &always()).unwrap_err();
    assert_eq!((error.kind(), error.subject()), (Kind::NotFound, Subject::Bucket));
    sound(&store, 0);
    assert_eq!(store.stats().unwrap().live_bytes, 0);

    // A writer whose process ends is forgotten by the next opening.
    let mut writer = store.object_writer("abc").unwrap();
    writer.write(&bytes(4, 2 * MIB)).unwrap();
    store.close().unwrap();
    drop(writer);
    let store = Store::open(directory.path(), options()).unwrap();
    sound(&store, 0);
    assert_eq!(store.stats().unwrap().live_bytes, 0);
}

#[test]
fn a_copy_shares_the_body_and_outlives_its_source() {
    let (_directory, store) = open();
    store.bucket_create(&who(), "other").unwrap();
    let (large, small) = (bytes(1, 2 * MIB), bytes(2, 10));
    put(&store, "large", &large);
    put(&store, "small", &small);
    let written = store.stats().unwrap();
    let copy = |source, target, meta| store.object_copy(&who(), source, target, meta, &always(), &always());

    let (object, copied) = copy(("abc", "large"), ("other", "l"), None).unwrap();
    assert_eq!((object.meta, object.length_bytes), (meta("e"), 2 * MIB as u64));
    assert_eq!(copied, Copied { shared_bytes: 2 * MIB as u64, ..Copied::default() });
    let (object, copied) = copy(("abc", "small"), ("other", "s"), Some(meta("new"))).unwrap();
    assert_eq!((object.meta, copied.shared_bytes, copied.rewritten_bytes), (meta("new"), 0, 10));
    assert!(!copied.why.is_empty());
    let stats = store.stats().unwrap();
    assert_eq!(
        (stats.written_client_bytes, stats.written_copy_bytes),
        (written.written_client_bytes, written.written_copy_bytes)
    );

    for key in ["large", "small"] {
        // Onto itself: only what is known about it changes.
        let (object, _) = copy(("abc", key), ("abc", key), Some(meta("changed"))).unwrap();
        assert_eq!(object.meta, meta("changed"));
        store.collect().unwrap();
    }
    assert!(get(&store, "large") == large && get(&store, "small") == small);
    store.object_remove(&who(), "abc", "large", &always()).unwrap();
    store.object_remove(&who(), "abc", "small", &always()).unwrap();
    store.collect().unwrap();
    assert!(read(&*store.object_open("other", "l").unwrap().1) == large);
    assert!(read(&*store.object_open("other", "s").unwrap().1) == small);
    sound(&store, 1);

    let error = copy(("abc", "large"), ("other", "x"), None).unwrap_err();
    assert_eq!((error.kind(), error.subject()), (Kind::NotFound, Subject::Object));
    let error = copy(("other", "l"), ("nope", "x"), None).unwrap_err();
    assert_eq!((error.kind(), error.subject()), (Kind::NotFound, Subject::Bucket));
    let stale = Precondition { if_match: vec!["stale".into()], ..always() };
    let error = store.object_copy(&who(), ("other", "l"), ("abc", "x"), None, &stale, &always()).unwrap_err();
    assert_eq!(error.kind(), Kind::Precondition);
    let absent = Precondition { if_none_match: vec!["*".into()], ..always() };
    let error = store.object_copy(&who(), ("other", "l"), ("other", "s"), None, &always(), &absent).unwrap_err();
    assert_eq!(error.kind(), Kind::Precondition);
}

#[test]
fn a_multipart_upload_is_completed_without_a_copy() {
    let (directory, store) = open();
    let upload = store.upload_create(&who(), "abc", "big", meta("")).unwrap();
    let sizes = [5 * MIB, 6 * MIB + 5, 7, 5 * MIB];
    let contents: Vec<_> = sizes.iter().enumerate().map(|(n, size)| bytes(n as u64, *size)).collect();
    part(&store, &upload, 2, &bytes(99, 5 * MIB));
    let named: Vec<_> = [0, 1, 3, 2].map(|n| part(&store, &upload, n as u32 + 1, &contents[n])).into();
    let named: Vec<_> = [&named[0], &named[1], &named[3]].map(Clone::clone).into();
    assert_eq!(store.uploads("abc").unwrap().len(), 1);
    assert_eq!(store.upload("abc", "big", &upload.id).unwrap().id, upload.id);
    assert_eq!(store.upload("abc", "bigger", &upload.id).unwrap_err().subject(), Subject::Upload);
    assert_eq!(store.upload_parts(&upload).unwrap().len(), 4);
    assert_eq!(store.bucket_remove(&who(), "abc").unwrap_err().kind(), Kind::Conflict);
    let written = store.stats().unwrap().written_client_bytes;

    let object = store.upload_complete(&who(), &upload, &named, meta("whole-3"), &always()).unwrap();
    assert_eq!(object.parts, [sizes[0], sizes[1], sizes[2]].map(|size| size as u64));
    assert_eq!(store.stats().unwrap().written_client_bytes, written);
    assert!(store.uploads("abc").unwrap().is_empty());
    sound(&store, 3);
    store.close().unwrap();

    let store = Store::open(directory.path(), options()).unwrap();
    let whole = contents[..3].concat();
    let (object, reader) = store.object_open("abc", "big").unwrap();
    assert_eq!((object.length_bytes, object.meta.etag.as_str()), (whole.len() as u64, "whole-3"));
    assert!(read(&*reader) == whole);
    for (offset, count) in [(0, 1), (5 * MIB - 1, 2), (5 * MIB, 6 * MIB + 6), (whole.len() - 8, 8), (4097, 9 * MIB)] {
        let mut buffer = vec![0; count];
        reader.read_at(offset as u64, &mut buffer).unwrap();
        assert!(buffer == whole[offset..offset + count], "{count} bytes from {offset}");
    }
    drop(reader);
    store.object_remove(&who(), "abc", "big", &always()).unwrap();
    let aborted = store.upload_create(&who(), "abc", "big", meta("")).unwrap();
    part(&store, &aborted, 1, &contents[0]);
    store.upload_abort(&who(), &aborted).unwrap();
    assert_eq!(store.upload_parts(&aborted).unwrap_err().subject(), Subject::Upload);
    sound(&store, 0);
}

#[test]
fn a_part_copy_shares_what_begins_on_a_block_and_states_what_it_rewrites() {
    let (_directory, store) = open();
    let source = bytes(1, 6 * MIB + 100);
    put(&store, "source", &source);
    put(&store, "small", &source[..50]);
    let upload = store.upload_create(&who(), "abc", "target", meta("")).unwrap();
    let copy = |number: u32, key: &str, range: Option<(u64, u64)>| {
        let mut digested = Vec::new();
        let (part, copied) = store.upload_part_copy(&who(), &upload, number, ("abc", key), range, &mut |reader| {
            digested = read(reader);
            Ok((format!("copy-{number}"), BTreeMap::new()))
        })?;
        assert_eq!(part.length_bytes, digested.len() as u64);
        Ok::<_, Error>((part, copied, digested))
    };
    let before = store.stats().unwrap();
    let range = (4096, 5 * MIB as u64 + 3);
    let (_, copied, digested) = copy(1, "source", Some(range)).unwrap();
    assert_eq!((copied.shared_bytes, copied.rewritten_bytes), (range.1, 0));
    assert!(digested == source[4096..4096 + 5 * MIB + 3]);
    let after = store.stats().unwrap();
    assert_eq!(after.written_copy_bytes, before.written_copy_bytes);

    let (_, copied, _) = copy(2, "source", Some((1, 5 * MIB as u64))).unwrap();
    assert_eq!((copied.shared_bytes, copied.rewritten_bytes), (0, 5 * MIB as u64));
    assert!(copied.why.contains("byte 1"), "{}", copied.why);
    let after = store.stats().unwrap();
    assert!(after.written_copy_bytes >= before.written_copy_bytes + 5 * MIB as u64);
    assert_eq!(after.written_client_bytes, before.written_client_bytes);
    let (_, copied, _) = copy(3, "small", None).unwrap();
    assert_eq!(copied.rewritten_bytes, 50);

    let error = copy(4, "source", Some((0, 6 * MIB as u64 + 101))).unwrap_err();
    assert_eq!((error.kind(), error.subject()), (Kind::Invalid, Subject::Range));
    assert_eq!(copy(4, "nope", None).unwrap_err().subject(), Subject::Object);
    assert_eq!(copy(0, "source", None).unwrap_err().subject(), Subject::Part);

    // The parts live on without their source.
    store.object_remove(&who(), "abc", "source", &always()).unwrap();
    store.object_remove(&who(), "abc", "small", &always()).unwrap();
    store.collect().unwrap();
    let named: Vec<_> = (1..=3).map(|number| (number, format!("copy-{number}"))).collect();
    store.upload_complete(&who(), &upload, &named, meta("whole-3"), &always()).unwrap();
    sound(&store, 3);
    let whole = [&source[4096..4096 + 5 * MIB + 3], &source[1..1 + 5 * MIB], &source[..50]].concat();
    assert!(get(&store, "target") == whole);

    // Out of a concat: the second piece begins on a block of its own map.
    let upload = store.upload_create(&who(), "abc", "again", meta("")).unwrap();
    let offset = 5 * MIB + 3;
    let (part, copied) = store
        .upload_part_copy(&who(), &upload, 1, ("abc", "target"), Some((offset as u64, 10_000)), &mut |reader| {
            assert!(read(reader) == whole[offset..offset + 10_000]);
            Ok(("e".into(), BTreeMap::new()))
        })
        .unwrap();
    assert_eq!((copied.shared_bytes, part.pieces.len()), (10_000, 1));
    store.upload_complete(&who(), &upload, &[(1, "e".into())], meta("e-1"), &always()).unwrap();
    assert!(get(&store, "again") == whole[offset..offset + 10_000]);
}

#[test]
fn every_change_is_in_the_journal() {
    let (_directory, store) = open();
    put(&store, "k", b"12345");
    put(&store, "k", b"123");
    store.object_copy(&who(), ("abc", "k"), ("abc", "l"), None, &always(), &always()).unwrap();
    store.object_remove(&who(), "abc", "l", &always()).unwrap();
    store.object_remove(&who(), "abc", "l", &always()).unwrap();
    let upload = store.upload_create(&who(), "abc", "m", meta("")).unwrap();
    let named = part(&store, &upload, 1, b"1234567");
    store.upload_complete(&who(), &upload, &[named], meta("e-1"), &always()).unwrap();
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
    assert_eq!(events[0].bytes, BTreeMap::from([("released".into(), 5), ("written".into(), 3)]));
    let seq = store.journal_append(&who(), blockstore::Entry::new("server.started", "x")).unwrap();
    assert_eq!(seq, 11);
}

#[derive(Clone, Debug)]
enum Step {
    Put { key: u8, size: u32, seed: u8 },
    Copy { source: u8, target: u8 },
    Remove { key: u8 },
    Upload { key: u8, parts: Vec<(bool, u32)>, complete: bool },
    Collect,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let size = || prop_oneof![0..9000_u32, 8000..300_000_u32];
    let key = || 0..5_u8;
    prop_oneof![
        4 => (key(), size(), any::<u8>()).prop_map(|(key, size, seed)| Step::Put { key, size, seed }),
        3 => (key(), key()).prop_map(|(source, target)| Step::Copy { source, target }),
        2 => key().prop_map(|key| Step::Remove { key }),
        2 => (key(), prop::collection::vec((any::<bool>(), 0..100_000_u32), 1..3), any::<bool>())
            .prop_map(|(key, parts, complete)| Step::Upload { key, parts, complete }),
        1 => Just(Step::Collect),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn objects_agree_with_a_map_of_bytes(steps in prop::collection::vec(step(), 1..30)) {
        let (directory, mut store) = open();
        let mut model: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        for (n, step) in steps.into_iter().enumerate() {
            match step {
                Step::Put { key, size, seed } => {
                    let content = bytes(u64::from(seed), size as usize);
                    put(&store, &key.to_string(), &content);
                    model.insert(key.to_string(), content);
                }
                Step::Copy { source, target } => {
                    let (source, target) = (source.to_string(), target.to_string());
                    let copied = store.object_copy(&who(), ("abc", &source), ("abc", &target), None, &always(), &always());
                    prop_assert_eq!(copied.is_ok(), model.contains_key(&source));
                    if let Some(content) = model.get(&source).cloned() {
                        model.insert(target, content);
                    }
                }
                Step::Remove { key } => {
                    let removed = store.object_remove(&who(), "abc", &key.to_string(), &always()).unwrap();
                    prop_assert_eq!(removed.is_some(), model.remove(&key.to_string()).is_some());
                }
                Step::Upload { key, parts, complete } => {
                    let key = key.to_string();
                    let upload = store.upload_create(&who(), "abc", &key, meta("")).unwrap();
                    let mut whole = Vec::new();
                    let mut named = Vec::new();
                    let last = parts.len() - 1;
                    for (at, (copied, size)) in parts.into_iter().enumerate() {
                        let number = at as u32 + 1;
                        match model.get(&key).filter(|content| copied && at == last && !content.is_empty()) {
                            Some(content) => {
                                // From an offset that may or may not lie on a block.
                                let from = (size as usize * 1024) % content.len();
                                let range = (from as u64, (content.len() - from) as u64);
                                let content = &content[from..];
                                store.upload_part_copy(&who(), &upload, number, ("abc", &key), Some(range), &mut |reader| {
                                    assert!(read(reader) == content);
                                    Ok(("copied".into(), BTreeMap::new()))
                                }).unwrap();
                                named.push((number, "copied".into()));
                                whole.extend_from_slice(content);
                            }
                            None => {
                                let size = if at == last { size as usize } else { 5 * MIB + size as usize };
                                let content = bytes(n as u64, size);
                                named.push(part(&store, &upload, number, &content));
                                whole.extend_from_slice(&content);
                            }
                        }
                    }
                    if complete {
                        store.upload_complete(&who(), &upload, &named, meta("e-n"), &always()).unwrap();
                        model.insert(key, whole);
                    } else {
                        store.upload_abort(&who(), &upload).unwrap();
                    }
                }
                Step::Collect => { store.collect().unwrap(); }
                Step::Reopen => {
                    store.close().unwrap();
                    store = Store::open(directory.path(), options()).unwrap();
                }
            }
        }
        let query = ListQuery { max: 100, ..ListQuery::default() };
        let listed: Vec<_> = store.object_list("abc", &query).unwrap().objects.into_iter().map(|object| object.key).collect();
        prop_assert_eq!(listed, model.keys().cloned().collect::<Vec<_>>());
        store.collect().unwrap();
        for (key, content) in &model {
            prop_assert!(get(&store, key) == *content, "{}", key);
        }
        for key in model.keys() {
            store.object_remove(&who(), "abc", key, &always()).unwrap();
        }
        sound(&store, 0);
        prop_assert_eq!(store.stats().unwrap().live_bytes, 0);
        let seqs: Vec<_> = store.journal_after(0, usize::MAX).unwrap().into_iter().map(|event| event.seq).collect();
        prop_assert_eq!(seqs.clone(), (1..=seqs.len() as u64).collect::<Vec<_>>());
    }
}
