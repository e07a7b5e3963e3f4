//! The JSON API's instances, on a libvirtd of the test's own: run, seen, typed at, logged in to, ended.

use super::api::{delete, get, image, make_volume, send};
use super::client::Ask;
use super::steps::{Site, Step, Try};
use serde_json::{Value, json};

const G: &str = "arn:infall:instance:::g";
const HOST: &str = "arn:infall:host:::local";

/// Not enough memory to wait long for, and nothing to boot.
fn small(name: &str, mut more: Value) -> Value {
    more["name"] = json!(name);
    more["memory_mib"] = json!(64);
    if more["network"].is_null() {
        more["network"] = json!("none");
    }
    more
}

/// What to boot from and to attach.
pub(crate) fn prepare(site: &Site) {
    image(site, "boot");
    for name in ["root", "spare", "data", "more"] {
        make_volume(site, name);
    }
}

fn run(name: &str, spec: Value, more: &[(&str, &str)]) -> Try {
    let on = format!("arn:infall:instance:::{name}");
    let needs = [&[("vm:Run", on.as_str())], more].concat();
    send("post", "/vms", &small(name, spec), &needs)
}

/// Where bytes are moved.
fn upgrade(path: &str, action: &str) -> Try {
    Ask::api("get", path)
        .header("connection", "upgrade")
        .header("upgrade", "infall-bytes")
        .needs(&[(action, G)])
}

pub(crate) const STEPS: &[Step] = &[
    ("get /hosts", |_| get("/hosts", "host:List", HOST)),
    ("post /hosts/probe", |_| {
        send("post", "/hosts/probe", &json!({}), &[("host:Probe", HOST)])
    }),
    ("post /vms", |_| {
        run(
            "g",
            json!({"image": "boot"}),
            &[("image:Use", "arn:infall:image:::boot")],
        )
    }),
    ("post /vms", |_| {
        let disks = ["data:rw", "more:ro", "s", "s3://box/disk"];
        let needs = [
            ("volume:Attach", "arn:infall:volume:::root"),
            ("volume:Attach", "arn:infall:volume:::data"),
            ("volume:AttachReadOnly", "arn:infall:volume:::more"),
            ("snapshot:Read", "arn:infall:snapshot:::s"),
            ("s3:GetObject", "arn:aws:s3:::box/disk"),
        ];
        run(
            "i",
            json!({"root_volume": "root", "volumes": disks}),
            &needs,
        )
    }),
    ("post /vms", |_| {
        run("j", json!({"boot_file": "/nowhere"}), &[("host:Use", HOST)])
            .passes(404, "there is no such file on this host")
    }),
    ("post /vms", |_| {
        let root = ("volume:Attach", "arn:infall:volume:::spare");
        let spec = json!({
            "root_volume": "spare", "kernel": "/nowhere", "initrd": "/nowhere",
            "network": "bridge:nowhere",
        });
        run("k", spec, &[root, ("host:Use", HOST)])
            .passes(404, "there is no such file on this host")
    }),
    ("get /vms", |_| {
        get("/vms", "vm:List", "arn:infall:instance:::*")
    }),
    ("get /vms/{name}", |_| get("/vms/g", "vm:Describe", G)),
    ("get /vms/{name}/explain", |_| {
        get("/vms/g/explain", "vm:Describe", G)
    }),
    ("get /vms/{name}/disks", |_| {
        get("/vms/g/disks", "vm:Describe", G)
    }),
    ("get /vms/{name}/addresses", |_| {
        get("/vms/g/addresses", "vm:Describe", G)
    }),
    ("get /vms/{name}/console", |_| {
        get("/vms/g/console", "vm:Console", G)
    }),
    ("get /vms/{name}/console/attach", |_| {
        upgrade("/vms/g/console/attach", "vm:Console")
    }),
    ("post /vms/{name}/ssh", |site| {
        let key = site.server.scratch().join("id");
        let body = json!({"public_key": ssh_key(&key), "login": "guest"});
        send("post", "/vms/g/ssh", &body, &[("vm:Ssh", G)])
    }),
    ("get /vms/{name}/ssh", |_| {
        upgrade("/vms/g/ssh", "vm:Ssh").passes(409, "this guest has no network to go in by")
    }),
    ("post /vms/{name}/stop", |_| {
        send(
            "post",
            "/vms/g/stop?force=true&timeout_s=0",
            &json!({}),
            &[("vm:Stop", G)],
        )
    }),
    ("post /vms/{name}/start", |_| {
        send("post", "/vms/g/start", &json!({}), &[("vm:Start", G)])
    }),
    ("delete /vms/{name}", |site| {
        site.root_tries(&Ask::api("post", "/vms/g/stop?force=true&timeout_s=0"));
        delete("/vms/g", "vm:Remove", G)
    }),
];

/// A new key; its public half.
pub(crate) fn ssh_key(path: &std::path::Path) -> String {
    let _ = std::fs::remove_file(path);
    let made = std::process::Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-C", "walk", "-f"])
        .arg(path)
        .status();
    assert!(made.unwrap().success());
    std::fs::read_to_string(path.with_extension("pub")).unwrap()
}
