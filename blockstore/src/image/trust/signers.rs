//! Whose signatures count: a file in OpenSSH's own format (ssh-keygen(1), "ALLOWED SIGNERS").
//!
//! ```text
//! alice@lab ssh-ed25519 AAAA… comment
//! bob@lab namespaces="infall-image@v1",valid-before="20270101Z" ssh-rsa AAAA…
//! ```
//! 1. A line that does not read adds nobody and is told; the others stand. A key that is in no line
//!    counts for nothing.
//! 2. A key counts while its line is valid *now*: whoever signed before the line ended is no longer
//!    believed, since the time in a signature is the signer's own word.
//! 3. Lines of certificate authorities add nobody: certificates are not read here.

use super::{NAMESPACE, pattern};
use crate::{Error, Kind, Result, Subject};
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use ssh_key::PublicKey;
use ssh_key::public::KeyData;
use std::io::Read;
use std::path::Path;

/// Bytes of a signers' file.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// A signers' file, read.
#[derive(Clone, Debug, Default)]
pub(super) struct Signers {
    entries: Vec<Entry>,
    /// Lines that add nobody, and why.
    pub(super) problems: Vec<String>,
}

#[derive(Clone, Debug)]
struct Entry {
    /// As the line names them.
    principals: String,
    key: KeyData,
    options: Options,
}

#[derive(Clone, Debug, Default)]
struct Options {
    authority: bool,
    namespaces: Option<String>,
    /// Milliseconds since the Unix epoch, both included.
    after_ms: Option<i64>,
    before_ms: Option<i64>,
}

impl Signers {
    /// Reads a file.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let failed = |source: std::io::Error| match source.kind() {
            std::io::ErrorKind::NotFound => {
                let text = format!(
                    "cannot read the signers (images.signers): there is no file {}",
                    path.display()
                );
                Error::new(Kind::NotFound, Subject::Store, text)
            }
            _ => Error::io("read the signers (images.signers) in", path, source),
        };
        let file = std::fs::File::open(path).map_err(failed)?;
        let mut text = String::new();
        let read = file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text);
        let length = read.map_err(failed)?;
        if length as u64 > FILE_BYTES_MAX {
            let text = format!(
                "{} has more than {FILE_BYTES_MAX} bytes, the most that images.signers may have",
                path.display()
            );
            return Err(Error::new(Kind::Invalid, Subject::Image, text));
        }
        Ok(Self::parse(&text))
    }

    /// Reads the text of one.
    pub(super) fn parse(text: &str) -> Self {
        let mut signers = Self::default();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let read = read(line).and_then(|entry| match entry.options.authority {
                true => Err("certificates are not read here, so an authority adds nobody".into()),
                false => Ok(entry),
            });
            match read {
                Ok(entry) => signers.entries.push(entry),
                Err(why) => signers.problems.push(format!("line {}: {why}", number + 1)),
            }
        }
        signers
    }

    /// The principals of the line by which `key` counts now, or why it does not.
    pub(super) fn find(&self, key: &KeyData, now_ms: u64) -> std::result::Result<&str, String> {
        let mut why = "its key is not among the signers".to_owned();
        let now_ms = i64::try_from(now_ms).unwrap_or(i64::MAX);
        for entry in self.entries.iter().filter(|entry| entry.key == *key) {
            match entry.options.refuse(now_ms) {
                None => return Ok(&entry.principals),
                Some(refusal) => why = format!("the line of {} {refusal}", entry.principals),
            }
        }
        Err(why)
    }
}

impl Options {
    fn refuse(&self, now_ms: i64) -> Option<&'static str> {
        let named = self.namespaces.as_deref();
        if named.is_some_and(|list| !pattern::list_matches(list, NAMESPACE)) {
            return Some("is for other namespaces");
        }
        if self.after_ms.is_some_and(|after| now_ms < after) {
            return Some("is not valid yet (valid-after)");
        }
        if self.before_ms.is_some_and(|before| now_ms > before) {
            return Some("is no longer valid (valid-before)");
        }
        None
    }
}

type Line<T> = std::result::Result<T, String>;

/// Principals, options if there are any, key, comment.
fn read(line: &str) -> Line<Entry> {
    let (principals, rest) = match line.strip_prefix('"') {
        Some(quoted) => quoted.split_once('"').ok_or("a quote is not closed")?,
        None => line.split_once([' ', '\t']).ok_or("there is no key")?,
    };
    let rest = rest.trim_start();
    let (options, key) = match PublicKey::from_openssh(rest) {
        Ok(key) => (Options::default(), key),
        Err(_) => {
            let end = unquoted(rest, |byte| byte == b' ' || byte == b'\t')?;
            let (options, key) = rest.split_at(end);
            let key = PublicKey::from_openssh(key.trim_start())
                .map_err(|cause| format!("its key does not read: {cause}"))?;
            (Options::read(options)?, key)
        }
    };
    if principals.is_empty() {
        return Err("it names nobody".into());
    }
    Ok(Entry {
        principals: principals.to_owned(),
        key: key.key_data().clone(),
        options,
    })
}

/// Where the first byte outside of quotes lies that `ends`; the end if there is none.
fn unquoted(text: &str, ends: impl Fn(u8) -> bool) -> Line<usize> {
    let (mut inside, mut escaped) = (false, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if inside => escaped = true,
            b'"' => inside = !inside,
            _ if !inside && ends(byte) => return Ok(at),
            _ => {}
        }
    }
    if inside {
        return Err("a quote is not closed".into());
    }
    Ok(text.len())
}

impl Options {
    fn read(text: &str) -> Line<Self> {
        let mut options = Self::default();
        let mut rest = text;
        while !rest.is_empty() {
            let end = unquoted(rest, |byte| byte == b',')?;
            options.take(&rest[..end])?;
            rest = rest.get(end + 1..).unwrap_or_default();
        }
        Ok(options)
    }

    fn take(&mut self, option: &str) -> Line<()> {
        let (name, value) = match option.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (option, None),
        };
        let value = || {
            let value = value.and_then(|value| value.strip_prefix('"')?.strip_suffix('"'));
            value.ok_or_else(|| format!("option {name:?} has no value in quotes"))
        };
        let twice = match name.to_ascii_lowercase().as_str() {
            "cert-authority" => std::mem::replace(&mut self.authority, true),
            "namespaces" => self.namespaces.replace(value()?.to_owned()).is_some(),
            "valid-after" => self.after_ms.replace(time(value()?)?).is_some(),
            "valid-before" => self.before_ms.replace(time(value()?)?).is_some(),
            _ => return Err(format!("option {option:?} is unknown")),
        };
        match twice {
            true => Err(format!("option {name:?} is there twice")),
            false => Ok(()),
        }
    }
}

/// `YYYYMMDD` or `YYYYMMDDHHMM[SS]`, with `Z` in UTC, else in the machine's own zone.
fn time(text: &str) -> Line<i64> {
    let wrong = || format!("{text:?} is no time; write 20270101Z or 202701011200Z");
    let (digits, zone) = match text.strip_suffix(['Z', 'z']) {
        Some(digits) => (digits, TimeZone::UTC),
        None => (text, TimeZone::system()),
    };
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    let full = match digits.len() {
        8 => format!("{digits}000000"),
        12 => format!("{digits}00"),
        14 => digits.to_owned(),
        _ => return Err(wrong()),
    };
    let part = |range: std::ops::Range<usize>| full[range].parse::<i8>().map_err(|_| wrong());
    let year = full[..4].parse().map_err(|_| wrong())?;
    let (month, day) = (part(4..6)?, part(6..8)?);
    let (hour, minute, second) = (part(8..10)?, part(10..12)?, part(12..14)?);
    let time = DateTime::new(year, month, day, hour, minute, second, 0).map_err(|_| wrong())?;
    let time = zone.to_timestamp(time).map_err(|_| wrong())?;
    Ok(time.as_millisecond())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIILEtPFQ2rfaMfQw4lDS7PWLw6XyyuCG2UbUBkVy6gXk";
    const NOW_MS: u64 = 1_800_000_000_000; // 2027-01-15T08:00:00Z

    fn found(line: &str) -> Line<String> {
        let signers = Signers::parse(&format!("# who may\n\n{line}\n"));
        if let [problem] = signers.problems.as_slice() {
            return Err(problem.clone());
        }
        let key = PublicKey::from_openssh(KEY).unwrap();
        signers.find(key.key_data(), NOW_MS).map(str::to_owned)
    }

    #[test]
    fn a_line_counts_in_its_namespace_and_its_time() {
        for (options, good) in [
            ("", true),
            ("namespaces=\"infall-image@v1\" ", true),
            ("NameSpaces=\"file,infall-*\" ", true),
            ("namespaces=\"file\" ", false),
            ("namespaces=\"*,!infall-image@v1\" ", false),
            ("valid-before=\"20270115080000Z\" ", true),
            ("valid-before=\"20270115075959Z\" ", false),
            ("valid-before=\"20270114Z\" ", false),
            ("valid-after=\"202701150800Z\" ", true),
            ("valid-after=\"20270116Z\" ", false),
            ("valid-after=\"20200101Z\",valid-before=\"20300101\" ", true),
        ] {
            let line = format!("alice@lab,a@b {options}{KEY} her laptop");
            assert_eq!(found(&line).is_ok(), good, "{line}: {:?}", found(&line));
        }
        assert_eq!(found(&format!("\"alice@lab\" {KEY}")).unwrap(), "alice@lab");
    }

    #[test]
    fn a_line_that_does_not_read_adds_nobody_and_is_told() {
        for (line, why) in [
            (format!("alice cert-authority {KEY}"), "certificates"),
            (format!("alice no-such {KEY}"), "unknown"),
            (format!("alice namespaces=x {KEY}"), "quotes"),
            (format!("alice namespaces=\"x {KEY}"), "closed"),
            (format!("alice valid-before=\"1\" {KEY}"), "no time"),
            (format!("alice valid-before=\"20271301Z\" {KEY}"), "no time"),
            (format!("alice valid-before=\"2027+101Z\" {KEY}"), "no time"),
            (
                format!("alice namespaces=\"a\",namespaces=\"b\" {KEY}"),
                "twice",
            ),
            ("alice".to_owned(), "no key"),
            ("alice ssh-ed25519 AAAA".to_owned(), "does not read"),
            (KEY.to_owned(), "does not read"),
            (format!("\"\" {KEY}"), "nobody"),
        ] {
            let problem = found(&line).unwrap_err();
            assert!(
                problem.starts_with("line 3: ") && problem.contains(why),
                "{line}: {problem}"
            );
        }
        // The lines around a bad one stand, and a second line can make good what the first lacks.
        let text = format!("x y\nalice valid-before=\"20200101Z\" {KEY}\nalice {KEY}\n");
        let signers = Signers::parse(&text);
        assert_eq!(signers.problems.len(), 1);
        let key = PublicKey::from_openssh(KEY).unwrap();
        assert_eq!(signers.find(key.key_data(), NOW_MS), Ok("alice"));
    }

    #[test]
    fn what_is_too_large_or_not_there_is_no_file_of_signers() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("signers");
        assert!(Signers::read(&path).is_err());
        std::fs::write(&path, "#".repeat(2 << 20)).unwrap();
        assert_eq!(Signers::read(&path).unwrap_err().kind(), Kind::Invalid);
    }
}
