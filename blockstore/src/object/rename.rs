//! Renaming: an object, or all objects under a directory, in one transaction.
//!
//! ```text
//! from and to unversioned    the row moves, with its id; nothing is copied
//! otherwise                  from: as a delete; to: a new version with the same id that shares the bytes
//! ```
//! 1. Readers see all of a rename or nothing of it.
//! 2. A bucket with versions keeps what was renamed away below a delete marker, so a locked version is
//!    never removed by a rename.
//! 3. How much one transaction moves is bounded.

use super::bucket::{self, Versioning};
use super::copy::{copy_of, inline_of};
use super::delete::{self, Delete};
use super::identity::{self, Identity};
use super::row::{self, ObjectRow, signed};
use super::usage::{self, Delta};
use super::version::{self, Found, Place};
use super::{Body, Bucket, Object, Precondition};
use crate::catalog::{Txn, keys};
use crate::{Entry, Error, Kind, Result, Store, Subject, Who, clock};

/// Keys that one rename moves.
const KEYS_MAX: usize = 100_000;
/// Bytes of small bodies that one rename writes anew.
const INLINE_BYTES_MAX: u64 = 64 << 20;

impl Store {
    /// Renames an object; source and target are (bucket, key). NotFound where there is no source,
    /// Conflict where there is a target and it may not be overwritten.
    pub fn object_rename(
        &self,
        who: &Who,
        source: (&str, &str),
        target: (&str, &str),
        overwrite: bool,
    ) -> Result<Object> {
        row::check_key(target.1)?;
        let who = who.clone();
        let (source_bucket, source_key) = (source.0.to_owned(), source.1.to_owned());
        let (target_bucket, target_key) = (target.0.to_owned(), target.1.to_owned());
        let renamed = self.shared.catalog.transact(move |txn| {
            let from = bucket::expect(txn, &source_bucket)?;
            let to = bucket::expect(txn, &target_bucket)?;
            let row = row::expect(txn, &from.name, &source_key)?;
            if from.name == to.name && source_key == target_key {
                return Ok(row.object);
            }
            if !overwrite && row::read(txn, &to.name, &target_key)?.is_some() {
                return Err(occupied(&to.name, &target_key));
            }
            let subject = row::subject(&to.name, &target_key);
            let detail = format!("from {}", row::subject(&from.name, &source_key));
            let moved = rename(txn, &who, &from, &to, row, target_key)?;
            let entry = Entry::new("object.renamed", subject)
                .bytes("written", moved.inline_bytes)
                .detail(detail);
            txn.journal(&who, entry)?;
            Ok(moved.object)
        })?;
        // It may have replaced something.
        self.shared.engine.sweep_soon();
        Ok(renamed)
    }

    /// Renames every object whose key begins with a prefix; source and target are (bucket, prefix),
    /// both end in `/`. Says how many. NotFound where there is none, Conflict where the target has
    /// objects that may not be overwritten (they go as a whole), Invalid where one lies within the
    /// other, Unsupported for more than one transaction may move.
    pub fn prefix_rename(
        &self,
        who: &Who,
        source: (&str, &str),
        target: (&str, &str),
        overwrite: bool,
    ) -> Result<u64> {
        check_prefixes(source, target)?;
        let who = who.clone();
        let (source_bucket, source_prefix) = (source.0.to_owned(), source.1.to_owned());
        let (target_bucket, target_prefix) = (target.0.to_owned(), target.1.to_owned());
        let moved = self.shared.catalog.transact(move |txn| {
            let from = bucket::expect(txn, &source_bucket)?;
            let to = bucket::expect(txn, &target_bucket)?;
            let rows = below(txn, &from.name, &source_prefix)?;
            if rows.is_empty() {
                return Err(row::missing(&from.name, &source_prefix));
            }
            if from.name == to.name && source_prefix == target_prefix {
                return Ok(rows.len() as u64);
            }
            let replaced = below(txn, &to.name, &target_prefix)?;
            if !overwrite && !replaced.is_empty() {
                return Err(occupied(&to.name, &target_prefix));
            }
            for row in replaced {
                let ask = Delete {
                    key: row.object.key,
                    ..Delete::default()
                };
                delete::delete(txn, &who, &to, &ask)?;
            }
            let (count, mut inline_bytes) = (rows.len() as u64, 0);
            for row in rows {
                let rest = &row.object.key[source_prefix.len()..];
                let key = format!("{target_prefix}{rest}");
                row::check_key(&key)?;
                inline_bytes += rename(txn, &who, &from, &to, row, key)?.inline_bytes;
                if inline_bytes > INLINE_BYTES_MAX {
                    let text = format!(
                        "renaming {source_bucket}/{source_prefix} would write more than {INLINE_BYTES_MAX} bytes of small objects in one step: rename its parts one by one"
                    );
                    return Err(Error::new(Kind::Unsupported, Subject::Object, text));
                }
            }
            let entry = Entry::new("prefix.renamed", row::subject(&to.name, &target_prefix))
                .bytes("written", inline_bytes)
                .detail(format!("{count} objects from {source_bucket}/{source_prefix}"));
            txn.journal(&who, entry)?;
            Ok(count)
        })?;
        self.shared.engine.sweep_soon();
        Ok(moved)
    }
}

struct Moved {
    object: Object,
    /// Written anew, because small bodies lie in the catalog, each its own.
    inline_bytes: u64,
}

/// Renames the current version `row` of a bucket to `key` of another, over what is there.
fn rename(
    txn: &mut Txn<'_>,
    who: &Who,
    from: &Bucket,
    to: &Bucket,
    row: ObjectRow,
    key: String,
) -> Result<Moved> {
    let unversioned = |bucket: &Bucket| bucket.config.versioning == Versioning::Unversioned;
    if unversioned(from) && unversioned(to) {
        let object = move_row(txn, from, to, row, key)?;
        return Ok(Moved {
            object,
            inline_bytes: 0,
        });
    }
    let inline = match row.object.body {
        Body::Inline => inline_of(txn, &row)?,
        Body::Map(_) | Body::Concat(_) => Vec::new(),
    };
    let inline_bytes = inline.len() as u64;
    let identity = row::identity_of(&row.object);
    let source = row.object.clone();
    // The source gives its id away first; then the target takes it.
    if unversioned(from) {
        let place = Place::Current;
        delete::remove(txn, who, from, &Found { row, place }, false)?;
    } else {
        let left = Identity {
            id: txn.seq_next(),
            created_ms: clock::now_ms(),
        };
        row::put_marker(txn, who, from, &source.key, Some(left), Some(row))?;
    }
    let entry = Entry::new("object.put", row::subject(&to.name, &key))
        .bytes("shared", source.length_bytes - inline_bytes)
        .bytes("written", inline_bytes)
        .detail(format!(
            "renamed from {}",
            row::subject(&from.name, &source.key)
        ));
    let mut draft = copy_of(source, &to.name, &key, None, inline);
    draft.identity = Some(identity);
    let object = row::put_in(txn, who, to, draft, &Precondition::default(), entry)?;
    Ok(Moved {
        object,
        inline_bytes,
    })
}

/// Between buckets without versions only the row moves: its pins keep their holder, its body its place.
fn move_row(
    txn: &mut Txn<'_>,
    from: &Bucket,
    to: &Bucket,
    mut row: ObjectRow,
    key: String,
) -> Result<Object> {
    let mut added = Delta {
        bytes: signed(row.object.length_bytes),
        objects: 1,
        versions: 1,
        ..Delta::default()
    };
    let left = Delta {
        bytes: -added.bytes,
        objects: -1,
        versions: -1,
        ..Delta::default()
    };
    if let Some(old) = row::read(txn, &to.name, &key)? {
        added.bytes -= signed(old.object.length_bytes);
        added.objects -= 1;
        added.versions -= 1;
        identity::forget(txn, old.object.id);
        let place = Place::Current;
        version::destroy(txn, &Found { row: old, place }, false)?;
    }
    row.holder = Some(row::holder(&row));
    txn.delete(&keys::object(&from.name, &row.object.key));
    row.object.bucket.clone_from(&to.name);
    row.object.key = key;
    row.object.changed_ms = clock::now_ms();
    identity::lead(txn, row.object.id, &to.name, Some(&row.object.key))?;
    row::write(txn, &row, Place::Current)?;
    usage::note_bucket(txn, from, left)?;
    usage::charge_bucket(txn, to, added)?;
    Ok(row.object)
}

/// The current versions below a prefix; Unsupported for too many.
fn below(txn: &Txn<'_>, bucket: &str, prefix: &str) -> Result<Vec<ObjectRow>> {
    let rows = txn.scan_prefix(&keys::object(bucket, prefix), KEYS_MAX + 1)?;
    if rows.len() > KEYS_MAX {
        let text = format!(
            "{bucket}/{prefix} holds more than {KEYS_MAX} objects, too many to rename in one step: rename its parts one by one"
        );
        return Err(Error::new(Kind::Unsupported, Subject::Object, text));
    }
    let mut found = Vec::with_capacity(rows.len());
    for (at, value) in rows {
        let mut row = row::decode(&at, &value)?;
        row.object.latest = true;
        found.push(row);
    }
    Ok(found)
}

fn check_prefixes(source: (&str, &str), target: (&str, &str)) -> Result<()> {
    let invalid = |text: String| Err(Error::new(Kind::Invalid, Subject::Object, text));
    for (bucket, prefix) in [source, target] {
        if !prefix.ends_with('/') {
            return invalid(format!(
                "{bucket}/{prefix} is no directory: its prefix ends in `/`"
            ));
        }
    }
    let within = |inner: &str, outer: &str| inner != outer && inner.starts_with(outer);
    if source.0 == target.0 && (within(source.1, target.1) || within(target.1, source.1)) {
        return invalid(format!(
            "{}/{} cannot become {}/{}: one lies within the other",
            source.0, source.1, target.0, target.1
        ));
    }
    Ok(())
}

fn occupied(bucket: &str, key: &str) -> Error {
    let text = format!("{bucket}/{key} is there already: remove it, or say that it goes");
    Error::new(Kind::Conflict, Subject::Object, text)
}
