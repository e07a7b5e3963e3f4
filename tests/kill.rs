//! SIGKILL under load: what was answered is there, whole, and the store is sound.
//!
//! The page cache outlives a process, so every answered write must be there, flushed or not; a
//! write that was sent but not answered may be there or not. `INFALL_KILL_ROUNDS` asks for more
//! rounds, `INFALL_KILL_SEED` repeats a run's choices (the moment of death stays the machine's).

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod harness;
mod nbd;

use harness::Server;
use nbd::{BLOCK, Client, Dice, block_of, seed};
use std::collections::HashMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::mpsc;
use std::time::Duration;

/// Writes and flushes under way at once.
const DEPTH: usize = 16;
/// Half of the writes go to this many blocks, so that they overwrite one another.
const HOT_BLOCKS: u64 = 256;
/// The longest write.
const BLOCKS_MAX: u64 = 4;

/// A request under way.
enum Sent {
    Write { write: u64, first: u64, blocks: u64 },
    Flush,
}

/// What a volume must show, by what its server answered.
struct Model {
    /// Last answered write per block.
    answered: Vec<u64>,
    /// Writes that died with the server, per block.
    unanswered: HashMap<u64, u64>,
    last_write: u64,
    flushes: u64,
}

impl Model {
    fn new(length: u64) -> Self {
        Self {
            answered: vec![0; length as usize / BLOCK],
            unanswered: HashMap::new(),
            last_write: 0,
            flushes: 0,
        }
    }

    /// Writes until the connection breaks; gives the number of answered writes.
    fn load(&mut self, client: &mut Client, dice: &mut Dice) -> u64 {
        let mut under_way: HashMap<u64, Sent> = HashMap::new();
        let (mut cookie, mut writes) = (0, 0);
        loop {
            let mut broken = false;
            if under_way.len() < DEPTH {
                cookie += 1;
                let (request, sent) = if dice.below(10) == 0 {
                    (Sent::Flush, client.send_flush(cookie))
                } else {
                    self.send(client, dice, cookie, &under_way)
                };
                broken = sent.is_err();
                under_way.insert(cookie, request);
            }
            // A broken connection may still hold answers.
            while broken || under_way.len() >= DEPTH {
                let Ok(cookie) = client.answer() else {
                    for request in under_way.into_values() {
                        self.lost(&request);
                    }
                    return writes;
                };
                match under_way.remove(&cookie).expect("an answer to a request") {
                    Sent::Flush => self.flushes += 1,
                    Sent::Write {
                        write,
                        first,
                        blocks,
                    } => {
                        writes += 1;
                        self.answered[first as usize..][..blocks as usize].fill(write);
                    }
                }
            }
        }
    }

    fn send(
        &mut self,
        client: &mut Client,
        dice: &mut Dice,
        cookie: u64,
        under_way: &HashMap<u64, Sent>,
    ) -> (Sent, std::io::Result<()>) {
        let all = self.answered.len() as u64 - BLOCKS_MAX;
        let blocks = 1 + dice.below(BLOCKS_MAX);
        // Two writes under way on one block have no order.
        let first = loop {
            let bound = if dice.below(2) == 0 { HOT_BLOCKS } else { all };
            let first = dice.below(bound);
            let apart = under_way.values().all(|request| match request {
                Sent::Flush => true,
                Sent::Write {
                    first: other,
                    blocks: length,
                    ..
                } => first + blocks <= *other || other + length <= first,
            });
            if apart {
                break first;
            }
        };
        self.last_write += 1;
        let write = self.last_write;
        let bytes: Vec<u8> = (first..first + blocks)
            .flat_map(|block| block_of(write, block))
            .collect();
        let sent = client.send_write(cookie, first * BLOCK as u64, &bytes);
        (
            Sent::Write {
                write,
                first,
                blocks,
            },
            sent,
        )
    }

    fn lost(&mut self, request: &Sent) {
        if let Sent::Write {
            write,
            first,
            blocks,
        } = request
        {
            for block in *first..first + blocks {
                self.unanswered.insert(block, *write);
            }
        }
    }

    /// Every block shows its last answered write, or the one that was under way; from now on, that.
    fn compare(&mut self, found: &[u64]) {
        assert_eq!(found.len(), self.answered.len());
        for (block, (found, answered)) in found.iter().zip(&mut self.answered).enumerate() {
            let under_way = self.unanswered.get(&(block as u64));
            assert!(
                found == answered || Some(found) == under_way,
                "block {block} shows write {found}; answered was {answered}, under way {under_way:?}"
            );
            *answered = *found;
        }
        self.unanswered.clear();
    }
}

fn socket(server: &Server) -> PathBuf {
    server.data().join("nbd.sock")
}

#[test]
fn every_answered_write_survives_sigkill_under_load() {
    let mut dice = Dice::new(seed("INFALL_KILL_SEED"));
    let rounds: u64 = std::env::var("INFALL_KILL_ROUNDS").map_or(5, |text| text.parse().unwrap());
    let mut server = Server::start();
    server
        .infall(&["volume", "create", "records", "--length", "256MiB"])
        .ok();
    let mut model = Model::new(256 << 20);
    for round in 1..=rounds {
        let moment = Duration::from_millis(50 + dice.below(1000));
        let mut client = Client::connect(&socket(&server), "records").unwrap();
        let (ready, started) = mpsc::channel();
        let (writes, killed) = std::thread::scope(|scope| {
            let load = scope.spawn(|| {
                ready.send(()).unwrap();
                model.load(&mut client, &mut dice)
            });
            started.recv().unwrap();
            std::thread::sleep(moment);
            server.kill();
            (load.join().unwrap(), moment)
        });
        server.restart();
        println!(
            "round {round}: killed after {killed:?}, {writes} writes answered, {} flushes so far, {} blocks under way",
            model.flushes,
            model.unanswered.len()
        );
        assert!(writes > 0, "no load at all");
        let found = Client::connect(&socket(&server), "records")
            .unwrap()
            .writes();
        model.compare(&found.unwrap());
    }
    assert!(model.flushes > 0, "no flush was answered");
    server.infall(&["check", "--scrub"]).ok();
    // And after an orderly stop, on what recovery left behind.
    assert!(server.stop().success());
    server.infall(&["check"]).ok();
}

#[test]
fn what_fio_wrote_verifies_after_sigkill() {
    let seed = seed("INFALL_KILL_SEED");
    let mut server = Server::start();
    server
        .infall(&["volume", "create", "disk", "--length", "64MiB"])
        .ok();
    for round in 0..5 {
        fio(&server, seed + round, &["--do_verify=0", "--fsync=8"]);
        server.kill();
        server.restart();
        let report = fio(&server, seed + round, &["--verify_only"]);
        let bytes = report["jobs"][0]["read"]["io_bytes"].as_u64().unwrap();
        assert!(bytes > 16 << 20, "fio verified {bytes} bytes only");
    }
    server.infall(&["check", "--scrub"]).ok();
}

/// One pass of fio over the volume, the same for the same seed, and its report.
fn fio(server: &Server, seed: u64, more: &[&str]) -> serde_json::Value {
    let uri = server.infall(&["volume", "url", "disk"]).ok();
    let output = Command::new("fio")
        .current_dir(server.scratch())
        .args(["--name=disk", "--ioengine=nbd", "--rw=randwrite"])
        .args(["--bsrange=4k-64k", "--size=64m", "--iodepth=16"])
        .args([
            "--verify=crc32c",
            "--verify_interval=4096",
            "--verify_fatal=1",
        ])
        .args(["--output-format=json", "--verify_state_save=0"])
        .arg(format!("--uri={}", uri.trim()))
        .arg(format!("--randseed={seed}"))
        .args(more)
        .output()
        .expect("this test needs fio with its nbd engine");
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "fio {more:?}: {text}{errors}");
    // fio says where it connected before its report.
    let start = text
        .find('{')
        .unwrap_or_else(|| panic!("no report: {text}{errors}"));
    let report: serde_json::Value = serde_json::from_str(&text[start..]).unwrap();
    assert_eq!(report["jobs"][0]["error"], 0, "{text}");
    report
}
