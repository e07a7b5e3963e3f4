//! What is done to something open: reading, writing, holes, syncing, letting go.

use super::{BucketFile, Failure, Handle, Result, Store, Tree, VolumeHandle};
use crate::mount::allocation::{self, Seek};
use crate::mount::locked;
use crate::mount::volume_file::within;
use blockstore::object::ReadAt;

impl Tree {
    /// Fills `buffer` from `offset`, less at the end of the file.
    pub(in super::super) fn read(
        &self,
        handle: u64,
        offset: u64,
        buffer: &mut [u8],
    ) -> Result<usize> {
        let store = self.enter()?;
        match &*self.handle(handle)? {
            Handle::Volume(volume) => volume.read(offset, buffer),
            Handle::Sealed(view) => read_sealed(view, offset, buffer),
            Handle::Object(_, reader) => read_sealed(&**reader, offset, buffer),
            Handle::File(file, _) => file.read(&store, offset, buffer),
            Handle::Directory(_) => Err(Failure::IsADirectory),
        }
    }

    /// Writes; of a volume what fits before the end. With `sync` it is on the device on return.
    pub(in super::super) fn write(
        &self,
        handle: u64,
        offset: u64,
        bytes: &[u8],
        sync: bool,
    ) -> Result<usize> {
        self.on_writable(
            handle,
            |volume| volume.write(offset, bytes, sync),
            |store, file| {
                let count = file.write(offset, bytes)?;
                if sync {
                    file.publish(store, &self.guard)?;
                }
                Ok(count)
            },
        )
    }

    /// Frees a range (fallocate PUNCH_HOLE, and ZERO_RANGE that keeps the size).
    pub(in super::super) fn punch(&self, handle: u64, offset: u64, length: u64) -> Result<()> {
        self.on_writable(
            handle,
            |volume| volume.punch(offset, length),
            |_, file| file.zero(offset, length, false),
        )
    }

    /// Zeroes a range (fallocate ZERO_RANGE); a volume does not grow by it.
    pub(in super::super) fn zero_range(&self, handle: u64, offset: u64, length: u64) -> Result<()> {
        self.on_writable(
            handle,
            |volume| volume.zero_range(offset, length),
            |_, file| file.zero(offset, length, true),
        )
    }

    /// Plain fallocate: makes a file longer, and reserves nothing.
    pub(in super::super) fn reserve(
        &self,
        handle: u64,
        offset: u64,
        length: u64,
        keep: bool,
    ) -> Result<()> {
        self.on_writable(
            handle,
            |_| {
                Err(Failure::Unsupported(
                    "volumes are thin: of fallocate only PUNCH_HOLE and ZERO_RANGE are done",
                ))
            },
            |_, file| {
                if keep {
                    Ok(())
                } else {
                    file.reserve(offset, length)
                }
            },
        )
    }

    /// SEEK_DATA and SEEK_HOLE.
    pub(in super::super) fn seek(&self, handle: u64, offset: u64, wanted: Seek) -> Result<u64> {
        let _entered = self.enter()?;
        match &*self.handle(handle)? {
            Handle::Volume(volume) => volume.seek(offset, wanted),
            Handle::Sealed(view) => allocation::seek(view, offset, wanted),
            Handle::File(file, _) => file.seek(offset, wanted),
            Handle::Object(_, reader) => allocation::seek(reader.as_ref(), offset, wanted),
            Handle::Directory(_) => Err(Failure::IsADirectory),
        }
    }

    /// Everything written to the file through this mount is on the device on return; a bucket's file
    /// is published.
    pub(in super::super) fn sync(&self, handle: u64) -> Result<()> {
        let store = self.enter()?;
        match &*self.handle(handle)? {
            Handle::Volume(volume) => volume.sync(),
            Handle::File(file, _) => file.publish(&store, &self.guard),
            Handle::Sealed(_) | Handle::Object(..) | Handle::Directory(_) => Ok(()),
        }
    }

    /// A descriptor of the file is being closed.
    pub(in super::super) fn closing(&self, handle: u64) -> Result<()> {
        let store = self.enter()?;
        match &*self.handle(handle)? {
            Handle::Volume(volume) => volume.closing(),
            Handle::File(file, true) => file.publish(&store, &self.guard),
            Handle::File(_, false) => Ok(()),
            Handle::Sealed(_) | Handle::Object(..) | Handle::Directory(_) => Ok(()),
        }
    }

    /// The last descriptor is closed.
    pub(in super::super) fn release(&self, handle: u64) -> Result<()> {
        let store = self.enter()?;
        let handle = locked(&self.handles).remove(&handle);
        self.let_go(&store, &*handle.ok_or(Failure::BadHandle)?)
    }

    pub(super) fn let_go(&self, store: &Store, handle: &Handle) -> Result<()> {
        match handle {
            Handle::Volume(volume) => volume.release(),
            Handle::File(file, true) => file.end(store, &self.guard),
            Handle::Object(number, _) => {
                let mut readers = locked(&self.readers);
                if let Some(count) = readers.get_mut(number) {
                    *count -= 1;
                    if *count == 0 {
                        readers.remove(number);
                    }
                }
                Ok(())
            }
            Handle::File(file, false) => {
                file.end_reading();
                Ok(())
            }
            Handle::Sealed(_) | Handle::Directory(_) => Ok(()),
        }
    }

    fn on_writable<T>(
        &self,
        handle: u64,
        volume: impl FnOnce(&VolumeHandle) -> Result<T>,
        file: impl FnOnce(&Store, &BucketFile) -> Result<T>,
    ) -> Result<T> {
        let store = self.enter()?;
        match &*self.handle(handle)? {
            Handle::Volume(open) => volume(open),
            Handle::File(open, true) => file(&store, open),
            Handle::File(_, false) => Err(Failure::BadHandle),
            Handle::Sealed(_) | Handle::Object(..) | Handle::Directory(_) => Err(Failure::ReadOnly),
        }
    }
}

fn read_sealed(file: &dyn ReadAt, offset: u64, buffer: &mut [u8]) -> Result<usize> {
    let count = within(offset, buffer.len(), file.length_bytes());
    if count > 0 {
        file.read_at(offset, &mut buffer[..count])?;
    }
    Ok(count)
}
