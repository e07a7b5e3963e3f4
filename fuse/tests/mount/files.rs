//! Files in buckets: docs/SEMANTICS.md, "Files in buckets"; each promise by the system calls it is about.

use crate::lab::{Lab, MIB, errno, mount, noise, who};
use blockstore::object::EditHow;
use fuse::mount::MountOptions;
use std::fs::{File, OpenOptions, Permissions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// A lab with the bucket `data`, and its directory.
fn lab() -> (Lab, PathBuf) {
    let lab = Lab::new();
    lab.store.bucket_create(&who(), "data").unwrap();
    let directory = lab.path("buckets/data");
    (lab, directory)
}

/// The bytes of an object as another door sees them.
fn stored(lab: &Lab, key: &str) -> Option<Vec<u8>> {
    let (object, reader) = lab.store.object_open("data", key).ok()?;
    let mut bytes = vec![0; usize::try_from(object.length_bytes).unwrap()];
    reader.read_at(0, &mut bytes).unwrap();
    Some(bytes)
}

fn open_rw(path: &Path) -> File {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap()
}

/// Waits until nobody edits `key`: the kernel tells of a last close after close(2) has returned.
pub(crate) fn wait_for_end(lab: &Lab, key: &str) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while let Some(editor) = lab.store.object_editor("data", key) {
        assert!(Instant::now() < deadline, "{editor} still edits {key}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_new_file_is_an_object_when_it_is_closed() {
    let (lab, data) = lab();
    for (name, length) in [
        ("none", 0),
        ("tiny", 5),
        ("inline", 8192),
        ("small", 70_000),
        ("large", 5 << 20),
    ] {
        let bytes = noise(3, length);
        let mut file = File::create(data.join(name)).unwrap();
        assert_eq!(data.join(name).metadata().unwrap().len(), 0);
        file.write_all(&bytes).unwrap();
        assert_eq!(file.metadata().unwrap().len(), length as u64);
        assert_eq!(
            data.join(name).metadata().unwrap().ino(),
            file.metadata().unwrap().ino()
        );
        assert_eq!(
            stored(&lab, name),
            None,
            "{name} is nobody else's business yet"
        );
        assert!(
            std::fs::read(data.join(name)).unwrap() == bytes,
            "here it is seen at once"
        );
        let listed: Vec<_> = std::fs::read_dir(&data)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert!(listed.iter().any(|known| known == name), "{listed:?}");
        drop(file);
        assert!(stored(&lab, name).unwrap() == bytes, "{name} after close");
        assert!(std::fs::read(data.join(name)).unwrap() == bytes);
    }
}

#[test]
fn a_small_new_file_costs_one_sync() {
    let (lab, data) = lab();
    let before = lab.store.stats().unwrap().syncs;
    let events = |lab: &Lab| lab.store.journal_after(0, 1000).unwrap().len();
    let first = events(&lab);
    std::fs::write(data.join("tiny"), b"bytes").unwrap();
    assert_eq!(
        lab.store.stats().unwrap().syncs,
        before,
        "no payload is synced"
    );
    assert_eq!(events(&lab) - first, 1, "one transaction");
}

#[test]
fn fsync_publishes_and_the_file_goes_on() {
    let (lab, data) = lab();
    for (name, length) in [("small", 1000), ("large", 3 << 20)] {
        let mut file = File::create(data.join(name)).unwrap();
        let mut expected = Vec::new();
        for round in 0..3 {
            let bytes = noise(round, length);
            file.write_all(&bytes).unwrap();
            expected.extend(bytes);
            file.sync_all().unwrap();
            assert!(
                stored(&lab, name).unwrap() == expected,
                "{name} round {round}"
            );
        }
        file.write_all(b"more").unwrap();
        assert!(stored(&lab, name).unwrap() == expected, "until the next");
        drop(file);
        expected.extend(b"more");
        assert!(stored(&lab, name).unwrap() == expected);
    }
}

#[test]
fn opening_a_large_object_for_writing_copies_nothing() {
    let (lab, data) = lab();
    let mut bytes = noise(1, 24 << 20);
    lab.put("data", "large", &bytes);
    let before = lab.store.stats().unwrap();
    let file = open_rw(&data.join("large"));
    file.write_all_at(b"here", 9_000_000).unwrap();
    drop(file);
    let after = lab.store.stats().unwrap();
    assert_eq!(after.written_copy_bytes, before.written_copy_bytes);
    assert_eq!(
        after.written_client_bytes - before.written_client_bytes,
        4096
    );
    bytes[9_000_000..9_000_004].copy_from_slice(b"here");
    assert!(stored(&lab, "large").unwrap() == bytes);
}

#[test]
fn readers_keep_the_version_they_opened() {
    let (lab, data) = lab();
    for length in [100, 3 << 20] {
        let (old, new) = (noise(1, length), noise(2, length / 2));
        lab.put("data", "key", &old);
        let path = data.join("key");
        let before = File::open(&path).unwrap();
        let mut half = vec![0; length / 2];
        before.read_exact_at(&mut half, 0).unwrap();
        let mut writer = OpenOptions::new()
            .write(true)
            .truncate(true)
            .open(&path)
            .unwrap();
        writer.write_all(&new).unwrap();
        let during = File::open(&path).unwrap();
        let mut seen = Vec::new();
        (&during).read_to_end(&mut seen).unwrap();
        assert!(seen == new, "who opens it meanwhile sees the writes");
        let check_old = |when: &str| {
            let mut all = Vec::new();
            (&before).seek(SeekFrom::Start(0)).unwrap();
            (&before).read_to_end(&mut all).unwrap();
            assert!(all == old, "{when}: {} bytes of {length}", all.len());
            assert_eq!(before.metadata().unwrap().len(), length as u64, "{when}");
        };
        check_old("while it is written");
        drop(writer);
        check_old("after it was published");
        let mut all = vec![0; new.len()];
        during.read_exact_at(&mut all, 0).unwrap();
        assert!(all == new);
        assert!(std::fs::read(&path).unwrap() == new);
        std::fs::remove_file(&path).unwrap();
        check_old("after it was removed");
    }
}

#[test]
fn a_second_mount_or_door_that_writes_gets_ebusy() {
    let (lab, data) = lab();
    lab.put("data", "key", b"bytes");
    let other = lab.beside("other");
    std::fs::create_dir(&other).unwrap();
    let _other = mount(lab.store.clone(), &other, MountOptions::default()).unwrap();
    let path = other.join("buckets/data/key");
    let first = open_rw(&data.join("key"));
    let shared = open_rw(&data.join("key"));
    for refused in [
        OpenOptions::new().write(true).open(&path).map(drop),
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)
            .map(drop),
        OpenOptions::new().append(true).open(&path).map(drop),
    ] {
        assert_eq!(errno(refused), libc::EBUSY);
    }
    assert!(
        lab.store
            .object_edit(&who(), "data", "key", EditHow::default())
            .is_err()
    );
    assert_eq!(std::fs::read(&path).unwrap(), b"bytes", "reading is free");
    first.write_all_at(b"B", 0).unwrap();
    shared.write_all_at(b"S", 4).unwrap();
    drop((first, shared));
    wait_for_end(&lab, "key");
    assert_eq!(stored(&lab, "key").unwrap(), b"ByteS");
    open_rw(&path).write_all_at(b"again", 0).unwrap();
    wait_for_end(&lab, "key");
    assert_eq!(stored(&lab, "key").unwrap(), b"again");
    // Two that make one file at one time.
    let new = File::create(data.join("new")).unwrap();
    let there = other.join("buckets/data/new");
    assert_eq!(errno(File::create(&there)), libc::EBUSY);
    assert_eq!(errno(File::create_new(&there)), libc::EEXIST);
    drop(new);
}

#[test]
fn what_another_door_put_meanwhile_is_not_overwritten() {
    let (lab, data) = lab();
    for length in [100, 2 << 20] {
        lab.put("data", "key", &noise(1, length));
        let mut file = open_rw(&data.join("key"));
        file.write_all(b"mine").unwrap();
        lab.put("data", "key", b"theirs");
        assert_eq!(errno(file.sync_all()), libc::ESTALE);
        drop(file);
        wait_for_end(&lab, "key");
        assert_eq!(std::fs::read(data.join("key")).unwrap(), b"theirs");
    }
}

#[test]
fn open_flags_mean_what_they_say() {
    let (lab, data) = lab();
    let path = data.join("key");
    let mut new = OpenOptions::new();
    new.write(true).create_new(true);
    new.open(&path).unwrap().write_all(b"first\n").unwrap();
    assert_eq!(errno(new.open(&path)), libc::EEXIST);
    for line in ["second\n", "third\n"] {
        let mut append = OpenOptions::new().append(true).open(&path).unwrap();
        append.write_all(line.as_bytes()).unwrap();
    }
    assert_eq!(stored(&lab, "key").unwrap(), b"first\nsecond\nthird\n");
    let synced = OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_DSYNC)
        .open(&path)
        .unwrap();
    synced.write_all_at(b"FIRST", 0).unwrap();
    assert_eq!(
        stored(&lab, "key").unwrap(),
        b"FIRST\nsecond\nthird\n",
        "O_DSYNC publishes"
    );
    drop(synced);
    drop(
        OpenOptions::new()
            .write(true)
            .truncate(true)
            .open(&path)
            .unwrap(),
    );
    assert_eq!(stored(&lab, "key").unwrap(), b"");
    assert_eq!(
        errno(OpenOptions::new().write(true).open(data.join("nope"))),
        libc::ENOENT
    );
    assert_eq!(errno(File::create(data.join("key/below"))), libc::ENOTDIR);
    assert_eq!(errno(File::create(data.join("nope/below"))), libc::ENOENT);
    assert_eq!(
        errno(File::create(data.join("x".repeat(256)))),
        libc::ENAMETOOLONG
    );
}

#[test]
fn truncation_and_holes_read_as_zeroes() {
    let (lab, data) = lab();
    for start in [10_u64, 3 * MIB] {
        let path = data.join("key");
        let mut expected = noise(5, usize::try_from(start).unwrap());
        std::fs::write(&path, &expected).unwrap();
        let file = open_rw(&path);
        for length in [
            start - 5,
            start + 10_000,
            start + 5 * MIB,
            4096,
            100,
            0,
            300_000,
        ] {
            file.set_len(length).unwrap();
            expected.resize(usize::try_from(length).unwrap(), 0);
            assert_eq!(file.metadata().unwrap().len(), length);
            assert!(
                std::fs::read(&path).unwrap() == expected,
                "{start} to {length}"
            );
        }
        file.write_all_at(b"end", 900_000).unwrap();
        expected.resize(900_000, 0);
        expected.extend(b"end");
        drop(file);
        assert!(stored(&lab, "key").unwrap() == expected);
        // truncate(2), without a file that is open.
        let name = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
        rustix_truncate(&name, 400_000);
        expected.truncate(400_000);
        assert!(stored(&lab, "key").unwrap() == expected);
        std::fs::remove_file(&path).unwrap();
    }
}

fn rustix_truncate(path: &std::ffi::CStr, length: u64) {
    let status = std::process::Command::new("truncate")
        .args(["-s", &length.to_string(), path.to_str().unwrap()])
        .status()
        .unwrap();
    assert!(status.success());
}

#[test]
fn directories_are_made_kept_and_removed() {
    let (lab, data) = lab();
    std::fs::create_dir(data.join("made")).unwrap();
    assert_eq!(stored(&lab, "made/").unwrap(), b"", "its marker");
    assert_eq!(errno(std::fs::create_dir(data.join("made"))), libc::EEXIST);
    std::fs::write(data.join("made/file"), b"x").unwrap();
    assert_eq!(
        errno(std::fs::remove_dir(data.join("made"))),
        libc::ENOTEMPTY
    );
    assert_eq!(
        errno(std::fs::remove_dir(data.join("made/file"))),
        libc::ENOTDIR
    );
    assert_eq!(errno(std::fs::remove_file(data.join("made"))), libc::EISDIR);
    std::fs::remove_file(data.join("made/file")).unwrap();
    std::fs::remove_dir(data.join("made")).unwrap();
    assert_eq!(errno(data.join("made").metadata()), libc::ENOENT);
    assert_eq!(stored(&lab, "made/"), None);
    // One that only its keys made stays when they go, until it is removed.
    lab.put("data", "implied/deep/key", b"x");
    std::fs::remove_file(data.join("implied/deep/key")).unwrap();
    assert!(data.join("implied/deep").is_dir());
    std::fs::remove_dir(data.join("implied/deep")).unwrap();
    assert!(data.join("implied").is_dir());
    std::fs::remove_dir(data.join("implied")).unwrap();
    assert!(std::fs::read_dir(&data).unwrap().next().is_none());
    // A file that is not published yet counts.
    std::fs::create_dir(data.join("busy")).unwrap();
    let file = File::create(data.join("busy/new")).unwrap();
    assert_eq!(
        errno(std::fs::remove_dir(data.join("busy"))),
        libc::ENOTEMPTY
    );
    drop(file);
    // So does what is no path.
    lab.put("data", "hostile/../x", b"x");
    assert_eq!(std::fs::read_dir(data.join("hostile")).unwrap().count(), 0);
    assert_eq!(
        errno(std::fs::remove_dir(data.join("hostile"))),
        libc::ENOTEMPTY
    );
}

#[test]
fn buckets_are_made_and_removed_as_directories() {
    let (lab, _) = lab();
    let made = lab.path("buckets/made");
    std::fs::create_dir(&made).unwrap();
    assert_eq!(lab.store.bucket("made").unwrap().name, "made");
    assert_eq!(errno(std::fs::create_dir(&made)), libc::EEXIST);
    assert_eq!(
        errno(std::fs::create_dir(lab.path("buckets/No_Bucket"))),
        libc::EINVAL
    );
    // A bucket of that name could not be reached by S3: the path leads to WebDAV.
    assert_eq!(
        errno(std::fs::create_dir(lab.path("buckets/dav"))),
        libc::EINVAL
    );
    std::fs::write(made.join("file"), b"x").unwrap();
    assert_eq!(errno(std::fs::remove_dir(&made)), libc::ENOTEMPTY);
    assert_eq!(
        errno(std::fs::rename(&made, lab.path("buckets/other"))),
        libc::EOPNOTSUPP
    );
    assert_eq!(
        errno(std::fs::rename(
            made.join("file"),
            lab.path("buckets/data/file")
        )),
        libc::EXDEV
    );
    std::fs::remove_file(made.join("file")).unwrap();
    std::fs::remove_dir(&made).unwrap();
    assert!(lab.store.bucket("made").is_err());
}

#[test]
fn a_rename_moves_and_replaces() {
    let (lab, data) = lab();
    for length in [50, 2 << 20] {
        let (one, two) = (noise(1, length), noise(2, length + 1));
        std::fs::write(data.join("one"), &one).unwrap();
        std::fs::write(data.join("two"), &two).unwrap();
        let replaced = File::open(data.join("two")).unwrap();
        std::fs::rename(data.join("one"), data.join("two")).unwrap();
        assert_eq!(errno(data.join("one").metadata()), libc::ENOENT);
        assert_eq!(stored(&lab, "one"), None);
        assert!(std::fs::read(data.join("two")).unwrap() == one);
        let mut seen = vec![0; two.len()];
        replaced.read_exact_at(&mut seen, 0).unwrap();
        assert!(seen == two, "who had it open keeps it");
        std::fs::remove_file(data.join("two")).unwrap();
    }
    // What was not published yet is, under the new name; and the file goes on there.
    let mut file = File::create(data.join("draft")).unwrap();
    file.write_all(b"first ").unwrap();
    std::fs::rename(data.join("draft"), data.join("final")).unwrap();
    assert_eq!(stored(&lab, "final").unwrap(), b"first ");
    assert_eq!(stored(&lab, "draft"), None);
    file.write_all(b"second").unwrap();
    drop(file);
    assert_eq!(stored(&lab, "final").unwrap(), b"first second");
    assert_eq!(stored(&lab, "draft"), None);
    wait_for_end(&lab, "final");
    wait_for_end(&lab, "draft");
}

#[test]
fn a_directory_is_renamed_with_all_that_is_in_it() {
    let (lab, data) = lab();
    std::fs::create_dir_all(data.join("old/sub/empty")).unwrap();
    for number in 0..30 {
        std::fs::write(data.join(format!("old/sub/{number}")), number.to_string()).unwrap();
    }
    let mut open = File::create(data.join("old/sub/open")).unwrap();
    open.write_all(b"written ").unwrap();
    std::fs::create_dir(data.join("onto")).unwrap();
    std::fs::rename(data.join("old"), data.join("onto")).unwrap();
    open.write_all(b"on").unwrap();
    drop(open);
    assert_eq!(errno(data.join("old").metadata()), libc::ENOENT);
    for number in 0..30 {
        let path = data.join(format!("onto/sub/{number}"));
        assert_eq!(std::fs::read_to_string(path).unwrap(), number.to_string());
    }
    assert_eq!(stored(&lab, "onto/sub/open").unwrap(), b"written on");
    assert!(data.join("onto/sub/empty").is_dir());
    assert_eq!(
        errno(std::fs::rename(data.join("onto"), data.join("onto/sub/x"))),
        libc::EINVAL
    );
    std::fs::create_dir(data.join("full")).unwrap();
    std::fs::write(data.join("full/file"), b"x").unwrap();
    assert_eq!(
        errno(std::fs::rename(data.join("onto"), data.join("full"))),
        libc::ENOTEMPTY
    );
    assert_eq!(
        errno(std::fs::rename(data.join("onto"), data.join("full/file"))),
        libc::ENOTDIR
    );
    assert_eq!(
        errno(std::fs::rename(data.join("full/file"), data.join("onto"))),
        libc::EISDIR
    );
}

#[test]
fn a_removed_file_lives_as_long_as_it_is_open() {
    let (lab, data) = lab();
    for length in [10, 2 << 20] {
        let bytes = noise(4, length);
        std::fs::write(data.join("key"), &bytes).unwrap();
        let file = open_rw(&data.join("key"));
        std::fs::remove_file(data.join("key")).unwrap();
        assert_eq!(stored(&lab, "key"), None);
        file.write_all_at(b"!", 5).unwrap();
        let mut seen = vec![0; length];
        file.read_exact_at(&mut seen, 0).unwrap();
        assert_eq!(seen[5], b'!');
        file.sync_all().unwrap();
        drop(file);
        wait_for_end(&lab, "key");
        assert_eq!(stored(&lab, "key"), None, "it does not come back");
    }
    let never = File::create(data.join("never")).unwrap();
    std::fs::remove_file(data.join("never")).unwrap();
    assert_eq!(errno(data.join("never").metadata()), libc::ENOENT);
    std::fs::write(data.join("never"), b"another").unwrap();
    drop(never);
    assert_eq!(stored(&lab, "never").unwrap(), b"another");
}

#[test]
fn times_modes_and_attributes_are_kept_with_the_object() {
    let (lab, data) = lab();
    let path = data.join("script");
    std::fs::write(&path, b"#!/bin/sh\necho ran\n").unwrap();
    assert_eq!(path.metadata().unwrap().mode() & 0o7777, 0o644);
    std::fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
    assert_eq!(path.metadata().unwrap().mode() & 0o7777, 0o755);
    let ran = std::process::Command::new(&path).output().unwrap();
    assert_eq!(ran.stdout, b"ran\n");
    let time = SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789);
    let file = open_rw(&path);
    file.set_modified(time).unwrap();
    drop(file);
    assert_eq!(path.metadata().unwrap().modified().unwrap(), time);
    let object = lab.store.object_head("data", "script").unwrap();
    assert_eq!(object.meta.user["mtime"], "1000000000.123456789");
    assert_eq!(object.meta.user["file-permissions"], "0755");
    // Writing moves the time on; the mode stays.
    OpenOptions::new()
        .append(true)
        .open(&path)
        .unwrap()
        .write_all(b"# more\n")
        .unwrap();
    let metadata = path.metadata().unwrap();
    assert!(metadata.modified().unwrap() > time + Duration::from_secs(60));
    assert_eq!(metadata.mode() & 0o7777, 0o755);
    wait_for_end(&lab, "script");
    for (program, arguments) in [
        ("setfattr", &["-n", "user.colour", "-v", "sea green"][..]),
        ("touch", &["-d", "2001-02-03T04:05:06Z"][..]),
    ] {
        let done = std::process::Command::new(program)
            .args(arguments)
            .arg(&path)
            .output()
            .unwrap();
        assert!(
            done.status.success(),
            "{program}: {}",
            String::from_utf8_lossy(&done.stderr)
        );
    }
    let object = lab.store.object_head("data", "script").unwrap();
    assert_eq!(object.meta.user["colour"], "sea green");
    assert_eq!(path.metadata().unwrap().mtime(), 981_173_106);
    let shown = crate::lab::run(
        "getfattr",
        &["-d", "--absolute-names", path.to_str().unwrap()],
    );
    assert!(shown.contains("user.colour=\"sea green\""), "{shown}");
    assert!(!shown.contains("mtime"), "{shown}");
    let directory = data.join("dir");
    std::fs::create_dir(&directory).unwrap();
    std::fs::set_permissions(&directory, Permissions::from_mode(0o700)).unwrap();
    assert_eq!(directory.metadata().unwrap().mode() & 0o7777, 0o700);
    assert_eq!(
        errno(std::os::unix::fs::chown(&path, Some(12345), None)),
        libc::EPERM
    );
    assert_eq!(
        errno(std::os::unix::fs::symlink("x", data.join("link"))),
        libc::EPERM
    );
    assert_eq!(
        errno(std::fs::hard_link(&path, data.join("link"))),
        libc::EPERM
    );
}

#[test]
fn unmounting_publishes_what_is_open() {
    let (mut lab, data) = lab();
    let mut file = File::create(data.join("open")).unwrap();
    file.write_all(b"written").unwrap();
    lab.mounted.take().unwrap().unmount().unwrap();
    assert_eq!(stored(&lab, "open").unwrap(), b"written");
    assert_eq!(errno(file.write_all(b"more")), libc::ENOTCONN);
}

#[test]
fn space_is_told_and_a_reservation_makes_a_file_longer() {
    let (lab, data) = lab();
    let file = File::create(data.join("key")).unwrap();
    for (arguments, length) in [
        (&["-l", "1000000"][..], 1_000_000),
        (&["-n", "-l", "9000000"][..], 1_000_000),
        (&["-z", "-o", "500", "-l", "2000000"][..], 2_000_500),
        (&["-p", "-o", "0", "-l", "4096"][..], 2_000_500),
    ] {
        let done = std::process::Command::new("fallocate")
            .args(arguments)
            .arg(data.join("key"))
            .output()
            .unwrap();
        assert!(
            done.status.success(),
            "{arguments:?}: {}",
            String::from_utf8_lossy(&done.stderr)
        );
        assert_eq!(file.metadata().unwrap().len(), length, "{arguments:?}");
    }
    drop(file);
    assert!(stored(&lab, "key").unwrap() == vec![0; 2_000_500]);
    let room = rustix_statvfs(&data);
    assert!(room > 0);
}

fn rustix_statvfs(path: &Path) -> u64 {
    let out = crate::lab::run("stat", &["-f", "-c", "%a", path.to_str().unwrap()]);
    out.trim().parse().unwrap()
}
