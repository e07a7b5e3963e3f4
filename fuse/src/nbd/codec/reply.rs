//! Replies of the transmission phase (proto.md, "Simple reply message", "Structured reply chunk
//! message", "Structured reply types").
//!
//! A READ's data is not handled here: its header is made by [`data_header`] and put before the
//! bytes where they lie.

use super::Malformed;
use super::answer::shortened;
use super::fields::Fields;
use super::numbers::{CHUNK_MAGIC, DESCRIPTORS_MAX, Errno, SIMPLE_REPLY_MAGIC};

/// Success or one error, without text. For a READ without structured replies, the data follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SimpleReply {
    /// The request's cookie.
    pub cookie: u64,
    /// What went wrong, if anything.
    pub error: Option<Errno>,
}

impl SimpleReply {
    /// Bytes on the wire.
    pub const BYTES: usize = 16;

    /// The bytes on the wire.
    pub fn encode(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..4].copy_from_slice(&SIMPLE_REPLY_MAGIC.to_be_bytes());
        bytes[4..8].copy_from_slice(&self.error.map_or(0, Errno::number).to_be_bytes());
        bytes[8..].copy_from_slice(&self.cookie.to_be_bytes());
        bytes
    }

    /// The bytes on the wire.
    pub fn decode(bytes: &[u8; Self::BYTES]) -> Result<Self, Malformed> {
        let mut fields = Fields::new(bytes);
        let magic = fields.u32("magic")?;
        if magic != SIMPLE_REPLY_MAGIC {
            return Err(Malformed::Magic {
                message: "simple reply",
                found: u64::from(magic),
            });
        }
        let error = match fields.u32("error")? {
            0 => None,
            number => Some(Errno::from_number(number)),
        };
        Ok(Self {
            cookie: fields.u64("cookie")?,
            error,
        })
    }
}

/// A run of one status in a block status chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// Bytes; never zero.
    pub length: u32,
    /// For base:allocation, bits of [`super::numbers::allocation`].
    pub status: u32,
}

/// A chunk of a structured reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chunk<'a> {
    /// Nothing more to say; always the last.
    None,
    /// Bytes of the export.
    OffsetData {
        /// Of the first byte, from the start of the export.
        offset: u64,
        /// At least one byte.
        data: &'a [u8],
    },
    /// Zeroes of the export.
    OffsetHole {
        /// Of the first byte, from the start of the export.
        offset: u64,
        /// How many; never zero.
        length: u32,
    },
    /// What is allocated, from the request's offset on.
    BlockStatus {
        /// Id of the metadata context.
        context: u32,
        /// At least one.
        descriptors: Vec<Descriptor>,
    },
    /// The request failed.
    Error {
        /// How.
        errno: Errno,
        /// The same for people; may be empty.
        message: &'a str,
    },
    /// The request failed at an offset.
    ErrorOffset {
        /// How.
        errno: Errno,
        /// The same for people; may be empty.
        message: &'a str,
        /// Where.
        offset: u64,
    },
}

/// What comes before a chunk's payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkHeader {
    /// Whether it is the reply's last.
    pub done: bool,
    /// The chunk's type.
    pub kind: u16,
    /// The request's cookie.
    pub cookie: u64,
    /// Bytes of payload behind the header.
    pub payload_bytes: u32,
}

const DONE: u16 = 1;
const NONE: u16 = 0;
const OFFSET_DATA: u16 = 1;
const OFFSET_HOLE: u16 = 2;
const BLOCK_STATUS: u16 = 5;
const ERROR: u16 = (1 << 15) + 1;
const ERROR_OFFSET: u16 = (1 << 15) + 2;

impl ChunkHeader {
    /// Bytes on the wire.
    pub const BYTES: usize = 20;

    /// The bytes on the wire.
    pub fn encode(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..4].copy_from_slice(&CHUNK_MAGIC.to_be_bytes());
        bytes[4..6].copy_from_slice(&(if self.done { DONE } else { 0 }).to_be_bytes());
        bytes[6..8].copy_from_slice(&self.kind.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.cookie.to_be_bytes());
        bytes[16..].copy_from_slice(&self.payload_bytes.to_be_bytes());
        bytes
    }

    /// The bytes on the wire. Unknown flags are ignored, as the protocol asks of clients.
    pub fn decode(bytes: &[u8; Self::BYTES]) -> Result<Self, Malformed> {
        let mut fields = Fields::new(bytes);
        let magic = fields.u32("magic")?;
        if magic != CHUNK_MAGIC {
            return Err(Malformed::Magic {
                message: "structured reply chunk",
                found: u64::from(magic),
            });
        }
        Ok(Self {
            done: fields.u16("reply flags")? & DONE != 0,
            kind: fields.u16("chunk type")?,
            cookie: fields.u64("cookie")?,
            payload_bytes: fields.u32("payload length")?,
        })
    }
}

/// Bytes of [`data_header`].
pub const DATA_HEADER_BYTES: usize = ChunkHeader::BYTES + 8;

/// What comes before `data_bytes` bytes of an OFFSET_DATA chunk, which begin at `offset` of the
/// export. `data_bytes` is at most `u32::MAX - 8`.
pub fn data_header(
    cookie: u64,
    offset: u64,
    data_bytes: u32,
    done: bool,
) -> [u8; DATA_HEADER_BYTES] {
    let mut bytes = [0; DATA_HEADER_BYTES];
    let header = ChunkHeader {
        done,
        kind: OFFSET_DATA,
        cookie,
        payload_bytes: data_bytes + 8,
    };
    bytes[..ChunkHeader::BYTES].copy_from_slice(&header.encode());
    bytes[ChunkHeader::BYTES..].copy_from_slice(&offset.to_be_bytes());
    bytes
}

/// An OFFSET_HOLE chunk whole: `length` zeroes at `offset` of the export.
pub fn hole_chunk(cookie: u64, offset: u64, length: u32, done: bool) -> [u8; HOLE_CHUNK_BYTES] {
    let mut bytes = [0; HOLE_CHUNK_BYTES];
    let header = ChunkHeader {
        done,
        kind: OFFSET_HOLE,
        cookie,
        payload_bytes: 12,
    };
    bytes[..ChunkHeader::BYTES].copy_from_slice(&header.encode());
    bytes[ChunkHeader::BYTES..ChunkHeader::BYTES + 8].copy_from_slice(&offset.to_be_bytes());
    bytes[ChunkHeader::BYTES + 8..].copy_from_slice(&length.to_be_bytes());
    bytes
}

/// Bytes of [`hole_chunk`].
pub const HOLE_CHUNK_BYTES: usize = ChunkHeader::BYTES + 12;

impl<'a> Chunk<'a> {
    /// Appends header and payload to `out`. `None` is always marked as the last. Messages are cut to
    /// what a string may hold; data and descriptors must fit the protocol's lengths.
    pub fn encode(&self, cookie: u64, done: bool, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&[0; ChunkHeader::BYTES]);
        let mut done = done;
        let kind = match self {
            Self::None => {
                done = true;
                NONE
            }
            Self::OffsetData { offset, data } => {
                out.extend_from_slice(&offset.to_be_bytes());
                out.extend_from_slice(data);
                OFFSET_DATA
            }
            Self::OffsetHole { offset, length } => {
                out.extend_from_slice(&offset.to_be_bytes());
                out.extend_from_slice(&length.to_be_bytes());
                OFFSET_HOLE
            }
            Self::BlockStatus {
                context,
                descriptors,
            } => {
                out.extend_from_slice(&context.to_be_bytes());
                for descriptor in descriptors {
                    out.extend_from_slice(&descriptor.length.to_be_bytes());
                    out.extend_from_slice(&descriptor.status.to_be_bytes());
                }
                BLOCK_STATUS
            }
            Self::Error { errno, message } => {
                put_error(out, *errno, message);
                ERROR
            }
            Self::ErrorOffset {
                errno,
                message,
                offset,
            } => {
                put_error(out, *errno, message);
                out.extend_from_slice(&offset.to_be_bytes());
                ERROR_OFFSET
            }
        };
        let payload_bytes = out.len() - start - ChunkHeader::BYTES;
        assert!(
            payload_bytes <= u32::MAX as usize,
            "a chunk of {payload_bytes} bytes"
        );
        let header = ChunkHeader {
            done,
            kind,
            cookie,
            payload_bytes: payload_bytes as u32,
        };
        out[start..start + ChunkHeader::BYTES].copy_from_slice(&header.encode());
    }

    /// Decodes the payload of a chunk of type `kind`.
    pub fn decode(kind: u16, payload: &'a [u8]) -> Result<Self, Malformed> {
        let mut fields = Fields::new(payload);
        let chunk = match kind {
            NONE => Self::None,
            OFFSET_DATA => {
                let offset = fields.u64("offset")?;
                match fields.take_rest() {
                    [] => return Err(Malformed::Short { field: "data" }),
                    data => Self::OffsetData { offset, data },
                }
            }
            OFFSET_HOLE => {
                let offset = fields.u64("offset")?;
                Self::OffsetHole {
                    offset,
                    length: nonzero("hole size", fields.u32("hole size")?)?,
                }
            }
            BLOCK_STATUS => {
                let context = fields.u32("context id")?;
                if fields.left() == 0 {
                    return Err(Malformed::Short {
                        field: "descriptors",
                    });
                }
                let count = fields.left() / 8;
                if count > DESCRIPTORS_MAX {
                    return Err(Malformed::Value {
                        field: "count of descriptors",
                        found: count as u64,
                    });
                }
                let mut descriptors = Vec::with_capacity(count);
                while fields.left() > 0 {
                    let length = nonzero("extent length", fields.u32("extent length")?)?;
                    descriptors.push(Descriptor {
                        length,
                        status: fields.u32("status flags")?,
                    });
                }
                Self::BlockStatus {
                    context,
                    descriptors,
                }
            }
            ERROR => {
                let (errno, message) = take_error(&mut fields)?;
                Self::Error { errno, message }
            }
            ERROR_OFFSET => {
                let (errno, message) = take_error(&mut fields)?;
                Self::ErrorOffset {
                    errno,
                    message,
                    offset: fields.u64("offset")?,
                }
            }
            other => {
                return Err(Malformed::Value {
                    field: "chunk type",
                    found: u64::from(other),
                });
            }
        };
        fields.end()?;
        Ok(chunk)
    }
}

fn nonzero(field: &'static str, value: u32) -> Result<u32, Malformed> {
    if value == 0 {
        Err(Malformed::Value { field, found: 0 })
    } else {
        Ok(value)
    }
}

fn put_error(out: &mut Vec<u8>, errno: Errno, message: &str) {
    let message = shortened(message);
    out.extend_from_slice(&errno.number().to_be_bytes());
    // At most STRING_BYTES_MAX, which fits.
    out.extend_from_slice(&(message.len() as u16).to_be_bytes());
    out.extend_from_slice(message.as_bytes());
}

fn take_error<'a>(fields: &mut Fields<'a>) -> Result<(Errno, &'a str), Malformed> {
    let errno = Errno::from_number(nonzero("error", fields.u32("error")?)?);
    let length = u32::from(fields.u16("message length")?);
    Ok((errno, fields.text("message", length)?))
}
