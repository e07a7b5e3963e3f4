//! What cannot be shown as QEMU shows it is refused by name.

use crate::qemu::{Bytes, FileAt, as_we_show, content, qemu_img, random, runs};
use blockstore::image::qcow2::Qcow2;
use blockstore::{Error, Kind};
use std::path::{Path, PathBuf};

fn made(folder: &tempfile::TempDir, arguments: &[&str]) -> PathBuf {
    let path = folder.path().join("refused.qcow2");
    let mut all = vec!["create", "-q", "-f", "qcow2"];
    all.extend_from_slice(arguments);
    all.extend([path.to_str().unwrap(), "1M"]);
    qemu_img(&all);
    path
}

fn refusal(path: &Path) -> Error {
    as_we_show(&FileAt::open(path)).unwrap_err()
}

#[test]
fn a_backing_file_is_refused_with_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let base = folder.path().join("the-base.img");
    std::fs::write(&base, vec![1; 1 << 20]).unwrap();
    let error = refusal(&made(&folder, &["-b", base.to_str().unwrap(), "-F", "raw"]));
    assert_eq!(error.kind(), Kind::Unsupported);
    let text = error.to_string();
    assert!(
        text.contains("backing file")
            && text.contains("the-base.img")
            && text.contains("qemu-img convert"),
        "{text}"
    );
}

#[test]
fn an_external_data_file_is_refused_with_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("the-data.img");
    let error = refusal(&made(
        &folder,
        &["-o", &format!("data_file={}", data.display())],
    ));
    assert_eq!(error.kind(), Kind::Unsupported);
    let text = error.to_string();
    assert!(
        text.contains("external data file") && text.contains("the-data.img"),
        "{text}"
    );
}

#[test]
fn encryption_is_refused_by_its_method() {
    for (format, name) in [("luks", "LUKS"), ("aes", "AES")] {
        let folder = tempfile::tempdir().unwrap();
        let options = format!("encrypt.format={format},encrypt.key-secret=key");
        let error = refusal(&made(
            &folder,
            &["--object", "secret,id=key,data=abc", "-o", &options],
        ));
        assert_eq!(error.kind(), Kind::Unsupported);
        assert!(error.to_string().contains(name), "{error}");
    }
}

/// A small sound file with 64 KiB clusters, some of them written.
pub(crate) fn sound(options: &str) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("disk.raw");
    std::fs::write(&raw, content(&mut random(7), 1 << 20)).unwrap();
    let path = folder.path().join("sound.qcow2");
    qemu_img(&[
        "convert",
        "-f",
        "raw",
        "-O",
        "qcow2",
        "-o",
        options,
        raw.to_str().unwrap(),
        path.to_str().unwrap(),
    ]);
    std::fs::read(&path).unwrap()
}

fn number(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn set(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_be_bytes());
}

fn set_word(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
}

fn outcome(bytes: &[u8]) -> (Kind, String) {
    match as_we_show(&Bytes(bytes)) {
        Ok(_) => panic!("the file was accepted"),
        Err(error) => (error.kind(), error.chain()),
    }
}

#[test]
fn wrong_header_fields_are_refused_with_their_values() {
    type Change = fn(&mut Vec<u8>);
    let cases: [(&str, Kind, Change, &[&str]); 28] = [
        ("magic", Kind::Invalid, |file| file[0] = b'X', &["584649fb"]),
        (
            "qcow 1",
            Kind::Unsupported,
            |file| set_word(file, 4, 1),
            &["version 1"],
        ),
        (
            "version",
            Kind::Unsupported,
            |file| set_word(file, 4, 4),
            &["version 4"],
        ),
        (
            "small clusters",
            Kind::Invalid,
            |file| set_word(file, 20, 8),
            &["cluster_bits is 8"],
        ),
        (
            "large clusters",
            Kind::Invalid,
            |file| set_word(file, 20, 22),
            &["cluster_bits is 22"],
        ),
        (
            "cluster bits beyond a shift",
            Kind::Invalid,
            |file| set_word(file, 20, u32::MAX),
            &["cluster_bits"],
        ),
        (
            "odd size",
            Kind::Invalid,
            |file| set(file, 24, 1000),
            &["1000"],
        ),
        (
            "larger than 64 TiB",
            Kind::Unsupported,
            |file| set(file, 24, (64 << 40) + 512),
            &["64 TiB"],
        ),
        (
            "largest size there is",
            Kind::Unsupported,
            |file| set(file, 24, u64::MAX - 511),
            &["64 TiB"],
        ),
        (
            "L1 too small",
            Kind::Invalid,
            |file| set(file, 24, 1 << 40),
            &["L1 table has 1 entries"],
        ),
        (
            "L1 too large",
            Kind::Invalid,
            |file| set_word(file, 36, u32::MAX),
            &["4294967295 entries"],
        ),
        (
            "L1 over the end",
            Kind::Invalid,
            |file| set_word(file, 36, 4 << 20),
            &["L1 table", "file ends at"],
        ),
        (
            "L1 unaligned",
            Kind::Invalid,
            |file| set(file, 40, 0x30200),
            &["L1 table", "0x30200"],
        ),
        (
            "L1 in the header",
            Kind::Invalid,
            |file| set(file, 40, 0),
            &["L1 table", "0x0"],
        ),
        (
            "L1 outside",
            Kind::Invalid,
            |file| set(file, 40, 1 << 62),
            &["L1 table", "0x4000000000000000"],
        ),
        (
            "L1 overflows",
            Kind::Invalid,
            |file| set(file, 40, u64::MAX << 16),
            &["L1 table"],
        ),
        (
            "refcounts outside",
            Kind::Invalid,
            |file| set(file, 48, 1 << 40),
            &["refcount table"],
        ),
        (
            "refcounts missing",
            Kind::Invalid,
            |file| set_word(file, 56, 0),
            &["refcount table has 0 clusters"],
        ),
        (
            "refcounts huge",
            Kind::Invalid,
            |file| set_word(file, 56, u32::MAX),
            &["refcount table"],
        ),
        (
            "refcounts on the L1 table",
            Kind::Invalid,
            |file| {
                let l1 = number(file, 40);
                set(file, 48, l1);
            },
            &["share the cluster"],
        ),
        (
            "snapshots",
            Kind::Invalid,
            |file| set_word(file, 60, 65537),
            &["65537 internal snapshots"],
        ),
        (
            "snapshots outside",
            Kind::Invalid,
            |file| {
                set_word(file, 60, 1);
                set(file, 64, 1 << 50);
            },
            &["snapshot table"],
        ),
        (
            "header length",
            Kind::Invalid,
            |file| set_word(file, 100, 70_000),
            &["header_length is 70000"],
        ),
        (
            "header length off",
            Kind::Invalid,
            |file| set_word(file, 100, 107),
            &["header_length is 107"],
        ),
        (
            "refcount order",
            Kind::Invalid,
            |file| set_word(file, 96, 7),
            &["refcount_order is 7"],
        ),
        (
            "corrupt bit",
            Kind::Invalid,
            |file| file[79] |= 2,
            &["marked corrupt", "qemu-img check"],
        ),
        (
            "compression type without its bit",
            Kind::Invalid,
            |file| file[104] = 1,
            &["compression_type is 1"],
        ),
        (
            "extension too long",
            Kind::Invalid,
            |file| set_word(file, 116, u32::MAX),
            &["header extension", "file offset 112"],
        ),
    ];
    let sound = sound("compat=1.1");
    assert!(as_we_show(&Bytes(&sound)).is_ok());
    for (what, kind, change, words) in cases {
        let mut file = sound.clone();
        change(&mut file);
        let (found, text) = outcome(&file);
        assert_eq!(found, kind, "{what}: {text}");
        for word in words {
            assert!(text.contains(word), "{what}: {text}");
        }
    }
}

#[test]
fn compression_types_and_unknown_features_are_refused_by_name() {
    let sound = sound("compat=1.1,compression_type=zstd");
    let mut file = sound.clone();
    file[104] = 2;
    let (kind, text) = outcome(&file);
    assert!(
        kind == Kind::Unsupported && text.contains("compression_type 2"),
        "{text}"
    );
    file[104] = 0;
    assert!(outcome(&file).1.contains("compression_type is 0"));
    let mut file = sound.clone();
    file[78] |= 1 << 4;
    let (kind, text) = outcome(&file);
    assert!(
        kind == Kind::Unsupported && text.contains("bit 12") && text.contains("does not name"),
        "{text}"
    );
    // The feature name table that QEMU writes names bit 0 first: let it name bit 12.
    let names = sound
        .windows(9)
        .position(|name| name == b"dirty bit")
        .unwrap();
    file[names - 1] = 12;
    assert!(outcome(&file).1.contains("bit 12 (\"dirty bit\")"));
}

#[test]
fn wrong_table_entries_are_refused_with_their_place_and_value() {
    let sound = sound("compat=1.1");
    let l1 = usize::try_from(number(&sound, 40)).unwrap();
    let l2 = usize::try_from(number(&sound, l1) & 0x00ff_ffff_ffff_fe00).unwrap();
    let first = (0..16)
        .find(|index| number(&sound, l2 + index * 8) != 0)
        .unwrap();
    let entry = l2 + first * 8;
    let other = (first + 1..16)
        .find(|index| number(&sound, l2 + index * 8) != 0)
        .unwrap();
    let stored = number(&sound, entry);
    let cases = [
        (
            "L1 reserved",
            l1,
            number(&sound, l1) | 1,
            "reserved bits 0x1",
        ),
        ("L2 table outside", l1, 1 << 63 | 1 << 50, "file's end"),
        (
            "L2 table unaligned",
            l1,
            1 << 63 | 0x5_0200,
            "not a multiple",
        ),
        (
            "L2 table is the L1 table",
            l1,
            1 << 63 | l1 as u64,
            "in use already",
        ),
        ("L2 table is the header", l2, l2 as u64, "in use already"),
        ("reserved bits", entry, stored | 2, "reserved bits 0x2"),
        (
            "high reserved bits",
            entry,
            stored | 1 << 60,
            "reserved bits",
        ),
        ("data outside", entry, 1 << 63 | 1 << 55, "file's end"),
        ("data unaligned", entry, stored | 0x200, "not a multiple"),
        (
            "data is the L2 table",
            entry,
            1 << 63 | l2 as u64,
            "in use already",
        ),
        (
            "data shown twice",
            entry,
            number(&sound, l2 + other * 8),
            "in use already",
        ),
        ("in use at no place", entry, 1 << 63, "no place"),
        (
            "compressed outside",
            entry,
            1 << 62 | 1 << 50,
            "behind the file's end",
        ),
        (
            "compressed nonsense",
            entry,
            1 << 62 | (stored & 0xffff_fe00),
            "does not unpack",
        ),
    ];
    for (what, at, value, words) in cases {
        let mut file = sound.clone();
        set(&mut file, at, value);
        let (kind, text) = outcome(&file);
        assert_eq!(kind, Kind::Invalid, "{what}: {text}");
        assert!(text.contains(words), "{what}: {text}");
        if !text.contains("does not unpack") {
            assert!(
                text.contains("entry") && text.contains(&format!("{value:#018x}")),
                "{what}: {text}"
            );
        }
    }
}

#[test]
fn a_cut_file_is_refused_where_a_guest_would_miss_bytes() {
    let sound = sound("compat=1.1");
    assert!(
        as_we_show(&Bytes(&sound[..sound.len() - 1]))
            .unwrap_err()
            .to_string()
            .contains("Is the upload complete?")
    );
    for length in [0, 3, 71, 100, 104, 511, 65536, sound.len() / 2] {
        let error = as_we_show(&Bytes(&sound[..length])).unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid, "{length}: {error}");
    }
}

#[test]
fn what_the_guest_does_not_see_of_the_last_cluster_may_be_missing() {
    let mut file = sound("compat=1.1,preallocation=full");
    // The disk now ends 512 bytes into its last cluster, and so does the file.
    let cluster = 65536;
    set(&mut file, 24, (1 << 20) - cluster + 512);
    let want = as_we_show(&Bytes(&file)).unwrap();
    let last = {
        let bytes = Bytes(&file);
        let qcow2 = Qcow2::open(&bytes).unwrap();
        *runs(&qcow2).unwrap().last().unwrap()
    };
    let blockstore::image::run::RunKind::Stored { file_offset } = last.kind else {
        panic!("{last:?}")
    };
    let end = usize::try_from(file_offset + last.length).unwrap();
    if end + usize::try_from(cluster).unwrap() - 512 >= file.len() {
        assert_eq!(as_we_show(&Bytes(&file[..end])).unwrap(), want);
        assert!(as_we_show(&Bytes(&file[..end - 1])).is_err());
    } else {
        panic!("preallocation=full did not put the last cluster last");
    }
}
