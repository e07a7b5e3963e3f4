//! A walk through every door of the real program, along the table of docs/SECURITY.md: each operation is
//! refused to a user without a grant, refused with every grant but one, and done with exactly the grants
//! that its rows name; and the journal has each of these decisions.
//!
//! A row that no step takes is a failure, and a step without its row is one.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod harness;

#[path = "walk/api.rs"]
mod api;
#[path = "walk/cdmi.rs"]
mod cdmi;
#[path = "walk/client.rs"]
mod client;
#[path = "walk/guests.rs"]
mod guests;
#[path = "walk/iam.rs"]
mod iam;
#[path = "walk/identities.rs"]
mod identities;
#[path = "walk/images.rs"]
mod images;
#[path = "../vmctl/tests/harness/mod.rs"]
#[allow(dead_code, reason = "only its libvirtd is used here")]
mod lab;
#[path = "walk/mount.rs"]
mod mount;
#[path = "walk/nbd.rs"]
mod nbd;
#[path = "walk/public.rs"]
mod public;
#[path = "walk/s3.rs"]
mod s3;
#[path = "walk/steps.rs"]
mod steps;
#[path = "walk/table.rs"]
mod table;
mod tools;
#[path = "walk/web_identity.rs"]
mod web_identity;
#[path = "walk/webdav.rs"]
mod webdav;

use std::os::unix::fs::PermissionsExt;
use steps::Site;

#[test]
fn s3() {
    let site = Site::start(&[]);
    s3::prepare(&site);
    site.walk("s3", s3::refused, &[s3::OBJECTS, s3::BUCKETS].concat());
    site.finish();
}

#[test]
fn the_json_api() {
    let site = Site::start_under(|folder| {
        // QEMU is another user and has to pass.
        std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o711)).unwrap();
        vec![
            ("INFALL_VM_URI".into(), lab::libvirt().into()),
            ("INFALL_NBD_TCP".into(), "127.0.0.1:0".into()),
        ]
    });
    api::prepare(&site);
    identities::prepare(&site);
    guests::prepare(&site);
    images::prepare(&site);
    let steps = [api::STEPS, identities::STEPS, images::STEPS, guests::STEPS].concat();
    site.walk("api", api::refused, &steps);
    site.finish();
}

#[test]
fn iam_and_sts() {
    let site = Site::start(&[]);
    identities::prepare(&site);
    iam::open_role(&site);
    site.walk("iam", iam::refused, iam::STEPS);
    site.walk("sts", iam::refused, iam::STS);
    site.finish();
}

#[test]
fn cdmi() {
    let site = Site::start(&[]);
    cdmi::prepare(&site);
    site.walk("cdmi", cdmi::refused, cdmi::STEPS);
    site.finish();
}

#[test]
fn webdav() {
    let site = Site::start_under(|_| vec![("INFALL_DAV_TPC_HOSTS".into(), "127.0.0.1".into())]);
    webdav::prepare(&site);
    site.walk("webdav", webdav::refused, webdav::STEPS);
    site.finish();
}

#[test]
fn web_identities() {
    let site = Site::start(&[]);
    web_identity::walk(&site);
    site.finish();
}

#[test]
fn nbd() {
    let site = Site::start(&["--nbd-tcp", "127.0.0.1:0"]);
    nbd::prepare(&site);
    site.act("nbd", nbd::ACTS);
    site.finish();
}

#[test]
fn mounts() {
    let site = Site::start(&[]);
    mount::prepare(&site);
    site.act("mount", mount::ACTS);
    mount::others_are_let_in_only_by_a_grant_that_says_so(&site);
    site.finish();
}

#[test]
fn what_is_open_to_everybody() {
    let site = Site::start(&[]);
    public::walk(&site);
    site.finish();
}

#[test]
fn every_door_of_the_table_has_its_walk() {
    let walked = [
        "api",
        "cdmi",
        "iam",
        "mount",
        "nbd",
        "public",
        "s3",
        "sts",
        "web identity",
        "webdav",
    ];
    for row in table::rows() {
        assert!(walked.contains(&row.door.as_str()), "{row:?}");
    }
}
