//! The store: opening a data directory, its figures, collection and checks.
//!
//! ```text
//! LOCK        one process at a time
//! STORE       {"v":1,"id":"<uuid>"}: what this directory is, and in which format
//! catalog/    RocksDB with WAL and sync: names, pins, journal, small bodies
//! index/      RocksDB without WAL: maps and locations
//! segments/   the value log
//! ```

use crate::catalog::keys;
use crate::catalog::{Backup, Catalog};
use crate::engine::names::Names;
use crate::engine::{Engine, EngineOptions};
use crate::image::trust::Rules;
use crate::index::Index;
use crate::index::rocks::RocksTables;
use crate::object::{upgrade, usage};
use crate::valuelog::Settings;
use crate::valuelog::disk::Directory;
use crate::volume::Tokens;
use crate::{BLOCK, Error, Kind, Result, Subject};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

const FORMAT: u32 = 1;

/// How a store is opened.
#[derive(Clone, Debug)]
pub struct Options {
    /// Bytes of a full segment.
    pub segment_bytes: u64,
    /// Free bytes that ordinary writes leave alone, so that deletes and collection work on a full disk.
    pub reserve_bytes: u64,
    /// Collect in the background.
    pub collector: bool,
    /// Memory for the index's blocks.
    pub cache_bytes: usize,
    /// Which images may be used.
    pub images: Rules,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            reserve_bytes: 256 << 20,
            collector: true,
            cache_bytes: 128 << 20,
            images: Rules::default(),
        }
    }
}

/// A handle on an open store; clones share it.
#[derive(Clone)]
pub struct Store {
    pub(crate) shared: Arc<Shared>,
}

/// What every handle shares.
pub(crate) struct Shared {
    pub(crate) directory: PathBuf,
    pub(crate) engine: Engine,
    pub(crate) catalog: Catalog,
    pub(crate) tokens: Arc<Tokens>,
    pub(crate) edits: crate::object::edit::Editors,
    options: Options,
    id: String,
    /// Held while the store is open.
    _lock: std::fs::File,
}

/// Figures of the store, bytes unless said otherwise.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Stats {
    /// On the disk: segments, index and catalog, allocated blocks.
    pub physical_bytes: u64,
    /// Of that, segments.
    pub segment_bytes: u64,
    /// Of that, the index.
    pub index_bytes: u64,
    /// Of that, the catalog.
    pub catalog_bytes: u64,
    /// Payload in segments that some map shows.
    pub live_bytes: u64,
    /// Payload in segments that waits for collection.
    pub dead_bytes: u64,
    /// Payload written since opening by clients of any door.
    pub written_client_bytes: u64,
    /// Payload written since opening by stated copies.
    pub written_copy_bytes: u64,
    /// Payload moved since opening by the collector.
    pub written_collect_bytes: u64,
    /// Read from the value log since opening.
    pub read_bytes: u64,
    /// Device syncs of the value log since opening, a count.
    pub syncs: u64,
    /// Free on the disk.
    pub free_bytes: u64,
    /// Visible bytes of all versions of objects, volumes, snapshots and images.
    #[serde(default)]
    pub shown_bytes: u64,
    /// How many buckets.
    pub buckets: u64,
    /// How many objects, as listings show them.
    pub objects: u64,
    /// How many volumes.
    pub volumes: u64,
    /// How many snapshots.
    pub snapshots: u64,
    /// How many images.
    pub images: u64,
    /// Set once a write or sync failed: writes are refused until the store is reopened.
    pub refusing: Option<String>,
}

/// What a collection did.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Collected {
    /// Segments unlinked.
    pub segments_freed: u64,
    /// Bytes they took.
    pub freed_bytes: u64,
    /// Live bytes moved out of them.
    pub moved_bytes: u64,
    /// Maps that were pruned or went.
    pub maps_swept: u64,
}

/// What a check found; sound when `problems` is empty.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct CheckReport {
    /// Maps looked at.
    pub maps: u64,
    /// Births they show, each once a leaf.
    pub births: u64,
    /// Segments looked at.
    pub segments: u64,
    /// Pins looked at.
    pub pins: u64,
    /// Bytes that are held for live and that no map shows.
    pub leaked_bytes: u64,
    /// Bytes read and verified.
    pub scrubbed_bytes: u64,
    /// What is wrong, at most a hundred lines.
    pub problems: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct StoreFile {
    v: u32,
    id: String,
}

impl Store {
    /// Opens (or makes) the store in `directory`. [`Kind::Conflict`] if another process has it,
    /// [`Kind::Unsupported`] for a newer format, [`Kind::Corrupt`] where synced data is damaged.
    pub fn open(directory: &Path, options: Options) -> Result<Self> {
        std::fs::create_dir_all(directory)
            .map_err(|failure| Error::io("create", directory, failure))?;
        let lock = take_lock(directory)?;
        let id = identity(directory)?;
        let catalog = Catalog::open(&directory.join("catalog"))?;
        upgrade::upgrade(&catalog)?;
        let tables = RocksTables::open(&directory.join("index"), options.cache_bytes)?;
        let index = Index::open(Box::new(tables))?;
        let segments = directory.join("segments");
        let disk = Directory::open(segments.clone())
            .map_err(|failure| Error::io("create", &segments, failure))?;
        let settings = Settings {
            store: *id.as_bytes(),
            boot: catalog.boot(),
            segment_bytes: options.segment_bytes,
            reserve_bytes: options.reserve_bytes,
        };
        let names: Arc<dyn Names> = Arc::new(catalog.clone());
        let engine = Engine::open(
            Arc::new(disk),
            index,
            names,
            &EngineOptions {
                settings,
                leaf_cache: 8192,
                threads: true,
                collector: options.collector,
            },
        )?;
        if crate::object::edit::sweep_unfinished(&catalog)? > 0 {
            engine.sweep_soon();
        }
        let shared = Shared {
            directory: directory.into(),
            engine,
            catalog,
            tokens: Arc::default(),
            edits: crate::object::edit::Editors::default(),
            options,
            id: id.to_string(),
            _lock: lock,
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// Waits until everything shows here that was changed, on whichever node, before this call. On one
    /// node that is always so.
    pub fn catch_up(&self) -> Result<()> {
        self.shared.catalog.catch_up()
    }

    /// Writes the catalog as it is at one moment to a new file. [`Kind::Conflict`] if there is one.
    pub fn catalog_backup(&self, path: &Path) -> Result<Backup> {
        self.shared.catalog.backup(path)
    }

    /// Makes the catalog of a data directory that has none from a backup, while no server runs on it.
    /// [`Kind::Conflict`] if it has one.
    pub fn catalog_restore(directory: &Path, file: &Path) -> Result<Backup> {
        std::fs::create_dir_all(directory)
            .map_err(|failure| Error::io("create", directory, failure))?;
        let _lock = take_lock(directory)?;
        identity(directory)?;
        Catalog::restore(&directory.join("catalog"), file)
    }

    /// The store's id, a UUID made with its directory.
    pub fn id(&self) -> &str {
        &self.shared.id
    }

    /// Which images may be used.
    pub(crate) fn image_rules(&self) -> &Rules {
        &self.shared.options.images
    }

    /// The data directory.
    pub fn directory(&self) -> &Path {
        &self.shared.directory
    }

    /// Syncs, checkpoints, stops the threads. Later writes through any handle are [`Kind::Unavailable`].
    pub fn close(&self) -> Result<()> {
        let done = self.shared.engine.close();
        self.shared.catalog.close();
        done
    }

    /// Present figures.
    pub fn stats(&self) -> Result<Stats> {
        let Shared {
            engine,
            catalog,
            directory,
            ..
        } = self.shared.as_ref();
        let (free_bytes, segments) = engine.space()?;
        let segment_bytes = segments.values().sum();
        let (index_bytes, catalog_bytes) = (
            allocated(&directory.join("index")),
            allocated(&directory.join("catalog")),
        );
        let figures = engine.figures();
        let live: u64 = figures.values().map(|known| known.live_blocks).sum();
        let blocks: u64 = figures.values().map(|known| known.blocks).sum();
        let (syncs, read_bytes) = engine.log_counters();
        let written = engine.written();
        let held: Vec<usage::Usage> = usage::projects(catalog)?.into_values().collect();
        let sum = |of: &dyn Fn(&usage::Usage) -> u64| held.iter().map(of).sum::<u64>();
        let snapshots = self.snapshots()?;
        let images = self.images()?;
        let sealed_bytes: u64 = snapshots
            .iter()
            .map(|snapshot| snapshot.sealed.length_bytes)
            .chain(images.iter().map(|image| image.length_bytes))
            .sum();
        Ok(Stats {
            physical_bytes: segment_bytes + index_bytes + catalog_bytes,
            segment_bytes,
            index_bytes,
            catalog_bytes,
            live_bytes: live * BLOCK as u64,
            dead_bytes: blocks.saturating_sub(live) * BLOCK as u64,
            written_client_bytes: written.client.load(Relaxed),
            written_copy_bytes: written.copied.load(Relaxed),
            written_collect_bytes: written.moved.load(Relaxed),
            read_bytes,
            syncs,
            free_bytes,
            shown_bytes: sum(&|usage| usage.bytes + usage.volume_bytes) + sealed_bytes,
            buckets: sum(&|usage| usage.buckets),
            objects: sum(&|usage| usage.objects),
            volumes: sum(&|usage| usage.volumes),
            snapshots: snapshots.len() as u64,
            images: images.len() as u64,
            refusing: engine.refusing().or_else(|| catalog.refusing()),
        })
    }

    /// Sweeps and compacts until nothing worth it is left.
    pub fn collect(&self) -> Result<Collected> {
        let done = self.shared.engine.collect_all()?;
        self.shared.catalog.compact()?;
        Ok(Collected {
            segments_freed: done.segments,
            freed_bytes: done.freed_bytes,
            moved_bytes: done.moved_bytes,
            maps_swept: done.maps,
        })
    }

    /// Compares maps, locations, pins and usage; with `scrub` also reads and verifies every live block.
    pub fn check(&self, scrub: bool) -> Result<CheckReport> {
        let catalog = &self.shared.catalog;
        let mut maps = Vec::new();
        let mut report = CheckReport::default();
        let mut ids = Vec::new();
        catalog.scan(keys::MAPS, keys::MAPS, &mut |key, _| {
            ids.push(crate::MapId(keys::number_behind(keys::MAPS, key)?));
            Ok(true)
        })?;
        for map in ids {
            let cuts = catalog.cuts(map)?;
            // A map without a cut waits for the sweeper; one that went since is no problem either.
            if !cuts.is_empty() {
                maps.push((map, cuts));
            }
        }
        report.maps = maps.len() as u64;
        catalog.scan(keys::PINS, keys::PINS, &mut |key, _| {
            let (map, lsn, holder) = keys::parse_pin(key)?;
            report.pins += 1;
            if catalog.map(map)?.is_none() {
                report
                    .problems
                    .push(format!("{holder} pins {map} at {lsn}, which has no row"));
            }
            Ok(true)
        })?;
        report.problems.extend(usage::compare(catalog)?);
        let found = self.shared.engine.check(&maps, scrub)?;
        report.births = found.births;
        report.segments = found.segments;
        report.leaked_bytes = found.leaked_bytes;
        report.scrubbed_bytes = found.scrubbed_bytes;
        report.problems.extend(found.problems);
        Ok(report)
    }

    /// Databases, segments and ratios, as `infall store tree` shows them.
    pub fn tree(&self) -> Result<serde_json::Value> {
        let stats = self.stats()?;
        let (_, sizes) = self.shared.engine.space()?;
        let segments: Vec<serde_json::Value> = self
            .shared
            .engine
            .figures()
            .into_iter()
            .map(|(segment, figures)| {
                serde_json::json!({
                    "segment": segment.0,
                    "bytes": sizes.get(&segment).copied().unwrap_or(0),
                    "live_bytes": figures.live_blocks * BLOCK as u64,
                    "payload_bytes": figures.blocks * BLOCK as u64,
                })
            })
            .collect();
        let ratio = |part: u64, whole: u64| {
            if whole == 0 {
                0.0
            } else {
                part as f64 / whole as f64
            }
        };
        Ok(serde_json::json!({
            "store": self.shared.id,
            "directory": self.shared.directory,
            "segment_bytes_full": self.shared.options.segment_bytes,
            "databases": {
                "catalog": { "bytes": stats.catalog_bytes, "rows": self.shared.catalog.tree()? },
                "index": { "bytes": stats.index_bytes },
            },
            "segments": segments,
            "ratios": {
                "live_of_payload": ratio(stats.live_bytes, stats.live_bytes + stats.dead_bytes),
                "physical_of_live": ratio(stats.physical_bytes, stats.live_bytes),
                "index_of_live": ratio(stats.index_bytes, stats.live_bytes),
            },
        }))
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if self.engine.refusing().is_none()
            && let Err(failure) = self.engine.close()
        {
            tracing::error!(
                failure = failure.chain(),
                "the store was not closed cleanly; its next opening replays the log"
            );
        }
    }
}

fn take_lock(directory: &Path) -> Result<std::fs::File> {
    let path = directory.join("LOCK");
    let file = std::fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|failure| Error::io("open", &path, failure))?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let text = format!(
                "another infall has {} open; stop it first, or choose another directory with --data",
                directory.display()
            );
            Err(Error::new(Kind::Conflict, Subject::Store, text))
        }
        Err(failure) => Err(Error::io("lock", &path, failure.into())),
    }
}

/// Reads or makes the file that says what this directory is.
fn identity(directory: &Path) -> Result<uuid::Uuid> {
    let path = directory.join("STORE");
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(failure) if failure.kind() == std::io::ErrorKind::NotFound => {
            return new_identity(directory, &path);
        }
        Err(failure) => return Err(Error::io("read", &path, failure)),
    };
    let damaged = || {
        Error::new(
            Kind::Corrupt,
            Subject::Store,
            format!("{} is not what infall wrote", path.display()),
        )
    };
    let version: serde_json::Value =
        serde_json::from_str(&text).map_err(|cause| damaged().because(cause))?;
    let version = version
        .get("v")
        .and_then(serde_json::Value::as_u64)
        .ok_or_else(damaged)?;
    if version > u64::from(FORMAT) {
        let text = format!(
            "{} has format version {version}, this release reads up to {FORMAT}; use the release that wrote it",
            directory.display()
        );
        return Err(Error::new(Kind::Unsupported, Subject::Store, text));
    }
    let file: StoreFile = serde_json::from_str(&text).map_err(|cause| damaged().because(cause))?;
    file.id.parse().map_err(|cause| damaged().because(cause))
}

fn new_identity(directory: &Path, path: &Path) -> Result<uuid::Uuid> {
    let foreign = ["catalog", "index", "segments"]
        .iter()
        .any(|part| directory.join(part).exists());
    if foreign {
        let text = format!(
            "{} holds a store without its STORE file; restore that file",
            directory.display()
        );
        return Err(Error::new(Kind::Corrupt, Subject::Store, text));
    }
    let id = uuid::Uuid::new_v4();
    let text = serde_json::json!(StoreFile {
        v: FORMAT,
        id: id.to_string()
    })
    .to_string();
    let write = || -> std::io::Result<()> {
        let fresh = path.with_extension("new");
        std::fs::write(&fresh, text)?;
        std::fs::File::open(&fresh)?.sync_all()?;
        std::fs::rename(&fresh, path)?;
        std::fs::File::open(directory)?.sync_all()
    };
    write().map_err(|failure| Error::io("write", path, failure))?;
    Ok(id)
}

/// Allocated bytes of the files of a directory.
fn allocated(directory: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = std::fs::read_dir(directory) else {
        return 0;
    };
    entries
        .flatten()
        .filter_map(|entry| entry.metadata().ok())
        .map(|meta| meta.blocks() * 512)
        .sum()
}
