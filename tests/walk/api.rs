//! The JSON API: buckets, images, volumes, snapshots, tickets, the store, mounts. (Identities and
//! instances have files of their own.)

use super::client::{Answer, Ask};
use super::steps::{Site, Step, Try};
use serde_json::{Value, json};

/// The JSON API says who may not do what.
pub(crate) fn refused(answer: &Answer) -> bool {
    answer.status == 403 && answer.body.contains(r#""kind":"denied""#)
}

pub(crate) fn get(path: &str, action: &str, on: &str) -> Try {
    Ask::api("get", path).needs(&[(action, on)])
}

pub(crate) fn delete(path: &str, action: &str, on: &str) -> Try {
    Ask::api("delete", path).needs(&[(action, on)])
}

pub(crate) fn send(method: &str, path: &str, body: &Value, needs: &[(&str, &str)]) -> Try {
    Ask::api(method, path).json(body).needs(needs)
}

const V: &str = "arn:infall:volume:::v";
const S: &str = "arn:infall:snapshot:::s";
const STORE: &str = "arn:infall:store:::*";
const HOST: &str = "arn:infall:host:::local";

/// What the steps find: a bucket with an object, a volume, a snapshot, an image.
pub(crate) fn prepare(site: &Site) {
    prepare_things(site);
    std::fs::create_dir(mountpoint(site)).unwrap();
}

/// The same without a place to mount.
pub(crate) fn prepare_things(site: &Site) {
    site.api("post", "/buckets", &json!({"name": "box"}));
    site.root(&Ask::s3("PUT", "/box/disk").body(vec![0; 1 << 20]));
    make_volume(site, "v");
    make_snapshot(site, "s");
    image(site, "i");
}

fn mountpoint(site: &Site) -> std::path::PathBuf {
    site.server.scratch().join("mnt")
}

pub(crate) fn make_volume(site: &Site, name: &str) {
    site.api(
        "post",
        "/volumes",
        &json!({"name": name, "length_bytes": 1 << 20}),
    );
}

fn make_snapshot(site: &Site, name: &str) {
    site.api("post", "/volumes/v/snapshot", &json!({"name": name}));
}

/// A new image; its id.
pub(crate) fn image(site: &Site, name: &str) -> String {
    let add = json!({"bucket": "box", "key": "disk", "name": name});
    let added = site.api("post", "/images", &add).json();
    added["image"]["id"].as_str().unwrap().to_owned()
}

fn ticket(site: &Site, ask: &Value) -> String {
    let made = site.client.send(
        &site.walker,
        &Ask::api("post", "/tickets").json(ask),
        "making",
    );
    made.json()["ticket"]["id"].as_str().unwrap().to_owned()
}

fn mounted(site: &Site) {
    let path = mountpoint(site);
    site.root_tries(&Ask::api("post", "/mounts").json(&json!({"path": path})));
}

fn unmounted(site: &Site) {
    let path = format!("/mounts?path={}", mountpoint(site).display());
    site.root_tries(&Ask::api("delete", &path));
}

pub(crate) const STEPS: &[Step] = &[
    ("get /openapi.json", |_| {
        Ask::api("get", "/openapi.json").needs(&[])
    }),
    ("get /identity", |_| Ask::api("get", "/identity").needs(&[])),
    ("get /buckets", |_| {
        get("/buckets", "s3:ListAllMyBuckets", "arn:aws:s3:::*")
    }),
    ("post /buckets", |_| {
        let body = json!({"name": "made"});
        send(
            "post",
            "/buckets",
            &body,
            &[("s3:CreateBucket", "arn:aws:s3:::made")],
        )
    }),
    ("get /buckets/{bucket}", |_| {
        get("/buckets/box", "s3:ListBucket", "arn:aws:s3:::box")
    }),
    ("delete /buckets/{bucket}", |_| {
        delete("/buckets/made", "s3:DeleteBucket", "arn:aws:s3:::made")
    }),
    ("get /buckets/{bucket}/objects", |_| {
        get("/buckets/box/objects", "s3:ListBucket", "arn:aws:s3:::box")
    }),
    ("get /images", |_| {
        get("/images", "image:List", "arn:infall:image:::*")
    }),
    ("post /images", |_| {
        let body = json!({"bucket": "box", "key": "disk", "name": "added"});
        let needs = [
            ("image:Add", "arn:infall:image:::added"),
            ("s3:GetObject", "arn:aws:s3:::box/disk"),
        ];
        send("post", "/images", &body, &needs)
    }),
    ("get /images/{image}", |_| {
        get("/images/i", "image:Describe", "arn:infall:image:::i")
    }),
    ("delete /images/{image}", |site| {
        image(site, "gone");
        delete("/images/gone", "image:Delete", "arn:infall:image:::gone")
    }),
    ("get /volumes", |_| {
        get("/volumes", "volume:List", "arn:infall:volume:::*")
    }),
    ("post /volumes", |_| {
        let body = json!({"name": "v1", "length_bytes": 1 << 20});
        send(
            "post",
            "/volumes",
            &body,
            &[("volume:Create", "arn:infall:volume:::v1")],
        )
    }),
    ("post /volumes", |_| {
        let body = json!({"name": "v2", "origin": {"image": "i"}});
        let needs = [
            ("volume:Create", "arn:infall:volume:::v2"),
            ("image:Use", "arn:infall:image:::i"),
        ];
        send("post", "/volumes", &body, &needs)
    }),
    ("post /volumes", |_| {
        let body = json!({"name": "v3", "origin": {"snapshot": "s"}});
        let needs = [
            ("volume:Create", "arn:infall:volume:::v3"),
            ("snapshot:Read", S),
        ];
        send("post", "/volumes", &body, &needs)
    }),
    ("get /volumes/{volume}", |_| {
        get("/volumes/v", "volume:Describe", V)
    }),
    ("delete /volumes/{volume}", |_| {
        delete("/volumes/v3", "volume:Delete", "arn:infall:volume:::v3")
    }),
    ("post /volumes/{volume}/resize", |_| {
        let body = json!({"length_bytes": 2 << 20});
        send("post", "/volumes/v/resize", &body, &[("volume:Resize", V)])
    }),
    ("post /volumes/{volume}/snapshot", |_| {
        let body = json!({"name": "s1"});
        send(
            "post",
            "/volumes/v/snapshot",
            &body,
            &[("volume:Snapshot", V)],
        )
    }),
    ("post /volumes/{volume}/snapshot", |_| {
        let body = json!({"publish": "s3://box/published"});
        let needs = [
            ("volume:Snapshot", V),
            ("s3:PutObject", "arn:aws:s3:::box/published"),
        ];
        send("post", "/volumes/v/snapshot", &body, &needs)
    }),
    ("post /volumes/{volume}/tickets", |_| {
        let body = json!({"read_only": true});
        send(
            "post",
            "/volumes/v/tickets",
            &body,
            &[("volume:AttachReadOnly", V)],
        )
    }),
    ("post /volumes/{volume}/tickets", |_| {
        let needs = [("volume:AttachReadOnly", V), ("volume:Attach", V)];
        send("post", "/volumes/v/tickets", &json!({}), &needs)
    }),
    ("get /tickets", |_| {
        get("/tickets", "volume:List", "arn:infall:volume:::*")
    }),
    ("post /tickets", |_| {
        let body = json!({"export": "v", "read_only": true});
        send("post", "/tickets", &body, &[("volume:AttachReadOnly", V)])
    }),
    ("post /tickets", |_| {
        let needs = [("volume:AttachReadOnly", V), ("volume:Attach", V)];
        send("post", "/tickets", &json!({"export": "v"}), &needs)
    }),
    ("post /tickets", |_| {
        send(
            "post",
            "/tickets",
            &json!({"export": "snapshot:s"}),
            &[("snapshot:Read", S)],
        )
    }),
    ("post /tickets", |_| {
        let on = "arn:infall:image:::i";
        send(
            "post",
            "/tickets",
            &json!({"export": "image:i"}),
            &[("image:Read", on)],
        )
    }),
    ("post /tickets", |_| {
        let on = "arn:aws:s3:::box/disk";
        send(
            "post",
            "/tickets",
            &json!({"export": "object:box/disk"}),
            &[("s3:GetObject", on)],
        )
    }),
    ("delete /tickets/{ticket}", |site| {
        let ask = json!({"export": "v", "read_only": true});
        let id = site.with_all(|| ticket(site, &ask));
        delete(
            &format!("/tickets/{id}"),
            "volume:List",
            "arn:infall:volume:::*",
        )
    }),
    ("get /snapshots", |_| {
        get("/snapshots", "snapshot:List", "arn:infall:snapshot:::*")
    }),
    ("get /snapshots/{snapshot}", |_| {
        get("/snapshots/s", "snapshot:Describe", S)
    }),
    ("delete /snapshots/{snapshot}", |_| {
        delete(
            "/snapshots/s1",
            "snapshot:Delete",
            "arn:infall:snapshot:::s1",
        )
    }),
    ("get /store", |_| get("/store", "store:Status", STORE)),
    ("get /store/tree", |_| {
        get("/store/tree", "store:Tree", STORE)
    }),
    ("post /store/collect", |_| {
        send(
            "post",
            "/store/collect",
            &json!({}),
            &[("store:Collect", STORE)],
        )
    }),
    ("post /store/check", |_| {
        send(
            "post",
            "/store/check",
            &json!({"scrub": false}),
            &[("store:Check", STORE)],
        )
    }),
    ("get /events", |_| {
        get("/events?max=1", "store:Events", STORE)
    }),
    ("get /mounts", |_| get("/mounts", "mount:List", HOST)),
    ("post /mounts", |site| {
        unmounted(site);
        let body = json!({"path": mountpoint(site)});
        send("post", "/mounts", &body, &[("mount:Create", HOST)])
    }),
    ("delete /mounts", |site| {
        mounted(site);
        let path = format!("/mounts?path={}", mountpoint(site).display());
        delete(&path, "mount:Remove", HOST)
    }),
];
