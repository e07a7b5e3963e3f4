//! Opening the catalog's database: its options, its format, where its journal ends, this node's own rows.

use super::committer::synced;
use super::{failed, keys, torn};
use crate::{Error, Kind, Result, Subject};
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamilyDescriptor, DB, DBCompressionType, DBRecoveryMode,
    DEFAULT_COLUMN_FAMILY_NAME, LogLevel, WriteBatch,
};
use serde::{Deserialize, Serialize};
use std::ops::Range;
use std::path::Path;

const WRITE_BUFFER_BYTES: usize = 16 << 20;
const BLOCK_CACHE_BYTES: usize = 32 << 20;
/// The column family of the group's log, in the database of a member.
pub(super) const LOG_FAMILY: &str = "raft";

#[derive(Serialize, Deserialize)]
struct FormatRow {
    v: u32,
}

#[derive(Serialize, Deserialize)]
struct BootRow {
    boot: u64,
}

#[derive(Serialize, Deserialize)]
struct OldRunRow {
    first: u64,
}

/// Map ids by the node that reserved them.
#[derive(Serialize, Deserialize)]
pub(super) struct IdsOfNodeRow {
    pub(super) ranges: Vec<Range<u64>>,
}

/// Up to where map ids are given out.
#[derive(Serialize, Deserialize)]
pub(super) struct IdsRow {
    pub(super) next: u64,
}

/// A run of this node that has begun.
pub(super) struct Run {
    /// Its number.
    pub(super) boot: u64,
    /// Ids reserved by earlier runs, of which some may be left without a row.
    pub(super) unfinished: Vec<Range<u64>>,
}

/// Opens (or makes) the database. Conflict if it is open already, Unsupported if a newer release
/// wrote it. With `log` it gets a place for a group's log, if it has none.
pub(super) fn database(directory: &Path, log: bool) -> Result<DB> {
    let mut families = vec![DEFAULT_COLUMN_FAMILY_NAME.to_owned()];
    if directory.join("CURRENT").exists() {
        families = DB::list_cf(&rocksdb::Options::default(), directory)
            .map_err(|cause| cannot_open(directory, cause))?;
    }
    if log && !families.iter().any(|family| family == LOG_FAMILY) {
        families.push(LOG_FAMILY.into());
    }
    let mut whole = options();
    whole.create_missing_column_families(true);
    let open = || {
        let families = families
            .iter()
            .map(|family| ColumnFamilyDescriptor::new(family, options()));
        DB::open_cf_descriptors(&whole, directory, families)
    };
    let database = match open() {
        Err(cause) if cause.kind() == rocksdb::ErrorKind::Corruption => {
            reopen_torn(directory, cause, open)?
        }
        other => other.map_err(|cause| cannot_open(directory, cause))?,
    };
    check_format(&database, directory)?;
    Ok(database)
}

/// Opens once more without the pages that a power cut left unwritten, if that is what is wrong.
fn reopen_torn(
    directory: &Path,
    cause: rocksdb::Error,
    open: impl Fn() -> std::result::Result<DB, rocksdb::Error>,
) -> Result<DB> {
    let unmended = |failure| Error::io("mend the log of", directory, failure);
    let Some(cut) = torn::cut(directory).map_err(unmended)? else {
        return Err(cannot_open(directory, cause));
    };
    match open() {
        Ok(database) => Ok(database),
        Err(_) => {
            cut.undo().map_err(unmended)?;
            Err(cannot_open(directory, cause))
        }
    }
}

/// Counts this opening, and brings this node's own rows to where this release keeps them.
pub(super) fn begin_run(database: &DB) -> Result<Run> {
    let format = format(database)?;
    let boots = [
        read::<BootRow>(database, keys::NODE_BOOT)?,
        read::<BootRow>(database, keys::OLD_BOOT)?,
    ];
    let boot = boots
        .iter()
        .flatten()
        .map(|row| row.boot)
        .max()
        .unwrap_or(0)
        + 1;
    let unfinished = match read::<IdsOfNodeRow>(database, keys::NODE_IDS)? {
        Some(row) => row.ranges,
        None => {
            let first = read::<OldRunRow>(database, keys::OLD_RUN)?.map_or(1, |row| row.first);
            let end = read::<IdsRow>(database, keys::IDS)?.map_or(1, |row| row.next);
            Vec::from_iter((first < end).then_some(first..end))
        }
    };
    let mut batch = WriteBatch::default();
    batch.put(keys::NODE_BOOT, boot_row(boot)?);
    let ranges = unfinished.clone();
    batch.put(keys::NODE_IDS, keys::encode(&IdsOfNodeRow { ranges })?);
    if format == 1 {
        // Until its upgrade is done, the release that wrote it may be asked to open it again.
        batch.put(keys::OLD_BOOT, boot_row(boot)?);
    } else {
        batch.put(keys::FORMAT, format_row(keys::FORMAT_VERSION)?);
        batch.delete(keys::OLD_BOOT);
        batch.delete(keys::OLD_RUN);
    }
    database
        .write_opt(batch, &synced())
        .map_err(|cause| failed("count the opening of the catalog", cause))?;
    Ok(Run { boot, unfinished })
}

pub(super) fn boot_row(boot: u64) -> Result<Vec<u8>> {
    keys::encode(&BootRow { boot })
}

/// The format of the catalog as a whole.
pub(super) fn format(database: &DB) -> Result<u32> {
    let row = database
        .get(keys::FORMAT)
        .map_err(|cause| failed("read the catalog's format", cause))?;
    match row {
        Some(row) => format_of(&row),
        None => Err(Error::new(
            Kind::Corrupt,
            Subject::Store,
            "the catalog lost its format row; run `infall check`",
        )),
    }
}

pub(super) fn options() -> rocksdb::Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(&Cache::new_lru_cache(BLOCK_CACHE_BYTES));
    table.set_bloom_filter(10.0, false);
    let mut options = rocksdb::Options::default();
    options.create_if_missing(true);
    options.set_block_based_table_factory(&table);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_write_buffer_size(WRITE_BUFFER_BYTES);
    options.set_max_write_buffer_number(2);
    options.set_max_total_wal_size(4 * WRITE_BUFFER_BYTES as u64);
    options.set_max_open_files(256);
    options.set_max_background_jobs(2);
    // Every batch was synced before it was answered: only the end of the log may be torn. Anything
    // else is rot, and opening must say so instead of dropping what was promised.
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    options.set_log_level(LogLevel::Warn);
    options.set_keep_log_file_num(2);
    options
}

pub(super) fn read<T: serde::de::DeserializeOwned>(database: &DB, key: &[u8]) -> Result<Option<T>> {
    let value = database
        .get(key)
        .map_err(|cause| failed("read a row of the catalog", cause))?;
    value.map(|value| keys::decode(key, &value)).transpose()
}

fn check_format(database: &DB, directory: &Path) -> Result<u32> {
    let value = database
        .get(keys::FORMAT)
        .map_err(|cause| failed("read the catalog's format", cause))?;
    if let Some(value) = value {
        return format_of(&value).map_err(|cause| {
            let text = format!(
                "the catalog in {} cannot be used by this release",
                directory.display()
            );
            Error::new(cause.kind(), Subject::Store, text).because(cause)
        });
    }
    let mut rows = database.raw_iterator();
    rows.seek_to_first();
    if let Some(key) = rows.key() {
        let text = format!(
            "{} holds a database without a format row (its first key is {}): it is not a catalog of Infall; \
             give another data directory, or restore this one",
            directory.display(),
            key.escape_ascii()
        );
        return Err(Error::new(Kind::Corrupt, Subject::Store, text));
    }
    rows.status()
        .map_err(|cause| failed("read the catalog's format", cause))?;
    database
        .put_opt(keys::FORMAT, format_row(keys::FORMAT_VERSION)?, &synced())
        .map_err(|cause| failed("write the catalog's format", cause))?;
    Ok(keys::FORMAT_VERSION)
}

/// The row that says which format the catalog has.
pub(super) fn format_row(version: u32) -> Result<Vec<u8>> {
    serde_json::to_vec(&FormatRow { v: version }).map_err(|cause| {
        let text = "the catalog's format cannot be written as JSON";
        Error::new(Kind::Internal, Subject::Store, text).because(cause)
    })
}

/// The format that row tells of: one this release reads.
pub(super) fn format_of(row: &[u8]) -> Result<u32> {
    match serde_json::from_slice(row) {
        Ok(FormatRow { v }) if (1..=keys::FORMAT_VERSION).contains(&v) => Ok(v),
        Ok(FormatRow { v }) => {
            let text = format!(
                "catalog row format has version {v}, this release reads up to {}: run the release that wrote it",
                keys::FORMAT_VERSION
            );
            Err(Error::new(Kind::Unsupported, Subject::Store, text))
        }
        Err(cause) => {
            let text = "catalog row format is malformed; run `infall check`";
            Err(Error::new(Kind::Corrupt, Subject::Store, text).because(cause))
        }
    }
}

/// The number of the last event in the journal; 0 if there is none.
pub(super) fn seq_last(database: &DB) -> Result<u64> {
    last_of(database.raw_iterator())
}

/// As [`seq_last`], in rows of one moment.
#[cfg_attr(not(test), allow(dead_code, reason = "for members of a group"))]
pub(super) fn seq_last_in(rows: &rocksdb::Snapshot<'_>) -> Result<u64> {
    last_of(rows.raw_iterator())
}

fn last_of(mut rows: rocksdb::DBRawIterator<'_>) -> Result<u64> {
    rows.seek_for_prev(keys::event(u64::MAX));
    let seq = match rows.key() {
        Some(key) if key.starts_with(keys::JOURNAL) => keys::number_behind(keys::JOURNAL, key)?,
        _ => 0,
    };
    rows.status()
        .map_err(|cause| failed("find the end of the journal", cause))?;
    Ok(seq)
}

fn cannot_open(directory: &Path, cause: rocksdb::Error) -> Error {
    let text = cause.to_string();
    if text.contains("/LOCK:") || text.contains("lock hold by") {
        let text = format!(
            "the catalog in {} is open already: stop the other process, or give another data directory",
            directory.display()
        );
        return Error::new(Kind::Conflict, Subject::Store, text).because(cause);
    }
    failed(
        &format!("open the catalog in {}", directory.display()),
        cause,
    )
}
