//! Objects that are written as files: the one edit that all handles of the mount share, and when it
//! is published.
//!
//! ```text
//!            open for writing              close, fsync: publish
//!   idle ─────────────────────▶ edited ──┐ (if it changed)
//!    ▲                            │  ▲───┘
//!    └────────────────────────────┘ last writing handle closed
//! ```
//! 1. Handles that write one object share one edit, and with it the store's one editor of that key.
//! 2. A handle opened while an object is edited here sees the writes as they come; one opened before
//!    keeps the version it was opened with (it is another inode, see [`super::tree`]).
//! 3. A name that is removed takes its edit with it: nothing is published any more.
//! 4. `order` is held by whatever opens, publishes, renames or ends an edit; `state` for moments.

use super::allocation::{self, Seek};
use super::failure::{Failure, Result};
use super::guard::Guard;
use super::inode::Version;
use super::locked;
use super::posix::{self, User};
use super::volume_file::{now_ms, within};
use access::Resource;
use blockstore::object::{Change, EditHow, Object, ObjectEdit, ObjectMeta, Precondition, ReadAt};
use blockstore::{Kind, Store};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How long an entry stays though its inode is forgotten.
const YOUNG: Duration = Duration::from_secs(2);

/// A file that is, or was, written through this mount.
pub(super) struct BucketFile {
    pub(super) id: u64,
    begun: Instant,
    order: Mutex<()>,
    state: Mutex<State>,
}

struct State {
    bucket: String,
    key: String,
    /// The name is gone, or shows something else.
    unlinked: bool,
    /// What the name shows; `None` for a file that was never published.
    known: Option<Object>,
    edit: Option<Arc<ObjectEdit>>,
    writers: usize,
    /// Handles opened for reading during an edit.
    readers: usize,
    /// Metadata as they will be published.
    user: User,
    user_changed: bool,
    modified_ns: u64,
    /// What handles read that were opened during an edit which is over.
    late: Option<Arc<dyn ReadAt>>,
}

/// What stat(2) shows of a file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shown {
    pub(super) length_bytes: u64,
    pub(super) modified_ns: u64,
    pub(super) mode: Option<u32>,
    pub(super) edited: bool,
}

impl BucketFile {
    fn new(id: u64, bucket: &str, key: &str, known: Option<Object>) -> Self {
        let user = known.as_ref().map(|object| object.meta.user.clone());
        let modified_ns = known.as_ref().map_or_else(now_ns, posix::modified_ns);
        Self {
            id,
            begun: Instant::now(),
            order: Mutex::default(),
            state: Mutex::new(State {
                bucket: bucket.into(),
                key: key.into(),
                unlinked: false,
                known,
                edit: None,
                writers: 0,
                readers: 0,
                user: user.unwrap_or_default(),
                user_changed: false,
                modified_ns,
                late: None,
            }),
        }
    }

    /// Its bucket and key.
    pub(super) fn place(&self) -> (String, String) {
        let state = locked(&self.state);
        (state.bucket.clone(), state.key.clone())
    }

    /// Whether it is open for writing.
    pub(super) fn is_edited(&self) -> bool {
        locked(&self.state).edit.is_some()
    }

    /// Whether the store has no object of it yet.
    pub(super) fn is_pending(&self) -> bool {
        let state = locked(&self.state);
        state.known.is_none() && !state.unlinked
    }

    /// Whether the store never had an object of it.
    pub(super) fn was_pending(&self) -> bool {
        locked(&self.state).known.is_none()
    }

    /// Whether `object` is what it shows.
    fn shows(&self, object: &Object) -> bool {
        let state = locked(&self.state);
        let known = state.known.as_ref();
        known.is_some_and(|known| Version::of(known) == Version::of(object))
    }

    pub(super) fn shown(&self) -> Shown {
        let state = locked(&self.state);
        let length_bytes = match (&state.edit, &state.known) {
            (Some(edit), _) => edit.length_bytes(),
            (None, Some(object)) => object.length_bytes,
            (None, None) => 0,
        };
        Shown {
            length_bytes,
            modified_ns: state.modified_ns,
            mode: posix::mode(&state.user),
            edited: state.edit.is_some(),
        }
    }

    pub(super) fn user(&self) -> User {
        locked(&self.state).user.clone()
    }

    // ---- opening and closing

    /// Begins to write, or joins those who do. What was published must still be there.
    pub(super) fn begin(&self, store: &Store, guard: &Guard, truncate: bool) -> Result<()> {
        let _one = locked(&self.order);
        let (bucket, key, known) = {
            let mut state = locked(&self.state);
            if let Some(edit) = state.edit.clone() {
                if truncate && edit.length_bytes() > 0 {
                    edit.truncate(0)?;
                    state.wrote();
                }
                state.writers += 1;
                return Ok(());
            }
            if state.unlinked {
                return Err(Failure::Replaced);
            }
            (state.bucket.clone(), state.key.clone(), state.known.clone())
        };
        let how = EditHow {
            create: known.is_none(),
            exclusive: known.is_none(),
            truncate,
        };
        let edit = store
            .object_edit(&guard.who(), &bucket, &key, how)
            .map_err(|error| match error.kind() {
                Kind::NotFound => Failure::Replaced,
                Kind::Precondition => Failure::Exists,
                _ => error.into(),
            })?;
        let found = edit.published();
        if found.as_ref().map(Version::of) != known.as_ref().map(Version::of) {
            return Err(Failure::Replaced);
        }
        let mut state = locked(&self.state);
        if truncate {
            state.wrote();
        }
        state.edit = Some(Arc::new(edit));
        state.late = None;
        state.writers = 1;
        Ok(())
    }

    /// A handle that wrote is closed for good: the last one publishes what is left and ends the edit.
    pub(super) fn end(&self, store: &Store, guard: &Guard) -> Result<()> {
        let _one = locked(&self.order);
        {
            let mut state = locked(&self.state);
            assert!(state.writers > 0, "a handle that writes is counted");
            state.writers -= 1;
            if state.writers > 0 {
                return Ok(());
            }
        }
        let published = self.publish_in_order(store, guard);
        let (edit, readers, unlinked) = {
            let mut state = locked(&self.state);
            if published.is_err() {
                state.forget_unpublished();
            }
            (state.edit.take(), state.readers, state.unlinked)
        };
        if readers > 0 {
            // They go on with what they saw last, whatever becomes of the name.
            let late = match edit {
                Some(edit) if unlinked => Some(edit as Arc<dyn ReadAt>),
                _ => self.late(store).ok(),
            };
            locked(&self.state).late = late;
        }
        published
    }

    /// Begins to read what is being written; false where nothing is.
    pub(super) fn begin_reading(&self) -> bool {
        let mut state = locked(&self.state);
        let edited = state.edit.is_some();
        state.readers += usize::from(edited);
        edited
    }

    pub(super) fn end_reading(&self) {
        let mut state = locked(&self.state);
        state.readers -= 1;
        if state.readers == 0 {
            state.late = None;
        }
    }

    // ---- bytes

    fn edit(&self) -> Result<Arc<ObjectEdit>> {
        locked(&self.state).edit.clone().ok_or(Failure::BadHandle)
    }

    pub(super) fn read(&self, store: &Store, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let edit = locked(&self.state).edit.clone();
        let reader = match edit {
            Some(edit) => edit as Arc<dyn ReadAt>,
            None => self.late(store)?,
        };
        let count = within(offset, buffer.len(), reader.length_bytes());
        if count > 0 {
            reader.read_at(offset, &mut buffer[..count])?;
        }
        Ok(count)
    }

    /// What was published last, for a handle that outlived the edit.
    fn late(&self, store: &Store) -> Result<Arc<dyn ReadAt>> {
        let (bucket, key) = {
            let state = locked(&self.state);
            if let Some(reader) = &state.late {
                return Ok(Arc::clone(reader));
            }
            (state.bucket.clone(), state.key.clone())
        };
        let (object, reader) = store.object_open(&bucket, &key)?;
        if !self.shows(&object) {
            return Err(Failure::Replaced);
        }
        locked(&self.state).late = Some(Arc::clone(&reader));
        Ok(reader)
    }

    pub(super) fn write(&self, offset: u64, bytes: &[u8]) -> Result<usize> {
        self.edit()?.write_at(offset, bytes)?;
        locked(&self.state).wrote();
        Ok(bytes.len())
    }

    pub(super) fn truncate(&self, length_bytes: u64) -> Result<()> {
        let edit = self.edit()?;
        if edit.length_bytes() != length_bytes {
            edit.truncate(length_bytes)?;
        }
        locked(&self.state).wrote();
        Ok(())
    }

    /// Zeroes a range; with `extend` also behind the end.
    pub(super) fn zero(&self, offset: u64, length: u64, extend: bool) -> Result<()> {
        let edit = self.edit()?;
        edit.zero(offset, length)?;
        if extend {
            self.reserve(offset, length)?;
        }
        locked(&self.state).wrote();
        Ok(())
    }

    /// Makes it at least so long.
    pub(super) fn reserve(&self, offset: u64, length: u64) -> Result<()> {
        let edit = self.edit()?;
        let end = offset.saturating_add(length);
        if end > edit.length_bytes() {
            edit.truncate(end)?;
            locked(&self.state).wrote();
        }
        Ok(())
    }

    pub(super) fn seek(&self, offset: u64, wanted: Seek) -> Result<u64> {
        match locked(&self.state).edit.clone() {
            Some(edit) => allocation::seek(&*edit, offset, wanted),
            None => {
                let length = self.shown().length_bytes;
                match (offset < length, wanted) {
                    (true, Seek::Data) => Ok(offset),
                    (true, Seek::Hole) => Ok(length),
                    (false, _) => Err(Failure::NothingBehind),
                }
            }
        }
    }

    // ---- metadata

    /// Changes metadata. While the file is written they are published with the bytes, otherwise now.
    pub(super) fn change(
        &self,
        store: &Store,
        guard: &Guard,
        change: &mut dyn FnMut(&mut User) -> Result<()>,
    ) -> Result<()> {
        let _one = locked(&self.order);
        {
            let mut state = locked(&self.state);
            let mut user = state.user.clone();
            change(&mut user)?;
            if user == state.user {
                return Ok(());
            }
            if let Some(told) = posix::told_ns(&user) {
                state.modified_ns = told;
            }
            state.user = user;
            state.user_changed = true;
            if state.edit.is_some() {
                return Ok(());
            }
        }
        self.publish_in_order(store, guard)
    }

    // ---- publishing

    /// Makes what was written the object's new version, on the device.
    pub(super) fn publish(&self, store: &Store, guard: &Guard) -> Result<()> {
        let _one = locked(&self.order);
        self.publish_in_order(store, guard)
    }

    fn publish_in_order(&self, store: &Store, guard: &Guard) -> Result<()> {
        let (bucket, key, known, edit, user) = {
            let state = locked(&self.state);
            let edited = state.edit.as_ref().is_some_and(|edit| edit.is_changed());
            if state.unlinked || !(edited || state.user_changed) {
                return Ok(());
            }
            (
                state.bucket.clone(),
                state.key.clone(),
                state.known.clone(),
                state.edit.clone().filter(|_| edited),
                state.user.clone(),
            )
        };
        guard.may("s3:PutObject", Resource::Object(&bucket, &key))?;
        let who = guard.who();
        let published = match (edit, &known) {
            (Some(edit), _) => {
                let known = known.map(|object| object.meta).unwrap_or_default();
                let meta = ObjectMeta {
                    etag: String::new(),
                    checksums: Default::default(),
                    user,
                    ..known
                };
                edit.publish(&who, meta)
            }
            (None, Some(known)) => {
                let change = Change {
                    user: Some(user),
                    ..Change::default()
                };
                let condition = Precondition {
                    if_match: vec![known.meta.etag.clone()],
                    ..Precondition::default()
                };
                store.object_change(&who, &bucket, &key, None, &change, &condition)
            }
            (None, None) => return Ok(()),
        };
        let object = published.map_err(|error| match error.kind() {
            // The name shows another's object now; what was written here has no place.
            Kind::Precondition | Kind::NotFound => Failure::Overtaken(error.to_string()),
            _ => error.into(),
        })?;
        let mut state = locked(&self.state);
        if posix::told_ns(&state.user).is_none() {
            state.modified_ns = posix::modified_ns(&object);
        }
        state.known = Some(object);
        state.user_changed = false;
        Ok(())
    }

    /// The name goes away, or becomes another's; returns once no publication can follow.
    fn unlink(&self) -> Result<()> {
        let _one = locked(&self.order);
        let edit = locked(&self.state).edit.clone();
        if let Some(edit) = edit {
            edit.orphan()?;
        }
        locked(&self.state).unlinked = true;
        Ok(())
    }

    /// The name has become this one.
    fn rename(&self, store: &Store, bucket: &str, key: &str) -> Result<()> {
        let _one = locked(&self.order);
        let edit = {
            let mut state = locked(&self.state);
            (state.bucket, state.key) = (bucket.into(), key.into());
            state.edit.clone()
        };
        if let Some(edit) = edit {
            edit.renamed(bucket, key)?;
        }
        let mut state = locked(&self.state);
        if state.known.is_some() {
            state.known = Some(store.object_head(bucket, key)?);
        }
        Ok(())
    }
}

impl State {
    /// Back to what the name shows; without that, the file is as good as removed.
    fn forget_unpublished(&mut self) {
        self.user_changed = false;
        match &self.known {
            Some(known) => {
                self.user = known.meta.user.clone();
                self.modified_ns = posix::modified_ns(known);
            }
            None => self.unlinked = true,
        }
    }

    /// The bytes changed: a time set before is no longer theirs.
    fn wrote(&mut self) {
        posix::set_modified(&mut self.user, None);
        self.modified_ns = now_ns();
    }
}

/// The files of a mount that are, or were, written: an entry goes when the kernel forgets its inode.
#[derive(Default)]
pub(super) struct Files {
    table: Mutex<Table>,
    last: AtomicU64,
}

#[derive(Default)]
struct Table {
    /// Young entries whose inodes were forgotten.
    forgotten: Vec<u64>,
    by_id: HashMap<u64, Arc<BucketFile>>,
    by_name: HashMap<(String, String), Arc<BucketFile>>,
}

impl Files {
    /// A new entry, which takes over the name.
    pub(super) fn add(&self, bucket: &str, key: &str, known: Option<Object>) -> Arc<BucketFile> {
        let id = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        let file = Arc::new(BucketFile::new(id, bucket, key, known));
        let mut table = locked(&self.table);
        table.by_id.insert(id, Arc::clone(&file));
        table
            .by_name
            .insert((bucket.into(), key.into()), Arc::clone(&file));
        file
    }

    pub(super) fn get(&self, id: u64) -> Option<Arc<BucketFile>> {
        locked(&self.table).by_id.get(&id).cloned()
    }

    /// The file under a name.
    pub(super) fn named(&self, bucket: &str, key: &str) -> Option<Arc<BucketFile>> {
        let table = locked(&self.table);
        if table.by_name.is_empty() {
            return None;
        }
        table.by_name.get(&(bucket.into(), key.into())).cloned()
    }

    /// The file under a name if it is being written, or shows this object.
    pub(super) fn showing(&self, object: &Object) -> Option<Arc<BucketFile>> {
        self.named(&object.bucket, &object.key)
            .filter(|file| file.is_edited() || file.shows(object))
    }

    /// Files under a prefix.
    pub(super) fn under(&self, bucket: &str, prefix: &str) -> Vec<Arc<BucketFile>> {
        let table = locked(&self.table);
        let below = table
            .by_name
            .iter()
            .filter(|((at, key), _)| at == bucket && key.starts_with(prefix));
        below.map(|(_, file)| Arc::clone(file)).collect()
    }

    /// The name of `file` is gone.
    pub(super) fn unlinked(&self, file: &BucketFile) -> Result<()> {
        file.unlink()?;
        self.unname(file);
        Ok(())
    }

    fn unname(&self, file: &BucketFile) {
        let place = file.place();
        let mut table = locked(&self.table);
        if table
            .by_name
            .get(&place)
            .is_some_and(|known| known.id == file.id)
        {
            table.by_name.remove(&place);
        }
    }

    /// The store renamed the object of `file`.
    pub(super) fn renamed(
        &self,
        store: &Store,
        file: &Arc<BucketFile>,
        bucket: &str,
        key: &str,
    ) -> Result<()> {
        self.unname(file);
        locked(&self.table)
            .by_name
            .insert((bucket.into(), key.into()), Arc::clone(file));
        file.rename(store, bucket, key)
    }

    /// The kernel knows the file's inode no more. It also forgets one that it has just looked up
    /// again, on its way to the next look: so a young entry stays for a moment (see [`Self::tidy`]).
    pub(super) fn forget(&self, id: u64) {
        let Some(file) = self.get(id) else {
            return;
        };
        if file.begun.elapsed() < YOUNG {
            locked(&self.table).forgotten.push(id);
        } else {
            self.drop_entry(&file);
        }
    }

    /// Drops entries that were forgotten young and are not any more, if they are not `held` again.
    pub(super) fn tidy(&self, held: &dyn Fn(u64) -> bool) {
        let forgotten = std::mem::take(&mut locked(&self.table).forgotten);
        for id in forgotten {
            match self.get(id) {
                Some(file) if file.begun.elapsed() < YOUNG => {
                    locked(&self.table).forgotten.push(id);
                }
                Some(file) if !held(id) => self.drop_entry(&file),
                _ => {}
            }
        }
    }

    fn drop_entry(&self, file: &BucketFile) {
        locked(&self.table).by_id.remove(&file.id);
        self.unname(file);
    }
}

fn now_ns() -> u64 {
    now_ms().saturating_mul(1_000_000)
}
