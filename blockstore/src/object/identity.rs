//! Stable ids: one number for each bucket and each key, from when it first appears until it is gone.
//!
//! 1. An id is the number of the event that told of the key's (the bucket's) first appearance, so it
//!    is never given twice.
//! 2. Replacing and renaming keep it; a copy is another key and gets its own.
//! 3. One row leads from the id to the name. It goes with the last version of its key.

use crate::catalog::{Catalog, Txn, keys};
use crate::{Error, Kind, Result, Store, Subject};
use serde::{Deserialize, Serialize};

/// What has a stable id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Named {
    /// A bucket.
    Bucket(String),
    /// A key in a bucket; its latest version may be a delete marker.
    Object {
        /// The bucket.
        bucket: String,
        /// The key.
        key: String,
    },
}

/// A key's id, and since when there is that key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) id: u64,
    pub(crate) created_ms: u64,
}

#[derive(Serialize, Deserialize)]
struct IdRow {
    bucket: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<String>,
}

impl Store {
    /// What has this id now. NotFound if nothing has it any more.
    pub fn object_by_id(&self, id: u64) -> Result<Named> {
        find(&self.shared.catalog, id)
    }
}

pub(super) fn find(catalog: &Catalog, id: u64) -> Result<Named> {
    let at = keys::stable_id(id);
    let row = catalog.get(&at)?.ok_or_else(|| {
        let text = format!("nothing has the id {id}: it never was, or it is removed");
        Error::new(Kind::NotFound, Subject::Object, text)
    })?;
    let IdRow { bucket, key } = keys::decode(&at, &row)?;
    Ok(match key {
        Some(key) => Named::Object { bucket, key },
        None => Named::Bucket(bucket),
    })
}

/// Makes an id lead to a key, or (without one) to a bucket.
pub(super) fn lead(txn: &mut Txn<'_>, id: u64, bucket: &str, key: Option<&str>) -> Result<()> {
    let row = IdRow {
        bucket: bucket.into(),
        key: key.map(Into::into),
    };
    txn.put(&keys::stable_id(id), keys::encode(&row)?);
    Ok(())
}

/// Makes an id lead nowhere.
pub(super) fn forget(txn: &mut Txn<'_>, id: u64) {
    txn.delete(&keys::stable_id(id));
}
