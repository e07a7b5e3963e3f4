//! What a server sends before transmission: its greeting, then answers to options (proto.md,
//! "Handshake", "Option reply types").

use super::Malformed;
use super::fields::Fields;
use super::numbers::{ANSWER_MAGIC, GREETING_MAGIC, OPTION_MAGIC, STRING_BYTES_MAX, info};

/// The server's first message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// Bits of [`super::numbers::handshake`].
    pub flags: u16,
}

impl Greeting {
    /// Bytes on the wire.
    pub const BYTES: usize = 18;

    /// The bytes on the wire.
    pub fn encode(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..8].copy_from_slice(&GREETING_MAGIC.to_be_bytes());
        bytes[8..16].copy_from_slice(&OPTION_MAGIC.to_be_bytes());
        bytes[16..].copy_from_slice(&self.flags.to_be_bytes());
        bytes
    }

    /// The greeting of a newstyle server; an oldstyle one is an error.
    pub fn decode(bytes: &[u8; Self::BYTES]) -> Result<Self, Malformed> {
        let mut fields = Fields::new(bytes);
        for expected in [GREETING_MAGIC, OPTION_MAGIC] {
            let found = fields.u64("magic")?;
            if found != expected {
                return Err(Malformed::Magic {
                    message: "newstyle greeting",
                    found,
                });
            }
        }
        Ok(Self {
            flags: fields.u16("handshake flags")?,
        })
    }
}

/// What EXPORT_NAME and `info::EXPORT` tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExportInfo {
    /// Visible bytes.
    pub length_bytes: u64,
    /// Bits of [`super::numbers::transmission`].
    pub flags: u16,
}

/// The zeroes behind the answer to EXPORT_NAME, unless the client does without.
pub const PADDING: [u8; 124] = [0; 124];

impl ExportInfo {
    /// Bytes of the answer to EXPORT_NAME, without [`PADDING`].
    pub const BYTES: usize = 10;

    /// The answer to EXPORT_NAME, without [`PADDING`].
    pub fn encode(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..8].copy_from_slice(&self.length_bytes.to_be_bytes());
        bytes[8..].copy_from_slice(&self.flags.to_be_bytes());
        bytes
    }

    /// The answer to EXPORT_NAME, without [`PADDING`].
    pub fn decode(bytes: &[u8; Self::BYTES]) -> Result<Self, Malformed> {
        let mut fields = Fields::new(bytes);
        Ok(Self {
            length_bytes: fields.u64("export size")?,
            flags: fields.u16("transmission flags")?,
        })
    }
}

/// Why an option is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Refusal {
    /// The option is not known.
    Unsupported = (1 << 31) + 1,
    /// It is known but not allowed.
    Policy = (1 << 31) + 2,
    /// It makes no sense.
    Invalid = (1 << 31) + 3,
    /// Not on this platform.
    Platform = (1 << 31) + 4,
    /// TLS first.
    TlsRequired = (1 << 31) + 5,
    /// The export is not available.
    UnknownExport = (1 << 31) + 6,
    /// The server is shutting down.
    Shutdown = (1 << 31) + 7,
    /// The client must ask for block sizes first.
    BlockSizeRequired = (1 << 31) + 8,
    /// The request or the answer is too large.
    TooBig = (1 << 31) + 9,
}

impl Refusal {
    const ALL: [Self; 9] = [
        Self::Unsupported,
        Self::Policy,
        Self::Invalid,
        Self::Platform,
        Self::TlsRequired,
        Self::UnknownExport,
        Self::Shutdown,
        Self::BlockSizeRequired,
        Self::TooBig,
    ];
}

/// One answer to an option. LIST, INFO, GO and the context options get several, the last of which is
/// `Ack` or `Refused`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer<'a> {
    /// Accepted, and the end of the answers.
    Ack,
    /// An export.
    Server {
        /// Its name.
        name: &'a str,
        /// What it is, for people; may be empty.
        description: &'a str,
    },
    /// Size and flags of the export.
    Export(ExportInfo),
    /// Its canonical name.
    Name(&'a str),
    /// What it is, for people.
    Description(&'a str),
    /// Block sizes in bytes.
    BlockSize {
        /// Smallest unit and alignment of requests.
        minimum: u32,
        /// Smallest efficient unit.
        preferred: u32,
        /// Largest payload.
        maximum: u32,
    },
    /// Information of a type this codec has no form for.
    OtherInfo(u16),
    /// A metadata context.
    MetaContext {
        /// Its id in this session.
        id: u32,
        /// Its name.
        name: &'a str,
    },
    /// Refused, and the end of the answers.
    Refused {
        /// Why.
        refusal: Refusal,
        /// The same for people; may be empty.
        message: &'a str,
    },
}

/// Which option an answer belongs to, its type, and how many bytes of data follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnswerHeader {
    /// The option's number.
    pub option: u32,
    /// The answer's type.
    pub kind: u32,
    /// Bytes of data behind the header.
    pub data_bytes: u32,
}

impl AnswerHeader {
    /// Bytes on the wire.
    pub const BYTES: usize = 20;

    /// The header of an answer.
    pub fn decode(bytes: &[u8; Self::BYTES]) -> Result<Self, Malformed> {
        let mut fields = Fields::new(bytes);
        let found = fields.u64("magic")?;
        if found != ANSWER_MAGIC {
            return Err(Malformed::Magic {
                message: "answer to an option",
                found,
            });
        }
        Ok(Self {
            option: fields.u32("option number")?,
            kind: fields.u32("answer type")?,
            data_bytes: fields.u32("answer length")?,
        })
    }

    /// The bytes on the wire.
    pub fn encode(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..8].copy_from_slice(&ANSWER_MAGIC.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.option.to_be_bytes());
        bytes[12..16].copy_from_slice(&self.kind.to_be_bytes());
        bytes[16..].copy_from_slice(&self.data_bytes.to_be_bytes());
        bytes
    }
}

const ACK: u32 = 1;
const SERVER: u32 = 2;
const INFO: u32 = 3;
const META_CONTEXT: u32 = 4;

impl<'a> Answer<'a> {
    /// Appends the answer to option number `option`, header and all. Messages are cut to what a
    /// string may hold.
    pub fn encode(&self, option: u32, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&[0; AnswerHeader::BYTES]);
        let kind = match *self {
            Self::Ack => ACK,
            Self::Server { name, description } => {
                let name = shortened(name);
                out.extend_from_slice(&(name.len() as u32).to_be_bytes());
                out.extend_from_slice(name.as_bytes());
                out.extend_from_slice(shortened(description).as_bytes());
                SERVER
            }
            Self::Export(export) => {
                out.extend_from_slice(&info::EXPORT.to_be_bytes());
                out.extend_from_slice(&export.encode());
                INFO
            }
            Self::Name(text) => put_text_info(out, info::NAME, text),
            Self::Description(text) => put_text_info(out, info::DESCRIPTION, text),
            Self::BlockSize {
                minimum,
                preferred,
                maximum,
            } => {
                out.extend_from_slice(&info::BLOCK_SIZE.to_be_bytes());
                out.extend(
                    [minimum, preferred, maximum]
                        .iter()
                        .flat_map(|size| size.to_be_bytes()),
                );
                INFO
            }
            Self::OtherInfo(kind) => {
                out.extend_from_slice(&kind.to_be_bytes());
                INFO
            }
            Self::MetaContext { id, name } => {
                out.extend_from_slice(&id.to_be_bytes());
                out.extend_from_slice(shortened(name).as_bytes());
                META_CONTEXT
            }
            Self::Refused { refusal, message } => {
                out.extend_from_slice(shortened(message).as_bytes());
                refusal as u32
            }
        };
        // Two strings and a few numbers at most.
        let data_bytes = (out.len() - start - AnswerHeader::BYTES) as u32;
        out[start..start + AnswerHeader::BYTES].copy_from_slice(
            &AnswerHeader {
                option,
                kind,
                data_bytes,
            }
            .encode(),
        );
    }

    /// Decodes the data of an answer of type `kind`.
    pub fn decode(kind: u32, data: &'a [u8]) -> Result<Self, Malformed> {
        let mut fields = Fields::new(data);
        let answer = match kind {
            ACK => Self::Ack,
            SERVER => {
                let length = fields.u32("length of the export name")?;
                let name = fields.text("export name", length)?;
                Self::Server {
                    name,
                    description: fields.text_to_end("description")?,
                }
            }
            INFO => match fields.u16("information type")? {
                info::EXPORT => Self::Export(ExportInfo {
                    length_bytes: fields.u64("export size")?,
                    flags: fields.u16("transmission flags")?,
                }),
                info::NAME => Self::Name(fields.text_to_end("export name")?),
                info::DESCRIPTION => Self::Description(fields.text_to_end("description")?),
                info::BLOCK_SIZE => Self::BlockSize {
                    minimum: fields.u32("minimum block size")?,
                    preferred: fields.u32("preferred block size")?,
                    maximum: fields.u32("maximum payload size")?,
                },
                other => {
                    fields.take_rest();
                    Self::OtherInfo(other)
                }
            },
            META_CONTEXT => Self::MetaContext {
                id: fields.u32("context id")?,
                name: fields.text_to_end("context name")?,
            },
            other => {
                let refusal = Refusal::ALL
                    .into_iter()
                    .find(|refusal| *refusal as u32 == other)
                    .ok_or(Malformed::Value {
                        field: "answer type",
                        found: u64::from(other),
                    })?;
                Self::Refused {
                    refusal,
                    message: fields.text_to_end("message")?,
                }
            }
        };
        fields.end()?;
        Ok(answer)
    }
}

fn put_text_info(out: &mut Vec<u8>, kind: u16, text: &str) -> u32 {
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(shortened(text).as_bytes());
    INFO
}

/// As much of `text` as a string of the protocol may hold: up to a NUL, and not over 4096 bytes.
pub(super) fn shortened(text: &str) -> &str {
    let text = text.split('\0').next().unwrap_or_default();
    &text[..text.floor_char_boundary(STRING_BYTES_MAX)]
}
