//! Names: volumes, snapshots, images and objects, and what each may.

use crate::lab::{Lab, MIB, attempt, noise, run, run_json, text, who};
use fuse::nbd::Exports;

fn names(lab: &Lab) -> Vec<String> {
    let listed = run_json("nbdinfo", &["--list", "--json", &lab.uri("")]);
    let exports = listed["exports"].as_array().unwrap().iter();
    exports
        .map(|export| export["export-name"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn a_list_shows_volumes_snapshots_and_images() {
    let lab = Lab::new();
    let uri = lab.volume("root1", 4 * MIB);
    run("qemu-io", &["-f", "raw", &uri, "-c", "write -P 1 0 1M"]);
    lab.store
        .snapshot_create(&who(), "root1", Some("monday"), None)
        .unwrap();
    lab.put("images", "disk.raw", &noise(5, 2 << 20));
    lab.store
        .image_add(&who(), "images", "disk.raw", "debian")
        .unwrap();
    assert_eq!(names(&lab), ["root1", "snapshot:monday", "image:debian"]);
}

#[test]
fn snapshot_image_and_object_show_the_same_bytes_and_take_no_writes() {
    let lab = Lab::new();
    let uri = lab.volume("root1", 4 * MIB);
    let bytes = noise(6, 4 << 20);
    let file = lab.beside("bytes");
    std::fs::write(&file, &bytes).unwrap();
    run("nbdcopy", &["--flush", text(&file), &uri]);
    lab.store.bucket_create(&who(), "snaps").unwrap();
    let snapshot = lab
        .store
        .snapshot_create(&who(), "root1", Some("s"), Some(("snaps", "a b/root1.raw")))
        .unwrap();
    let (image, _) = lab
        .store
        .image_add(&who(), "snaps", "a b/root1.raw", "img")
        .unwrap();
    // The volume goes on; what is sealed stays.
    lab.wait_for_release("root1");
    run("qemu-io", &["-f", "raw", &uri, "-c", "write -P 1 0 4M"]);
    for name in [
        "snapshot:s".to_owned(),
        format!("snapshot:{}", snapshot.id),
        snapshot.id.clone(),
        "image:img".to_owned(),
        format!("image:{}", image.id),
        "object:snaps/a%20b/root1.raw".to_owned(),
    ] {
        let uri = lab.uri(&name);
        let target = lab.beside("target");
        run("nbdcopy", &[&uri, text(&target)]);
        assert!(std::fs::read(&target).unwrap() == bytes, "{name}");
        let info = run_json("nbdinfo", &["--json", &uri]);
        assert_eq!(info["exports"][0]["is_read_only"], true, "{name}");
        let refused = attempt("qemu-io", &["-f", "raw", &uri, "-c", "write 0 4096"]);
        assert!(
            String::from_utf8_lossy(&refused.stderr).contains("Permission denied"),
            "{refused:?}"
        );
    }
}

#[test]
fn a_published_snapshots_object_has_the_holes_of_its_volume() {
    let lab = Lab::new();
    let uri = lab.volume("root1", 16 * MIB);
    run(
        "qemu-io",
        &["-f", "raw", &uri, "-c", "write -P 7 4M 64k", "-c", "flush"],
    );
    lab.store.bucket_create(&who(), "snaps").unwrap();
    lab.store
        .snapshot_create(&who(), "root1", Some("s"), Some(("snaps", "root1.raw")))
        .unwrap();
    let map = |name: &str| run_json("nbdinfo", &["--map", "--json", &lab.uri(name)]);
    let holes = map("snapshot:s");
    assert_eq!(holes.as_array().unwrap().len(), 3, "{holes}");
    assert_eq!(map("object:snaps/root1.raw"), holes);
}

#[test]
fn an_object_of_any_length_is_served_to_its_last_byte() {
    let lab = Lab::new();
    for (key, length) in [("tiny", 1), ("small", 1001), ("odd", 3_000_001)] {
        let bytes = noise(length as u64, length);
        lab.put("data", key, &bytes);
        let target = lab.beside("target");
        let uri = lab.uri(&format!("object:data/{key}"));
        run("nbdcopy", &[&uri, text(&target)]);
        assert!(std::fs::read(&target).unwrap() == bytes, "{key}");
        assert_eq!(run("nbdinfo", &["--size", &uri]).trim(), length.to_string());
    }
}

#[test]
fn what_is_not_there_is_refused_with_a_reason() {
    let lab = Lab::new();
    lab.volume("root1", MIB);
    for name in [
        "root2",
        "snapshot:none",
        "snap-0123456789abcdef",
        "image:none",
        "object:none/key",
        "object:none",
        "",
    ] {
        let refused = attempt("nbdinfo", &[&lab.uri(name)]);
        assert!(!refused.status.success(), "{name}");
    }
    let refused = attempt("qemu-img", &["info", "-f", "raw", &lab.uri("root2")]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("root2"), "{said}");
}

#[test]
fn only_the_exports_of_the_listener_are_shown() {
    let lab = Lab::showing(Exports::Only(vec!["b".into(), "object:data/x".into()]));
    lab.volume("a", MIB);
    lab.volume("b", MIB);
    lab.put("data", "x", b"hello");
    assert_eq!(names(&lab), ["b", "object:data/x"]);
    run("nbdinfo", &[&lab.uri("b")]);
    assert!(!attempt("nbdinfo", &[&lab.uri("a")]).status.success());
    let only = Lab::showing(Exports::Only(vec!["b".into()]));
    only.volume("b", MIB);
    assert_eq!(
        run("nbdinfo", &["--size", &only.uri("")]).trim(),
        MIB.to_string()
    );
}

#[test]
fn a_resize_reaches_a_client_that_stays_attached() {
    let lab = Lab::new();
    lab.volume("v", MIB);
    let mut raw = crate::raw::Raw::attach(&lab, "v");
    assert!(
        raw.write(MIB, b"too far")
            .is_some_and(|(_, why)| why.contains("1048576 bytes"))
    );
    lab.store
        .volume_resize(&who(), "v", 2 * MIB, false)
        .unwrap();
    assert_eq!(raw.write(MIB, b"within"), None);
    assert_eq!(lab.read("v", MIB, 6), b"within");
}

#[test]
fn flush_and_fua_reach_the_device_and_plain_writes_need_not() {
    let lab = Lab::new();
    let uri = lab.volume("v", MIB);
    let syncs = || lab.store.stats().unwrap().syncs;
    let mut raw = crate::raw::Raw::attach(&lab, "v");
    let before = syncs();
    assert_eq!(raw.write(0, b"x"), None);
    assert_eq!(
        raw.ask(fuse::nbd::codec::request::Command::Flush, 0, 0, &[]),
        None
    );
    assert!(syncs() > before);
    drop(raw);
    lab.wait_for_release("v");
    let before = syncs();
    run(
        "qemu-io",
        &[
            "-f",
            "raw",
            "-t",
            "writethrough",
            &uri,
            "-c",
            "write -P 1 0 4096",
        ],
    );
    assert!(syncs() > before);
}
