//! Who may do what: a collection moves whole or not at all, and nobody is shown somebody else's. (What each
//! method needs, `tests/walk.rs` walks.)

use crate::server::{Reply, Server, curl};
use access::identity::{Holder, HolderSort};
use blockstore::Who;
use serde_json::json;

/// A user of project `lab`, with the key that curl shows.
struct User<'a> {
    server: &'a Server,
    name: &'static str,
    pair: String,
}

impl<'a> User<'a> {
    fn made(server: &'a Server, name: &'static str) -> Self {
        let who = Who::server();
        let access = &server.access;
        // The second user finds the project there.
        let _ = access.project_create(&who, "lab", "", Default::default());
        access.user_create(&who, "lab", name, "/", false).unwrap();
        let key = access.key_create(&who, "lab", name).unwrap();
        Self {
            server,
            name,
            pair: format!("{}:{}", key.info.id, key.secret_key.reveal()),
        }
    }

    /// Gives these statements and nothing else.
    fn given(&self, statements: &serde_json::Value) {
        let document = json!({"Version": "2012-10-17", "Statement": statements}).to_string();
        let holder = Holder {
            sort: HolderSort::User,
            project: "lab",
            name: self.name,
        };
        self.server
            .access
            .inline_put(&Who::server(), holder, "given", &document)
            .unwrap();
    }

    fn allowed(&self, actions: &[&str]) {
        self.given(&json!([{"Effect": "Allow", "Action": actions, "Resource": "*"}]));
    }

    fn curl(&self, method: &str, path: &str, more: &[&str]) -> Reply {
        let mut words = vec!["-u", self.pair.as_str()];
        words.extend(more);
        curl(method, &self.server.url(path), &words)
    }
}

const LOCK: &str = r#"<D:lockinfo xmlns:D="DAV:"><D:lockscope><D:shared/></D:lockscope><D:locktype><D:write/></D:locktype></D:lockinfo>"#;

#[test]
fn one_member_that_is_denied_keeps_the_whole_collection() {
    let server = Server::start();
    let user = User::made(&server, "bob");
    user.allowed(&["s3:*"]);
    user.curl("MKCOL", "lab-tree", &[]).is(201);
    server.make("lab-tree/dir");
    server.put("lab-tree/dir/a", "1");
    server.put("lab-tree/dir/secret", "2");
    user.given(&json!([
        {"Effect": "Allow", "Action": "s3:*", "Resource": "*"},
        {"Effect": "Deny", "Action": ["s3:GetObject", "s3:DeleteObject"],
         "Resource": "arn:aws:s3:::lab-tree/dir/secret"},
    ]));
    let to = format!("Destination: {}", server.url("lab-tree/moved"));
    user.curl("MOVE", "lab-tree/dir", &["-H", &to]).is(403);
    user.curl("DELETE", "lab-tree/dir", &[]).is(403);
    user.curl("GET", "lab-tree/dir/secret", &[]).is(403);
    assert_eq!(server.get("lab-tree/dir/a"), "1");
    assert_eq!(server.get("lab-tree/dir/secret"), "2");
    // Whether something is there is told only to those who may read it.
    user.given(&json!([{"Effect": "Allow", "Action": "s3:GetObject",
        "Resource": "arn:aws:s3:::lab-tree/open/*"}]));
    for hidden in ["lab-tree/dir/a", "lab-tree/dir/nothing", "no-such-bucket/x"] {
        user.curl("GET", hidden, &[]).is(403);
    }
    user.curl("GET", "lab-tree/open/nothing", &[]).is(404);
}

#[test]
fn a_listing_of_buckets_and_a_lock_show_nobody_elses() {
    let server = Server::start();
    server.make("operators-own");
    let (ann, eve) = (User::made(&server, "carol"), User::made(&server, "eve"));
    ann.allowed(&["s3:*"]);
    eve.allowed(&["s3:*"]);
    ann.curl("MKCOL", "lab-shared", &[]).is(201);
    let listed = ann.curl("PROPFIND", "", &["-H", "Depth: 1"]).is(207);
    assert!(listed.body.contains("/dav/lab-shared/"), "{}", listed.body);
    assert!(!listed.body.contains("operators-own"), "{}", listed.body);
    server.put("lab-shared/k", "1");
    let exclusive = LOCK.replace("shared", "exclusive");
    let held = ann
        .curl("LOCK", "lab-shared/k", &["--data", &exclusive])
        .is(200);
    let token = held.header("lock-token").to_owned();
    // To know the token is not to hold the lock.
    let shown = format!("If: ({token})");
    eve.curl("PUT", "lab-shared/k", &["-H", &shown, "--data", "2"])
        .is(423);
    let end = format!("Lock-Token: {token}");
    eve.curl("UNLOCK", "lab-shared/k", &["-H", &end]).is(403);
    ann.curl("PUT", "lab-shared/k", &["-H", &shown, "--data", "2"])
        .is(204);
    ann.curl("UNLOCK", "lab-shared/k", &["-H", &end]).is(204);
    eve.curl("PUT", "lab-shared/k", &["--data", "3"]).is(204);
}
