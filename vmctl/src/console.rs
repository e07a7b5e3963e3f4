//! A guest's serial console: the log libvirt appends to, and the terminal of a running guest.

use blockstore::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fs::File;
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
    /// Bytes of the log up to their end: ask for what comes `after` it.
    #[serde(default)]
    pub end: u64,
}

/// The last `lines` lines, and where the log ends; none if there is no log. Consoles say anything:
/// bytes that are not UTF-8 are shown as such, carriage returns left out.
pub(crate) fn tail(path: &Path, lines: usize) -> Result<(Vec<String>, u64)> {
    let Some((mut file, length)) = open(path)? else {
        return Ok((Vec::new(), 0));
    };
    let start = length.saturating_sub(TAIL_BYTES_MAX);
    let bytes = read(&mut file, path, start, length)?;
    let mut all = shown(&bytes);
    if start > 0 && all.len() > 1 {
        all.remove(0);
    }
    all.drain(..all.len().saturating_sub(lines));
    Ok((all, length))
}

/// The whole lines behind byte `after`, and where the last of them ends. A log that has become shorter
/// was begun anew, and is read from its beginning.
pub(crate) fn since(path: &Path, after: u64) -> Result<(Vec<String>, u64)> {
    let Some((mut file, length)) = open(path)? else {
        return Ok((Vec::new(), 0));
    };
    let start = if after > length { 0 } else { after };
    let end = length.min(start.saturating_add(TAIL_BYTES_MAX));
    let mut bytes = read(&mut file, path, start, end)?;
    match bytes.iter().rposition(|byte| *byte == b'\n') {
        Some(newline) => bytes.truncate(newline + 1),
        // A line without an end is told in pieces, lest nothing ever is.
        None if bytes.len() as u64 >= TAIL_BYTES_MAX => {}
        None => bytes.clear(),
    }
    Ok((shown(&bytes), start + bytes.len() as u64))
}

fn open(path: &Path) -> Result<Option<(File, u64)>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(|error| Error::io("open", path, error))?,
    };
    let meta = file
        .metadata()
        .map_err(|error| Error::io("read", path, error))?;
    Ok(Some((file, meta.len())))
}

fn read(file: &mut File, path: &Path, start: u64, end: u64) -> Result<Vec<u8>> {
    let failed = |error| Error::io("read", path, error);
    file.seek(SeekFrom::Start(start)).map_err(failed)?;
    let mut bytes = Vec::new();
    file.take(end.saturating_sub(start))
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    Ok(bytes)
}

fn shown(bytes: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes);
    text.lines()
        .map(|line| line.trim_matches('\r').to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tail_is_the_last_whole_lines() {
        let directory = tempfile::tempdir().expect("tempdir");
        let path = directory.path().join("console.log");
        let lines = |count| tail(&path, count).expect("tail").0;
        assert!(lines(10).is_empty());
        std::fs::write(&path, b"one\r\ntwo\r\n\xff three\npart").expect("write");
        assert_eq!(lines(2), ["\u{fffd} three", "part"]);
        assert_eq!(lines(100).len(), 4);
        assert!(lines(0).is_empty());
        let line = "x".repeat(1023) + "\n";
        std::fs::write(&path, line.repeat(2000)).expect("write");
        let long = lines(usize::MAX);
        assert!(long.len() <= 1024 && long.iter().all(|line| line.len() == 1023));
    }

    #[test]
    fn whoever_follows_a_log_reads_each_line_once() {
        let directory = tempfile::tempdir().expect("tempdir");
        let path = directory.path().join("console.log");
        let since = |after| since(&path, after).expect("since");
        assert_eq!(since(7), (Vec::new(), 0));
        std::fs::write(&path, "one\npart").expect("write");
        assert_eq!(since(0), (vec!["one".into()], 4));
        assert_eq!(since(4), (Vec::new(), 4));
        std::fs::write(&path, "one\npartly\r\ntwo\n").expect("write");
        assert_eq!(since(4), (vec!["partly".into(), "two".into()], 16));
        std::fs::write(&path, "anew\n").expect("write");
        assert_eq!(since(16), (vec!["anew".into()], 5));
        let endless = usize::try_from(TAIL_BYTES_MAX).expect("fits") + 1;
        std::fs::write(&path, "x".repeat(endless)).expect("write");
        assert_eq!(since(0).1, TAIL_BYTES_MAX);
    }
}
