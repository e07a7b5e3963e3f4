//! The transmission phase of one connection: a few threads which take turns at its socket.
//!
//! ```text
//!            ┌────────────── lead ◄──────────────┐
//!            │ read a request, and its payload   │ next turn
//!            ▼                                   │
//!      quick, and ──yes──► answer it, ───────────┘
//!      nothing waits?      still leading
//!            │ no
//!            ▼
//!      let the next thread lead, then answer ────► wait for a turn
//! ```
//!
//! 1. One thread at a time reads the socket: whoever holds `input`. Requests are read in order.
//! 2. Replies leave whole, in any order: whoever holds `output` writes. While more requests are here
//!    already, the replies to quick ones are gathered, so that they leave with one call to the system;
//!    nothing gathered waits for a request that is not here, or not quick.
//! 3. At depth 1 one thread does it all, with no switch between threads. What may take long is never
//!    answered while leading, so that a slow request holds up nobody.
//! 4. At most [`THREADS_MAX`] requests are under way; their memory is bounded by
//!    [`super::buffers`], and the socket is not read beyond that.
//! 5. The session ends (client gone, DISC, nonsense, server stopping) when the leader finds so. The
//!    requests under way are still answered; then the export, and with it the writer token, is let go.

use super::buffers::{Budget, Buffer, Pool};
use super::connections::Departure;
use super::export::Attached;
use super::input::{Input, Lost};
use super::reply;
use super::stream::Stream;
use crate::nbd::codec::numbers::{Errno, PAYLOAD_BYTES_MAX, command_flag};
use crate::nbd::codec::request::{Command, Request};
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Requests under way in one connection.
const THREADS_MAX: usize = 16;
/// A write that is too long is still read away up to here, to answer it with an error.
const DRAINED_BYTES_MAX: u32 = 2 * PAYLOAD_BYTES_MAX;
/// Replies are gathered up to here.
const GATHERED_BYTES_MAX: usize = 32 << 10;
/// A request expected to take longer is not answered while leading…
const QUICK: Duration = Duration::from_micros(50);
/// …nor one longer than this, when more input is waiting: then another core may have it.
const QUICK_WHEN_BUSY: Duration = Duration::from_micros(8);

/// One connection in its transmission phase.
pub(super) struct Session {
    pub(super) stream: Arc<Stream>,
    pub(super) attached: Attached,
    pub(super) structured: bool,
    /// base:allocation was negotiated.
    pub(super) allocation: bool,
    pub(super) pool: Arc<Pool>,
    pub(super) stopping: Arc<AtomicBool>,
    budget: Budget,
    input: Mutex<Input>,
    output: Mutex<()>,
    threads: AtomicUsize,
    waiting: AtomicUsize,
    reads_take: Pace,
    others_take: Pace,
    /// Declared, and so dropped, after `attached`: when the client sees the connection closed, or the
    /// server counts it as gone, its writer token is free.
    _departure: Departure,
}

impl Session {
    pub(super) fn new(
        stream: Arc<Stream>,
        attached: Attached,
        (structured, allocation): (bool, bool),
        pool: Arc<Pool>,
        stopping: Arc<AtomicBool>,
        departure: Departure,
    ) -> Self {
        attached.tally.connections.fetch_add(1, Ordering::Relaxed);
        Self {
            stream,
            attached,
            structured,
            allocation,
            pool,
            stopping,
            budget: Budget::new(),
            input: Mutex::new(Input::new()),
            output: Mutex::new(()),
            threads: AtomicUsize::new(1),
            waiting: AtomicUsize::new(0),
            reads_take: Pace::default(),
            others_take: Pace::default(),
            _departure: departure,
        }
    }

    /// One thread's life: lead, answer, lead again, until the session ends.
    pub(super) fn work(self: Arc<Self>) {
        let _shift = Shift { session: &self };
        let mut small = Vec::new();
        let mut outbox = Outbox::default();
        loop {
            self.waiting.fetch_add(1, Ordering::Relaxed);
            let turn = self.input.lock();
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            // Poisoned: a thread died while leading, and nobody knows where in the stream we are.
            let Ok(mut input) = turn else { break };
            loop {
                let next = self.next(&mut input, &mut small);
                let quick = next
                    .as_ref()
                    .is_some_and(|(request, _)| self.is_quick(request, &input));
                outbox.gathering = quick && input.has_whole_request();
                if !quick {
                    self.send(&mut outbox, &[]);
                }
                let Some((request, room)) = next else { return };
                if quick {
                    self.answer(&request, room, &mut outbox);
                    continue;
                }
                drop(input);
                self.call_another();
                self.answer(&request, room, &mut outbox);
                break;
            }
        }
    }

    /// The next request, with its payload or the room its reply needs. `None` ends the session.
    fn next<'a>(
        &'a self,
        input: &mut Input,
        small: &'a mut Vec<u8>,
    ) -> Option<(Request, Room<'a>)> {
        match self.receive(input, small) {
            Ok(Some(next)) => Some(next),
            Ok(None) => {
                input.end();
                None
            }
            Err(lost) => {
                input.end();
                match lost {
                    Lost::Gone => {}
                    Lost::Io(error) => {
                        tracing::debug!(export = self.attached.name, %error, "an NBD connection failed");
                    }
                    Lost::Nonsense(reason) => {
                        tracing::warn!(
                            export = self.attached.name,
                            reason,
                            "closing an NBD connection that is out of step"
                        );
                    }
                }
                None
            }
        }
    }

    fn receive<'a>(
        &'a self,
        input: &mut Input,
        small: &'a mut Vec<u8>,
    ) -> Result<Option<(Request, Room<'a>)>, Lost> {
        let Some(header) = input.header(&self.stream)? else {
            return Ok(None);
        };
        let request =
            Request::decode(&header).map_err(|malformed| Lost::Nonsense(malformed.to_string()))?;
        if request.command == Command::Disconnect {
            return Ok(None);
        }
        // What arrives after the server began to stop is not answered at all: the client sees a closed
        // connection and, where it can reconnect, asks again. An ESHUTDOWN would reach the guest's disk.
        if self.stopping.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let payload_bytes = request.payload_bytes();
        if payload_bytes > DRAINED_BYTES_MAX {
            return Err(Lost::Nonsense(format!("a write of {payload_bytes} bytes")));
        }
        let fits = payload_bytes <= PAYLOAD_BYTES_MAX;
        let room_bytes = if fits { reply::room_bytes(&request) } else { 0 };
        let Ok(mut buffer) = self.pool.lend(&self.budget, small, room_bytes) else {
            input.payload(&self.stream, payload_bytes, None)?;
            return Ok(Some((request, Room::NoMemory)));
        };
        if request.command == Command::Write {
            let room = fits.then_some(&mut *buffer);
            input.payload(&self.stream, payload_bytes, room)?;
        }
        Ok(Some((request, Room::Buffer(buffer))))
    }

    /// Whether to answer without letting another thread lead.
    fn is_quick(&self, request: &Request, input: &Input) -> bool {
        let (may_be, pace) = match request.command {
            Command::Read => (true, &self.reads_take),
            Command::Write | Command::Trim | Command::WriteZeroes => (
                !request.has(command_flag::FUA) && self.attached.export.ready_to_write(),
                &self.others_take,
            ),
            Command::BlockStatus => (true, &self.others_take),
            Command::Unknown(_) => return true,
            Command::Flush | Command::Cache | Command::Disconnect => return false,
        };
        let limit = if input.has_more() {
            QUICK_WHEN_BUSY
        } else {
            QUICK
        };
        may_be && pace.expected() < limit
    }

    fn answer(&self, request: &Request, room: Room<'_>, outbox: &mut Outbox) {
        let started = Instant::now();
        match room {
            Room::Buffer(mut buffer) => self.execute(request, &mut buffer, outbox),
            Room::NoMemory => self.fail(
                outbox,
                request,
                Errno::NoMem,
                "no memory for a request of this size: send smaller ones",
            ),
        }
        match request.command {
            Command::Read => self.reads_take.observe(started.elapsed()),
            Command::Write | Command::Trim | Command::WriteZeroes | Command::BlockStatus
                if !request.has(command_flag::FUA) =>
            {
                self.others_take.observe(started.elapsed());
            }
            _ => {}
        }
    }

    /// Sees to it that somebody leads while this thread answers.
    fn call_another(self: &Arc<Self>) {
        // Whoever waits has been woken by the unlock. The two counters are hints: at worst one thread
        // too many starts, or the next request waits for this one.
        if self.waiting.load(Ordering::Relaxed) > 0 {
            return;
        }
        if self.threads.fetch_add(1, Ordering::Relaxed) >= THREADS_MAX {
            self.threads.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        let session = Arc::clone(self);
        let started = std::thread::Builder::new()
            .name("nbd".to_owned())
            .spawn(move || session.work());
        if let Err(error) = started {
            self.threads.fetch_sub(1, Ordering::Relaxed);
            tracing::debug!(%error, "an NBD connection goes on with the threads it has");
        }
    }

    /// Sends one whole reply, or keeps it for the next to come along. A failure ends the session: the
    /// leader sees the end of the stream.
    pub(super) fn send(&self, outbox: &mut Outbox, reply: &[u8]) {
        let gathered = outbox.gathered.len() + reply.len();
        if outbox.gathering && gathered <= GATHERED_BYTES_MAX {
            outbox.gathered.extend_from_slice(reply);
            return;
        }
        if gathered == 0 {
            return;
        }
        let turn = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        for bytes in [&outbox.gathered, reply] {
            if let Err(error) = self.stream.send(bytes) {
                tracing::debug!(export = self.attached.name, %error, "an NBD reply could not be sent");
                // Half a reply may be out; whatever followed would be taken for the rest of it.
                self.stream.shutdown(Shutdown::Both);
            }
        }
        drop(turn);
        outbox.gathered.clear();
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.attached
            .tally
            .connections
            .fetch_sub(1, Ordering::Relaxed);
    }
}

/// A thread's replies on their way out.
#[derive(Default)]
pub(super) struct Outbox {
    gathered: Vec<u8>,
    /// The next request is here already: its reply can come along.
    gathering: bool,
}

/// What a request brings along.
enum Room<'a> {
    /// A write's payload, or room for a reply.
    Buffer(Buffer<'a>),
    NoMemory,
}

/// One thread at work. If it panics, a client waits for an answer that will never come: then the
/// connection is closed, so that the client can do something about it.
struct Shift<'a> {
    session: &'a Session,
}

impl Drop for Shift<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.session.stream.shutdown(Shutdown::Both);
        }
    }
}

/// How long requests of a kind took lately: a moving average over about eight.
#[derive(Default)]
struct Pace {
    nanoseconds: AtomicU32,
}

impl Pace {
    fn expected(&self) -> Duration {
        Duration::from_nanos(u64::from(self.nanoseconds.load(Ordering::Relaxed)))
    }

    // Two threads may overwrite each other's observation; it is an estimate.
    fn observe(&self, took: Duration) {
        let took = u32::try_from(took.as_nanos()).unwrap_or(u32::MAX);
        let before = self.nanoseconds.load(Ordering::Relaxed);
        let after = before - before / 8 + took / 8;
        self.nanoseconds.store(after, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::Pace;
    use std::time::Duration;

    #[test]
    fn the_pace_follows_and_never_overflows() {
        let pace = Pace::default();
        for _ in 0..100 {
            pace.observe(Duration::from_secs(100));
        }
        assert!(pace.expected() > Duration::from_secs(4));
        for _ in 0..400 {
            pace.observe(Duration::from_micros(10));
        }
        assert!(pace.expected() < Duration::from_micros(11));
    }
}
