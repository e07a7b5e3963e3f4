//! One connection: frames in, frames out, and noticing that nobody is there any more.
//!
//! 1. Silence is counted only while we wait for bytes: a receiver that has no room does not take its
//!    sender for dead, and a sender that is blocked hears the receiver's pings.
//! 2. A payload is not copied here: it is written from the caller's slices by vectored writes, and
//!    read into one buffer of the frame's length, which becomes the [`Bytes`] that is delivered. TLS
//!    copies once while it encrypts and twice while it decrypts (docs/FORMATS.md, "Between nodes").

use super::counters::Counters;
use super::frame::{Frame, HEAD_BYTES, Head, Kind, Malformed, PREAMBLE_BYTES, Preamble, Received};
use super::queue::Queue;
use super::{Lane, Pace, Refusal};
use bytes::{BufMut, Bytes, BytesMut};
use std::io::{self, IoSlice};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::time::timeout;

/// A write of this much goes out at a time; small frames are gathered up to it.
const BATCH_BYTES: usize = 256 << 10;
const BATCH_FRAMES: usize = 256;

/// A TLS connection, or a pipe within the process.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    #[error("the other side closed the connection")]
    Closed,
    #[error("nothing was heard for {} ms", .0.as_millis())]
    Silent(Duration),
    #[error("it broke off")]
    Io(#[from] io::Error),
    #[error("what came is not a frame of ours")]
    Malformed(#[from] Malformed),
    #[error("the other side refuses this node")]
    Refused(#[source] Refusal),
}

/// The reading half.
pub(super) struct Reader {
    half: ReadHalf<Box<dyn Stream>>,
    lane: Lane,
    limit: usize,
    silence: Duration,
}

/// The writing half.
pub(super) struct Writer {
    half: WriteHalf<Box<dyn Stream>>,
    lane: Lane,
    ping_every: Duration,
}

/// Both halves of a fresh connection. `limit`: the longest body read from it.
pub(super) fn split(
    stream: Box<dyn Stream>,
    lane: Lane,
    limit: usize,
    pace: &Pace,
) -> (Reader, Writer) {
    let (read, write) = tokio::io::split(stream);
    let reader = Reader {
        half: read,
        lane,
        limit,
        silence: pace.silence,
    };
    let writer = Writer {
        half: write,
        lane,
        ping_every: pace.silence / 4,
    };
    (reader, writer)
}

impl Reader {
    /// The connection turns out to be for this lane, with bodies up to `limit`.
    pub(super) fn set(&mut self, lane: Lane, limit: usize) {
        self.lane = lane;
        self.limit = limit;
    }

    /// The first bytes.
    pub(super) async fn preamble(&mut self) -> Result<Preamble, Broken> {
        let mut bytes = [0; PREAMBLE_BYTES];
        self.fill(&mut bytes).await?;
        Ok(Preamble::decode(&bytes)?)
    }

    /// The first frame, on whatever lane it is.
    pub(super) async fn first(&mut self) -> Result<Received, Broken> {
        let mut bytes = [0; HEAD_BYTES];
        self.fill(&mut bytes).await?;
        let head = Head::decode(&bytes, self.limit)?;
        self.lane = head.lane;
        self.body(head).await
    }

    /// The next frame that says something: pings are passed over.
    pub(super) async fn next(&mut self, counters: &Counters) -> Result<Received, Broken> {
        loop {
            let mut bytes = [0; HEAD_BYTES];
            self.fill(&mut bytes).await?;
            let head = Head::decode(&bytes, self.limit)?;
            if head.lane != self.lane {
                return Err(Broken::Malformed(Malformed::OtherLane {
                    kind: head.kind,
                    found: head.lane,
                    expected: self.lane,
                }));
            }
            let received = self.body(head).await?;
            counters.received(HEAD_BYTES + received.body.len());
            if received.kind != Kind::Ping {
                return Ok(received);
            }
        }
    }

    async fn body(&mut self, head: Head) -> Result<Received, Broken> {
        let length = head.body_bytes();
        let mut body = BytesMut::with_capacity(length);
        while body.len() < length {
            let left = length - body.len();
            let mut rest = (&mut body).limit(left);
            let read = timeout(self.silence, self.half.read_buf(&mut rest));
            if read.await.map_err(|_| Broken::Silent(self.silence))?? == 0 {
                return Err(Broken::Closed);
            }
        }
        head.check(&body)?;
        Ok(Received {
            kind: head.kind,
            id: head.id,
            body: body.freeze(),
        })
    }

    async fn fill(&mut self, bytes: &mut [u8]) -> Result<(), Broken> {
        let mut filled = 0;
        while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            let read = timeout(self.silence, self.half.read(rest));
            match read.await.map_err(|_| Broken::Silent(self.silence))?? {
                0 => return Err(Broken::Closed),
                read => filled += read,
            }
        }
        Ok(())
    }
}

impl Writer {
    /// The connection turns out to be for this lane.
    pub(super) fn set(&mut self, lane: Lane) {
        self.lane = lane;
    }

    pub(super) async fn preamble(&mut self, preamble: Preamble) -> Result<(), Broken> {
        self.half.write_all(&preamble.encode()).await?;
        Ok(())
    }

    /// Writes one frame at once, before there is a queue.
    pub(super) async fn say(&mut self, kind: Kind, id: u64, body: Vec<u8>) -> Result<(), Broken> {
        let frame = Frame::new(self.lane, kind, id, body.into())
            .unwrap_or_else(|| Frame::empty(self.lane, kind, id));
        self.write(std::slice::from_ref(&frame)).await?;
        self.half.flush().await?;
        Ok(())
    }

    /// Writes what the queue holds and will hold, pings when there is nothing to say, and returns
    /// after a farewell was written. `batch` keeps what is being written when the future is dropped.
    pub(super) async fn run(
        &mut self,
        queue: &Queue,
        batch: &mut Vec<Frame>,
        counters: &Counters,
        room: impl Fn(),
    ) -> Result<(), Broken> {
        loop {
            queue.take(batch, BATCH_BYTES, BATCH_FRAMES);
            if batch.is_empty() {
                // Nothing is at hand: what TLS and the socket hold shall not wait for more.
                self.half.flush().await?;
                if timeout(self.ping_every, queue.filled()).await.is_err() {
                    let ping = Frame::empty(self.lane, Kind::Ping, 0);
                    self.write(std::slice::from_ref(&ping)).await?;
                    counters.sent(1, ping.len());
                }
                continue;
            }
            self.write(batch).await?;
            counters.sent(batch.len(), batch.iter().map(Frame::len).sum());
            let farewell = batch.iter().any(|frame| frame.kind == Kind::Goodbye);
            if farewell {
                self.half.flush().await?;
            }
            if queue.written(batch) {
                room();
            }
            if farewell {
                return Ok(());
            }
        }
    }

    /// Closes our direction in order (TLS: close_notify), so that the other side reads all of it.
    pub(super) async fn close(&mut self) {
        let _ = self.half.shutdown().await;
    }

    async fn write(&mut self, frames: &[Frame]) -> Result<(), Broken> {
        let mut slices: Vec<IoSlice<'_>> = Vec::with_capacity(frames.len() * 3);
        for frame in frames {
            slices.push(IoSlice::new(&frame.head));
            let filled = frame.body.slices().filter(|slice| !slice.is_empty());
            slices.extend(filled.map(|slice: &Bytes| IoSlice::new(slice)));
        }
        let mut rest = &mut slices[..];
        while !rest.is_empty() {
            let written = self.half.write_vectored(rest).await?;
            if written == 0 {
                return Err(Broken::Io(io::ErrorKind::WriteZero.into()));
            }
            IoSlice::advance_slices(&mut rest, written);
        }
        Ok(())
    }
}
