//! A full disk: writes are refused in words, nothing is half done, deletes and collection work.

#![allow(clippy::unwrap_used, reason = "a failure is the message")]

use blockstore::object::{ObjectMeta, Precondition};
use blockstore::volume::Origin;
use blockstore::{Kind, Options, Store, Who};
use std::process::Command;

/// A file system of its own, so that it can be filled.
struct SmallDisk {
    directory: tempfile::TempDir,
}

impl SmallDisk {
    fn new(mib: u32) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let size = format!("size={mib}m");
        let done = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "infall-test"])
            .arg(directory.path())
            .status();
        assert!(
            done.unwrap().success(),
            "mounting a tmpfs needs root; run the tests as root"
        );
        Self { directory }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount")
            .arg("-l")
            .arg(self.directory.path())
            .status();
    }
}

#[test]
fn a_full_disk_refuses_writes_and_lets_deletes_and_collection_work() {
    let disk = SmallDisk::new(160);
    let options = Options {
        segment_bytes: 8 << 20,
        reserve_bytes: 40 << 20,
        collector: false,
        cache_bytes: 4 << 20,
        ..Options::default()
    };
    let path = disk.directory.path().join("data");
    let store = Store::open(&path, options.clone()).unwrap();
    let who = Who::server();
    store.bucket_create(&who, "bucket").unwrap();
    store
        .volume_create(&who, "v", Some(8 << 20), &Origin::Empty)
        .unwrap();
    let volume = store.volume_open("v").unwrap();
    let writer = volume.writer("test").unwrap();
    writer.write_at(0, &[1; 4096]).unwrap();
    writer.flush().unwrap();

    let put = |key: &str| {
        let mut body = store.object_writer("bucket")?;
        body.write(&vec![7; 6 << 20])?;
        body.commit(&who, key, ObjectMeta::default(), &Precondition::default())
    };
    let mut stored = 0;
    let refusal = loop {
        match put(&format!("key{stored}")) {
            Ok(_) => stored += 1,
            Err(refusal) => break refusal,
        }
        assert!(stored < 100, "160 MiB cannot hold this");
    };
    assert_eq!(refusal.kind(), Kind::NoSpace, "{refusal:?}");
    assert!(
        refusal.to_string().contains("delete something"),
        "{refusal}"
    );
    assert!(stored > 8, "{stored}");

    // The volume is refused in the same words once its segment is full, and what was flushed stays.
    let mut refused = None;
    for block in 0..4096 {
        if let Err(refusal) = writer.write_at(block % 2048 * 4096, &[2; 4096]) {
            refused = Some(refusal);
            break;
        }
    }
    assert_eq!(refused.map(|refusal| refusal.kind()), Some(Kind::NoSpace));
    writer.flush().unwrap();

    for key in 0..stored {
        store
            .object_remove(
                &who,
                "bucket",
                &format!("key{key}"),
                &Precondition::default(),
            )
            .unwrap();
    }
    let done = store.collect().unwrap();
    assert!(done.freed_bytes > 50 << 20, "{done:?}");
    writer.write_at(0, &[3; 4096]).unwrap();
    writer.flush().unwrap();
    put("again").unwrap();
    assert!(store.check(true).unwrap().problems.is_empty());
    drop((writer, volume));
    store.close().unwrap();
    drop(store);
    let store = Store::open(&path, options).unwrap();
    let mut block = [0; 4096];
    store
        .volume_open("v")
        .unwrap()
        .read_at(0, &mut block)
        .unwrap();
    assert_eq!(block, [3; 4096]);
}
