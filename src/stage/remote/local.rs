//! Files of this machine.
//!
//! A file grows beside its target under a name of its own ([`names::partial`]) and takes the
//! target's name by a rename when it is whole, verified and synced.

use super::tree::{Tree, growing};
use super::{Chunks, Finish, Found, Piece, Pieces, Remote, Settled, There};
use crate::exit::{Exit, Failure, Outcome};
use crate::stage::checksum::Algorithm;
use crate::stage::journal::Done;
use crate::stage::names;
use crate::stage::plan::Entry;
use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, stream};
use std::collections::BTreeMap;
use std::fs::{File, Metadata};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

/// Bytes of a chunk of a body.
const CHUNK_BYTES: u64 = 1 << 20;

/// A directory and all below it.
#[derive(Clone, Debug)]
pub(crate) struct Local {
    tree: Tree,
}

impl Local {
    /// The root need not exist.
    pub(crate) fn new(root: &Path) -> Self {
        Self {
            tree: Tree::new(root),
        }
    }

    /// Runs where blocking is allowed.
    async fn work<T: Send + 'static>(
        &self,
        verb: &'static str,
        path: &str,
        work: impl FnOnce(&Tree, &str) -> io::Result<T> + Send + 'static,
    ) -> Outcome<T> {
        let (tree, path) = (self.tree.clone(), path.to_owned());
        let done = tokio::task::spawn_blocking(move || {
            work(&tree, &path).map_err(|error| failed(verb, &tree.path(&path), &error))
        });
        done.await.map_err(super::super::lost)?
    }
}

fn failed(verb: &str, path: &Path, error: &io::Error) -> Failure {
    if error.kind() == io::ErrorKind::InvalidData {
        let message = format!("cannot {verb} {}", path.display());
        return Failure::new(Exit::Corrupt, "file", message).because(error);
    }
    let kinds = [io::ErrorKind::InvalidInput, io::ErrorKind::NotADirectory];
    if kinds.contains(&error.kind()) {
        let message = format!("cannot {verb} {}", path.display());
        return Failure::new(Exit::Invalid, "file", message).because(error);
    }
    Failure::io(format_args!("{verb} {}", path.display()), error)
}

fn entry(path: &str, about: &Metadata) -> Entry {
    let modified_ms = about
        .mtime()
        .checked_mul(1000)
        .and_then(|ms| ms.checked_add(about.mtime_nsec() / 1_000_000));
    Entry {
        path: path.into(),
        length_bytes: Some(about.len()),
        modified_ms,
        // A file that was replaced or written to is another one.
        etag: Some(format!(
            "{:x}-{:x}-{:x}",
            about.ino(),
            about.mtime(),
            about.mtime_nsec()
        )),
        sums: Vec::new(),
        ranges: true,
    }
}

#[async_trait]
impl Remote for Local {
    fn url(&self, path: &str) -> String {
        let root = self.tree.root();
        // `./x` is `x` to people.
        let shown = if root == Path::new(".") {
            Path::new(path).to_owned()
        } else {
            root.join(path)
        };
        shown.display().to_string()
    }

    async fn list(&self, found: &mut Found) -> Outcome {
        let root = self.tree.root().to_owned();
        let mut open = vec![String::new()];
        while let Some(directory) = open.pop() {
            let at = root.join(&directory);
            if directory.is_empty() && !at.exists() {
                return Ok(());
            }
            // A directory at a time, so that other transfers go on.
            let read = tokio::task::spawn_blocking(move || {
                let failed = |error: &io::Error| failed("read", &at, error);
                let mut names = Vec::new();
                for entry in std::fs::read_dir(&at).map_err(|error| failed(&error))? {
                    let entry = entry.map_err(|error| failed(&error))?;
                    // Of the entry itself: a link could lead out of the tree or round in circles.
                    let about =
                        std::fs::symlink_metadata(entry.path()).map_err(|error| failed(&error))?;
                    names.push((entry.file_name(), entry.path(), about));
                }
                Ok::<_, Failure>(names)
            });
            for (name, path, about) in read.await.map_err(super::super::lost)?? {
                let Some(name) = name.to_str() else {
                    found.leave_out(path.display().to_string())?;
                    continue;
                };
                let below = if directory.is_empty() {
                    name.to_owned()
                } else {
                    format!("{directory}/{name}")
                };
                if about.is_dir() {
                    found.count()?;
                    open.push(below);
                } else if about.is_file() {
                    // What still grows is nobody's file yet.
                    if !(name.starts_with('.') && name.ends_with(names::PARTIAL)) {
                        found.add(entry(&below, &about))?;
                    }
                } else {
                    found.leave_out(path.display().to_string())?;
                }
            }
        }
        Ok(())
    }

    async fn stat(&self, path: &str) -> Outcome<Option<Entry>> {
        self.work("look at", path, |tree, path| match tree.read(path) {
            Ok(file) => Ok(Some(entry(path, &file.metadata()?))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        })
        .await
    }

    async fn read(&self, wanted: &Entry, range: Option<Range<u64>>) -> Outcome<Chunks> {
        let stamp = wanted.stamp();
        let shown = self.tree.path(&wanted.path);
        let file = self
            .work("read", &wanted.path, move |tree, path| {
                let file = tree.read(path)?;
                if entry(path, &file.metadata()?).stamp() != stamp {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidInput,
                        "it changed since it was listed; try again when it is at rest",
                    ));
                }
                Ok(file)
            })
            .await?;
        let range = range.unwrap_or(0..wanted.length_bytes.unwrap_or_default());
        let file = Arc::new(file);
        let chunks = stream::unfold(range, move |range| {
            let (file, shown) = (Arc::clone(&file), shown.clone());
            async move {
                if range.is_empty() {
                    return None;
                }
                let count = CHUNK_BYTES.min(range.end - range.start);
                let chunk = tokio::task::spawn_blocking(move || read_at(&file, range.start, count));
                let chunk = match chunk.await {
                    Ok(chunk) => chunk.map_err(|error| failed("read", &shown, &error)),
                    Err(error) => Err(super::super::lost(error)),
                };
                Some((chunk, range.start + count..range.end))
            }
        });
        Ok(chunks.boxed())
    }

    async fn delete(&self, path: &str) -> Outcome {
        self.work("remove", path, Tree::remove).await
    }

    fn pieces(&self) -> Option<&dyn Pieces> {
        Some(self)
    }

    fn is_local(&self) -> bool {
        true
    }
}

fn read_at(file: &File, offset: u64, length: u64) -> io::Result<Bytes> {
    let mut buffer = vec![0; usize::try_from(length).map_err(io::Error::other)?];
    file.read_exact_at(&mut buffer, offset)?;
    Ok(Bytes::from(buffer))
}

/// Syncs a grown file, gives it its time and its name.
fn appear(
    tree: &Tree,
    file: &File,
    grown: &str,
    path: &str,
    only_new: bool,
    modified_ms: Option<i64>,
) -> io::Result<()> {
    if let Some(since) = modified_ms.and_then(|ms| u64::try_from(ms).ok()) {
        file.set_modified(UNIX_EPOCH + Duration::from_millis(since))?;
    }
    file.sync_all()?;
    tree.settle(grown, path, only_new)
}

#[async_trait]
impl Pieces for Local {
    async fn begin(&self, path: &str, _keep: Algorithm) -> Outcome<String> {
        self.work("create", path, |tree, path| {
            let grown = growing(path);
            tree.write(&grown, true)?.set_len(0)?;
            Ok(grown)
        })
        .await
    }

    async fn resume(
        &self,
        path: &str,
        token: &str,
        piece_bytes: u64,
    ) -> Outcome<Option<BTreeMap<u64, There>>> {
        if token != growing(path) {
            return Ok(None);
        }
        let length = self
            .work("open", token, |tree, grown| {
                match tree.write(grown, false) {
                    Ok(file) => Ok(Some(file.metadata()?.len())),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                    Err(error) => Err(error),
                }
            })
            .await?;
        let pieces = |length: u64| {
            let there = |number| There {
                length: piece_bytes.min(length - number * piece_bytes),
                ..There::default()
            };
            (0..length.div_ceil(piece_bytes))
                .map(|number| (number, there(number)))
                .collect()
        };
        Ok(length.map(pieces))
    }

    async fn read_back(
        &self,
        _path: &str,
        token: &str,
        range: Range<u64>,
    ) -> Outcome<Option<Bytes>> {
        self.work("read", token, move |tree, grown| {
            let file = tree.write(grown, false)?;
            if file.metadata()?.len() < range.end {
                return Ok(None);
            }
            read_at(&file, range.start, range.end - range.start).map(Some)
        })
        .await
    }

    async fn piece(&self, token: &str, piece: Piece<'_>, bytes: Bytes) -> Outcome<Option<String>> {
        let offset = piece.offset;
        self.work("write", token, move |tree, grown| {
            tree.write(grown, false)?.write_all_at(&bytes, offset)?;
            Ok(None)
        })
        .await
    }

    async fn finish(
        &self,
        token: &str,
        finish: Finish<'_>,
        pieces: &BTreeMap<u64, Done>,
    ) -> Outcome<Settled> {
        let mut sums = Vec::with_capacity(pieces.len());
        let mut offset = 0;
        for done in pieces.values() {
            sums.push((offset, done.length, done.sum(Algorithm::Crc32)));
            offset += done.length;
        }
        let (path, only_new) = (finish.path.to_owned(), finish.only_new);
        let (length, modified) = (finish.length_bytes, finish.modified_ms);
        self.work("write", token, move |tree, grown| {
            let file = tree.write(grown, false)?;
            // Longer only if an earlier content of the source was.
            file.set_len(length)?;
            for (offset, length, sum) in sums {
                let lies = Algorithm::Crc32.of(&read_at(&file, offset, length)?);
                if sum != Some(lies) {
                    let why = format!(
                        "bytes {offset} to {} are not what was written",
                        offset + length
                    );
                    return Err(io::Error::new(io::ErrorKind::InvalidData, why));
                }
            }
            appear(tree, &file, grown, &path, only_new, modified)
        })
        .await?;
        Ok(Settled::default())
    }

    async fn abandon(&self, _path: &str, token: &str) -> Outcome {
        self.work("remove", token, Tree::remove).await
    }

    async fn small(&self, finish: Finish<'_>, _sum: &[u8], bytes: Bytes) -> Outcome<Settled> {
        let (only_new, modified) = (finish.only_new, finish.modified_ms);
        self.work("write", finish.path, move |tree, path| {
            let grown = growing(path);
            let write = || {
                let file = tree.write(&grown, true)?;
                file.set_len(0)?;
                file.write_all_at(&bytes, 0)?;
                if read_at(&file, 0, bytes.len() as u64)? != bytes {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "it is not what was written",
                    ));
                }
                appear(tree, &file, &grown, path, only_new, modified)
            };
            write().inspect_err(|_| {
                let _ = tree.remove(&grown);
            })
        })
        .await?;
        Ok(Settled::default())
    }
}
