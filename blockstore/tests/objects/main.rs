//! Objects through the store's own edge: bodies inline and in maps, sharing, replacing, multipart.

#![allow(clippy::unwrap_used)]

mod bodies;
mod frozen;
mod history;
mod kept;
mod model;
mod quotas;
mod renames;
mod sharing;
mod versions;

use blockstore::object::{ObjectMeta, Precondition, ReadAt, Upload};
use blockstore::{Error, Kind, Options, Store, Who};
use std::collections::BTreeMap;

const MIB: usize = 1 << 20;

fn options() -> Options {
    Options {
        segment_bytes: 8 << 20,
        reserve_bytes: 1 << 20,
        collector: false,
        cache_bytes: 4 << 20,
        ..Options::default()
    }
}

fn open() -> (tempfile::TempDir, Store) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path(), options()).unwrap();
    store.bucket_create(&who(), "abc").unwrap();
    (directory, store)
}

fn reopen(directory: &tempfile::TempDir, store: Store) -> Store {
    store.close().unwrap();
    assert_eq!(
        store.object_head("abc", "k").unwrap_err().kind(),
        Kind::Unavailable
    );
    drop(store);
    Store::open(directory.path(), options()).unwrap()
}

fn who() -> Who {
    Who::server()
}

fn always() -> Precondition {
    Precondition::default()
}

fn meta(etag: &str) -> ObjectMeta {
    ObjectMeta {
        etag: etag.into(),
        ..ObjectMeta::default()
    }
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

fn put_if(
    store: &Store,
    key: &str,
    bytes: &[u8],
    etag: &str,
    condition: &Precondition,
) -> Result<(), Error> {
    let mut writer = store.object_writer("abc")?;
    for part in bytes.chunks(100_001) {
        writer.write(part)?;
    }
    assert_eq!(writer.length_bytes(), bytes.len() as u64);
    let object = writer.commit(&who(), key, meta(etag), condition)?;
    assert_eq!(
        (object.length_bytes, object.key.as_str()),
        (bytes.len() as u64, key)
    );
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
    writer
        .commit_part(&who(), upload, number, etag.clone(), BTreeMap::new())
        .unwrap();
    (number, etag)
}

/// Nothing is wrong, nothing is leaked, and so many maps are left.
fn sound(store: &Store, maps: u64) {
    store.collect().unwrap();
    let report = store.check(true).unwrap();
    assert_eq!(
        (report.problems.as_slice(), report.leaked_bytes, report.maps),
        (&[][..], 0, maps),
        "{report:?}"
    );
}
