//! The FUSE mount: volumes, snapshots, images and buckets as files and directories.
//!
//! What it promises:
//!
//! 1. `volumes/<name>.raw` is the volume: a sparse file of its length, also after a resize. A read
//!    shows what the store holds now; a write is in the store when it returns, on the device when
//!    a later fsync or close returns. Another door sees the same bytes.
//! 2. The mount takes a volume's writer token at its first write, as `mount <path>`. While another
//!    holds it, a write fails with EBUSY. The token goes back, after a flush, when the last file
//!    that wrote is closed.
//! 3. A volume keeps its length: truncation to another length is refused (EPERM), a write behind
//!    the end too (EFBIG). Volumes are made and removed by commands, not as files (EPERM).
//! 4. PUNCH_HOLE and ZERO_RANGE free what lies under whole blocks; SEEK_DATA, SEEK_HOLE and
//!    `st_blocks` tell what is stored.
//! 5. `snapshots/` and `images/` are read-only (EROFS). An open file shows one version of its object,
//!    snapshot or image until it is closed, whatever happens to the name.
//! 6. Objects are written as files: see docs/SEMANTICS.md, "Files in buckets". Opening one for writing
//!    copies nothing, fsync(2) and close(2) publish a version, a second mount or door gets EBUSY.
//! 7. `buckets/<bucket>/` shows every key that can be a path (`keys` has the rule); listing holds
//!    one page in memory, however many keys there are.
//! 8. Unmounting, also by dropping [`Mounted`], flushes and gives back all tokens; the mount then
//!    holds no store any more. Files still open are cut off. The mount of a server that died is taken away by the next one.
//!
//! ```text
//!   kernel ── adapter (fuser) ── tree ─┬─ inode              numbers of nodes
//!                                      ├─ lookup, directory  names, pages    ── keys
//!                                      ├─ names              create … rename
//!                                      ├─ stat               attributes      ── posix
//!                                      ├─ bucket_file        edits of objects
//!                                      ├─ volume_file        writer token    ── allocation
//!                                      └─ guard              may they? (the access crate)
//!   mountpoint, device: the directory and /dev/fuse      failure: refusals and their errno
//! ```

mod adapter;
mod allocation;
mod bucket_file;
mod device;
mod directory;
mod failure;
mod guard;
mod inode;
mod keys;
mod lookup;
mod mountpoint;
mod names;
mod posix;
mod stat;
mod tree;
mod volume_file;

pub use mountpoint::MountError;

use access::{Access, Caller};
use blockstore::Store;
use guard::Guard;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tree::Tree;

/// The source field of our lines in the mount table.
const SOURCE: &str = "infall";
/// How long the kernel gets to end a connection that was unmounted. It does not end one that it
/// may not abort while files are open, or that another mount namespace has a copy of.
const KERNEL_PATIENCE: Duration = Duration::from_millis(500);

/// How a mount is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MountOptions {
    /// Every local user may use the mount, and write volumes through it; otherwise only the one
    /// who mounted it, not even root. QEMU under libvirt runs as a user of its own and needs this.
    pub allow_other: bool,
    /// Nothing can be written.
    pub read_only: bool,
}

/// A live mount; dropping it unmounts.
#[must_use = "dropping it unmounts"]
pub struct Mounted {
    path: PathBuf,
    tree: Arc<Tree>,
    /// Serves requests; ends with the mount. `None` once it was waited for.
    server: Option<JoinHandle<Served>>,
}

/// Mounts the store on an empty directory, for `caller`: what they may not do is refused there, too.
pub fn mount(
    store: Store,
    access: Access,
    caller: Caller,
    mountpoint: &Path,
    options: MountOptions,
) -> Result<Mounted, MountError> {
    let path = mountpoint::prepare(mountpoint)?;
    let holder = format!("mount {}", path.display());
    let tree = Arc::new(Tree::new(
        store,
        Guard::new(access, caller),
        &holder,
        options,
    ));
    let device = device::attach(&path, &options)?;
    let server = adapter::Session::begin(Arc::clone(&tree), device, &options).and_then(|session| {
        let tree = Arc::clone(&tree);
        let server = std::thread::Builder::new().name("mount".into());
        server.spawn(move || serve(session, &tree))
    });
    let server = server.map_err(|error| {
        mountpoint::take_back(&path);
        MountError::system("serve", &path, error)
    })?;
    let mounted = Mounted {
        path,
        tree,
        server: Some(server),
    };
    // The first answer comes through the kernel: when this returns, so does everybody else's.
    std::fs::metadata(&mounted.path)
        .map_err(|error| MountError::system("reach", &mounted.path, error))?;
    tracing::info!(mountpoint = %mounted.path.display(), ?options, "mounted");
    Ok(mounted)
}

/// How serving ended, and how the last flush did.
type Served = (std::io::Result<()>, failure::Result<()>);

fn serve(session: adapter::Session, tree: &Tree) -> Served {
    let ended = session.run();
    (ended, tree.end())
}

impl Mounted {
    /// Where it is mounted, as an absolute path.
    pub fn mountpoint(&self) -> &Path {
        &self.path
    }

    /// Files that programs have open in it; unmounting cuts them off.
    pub fn open_files(&self) -> usize {
        self.tree.open_files()
    }

    /// False once somebody else has unmounted it.
    pub fn is_live(&self) -> bool {
        self.server
            .as_ref()
            .is_some_and(|server| !server.is_finished())
    }

    /// Unmounts: takes the name away, cuts off files still open (ENOTCONN from then on), flushes
    /// what was written and gives the writer tokens back.
    pub fn unmount(mut self) -> Result<(), MountError> {
        self.end()
    }

    fn end(&mut self) -> Result<(), MountError> {
        let Some(server) = self.server.take() else {
            return Ok(());
        };
        if !server.is_finished() {
            mountpoint::end(&self.path)?;
        }
        let deadline = Instant::now() + KERNEL_PATIENCE;
        while !server.is_finished() {
            if Instant::now() > deadline {
                // The kernel goes on asking for files that are open, and the server to tell of the
                // end, until they are closed. The tree is over now.
                return self.unflushed(self.tree.end());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        let panicked = |_| Err(std::io::Error::other("the serving thread panicked"));
        let (served, flushed) = server
            .join()
            .unwrap_or_else(|panic| (panicked(panic), self.tree.end()));
        self.unflushed(flushed)?;
        served.map_err(|error| MountError::system("serve", &self.path, error))
    }

    fn unflushed(&self, flushed: failure::Result<()>) -> Result<(), MountError> {
        tracing::info!(mountpoint = %self.path.display(), "unmounted");
        flushed.map_err(|failure| MountError::Unflushed {
            path: self.path.clone(),
            reason: failure.chain(),
        })
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            tracing::error!(mountpoint = %self.path.display(), error = &error as &dyn std::error::Error, "unmounting");
        }
    }
}

impl std::fmt::Debug for Mounted {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Mounted")
            .field("path", &self.path)
            .field("live", &self.is_live())
            .finish_non_exhaustive()
    }
}

/// The tables under these locks are whole after every statement, so a panic elsewhere spoils nothing.
fn locked<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
