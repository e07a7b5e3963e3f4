//! The file system itself: names, attributes, open files. It knows the store and no protocol.
//!
//! ```text
//!   volumes/<name>.raw      read and written     one node per map
//!   snapshots/<name>.raw    read                 one node per sealed map
//!   images/<name>.raw       read                 one node per sealed map
//!   buckets/<bucket>/…      read                 one node per version of an object
//! ```
//! Every call may come from any thread. Locks are held over tables only, never over the store's
//! I/O on content; a directory's own lock is held while its next page is listed.

use super::allocation::{self, Seek};
use super::directory::{Entry, Listing};
use super::failure::{Failure, Result};
use super::inode::{Inodes, Node, Version};
use super::lookup;
use super::volume_file::{OpenVolume, VolumeHandle, now_ms, within};
use super::{keys, locked};
use blockstore::object::ReadAt;
use blockstore::volume::VolumeInfo;
use blockstore::{Kind, MapId, Store, View};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, Weak};
use std::time::Duration;

/// How long a name, or a directory's attributes, may be believed without asking again.
pub(super) const NAME_VALID: Duration = Duration::from_secs(1);
/// How long the attributes of content that cannot change may be believed.
const CONTENT_VALID: Duration = Duration::from_secs(24 * 3600);

/// The tree over a store.
pub(super) struct Tree {
    /// The store until the mount is over. Requests hold it shared while they run.
    store: RwLock<Option<Store>>,
    /// Who takes the writer tokens: `mount <path>`.
    holder: Arc<str>,
    read_only: bool,
    mounted_ms: u64,
    inodes: Inodes,
    volumes: Mutex<HashMap<MapId, Weak<OpenVolume>>>,
    /// When volumes were last written through this mount, kept while it lives.
    modified_ms: Mutex<HashMap<MapId, Arc<AtomicU64>>>,
    handles: Mutex<HashMap<u64, Arc<Handle>>>,
    next_handle: AtomicU64,
}

/// Attributes of a node.
#[derive(Clone, Debug)]
pub(super) struct Attributes {
    pub(super) number: u64,
    pub(super) directory: bool,
    /// Whether it can be written here.
    pub(super) writable: bool,
    pub(super) length_bytes: u64,
    pub(super) allocated_bytes: u64,
    pub(super) modified_ms: u64,
    /// How long they may be believed; zero for a volume, and where allocation was not looked up.
    pub(super) valid: Duration,
}

/// A request under way, and the store for it.
struct Entered<'tree>(RwLockReadGuard<'tree, Option<Store>>);

impl Deref for Entered<'_> {
    type Target = Store;

    fn deref(&self) -> &Store {
        match &*self.0 {
            Some(store) => store,
            None => unreachable!("`enter` lets nobody in without a store"),
        }
    }
}

/// Something open.
enum Handle {
    Volume(VolumeHandle),
    Sealed(View),
    Object(Arc<dyn ReadAt>),
    Directory(Mutex<Listing>),
}

impl Handle {
    fn release(&self) -> Result<()> {
        match self {
            Self::Volume(volume) => volume.release(),
            Self::Sealed(_) | Self::Object(_) | Self::Directory(_) => Ok(()),
        }
    }
}

/// What a file is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
    /// O_APPEND: never of use on a file that keeps its length.
    Append,
}

/// A file just opened.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) handle: u64,
    /// Whether its bytes can never change, so that anyone may cache them.
    pub(super) unchanging: bool,
}

/// Room, for statfs.
#[derive(Debug)]
pub(super) struct Space {
    pub(super) total_bytes: u64,
    pub(super) free_bytes: u64,
    pub(super) files: u64,
}

impl Tree {
    pub(super) fn new(store: Store, holder: &str, read_only: bool) -> Self {
        Self {
            store: RwLock::new(Some(store)),
            holder: holder.into(),
            read_only,
            mounted_ms: now_ms(),
            inodes: Inodes::new(),
            volumes: Mutex::default(),
            modified_ms: Mutex::default(),
            handles: Mutex::default(),
            next_handle: AtomicU64::new(1),
        }
    }

    // ---- names

    /// What `name` is in the directory `parent`; it is held until forgotten.
    pub(super) fn lookup(&self, parent: u64, name: &OsStr) -> Result<Attributes> {
        let parent = self.node(parent)?;
        if name.len() > keys::SEGMENT_BYTES_MAX {
            return Err(Failure::NameTooLong);
        }
        let name = name.to_str().ok_or(Failure::Missing)?;
        // A name the store would not take, or takes for the beginning of several ids, names no file.
        let store = self.enter()?;
        let found = lookup::child(&store, &parent, name);
        drop(store);
        let node = found.map_err(|failure| match failure {
            Failure::Store(error) if matches!(error.kind(), Kind::Invalid | Kind::Conflict) => {
                Failure::Missing
            }
            other => other,
        })?;
        self.hold(&node)
    }

    /// Holds `node` for the kernel, with the attributes that cost little to know.
    pub(super) fn hold(&self, node: &Node) -> Result<Attributes> {
        let store = self.enter()?;
        let number = self.inodes.hold(node);
        let attributes = self.plain_attributes(&store, number, node);
        if attributes.is_err() {
            self.inodes.forget(number, 1);
        }
        attributes
    }

    /// The number of `node` if it is held.
    pub(super) fn number(&self, node: &Node) -> Option<u64> {
        self.inodes.number(node)
    }

    /// Takes back `lookups` holds.
    pub(super) fn forget(&self, number: u64, lookups: u64) {
        self.inodes.forget(number, lookups);
    }

    fn node(&self, number: u64) -> Result<Arc<Node>> {
        self.inodes.node(number).ok_or(Failure::Replaced)
    }

    // ---- attributes

    /// Attributes with everything looked up.
    pub(super) fn attributes(&self, number: u64) -> Result<Attributes> {
        let store = self.enter()?;
        let node = self.node(number)?;
        let mut attributes = self.plain_attributes(&store, number, &node)?;
        match &*node {
            Node::Volume { name, map } => {
                attributes.allocated_bytes =
                    self.open_volume(&store, name, *map)?.allocated_bytes()?;
            }
            Node::Sealed { sealed, .. } => {
                let view = store.sealed_open(*sealed)?;
                attributes.allocated_bytes = allocation::allocated_bytes(&view)?;
                attributes.valid = CONTENT_VALID;
            }
            Node::Root | Node::Volumes | Node::Snapshots | Node::Images | Node::Buckets => {}
            Node::Directory { .. } | Node::Object { .. } => {}
        }
        Ok(attributes)
    }

    /// Attributes but for the allocation of sparse files. The length is always right: the kernel
    /// believes it for an open file, however short the time we give it.
    fn plain_attributes(&self, store: &Store, number: u64, node: &Node) -> Result<Attributes> {
        let (length_bytes, modified_ms, valid) = match node {
            Node::Volume { name, map } => {
                let volume = volume_as(store, name, *map)?;
                let modified_ms = self.volume_modified(*map).load(Ordering::Relaxed);
                (
                    volume.length_bytes,
                    modified_ms.max(volume.created_ms),
                    Duration::ZERO,
                )
            }
            Node::Sealed { sealed, created_ms } => {
                (sealed.length_bytes, *created_ms, Duration::ZERO)
            }
            Node::Object { version, .. } => {
                (version.length_bytes, version.modified_ms, CONTENT_VALID)
            }
            Node::Root | Node::Volumes | Node::Snapshots | Node::Images | Node::Buckets => {
                (0, self.mounted_ms, NAME_VALID)
            }
            Node::Directory { .. } => (0, self.mounted_ms, NAME_VALID),
        };
        let writable = !self.read_only && matches!(node, Node::Volume { .. });
        let directory = node.is_directory();
        Ok(Attributes {
            number,
            directory,
            writable,
            length_bytes,
            allocated_bytes: length_bytes,
            modified_ms,
            valid,
        })
    }

    /// Truncation: only to the length a volume has anyway.
    pub(super) fn set_length(&self, number: u64, wanted: u64) -> Result<()> {
        let node = self.writable(number)?;
        let Node::Volume { name, map } = &*node else {
            return Err(Failure::IsADirectory);
        };
        let length_bytes = volume_as(&*self.enter()?, name, *map)?.length_bytes;
        if wanted == length_bytes {
            Ok(())
        } else {
            Err(Failure::FixedLength { length_bytes })
        }
    }

    /// The time of modification, kept as long as the mount lives.
    pub(super) fn set_modified(&self, number: u64, modified_ms: u64) -> Result<()> {
        let node = self.writable(number)?;
        let Node::Volume { map, .. } = &*node else {
            return Err(Failure::NotByFile);
        };
        self.volume_modified(*map)
            .store(modified_ms, Ordering::Relaxed);
        Ok(())
    }

    /// Why the directory `parent` takes no new, removed or renamed names.
    pub(super) fn refuse_change(&self, parent: u64) -> Failure {
        match self.node(parent) {
            Ok(node) if *node == Node::Volumes && !self.read_only => Failure::NotByFile,
            Ok(_) => Failure::ReadOnly,
            Err(failure) => failure,
        }
    }

    /// The node, if it can be written (or, in `volumes/`, could be).
    pub(super) fn writable(&self, number: u64) -> Result<Arc<Node>> {
        let node = self.node(number)?;
        match &*node {
            _ if self.read_only => Err(Failure::ReadOnly),
            Node::Volume { .. } | Node::Volumes => Ok(node),
            Node::Root | Node::Snapshots | Node::Images | Node::Buckets => Err(Failure::ReadOnly),
            Node::Directory { .. } | Node::Sealed { .. } | Node::Object { .. } => {
                Err(Failure::ReadOnly)
            }
        }
    }

    /// Room in the store.
    pub(super) fn space(&self) -> Result<Space> {
        let stats = self.enter()?.stats()?;
        let files = stats.volumes + stats.snapshots + stats.images + stats.objects;
        Ok(Space {
            total_bytes: stats.physical_bytes + stats.free_bytes,
            free_bytes: stats.free_bytes,
            files,
        })
    }

    // ---- volumes

    /// The volume as all handles of this mount share it.
    fn open_volume(&self, store: &Store, name: &str, map: MapId) -> Result<Arc<OpenVolume>> {
        let modified_ms = self.volume_modified(map);
        let mut volumes = locked(&self.volumes);
        if let Some(open) = volumes.get(&map).and_then(Weak::upgrade) {
            return Ok(open);
        }
        let volume = store.volume_open(name).map_err(gone)?;
        let open = Arc::new(OpenVolume::new(
            volume,
            Arc::clone(&self.holder),
            modified_ms,
        ));
        volumes.retain(|_, known| known.strong_count() > 0);
        volumes.insert(map, Arc::downgrade(&open));
        Ok(open)
    }

    fn volume_modified(&self, map: MapId) -> Arc<AtomicU64> {
        Arc::clone(locked(&self.modified_ms).entry(map).or_default())
    }

    // ---- files

    /// Opens a file. One that changed since its lookup is [`Failure::Replaced`], and the kernel
    /// looks the name up once more.
    pub(super) fn open(&self, number: u64, access: Access) -> Result<Opened> {
        let store = self.enter()?;
        let node = if access == Access::Read {
            self.node(number)?
        } else {
            self.writable(number)?
        };
        let (handle, unchanging) = match &*node {
            Node::Volume { name, map } => {
                let length_bytes = volume_as(&store, name, *map)?.length_bytes;
                if access == Access::Append {
                    return Err(Failure::FixedLength { length_bytes });
                }
                let may_write = access == Access::Write;
                (
                    Handle::Volume(VolumeHandle::new(
                        self.open_volume(&store, name, *map)?,
                        may_write,
                    )),
                    false,
                )
            }
            Node::Sealed { sealed, .. } => (
                Handle::Sealed(store.sealed_open(*sealed).map_err(gone)?),
                true,
            ),
            Node::Object {
                bucket,
                key,
                version,
            } => {
                let (object, reader) = store.object_open(bucket, key).map_err(gone)?;
                if Version::of(&object) != *version {
                    return Err(Failure::Replaced);
                }
                (Handle::Object(reader), true)
            }
            Node::Root
            | Node::Volumes
            | Node::Snapshots
            | Node::Images
            | Node::Buckets
            | Node::Directory { .. } => {
                return Err(Failure::IsADirectory);
            }
        };
        Ok(Opened {
            handle: self.keep(handle),
            unchanging,
        })
    }

    /// Fills `buffer` from `offset`, less at the end of the file.
    pub(super) fn read(&self, handle: u64, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let _entered = self.enter()?;
        match &*self.handle(handle)? {
            Handle::Volume(volume) => volume.read(offset, buffer),
            Handle::Sealed(view) => read_sealed(view, offset, buffer),
            Handle::Object(reader) => read_sealed(&**reader, offset, buffer),
            Handle::Directory(_) => Err(Failure::IsADirectory),
        }
    }

    /// Writes what fits before the end; with `sync` it is on the device on return.
    pub(super) fn write(
        &self,
        handle: u64,
        offset: u64,
        bytes: &[u8],
        sync: bool,
    ) -> Result<usize> {
        self.on_volume(handle, |volume| volume.write(offset, bytes, sync))
    }

    /// Frees a range (fallocate PUNCH_HOLE, and ZERO_RANGE that keeps the size).
    pub(super) fn punch(&self, handle: u64, offset: u64, length: u64) -> Result<()> {
        self.on_volume(handle, |volume| volume.punch(offset, length))
    }

    /// Zeroes a range within the file (fallocate ZERO_RANGE).
    pub(super) fn zero_range(&self, handle: u64, offset: u64, length: u64) -> Result<()> {
        self.on_volume(handle, |volume| volume.zero_range(offset, length))
    }

    /// SEEK_DATA and SEEK_HOLE.
    pub(super) fn seek(&self, handle: u64, offset: u64, wanted: Seek) -> Result<u64> {
        let _entered = self.enter()?;
        match &*self.handle(handle)? {
            Handle::Volume(volume) => volume.seek(offset, wanted),
            Handle::Sealed(view) => allocation::seek(view, offset, wanted),
            // Objects do not tell their holes: one run of data, the hole at its end.
            Handle::Object(reader) if offset >= reader.length_bytes() => {
                Err(Failure::NothingBehind)
            }
            Handle::Object(reader) => Ok(if wanted == Seek::Data {
                offset
            } else {
                reader.length_bytes()
            }),
            Handle::Directory(_) => Err(Failure::IsADirectory),
        }
    }

    /// Everything written to the file through this mount is on the device on return.
    pub(super) fn sync(&self, handle: u64) -> Result<()> {
        let _entered = self.enter()?;
        match &*self.handle(handle)? {
            Handle::Volume(volume) => volume.sync(),
            Handle::Sealed(_) | Handle::Object(_) | Handle::Directory(_) => Ok(()),
        }
    }

    /// A descriptor of the file is being closed.
    pub(super) fn closing(&self, handle: u64) -> Result<()> {
        let _entered = self.enter()?;
        match &*self.handle(handle)? {
            Handle::Volume(volume) => volume.closing(),
            Handle::Sealed(_) | Handle::Object(_) | Handle::Directory(_) => Ok(()),
        }
    }

    /// The last descriptor is closed.
    pub(super) fn release(&self, handle: u64) -> Result<()> {
        let _entered = self.enter()?;
        let handle = locked(&self.handles).remove(&handle);
        handle.ok_or(Failure::BadHandle)?.release()
    }

    /// Files (not directories) open now.
    pub(super) fn open_files(&self) -> usize {
        locked(&self.handles)
            .values()
            .filter(|handle| !matches!(***handle, Handle::Directory(_)))
            .count()
    }

    /// Ends the tree: closes whatever is still open, flushing what was written, and answers
    /// nothing more. The first failure is told, but every handle is closed.
    pub(super) fn end(&self) -> Result<()> {
        let store = self
            .store
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let handles = std::mem::take(&mut *locked(&self.handles));
        let released: Vec<Result<()>> = handles.values().map(|handle| handle.release()).collect();
        drop((handles, store));
        released.into_iter().collect()
    }

    // ---- directories

    pub(super) fn open_directory(&self, number: u64) -> Result<u64> {
        let _entered = self.enter()?;
        let node = self.node(number)?;
        if !node.is_directory() {
            return Err(Failure::NotADirectory);
        }
        Ok(self.keep(Handle::Directory(Mutex::new(Listing::new((*node).clone())))))
    }

    /// Shows entries from position `at` on; see [`Listing::visit`].
    pub(super) fn list(
        &self,
        handle: u64,
        at: u64,
        show: &mut dyn FnMut(u64, &Entry) -> bool,
    ) -> Result<()> {
        let store = self.enter()?.clone();
        match &*self.handle(handle)? {
            // `show` enters by itself for each entry.
            Handle::Directory(listing) => locked(listing).visit(&store, at, show),
            Handle::Volume(_) | Handle::Sealed(_) | Handle::Object(_) => {
                Err(Failure::NotADirectory)
            }
        }
    }

    // ---- handles

    fn keep(&self, handle: Handle) -> u64 {
        let number = self.next_handle.fetch_add(1, Ordering::Relaxed);
        locked(&self.handles).insert(number, Arc::new(handle));
        number
    }

    /// Lets a request in; the mount does not end before it has. Not to be nested.
    fn enter(&self) -> Result<Entered<'_>> {
        let store = self.store.read().unwrap_or_else(PoisonError::into_inner);
        if store.is_none() {
            Err(Failure::Unmounted)
        } else {
            Ok(Entered(store))
        }
    }

    fn handle(&self, handle: u64) -> Result<Arc<Handle>> {
        locked(&self.handles)
            .get(&handle)
            .cloned()
            .ok_or(Failure::BadHandle)
    }

    fn on_volume<T>(&self, handle: u64, act: impl FnOnce(&VolumeHandle) -> Result<T>) -> Result<T> {
        let _entered = self.enter()?;
        match &*self.handle(handle)? {
            Handle::Volume(volume) => act(volume),
            Handle::Sealed(_) | Handle::Object(_) | Handle::Directory(_) => Err(Failure::ReadOnly),
        }
    }
}

/// The volume `name` if it is still the one with this map.
fn volume_as(store: &Store, name: &str, map: MapId) -> Result<VolumeInfo> {
    let volume = store.volume_info(name).map_err(gone)?;
    if volume.map == map {
        Ok(volume)
    } else {
        Err(Failure::Replaced)
    }
}

fn read_sealed(file: &dyn ReadAt, offset: u64, buffer: &mut [u8]) -> Result<usize> {
    let count = within(offset, buffer.len(), file.length_bytes());
    if count > 0 {
        file.read_at(offset, &mut buffer[..count])?;
    }
    Ok(count)
}

/// What was there at the lookup and is not any more: the name must be looked up again.
fn gone(error: blockstore::Error) -> Failure {
    if error.kind() == Kind::NotFound {
        Failure::Replaced
    } else {
        error.into()
    }
}
