//! What files have and objects don't: a mode and a time of modification, kept as user metadata.
//!
//! | metadata | value | who else knows it |
//! |---|---|---|
//! | `mtime` | seconds since the Unix epoch, with a fraction | rclone |
//! | `file-permissions` | four octal digits | AWS DataSync |
//!
//! Other metadata are extended attributes `user.<name>`, if both name and value can be an HTTP header.

use super::failure::{Failure, Result};
use blockstore::object::Object;
use std::collections::BTreeMap;

/// User metadata of an object, by name.
pub(super) type User = BTreeMap<String, String>;

/// Mode of a file whose object tells none.
pub(super) const FILE_MODE: u32 = 0o644;
/// Mode of a directory whose marker tells none.
pub(super) const DIRECTORY_MODE: u32 = 0o755;
/// What all user metadata of an object may take (S3 user guide, "User-defined object metadata").
const USER_BYTES_MAX: usize = 2048;

const MTIME: &str = "mtime";
const MODE: &str = "file-permissions";
/// How extended attributes that are metadata begin.
const PREFIX: &str = "user.";
const SECOND_NS: u64 = 1_000_000_000;

/// The time of modification an object tells of itself, nanoseconds since the Unix epoch; otherwise
/// when it was committed.
pub(super) fn modified_ns(object: &Object) -> u64 {
    let told = object.meta.user.get(MTIME).and_then(|text| parsed(text));
    told.unwrap_or_else(|| object.modified_ms.saturating_mul(1_000_000))
}

/// Only the time that metadata tell.
pub(super) fn told_ns(user: &User) -> Option<u64> {
    user.get(MTIME).and_then(|text| parsed(text))
}

fn parsed(text: &str) -> Option<u64> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if seconds.is_empty() || !digits(seconds) || !digits(fraction) {
        return None;
    }
    let nanoseconds = format!("{:0<9.9}", fraction).parse::<u64>().ok()?;
    let seconds = seconds.parse::<u64>().ok()?;
    seconds.checked_mul(SECOND_NS)?.checked_add(nanoseconds)
}

/// Sets the time of modification; `None`: it is when the bytes were committed.
pub(super) fn set_modified(user: &mut User, modified_ns: Option<u64>) {
    match modified_ns {
        Some(modified) => {
            let (seconds, rest) = (modified / SECOND_NS, modified % SECOND_NS);
            user.insert(MTIME.into(), format!("{seconds}.{rest:09}"));
        }
        None => {
            user.remove(MTIME);
        }
    }
}

/// The permission bits that metadata tell.
pub(super) fn mode(user: &User) -> Option<u32> {
    let text = user.get(MODE)?;
    u32::from_str_radix(text, 8).ok().map(|mode| mode & 0o777)
}

/// Sets the permission bits; those of every file need no metadata.
pub(super) fn set_mode(user: &mut User, mode: u32, usual: u32) {
    if mode & 0o777 == usual {
        user.remove(MODE);
    } else {
        user.insert(MODE.into(), format!("{:04o}", mode & 0o777));
    }
}

/// The extended attributes.
pub(super) fn attributes(user: &User) -> impl Iterator<Item = (String, &String)> {
    user.iter()
        .filter(|(name, _)| !reserved(name))
        .map(|(name, value)| (format!("{PREFIX}{name}"), value))
}

/// The metadata that the extended attribute `name` is.
pub(super) fn metadata_of(name: &str) -> Option<&str> {
    name.strip_prefix(PREFIX).filter(|name| !reserved(name))
}

/// Sets metadata as the extended attribute `name`.
pub(super) fn set_attribute(user: &mut User, name: &str, value: &[u8]) -> Result<()> {
    let unfit = || {
        Failure::Unsupported(
            "extended attributes are user metadata: user.NAME in lower case, the value printable ASCII",
        )
    };
    let name = metadata_of(name).ok_or_else(unfit)?;
    let token =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte);
    if name.is_empty() || !name.bytes().all(token) {
        return Err(unfit());
    }
    let printable = |byte: &u8| (b' '..=b'~').contains(byte);
    if !value.iter().all(printable) || value.first() == Some(&b' ') || value.last() == Some(&b' ') {
        return Err(unfit());
    }
    let value = String::from_utf8_lossy(value).into_owned();
    user.insert(name.into(), value);
    let taken: usize = user
        .iter()
        .map(|(name, value)| name.len() + value.len())
        .sum();
    if taken > USER_BYTES_MAX {
        return Err(Failure::AttributesFull);
    }
    Ok(())
}

fn reserved(name: &str) -> bool {
    name == MTIME || name == MODE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_come_back_to_the_nanosecond() {
        let mut user = User::new();
        for time in [0, 1, 999_999_999, 1_700_000_000_123_456_789] {
            set_modified(&mut user, Some(time));
            assert_eq!(told_ns(&user), Some(time), "{user:?}");
        }
        for (text, time) in [
            ("1700000000", Some(1_700_000_000_000_000_000)),
            ("1700000000.5", Some(1_700_000_000_500_000_000)),
            ("1.1234567899", Some(1_123_456_789)),
            ("", None),
            ("-1", None),
            ("x.5", None),
            ("99999999999999", None),
        ] {
            user.insert(MTIME.into(), text.into());
            assert_eq!(told_ns(&user), time, "{text:?}");
        }
    }

    #[test]
    fn only_unusual_modes_are_kept() {
        let mut user = User::new();
        set_mode(&mut user, 0o100_755, FILE_MODE);
        assert_eq!((mode(&user), user.len()), (Some(0o755), 1));
        set_mode(&mut user, 0o644, FILE_MODE);
        assert_eq!((mode(&user), user.len()), (None, 0));
    }

    #[test]
    fn an_attribute_that_is_no_header_is_refused() {
        let mut user = User::new();
        set_attribute(&mut user, "user.colour", b"sea green").unwrap();
        assert_eq!(user["colour"], "sea green");
        for (name, value) in [
            ("security.capability", &b"x"[..]),
            ("user.", b"x"),
            ("user.Caps", b"x"),
            ("user.a b", b"x"),
            ("user.mtime", b"x"),
            ("user.bin", b"\0\x01"),
            ("user.pad", b" x"),
        ] {
            assert!(set_attribute(&mut user, name, value).is_err(), "{name}");
        }
        assert!(set_attribute(&mut user, "user.long", &[b'x'; 2048]).is_err());
    }
}
