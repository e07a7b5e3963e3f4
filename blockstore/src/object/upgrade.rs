//! From format 1 of the catalog to a later one: ids lead to names, usage is counted.
//!
//! Runs while a store is opened, before anyone else uses it. Until the last step the catalog stays of
//! format 1, and every step can be done twice: an interrupted upgrade begins again.

use super::usage::{self, Recount};
use super::{Bucket, bucket, identity, row};
use crate::catalog::{Catalog, keys};
use crate::{Entry, Result, Who};

/// Keys whose ids are written in one batch.
const STEP_KEYS: usize = 1000;

/// Makes the catalog one of this release's format, if it is not.
pub(crate) fn upgrade(catalog: &Catalog) -> Result<()> {
    if catalog.format()? > 1 {
        return Ok(());
    }
    identify_buckets(catalog)?;
    identify_keys(catalog)?;
    let counted: Recount = catalog.frozen(usage::recount)?;
    let text = format!("from format 1 to {}", keys::FORMAT_VERSION);
    catalog.transact(move |txn| {
        usage::put_counted(txn, &counted)?;
        txn.put_format()?;
        let entry = Entry::new("store.upgraded", "catalog").detail(text);
        txn.journal(&Who::server(), entry).map(|_| ())
    })
}

fn identify_buckets(catalog: &Catalog) -> Result<()> {
    let mut nameless = Vec::new();
    catalog.scan(keys::BUCKETS, keys::BUCKETS, &mut |key, row| {
        let bucket: Bucket = keys::decode(key, row)?;
        if bucket.id == 0 {
            nameless.push(bucket.name);
        }
        Ok(true)
    })?;
    for name in nameless {
        catalog.transact(move |txn| {
            let mut bucket = bucket::expect(txn, &name)?;
            bucket.id = txn.seq_next();
            identity::lead(txn, bucket.id, &name, None)?;
            txn.put(&keys::bucket(&name), keys::encode(&bucket)?);
            let entry = Entry::new("bucket.identified", name).detail(format!("id {}", bucket.id));
            txn.journal(&Who::server(), entry).map(|_| ())
        })?;
    }
    Ok(())
}

/// The id of an old key is the number of its incarnation, as [`row::decode`] says.
fn identify_keys(catalog: &Catalog) -> Result<()> {
    let mut start = keys::OBJECTS.to_vec();
    loop {
        let mut found = Vec::with_capacity(STEP_KEYS);
        let mut next = Vec::new();
        catalog.scan(keys::OBJECTS, &start, &mut |at, value| {
            let object = row::decode(at, value)?.object;
            found.push((object.id, object.bucket, object.key));
            next = [at, &[0]].concat();
            Ok(found.len() < STEP_KEYS)
        })?;
        start = next;
        let last = found.len() < STEP_KEYS;
        catalog.transact(move |txn| {
            for (id, bucket, key) in found {
                identity::lead(txn, id, &bucket, Some(&key))?;
            }
            Ok(())
        })?;
        if last {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::row::Draft;
    use crate::object::{BucketConfig, Named, ObjectMeta, Precondition};
    use crate::{Lsn, MapId, SealedMap};

    /// A catalog with objects and a part under way, without what format 2 added.
    fn of_format_1() -> (tempfile::TempDir, Catalog) {
        let directory = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(directory.path()).unwrap();
        let who = Who::server();
        bucket::create(&catalog, &who, "abc", BucketConfig::default()).unwrap();
        catalog
            .transact(|txn| {
                let sealed = SealedMap {
                    map: MapId(1),
                    lsn: Lsn(1),
                    length_bytes: 0,
                };
                for n in 0..2500 {
                    let meta = ObjectMeta::default();
                    let mut draft = Draft::of_map("abc", &format!("k{n}"), meta, sealed);
                    draft.body = crate::object::Body::Inline;
                    let entry = Entry::new("object.put", "x");
                    row::put(txn, &Who::server(), draft, &Precondition::default(), entry)?;
                }
                let mut old = Vec::new();
                for prefix in [&b"id/"[..], keys::BUCKET_USAGE, keys::PROJECT_USAGE] {
                    old.extend(txn.scan_prefix(prefix, usize::MAX)?);
                }
                for (at, _) in old {
                    txn.delete(&at);
                }
                let bucket = br#"{"v":1,"name":"abc","created_ms":1}"#;
                txn.put(&keys::bucket("abc"), bucket.to_vec());
                txn.put(keys::FORMAT, br#"{"v":1}"#.to_vec());
                Ok(())
            })
            .unwrap();
        (directory, catalog)
    }

    #[test]
    fn an_upgrade_that_was_interrupted_begins_again_and_ends_once() {
        let (directory, catalog) = of_format_1();
        identify_buckets(&catalog).unwrap();
        identify_keys(&catalog).unwrap();
        assert_eq!(catalog.format().unwrap(), 1);
        catalog.close();
        let catalog = Catalog::open(directory.path()).unwrap();
        for _ in 0..2 {
            upgrade(&catalog).unwrap();
            assert_eq!(catalog.format().unwrap(), keys::FORMAT_VERSION);
        }
        assert!(usage::compare(&catalog).unwrap().is_empty());
        let held = usage::projects(&catalog).unwrap()["root"];
        assert_eq!((held.buckets, held.objects, held.versions), (1, 2500, 2500));
        assert_eq!(catalog.count(b"id/").unwrap(), 2501);
        let object = row::read(&catalog, "abc", "k2499").unwrap().unwrap().object;
        let named = Named::Object {
            bucket: "abc".into(),
            key: "k2499".into(),
        };
        assert_eq!(identity::find(&catalog, object.id).unwrap(), named);
        let told = catalog.count(keys::JOURNAL).unwrap();
        // The bucket's and its objects' first events, one for the id, one for the upgrade.
        assert_eq!(told, 1 + 2500 + 1 + 1);
    }
}
