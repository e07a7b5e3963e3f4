//! Who may change a container: it goes whole or not at all. (What each operation needs, `tests/walk.rs`
//! walks.)

use crate::lab::{CONTAINER, Row, Server, delete, get, put};
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
