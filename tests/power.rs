//! The power is cut at a flush: what was answered as durable is there, byte for byte.
//!
//! ```text
//!   load ── infall serve ── ext4 ── loop ── nbdfuse ── qemu-storage-daemon
//!                                                             │ blklogwrites
//!   infall serve ── ext4 (replays its journal) ── loop ── image, from the log up to a cut
//! ```
//!
//! The daemon logs every write and flush that reaches the disk. A cut keeps the log up to a flush
//! and, half of the time, any of the writes behind it up to the next one, as a disk with a volatile
//! cache does. Whatever was answered when the log was no longer than that must be there; what came
//! later may be, but only whole and in order.
//!
//! It needs root, FUSE, loop devices, qemu-storage-daemon, nbdfuse and mkfs.ext4, and fails without
//! them. (The daemon's own FUSE export will not do: that of QEMU 10.0.2 mixes up the bytes of
//! concurrent writes, and already the file system it was made with is broken.)
//! `INFALL_POWER_CUTS` asks for more cuts, `INFALL_POWER_SEED` repeats a run's choices (timing
//! stays the machine's). On a failure the image of that cut is kept and named.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "power/disk.rs"]
mod disk;
mod harness;
mod nbd;

use disk::{Cut, DISK_BYTES, Log, LoggedDisk, Loop, Mounted, length_of, text, tool};
use harness::Server;
use nbd::{BLOCK, Client, Dice, block_of, seed, write_of};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const VOLUME_BYTES: u64 = 16 << 20;
/// The load ends after this time, or when a writer has written this much: together more than the
/// 256 MiB after which the store checkpoints its index, so that cuts fall on both sides of it.
const LOAD: Duration = Duration::from_secs(20);
const WRITTEN_MAX: u64 = 180 << 20;
/// The longest write.
const BLOCKS_MAX: u64 = 16;
/// Writes between two flushes, at most.
const UNFLUSHED_MAX: u64 = 24;
/// Objects that are put over and over.
const KEYS: u64 = 12;
const VOLUMES: [&str; 2] = ["left", "right"];

/// Something answered as durable when the log had `entries`: all up to number `upto`.
struct Answered {
    entries: u64,
    upto: u64,
}

/// The number that must be there with a log of `kept` entries.
fn promised(answers: &[Answered], kept: u64) -> u64 {
    let before = answers.iter().filter(|answer| answer.entries <= kept);
    before.map(|answer| answer.upto).max().unwrap_or(0)
}

/// What one writer did to its volume, one write after the other.
struct Writes {
    name: &'static str,
    /// First block and blocks of write 1, 2, …
    all: Vec<(u64, u64)>,
    flushes: Vec<Answered>,
    /// Answered snapshots; `upto` is the write that they stop at.
    snapshots: Vec<(String, Answered)>,
}

impl Writes {
    fn load(
        name: &'static str,
        server: &Server,
        log: &File,
        stop: &AtomicBool,
        mut dice: Dice,
    ) -> Self {
        let mut client = Client::connect(&server.data().join("nbd.sock"), name).unwrap();
        assert_eq!(client.length, VOLUME_BYTES);
        let mut done = Self {
            name,
            all: Vec::new(),
            flushes: Vec::new(),
            snapshots: Vec::new(),
        };
        let mut written = 0;
        while !stop.load(Ordering::Relaxed) && written < WRITTEN_MAX {
            for _ in 0..1 + dice.below(UNFLUSHED_MAX) {
                let blocks = 1 + dice.below(BLOCKS_MAX);
                let first = dice.below(VOLUME_BYTES / BLOCK as u64 - blocks);
                done.all.push((first, blocks));
                let write = done.all.len() as u64;
                let bytes: Vec<u8> = (first..first + blocks)
                    .flat_map(|block| block_of(write, block))
                    .collect();
                client.write(first * BLOCK as u64, &bytes).unwrap();
                written += bytes.len() as u64;
            }
            let upto = done.all.len() as u64;
            if dice.below(150) == 0 {
                // Without a flush before it: sealing makes durable what it seals.
                let snapshot = format!("{name}-{upto}");
                server
                    .infall(&["volume", "snapshot", name, "--name", &snapshot])
                    .ok();
                let entries = length_of(log);
                done.snapshots.push((snapshot, Answered { entries, upto }));
            } else {
                client.flush().unwrap();
                done.flushes.push(Answered {
                    entries: length_of(log),
                    upto,
                });
            }
        }
        done
    }

    /// What the volume shows after write `upto`.
    fn after(&self, upto: u64) -> Vec<u64> {
        let mut shown = vec![0; VOLUME_BYTES as usize / BLOCK];
        for (write, (first, blocks)) in (1..=upto).zip(&self.all) {
            shown[*first as usize..][..*blocks as usize].fill(write);
        }
        shown
    }

    /// The volume shows a state that it went through, not older than the last answered flush.
    fn compare(&self, found: &[u64], kept: u64) -> u64 {
        let name = self.name;
        let last = found.iter().copied().max().unwrap();
        // The last write may be overwritten already: it is the newest one that still shows.
        let promised = promised(&self.flushes, kept);
        let upto = last.max(promised);
        let (now, before) = (self.after(upto), self.after(upto - u64::from(upto > 0)));
        for (block, found) in found.iter().enumerate() {
            // A write of several blocks that was not answered may be there in part.
            let partly = upto > promised && *found == before[block];
            assert!(
                *found == now[block] || partly,
                "{name}: block {block} shows write {found} and not {}; the newest write found is {last}, \
                 flushed were all up to {promised}",
                now[block]
            );
        }
        upto
    }
}

/// Objects put one after the other: put `n` goes to key `n % KEYS`.
struct Puts(Vec<Answered>);

impl Puts {
    fn load(server: &Server, log: &File, stop: &AtomicBool) -> Self {
        let mut done = Self(Vec::new());
        while !stop.load(Ordering::Relaxed) {
            let put = done.0.len() as u64 + 1;
            let source = server.scratch().join("object");
            std::fs::write(&source, Self::body(put)).unwrap();
            let target = format!("s3://objects/{}", put % KEYS);
            server
                .infall(&[
                    "stage",
                    "put",
                    text(&source),
                    &target,
                    "--existing",
                    "replace",
                ])
                .ok();
            done.0.push(Answered {
                entries: length_of(log),
                upto: put,
            });
        }
        done
    }

    /// One block to some 256 KiB, rarely a multiple of the block.
    fn body(put: u64) -> Vec<u8> {
        let length = BLOCK + Dice::new(put).below(256 << 10) as usize;
        let blocks = (0..).flat_map(|block| block_of(put, block));
        blocks.take(length).collect()
    }

    /// All puts up to one that is not older than the last answered one, each of them whole.
    fn compare(&self, folder: &Path, kept: u64) -> u64 {
        let mut found = BTreeMap::new();
        for file in std::fs::read_dir(folder).unwrap() {
            let file = file.unwrap();
            let key: u64 = file.file_name().to_str().unwrap().parse().unwrap();
            let body = std::fs::read(file.path()).unwrap();
            let put = write_of(&body[..BLOCK], 0).unwrap();
            assert!(body == Self::body(put), "object {key} is not put {put}");
            found.insert(key, put);
        }
        let promised = promised(&self.0, kept);
        let upto = promised.max(found.values().copied().max().unwrap_or(0));
        let expected: BTreeMap<u64, u64> = (1..=upto).map(|put| (put % KEYS, put)).collect();
        assert_eq!(found, expected, "answered were all puts up to {promised}");
        upto
    }
}

/// All that was done while the log grew from `from` to `to` entries.
struct Load {
    from: u64,
    to: u64,
    writes: Vec<Writes>,
    puts: Puts,
}

impl Load {
    fn run(server: &Server, log: &Path, dice: &mut Dice) -> Self {
        for name in VOLUMES {
            let length = VOLUME_BYTES.to_string();
            server
                .infall(&["volume", "create", name, "--length", &length])
                .ok();
        }
        server.infall(&["bucket", "create", "objects"]).ok();
        let file = File::open(log).unwrap();
        let (file, stop) = (&file, &AtomicBool::new(false));
        let from = length_of(file);
        let (writes, puts) = std::thread::scope(|scope| {
            let writers: Vec<_> = VOLUMES
                .map(|name| (name, Dice::new(dice.next())))
                .map(|(name, dice)| scope.spawn(|| Writes::load(name, server, file, stop, dice)))
                .into();
            let putter = scope.spawn(|| Puts::load(server, file, stop));
            let until = Instant::now() + LOAD;
            // Also when one failed: it is joined, and fails the test, at once.
            while Instant::now() < until && !writers.iter().any(|w| w.is_finished()) {
                std::thread::sleep(Duration::from_millis(20));
            }
            stop.store(true, Ordering::Relaxed);
            let writes: Vec<Writes> = writers.into_iter().map(|w| w.join().unwrap()).collect();
            (writes, putter.join().unwrap())
        });
        Self {
            from,
            to: length_of(file),
            writes,
            puts,
        }
    }

    /// The server on what a cut left shows all that was promised.
    fn compare(&self, server: &Server, folder: &Path, kept: u64) {
        let open = |name: &str| Client::connect(&server.data().join("nbd.sock"), name).unwrap();
        for writes in &self.writes {
            let found = open(writes.name).writes().unwrap();
            let upto = writes.compare(&found, kept);
            let promised = promised(&writes.flushes, kept);
            println!("  {}: write {upto}, flushed was {promised}", writes.name);
            let sealed = writes.snapshots.iter();
            for (name, sealed) in sealed.filter(|(_, sealed)| sealed.entries <= kept) {
                let found = open(&format!("snapshot:{name}")).writes().unwrap();
                assert!(
                    found == writes.after(sealed.upto),
                    "snapshot {name} is another"
                );
            }
        }
        let objects = folder.join("objects");
        std::fs::create_dir(&objects).unwrap();
        let got = server.infall(&["stage", "get", "s3://objects/", text(&objects)]);
        // Before the first put there is nothing to get.
        assert!(
            got.code == 0 || promised(&self.puts.0, kept) == 0,
            "{got:?}"
        );
        let upto = self.puts.compare(&objects, kept);
        println!(
            "  put {upto}, answered was {}",
            promised(&self.puts.0, kept)
        );
        std::fs::remove_dir_all(&objects).unwrap();
        server.infall(&["check", "--scrub"]).ok();
    }
}

/// A stopped server whose data directory is `data`.
fn server_on(data: &Path) -> Server {
    let mut server = Server::start();
    assert!(server.stop().success());
    std::fs::remove_dir_all(server.data()).unwrap();
    std::os::unix::fs::symlink(data, server.data()).unwrap();
    server
}

#[test]
fn what_was_answered_survives_a_power_cut() {
    assert!(rustix::process::geteuid().is_root(), "mounting needs root");
    let mut dice = Dice::new(seed("INFALL_POWER_SEED"));
    let count: usize = std::env::var("INFALL_POWER_CUTS").map_or(24, |text| text.parse().unwrap());

    // Dropped from the last to the first: server, file system, loop, daemon, folder.
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let mount = folder.join("mnt");
    std::fs::create_dir(&mount).unwrap();
    let disk = LoggedDisk::new(folder);
    let device = Loop::new(&disk.device, &["--direct-io=on"]);
    tool("mkfs.ext4", &["-q", "-E", "nodiscard", &device.0]);
    let mounted = Mounted::new(device, &mount);
    let data = mount.join("data");
    std::fs::create_dir(&data).unwrap();
    let mut server = server_on(&data);
    server.restart();

    let load = Load::run(&server, &disk.log, &mut dice);
    server.kill();
    drop(mounted);
    let log = Log::read(&disk.log);
    drop(disk);
    let flushes: usize = load.writes.iter().map(|writes| writes.flushes.len()).sum();
    println!(
        "{} log entries under load: {flushes} flushes, {} puts, {} snapshots answered",
        load.to - load.from,
        load.puts.0.len(),
        load.writes
            .iter()
            .map(|writes| writes.snapshots.len())
            .sum::<usize>(),
    );

    let kept = folder.join("kept.raw");
    let state = File::create(&kept).unwrap();
    state.set_len(DISK_BYTES).unwrap();
    let mut applied = 0;
    for flush in log.flushes(load.from, load.to, count, &mut dice) {
        let cut = Cut::new(&log, flush, &mut dice);
        for entry in &log.entries[applied..cut.kept as usize] {
            log.apply(entry, &state);
        }
        applied = cut.kept as usize;
        println!("cut after entry {} and {} more", cut.kept, cut.more.len());
        let evidence = Evidence {
            log: &log,
            cut: &cut,
            kept: &kept,
        };
        // A file of its own per cut: a mount namespace that others made meanwhile may keep the last
        // one mounted, and write to it still.
        let image = folder.join(format!("cut-{}.raw", cut.kept));
        cut.image(&log, &kept, &image);
        let mounted = Mounted::new(Loop::new(&image, &[]), &mount);
        server.restart();
        load.compare(&server, folder, cut.kept);
        server.kill();
        drop(mounted);
        std::fs::remove_file(&image).unwrap();
        drop(evidence);
    }
}

/// Keeps the image of a cut that fails the test.
struct Evidence<'a> {
    log: &'a Log,
    cut: &'a Cut,
    kept: &'a Path,
}

impl Drop for Evidence<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let image = std::env::temp_dir().join(format!("infall-cut-{}.raw", std::process::id()));
            self.cut.image(self.log, self.kept, &image);
            eprintln!("the image of this cut is kept: {}", image.display());
        }
    }
}
