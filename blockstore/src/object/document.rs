//! Documents of a bucket: texts by name that the doors keep with it (`policy`, `cors`, `tagging`, …).
//!
//! The store does not look inside; it keeps them small, and they go with their bucket.

use super::bucket;
use crate::catalog::{Txn, keys};
use crate::{Entry, Error, Kind, Result, Store, Subject, Who};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

const NAME_BYTES_MAX: usize = 64;
const TEXT_BYTES_MAX: usize = 256 << 10;
const DOCUMENTS_MAX: usize = 64;

#[derive(Serialize, Deserialize)]
struct DocumentRow {
    text: String,
}

impl Store {
    /// A document of a bucket, if it is there. NotFound for a missing bucket.
    pub fn bucket_document(&self, bucket: &str, name: &str) -> Result<Option<String>> {
        let at = keys::document(bucket, name);
        if let Some(row) = self.shared.catalog.get(&at)? {
            return Ok(Some(keys::decode::<DocumentRow>(&at, &row)?.text));
        }
        bucket::expect(&self.shared.catalog, bucket)?;
        Ok(None)
    }

    /// All documents of a bucket, by name.
    pub fn bucket_documents(&self, bucket: &str) -> Result<BTreeMap<String, String>> {
        bucket::expect(&self.shared.catalog, bucket)?;
        let prefix = keys::documents_of(bucket);
        let mut documents = BTreeMap::new();
        self.shared.catalog.scan(&prefix, &prefix, &mut |at, row| {
            let name = keys::text_behind(&prefix, at)?;
            documents.insert(name.to_owned(), keys::decode::<DocumentRow>(at, row)?.text);
            Ok(true)
        })?;
        Ok(documents)
    }

    /// Writes a document, whether it is there or not.
    pub fn bucket_document_put(
        &self,
        who: &Who,
        bucket: &str,
        name: &str,
        text: &str,
    ) -> Result<()> {
        check_name(name)?;
        if text.len() > TEXT_BYTES_MAX {
            let text = format!(
                "the document {name:?} of bucket {bucket:?} has {} bytes, up to {TEXT_BYTES_MAX} are kept: make it shorter",
                text.len()
            );
            return Err(Error::new(Kind::Invalid, Subject::Bucket, text));
        }
        let row = keys::encode(&DocumentRow { text: text.into() })?;
        let (who, bucket, name) = (who.clone(), bucket.to_owned(), name.to_owned());
        self.shared.catalog.transact(move |txn| {
            bucket::expect(txn, &bucket)?;
            let at = keys::document(&bucket, &name);
            let others = txn.scan_prefix(&keys::documents_of(&bucket), DOCUMENTS_MAX)?;
            if others.len() == DOCUMENTS_MAX && txn.get(&at)?.is_none() {
                let text = format!(
                    "bucket {bucket:?} has {DOCUMENTS_MAX} documents, no more are kept: remove one first"
                );
                return Err(Error::new(Kind::Conflict, Subject::Bucket, text));
            }
            txn.put(&at, row);
            let entry = Entry::new("bucket.configured", bucket).detail(format!("{name} written"));
            txn.journal(&who, entry).map(|_| ())
        })
    }

    /// Removes a document; false if there was none.
    pub fn bucket_document_remove(&self, who: &Who, bucket: &str, name: &str) -> Result<bool> {
        let (who, bucket, name) = (who.clone(), bucket.to_owned(), name.to_owned());
        self.shared.catalog.transact(move |txn| {
            bucket::expect(txn, &bucket)?;
            let at = keys::document(&bucket, &name);
            if txn.get(&at)?.is_none() {
                return Ok(false);
            }
            txn.delete(&at);
            let entry = Entry::new("bucket.configured", bucket).detail(format!("{name} removed"));
            txn.journal(&who, entry)?;
            Ok(true)
        })
    }
}

/// The documents of a bucket go with it.
pub(super) fn forget(txn: &mut Txn<'_>, bucket: &str) -> Result<()> {
    for (at, _) in txn.scan_prefix(&keys::documents_of(bucket), usize::MAX)? {
        txn.delete(&at);
    }
    Ok(())
}

fn check_name(name: &str) -> Result<()> {
    let fits = (1..=NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(|byte| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.')
        });
    if fits {
        return Ok(());
    }
    let text = format!(
        "{name:?} is no name of a document: 1 to {NAME_BYTES_MAX} lower-case letters, digits, dots and hyphens"
    );
    Err(Error::new(Kind::Invalid, Subject::Bucket, text))
}
