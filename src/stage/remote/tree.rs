//! A directory tree of this machine that no path leads out of.
//!
//! Each part of a path is opened from the directory before it, and never through a link: whatever
//! a listing names, and whatever lies in the tree already, what is read and written lies below the
//! root that was named.

use crate::stage::names;
use rustix::fs::{AtFlags, Mode, OFlags};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::CLOEXEC)
    .union(OFlags::NOFOLLOW);

/// The tree below a directory.
#[derive(Clone, Debug)]
pub(crate) struct Tree {
    root: PathBuf,
}

/// The directory that holds a file, and the file's own name.
struct Spot<'a> {
    directory: OwnedFd,
    name: &'a str,
}

impl Tree {
    /// The root may itself be a link: its owner named it.
    pub(crate) fn new(root: &Path) -> Self {
        Self { root: root.into() }
    }

    /// For messages and walks.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// For messages.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    fn spot<'a>(&self, path: &'a str, make: bool) -> io::Result<Spot<'a>> {
        if let Some(why) = names::objection(path).filter(|_| !is_partial(path)) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("the path {why}"),
            ));
        }
        if make {
            std::fs::create_dir_all(&self.root)?;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut directory = rustix::fs::open(&self.root, flags, Mode::empty())?;
        let (parents, name) = path.rsplit_once('/').unwrap_or(("", path));
        for part in parents.split('/').filter(|part| !part.is_empty()) {
            let below = match rustix::fs::openat(&directory, part, DIRECTORY, Mode::empty()) {
                Err(rustix::io::Errno::NOENT) if make => {
                    match rustix::fs::mkdirat(&directory, part, Mode::from_raw_mode(0o777)) {
                        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                        Err(error) => return Err(error.into()),
                    }
                    rustix::fs::openat(&directory, part, DIRECTORY, Mode::empty())
                }
                opened => opened,
            };
            directory = below.map_err(|error| match error {
                rustix::io::Errno::LOOP | rustix::io::Errno::NOTDIR => io::Error::new(
                    io::ErrorKind::NotADirectory,
                    format!("{part:?} on the way is a link or a file"),
                ),
                other => other.into(),
            })?;
        }
        Ok(Spot { directory, name })
    }

    fn open(&self, path: &str, flags: OFlags, make: bool) -> io::Result<File> {
        let spot = self.spot(path, make)?;
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = rustix::fs::openat(
            &spot.directory,
            spot.name,
            flags,
            Mode::from_raw_mode(0o666),
        )
        .map_err(|error| match error {
            rustix::io::Errno::LOOP => io::Error::new(io::ErrorKind::InvalidInput, "it is a link"),
            other => other.into(),
        })?;
        let file = File::from(file);
        if file.metadata()?.is_file() {
            return Ok(file);
        }
        Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is no regular file",
        ))
    }

    /// Opens a file for reading.
    pub(crate) fn read(&self, path: &str) -> io::Result<File> {
        self.open(path, OFlags::RDONLY, false)
    }

    /// Opens a growing file; made if told, with its directories.
    pub(crate) fn write(&self, path: &str, make: bool) -> io::Result<File> {
        let flags = if make {
            OFlags::RDWR | OFlags::CREATE
        } else {
            OFlags::RDWR
        };
        self.open(path, flags, make)
    }

    /// Gives a growing file its name, and syncs the directory.
    pub(crate) fn settle(&self, growing: &str, path: &str, only_new: bool) -> io::Result<()> {
        let (from, to) = (self.spot(growing, false)?, self.spot(path, false)?);
        if only_new {
            // A link never replaces what somebody made since we looked.
            rustix::fs::linkat(
                &from.directory,
                from.name,
                &to.directory,
                to.name,
                AtFlags::empty(),
            )?;
            rustix::fs::unlinkat(&from.directory, from.name, AtFlags::empty())?;
        } else {
            rustix::fs::renameat(&from.directory, from.name, &to.directory, to.name)?;
        }
        Ok(rustix::fs::fsync(&to.directory)?)
    }

    /// Takes a file away; that it is gone already is fine. Directories stay.
    pub(crate) fn remove(&self, path: &str) -> io::Result<()> {
        let spot = match self.spot(path, false) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            spot => spot?,
        };
        match rustix::fs::unlinkat(&spot.directory, spot.name, AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Where a file grows: beside its target.
pub(crate) fn growing(path: &str) -> String {
    match path.rsplit_once('/') {
        Some((parents, name)) => format!("{parents}/{}", names::partial(name)),
        None => names::partial(path),
    }
}

/// The names we give ourselves are no objection; what else could be wrong with them still is.
fn is_partial(path: &str) -> bool {
    let (parents, name) = path.rsplit_once('/').unwrap_or(("", path));
    let parents_fine = parents.is_empty() || names::objection(parents).is_none();
    parents_fine && name.len() <= 255 && name.starts_with('.') && name.ends_with(names::PARTIAL)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn no_path_leads_out_of_the_tree() {
        let folder = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("secret"), "s").unwrap();
        std::os::unix::fs::symlink(outside.path(), folder.path().join("link")).unwrap();
        std::os::unix::fs::symlink(outside.path().join("secret"), folder.path().join("file"))
            .unwrap();
        let tree = Tree::new(folder.path());
        for path in ["link/secret", "file", "../x", "/etc/passwd", "a/../../x"] {
            assert!(tree.read(path).is_err(), "{path}");
            assert!(tree.write(path, true).is_err(), "{path}");
        }
        assert!(tree.write("link/new", true).is_err());
        assert!(tree.remove("link/secret").is_err());
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_appears_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let tree = Tree::new(&folder.path().join("made"));
        let growing = growing("a/b");
        tree.write(&growing, true)
            .unwrap()
            .write_all(b"new")
            .unwrap();
        assert!(tree.read("a/b").is_err());
        tree.settle(&growing, "a/b", true).unwrap();
        assert_eq!(std::fs::read(tree.path("a/b")).unwrap(), b"new");
        tree.write(&growing, true)
            .unwrap()
            .write_all(b"newer")
            .unwrap();
        let refused = tree.settle(&growing, "a/b", true).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AlreadyExists);
        tree.settle(&growing, "a/b", false).unwrap();
        assert_eq!(std::fs::read(tree.path("a/b")).unwrap(), b"newer");
        tree.remove("a/b").unwrap();
        tree.remove("a/b").unwrap();
        tree.remove("x/y").unwrap();
        assert_eq!(std::fs::read_dir(tree.path("a")).unwrap().count(), 0);
    }

    #[test]
    fn a_fifo_in_the_way_does_not_hang() {
        let folder = tempfile::tempdir().unwrap();
        let made = std::process::Command::new("mkfifo")
            .arg(folder.path().join("p"))
            .status();
        assert!(made.unwrap().success());
        assert!(Tree::new(folder.path()).read("p").is_err());
    }
}
