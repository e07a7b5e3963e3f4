//! Files as the value log sees them, so that a simulated disk can lose what was not synced.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::sync::Arc;

/// One open file.
pub(crate) trait DiskFile: Send + Sync {
    /// Writes all slices one behind the other, starting at `offset`.
    fn write_at(&self, offset: u64, slices: &[&[u8]]) -> io::Result<()>;
    /// Fills `buffer`; an end of file before that is `UnexpectedEof`.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;
    /// Makes everything written so far durable, the length included.
    fn sync(&self) -> io::Result<()>;
    /// Cuts or extends.
    fn truncate(&self, length: u64) -> io::Result<()>;
    /// Sets space aside without changing the length.
    fn reserve(&self, length: u64) -> io::Result<()>;
    /// Present length.
    fn length(&self) -> io::Result<u64>;
    /// Bytes it takes on the device.
    fn allocated(&self) -> io::Result<u64>;
}

/// A directory of files.
pub(crate) trait Disk: Send + Sync {
    /// Makes a new file; it must not exist.
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;
    /// Opens an existing one.
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;
    /// Removes one.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Names present.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Makes creations and removals durable.
    fn sync_names(&self) -> io::Result<()>;
    /// Bytes still free.
    fn free_bytes(&self) -> io::Result<u64>;
}

/// The real thing: a directory of the file system.
pub(crate) struct Directory {
    path: PathBuf,
}

impl Directory {
    pub(crate) fn open(path: PathBuf) -> io::Result<Self> {
        std::fs::create_dir_all(&path)?;
        Ok(Self { path })
    }
}

impl Disk for Directory {
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(self.path.join(name))?;
        Ok(Arc::new(file))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(
            OpenOptions::new()
                .read(true)
                .write(true)
                .open(self.path.join(name))?,
        ))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.path.join(name))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        std::fs::read_dir(&self.path)?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect()
    }

    fn sync_names(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let space = rustix::fs::statvfs(&self.path)?;
        Ok(space.f_bavail * space.f_frsize)
    }
}

impl DiskFile for File {
    fn write_at(&self, mut offset: u64, slices: &[&[u8]]) -> io::Result<()> {
        let total: usize = slices.iter().map(|slice| slice.len()).sum();
        let vectors: Vec<io::IoSlice<'_>> =
            slices.iter().map(|slice| io::IoSlice::new(slice)).collect();
        let mut done = rustix::io::pwritev(self, &vectors, offset)?;
        if done == total {
            return Ok(());
        }
        for slice in slices {
            let skipped = done.min(slice.len());
            FileExt::write_all_at(self, &slice[skipped..], offset + skipped as u64)?;
            offset += slice.len() as u64;
            done -= skipped;
        }
        Ok(())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        FileExt::read_exact_at(self, buffer, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        self.set_len(length)
    }

    fn reserve(&self, length: u64) -> io::Result<()> {
        match rustix::fs::fallocate(self, rustix::fs::FallocateFlags::KEEP_SIZE, 0, length) {
            // A file system without fallocate: then a full disk shows at write time.
            Err(rustix::io::Errno::OPNOTSUPP) => Ok(()),
            other => Ok(other?),
        }
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn allocated(&self) -> io::Result<u64> {
        Ok(self.metadata()?.blocks() * 512)
    }
}
