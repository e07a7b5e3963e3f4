//! What stock clients see and do.

use crate::lab::{Lab, MIB, attempt, run, run_json, sparse_file, text};
use serde_json::{Value, json};

/// `[offset, length, type]` of a map by nbdinfo.
fn runs(map: &Value) -> Vec<(u64, u64, u64)> {
    let number = |run: &Value, field: &str| run[field].as_u64().unwrap();
    let list = map.as_array().unwrap().iter();
    list.map(|run| {
        (
            number(run, "offset"),
            number(run, "length"),
            number(run, "type"),
        )
    })
    .collect()
}

#[test]
fn nbdinfo_sees_what_a_volume_can_do() {
    let lab = Lab::new();
    let uri = lab.volume("root1", 64 * MIB);
    let info = run_json("nbdinfo", &["--json", &uri]);
    assert_eq!(
        (&info["protocol"], &info["structured"]),
        (&json!("newstyle-fixed"), &json!(true))
    );
    let export = &info["exports"][0];
    assert_eq!(export["export-name"], "root1");
    assert_eq!(export["export-size"], 64 * MIB);
    assert_eq!(export["contexts"], json!(["base:allocation"]));
    for (field, value) in [
        ("is_read_only", false),
        ("can_flush", true),
        ("can_fua", true),
        ("can_trim", true),
        ("can_zero", true),
        ("can_fast_zero", true),
        ("can_cache", true),
        ("can_df", true),
        ("can_multi_conn", true),
        ("is_rotational", false),
    ] {
        assert_eq!(export[field], value, "{field}");
    }
    let sizes = [
        "block_size_minimum",
        "block_size_preferred",
        "block_size_maximum",
    ];
    assert_eq!(
        sizes.map(|size| export[size].as_u64()),
        [Some(1), Some(4096), Some(32 * MIB)]
    );
}

#[test]
fn nbdinfo_maps_data_holes_and_zeroed_ranges() {
    let lab = Lab::new();
    let uri = lab.volume("v", 16 * MIB);
    run(
        "qemu-io",
        &[
            "-f",
            "raw",
            &uri,
            "-c",
            "write -P 7 1M 4M",
            "-c",
            "write -z -u 2M 1M",
            "-c",
            "discard 4M 512k",
        ],
    );
    let map = run_json("nbdinfo", &["--map", "--json", &uri]);
    let expected = [
        (0, MIB, 3),
        (MIB, MIB, 0),
        (2 * MIB, MIB, 3),
        (3 * MIB, MIB, 0),
        (4 * MIB, MIB / 2, 3),
        (4 * MIB + MIB / 2, MIB / 2, 0),
        (5 * MIB, 11 * MIB, 3),
    ];
    assert_eq!(runs(&map), expected);
    let totals = run("nbdinfo", &["--map", "--totals", &uri]);
    assert!(totals.contains("2621440"), "{totals}");
}

#[test]
fn nbdcopy_copies_both_ways_over_four_connections() {
    let lab = Lab::new();
    let uri = lab.volume("v", 64 * MIB);
    let (source, target) = (lab.beside("source"), lab.beside("target"));
    let bytes = sparse_file(&source);
    run(
        "nbdcopy",
        &["--connections=4", "--flush", text(&source), &uri],
    );
    assert!(lab.read("v", 0, bytes.len()) == bytes);
    run("nbdcopy", &["--connections=4", &uri, text(&target)]);
    assert!(std::fs::read(&target).unwrap() == bytes);
    // From one volume to another, through the client.
    let copy = lab.volume("copy", 64 * MIB);
    run(
        "nbdcopy",
        &[
            "--connections=4",
            "--destination-is-zero",
            "--flush",
            &uri,
            &copy,
        ],
    );
    assert!(lab.read("copy", 0, bytes.len()) == bytes);
    let live = runs(&run_json("nbdinfo", &["--map", "--json", &copy]));
    let data: u64 = live.iter().filter(|run| run.2 == 0).map(|run| run.1).sum();
    assert!(data < 10 * MIB, "holes stayed holes: {data}");
}

#[test]
fn qemu_img_converts_compares_and_maps() {
    let lab = Lab::new();
    let uri = lab.volume("v", 64 * MIB);
    let (raw, qcow2, back) = (
        lab.beside("a.raw"),
        lab.beside("b.qcow2"),
        lab.beside("c.raw"),
    );
    let bytes = sparse_file(&raw);
    run(
        "qemu-img",
        &["convert", "-n", "-f", "raw", "-O", "raw", text(&raw), &uri],
    );
    assert!(lab.read("v", 0, bytes.len()) == bytes);
    run(
        "qemu-img",
        &["compare", "-f", "raw", "-F", "raw", text(&raw), &uri],
    );
    run(
        "qemu-img",
        &[
            "convert",
            "-f",
            "raw",
            "-O",
            "qcow2",
            "-c",
            &uri,
            text(&qcow2),
        ],
    );
    run(
        "qemu-img",
        &["compare", "-f", "qcow2", "-F", "raw", text(&qcow2), &uri],
    );
    run(
        "qemu-img",
        &[
            "convert",
            "-f",
            "raw",
            "-O",
            "raw",
            "-W",
            "-m",
            "16",
            &uri,
            text(&back),
        ],
    );
    assert!(std::fs::read(&back).unwrap() == bytes);
    let info = run_json("qemu-img", &["info", "--output=json", "-f", "raw", &uri]);
    assert_eq!(info["virtual-size"], 64 * MIB);
    let map = run_json("qemu-img", &["map", "--output=json", "-f", "raw", &uri]);
    let holes = map
        .as_array()
        .unwrap()
        .iter()
        .filter(|run| run["zero"] == true && run["data"] == false)
        .count();
    assert!(holes >= 3, "{map}");
    // A qcow2 inside a volume: what a guest would get from `qemu-img create` on an attached disk.
    run("qemu-img", &["create", "-f", "qcow2", &uri, "32M"]);
    run(
        "qemu-io",
        &[
            "-f",
            "qcow2",
            &uri,
            "-c",
            "write -P 9 1M 3M",
            "-c",
            "read -P 9 1M 3M",
        ],
    );
    run("qemu-img", &["check", "-f", "qcow2", &uri]);
}

#[test]
fn qemu_io_reads_back_its_patterns_aligned_or_not() {
    let lab = Lab::new();
    let uri = lab.volume("v", 16 * MIB);
    let script = [
        "write -P 1 0 4096",
        "write -P 2 4096 1",
        "write -P 3 5000 7777",
        "write -f -P 4 1M 1M",
        "aio_write -P 5 2M 2M",
        "aio_write -P 6 4M 2M",
        "aio_flush",
        "flush",
        "read -P 1 0 4096",
        "read -P 2 4096 1",
        "read -P 0 4097 903",
        "read -P 3 5000 7777",
        "read -P 0 12777 1000",
        "read -P 4 1M 1M",
        "read -P 5 2M 2M",
        "read -P 6 4M 2M",
        "write -z 1M 64k",
        "write -z -n -u 2M 64k",
        "read -P 0 1M 64k",
        "read -P 4 1114112 64k",
        "read -P 0 2M 64k",
        "discard 4M 1M",
        "read -P 0 4M 1M",
        "read -P 6 5M 1M",
        "write -P 8 16777200 16",
        "read -P 8 16777200 16",
    ];
    let mut arguments = vec!["-f", "raw", uri.as_str()];
    script
        .iter()
        .for_each(|command| arguments.extend(["-c", command]));
    let out = run("qemu-io", &arguments);
    assert!(
        !out.contains("verification failed") && !out.contains("error"),
        "{out}"
    );
    let past = attempt("qemu-io", &["-f", "raw", &uri, "-c", "read 16M 4096"]);
    assert!(!past.status.success() || !past.stderr.is_empty() || !past.stdout.is_empty());
}

#[test]
fn fio_verifies_its_checksums() {
    let lab = Lab::new();
    let uri = lab.volume("v", 64 * MIB);
    for job in [
        "--bs=4k --iodepth=16",
        "--bsrange=512-128k --bs_unaligned --iodepth=32 --size=32M",
    ] {
        let uri_argument = format!("--uri={uri}");
        let mut arguments = vec![
            "--name=verify",
            "--ioengine=nbd",
            &uri_argument,
            "--rw=randwrite",
            "--size=64M",
        ];
        arguments.extend([
            "--verify=crc32c",
            "--verify_fatal=1",
            "--verify_state_save=0",
            "--randseed=7",
            "--fsync=64",
            "--minimal",
        ]);
        arguments.extend(job.split(' '));
        run("fio", &arguments);
        lab.wait_for_release("v");
    }
    let mixed = format!("--uri={uri}");
    run(
        "fio",
        &[
            "--name=mixed",
            "--ioengine=nbd",
            &mixed,
            "--rw=randtrimwrite",
            "--bs=16k",
            "--size=64M",
            "--iodepth=8",
            "--minimal",
        ],
    );
    let counters = lab.server.counters();
    assert_eq!(counters.len(), 1);
    assert!(
        counters[0].flushes > 0 && counters[0].zeroes > 0 && counters[0].errors == 0,
        "{counters:?}"
    );
    assert!(counters[0].written_bytes > 100 * MIB, "{counters:?}");
}

#[test]
fn nbdkit_stands_between_without_a_difference() {
    let lab = Lab::new();
    let uri = lab.volume("v", 64 * MIB);
    let (source, target) = (lab.beside("source"), lab.beside("target"));
    let bytes = sparse_file(&source);
    let (plugin, there, back) = (
        format!("uri={uri}"),
        format!("nbdcopy --flush {} \"$uri\"", source.display()),
        format!("nbdcopy \"$uri\" {}", target.display()),
    );
    run(
        "nbdkit",
        &[
            "-U",
            "-",
            "--filter=blocksize",
            "nbd",
            &plugin,
            "minblock=4k",
            "--run",
            &there,
        ],
    );
    run(
        "nbdkit",
        &["-U", "-", "--filter=cow", "nbd", &plugin, "--run", &back],
    );
    assert!(std::fs::read(&target).unwrap() == bytes);
}
