//! The directory a mount lies on: fit to be mounted on, freed of a dead mount, unmounted.

use super::SOURCE;
use blockstore::Kind;
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use std::ffi::OsString;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use thiserror::Error;

/// Why a mount could not be made or ended.
#[derive(Debug, Error)]
pub enum MountError {
    /// The directory to mount on is missing.
    #[error("{} does not exist; make it first: mkdir -p {}", path.display(), path.display())]
    Missing {
        /// The mountpoint.
        path: PathBuf,
    },
    /// Something else is there.
    #[error("{} is not a directory; give an empty directory to mount on", path.display())]
    NotADirectory {
        /// The mountpoint.
        path: PathBuf,
    },
    /// A mount would hide what is in it.
    #[error("{} is not empty (it holds {}); give an empty directory, a mount would hide what is there", path.display(), Path::new(holds).display())]
    NotEmpty {
        /// The mountpoint.
        path: PathBuf,
        /// A name in it.
        holds: OsString,
    },
    /// A live mount of ours is there.
    #[error("{} already carries a mount of infall; unmount it first, or give another directory", path.display())]
    AlreadyMounted {
        /// The mountpoint.
        path: PathBuf,
    },
    /// A dead mount of another program is there.
    #[error("{} carries a dead mount of {program}; remove it first: umount -l {}", path.display(), path.display())]
    DeadMount {
        /// The mountpoint.
        path: PathBuf,
        /// The source field of the mount.
        program: String,
    },
    /// The kernel has no FUSE.
    #[error(
        "there is no /dev/fuse; load it (modprobe fuse) or, in a container, pass the device through"
    )]
    NoFuse,
    /// `allow_other` is root's unless `/etc/fuse.conf` says otherwise.
    #[error(
        "only root may mount with allow_other; write user_allow_other into /etc/fuse.conf, or mount without it"
    )]
    AllowOther {
        /// What fusermount3 said.
        #[source]
        source: std::io::Error,
    },
    /// An operating system error.
    #[error("cannot {what} {}", path.display())]
    System {
        /// What was being done.
        what: &'static str,
        /// To which mountpoint.
        path: PathBuf,
        /// The error.
        #[source]
        source: std::io::Error,
    },
    /// What was written could not all be brought to the device.
    #[error("{} is unmounted, but the last flush failed: {reason}", path.display())]
    Unflushed {
        /// The mountpoint.
        path: PathBuf,
        /// The chain of causes.
        reason: String,
    },
}

impl MountError {
    /// What the caller should do.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Missing { .. } => Kind::NotFound,
            Self::NotADirectory { .. } => Kind::Invalid,
            Self::NotEmpty { .. } | Self::AlreadyMounted { .. } | Self::DeadMount { .. } => {
                Kind::Conflict
            }
            Self::NoFuse => Kind::Unsupported,
            Self::AllowOther { .. } => Kind::Denied,
            Self::System { source, .. } if source.kind() == ErrorKind::PermissionDenied => {
                Kind::Denied
            }
            Self::System { .. } => Kind::Internal,
            Self::Unflushed { .. } => Kind::Internal,
        }
    }

    pub(super) fn system(
        what: &'static str,
        path: &Path,
        source: impl Into<std::io::Error>,
    ) -> Self {
        Self::System {
            what,
            path: path.into(),
            source: source.into(),
        }
    }
}

/// Checks that `path` can be mounted on, after taking away a dead mount of ours; answers with its
/// absolute path.
pub(super) fn prepare(path: &Path) -> Result<PathBuf, MountError> {
    let path = absolute(path)?;
    let mount = mount_at(&path)?;
    // Reading the directory always asks the server; attributes the kernel may still know.
    let mut entries = std::fs::read_dir(&path);
    if let Err(error) = &entries
        && Errno::from_io_error(error) == Some(Errno::NOTCONN)
    {
        let program = mount.map_or_else(|| "another program".into(), |mount| mount.source);
        if program != SOURCE {
            return Err(MountError::DeadMount { path, program });
        }
        tracing::info!(mountpoint = %path.display(), "taking away the mount of a server that died");
        detach(&path)?;
        entries = std::fs::read_dir(&path);
    } else if mount.is_some_and(|mount| mount.source == SOURCE) {
        return Err(MountError::AlreadyMounted { path });
    }
    match entries {
        Err(error) if error.kind() == ErrorKind::NotFound => Err(MountError::Missing { path }),
        Err(error) if error.kind() == ErrorKind::NotADirectory => {
            Err(MountError::NotADirectory { path })
        }
        Err(error) => Err(MountError::system("list", &path, error)),
        Ok(mut entries) => match entries.next() {
            Some(Ok(entry)) => {
                let holds = entry.file_name();
                Err(MountError::NotEmpty { path, holds })
            }
            Some(Err(error)) => Err(MountError::system("list", &path, error)),
            None => Ok(path),
        },
    }
}

/// The path without links. The last part is not touched where it can be helped: it may be dead.
fn absolute(path: &Path) -> Result<PathBuf, MountError> {
    let missing = |error: std::io::Error| match error.kind() {
        ErrorKind::NotFound => MountError::Missing { path: path.into() },
        _ => MountError::system("resolve", path, error),
    };
    let is_link = path
        .symlink_metadata()
        .is_ok_and(|metadata| metadata.is_symlink());
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) if !is_link => {
            let parent = if parent.as_os_str().is_empty() {
                Path::new(".")
            } else {
                parent
            };
            Ok(parent.canonicalize().map_err(missing)?.join(name))
        }
        _ => path.canonicalize().map_err(missing),
    }
}

/// A line of the mount table.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    /// The number under which the kernel knows a FUSE connection.
    minor: u32,
    path: PathBuf,
    file_system: String,
    source: String,
}

/// The FUSE mount that is topmost at exactly `path`.
fn mount_at(path: &Path) -> Result<Option<Mount>, MountError> {
    let table = std::fs::read("/proc/self/mountinfo")
        .map_err(|error| MountError::system("find in /proc/self/mountinfo", path, error))?;
    let mut lines = table
        .split(|&byte| byte == b'\n')
        .rev()
        .filter_map(mount_of);
    let topmost = lines.find(|mount| mount.path == path);
    Ok(topmost
        .filter(|mount| mount.file_system == "fuse" || mount.file_system.starts_with("fuse.")))
}

/// A mount from a line of mountinfo (proc_pid_mountinfo(5)):
/// `36 35 0:98 / /mnt rw … - fuse.infall infall rw,…`.
fn mount_of(line: &[u8]) -> Option<Mount> {
    let fields: Vec<&[u8]> = line.split(|&byte| byte == b' ').collect();
    let dash = fields.iter().position(|field| *field == b"-")?;
    let (device, path) = (fields.get(2)?, fields.get(4)?);
    let (file_system, source) = (fields.get(dash + 1)?, fields.get(dash + 2)?);
    let minor = std::str::from_utf8(device).ok()?.split_once(':')?.1;
    Some(Mount {
        minor: minor.parse().ok()?,
        path: unescaped(path),
        file_system: String::from_utf8_lossy(file_system).into_owned(),
        source: String::from_utf8_lossy(source).into_owned(),
    })
}

/// Undoes the octal escapes (`\040` for a space) of the mount table.
fn unescaped(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        let octal = tail
            .get(..3)
            .filter(|_| byte == b'\\')
            .and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(escaped) => {
                bytes.push(escaped);
                rest = &tail[3..];
            }
            None => {
                bytes.push(byte);
                rest = tail;
            }
        }
    }
    OsString::from_vec(bytes).into()
}

/// Takes the name away, whoever still has files open.
fn detach(path: &Path) -> Result<(), MountError> {
    match unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Ok(()) | Err(Errno::INVAL) => Ok(()),
        Err(Errno::PERM) => fusermount(path, "-uz"),
        Err(error) => Err(MountError::system("unmount", path, error)),
    }
}

/// Takes away a mount that was made but never served.
pub(super) fn take_back(path: &Path) {
    if let Err(error) = detach(path) {
        tracing::warn!(mountpoint = %path.display(), error = &error as &dyn std::error::Error, "a mount that nobody serves stays");
    }
}

/// Unmounts as a user who is not root.
fn fusermount(path: &Path, how: &str) -> Result<(), MountError> {
    let output = Command::new("fusermount3")
        .arg(how)
        .arg("--")
        .arg(path)
        .output();
    let failed = match output {
        Ok(output) if output.status.success() => return Ok(()),
        Ok(output) => {
            std::io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned())
        }
        Err(error) => error,
    };
    Err(MountError::system("unmount (by fusermount3)", path, failed))
}

/// Takes the name of a live mount away. Where files are open, the connection is aborted if it can
/// be: by root, or where fusectl is mounted.
pub(super) fn end(path: &Path) -> Result<(), MountError> {
    let mount = mount_at(path)?.filter(|mount| mount.source == SOURCE);
    let Some(mount) = mount else { return Ok(()) };
    match unmount(path, UnmountFlags::NOFOLLOW) {
        Ok(()) => return Ok(()),
        Err(Errno::PERM) if fusermount(path, "-u").is_ok() => return Ok(()),
        Err(_) => {}
    }
    // MNT_FORCE aborts, and says EBUSY as long as files are open: that is expected.
    if unmount(path, UnmountFlags::FORCE | UnmountFlags::NOFOLLOW) == Err(Errno::PERM) {
        let control = format!("/sys/fs/fuse/connections/{}/abort", mount.minor);
        if let Err(error) = std::fs::write(&control, "1") {
            tracing::debug!(%control, %error, "cannot abort the connection");
        }
    }
    detach(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_mount_table_is_read_with_its_escapes() {
        let line =
            br"36 35 0:98 / /mnt/a\040b\134c rw,nosuid shared:1 - fuse.infall infall rw,user_id=0";
        let expected = Mount {
            minor: 98,
            path: r"/mnt/a b\c".into(),
            file_system: "fuse.infall".into(),
            source: "infall".into(),
        };
        assert_eq!(mount_of(line), Some(expected));
        assert_eq!(mount_of(b""), None);
        assert_eq!(mount_of(b"36 35 0:98 / /mnt rw fuse infall"), None);
    }

    #[test]
    fn a_mount_of_another_kind_is_no_fuse_mount() {
        assert_eq!(mount_at(Path::new("/proc")).unwrap(), None);
        assert_eq!(mount_at(Path::new("/no/mount")).unwrap(), None);
    }

    #[test]
    fn a_path_that_ends_in_a_backslash_is_kept() {
        assert_eq!(unescaped(br"/a\"), PathBuf::from(r"/a\"));
        assert_eq!(unescaped(br"/a\9x"), PathBuf::from(r"/a\9x"));
    }

    #[test]
    fn an_unfit_mountpoint_is_refused_with_what_to_do() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("missing");
        assert!(
            prepare(&missing)
                .unwrap_err()
                .to_string()
                .contains("mkdir -p")
        );
        let file = directory.path().join("file");
        std::fs::write(&file, "x").unwrap();
        assert!(matches!(
            prepare(&file),
            Err(MountError::NotADirectory { .. })
        ));
        let full = prepare(directory.path()).unwrap_err();
        assert!(full.to_string().contains("file"), "{full}");
        assert_eq!(full.kind(), Kind::Conflict);
    }

    #[test]
    fn an_empty_directory_is_fit_even_through_a_link() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("target");
        std::fs::create_dir(&target).unwrap();
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(&target, &link).unwrap();
        let absolute = target.canonicalize().unwrap();
        assert_eq!(prepare(&target).unwrap(), absolute);
        assert_eq!(prepare(&link).unwrap(), absolute);
    }
}
