//! What QEMU shows of a file is what we show.

use crate::qemu::{
    FileAt, as_qemu_shows, as_we_show, folder_with_disk, id_of_qcow2, id_of_raw, qemu_img, qemu_io,
    random, runs, seed,
};
use blockstore::image::qcow2::Qcow2;
use blockstore::image::run::RunKind;
use rand::Rng;
use rand::rngs::StdRng;
use std::path::{Path, PathBuf};

/// Not a multiple of any cluster size but 512.
const DISK_BYTES: usize = (9 << 20) + 5 * 4096 + 512;

fn convert(raw: &Path, name: &str, options: &str, compress: bool) -> PathBuf {
    let qcow2 = raw.with_file_name(format!("{name}.qcow2"));
    let mut arguments = vec!["convert", "-f", "raw", "-O", "qcow2", "-o", options];
    if compress {
        arguments.push("-c");
    }
    arguments.extend([raw.to_str().unwrap(), qcow2.to_str().unwrap()]);
    qemu_img(&arguments);
    qcow2
}

fn assert_same(file: &Path, what: &str) {
    let shown =
        as_we_show(&FileAt::open(file)).unwrap_or_else(|problem| panic!("{what}: {problem:?}"));
    let want = as_qemu_shows(file);
    assert_eq!(shown.len(), want.len(), "{what}");
    let differs = shown
        .iter()
        .zip(&want)
        .position(|(ours, theirs)| ours != theirs);
    assert_eq!(
        differs, None,
        "{what}: the first byte that differs from QEMU's"
    );
}

#[test]
fn files_that_qemu_converts_read_as_qemu_reads_them_and_give_the_id_of_the_raw_disk() {
    let (_folder, raw, bytes) = folder_with_disk(&mut random(seed()), DISK_BYTES);
    let id = id_of_raw(&FileAt::open(&raw)).unwrap();
    let mut cases = Vec::new();
    for cluster in ["512", "1k", "4k", "64k", "256k", "2M"] {
        for compat in ["0.10", "1.1"] {
            cases.push((format!("compat={compat},cluster_size={cluster}"), false));
            cases.push((format!("compat={compat},cluster_size={cluster}"), true));
        }
        cases.push((
            format!("cluster_size={cluster},compression_type=zstd"),
            true,
        ));
    }
    for preallocation in ["metadata", "falloc", "full"] {
        cases.push((format!("preallocation={preallocation}"), false));
        cases.push((
            format!("compat=0.10,cluster_size=4k,preallocation={preallocation}"),
            false,
        ));
    }
    for refcount_bits in [1, 64] {
        cases.push((format!("refcount_bits={refcount_bits}"), false));
    }
    cases.push(("lazy_refcounts=on".into(), false));
    for cluster in ["16k", "64k", "2M"] {
        cases.push((format!("extended_l2=on,cluster_size={cluster}"), false));
        cases.push((
            format!("extended_l2=on,cluster_size={cluster},compression_type=zstd"),
            true,
        ));
        cases.push((
            format!("extended_l2=on,cluster_size={cluster},preallocation=metadata"),
            false,
        ));
    }
    for (index, (options, compress)) in cases.iter().enumerate() {
        let what = format!("{options}, compressed: {compress}");
        let qcow2 = convert(&raw, &index.to_string(), options, *compress);
        let file = FileAt::open(&qcow2);
        assert!(
            as_we_show(&file).unwrap_or_else(|problem| panic!("{what}: {problem:?}")) == bytes,
            "{what}"
        );
        assert_eq!(id_of_qcow2(&file).unwrap(), id, "{what}");
        let packed = runs(&Qcow2::open(&file).unwrap())
            .unwrap()
            .iter()
            .any(|run| matches!(run.kind, RunKind::Compressed { .. }));
        assert_eq!(packed, *compress, "{what}");
        std::fs::remove_file(&qcow2).unwrap();
    }
}

/// Random guest writes, zeroes and discards at any multiple of 512.
fn guest_commands(random: &mut StdRng, disk_bytes: u64, count: usize, zeroes: bool) -> Vec<String> {
    (0..count)
        .map(|_| {
            let offset = random.random_range(0..disk_bytes / 512 - 1) * 512;
            let length = (random.random_range(1..=400_u64) * 512).min(disk_bytes - offset);
            match random.random_range(0..10) {
                0 if zeroes => format!("write -z {offset} {length}"),
                1 if zeroes => format!("write -z -u {offset} {length}"),
                2 => format!("discard {offset} {length}"),
                _ => format!("write -P {} {offset} {length}", random.random_range(1..256)),
            }
        })
        .collect()
}

#[test]
fn files_that_guests_wrote_to_read_as_qemu_reads_them() {
    let seed = seed();
    for (round, options) in [
        "cluster_size=512",
        "compat=0.10,cluster_size=4k",
        "cluster_size=64k",
        "cluster_size=64k,extended_l2=on",
        "cluster_size=16k,extended_l2=on",
        "cluster_size=64k,preallocation=metadata,lazy_refcounts=on",
        "cluster_size=2M,extended_l2=on",
        "cluster_size=2M,preallocation=falloc",
    ]
    .into_iter()
    .enumerate()
    {
        let mut random = random(seed.wrapping_add(round as u64));
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("disk.qcow2");
        let disk_bytes = 40 << 20;
        qemu_img(&[
            "create",
            "-q",
            "-f",
            "qcow2",
            "-o",
            options,
            file.to_str().unwrap(),
            &disk_bytes.to_string(),
        ]);
        assert_same(&file, &format!("{options}, empty"));
        let zeroes = !options.contains("0.10");
        for _ in 0..3 {
            qemu_io(
                &file,
                &guest_commands(&mut random, disk_bytes, 40, zeroes),
                false,
            );
            assert_same(&file, options);
        }
    }
}

#[test]
fn compressed_clusters_that_were_partly_overwritten_read_as_qemu_reads_them() {
    let seed = seed();
    let mut random = random(seed);
    let (_folder, raw, _) = folder_with_disk(&mut random, DISK_BYTES);
    for (name, options) in [
        ("plain", "cluster_size=64k"),
        ("sub", "extended_l2=on,compression_type=zstd"),
        ("large", "cluster_size=2M"),
    ] {
        let qcow2 = convert(&raw, name, options, true);
        qemu_io(
            &qcow2,
            &guest_commands(&mut random, DISK_BYTES as u64, 60, true),
            false,
        );
        assert_same(&qcow2, options);
    }
}

#[test]
fn internal_snapshots_are_left_out_and_said() {
    let mut random = random(seed());
    let (_folder, raw, bytes) = folder_with_disk(&mut random, DISK_BYTES);
    let qcow2 = convert(&raw, "snapshots", "cluster_size=64k", false);
    let path = qcow2.to_str().unwrap();
    qemu_img(&["snapshot", "-c", "first", path]);
    qemu_io(
        &qcow2,
        &guest_commands(&mut random, DISK_BYTES as u64, 30, true),
        false,
    );
    qemu_img(&["snapshot", "-c", "second", path]);
    qemu_io(
        &qcow2,
        &guest_commands(&mut random, DISK_BYTES as u64, 30, true),
        false,
    );
    assert_same(&qcow2, "with snapshots");
    let file = FileAt::open(&qcow2);
    assert_ne!(as_we_show(&file).unwrap(), bytes);
    let notes = Qcow2::open(&file).unwrap().header().notes.join("; ");
    assert!(notes.contains("2 internal snapshots"), "{notes}");
}

#[test]
fn a_file_that_was_not_closed_is_read_and_said_to_be_dirty() {
    let mut random = random(seed());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("dirty.qcow2");
    let disk_bytes = 16 << 20;
    qemu_img(&[
        "create",
        "-q",
        "-f",
        "qcow2",
        "-o",
        "lazy_refcounts=on",
        file.to_str().unwrap(),
        &disk_bytes.to_string(),
    ]);
    let mut commands = guest_commands(&mut random, disk_bytes, 30, true);
    commands.push("flush".into());
    qemu_io(&file, &commands, true);
    let notes = Qcow2::open(&FileAt::open(&file))
        .unwrap()
        .header()
        .notes
        .join("; ");
    assert!(notes.contains("dirty"), "{notes}");
    assert_same(&file, "dirty");
}

#[test]
fn adjoining_clusters_are_one_run() {
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("disk.raw");
    std::fs::write(&raw, vec![7; 8 << 20]).unwrap();
    for options in [
        "cluster_size=64k",
        "cluster_size=64k,preallocation=metadata,extended_l2=on",
    ] {
        let qcow2 = convert(&raw, "one", options, false);
        let file = FileAt::open(&qcow2);
        let runs = runs(&Qcow2::open(&file).unwrap()).unwrap();
        assert!(runs.len() <= 3, "{options}: {runs:?}");
    }
}

#[test]
fn a_large_sparse_disk_costs_only_what_is_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sparse.qcow2");
    qemu_img(&["create", "-q", "-f", "qcow2", path.to_str().unwrap(), "1T"]);
    let writes: Vec<String> = (0..64)
        .map(|at| format!("write -P 5 {} 1M", at * (16_u64 << 30) + 65536))
        .collect();
    qemu_io(&path, &writes, false);
    let begin = std::time::Instant::now();
    id_of_qcow2(&FileAt::open(&path)).unwrap();
    assert!(begin.elapsed().as_secs() < 10, "{:?}", begin.elapsed());
}
