//! Programs that people use, on a bucket: cp, rsync, tar, git, sqlite3, fio.

use crate::lab::{Lab, noise, run, text, who};
use std::path::PathBuf;

fn lab() -> (Lab, PathBuf) {
    let lab = Lab::new();
    lab.store.bucket_create(&who(), "data").unwrap();
    let directory = lab.path("buckets/data");
    (lab, directory)
}

/// A tree with files of many sizes, modes and depths, beside the mount.
fn tree(lab: &Lab) -> PathBuf {
    let root = lab.beside("tree");
    for (number, length) in [
        0_usize,
        1,
        4096,
        8192,
        8193,
        70_000,
        131_072,
        131_073,
        1 << 20,
        3_000_001,
    ]
    .into_iter()
    .enumerate()
    {
        let directory = root.join(["", "a", "a/b", "c d", "ä/ö"][number % 5]);
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(
            directory.join(format!("file {number}")),
            noise(number as u64, length),
        )
        .unwrap();
    }
    std::fs::create_dir_all(root.join("empty")).unwrap();
    let script = root.join("a/run.sh");
    std::fs::write(&script, "#!/bin/sh\necho hello\n").unwrap();
    run("chmod", &["755", text(&script)]);
    run("touch", &["-d", "2004-05-06T07:08:09Z", text(&script)]);
    root
}

fn same(left: &std::path::Path, right: &std::path::Path) {
    run("diff", &["-r", text(left), text(right)]);
}

#[test]
fn cp_and_rm_work_recursively() {
    let (lab, data) = lab();
    let tree = tree(&lab);
    run(
        "cp",
        &[
            "-r",
            "--preserve=mode,timestamps",
            text(&tree),
            text(&data.join("copy")),
        ],
    );
    same(&tree, &data.join("copy"));
    let copied = data.join("copy/a/run.sh");
    assert_eq!(run(text(&copied), &[]), "hello\n");
    assert_eq!(
        run("stat", &["-c", "%Y %a", text(&copied)]),
        "1083827289 755\n"
    );
    run(
        "cp",
        &["-r", text(&data.join("copy")), text(&data.join("again"))],
    );
    same(&tree, &data.join("again"));
    run(
        "mv",
        &[text(&data.join("again")), text(&data.join("moved"))],
    );
    same(&tree, &data.join("moved"));
    run(
        "rm",
        &["-r", text(&data.join("copy")), text(&data.join("moved"))],
    );
    assert_eq!(std::fs::read_dir(&data).unwrap().count(), 0);
}

#[test]
fn rsync_has_nothing_left_to_do_the_second_time() {
    let (lab, data) = lab();
    let tree = tree(&lab);
    let source = format!("{}/", text(&tree));
    let target = data.join("synced");
    let sync = |more: &[&str]| {
        let arguments = [
            &["-rtp", "--itemize-changes"][..],
            more,
            &[&source, text(&target)],
        ]
        .concat();
        run("rsync", &arguments)
    };
    assert!(!sync(&[]).is_empty());
    same(&tree, &target);
    assert_eq!(sync(&[]), "", "by size and time");
    assert_eq!(sync(&["--checksum"]), "", "by content");
    std::fs::write(tree.join("a/b/new"), b"new").unwrap();
    std::fs::write(tree.join("c d/file 8"), noise(88, 1 << 20)).unwrap();
    std::fs::remove_file(tree.join("file 0")).unwrap();
    sync(&["--delete", "--inplace", "--no-whole-file", "--ignore-times"]);
    same(&tree, &target);
}

#[test]
fn tar_unpacks_and_packs_the_same() {
    let (lab, data) = lab();
    let tree = tree(&lab);
    let archive = lab.beside("tree.tar");
    run("tar", &["-C", text(&tree), "-cf", text(&archive), "."]);
    let target = data.join("unpacked");
    std::fs::create_dir(&target).unwrap();
    run("tar", &["-C", text(&target), "-xf", text(&archive)]);
    same(&tree, &target);
    run("tar", &["-C", text(&target), "-df", text(&archive)]);
    // An archive in the bucket, of what is in the bucket.
    run(
        "tar",
        &[
            "-C",
            text(&target),
            "-cf",
            text(&data.join("again.tar")),
            ".",
        ],
    );
    run(
        "tar",
        &["-C", text(&tree), "-df", text(&data.join("again.tar"))],
    );
}

#[test]
fn git_clones_commits_and_checks() {
    let (lab, data) = lab();
    let source = lab.beside("source");
    let git = |at: &std::path::Path, arguments: &[&str]| {
        let identity = [
            "-c",
            "user.name=a",
            "-c",
            "user.email=a@b",
            "-c",
            "safe.directory=*",
        ];
        run(
            "git",
            &[&["-C", text(at)][..], &identity, arguments].concat(),
        )
    };
    let tree = tree(&lab);
    run("cp", &["-r", text(&tree), text(&source)]);
    git(&source, &["init", "-q", "-b", "main"]);
    git(&source, &["add", "-A"]);
    git(&source, &["commit", "-qm", "first"]);
    run(
        "git",
        &[
            "-c",
            "safe.directory=*",
            "clone",
            "-q",
            text(&source),
            text(&data.join("clone")),
        ],
    );
    let clone = data.join("clone");
    assert_eq!(git(&clone, &["status", "--porcelain"]), "");
    std::fs::write(clone.join("added"), b"added").unwrap();
    std::fs::write(clone.join("a/run.sh"), b"#!/bin/sh\necho changed\n").unwrap();
    git(&clone, &["add", "-A"]);
    git(&clone, &["commit", "-qm", "second"]);
    git(&clone, &["gc", "-q"]);
    git(&clone, &["fsck", "--strict"]);
    git(&source, &["fetch", "-q", text(&clone), "main"]);
    assert_eq!(
        git(&source, &["rev-parse", "FETCH_HEAD"]),
        git(&clone, &["rev-parse", "HEAD"])
    );
    git(&clone, &["checkout", "-q", "HEAD~1"]);
    assert_eq!(git(&clone, &["status", "--porcelain"]), "");
    for file in ["a/run.sh", "c d/file 3"] {
        assert!(
            std::fs::read(clone.join(file)).unwrap() == std::fs::read(source.join(file)).unwrap()
        );
    }
}

#[test]
fn sqlite_keeps_its_database() {
    let (lab, data) = lab();
    let script = r#"
import sqlite3, sys
path = sys.argv[1]
for mode in ("DELETE", "TRUNCATE", "PERSIST"):
    db = sqlite3.connect(path)
    db.execute(f"pragma journal_mode={mode}")
    db.execute("create table if not exists t (id integer primary key, v blob)")
    for batch in range(20):
        with db:
            db.executemany("insert into t (v) values (randomblob(?))", [(n * 37 % 4000,) for n in range(50)])
    with db:
        db.execute("delete from t where id % 3 = 0")
    try:
        with db:
            db.execute("insert into t (v) values (zeroblob(100000))")
            raise KeyError
    except KeyError:
        pass
    second = sqlite3.connect(path)
    assert second.execute("select count(*) from t").fetchone() == db.execute("select count(*) from t").fetchone()
    second.close()
    db.execute("vacuum")
    assert db.execute("pragma integrity_check").fetchone() == ("ok",)
    db.close()
print("sound")
"#;
    let path = data.join("base.sqlite");
    assert_eq!(run("python3", &["-c", script, text(&path)]), "sound\n");
    // What another door reads is a sound database too.
    let (object, reader) = lab.store.object_open("data", "base.sqlite").unwrap();
    let mut bytes = vec![0; usize::try_from(object.length_bytes).unwrap()];
    reader.read_at(0, &mut bytes).unwrap();
    let copy = lab.beside("copy.sqlite");
    std::fs::write(&copy, bytes).unwrap();
    let check = "import sqlite3,sys; print(sqlite3.connect(sys.argv[1]).execute('pragma integrity_check').fetchone()[0])";
    assert_eq!(run("python3", &["-c", check, text(&copy)]), "ok\n");
}

#[test]
fn fio_verifies_what_it_wrote() {
    let (_lab, data) = lab();
    for (name, more) in [
        (
            "random",
            &[
                "--rw=randwrite",
                "--bsrange=512-64k",
                "--bs_unaligned=1",
                "--fsync=64",
            ][..],
        ),
        (
            "ordered",
            &["--rw=write", "--bs=128k", "--fallocate=posix"][..],
        ),
        (
            "threads",
            &[
                "--rw=randrw",
                "--bs=4k",
                "--numjobs=4",
                "--thread",
                "--fdatasync=200",
            ][..],
        ),
    ] {
        let file = data.join(name);
        let common = [
            "--size=16m",
            "--verify=crc32c",
            "--do_verify=1",
            "--verify_fatal=1",
            "--ioengine=psync",
            "--invalidate=0",
            "--output-format=terse",
        ];
        let name = format!("--name={name}");
        let place = format!("--directory={}", text(&data));
        run("fio", &[&[&*name, &*place][..], &common, more].concat());
        drop(file);
    }
}
