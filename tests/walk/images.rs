//! The JSON API's images: how they stand.

use super::api::{delete, send};
use super::client::Ask;
use super::steps::{Site, Step};
use serde_json::json;

const OLD: &str = "arn:infall:image:::old";
const KEY: &str = "SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// One that is made to stand badly.
pub(crate) fn prepare(site: &Site) {
    // Bytes of its own: the same bytes would be the same image.
    site.root(&Ask::s3("PUT", "/box/older").body(vec![7; 1 << 20]));
    let add = json!({"bucket": "box", "key": "older", "name": "old"});
    site.api("post", "/images", &add);
}

pub(crate) const STEPS: &[Step] = &[
    ("put /images/{image}/expiry", |_| {
        let body = json!({"at_ms": 4_000_000_000_000_u64});
        send("put", "/images/old/expiry", &body, &[("image:Expire", OLD)])
    }),
    ("delete /images/{image}/expiry", |_| {
        delete("/images/old/expiry", "image:Expire", OLD)
    }),
    ("post /images/{image}/endorsements", |_| {
        let body = json!({"statement": "x", "signature": "y"});
        send(
            "post",
            "/images/old/endorsements",
            &body,
            &[("image:Endorse", OLD)],
        )
        .passes(400, "nobody has signed this")
    }),
    ("delete /images/{image}/endorsements/{key}", |_| {
        let path = format!("/images/old/endorsements/{KEY}");
        delete(&path, "image:Endorse", OLD).passes(404, "nobody has signed it")
    }),
    ("put /images/{image}/deprecation", |_| {
        let body = json!({"why": "there is a newer one", "replacement": "i"});
        let needs = [
            ("image:Deprecate", OLD),
            ("image:Describe", "arn:infall:image:::i"),
        ];
        send("put", "/images/old/deprecation", &body, &needs)
    }),
    ("post /volumes", |_| {
        let body = json!({"name": "v4", "origin": {"image": "old"}, "deprecated": true});
        let needs = [
            ("volume:Create", "arn:infall:volume:::v4"),
            ("image:Use", OLD),
            ("image:UseDeprecated", OLD),
        ];
        send("post", "/volumes", &body, &needs)
    }),
    ("post /vms", |_| {
        let body = json!({"name": "o", "image": "old", "deprecated": true, "kernel": "/nowhere"});
        let needs = [
            ("vm:Run", "arn:infall:instance:::o"),
            ("image:Use", OLD),
            ("image:UseDeprecated", OLD),
            ("host:Use", "arn:infall:host:::local"),
        ];
        send("post", "/vms", &body, &needs).passes(404, "there is no such kernel on this host")
    }),
    ("delete /images/{image}/deprecation", |_| {
        delete("/images/old/deprecation", "image:Deprecate", OLD)
    }),
];
