//! An NBD client of the tests' own (NBD proto.md, "Transmission phase"), and blocks that say which
//! write they come from.
//!
//! Nothing here comes from the program under test, so a mistake there is not repeated here.

#![allow(dead_code, reason = "each test binary uses its own part of this")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// Bytes of a block: what must never be torn.
pub(crate) const BLOCK: usize = 4096;

/// Every block of this test starts with it.
const MARK: u64 = 0x696e_6661_6c6c_2121;

/// Numbers that look random and are the same for the same seed (SplitMix64).
#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    /// Dice for a seed.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// One below `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// The seed that `variable` names, or one from the clock; printed, so a failure can be repeated.
pub(crate) fn seed(variable: &str) -> u64 {
    let seed = match std::env::var(variable) {
        Ok(text) => text.parse().unwrap(),
        Err(_) => {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            u64::from(now.unwrap().subsec_nanos())
        }
    };
    println!("{variable}={seed}");
    seed
}

/// What block `block` holds after write number `write` (from 1; 0 is never written: zeroes). The
/// rest of a block follows from its start, so any mixture of two writes is seen.
pub(crate) fn block_of(write: u64, block: u64) -> [u8; BLOCK] {
    let mut bytes = [0; BLOCK];
    if write == 0 {
        return bytes;
    }
    let mut dice = Dice::new(write.rotate_left(32) ^ block);
    for (at, word) in bytes.chunks_exact_mut(8).enumerate() {
        let value = match at {
            0 => MARK,
            1 => write,
            2 => block,
            _ => dice.next(),
        };
        word.copy_from_slice(&value.to_le_bytes());
    }
    bytes
}

/// The number of the write that block `block` shows; 0 for zeroes; in words what is wrong with it.
pub(crate) fn write_of(bytes: &[u8], block: u64) -> Result<u64, String> {
    let word = |at: usize| u64::from_le_bytes(bytes[at * 8..][..8].try_into().unwrap());
    if bytes.iter().all(|byte| *byte == 0) {
        return Ok(0);
    }
    let write = word(1);
    if word(0) != MARK || word(2) != block || write == 0 {
        let start = hex(&bytes[..24]);
        return Err(format!("block {block} holds no block of its own: {start}…"));
    }
    let whole = block_of(write, block);
    match (0..BLOCK).find(|at| bytes[*at] != whole[*at]) {
        None => Ok(write),
        Some(at) => Err(format!(
            "block {block} is torn: write {write} up to byte {at}"
        )),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A connection in its transmission phase. Requests may be sent before earlier ones are answered.
#[derive(Debug)]
pub(crate) struct Client {
    stream: UnixStream,
    /// Bytes of the export.
    pub(crate) length: u64,
}

const READ: u16 = 0;
const WRITE: u16 = 1;
const FLUSH: u16 = 3;

impl Client {
    /// Speaks to the export `name` behind `socket`.
    pub(crate) fn connect(socket: &Path, name: &str) -> std::io::Result<Self> {
        let mut stream = UnixStream::connect(socket)?;
        // A server that does not answer is a failure, not a test without an end.
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        let mut greeting = [0; 18];
        stream.read_exact(&mut greeting)?;
        assert_eq!(&greeting[..16], b"NBDMAGICIHAVEOPT");
        // Fixed newstyle, no zeroes; then NBD_OPT_EXPORT_NAME, the shortest of haggles.
        let mut hello = 3u32.to_be_bytes().to_vec();
        hello.extend_from_slice(b"IHAVEOPT");
        hello.extend_from_slice(&1u32.to_be_bytes());
        hello.extend_from_slice(&(name.len() as u32).to_be_bytes());
        hello.extend_from_slice(name.as_bytes());
        stream.write_all(&hello)?;
        let mut export = [0; 10];
        stream.read_exact(&mut export)?;
        let length = u64::from_be_bytes(export[..8].try_into().unwrap());
        Ok(Self { stream, length })
    }

    /// Sends a write and does not wait.
    pub(crate) fn send_write(&mut self, cookie: u64, at: u64, bytes: &[u8]) -> std::io::Result<()> {
        let mut message = request(WRITE, cookie, at, bytes.len());
        message.extend_from_slice(bytes);
        self.stream.write_all(&message)
    }

    /// Sends a flush and does not wait.
    pub(crate) fn send_flush(&mut self, cookie: u64) -> std::io::Result<()> {
        self.stream.write_all(&request(FLUSH, cookie, 0, 0))
    }

    /// The cookie of the next request that is answered; the server must not have refused it.
    pub(crate) fn answer(&mut self) -> std::io::Result<u64> {
        let mut reply = [0; 16];
        self.stream.read_exact(&mut reply)?;
        assert_eq!(&reply[..4], &0x6744_6698u32.to_be_bytes(), "a simple reply");
        let error = u32::from_be_bytes(reply[4..8].try_into().unwrap());
        assert_eq!(error, 0, "the server answered with an NBD error");
        Ok(u64::from_be_bytes(reply[8..].try_into().unwrap()))
    }

    /// Writes and waits.
    pub(crate) fn write(&mut self, at: u64, bytes: &[u8]) -> std::io::Result<()> {
        self.send_write(1, at, bytes)?;
        self.answer().map(drop)
    }

    /// Flushes and waits.
    pub(crate) fn flush(&mut self) -> std::io::Result<()> {
        self.send_flush(2)?;
        self.answer().map(drop)
    }

    /// Reads and waits.
    pub(crate) fn read(&mut self, at: u64, length: usize) -> std::io::Result<Vec<u8>> {
        self.stream.write_all(&request(READ, 3, at, length))?;
        self.answer()?;
        let mut bytes = vec![0; length];
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// The number of the write that each block of the export shows.
    pub(crate) fn writes(&mut self) -> Result<Vec<u64>, String> {
        let mut writes = Vec::new();
        while (writes.len() * BLOCK) as u64 != self.length {
            let at = (writes.len() * BLOCK) as u64;
            let length = (self.length - at).min(1 << 20) as usize;
            let bytes = self.read(at, length).map_err(|error| error.to_string())?;
            for block in bytes.chunks_exact(BLOCK) {
                writes.push(write_of(block, writes.len() as u64)?);
            }
        }
        Ok(writes)
    }
}

fn request(kind: u16, cookie: u64, at: u64, length: usize) -> Vec<u8> {
    let mut message = 0x2560_9513u32.to_be_bytes().to_vec();
    message.extend_from_slice(&0u16.to_be_bytes());
    message.extend_from_slice(&kind.to_be_bytes());
    message.extend_from_slice(&cookie.to_be_bytes());
    message.extend_from_slice(&at.to_be_bytes());
    message.extend_from_slice(&(length as u32).to_be_bytes());
    message
}
