//! A guest's serial console: the log libvirt appends to, and the terminal of a running guest.

use blockstore::{Error, Result};
use serde::{Deserialize, Serialize};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Of a log's end at most, in bytes.
const TAIL_BYTES_MAX: u64 = 1 << 20;

/// A guest's serial console.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Console {
    /// The file all output is appended to.
    pub log: PathBuf,
    /// The terminal to read and type at, while it runs.
    pub terminal: Option<PathBuf>,
    /// The last lines of the log.
    pub lines: Vec<String>,
}

/// The last `lines` lines; none if there is no log. Consoles say anything: bytes that are not UTF-8 are shown as such, carriage returns left out.
pub(crate) fn tail(path: &Path, lines: usize) -> Result<Vec<String>> {
    let mut file = match std::fs::File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        opened => opened.map_err(|error| Error::io("open", path, error))?,
    };
    let failed = |error| Error::io("read", path, error);
    let length = file.metadata().map_err(failed)?.len();
    let cut = length > TAIL_BYTES_MAX;
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES_MAX)))
        .map_err(failed)?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES_MAX)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    let text = String::from_utf8_lossy(&bytes);
    let mut all: Vec<&str> = text.lines().map(|line| line.trim_matches('\r')).collect();
    if cut && all.len() > 1 {
        all.remove(0);
    }
    Ok(all[all.len().saturating_sub(lines)..]
        .iter()
        .map(|line| (*line).to_owned())
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tail_is_the_last_whole_lines() {
        let directory = tempfile::tempdir().expect("tempdir");
        let path = directory.path().join("console.log");
        assert!(tail(&path, 10).expect("no file yet").is_empty());
        std::fs::write(&path, b"one\r\ntwo\r\n\xff three\npart").expect("write");
        assert_eq!(tail(&path, 2).expect("tail"), ["\u{fffd} three", "part"]);
        assert_eq!(tail(&path, 100).expect("tail").len(), 4);
        assert!(tail(&path, 0).expect("tail").is_empty());
        let line = "x".repeat(1023) + "\n";
        std::fs::write(&path, line.repeat(2000)).expect("write");
        let lines = tail(&path, usize::MAX).expect("tail");
        assert!(lines.len() <= 1024 && lines.iter().all(|line| line.len() == 1023));
    }
}
