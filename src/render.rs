//! What people read: tables, bytes, durations, times.

use std::fmt::{self, Display};
use std::io::Write;
use std::time::Duration;

/// Writes to standard output. A reader that has gone away (`| head`) is not an error.
pub(crate) fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Columns that line up; the last one may be as long as it likes.
pub(crate) struct Table<const N: usize> {
    rows: Vec<[String; N]>,
}

impl<const N: usize> Table<N> {
    /// With these headings.
    pub(crate) fn new(headings: [&str; N]) -> Self {
        Self {
            rows: vec![headings.map(str::to_owned)],
        }
    }

    /// Adds a row.
    pub(crate) fn row<T: Display>(&mut self, cells: [T; N]) {
        // A name may hold anything; a line break or an escape sequence must not reach the terminal.
        self.rows.push(cells.map(|cell| plain(&cell.to_string())));
    }
}

impl<const N: usize> Display for Table<N> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |column: usize| {
            self.rows
                .iter()
                .map(|row| row[column].chars().count())
                .max()
                .unwrap_or_default()
        };
        let widths: Vec<usize> = (0..N).map(width).collect();
        for row in &self.rows {
            for (column, cell) in row.iter().enumerate() {
                if column + 1 == N {
                    writeln!(out, "{cell}")?;
                } else {
                    write!(out, "{cell:<width$}  ", width = widths[column])?;
                }
            }
        }
        Ok(())
    }
}

/// The text with control characters shown as escapes.
pub(crate) fn plain(text: &str) -> String {
    if !text.chars().any(char::is_control) {
        return text.to_owned();
    }
    text.chars()
        .flat_map(|c| {
            let escaped: Vec<char> = if c.is_control() {
                c.escape_default().collect()
            } else {
                vec![c]
            };
            escaped
        })
        .collect()
}

/// `0 B`, `12 KiB`, `2.0 GiB`, `402 MiB`: two digits at least, four at most.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut unit = 0;
    let mut tenths = u128::from(count) * 10;
    while tenths >= 10_235 && unit + 1 < UNITS.len() {
        tenths = (tenths + 512) / 1024;
        unit += 1;
    }
    if unit == 0 {
        format!("{count} B")
    } else if tenths < 100 {
        format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
    } else {
        format!("{} {}", (tenths + 5) / 10, UNITS[unit])
    }
}

/// `3 ms`, `4.1 s`, `2 min 21 s`, `3 h 5 min`.
pub(crate) fn duration(time: Duration) -> String {
    let milliseconds = time.as_millis();
    let seconds = time.as_secs();
    match seconds {
        0 => format!("{milliseconds} ms"),
        1..10 => format!("{}.{} s", seconds, time.subsec_millis() / 100),
        10..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

/// `2026-01-31T12:00:00Z` of milliseconds since the Unix epoch.
pub(crate) fn time(milliseconds: u64) -> String {
    i64::try_from(milliseconds)
        .ok()
        .and_then(|since| jiff::Timestamp::from_millisecond(since).ok())
        .map_or_else(
            || "?".into(),
            |time| time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        )
}

/// `img-c04e…9b`: enough of an id to tell it apart by eye.
pub(crate) fn short_id(id: &str) -> String {
    match id.split_once('-') {
        Some((kind, digits)) if digits.len() > 16 && digits.is_ascii() => {
            format!("{kind}-{}…{}", &digits[..4], &digits[digits.len() - 2..])
        }
        _ => id.to_owned(),
    }
}

/// `1 object`, `3 objects`.
pub(crate) fn count(number: u64, noun: &str) -> String {
    if number == 1 {
        format!("1 {noun}")
    } else {
        format!("{number} {noun}s")
    }
}

/// What a command that copies has to say.
pub(crate) fn copied(copied: &blockstore::object::Copied) -> String {
    let mut text = format!(
        "shared {}, rewritten {}",
        bytes(copied.shared_bytes),
        bytes(copied.rewritten_bytes)
    );
    if copied.rewritten_bytes > 0 && !copied.why.is_empty() {
        text.push_str(&format!(" ({})", plain(&copied.why)));
    }
    text
}

/// Whether a URL's host is this machine's loopback.
pub(crate) fn is_loopback(url: &str) -> bool {
    let host = url.split_once("://").map_or(url, |(_, rest)| rest);
    let host = host.split(['/', '?', '#']).next().unwrap_or_default();
    // What stands before an @ is a user name, not the host.
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    if let Ok(address) = host.parse::<std::net::SocketAddr>() {
        return address.ip().is_loopback();
    }
    let host = host.rsplit_once(':').map_or(host, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_read_well_at_every_size() {
        for (count, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (12 << 10, "12 KiB"),
            (402 << 20, "402 MiB"),
            (2 << 30, "2.0 GiB"),
            ((1 << 30) - 1, "1.0 GiB"),
            (64 << 40, "64 TiB"),
            (u64::MAX, "16 EiB"),
        ] {
            assert_eq!(bytes(count), text);
        }
    }

    #[test]
    fn durations_read_well() {
        for (milliseconds, text) in [
            (3, "3 ms"),
            (4123, "4.1 s"),
            (64_000, "1 min 4 s"),
            (141_000, "2 min 21 s"),
            (11_100_000, "3 h 5 min"),
        ] {
            assert_eq!(duration(Duration::from_millis(milliseconds)), text);
        }
    }

    #[test]
    fn a_name_cannot_break_a_table_or_reach_the_terminal() {
        let mut table = Table::new(["NAME", "SIZE"]);
        table.row(["a\n\u{1b}[31m", "1"]);
        table.row(["longer-name", "22"]);
        let text = table.to_string();
        assert_eq!(text.lines().count(), 3);
        assert!(!text.contains('\u{1b}'));
        assert!(text.starts_with("NAME           SIZE\n"), "{text}");
    }

    #[test]
    fn only_loopback_is_loopback() {
        for url in [
            "http://127.0.0.1:9000",
            "http://localhost:1/x",
            "http://[::1]:9000",
            "http://localhost",
        ] {
            assert!(is_loopback(url), "{url}");
        }
        for url in [
            "http://10.0.0.1:9000",
            "http://localhost.example.org",
            "http://127.0.0.1@evil:1",
            "http://x/127.0.0.1",
        ] {
            assert!(!is_loopback(url), "{url}");
        }
    }

    #[test]
    fn times_and_ids_are_short() {
        assert_eq!(time(0), "1970-01-01T00:00:00Z");
        assert_eq!(
            short_id(&format!("img-c04e{}9b", "0".repeat(58))),
            "img-c04e…9b"
        );
        assert_eq!(short_id("snap-19d2000011112222"), "snap-19d2000011112222");
        assert_eq!(count(1, "VM"), "1 VM");
        assert_eq!(count(0, "VM"), "0 VMs");
    }
}
