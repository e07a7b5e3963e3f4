//! Records that other layers keep in the catalog: JSON by kind and name (instances, hosts).
//!
//! The store does not look inside. A record and the event that tells of it are one batch.

use crate::catalog::{Catalog, Txn, keys};
use crate::{Entry, Error, Kind, Result, Store, Subject, Who};
use serde::{Deserialize, Serialize};
use serde_json::Value;

const NAME_BYTES_MAX: usize = 512;

#[derive(Serialize, Deserialize)]
struct RecordRow {
    value: Value,
}

impl Store {
    /// Writes a record, whether it exists or not.
    pub fn record_put(
        &self,
        who: &Who,
        kind: &str,
        name: &str,
        value: &Value,
        entry: Option<Entry>,
    ) -> Result<()> {
        write(&self.shared.catalog, who, kind, name, value, entry, false)
    }

    /// As [`Self::record_put`], but Conflict if it exists.
    pub fn record_create(
        &self,
        who: &Who,
        kind: &str,
        name: &str,
        value: &Value,
        entry: Option<Entry>,
    ) -> Result<()> {
        write(&self.shared.catalog, who, kind, name, value, entry, true)
    }

    /// The record, if there is one.
    pub fn record_get(&self, kind: &str, name: &str) -> Result<Option<Value>> {
        check_names(kind, name)?;
        let key = keys::record(kind, name);
        let row = self.shared.catalog.get(&key)?;
        row.map(|row| keys::decode::<RecordRow>(&key, &row).map(|row| row.value))
            .transpose()
    }

    /// All records of a kind with their names, in order.
    pub fn record_list(&self, kind: &str) -> Result<Vec<(String, Value)>> {
        list(&self.shared.catalog, kind, usize::MAX)
    }

    /// The first of a kind by name, `most` of them; no more than those are read.
    pub fn record_first(&self, kind: &str, most: usize) -> Result<Vec<(String, Value)>> {
        list(&self.shared.catalog, kind, most)
    }

    /// Removes a record; NotFound if there is none.
    pub fn record_remove(
        &self,
        who: &Who,
        kind: &str,
        name: &str,
        entry: Option<Entry>,
    ) -> Result<()> {
        remove(&self.shared.catalog, who, kind, name, entry)
    }
}

fn write(
    catalog: &Catalog,
    who: &Who,
    kind: &str,
    name: &str,
    value: &Value,
    entry: Option<Entry>,
    new: bool,
) -> Result<()> {
    check_names(kind, name)?;
    let key = keys::record(kind, name);
    let row = keys::encode(&RecordRow {
        value: value.clone(),
    })?;
    let (who, shown) = (who.clone(), format!("{kind} {name:?}"));
    catalog.transact(move |txn| {
        if new && txn.get(&key)?.is_some() {
            let text = format!("{shown} exists already: choose another name, or remove it first");
            return Err(Error::new(Kind::Conflict, Subject::Record, text));
        }
        txn.put(&key, row);
        tell(txn, &who, entry)
    })
}

fn list(catalog: &Catalog, kind: &str, most: usize) -> Result<Vec<(String, Value)>> {
    check_names(kind, "-")?;
    let prefix = keys::records_of(kind);
    let mut records = Vec::new();
    catalog.scan(&prefix, &prefix, &mut |key, row| {
        if records.len() >= most {
            return Ok(false);
        }
        let name = keys::text_behind(&prefix, key)?;
        records.push((name.to_owned(), keys::decode::<RecordRow>(key, row)?.value));
        Ok(true)
    })?;
    Ok(records)
}

fn remove(
    catalog: &Catalog,
    who: &Who,
    kind: &str,
    name: &str,
    entry: Option<Entry>,
) -> Result<()> {
    check_names(kind, name)?;
    let key = keys::record(kind, name);
    let (who, shown) = (who.clone(), format!("no {kind} {name:?}: look at the list"));
    catalog.transact(move |txn| {
        if txn.get(&key)?.is_none() {
            return Err(Error::new(Kind::NotFound, Subject::Record, shown));
        }
        txn.delete(&key);
        tell(txn, &who, entry)
    })
}

fn tell(txn: &mut Txn<'_>, who: &Who, entry: Option<Entry>) -> Result<()> {
    match entry {
        Some(entry) => txn.journal(who, entry).map(|_| ()),
        None => Ok(()),
    }
}

fn check_names(kind: &str, name: &str) -> Result<()> {
    let kind_fits = !kind.is_empty()
        && kind
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte == b'-');
    if !kind_fits {
        let text = format!("{kind:?} is no kind of record: lower-case letters and hyphens only");
        return Err(Error::new(Kind::Invalid, Subject::Record, text));
    }
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        let text = format!(
            "a {kind} needs a name of 1 to {NAME_BYTES_MAX} bytes, this one has {}",
            name.len()
        );
        return Err(Error::new(Kind::Invalid, Subject::Record, text));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_record_is_created_once_listed_by_kind_and_removed_once() {
        let directory = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(directory.path()).unwrap();
        let who = Who::server();
        let entry = || Some(Entry::new("instance.defined", "web1"));
        write(
            &catalog,
            &who,
            "instance",
            "web1",
            &json!({"v": 9, "cpus": 2}),
            entry(),
            true,
        )
        .unwrap();
        write(&catalog, &who, "instance-x", "other", &json!(1), None, true).unwrap();
        let error =
            write(&catalog, &who, "instance", "web1", &json!(3), entry(), true).unwrap_err();
        assert_eq!(
            (error.kind(), error.subject()),
            (Kind::Conflict, Subject::Record)
        );
        write(&catalog, &who, "instance", "db1", &json!([1]), None, false).unwrap();
        let records = list(&catalog, "instance", 9).unwrap();
        assert_eq!(
            records,
            [
                ("db1".into(), json!([1])),
                ("web1".into(), json!({"v": 9, "cpus": 2}))
            ]
        );
        let first = list(&catalog, "instance", 1).unwrap();
        assert_eq!(first, records[..1]);
        remove(&catalog, &who, "instance", "web1", None).unwrap();
        assert_eq!(
            remove(&catalog, &who, "instance", "web1", None)
                .unwrap_err()
                .kind(),
            Kind::NotFound
        );
        assert_eq!(
            write(&catalog, &who, "a/b", "x", &json!(1), None, true)
                .unwrap_err()
                .kind(),
            Kind::Invalid
        );
        assert_eq!(
            write(&catalog, &who, "a", "", &json!(1), None, true)
                .unwrap_err()
                .kind(),
            Kind::Invalid
        );
        // The refused creation left no event behind.
        assert_eq!(catalog.count(keys::JOURNAL).unwrap(), 1);
    }
}
