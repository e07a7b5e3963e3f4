//! The WebDAV door, third-party copies by HTTP among it: the server is its own other server, by another
//! name.

use super::client::{Answer, Ask, Way};
use super::steps::{Site, Step, Try};

const B: &str = "arn:aws:s3:::box";
const K: &str = "arn:aws:s3:::box/k";
const NEW: &str = "arn:aws:s3:::box/new";
const FROM: &str = "arn:aws:s3:::box/from";
const LOCK: &str = r#"<D:lockinfo xmlns:D="DAV:"><D:lockscope><D:exclusive/></D:lockscope><D:locktype><D:write/></D:locktype></D:lockinfo>"#;
const SET: &str = r#"<D:propertyupdate xmlns:D="DAV:"><D:set><D:prop><x xmlns="urn:x">1</x></D:prop></D:set></D:propertyupdate>"#;

/// WebDAV says 403 and why.
pub(crate) fn refused(answer: &Answer) -> bool {
    answer.status == 403 && (answer.body.contains("may not") || answer.body.is_empty())
}

fn ask(method: &str, path: &str) -> Ask {
    Ask::new(Way::Bearer, method, &format!("/dav{path}"))
}

/// A bucket with two objects and a collection.
pub(crate) fn prepare(site: &Site) {
    site.root(&ask("MKCOL", "/box"));
    site.root(&ask("MKCOL", "/box/dir"));
    put(site, "/box/k");
    put(site, "/box/from");
    put(site, "/box/dir/k");
}

fn put(site: &Site, path: &str) {
    site.root(&ask("PUT", path).body("x"));
}

/// A collection with one member.
fn filled(site: &Site, name: &str) {
    site.root_tries(&ask("DELETE", &format!("/box/{name}")));
    site.root(&ask("MKCOL", &format!("/box/{name}")));
    put(site, &format!("/box/{name}/k"));
}

fn gone(site: &Site, path: &str) {
    site.root_tries(&ask("DELETE", path));
}

fn to(method: &str, from: &str, target: &str) -> Ask {
    ask(method, from).header("destination", &format!("/dav{target}"))
}

/// The server as another one knows it.
fn elsewhere(site: &Site, path: &str) -> String {
    format!("http://{}/dav{path}", site.client.host())
}

/// What opens the other server: the operator's own key.
fn with_key(site: &Site, ask: Ask) -> Ask {
    let key = format!("Bearer {}:{}", site.root.id, site.root.secret);
    ask.header("transferheaderauthorization", &key)
}

fn find(path: &str, depth: &str, action: &str, on: &str) -> Try {
    ask("PROPFIND", path)
        .header("depth", depth)
        .needs(&[(action, on)])
}

pub(crate) const STEPS: &[Step] = &[
    ("OPTIONS", |_| ask("OPTIONS", "/box").needs(&[])),
    ("GET of a file", |_| {
        ask("GET", "/box/k").needs(&[("s3:GetObject", K)])
    }),
    ("HEAD of a file", |_| {
        ask("HEAD", "/box/k").needs(&[("s3:GetObject", K)])
    }),
    ("HEAD of a collection", |_| {
        ask("HEAD", "/box/dir/").needs(&[("s3:ListBucket", B)])
    }),
    ("PROPFIND of a file", |_| {
        find("/box/k", "0", "s3:GetObject", K)
    }),
    ("PROPFIND of a collection", |_| {
        find("/box/dir", "1", "s3:ListBucket", B)
    }),
    ("PROPFIND of a bucket", |_| {
        find("/box", "1", "s3:ListBucket", B)
    }),
    ("PROPFIND of /", |_| {
        find("/", "1", "s3:ListAllMyBuckets", "arn:aws:s3:::*")
    }),
    ("PUT", |_| {
        ask("PUT", "/box/k").body("x").needs(&[("s3:PutObject", K)])
    }),
    ("PROPPATCH", |_| {
        ask("PROPPATCH", "/box/k")
            .body(SET)
            .needs(&[("s3:PutObject", K)])
    }),
    ("PROPPATCH of a collection", |_| {
        ask("PROPPATCH", "/box/dir")
            .body(SET)
            .needs(&[("s3:PutObject", "arn:aws:s3:::box/dir/")])
    }),
    ("PROPPATCH of a bucket", |_| {
        ask("PROPPATCH", "/box")
            .body(SET)
            .needs(&[("s3:PutBucketTagging", B)])
    }),
    ("LOCK", |site| {
        put(site, "/box/lock");
        ask("LOCK", "/box/lock")
            .header("timeout", "Second-1")
            .body(LOCK)
            .needs(&[("s3:PutObject", "arn:aws:s3:::box/lock")])
    }),
    ("LOCK of a name that is free", |_| {
        ask("LOCK", "/box/unmade")
            .header("timeout", "Second-1")
            .body(LOCK)
            .needs(&[("s3:PutObject", "arn:aws:s3:::box/unmade")])
    }),
    ("UNLOCK", |site| {
        // A lock is its holder's to end: theirs it is.
        put(site, "/box/held");
        let held = ask("LOCK", "/box/held").body(LOCK);
        let held = site.with_all(|| site.client.send(&site.walker, &held, "locking"));
        ask("UNLOCK", "/box/held")
            .header("lock-token", &held.header("lock-token"))
            .needs(&[("s3:PutObject", "arn:aws:s3:::box/held")])
    }),
    ("MKCOL", |site| {
        gone(site, "/box/made");
        ask("MKCOL", "/box/made").needs(&[("s3:PutObject", "arn:aws:s3:::box/made/")])
    }),
    ("MKCOL of a bucket", |_| {
        ask("MKCOL", "/fresh").needs(&[("s3:CreateBucket", "arn:aws:s3:::fresh")])
    }),
    ("DELETE of a bucket", |_| {
        ask("DELETE", "/fresh").needs(&[("s3:DeleteBucket", "arn:aws:s3:::fresh")])
    }),
    ("DELETE", |site| {
        put(site, "/box/new");
        ask("DELETE", "/box/new").needs(&[("s3:DeleteObject", NEW)])
    }),
    ("DELETE of a collection", |site| {
        filled(site, "gone");
        ask("DELETE", "/box/gone").needs(&[
            ("s3:DeleteObject", "arn:aws:s3:::box/gone/"),
            ("s3:DeleteObject", "arn:aws:s3:::box/gone/k"),
        ])
    }),
    ("COPY", |site| {
        gone(site, "/box/new");
        to("COPY", "/box/from", "/box/new").needs(&[("s3:GetObject", FROM), ("s3:PutObject", NEW)])
    }),
    ("COPY of a collection", |site| {
        filled(site, "from");
        gone(site, "/box/copied");
        to("COPY", "/box/from/", "/box/copied/").needs(&[
            ("s3:GetObject", "arn:aws:s3:::box/from/"),
            ("s3:GetObject", "arn:aws:s3:::box/from/k"),
            ("s3:PutObject", "arn:aws:s3:::box/copied/"),
            ("s3:PutObject", "arn:aws:s3:::box/copied/k"),
        ])
    }),
    ("MOVE", |site| {
        gone(site, "/box/from");
        put(site, "/box/from");
        gone(site, "/box/new");
        to("MOVE", "/box/from", "/box/new").needs(&[
            ("s3:GetObject", FROM),
            ("s3:DeleteObject", FROM),
            ("s3:PutObject", NEW),
        ])
    }),
    ("MOVE of a collection", |site| {
        filled(site, "from");
        gone(site, "/box/moved");
        to("MOVE", "/box/from/", "/box/moved/").needs(&[
            ("s3:GetObject", "arn:aws:s3:::box/from/"),
            ("s3:GetObject", "arn:aws:s3:::box/from/k"),
            ("s3:DeleteObject", "arn:aws:s3:::box/from/"),
            ("s3:DeleteObject", "arn:aws:s3:::box/from/k"),
            ("s3:PutObject", "arn:aws:s3:::box/moved/"),
            ("s3:PutObject", "arn:aws:s3:::box/moved/k"),
        ])
    }),
    ("COPY from another server", |site| {
        let pull = ask("COPY", "/box/new").header("source", &elsewhere(site, "/box/k"));
        with_key(site, pull).needs(&[("s3:PutObject", NEW)])
    }),
    ("COPY to another server", |site| {
        // To the client this one has a name that the target's is not.
        let push = ask("COPY", "/box/k")
            .header("host", "door.example")
            .header("destination", &elsewhere(site, "/box/pushed"));
        with_key(site, push).needs(&[("s3:GetObject", K)])
    }),
];
