//! Volumes against a plain array: write, zero, seal, clone, delete, resize, collect, crash, reopen.

#![allow(clippy::unwrap_used, reason = "a failure is the message")]

use blockstore::object::ReadAt as _;
use blockstore::volume::Origin;
use blockstore::{Options, Store, Volume, Who};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::path::Path;

const MIB: u64 = 1 << 20;

fn options() -> Options {
    Options {
        segment_bytes: 2 << 20,
        reserve_bytes: 1 << 20,
        collector: false,
        cache_bytes: 4 << 20,
        ..Options::default()
    }
}

fn who() -> Who {
    Who::server()
}

#[derive(Clone, Debug)]
enum Step {
    Write {
        volume: usize,
        offset: u32,
        length: u32,
        fill: u8,
    },
    Zero {
        volume: usize,
        offset: u32,
        length: u32,
    },
    Flush,
    Snapshot {
        volume: usize,
    },
    Clone {
        snapshot: usize,
    },
    RemoveSnapshot {
        snapshot: usize,
    },
    RemoveVolume {
        volume: usize,
    },
    Resize {
        volume: usize,
        mib: u8,
    },
    Collect,
    Crash,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let range = (
        0..5 * MIB as u32,
        prop_oneof![
            1..9000u32,
            (1..40u32).prop_map(|blocks| blocks * 4096),
            Just(1 << 20)
        ],
    );
    prop_oneof![
        8 => (any::<usize>(), range.clone(), any::<u8>(), any::<bool>()).prop_map(|(volume, (offset, length), fill, aligned)| {
            let offset = if aligned { offset / 4096 * 4096 } else { offset };
            Step::Write { volume, offset, length, fill }
        }),
        3 => (any::<usize>(), range).prop_map(|(volume, (offset, length))| Step::Zero { volume, offset, length }),
        1 => Just(Step::Flush),
        2 => any::<usize>().prop_map(|volume| Step::Snapshot { volume }),
        2 => any::<usize>().prop_map(|snapshot| Step::Clone { snapshot }),
        1 => any::<usize>().prop_map(|snapshot| Step::RemoveSnapshot { snapshot }),
        1 => any::<usize>().prop_map(|volume| Step::RemoveVolume { volume }),
        1 => (any::<usize>(), 1..6u8).prop_map(|(volume, mib)| Step::Resize { volume, mib }),
        1 => Just(Step::Collect),
        1 => Just(Step::Crash),
        1 => Just(Step::Reopen),
    ]
}

/// The store and what it should show.
struct World {
    directory: tempfile::TempDir,
    store: Option<Store>,
    volumes: BTreeMap<String, Vec<u8>>,
    snapshots: BTreeMap<String, Vec<u8>>,
    names: u32,
}

fn pick<T>(map: &BTreeMap<String, T>, index: usize) -> Option<String> {
    (!map.is_empty()).then(|| map.keys().nth(index % map.len()).unwrap().clone())
}

impl World {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("0"), options()).unwrap();
        let mut world = Self {
            directory,
            store: Some(store),
            volumes: BTreeMap::new(),
            snapshots: BTreeMap::new(),
            names: 0,
        };
        world.create(3 * MIB);
        world
    }

    fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    fn name(&mut self, kind: &str) -> String {
        self.names += 1;
        format!("{kind}{}", self.names)
    }

    fn create(&mut self, length: u64) {
        let name = self.name("v");
        self.store()
            .volume_create(&who(), &name, Some(length), &Origin::Empty)
            .unwrap();
        self.volumes.insert(name, vec![0; length as usize]);
    }

    fn open(&self, name: &str) -> Volume {
        self.store().volume_open(name).unwrap()
    }

    /// What a power-less crash leaves: the files as they are, opened by another process. A byte copy of
    /// the directory stands for it; everything that was answered is in it.
    fn crash(&mut self) {
        self.names += 1;
        let old = self.store.take().unwrap();
        let target = self.directory.path().join(self.names.to_string());
        copy(old.directory(), &target);
        let path = old.directory().to_owned();
        drop(old);
        std::fs::remove_dir_all(path).unwrap();
        self.store = Some(Store::open(&target, options()).unwrap());
    }

    fn reopen(&mut self) {
        let store = self.store.take().unwrap();
        let path = store.directory().to_owned();
        store.close().unwrap();
        drop(store);
        self.store = Some(Store::open(&path, options()).unwrap());
    }

    fn run(&mut self, step: &Step) {
        match step {
            Step::Write {
                volume,
                offset,
                length,
                fill,
            } => {
                let Some(name) = pick(&self.volumes, *volume) else {
                    return;
                };
                let disk = self.volumes.get_mut(&name).unwrap();
                let offset = *offset as usize % disk.len();
                let length = (*length as usize).min(disk.len() - offset);
                let bytes: Vec<u8> = (0..length)
                    .map(|index| fill.wrapping_add((index / 509) as u8) | 1)
                    .collect();
                disk[offset..offset + length].copy_from_slice(&bytes);
                self.open(&name)
                    .writer("test")
                    .unwrap()
                    .write_at(offset as u64, &bytes)
                    .unwrap();
            }
            Step::Zero {
                volume,
                offset,
                length,
            } => {
                let Some(name) = pick(&self.volumes, *volume) else {
                    return;
                };
                let disk = self.volumes.get_mut(&name).unwrap();
                let offset = *offset as usize % disk.len();
                let length = (*length as usize).min(disk.len() - offset);
                disk[offset..offset + length].fill(0);
                self.open(&name)
                    .writer("test")
                    .unwrap()
                    .zero(offset as u64, length as u64)
                    .unwrap();
            }
            Step::Flush => {
                if let Some(name) = pick(&self.volumes, 0) {
                    self.open(&name).writer("test").unwrap().flush().unwrap();
                }
            }
            Step::Snapshot { volume } => {
                let Some(name) = pick(&self.volumes, *volume) else {
                    return;
                };
                let snapshot = self.name("s");
                self.store()
                    .snapshot_create(&who(), &name, Some(&snapshot), None)
                    .unwrap();
                self.snapshots.insert(snapshot, self.volumes[&name].clone());
            }
            Step::Clone { snapshot } => {
                let Some(name) = pick(&self.snapshots, *snapshot) else {
                    return;
                };
                let clone = self.name("v");
                self.store()
                    .volume_create(&who(), &clone, None, &Origin::Snapshot(name.clone()))
                    .unwrap();
                self.volumes.insert(clone, self.snapshots[&name].clone());
            }
            Step::RemoveSnapshot { snapshot } => {
                let Some(name) = pick(&self.snapshots, *snapshot) else {
                    return;
                };
                self.store().snapshot_remove(&who(), &name).unwrap();
                self.snapshots.remove(&name);
            }
            Step::RemoveVolume { volume } => {
                let Some(name) = pick(&self.volumes, *volume) else {
                    return;
                };
                self.store().volume_remove(&who(), &name).unwrap();
                self.volumes.remove(&name);
                if self.volumes.is_empty() {
                    self.create(2 * MIB);
                }
            }
            Step::Resize { volume, mib } => {
                let Some(name) = pick(&self.volumes, *volume) else {
                    return;
                };
                let length = u64::from(*mib) * MIB;
                self.store()
                    .volume_resize(&who(), &name, length, true)
                    .unwrap();
                self.volumes
                    .get_mut(&name)
                    .unwrap()
                    .resize(length as usize, 0);
            }
            Step::Collect => {
                self.store().collect().unwrap();
            }
            Step::Crash => self.crash(),
            Step::Reopen => self.reopen(),
        }
    }

    fn verify(&self) {
        for (name, expected) in &self.volumes {
            let volume = self.open(name);
            assert_eq!(volume.length_bytes(), expected.len() as u64, "{name}");
            let mut shown = vec![0xAA; expected.len()];
            volume.read_at(0, &mut shown).unwrap();
            same(name, &shown, expected);
            let extents = volume
                .extents(0, expected.len() as u64, usize::MAX)
                .unwrap();
            let mut at = 0;
            for extent in extents {
                assert_eq!(extent.offset, at, "{name}");
                at += extent.length;
                let range = &expected[extent.offset as usize..at as usize];
                assert!(
                    extent.data || range.iter().all(|byte| *byte == 0),
                    "{name}: data under a hole"
                );
            }
            assert_eq!(at, expected.len() as u64, "{name}");
        }
        for (name, expected) in &self.snapshots {
            let sealed = self.store().snapshot(name).unwrap().sealed;
            let view = self.store().sealed_open(sealed).unwrap();
            let mut shown = vec![0xAA; expected.len()];
            view.read_at(0, &mut shown).unwrap();
            same(name, &shown, expected);
        }
        let report = self.store().check(true).unwrap();
        assert!(report.problems.is_empty(), "{:?}", report.problems);
    }
}

fn same(name: &str, shown: &[u8], expected: &[u8]) {
    if let Some(at) = (0..expected.len()).find(|at| shown[*at] != expected[*at]) {
        panic!(
            "{name} differs at byte {at} (block {}): {} instead of {}",
            at / 4096,
            shown[at],
            expected[at]
        );
    }
}

fn copy(source: &Path, target: &Path) {
    std::fs::create_dir(target).unwrap();
    for entry in std::fs::read_dir(source).unwrap() {
        let entry = entry.unwrap();
        let to = target.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else if entry.file_name() != "LOCK" {
            // A background thread of RocksDB may remove a file meanwhile.
            let _ = std::fs::copy(entry.path(), to);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 200, ..ProptestConfig::default() })]
    #[test]
    fn volumes_show_what_a_plain_array_shows(steps in proptest::collection::vec(step(), 1..60)) {
        let mut world = World::new();
        for step in &steps {
            world.run(step);
            if matches!(step, Step::Crash | Step::Reopen | Step::Collect) {
                world.verify();
            }
        }
        world.verify();
    }
}

#[test]
fn removing_everything_returns_every_byte() {
    let world = World::new();
    let store = world.store();
    let base = {
        store.collect().unwrap();
        store.stats().unwrap().segment_bytes
    };
    let volume = store.volume_open("v1").unwrap();
    let writer = volume.writer("test").unwrap();
    for round in 0..6u8 {
        writer.write_at(0, &vec![round + 1; 3 << 20]).unwrap();
        store
            .snapshot_create(&who(), "v1", Some(&format!("r{round}")), None)
            .unwrap();
    }
    drop(writer);
    assert!(store.stats().unwrap().segment_bytes > 17 << 20);
    for round in 0..6 {
        store.snapshot_remove(&who(), &format!("r{round}")).unwrap();
    }
    store.volume_remove(&who(), "v1").unwrap();
    store.collect().unwrap();
    let after = store.stats().unwrap();
    assert!(after.segment_bytes <= base + (64 << 10), "{after:?}");
    assert_eq!(after.live_bytes, 0, "{after:?}");
}

#[test]
fn a_thin_volume_of_64_tib_takes_what_is_written() {
    let world = World::new();
    let store = world.store();
    store
        .volume_create(&who(), "huge", Some(64 << 40), &Origin::Empty)
        .unwrap();
    let volume = store.volume_open("huge").unwrap();
    let writer = volume.writer("test").unwrap();
    let last = (64 << 40) - 4096;
    writer.write_at(last, &[7; 4096]).unwrap();
    writer.zero(0, 64 << 40).unwrap();
    writer.write_at(last, &[9; 4096]).unwrap();
    let extents = volume.extents(0, 64 << 40, 10).unwrap();
    assert_eq!(extents.len(), 2, "{extents:?}");
    assert!(store.stats().unwrap().physical_bytes < 32 << 20);
}

#[test]
fn a_second_writer_is_refused_and_may_write_once_the_first_is_gone() {
    let world = World::new();
    let volume = world.open("v1");
    let first = volume.writer("qemu").unwrap();
    let also = volume.writer("qemu").unwrap();
    let refusal = volume.writer("mount").err().unwrap();
    assert_eq!(refusal.kind(), blockstore::Kind::Conflict);
    assert!(refusal.to_string().contains("qemu"), "{refusal}");
    drop((first, also));
    volume.writer("mount").unwrap();
}

#[test]
fn two_stores_on_one_directory_are_refused() {
    let world = World::new();
    let refusal = Store::open(world.store().directory(), options())
        .err()
        .unwrap();
    assert_eq!(refusal.kind(), blockstore::Kind::Conflict);
}

/// Chains of clones were followed to a fixed depth, behind which data could not be read any more.
#[test]
fn a_long_chain_of_clones_is_folded_and_outlives_its_ancestors() {
    const GENERATIONS: u64 = 70;
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path(), options()).unwrap();
    let mut volume = "g0".to_owned();
    store
        .volume_create(&who(), &volume, Some(4 * MIB), &Origin::Empty)
        .unwrap();
    for generation in 0..GENERATIONS {
        let open = store.volume_open(&volume).unwrap();
        let writer = open.writer("test").unwrap();
        // Each generation leaves one block behind, and hides one of its parent's.
        let stamp = [generation as u8 + 1; 4096];
        writer.write_at(generation * 8192, &stamp).unwrap();
        if generation > 0 {
            writer.write_at((generation - 1) * 8192, &stamp).unwrap();
        }
        drop(writer);
        drop(open);
        let snapshot = store.snapshot_create(&who(), &volume, None, None).unwrap();
        let child = format!("g{}", generation + 1);
        store
            .volume_create(&who(), &child, None, &Origin::Snapshot(snapshot.id.clone()))
            .unwrap();
        store.volume_remove(&who(), &volume).unwrap();
        store.snapshot_remove(&who(), &snapshot.id).unwrap();
        volume = child;
    }
    store.collect().unwrap();
    store.close().unwrap();
    drop(store);
    let store = Store::open(directory.path(), options()).unwrap();
    let open = store.volume_open(&volume).unwrap();
    for generation in 0..GENERATIONS {
        let mut block = [0; 4096];
        open.read_at(generation * 8192, &mut block).unwrap();
        let last = (generation + 1).min(GENERATIONS - 1) as u8 + 1;
        assert_eq!(block, [last; 4096], "generation {generation}");
    }
    let report = store.check(true).unwrap();
    assert!(report.problems.is_empty(), "{:?}", report.problems);
}
