//! Opening the catalog's database: its options, its format, where its journal ends.

use super::committer::synced;
use super::{failed, keys};
use crate::{Error, Kind, Result, Subject};
use rocksdb::{BlockBasedOptions, Cache, DB, DBCompressionType, DBRecoveryMode, LogLevel};
use serde::{Deserialize, Serialize};
use std::path::Path;

const WRITE_BUFFER_BYTES: usize = 16 << 20;
const BLOCK_CACHE_BYTES: usize = 32 << 20;

#[derive(Serialize, Deserialize)]
struct FormatRow {
    v: u32,
}

/// Opens (or makes) the database. Conflict if it is open already, Unsupported if a newer release
/// wrote it.
pub(super) fn database(directory: &Path) -> Result<DB> {
    let database =
        DB::open(&options(), directory).map_err(|cause| cannot_open(directory, cause))?;
    check_format(&database, directory)?;
    Ok(database)
}

fn options() -> rocksdb::Options {
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
    let mut rows = database.raw_iterator();
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
