//! (signatures first)
#![allow(unused_variables, missing_docs, clippy::todo, clippy::needless_pass_by_value)]
use crate::image::ImageInfo;
use crate::object::*;
use crate::volume::*;
use crate::{Entry, Event, Result, Who, SealedMap};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How a store is opened.
#[derive(Clone, Debug)]
pub struct Options { pub segment_bytes: u64, pub reserve_bytes: u64, pub collector: bool, pub cache_bytes: usize }
impl Default for Options { fn default() -> Self { todo!() } }

/// A handle on an open store.
#[derive(Clone)]
pub struct Store { inner: Arc<()> }

/// Byte and operation counters, since the store was made unless said otherwise.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Stats {
    /// Bytes on the disk under the data directory's segments, index and catalog (allocated blocks).
    pub physical_bytes: u64,
    pub segment_bytes: u64,
    pub index_bytes: u64,
    pub catalog_bytes: u64,
    /// Payload bytes in segments that some map shows / that wait for collection.
    pub live_bytes: u64,
    pub dead_bytes: u64,
    /// Payload bytes written since open, by cause: client (any door), copy (stated copies), collect (moves).
    pub written_client_bytes: u64,
    pub written_copy_bytes: u64,
    pub written_collect_bytes: u64,
    pub read_bytes: u64,
    /// Device syncs of the value log since open.
    pub syncs: u64,
    pub free_bytes: u64,
    pub buckets: u64, pub objects: u64, pub volumes: u64, pub snapshots: u64, pub images: u64,
    /// Set once a write or sync failed: the engine refuses writes until it is reopened.
    pub refusing: Option<String>,
}

/// What a collection did.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Collected { pub segments_freed: u64, pub freed_bytes: u64, pub moved_bytes: u64, pub maps_swept: u64 }

/// What `check` found. Sound when `problems` is empty.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct CheckReport { pub maps: u64, pub births: u64, pub segments: u64, pub pins: u64, pub leaked_bytes: u64, pub scrubbed_bytes: u64, pub problems: Vec<String> }

impl Store {
    /// Opens (or makes) the store in `directory`. Conflict if another process has it; Unsupported for a newer format.
    pub fn open(directory: &Path, options: Options) -> Result<Self> { todo!() }
    pub fn directory(&self) -> &Path { todo!() }
    /// Syncs, checkpoints, stops the threads. Later calls on any handle are Unavailable.
    pub fn close(&self) -> Result<()> { todo!() }
    pub fn stats(&self) -> Result<Stats> { todo!() }
    /// Sweeps and compacts until nothing worth it is left.
    pub fn collect(&self) -> Result<Collected> { todo!() }
    /// Compares maps, locations and pins; with `scrub` also reads and verifies every live block.
    pub fn check(&self, scrub: bool) -> Result<CheckReport> { todo!() }
    /// Databases, segments and ratios as a JSON tree.
    pub fn tree(&self) -> Result<serde_json::Value> { todo!() }

    // ---- journal
    pub fn journal_append(&self, who: &Who, entry: Entry) -> Result<u64> { todo!() }
    /// Up to `max` events behind `cursor` (0: from the beginning).
    pub fn journal_after(&self, cursor: u64, max: usize) -> Result<Vec<Event>> { todo!() }
    /// As `journal_after`, but waits up to `patience` for the first event.
    pub fn journal_wait(&self, cursor: u64, max: usize, patience: Duration) -> Result<Vec<Event>> { todo!() }

    // ---- records for other layers (instances, hosts): JSON by kind and name
    pub fn record_put(&self, who: &Who, kind: &str, name: &str, value: &serde_json::Value, entry: Option<Entry>) -> Result<()> { todo!() }
    /// As put, but Conflict if it exists.
    pub fn record_create(&self, who: &Who, kind: &str, name: &str, value: &serde_json::Value, entry: Option<Entry>) -> Result<()> { todo!() }
    pub fn record_get(&self, kind: &str, name: &str) -> Result<Option<serde_json::Value>> { todo!() }
    pub fn record_list(&self, kind: &str) -> Result<Vec<(String, serde_json::Value)>> { todo!() }
    pub fn record_remove(&self, who: &Who, kind: &str, name: &str, entry: Option<Entry>) -> Result<()> { todo!() }

    // ---- buckets
    pub fn bucket_create(&self, who: &Who, name: &str) -> Result<Bucket> { todo!() }
    /// NotFound, or Conflict while it still has objects or uploads.
    pub fn bucket_remove(&self, who: &Who, name: &str) -> Result<()> { todo!() }
    pub fn bucket(&self, name: &str) -> Result<Bucket> { todo!() }
    pub fn buckets(&self) -> Result<Vec<Bucket>> { todo!() }

    // ---- objects
    /// Begins a body. NotFound where the bucket is missing. Dropping the writer forgets the bytes.
    pub fn object_writer(&self, bucket: &str) -> Result<ObjectWriter> { todo!() }
    pub fn object_head(&self, bucket: &str, key: &str) -> Result<Object> { todo!() }
    pub fn object_open(&self, bucket: &str, key: &str) -> Result<(Object, Arc<dyn ReadAt>)> { todo!() }
    /// Ok(None): there was nothing (S3 deletes are idempotent). Precondition is checked in the batch.
    pub fn object_remove(&self, who: &Who, bucket: &str, key: &str, condition: &Precondition) -> Result<Option<Object>> { todo!() }
    /// Shares the body. `meta: None` keeps the source's. `source_condition` applies to the source object.
    pub fn object_copy(&self, who: &Who, source: (&str, &str), target: (&str, &str), meta: Option<ObjectMeta>, source_condition: &Precondition, condition: &Precondition) -> Result<(Object, Copied)> { todo!() }
    pub fn object_list(&self, bucket: &str, query: &ListQuery) -> Result<ListPage> { todo!() }

    // ---- multipart
    pub fn upload_create(&self, who: &Who, bucket: &str, key: &str, meta: ObjectMeta) -> Result<Upload> { todo!() }
    pub fn upload(&self, bucket: &str, key: &str, id: &str) -> Result<Upload> { todo!() }
    /// Uploads under way, ordered by key then id.
    pub fn uploads(&self, bucket: &str) -> Result<Vec<Upload>> { todo!() }
    /// Ordered by number.
    pub fn upload_parts(&self, upload: &Upload) -> Result<Vec<Part>> { todo!() }
    /// Shares the range where it can: block-aligned start in the source; else one stated copy.
    pub fn upload_part_copy(&self, who: &Who, upload: &Upload, number: u32, source: (&str, &str), range: Option<(u64, u64)>, etag_of: &mut dyn FnMut(&dyn ReadAt) -> Result<(String, std::collections::BTreeMap<String, String>)>) -> Result<(Part, Copied)> { todo!() }
    /// Checks that the parts exist with these ETags in rising order, then commits the concat. `meta` carries the final ETag, checksums, headers.
    pub fn upload_complete(&self, who: &Who, upload: &Upload, parts: &[(u32, String)], meta: ObjectMeta, condition: &Precondition) -> Result<Object> { todo!() }
    pub fn upload_abort(&self, who: &Who, upload: &Upload) -> Result<()> { todo!() }

    // ---- volumes
    /// `length_bytes: None` takes the origin's length; a larger one grows, a smaller one is refused.
    pub fn volume_create(&self, who: &Who, name: &str, length_bytes: Option<u64>, origin: &Origin) -> Result<(VolumeInfo, Copied)> { todo!() }
    pub fn volumes(&self) -> Result<Vec<VolumeInfo>> { todo!() }
    pub fn volume_info(&self, name: &str) -> Result<VolumeInfo> { todo!() }
    /// Conflict while a writer holds it.
    pub fn volume_remove(&self, who: &Who, name: &str) -> Result<()> { todo!() }
    /// Shrinking is refused unless `shrink`; cut blocks are freed.
    pub fn volume_resize(&self, who: &Who, name: &str, length_bytes: u64, shrink: bool) -> Result<VolumeInfo> { todo!() }
    /// Opens for reading and, once asked for a writer, writing.
    pub fn volume_open(&self, name: &str) -> Result<Volume> { todo!() }
    /// Seals; `publish` (bucket, key) also makes it an object. Nothing is copied.
    pub fn snapshot_create(&self, who: &Who, volume: &str, name: Option<&str>, publish: Option<(&str, &str)>) -> Result<SnapshotInfo> { todo!() }
    pub fn snapshots(&self) -> Result<Vec<SnapshotInfo>> { todo!() }
    /// By name or id.
    pub fn snapshot(&self, name: &str) -> Result<SnapshotInfo> { todo!() }
    pub fn snapshot_remove(&self, who: &Who, name: &str) -> Result<()> { todo!() }
    /// Any sealed map, read only (snapshots, images).
    pub fn sealed_open(&self, sealed: SealedMap) -> Result<View> { todo!() }

    // ---- images
    /// Registers an object (raw or qcow2, told apart by its bytes) as an image.
    pub fn image_add(&self, who: &Who, bucket: &str, key: &str, name: &str) -> Result<(ImageInfo, Copied)> { todo!() }
    pub fn images(&self) -> Result<Vec<ImageInfo>> { todo!() }
    /// By name, id, or an unambiguous beginning of the id.
    pub fn image(&self, name: &str) -> Result<ImageInfo> { todo!() }
    /// Removes one name; the last name takes the image with it.
    pub fn image_remove(&self, who: &Who, name: &str) -> Result<()> { todo!() }
}

/// A body on its way in. Small ones stay in memory until the commit.
pub struct ObjectWriter { inner: () }
impl ObjectWriter {
    /// Appends bytes in order.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> { todo!() }
    pub fn length_bytes(&self) -> u64 { todo!() }
    /// Syncs, then commits the object in one catalog batch.
    pub fn commit(self, who: &Who, key: &str, meta: ObjectMeta, condition: &Precondition) -> Result<Object> { todo!() }
    /// Syncs, then commits it as a part (replacing an earlier one of that number).
    pub fn commit_part(self, who: &Who, upload: &Upload, number: u32, etag: String, checksums: std::collections::BTreeMap<String, String>) -> Result<Part> { todo!() }
}

/// A sealed map opened for reading.
#[derive(Clone)]
pub struct View { inner: Arc<()> }
impl View {
    /// Allocation of `offset..offset+length` in order, adjoining, at most `max` runs (it may cover less then).
    pub fn extents(&self, offset: u64, length: u64, max: usize) -> Result<Vec<Extent>> { todo!() }
}
impl ReadAt for View {
    fn length_bytes(&self) -> u64 { todo!() }
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> { todo!() }
}

/// A volume opened; clones share it.
#[derive(Clone)]
pub struct Volume { inner: Arc<()> }
impl Volume {
    pub fn name(&self) -> &str { todo!() }
    /// The present length; it can change under a resize.
    pub fn length_bytes(&self) -> u64 { todo!() }
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> { todo!() }
    pub fn extents(&self, offset: u64, length: u64, max: usize) -> Result<Vec<Extent>> { todo!() }
    /// The writer token: Conflict while another `holder` has it; the same holder shares it.
    /// Released when the last [`Writer`] of the holder is dropped.
    pub fn writer(&self, holder: &str) -> Result<Writer> { todo!() }
    /// Whether and who.
    pub fn holder(&self) -> Option<String> { todo!() }
}

/// The right to write a volume.
#[derive(Clone)]
pub struct Writer { inner: Arc<()> }
impl Writer {
    /// Any offset and length; edges that cut a block are read, merged and written whole.
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> { todo!() }
    /// Makes the range read as zeroes and frees what lay under whole blocks (also serves TRIM).
    pub fn zero(&self, offset: u64, length: u64) -> Result<()> { todo!() }
    /// Everything answered before this call is on the device when it returns.
    pub fn flush(&self) -> Result<()> { todo!() }
}
