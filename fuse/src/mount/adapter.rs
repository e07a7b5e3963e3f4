//! FUSE: turns the kernel's requests into calls on the [`Tree`], and answers. Nothing is decided
//! here, and nothing else in the crate names `fuser`.
//!
//! Requests are read by [`REQUEST_THREADS`] threads, each on its own clone of the device
//! (FUSE_DEV_IOC_CLONE), and answered by the thread that read them. The kernel holds back what
//! exceeds them; there is no queue of ours.
//!
//! Caching, so that another door's view agrees:
//! - Volumes bypass the page cache (FOPEN_DIRECT_IO): a read(2) is the store's present state, a
//!   write(2) is in the store when it returns. Shared writable mappings are refused by the kernel
//!   (ENODEV); private mappings and sendfile(2) see the state at the last open(2).
//! - Everything else cannot change under its inode number (see [`super::inode`]), so the kernel
//!   keeps its pages for as long as it likes.
//! - Names are believed for a second, attributes of volumes not at all.

use super::MountOptions;
use super::allocation::Seek;
use super::directory::Entry;
use super::failure::{Failure, Result};
use super::tree::{Access, Attributes, NAME_VALID, Tree};
use super::volume_file::now_ms;
use fuser::{
    AccessFlags, BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem,
    FopenFlags, Generation, INodeNo, InitFlags, KernelConfig, LockOwner, OpenAccMode, OpenFlags,
    RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty,
    ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, Request, SessionACL, TimeOrNow,
    WriteFlags,
};
use std::cell::RefCell;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::path::Path;
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
            everyone: options.allow_other,
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
    /// Whether every local user may use it, or the one who mounted it only.
    everyone: bool,
}

thread_local! {
    /// Bytes on their way to the kernel: one buffer for each request thread.
    static READ_BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Adapter {
    fn attr(&self, attributes: &Attributes) -> FileAttr {
        let time = UNIX_EPOCH + Duration::from_millis(attributes.modified_ms);
        let mode = match (attributes.directory, attributes.writable) {
            (true, _) => 0o555,
            (false, true) => 0o666,
            (false, false) => 0o444,
        };
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
            perm: if self.everyone { mode } else { mode & 0o700 },
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

    fn refuse_change(&self, what: &'static str, parent: INodeNo) -> Errno {
        errno(what, &self.tree.refuse_change(parent.0))
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

impl Filesystem for Adapter {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        // Each setter answers with the nearest it can do; a kernel without a capability goes on without.
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
        ] {
            let _ = config.add_capabilities(wanted);
        }
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.tree.lookup(parent.0, name) {
            Ok(attributes) => {
                let attr = self.attr(&attributes);
                reply.entry_with_ttls(&attributes.valid, &NAME_VALID, &attr, Generation(0));
            }
            Err(failure) => reply.error(errno("lookup", &failure)),
        }
    }

    fn forget(&self, _req: &Request, ino: INodeNo, nlookup: u64) {
        self.tree.forget(ino.0, nlookup);
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        self.answer_attr("getattr", self.tree.attributes(ino.0), reply);
    }

    fn setattr(
        &self,
        _req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let set = || {
            if mode.is_some() || uid.is_some() || gid.is_some() {
                self.tree.writable(ino.0)?;
                return Err(Failure::NotByFile);
            }
            if let Some(length) = size {
                self.tree.set_length(ino.0, length)?;
            }
            match mtime {
                Some(TimeOrNow::Now) => self.tree.set_modified(ino.0, now_ms())?,
                Some(TimeOrNow::SpecificTime(time)) => {
                    self.tree.set_modified(ino.0, since_epoch_ms(time))?;
                }
                None => {}
            }
            self.tree.attributes(ino.0)
        };
        self.answer_attr("setattr", set(), reply);
    }

    fn access(&self, _req: &Request, ino: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        let allowed = if mask.contains(AccessFlags::W_OK) {
            self.tree.writable(ino.0).map(drop)
        } else {
            Ok(())
        };
        answer("access", allowed, reply);
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        const BLOCK: u32 = blockstore::BLOCK as u32;
        match self.tree.space() {
            Ok(space) => {
                let free = space.free_bytes / u64::from(BLOCK);
                reply.statfs(
                    space.total_bytes / u64::from(BLOCK),
                    free,
                    free,
                    space.files,
                    0,
                    BLOCK,
                    255,
                    BLOCK,
                );
            }
            Err(failure) => reply.error(errno("statfs", &failure)),
        }
    }

    // ---- files

    fn open(&self, _req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let access = match flags.acc_mode() {
            OpenAccMode::O_RDONLY => Access::Read,
            _ if flags.0 & libc::O_APPEND != 0 => Access::Append,
            OpenAccMode::O_WRONLY | OpenAccMode::O_RDWR => Access::Write,
        };
        match self.tree.open(ino.0, access) {
            Ok(opened) => {
                let caching = if opened.unchanging {
                    FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH
                } else {
                    FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES
                };
                reply.opened(FileHandle(opened.handle), caching);
            }
            Err(failure) => reply.error(errno("open", &failure)),
        }
    }

    fn read(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        READ_BUFFER.with_borrow_mut(|buffer| {
            let size = size as usize;
            if buffer.len() < size {
                buffer.resize(size, 0);
            }
            match self.tree.read(fh.0, offset, &mut buffer[..size]) {
                Ok(count) => reply.data(&buffer[..count]),
                Err(failure) => reply.error(errno("read", &failure)),
            }
        });
    }

    fn write(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        // The kernel hands O_SYNC, O_DSYNC and RWF_DSYNC on with each direct write.
        let sync = flags.0 & (libc::O_SYNC | libc::O_DSYNC) != 0;
        match self.tree.write(fh.0, offset, data, sync) {
            Ok(count) => reply.written(u32::try_from(count).unwrap_or(u32::MAX)),
            Err(failure) => reply.error(errno("write", &failure)),
        }
    }

    fn fallocate(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let done = match mode {
            PUNCH_HOLE | ZERO_RANGE_KEEP_SIZE => self.tree.punch(fh.0, offset, length),
            libc::FALLOC_FL_ZERO_RANGE => self.tree.zero_range(fh.0, offset, length),
            _ => Err(Failure::Unsupported(
                "volumes are thin: of fallocate only PUNCH_HOLE and ZERO_RANGE are done",
            )),
        };
        answer("fallocate", done, reply);
    }

    fn lseek(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let wanted = match whence {
            libc::SEEK_DATA => Seek::Data,
            libc::SEEK_HOLE => Seek::Hole,
            _ => return reply.error(Errno::EINVAL),
        };
        let found = u64::try_from(offset).map_err(|_| Failure::NothingBehind);
        match found.and_then(|offset| self.tree.seek(fh.0, offset, wanted)) {
            Ok(found) => reply.offset(i64::try_from(found).unwrap_or(i64::MAX)),
            Err(failure) => reply.error(errno("lseek", &failure)),
        }
    }

    fn fsync(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        answer("fsync", self.tree.sync(fh.0), reply);
    }

    fn flush(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        answer("close", self.tree.closing(fh.0), reply);
    }

    fn release(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        answer("release", self.tree.release(fh.0), reply);
    }

    // ---- directories

    fn opendir(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        match self.tree.open_directory(ino.0) {
            Ok(handle) => reply.opened(FileHandle(handle), FopenFlags::empty()),
            Err(failure) => reply.error(errno("opendir", &failure)),
        }
    }

    fn readdir(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        if offset < 1 && reply.add(ino, 1, FileType::Directory, ".") {
            return reply.ok();
        }
        if offset < DOTS && reply.add(UNKNOWN, DOTS, FileType::Directory, "..") {
            return reply.ok();
        }
        let listed = self
            .tree
            .list(fh.0, offset.saturating_sub(DOTS), &mut |position, entry| {
                let number = self.tree.number(&entry.node).map_or(UNKNOWN, INodeNo);
                reply.add(number, position + DOTS, kind(entry), &entry.name)
            });
        match listed {
            Ok(()) => reply.ok(),
            Err(failure) => reply.error(errno("readdir", &failure)),
        }
    }

    fn readdirplus(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        if offset < DOTS {
            // The kernel takes no attributes and holds nothing for these two.
            let own = match self.tree.attributes(ino.0) {
                Ok(attributes) => self.attr(&attributes),
                Err(failure) => return reply.error(errno("readdirplus", &failure)),
            };
            if offset < 1 && reply.add(ino, 1, ".", &Duration::ZERO, &own, Generation(0)) {
                return reply.ok();
            }
            if reply.add(UNKNOWN, DOTS, "..", &Duration::ZERO, &own, Generation(0)) {
                return reply.ok();
            }
        }
        let listed = self
            .tree
            .list(fh.0, offset.saturating_sub(DOTS), &mut |position, entry| {
                // Removed since the page was read: it is no entry any more.
                let Ok(attributes) = self.tree.hold(&entry.node) else {
                    return false;
                };
                let valid = NAME_VALID.min(attributes.valid);
                let number = INodeNo(attributes.number);
                let full = reply.add(
                    number,
                    position + DOTS,
                    &entry.name,
                    &valid,
                    &self.attr(&attributes),
                    Generation(0),
                );
                if full {
                    self.tree.forget(attributes.number, 1);
                }
                full
            });
        match listed {
            Ok(()) => reply.ok(),
            Err(failure) => reply.error(errno("readdirplus", &failure)),
        }
    }

    fn releasedir(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        answer("releasedir", self.tree.release(fh.0), reply);
    }

    fn fsyncdir(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        // Names change by commands only, and those are durable when they return.
        reply.ok();
    }

    // ---- changes of names: none

    fn create(
        &self,
        _req: &Request,
        parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        reply.error(self.refuse_change("create", parent));
    }

    fn mknod(
        &self,
        _req: &Request,
        parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        _rdev: u32,
        reply: ReplyEntry,
    ) {
        reply.error(self.refuse_change("mknod", parent));
    }

    fn mkdir(
        &self,
        _req: &Request,
        parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        reply.error(self.refuse_change("mkdir", parent));
    }

    fn unlink(&self, _req: &Request, parent: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(self.refuse_change("unlink", parent));
    }

    fn rmdir(&self, _req: &Request, parent: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(self.refuse_change("rmdir", parent));
    }

    fn symlink(
        &self,
        _req: &Request,
        parent: INodeNo,
        _name: &OsStr,
        _target: &Path,
        reply: ReplyEntry,
    ) {
        reply.error(self.refuse_change("symlink", parent));
    }

    fn link(
        &self,
        _req: &Request,
        _ino: INodeNo,
        parent: INodeNo,
        _name: &OsStr,
        reply: ReplyEntry,
    ) {
        reply.error(self.refuse_change("link", parent));
    }

    fn rename(
        &self,
        _req: &Request,
        parent: INodeNo,
        _name: &OsStr,
        _newparent: INodeNo,
        _newname: &OsStr,
        _flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        reply.error(self.refuse_change("rename", parent));
    }
}

const PUNCH_HOLE: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
const ZERO_RANGE_KEEP_SIZE: i32 = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;

fn kind(entry: &Entry) -> FileType {
    if entry.node.is_directory() {
        FileType::Directory
    } else {
        FileType::RegularFile
    }
}

fn since_epoch_ms(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
