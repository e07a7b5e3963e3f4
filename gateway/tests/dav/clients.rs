//! The clients that people use.

use crate::server::{Server, run};
use std::io::Write;
use std::process::{Command, Stdio};

const SUITES: [&str; 5] = ["basic", "copymove", "props", "locks", "http"];

#[test]
fn litmus_passes_every_suite() {
    let server = Server::start();
    server.make("litmus-bucket");
    let scratch = tempfile::tempdir().unwrap();
    let text = run(Command::new("litmus")
        .arg("--keep-going")
        .arg(server.url("litmus-bucket/"))
        .arg(&server.credentials.access_key)
        .arg(&server.credentials.secret_key)
        // litmus writes its trace where it stands.
        .current_dir(scratch.path()));
    println!("{text}");
    for suite in SUITES {
        let summary = text
            .lines()
            .find(|line| line.contains(&format!("summary for `{suite}'")));
        let summary = summary.unwrap_or_else(|| panic!("{suite} did not run"));
        assert!(summary.contains(" 0 failed. 100.0%"), "{summary}");
    }
    // One warning stays: the HTTP library cuts a fragment off before anybody could refuse it.
    let warnings = text.lines().filter(|line| line.contains("WARNING"));
    let others: Vec<&str> = warnings
        .filter(|line| !line.contains("delete_fragment"))
        .collect();
    assert!(!text.contains("FAIL") && others.is_empty(), "{others:?}");
}

#[test]
fn rclone_copies_checks_moves_and_purges() {
    let server = Server::start();
    server.make("tree");
    let scratch = tempfile::tempdir().unwrap();
    let (there, back) = (scratch.path().join("there"), scratch.path().join("back"));
    std::fs::create_dir_all(there.join("a/b c")).unwrap();
    std::fs::write(there.join("a/b c/é&<.txt"), "odd name").unwrap();
    std::fs::write(there.join("empty"), "").unwrap();
    let large: Vec<u8> = (0..3_000_007_u32).map(|n| (n % 251) as u8).collect();
    std::fs::write(there.join("large"), &large).unwrap();
    // An empty one: rclone would say that there is none.
    std::fs::write(scratch.path().join("rclone.conf"), "").unwrap();
    let hidden = run(Command::new("rclone").args(["obscure", &server.credentials.secret_key]));
    let rclone = |words: &[&str]| {
        run(Command::new("rclone")
            .env("RCLONE_CONFIG", scratch.path().join("rclone.conf"))
            .env("RCLONE_CONFIG_DOOR_TYPE", "webdav")
            .env("RCLONE_CONFIG_DOOR_URL", server.url(""))
            .env("RCLONE_CONFIG_DOOR_VENDOR", "other")
            .env("RCLONE_CONFIG_DOOR_USER", &server.credentials.access_key)
            .env("RCLONE_CONFIG_DOOR_PASS", hidden.trim())
            .args(words))
    };
    rclone(&["copy", there.to_str().unwrap(), "door:tree/deep/er"]);
    rclone(&[
        "check",
        "--download",
        there.to_str().unwrap(),
        "door:tree/deep/er",
    ]);
    let (object, body) = server.store.object_open("tree", "deep/er/large").unwrap();
    let mut bytes = vec![0; large.len()];
    body.read_at(0, &mut bytes).unwrap();
    assert!(bytes == large, "S3 would read what rclone wrote");
    assert_eq!(object.length_bytes, large.len() as u64);
    rclone(&["moveto", "door:tree/deep/er", "door:tree/elsewhere"]);
    assert!(server.store.object_head("tree", "deep/er/large").is_err());
    rclone(&["copy", "door:tree/elsewhere", back.to_str().unwrap()]);
    assert_eq!(
        std::fs::read_to_string(back.join("a/b c/é&<.txt")).unwrap(),
        "odd name"
    );
    rclone(&["purge", "door:tree/elsewhere"]);
    let listed = rclone(&["lsf", "-R", "door:tree"]);
    assert_eq!(listed, "deep/\n");
}

#[test]
fn cadaver_puts_locks_and_gets() {
    let server = Server::start();
    server.make("drawer");
    let scratch = tempfile::tempdir().unwrap();
    std::fs::write(scratch.path().join("letter.txt"), "dear reader").unwrap();
    let netrc = format!(
        "machine 127.0.0.1\nlogin {}\npassword {}\n",
        server.credentials.access_key, server.credentials.secret_key
    );
    std::fs::write(scratch.path().join(".netrc"), netrc).unwrap();
    let mut cadaver = Command::new("cadaver")
        .arg(server.url("drawer/"))
        .env("HOME", scratch.path())
        .current_dir(scratch.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("cadaver is missing ({error}). Run scripts/packages"));
    let script = "mkcol sub\ncd sub\nput letter.txt\nlock letter.txt\nls\npropset letter.txt \
                  colour red\npropget letter.txt colour\nunlock letter.txt\ncopy letter.txt \
                  ../twin.txt\nget letter.txt back.txt\nquit\n";
    cadaver
        .stdin
        .take()
        .unwrap()
        .write_all(script.as_bytes())
        .unwrap();
    let ran = cadaver.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&ran.stdout).into_owned();
    assert!(ran.status.success(), "{text}");
    assert!(text.contains("red"), "{text}");
    assert!(!text.contains("failed"), "{text}");
    let back = std::fs::read_to_string(scratch.path().join("back.txt")).unwrap();
    assert_eq!(back, "dear reader");
    assert_eq!(
        server
            .store
            .object_head("drawer", "twin.txt")
            .unwrap()
            .length_bytes,
        11
    );
}
