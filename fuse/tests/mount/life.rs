//! Promise 8: mounting, unmounting, and what a dead server leaves.

use crate::lab::{Lab, MIB, attempt, errno, mount, noise, open_store, run, text, who};
use blockstore::Kind;
use blockstore::volume::Origin;
use fuse::mount::{MountError, MountOptions};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

#[test]
fn unmounting_flushes_cuts_off_open_files_and_gives_the_token_back() {
    let mut lab = Lab::new();
    let file = lab.volume("disk", 8 * MIB);
    let open = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&file)
        .unwrap();
    open.write_all_at(&noise(1, 1 << 20), MIB).unwrap();
    let mounted = lab.mounted.take().unwrap();
    assert_eq!(mounted.open_files(), 1);
    assert!(lab.opened("disk").holder().is_some());
    let syncs = lab.store.stats().unwrap().syncs;

    mounted.unmount().unwrap();
    assert!(lab.store.stats().unwrap().syncs > syncs, "flushed");
    assert_eq!(lab.opened("disk").holder(), None);
    assert_eq!(errno(open.write_at(b"x", 0)), libc::ENOTCONN);
    assert_eq!(
        std::fs::read_dir(lab.path("")).unwrap().count(),
        0,
        "the directory is empty again"
    );
    let mut seen = vec![0; 1 << 20];
    lab.opened("disk").read_at(MIB, &mut seen).unwrap();
    assert!(seen == noise(1, 1 << 20));
}

#[test]
fn dropping_unmounts_and_the_directory_can_be_mounted_again() {
    let mut lab = Lab::new();
    let file = lab.volume("disk", MIB);
    for round in 0..10 {
        let open = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&file)
            .unwrap();
        open.write_all_at(&[round; 16], 0).unwrap();
        if round % 2 == 0 {
            drop(open);
        }
        drop(lab.mounted.take());
        lab.mounted =
            Some(mount(lab.store.clone(), &lab.path(""), MountOptions::default()).unwrap());
        assert_eq!(std::fs::read(&file).unwrap()[..16], [round; 16]);
    }
}

#[test]
fn unmounting_in_the_middle_of_traffic_ends() {
    let mut lab = Lab::new();
    let file = lab.volume("disk", 64 * MIB);
    let mounted = lab.mounted.take().unwrap();
    std::thread::scope(|scope| {
        for thread in 0..6u64 {
            let file = &file;
            scope.spawn(move || {
                let Ok(open) = OpenOptions::new().read(true).write(true).open(file) else {
                    return;
                };
                for step in 0.. {
                    let at = (thread * 8 + step % 8) * MIB;
                    if open.write_all_at(&noise(at, 300_000), at).is_err() {
                        break;
                    }
                }
            });
        }
        std::thread::sleep(Duration::from_millis(300));
        mounted.unmount().unwrap();
    });
    assert_eq!(lab.opened("disk").holder(), None);
}

#[test]
fn somebody_elses_umount_ends_the_mount_too() {
    let mut lab = Lab::new();
    let program = if rustix::process::geteuid().is_root() {
        "umount"
    } else {
        "fusermount3"
    };
    let how: &[&str] = if program == "umount" { &[] } else { &["-u"] };
    run(program, &[how, &[text(&lab.path(""))]].concat());
    let mounted = lab.mounted.take().unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while mounted.is_live() {
        assert!(
            Instant::now() < deadline,
            "the server goes on without a mount"
        );
        std::thread::sleep(Duration::from_millis(1));
    }
    mounted.unmount().unwrap();
}

#[test]
fn a_second_mount_on_the_same_directory_is_refused() {
    let lab = Lab::new();
    let refused = mount(lab.store.clone(), &lab.path(""), MountOptions::default()).unwrap_err();
    assert!(
        matches!(refused, MountError::AlreadyMounted { .. }),
        "{refused}"
    );
    assert_eq!(refused.kind(), Kind::Conflict);
}

#[test]
fn allow_other_opens_the_mount_to_other_users() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("not root: another user is not tried");
        return;
    }
    for allow_other in [false, true] {
        let lab = Lab::with(MountOptions {
            allow_other,
            ..MountOptions::default()
        });
        let file = lab.volume("disk", MIB);
        let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(lab.directory.path(), everybody).unwrap();
        let script = format!(
            "printf seen | dd of={0} conv=notrunc,fsync && head -c4 {0}",
            text(&file)
        );
        let mut shell = Command::new("sh");
        let output = shell
            .args(["-c", &script])
            .uid(65534)
            .gid(65534)
            .output()
            .unwrap();
        assert_eq!(output.status.success(), allow_other, "{output:?}");
        assert_eq!(output.stdout == b"seen", allow_other);
    }
}

/// Not a test: the server that `a_dead_servers_mount_is_taken_away` kills.
#[test]
#[ignore = "run by a_dead_servers_mount_is_taken_away"]
fn serve_until_killed() {
    let directory = PathBuf::from(std::env::var_os("MOUNT_LAB").unwrap());
    let store = open_store(&directory.join("data"));
    let mounted = mount(store, &directory.join("mnt"), MountOptions::default()).unwrap();
    std::fs::write(directory.join("ready"), "").unwrap();
    while mounted.is_live() {
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_dead_servers_mount_is_taken_away_and_what_was_synced_is_there() {
    let directory = tempfile::tempdir().unwrap();
    let (data, path) = (directory.path().join("data"), directory.path().join("mnt"));
    std::fs::create_dir(&path).unwrap();
    let store = open_store(&data);
    store
        .volume_create(&who(), "disk", Some(MIB), &Origin::Empty)
        .unwrap();
    store.close().unwrap();
    drop(store);

    let mut server = Command::new(std::env::current_exe().unwrap());
    server.args([
        "--exact",
        "life::serve_until_killed",
        "--ignored",
        "--nocapture",
    ]);
    let mut server = server
        .env("MOUNT_LAB", directory.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while !directory.path().join("ready").exists() {
        assert!(Instant::now() < deadline, "the server did not start");
        std::thread::sleep(Duration::from_millis(5));
    }
    let file = path.join("volumes/disk.raw");
    let open = OpenOptions::new().write(true).open(&file).unwrap();
    open.write_all_at(b"synced", 0).unwrap();
    open.sync_all().unwrap();
    server.kill().unwrap();
    server.wait().unwrap();
    assert_eq!(errno(File::open(&file)), libc::ENOTCONN);
    let listed = attempt("ls", &[text(&path)]);
    assert!(
        String::from_utf8_lossy(&listed.stderr).contains("not connected"),
        "{listed:?}"
    );

    let mounted = mount(open_store(&data), &path, MountOptions::default()).unwrap();
    assert_eq!(std::fs::read(&file).unwrap()[..6], *b"synced");
    assert_eq!(
        errno(open.write_at(b"late", 0)),
        libc::ENOTCONN,
        "the old file stays cut off"
    );
    mounted.unmount().unwrap();
}
