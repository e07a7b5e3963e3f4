//! Seeded power-loss simulation of the engine: the real value log, recovery, index logic, sweeper and
//! collector over a disk that loses what was not synced, and tables that lose what came after a checkpoint.
//!
//! After each power cut the volumes must show a state that they went through, not older than the last
//! flush that was answered; after a mere restart, everything that was answered. Snapshots and bodies,
//! once named, must show exactly what they were. A failing seed replays with INFALL_SIM_SEED.

mod disk;
mod names;

use crate::catalog::{HEAD, MapRow};
use crate::engine::{Engine, EngineOptions, Head, View};
use crate::index::Index;
use crate::object::ReadAt as _;
use crate::valuelog::Settings;
use crate::{BLOCK, Kind, LogId, MapId, SealedMap};
use disk::SimDisk;
use names::{SimNames, SimTables};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::sync::Arc;
use std::time::{Duration, Instant};

const BLOCKS: usize = 400;
const STEPS: usize = 120;

/// What each block of a map shows: 0 is zeroes, else a stamp.
type Shown = Vec<u64>;

#[derive(Clone)]
struct Volume {
    map: MapId,
    shown: Shown,
}

struct Seal {
    name: String,
    sealed: SealedMap,
    shown: Shown,
}

struct World {
    seed: u64,
    random: StdRng,
    disk: SimDisk,
    tables: SimTables,
    names: SimNames,
    engine: Option<Engine>,
    boot: u64,
    stamp: u64,
    volumes: Vec<Volume>,
    /// States of all volumes since the last flush, the flushed one first.
    states: Vec<Vec<Volume>>,
    /// What would show had the change come through that broke the log; whole in the page cache, it may.
    failed: Option<Vec<Volume>>,
    seals: Vec<Seal>,
    /// A write or sync failed: only a restart helps.
    broken: bool,
    cuts: usize,
}

fn block_of(stamp: u64) -> Vec<u8> {
    stamp.to_le_bytes().repeat(BLOCK / 8)
}

impl World {
    fn new(seed: u64) -> Self {
        let mut world = Self {
            seed,
            random: StdRng::seed_from_u64(seed),
            disk: SimDisk::new(seed ^ 0x5eed),
            tables: SimTables::default(),
            names: SimNames::default(),
            engine: None,
            boot: 0,
            stamp: 0,
            volumes: Vec::new(),
            states: Vec::new(),
            failed: None,
            seals: Vec::new(),
            broken: false,
            cuts: 0,
        };
        world.open();
        world.add_volume(None);
        world.add_volume(None);
        world
    }

    fn open(&mut self) {
        self.boot += 1;
        self.names = self.names.next_run();
        let settings = Settings {
            store: [7; 16],
            boot: self.boot,
            segment_bytes: [48 << 10, 200 << 10, 2 << 20][self.random.random_range(0..3)],
            reserve_bytes: 0,
        };
        let options = EngineOptions {
            settings,
            leaf_cache: 64,
            threads: false,
            collector: false,
        };
        let index = Index::open(Box::new(self.tables.clone())).unwrap();
        let opened = Engine::open(
            Arc::new(self.disk.clone()),
            index,
            Arc::new(self.names.clone()),
            &options,
        );
        self.engine = Some(
            opened.unwrap_or_else(|failure| panic!("seed {}: cannot open: {failure:?}", self.seed)),
        );
        self.broken = false;
    }

    fn engine(&self) -> &Engine {
        self.engine.as_ref().unwrap()
    }

    fn add_volume(&mut self, parent: Option<(SealedMap, Shown)>) {
        use crate::engine::names::Names as _;
        let map = self.names.map_id().unwrap();
        let (parent, shown) = parent.map_or((None, vec![0; BLOCKS]), |(sealed, shown)| {
            (Some(sealed), shown)
        });
        let row = MapRow {
            log: LogId(map.0),
            parent,
            length_bytes: (BLOCKS * BLOCK) as u64,
            borrows: Vec::new(),
            created_ms: 0,
        };
        self.names.put(map, &row);
        self.names.pin(map, HEAD, "volume");
        let volume = Volume { map, shown };
        for state in &mut self.states {
            state.push(volume.clone());
        }
        self.volumes.push(volume);
        if self.states.is_empty() {
            self.states.push(Vec::new());
        }
        let last = self.states.len() - 1;
        self.states[last] = self.volumes.clone();
    }

    fn head(&self, volume: usize) -> Head {
        self.engine().head(self.volumes[volume].map).unwrap()
    }

    /// A failure is allowed only where a fault was asked for; after it the engine refuses until reopened.
    fn settled<T>(&mut self, outcome: crate::Result<T>) -> Option<T> {
        match outcome {
            Ok(value) => Some(value),
            Err(failure) => {
                assert!(
                    matches!(failure.kind(), Kind::Unavailable | Kind::NoSpace),
                    "seed {}: {failure:?}",
                    self.seed
                );
                self.broken |= failure.kind() == Kind::Unavailable;
                None
            }
        }
    }

    /// Set INFALL_SIM_TRACE to follow a seed.
    fn trace(&self, what: &str) {
        if std::env::var_os("INFALL_SIM_TRACE").is_some() {
            println!(
                "{what}: boot {} stamp {} broken {} volumes {}",
                self.boot,
                self.stamp,
                self.broken,
                self.volumes.len()
            );
        }
    }

    fn flushed(&mut self) {
        self.states = vec![self.volumes.clone()];
    }

    fn step(&mut self) {
        if self.broken && self.random.random_bool(0.5) {
            return self.restart();
        }
        let volume = self.random.random_range(0..self.volumes.len());
        self.trace("step");
        match self.random.random_range(0..100) {
            0..45 => self.write(volume),
            45..52 => self.zero(volume),
            52..62 => {
                let outcome = self.engine().flush();
                if self.settled(outcome).is_some() {
                    self.flushed();
                }
            }
            62..67 => self.seal(volume),
            67..70 => self.drop_seal(),
            70..73 => self.clone_seal(),
            73..78 => self.body(),
            78..81 => {
                if self.volumes.len() > 2 {
                    self.remove(volume);
                }
            }
            81..85 => {
                let outcome = self.engine().settle();
                if self.settled(outcome).is_some() {
                    self.flushed();
                }
            }
            85..88 => {
                let outcome = self.engine().checkpoint();
                if self.settled(outcome).is_some() {
                    self.flushed();
                }
            }
            88..92 => {
                let all = self.random.random_bool(0.5);
                let outcome = if all {
                    self.engine().collect_all()
                } else {
                    self.engine().collect_some()
                };
                self.settled(outcome);
            }
            92..93 => self.disk.faults(|faults| faults.fail_next_sync = true),
            93..94 => self.disk.faults(|faults| faults.fail_next_write = true),
            94..95 => {
                let full = self.random.random_bool(0.5);
                self.disk.faults(|faults| faults.full = full);
            }
            95..97 => self.restart(),
            _ => self.cut_power(),
        }
    }

    fn write(&mut self, volume: usize) {
        let first = self.random.random_range(0..BLOCKS);
        let longest = [1, 1, 4, 40, 300][self.random.random_range(0..5)];
        let count = self.random.random_range(1..=longest).min(BLOCKS - first);
        let mut bytes = Vec::new();
        let mut after = self.volumes.clone();
        for block in first..first + count {
            self.stamp += 1;
            bytes.extend(block_of(self.stamp));
            after[volume].shown[block] = self.stamp;
        }
        self.trace(&format!(
            "write {} at {first}+{count}",
            self.volumes[volume].map
        ));
        let outcome = self
            .engine()
            .write(&self.head(volume), first as u64, &bytes);
        self.settle_change(outcome, after);
    }

    /// A change that failed may still have happened, unless it was refused beforehand.
    fn settle_change(&mut self, outcome: crate::Result<()>, after: Vec<Volume>) {
        let before = self.broken;
        self.trace(&format!("outcome {outcome:?}"));
        let done = self.settled(outcome).is_some();
        if done || self.broken != before {
            self.states.push(after.clone());
        }
        if !done && self.broken != before {
            self.failed = Some(after.clone());
        }
        if done {
            self.volumes = after;
        }
    }

    fn zero(&mut self, volume: usize) {
        let first = self.random.random_range(0..BLOCKS);
        let count = self.random.random_range(1..=BLOCKS - first);
        let mut after = self.volumes.clone();
        after[volume].shown[first..first + count].fill(0);
        self.trace(&format!(
            "zero {} at {first}+{count}",
            self.volumes[volume].map
        ));
        let outcome = self
            .engine()
            .zero(&self.head(volume), first as u64, count as u64);
        self.settle_change(outcome, after);
    }

    fn seal(&mut self, volume: usize) {
        self.trace("seal");
        let head = self.head(volume);
        let outcome = self.engine().seal(&head);
        let Some(sealed) = self.settled(outcome) else {
            return;
        };
        self.flushed();
        let name = format!("seal{}", self.stamp);
        self.stamp += 1;
        let named = self.random.random_bool(0.9);
        if named {
            self.names.pin(sealed.map, sealed.lsn, &name);
        }
        self.engine().sealed(&head, sealed.lsn).unwrap();
        if named {
            self.seals.push(Seal {
                name,
                sealed,
                shown: self.volumes[volume].shown.clone(),
            });
        }
    }

    fn drop_seal(&mut self) {
        if self.seals.is_empty() {
            return;
        }
        let index = self.random.random_range(0..self.seals.len());
        let seal = self.seals.swap_remove(index);
        self.names
            .unpin(seal.sealed.map, seal.sealed.lsn, &seal.name);
    }

    fn clone_seal(&mut self) {
        if self.seals.is_empty() || self.volumes.len() > 4 || self.broken {
            return;
        }
        let seal = &self.seals[self.random.random_range(0..self.seals.len())];
        if seal.shown.len() == BLOCKS {
            let parent = (seal.sealed, seal.shown.clone());
            self.trace(&format!("clone {}", seal.name));
            self.add_volume(Some(parent));
        }
    }

    fn body(&mut self) {
        self.trace("body");
        let build = |world: &mut Self| -> crate::Result<(SealedMap, MapRow, Shown)> {
            let mut builder = world.engine().body()?;
            let mut shown = Vec::new();
            for _ in 0..world.random.random_range(1..300) {
                world.stamp += 1;
                builder.write(&block_of(world.stamp))?;
                shown.push(world.stamp);
            }
            let (sealed, row) = builder.finish()?;
            Ok((sealed, row, shown))
        };
        let outcome = build(self);
        let Some((sealed, row, shown)) = self.settled(outcome) else {
            return;
        };
        self.flushed();
        if self.random.random_bool(0.9) {
            let name = format!("body{}", self.stamp);
            self.names.put(sealed.map, &row);
            self.names.pin(sealed.map, sealed.lsn, &name);
            self.seals.push(Seal {
                name,
                sealed,
                shown,
            });
        }
    }

    fn remove(&mut self, volume: usize) {
        let gone = self.volumes.remove(volume);
        for state in self.states.iter_mut().chain(&mut self.failed) {
            state.retain(|known| known.map != gone.map);
        }
        self.names.unpin(gone.map, HEAD, "volume");
        self.engine().drop_head(gone.map);
    }

    fn restart(&mut self) {
        self.trace("restart");
        // Everything that was answered is in the page cache; a write that failed may be there too.
        let answered = self.volumes.clone();
        let failed = self.failed.take();
        self.engine = None;
        self.disk.restart();
        let mut random = self.random.clone();
        self.tables.crash(&mut random);
        self.random = random;
        self.open();
        self.states = [Some(answered), failed].into_iter().flatten().collect();
        self.verify();
    }

    fn cut_power(&mut self) {
        self.trace("cut_power");
        self.failed = None;
        self.cuts += 1;
        self.engine = None;
        self.disk.cut_power();
        let mut random = self.random.clone();
        self.tables.crash(&mut random);
        self.random = random;
        self.open();
        self.verify();
    }

    /// The volumes show one of the states since the last flush; sealed maps what they always did.
    fn verify(&mut self) {
        let seen: Vec<Volume> = self
            .volumes
            .iter()
            .map(|volume| {
                let head = self.engine().head(volume.map).unwrap();
                let mut bytes = vec![0; BLOCKS * BLOCK];
                let read = self.engine().read(&head, 0, &mut bytes);
                read.unwrap_or_else(|failure| panic!("seed {}: {failure:?}", self.seed));
                Volume {
                    map: volume.map,
                    shown: self.stamps(&bytes),
                }
            })
            .collect();
        let matches = |state: &Vec<Volume>| {
            state
                .iter()
                .zip(&seen)
                .all(|(state, seen)| state.shown == seen.shown)
        };
        let Some(found) = self.states.iter().rposition(matches) else {
            let differs: Vec<_> = self
                .states
                .iter()
                .map(|state| {
                    state.iter().zip(&seen).find_map(|(state, seen)| {
                        let block =
                            (0..BLOCKS).find(|block| state.shown[*block] != seen.shown[*block])?;
                        Some((state.map.0, block, state.shown[block], seen.shown[block]))
                    })
                })
                .collect();
            panic!(
                "seed {}: no state since the last flush ({} of them) is shown; they differ at (map, block, expected, seen) {differs:?}",
                self.seed,
                self.states.len()
            );
        };
        self.volumes = self.states[found].clone();
        // What survived was written again and synced by the opening.
        self.flushed();
        for seal in &self.seals {
            let view: View = self.engine().view(seal.sealed).unwrap();
            let mut bytes = vec![0; seal.shown.len() * BLOCK];
            view.read_at(0, &mut bytes)
                .unwrap_or_else(|failure| panic!("seed {}: {}: {failure:?}", self.seed, seal.name));
            assert!(
                self.stamps(&bytes) == seal.shown,
                "seed {}: {} changed",
                self.seed,
                seal.name
            );
        }
    }

    fn stamps(&self, bytes: &[u8]) -> Shown {
        bytes
            .chunks(BLOCK)
            .map(|block| {
                let stamp = u64::from_le_bytes(block[..8].try_into().unwrap());
                assert!(
                    block == block_of(stamp),
                    "seed {}: a torn block was shown",
                    self.seed
                );
                stamp
            })
            .collect()
    }

    fn run(mut self) -> usize {
        for _ in 0..STEPS {
            self.step();
        }
        self.cut_power();
        let outcome = self.engine().collect_all();
        outcome.unwrap();
        self.verify();
        let found = self.engine().check(&self.names.all(), true).unwrap();
        assert!(
            found.problems.is_empty(),
            "seed {}: {:?}",
            self.seed,
            found.problems
        );
        self.cuts
    }
}

/// Seeds for INFALL_SIM_SECONDS (3 by default), or INFALL_SIM_SEEDS of them, or the one INFALL_SIM_SEED.
#[test]
fn no_answered_flush_is_lost_over_power_cuts() {
    let number = |name: &str| {
        std::env::var(name)
            .ok()
            .and_then(|text| text.parse::<u64>().ok())
    };
    if let Some(seed) = number("INFALL_SIM_SEED") {
        World::new(seed).run();
        return;
    }
    let first = number("INFALL_SIM_FIRST").unwrap_or_else(|| u64::from(rand::random::<u32>()));
    let limit = number("INFALL_SIM_SEEDS").unwrap_or(u64::MAX);
    let patience = Duration::from_secs(
        number("INFALL_SIM_SECONDS").unwrap_or(if limit == u64::MAX { 3 } else { u64::MAX >> 32 }),
    );
    let begun = Instant::now();
    let (mut seeds, mut cuts) = (0, 0);
    while seeds < limit && begun.elapsed() < patience {
        cuts += World::new(first + seeds).run();
        seeds += 1;
    }
    println!(
        "SIMULATION value-log seeds {seeds} (from {first}) power cuts {cuts} in {:.0?}: nothing lost",
        begun.elapsed()
    );
    assert!(seeds > 0);
}
