//! A disk that loses what was not synced: drops, tears and reorders writes at a power cut, fails syncs
//! and writes on demand, and keeps a page cache that outlives the process but not the power.

use crate::valuelog::disk::{Disk, DiskFile};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const SECTOR: usize = 512;

#[derive(Clone)]
enum Pending {
    Write(u64, Vec<u8>),
    Truncate(u64),
}

#[derive(Default)]
struct File {
    /// What the process sees.
    visible: Vec<u8>,
    /// What survives a power cut.
    durable: Vec<u8>,
    pending: Vec<Pending>,
    name_durable: bool,
}

/// What goes wrong next.
#[derive(Default)]
pub(super) struct Faults {
    pub(super) fail_next_sync: bool,
    pub(super) fail_next_write: bool,
    pub(super) full: bool,
}

struct State {
    files: BTreeMap<String, Arc<Mutex<File>>>,
    /// Removed, and the removal not durable.
    ghosts: BTreeMap<String, Arc<Mutex<File>>>,
    faults: Faults,
    random: StdRng,
}

/// The disk; clones share it.
#[derive(Clone)]
pub(super) struct SimDisk {
    state: Arc<Mutex<State>>,
}

struct Handle {
    disk: SimDisk,
    file: Arc<Mutex<File>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn apply(bytes: &mut Vec<u8>, change: &Pending) {
    match change {
        Pending::Write(offset, data) => {
            let at = *offset as usize;
            if bytes.len() < at + data.len() {
                bytes.resize(at + data.len(), 0);
            }
            bytes[at..at + data.len()].copy_from_slice(data);
        }
        Pending::Truncate(length) => bytes.resize(*length as usize, 0),
    }
}

/// Some of the sectors of some of the changes, in any order.
fn apply_some(file: &mut File, random: &mut StdRng) {
    let keep = [0.0, 0.2, 0.5, 0.9, 1.0][random.random_range(0..5)];
    let mut pieces = Vec::new();
    for change in std::mem::take(&mut file.pending) {
        match change {
            Pending::Write(offset, data) => {
                for (index, sector) in data.chunks(SECTOR).enumerate() {
                    pieces.push(Pending::Write(
                        offset + (index * SECTOR) as u64,
                        sector.to_vec(),
                    ));
                }
            }
            truncate @ Pending::Truncate(_) => pieces.push(truncate),
        }
    }
    // Only changes to different places may pass one another: the last write to a sector wins.
    for piece in pieces {
        if random.random_bool(keep) {
            apply(&mut file.durable, &piece);
        }
    }
}

impl SimDisk {
    pub(super) fn new(seed: u64) -> Self {
        let state = State {
            files: BTreeMap::new(),
            ghosts: BTreeMap::new(),
            faults: Faults::default(),
            random: StdRng::seed_from_u64(seed),
        };
        Self {
            state: Arc::new(Mutex::new(state)),
        }
    }

    pub(super) fn faults(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut lock(&self.state).faults);
    }

    /// The power fails: what was not synced is lost, torn or kept, as the seed says.
    pub(super) fn cut_power(&self) {
        let mut state = lock(&self.state);
        let State {
            files,
            ghosts,
            random,
            faults,
        } = &mut *state;
        for (name, file) in std::mem::take(ghosts) {
            if random.random_bool(0.5) {
                files.entry(name).or_insert(file);
            }
        }
        files.retain(|_, file| {
            let mut file = lock(file);
            apply_some(&mut file, random);
            file.visible = file.durable.clone();
            let stays = file.name_durable || random.random_bool(0.5);
            file.name_durable = true;
            stays
        });
        *faults = Faults::default();
    }

    /// The process ends and its successor starts: the page cache stays.
    pub(super) fn restart(&self) {
        lock(&self.state).faults = Faults::default();
    }
}

impl Disk for SimDisk {
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = lock(&self.state);
        if state.faults.full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if state.files.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let file = Arc::new(Mutex::new(File::default()));
        state.files.insert(name.into(), Arc::clone(&file));
        Ok(Arc::new(Handle {
            disk: self.clone(),
            file,
        }))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = lock(&self.state)
            .files
            .get(name)
            .cloned()
            .ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(Handle {
            disk: self.clone(),
            file,
        }))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = lock(&self.state);
        let file = state.files.remove(name).ok_or(io::ErrorKind::NotFound)?;
        if lock(&file).name_durable {
            state.ghosts.insert(name.into(), file);
        }
        Ok(())
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(lock(&self.state).files.keys().cloned().collect())
    }

    fn sync_names(&self) -> io::Result<()> {
        let mut state = lock(&self.state);
        state.ghosts.clear();
        for file in state.files.values() {
            lock(file).name_durable = true;
        }
        Ok(())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        Ok(if lock(&self.state).faults.full {
            0
        } else {
            1 << 40
        })
    }
}

impl DiskFile for Handle {
    fn write_at(&self, offset: u64, slices: &[&[u8]]) -> io::Result<()> {
        let mut state = lock(&self.disk.state);
        let fails = std::mem::take(&mut state.faults.fail_next_write);
        let mut data = slices.concat();
        if fails {
            data.truncate(state.random.random_range(0..=data.len()));
        }
        let change = Pending::Write(offset, data);
        let mut file = lock(&self.file);
        apply(&mut file.visible, &change);
        file.pending.push(change);
        if fails {
            Err(io::Error::other("simulated write failure"))
        } else {
            Ok(())
        }
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let file = lock(&self.file);
        let at = offset as usize;
        let bytes = file
            .visible
            .get(at..at + buffer.len())
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(bytes);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = lock(&self.disk.state);
        let mut file = lock(&self.file);
        if std::mem::take(&mut state.faults.fail_next_sync) {
            // As Linux does: the pages are marked clean, some of them never reached the disk.
            apply_some(&mut file, &mut state.random);
            return Err(io::Error::other("simulated sync failure"));
        }
        for change in std::mem::take(&mut file.pending) {
            apply(&mut file.durable, &change);
        }
        Ok(())
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        let mut file = lock(&self.file);
        file.visible.resize(length as usize, 0);
        file.pending.push(Pending::Truncate(length));
        Ok(())
    }

    fn reserve(&self, _length: u64) -> io::Result<()> {
        if lock(&self.disk.state).faults.full {
            Err(io::ErrorKind::StorageFull.into())
        } else {
            Ok(())
        }
    }

    fn length(&self) -> io::Result<u64> {
        Ok(lock(&self.file).visible.len() as u64)
    }

    fn allocated(&self) -> io::Result<u64> {
        self.length()
    }
}
