//! Models that stand in for the databases: tables that lose what came after a checkpoint, durable names.

use crate::Result;
use crate::catalog::MapRow;
use crate::engine::names::Names;
use crate::index::tables::{Change, Row, Table, Tables, Visit};
use crate::{Lsn, MapId};
use rand::Rng;
use rand::rngs::StdRng;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, Range};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

type Map = BTreeMap<(Table, Vec<u8>), Vec<u8>>;

#[derive(Default)]
struct TableState {
    now: Map,
    durable: Map,
    since: Vec<Vec<Change>>,
}

/// The index's tables in memory; clones share them.
#[derive(Clone, Default)]
pub(super) struct SimTables {
    state: Arc<Mutex<TableState>>,
}

fn change_all(map: &mut Map, changes: &[Change]) {
    for change in changes {
        let key = (change.table, change.key.clone());
        match &change.value {
            Some(value) => map.insert(key, value.clone()),
            None => map.remove(&key),
        };
    }
}

impl SimTables {
    /// The process ends: some beginning of the batches since the last checkpoint survives.
    pub(super) fn crash(&self, random: &mut StdRng) {
        let mut state = lock(&self.state);
        let kept = if random.random_bool(0.6) {
            0
        } else {
            random.random_range(0..=state.since.len())
        };
        let since = std::mem::take(&mut state.since);
        for changes in &since[..kept] {
            change_all(&mut state.durable, changes);
        }
        state.now = state.durable.clone();
    }
}

impl Tables for SimTables {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>> {
        Ok(lock(&self.state).now.get(&(table, key.to_vec())).cloned())
    }

    fn next(&self, table: Table, from: &[u8]) -> Result<Option<Row>> {
        let state = lock(&self.state);
        let row = state.now.range((table, from.to_vec())..).next();
        Ok(row
            .filter(|((known, _), _)| *known == table)
            .map(|((_, key), value)| (key.clone(), value.clone())))
    }

    fn previous(&self, table: Table, upto: &[u8]) -> Result<Option<Row>> {
        let state = lock(&self.state);
        let row = state
            .now
            .range((Bound::Unbounded, Bound::Included((table, upto.to_vec()))))
            .next_back();
        Ok(row
            .filter(|((known, _), _)| *known == table)
            .map(|((_, key), value)| (key.clone(), value.clone())))
    }

    fn scan(&self, table: Table, from: &[u8], visit: &mut Visit<'_>) -> Result<()> {
        let state = lock(&self.state);
        for ((_, key), value) in state
            .now
            .range((table, from.to_vec())..)
            .take_while(|((known, _), _)| *known == table)
        {
            if !visit(key, value)? {
                break;
            }
        }
        Ok(())
    }

    fn write(&self, changes: Vec<Change>) -> Result<()> {
        let mut state = lock(&self.state);
        change_all(&mut state.now, &changes);
        state.since.push(changes);
        Ok(())
    }

    fn checkpoint(&self) -> Result<()> {
        let mut state = lock(&self.state);
        state.durable = state.now.clone();
        state.since.clear();
        Ok(())
    }
}

#[derive(Default)]
struct NameState {
    maps: BTreeMap<MapId, MapRow>,
    pins: BTreeSet<(MapId, Lsn, String)>,
    loose: BTreeSet<MapId>,
    next: u64,
    settled: u64,
}

/// Names that are durable as soon as they are made; clones share them.
#[derive(Clone, Default)]
pub(super) struct SimNames {
    state: Arc<Mutex<NameState>>,
    /// Ids below were given out by earlier runs.
    run: u64,
}

impl SimNames {
    /// The names as the next run of the process sees them.
    pub(super) fn next_run(&self) -> Self {
        let run = lock(&self.state).next;
        Self {
            state: Arc::clone(&self.state),
            run,
        }
    }

    pub(super) fn put(&self, map: MapId, row: &MapRow) {
        let mut state = lock(&self.state);
        state.maps.insert(map, row.clone());
        for below in row.parent.iter().chain(&row.borrows) {
            state
                .pins
                .insert((below.map, below.lsn, format!("map:{}", map.0)));
        }
    }

    pub(super) fn pin(&self, map: MapId, lsn: Lsn, holder: &str) {
        lock(&self.state).pins.insert((map, lsn, holder.into()));
    }

    pub(super) fn unpin(&self, map: MapId, lsn: Lsn, holder: &str) {
        let mut state = lock(&self.state);
        state.pins.remove(&(map, lsn, holder.into()));
        state.loose.insert(map);
    }

    /// Every map and its cuts.
    pub(super) fn all(&self) -> Vec<(MapId, BTreeSet<Lsn>)> {
        let maps: Vec<MapId> = lock(&self.state).maps.keys().copied().collect();
        maps.into_iter()
            .map(|map| (map, self.cuts_of(map)))
            .collect()
    }

    fn cuts_of(&self, map: MapId) -> BTreeSet<Lsn> {
        lock(&self.state)
            .pins
            .iter()
            .filter(|(known, ..)| *known == map)
            .map(|(_, lsn, _)| *lsn)
            .collect()
    }
}

impl Names for SimNames {
    fn map(&self, map: MapId) -> Result<Option<MapRow>> {
        Ok(lock(&self.state).maps.get(&map).cloned())
    }

    fn cuts(&self, map: MapId) -> Result<BTreeSet<Lsn>> {
        Ok(self.cuts_of(map))
    }

    fn loose(&self) -> Result<Vec<MapId>> {
        Ok(lock(&self.state).loose.iter().copied().collect())
    }

    fn swept(&self, map: MapId, saw: BTreeSet<Lsn>) -> Result<bool> {
        if self.cuts_of(map) != saw {
            return Ok(false);
        }
        let mut state = lock(&self.state);
        state.loose.remove(&map);
        if saw.is_empty()
            && let Some(row) = state.maps.remove(&map)
        {
            for below in row.parent.iter().chain(&row.borrows) {
                state
                    .pins
                    .remove(&(below.map, below.lsn, format!("map:{}", map.0)));
                state.loose.insert(below.map);
            }
        }
        Ok(true)
    }

    fn map_id(&self) -> Result<MapId> {
        let mut state = lock(&self.state);
        state.next += 1;
        Ok(MapId(state.next))
    }

    fn unfinished(&self) -> Result<Vec<Range<u64>>> {
        Ok(std::iter::once(lock(&self.state).settled..self.run + 1).collect())
    }

    fn settle(&self) -> Result<()> {
        lock(&self.state).settled = self.run + 1;
        Ok(())
    }
}
