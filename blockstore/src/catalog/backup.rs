//! Backup of the catalog into a file of rows, and a catalog made from such a file.
//!
//! A restored catalog may be older than the segments it is put beside: numbers that were given out since
//! the backup are never given out again, because those of boots, maps and nodes go on far behind it.

use super::committer::synced;
use super::open::{IdsOfNodeRow, IdsRow};
use super::rows::{self, Head, Reader};
use super::{Catalog, failed, keys, open};
use crate::{Error, Kind, Result, Subject};
use rocksdb::{DB, WriteBatch};
use std::fs::File;
use std::io::{BufReader, BufWriter};
use std::path::Path;

/// More numbers than anyone gives out between a backup and its use.
const SKIPPED: u64 = 1 << 32;

/// What a file of rows holds, or what was made from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backup {
    /// How many rows.
    pub rows: u64,
    /// Bytes of the file.
    pub bytes: u64,
    /// When it was written, milliseconds since the Unix epoch.
    pub time_ms: u64,
}

impl Catalog {
    /// Writes all rows of one moment to a new file. Conflict if there is one already.
    pub(crate) fn backup(&self, path: &Path) -> Result<Backup> {
        self.catch_up()?;
        let database = self.database()?;
        let head = Head {
            boot: self.boot(),
            time_ms: crate::clock::now_ms(),
            ..Head::default()
        };
        let fresh = path.with_extension("partial");
        let outcome = File::create_new(path)
            .map_err(|cause| match cause.kind() {
                std::io::ErrorKind::AlreadyExists => Error::new(
                    Kind::Conflict,
                    Subject::Store,
                    format!(
                        "{} exists: give another name for the backup",
                        path.display()
                    ),
                ),
                _ => Error::io("make", path, cause),
            })
            .and_then(|_| {
                let write = || -> std::io::Result<(u64, u64)> {
                    let file = File::create(&fresh)?;
                    let count = rows::write(&database.snapshot(), &head, BufWriter::new(&file))?;
                    file.sync_all()?;
                    let bytes = file.metadata()?.len();
                    std::fs::rename(&fresh, path)?;
                    sync_directory_of(path)?;
                    Ok((count, bytes))
                };
                write().map_err(|cause| {
                    let _ = std::fs::remove_file(&fresh);
                    let _ = std::fs::remove_file(path);
                    Error::io("write", path, cause)
                })
            })?;
        Ok(Backup {
            rows: outcome.0,
            bytes: outcome.1,
            time_ms: head.time_ms,
        })
    }

    /// Makes the catalog of a data directory that has none from a backup. Conflict if it has one.
    pub(crate) fn restore(directory: &Path, file: &Path) -> Result<Backup> {
        let target = directory.join("catalog");
        let occupied = std::fs::read_dir(&target).is_ok_and(|mut entries| entries.next().is_some());
        if occupied {
            let text = format!(
                "{} is not empty: a backup is only restored where there is no catalog; move it away first",
                target.display()
            );
            return Err(Error::new(Kind::Conflict, Subject::Store, text));
        }
        let opened = File::open(file).map_err(|cause| Error::io("open", file, cause))?;
        let bytes = opened
            .metadata()
            .map_err(|cause| Error::io("look at", file, cause))?
            .len();
        let mut reader = Reader::open(BufReader::new(opened))?;
        let head = reader.head().clone();
        // Built aside, so that a crash leaves no half of a catalog where one is looked for.
        let fresh = directory.join("catalog.restoring");
        if fresh.exists() {
            std::fs::remove_dir_all(&fresh).map_err(|cause| Error::io("remove", &fresh, cause))?;
        }
        std::fs::create_dir_all(&fresh).map_err(|cause| Error::io("make", &fresh, cause))?;
        let database = open::database(&fresh, false)?;
        let scratch = fresh.join("restoring.sst");
        let count = rows::replace(&database, &scratch, &mut reader, &[], &mut |_| ())?;
        open::format(&database)?;
        skip_numbers(&database, head.boot)?;
        drop(database);
        let place = || -> std::io::Result<()> {
            if target.exists() {
                std::fs::remove_dir(&target)?;
            }
            std::fs::rename(&fresh, &target)?;
            sync_directory_of(&target)
        };
        place().map_err(|cause| Error::io("put in place", &target, cause))?;
        Ok(Backup {
            rows: count,
            bytes,
            time_ms: head.time_ms,
        })
    }
}

fn skip_numbers(database: &DB, boot: u64) -> Result<()> {
    let next = open::read::<IdsRow>(database, keys::IDS)?.map_or(1, |row| row.next);
    let next = next.saturating_add(SKIPPED);
    let nodes = open::read::<IdsRow>(database, keys::MEMBER_IDS)?.map(|row| row.next);
    let ranges = std::iter::once(1..next).collect();
    let mut batch = WriteBatch::default();
    batch.put(keys::IDS, keys::encode(&IdsRow { next })?);
    if let Some(nodes) = nodes {
        let next = nodes.saturating_add(SKIPPED);
        batch.put(keys::MEMBER_IDS, keys::encode(&IdsRow { next })?);
    }
    batch.put(keys::NODE_IDS, keys::encode(&IdsOfNodeRow { ranges })?);
    batch.put(
        keys::NODE_BOOT,
        open::boot_row(boot.saturating_add(SKIPPED))?,
    );
    database
        .write_opt(batch, &synced())
        .map_err(|cause| failed("write the restored catalog", cause))
}

fn sync_directory_of(path: &Path) -> std::io::Result<()> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}
