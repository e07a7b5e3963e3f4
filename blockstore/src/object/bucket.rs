//! Buckets: their names, making, configuring and removing them.
//!
//! ```text
//! versioning   unversioned ──▶ enabled ⇄ suspended      never back to unversioned
//! object lock  off ──▶ on (only where versioning is enabled, which then stays)
//! ```

use super::lock::ObjectLock;
use super::usage::{self, Delta};
use super::{Bucket, document, identity};
use crate::catalog::{Catalog, Rows, keys};
use crate::{Entry, Error, Kind, Result, Store, Subject, Who, clock};
use serde::{Deserialize, Serialize};

/// How a bucket treats its objects.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BucketConfig {
    /// Whether replaced and deleted objects stay as older versions.
    pub versioning: Versioning,
    /// Whether versions may be locked, and what new ones get.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lock: Option<ObjectLock>,
    /// S3's object ownership as the door keeps it; empty: `BucketOwnerEnforced`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub ownership: String,
}

/// Whether a bucket keeps what is replaced and deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Versioning {
    /// It never did.
    #[default]
    Unversioned,
    /// It does.
    Enabled,
    /// It did; new objects are the version `null`, older versions stay.
    Suspended,
}

/// What is to change in a bucket's configuration; what is `None` stays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BucketChange {
    /// See [`BucketConfig::versioning`].
    pub versioning: Option<Versioning>,
    /// See [`BucketConfig::lock`]; it cannot be taken away.
    pub lock: Option<ObjectLock>,
    /// See [`BucketConfig::ownership`].
    pub ownership: Option<String>,
}

impl Store {
    /// Makes a bucket. Conflict if it exists, Invalid for a name S3 does not allow.
    pub fn bucket_create(&self, who: &Who, name: &str) -> Result<Bucket> {
        self.bucket_create_with(who, name, BucketConfig::default())
    }

    /// As [`Self::bucket_create`], configured from the start. Object lock enables versioning.
    pub fn bucket_create_with(
        &self,
        who: &Who,
        name: &str,
        config: BucketConfig,
    ) -> Result<Bucket> {
        self.shared.engine.admit_write()?;
        create(&self.shared.catalog, who, name, config)
    }

    /// Changes a bucket's configuration in one transaction. Conflict where object lock forbids it,
    /// Invalid for a step that versioning does not take.
    pub fn bucket_configure(&self, who: &Who, name: &str, change: &BucketChange) -> Result<Bucket> {
        configure(&self.shared.catalog, who, name, change)
    }

    /// NotFound, or Conflict while it still has objects, older versions, uploads or snapshots.
    pub fn bucket_remove(&self, who: &Who, name: &str) -> Result<()> {
        remove(&self.shared.catalog, who, name)
    }

    /// One bucket; NotFound if there is none of that name.
    pub fn bucket(&self, name: &str) -> Result<Bucket> {
        expect(&self.shared.catalog, name)
    }

    /// All buckets by name.
    pub fn buckets(&self) -> Result<Vec<Bucket>> {
        let mut buckets = Vec::new();
        self.shared
            .catalog
            .scan(keys::BUCKETS, keys::BUCKETS, &mut |key, row| {
                buckets.push(keys::decode(key, row)?);
                Ok(true)
            })?;
        Ok(buckets)
    }
}

pub(super) fn create(
    catalog: &Catalog,
    who: &Who,
    name: &str,
    mut config: BucketConfig,
) -> Result<Bucket> {
    check_name(name)?;
    if config.lock.is_some() {
        config.versioning = Versioning::Enabled;
    }
    check_config(name, &config)?;
    let mut bucket = Bucket {
        name: name.into(),
        created_ms: clock::now_ms(),
        project: who.project.clone(),
        id: 0,
        config,
    };
    let who = who.clone();
    catalog.transact(move |txn| {
        let key = keys::bucket(&bucket.name);
        if txn.get(&key)?.is_some() {
            let text = format!(
                "bucket {:?} exists already: use it, or choose another name",
                bucket.name
            );
            return Err(Error::new(Kind::Conflict, Subject::Bucket, text));
        }
        bucket.id = txn.seq_next();
        identity::lead(txn, bucket.id, &bucket.name, None)?;
        txn.put(&key, keys::encode(&bucket)?);
        let delta = Delta {
            buckets: 1,
            ..Delta::default()
        };
        usage::charge(txn, &bucket.project, delta)?;
        txn.journal(&who, Entry::new("bucket.created", bucket.name.clone()))?;
        Ok(bucket)
    })
}

pub(super) fn configure(
    catalog: &Catalog,
    who: &Who,
    name: &str,
    change: &BucketChange,
) -> Result<Bucket> {
    let (who, name, change) = (who.clone(), name.to_owned(), change.clone());
    catalog.transact(move |txn| {
        let mut bucket = expect(txn, &name)?;
        let mut told = Vec::new();
        let config = &mut bucket.config;
        if let Some(versioning) = change.versioning {
            if versioning == Versioning::Unversioned && config.versioning != versioning {
                let text = format!(
                    "bucket {name:?} has had versions, it cannot become unversioned: suspend versioning"
                );
                return Err(Error::new(Kind::Invalid, Subject::Bucket, text));
            }
            config.versioning = versioning;
            told.push(format!("versioning {versioning:?}"));
        }
        if let Some(lock) = change.lock {
            config.lock = Some(lock);
            told.push(format!("object lock {:?}", lock.default));
        }
        if let Some(ownership) = change.ownership {
            told.push(format!("ownership {ownership}"));
            config.ownership = ownership;
        }
        check_config(&name, config)?;
        txn.put(&keys::bucket(&name), keys::encode(&bucket)?);
        let entry = Entry::new("bucket.configured", name).detail(told.join(", ").to_lowercase());
        txn.journal(&who, entry)?;
        Ok(bucket)
    })
}

fn check_config(name: &str, config: &BucketConfig) -> Result<()> {
    let Some(lock) = &config.lock else {
        return Ok(());
    };
    if config.versioning != Versioning::Enabled {
        let text = format!(
            "bucket {name:?} cannot have object lock and {:?} versioning: locks need versioning enabled",
            config.versioning
        );
        return Err(Error::new(Kind::Conflict, Subject::Bucket, text));
    }
    lock.default.map_or(Ok(()), |default| default.check(name))
}

pub(super) fn remove(catalog: &Catalog, who: &Who, name: &str) -> Result<()> {
    let (who, name) = (who.clone(), name.to_owned());
    catalog.transact(move |txn| {
        let bucket = expect(txn, &name)?;
        let left = [
            (keys::objects_of(&name), "objects: remove them first"),
            (
                keys::versions_of_bucket(&name),
                "older versions or delete markers: remove them first",
            ),
            (
                keys::uploads_of(&name),
                "uploads under way: abort them first",
            ),
            (keys::frozen_of(&name), "snapshots: remove them first"),
        ];
        for (prefix, what) in left {
            if !txn.scan_prefix(&prefix, 1)?.is_empty() {
                let text = format!("bucket {name:?} still has {what}");
                return Err(Error::new(Kind::Conflict, Subject::Bucket, text));
            }
        }
        txn.delete(&keys::bucket(&name));
        identity::forget(txn, bucket.id);
        document::forget(txn, &name)?;
        usage::forget_bucket(txn, &bucket)?;
        txn.journal(&who, Entry::new("bucket.removed", name))?;
        Ok(())
    })
}

/// The bucket. NotFound if there is none of that name.
pub(super) fn expect(rows: &impl Rows, name: &str) -> Result<Bucket> {
    let key = keys::bucket(name);
    let row = rows.row(&key)?.ok_or_else(|| missing(name))?;
    keys::decode(&key, &row)
}

fn missing(name: &str) -> Error {
    Error::new(
        Kind::NotFound,
        Subject::Bucket,
        format!("no bucket {name:?}: make it, or look at the list of buckets"),
    )
}

/// S3 user guide, "General purpose bucket naming rules".
fn check_name(name: &str) -> Result<()> {
    let refused = |why: &str| {
        Err(Error::new(
            Kind::Invalid,
            Subject::Bucket,
            format!("bucket name {name:?} {why}"),
        ))
    };
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    if !(3..=63).contains(&name.len()) {
        return refused("must have 3 to 63 characters");
    }
    if !name
        .bytes()
        .all(|byte| plain(byte) || byte == b'.' || byte == b'-')
    {
        return refused("may hold lower-case letters, digits, dots and hyphens only");
    }
    if !name.starts_with(|first: char| first.is_ascii_alphanumeric())
        || !name.ends_with(|last: char| last.is_ascii_alphanumeric())
    {
        return refused("must begin and end with a letter or digit");
    }
    if name.contains("..") {
        return refused("may not hold two dots side by side");
    }
    let groups: Vec<_> = name.split('.').collect();
    if groups.len() == 4
        && groups
            .iter()
            .all(|group| group.bytes().all(|byte| byte.is_ascii_digit()))
    {
        return refused("looks like an IP address");
    }
    super::reserved::check(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bucket_names_follow_s3() {
        for good in [
            "abc",
            "a-b",
            "a.b.c",
            "1.2.3",
            "1.2.3.4a",
            "0ab",
            &"x".repeat(63),
        ] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        let long = "x".repeat(64);
        for bad in [
            "", "ab", &long, "Abc", "a_b", "a/b", "-ab", "ab-", ".ab", "ab.", "a..b", "1.2.3.4",
            "api", "äbc",
        ] {
            let error = check_name(bad).unwrap_err();
            assert_eq!(
                (error.kind(), error.subject()),
                (Kind::Invalid, Subject::Bucket),
                "{bad}"
            );
        }
    }

    #[test]
    fn a_bucket_is_made_once_and_removed_only_when_empty() {
        let directory = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(directory.path()).unwrap();
        let who = Who::server();
        create(&catalog, &who, "abc", BucketConfig::default()).unwrap();
        assert_eq!(
            create(&catalog, &who, "abc", BucketConfig::default())
                .unwrap_err()
                .kind(),
            Kind::Conflict
        );
        // Neither a neighbour whose name begins the same nor its objects count.
        create(&catalog, &who, "abc-d", BucketConfig::default()).unwrap();
        catalog
            .transact(|txn| {
                txn.put(&keys::object("abc-d", "k"), Vec::new());
                Ok(())
            })
            .unwrap();
        remove(&catalog, &who, "abc").unwrap();
        assert_eq!(
            remove(&catalog, &who, "abc").unwrap_err().kind(),
            Kind::NotFound
        );
        let error = remove(&catalog, &who, "abc-d").unwrap_err();
        assert_eq!(
            (error.kind(), error.subject()),
            (Kind::Conflict, Subject::Bucket)
        );
        catalog
            .transact(|txn| {
                txn.delete(&keys::object("abc-d", "k"));
                txn.put(&keys::upload("abc-d", "id"), Vec::new());
                Ok(())
            })
            .unwrap();
        assert_eq!(
            remove(&catalog, &who, "abc-d").unwrap_err().kind(),
            Kind::Conflict
        );
    }
}
