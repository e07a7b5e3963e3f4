//! What is known about transfers that are not done: one file per source and target.
//!
//! ```text
//! <state>/infall/stage/<32 hex digits of SHA-256 of source and target>
//!   {"version":1,"source":…,"target":…,"stamp":…,"piece_bytes":…,"token":…}      once
//!   {"piece":0,"length":…,"sums":{"crc32":"…"},"etag":…}                          per piece
//! ```
//!
//! 1. A line is written after its piece arrived; so every piece named here was there once. What is
//!    there now is compared with the sums before it counts.
//! 2. A line cut short by a kill ends what is read; the next line takes its place.
//! 3. Whoever copies holds the file's lock: two runs never work on one target together.
//! 4. It belongs to a source of this stamp (length, time, ETag); another one begins anew.

use super::checksum::{self, Algorithm};
use crate::exit::{Exit, Failure, Outcome};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

const VERSION: u32 = 1;
/// 10,000 pieces take less.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// SHA-256 in hex.
pub(crate) fn digest(text: &str) -> String {
    checksum::hex(&Sha256::digest(text.as_bytes()))
}

/// What a transfer is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct About {
    version: u32,
    /// The source's URL.
    pub(crate) source: String,
    /// The target's URL.
    pub(crate) target: String,
    /// The source as it was.
    pub(crate) stamp: String,
    /// Bytes of every piece but the last.
    pub(crate) piece_bytes: u64,
    /// What the target calls the unfinished one: an upload id, the name of a growing file.
    pub(crate) token: String,
    /// Which checksum the target was asked to keep.
    pub(crate) keep: String,
}

/// A piece that arrived.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Done {
    /// Counted from 0.
    pub(crate) piece: u64,
    /// Its bytes.
    pub(crate) length: u64,
    /// Algorithm and checksum in hex.
    pub(crate) sums: BTreeMap<String, String>,
    /// What the target called it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) etag: Option<String>,
}

impl Done {
    /// Its checksum by this algorithm.
    pub(crate) fn sum(&self, algorithm: Algorithm) -> Option<Vec<u8>> {
        checksum::unhex(self.sums.get(algorithm.name())?)
    }
}

/// The file of one transfer, locked.
#[derive(Debug)]
pub(crate) struct Journal {
    file: File,
    path: PathBuf,
    /// What was begun, if it was.
    pub(crate) about: Option<About>,
    /// The pieces that arrived.
    pub(crate) done: BTreeMap<u64, Done>,
}

/// `$XDG_STATE_HOME/infall/stage`, else `~/.local/state/infall/stage`.
pub(crate) fn folder() -> Outcome<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let state = match (set("XDG_STATE_HOME"), set("HOME")) {
        (Some(state), _) => PathBuf::from(state),
        (None, Some(home)) => PathBuf::from(home).join(".local/state"),
        (None, None) => {
            let message = "neither XDG_STATE_HOME nor HOME is set, so what is done has no place";
            return Err(Failure::new(Exit::Usage, "stage", message));
        }
    };
    Ok(state.join("infall/stage"))
}

impl Journal {
    /// Opens and locks that of a transfer.
    pub(crate) fn open(folder: &Path, source: &str, target: &str) -> Outcome<Self> {
        let name = &digest(&format!("{source}\n{target}"))[..32];
        Self::at(&folder.join(name), target)
    }

    fn at(path: &Path, target: &str) -> Outcome<Self> {
        let failed =
            |error: &std::io::Error| Failure::io(format_args!("open {}", path.display()), error);
        if let Some(folder) = path.parent() {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
            made.map_err(|error| failed(&error))?;
        }
        loop {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(path)
                .map_err(|error| failed(&error))?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    let message = format!("another run is copying to {target}");
                    return Err(Failure::new(Exit::Conflict, "stage", message)
                        .hint("Wait for it, or end it"));
                }
                Err(TryLockError::Error(error)) => return Err(failed(&error)),
            }
            // Whoever held the lock may have finished, and taken the file away.
            let ours = file.metadata().map_err(|error| failed(&error))?;
            if std::fs::metadata(path).is_ok_and(|there| there.ino() == ours.ino()) {
                return Self::read(file, path).map_err(|error| failed(&error));
            }
        }
    }

    fn read(mut file: File, path: &Path) -> std::io::Result<Self> {
        let mut text = Vec::new();
        Read::by_ref(&mut file)
            .take(FILE_BYTES_MAX)
            .read_to_end(&mut text)?;
        let (mut about, mut done, mut good) = (None, BTreeMap::new(), 0);
        for line in text.split_inclusive(|byte| *byte == b'\n') {
            if line.last() != Some(&b'\n') {
                break;
            }
            if about.is_none() {
                match serde_json::from_slice::<About>(line) {
                    Ok(read) if read.version == VERSION => about = Some(read),
                    _ => break,
                }
            } else {
                let Ok(read) = serde_json::from_slice::<Done>(line) else {
                    break;
                };
                done.insert(read.piece, read);
            }
            good += line.len() as u64;
        }
        file.set_len(good)?;
        file.seek(SeekFrom::Start(good))?;
        Ok(Self {
            file,
            path: path.to_owned(),
            about,
            done,
        })
    }

    /// Begins anew.
    pub(crate) fn begin(
        &mut self,
        source: &str,
        target: &str,
        stamp: &str,
        piece_bytes: u64,
        token: &str,
        keep: &str,
    ) -> Outcome {
        let about = About {
            version: VERSION,
            source: source.into(),
            target: target.into(),
            stamp: stamp.into(),
            piece_bytes,
            token: token.into(),
            keep: keep.into(),
        };
        self.done.clear();
        let begun = self
            .file
            .set_len(0)
            .and_then(|()| self.file.seek(SeekFrom::Start(0)));
        begun.map_err(|error| self.failed(&error))?;
        self.line(&about)?;
        self.about = Some(about);
        Ok(())
    }

    /// A piece arrived.
    pub(crate) fn add(&mut self, done: Done) -> Outcome {
        self.line(&done)?;
        self.done.insert(done.piece, done);
        Ok(())
    }

    /// The transfer is over.
    pub(crate) fn remove(self) {
        // Left behind, it costs the next run a look at a target that is done.
        let _ = std::fs::remove_file(&self.path);
    }

    fn line(&mut self, value: &impl Serialize) -> Outcome {
        let mut line = serde_json::to_vec(value).unwrap_or_default();
        line.push(b'\n');
        self.file
            .write_all(&line)
            .map_err(|error| self.failed(&error))
    }

    fn failed(&self, error: &std::io::Error) -> Failure {
        Failure::io(format_args!("write {}", self.path.display()), error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(piece: u64) -> Done {
        Done {
            piece,
            length: 5,
            sums: BTreeMap::from([("crc32".into(), "00000001".into())]),
            etag: Some("e".into()),
        }
    }

    #[test]
    fn what_was_done_is_known_after_a_kill_and_a_torn_line_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(folder.path(), "a", "b").unwrap();
        assert_eq!(journal.about, None);
        journal.begin("a", "b", "5::", 5, "t", "crc32").unwrap();
        journal.add(piece(0)).unwrap();
        journal.add(piece(3)).unwrap();
        journal.file.write_all(b"{\"piece\":4,\"len").unwrap();
        drop(journal);
        let mut journal = Journal::open(folder.path(), "a", "b").unwrap();
        assert_eq!(journal.about.as_ref().unwrap().token, "t");
        assert_eq!(journal.done.keys().copied().collect::<Vec<_>>(), [0, 3]);
        journal.add(piece(4)).unwrap();
        drop(journal);
        let journal = Journal::open(folder.path(), "a", "b").unwrap();
        assert_eq!(journal.done.len(), 3);
        assert_eq!(
            journal.done[&4].sum(Algorithm::Crc32),
            Some(vec![0, 0, 0, 1])
        );
        journal.remove();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn two_runs_do_not_work_on_one_target() {
        let folder = tempfile::tempdir().unwrap();
        let held = Journal::open(folder.path(), "a", "b").unwrap();
        let refused = Journal::open(folder.path(), "a", "b").unwrap_err();
        assert_eq!(refused.exit(), Exit::Conflict);
        Journal::open(folder.path(), "a", "c").unwrap();
        drop(held);
        Journal::open(folder.path(), "a", "b").unwrap();
    }

    #[test]
    fn a_damaged_file_begins_anew() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(folder.path(), "a", "b").unwrap();
        journal.file.write_all(b"\xff\xfe\n{}\n").unwrap();
        drop(journal);
        let journal = Journal::open(folder.path(), "a", "b").unwrap();
        assert!(journal.about.is_none() && journal.done.is_empty());
    }
}
