//! Attributes: what stat(2) shows, and chmod, utimens, truncate and extended attributes that change it.

use super::allocation;
use super::bucket_file::BucketFile;
use super::directory;
use super::failure::{Failure, Result};
use super::inode::{Node, Version};
use super::posix::{self, User};
use super::tree::{NAME_VALID, Tree};
use super::volume_file::volume_as;
use access::Resource;
use blockstore::object::{Change, Object, Precondition};
use blockstore::{Kind, Store};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How long the attributes of content that cannot change may be believed.
const CONTENT_VALID: Duration = Duration::from_secs(24 * 3600);
const MILLISECOND_NS: u64 = 1_000_000;

/// Attributes of a node.
#[derive(Clone, Debug)]
pub(super) struct Attributes {
    pub(super) number: u64,
    pub(super) directory: bool,
    /// Permission bits.
    pub(super) mode: u32,
    pub(super) length_bytes: u64,
    pub(super) allocated_bytes: u64,
    pub(super) modified_ns: u64,
    /// How long they may be believed; zero for what is written, and where allocation was not looked up.
    pub(super) valid: Duration,
}

/// What a setattr asks for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Changes {
    pub(super) mode: Option<u32>,
    pub(super) owner: bool,
    pub(super) length_bytes: Option<u64>,
    pub(super) modified_ns: Option<u64>,
}

impl Tree {
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
            Node::Directory { .. } | Node::Object { .. } | Node::File { .. } => {}
        }
        Ok(attributes)
    }

    /// Attributes but for the allocation of sparse files. The length is always right: the kernel
    /// believes it for an open file, however short the time we give it.
    pub(super) fn plain_attributes(
        &self,
        store: &Store,
        number: u64,
        node: &Node,
    ) -> Result<Attributes> {
        let mut mode = None;
        let (length_bytes, modified_ns, valid) = match node {
            Node::Volume { name, map } => {
                let volume = volume_as(store, name, *map)?;
                let modified_ms = self.volume_modified(*map).load(Ordering::Relaxed);
                (
                    volume.length_bytes,
                    modified_ms.max(volume.created_ms) * MILLISECOND_NS,
                    Duration::ZERO,
                )
            }
            Node::Sealed { sealed, created_ms } => (
                sealed.length_bytes,
                *created_ms * MILLISECOND_NS,
                Duration::ZERO,
            ),
            Node::Object { version, .. } => {
                mode = version.mode;
                (version.length_bytes, version.modified_ns, CONTENT_VALID)
            }
            Node::File { id } => {
                let shown = self.file(*id)?.shown();
                mode = shown.mode;
                let valid = if shown.edited {
                    Duration::ZERO
                } else {
                    NAME_VALID
                };
                (shown.length_bytes, shown.modified_ns, valid)
            }
            Node::Directory { bucket, prefix } => {
                let marker = marker(store, bucket, prefix)?;
                mode = marker
                    .as_ref()
                    .and_then(|marker| posix::mode(&marker.meta.user));
                let modified_ns = marker.as_ref().map(posix::modified_ns);
                (0, modified_ns.unwrap_or(self.mounted_ns()), NAME_VALID)
            }
            Node::Root | Node::Volumes | Node::Snapshots | Node::Images | Node::Buckets => {
                (0, self.mounted_ns(), NAME_VALID)
            }
        };
        Ok(Attributes {
            number,
            directory: node.is_directory(),
            mode: mode.unwrap_or_else(|| self.usual_mode(node)),
            length_bytes,
            allocated_bytes: length_bytes,
            modified_ns,
            valid,
        })
    }

    fn usual_mode(&self, node: &Node) -> u32 {
        let mode = match node {
            Node::Root | Node::Volumes | Node::Snapshots | Node::Images => 0o555,
            Node::Buckets | Node::Directory { .. } => posix::DIRECTORY_MODE,
            Node::Volume { .. } => 0o666,
            Node::Sealed { .. } => 0o444,
            Node::Object { .. } | Node::File { .. } => posix::FILE_MODE,
        };
        // What is in buckets keeps its mode, which programs carry to and fro.
        let mode = match node {
            Node::Buckets | Node::Directory { .. } | Node::Object { .. } | Node::File { .. } => {
                mode
            }
            _ if self.everyone => mode,
            _ => mode & 0o700,
        };
        if self.read_only { mode & 0o555 } else { mode }
    }

    // ---- changes

    /// chmod, utimens, truncate. Whose a file is cannot be changed.
    pub(super) fn change(&self, number: u64, changes: Changes) -> Result<Attributes> {
        let node = self.writable(number)?;
        if changes.owner {
            return Err(Failure::NoOwner);
        }
        match &*node {
            Node::Volume { name, map } => {
                if changes.mode.is_some() {
                    return Err(Failure::NotByFile);
                }
                let length_bytes = volume_as(&*self.enter()?, name, *map)?.length_bytes;
                if changes
                    .length_bytes
                    .is_some_and(|wanted| wanted != length_bytes)
                {
                    return Err(Failure::FixedLength { length_bytes });
                }
                if let Some(modified) = changes.modified_ns {
                    let modified_ms = modified / MILLISECOND_NS;
                    self.volume_modified(*map)
                        .store(modified_ms, Ordering::Relaxed);
                }
            }
            Node::Object { .. } | Node::File { .. } => {
                if let Some(length_bytes) = changes.length_bytes {
                    self.truncate(number, length_bytes)?;
                }
                let usual = posix::FILE_MODE;
                self.change_user(number, &mut |user| changed(user, changes, usual))?;
            }
            Node::Directory { bucket, prefix } => {
                let usual = posix::DIRECTORY_MODE;
                let mut change = |user: &mut User| changed(user, changes, usual);
                self.change_marker(&*self.enter()?, bucket, prefix, &mut change)?;
            }
            Node::Root | Node::Volumes | Node::Snapshots | Node::Images | Node::Buckets => {
                return Err(Failure::NotByFile);
            }
            Node::Sealed { .. } => return Err(Failure::ReadOnly),
        }
        self.attributes(number)
    }

    /// truncate(2) and ftruncate(2): of a file that is open for writing here, or by itself.
    fn truncate(&self, number: u64, length_bytes: u64) -> Result<()> {
        let store = self.enter()?;
        let file = self.file_for_writing(&store, number)?;
        file.begin(&store, self.guard(), length_bytes == 0)?;
        let cut = file.truncate(length_bytes);
        let ended = file.end(&store, self.guard());
        cut.and(ended)
    }

    /// Changes the metadata of a file: with its next publication, or at once.
    pub(super) fn change_user(
        &self,
        number: u64,
        change: &mut dyn FnMut(&mut User) -> Result<()>,
    ) -> Result<()> {
        let store = self.enter()?;
        let node = self.node(number)?;
        match &*node {
            Node::File { id } => self.file(*id)?.change(&store, self.guard(), change),
            Node::Object {
                bucket,
                key,
                version,
            } => {
                let object = store.object_head(bucket, key).map_err(super::tree::gone)?;
                if Version::of(&object) != *version {
                    return Err(Failure::Replaced);
                }
                if let Some(object) = self.change_object(&store, &object, change)? {
                    let changed = Node::Object {
                        bucket: bucket.clone(),
                        key: key.clone(),
                        version: Version::of(&object),
                    };
                    self.inodes.rebind(number, &node, changed);
                }
                Ok(())
            }
            Node::Directory { bucket, prefix } => {
                self.change_marker(&store, bucket, prefix, change)
            }
            _ => Err(Failure::NotByFile),
        }
    }

    fn change_object(
        &self,
        store: &Store,
        object: &Object,
        change: &mut dyn FnMut(&mut User) -> Result<()>,
    ) -> Result<Option<Object>> {
        let mut user = object.meta.user.clone();
        change(&mut user)?;
        if user == object.meta.user {
            return Ok(None);
        }
        let (bucket, key) = (&*object.bucket, &*object.key);
        self.guard()
            .may("s3:PutObject", Resource::Object(bucket, key))?;
        let change = Change {
            user: Some(user),
            ..Change::default()
        };
        let condition = Precondition {
            if_match: vec![object.meta.etag.clone()],
            ..Precondition::default()
        };
        let who = self.guard().who();
        let changed = store.object_change(&who, bucket, key, None, &change, &condition)?;
        Ok(Some(changed))
    }

    /// A directory's metadata are its marker's, which is made for it.
    fn change_marker(
        &self,
        store: &Store,
        bucket: &str,
        prefix: &str,
        change: &mut dyn FnMut(&mut User) -> Result<()>,
    ) -> Result<()> {
        // A bucket has no marker; what it is cannot be changed here, and tar(1) tries to.
        if prefix.is_empty() {
            return Ok(());
        }
        if let Some(marker) = marker(store, bucket, prefix)? {
            self.change_object(store, &marker, change)?;
            return Ok(());
        }
        let mut user = User::new();
        change(&mut user)?;
        if !user.is_empty() {
            self.put_marker(store, bucket, prefix, user)?;
        }
        Ok(())
    }

    // ---- extended attributes

    /// The user metadata of a file or directory.
    pub(super) fn user(&self, number: u64) -> Result<User> {
        let store = self.enter()?;
        match &*self.node(number)? {
            Node::File { id } => Ok(self.file(*id)?.user()),
            Node::Object { bucket, key, .. } => {
                let object = store.object_head(bucket, key).map_err(super::tree::gone)?;
                Ok(object.meta.user)
            }
            Node::Directory { bucket, prefix } => {
                let marker = marker(&store, bucket, prefix)?;
                Ok(marker.map(|marker| marker.meta.user).unwrap_or_default())
            }
            _ => Ok(User::new()),
        }
    }

    /// setxattr(2); `create` and `replace` as its flags.
    pub(super) fn set_attribute(
        &self,
        number: u64,
        name: &str,
        value: &[u8],
        (create, replace): (bool, bool),
    ) -> Result<()> {
        self.writable(number)?;
        self.change_user(number, &mut |user| {
            let known = posix::metadata_of(name).is_some_and(|name| user.contains_key(name));
            match (known, create, replace) {
                (true, true, _) => Err(Failure::Exists),
                (false, _, true) => Err(Failure::NoAttribute),
                _ => posix::set_attribute(user, name, value),
            }
        })
    }

    pub(super) fn remove_attribute(&self, number: u64, name: &str) -> Result<()> {
        self.writable(number)?;
        let name = posix::metadata_of(name).ok_or(Failure::NoAttribute)?;
        self.change_user(number, &mut |user| match user.remove(name) {
            Some(_) => Ok(()),
            None => Err(Failure::NoAttribute),
        })
    }

    pub(super) fn file(&self, id: u64) -> Result<Arc<BucketFile>> {
        self.files.get(id).ok_or(Failure::Replaced)
    }
}

fn changed(user: &mut User, changes: Changes, usual: u32) -> Result<()> {
    if let Some(mode) = changes.mode {
        posix::set_mode(user, mode, usual);
    }
    if changes.modified_ns.is_some() {
        posix::set_modified(user, changes.modified_ns);
    }
    Ok(())
}

/// The object that makes a directory even where it is empty.
pub(super) fn marker(store: &Store, bucket: &str, prefix: &str) -> Result<Option<Object>> {
    if prefix.is_empty() {
        return Ok(None);
    }
    match store.object_head(bucket, prefix) {
        Ok(marker) => Ok(Some(marker)),
        Err(error) if error.kind() == Kind::NotFound => {
            // Keys below it make it, too; without those it is gone.
            if directory::has_keys_under(store, bucket, prefix)? {
                Ok(None)
            } else {
                Err(Failure::Missing)
            }
        }
        Err(error) => Err(error.into()),
    }
}
