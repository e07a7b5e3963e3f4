//! Who may: every operation needs its action, and without it nothing is told and nothing changes.

use crate::lab::{
    CAPABILITY, CONTAINER, OBJECT, Row, Server, VERSION, delete, get, patch, post, put,
};
use access::identity::{Holder, HolderSort};
use blockstore::Who;
use serde_json::json;

/// A user of a project, and how they show who they are.
struct User<'a> {
    server: &'a Server,
    name: &'a str,
    bearer: String,
}

impl<'a> User<'a> {
    fn of(server: &'a Server, name: &'a str) -> Self {
        let who = Who::server();
        server
            .access
            .user_create(&who, "root", name, "/", false)
            .unwrap();
        let key = server.access.key_create(&who, "root", name).unwrap();
        let bearer = format!("Bearer {}:{}", key.info.id, key.secret_key.reveal());
        Self {
            server,
            name,
            bearer,
        }
    }

    /// What they may from now on: pairs of an action and a resource.
    fn may(&self, grants: &[(&str, &str)]) {
        let statements: Vec<_> = grants
            .iter()
            .map(|(action, resource)| json!({"Effect": "Allow", "Action": action, "Resource": resource}))
            .collect();
        let statements = match statements.is_empty() {
            // A policy has a statement; this one grants nothing that is tried.
            true => {
                vec![json!({"Effect": "Allow", "Action": "sts:GetCallerIdentity", "Resource": "*"})]
            }
            false => statements,
        };
        let document = json!({"Version": "2012-10-17", "Statement": statements}).to_string();
        let holder = Holder {
            sort: HolderSort::User,
            project: "root",
            name: self.name,
        };
        self.server
            .access
            .inline_put(&Who::server(), holder, "own", &document)
            .unwrap();
    }

    fn asks(&self, row: Row) -> u16 {
        let row = row.anonymous().says("authorization", &self.bearer);
        self.server.ask(&row).status.as_u16()
    }
}

const B: &str = "arn:aws:s3:::box";
const K: &str = "arn:aws:s3:::box/*";
const LIST: (&str, &str) = ("s3:ListBucket", B);
const READ: (&str, &str) = ("s3:GetObject", K);
const WRITE: (&str, &str) = ("s3:PutObject", K);
const REMOVE: (&str, &str) = ("s3:DeleteObject", K);

#[test]
fn every_operation_is_refused_without_its_action_and_done_with_it() {
    let server = Server::start();
    server.walk(vec![
        put("a bucket", "/cdmi/box/").is(201),
        put("a container", "/cdmi/box/in/").is(201),
        put("an object", "/cdmi/box/k")
            .json(OBJECT, &json!({"value": "secret"}))
            .is(201),
        put("another", "/cdmi/box/in/k")
            .json(OBJECT, &json!({"value": "secret"}))
            .is(201),
        put("a snapshot", "/cdmi/box/")
            .json(CONTAINER, &json!({"snapshot": "one"}))
            .is(204),
    ]);
    let who = Who::server();
    let empty = blockstore::volume::Origin::Empty;
    server
        .store
        .volume_create(&who, "disk", Some(16 << 20), &empty)
        .unwrap();
    let id = server.id("/cdmi/box/k");
    let user = User::of(&server, "ada");
    let object = |body: serde_json::Value| move |row: Row| row.json(OBJECT, &body);
    let container = |body: serde_json::Value| move |row: Row| row.json(CONTAINER, &body);
    let value = object(json!({"value": "x"}));
    #[allow(
        clippy::type_complexity,
        reason = "a table: the row, its actions, its status"
    )]
    let rows: Vec<(Row, &[(&str, &str)], u16)> = vec![
        (
            get("list the root", "/cdmi/").accept(CONTAINER),
            &[("s3:ListAllMyBuckets", "*")],
            200,
        ),
        (
            get("list a bucket", "/cdmi/box/").accept(CONTAINER),
            &[LIST],
            200,
        ),
        (
            get("list a container", "/cdmi/box/in/").accept(CONTAINER),
            &[LIST],
            200,
        ),
        (
            get("list snapshots", "/cdmi/box/cdmi_snapshots/").accept(CONTAINER),
            &[LIST],
            200,
        ),
        (
            get("list in a snapshot", "/cdmi/box/cdmi_snapshots/one/in/").accept(CONTAINER),
            &[LIST],
            200,
        ),
        (get("read", "/cdmi/box/k").accept(OBJECT), &[READ], 200),
        (
            get("read metadata", "/cdmi/box/k?metadata").accept(OBJECT),
            &[READ],
            200,
        ),
        (get("read bytes", "/cdmi/box/k"), &[READ], 200),
        (
            get("read by id", &format!("/cdmi/cdmi_objectid/{id}")),
            &[READ],
            200,
        ),
        (
            get("read in a snapshot", "/cdmi/box/cdmi_snapshots/one/k"),
            &[READ],
            200,
        ),
        (value(put("make", "/cdmi/box/new")), &[WRITE], 201),
        (
            put("make of bytes", "/cdmi/box/new2").bytes("text/plain", *b"x"),
            &[WRITE],
            201,
        ),
        (value(post("post", "/cdmi/box/")), &[WRITE], 201),
        (
            post("post bytes", "/cdmi/box/").bytes("text/plain", *b"x"),
            &[WRITE],
            201,
        ),
        (value(put("replace", "/cdmi/box/new")), &[WRITE], 204),
        (
            object(json!({"metadata": {}}))(put("describe", "/cdmi/box/new")),
            &[WRITE],
            204,
        ),
        (
            value(put("write a part", "/cdmi/box/new?value:0-0")),
            &[WRITE],
            204,
        ),
        (
            put("write a part of bytes", "/cdmi/box/new?value:0-0").bytes("text/plain", *b"x"),
            &[WRITE],
            204,
        ),
        (
            object(json!({"metadata": {"a": "1"}}))(patch("patch", "/cdmi/2.0.0/box/new")),
            &[WRITE],
            204,
        ),
        (
            object(json!({"reference": "/box/k"}))(put("refer", "/cdmi/box/ref")),
            &[WRITE],
            201,
        ),
        (
            object(json!({"copy": "/box/k"}))(put("copy", "/cdmi/box/copy")),
            &[READ, WRITE],
            201,
        ),
        (
            object(json!({"copy": "/box/cdmi_snapshots/one/k"}))(put(
                "copy out of a snapshot",
                "/cdmi/box/copy2",
            )),
            &[READ, WRITE],
            201,
        ),
        (
            object(json!({"move": "/box/copy"}))(put("move", "/cdmi/box/moved")),
            &[READ, WRITE, REMOVE],
            201,
        ),
        (
            container(json!({}))(put("make a container", "/cdmi/box/made/")),
            &[WRITE],
            201,
        ),
        (
            container(json!({"metadata": {"a": "1"}}))(put(
                "describe a container",
                "/cdmi/box/in/",
            )),
            &[WRITE],
            204,
        ),
        (
            container(json!({"metadata": {"a": "1"}}))(put("describe a bucket", "/cdmi/box/")),
            &[("s3:PutBucketTagging", B)],
            204,
        ),
        (
            container(json!({"copy": "/box/in/"}))(put("copy a container", "/cdmi/box/in2/")),
            &[LIST, READ, WRITE],
            201,
        ),
        (
            container(json!({"move": "/box/in2/"}))(put("move a container", "/cdmi/box/in3/")),
            &[LIST, READ, WRITE, REMOVE],
            201,
        ),
        (
            container(json!({"snapshot": "two"}))(put("take a snapshot", "/cdmi/box/")),
            &[("snapshot:Create", B)],
            204,
        ),
        (
            delete("delete a snapshot", "/cdmi/box/cdmi_snapshots/two/"),
            &[("snapshot:Delete", B)],
            204,
        ),
        (delete("delete", "/cdmi/box/new"), &[REMOVE], 204),
        (
            delete("delete a container", "/cdmi/box/in3/"),
            &[LIST, REMOVE],
            204,
        ),
        (
            put("make a bucket", "/cdmi/other/"),
            &[("s3:CreateBucket", "arn:aws:s3:::other")],
            201,
        ),
        (
            delete("delete a bucket", "/cdmi/other/"),
            &[("s3:DeleteBucket", "arn:aws:s3:::other")],
            204,
        ),
        (
            get("list volumes", "/cdmi/cdmi_volumes/").accept(CONTAINER),
            &[("volume:List", "*")],
            200,
        ),
        (
            get("read a volume", "/cdmi/cdmi_volumes/disk/").accept(CONTAINER),
            &[("volume:Describe", "arn:infall:volume:::disk")],
            200,
        ),
    ];
    let mut wrong = Vec::new();
    for (row, grants, status) in rows {
        // Without any of its actions, then with all but each one, then with all.
        for left_out in 0..grants.len() {
            let fewer: Vec<_> = grants
                .iter()
                .enumerate()
                .filter(|(n, _)| *n != left_out)
                .map(|(_, grant)| *grant)
                .collect();
            user.may(&fewer);
            let told = user.asks(row.clone());
            if told != 403 {
                wrong.push(format!(
                    "{}: {told} without {}",
                    row.claim(),
                    grants[left_out].0
                ));
            }
        }
        user.may(grants);
        let told = user.asks(row.clone());
        if told != status {
            wrong.push(format!(
                "{}: {told} instead of {status} with {grants:?}",
                row.claim()
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    user.may(&[]);
    assert_eq!(
        user.asks(
            get("capabilities are for everybody", "/cdmi/cdmi_capabilities/")
                .accept(CAPABILITY)
                .says(VERSION, "1.1.1")
        ),
        200
    );
}

#[test]
fn a_container_goes_whole_or_not_at_all() {
    let server = Server::start();
    server.walk(vec![
        put("a bucket", "/cdmi/box/").is(201),
        put("a container", "/cdmi/box/in/").is(201),
        put("one", "/cdmi/box/in/a")
            .bytes("text/plain", *b"x")
            .is(201),
        put("another", "/cdmi/box/in/z")
            .bytes("text/plain", *b"x")
            .is(201),
    ]);
    let user = User::of(&server, "bob");
    let all_but_the_last: &[(&str, &str)] = &[
        ("s3:*", B),
        ("s3:GetObject", K),
        ("s3:PutObject", K),
        ("s3:DeleteObject", "arn:aws:s3:::box/in/a"),
        ("s3:DeleteObject", "arn:aws:s3:::box/in/"),
    ];
    user.may(all_but_the_last);
    assert_eq!(user.asks(delete("a container", "/cdmi/box/in/")), 403);
    assert_eq!(user.asks(delete("its bucket", "/cdmi/box/")), 403);
    let moved = put("moved", "/cdmi/box/out/").json(CONTAINER, &json!({"move": "/box/in/"}));
    assert_eq!(user.asks(moved), 403);
    server.expect(
        get("all of it is there", "/cdmi/box/in/?children")
            .accept(CONTAINER)
            .shows(json!({"children": ["a", "z"]})),
    );
}
