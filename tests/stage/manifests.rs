//! Manifests: written, compared, and held to before anything appears.

use crate::peers::noise;
use crate::{read, text, with_bucket, write};

#[test]
fn a_manifest_names_every_file_with_its_sha256() {
    let server = with_bucket();
    let (tree, manifest) = (server.scratch().join("tree"), server.scratch().join("m"));
    write(
        &tree,
        &[
            ("a/b", b"abc"),
            ("big", &noise(20 << 20, 1)),
            ("empty", b""),
        ],
    );
    let put = [
        "stage",
        "put",
        &text(&tree),
        "s3://data/",
        "--manifest",
        &text(&manifest),
    ];
    server.infall(&put).ok();
    let first = std::fs::read_to_string(&manifest).unwrap();
    let lines: Vec<serde_json::Value> = first
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 3);
    assert_eq!(lines[0]["path"], "a/b");
    assert_eq!(lines[0]["size"], 3);
    // FIPS 180-4's own example.
    assert_eq!(
        lines[0]["sha256"],
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    );
    assert!(lines.iter().all(|line| line["etag"].is_string()), "{first}");
    // What is there already is in the next one as well.
    server.infall(&put).ok();
    assert_eq!(std::fs::read_to_string(&manifest).unwrap(), first);
    server
        .infall(&[
            "stage",
            "verify",
            "s3://data/",
            "--against",
            &text(&manifest),
        ])
        .ok();
    server
        .infall(&[
            "stage",
            "verify",
            &text(&tree),
            "--against",
            &text(&manifest),
        ])
        .ok();
    let back = server.scratch().join("back");
    server
        .infall(&[
            "stage",
            "get",
            "s3://data/",
            &text(&back),
            "--against",
            &text(&manifest),
        ])
        .ok();
    assert!(read(&back) == read(&tree));
}

#[test]
fn what_a_manifest_does_not_say_does_not_appear() {
    let server = with_bucket();
    let (tree, manifest) = (server.scratch().join("tree"), server.scratch().join("m"));
    write(&tree, &[("a", b"abc"), ("big", &noise(20 << 20, 1))]);
    server
        .infall(&[
            "stage",
            "put",
            &text(&tree),
            "s3://data/",
            "--manifest",
            &text(&manifest),
        ])
        .ok();
    write(&tree, &[("big", &noise(20 << 20, 2)), ("more", b"m")]);
    server
        .infall(&[
            "stage",
            "put",
            &text(&tree),
            "s3://data/",
            "--existing",
            "replace",
        ])
        .ok();
    let back = server.scratch().join("back");
    let get = [
        "stage",
        "get",
        "s3://data/",
        &text(&back),
        "--against",
        &text(&manifest),
    ];
    let said = server.infall(&get).fails(8);
    assert!(said.contains("manifest"), "{said}");
    assert!(read(&back) == [("a".to_owned(), b"abc".to_vec())]);
    // Into a store it is the same.
    server.infall(&["bucket", "create", "other"]).ok();
    let copy = [
        "stage",
        "put",
        &text(&tree),
        "s3://other/",
        "--against",
        &text(&manifest),
    ];
    server.infall(&copy).fails(8);
    server
        .infall(&[
            "stage",
            "get",
            "s3://other/big",
            &text(&server.scratch().join("b")),
        ])
        .fails(4);
    std::fs::remove_file(tree.join("a")).unwrap();
    let said = server
        .infall(&[
            "stage",
            "verify",
            &text(&tree),
            "--against",
            &text(&manifest),
        ])
        .fails(8);
    assert!(said.contains("3 of 3"), "{said}");
    let said = server
        .infall(&[
            "stage",
            "put",
            &text(&tree),
            "s3://other/",
            "--against",
            &text(&manifest),
        ])
        .fails(8);
    assert!(said.contains("\"a\""), "{said}");
}
