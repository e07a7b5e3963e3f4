//! The file system itself: names, open files. It knows the store and no protocol.
//!
//! ```text
//!   volumes/<name>.raw      read and written     one node per map
//!   snapshots/<name>.raw    read                 one node per sealed map
//!   images/<name>.raw       read                 one node per sealed map
//!   buckets/<bucket>/…      read and written     one node per version of an object, or per file
//!                                                that is written
//! ```
//! Every call may come from any thread. Locks are held over tables only, never over the store's
//! I/O on content; a directory's own lock is held while its next page is listed.
//!
//! An object's version becomes a file when it is opened for writing: its number then names the file.
//! Where programs read that version at the moment, it keeps its number, and the name is looked up
//! again for another ([`Failure::Replaced`]): so readers keep what they opened, length included.

mod handles;

use super::bucket_file::{BucketFile, Files};
use super::directory::{Entry, Listing};
use super::failure::{Failure, Result};
use super::guard::Guard;
use super::inode::{Inodes, Node, Version};
use super::lookup;
use super::stat::Attributes;
use super::volume_file::{OpenVolume, VolumeHandle, now_ms, volume_as};
use super::{MountOptions, keys, locked};
use access::Resource;
use blockstore::object::ReadAt;
use blockstore::{Kind, MapId, Store, View};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, Weak};
use std::time::Duration;

/// How long a name, or a directory's attributes, may be believed without asking again.
pub(super) const NAME_VALID: Duration = Duration::from_secs(1);

/// The tree over a store.
pub(super) struct Tree {
    /// The store until the mount is over. Requests hold it shared while they run.
    store: RwLock<Option<Store>>,
    /// Who takes the writer tokens: `mount <path>`.
    holder: Arc<str>,
    guard: Guard,
    pub(super) read_only: bool,
    /// Whether every local user may use it, or the one who mounted it only.
    pub(super) everyone: bool,
    mounted_ms: u64,
    pub(super) inodes: Inodes,
    pub(super) files: Files,
    volumes: Mutex<HashMap<MapId, Weak<OpenVolume>>>,
    /// When volumes were last written through this mount, kept while it lives.
    modified_ms: Mutex<HashMap<MapId, Arc<AtomicU64>>>,
    handles: Mutex<HashMap<u64, Arc<Handle>>>,
    /// How many handles read an unchanging version, by its number. Held where a number changes its node.
    readers: Mutex<HashMap<u64, usize>>,
    next_handle: AtomicU64,
}

/// A request under way, and the store for it.
pub(super) struct Entered<'tree>(RwLockReadGuard<'tree, Option<Store>>);

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
    /// A version, under the number it had.
    Object(u64, Arc<dyn ReadAt>),
    /// A file that is written; whether this handle may.
    File(Arc<BucketFile>, bool),
    Directory(Box<Mutex<Listing>>),
}

/// What a file is opened for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Intent {
    pub(super) write: bool,
    /// O_APPEND: never of use on a volume, which keeps its length.
    pub(super) append: bool,
    /// O_TRUNC.
    pub(super) truncate: bool,
}

impl Intent {
    pub(super) const WRITE: Self = Self {
        write: true,
        append: false,
        truncate: false,
    };
}

/// How the kernel may cache what was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Caching {
    /// Its bytes can never change under its number: as long as the kernel likes.
    Keep,
    /// They don't change while it is open.
    Fresh,
    /// Not at all.
    Direct,
}

/// A file just opened.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) handle: u64,
    pub(super) caching: Caching,
}

/// Room, for statfs.
#[derive(Debug)]
pub(super) struct Space {
    pub(super) total_bytes: u64,
    pub(super) free_bytes: u64,
    pub(super) files: u64,
}

impl Tree {
    pub(super) fn new(store: Store, guard: Guard, holder: &str, options: MountOptions) -> Self {
        Self {
            store: RwLock::new(Some(store)),
            holder: holder.into(),
            guard,
            read_only: options.read_only,
            everyone: options.allow_other,
            mounted_ms: now_ms(),
            inodes: Inodes::new(),
            files: Files::default(),
            volumes: Mutex::default(),
            modified_ms: Mutex::default(),
            handles: Mutex::default(),
            readers: Mutex::default(),
            next_handle: AtomicU64::new(1),
        }
    }

    pub(super) fn guard(&self) -> &Guard {
        &self.guard
    }

    pub(super) fn mounted_ns(&self) -> u64 {
        self.mounted_ms.saturating_mul(1_000_000)
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
        self.may_look_up(&parent, name)?;
        let found = lookup::child(&store, &self.files, &parent, name);
        drop(store);
        let node = found.map_err(|failure| match failure {
            Failure::Store(error) if matches!(error.kind(), Kind::Invalid | Kind::Conflict) => {
                Failure::Missing
            }
            other => other,
        })?;
        self.hold(&node)
    }

    fn may_look_up(&self, parent: &Node, name: &str) -> Result<()> {
        let image = || keys::name_of(name).unwrap_or(name);
        match parent {
            Node::Directory { bucket, prefix } => {
                let key = format!("{prefix}{name}");
                self.guard.may_look_up(bucket, prefix, &key)
            }
            Node::Volumes => self.guard.may("volume:Describe", Resource::Volume(image())),
            // Their nodes are the bytes: whoever has one may read them.
            Node::Snapshots => self.guard.may("snapshot:Read", Resource::Snapshot(image())),
            Node::Images => self.guard.may("image:Read", Resource::Image(image())),
            // That a bucket exists is no secret; what is in it is asked for there.
            Node::Root | Node::Buckets => Ok(()),
            Node::Volume { .. } | Node::Sealed { .. } | Node::Object { .. } | Node::File { .. } => {
                Ok(())
            }
        }
    }

    /// Holds `node` for the kernel, with the attributes that cost little to know.
    pub(super) fn hold(&self, node: &Node) -> Result<Attributes> {
        let store = self.enter()?;
        let number = self.inodes.hold(node);
        let attributes = self.plain_attributes(&store, number, node);
        if attributes.is_err() {
            self.forget(number, 1);
        }
        attributes
    }

    /// The number of `node` if it is held.
    pub(super) fn number(&self, node: &Node) -> Option<u64> {
        self.inodes.number(node)
    }

    /// Takes back `lookups` holds.
    pub(super) fn forget(&self, number: u64, lookups: u64) {
        if let Some(gone) = self.inodes.forget(number, lookups)
            && let Node::File { id } = *gone
        {
            self.files.forget(id);
        }
    }

    pub(super) fn node(&self, number: u64) -> Result<Arc<Node>> {
        self.inodes.node(number).ok_or(Failure::Replaced)
    }

    /// The node, if it can be written (or, in `volumes/`, could be).
    pub(super) fn writable(&self, number: u64) -> Result<Arc<Node>> {
        let node = self.node(number)?;
        match &*node {
            _ if self.read_only => Err(Failure::ReadOnly),
            Node::Volume { .. } | Node::Volumes | Node::Buckets => Ok(node),
            Node::Directory { .. } | Node::Object { .. } | Node::File { .. } => Ok(node),
            Node::Root | Node::Snapshots | Node::Images | Node::Sealed { .. } => {
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
    pub(super) fn open_volume(
        &self,
        store: &Store,
        name: &str,
        map: MapId,
    ) -> Result<Arc<OpenVolume>> {
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

    pub(super) fn volume_modified(&self, map: MapId) -> Arc<AtomicU64> {
        Arc::clone(locked(&self.modified_ms).entry(map).or_default())
    }

    // ---- files

    /// Opens a file. One that changed since its lookup is [`Failure::Replaced`], and the kernel
    /// looks the name up once more.
    pub(super) fn open(&self, number: u64, intent: Intent) -> Result<Opened> {
        let store = self.enter()?;
        let node = if intent.write || intent.truncate {
            self.writable(number)?
        } else {
            self.node(number)?
        };
        let (handle, caching) = match &*node {
            Node::Volume { name, map } => {
                let action = if intent.write {
                    "volume:Attach"
                } else {
                    "volume:AttachReadOnly"
                };
                self.guard.may(action, Resource::Volume(name))?;
                let length_bytes = volume_as(&store, name, *map)?.length_bytes;
                if intent.append || intent.truncate {
                    return Err(Failure::FixedLength { length_bytes });
                }
                let volume = self.open_volume(&store, name, *map)?;
                let handle = VolumeHandle::new(volume, intent.write);
                (Handle::Volume(handle), Caching::Direct)
            }
            Node::Sealed { sealed, .. } => {
                let view = store.sealed_open(*sealed).map_err(gone)?;
                (Handle::Sealed(view), Caching::Keep)
            }
            Node::Object { .. } | Node::File { .. } if intent.write || intent.truncate => {
                let file = self.file_for_writing(&store, number)?;
                let (bucket, key) = file.place();
                self.guard
                    .may("s3:PutObject", Resource::Object(&bucket, &key))?;
                file.begin(&store, &self.guard, intent.truncate)?;
                return Ok(self.keep_file(file, intent));
            }
            Node::Object {
                bucket,
                key,
                version,
            } => {
                self.guard
                    .may("s3:GetObject", Resource::Object(bucket, key))?;
                let (object, reader) = store.object_open(bucket, key).map_err(gone)?;
                if Version::of(&object) != *version {
                    return Err(Failure::Replaced);
                }
                self.count_reader(number, &node)?;
                (Handle::Object(number, reader), Caching::Keep)
            }
            Node::File { id } => {
                let file = self.file(*id)?;
                let (bucket, key) = file.place();
                self.guard
                    .may("s3:GetObject", Resource::Object(&bucket, &key))?;
                if file.begin_reading() {
                    (Handle::File(file, false), Caching::Direct)
                } else {
                    let (object, reader) = store.object_open(&bucket, &key).map_err(gone)?;
                    let same = self.files.showing(&object);
                    if same.is_none_or(|same| same.id != file.id) {
                        return Err(Failure::Replaced);
                    }
                    self.count_reader(number, &node)?;
                    (Handle::Object(number, reader), Caching::Fresh)
                }
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
            caching,
        })
    }

    /// One more handle reads the version that `number` names.
    fn count_reader(&self, number: u64, node: &Node) -> Result<()> {
        let mut readers = locked(&self.readers);
        if *self.node(number)? != *node {
            return Err(Failure::Replaced);
        }
        *readers.entry(number).or_default() += 1;
        Ok(())
    }

    /// The file that `number` is, or becomes. Replaced where the name must be looked up again for it.
    pub(super) fn file_for_writing(&self, store: &Store, number: u64) -> Result<Arc<BucketFile>> {
        let node = self.node(number)?;
        let (bucket, key) = match &*node {
            Node::File { id } => {
                let file = self.file(*id)?;
                if file.is_edited() || !locked(&self.readers).contains_key(&number) {
                    return Ok(file);
                }
                file.place()
            }
            Node::Object { bucket, key, .. } => (bucket.clone(), key.clone()),
            Node::Volume { .. } | Node::Sealed { .. } => return Err(Failure::ReadOnly),
            _ => return Err(Failure::IsADirectory),
        };
        if let Some(other) = self.files.named(&bucket, &key)
            && *node != (Node::File { id: other.id })
        {
            let shown = store.object_head(&bucket, &key).map_err(gone)?;
            if self.files.showing(&shown).is_some() {
                return Err(Failure::Replaced);
            }
        }
        let object = store.object_head(&bucket, &key).map_err(gone)?;
        if let Node::Object { version, .. } = &*node
            && Version::of(&object) != *version
        {
            return Err(Failure::Replaced);
        }
        self.files
            .tidy(&|id| self.inodes.number(&Node::File { id }).is_some());
        let readers = locked(&self.readers);
        let file = self.files.add(&bucket, &key, Some(object));
        let own = Node::File { id: file.id };
        if !readers.contains_key(&number) && self.inodes.rebind(number, &node, own) {
            return Ok(file);
        }
        Err(Failure::Replaced)
    }

    /// A handle on a file that was just begun.
    pub(super) fn keep_file(&self, file: Arc<BucketFile>, intent: Intent) -> Opened {
        debug_assert!(intent.write || intent.truncate, "it counts as a writer");
        Opened {
            handle: self.keep(Handle::File(file, true)),
            caching: Caching::Direct,
        }
    }

    /// Files (not directories) open now.
    pub(super) fn open_files(&self) -> usize {
        locked(&self.handles)
            .values()
            .filter(|handle| !matches!(***handle, Handle::Directory(_)))
            .count()
    }

    /// Ends the tree: closes whatever is still open, flushing or publishing what was written, and
    /// answers nothing more. The first failure is told, but every handle is closed.
    pub(super) fn end(&self) -> Result<()> {
        let store = self
            .store
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let handles = std::mem::take(&mut *locked(&self.handles));
        let released: Vec<Result<()>> = match &store {
            Some(store) => handles
                .values()
                .map(|handle| self.let_go(store, handle))
                .collect(),
            None => Vec::new(),
        };
        drop((handles, store));
        released.into_iter().collect()
    }

    // ---- directories

    pub(super) fn open_directory(&self, number: u64) -> Result<u64> {
        let _entered = self.enter()?;
        let node = self.node(number)?;
        match &*node {
            Node::Directory { bucket, prefix } => self.guard.may_list(bucket, prefix)?,
            Node::Buckets => self.guard.may("s3:ListAllMyBuckets", Resource::All)?,
            Node::Volumes => self.guard.may("volume:List", Resource::All)?,
            Node::Snapshots => self.guard.may("snapshot:List", Resource::All)?,
            Node::Images => self.guard.may("image:List", Resource::All)?,
            Node::Root => {}
            Node::Volume { .. } | Node::Sealed { .. } | Node::Object { .. } | Node::File { .. } => {
                return Err(Failure::NotADirectory);
            }
        }
        Ok(
            self.keep(Handle::Directory(Box::new(Mutex::new(Listing::new(
                (*node).clone(),
            ))))),
        )
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
            Handle::Directory(listing) => {
                let mut listing = locked(listing);
                // What may not be read here has no node either: that is what opening goes by.
                let directory = listing.directory().clone();
                let hidden = |entry: &Entry| {
                    matches!(entry.node, Node::Sealed { .. })
                        && self.may_look_up(&directory, &entry.name).is_err()
                };
                listing.visit(&store, &self.files, at, &mut |position, entry| {
                    !hidden(entry) && show(position, entry)
                })
            }
            Handle::Volume(_) | Handle::Sealed(_) | Handle::Object(..) | Handle::File(..) => {
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
    pub(super) fn enter(&self) -> Result<Entered<'_>> {
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
}

/// What was there at the lookup and is not any more: the name must be looked up again.
pub(super) fn gone(error: blockstore::Error) -> Failure {
    if error.kind() == Kind::NotFound {
        Failure::Replaced
    } else {
        error.into()
    }
}
