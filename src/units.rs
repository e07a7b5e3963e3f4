//! Sizes and times as people write them: `4G`, `100MiB`, `1.5 TiB`, `4096`; `90s`, `5m`.

use std::time::Duration;

/// Bytes of a text such as `4G`. Units of one letter and with `i` count in 1024 as `qemu-img`
/// does; `kB`, `MB`, `GB`, `TB` count in 1000.
pub(crate) fn parse_bytes(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is not a size; write bytes, or 100MiB, 4G, 1.5TiB");
    let text = text.trim();
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return Err(wrong()),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let whole: u64 = if whole.is_empty() && !fraction.is_empty() {
        0
    } else {
        whole.parse().map_err(|_| wrong())?
    };
    // In whole numbers, so that 1.5G is what the reader thinks it is.
    let part = match fraction.len() {
        0 => 0,
        1..=9 if unit > 1 => {
            let decimals: u64 = fraction.parse().map_err(|_| wrong())?;
            let scaled =
                u128::from(decimals) * u128::from(unit) / 10u128.pow(fraction.len() as u32);
            u64::try_from(scaled).map_err(|_| wrong())?
        }
        _ => return Err(wrong()),
    };
    whole
        .checked_mul(unit)
        .and_then(|bytes| bytes.checked_add(part))
        .ok_or_else(|| format!("{text:?} is beyond 64 bits"))
}

/// MiB of memory: a bare number counts MiB, everything else is a size of whole MiB.
pub(crate) fn parse_memory(text: &str) -> Result<u64, String> {
    if let Ok(mebibytes) = text.trim().parse() {
        return Ok(mebibytes);
    }
    let bytes = parse_bytes(text)?;
    if bytes % (1 << 20) == 0 {
        Ok(bytes >> 20)
    } else {
        Err(format!(
            "{text:?} is not a whole number of MiB; write 512 or 2G"
        ))
    }
}

/// A time such as `90`, `90s`, `5m`, `1h`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a time; write 90s, 5m or 1h");
    let text = text.trim();
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = match unit.trim() {
        "" | "s" => 1,
        "m" | "min" => 60,
        "h" => 3600,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number
        .checked_mul(unit)
        .map(Duration::from_secs)
        .ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_counts_in_mebibytes() {
        assert_eq!(parse_memory("192"), Ok(192));
        assert_eq!(parse_memory("2G"), Ok(2048));
        assert_eq!(parse_memory("512MiB"), Ok(512));
        assert!(parse_memory("1000kB").is_err());
        assert!(parse_memory("much").is_err());
    }

    #[test]
    fn times_read_as_people_write_them() {
        assert_eq!(parse_duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(parse_duration("1h"), Ok(Duration::from_secs(3600)));
        for text in ["", "m", "5x", "-1", "99999999999999999999s"] {
            assert!(
                parse_duration(text)
                    .unwrap_err()
                    .contains(&format!("{text:?}"))
            );
        }
    }

    #[test]
    fn sizes_read_as_people_write_them() {
        for (text, bytes) in [
            ("4096", 4096),
            ("4G", 4 << 30),
            ("4g", 4 << 30),
            ("100MiB", 100 << 20),
            ("100 MiB", 100 << 20),
            ("1.5T", 3 << 39),
            ("1.5TiB", 3 << 39),
            ("2kB", 2000),
            ("0", 0),
            ("7b", 7),
            (".5G", 1 << 29),
        ] {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused_by_name() {
        for text in [
            "",
            "G",
            "4X",
            "-1",
            "1.2.3G",
            "4 G B",
            "1.5",
            "18446744073709551616",
            "99999999T",
            "4Gi",
        ] {
            let error = parse_bytes(text).unwrap_err();
            assert!(error.contains(&format!("{text:?}")), "{error}");
        }
    }
}
