//! The protocol's numbers (proto.md, "Values"), and the bounds we put on what it leaves open.

/// First magic of the server's greeting, `NBDMAGIC`.
pub const GREETING_MAGIC: u64 = 0x4e42_444d_4147_4943;
/// Magic of newstyle and of every option, `IHAVEOPT`.
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// Magic of an answer to an option.
pub const ANSWER_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// Magic of a transmission request.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// Magic of a simple reply.
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// Magic of a structured reply chunk.
pub const CHUNK_MAGIC: u32 = 0x668e_33ef;

/// Longest string of the protocol ("Conventions").
pub const STRING_BYTES_MAX: usize = 4096;
/// Longest option data we take; more is drained and answered with ERR_TOO_BIG.
pub const OPTION_BYTES_MAX: u32 = 64 << 10;
/// Largest payload of a request or a reply, as advertised ("Size constraints").
pub const PAYLOAD_BYTES_MAX: u32 = 32 << 20;
/// Most descriptors decoded from one block status chunk ("Structured reply types").
pub const DESCRIPTORS_MAX: usize = 1 << 20;

/// Handshake flags, sent by the server; the client answers with the same bits.
pub mod handshake {
    /// Fixed newstyle is spoken.
    pub const FIXED_NEWSTYLE: u16 = 1 << 0;
    /// The 124 zeroes after EXPORT_NAME can be left out.
    pub const NO_ZEROES: u16 = 1 << 1;
}

/// Transmission flags: what an export can do.
pub mod transmission {
    /// Always set.
    pub const HAS_FLAGS: u16 = 1 << 0;
    /// Writes are refused.
    pub const READ_ONLY: u16 = 1 << 1;
    /// FLUSH is understood.
    pub const SEND_FLUSH: u16 = 1 << 2;
    /// The FUA command flag is understood.
    pub const SEND_FUA: u16 = 1 << 3;
    /// TRIM is understood.
    pub const SEND_TRIM: u16 = 1 << 5;
    /// WRITE_ZEROES is understood.
    pub const SEND_WRITE_ZEROES: u16 = 1 << 6;
    /// The DF command flag is understood; only with structured replies.
    pub const SEND_DF: u16 = 1 << 7;
    /// FLUSH and FUA hold across all connections.
    pub const CAN_MULTI_CONN: u16 = 1 << 8;
    /// CACHE is understood.
    pub const SEND_CACHE: u16 = 1 << 10;
    /// The FAST_ZERO command flag is understood.
    pub const SEND_FAST_ZERO: u16 = 1 << 11;
}

/// Command flags of a request.
pub mod command_flag {
    /// Answer only once the written data is durable.
    pub const FUA: u16 = 1 << 0;
    /// WRITE_ZEROES shall not make a hole.
    pub const NO_HOLE: u16 = 1 << 1;
    /// READ shall be answered in one content chunk.
    pub const DF: u16 = 1 << 2;
    /// BLOCK_STATUS shall give one descriptor.
    pub const REQ_ONE: u16 = 1 << 3;
    /// WRITE_ZEROES shall fail at once if it is no faster than a write.
    pub const FAST_ZERO: u16 = 1 << 4;
}

/// States of base:allocation ("`base:allocation` metadata context").
pub mod allocation {
    /// Its name.
    pub const NAME: &str = "base:allocation";
    /// The namespace's wildcard.
    pub const WILDCARD: &str = "base:";
    /// Nothing is stored for the extent.
    pub const HOLE: u32 = 1 << 0;
    /// The extent reads as zeroes.
    pub const ZERO: u32 = 1 << 1;
}

/// Information types of INFO and GO.
pub mod info {
    /// Size and transmission flags; always sent.
    pub const EXPORT: u16 = 0;
    /// The canonical name.
    pub const NAME: u16 = 1;
    /// A description for people.
    pub const DESCRIPTION: u16 = 2;
    /// Minimum, preferred and maximum block size.
    pub const BLOCK_SIZE: u16 = 3;
}

/// Error values of a reply ("Error values").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Errno {
    /// Operation not permitted.
    Perm = 1,
    /// Input/output error.
    Io = 5,
    /// Cannot allocate memory.
    NoMem = 12,
    /// Invalid argument.
    Inval = 22,
    /// No space left on device.
    NoSpc = 28,
    /// Value too large.
    Overflow = 75,
    /// Operation not supported.
    NotSup = 95,
    /// The server is shutting down: the client must disconnect.
    Shutdown = 108,
}

impl Errno {
    /// The number on the wire.
    pub fn number(self) -> u32 {
        self as u32
    }

    /// The error a number stands for; numbers outside the list mean the same as EINVAL.
    pub fn from_number(number: u32) -> Self {
        [
            Self::Perm,
            Self::Io,
            Self::NoMem,
            Self::Inval,
            Self::NoSpc,
            Self::Overflow,
            Self::NotSup,
            Self::Shutdown,
        ]
        .into_iter()
        .find(|errno| errno.number() == number)
        .unwrap_or(Self::Inval)
    }
}
