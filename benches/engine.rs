//! The engine: four layouts side by side, clones and snapshots, and the start after a kill.
//!
//! INFALL_BENCH_GIB sets how much a large volume holds; 10 if it is not set. Bytes written are what
//! this process, with all its threads, handed to the kernel (`wchar` in `/proc/self/io`): other work on
//! the same disk does not count, nor does what the file system adds. (`write_bytes` there counts a
//! whole large folio for a block, hundreds of times too much; a disk's own figures count everybody.)

#![allow(clippy::unwrap_used, reason = "a bench that cannot go on has failed")]

#[path = "../tests/harness/mod.rs"]
mod harness;
mod layouts;
mod measure;

use blockstore::volume::Origin;
use blockstore::{Options, Store, Who};
use harness::Server;
use layouts::{BLOCK, Layout};
use measure::{Figures, Series, fio, gib, need, need_room};
use std::process::Stdio;
use std::time::{Duration, Instant};

const MIB: usize = 1 << 20;
const SPACE: u64 = 1 << 30;
const ROUNDS: usize = 3;
/// 4 KiB writes and reads in a round: an eighth of the space.
const BLOCKS: usize = 32_768;
const FLUSH_EVERY: usize = 32;
/// 1 MiB writes in a round: half of the space.
const LARGE: usize = 512;

fn main() {
    need(&["fio"]);
    let mut figures = Figures::default();
    four_layouts(&mut figures);
    large_volume(&mut figures);
    figures.print();
}

/// What a layout showed over the rounds.
#[derive(Default)]
struct Shown {
    writes: Series,
    written: Series,
    settled: Series,
    reads: Series,
    large: Series,
}

fn four_layouts(figures: &mut Figures) {
    let folder = tempfile::tempdir().unwrap();
    need_room(folder.path(), 20);
    let mut layouts = layouts::all(folder.path(), SPACE);
    let mut shown: Vec<Shown> = layouts.iter().map(|_| Shown::default()).collect();
    let mut noise = Noise::new();
    for layout in &mut layouts {
        for offset in (0..SPACE).step_by(MIB) {
            layout.write(offset, noise.bytes(MIB));
        }
        layout.flush();
        layout.settle();
    }
    for round in 0..ROUNDS {
        eprintln!("layouts, round {} of {ROUNDS}", round + 1);
        for (layout, shown) in layouts.iter_mut().zip(&mut shown) {
            one_round(layout.as_mut(), shown, &mut noise);
        }
    }

    println!(
        "Layouts: one thread, {} MiB, 4 KiB random overwrites with a flush after every {FLUSH_EVERY},",
        SPACE >> 20
    );
    println!("4 KiB random reads, 1 MiB writes; {ROUNDS} rounds in turns: median (least..most)");
    println!(
        "{:<26}{:<26}{:<20}{:<20}{:<30}1 MiB writes, MB/s",
        "layout", "4 KiB writes/s", "B written per B", "with settling", "4 KiB reads/s"
    );
    for (
        layout,
        Shown {
            writes,
            written,
            settled,
            reads,
            large,
        },
    ) in layouts.iter().zip(&shown)
    {
        println!(
            "{:<26}{writes:<26}{written:<20}{settled:<20}{reads:<30}{large}",
            layout.name()
        );
    }
    let [raw, ours, ..] = shown.as_slice() else {
        unreachable!("there are four layouts")
    };
    let ratio = |ours: &Series, raw: &Series| ours.median() / raw.median();
    figures.at_least(
        "engine_write_4k_to_raw_ratio",
        ratio(&ours.writes, &raw.writes),
        1.0,
    );
    figures.at_least(
        "engine_read_4k_to_raw_ratio",
        ratio(&ours.reads, &raw.reads),
        0.7,
    );
    figures.at_least(
        "engine_write_1m_to_raw_ratio",
        ratio(&ours.large, &raw.large),
        0.7,
    );
    figures.at_most("engine_bytes_written_per_byte", ours.written.median(), 1.1);
}

fn one_round(layout: &mut dyn Layout, shown: &mut Shown, noise: &mut Noise) {
    let before = written_bytes();
    let payload = (BLOCKS * BLOCK) as f64;
    let begin = Instant::now();
    for count in 1..=BLOCKS {
        let offset = noise.block() * BLOCK as u64;
        layout.write(offset, noise.bytes(BLOCK));
        if count % FLUSH_EVERY == 0 {
            layout.flush();
        }
    }
    shown
        .writes
        .push(BLOCKS as f64 / begin.elapsed().as_secs_f64());
    shown
        .written
        .push((written_bytes() - before) as f64 / payload);
    layout.settle();
    shown
        .settled
        .push((written_bytes() - before) as f64 / payload);

    let mut buffer = vec![0; BLOCK];
    let begin = Instant::now();
    for _ in 0..BLOCKS {
        layout.read(noise.block() * BLOCK as u64, &mut buffer);
    }
    shown
        .reads
        .push(BLOCKS as f64 / begin.elapsed().as_secs_f64());

    let begin = Instant::now();
    for offset in (0..SPACE).step_by(MIB).take(LARGE) {
        layout.write(offset, noise.bytes(MIB));
    }
    layout.flush();
    shown
        .large
        .push((LARGE * MIB) as f64 / 1e6 / begin.elapsed().as_secs_f64());
    layout.settle();
}

fn large_volume(figures: &mut Figures) {
    let gib = gib();
    let mut server = Server::start();
    need_room(server.scratch(), gib + 5);
    server.stop();
    let store = Store::open(&server.data(), Options::default()).unwrap();
    write_large_volume(&store, gib);
    clones_and_snapshots(&store, figures);
    store.close().unwrap();
    drop(store);
    server.restart();
    starts_after_kills(&mut server, gib, figures);
}

fn write_large_volume(store: &Store, gib: u64) {
    let mut noise = Noise::new();
    store
        .volume_create(&bench(), "large", Some(100 << 30), &Origin::Empty)
        .unwrap();
    let writer = store.volume_open("large").unwrap().writer("bench").unwrap();
    let begin = Instant::now();
    for index in 0..gib << 10 {
        // Spread over the whole volume, so that the map is as wide as it can be.
        let offset = index * (100 << 10) / (gib << 10) * MIB as u64;
        writer.write_at(offset, noise.bytes(MIB)).unwrap();
        if index % 64 == 63 {
            writer.flush().unwrap();
        }
    }
    let seconds = begin.elapsed().as_secs_f64();
    println!(
        "\nA volume of 100 GiB, {gib} GiB written in {seconds:.0} s: {:.0} MB/s with a flush after every 64 MiB",
        (gib << 30) as f64 / 1e6 / seconds
    );
}

fn clones_and_snapshots(store: &Store, figures: &mut Figures) {
    const COUNT: usize = 20;
    let mut noise = Noise::new();
    let writer = store.volume_open("large").unwrap().writer("bench").unwrap();
    let [
        mut snapshot_ms,
        mut snapshot_bytes,
        mut clone_ms,
        mut clone_bytes,
    ]: [Series; 4] = Default::default();
    let physical = store.stats().unwrap().physical_bytes;
    for count in 0..COUNT {
        // A snapshot must be of something: it seals what these wrote.
        for _ in 0..16 {
            writer
                .write_at(noise.block() * BLOCK as u64, noise.bytes(BLOCK))
                .unwrap();
        }
        let snapshot = format!("snapshot{count}");
        let (ms, bytes) = cost(|| {
            drop(
                store
                    .snapshot_create(&bench(), "large", Some(&snapshot), None)
                    .unwrap(),
            );
        });
        snapshot_ms.push(ms);
        snapshot_bytes.push(bytes);
        let clone = format!("clone{count}");
        let (ms, bytes) = cost(|| {
            drop(
                store
                    .volume_create(&bench(), &clone, None, &Origin::Snapshot(snapshot))
                    .unwrap(),
            );
        });
        clone_ms.push(ms);
        clone_bytes.push(bytes);
    }
    let grown = store
        .stats()
        .unwrap()
        .physical_bytes
        .saturating_sub(physical);
    println!("snapshot: {snapshot_ms} ms, {snapshot_bytes} bytes written");
    println!("clone:    {clone_ms} ms, {clone_bytes} bytes written");
    println!(
        "{COUNT} of each, with 16 random 4 KiB writes before each snapshot, made the store {} KiB larger",
        grown >> 10
    );
    figures.at_most("engine_clone_ms", clone_ms.median(), 10.0);
    figures.at_most("engine_snapshot_ms", snapshot_ms.median(), 10.0);
    figures.at_most("engine_clone_bytes", clone_bytes.median(), 65_536.0);
    figures.at_most("engine_snapshot_bytes", snapshot_bytes.median(), 65_536.0);
}

/// The real server, killed while fio writes through its NBD door.
fn starts_after_kills(server: &mut Server, gib: u64, figures: &mut Figures) {
    let mut series = Series::default();
    for round in 0..ROUNDS {
        eprintln!("kill, round {} of {ROUNDS}", round + 1);
        let uri = format!(
            "nbd+unix:///large?socket={}",
            server.file().unwrap()["nbd_socket"].as_str().unwrap()
        );
        let job = [
            "--rw=randwrite",
            "--bs=4k",
            "--iodepth=32",
            "--size=1g",
            "--time_based",
            "--runtime=60",
        ];
        let mut writes = fio(&uri, &job)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_secs(5));
        assert!(
            writes.try_wait().unwrap().is_none(),
            "fio ended before the server was killed"
        );
        server.kill();
        writes.wait().unwrap();
        let begin = Instant::now();
        server.restart();
        series.push(begin.elapsed().as_secs_f64());
    }
    println!(
        "start after SIGKILL with {gib} GiB, killed after 5 s of 4 KiB random writes at depth 32: {series} s"
    );
    figures.at_most("engine_start_after_kill_s", series.median(), 5.0);
}

/// Milliseconds and bytes written of one call.
fn cost(call: impl FnOnce()) -> (f64, f64) {
    let before = written_bytes();
    let begin = Instant::now();
    call();
    let ms = begin.elapsed().as_secs_f64() * 1e3;
    (ms, (written_bytes() - before) as f64)
}

fn bench() -> Who {
    Who {
        actor: "bench".into(),
        request: "-".into(),
        project: "root".into(),
    }
}

/// What this process handed to the kernel since it started.
fn written_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/io").unwrap();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("wchar: "))
        .unwrap();
    line.parse().unwrap()
}

/// Blocks and bytes without a pattern, at no cost to speak of.
struct Noise {
    pool: Vec<u8>,
    state: u64,
}

impl Noise {
    fn new() -> Self {
        let mut noise = Self {
            pool: Vec::new(),
            state: 0x9E37_79B9_7F4A_7C15,
        };
        while noise.pool.len() < 8 * MIB {
            let word = noise.word();
            noise.pool.extend_from_slice(&word.to_le_bytes());
        }
        noise
    }

    fn word(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state
    }

    /// A block of the space.
    fn block(&mut self) -> u64 {
        self.word() % (SPACE / BLOCK as u64)
    }

    fn bytes(&mut self, length: usize) -> &[u8] {
        let begin = self.word() as usize % (self.pool.len() - length);
        &self.pool[begin..begin + length]
    }
}
