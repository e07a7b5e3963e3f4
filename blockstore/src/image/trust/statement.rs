//! What is signed: a short text that names an image and, if it is to end, when.
//!
//! ```text
//! infall-image@v1
//! image img-<64 hex>
//! valid-until 2027-01-01T00:00:00Z          (this line or not)
//! ```
//! 1. There is one way to write a statement: two texts that differ say different things, and every line
//!    ends in a line feed.
//! 2. Times are UTC and whole seconds. A statement is valid before `valid-until`, not at it.

use super::NAMESPACE;
use crate::image::digest::ID_PREFIX;
use crate::{Error, Kind, Result, Subject};
use jiff::Timestamp;

/// Longer than any statement.
const TEXT_BYTES_MAX: usize = 256;
/// Hexadecimal digits of an id.
const ID_DIGITS: usize = 64;

/// A statement that a signer makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    image: String,
    until: Option<Timestamp>,
}

impl Statement {
    /// That the image with this whole id is good, until a time (milliseconds since the Unix epoch, whole
    /// seconds of which count) or for ever.
    pub fn new(image: &str, until_ms: Option<u64>) -> Result<Self> {
        let digits = image.strip_prefix(ID_PREFIX).unwrap_or_default();
        let hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if digits.len() != ID_DIGITS || !digits.bytes().all(hex) {
            return Err(invalid(format!(
                "a statement names an image by its whole id, {ID_PREFIX} and {ID_DIGITS} hexadecimal digits; {image:?} is none"
            )));
        }
        let until = until_ms.map(|milliseconds| {
            let seconds = i64::try_from(milliseconds / 1000).unwrap_or(i64::MAX);
            Timestamp::from_second(seconds).map_err(|cause| {
                invalid(format!("{milliseconds} ms is no time that can be written")).because(cause)
            })
        });
        Ok(Self {
            image: image.into(),
            until: until.transpose()?,
        })
    }

    /// Reads one; Invalid unless it is written exactly as [`Self::text`] writes it.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = |what: &str| {
            Err(invalid(format!(
                "{what}: a statement is what `infall image statement` prints, unchanged"
            )))
        };
        if text.len() > TEXT_BYTES_MAX {
            return wrong(&format!("it has {} bytes", text.len()));
        }
        let mut lines = text.split_terminator('\n');
        if lines.next() != Some(NAMESPACE) {
            return wrong(&format!("its first line is not {NAMESPACE:?}"));
        }
        let Some(image) = lines.next().and_then(|line| line.strip_prefix("image ")) else {
            return wrong("its second line names no image");
        };
        let until_ms = match lines.next() {
            None => None,
            Some(line) => {
                let time = line.strip_prefix("valid-until ");
                let time = time.and_then(|time| time.parse::<Timestamp>().ok());
                match time.and_then(|time| u64::try_from(time.as_millisecond()).ok()) {
                    Some(milliseconds) => Some(milliseconds),
                    None => return wrong("its third line is no \"valid-until\" with a time"),
                }
            }
        };
        let statement = Self::new(image, until_ms)?;
        if statement.text() != text {
            return wrong("it is not written as the program writes it");
        }
        Ok(statement)
    }

    /// The bytes that are signed.
    pub fn text(&self) -> String {
        let mut text = format!("{NAMESPACE}\nimage {}\n", self.image);
        if let Some(until) = self.until {
            text.push_str(&format!("valid-until {until}\n"));
        }
        text
    }

    /// The image's whole id.
    pub fn image(&self) -> &str {
        &self.image
    }

    /// When it ends, milliseconds since the Unix epoch.
    pub fn until_ms(&self) -> Option<u64> {
        let until = self.until?;
        Some(u64::try_from(until.as_millisecond()).unwrap_or_default())
    }
}

fn invalid(text: impl Into<String>) -> Error {
    Error::new(Kind::Invalid, Subject::Image, text)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn id() -> String {
        format!("img-{}", "ab".repeat(32))
    }

    #[test]
    fn a_statement_comes_back_from_its_text() {
        for until_ms in [None, Some(0), Some(1_798_761_600_000)] {
            let statement = Statement::new(&id(), until_ms).unwrap();
            let read = Statement::parse(&statement.text()).unwrap();
            assert_eq!(read, statement);
            assert_eq!((read.image(), read.until_ms()), (id().as_str(), until_ms));
        }
        let text = Statement::new(&id(), Some(1_798_761_600_999))
            .unwrap()
            .text();
        assert!(
            text.ends_with("valid-until 2027-01-01T00:00:00Z\n"),
            "{text}"
        );
    }

    #[test]
    fn there_is_one_way_to_write_a_statement() {
        let id = id();
        for text in [
            String::new(),
            format!("infall-image@v2\nimage {id}\n"),
            format!("infall-image@v1\nimage {id}"),
            format!("infall-image@v1\r\nimage {id}\r\n"),
            format!("infall-image@v1\nimage {id}\n\n"),
            format!("infall-image@v1\nimage {id}\n\u{feff}"),
            format!("infall-image@v1\nimage {}\n", &id[..20]),
            format!("infall-image@v1\nimage {}\n", id.to_uppercase()),
            format!("infall-image@v1\nimage  {id}\n"),
            format!("infall-image@v1\nimage {id}\nvalid-until 2027-01-01\n"),
            format!("infall-image@v1\nimage {id}\nvalid-until 2027-01-01T01:00:00+01:00\n"),
            format!("infall-image@v1\nimage {id}\nvalid-until 2027-01-01T00:00:00.5Z\n"),
            format!("infall-image@v1\nimage {id}\nvalid-until 1960-01-01T00:00:00Z\n"),
            format!("infall-image@v1\nimage {id}\nvalid-until 2027-01-01T00:00:00Z\nand more\n"),
            "x".repeat(100_000),
        ] {
            let error = Statement::parse(&text).unwrap_err();
            assert_eq!(error.kind(), Kind::Invalid, "{text:?}");
        }
    }
}
