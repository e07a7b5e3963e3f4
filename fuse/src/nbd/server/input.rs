//! Reading requests: a little ahead, so that many small ones come with one call to the system.

use super::stream::Stream;
use crate::nbd::codec::request::Request;
use std::io;

/// Read ahead at most this much: a 4 KiB write with its header comes in one piece, and of a large
/// payload no more than this is copied once.
const AHEAD_BYTES: usize = 8 << 10;

/// The receiving side of a connection.
pub(super) struct Input {
    ahead: Box<[u8; AHEAD_BYTES]>,
    start: usize,
    end: usize,
    ended: bool,
}

/// Why there is no next request.
pub(super) enum Lost {
    /// The client left in the middle of one.
    Gone,
    Io(io::Error),
    /// What came is no NBD.
    Nonsense(String),
}

impl Input {
    pub(super) fn new() -> Self {
        Self {
            ahead: Box::new([0; AHEAD_BYTES]),
            start: 0,
            end: 0,
            ended: false,
        }
    }

    /// Nothing is read any more.
    pub(super) fn end(&mut self) {
        self.ended = true;
    }

    /// Whether part of another request is here already.
    pub(super) fn has_more(&self) -> bool {
        self.start < self.end
    }

    /// The next header; `None` at the end of the stream, between two requests.
    pub(super) fn header(&mut self, stream: &Stream) -> Result<Option<[u8; Request::BYTES]>, Lost> {
        if self.ended {
            return Ok(None);
        }
        while self.end - self.start < Request::BYTES {
            if self.start > 0 {
                self.ahead.copy_within(self.start..self.end, 0);
                (self.start, self.end) = (0, self.end - self.start);
            }
            match receive(stream, &mut self.ahead[self.end..])? {
                0 if self.end == 0 => return Ok(None),
                0 => return Err(Lost::Gone),
                count => self.end += count,
            }
        }
        let mut header = [0; Request::BYTES];
        header.copy_from_slice(&self.ahead[self.start..self.start + Request::BYTES]);
        self.start += Request::BYTES;
        Ok(Some(header))
    }

    /// Fills `payload`: what is here already is copied, the rest comes straight from the socket.
    pub(super) fn exact(&mut self, stream: &Stream, payload: &mut [u8]) -> Result<(), Lost> {
        let here = payload.len().min(self.end - self.start);
        let (first, mut rest) = payload.split_at_mut(here);
        first.copy_from_slice(&self.ahead[self.start..self.start + here]);
        self.start += here;
        while !rest.is_empty() {
            match receive(stream, rest)? {
                0 => return Err(Lost::Gone),
                count => rest = &mut rest[count..],
            }
        }
        Ok(())
    }

    /// Reads `bytes` bytes away.
    pub(super) fn drain(&mut self, stream: &Stream, bytes: u32) -> Result<(), Lost> {
        let mut left = bytes as usize;
        let mut scratch = [0; AHEAD_BYTES];
        while left > 0 {
            let part = left.min(scratch.len());
            self.exact(stream, &mut scratch[..part])?;
            left -= part;
        }
        Ok(())
    }
}

fn receive(stream: &Stream, buffer: &mut [u8]) -> Result<usize, Lost> {
    stream.receive(buffer).map_err(|error| match error.kind() {
        io::ErrorKind::ConnectionReset => Lost::Gone,
        _ => Lost::Io(error),
    })
}
