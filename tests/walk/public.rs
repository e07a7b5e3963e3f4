//! What is answered to everybody, and that it gives nothing away.

use super::client::{Answer, Ask, Way};
use super::steps::Site;
use super::table;
use serde_json::json;

fn open(method: &str, path: &str) -> Ask {
    Ask::new(Way::Open, method, path)
}

type Public = (&'static str, fn() -> Ask, u16);

/// Each public operation, and what it must answer.
const PUBLIC: &[Public] = &[
    ("GET /login", || open("GET", "/login"), 200),
    (
        "POST /login/roles",
        || {
            let token = json!({"token": "x.y.z"});
            open("POST", "/login/roles").json(&token)
        },
        403,
    ),
    (
        "GET /cdmi/cdmi_capabilities/",
        || open("GET", "/cdmi/cdmi_capabilities/"),
        200,
    ),
    (
        "OPTIONS of S3, before a script's request",
        || {
            open("OPTIONS", "/box/k")
                .header("origin", "http://elsewhere")
                .header("access-control-request-method", "GET")
        },
        403,
    ),
    (
        "GetObject, where the bucket's policy lets everybody in",
        || open("GET", "/open/k"),
        200,
    ),
];

/// Everything else says 401 or 403 to whoever shows no key, whichever door it is.
const CLOSED: &[(&str, &str)] = &[
    ("GET", "/"),
    ("GET", "/box"),
    ("GET", "/box/k"),
    ("GET", "/metrics"),
    ("GET", "/healthz"),
    ("GET", "/api/v1/openapi.json"),
    ("GET", "/api/v1/volumes"),
    ("GET", "/api/v1/nowhere"),
    ("GET", "/cdmi/"),
    ("GET", "/cdmi/box/k"),
    ("GET", "/cdmi/cdmi_volumes/"),
    ("OPTIONS", "/dav/box"),
    ("PROPFIND", "/dav/"),
    ("GET", "/dav/box/k"),
];

pub(crate) fn walk(site: &Site) {
    site.root(&Ask::s3("PUT", "/box"));
    site.root(&Ask::s3("PUT", "/box/k").body("x"));
    site.root(&Ask::s3("PUT", "/open"));
    site.root(&Ask::s3("PUT", "/open/k").body("x"));
    let none = "<PublicAccessBlockConfiguration></PublicAccessBlockConfiguration>";
    site.root(&Ask::s3("PUT", "/open?publicAccessBlock").digested(none));
    let everybody = json!({"Version": "2012-10-17", "Statement": [{"Effect": "Allow",
        "Principal": "*", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::open/*"}]});
    site.root(&Ask::s3("PUT", "/open?policy").digested(&everybody.to_string()));
    let mut rows = table::of("public");
    for (operation, ask, status) in PUBLIC {
        if rows.remove(*operation).is_none() {
            site.is_wrong(format!("public, {operation}: the table has no such row"));
        }
        let answer = site.client.send(&site.walker, &ask(), "nobody");
        if answer.status != *status {
            site.is_wrong(format!("public, {operation}: {answer:?}"));
        }
        gives_nothing_away(site, operation, &answer);
    }
    for operation in rows.keys() {
        site.is_wrong(format!("public: no step takes the row {operation:?}"));
    }
    for (method, path) in CLOSED {
        let answer = site
            .client
            .send(&site.walker, &open(method, path), "nobody");
        if !matches!(answer.status, 401 | 403 | 404) {
            site.is_wrong(format!("{method} {path} without a key: {answer:?}"));
        }
        gives_nothing_away(site, path, &answer);
    }
}

fn gives_nothing_away(site: &Site, operation: &str, answer: &Answer) {
    let told = format!("{answer:?}");
    for key in [&site.root, &site.walker] {
        if told.contains(&key.secret) || told.contains(&key.id) {
            site.is_wrong(format!("public, {operation}: a key is in {told}"));
        }
    }
}
