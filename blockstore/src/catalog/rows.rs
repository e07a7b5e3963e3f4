//! A file of the catalog's rows: what a snapshot for another node and a backup are made of.
//!
//! ```text
//! 0  "INFROWS1" · 8 head bytes u32 · head, JSON with `v`
//!    rows in the order of their keys: key bytes u32 · value bytes u32 · key · value
//!    2³²−1 u32 · how many rows u64 · CRC-32 of everything before it u32         (little endian)
//! ```
//!
//! 1. All rows are of one moment, and none is a node's own (`node/`).
//! 2. A file counts only whole: rows go into a database in one step, after the checksum was right.

use super::{failed, keys};
use crate::{Error, Kind, Result, Subject};
use rocksdb::{DB, IngestExternalFileOptions, Snapshot, SstFileWriter};
use serde::{Deserialize, Serialize};
use std::io::{Read, Write};
use std::path::Path;

const MAGIC: &[u8; 8] = b"INFROWS1";
const VERSION: u32 = 1;
const END: u32 = u32::MAX;
const HEAD_BYTES_MAX: u32 = 1 << 20;
const KEY_BYTES_MAX: u32 = 1 << 16;
const VALUE_BYTES_MAX: u32 = 1 << 28;

/// What is said of the rows before they come.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Head {
    pub(super) v: u32,
    /// The boot of the node that wrote it.
    #[serde(default)]
    pub(super) boot: u64,
    /// When it was written, milliseconds since the Unix epoch.
    #[serde(default)]
    pub(super) time_ms: u64,
    /// Of a member of a group: what its log had come to.
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    pub(super) group: serde_json::Value,
}

/// Writes all rows but the node's own to `out`; returns how many.
pub(super) fn write(rows: &Snapshot<'_>, head: &Head, out: impl Write) -> std::io::Result<u64> {
    let mut out = Summed::new(out);
    let head = serde_json::to_vec(&Head {
        v: VERSION,
        ..head.clone()
    })?;
    out.write_all(MAGIC)?;
    out.write_all(&length(head.len())?.to_le_bytes())?;
    out.write_all(&head)?;
    let mut count = 0_u64;
    let mut found = rows.raw_iterator();
    found.seek_to_first();
    while let Some((key, value)) = found.item() {
        if key.starts_with(keys::NODE) {
            found.next();
            continue;
        }
        out.write_all(&length(key.len())?.to_le_bytes())?;
        out.write_all(&length(value.len())?.to_le_bytes())?;
        out.write_all(key)?;
        out.write_all(value)?;
        count += 1;
        found.next();
    }
    found.status().map_err(std::io::Error::other)?;
    out.write_all(&END.to_le_bytes())?;
    out.write_all(&count.to_le_bytes())?;
    let sum = out.sum.clone().finalize();
    out.write_all(&sum.to_le_bytes())?;
    out.inner.flush()?;
    Ok(count)
}

fn length(bytes: usize) -> std::io::Result<u32> {
    u32::try_from(bytes).map_err(std::io::Error::other)
}

/// Counts a CRC over what passes.
struct Summed<T> {
    inner: T,
    sum: crc32fast::Hasher,
}

impl<T> Summed<T> {
    fn new(inner: T) -> Self {
        Self {
            inner,
            sum: crc32fast::Hasher::new(),
        }
    }
}

impl<W: Write> Write for Summed<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.sum.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

impl<R: Read> Read for Summed<R> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let read = self.inner.read(into)?;
        self.sum.update(&into[..read]);
        Ok(read)
    }
}

/// Rows read from a file, one after the other.
pub(super) struct Reader<R> {
    head: Head,
    input: Summed<R>,
    count: u64,
    done: bool,
}

impl<R: Read> Reader<R> {
    /// Unsupported if a newer release wrote it, Corrupt if it is no such file.
    pub(super) fn open(input: R) -> Result<Self> {
        let mut input = Summed::new(input);
        let mut magic = [0; 8];
        input
            .read_exact(&mut magic)
            .map_err(|cause| damaged("it ends in its first bytes").because(cause))?;
        if magic != *MAGIC {
            return Err(damaged(
                "it does not begin as a file of the catalog's rows does",
            ));
        }
        let bytes = read_u32(&mut input)?;
        if bytes > HEAD_BYTES_MAX {
            return Err(damaged("its head is too long"));
        }
        let head = read_bytes(&mut input, bytes)?;
        let head: Head = serde_json::from_slice(&head)
            .map_err(|cause| damaged("its head is malformed").because(cause))?;
        if head.v > VERSION {
            let text = format!(
                "the file of the catalog's rows has version {}, this release reads up to {VERSION}: use the release that wrote it",
                head.v
            );
            return Err(Error::new(Kind::Unsupported, Subject::Store, text));
        }
        Ok(Self {
            head,
            input,
            count: 0,
            done: false,
        })
    }

    pub(super) fn head(&self) -> &Head {
        &self.head
    }

    /// The next row; `None` once all came and the checksum was right.
    pub(super) fn row(&mut self) -> Result<Option<(Vec<u8>, Vec<u8>)>> {
        if self.done {
            return Ok(None);
        }
        let key_bytes = read_u32(&mut self.input)?;
        if key_bytes == END {
            let count = read_bytes(&mut self.input, 8)?;
            let expected = self.input.sum.clone().finalize();
            let sum = read_u32(&mut self.input)?;
            if count != self.count.to_le_bytes() || sum != expected {
                return Err(damaged("its checksum is wrong"));
            }
            self.done = true;
            return Ok(None);
        }
        let value_bytes = read_u32(&mut self.input)?;
        if key_bytes > KEY_BYTES_MAX || value_bytes > VALUE_BYTES_MAX {
            return Err(damaged("a row in it is too long"));
        }
        let key = read_bytes(&mut self.input, key_bytes)?;
        if key.starts_with(keys::NODE) {
            return Err(damaged("it holds a row that is a node's own"));
        }
        let value = read_bytes(&mut self.input, value_bytes)?;
        self.count += 1;
        Ok(Some((key, value)))
    }
}

fn read_u32(input: &mut impl Read) -> Result<u32> {
    let mut bytes = [0; 4];
    input
        .read_exact(&mut bytes)
        .map_err(|cause| damaged("it ends too early").because(cause))?;
    Ok(u32::from_le_bytes(bytes))
}

/// Takes memory only for what is really there.
fn read_bytes(input: &mut impl Read, count: u32) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    input
        .take(u64::from(count))
        .read_to_end(&mut bytes)
        .map_err(|cause| damaged("it cannot be read").because(cause))?;
    if bytes.len() as u64 != u64::from(count) {
        return Err(damaged("it ends too early"));
    }
    Ok(bytes)
}

fn damaged(why: &str) -> Error {
    let text = format!(
        "the file of the catalog's rows is damaged, {why}: take another copy of it; nothing was changed"
    );
    Error::new(Kind::Corrupt, Subject::Store, text)
}

/// Steps of [`replace`], for tests that end the process between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Replacing {
    Writing,
    Written,
    Replaced,
}

/// Replaces all rows by those of `reader`, and some of the node's `own` by new ones, in one step: a
/// crash leaves all the old or all the new. `scratch` is a file beside the database. Returns how many.
pub(super) fn replace<R: Read>(
    database: &DB,
    scratch: &Path,
    reader: &mut Reader<R>,
    own: &[(Vec<u8>, Vec<u8>)],
    at: &mut dyn FnMut(Replacing),
) -> Result<u64> {
    let build = |cause| failed("build the file of rows", cause);
    let options = super::open::options();
    let mut table = SstFileWriter::create(&options);
    table.open(scratch).map_err(build)?;
    // In one file, a range's removal counts for older rows only (RocksDB, sst_file_writer.h, "DeleteRange").
    let behind_own = keys::behind(keys::NODE).unwrap_or_default();
    table.delete_range(&b""[..], keys::NODE).map_err(build)?;
    table
        .delete_range(behind_own.as_slice(), &[u8::MAX; 64])
        .map_err(build)?;
    let mut own = own.iter().peekable();
    let mut rows = 0_u64;
    let mut last: Option<Vec<u8>> = None;
    while let Some((key, value)) = reader.row()? {
        if last.as_ref().is_some_and(|last| *last >= key) {
            return Err(damaged("its rows are not in order"));
        }
        while let Some((own_key, own_value)) = own.next_if(|(own_key, _)| *own_key < key) {
            table.put(own_key, own_value).map_err(build)?;
        }
        table.put(&key, value).map_err(build)?;
        last = Some(key);
        if rows == 0 {
            at(Replacing::Writing);
        }
        rows += 1;
    }
    for (key, value) in own {
        table.put(key, value).map_err(build)?;
    }
    table.finish().map_err(build)?;
    drop(table);
    at(Replacing::Written);
    let mut options = IngestExternalFileOptions::default();
    options.set_move_files(true);
    database
        .ingest_external_file_opts(&options, vec![scratch])
        .map_err(|cause| failed("put a file of rows in the place of the catalog's", cause))?;
    at(Replacing::Replaced);
    // RocksDB has linked it under a name of its own.
    match std::fs::remove_file(scratch) {
        Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io("remove", scratch, cause))
        }
        _ => Ok(rows),
    }
}
