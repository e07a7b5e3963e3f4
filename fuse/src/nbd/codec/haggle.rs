//! What a client sends before transmission: its flags, then options (proto.md, "Handshake",
//! "Option types").

use super::Malformed;
use super::fields::Fields;
use super::numbers::{OPTION_MAGIC, STRING_BYTES_MAX, handshake};

/// The client's answer to the greeting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientFlags {
    /// It speaks fixed newstyle.
    pub fixed_newstyle: bool,
    /// It does not want the 124 zeroes after EXPORT_NAME.
    pub no_zeroes: bool,
}

impl ClientFlags {
    /// Bytes on the wire.
    pub const BYTES: usize = 4;

    /// Unknown flags are an error: the server must then close ("Client flags").
    pub fn decode(bytes: [u8; Self::BYTES]) -> Result<Self, Malformed> {
        let bits = u32::from_be_bytes(bytes);
        let known = u32::from(handshake::FIXED_NEWSTYLE | handshake::NO_ZEROES);
        if bits & !known != 0 {
            return Err(Malformed::Value {
                field: "set of client flags",
                found: u64::from(bits),
            });
        }
        Ok(Self {
            fixed_newstyle: bits & u32::from(handshake::FIXED_NEWSTYLE) != 0,
            no_zeroes: bits & u32::from(handshake::NO_ZEROES) != 0,
        })
    }

    /// The bytes on the wire.
    pub fn encode(self) -> [u8; Self::BYTES] {
        let fixed = if self.fixed_newstyle {
            handshake::FIXED_NEWSTYLE
        } else {
            0
        };
        let no_zeroes = if self.no_zeroes {
            handshake::NO_ZEROES
        } else {
            0
        };
        u32::from(fixed | no_zeroes).to_be_bytes()
    }
}

/// Which option, and how many bytes of data follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionHeader {
    /// The option's number.
    pub number: u32,
    /// Bytes of data behind the header.
    pub data_bytes: u32,
}

impl OptionHeader {
    /// Bytes on the wire.
    pub const BYTES: usize = 16;

    /// A wrong magic is an error: the stream is out of step for good.
    pub fn decode(bytes: &[u8; Self::BYTES]) -> Result<Self, Malformed> {
        let mut fields = Fields::new(bytes);
        let magic = fields.u64("magic")?;
        if magic != OPTION_MAGIC {
            return Err(Malformed::Magic {
                message: "option",
                found: magic,
            });
        }
        Ok(Self {
            number: fields.u32("option number")?,
            data_bytes: fields.u32("option length")?,
        })
    }

    /// The bytes on the wire.
    pub fn encode(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..8].copy_from_slice(&OPTION_MAGIC.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.number.to_be_bytes());
        bytes[12..].copy_from_slice(&self.data_bytes.to_be_bytes());
        bytes
    }
}

/// An option with its data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientOption<'a> {
    /// Choose an export and start, without a way to report errors.
    ExportName(&'a str),
    /// End the session.
    Abort,
    /// List the exports.
    List,
    /// Begin TLS.
    StartTls,
    /// Tell about an export.
    Info(InfoRequest<'a>),
    /// Tell about an export and start.
    Go(InfoRequest<'a>),
    /// Use structured replies.
    StructuredReply,
    /// List metadata contexts.
    ListMetaContext(ContextQuery<'a>),
    /// Choose metadata contexts.
    SetMetaContext(ContextQuery<'a>),
    /// Use extended headers (an experimental extension).
    ExtendedHeaders,
    /// An option this codec has no form for.
    Unknown(u32),
}

/// Data of INFO and GO.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InfoRequest<'a> {
    /// The export; empty is the default export.
    pub name: &'a str,
    /// Information types asked for.
    pub wanted: Vec<u16>,
}

/// Data of LIST_META_CONTEXT and SET_META_CONTEXT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContextQuery<'a> {
    /// The export.
    pub name: &'a str,
    /// Queries, each `namespace:leaf`.
    pub queries: Vec<&'a str>,
}

impl<'a> ClientOption<'a> {
    /// Decodes the data of option `number`. An unknown number is no error, whatever its data.
    pub fn decode(number: u32, data: &'a [u8]) -> Result<Self, Malformed> {
        let mut fields = Fields::new(data);
        let option = match number {
            1 => Self::ExportName(fields.text_to_end("export name")?),
            // "A server SHOULD ignore any data sent by the client" with ABORT.
            2 => return Ok(Self::Abort),
            3 => Self::List,
            5 => Self::StartTls,
            6 => Self::Info(InfoRequest::decode(&mut fields)?),
            7 => Self::Go(InfoRequest::decode(&mut fields)?),
            8 => Self::StructuredReply,
            9 => Self::ListMetaContext(ContextQuery::decode(&mut fields)?),
            10 => Self::SetMetaContext(ContextQuery::decode(&mut fields)?),
            11 => Self::ExtendedHeaders,
            unknown => return Ok(Self::Unknown(unknown)),
        };
        fields.end()?;
        Ok(option)
    }

    /// The option's number.
    pub fn number(&self) -> u32 {
        match self {
            Self::ExportName(_) => 1,
            Self::Abort => 2,
            Self::List => 3,
            Self::StartTls => 5,
            Self::Info(_) => 6,
            Self::Go(_) => 7,
            Self::StructuredReply => 8,
            Self::ListMetaContext(_) => 9,
            Self::SetMetaContext(_) => 10,
            Self::ExtendedHeaders => 11,
            Self::Unknown(number) => *number,
        }
    }

    /// Appends header and data to `out`; [`Malformed::Text`] for a name the protocol forbids.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), Malformed> {
        let mut data = Vec::new();
        match self {
            Self::ExportName(name) => {
                data.extend_from_slice(checked("export name", name)?.as_bytes());
            }
            Self::Info(request) | Self::Go(request) => {
                put_string(&mut data, "export name", request.name)?;
                let count = u16::try_from(request.wanted.len()).map_err(|_| Malformed::Value {
                    field: "count of information requests",
                    found: request.wanted.len() as u64,
                })?;
                data.extend_from_slice(&count.to_be_bytes());
                data.extend(request.wanted.iter().flat_map(|kind| kind.to_be_bytes()));
            }
            Self::ListMetaContext(query) | Self::SetMetaContext(query) => {
                put_string(&mut data, "export name", query.name)?;
                let count = u32::try_from(query.queries.len()).map_err(|_| Malformed::Value {
                    field: "count of queries",
                    found: query.queries.len() as u64,
                })?;
                data.extend_from_slice(&count.to_be_bytes());
                for text in &query.queries {
                    put_string(&mut data, "query", text)?;
                }
            }
            Self::Abort
            | Self::List
            | Self::StartTls
            | Self::StructuredReply
            | Self::ExtendedHeaders
            | Self::Unknown(_) => {}
        }
        let data_bytes = u32::try_from(data.len()).map_err(|_| Malformed::Value {
            field: "option length",
            found: data.len() as u64,
        })?;
        out.extend_from_slice(
            &OptionHeader {
                number: self.number(),
                data_bytes,
            }
            .encode(),
        );
        out.extend_from_slice(&data);
        Ok(())
    }
}

impl<'a> InfoRequest<'a> {
    fn decode(fields: &mut Fields<'a>) -> Result<Self, Malformed> {
        let length = fields.u32("length of the export name")?;
        let name = fields.text("export name", length)?;
        let count = fields.u16("count of information requests")?;
        // Taken whole before the list is made, so that a count cannot ask for more than was sent.
        let list = fields.bytes("information requests", usize::from(count) * 2)?;
        let wanted = list
            .chunks_exact(2)
            .map(|pair| u16::from_be_bytes([pair[0], pair[1]]))
            .collect();
        Ok(Self { name, wanted })
    }

    /// Whether information of type `kind` was asked for.
    pub fn wants(&self, kind: u16) -> bool {
        self.wanted.contains(&kind)
    }
}

impl<'a> ContextQuery<'a> {
    fn decode(fields: &mut Fields<'a>) -> Result<Self, Malformed> {
        let length = fields.u32("length of the export name")?;
        let name = fields.text("export name", length)?;
        let count = fields.u32("count of queries")?;
        // Each query takes at least its length field, whatever the count claims.
        let mut queries = Vec::with_capacity(
            (fields.left() / 4).min(usize::try_from(count).unwrap_or(usize::MAX)),
        );
        for _ in 0..count {
            let length = fields.u32("length of a query")?;
            queries.push(fields.text("query", length)?);
        }
        Ok(Self { name, queries })
    }
}

fn checked<'t>(field: &'static str, text: &'t str) -> Result<&'t str, Malformed> {
    if text.len() > STRING_BYTES_MAX || text.contains('\0') {
        return Err(Malformed::Text { field });
    }
    Ok(text)
}

fn put_string(data: &mut Vec<u8>, field: &'static str, text: &str) -> Result<(), Malformed> {
    let bytes = checked(field, text)?.as_bytes();
    // At most STRING_BYTES_MAX, which fits.
    data.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
    data.extend_from_slice(bytes);
    Ok(())
}
