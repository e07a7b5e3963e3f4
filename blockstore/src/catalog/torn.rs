//! The end of RocksDB's write-ahead log after a power cut.
//!
//! A cut can leave the log's file with a length that covers pages which never reached the disk: the
//! length was committed with another file's sync, and the pages read as zeroes. They held the last
//! record, which nobody had been answered for. RocksDB forgives a last record that ends too early, but
//! one whose end is zeroes fails its checksum, as rot would.
//!
//! 1. Only zeroes are cut off, from a page boundary to the end of the newest log: what remains ends too
//!    early, and RocksDB goes on judging every other byte.
//! 2. If it still refuses, the length is put back; the bytes are what they were.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// What a disk's pages, and the zeroes of lost ones, are multiples of.
const PAGE: u64 = 4096;
/// A record holds a batch, and batches are bounded: more zeroes than this are no torn end.
const TORN_MAX: u64 = 64 << 20;

/// A log without the pages that were never written.
pub(super) struct Cut {
    file: File,
    length: u64,
}

impl Cut {
    /// Puts the zeroes back.
    pub(super) fn undo(self) -> io::Result<()> {
        self.file.set_len(self.length)?;
        self.file.sync_all()
    }
}

/// Cuts unwritten pages off the newest log in `directory`; `None` if it ends in none.
pub(super) fn cut(directory: &Path) -> io::Result<Option<Cut>> {
    let Some(path) = newest_log(directory)? else {
        return Ok(None);
    };
    let file = OpenOptions::new().read(true).write(true).open(&path)?;
    let length = file.metadata()?.len();
    let mut end = length;
    let mut page = [0; PAGE as usize];
    while end > 0 && length - end <= TORN_MAX {
        let start = (end - 1) / PAGE * PAGE;
        let held = &mut page[..usize::try_from(end - start).unwrap_or(0)];
        file.read_exact_at(held, start)?;
        if held.iter().any(|byte| *byte != 0) {
            break;
        }
        end = start;
    }
    if end == length || length - end > TORN_MAX {
        return Ok(None);
    }
    tracing::warn!(
        log = %path.display(),
        bytes = length - end,
        "the last pages of the catalog's log were never written (a power cut): its last record, which nobody was answered for, is dropped"
    );
    file.set_len(end)?;
    file.sync_all()?;
    Ok(Some(Cut { file, length }))
}

fn newest_log(directory: &Path) -> io::Result<Option<PathBuf>> {
    let mut newest = None;
    for entry in directory.read_dir()? {
        let name = entry?.file_name();
        let number = name
            .to_str()
            .and_then(|name| name.strip_suffix(".log")?.parse::<u64>().ok());
        newest = newest.max(number.map(|number| (number, name)));
    }
    Ok(newest.map(|(_, name)| directory.join(name)))
}

#[cfg(test)]
mod tests {
    use super::super::Catalog;
    use super::*;
    use crate::Kind;
    use std::fs;

    /// A catalog whose log holds two changes, as a cut finds it: `before`, then one over several pages.
    fn crashed() -> (tempfile::TempDir, PathBuf) {
        let live = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(live.path()).unwrap();
        for (key, length) in [(b"x/before", 10), (b"x/behind", 20_000)] {
            catalog
                .transact(move |txn| {
                    txn.put(key, vec![7; length]);
                    Ok(())
                })
                .unwrap();
        }
        let left = tempfile::tempdir().unwrap();
        let target = left.path().join("catalog");
        fs::create_dir(&target).unwrap();
        for entry in live.path().join("catalog").read_dir().unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), target.join(entry.file_name())).unwrap();
        }
        let log = newest_log(&target).unwrap().unwrap();
        (left, log)
    }

    fn zero(log: &Path, from: u64) {
        let file = OpenOptions::new().write(true).open(log).unwrap();
        let length = file.metadata().unwrap().len();
        file.set_len(from).unwrap();
        file.set_len(length).unwrap();
    }

    fn flip(log: &Path, at: u64) {
        let file = OpenOptions::new().read(true).write(true).open(log).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 1], at).unwrap();
    }

    #[test]
    fn pages_that_were_never_written_cost_the_last_record_only() {
        for pages in 1..=4 {
            let (left, log) = crashed();
            let length = fs::metadata(&log).unwrap().len();
            zero(&log, (length - 1) / PAGE * PAGE - (pages - 1) * PAGE);
            let catalog = Catalog::open(left.path()).unwrap();
            assert_eq!(catalog.get(b"x/before").unwrap(), Some(vec![7; 10]));
            assert_eq!(catalog.get(b"x/behind").unwrap(), None);
        }
    }

    #[test]
    fn rot_is_refused_and_nothing_is_cut() {
        for torn in [false, true] {
            let (left, log) = crashed();
            let length = fs::metadata(&log).unwrap().len();
            if torn {
                zero(&log, (length - 1) / PAGE * PAGE);
            }
            // In a record before the last.
            flip(&log, 12);
            let damaged = fs::read(&log).unwrap();
            let refused = Catalog::open(left.path()).err().unwrap();
            assert_eq!(refused.kind(), Kind::Corrupt, "{}", refused.chain());
            assert!(fs::read(&log).unwrap() == damaged);
        }
        let (left, log) = crashed();
        flip(&log, fs::metadata(&log).unwrap().len() - 100);
        assert!(Catalog::open(left.path()).is_err());
    }
}
