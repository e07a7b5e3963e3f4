//! The CDMI door: containers, data objects, snapshots, volumes.

use super::client::{Answer, Ask, Way};
use super::steps::{Site, Step, Try};
use serde_json::{Value, json};

const B: &str = "arn:aws:s3:::box";
const K: &str = "arn:aws:s3:::box/k";
const NEW: &str = "arn:aws:s3:::box/new";
const FROM: &str = "arn:aws:s3:::box/from";
const OTHER: &str = "arn:aws:s3:::other";
const CONTAINER: &str = "application/cdmi-container";
const OBJECT: &str = "application/cdmi-object";

/// CDMI says 403 and why.
pub(crate) fn refused(answer: &Answer) -> bool {
    answer.status == 403 && (answer.body.contains("may not") || answer.body.is_empty())
}

fn ask(method: &str, path: &str) -> Ask {
    Ask::new(Way::Bearer, method, &format!("/cdmi{path}"))
        .header("x-cdmi-specification-version", "1.1.1")
}

fn raw(method: &str, path: &str) -> Ask {
    Ask::new(Way::Bearer, method, &format!("/cdmi{path}"))
}

fn object(method: &str, path: &str, body: &Value) -> Ask {
    ask(method, path)
        .header("content-type", OBJECT)
        .body(body.to_string())
}

fn container(method: &str, path: &str, body: &Value) -> Ask {
    ask(method, path)
        .header("content-type", CONTAINER)
        .body(body.to_string())
}

fn list(path: &str) -> Ask {
    ask("GET", path).header("accept", CONTAINER)
}

/// A bucket with an object, a container with one, a snapshot of both, and a volume.
pub(crate) fn prepare(site: &Site) {
    site.root(&container("PUT", "/box/", &json!({})));
    site.root(&container("PUT", "/box/in/", &json!({})));
    for path in ["/box/k", "/box/from", "/box/in/k"] {
        put(site, path);
    }
    site.root(&container("PUT", "/box/", &json!({"snapshot": "one"})));
    site.api(
        "post",
        "/volumes",
        &json!({"name": "v", "length_bytes": 1 << 20}),
    );
}

fn put(site: &Site, path: &str) {
    site.root(&object("PUT", path, &json!({"value": "x"})));
}

/// A container below the bucket, with one object in it.
fn filled(site: &Site, name: &str) {
    site.root(&container("PUT", &format!("/box/{name}/"), &json!({})));
    put(site, &format!("/box/{name}/k"));
}

fn id(site: &Site, path: &str) -> String {
    let shown = site.root(&ask("GET", path).header("accept", OBJECT)).json();
    shown["objectID"].as_str().unwrap().to_owned()
}

fn value() -> Value {
    json!({"value": "x"})
}

pub(crate) const STEPS: &[Step] = &[
    ("list the root", |_| {
        list("/").needs(&[("s3:ListAllMyBuckets", "arn:aws:s3:::*")])
    }),
    ("list a container", |_| {
        list("/box/").needs(&[("s3:ListBucket", B)])
    }),
    ("list a container below a container", |_| {
        list("/box/in/").needs(&[("s3:ListBucket", B)])
    }),
    ("list a container's snapshots", |_| {
        list("/box/cdmi_snapshots/").needs(&[("s3:ListBucket", B)])
    }),
    ("list in a snapshot", |_| {
        list("/box/cdmi_snapshots/one/in/").needs(&[("s3:ListBucket", B)])
    }),
    ("read a data object", |_| {
        ask("GET", "/box/k")
            .header("accept", OBJECT)
            .needs(&[("s3:GetObject", K)])
    }),
    ("read its metadata", |_| {
        ask("GET", "/box/k?metadata")
            .header("accept", OBJECT)
            .needs(&[("s3:GetObject", K)])
    }),
    ("read its value's bytes", |_| {
        raw("GET", "/box/k").needs(&[("s3:GetObject", K)])
    }),
    ("read its head", |_| {
        raw("HEAD", "/box/k").needs(&[("s3:GetObject", K)])
    }),
    ("read by object id", |site| {
        raw("GET", &format!("/cdmi_objectid/{}", id(site, "/box/k"))).needs(&[("s3:GetObject", K)])
    }),
    ("read in a snapshot", |_| {
        raw("GET", "/box/cdmi_snapshots/one/k").needs(&[("s3:GetObject", K)])
    }),
    ("create a data object", |_| {
        object("PUT", "/box/new", &value()).needs(&[("s3:PutObject", NEW)])
    }),
    ("create a data object of bytes", |_| {
        let ask = raw("PUT", "/box/new")
            .header("content-type", "text/plain")
            .body("x");
        ask.needs(&[("s3:PutObject", NEW)])
    }),
    ("update a data object", |_| {
        object("PUT", "/box/k", &value()).needs(&[("s3:PutObject", K)])
    }),
    ("update its metadata", |_| {
        object("PUT", "/box/k?metadata", &json!({"metadata": {"a": "1"}}))
            .needs(&[("s3:PutObject", K)])
    }),
    ("update a range of its value", |_| {
        object("PUT", "/box/k?value:0-0", &value()).needs(&[("s3:PutObject", K)])
    }),
    ("update a range of bytes", |_| {
        raw("PUT", "/box/k")
            .header("content-type", "text/plain")
            .header("content-range", "bytes 0-0/1")
            .body("x")
            .needs(&[("s3:PutObject", K)])
    }),
    ("PATCH a data object", |_| {
        raw("PATCH", "/2.0.0/box/k")
            .header("content-type", OBJECT)
            .body(json!({"metadata": {"a": "1"}}).to_string())
            .needs(&[("s3:PutObject", K)])
    }),
    ("refer to a data object", |_| {
        object("PUT", "/box/ref", &json!({"reference": "/box/k"}))
            .needs(&[("s3:PutObject", "arn:aws:s3:::box/ref")])
    }),
    ("copy a data object", |_| {
        object("PUT", "/box/k", &json!({"copy": "/box/from"}))
            .needs(&[("s3:GetObject", FROM), ("s3:PutObject", K)])
    }),
    ("copy out of a snapshot", |_| {
        object(
            "PUT",
            "/box/k",
            &json!({"copy": "/box/cdmi_snapshots/one/from"}),
        )
        .needs(&[("s3:GetObject", FROM), ("s3:PutObject", K)])
    }),
    ("move a data object", |site| {
        put(site, "/box/from");
        object("PUT", "/box/k", &json!({"move": "/box/from"})).needs(&[
            ("s3:GetObject", FROM),
            ("s3:DeleteObject", FROM),
            ("s3:PutObject", K),
        ])
    }),
    ("delete a data object", |_| {
        raw("DELETE", "/box/new").needs(&[("s3:DeleteObject", NEW)])
    }),
    ("create a top container", |_| {
        container("PUT", "/other/", &json!({})).needs(&[("s3:CreateBucket", OTHER)])
    }),
    ("delete a top container", |_| {
        raw("DELETE", "/other/").needs(&[("s3:DeleteBucket", OTHER)])
    }),
    ("describe a top container", |_| {
        container("PUT", "/box/", &json!({"metadata": {"a": "1"}}))
            .needs(&[("s3:PutBucketTagging", B)])
    }),
    ("create a container below a container", |_| {
        container("PUT", "/box/made/", &json!({}))
            .needs(&[("s3:PutObject", "arn:aws:s3:::box/made/")])
    }),
    ("describe a container below a container", |_| {
        container("PUT", "/box/in/", &json!({"metadata": {"a": "1"}}))
            .needs(&[("s3:PutObject", "arn:aws:s3:::box/in/")])
    }),
    ("copy a container", |_| {
        of_container("copied", &json!({"copy": "/box/in/"}), &[])
    }),
    ("copy a container to the top", |_| {
        container("PUT", "/other/", &json!({"copy": "/box/in/"})).needs(&[
            ("s3:ListBucket", B),
            ("s3:CreateBucket", OTHER),
            ("s3:GetObject", "arn:aws:s3:::box/in/k"),
            ("s3:PutObject", "arn:aws:s3:::other/k"),
        ])
    }),
    ("copy a container out of a snapshot", |_| {
        of_container(
            "restored",
            &json!({"copy": "/box/cdmi_snapshots/one/in/"}),
            &[],
        )
    }),
    ("move a container", |_| {
        let more = [
            ("s3:DeleteObject", "arn:aws:s3:::box/in/"),
            ("s3:DeleteObject", "arn:aws:s3:::box/in/k"),
        ];
        of_container("moved", &json!({"move": "/box/in/"}), &more)
    }),
    ("delete a container below a container", |site| {
        filled(site, "gone");
        raw("DELETE", "/box/gone/").needs(&[
            ("s3:ListBucket", B),
            ("s3:DeleteObject", "arn:aws:s3:::box/gone/"),
            ("s3:DeleteObject", "arn:aws:s3:::box/gone/k"),
        ])
    }),
    ("delete a container with its snapshots", |site| {
        filled(site, "gone");
        site.root(&container("PUT", "/box/gone/", &json!({"snapshot": "two"})));
        raw("DELETE", "/box/gone/").needs(&[
            ("s3:ListBucket", B),
            ("snapshot:Delete", B),
            ("s3:DeleteObject", "arn:aws:s3:::box/gone/"),
            ("s3:DeleteObject", "arn:aws:s3:::box/gone/k"),
        ])
    }),
    ("POST a data object", |_| {
        object("POST", "/box/", &value()).needs(&[("s3:PutObject", "arn:aws:s3:::box/*")])
    }),
    ("POST a data object of bytes", |_| {
        let ask = raw("POST", "/box/")
            .header("content-type", "text/plain")
            .body("x");
        ask.needs(&[("s3:PutObject", "arn:aws:s3:::box/*")])
    }),
    ("take a snapshot", |_| {
        container("PUT", "/box/", &json!({"snapshot": "three"})).needs(&[("snapshot:Create", B)])
    }),
    ("delete a snapshot", |_| {
        raw("DELETE", "/box/cdmi_snapshots/three/").needs(&[("snapshot:Delete", B)])
    }),
    ("list volumes", |_| {
        list("/cdmi_volumes/").needs(&[("volume:List", "arn:infall:volume:::*")])
    }),
    ("show a volume", |_| {
        list("/cdmi_volumes/v/").needs(&[("volume:Describe", "arn:infall:volume:::v")])
    }),
];

/// What takes the container `in`, with its marker and its one object, elsewhere.
fn of_container(to: &str, body: &Value, more: &[(&str, &str)]) -> Try {
    let (marker, below) = (
        format!("arn:aws:s3:::box/{to}/"),
        format!("arn:aws:s3:::box/{to}/k"),
    );
    let mut needs = vec![
        ("s3:ListBucket", B),
        ("s3:GetObject", "arn:aws:s3:::box/in/"),
        ("s3:GetObject", "arn:aws:s3:::box/in/k"),
        ("s3:PutObject", marker.as_str()),
        ("s3:PutObject", below.as_str()),
    ];
    needs.extend(more);
    container("PUT", &format!("/box/{to}/"), body).needs(&needs)
}
