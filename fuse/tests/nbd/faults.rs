//! Clients that are killed, compete, or speak no NBD.

use crate::lab::{Lab, MIB, attempt, run};
use crate::raw::Raw;
use fuse::nbd::codec::numbers::Errno;
use fuse::nbd::codec::request::Command as Nbd;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::Duration;

#[test]
fn a_second_process_may_read_but_not_write_until_the_first_has_left() {
    let lab = Lab::new();
    let uri = lab.volume("v", 16 * MIB);
    let mut first = Raw::attach(&lab, "v");
    // Two connections of one process share the token.
    let mut sister = Raw::attach(&lab, "v");
    assert_eq!(first.write(0, b"first"), None);
    assert_eq!(sister.write(8, b"sister"), None);
    let holder = lab.store.volume_open("v").unwrap().holder().unwrap();
    assert!(
        holder.starts_with(&format!("pid {} (", std::process::id())),
        "{holder}"
    );

    let second = attempt("qemu-io", &["-f", "raw", &uri, "-c", "write -P 1 0 4096"]);
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&second.stdout),
        String::from_utf8_lossy(&second.stderr)
    );
    assert!(said.contains("Operation not permitted"), "{said}");
    run("qemu-io", &["-f", "raw", "-r", &uri, "-c", "read 0 16M"]);
    assert_eq!(lab.read("v", 0, 5), b"first");

    drop(first);
    assert_eq!(sister.write(8, b"still mine"), None);
    drop(sister);
    // At once: the server waits a little for the one who is leaving.
    let out = run(
        "qemu-io",
        &[
            "-f",
            "raw",
            &uri,
            "-c",
            "write -P 1 0 4096",
            "-c",
            "read -P 1 0 4096",
        ],
    );
    assert!(!out.contains("failed"), "{out}");
}

#[test]
fn a_refused_write_says_who_holds_the_volume() {
    let lab = Lab::new();
    lab.volume("v", MIB);
    let held = lab.store.volume_open("v").unwrap();
    let token = held.writer("the night shift").unwrap();
    let mut raw = Raw::attach(&lab, "v");
    let (errno, message) = raw.write(0, b"no").unwrap();
    assert_eq!(errno, Errno::Perm);
    assert!(message.contains("the night shift"), "{message}");
    // Reads and flushes go on.
    assert_eq!(raw.ask(Nbd::Flush, 0, 0, &[]), None);
    drop(token);
    assert_eq!(raw.write(0, b"yes"), None);
}

#[test]
fn a_client_killed_in_mid_write_leaves_the_volume_to_the_next() {
    let lab = Lab::new();
    let uri = lab.volume("v", 64 * MIB);
    for _ in 0..5 {
        let uri_argument = format!("--uri={uri}");
        let mut fio = Command::new("fio")
            .args([
                "--name=killed",
                "--ioengine=nbd",
                &uri_argument,
                "--rw=randwrite",
                "--bs=64k",
                "--iodepth=16",
            ])
            .args(["--size=64M", "--time_based", "--runtime=60", "--thread"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let volume = lab.store.volume_open("v").unwrap();
        while volume.holder().is_none() {
            std::thread::sleep(Duration::from_millis(5));
        }
        std::thread::sleep(Duration::from_millis(100));
        fio.kill().unwrap();
        fio.wait().unwrap();
        run(
            "qemu-io",
            &[
                "-f",
                "raw",
                &uri,
                "-c",
                "write -P 3 0 1M",
                "-c",
                "read -P 3 0 1M",
            ],
        );
        lab.wait_for_release("v");
    }
    let report = lab.store.check(true).unwrap();
    assert_eq!(report.problems, Vec::<String>::new());
}

#[test]
fn garbage_is_no_harm_to_those_who_speak_nbd() {
    let lab = Lab::new();
    let uri = lab.volume("v", MIB);
    let mut good = Raw::attach(&lab, "v");
    assert_eq!(good.write(0, b"before"), None);
    for seed in 0..50 {
        let mut stream = UnixStream::connect(lab.socket()).unwrap();
        // The server may close before it has read everything.
        let _ = stream.write_all(&crate::lab::noise(seed, 3000));
    }
    let mut bad = Raw::attach(&lab, "v");
    bad.stream.write_all(&[0xA5; 28]).unwrap();
    assert!(bad.is_closed());
    let mut half = Raw::attach(&lab, "v");
    half.send(Nbd::Write, 0, 4096, &[1; 100]);
    drop(half);
    assert_eq!(good.write(6, b" and after"), None);
    run("nbdinfo", &[&uri]);
    assert_eq!(lab.read("v", 0, 16), b"before and after");
}

#[test]
fn reads_past_the_end_are_refused_and_the_connection_lives() {
    let lab = Lab::new();
    lab.volume("v", MIB);
    let mut raw = Raw::attach(&lab, "v");
    assert_eq!(
        raw.ask(Nbd::Read, MIB - 1, 2, &[]).map(|(errno, _)| errno),
        Some(Errno::Inval)
    );
    assert_eq!(
        raw.ask(Nbd::Read, u64::MAX, u32::MAX, &[])
            .map(|(errno, _)| errno),
        Some(Errno::Inval)
    );
    assert_eq!(
        raw.write(MIB - 1, b"xy").map(|(errno, _)| errno),
        Some(Errno::NoSpc)
    );
    assert_eq!(raw.write(MIB - 1, b"z"), None);
}

#[test]
fn a_stopped_server_leaves_no_socket_and_its_successor_serves_on() {
    let lab = Lab::new();
    let uri = lab.volume("v", MIB);
    run("qemu-io", &["-f", "raw", &uri, "-c", "write -P 5 0 1M"]);
    let path = lab.socket().to_owned();
    lab.server.stop();
    assert!(!path.exists());
    assert!(!attempt("nbdinfo", &[&uri]).status.success());
    let listener = fuse::nbd::Listener::unix(&path, 0o600, None, fuse::nbd::Exports::All).unwrap();
    let _next = fuse::nbd::serve(lab.store.clone(), listener).unwrap();
    run(
        "qemu-io",
        &["-f", "raw", "-r", &uri, "-c", "read -P 5 0 1M"],
    );
}
