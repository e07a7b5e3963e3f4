//! Changing what is kept with a version, without touching its bytes: tags, metadata, locks.
//!
//! The version, its ETag and the time it was committed stay; `changed_ms` moves. What is to hold of the
//! version is checked in the same transaction.

use super::lock::{self, Retention};
use super::row::{self, ObjectRow};
use super::{Bucket, Object, Precondition, bucket, version};
use crate::{Entry, Result, Store, Who, clock};
use serde_json::Value;
use std::collections::BTreeMap;

/// What is to change; what is `None` stays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// All tags.
    pub tags: Option<BTreeMap<String, String>>,
    /// All system headers.
    pub headers: Option<BTreeMap<String, String>>,
    /// All user metadata.
    pub user: Option<BTreeMap<String, String>>,
    /// What other doors keep, by their name: a new value, or `None` to remove it. Others stay.
    pub properties: BTreeMap<String, Option<Value>>,
}

impl Store {
    /// Changes metadata of a version (`None`: the current one) in place.
    pub fn object_change(
        &self,
        who: &Who,
        bucket: &str,
        key: &str,
        version: Option<&str>,
        change: &Change,
        condition: &Precondition,
    ) -> Result<Object> {
        let (change, condition) = (change.clone(), condition.clone());
        self.amend(who, (bucket, key, version), move |_, row| {
            let Object { bucket, key, .. } = &row.object;
            row::check(&condition, Some(&row.object), bucket, key)?;
            let said = change.said();
            let meta = &mut row.object.meta;
            if let Some(tags) = change.tags {
                meta.tags = tags;
            }
            if let Some(headers) = change.headers {
                meta.headers = headers;
            }
            if let Some(user) = change.user {
                meta.user = user;
            }
            for (name, value) in change.properties {
                match value {
                    Some(value) => meta.properties.insert(name, value),
                    None => meta.properties.remove(&name),
                };
            }
            Ok(said)
        })
    }

    /// Sets, prolongs or (`None`) ends the retention of a version. Denied where the present one forbids
    /// it, Invalid for a bucket without object lock.
    pub fn object_retain(
        &self,
        who: &Who,
        bucket: &str,
        key: &str,
        version: Option<&str>,
        retention: Option<Retention>,
        bypass_governance: bool,
    ) -> Result<Object> {
        self.amend(who, (bucket, key, version), move |bucket, row| {
            expect_locks(bucket)?;
            lock::check_retention(&row.object, retention, bypass_governance)?;
            row.object.meta.lock.retention = retention;
            Ok(match retention {
                Some(Retention { mode, until_ms }) => {
                    format!("{mode:?} retention until {until_ms} ms").to_lowercase()
                }
                None => "no retention".into(),
            })
        })
    }

    /// Puts a legal hold on a version, or ends it. Invalid for a bucket without object lock.
    pub fn object_hold(
        &self,
        who: &Who,
        bucket: &str,
        key: &str,
        version: Option<&str>,
        on: bool,
    ) -> Result<Object> {
        self.amend(who, (bucket, key, version), move |bucket, row| {
            expect_locks(bucket)?;
            row.object.meta.lock.legal_hold = on;
            Ok(format!("legal hold {}", if on { "on" } else { "off" }))
        })
    }

    /// Rewrites the row of a version as `change` leaves it, which says in words what it did.
    fn amend(
        &self,
        who: &Who,
        (bucket, key, version): (&str, &str, Option<&str>),
        change: impl FnOnce(&Bucket, &mut ObjectRow) -> Result<String> + Send + 'static,
    ) -> Result<Object> {
        let (who, bucket, key) = (who.clone(), bucket.to_owned(), key.to_owned());
        let version = version.map(str::to_owned);
        self.shared.catalog.transact(move |txn| {
            let bucket = bucket::expect(txn, &bucket)?;
            let mut found = version::chosen_object(txn, &bucket.name, &key, version.as_deref())?;
            let said = change(&bucket, &mut found.row)?;
            row::check_meta(&found.row.object.meta)?;
            found.row.object.changed_ms = clock::now_ms();
            row::write(txn, &found.row, found.place)?;
            let entry = Entry::new("object.changed", row::subject(&bucket.name, &key))
                .detail(format!("version {}: {said}", found.row.object.version));
            txn.journal(&who, entry)?;
            Ok(found.row.object)
        })
    }
}

impl Change {
    /// What it changes, in words.
    fn said(&self) -> String {
        let mut said: Vec<&str> = [
            (self.tags.is_some(), "tags"),
            (self.headers.is_some(), "headers"),
            (self.user.is_some(), "user metadata"),
        ]
        .into_iter()
        .filter_map(|(changed, what)| changed.then_some(what))
        .collect();
        said.extend(self.properties.keys().map(String::as_str));
        said.join(", ")
    }
}

fn expect_locks(bucket: &Bucket) -> Result<()> {
    match bucket.config.lock {
        Some(_) => Ok(()),
        None => Err(lock::without_locks(&bucket.name)),
    }
}
