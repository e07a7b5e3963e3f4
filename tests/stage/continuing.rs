//! Killed in the middle and run again: only what is missing travels.

use crate::harness::{Server, program};
use crate::peers::{Peer, Wire, noise, wait_until};
use crate::{elsewhere, foreign, json, read, text, with_bucket, write};
use rustix::process::Signal;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

/// Pieces that the journals below a home know.
fn pieces(home: &Path) -> usize {
    let folder = home.join(".local/state/infall/stage");
    let names = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let lines = |path: PathBuf| {
        std::fs::read_to_string(path)
            .unwrap_or_default()
            .lines()
            .count()
    };
    names.map(|name| lines(name.path()).saturating_sub(1)).sum()
}

/// Starts a copy from elsewhere than the server's own machine.
fn begin(server: &Server, words: &[&str]) -> (Child, PathBuf) {
    let (mut command, home) = elsewhere(server);
    let child = command
        .args(words)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    (child, home)
}

/// Lets some pieces arrive, then ends the copy by this signal.
fn cut(server: &Server, words: &[&str], signal: Signal) -> i32 {
    let (mut child, home) = begin(server, words);
    wait_until("four pieces have arrived", || {
        assert!(
            child.try_wait().unwrap().is_none(),
            "it was over before it could be cut"
        );
        pieces(&home) >= 4
    });
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), signal).unwrap();
    child.wait().unwrap().code().unwrap_or(-1)
}

/// A file that takes a while, and where it is to go, as another machine names it.
fn large(server: &Server, seed: u64) -> (PathBuf, String) {
    let source = server.scratch().join("big.raw");
    std::fs::write(&source, noise(TOTAL, seed)).unwrap();
    let target = format!("s3+{}/data/big.raw", server.endpoint());
    (source, target)
}

/// An upload that leaves time to cut it.
fn slowly<'a>(source: &'a Path, target: &'a str) -> [&'a str; 6] {
    let source = source.to_str().unwrap();
    ["stage", "put", source, target, "--bandwidth", "24MiB"]
}

const TOTAL: usize = (100 << 20) + 4321;
const FOUR_PIECES: u64 = 32 << 20;

#[test]
fn an_upload_killed_in_the_middle_sends_only_what_is_missing() {
    let server = with_bucket();
    let wire = Wire::to(server.endpoint().trim_start_matches("http://"));
    let source = server.scratch().join("big.raw");
    std::fs::write(&source, noise(TOTAL, 11)).unwrap();
    let target = format!("s3+http://{}/data/big.raw", wire.address);
    cut(
        &server,
        &[
            "stage",
            "put",
            &text(&source),
            &target,
            "--bandwidth",
            "24MiB",
        ],
        Signal::KILL,
    );
    wire.up();
    let put = json(foreign(
        &server,
        &[],
        &["stage", "put", &text(&source), &target, "--json"],
    ));
    let resumed = put["resumed_bytes"].as_u64().unwrap();
    assert!(resumed >= FOUR_PIECES, "{put}");
    let sent = wire.up();
    let missing = TOTAL as u64 - resumed;
    assert!(
        (missing..missing + (2 << 20)).contains(&sent),
        "{sent} of {missing}"
    );
    assert_eq!(pieces(&server.scratch().join("elsewhere")), 0);
    let back = server.scratch().join("back");
    server
        .infall(&["stage", "get", "s3://data/big.raw", &text(&back)])
        .ok();
    assert!(std::fs::read(&back).unwrap() == noise(TOTAL, 11));
    // Nothing unfinished is left at the server.
    assert!(
        !server
            .infall(&["events", "--json"])
            .ok()
            .contains("upload.aborted")
    );
}

#[test]
fn an_interrupted_upload_says_so_and_goes_on() {
    let server = with_bucket();
    let (source, target) = large(&server, 12);
    let words = slowly(&source, &target);
    assert_eq!(cut(&server, &words, Signal::INT), 12);
    server
        .infall(&[
            "stage",
            "get",
            "s3://data/big.raw",
            &text(&server.scratch().join("t")),
        ])
        .fails(4);
    let put = json(foreign(
        &server,
        &[],
        &["stage", "put", &text(&source), &target, "--json"],
    ));
    assert!(
        put["resumed_bytes"].as_u64().unwrap() >= FOUR_PIECES,
        "{put}"
    );
}

#[test]
fn a_source_that_changed_begins_anew_and_the_old_parts_go() {
    let server = with_bucket();
    let (source, target) = large(&server, 13);
    let words = slowly(&source, &target);
    cut(&server, &words, Signal::KILL);
    std::fs::write(&source, noise(TOTAL, 14)).unwrap();
    let put = json(foreign(
        &server,
        &[],
        &["stage", "put", &text(&source), &target, "--json"],
    ));
    assert_eq!(put["resumed_bytes"], 0, "{put}");
    assert!(
        server
            .infall(&["events", "--json"])
            .ok()
            .contains("upload.aborted")
    );
    let back = server.scratch().join("back");
    server
        .infall(&["stage", "get", "s3://data/big.raw", &text(&back)])
        .ok();
    assert!(std::fs::read(&back).unwrap() == noise(TOTAL, 14));
}

#[test]
fn a_download_killed_in_the_middle_fetches_only_what_is_missing_and_what_rotted() {
    let server = with_bucket();
    let wire = Wire::to(server.endpoint().trim_start_matches("http://"));
    let bytes = noise(TOTAL, 15);
    let source = server.scratch().join("big.raw");
    std::fs::write(&source, &bytes).unwrap();
    server
        .infall(&["stage", "put", &text(&source), "s3://data/big.raw"])
        .ok();
    let url = format!("s3+http://{}/data/big.raw", wire.address);
    let folder = server.scratch().join("in");
    std::fs::create_dir(&folder).unwrap();
    let target = folder.join("big.raw");
    cut(
        &server,
        &["stage", "get", &url, &text(&target), "--bandwidth", "24MiB"],
        Signal::KILL,
    );
    assert!(!target.exists());
    // A bit of the first piece turns over while nobody looks.
    let grown = folder.join(".big.raw.infall-partial");
    let mut half = std::fs::read(&grown).unwrap();
    half[12_345] ^= 1;
    std::fs::write(&grown, half).unwrap();
    wire.down();
    let got = json(foreign(
        &server,
        &[],
        &["stage", "get", &url, &text(&target), "--json"],
    ));
    let resumed = got["resumed_bytes"].as_u64().unwrap();
    assert!(
        resumed >= FOUR_PIECES - (8 << 20) && resumed < TOTAL as u64,
        "{got}"
    );
    let came = wire.down();
    let missing = TOTAL as u64 - resumed;
    assert!(
        (missing..missing + (2 << 20)).contains(&came),
        "{came} of {missing}"
    );
    assert!(read(&folder) == [("big.raw".to_owned(), bytes)]);
}

#[test]
fn a_copy_between_two_servers_goes_on_without_reading_what_arrived() {
    let (one, other) = (with_bucket(), with_bucket());
    let bytes = noise(TOTAL, 16);
    let source = one.scratch().join("big.raw");
    std::fs::write(&source, &bytes).unwrap();
    one.infall(&["stage", "put", &text(&source), "s3://data/big.raw"])
        .ok();
    let (from, to) = (
        Wire::to(one.endpoint().trim_start_matches("http://")),
        other.endpoint(),
    );
    let (source, target) = (
        format!("s3+http://{}/data/big.raw", from.address),
        format!("s3+{to}/data/copy.raw"),
    );
    let (access, secret) = other.credentials();
    let keys = [
        ("INFALL_TARGET_ACCESS_KEY", access.as_str()),
        ("INFALL_TARGET_SECRET_KEY", secret.as_str()),
    ];
    let home = one.scratch().join("elsewhere");
    std::fs::create_dir_all(&home).unwrap();
    let (own, own_secret) = one.credentials();
    let mut command = program(&home);
    command
        .env("AWS_ACCESS_KEY_ID", own)
        .env("AWS_SECRET_ACCESS_KEY", own_secret)
        .env("AWS_REGION", "infall");
    command
        .envs(keys)
        .args(["stage", "put", &source, &target, "--bandwidth", "24MiB"]);
    let mut child = command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_until("four pieces have arrived", || {
        assert!(
            child.try_wait().unwrap().is_none(),
            "it was over before it could be cut"
        );
        pieces(&home) >= 4
    });
    child.kill().unwrap();
    child.wait().unwrap();
    from.down();
    let put = json(foreign(
        &one,
        &keys,
        &["stage", "put", &source, &target, "--json"],
    ));
    let resumed = put["resumed_bytes"].as_u64().unwrap();
    assert!(resumed >= FOUR_PIECES, "{put}");
    let missing = TOTAL as u64 - resumed;
    let came = from.down();
    assert!(
        (missing..missing + (2 << 20)).contains(&came),
        "{came} of {missing}"
    );
    let back = other.scratch().join("back");
    other
        .infall(&["stage", "get", "s3://data/copy.raw", &text(&back)])
        .ok();
    assert!(std::fs::read(&back).unwrap() == bytes);
}

#[test]
fn a_download_from_a_web_server_goes_on_where_it_gives_ranges() {
    let server = with_bucket();
    let folder = server.scratch().join("web");
    write(&folder, &[("big.raw", &noise(TOTAL, 17))]);
    let peer = Peer::rclone_http(&folder);
    let wire = Wire::to(&peer.address);
    let url = format!("http://{}/big.raw", wire.address);
    let target = server.scratch().join("big.raw");
    cut(
        &server,
        &["stage", "get", &url, &text(&target), "--bandwidth", "24MiB"],
        Signal::KILL,
    );
    wire.down();
    let got = json(foreign(
        &server,
        &[],
        &["stage", "get", &url, &text(&target), "--json"],
    ));
    let missing = TOTAL as u64 - got["resumed_bytes"].as_u64().unwrap();
    let came = wire.down();
    assert!(
        missing <= TOTAL as u64 - FOUR_PIECES && came < missing + (2 << 20),
        "{came} {got}"
    );
    assert!(std::fs::read(&target).unwrap() == noise(TOTAL, 17));
}

#[test]
fn a_tree_cut_short_is_finished_by_the_same_command() {
    let server = with_bucket();
    let tree = server.scratch().join("tree");
    for name in ["a", "b", "c", "d", "e", "f"] {
        write(
            &tree,
            &[(name, &noise(4 << 20, u64::from(name.as_bytes()[0])))],
        );
    }
    let words = ["stage", "put", &text(&tree), "s3://data/t/"];
    let mut command = program(server.scratch());
    command.arg("--data").arg(server.data()).args(words).args([
        "--bandwidth",
        "4MiB",
        "--jobs",
        "1",
    ]);
    let mut child = command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_until("two files have arrived", || {
        let list = server.infall(&[
            "stage",
            "get",
            "s3://data/t/",
            "/nowhere/x",
            "--dry-run",
            "--json",
        ]);
        list.code == 0
            && serde_json::from_str::<serde_json::Value>(&list.stdout).unwrap()["planned"]
                .as_array()
                .unwrap()
                .len()
                >= 2
    });
    child.kill().unwrap();
    child.wait().unwrap();
    let put = server.json(&words);
    let (copied, same) = (
        put["copied"].as_array().unwrap().len(),
        put["same"].as_array().unwrap().len(),
    );
    assert!(same >= 2 && copied + same == 6, "{put}");
}

#[test]
fn two_runs_do_not_write_to_one_target() {
    let server = with_bucket();
    let (source, target) = large(&server, 18);
    let words = slowly(&source, &target);
    let (mut child, home) = begin(&server, &words);
    wait_until("a piece has arrived", || pieces(&home) >= 1);
    let said = foreign(&server, &[], &["stage", "put", &text(&source), &target]).fails(5);
    assert!(said.contains("another run"), "{said}");
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_server_that_dies_and_comes_back_costs_a_pause() {
    let mut server = with_bucket();
    let (source, target) = large(&server, 19);
    let words = slowly(&source, &target);
    let (mut child, home) = begin(&server, &words);
    wait_until("two pieces have arrived", || pieces(&home) >= 2);
    server.kill();
    server.restart();
    assert!(child.wait().unwrap().success());
    let back = server.scratch().join("back");
    server
        .infall(&["stage", "get", "s3://data/big.raw", &text(&back)])
        .ok();
    assert!(std::fs::read(&back).unwrap() == noise(TOTAL, 19));
}
