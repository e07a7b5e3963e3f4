//! Copies and multipart uploads: what is shared, what is rewritten, what lives on.

use super::{MIB, always, bytes, get, meta, open, part, put, read, reopen, sound, who};
use blockstore::object::{Copied, Precondition};
use blockstore::{Error, Kind, Subject};
use std::collections::BTreeMap;

#[test]
fn a_copy_shares_the_body_and_outlives_its_source() {
    let (_directory, store) = open();
    store.bucket_create(&who(), "other").unwrap();
    let (large, small) = (bytes(1, 2 * MIB), bytes(2, 10));
    put(&store, "large", &large);
    put(&store, "small", &small);
    let written = store.stats().unwrap();
    let copy = |source, target, meta| {
        store.object_copy(&who(), source, target, meta, &always(), &always())
    };

    let (object, copied) = copy(("abc", "large"), ("other", "l"), None).unwrap();
    assert_eq!(
        (object.meta, object.length_bytes),
        (meta("e"), 2 * MIB as u64)
    );
    assert_eq!(
        copied,
        Copied {
            shared_bytes: 2 * MIB as u64,
            ..Copied::default()
        }
    );
    let (object, copied) = copy(("abc", "small"), ("other", "s"), Some(meta("new"))).unwrap();
    assert_eq!(
        (object.meta, copied.shared_bytes, copied.rewritten_bytes),
        (meta("new"), 0, 10)
    );
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
    store
        .object_remove(&who(), "abc", "large", &always())
        .unwrap();
    store
        .object_remove(&who(), "abc", "small", &always())
        .unwrap();
    store.collect().unwrap();
    assert!(read(&*store.object_open("other", "l").unwrap().1) == large);
    assert!(read(&*store.object_open("other", "s").unwrap().1) == small);
    sound(&store, 1);

    let error = copy(("abc", "large"), ("other", "x"), None).unwrap_err();
    assert_eq!(
        (error.kind(), error.subject()),
        (Kind::NotFound, Subject::Object)
    );
    let error = copy(("other", "l"), ("nope", "x"), None).unwrap_err();
    assert_eq!(
        (error.kind(), error.subject()),
        (Kind::NotFound, Subject::Bucket)
    );
    let stale = Precondition {
        if_match: vec!["stale".into()],
        ..always()
    };
    let error = store
        .object_copy(
            &who(),
            ("other", "l"),
            ("abc", "x"),
            None,
            &stale,
            &always(),
        )
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Precondition);
    let absent = Precondition {
        if_none_match: vec!["*".into()],
        ..always()
    };
    let error = store
        .object_copy(
            &who(),
            ("other", "l"),
            ("other", "s"),
            None,
            &always(),
            &absent,
        )
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Precondition);
}

#[test]
fn a_multipart_upload_is_completed_without_a_copy() {
    let (directory, store) = open();
    let upload = store.upload_create(&who(), "abc", "big", meta("")).unwrap();
    let sizes = [5 * MIB, 6 * MIB + 5, 7, 5 * MIB];
    let contents: Vec<_> = sizes
        .iter()
        .enumerate()
        .map(|(n, size)| bytes(n as u64, *size))
        .collect();
    part(&store, &upload, 2, &bytes(99, 5 * MIB));
    let named: Vec<_> = [0, 1, 3, 2]
        .map(|n| part(&store, &upload, n as u32 + 1, &contents[n]))
        .into();
    let named: Vec<_> = [&named[0], &named[1], &named[3]].map(Clone::clone).into();
    assert_eq!(store.uploads("abc").unwrap().len(), 1);
    assert_eq!(
        store.upload("abc", "big", &upload.id).unwrap().id,
        upload.id
    );
    assert_eq!(
        store
            .upload("abc", "bigger", &upload.id)
            .unwrap_err()
            .subject(),
        Subject::Upload
    );
    assert_eq!(store.upload_parts(&upload).unwrap().len(), 4);
    assert_eq!(
        store.bucket_remove(&who(), "abc").unwrap_err().kind(),
        Kind::Conflict
    );
    let written = store.stats().unwrap().written_client_bytes;

    let object = store
        .upload_complete(&who(), &upload, &named, meta("whole-3"), &always())
        .unwrap();
    assert_eq!(
        object.parts,
        [sizes[0], sizes[1], sizes[2]].map(|size| size as u64)
    );
    assert_eq!(store.stats().unwrap().written_client_bytes, written);
    assert!(store.uploads("abc").unwrap().is_empty());
    sound(&store, 3);

    let store = reopen(&directory, store);
    let whole = contents[..3].concat();
    let (object, reader) = store.object_open("abc", "big").unwrap();
    assert_eq!(
        (object.length_bytes, object.meta.etag.as_str()),
        (whole.len() as u64, "whole-3")
    );
    assert!(read(&*reader) == whole);
    for (offset, count) in [
        (0, 1),
        (5 * MIB - 1, 2),
        (5 * MIB, 6 * MIB + 6),
        (whole.len() - 8, 8),
        (4097, 9 * MIB),
    ] {
        let mut buffer = vec![0; count];
        reader.read_at(offset as u64, &mut buffer).unwrap();
        assert!(
            buffer == whole[offset..offset + count],
            "{count} bytes from {offset}"
        );
    }
    drop(reader);
    store
        .object_remove(&who(), "abc", "big", &always())
        .unwrap();
    let aborted = store.upload_create(&who(), "abc", "big", meta("")).unwrap();
    part(&store, &aborted, 1, &contents[0]);
    store.upload_abort(&who(), &aborted).unwrap();
    assert_eq!(
        store.upload_parts(&aborted).unwrap_err().subject(),
        Subject::Upload
    );
    sound(&store, 0);
}

#[test]
fn a_part_copy_shares_what_begins_on_a_block_and_states_what_it_rewrites() {
    let (_directory, store) = open();
    let source = bytes(1, 6 * MIB + 100);
    put(&store, "source", &source);
    put(&store, "small", &source[..50]);
    let upload = store
        .upload_create(&who(), "abc", "target", meta(""))
        .unwrap();
    let copy = |number: u32, key: &str, range: Option<(u64, u64)>| {
        let mut digested = Vec::new();
        let (part, copied) = store.upload_part_copy(
            &who(),
            &upload,
            number,
            ("abc", key),
            range,
            &mut |reader| {
                digested = read(reader);
                Ok((format!("copy-{number}"), BTreeMap::new()))
            },
        )?;
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
    assert_eq!(
        (copied.shared_bytes, copied.rewritten_bytes),
        (0, 5 * MIB as u64)
    );
    assert!(copied.why.contains("byte 1"), "{}", copied.why);
    let after = store.stats().unwrap();
    assert!(after.written_copy_bytes >= before.written_copy_bytes + 5 * MIB as u64);
    assert_eq!(after.written_client_bytes, before.written_client_bytes);
    let (_, copied, _) = copy(3, "small", None).unwrap();
    assert_eq!(copied.rewritten_bytes, 50);

    let error = copy(4, "source", Some((0, 6 * MIB as u64 + 101))).unwrap_err();
    assert_eq!(
        (error.kind(), error.subject()),
        (Kind::Invalid, Subject::Range)
    );
    assert_eq!(
        copy(4, "nope", None).unwrap_err().subject(),
        Subject::Object
    );
    assert_eq!(
        copy(0, "source", None).unwrap_err().subject(),
        Subject::Part
    );

    // The parts live on without their source.
    store
        .object_remove(&who(), "abc", "source", &always())
        .unwrap();
    store
        .object_remove(&who(), "abc", "small", &always())
        .unwrap();
    store.collect().unwrap();
    let named: Vec<_> = (1..=3)
        .map(|number| (number, format!("copy-{number}")))
        .collect();
    store
        .upload_complete(&who(), &upload, &named, meta("whole-3"), &always())
        .unwrap();
    sound(&store, 3);
    let whole = [
        &source[4096..4096 + 5 * MIB + 3],
        &source[1..1 + 5 * MIB],
        &source[..50],
    ]
    .concat();
    assert!(get(&store, "target") == whole);

    // Out of a concat: the second piece begins on a block of its own map.
    let upload = store
        .upload_create(&who(), "abc", "again", meta(""))
        .unwrap();
    let offset = 5 * MIB + 3;
    let (part, copied) = store
        .upload_part_copy(
            &who(),
            &upload,
            1,
            ("abc", "target"),
            Some((offset as u64, 10_000)),
            &mut |reader| {
                assert!(read(reader) == whole[offset..offset + 10_000]);
                Ok(("e".into(), BTreeMap::new()))
            },
        )
        .unwrap();
    assert_eq!((copied.shared_bytes, part.pieces.len()), (10_000, 1));
    store
        .upload_complete(&who(), &upload, &[(1, "e".into())], meta("e-1"), &always())
        .unwrap();
    assert!(get(&store, "again") == whole[offset..offset + 10_000]);
}
