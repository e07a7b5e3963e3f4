//! The NBD wire format, both directions, without I/O.
//!
//! 1. Decoders take bytes and give values or a [`Malformed`]; no input makes them panic.
//! 2. They borrow from their input. What they allocate (lists) is bounded by the input's length,
//!    and the caller bounds that: [`numbers::OPTION_BYTES_MAX`], [`numbers::PAYLOAD_BYTES_MAX`].
//! 3. Every number is big-endian.
//!
//! The source is NBD's proto.md (github.com/NetworkBlockDevice/nbd, doc/proto.md); sections are
//! cited by name. One module per direction and phase:
//!
//! ```text
//!             client                        server
//! haggling    greeting ◄──────────────────  greeting
//!             client flags  ─────────────►  haggle
//!             option  ───────────────────►  haggle
//!             answer  ◄───────────────────  answer
//! transmission request ──────────────────►  request
//!             reply   ◄───────────────────  reply
//! ```

pub mod answer;
mod fields;
pub mod haggle;
pub mod numbers;
pub mod reply;
pub mod request;
#[cfg(test)]
mod tests;

use std::fmt;

/// Why bytes are not what they should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// The message ends before the field called `field` does.
    Short {
        /// Which field.
        field: &'static str,
    },
    /// Bytes are left over behind the last field.
    Long {
        /// How many.
        extra_bytes: usize,
    },
    /// The magic number is wrong.
    Magic {
        /// What should begin here.
        message: &'static str,
        /// The number found.
        found: u64,
    },
    /// A string is longer than 4096 bytes, not UTF-8, or has a NUL in it ("Conventions").
    Text {
        /// Which field.
        field: &'static str,
    },
    /// A value the protocol does not know, or forbids here.
    Value {
        /// Which field.
        field: &'static str,
        /// The value found.
        found: u64,
    },
}

impl fmt::Display for Malformed {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short { field } => write!(out, "the message ends within its {field}"),
            Self::Long { extra_bytes } => {
                write!(out, "{extra_bytes} bytes too many in the message")
            }
            Self::Magic { message, found } => write!(out, "no {message} begins with {found:#x}"),
            Self::Text { field } => {
                write!(
                    out,
                    "the {field} is not UTF-8 without NUL of at most {} bytes",
                    numbers::STRING_BYTES_MAX
                )
            }
            Self::Value { field, found } => write!(out, "{found:#x} is no {field}"),
        }
    }
}

impl std::error::Error for Malformed {}
