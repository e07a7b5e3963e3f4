//! Fields of a message, taken off a slice one by one.

use super::Malformed;
use super::numbers::STRING_BYTES_MAX;

/// What is left of a message.
pub(super) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(super) fn new(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    pub(super) fn bytes(
        &mut self,
        field: &'static str,
        count: usize,
    ) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self
            .rest
            .split_at_checked(count)
            .ok_or(Malformed::Short { field })?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self
            .rest
            .split_first_chunk()
            .ok_or(Malformed::Short { field })?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(super) fn u16(&mut self, field: &'static str) -> Result<u16, Malformed> {
        self.array(field).map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self, field: &'static str) -> Result<u32, Malformed> {
        self.array(field).map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self, field: &'static str) -> Result<u64, Malformed> {
        self.array(field).map(u64::from_be_bytes)
    }

    /// A string of `count` bytes.
    pub(super) fn text(&mut self, field: &'static str, count: u32) -> Result<&'a str, Malformed> {
        // On a 32-bit machine a count beyond usize is beyond the message as well.
        let count = usize::try_from(count).map_err(|_| Malformed::Short { field })?;
        text(field, self.bytes(field, count)?)
    }

    /// All that is left, as a string.
    pub(super) fn text_to_end(&mut self, field: &'static str) -> Result<&'a str, Malformed> {
        text(field, self.take_rest())
    }

    pub(super) fn take_rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    pub(super) fn left(&self) -> usize {
        self.rest.len()
    }

    /// Nothing may be left.
    pub(super) fn end(self) -> Result<(), Malformed> {
        match self.rest.len() {
            0 => Ok(()),
            extra_bytes => Err(Malformed::Long { extra_bytes }),
        }
    }
}

fn text<'a>(field: &'static str, bytes: &'a [u8]) -> Result<&'a str, Malformed> {
    match std::str::from_utf8(bytes) {
        Ok(text) if bytes.len() <= STRING_BYTES_MAX && !bytes.contains(&0) => Ok(text),
        _ => Err(Malformed::Text { field }),
    }
}
