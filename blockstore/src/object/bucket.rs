//! Buckets: their names, making and removing them.

use super::Bucket;
use crate::catalog::{Catalog, Txn, keys};
use crate::{Entry, Error, Kind, Result, Store, Subject, Who, clock};

/// Names that a bucket cannot have because a door answers under them.
const RESERVED: [&str; 1] = ["api"];

impl Store {
    /// Makes a bucket. Conflict if it exists, Invalid for a name S3 does not allow.
    pub fn bucket_create(&self, who: &Who, name: &str) -> Result<Bucket> {
        self.shared.engine.admit_write()?;
        create(&self.shared.catalog, who, name)
    }

    /// NotFound, or Conflict while it still has objects or uploads.
    pub fn bucket_remove(&self, who: &Who, name: &str) -> Result<()> {
        remove(&self.shared.catalog, who, name)
    }

    /// One bucket; NotFound if there is none of that name.
    pub fn bucket(&self, name: &str) -> Result<Bucket> {
        let key = keys::bucket(name);
        let row = self
            .shared
            .catalog
            .get(&key)?
            .ok_or_else(|| missing(name))?;
        keys::decode(&key, &row)
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

pub(super) fn create(catalog: &Catalog, who: &Who, name: &str) -> Result<Bucket> {
    check_name(name)?;
    let bucket = Bucket {
        name: name.into(),
        created_ms: clock::now_ms(),
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
        txn.put(&key, keys::encode(&bucket)?);
        txn.journal(&who, Entry::new("bucket.created", bucket.name.clone()))?;
        Ok(bucket)
    })
}

pub(super) fn remove(catalog: &Catalog, who: &Who, name: &str) -> Result<()> {
    let (who, name) = (who.clone(), name.to_owned());
    catalog.transact(move |txn| {
        expect(txn, &name)?;
        let holds = |prefix: &[u8]| Ok::<_, Error>(!txn.scan_prefix(prefix, 1)?.is_empty());
        let left = match (
            holds(&keys::objects_of(&name))?,
            holds(&keys::uploads_of(&name))?,
        ) {
            (true, _) => "objects: remove them first",
            (false, true) => "uploads under way: abort them first",
            (false, false) => {
                txn.delete(&keys::bucket(&name));
                txn.journal(&who, Entry::new("bucket.removed", name))?;
                return Ok(());
            }
        };
        Err(Error::new(
            Kind::Conflict,
            Subject::Bucket,
            format!("bucket {name:?} still has {left}"),
        ))
    })
}

/// NotFound if the bucket does not exist in this transaction.
pub(super) fn expect(txn: &Txn<'_>, name: &str) -> Result<()> {
    txn.get(&keys::bucket(name))?
        .map(|_| ())
        .ok_or_else(|| missing(name))
}

/// NotFound if the bucket does not exist.
pub(super) fn expect_now(catalog: &Catalog, name: &str) -> Result<()> {
    catalog
        .get(&keys::bucket(name))?
        .map(|_| ())
        .ok_or_else(|| missing(name))
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
    if RESERVED.contains(&name) {
        return refused("is reserved for the server's own interface");
    }
    Ok(())
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
        create(&catalog, &who, "abc").unwrap();
        assert_eq!(
            create(&catalog, &who, "abc").unwrap_err().kind(),
            Kind::Conflict
        );
        // Neither a neighbour whose name begins the same nor its objects count.
        create(&catalog, &who, "abc-d").unwrap();
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
