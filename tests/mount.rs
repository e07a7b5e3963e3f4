//! Files in buckets through the real program: what fsync(2) and close(2) answered outlives a SIGKILL
//! of the server, and what they did not answer is all there or not at all.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod harness;

use harness::Server;
use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const THREADS: usize = 4;
const ROUNDS: u64 = 3;

/// What a key must show: the last answered state, and the one that was under way.
#[derive(Clone, Default)]
struct State {
    answered: Option<Vec<u8>>,
    sent: Option<Vec<u8>>,
}

fn bytes(seed: u64, count: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    })
    .flatten()
    .take(count)
    .collect()
}

/// Writes, syncs, closes and renames until the server is gone.
fn load(data: &Path, thread: usize, round: u64, states: &Mutex<BTreeMap<String, State>>) -> u64 {
    let mut step = 0_u64;
    loop {
        step += 1;
        let seed = round << 40 | (thread as u64) << 32 | step;
        let key = format!("{thread}-{}", step % 7);
        let length = [20, 5000, 8192, 60_000, 300_000, 1 << 20][usize::try_from(seed % 6).unwrap()];
        let before = states
            .lock()
            .unwrap()
            .get(&key)
            .cloned()
            .unwrap_or_default();
        let mut wanted = before.answered.clone().unwrap_or_default();
        let at = wanted.len() / 2;
        let new = bytes(seed, length);
        wanted.resize(wanted.len().max(at + length), 0);
        wanted[at..at + length].copy_from_slice(&new);
        states.lock().unwrap().entry(key.clone()).or_default().sent = Some(wanted.clone());
        let write = || -> std::io::Result<()> {
            use std::os::unix::fs::FileExt;
            let path = data.join(&key);
            let file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path)?;
            file.write_all_at(&new, at as u64)?;
            if step.is_multiple_of(2) {
                file.sync_all()?;
            }
            close(file, data)?;
            if step.is_multiple_of(5) {
                let other = data.join(format!("{key}.new"));
                std::fs::rename(&path, &other)?;
                std::fs::rename(&other, &path)?;
            }
            Ok(())
        };
        if write().is_err() {
            return step;
        }
        let mut states = states.lock().unwrap();
        let state = states.entry(key).or_default();
        state.answered = Some(wanted);
        state.sent = None;
    }
}

/// Closes the file. std hides what close(2) answered; if the server answers afterwards, it did so before.
fn close(file: std::fs::File, data: &Path) -> std::io::Result<()> {
    drop(file);
    std::fs::read_dir(data).map(drop)
}

fn unmount(path: &Path) {
    let done = std::process::Command::new("umount")
        .arg("-l")
        .arg(path)
        .status();
    drop(done);
}

fn found(data: &Path, key: &str) -> Option<Vec<u8>> {
    let here = std::fs::read(data.join(key)).ok();
    // The kill came between two renames.
    here.or_else(|| std::fs::read(data.join(format!("{key}.new"))).ok())
}

#[test]
fn what_fsync_answered_outlives_a_kill_of_the_server() {
    let mut server = Server::start();
    server.infall(&["bucket", "create", "data"]).ok();
    let path = server.scratch().join("mnt");
    std::fs::create_dir(&path).unwrap();
    let data: PathBuf = path.join("buckets/data");
    let states = Arc::new(Mutex::new(BTreeMap::<String, State>::new()));
    let mut steps = 0;
    for round in 0..ROUNDS {
        server
            .infall(&["mount", path.to_str().unwrap(), "--detach"])
            .ok();
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                let (data, states) = (data.clone(), Arc::clone(&states));
                std::thread::spawn(move || load(&data, thread, round, &states))
            })
            .collect();
        std::thread::sleep(Duration::from_millis(700 + 300 * round));
        server.kill();
        steps += threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .sum::<u64>();
        unmount(&path);
        server.restart();
        server
            .infall(&["mount", path.to_str().unwrap(), "--detach"])
            .ok();
        let mut states = states.lock().unwrap();
        for (key, state) in states.iter_mut() {
            let shown = found(&data, key);
            let answered = shown == state.answered;
            assert!(
                answered || shown == state.sent,
                "round {round}: {key} shows {:?} bytes, answered {:?}, under way {:?}",
                shown.as_ref().map(Vec::len),
                state.answered.as_ref().map(Vec::len),
                state.sent.as_ref().map(Vec::len),
            );
            if data.join(format!("{key}.new")).exists() {
                std::fs::rename(data.join(format!("{key}.new")), data.join(key)).unwrap();
            }
            *state = State {
                answered: shown,
                sent: None,
            };
        }
        drop(states);
        server.infall(&["umount", path.to_str().unwrap()]).ok();
        server.infall(&["check"]).ok();
    }
    assert!(
        steps > ROUNDS * THREADS as u64 * 3,
        "{steps} steps are no load"
    );
    let mut file = std::io::stdout();
    writeln!(file, "{steps} steps").unwrap();
}
