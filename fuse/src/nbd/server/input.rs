//! Reading requests: a little ahead, so that many small ones come with one call to the system.

use super::stream::Stream;
use crate::nbd::codec::request::Request;
use std::io;

/// Room for what is read ahead.
const AHEAD_BYTES: usize = 64 << 10;
/// Read ahead of a client that sends large payloads: its next header, and not much that would have to
/// be copied.
const AHEAD_OF_LARGE_BYTES: usize = 512;
/// A payload is large from here on.
const LARGE_BYTES: u32 = 16 << 10;

/// The receiving side of a connection.
pub(super) struct Input {
    ahead: Box<[u8]>,
    /// What was read and not yet taken: `ahead[start..end]`.
    start: usize,
    end: usize,
    /// The last payload was large, so the next one may be.
    large: bool,
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
            ahead: vec![0; AHEAD_BYTES].into_boxed_slice(),
            start: 0,
            end: 0,
            large: false,
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

    /// Whether another request is here already, payload and all.
    pub(super) fn has_whole_request(&self) -> bool {
        let Some((header, rest)) = self.ahead[self.start..self.end].split_first_chunk() else {
            return false;
        };
        Request::decode(header).is_ok_and(|next| next.payload_bytes() as usize <= rest.len())
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
            let reach = if self.large {
                AHEAD_OF_LARGE_BYTES
            } else {
                AHEAD_BYTES
            };
            match receive(stream, &mut self.ahead[self.end..reach])? {
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

    /// Takes a request's payload of `bytes` bytes into `room`, or throws it away if there is none.
    pub(super) fn payload(
        &mut self,
        stream: &Stream,
        bytes: u32,
        room: Option<&mut [u8]>,
    ) -> Result<(), Lost> {
        self.large = bytes >= LARGE_BYTES;
        match room {
            Some(room) => self.fill(stream, room),
            None => self.drain(stream, bytes),
        }
    }

    /// What is here already is copied, the rest comes straight from the socket.
    fn fill(&mut self, stream: &Stream, room: &mut [u8]) -> Result<(), Lost> {
        let here = room.len().min(self.end - self.start);
        let (first, mut rest) = room.split_at_mut(here);
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

    fn drain(&mut self, stream: &Stream, bytes: u32) -> Result<(), Lost> {
        let mut left = bytes as usize;
        let mut scratch = [0; 8192];
        while left > 0 {
            let part = left.min(scratch.len());
            self.fill(stream, &mut scratch[..part])?;
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
