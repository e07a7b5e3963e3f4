//! Editing objects in place: what an editor promises, against a plain array and over crashes.

// clippy.toml lets #[test] functions unwrap, but not what they share.
#![allow(clippy::unwrap_used)]

use blockstore::object::{
    BUFFERED_BYTES_MAX, EDIT_BYTES_MAX, EditHow, ObjectEdit, ObjectMeta, Precondition,
};
use blockstore::volume::Origin;
use blockstore::{Kind, Options, Store, Who};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

const MIB: u64 = 1 << 20;

fn who() -> Who {
    Who {
        actor: "ada".into(),
        request: "-".into(),
        project: "root".into(),
    }
}

fn open(directory: &Path) -> Store {
    let options = Options {
        segment_bytes: 8 << 20,
        reserve_bytes: 16 << 20,
        collector: false,
        ..Options::default()
    };
    Store::open(directory, options).unwrap()
}

fn store() -> (tempfile::TempDir, Store) {
    let place = tempfile::tempdir().unwrap();
    let store = open(&place.path().join("data"));
    store.bucket_create(&who(), "data").unwrap();
    (place, store)
}

/// What a crash leaves: the files as they are now, without anything the process holds.
fn crashed(place: &tempfile::TempDir, round: usize) -> Store {
    let target = place.path().join(format!("crash-{round}"));
    copy_still(&place.path().join("data"), &target);
    open(&target)
}

/// Copies a directory as it is at one moment: again, if threads in the background changed it meanwhile.
fn copy_still(source: &Path, target: &Path) {
    for _ in 0..100 {
        let before = listed(source);
        if copy(source, target).is_ok() && listed(source) == before {
            return;
        }
        std::fs::remove_dir_all(target).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    panic!("{} is never still", source.display());
}

/// Length and time of each file.
fn listed(directory: &Path) -> BTreeMap<PathBuf, (u64, SystemTime)> {
    let mut files = BTreeMap::new();
    let mut waiting = vec![directory.to_owned()];
    while let Some(directory) = waiting.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            // What vanishes here is missing in the next listing, too.
            let Ok(metadata) = path.metadata() else {
                continue;
            };
            if metadata.is_dir() {
                waiting.push(path);
            } else {
                files.insert(path, (metadata.len(), metadata.modified().unwrap()));
            }
        }
    }
    files
}

fn copy(source: &Path, target: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(target)?;
    for entry in std::fs::read_dir(source)? {
        let entry = entry?;
        let to = target.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &to)?;
        } else if entry.file_name() != "LOCK" {
            std::fs::copy(entry.path(), &to)?;
        }
    }
    Ok(())
}

/// Bytes that differ by `seed`.
fn noise(seed: u64, count: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::new();
    while (bytes.len() as u64) < count {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(usize::try_from(count).unwrap());
    bytes
}

fn put(store: &Store, key: &str, bytes: &[u8]) {
    let mut writer = store.object_writer("data").unwrap();
    writer.write(bytes).unwrap();
    let meta = ObjectMeta {
        etag: format!("{:032x}", bytes.len()),
        ..ObjectMeta::default()
    };
    writer
        .commit(&who(), key, meta, &Precondition::default())
        .unwrap();
}

fn get(store: &Store, key: &str) -> Vec<u8> {
    let (object, reader) = store.object_open("data", key).unwrap();
    let mut bytes = vec![0; usize::try_from(object.length_bytes).unwrap()];
    reader.read_at(0, &mut bytes).unwrap();
    bytes
}

fn edit(store: &Store, key: &str) -> ObjectEdit {
    store
        .object_edit(&who(), "data", key, EditHow::default())
        .unwrap()
}

fn create(store: &Store, key: &str) -> ObjectEdit {
    let how = EditHow {
        create: true,
        ..EditHow::default()
    };
    store.object_edit(&who(), "data", key, how).unwrap()
}

fn publish(edit: &ObjectEdit) {
    edit.publish(&who(), ObjectMeta::default()).unwrap();
}

fn sound(store: &Store) {
    let report = store.check(true).unwrap();
    assert!(report.problems.is_empty(), "{:?}", report.problems);
}

#[test]
fn a_change_is_seen_by_its_editor_at_once_and_by_others_when_published() {
    let (_place, store) = store();
    for (key, length) in [("inline", 100), ("small", 100_000), ("large", 5 * MIB + 77)] {
        let before = noise(1, length);
        put(&store, key, &before);
        let (_, opened_before) = store.object_open("data", key).unwrap();
        let edit = edit(&store, key);
        assert!(!edit.is_changed());
        edit.write_at(length - 50, &[7; 90]).unwrap();
        let mut expected = before.clone();
        expected.truncate(expected.len() - 50);
        expected.extend([7; 90]);
        let mut seen = vec![0; expected.len()];
        edit.read_at(0, &mut seen).unwrap();
        assert!(seen == expected, "{key}: the editor sees it");
        assert!(get(&store, key) == before, "{key}: others do not");
        let object = edit.publish(&who(), ObjectMeta::default()).unwrap();
        assert_eq!(object.length_bytes, length + 40);
        assert_eq!(object.meta.etag.len(), 34, "{}", object.meta.etag);
        assert!(get(&store, key) == expected, "{key}: now they do");
        let mut old = vec![0; before.len()];
        opened_before.read_at(0, &mut old).unwrap();
        assert!(old == before, "{key}: who opened it before keeps that");
    }
    sound(&store);
}

#[test]
fn opening_a_large_object_for_writing_copies_no_byte() {
    let (_place, store) = store();
    put(&store, "large", &noise(3, 32 * MIB));
    let before = store.stats().unwrap();
    let edit = edit(&store, "large");
    edit.write_at(9 * MIB + 5, b"five").unwrap();
    publish(&edit);
    drop(edit);
    let after = store.stats().unwrap();
    assert_eq!(after.written_copy_bytes, before.written_copy_bytes);
    assert_eq!(
        after.written_client_bytes - before.written_client_bytes,
        4096
    );
    let mut expected = noise(3, 32 * MIB);
    expected[9 * (1 << 20) + 5..][..4].copy_from_slice(b"five");
    assert!(get(&store, "large") == expected);
}

#[test]
fn a_second_editor_is_refused_until_the_first_is_gone() {
    let (_place, store) = store();
    put(&store, "key", b"bytes");
    let first = edit(&store, "key");
    assert_eq!(store.object_editor("data", "key").as_deref(), Some("ada"));
    let Err(refused) = store.object_edit(&who(), "data", "key", EditHow::default()) else {
        panic!("two editors")
    };
    assert_eq!(refused.kind(), Kind::Conflict);
    assert!(refused.to_string().contains("ada"), "{refused}");
    first.abandon();
    assert_eq!(store.object_editor("data", "key"), None);
    drop(edit(&store, "key"));
}

#[test]
fn what_another_door_put_meanwhile_is_not_overwritten() {
    let (_place, store) = store();
    for length in [10, 3 * MIB] {
        put(&store, "key", &noise(1, length));
        let edit = edit(&store, "key");
        edit.write_at(0, b"mine").unwrap();
        put(&store, "key", &noise(2, length + 1));
        let error = edit.publish(&who(), ObjectMeta::default()).unwrap_err();
        assert_eq!(error.kind(), Kind::Precondition, "{error}");
        drop(edit);
        assert!(get(&store, "key") == noise(2, length + 1));
    }
    let new = create(&store, "new");
    new.write_at(0, b"mine").unwrap();
    put(&store, "new", b"theirs");
    let error = new.publish(&who(), ObjectMeta::default()).unwrap_err();
    assert_eq!(error.kind(), Kind::Precondition, "{error}");
    drop(new);
    assert_eq!(get(&store, "new"), b"theirs");
    store.collect().unwrap();
    sound(&store);
}

#[test]
fn a_new_object_appears_with_its_first_publication() {
    let (_place, store) = store();
    let missing = store.object_edit(&who(), "data", "new", EditHow::default());
    assert_eq!(
        missing.err().map(|error| error.kind()),
        Some(Kind::NotFound)
    );
    let new = create(&store, "new");
    assert!(new.is_changed() && new.published().is_none());
    assert!(store.object_head("data", "new").is_err());
    new.write_at(4000, b"x").unwrap();
    assert!(store.object_head("data", "new").is_err());
    let syncs = store.stats().unwrap().syncs;
    publish(&new);
    assert_eq!(
        store.stats().unwrap().syncs,
        syncs,
        "inline: the catalog's sync only"
    );
    assert_eq!(get(&store, "new").len(), 4001);
    drop(new);
    let how = EditHow {
        create: true,
        exclusive: true,
        ..EditHow::default()
    };
    let exists = store.object_edit(&who(), "data", "new", how);
    assert_eq!(
        exists.err().map(|error| error.kind()),
        Some(Kind::Precondition)
    );
    let how = EditHow {
        truncate: true,
        ..EditHow::default()
    };
    let empty = store.object_edit(&who(), "data", "new", how).unwrap();
    assert_eq!(empty.length_bytes(), 0);
    publish(&empty);
    assert_eq!(get(&store, "new"), b"");
}

#[test]
fn a_crash_before_publication_leaves_the_old_object_and_nothing_else() {
    let (place, store) = store();
    let old = noise(1, 4 * MIB);
    put(&store, "old", &old);
    let changed = edit(&store, "old");
    changed.write_at(0, &noise(2, 2 * MIB)).unwrap();
    let again = create(&store, "again");
    again.write_at(0, &noise(3, MIB)).unwrap();
    publish(&again);
    again.write_at(0, &noise(4, MIB)).unwrap();
    let new = create(&store, "new");
    new.write_at(0, &noise(5, 3 * MIB)).unwrap();
    // What was written is on the device; it has no name.
    store
        .volume_create(&who(), "disk", Some(MIB), &Origin::Empty)
        .unwrap();
    let volume = store.volume_open("disk").unwrap();
    volume.flush().unwrap();

    let after = crashed(&place, 0);
    assert!(get(&after, "old") == old);
    assert!(get(&after, "again") == noise(3, MIB));
    assert!(after.object_head("data", "new").is_err());
    after.collect().unwrap();
    sound(&after);
    assert_eq!(after.stats().unwrap().live_bytes, 5 * MIB);
    // They are edited as if nothing had been.
    for key in ["old", "again"] {
        let edit = edit(&after, key);
        edit.write_at(10, b"later").unwrap();
        publish(&edit);
        drop(edit);
        assert_eq!(&get(&after, key)[10..15], b"later");
    }
    after.collect().unwrap();
    sound(&after);
    drop((changed, again, new));
}

#[test]
fn what_is_published_survives_a_crash_at_once() {
    let (place, store) = store();
    let edit = create(&store, "key");
    for round in 0..5 {
        let length = 1000 * 7_u64.pow(u32::try_from(round).unwrap());
        edit.write_at(0, &noise(round as u64, length)).unwrap();
        publish(&edit);
        let after = crashed(&place, round);
        assert!(get(&after, "key") == noise(round as u64, length));
        sound(&after);
    }
}

#[test]
fn edits_of_edits_do_not_pile_up() {
    let (_place, store) = store();
    put(&store, "key", &noise(0, 2 * MIB));
    let mut expected = noise(0, 2 * MIB);
    for round in 0..100_u64 {
        let edit = edit(&store, "key");
        let at = (round * 37_123) % (MIB + 5);
        let bytes = noise(round + 1, 200_000);
        edit.write_at(at, &bytes).unwrap();
        expected[usize::try_from(at).unwrap()..][..bytes.len()].copy_from_slice(&bytes);
        publish(&edit);
    }
    assert!(get(&store, "key") == expected);
    store.collect().unwrap();
    sound(&store);
    let live = store.stats().unwrap().live_bytes;
    assert!(
        live <= 4 * MIB + 200_000,
        "{live} bytes live of 2 MiB shown"
    );
    // A copy and its source go on apart, each over what both show.
    store
        .object_copy(
            &who(),
            ("data", "key"),
            ("data", "copy"),
            None,
            &Precondition::default(),
            &Precondition::default(),
        )
        .unwrap();
    let (first, second) = (edit(&store, "key"), edit(&store, "copy"));
    first.write_at(0, b"first").unwrap();
    second.write_at(0, b"second").unwrap();
    publish(&first);
    publish(&second);
    drop((first, second));
    let (key, copy) = (get(&store, "key"), get(&store, "copy"));
    assert_eq!((&key[..5], &copy[..6]), (&b"first"[..], &b"second"[..]));
    assert!(key[6..] == expected[6..] && copy[6..] == expected[6..]);
    for round in 0..30 {
        let source = format!("copy{round}");
        let last = if round == 0 {
            "copy".to_owned()
        } else {
            format!("copy{}", round - 1)
        };
        store
            .object_copy(
                &who(),
                ("data", &last),
                ("data", &source),
                None,
                &Precondition::default(),
                &Precondition::default(),
            )
            .unwrap();
        for key in [&source, &last] {
            let edit = edit(&store, key);
            edit.write_at(300_000 + round, b"deeper").unwrap();
            publish(&edit);
        }
    }
    let deep = get(&store, "copy29");
    assert_eq!(
        &deep[300_000..300_035],
        &[&b"ddddddddddddddddddddddddddddd"[..], b"deeper"].concat()[..]
    );
    assert!(deep[400_000..] == expected[400_000..]);
    store.collect().unwrap();
    sound(&store);
}

#[test]
fn a_completed_upload_is_edited_without_a_copy_of_what_is_aligned() {
    let (_place, store) = store();
    let meta = ObjectMeta::default();
    let upload = store
        .upload_create(&who(), "data", "parts", meta.clone())
        .unwrap();
    let mut all = Vec::new();
    let mut parts = Vec::new();
    for (number, length) in [(1, 5 * MIB), (2, 5 * MIB + 100), (3, 700)] {
        let bytes = noise(u64::from(number), length);
        let mut writer = store.object_writer("data").unwrap();
        writer.write(&bytes).unwrap();
        let etag = format!("{number:032x}");
        writer
            .commit_part(&who(), &upload, number, etag.clone(), Default::default())
            .unwrap();
        parts.push((number, etag));
        all.extend(bytes);
    }
    let etag = format!("{:032x}-3", 9);
    let meta = ObjectMeta { etag, ..meta };
    store
        .upload_complete(&who(), &upload, &parts, meta, &Precondition::default())
        .unwrap();
    assert!(get(&store, "parts") == all);
    let before = store.stats().unwrap();
    let edit = edit(&store, "parts");
    edit.write_at(3, b"mine").unwrap();
    all[3..7].copy_from_slice(b"mine");
    publish(&edit);
    drop(edit);
    assert!(get(&store, "parts") == all);
    let copied = store.stats().unwrap().written_copy_bytes - before.written_copy_bytes;
    assert!(copied <= 3 * 4096, "{copied} bytes copied");
    store.collect().unwrap();
    assert!(get(&store, "parts") == all);
    sound(&store);
}

#[test]
fn an_object_that_shows_a_snapshot_is_edited_beside_the_volume() {
    let (_place, store) = store();
    store
        .volume_create(&who(), "disk", Some(4 * MIB), &Origin::Empty)
        .unwrap();
    let volume = store.volume_open("disk").unwrap();
    let writer = volume.writer("test").unwrap();
    writer.write_at(0, &noise(1, 4 * MIB)).unwrap();
    store
        .snapshot_create(&who(), "disk", Some("monday"), Some(("data", "disk.raw")))
        .unwrap();
    let edit = edit(&store, "disk.raw");
    edit.write_at(100, b"object").unwrap();
    writer.write_at(100, b"volume").unwrap();
    publish(&edit);
    drop(edit);
    let mut seen = [0; 6];
    volume.read_at(100, &mut seen).unwrap();
    assert_eq!(&seen, b"volume");
    assert_eq!(&get(&store, "disk.raw")[100..106], b"object");
    sound(&store);
}

#[test]
fn bounds_are_kept() {
    let (_place, store) = store();
    let edit = create(&store, "key");
    for error in [
        edit.write_at(EDIT_BYTES_MAX, b"x").unwrap_err(),
        edit.write_at(u64::MAX, b"x").unwrap_err(),
        edit.truncate(EDIT_BYTES_MAX + 1).unwrap_err(),
        edit.read_at(0, &mut [0]).unwrap_err(),
    ] {
        assert_eq!(error.kind(), Kind::Invalid, "{error}");
    }
    edit.truncate(EDIT_BYTES_MAX).unwrap();
    edit.write_at(EDIT_BYTES_MAX - 1, b"!").unwrap();
    publish(&edit);
    let (object, reader) = store.object_open("data", "key").unwrap();
    assert_eq!(object.length_bytes, EDIT_BYTES_MAX);
    let mut end = [1; 2];
    reader.read_at(EDIT_BYTES_MAX - 2, &mut end).unwrap();
    assert_eq!(&end, b"\0!");
    edit.truncate(0).unwrap();
    publish(&edit);
    assert_eq!(get(&store, "key"), b"");
}

#[derive(Clone, Debug)]
enum Step {
    Write { at: u64, length: u64 },
    Zero { at: u64, length: u64 },
    Truncate { length: u64 },
    Publish,
    Reopen,
    Abandon,
    Crash,
    Collect,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let offset = prop_oneof![
        0..20_000_u64,
        (0..600_u64).prop_map(|block| block * 4096),
        BUFFERED_BYTES_MAX - 5000..BUFFERED_BYTES_MAX + 5000,
        0..3 * MIB,
    ];
    let length = prop_oneof![
        1..9000_u64,
        1..200_000_u64,
        (1..60_u64).prop_map(|blocks| blocks * 4096)
    ];
    let step = prop_oneof![
        8 => (offset.clone(), length.clone()).prop_map(|(at, length)| Step::Write { at, length }),
        2 => (offset.clone(), length).prop_map(|(at, length)| Step::Zero { at, length }),
        3 => offset.prop_map(|length| Step::Truncate { length }),
        3 => Just(Step::Publish),
        2 => Just(Step::Reopen),
        1 => Just(Step::Abandon),
        1 => Just(Step::Crash),
        1 => Just(Step::Collect),
    ];
    proptest::collection::vec(step, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn an_edited_object_is_a_plain_array(steps in steps()) {
        let (place, mut store) = store();
        let mut edit = create(&store, "key");
        let mut shown: Option<Vec<u8>> = None;
        let mut bytes: Vec<u8> = Vec::new();
        let mut crashes = 0;
        for (seed, step) in steps.into_iter().enumerate() {
            match step {
                Step::Write { at, length } => {
                    let new = noise(seed as u64 + 1, length);
                    edit.write_at(at, &new).unwrap();
                    let (at, end) = (usize::try_from(at).unwrap(), usize::try_from(at + length).unwrap());
                    if bytes.len() < end {
                        bytes.resize(end, 0);
                    }
                    bytes[at..end].copy_from_slice(&new);
                }
                Step::Zero { at, length } => {
                    edit.zero(at, length).unwrap();
                    let end = usize::try_from(at + length).unwrap().min(bytes.len());
                    let at = usize::try_from(at).unwrap().min(end);
                    bytes[at..end].fill(0);
                }
                Step::Truncate { length } => {
                    edit.truncate(length).unwrap();
                    bytes.resize(usize::try_from(length).unwrap(), 0);
                }
                Step::Publish => {
                    publish(&edit);
                    shown = Some(bytes.clone());
                }
                Step::Reopen => {
                    publish(&edit);
                    shown = Some(bytes.clone());
                    drop(edit);
                    edit = create(&store, "key");
                }
                Step::Abandon => {
                    edit.abandon();
                    bytes = shown.clone().unwrap_or_default();
                    edit = create(&store, "key");
                }
                Step::Crash => {
                    crashes += 1;
                    let source = store.directory().to_owned();
                    let target = place.path().join(format!("after-{crashes}"));
                    copy_still(&source, &target);
                    drop(edit);
                    store = open(&target);
                    bytes = shown.clone().unwrap_or_default();
                    edit = create(&store, "key");
                }
                Step::Collect => {
                    store.collect().unwrap();
                }
            }
            prop_assert_eq!(edit.length_bytes(), bytes.len() as u64);
            let mut seen = vec![1; bytes.len()];
            edit.read_at(0, &mut seen).unwrap();
            prop_assert!(seen == bytes, "the editor sees other bytes");
            match &shown {
                Some(shown) => prop_assert!(get(&store, "key") == *shown, "others see other bytes"),
                None => prop_assert!(store.object_head("data", "key").is_err()),
            }
        }
        drop(edit);
        store.collect().unwrap();
        let report = store.check(true).unwrap();
        prop_assert!(report.problems.is_empty(), "{:?}", report.problems);
    }
}
