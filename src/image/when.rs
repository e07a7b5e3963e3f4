//! Times to come, as people write them: a day, a time, or how long from now.

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use std::str::FromStr;

/// Milliseconds since the Unix epoch, whole seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct When(pub(crate) u64);

impl FromStr for When {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        read(text, Timestamp::now())
    }
}

fn read(text: &str, now: Timestamp) -> Result<When, String> {
    let wrong = || format!("{text:?} is not a time; write 2027-01-01, 2027-01-01T12:00:00Z or 90d");
    let time = if let Ok(time) = text.parse::<Timestamp>() {
        time
    } else if let Ok(day) = text.parse::<Date>() {
        let midnight = day.to_zoned(TimeZone::UTC).map_err(|_| wrong())?;
        midnight.timestamp()
    } else {
        let seconds = seconds(text).ok_or_else(wrong)?;
        let later = now.checked_add(SignedDuration::from_secs(seconds));
        later.map_err(|_| wrong())?
    };
    let seconds = u64::try_from(time.as_second()).map_err(|_| wrong())?;
    Ok(When(seconds * 1000))
}

/// `90d`, `12h`, `5m`, `90s`.
fn seconds(text: &str) -> Option<i64> {
    let unit = text.chars().last()?;
    let number: i64 = text.strip_suffix(unit)?.parse().ok()?;
    let unit = match unit {
        'd' => 86_400,
        'h' => 3600,
        'm' => 60,
        's' => 1,
        _ => return None,
    };
    number.checked_mul(unit).filter(|seconds| *seconds >= 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_to_come_are_days_times_or_how_long_from_now() {
        let now = Timestamp::from_second(1_000).unwrap();
        for (text, at_s) in [
            ("2027-01-01", 1_798_761_600),
            ("2027-01-01T00:00:00Z", 1_798_761_600),
            ("2027-01-01T01:00:00.9+01:00", 1_798_761_600),
            ("0s", 1_000),
            ("2m", 1_120),
            ("90d", 7_777_000),
        ] {
            assert_eq!(read(text, now), Ok(When(at_s * 1000)), "{text}");
        }
        for text in [
            "",
            "soon",
            "d",
            "-1d",
            "9999999999999d",
            "1960-01-01",
            "5x",
            "5ü",
        ] {
            assert!(
                read(text, now).unwrap_err().contains("is not a time"),
                "{text}"
            );
        }
    }
}
