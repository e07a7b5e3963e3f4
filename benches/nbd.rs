//! The program's NBD door beside `qemu-nbd` and `nbdkit file`, on one disk, in turns.
//!
//! All three serve a disk of the same length over a unix socket, with the page cache in use and
//! writes on the device only when flushed. Every disk is written once before anything counts.

#![allow(clippy::unwrap_used, reason = "a bench that cannot go on has failed")]

#[path = "../tests/harness/mod.rs"]
mod harness;
mod measure;

use harness::Server;
use measure::{Figures, Series, fio_job, need, need_room};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const LENGTH: u64 = 1 << 30;
const ROUNDS: usize = 3;
const TARGET: f64 = 0.7;
const NAMES: [&str; 3] = ["infall", "qemu-nbd", "nbdkit"];

/// What fio does, and which of its figures counts.
struct Case {
    name: &'static str,
    job: &'static [&'static str],
    figure: (&'static str, &'static str, f64),
    unit: &'static str,
}

const IOPS_READ: (&str, &str, f64) = ("read", "iops", 1.0);
const IOPS_WRITE: (&str, &str, f64) = ("write", "iops", 1.0);

/// Random writes come before random reads, so that these meet what random writes leave behind.
const CASES: [Case; 7] = [
    timed(
        "write_4k_depth1",
        &[
            "--rw=randwrite",
            "--bs=4k",
            "--iodepth=1",
            TIMED,
            "--runtime=4",
        ],
        IOPS_WRITE,
    ),
    timed(
        "write_4k_depth32",
        &[
            "--rw=randwrite",
            "--bs=4k",
            "--iodepth=32",
            TIMED,
            "--runtime=4",
        ],
        IOPS_WRITE,
    ),
    timed(
        "write_fsync_4k_depth1",
        &[
            "--rw=randwrite",
            "--bs=4k",
            "--iodepth=1",
            "--fsync=1",
            TIMED,
            "--runtime=4",
        ],
        IOPS_WRITE,
    ),
    timed(
        "read_4k_depth1",
        &[
            "--rw=randread",
            "--bs=4k",
            "--iodepth=1",
            TIMED,
            "--runtime=4",
        ],
        IOPS_READ,
    ),
    timed(
        "read_4k_depth32",
        &[
            "--rw=randread",
            "--bs=4k",
            "--iodepth=32",
            TIMED,
            "--runtime=4",
        ],
        IOPS_READ,
    ),
    Case {
        name: "write_1m",
        job: &[
            "--rw=write",
            "--bs=1m",
            "--iodepth=4",
            "--end_fsync=1",
            "--loops=3",
        ],
        figure: ("write", "bw_bytes", 1e-6),
        unit: "MB/s",
    },
    Case {
        name: "read_1m",
        job: &["--rw=read", "--bs=1m", "--iodepth=4", "--loops=3"],
        figure: ("read", "bw_bytes", 1e-6),
        unit: "MB/s",
    },
];

const TIMED: &str = "--time_based";

const fn timed(
    name: &'static str,
    job: &'static [&'static str],
    figure: (&'static str, &'static str, f64),
) -> Case {
    Case {
        name,
        job,
        figure,
        unit: "/s",
    }
}

fn main() {
    need(&["fio", "qemu-nbd", "nbdkit"]);
    let server = Server::start();
    let folder = server.scratch();
    need_room(folder, 20);
    server
        .infall(&["volume", "create", "bench", "--length", &LENGTH.to_string()])
        .ok();
    let ours = format!(
        "nbd+unix:///bench?socket={}",
        server.file().unwrap()["nbd_socket"].as_str().unwrap()
    );
    let _peers = [qemu_nbd(folder), nbdkit(folder)];
    let disks = [
        ours,
        format!(
            "nbd+unix:///bench?socket={}",
            folder.join("qemu.sock").display()
        ),
        format!(
            "nbd+unix:///bench?socket={}",
            folder.join("nbdkit.sock").display()
        ),
    ];

    for disk in &disks {
        fio_job(
            disk,
            &[
                "--rw=write",
                "--bs=1m",
                "--iodepth=4",
                "--end_fsync=1",
                "--size=1g",
            ],
        );
    }
    let mut results: Vec<[Series; 3]> = CASES.iter().map(|_| Default::default()).collect();
    for round in 0..ROUNDS {
        eprintln!("round {} of {ROUNDS}", round + 1);
        for (case, result) in CASES.iter().zip(&mut results) {
            for (disk, series) in disks.iter().zip(result) {
                let report = fio_job(disk, &[case.job, &["--size=1g"]].concat());
                let (direction, figure, factor) = case.figure;
                series.push(report[direction][figure].as_f64().unwrap() * factor);
            }
        }
    }
    report(&results);
}

fn report(results: &[[Series; 3]]) {
    println!(
        "NBD over a unix socket, {} MiB, {ROUNDS} rounds in turns: median (least..most)",
        LENGTH >> 20
    );
    println!(
        "{:<24}{:<28}{:<28}{:<28}ours / better peer",
        "case", NAMES[0], NAMES[1], NAMES[2]
    );
    let mut figures = Figures::default();
    for (case, [ours, qemu, nbdkit]) in CASES.iter().zip(results) {
        let better = if qemu.median() >= nbdkit.median() {
            qemu
        } else {
            nbdkit
        };
        let mut ratios = Series::default();
        (0..ROUNDS).for_each(|round| ratios.push(ours.round(round) / better.round(round)));
        let cell = |series: &Series| format!("{series} {}", case.unit);
        println!(
            "{:<24}{:<28}{:<28}{:<28}{ratios}",
            case.name,
            cell(ours),
            cell(qemu),
            cell(nbdkit)
        );
        figures.at_least(
            &format!("nbd_{}_ratio", case.name),
            ours.median() / better.median(),
            TARGET,
        );
    }
    figures.print();
}

/// A peer, ended by its process id.
struct Peer(Child);

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn qemu_nbd(folder: &Path) -> Peer {
    let mut command = Command::new("qemu-nbd");
    command
        .args([
            "--format=raw",
            "--cache=writeback",
            "--aio=threads",
            "--discard=unmap",
        ])
        .args(["--persistent", "--shared=4", "--export-name=bench"])
        .arg("--socket")
        .arg(folder.join("qemu.sock"))
        .arg(disk(folder, "qemu.raw"));
    start(command, &folder.join("qemu.sock"))
}

fn nbdkit(folder: &Path) -> Peer {
    let mut command = Command::new("nbdkit");
    command
        .args([
            "--foreground",
            "--exit-with-parent",
            "--exportname=bench",
            "--unix",
        ])
        .arg(folder.join("nbdkit.sock"))
        .arg("file")
        .arg(disk(folder, "nbdkit.raw"));
    start(command, &folder.join("nbdkit.sock"))
}

fn disk(folder: &Path, name: &str) -> std::path::PathBuf {
    let path = folder.join(name);
    std::fs::File::create(&path)
        .unwrap()
        .set_len(LENGTH)
        .unwrap();
    path
}

fn start(mut command: Command, socket: &Path) -> Peer {
    let mut peer = Peer(command.stdin(Stdio::null()).spawn().unwrap());
    let until = Instant::now() + Duration::from_secs(10);
    while !socket.exists() {
        if let Some(ended) = peer.0.try_wait().unwrap() {
            panic!("{command:?} ended with {ended}");
        }
        assert!(
            Instant::now() < until,
            "{command:?} made no socket within 10 s"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    peer
}
