//! Four ways to lay out blocks on a disk, behind one face.
//!
//! A write is in the page cache or in a log when it returns, and on the device after `flush`: the
//! same promise from all four. None compresses.

use blockstore::volume::Origin;
use blockstore::{Options, Store, Volume, Who, Writer};
use rocksdb::{DB, WriteBatch, WriteOptions};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Bytes of a block.
pub(crate) const BLOCK: usize = 4096;

/// A space of blocks.
pub(crate) trait Layout {
    /// As the table calls it.
    fn name(&self) -> &'static str;
    /// Whole blocks at a block's offset.
    fn write(&mut self, offset: u64, bytes: &[u8]);
    /// Everything written is on the device when it returns.
    fn flush(&mut self);
    /// Whole blocks at a block's offset, all written before.
    fn read(&mut self, offset: u64, buffer: &mut [u8]);
    /// Does the work that writes left for the background.
    fn settle(&mut self);
}

/// All of them, each in its own folder below `folder`.
pub(crate) fn all(folder: &Path, length: u64) -> Vec<Box<dyn Layout>> {
    vec![
        Box::new(InPlace::new(&folder.join("raw"), length)),
        Box::new(Infall::new(&folder.join("infall"), length)),
        Box::new(Rocks::new(&folder.join("blobs"), true)),
        Box::new(Rocks::new(&folder.join("values"), false)),
    ]
}

struct InPlace(File);

impl InPlace {
    fn new(path: &Path, length: u64) -> Self {
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path)
            .unwrap();
        file.set_len(length).unwrap();
        Self(file)
    }
}

impl Layout for InPlace {
    fn name(&self) -> &'static str {
        "raw file in place"
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) {
        self.0.write_all_at(bytes, offset).unwrap();
    }

    fn flush(&mut self) {
        self.0.sync_data().unwrap();
    }

    fn read(&mut self, offset: u64, buffer: &mut [u8]) {
        self.0.read_exact_at(buffer, offset).unwrap();
    }

    fn settle(&mut self) {
        self.flush();
    }
}

struct Infall {
    store: Store,
    volume: Volume,
    writer: Writer,
}

impl Infall {
    fn new(folder: &Path, length: u64) -> Self {
        let store = Store::open(folder, Options::default()).unwrap();
        let who = Who {
            actor: "bench".into(),
            request: "-".into(),
            project: "root".into(),
        };
        store
            .volume_create(&who, "space", Some(length), &Origin::Empty)
            .unwrap();
        let volume = store.volume_open("space").unwrap();
        let writer = volume.writer("bench").unwrap();
        Self {
            store,
            volume,
            writer,
        }
    }
}

impl Layout for Infall {
    fn name(&self) -> &'static str {
        "infall: segments, index"
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) {
        self.writer.write_at(offset, bytes).unwrap();
    }

    fn flush(&mut self) {
        self.writer.flush().unwrap();
    }

    fn read(&mut self, offset: u64, buffer: &mut [u8]) {
        self.volume.read_at(offset, buffer).unwrap();
    }

    fn settle(&mut self) {
        self.store.collect().unwrap();
    }
}

/// Blocks as RocksDB's values, or in its blob files.
struct Rocks {
    database: DB,
    blobs: bool,
}

impl Rocks {
    fn new(folder: &Path, blobs: bool) -> Self {
        let mut options = rocksdb::Options::default();
        options.create_if_missing(true);
        options.set_compression_type(rocksdb::DBCompressionType::None);
        options.set_max_background_jobs(4);
        if blobs {
            options.set_enable_blob_files(true);
            options.set_min_blob_size(1024);
            options.set_enable_blob_gc(true);
        }
        Self {
            database: DB::open(&options, folder).unwrap(),
            blobs,
        }
    }
}

impl Layout for Rocks {
    fn name(&self) -> &'static str {
        if self.blobs {
            "RocksDB BlobDB"
        } else {
            "RocksDB values"
        }
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) {
        let first = offset / BLOCK as u64;
        let mut batch = WriteBatch::default();
        for (key, block) in (first..).zip(bytes.chunks_exact(BLOCK)) {
            batch.put(key.to_be_bytes(), block);
        }
        self.database
            .write_opt(batch, &WriteOptions::default())
            .unwrap();
    }

    fn flush(&mut self) {
        self.database.flush_wal(true).unwrap();
    }

    fn read(&mut self, offset: u64, buffer: &mut [u8]) {
        let first = offset / BLOCK as u64;
        for (key, block) in (first..).zip(buffer.chunks_exact_mut(BLOCK)) {
            let value = self
                .database
                .get_pinned(key.to_be_bytes())
                .unwrap()
                .expect("it was written");
            block.copy_from_slice(&value);
        }
    }

    fn settle(&mut self) {
        self.database.flush().unwrap();
        self.database
            .wait_for_compact(&rocksdb::WaitForCompactOptions::default())
            .unwrap();
    }
}
