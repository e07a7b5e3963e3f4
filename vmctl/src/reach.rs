//! Can QEMU's user get at a file? libvirt may run QEMU as somebody else, and a directory on the way
//! that this one may not pass makes a start fail with a message that names neither.

use blockstore::{Error, Kind, Result, Subject};
use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// A user and all groups it is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Account {
    user: u32,
    groups: BTreeSet<u32>,
}

impl Account {
    /// With the further groups that `/etc/passwd` and `/etc/group` give it.
    pub(crate) fn of(user: u32, group: u32) -> Self {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        Self::from_databases(user, group, &read("/etc/passwd"), &read("/etc/group"))
    }

    /// Lines are `name:x:uid:gid:…` (passwd(5)) and `name:x:gid:member,member` (group(5)).
    fn from_databases(user: u32, group: u32, passwd: &str, group_file: &str) -> Self {
        let mut groups = BTreeSet::from([group]);
        let entry = passwd.lines().find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            (fields.nth(1)?.parse() == Ok(user)).then(|| (name, fields.next()))
        });
        if let Some((name, primary)) = entry {
            groups.extend(primary.and_then(|group| group.parse::<u32>().ok()));
            groups.extend(group_file.lines().filter_map(|line| {
                let fields: Vec<&str> = line.split(':').collect();
                let member = fields.get(3)?.split(',').any(|member| member == name);
                if member {
                    fields.get(2)?.parse::<u32>().ok()
                } else {
                    None
                }
            }));
        }
        Self { user, groups }
    }

    /// [`Kind::Denied`] naming the first directory on the way to `path` that it may not pass.
    /// Access lists beyond the mode are not read.
    pub(crate) fn check_passage(&self, path: &Path) -> Result<()> {
        for directory in path.ancestors().skip(1).filter(|path| path.is_absolute()) {
            let meta = std::fs::metadata(directory)
                .map_err(|error| Error::io("look at", directory, error))?;
            if !self.may(&meta, 1) {
                return Err(Error::new(
                    Kind::Denied,
                    Subject::Record,
                    format!(
                        "QEMU runs as user {} and may not pass {} (mode {:04o}, owner {}) on its way to \
                         {}: choose a directory outside, or chmod o+x it",
                        self.user,
                        directory.display(),
                        meta.mode() & 0o7777,
                        meta.uid(),
                        path.display()
                    ),
                ));
            }
        }
        Ok(())
    }

    /// As [`Account::check_passage`], and it may read and write `path` itself.
    pub(crate) fn check_use(&self, path: &Path) -> Result<()> {
        self.check_passage(path)?;
        let meta = std::fs::metadata(path).map_err(|error| Error::io("look at", path, error))?;
        if self.may(&meta, 4 | 2) {
            return Ok(());
        }
        Err(Error::new(
            Kind::Denied,
            Subject::Record,
            format!(
                "QEMU runs as user {} and may not use {} (mode {:04o}, owner {}:{}): give it to one of \
                 QEMU's groups with mode 0660",
                self.user,
                path.display(),
                meta.mode() & 0o7777,
                meta.uid(),
                meta.gid()
            ),
        ))
    }

    /// `wanted` is a set of the bits 4 (read), 2 (write), 1 (pass).
    fn may(&self, meta: &std::fs::Metadata, wanted: u32) -> bool {
        if self.user == 0 {
            return true;
        }
        let shift = match () {
            () if meta.uid() == self.user => 6,
            () if self.groups.contains(&meta.gid()) => 3,
            () => 0,
        };
        (meta.mode() >> shift) & wanted == wanted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nqemu:x:64055:993::/:/bin/false\n";
    const GROUP: &str = "root:x:0:\nkvm:x:993:\ndisk:x:6:a,qemu\nother:x:7:xqemu\n";

    #[test]
    fn groups_come_from_the_databases() {
        let account = Account::from_databases(64055, 64055, PASSWD, GROUP);
        assert_eq!(account.groups, BTreeSet::from([6, 993, 64055]));
        assert_eq!(
            Account::from_databases(9, 9, PASSWD, "x").groups,
            BTreeSet::from([9])
        );
    }

    #[test]
    fn the_directory_in_the_way_is_named() {
        let directory = tempfile::tempdir().expect("tempdir");
        let inner = directory.path().join("closed/open");
        std::fs::create_dir_all(&inner).expect("mkdir");
        let file = inner.join("file");
        std::fs::write(&file, "").expect("write");
        let mode = |path: &Path, mode| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("chmod");
        };
        mode(directory.path(), 0o755);
        mode(&inner, 0o755);
        mode(&file, 0o644);
        let closed = directory.path().join("closed");
        let stranger = Account {
            user: 64055,
            groups: BTreeSet::from([64055]),
        };
        mode(&closed, 0o700);
        let error = stranger.check_passage(&file).expect_err("closed");
        assert_eq!(error.kind(), Kind::Denied);
        assert!(
            error.to_string().contains(closed.to_str().expect("UTF-8")),
            "{error}"
        );
        mode(&closed, 0o711);
        stranger.check_passage(&file).expect("may pass");
        assert!(stranger.check_use(&file).is_err());
        mode(&file, 0o666);
        stranger.check_use(&file).expect("may use");
        mode(&closed, 0o700);
        Account {
            user: 0,
            groups: BTreeSet::new(),
        }
        .check_use(&file)
        .expect("root may");
    }
}
