//! Promises 1 to 4: volumes as files.

use crate::lab::{Lab, MIB, attempt, errno, noise, run, text, who};
use blockstore::volume::Origin;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

fn write(path: &Path) -> File {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap()
}

#[test]
fn a_volume_is_a_file_and_both_show_the_same_bytes() {
    let lab = Lab::new();
    let file = lab.volume("disk", 64 * MIB);
    assert_eq!(file.metadata().unwrap().len(), 64 * MIB);
    let source = lab.beside("source");
    std::fs::write(&source, noise(1, 8 << 20)).unwrap();
    let (from, to) = (
        format!("if={}", text(&source)),
        format!("of={}", text(&file)),
    );
    run("dd", &[&from, &to, "bs=1M", "seek=3", "conv=notrunc,fsync"]);

    let mut seen = vec![0; 8 << 20];
    lab.opened("disk").read_at(3 * MIB, &mut seen).unwrap();
    assert_eq!(seen, noise(1, 8 << 20));
    run(
        "cmp",
        &[
            "-n",
            "8388608",
            "-i",
            "0:3145728",
            text(&source),
            text(&file),
        ],
    );

    // The other way, without closing or reopening: what another door writes shows at once.
    lab.wait_for_release("disk");
    let mut open = File::open(&file).unwrap();
    let mut before = vec![0; 4096];
    open.read_exact(&mut before).unwrap();
    let writer = lab.opened("disk").writer("another door").unwrap();
    writer.write_at(0, &noise(2, 4096)).unwrap();
    let mut after = vec![0; 4096];
    open.seek(SeekFrom::Start(0)).unwrap();
    open.read_exact(&mut after).unwrap();
    assert_eq!((before, after), (vec![0; 4096], noise(2, 4096)));
}

#[test]
fn fsync_close_and_dsync_reach_the_device() {
    let lab = Lab::new();
    let file = lab.volume("disk", MIB);
    let syncs = || lab.store.stats().unwrap().syncs;
    let open = write(&file);

    let start = syncs();
    open.write_all_at(b"fsync", 0).unwrap();
    open.sync_all().unwrap();
    assert!(syncs() > start, "fsync");

    let start = syncs();
    open.write_all_at(b"fdatasync", 0).unwrap();
    // Another descriptor of the same file, which wrote nothing.
    File::open(&file).unwrap().sync_data().unwrap();
    assert!(syncs() > start, "fdatasync by another descriptor");

    let start = syncs();
    open.write_all_at(b"close", 0).unwrap();
    drop(open);
    assert!(syncs() > start, "close");

    let start = syncs();
    let dsync = OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_DSYNC)
        .open(&file)
        .unwrap();
    dsync.write_all_at(b"dsync", 0).unwrap();
    assert!(syncs() > start, "a write with O_DSYNC");
}

#[test]
fn the_length_follows_a_resize() {
    let lab = Lab::new();
    let file = lab.volume("disk", MIB);
    let mut open = write(&file);
    lab.store
        .volume_resize(&who(), "disk", 3 * MIB, false)
        .unwrap();
    assert_eq!(file.metadata().unwrap().len(), 3 * MIB);
    assert_eq!(open.metadata().unwrap().len(), 3 * MIB);
    assert_eq!(open.seek(SeekFrom::End(0)).unwrap(), 3 * MIB);
    open.write_all_at(b"grown", 2 * MIB).unwrap();
    let mut seen = [0; 5];
    open.read_exact_at(&mut seen, 2 * MIB).unwrap();
    assert_eq!(&seen, b"grown");
}

#[test]
fn a_volume_keeps_its_length() {
    let lab = Lab::new();
    let file = lab.volume("disk", MIB);
    let open = write(&file);
    open.write_all_at(b"kept", 0).unwrap();
    assert_eq!(errno(open.set_len(0)), libc::EPERM);
    assert_eq!(errno(open.set_len(2 * MIB)), libc::EPERM);
    open.set_len(MIB).unwrap();
    assert_eq!(
        errno(OpenOptions::new().write(true).truncate(true).open(&file)),
        libc::EPERM
    );
    assert_eq!(
        errno(OpenOptions::new().append(true).open(&file)),
        libc::EPERM
    );

    assert_eq!(errno(open.write_at(b"x", MIB)), libc::EFBIG);
    assert_eq!(
        open.write_at(&[1; 8192], MIB - 4096).unwrap(),
        4096,
        "what fits is written"
    );
    let mut seen = [0; 8192];
    assert_eq!(
        open.read_at(&mut seen, MIB - 4096).unwrap(),
        4096,
        "and read up to the end"
    );
    assert_eq!(open.read_at(&mut seen, MIB).unwrap(), 0);
    open.read_exact_at(&mut seen[..4], 0).unwrap();
    assert_eq!(&seen[..4], b"kept");
}

#[test]
fn the_token_is_taken_at_the_first_write_and_given_back_with_the_last_close() {
    let lab = Lab::new();
    let file = lab.volume("disk", MIB);
    let volume = lab.opened("disk");
    let (first, second, idle) = (write(&file), write(&file), write(&file));
    let mut byte = [0];
    idle.read_exact_at(&mut byte, 0).unwrap();
    assert_eq!(volume.holder(), None, "opening and reading takes nothing");

    first.write_all_at(b"1", 0).unwrap();
    let holder = format!(
        "mount {}",
        lab.mounted.as_ref().unwrap().mountpoint().display()
    );
    assert_eq!(volume.holder(), Some(holder.clone()));
    second.write_all_at(b"2", 0).unwrap();
    drop(first);
    std::thread::sleep(std::time::Duration::from_millis(50));
    assert_eq!(
        volume.holder(),
        Some(holder),
        "another file of this mount still writes"
    );
    drop(second);
    lab.wait_for_release("disk");
    drop(idle);
}

#[test]
fn a_write_while_another_holds_the_token_is_busy_and_changes_nothing() {
    let lab = Lab::new();
    let file = lab.volume("disk", MIB);
    let open = write(&file);
    let writer = lab.opened("disk").writer("nbd vm1").unwrap();
    writer.write_at(0, b"theirs").unwrap();
    assert_eq!(errno(open.write_at(b"ours", 0)), libc::EBUSY);
    let punched = attempt("fallocate", &["-p", "-o", "0", "-l", "4096", text(&file)]);
    assert!(
        String::from_utf8_lossy(&punched.stderr).contains("busy"),
        "{punched:?}"
    );
    let mut seen = [0; 6];
    open.read_exact_at(&mut seen, 0).unwrap();
    assert_eq!(&seen, b"theirs");

    drop(writer);
    open.write_all_at(b"ours", 0).unwrap();
    let refused = lab.opened("disk").writer("nbd vm1").err().unwrap();
    assert!(refused.to_string().contains("mount /"), "{refused}");
}

#[test]
fn a_punched_range_is_freed_and_reads_as_zeroes() {
    let lab = Lab::new();
    let file = lab.volume("disk", 32 * MIB);
    assert_eq!(
        file.metadata().unwrap().blocks(),
        0,
        "a new volume stores nothing"
    );
    let open = write(&file);
    open.write_all_at(&noise(3, 16 << 20), 4 * MIB).unwrap();
    assert_eq!(file.metadata().unwrap().blocks() * 512, 16 * MIB);

    run(
        "fallocate",
        &["-p", "-o", "6MiB", "-l", "4MiB", text(&file)],
    );
    run(
        "fallocate",
        &["-z", "-o", "12MiB", "-l", "1MiB", text(&file)],
    );
    assert_eq!(file.metadata().unwrap().blocks() * 512, 11 * MIB);
    let du = run("du", &["-B1", text(&file)]);
    assert!(du.starts_with(&(11 * MIB).to_string()), "{du}");
    let mut seen = vec![1; 4 << 20];
    open.read_exact_at(&mut seen, 6 * MIB).unwrap();
    assert!(seen.iter().all(|byte| *byte == 0));

    assert!(
        !attempt("fallocate", &["-l", "1MiB", text(&file)])
            .status
            .success(),
        "thin: no preallocation"
    );
    assert!(
        !attempt(
            "fallocate",
            &["-z", "-o", "31MiB", "-l", "2MiB", text(&file)]
        )
        .status
        .success()
    );
    run(
        "fallocate",
        &["-p", "-o", "31MiB", "-l", "2MiB", text(&file)],
    );
}

#[test]
fn seek_finds_data_and_holes_and_copies_stay_sparse() {
    let lab = Lab::new();
    let file = lab.volume("disk", 64 << 40);
    let open = write(&file);
    open.write_all_at(&noise(4, 1 << 20), MIB).unwrap();
    open.write_all_at(&noise(5, 4096), (64 << 40) - 4096)
        .unwrap();
    let script = "import os, sys
f = os.open(sys.argv[1], os.O_RDONLY)
at, out = 0, []
while True:
    try: data = os.lseek(f, at, os.SEEK_DATA)
    except OSError as error:
        end = error.errno
        break
    at = os.lseek(f, data, os.SEEK_HOLE)
    out.append(f'{data}+{at - data}')
print(' '.join(out), end)";
    let found = run("python3", &["-c", script, text(&file)]);
    let expected = format!(
        "{}+{} {}+4096 {}\n",
        MIB,
        MIB,
        (64u64 << 40) - 4096,
        libc::ENXIO
    );
    assert_eq!(found, expected);

    let small = lab.volume("small", 256 * MIB);
    write(&small)
        .write_all_at(&noise(6, 3 << 20), 100 * MIB)
        .unwrap();
    let copy = lab.beside("copy.raw");
    run("cp", &["--sparse=auto", text(&small), text(&copy)]);
    run("cmp", &[text(&small), text(&copy)]);
    assert!(
        copy.metadata().unwrap().blocks() * 512 < 4 * MIB,
        "the copy is sparse too"
    );
}

#[test]
fn volumes_are_not_made_or_removed_as_files() {
    let lab = Lab::new();
    let file = lab.volume("disk", MIB);
    let other = lab.path("volumes/other.raw");
    assert_eq!(errno(File::create(&other)), libc::EPERM);
    assert_eq!(errno(std::fs::rename(&file, &other)), libc::EPERM);
    assert_eq!(errno(std::fs::hard_link(&file, &other)), libc::EPERM);
    assert_eq!(errno(std::fs::remove_file(&file)), libc::EPERM);
    assert_eq!(
        errno(std::fs::create_dir(lab.path("volumes/d"))),
        libc::EPERM
    );
    let open_mode = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    assert_eq!(
        errno(std::fs::set_permissions(&file, open_mode)),
        libc::EPERM
    );
    for missing in [
        "volumes/disk",
        "volumes/.raw",
        "volumes/nope.raw",
        "nope",
        "volumes/a b?.raw",
    ] {
        assert_eq!(
            errno(lab.path(missing).metadata()),
            libc::ENOENT,
            "{missing}"
        );
    }
    assert_eq!(
        errno(lab.path(&format!("volumes/{}", "x".repeat(256))).metadata()),
        libc::ENAMETOOLONG
    );
}

#[test]
fn a_new_volume_under_an_old_name_is_another_file() {
    let lab = Lab::new();
    let file = lab.volume("disk", MIB);
    write(&file).write_all_at(b"old", 0).unwrap();
    lab.wait_for_release("disk");
    let inode = file.metadata().unwrap().ino();
    lab.store.volume_remove(&who(), "disk").unwrap();
    lab.store
        .volume_create(&who(), "disk", Some(2 * MIB), &Origin::Empty)
        .unwrap();
    // Within the second for which the kernel believes the name.
    let open = File::open(&file).unwrap();
    assert_eq!(open.metadata().unwrap().len(), 2 * MIB);
    assert_ne!(open.metadata().unwrap().ino(), inode);
    let mut seen = [1; 3];
    open.read_exact_at(&mut seen, 0).unwrap();
    assert_eq!(seen, [0; 3]);
}

#[test]
fn the_time_of_modification_follows_writes() {
    let lab = Lab::new();
    let file = lab.volume("disk", MIB);
    let before = file.metadata().unwrap().modified().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(20));
    write(&file).write_all_at(b"x", 0).unwrap();
    assert!(file.metadata().unwrap().modified().unwrap() > before);
    run("touch", &["-d", "2030-01-01T00:00:00Z", text(&file)]);
    assert_eq!(file.metadata().unwrap().mtime(), 1_893_456_000);
}

#[test]
fn the_room_shown_is_the_stores() {
    let lab = Lab::new();
    let room = rustix::fs::statvfs(lab.path("")).unwrap();
    let free_bytes = lab.store.stats().unwrap().free_bytes;
    assert!(
        (room.f_bavail * room.f_frsize).abs_diff(free_bytes) < 1 << 30,
        "{} shown, {free_bytes} in the store",
        room.f_bavail * room.f_frsize
    );
    assert!(room.f_blocks >= room.f_bfree);
}

#[test]
fn many_threads_write_and_read_one_volume() {
    let lab = Lab::new();
    let file = lab.volume("disk", 64 * MIB);
    std::thread::scope(|scope| {
        for thread in 0..8u64 {
            let file = &file;
            scope.spawn(move || {
                let open = write(file);
                for step in 0..32 {
                    let at = (thread * 32 + step) * 256 * 1024;
                    // Not aligned to blocks: neighbours share them.
                    open.write_all_at(&noise(at + 1, 200_000), at + 7).unwrap();
                }
                open.sync_all().unwrap();
            });
        }
    });
    let volume = lab.opened("disk");
    for place in 0..256u64 {
        let at = place * 256 * 1024;
        let mut seen = vec![0; 200_000];
        volume.read_at(at + 7, &mut seen).unwrap();
        assert!(seen == noise(at + 1, 200_000), "at {at}");
    }
}

#[test]
fn a_shared_mapping_is_refused_and_a_private_one_reads() {
    let lab = Lab::new();
    let file = lab.volume("disk", MIB);
    let mut open = write(&file);
    open.write_all(b"mapped").unwrap();
    let script = "import mmap, sys
f = open(sys.argv[1], 'r+b')
try:
    mmap.mmap(f.fileno(), 4096, flags=mmap.MAP_SHARED)
except OSError as e:
    print(e.errno, mmap.mmap(f.fileno(), 4096, flags=mmap.MAP_PRIVATE)[:6].decode())";
    assert_eq!(
        run("python3", &["-c", script, text(&file)]),
        format!("{} mapped\n", libc::ENODEV)
    );
}
