//! FUSE: turns the kernel's requests into calls on the [`Tree`], and answers. Nothing is decided
//! here, and nothing else in the crate names `fuser`.
//!
//! Requests are read by [`REQUEST_THREADS`] threads, each on its own clone of the device
//! (FUSE_DEV_IOC_CLONE), and answered by the thread that read them. The kernel holds back what
//! exceeds them; there is no queue of ours.
//!
//! Caching, so that another door's view agrees:
//! - Volumes, and files while they are written, bypass the page cache (FOPEN_DIRECT_IO): a read(2) is
//!   the present state, a write(2) is in the store when it returns. Shared writable mappings are
//!   refused by the kernel (ENODEV); private mappings and sendfile(2) see the state at the last open(2).
//! - Everything else cannot change under its inode number (see [`super::inode`]), so the kernel
//!   keeps its pages for as long as it likes. Of a file that was written here it begins anew with
//!   each open(2).
//! - Names are believed for a second, attributes of what is written not at all.

mod requests;

use super::MountOptions;
use super::directory::Entry;
use super::failure::{Failure, Result};
use super::stat::Attributes;
use super::tree::{Caching, Intent, Tree};
use fuser::{
    Config, Errno, FileAttr, FileType, FopenFlags, INodeNo, InitFlags, KernelConfig, OpenAccMode,
    OpenFlags, ReplyAttr, ReplyEmpty, SessionACL,
};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Threads that read requests and answer them.
const REQUEST_THREADS: usize = 16;
/// Largest read or write of one request.
const REQUEST_BYTES_MAX: u32 = 1 << 20;
/// Background requests (read-ahead, asynchronous direct I/O) the kernel may have under way.
const BACKGROUND_MAX: u16 = 64;
/// What stat(2) recommends as the size of a read.
const IO_BYTES: u32 = 128 << 10;
/// The inode number of an entry that has none yet (libfuse's FUSE_UNKNOWN_INO).
const UNKNOWN: INodeNo = INodeNo(0xffff_ffff);
/// `.` and `..` come before the entries of the tree.
const DOTS: u64 = 2;

/// A session with the kernel, not yet served.
pub(super) struct Session(fuser::Session<Adapter>);

impl Session {
    /// Shakes hands with the kernel over `device`, which somebody has mounted.
    pub(super) fn begin(
        tree: Arc<Tree>,
        device: OwnedFd,
        options: &MountOptions,
    ) -> std::io::Result<Self> {
        let acl = if options.allow_other {
            SessionACL::All
        } else {
            SessionACL::Owner
        };
        let mut config = Config::default();
        config.acl = acl;
        config.n_threads = Some(REQUEST_THREADS);
        config.clone_fd = true;
        let adapter = Adapter {
            tree,
            uid: rustix::process::getuid().as_raw(),
            gid: rustix::process::getgid().as_raw(),
        };
        Ok(Self(fuser::Session::from_fd(adapter, device, acl, config)?))
    }

    /// Serves until the file system is unmounted.
    pub(super) fn run(self) -> std::io::Result<()> {
        self.0.run()
    }
}

struct Adapter {
    tree: Arc<Tree>,
    uid: u32,
    gid: u32,
}

impl Adapter {
    fn attr(&self, attributes: &Attributes) -> FileAttr {
        let time = UNIX_EPOCH + Duration::from_nanos(attributes.modified_ns);
        FileAttr {
            ino: INodeNo(attributes.number),
            size: attributes.length_bytes,
            blocks: attributes.allocated_bytes.div_ceil(512),
            atime: time,
            mtime: time,
            ctime: time,
            crtime: time,
            kind: if attributes.directory {
                FileType::Directory
            } else {
                FileType::RegularFile
            },
            perm: u16::try_from(attributes.mode).unwrap_or(0),
            // One link on directories too: find(1) takes two as "no directories below".
            nlink: 1,
            uid: self.uid,
            gid: self.gid,
            rdev: 0,
            blksize: IO_BYTES,
            flags: 0,
        }
    }

    fn answer_attr(&self, what: &'static str, attributes: Result<Attributes>, reply: ReplyAttr) {
        match attributes {
            Ok(attributes) => reply.attr(&attributes.valid, &self.attr(&attributes)),
            Err(failure) => reply.error(errno(what, &failure)),
        }
    }

    /// Whether an owner asked for is another than everything here has.
    fn is_other(&self, uid: Option<u32>, gid: Option<u32>) -> bool {
        uid.is_some_and(|uid| uid != self.uid) || gid.is_some_and(|gid| gid != self.gid)
    }
}

fn answer(what: &'static str, result: Result<()>, reply: ReplyEmpty) {
    match result {
        Ok(()) => reply.ok(),
        Err(failure) => reply.error(errno(what, &failure)),
    }
}

/// The failure's errno. This is where it is handled, so this is where it is logged.
fn errno(what: &'static str, failure: &Failure) -> Errno {
    let errno = failure.errno();
    if failure.is_alarming() {
        tracing::error!(what, %errno, "{}", failure.chain());
    } else if failure.is_missing() {
        tracing::trace!(what, %errno, "{}", failure.chain());
    } else {
        tracing::debug!(what, %errno, "{}", failure.chain());
    }
    Errno::from_i32(errno.raw_os_error())
}

/// What we ask of the kernel. Each setter answers with the nearest it can do; a kernel without a
/// capability goes on without.
fn ask(config: &mut KernelConfig) {
    let _ = config.set_max_write(REQUEST_BYTES_MAX);
    if let Err(nearest) = config.set_max_readahead(REQUEST_BYTES_MAX) {
        let _ = config.set_max_readahead(nearest);
    }
    let _ = config.set_max_background(BACKGROUND_MAX);
    for wanted in [
        InitFlags::FUSE_PARALLEL_DIROPS,
        InitFlags::FUSE_DO_READDIRPLUS,
        InitFlags::FUSE_READDIRPLUS_AUTO,
        InitFlags::FUSE_ASYNC_DIO,
        // A file that is emptied as it is opened is never copied.
        InitFlags::FUSE_ATOMIC_O_TRUNC,
        // There are no set-id bits to take away, so a write need not ask for them.
        InitFlags::FUSE_HANDLE_KILLPRIV_V2,
    ] {
        let _ = config.add_capabilities(wanted);
    }
}

fn intent(flags: OpenFlags) -> Intent {
    Intent {
        write: flags.acc_mode() != OpenAccMode::O_RDONLY,
        append: flags.0 & libc::O_APPEND != 0,
        truncate: flags.0 & libc::O_TRUNC != 0,
    }
}

fn caching(caching: Caching) -> FopenFlags {
    match caching {
        Caching::Keep => FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH,
        Caching::Fresh => FopenFlags::FOPEN_NOFLUSH,
        Caching::Direct => FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES,
    }
}

fn kind(entry: &Entry) -> FileType {
    if entry.node.is_directory() {
        FileType::Directory
    } else {
        FileType::RegularFile
    }
}

fn since_epoch_ns(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
