//! Several projects at one door, and a disk that fills up.

use super::{REGION, Server};
use access::identity::{Holder, HolderSort, Quota};
use access::{Access, Begin, SessionSubject};
use blockstore::{Options, Who};
use serde_json::{Value, json};
use std::process::Command;
use std::time::Duration;

const ALL_OF_S3: &str = r#"{"Version":"2012-10-17","Statement":[
    {"Effect":"Allow","Action":"s3:*","Resource":"*"}]}"#;

/// Users `owner`, `stranger` and `small`, each in a project of their own with every right of S3, the
/// last with a quota of a mebibyte; and a session of the first.
fn people(access: &Access) -> Value {
    let who = Who::server();
    let mut users = serde_json::Map::new();
    for name in ["owner", "stranger", "small"] {
        let project = format!("project-{name}");
        let quota = Quota {
            bytes: (name == "small").then_some(1 << 20),
            ..Quota::default()
        };
        access.project_create(&who, &project, "", quota).unwrap();
        access
            .user_create(&who, &project, name, "/", false)
            .unwrap();
        let holder = Holder {
            sort: HolderSort::User,
            project: &project,
            name,
        };
        access.inline_put(&who, holder, "s3", ALL_OF_S3).unwrap();
        let key = access.key_create(&who, &project, name).unwrap();
        let shown = json!({
            "project": project, "id": key.info.id, "secret": key.secret_key.reveal(),
        });
        users.insert(name.into(), shown);
    }
    let begin = Begin {
        subject: SessionSubject::User {
            project: "project-owner".into(),
            name: "owner".into(),
        },
        lifetime: Duration::from_secs(900),
        policy: None,
        tags: Vec::new(),
    };
    let session = access.begin_session(&who, begin).unwrap();
    let shown = json!({
        "id": session.access_key,
        "secret": session.secret_key.reveal(),
        "token": session.token.reveal(),
    });
    users.insert("session".into(), shown);
    Value::Object(users)
}

#[test]
fn projects_share_what_their_policies_and_lists_say_and_nothing_else() {
    let server = Server::start();
    let users = people(&server.access);
    server.run_with("sharing.py", &[("S3_USERS", &users.to_string())]);
}

/// A file system of its own, so that it can be filled.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new(mib: u32) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={mib}m"), "infall-test"])
            .arg(directory.path())
            .status();
        assert!(
            mounted.unwrap().success(),
            "mounting a tmpfs needs root; run the tests as root"
        );
        Self(directory)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_is_told_as_507_and_what_is_stored_stays_readable() {
    let disk = SmallDisk::new(160);
    let options = Options {
        segment_bytes: 8 << 20,
        reserve_bytes: 40 << 20,
        collector: false,
        cache_bytes: 4 << 20,
        ..Options::default()
    };
    let server = Server::open(&disk.0.path().join("data"), options, REGION);
    server.run("full.py");
    drop(server);
}
