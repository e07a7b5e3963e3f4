//! Maps, their pins, and the list of maps that wait for the sweeper.
//!
//! 1. A *cut* of a map is an lsn with at least one pin; [`HEAD`](super::HEAD) is the cut of a writable head.
//! 2. A sealed map may be shown to anyone only while it is a cut.
//! 3. When a cut loses its last pin, its map becomes *loose* in the same batch; the sweeper frees what
//!    only that cut showed and then says so ([`Txn::swept`]).
//! 4. A map pins its parent and what it borrows from for as long as it has a row.

use super::{Catalog, MapRow, Step, Txn, keys};
use crate::{Error, Kind, Lsn, MapId, Result, SealedMap, Subject};
use std::collections::BTreeSet;

impl Catalog {
    /// The row of a map.
    pub(crate) fn map(&self, map: MapId) -> Result<Option<MapRow>> {
        let key = keys::map(map);
        self.get(&key)?
            .map(|value| keys::decode(&key, &value))
            .transpose()
    }

    /// The lsns of `map` that have at least one pin (HEAD included).
    pub(crate) fn cuts(&self, map: MapId) -> Result<BTreeSet<Lsn>> {
        let prefix = keys::pins_of_map(map);
        let mut cuts = BTreeSet::new();
        self.walk(&prefix, &prefix, &mut |key, _| {
            let (_, lsn, _) = keys::parse_pin(key)?;
            cuts.insert(lsn);
            // One cut may have very many holders: on to the next cut.
            Ok(keys::behind(&keys::pins_of_cut(map, lsn)).map_or(Step::Stop, Step::Seek))
        })?;
        Ok(cuts)
    }

    /// Whether that lsn of the map is a cut.
    #[cfg(test)]
    pub(crate) fn has_pin(&self, map: MapId, lsn: Lsn) -> Result<bool> {
        let prefix = keys::pins_of_cut(map, lsn);
        let mut found = false;
        self.walk(&prefix, &prefix, &mut |_, _| {
            found = true;
            Ok(Step::Stop)
        })?;
        Ok(found)
    }

    /// Maps that lost a cut and wait for the sweeper.
    pub(crate) fn loose(&self) -> Result<Vec<MapId>> {
        let mut maps = Vec::new();
        self.scan(keys::LOOSE, keys::LOOSE, &mut |key, _| {
            maps.push(MapId(keys::number_behind(keys::LOOSE, key)?));
            Ok(true)
        })?;
        Ok(maps)
    }
}

impl Txn<'_> {
    /// The row of a map.
    pub(crate) fn map(&self, map: MapId) -> Result<Option<MapRow>> {
        let key = keys::map(map);
        self.get(&key)?
            .map(|value| keys::decode(&key, &value))
            .transpose()
    }

    /// The lsns of `map` that have at least one pin (HEAD included).
    pub(crate) fn cuts(&self, map: MapId) -> Result<BTreeSet<Lsn>> {
        let rows = self.scan_prefix(&keys::pins_of_map(map), usize::MAX)?;
        rows.iter()
            .map(|(key, _)| keys::parse_pin(key).map(|(_, lsn, _)| lsn))
            .collect()
    }

    /// Writes the row of a new or changed map. Its parent and what it borrows are pinned by it here
    /// (holder `map:<id>`); pins of those it no longer names end.
    pub(crate) fn put_map(&mut self, map: MapId, row: &MapRow) -> Result<()> {
        let before = self.map(map)?;
        let holder = holder_of(map);
        for below in below(row) {
            self.pin(below.map, below.lsn, &holder)?;
        }
        self.put(&keys::map(map), keys::encode(row)?);
        if let Some(before) = before {
            let kept: BTreeSet<_> = below(row).map(|sealed| (sealed.map, sealed.lsn)).collect();
            for gone in below(&before).filter(|sealed| !kept.contains(&(sealed.map, sealed.lsn))) {
                self.unpin(gone.map, gone.lsn, &holder)?;
            }
        }
        Ok(())
    }

    /// Pins (map, lsn) for `holder`. NotFound if the map has no row. Pinning twice is pinning once.
    ///
    /// The caller must have seen in this same transaction that the cut may be pinned: it read a row
    /// that holds a pin on it, or it seals a live head, or the map is its own new one.
    pub(crate) fn pin(&mut self, map: MapId, lsn: Lsn, holder: &str) -> Result<()> {
        if self.get(&keys::map(map))?.is_none() {
            return Err(Error::new(
                Kind::NotFound,
                Subject::Store,
                format!("{map} has no row in the catalog, {holder} cannot pin it"),
            ));
        }
        self.put(&keys::pin(map, lsn, holder), Vec::new());
        Ok(())
    }

    /// Ends a pin; when it was the last of that lsn, the map becomes loose. Ending it twice is ending it once.
    pub(crate) fn unpin(&mut self, map: MapId, lsn: Lsn, holder: &str) -> Result<()> {
        self.delete(&keys::pin(map, lsn, holder));
        if !self.any(&keys::pins_of_cut(map, lsn))? {
            self.loosen(map);
        }
        Ok(())
    }

    /// Puts a map on the sweeper's list: one that got a row but never a pin, or that lost a cut.
    pub(crate) fn loosen(&mut self, map: MapId) {
        self.put(&keys::loose(map), Vec::new());
    }

    /// The sweeper is done with a map of which it `saw` these cuts. If they changed since, nothing
    /// happens and the answer is false: sweep again. Otherwise the map is no longer loose, and if it
    /// has no cut left, its row goes and its pins on its parent and borrows end (which become loose
    /// in turn).
    pub(crate) fn swept(&mut self, map: MapId, saw: &BTreeSet<Lsn>) -> Result<bool> {
        let cuts = self.cuts(map)?;
        if cuts != *saw {
            return Ok(false);
        }
        self.delete(&keys::loose(map));
        if !cuts.is_empty() {
            return Ok(true);
        }
        if let Some(row) = self.map(map)? {
            self.delete(&keys::map(map));
            for below in below(&row) {
                self.unpin(below.map, below.lsn, &holder_of(map))?;
            }
        }
        Ok(true)
    }
}

fn holder_of(map: MapId) -> String {
    format!("map:{}", map.0)
}

/// The sealed maps whose births a map shows besides its own.
fn below(row: &MapRow) -> impl Iterator<Item = SealedMap> {
    row.parent.iter().chain(&row.borrows).copied()
}
