//! The requests of the kernel, one function each: unpack, call the [`Tree`](super::Tree), answer.

use super::{Adapter, DOTS, UNKNOWN, answer, ask, caching, errno, intent, kind, since_epoch_ns};
use crate::mount::allocation::Seek;
use crate::mount::failure::{Failure, Result};
use crate::mount::posix;
use crate::mount::stat::{Attributes, Changes};
use crate::mount::tree::{Intent, NAME_VALID};
use fuser::{
    AccessFlags, BsdFileFlags, Errno, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs,
    ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use std::cell::RefCell;
use std::ffi::OsStr;
use std::path::Path;
use std::time::{Duration, SystemTime};

thread_local! {
    /// Bytes on their way to the kernel: one buffer for each request thread.
    static READ_BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

const PUNCH_HOLE: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
const ZERO_RANGE_KEEP_SIZE: i32 = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;

impl Filesystem for Adapter {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        ask(config);
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.answer_entry("lookup", self.tree.lookup(parent.0, name), reply);
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
        let modified_ns = mtime.map(|time| match time {
            TimeOrNow::Now => since_epoch_ns(SystemTime::now()),
            TimeOrNow::SpecificTime(time) => since_epoch_ns(time),
        });
        let changes = Changes {
            mode,
            owner: self.is_other(uid, gid),
            length_bytes: size,
            modified_ns,
        };
        self.answer_attr("setattr", self.tree.change(ino.0, changes), reply);
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
        match self.tree.open(ino.0, intent(flags)) {
            Ok(opened) => reply.opened(FileHandle(opened.handle), caching(opened.caching)),
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
            0 => self.tree.reserve(fh.0, offset, length, false),
            libc::FALLOC_FL_KEEP_SIZE => self.tree.reserve(fh.0, offset, length, true),
            _ => Err(Failure::Unsupported(
                "of fallocate only PUNCH_HOLE, ZERO_RANGE and plain reservation are done",
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

    // ---- changes of names

    fn create(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let wanted = Intent {
            write: true,
            ..intent(OpenFlags(flags))
        };
        let exclusive = flags & libc::O_EXCL != 0;
        match self.tree.create(parent.0, name, mode, exclusive, wanted) {
            Ok((attributes, opened)) => reply.created(
                &NAME_VALID.min(attributes.valid),
                &self.attr(&attributes),
                Generation(0),
                FileHandle(opened.handle),
                caching(opened.caching),
            ),
            Err(failure) => reply.error(errno("create", &failure)),
        }
    }

    fn mknod(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        _rdev: u32,
        reply: ReplyEntry,
    ) {
        let made = match mode & libc::S_IFMT {
            libc::S_IFREG | 0 => self.tree.make_file(parent.0, name, mode),
            _ => Err(Failure::NoSuchKind),
        };
        self.answer_entry("mknod", made, reply);
    }

    fn mkdir(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        let made = self.tree.make_directory(parent.0, name, mode);
        self.answer_entry("mkdir", made, reply);
    }

    fn unlink(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer("unlink", self.tree.unlink(parent.0, name), reply);
    }

    fn rmdir(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer("rmdir", self.tree.remove_directory(parent.0, name), reply);
    }

    fn rename(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let keep = flags.contains(RenameFlags::RENAME_NOREPLACE);
        if flags.intersects(RenameFlags::RENAME_NOREPLACE.complement()) {
            return reply.error(Errno::EINVAL);
        }
        let renamed = self
            .tree
            .rename((parent.0, name), (newparent.0, newname), keep);
        answer("rename", renamed, reply);
    }

    fn symlink(
        &self,
        _req: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _target: &Path,
        reply: ReplyEntry,
    ) {
        reply.error(errno("symlink", &Failure::NoSuchKind));
    }

    fn link(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _parent: INodeNo,
        _name: &OsStr,
        reply: ReplyEntry,
    ) {
        reply.error(errno("link", &Failure::NoSuchKind));
    }

    // ---- extended attributes

    fn setxattr(
        &self,
        _req: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let how = (
            flags & libc::XATTR_CREATE != 0,
            flags & libc::XATTR_REPLACE != 0,
        );
        let name = name.to_str().unwrap_or_default();
        let set = self.tree.set_attribute(ino.0, name, value, how);
        answer("setxattr", set, reply);
    }

    fn getxattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let name = name.to_str().and_then(posix::metadata_of);
        let Some(name) = name else {
            return reply.error(Errno::ENODATA);
        };
        let value = self.tree.user(ino.0).and_then(|mut user| {
            let value = user.remove(name).ok_or(Failure::NoAttribute)?;
            Ok(value.into_bytes())
        });
        answer_attribute("getxattr", value, size, reply);
    }

    fn listxattr(&self, _req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let names = self.tree.user(ino.0).map(|user| {
            let names = posix::attributes(&user).map(|(name, _)| format!("{name}\0"));
            names.collect::<String>().into_bytes()
        });
        answer_attribute("listxattr", names, size, reply);
    }

    fn removexattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.to_str().unwrap_or_default();
        let removed = self.tree.remove_attribute(ino.0, name);
        answer("removexattr", removed, reply);
    }
}

impl Adapter {
    fn answer_entry(&self, what: &'static str, made: Result<Attributes>, reply: ReplyEntry) {
        match made {
            Ok(attributes) => {
                let attr = self.attr(&attributes);
                reply.entry_with_ttls(&attributes.valid, &NAME_VALID, &attr, Generation(0));
            }
            Err(failure) => reply.error(errno(what, &failure)),
        }
    }
}

/// `size` is the room there is; 0 asks how much it takes.
fn answer_attribute(what: &'static str, value: Result<Vec<u8>>, size: u32, reply: ReplyXattr) {
    match value {
        Ok(value) => match u32::try_from(value.len()) {
            Ok(length) if size == 0 => reply.size(length),
            Ok(length) if length <= size => reply.data(&value),
            _ => reply.error(Errno::ERANGE),
        },
        Err(failure) => reply.error(errno(what, &failure)),
    }
}
