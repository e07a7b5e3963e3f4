//! Manifests: one line of JSON per file, by path.
//!
//! ```text
//! {"path":"a/b.raw","size":4096,"sha256":"<64 hex digits>","etag":"…"}
//! ```
//!
//! `size` and `sha256` are of the content; `etag` is what the target called it and only informs.

use super::names;
use crate::exit::{Exit, Failure, Outcome};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;

/// A line with the longest path, escaped, is shorter.
const LINE_BYTES_MAX: u64 = 16 << 10;

/// One file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Line {
    /// Below the root.
    pub(crate) path: String,
    /// Bytes.
    pub(crate) size: u64,
    /// SHA-256 of the content, hex.
    pub(crate) sha256: String,
    /// What the target calls this content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) etag: Option<String>,
}

/// Files by their path.
pub(crate) type Manifest = BTreeMap<String, Line>;

/// Reads one; at most so many lines.
pub(crate) fn read(path: &Path, lines_max: usize) -> Outcome<Manifest> {
    let shown = path.display();
    let failed = |error: &std::io::Error| Failure::io(format_args!("read {shown}"), error);
    let wrong = |number: usize, why: &dyn std::fmt::Display| {
        Failure::new(
            Exit::Invalid,
            "manifest",
            format!("{shown}, line {number}: {why}"),
        )
    };
    let mut file = BufReader::new(std::fs::File::open(path).map_err(|error| failed(&error))?);
    let mut manifest = Manifest::new();
    for number in 1.. {
        let mut text = Vec::new();
        let read = file
            .by_ref()
            .take(LINE_BYTES_MAX)
            .read_until(b'\n', &mut text);
        if read.map_err(|error| failed(&error))? == 0 {
            break;
        }
        if text.trim_ascii().is_empty() {
            continue;
        }
        if number > lines_max {
            return Err(wrong(number, &format_args!("more than {lines_max} files")));
        }
        let mut line: Line =
            serde_json::from_slice(&text).map_err(|error| wrong(number, &error))?;
        line.sha256.make_ascii_lowercase();
        if line.sha256.len() != 64 || !line.sha256.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(wrong(
                number,
                &format_args!("{:?} is no SHA-256 in hex", line.sha256),
            ));
        }
        if let Some(why) = names::objection(&line.path) {
            return Err(wrong(
                number,
                &format_args!("the path {:?} {why}", line.path),
            ));
        }
        if let Some(twice) = manifest.insert(line.path.clone(), line) {
            return Err(wrong(
                number,
                &format_args!("{:?} stands there twice", twice.path),
            ));
        }
    }
    Ok(manifest)
}

/// Writes one; a reader sees the old file or the new one.
pub(crate) fn write(path: &Path, manifest: &Manifest) -> Outcome {
    let failed =
        |error: &std::io::Error| Failure::io(format_args!("write {}", path.display()), error);
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}", std::process::id()));
    let fresh = path.with_file_name(name);
    let write = || {
        let mut file = std::io::BufWriter::new(std::fs::File::create(&fresh)?);
        for line in manifest.values() {
            serde_json::to_writer(&mut file, line)?;
            file.write_all(b"\n")?;
        }
        file.into_inner()
            .map_err(std::io::IntoInnerError::into_error)?
            .sync_all()?;
        std::fs::rename(&fresh, path)
    };
    write().map_err(|error| {
        let _ = std::fs::remove_file(&fresh);
        failed(&error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("m");
        let line = |path: &str| Line {
            path: path.into(),
            size: 3,
            sha256: "0a".repeat(32),
            etag: None,
        };
        let manifest = Manifest::from(["a\nb", "ä/c"].map(|path| (path.to_owned(), line(path))));
        write(&file, &manifest).unwrap();
        assert_eq!(read(&file, 2).unwrap(), manifest);
        assert_eq!(read(&file, 1).unwrap_err().exit(), Exit::Invalid);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_is_no_manifest_is_refused_by_line() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("m");
        let sum = "0".repeat(64);
        for text in [
            "x".to_owned(),
            format!("{{\"path\":\"../a\",\"size\":1,\"sha256\":\"{sum}\"}}"),
            "{\"path\":\"a\",\"size\":1,\"sha256\":\"00\"}".to_owned(),
            format!("{{\"path\":\"a\",\"size\":-1,\"sha256\":\"{sum}\"}}"),
            "[".repeat(100_000),
        ] {
            std::fs::write(&file, &text).unwrap();
            let failure = read(&file, 10).unwrap_err();
            assert!(failure.to_string().contains("line 1"), "{failure}");
        }
        let twice = format!("{{\"path\":\"a\",\"size\":1,\"sha256\":\"{sum}\"}}\n").repeat(2);
        std::fs::write(&file, twice).unwrap();
        assert!(read(&file, 10).unwrap_err().to_string().contains("twice"));
    }
}
