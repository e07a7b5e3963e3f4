//! What a mount refuses, and with which errno: the caller's rights, quotas, a full disk, locks.

use crate::files::wait_for_end;
use crate::lab::{Lab, attempt, errno, mount, noise, run, text, who};
use access::identity::{Holder, HolderSort, Quota};
use access::{Access, Caller, Credentials, Origin, Principal};
use blockstore::object::{BucketConfig, ObjectLock};
use blockstore::{Options, Store, Who};
use fuse::mount::{MountOptions, Mounted};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// A mount of the lab's store as the user ada of project sea, with this policy.
struct Guest {
    access: Access,
    mounted: Option<Mounted>,
    path: PathBuf,
}

impl Guest {
    fn new(lab: &Lab, quota: Quota, policy: &str) -> Self {
        let access = Access::open(lab.store.clone(), Credentials::generate()).unwrap();
        access.project_create(&who(), "sea", "", quota).unwrap();
        access
            .user_create(&who(), "sea", "ada", "/", false)
            .unwrap();
        let path = lab.beside("guest");
        std::fs::create_dir(&path).unwrap();
        let mut guest = Self {
            access,
            mounted: None,
            path,
        };
        guest.grant(policy);
        guest.mounted = Some(guest.mount(&lab.store));
        guest
    }

    fn grant(&self, policy: &str) {
        let holder = Holder {
            sort: HolderSort::User,
            project: "sea",
            name: "ada",
        };
        self.access
            .inline_put(&who(), holder, "all", policy)
            .unwrap();
    }

    fn mount(&self, store: &Store) -> Mounted {
        let caller = Caller {
            principal: Principal::User {
                name: "ada".into(),
                project: "sea".into(),
            },
            origin: Origin::default(),
            request: "mount-1".into(),
        };
        let options = MountOptions::default();
        fuse::mount::mount(
            store.clone(),
            self.access.clone(),
            caller,
            &self.path,
            options,
        )
        .unwrap()
    }
}

fn sea() -> Who {
    Who {
        project: "sea".into(),
        ..who()
    }
}

fn policy(statements: &str) -> String {
    format!(r#"{{"Version":"2012-10-17","Statement":[{statements}]}}"#)
}

fn allow(actions: &str, resource: &str) -> String {
    format!(r#"{{"Effect":"Allow","Action":[{actions}],"Resource":"{resource}"}}"#)
}

#[test]
fn a_mount_may_what_its_caller_may() {
    let lab = Lab::new();
    lab.store.bucket_create(&sea(), "open").unwrap();
    lab.store.bucket_create(&sea(), "shut").unwrap();
    for key in ["read/key", "write/key", "none/key"] {
        lab.put("open", key, b"bytes");
        lab.put("shut", key, b"bytes");
    }
    lab.volume("disk", 1 << 20);
    let everything = [
        allow(r#""s3:ListBucket""#, "arn:aws:s3:::open"),
        allow(r#""s3:GetObject""#, "arn:aws:s3:::open/read/*"),
        allow(
            r#""s3:GetObject","s3:PutObject","s3:DeleteObject""#,
            "arn:aws:s3:::open/write/*",
        ),
    ];
    let guest = Guest::new(&lab, Quota::default(), &policy(&everything.join(",")));
    let open = guest.path.join("buckets/open");
    assert_eq!(std::fs::read(open.join("read/key")).unwrap(), b"bytes");
    assert_eq!(std::fs::read(open.join("write/key")).unwrap(), b"bytes");
    std::fs::write(open.join("write/new"), b"new").unwrap();
    std::fs::rename(open.join("write/new"), open.join("write/newer")).unwrap();
    std::fs::remove_file(open.join("write/newer")).unwrap();
    let shut = guest.path.join("buckets/shut");
    let disk = guest.path.join("volumes/disk.raw");
    let refused: [(&str, std::io::Result<()>); 13] = [
        ("read", File::open(open.join("none/key")).map(drop)),
        (
            "write",
            OpenOptions::new()
                .write(true)
                .open(open.join("read/key"))
                .map(drop),
        ),
        ("create", File::create(open.join("read/new")).map(drop)),
        ("unlink", std::fs::remove_file(open.join("read/key"))),
        ("mkdir", std::fs::create_dir(open.join("made"))),
        ("rmdir", std::fs::remove_dir(open.join("read"))),
        (
            "rename away",
            std::fs::rename(open.join("read/key"), open.join("write/moved")),
        ),
        (
            "rename to",
            std::fs::rename(open.join("write/key"), open.join("none/moved")),
        ),
        ("list", std::fs::read_dir(&shut).map(drop)),
        ("look up", shut.join("read").metadata().map(drop)),
        (
            "make a bucket",
            std::fs::create_dir(guest.path.join("buckets/mine")),
        ),
        ("volume", disk.metadata().map(drop)),
        (
            "list buckets",
            std::fs::read_dir(guest.path.join("buckets")).map(drop),
        ),
    ];
    for (what, result) in refused {
        assert_eq!(errno(result), libc::EACCES, "{what}");
    }
    // A grant taken back ends soon, also for a file that is open.
    let mut file = OpenOptions::new()
        .append(true)
        .open(open.join("write/key"))
        .unwrap();
    guest.grant(&policy(&allow(r#""s3:ListBucket""#, "arn:aws:s3:::open")));
    std::thread::sleep(std::time::Duration::from_millis(2200));
    file.write_all(b" more").unwrap();
    assert_eq!(errno(file.sync_all()), libc::EACCES);
    drop(file);
    assert_eq!(errno(File::open(open.join("write/key"))), libc::EACCES);
    assert_eq!(
        lab.store
            .object_head("open", "write/key")
            .unwrap()
            .length_bytes,
        5
    );
}

#[test]
fn a_full_project_is_edquot_at_the_write_and_the_old_object_stays() {
    let lab = Lab::new();
    let quota = Quota {
        bytes: Some(300_000),
        ..Quota::default()
    };
    let guest = Guest::new(&lab, quota, &policy(&allow(r#""s3:*""#, "*")));
    lab.store.bucket_create(&sea(), "data").unwrap();
    let data = guest.path.join("buckets/data");
    std::fs::write(data.join("key"), noise(1, 200_000)).unwrap();
    let mut file = OpenOptions::new()
        .append(true)
        .open(data.join("key"))
        .unwrap();
    // The write itself says so, and lengthening without a byte, too.
    assert_eq!(errno(file.write_all(&noise(2, 200_000))), libc::EDQUOT);
    assert_eq!(errno(file.set_len(300_001)), libc::EDQUOT);
    file.set_len(200_000).unwrap();
    drop(file);
    wait_for_end(&lab, "key");
    assert!(std::fs::read(data.join("key")).unwrap() == noise(1, 200_000));
    std::fs::write(data.join("small"), noise(3, 50_000)).unwrap();
    std::fs::remove_file(data.join("key")).unwrap();
    std::fs::write(data.join("key"), noise(4, 200_000)).unwrap();
}

/// A file system of its own with little room.
struct Small(PathBuf);

impl Small {
    fn new(path: PathBuf, size: &str) -> Self {
        std::fs::create_dir(&path).unwrap();
        let options = format!("size={size}");
        run(
            "mount",
            &["-t", "tmpfs", "-o", &options, "tmpfs", text(&path)],
        );
        Self(path)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        drop(attempt("umount", &["-l", text(&self.0)]));
    }
}

#[test]
fn a_full_disk_is_enospc_and_removing_makes_room() {
    let place = tempfile::tempdir().unwrap();
    let small = Small::new(place.path().join("small"), "96m");
    let options = Options {
        segment_bytes: 4 << 20,
        reserve_bytes: 16 << 20,
        ..Options::default()
    };
    let store = Store::open(&small.0.join("data"), options).unwrap();
    store.bucket_create(&who(), "data").unwrap();
    let path = place.path().join("mnt");
    std::fs::create_dir(&path).unwrap();
    let mounted = mount(store.clone(), &path, MountOptions::default()).unwrap();
    let data = path.join("buckets/data");
    std::fs::write(data.join("kept"), noise(1, 1 << 20)).unwrap();
    let fill = || -> std::io::Result<()> {
        let mut file = File::create(data.join("large"))?;
        for seed in 0..200 {
            file.write_all(&noise(seed, 1 << 20))?;
        }
        file.sync_all()
    };
    assert_eq!(errno(fill()), libc::ENOSPC);
    assert!(std::fs::read(data.join("kept")).unwrap() == noise(1, 1 << 20));
    if data.join("large").exists() {
        std::fs::remove_file(data.join("large")).unwrap();
    }
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while let Err(error) = std::fs::write(data.join("again"), noise(2, 3 << 20)) {
        assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
        assert!(std::time::Instant::now() < deadline, "no room comes back");
        store.collect().unwrap();
    }
    assert!(std::fs::read(data.join("again")).unwrap() == noise(2, 3 << 20));
    mounted.unmount().unwrap();
    drop(store);
}

#[test]
fn a_versioned_bucket_keeps_what_files_replace() {
    let lab = Lab::new();
    let config = BucketConfig {
        lock: Some(ObjectLock::default()),
        ..BucketConfig::default()
    };
    lab.store
        .bucket_create_with(&who(), "kept", config)
        .unwrap();
    let key = lab.path("buckets/kept/key");
    let versions = |lab: &Lab| {
        let query = blockstore::object::VersionQuery {
            max: 100,
            ..Default::default()
        };
        lab.store.object_versions("kept", &query).unwrap().versions
    };
    std::fs::write(&key, b"one").unwrap();
    let mut file = OpenOptions::new().append(true).open(&key).unwrap();
    file.write_all(b" two").unwrap();
    file.sync_all().unwrap();
    file.sync_all().unwrap();
    file.write_all(b" three").unwrap();
    drop(file);
    assert_eq!(versions(&lab).len(), 3, "each publication is a version");
    std::fs::remove_file(&key).unwrap();
    let all = versions(&lab);
    assert_eq!((all.len(), all[0].marker), (4, true), "removing hides");
    std::fs::write(&key, b"again").unwrap();
    std::fs::rename(&key, lab.path("buckets/kept/other")).unwrap();
    assert_eq!(
        std::fs::read(lab.path("buckets/kept/other")).unwrap(),
        b"again"
    );
    let all = versions(&lab);
    let oldest = all.iter().rfind(|version| version.key == "key");
    assert_eq!(oldest.unwrap().length_bytes, 3, "and nothing is lost");
    assert!(Path::new(&key).metadata().is_err());
}
