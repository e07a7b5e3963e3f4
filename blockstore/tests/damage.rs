//! Damage and newer formats: refused in words, never shown, nothing changed.

#![allow(clippy::unwrap_used, reason = "a failure is the message")]

use blockstore::volume::Origin;
use blockstore::{Kind, Options, Store, Who};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

fn options() -> Options {
    Options {
        segment_bytes: 4 << 20,
        reserve_bytes: 1 << 20,
        collector: false,
        cache_bytes: 4 << 20,
        ..Options::default()
    }
}

fn segments(directory: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(directory.join("segments"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    found.sort();
    found
}

/// A closed store with a volume of recognisable blocks.
fn prepared(directory: &Path) {
    let store = Store::open(directory, options()).unwrap();
    store
        .volume_create(&Who::server(), "v", Some(2 << 20), &Origin::Empty)
        .unwrap();
    let volume = store.volume_open("v").unwrap();
    let writer = volume.writer("test").unwrap();
    for block in 0..64u64 {
        writer
            .write_at(block * 4096, &[block as u8 + 1; 4096])
            .unwrap();
    }
    writer.flush().unwrap();
    drop(writer);
    store.close().unwrap();
}

#[test]
fn a_rotten_block_is_refused_and_its_neighbours_are_served() {
    let directory = tempfile::tempdir().unwrap();
    prepared(directory.path());
    // Block 9 is full of tens; one byte of it rots.
    let mut hit = false;
    for path in segments(directory.path()) {
        let bytes = std::fs::read(&path).unwrap();
        if let Some(at) = bytes
            .windows(4096)
            .position(|window| window.iter().all(|byte| *byte == 10))
        {
            let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
            file.write_all_at(&[11], at as u64 + 100).unwrap();
            hit = true;
        }
    }
    assert!(hit);
    let store = Store::open(directory.path(), options()).unwrap();
    let volume = store.volume_open("v").unwrap();
    let mut block = [0; 4096];
    volume.read_at(8 * 4096, &mut block).unwrap();
    assert_eq!(block, [9; 4096]);
    let refusal = volume.read_at(9 * 4096, &mut block).unwrap_err();
    assert_eq!(refusal.kind(), Kind::Corrupt);
    assert!(refusal.to_string().contains("fails its check"), "{refusal}");
    let report = store.check(true).unwrap();
    assert_eq!(report.problems.len(), 1, "{:?}", report.problems);
}

#[test]
fn two_swapped_blocks_are_refused_though_each_is_whole() {
    let directory = tempfile::tempdir().unwrap();
    prepared(directory.path());
    for path in segments(directory.path()) {
        let mut bytes = std::fs::read(&path).unwrap();
        let find = |bytes: &[u8], value: u8| {
            bytes
                .windows(4096)
                .position(|w| w.iter().all(|byte| *byte == value))
        };
        if let (Some(one), Some(two)) = (find(&bytes, 21), find(&bytes, 22)) {
            bytes[one..one + 4096].fill(22);
            bytes[two..two + 4096].fill(21);
            std::fs::write(&path, bytes).unwrap();
        }
    }
    let store = Store::open(directory.path(), options()).unwrap();
    let volume = store.volume_open("v").unwrap();
    for block in [20, 21] {
        let refusal = volume.read_at(block * 4096, &mut [0; 4096]).unwrap_err();
        assert_eq!(refusal.kind(), Kind::Corrupt);
    }
}

#[test]
fn a_missing_segment_is_refused_at_opening_by_name() {
    let directory = tempfile::tempdir().unwrap();
    prepared(directory.path());
    for path in segments(directory.path()) {
        std::fs::remove_file(path).unwrap();
    }
    let refusal = Store::open(directory.path(), options()).err().unwrap();
    assert_eq!(refusal.kind(), Kind::Corrupt);
    assert!(refusal.to_string().contains(".seg is missing"), "{refusal}");
}

#[test]
fn a_newer_store_is_refused_in_words() {
    let directory = tempfile::tempdir().unwrap();
    prepared(directory.path());
    let path = directory.path().join("STORE");
    let newer = std::fs::read_to_string(&path)
        .unwrap()
        .replace("\"v\":1", "\"v\":2");
    std::fs::write(&path, newer).unwrap();
    let refusal = Store::open(directory.path(), options()).err().unwrap();
    assert_eq!(refusal.kind(), Kind::Unsupported);
    assert!(refusal.to_string().contains("version 2"), "{refusal}");
}

#[test]
fn a_newer_segment_in_the_tail_is_refused_in_words() {
    let directory = tempfile::tempdir().unwrap();
    prepared(directory.path());
    let last = segments(directory.path()).pop().unwrap();
    let mut bytes = std::fs::read(&last).unwrap();
    bytes[8] = 2;
    std::fs::write(&last, bytes).unwrap();
    let refusal = Store::open(directory.path(), options()).err().unwrap();
    assert_eq!(refusal.kind(), Kind::Unsupported, "{refusal:?}");
    assert!(
        refusal.chain().contains("format version 2"),
        "{}",
        refusal.chain()
    );
}

#[test]
fn another_stores_segment_is_refused() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    prepared(one.path());
    prepared(two.path());
    let foreign = segments(two.path()).pop().unwrap();
    std::fs::copy(&foreign, one.path().join("segments/00000000000000ff.seg")).unwrap();
    let refusal = Store::open(one.path(), options()).err().unwrap();
    assert_eq!(refusal.kind(), Kind::Corrupt, "{refusal:?}");
    assert!(
        refusal.chain().contains("names another one"),
        "{}",
        refusal.chain()
    );
}
