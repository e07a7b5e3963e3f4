//! The mount under the programs that people point at disk images.

use crate::lab::{Lab, MIB, attempt, noise, run, text, who};
use std::fs::OpenOptions;
use std::os::unix::fs::{FileExt, MetadataExt};

#[test]
fn qemu_img_reads_and_writes_a_volume() {
    let lab = Lab::new();
    let file = lab.volume("disk", 64 * MIB);
    let info = run(
        "qemu-img",
        &["info", "-f", "raw", "--output=json", text(&file)],
    );
    assert!(info.contains("67108864"), "{info}");

    let source = lab.beside("source.raw");
    let open = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(&source)
        .unwrap();
    open.set_len(64 * MIB).unwrap();
    open.write_all_at(&noise(1, 5 << 20), 10 * MIB).unwrap();
    run(
        "qemu-img",
        &[
            "convert",
            "-n",
            "-f",
            "raw",
            "-O",
            "raw",
            text(&source),
            text(&file),
        ],
    );
    run(
        "qemu-img",
        &[
            "compare",
            "-f",
            "raw",
            "-F",
            "raw",
            text(&source),
            text(&file),
        ],
    );
    let qcow2 = lab.beside("copy.qcow2");
    run(
        "qemu-img",
        &[
            "convert",
            "-f",
            "raw",
            "-O",
            "qcow2",
            text(&file),
            text(&qcow2),
        ],
    );
    run(
        "qemu-img",
        &[
            "compare",
            "-f",
            "qcow2",
            "-F",
            "raw",
            text(&qcow2),
            text(&file),
        ],
    );
    let map = run(
        "qemu-img",
        &["map", "-f", "raw", "--output=json", text(&file)],
    );
    assert!(
        map.contains(r#""start": 10485760, "length": 5242880"#),
        "{map}"
    );
    let refused = attempt(
        "qemu-img",
        &[
            "convert",
            "-f",
            "raw",
            "-O",
            "raw",
            text(&source),
            text(&file),
        ],
    );
    assert!(!refused.status.success(), "without -n it would truncate");
}

#[test]
fn qemu_writes_discards_and_flushes_in_every_cache_mode() {
    let lab = Lab::new();
    for (mode, engine) in [
        ("none", "native"),
        ("none", "io_uring"),
        ("writeback", "threads"),
        ("writethrough", "threads"),
    ] {
        let name = format!("{mode}-{engine}");
        let file = lab.volume(&name, 16 * MIB);
        let syncs = lab.store.stats().unwrap().syncs;
        let commands = [
            "write -P 7 1M 4M",
            "flush",
            "discard 2M 1M",
            "write -z 3M 1M",
            "read -P 7 1M 1M",
            "read -P 0 2M 2M",
            "read -P 7 4M 1M",
        ];
        let mut arguments = vec!["-f", "raw", "-d", "unmap", "-t", mode, "-i", engine];
        arguments.extend(commands.iter().flat_map(|command| ["-c", command]));
        arguments.push(text(&file));
        let said = run("qemu-io", &arguments);
        assert!(
            !said.contains("failed") && !said.contains("differs"),
            "{name}: {said}"
        );
        assert!(
            lab.store.stats().unwrap().syncs > syncs,
            "{name}: flush reaches the device"
        );
        assert_eq!(
            file.metadata().unwrap().blocks() * 512,
            2 * MIB,
            "{name}: discard frees"
        );
    }
}

#[test]
fn an_image_is_its_raw_disk_whatever_it_was_made_from() {
    let lab = Lab::new();
    lab.store.bucket_create(&who(), "uploads").unwrap();
    let raw = lab.beside("disk.raw");
    let open = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(&raw)
        .unwrap();
    open.set_len(16 * MIB).unwrap();
    open.write_all_at(&noise(2, 3 << 20), 2 * MIB).unwrap();
    let qcow2 = lab.beside("disk.qcow2");
    run(
        "qemu-img",
        &[
            "convert",
            "-f",
            "raw",
            "-O",
            "qcow2",
            text(&raw),
            text(&qcow2),
        ],
    );
    lab.put("uploads", "disk.qcow2", &std::fs::read(&qcow2).unwrap());
    lab.store
        .image_add(&who(), "uploads", "disk.qcow2", "debian-12")
        .unwrap();
    run(
        "cmp",
        &[text(&raw), text(&lab.path("images/debian-12.raw"))],
    );
    let id = lab.store.image("debian-12").unwrap().id;
    assert!(
        !lab.path(&format!("images/{id}.raw")).exists(),
        "only names are shown"
    );
    // The object itself is the file that was uploaded.
    run(
        "cmp",
        &[text(&qcow2), text(&lab.path("buckets/uploads/disk.qcow2"))],
    );
}

#[test]
fn ext4_is_made_and_checked_on_a_volume_file() {
    let lab = Lab::new();
    let file = lab.volume("disk", 96 * MIB);
    let tree = lab.beside("tree");
    std::fs::create_dir_all(tree.join("deep/er")).unwrap();
    std::fs::write(tree.join("deep/er/noise"), noise(3, 9 << 20)).unwrap();
    run("mkfs.ext4", &["-q", "-F", "-d", text(&tree), text(&file)]);
    run("e2fsck", &["-f", "-n", text(&file)]);
    let out = lab.beside("noise");
    run(
        "debugfs",
        &[
            "-R",
            &format!("dump /deep/er/noise {}", text(&out)),
            text(&file),
        ],
    );
    assert!(std::fs::read(&out).unwrap() == noise(3, 9 << 20));
}

#[test]
fn fio_verifies_random_writes_on_a_volume_file() {
    let lab = Lab::new();
    let file = lab.volume("disk", 64 * MIB);
    for (engine, direct) in [("psync", "0"), ("libaio", "1")] {
        let job = [
            "--name=verify",
            &format!("--filename={}", text(&file)),
            &format!("--ioengine={engine}"),
            &format!("--direct={direct}"),
            "--rw=randwrite",
            "--bsrange=512-256k",
            "--size=64m",
            "--io_size=96m",
            "--iodepth=16",
            "--fsync=64",
            "--verify=crc32c",
            "--verify_fatal=1",
            "--verify_state_save=0",
            "--randrepeat=0",
            "--fallocate=none",
            "--overwrite=1",
        ];
        run("fio", &job);
    }
}

#[test]
fn a_loop_device_carries_a_mounted_file_system() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("not root: loop devices are not tried");
        return;
    }
    let lab = Lab::new();
    let file = lab.volume("disk", 96 * MIB);
    run("mkfs.ext4", &["-q", "-F", text(&file)]);
    let place = lab.beside("ext4");
    std::fs::create_dir(&place).unwrap();
    let mount = attempt("mount", &["-o", "loop,discard", text(&file), text(&place)]);
    if String::from_utf8_lossy(&mount.stderr).contains("failed to setup loop device") {
        eprintln!(
            "this machine has no loop devices: {}",
            String::from_utf8_lossy(&mount.stderr)
        );
        return;
    }
    assert!(mount.status.success(), "{mount:?}");
    std::fs::write(place.join("noise"), noise(4, 20 << 20)).unwrap();
    run("sync", &["-f", text(&place)]);
    let held = lab.opened("disk").holder();
    assert!(std::fs::read(place.join("noise")).unwrap() == noise(4, 20 << 20));
    run("umount", &[text(&place)]);
    assert!(held.is_some_and(|holder| holder.starts_with("mount ")));
    run("e2fsck", &["-f", "-n", text(&file)]);
}
