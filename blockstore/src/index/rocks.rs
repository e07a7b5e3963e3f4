//! The tables in RocksDB: one column family each, no WAL, atomic flush (the value log is the WAL).

use super::tables::{Change, Row, Table, Tables, Visit};
use crate::{Error, Kind, Result, Subject};
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType,
    Direction, FlushOptions, IteratorMode, Options, WriteBatch, WriteOptions,
};
use std::path::Path;

/// The index database.
pub(crate) struct RocksTables {
    db: DB,
}

const FAMILIES: [(Table, &str); 3] = [
    (Table::Maps, "maps"),
    (Table::Locations, "locations"),
    (Table::Meta, "meta"),
];

impl RocksTables {
    /// Opens or makes the database; `cache_bytes` bounds its block cache.
    pub(crate) fn open(path: &Path, cache_bytes: usize) -> Result<Self> {
        let cache = Cache::new_lru_cache(cache_bytes);
        let mut options = Options::default();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        options.set_atomic_flush(true);
        options.set_max_background_jobs(2);
        options.set_max_total_wal_size(1 << 20);
        options.set_keep_log_file_num(2);
        options.set_max_open_files(256);
        let families = FAMILIES.map(|(_, name)| {
            let mut blocks = BlockBasedOptions::default();
            blocks.set_block_cache(&cache);
            blocks.set_bloom_filter(10.0, false);
            blocks.set_cache_index_and_filter_blocks(true);
            let mut family = Options::default();
            family.set_block_based_table_factory(&blocks);
            family.set_write_buffer_size(32 << 20);
            family.set_max_write_buffer_number(3);
            family.set_compression_type(DBCompressionType::Lz4);
            ColumnFamilyDescriptor::new(name, family)
        });
        let db = DB::open_cf_descriptors(&options, path, families).map_err(|failure| {
            Error::new(
                Kind::Corrupt,
                Subject::Store,
                format!("cannot open the index in {}", path.display()),
            )
            .because(failure)
        })?;
        Ok(Self { db })
    }

    fn family(&self, table: Table) -> Result<&ColumnFamily> {
        let name = FAMILIES
            .iter()
            .find(|(known, _)| *known == table)
            .map_or("", |(_, name)| name);
        self.db.cf_handle(name).ok_or_else(|| {
            Error::new(
                Kind::Corrupt,
                Subject::Store,
                format!("the index lacks its table {name}"),
            )
        })
    }
}

fn failed(what: &str, failure: rocksdb::Error) -> Error {
    let kind = match failure.kind() {
        rocksdb::ErrorKind::Corruption => Kind::Corrupt,
        rocksdb::ErrorKind::IOError if failure.to_string().contains("No space") => Kind::NoSpace,
        _ => Kind::Internal,
    };
    Error::new(kind, Subject::Store, format!("the index cannot {what}")).because(failure)
}

impl Tables for RocksTables {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.db
            .get_cf(self.family(table)?, key)
            .map_err(|failure| failed("read", failure))
    }

    fn next(&self, table: Table, from: &[u8]) -> Result<Option<Row>> {
        let mut rows = self.db.iterator_cf(
            self.family(table)?,
            IteratorMode::From(from, Direction::Forward),
        );
        let row = rows
            .next()
            .transpose()
            .map_err(|failure| failed("read", failure))?;
        Ok(row.map(|(key, value)| (key.into_vec(), value.into_vec())))
    }

    fn previous(&self, table: Table, upto: &[u8]) -> Result<Option<Row>> {
        let mut rows = self.db.raw_iterator_cf(self.family(table)?);
        rows.seek_for_prev(upto);
        rows.status().map_err(|failure| failed("read", failure))?;
        Ok(rows
            .item()
            .map(|(key, value)| (key.to_vec(), value.to_vec())))
    }

    fn scan(&self, table: Table, from: &[u8], visit: &mut Visit<'_>) -> Result<()> {
        let mut rows = self.db.raw_iterator_cf(self.family(table)?);
        rows.seek(from);
        while let Some((key, value)) = rows.item() {
            if !visit(key, value)? {
                return Ok(());
            }
            rows.next();
        }
        rows.status().map_err(|failure| failed("read", failure))
    }

    fn write(&self, changes: Vec<Change>) -> Result<()> {
        let mut batch = WriteBatch::default();
        for change in changes {
            let family = self.family(change.table)?;
            match change.value {
                Some(value) => batch.put_cf(family, change.key, value),
                None => batch.delete_cf(family, change.key),
            }
        }
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        self.db
            .write_opt(batch, &options)
            .map_err(|failure| failed("write", failure))
    }

    fn checkpoint(&self) -> Result<()> {
        let families = FAMILIES
            .iter()
            .map(|(table, _)| self.family(*table))
            .collect::<Result<Vec<_>>>()?;
        let mut options = FlushOptions::default();
        options.set_wait(true);
        self.db
            .flush_cfs_opt(&families, &options)
            .map_err(|failure| failed("checkpoint", failure))
    }
}
