//! Who edits which object, and the heads that editors hold.

use crate::catalog::{Catalog, HEAD, keys};
use crate::{Error, Kind, MapId, Result, Store, Subject};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Editors at once: what they hold in memory is bounded by it.
const EDITORS_MAX: usize = 2048;

/// Which name is edited; a rename moves it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Place {
    pub(super) bucket: String,
    pub(super) key: String,
}

/// Who edits what.
#[derive(Default)]
pub(crate) struct Editors {
    open: Mutex<HashMap<Place, String>>,
}

/// A head that an editor holds, so that the next opening of the store can let it go.
#[derive(Serialize, Deserialize)]
pub(super) struct EditRow {
    pub(super) bucket: String,
    pub(super) key: String,
}

impl Store {
    /// Who edits an object now.
    pub fn object_editor(&self, bucket: &str, key: &str) -> Option<String> {
        let place = Place {
            bucket: bucket.into(),
            key: key.into(),
        };
        self.shared.edits.open().get(&place).cloned()
    }
}

/// Lets go of the heads that editors of earlier runs held. Called once, at the opening of the store.
pub(crate) fn sweep_unfinished(catalog: &Catalog) -> Result<usize> {
    catalog.transact(|txn| {
        let rows = txn.scan_prefix(keys::EDITS, usize::MAX)?;
        for (key, _) in &rows {
            let map = MapId(keys::number_behind(keys::EDITS, key)?);
            txn.delete(key);
            txn.unpin(map, HEAD, &holder(map))?;
        }
        Ok(rows.len())
    })
}

pub(super) fn holder(map: MapId) -> String {
    format!("edit:{}", map.0)
}

impl Editors {
    fn open(&self) -> MutexGuard<'_, HashMap<Place, String>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn take(&self, place: &Place, actor: &str) -> Result<()> {
        let mut open = self.open();
        if let Some(other) = open.get(place) {
            let text = format!(
                "{}/{} is being written by {other}; close it there first",
                place.bucket, place.key
            );
            return Err(Error::new(Kind::Conflict, Subject::Object, text));
        }
        if open.len() >= EDITORS_MAX {
            let text =
                format!("{EDITORS_MAX} objects are being written, the most; close one first");
            return Err(Error::new(Kind::Unavailable, Subject::Store, text));
        }
        open.insert(place.clone(), actor.into());
        Ok(())
    }

    pub(super) fn release(&self, place: &Place) {
        self.open().remove(place);
    }

    /// The editor of `from` is the editor of `to` from now on.
    pub(super) fn rename(&self, from: &Place, to: &Place) -> Result<()> {
        let mut open = self.open();
        if from != to && open.contains_key(to) {
            let text = format!("{}/{} is being written; close it first", to.bucket, to.key);
            return Err(Error::new(Kind::Conflict, Subject::Object, text));
        }
        if let Some(actor) = open.remove(from) {
            open.insert(to.clone(), actor);
        }
        Ok(())
    }
}
