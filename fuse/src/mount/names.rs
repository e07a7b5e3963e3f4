//! Changes of names: create, mkdir, unlink, rmdir, rename. Each is one transaction of the store.
//!
//! 1. A new file has no object until it is published; until then only this mount knows it.
//! 2. A directory that loses its last entry stays: its marker is put first. S3 alone would forget it.
//! 3. A file is renamed with what was written to it; across buckets it is not (EXDEV, as between disks).
//! 4. What a name showed is no obstacle to those who have it open.

use super::bucket_file::BucketFile;
use super::failure::{Failure, Result};
use super::inode::{Node, Version};
use super::posix::{self, User};
use super::stat::Attributes;
use super::tree::{Intent, Opened, Tree};
use super::{keys, lookup};
use access::Resource;
use blockstore::object::{ListQuery, Object, ObjectMeta, Precondition};
use blockstore::{Kind, Store};
use std::ffi::OsStr;
use std::sync::Arc;

/// Longest key (S3 user guide, "Naming Amazon S3 objects").
const KEY_BYTES_MAX: usize = 1024;
/// Keys of a directory that are asked for at a time.
const MEMBERS_PAGE: usize = 1000;
/// MD5 of nothing: the ETag of an empty object.
const EMPTY_ETAG: &str = "d41d8cd98f00b204e9800998ecf8427e";
/// How other programs that keep directories in buckets mark them.
const DIRECTORY_TYPE: &str = "application/x-directory";

/// A name in a bucket's directory, checked.
struct Named<'a> {
    bucket: &'a str,
    prefix: &'a str,
    name: &'a str,
    key: String,
}

impl<'a> Named<'a> {
    fn of(parent: &'a Node, name: &'a OsStr) -> Result<Self> {
        let Node::Directory { bucket, prefix } = parent else {
            return Err(Failure::NotByFile);
        };
        if name.len() > keys::SEGMENT_BYTES_MAX {
            return Err(Failure::NameTooLong);
        }
        let name = name
            .to_str()
            .filter(|name| keys::is_segment(name))
            .ok_or(Failure::Unsupported("a name that is a key is UTF-8"))?;
        let key = format!("{prefix}{name}");
        if key.len() > KEY_BYTES_MAX {
            return Err(Failure::KeyTooLong { bytes: key.len() });
        }
        Ok(Self {
            bucket,
            prefix,
            name,
            key,
        })
    }

    fn object(&self) -> Resource<'_> {
        Resource::Object(self.bucket, &self.key)
    }

    /// The prefix of the directory it is, if it is one.
    fn below(&self) -> String {
        format!("{}/", self.key)
    }
}

impl Tree {
    /// Makes a file and opens it, or opens the one that is there (unless `exclusive`).
    pub(super) fn create(
        &self,
        parent: u64,
        name: &OsStr,
        mode: u32,
        exclusive: bool,
        intent: Intent,
    ) -> Result<(Attributes, Opened)> {
        let parent = self.parent_for_change(parent)?;
        let named = Named::of(&parent, name)?;
        let store = self.enter()?.clone();
        self.guard().may("s3:PutObject", named.object())?;
        match lookup::child(&store, &self.files, &parent, named.name) {
            Ok(_) if exclusive => return Err(Failure::Exists),
            Ok(node) => {
                let number = self.inodes.hold(&node);
                let opened = self.open(number, intent);
                return self.created(&store, number, opened);
            }
            Err(failure) if failure.is_missing() => {}
            Err(failure) => return Err(failure),
        }
        self.files
            .tidy(&|id| self.inodes.number(&Node::File { id }).is_some());
        let file = self.files.add(named.bucket, &named.key, None);
        if let Err(failure) = file.begin(&store, self.guard(), false) {
            self.files.forget(file.id);
            // Another mount or door is making it at this moment.
            let busy = matches!(&failure, Failure::Store(error) if error.kind() == Kind::Conflict);
            return Err(match failure {
                // The kernel looks the name up again and opens what is there by now.
                Failure::Exists if !exclusive => Failure::Replaced,
                _ if exclusive && busy => Failure::Exists,
                other => other,
            });
        }
        let usual = posix::FILE_MODE;
        file.change(&store, self.guard(), &mut |user| {
            posix::set_mode(user, mode, usual);
            Ok(())
        })?;
        let number = self.inodes.hold(&Node::File { id: file.id });
        let opened = self.keep_file(file, intent);
        self.created(&store, number, Ok(opened))
    }

    fn created(
        &self,
        store: &Store,
        number: u64,
        opened: Result<Opened>,
    ) -> Result<(Attributes, Opened)> {
        let done = opened.and_then(|opened| {
            let node = self.node(number)?;
            Ok((self.plain_attributes(store, number, &node)?, opened))
        });
        if done.is_err() {
            self.forget(number, 1);
        }
        done
    }

    /// An empty object (mknod(2) of a regular file).
    pub(super) fn make_file(&self, parent: u64, name: &OsStr, mode: u32) -> Result<Attributes> {
        let (attributes, opened) = self.create(parent, name, mode, true, Intent::WRITE)?;
        self.release(opened.handle)?;
        Ok(attributes)
    }

    pub(super) fn make_directory(
        &self,
        parent: u64,
        name: &OsStr,
        mode: u32,
    ) -> Result<Attributes> {
        let parent = self.parent_for_change(parent)?;
        let store = self.enter()?.clone();
        if *parent == Node::Buckets {
            let name = name.to_str().ok_or(Failure::Missing)?;
            self.guard()
                .may("s3:CreateBucket", Resource::Bucket(name))?;
            let bucket = store
                .bucket_create(&self.guard().who(), name)
                .map_err(|error| exists(error, Kind::Conflict))?;
            return self.hold(&Node::Directory {
                bucket: bucket.name,
                prefix: String::new(),
            });
        }
        let named = Named::of(&parent, name)?;
        let prefix = named.below();
        if prefix.len() > KEY_BYTES_MAX {
            return Err(Failure::KeyTooLong {
                bytes: prefix.len(),
            });
        }
        match lookup::child(&store, &self.files, &parent, named.name) {
            Ok(_) => return Err(Failure::Exists),
            Err(failure) if failure.is_missing() => {}
            Err(failure) => return Err(failure),
        }
        let mut user = User::new();
        posix::set_mode(&mut user, mode, posix::DIRECTORY_MODE);
        self.put_marker(&store, named.bucket, &prefix, user)?;
        self.hold(&Node::Directory {
            bucket: named.bucket.into(),
            prefix,
        })
    }

    pub(super) fn unlink(&self, parent: u64, name: &OsStr) -> Result<()> {
        let parent = self.parent_for_change(parent)?;
        let named = Named::of(&parent, name)?;
        let store = self.enter()?.clone();
        self.guard().may("s3:DeleteObject", named.object())?;
        if let Node::Directory { .. } = lookup::child(&store, &self.files, &parent, named.name)? {
            return Err(Failure::IsADirectory);
        }
        let file = self.files.named(named.bucket, &named.key);
        if let Some(file) = &file {
            // From here on nothing is published any more under the name.
            self.files.unlinked(file)?;
        }
        if file.is_none_or(|file| !file.was_pending()) {
            self.keep_directory(&store, &named)?;
            let who = self.guard().who();
            store.object_remove(&who, named.bucket, &named.key, &Precondition::default())?;
        }
        Ok(())
    }

    pub(super) fn remove_directory(&self, parent: u64, name: &OsStr) -> Result<()> {
        let parent = self.parent_for_change(parent)?;
        let store = self.enter()?.clone();
        if *parent == Node::Buckets {
            let name = name.to_str().ok_or(Failure::Missing)?;
            self.guard()
                .may("s3:DeleteBucket", Resource::Bucket(name))?;
            let removed = store.bucket_remove(&self.guard().who(), name);
            return removed.map_err(|error| match error.kind() {
                Kind::Conflict => Failure::NotEmpty,
                _ => error.into(),
            });
        }
        let named = Named::of(&parent, name)?;
        match lookup::child(&store, &self.files, &parent, named.name)? {
            Node::Directory { .. } => {}
            _ => return Err(Failure::NotADirectory),
        }
        let prefix = named.below();
        self.guard()
            .may("s3:DeleteObject", Resource::Object(named.bucket, &prefix))?;
        self.expect_empty(&store, named.bucket, &prefix)?;
        self.keep_directory(&store, &named)?;
        let who = self.guard().who();
        store.object_remove(&who, named.bucket, &prefix, &Precondition::default())?;
        Ok(())
    }

    /// rename(2); with `keep` a target that exists is not replaced.
    pub(super) fn rename(
        &self,
        (parent, name): (u64, &OsStr),
        (new_parent, new_name): (u64, &OsStr),
        keep: bool,
    ) -> Result<()> {
        let (parent, new_parent) = (
            self.parent_for_change(parent)?,
            self.parent_for_change(new_parent)?,
        );
        if *parent == Node::Buckets || *new_parent == Node::Buckets {
            return Err(Failure::Unsupported("a bucket keeps its name"));
        }
        let (source, target) = (Named::of(&parent, name)?, Named::of(&new_parent, new_name)?);
        if source.bucket != target.bucket {
            return Err(Failure::OtherBucket);
        }
        let store = self.enter()?.clone();
        let from = lookup::child(&store, &self.files, &parent, source.name)?;
        let onto = match lookup::child(&store, &self.files, &new_parent, target.name) {
            Ok(_) if keep => return Err(Failure::Exists),
            Ok(node) => Some(node),
            Err(failure) if failure.is_missing() => None,
            Err(failure) => return Err(failure),
        };
        if source.key == target.key {
            return Ok(());
        }
        match (from.is_directory(), onto.as_ref().map(Node::is_directory)) {
            (false, Some(true)) => Err(Failure::IsADirectory),
            (true, Some(false)) => Err(Failure::NotADirectory),
            (false, _) => self.rename_file(&store, &source, &target),
            (true, onto) => self.rename_directory(&store, &source, &target, onto.is_some()),
        }
    }

    fn rename_file(&self, store: &Store, source: &Named<'_>, target: &Named<'_>) -> Result<()> {
        let guard = self.guard();
        guard.may("s3:GetObject", source.object())?;
        guard.may("s3:DeleteObject", source.object())?;
        guard.may("s3:PutObject", target.object())?;
        let file = self.files.named(source.bucket, &source.key);
        if let Some(file) = &file {
            // What has the new name is on the device, as after any rename of ours.
            file.publish(store, guard)?;
        }
        let before = store.object_head(source.bucket, &source.key)?;
        let replaced = self.files.named(target.bucket, &target.key);
        if let Some(replaced) = &replaced {
            self.files.unlinked(replaced)?;
        }
        self.keep_directory(store, source)?;
        let object = store.object_rename(
            &guard.who(),
            (source.bucket, &source.key),
            (target.bucket, &target.key),
            true,
        )?;
        match file {
            Some(file) => self
                .files
                .renamed(store, &file, target.bucket, &target.key)?,
            None => self.rebind_object(&before, &object),
        }
        Ok(())
    }

    /// The number the kernel has for a version goes with its new name.
    fn rebind_object(&self, before: &Object, after: &Object) {
        let node = |object: &Object| Node::Object {
            bucket: object.bucket.clone(),
            key: object.key.clone(),
            version: Version::of(object),
        };
        let before = node(before);
        if let Some(number) = self.inodes.number(&before) {
            self.inodes.rebind(number, &before, node(after));
        }
    }

    fn rename_directory(
        &self,
        store: &Store,
        source: &Named<'_>,
        target: &Named<'_>,
        onto: bool,
    ) -> Result<()> {
        let guard = self.guard();
        let (from, to) = (source.below(), target.below());
        if to.starts_with(&from) {
            return Err(Failure::IntoItself);
        }
        for (action, bucket, prefix) in [
            ("s3:GetObject", source.bucket, &from),
            ("s3:DeleteObject", source.bucket, &from),
            ("s3:PutObject", target.bucket, &to),
        ] {
            guard.may(action, Resource::Object(bucket, prefix))?;
        }
        if onto {
            self.expect_empty(store, target.bucket, &to)?;
        }
        self.may_move_all(store, (source.bucket, &from), (target.bucket, &to))?;
        let files = self.files.under(source.bucket, &from);
        for file in &files {
            file.publish(store, guard)?;
        }
        self.keep_directory(store, source)?;
        store
            .prefix_rename(
                &guard.who(),
                (source.bucket, &from),
                (target.bucket, &to),
                onto,
            )
            .map_err(|error| match error.kind() {
                Kind::Conflict => Failure::NotEmpty,
                _ => error.into(),
            })?;
        for file in files {
            let (_, key) = file.place();
            if let Some(rest) = key.strip_prefix(&from) {
                let key = format!("{to}{rest}");
                self.files.renamed(store, &file, target.bucket, &key)?;
            }
        }
        self.rebind_directories(source.bucket, &from, &to);
        Ok(())
    }

    /// A directory moves with all it holds or not at all: each key below it is asked for, too.
    fn may_move_all(&self, store: &Store, from: (&str, &str), to: (&str, &str)) -> Result<()> {
        let mut query = ListQuery {
            prefix: from.1.to_owned(),
            max: MEMBERS_PAGE,
            ..ListQuery::default()
        };
        loop {
            let page = store.object_list(from.0, &query)?;
            for object in &page.objects {
                let below = object.key.strip_prefix(from.1).unwrap_or_default();
                let moved = format!("{}{below}", to.1);
                for (action, bucket, key) in [
                    ("s3:GetObject", from.0, &object.key),
                    ("s3:DeleteObject", from.0, &object.key),
                    ("s3:PutObject", to.0, &moved),
                ] {
                    self.guard().may(action, Resource::Object(bucket, key))?;
                }
            }
            match page.next {
                Some(next) => query.start_after = Some(next),
                None => return Ok(()),
            }
        }
    }

    /// Directories that the kernel knows go with their new prefix. Files below it are found anew.
    fn rebind_directories(&self, at: &str, from: &str, to: &str) {
        for (number, node) in self.inodes.all() {
            if let Node::Directory { bucket, prefix } = &*node
                && bucket == at
                && let Some(rest) = prefix.strip_prefix(from)
            {
                let renamed = Node::Directory {
                    bucket: bucket.clone(),
                    prefix: format!("{to}{rest}"),
                };
                self.inodes.rebind(number, &node, renamed);
            }
        }
    }

    // ---- directories

    /// Puts the object that makes a directory; one that is there already is left.
    pub(super) fn put_marker(
        &self,
        store: &Store,
        bucket: &str,
        prefix: &str,
        user: User,
    ) -> Result<()> {
        self.guard()
            .may("s3:PutObject", Resource::Object(bucket, prefix))?;
        let meta = ObjectMeta {
            etag: EMPTY_ETAG.into(),
            headers: [("content-type".to_owned(), DIRECTORY_TYPE.to_owned())].into(),
            user,
            ..ObjectMeta::default()
        };
        let condition = Precondition {
            if_none_match: vec!["*".into()],
            ..Precondition::default()
        };
        store
            .object_writer(bucket)?
            .commit(&self.guard().who(), prefix, meta, &condition)
            .map_err(|error| exists(error, Kind::Precondition))?;
        Ok(())
    }

    /// Puts the marker of the directory that `leaving` is about to leave, if nothing else makes it.
    fn keep_directory(&self, store: &Store, leaving: &Named<'_>) -> Result<()> {
        if leaving.prefix.is_empty() {
            return Ok(());
        }
        let query = ListQuery {
            prefix: leaving.prefix.into(),
            delimiter: Some("/".into()),
            start_after: None,
            max: 3,
        };
        let page = store.object_list(leaving.bucket, &query)?;
        let below = leaving.below();
        let mut objects = page.objects.iter().map(|object| &object.key);
        let mut prefixes = page.prefixes.iter();
        if objects.any(|key| *key != leaving.key) || prefixes.any(|prefix| *prefix != below) {
            return Ok(());
        }
        match self.put_marker(store, leaving.bucket, leaving.prefix, User::new()) {
            // Who may not put it sees the directory go, as S3 does.
            Err(Failure::Exists | Failure::Refused(_)) | Ok(()) => Ok(()),
            Err(failure) => Err(failure),
        }
    }

    /// Refuses a directory with anything in it but its own marker, also what is not shown as a file.
    fn expect_empty(&self, store: &Store, bucket: &str, prefix: &str) -> Result<()> {
        let query = ListQuery {
            prefix: prefix.into(),
            delimiter: None,
            start_after: None,
            max: 2,
        };
        let page = store.object_list(bucket, &query)?;
        let mut inside = page.objects.iter().filter(|object| object.key != prefix);
        let files = self.files.under(bucket, prefix);
        let pending = |file: &Arc<BucketFile>| file.is_pending();
        if inside.next().is_some() || files.iter().any(pending) {
            return Err(Failure::NotEmpty);
        }
        Ok(())
    }

    /// The directory a name is to change in.
    fn parent_for_change(&self, number: u64) -> Result<Arc<Node>> {
        let node = self.node(number)?;
        match &*node {
            _ if self.read_only => Err(Failure::ReadOnly),
            Node::Directory { .. } | Node::Buckets => Ok(node),
            Node::Volumes => Err(Failure::NotByFile),
            _ => Err(Failure::ReadOnly),
        }
    }
}

/// A name that is taken, where the store says so by `kind`.
fn exists(error: blockstore::Error, kind: Kind) -> Failure {
    if error.kind() == kind {
        Failure::Exists
    } else {
        error.into()
    }
}
