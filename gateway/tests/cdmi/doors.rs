//! One namespace, two doors: what S3 puts CDMI shows under a stable id, and the reverse; the same
//! bytes, and no byte copied.

use crate::lab::{CONTAINER, OBJECT, Server, delete, get, put};
use crate::tools::tool;
use serde_json::json;
use sha2::{Digest, Sha256};
use std::path::Path;
use std::process::Command;

impl Server {
    /// Runs the `aws` that people use against the S3 door.
    fn aws(&self, arguments: &[&str]) -> String {
        let ran = Command::new(tool("bin/aws"))
            .arg("--endpoint-url")
            .arg(format!("http://{}", self.address))
            .args(arguments)
            .env("AWS_ACCESS_KEY_ID", &self.credentials.access_key)
            .env("AWS_SECRET_ACCESS_KEY", &self.credentials.secret_key)
            .env("AWS_DEFAULT_REGION", "eu-central-1")
            .env_remove("AWS_SESSION_TOKEN")
            .env_remove("AWS_PROFILE")
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&ran.stderr).into_owned();
        assert!(ran.status.success(), "aws {arguments:?}: {told}");
        String::from_utf8_lossy(&ran.stdout).into_owned()
    }

    /// Bytes written to the value log since the store was opened: by clients, and by copies.
    fn written(&self) -> (u64, u64) {
        let stats = self.store.stats().unwrap();
        (stats.written_client_bytes, stats.written_copy_bytes)
    }
}

fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

fn noise(count: usize) -> Vec<u8> {
    // Not compressible, and the same in every run.
    let mut state = 0x9E37_79B9_u32;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()
    };
    (0..count.div_ceil(4))
        .flat_map(|_| next())
        .take(count)
        .collect()
}

#[test]
fn an_object_put_by_s3_is_read_by_cdmi_under_a_stable_id_and_the_reverse() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let bytes = noise(20 << 20);
    let sum = sha256(&bytes);
    std::fs::write(file("in"), &bytes).unwrap();

    // S3 to CDMI. The aws client uploads this in parts.
    server.aws(&["s3", "mb", "s3://shared"]);
    server.aws(&[
        "s3",
        "cp",
        "--metadata",
        "colour=blue",
        &file("in"),
        "s3://shared/dir/from-s3",
    ]);
    let before = server.written();
    let id = server.id("/cdmi/shared/dir/from-s3");
    let read = server.expect(get("the bytes by name", "/cdmi/shared/dir/from-s3"));
    assert_eq!(sha256(&read.body), sum);
    let read = server.expect(get("the bytes by id", &format!("/cdmi/cdmi_objectid/{id}")));
    assert_eq!(sha256(&read.body), sum);
    let json = server
        .expect(get("the value in JSON", &format!("/cdmi/cdmi_objectid/{id}")).accept(OBJECT))
        .json();
    {
        use base64::Engine;
        let value = json["value"].as_str().unwrap();
        let value = base64::engine::general_purpose::STANDARD
            .decode(value)
            .unwrap();
        assert_eq!(sha256(&value), sum);
    }
    assert_eq!(json["metadata"]["colour"], "blue");
    assert_eq!(json["metadata"]["cdmi_size"], (20 << 20).to_string());
    server.expect(
        get("its container", "/cdmi/shared/dir/")
            .accept(CONTAINER)
            .shows(json!({"children": ["from-s3"]})),
    );

    // The id stays, whoever changes what.
    server.expect(
        put("metadata by CDMI", "/cdmi/shared/dir/from-s3")
            .json(
                OBJECT,
                &json!({"metadata": {"colour": "red", "shape": ["round"]}}),
            )
            .is(204),
    );
    let head = server.aws(&[
        "s3api",
        "head-object",
        "--bucket",
        "shared",
        "--key",
        "dir/from-s3",
    ]);
    assert!(head.contains("\"colour\": \"red\""), "{head}");
    server.expect(
        put("moved by CDMI", "/cdmi/shared/dir/moved")
            .json(OBJECT, &json!({"move": "/cdmi/shared/dir/from-s3"}))
            .is(201)
            .shows(json!({"objectID": id, "metadata": {"shape": ["round"]}})),
    );
    server.expect(
        put("copied by CDMI", "/cdmi/shared/dir/copy")
            .json(OBJECT, &json!({"copy": "/cdmi/shared/dir/moved"}))
            .is(201),
    );
    assert_eq!(
        server.written(),
        before,
        "reading, moving, copying, describing wrote no payload"
    );
    assert_eq!(server.id("/cdmi/shared/dir/moved"), id);
    assert_ne!(server.id("/cdmi/shared/dir/copy"), id);
    server.aws(&["s3", "cp", "s3://shared/dir/moved", &file("out")]);
    assert_eq!(sha256(&std::fs::read(file("out")).unwrap()), sum);
    server.aws(&["s3", "cp", &file("in"), "s3://shared/dir/moved"]);
    assert_eq!(
        server.id("/cdmi/shared/dir/moved"),
        id,
        "S3 has overwritten it"
    );

    // CDMI to S3.
    server.expect(
        put("bytes by CDMI", "/cdmi/shared/dir/from-cdmi")
            .bytes("application/x-noise", bytes.clone())
            .is(201),
    );
    server.expect(
        put("metadata by CDMI", "/cdmi/shared/dir/from-cdmi")
            .json(OBJECT, &json!({"metadata": {"shape": "round"}}))
            .is(204),
    );
    let id = server.id("/cdmi/shared/dir/from-cdmi");
    let before = server.written();
    server.aws(&["s3", "cp", "s3://shared/dir/from-cdmi", &file("out")]);
    assert_eq!(sha256(&std::fs::read(file("out")).unwrap()), sum);
    let head = server.aws(&[
        "s3api",
        "head-object",
        "--bucket",
        "shared",
        "--key",
        "dir/from-cdmi",
        "--checksum-mode",
        "ENABLED",
    ]);
    let head: serde_json::Value = serde_json::from_str(&head).unwrap();
    assert_eq!(head["Metadata"]["shape"], "round");
    assert_eq!(head["ContentType"], "application/x-noise");
    {
        use base64::Engine;
        let shown = base64::engine::general_purpose::STANDARD.encode(Sha256::digest(&bytes));
        assert_eq!(
            head["ChecksumSHA256"],
            shown.as_str(),
            "S3 shows the checksum CDMI has computed"
        );
    }
    assert_eq!(server.written(), before, "reading wrote no payload");
    server.aws(&["s3", "mv", "s3://shared/dir/copy", "s3://shared/dir/again"]);
    server.expect(
        get("what S3 has renamed", "/cdmi/shared/dir/?children")
            .accept(CONTAINER)
            .shows(json!({"children": ["again", "from-cdmi", "moved"]})),
    );
    assert_eq!(server.id("/cdmi/shared/dir/from-cdmi"), id);
    server.expect(delete("removed by CDMI", &format!("/cdmi/cdmi_objectid/{id}")).is(204));
    assert!(
        !server
            .aws(&["s3", "ls", "s3://shared/dir/"])
            .contains("from-cdmi")
    );
    assert!(Path::new(&file("out")).exists());
}

#[test]
fn containers_made_by_one_door_are_containers_of_the_other() {
    let server = Server::start();
    server.walk(vec![
        put("a bucket by CDMI", "/cdmi/made-by-cdmi/").is(201),
        put("a directory in it", "/cdmi/made-by-cdmi/dir/")
            .json(CONTAINER, &json!({"metadata": {"a": "1"}}))
            .is(201),
    ]);
    assert!(server.aws(&["s3", "ls"]).contains("made-by-cdmi"));
    assert!(
        server
            .aws(&["s3", "ls", "s3://made-by-cdmi/"])
            .contains("PRE dir/")
    );
    let head = server.aws(&[
        "s3api",
        "head-object",
        "--bucket",
        "made-by-cdmi",
        "--key",
        "dir/",
    ]);
    assert!(head.contains("\"a\": \"1\""), "{head}");
    server.aws(&[
        "s3api",
        "put-object",
        "--bucket",
        "made-by-cdmi",
        "--key",
        "deep/er/",
    ]);
    server.walk(vec![
        get("a directory by S3", "/cdmi/made-by-cdmi/?children")
            .accept(CONTAINER)
            .shows(json!({"children": ["deep/", "dir/"]})),
        get("with the one in it", "/cdmi/made-by-cdmi/deep/er/")
            .accept(CONTAINER)
            .shows(json!({"children": [], "objectName": "er/"})),
    ]);
}

#[test]
fn a_value_that_s3_has_overwritten_is_bytes_again() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("in");
    std::fs::write(&file, b"\xff\xfe").unwrap();
    server.walk(vec![
        put("a bucket", "/cdmi/box/").is(201),
        put("text by CDMI", "/cdmi/box/k")
            .json(OBJECT, &json!({"value": "text"}))
            .is(201),
        get("is text", "/cdmi/box/k?valuetransferencoding")
            .accept(OBJECT)
            .shows(json!({"valuetransferencoding": "utf-8"})),
    ]);
    server.aws(&["s3", "cp", file.to_str().unwrap(), "s3://box/k"]);
    server.expect(
        get("what S3 put is bytes", "/cdmi/box/k")
            .accept(OBJECT)
            .shows(json!({"valuetransferencoding": "base64", "value": "//4="})),
    );
}

#[test]
fn exports_show_the_bucket_and_the_holders_of_a_volume() {
    let server = Server::start();
    let who = blockstore::Who::server();
    server
        .store
        .volume_create(
            &who,
            "disk",
            Some(16 << 20),
            &blockstore::volume::Origin::Empty,
        )
        .unwrap();
    let volume = server.store.volume_open("disk").unwrap();
    server.walk(vec![
        put("a bucket", "/cdmi/box/").is(201),
        get("13: the bucket in S3", "/cdmi/box/?exports")
            .accept(CONTAINER)
            .shows(json!({"exports": {"Network/S3": {"identifier": "box", "domain": "…"}}})),
        get("2.0.0: exports have a type", "/cdmi/2.0.0/box/?exports")
            .accept(CONTAINER)
            .shows(json!({"exports": {"s3": {"type": "S3", "identifier": "box"}}})),
        get("volumes are listed", "/cdmi/cdmi_volumes/")
            .accept(CONTAINER)
            .shows(json!({"children": ["disk/"], "objectName": "cdmi_volumes/"})),
        get(
            "13.2: a volume and nobody at it",
            "/cdmi/cdmi_volumes/disk/",
        )
        .accept(CONTAINER)
        .shows(json!({
            "objectName": "disk/", "metadata": {"cdmi_size": "16777216"},
            "exports": {"OCCI/NBD": {"identifier": "…", "name": "disk", "permissions": []}},
        })),
    ]);
    let held = volume.writer("instance web1").unwrap();
    let id = server.id("/cdmi/cdmi_volumes/disk/");
    server.walk(vec![
        get("13.2: who holds it", "/cdmi/cdmi_volumes/disk/?exports").accept(CONTAINER).shows(json!({"exports": {"OCCI/NBD": {"identifier": id, "permissions": ["instance web1"]}}})),
        get("a volume by its id", &format!("/cdmi/cdmi_objectid/{id}")).accept(CONTAINER).shows(json!({"objectName": "disk/"})),
        get("a volume that is not there", "/cdmi/cdmi_volumes/none/").accept(CONTAINER).is(404),
        put("volumes are not made here", "/cdmi/cdmi_volumes/other/").json(CONTAINER, &json!({})).is(403),
        delete("nor removed", "/cdmi/cdmi_volumes/disk/").is(403),
    ]);
    drop(held);
}
