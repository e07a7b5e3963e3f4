//! The kernel's side of a mount: /dev/fuse, attached to a directory by mount(2) or, for those who
//! are not root, by fusermount3.
//!
//! fuser could do this too. Its sessions then unmount *by path* when they end, and a session can
//! end long after its name is gone (files were open): by then the path may carry a later mount.
//! So a session of ours gets a device and owns no mount; who unmounts, and when, is said in
//! [`super::mountpoint`] alone.

use super::mountpoint::MountError;
use super::{MountOptions, SOURCE};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::MountFlags;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use std::ffi::CString;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

/// The subtype is ours too, so that `mount -t fuse.infall` lists our mounts.
const FILE_SYSTEM: &str = "fuse.infall";

/// Mounts on `path`; whoever has the device answers the requests.
pub(super) fn attach(path: &Path, options: &MountOptions) -> Result<OwnedFd, MountError> {
    let open = OFlags::RDWR | OFlags::CLOEXEC;
    let device = match rustix::fs::open("/dev/fuse", open, Mode::empty()) {
        Ok(device) => device,
        Err(Errno::NOENT | Errno::NODEV | Errno::NXIO) => return Err(MountError::NoFuse),
        Err(error) => return Err(MountError::system("open /dev/fuse for", path, error)),
    };
    let (user, group) = (rustix::process::getuid(), rustix::process::getgid());
    let mut data = format!(
        "fd={},rootmode=40000,user_id={},group_id={}",
        device.as_raw_fd(),
        user.as_raw(),
        group.as_raw()
    );
    if options.allow_other {
        data.push_str(",allow_other");
    }
    let data = CString::new(data)
        .map_err(|error| MountError::system("mount on", path, std::io::Error::other(error)))?;
    let mut flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOATIME;
    if options.read_only {
        flags |= MountFlags::RDONLY;
    }
    match rustix::mount::mount(SOURCE, path, FILE_SYSTEM, flags, data.as_c_str()) {
        Ok(()) => Ok(device),
        Err(Errno::PERM) => attach_by_helper(path, options),
        Err(error) => Err(MountError::system("mount on", path, error)),
    }
}

/// fusermount3 opens the device, mounts, and sends the device over the socket that
/// `_FUSE_COMMFD` names: here its standard input.
fn attach_by_helper(path: &Path, options: &MountOptions) -> Result<OwnedFd, MountError> {
    let failed =
        |error: std::io::Error| MountError::system("mount (by fusermount3) on", path, error);
    let (ours, theirs) = UnixStream::pair().map_err(failed)?;
    let mut how = format!("fsname={SOURCE},subtype={SOURCE},nosuid,nodev,noatime");
    if options.read_only {
        how.push_str(",ro");
    }
    if options.allow_other {
        how.push_str(",allow_other");
    }
    let mut helper = Command::new("fusermount3");
    helper.arg("-o").arg(how).arg("--").arg(path);
    helper
        .env("_FUSE_COMMFD", "0")
        .stdin(Stdio::from(OwnedFd::from(theirs)));
    let output = helper.output().map_err(failed)?;
    if !output.status.success() {
        let source =
            std::io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned());
        return Err(match source.to_string().contains("user_allow_other") {
            true => MountError::AllowOther { source },
            false => failed(source),
        });
    }
    received(&ours).map_err(failed)
}

fn received(socket: &UnixStream) -> std::io::Result<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut byte)],
        &mut ancillary,
        flags,
    )?;
    let device = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    device.ok_or_else(|| std::io::Error::other("fusermount3 mounted, but sent no device"))
}
