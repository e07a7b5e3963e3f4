//! Requests of the transmission phase (proto.md, "Request message", "Request types").

use super::Malformed;
use super::fields::Fields;
use super::numbers::{REQUEST_MAGIC, command_flag};

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Give bytes.
    Read,
    /// Take bytes: `length` of them follow the request.
    Write,
    /// Finish what is under way and close. Has no reply.
    Disconnect,
    /// Make everything answered so far durable.
    Flush,
    /// The range is no longer needed.
    Trim,
    /// The range will soon be read.
    Cache,
    /// Make the range read as zeroes.
    WriteZeroes,
    /// Tell what is allocated.
    BlockStatus,
    /// A command this codec does not know.
    Unknown(u16),
}

impl Command {
    fn from_number(number: u16) -> Self {
        match number {
            0 => Self::Read,
            1 => Self::Write,
            2 => Self::Disconnect,
            3 => Self::Flush,
            4 => Self::Trim,
            5 => Self::Cache,
            6 => Self::WriteZeroes,
            7 => Self::BlockStatus,
            other => Self::Unknown(other),
        }
    }

    fn number(self) -> u16 {
        match self {
            Self::Read => 0,
            Self::Write => 1,
            Self::Disconnect => 2,
            Self::Flush => 3,
            Self::Trim => 4,
            Self::Cache => 5,
            Self::WriteZeroes => 6,
            Self::BlockStatus => 7,
            Self::Unknown(number) => number,
        }
    }

    /// The command flags it may carry ("Command flags"): FUA on any, the others on their command.
    pub fn flags_allowed(self) -> u16 {
        let own = match self {
            Self::Read => command_flag::DF,
            Self::WriteZeroes => command_flag::NO_HOLE | command_flag::FAST_ZERO,
            Self::BlockStatus => command_flag::REQ_ONE,
            Self::Write
            | Self::Disconnect
            | Self::Flush
            | Self::Trim
            | Self::Cache
            | Self::Unknown(_) => 0,
        };
        own | command_flag::FUA
    }
}

/// A request, without its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Bits of [`command_flag`].
    pub flags: u16,
    /// What to do.
    pub command: Command,
    /// The client's name for the request; the reply carries it too.
    pub cookie: u64,
    /// First byte.
    pub offset: u64,
    /// How many bytes.
    pub length: u32,
}

impl Request {
    /// Bytes on the wire.
    pub const BYTES: usize = 28;

    /// A wrong magic is an error: the stream is out of step for good. Unknown commands and flags are
    /// values, to be answered with EINVAL.
    pub fn decode(bytes: &[u8; Self::BYTES]) -> Result<Self, Malformed> {
        let mut fields = Fields::new(bytes);
        let magic = fields.u32("magic")?;
        if magic != REQUEST_MAGIC {
            return Err(Malformed::Magic {
                message: "request",
                found: u64::from(magic),
            });
        }
        Ok(Self {
            flags: fields.u16("command flags")?,
            command: Command::from_number(fields.u16("command")?),
            cookie: fields.u64("cookie")?,
            offset: fields.u64("offset")?,
            length: fields.u32("length")?,
        })
    }

    /// The bytes on the wire.
    pub fn encode(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
        bytes[4..6].copy_from_slice(&self.flags.to_be_bytes());
        bytes[6..8].copy_from_slice(&self.command.number().to_be_bytes());
        bytes[8..16].copy_from_slice(&self.cookie.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.offset.to_be_bytes());
        bytes[24..].copy_from_slice(&self.length.to_be_bytes());
        bytes
    }

    /// Bytes of payload that follow on the wire.
    pub fn payload_bytes(&self) -> u32 {
        match self.command {
            Command::Write => self.length,
            _ => 0,
        }
    }

    /// Whether all bits of `flag` are set.
    pub fn has(&self, flag: u16) -> bool {
        self.flags & flag == flag
    }
}
