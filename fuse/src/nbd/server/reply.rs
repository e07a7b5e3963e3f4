//! Carrying out one request, and its reply.
//!
//! A READ's bytes are read into the reply behind their header and leave in one piece. Errors go out
//! with a text where structured replies were negotiated. Ranges are checked against the length as it
//! is at that moment, since a volume can be resized while it is attached.

use super::counters::count;
use super::errors::{errno, is_grave};
use super::haggling::ALLOCATION_CONTEXT;
use super::session::{Outbox, Session};
use crate::nbd::codec::numbers::{Errno, PAYLOAD_BYTES_MAX, allocation, command_flag};
use crate::nbd::codec::reply::{
    Chunk, DATA_HEADER_BYTES, Descriptor, HOLE_CHUNK_BYTES, SimpleReply, data_header, hole_chunk,
};
use crate::nbd::codec::request::{Command, Request};
use blockstore::volume::Extent;
use std::sync::atomic::Ordering;

/// Most descriptors in one block status reply; a client asks on where it ends.
const DESCRIPTORS_MAX: usize = 4096;
/// Reads from this size on are looked at for holes.
const SPARSE_READ_BYTES_MIN: u32 = 64 << 10;
/// A hole shorter than this is sent as zeroes: a chunk more costs the client more.
const HOLE_BYTES_MIN: u64 = 32 << 10;
/// Most runs of a read that are told apart; the rest is sent as data.
const RUNS_MAX: usize = 64;
/// CACHE reads this much at a time, and altogether.
const CACHE_STEP_BYTES: u32 = 128 << 10;
const CACHE_BYTES_MAX: u64 = 32 << 20;

/// How much room a request needs for its payload or its reply.
pub(super) fn room_bytes(request: &Request) -> usize {
    match request.command {
        // A hole of HOLE_BYTES_MIN or more gives up more room than its chunk and the next header take.
        Command::Read if request.length <= PAYLOAD_BYTES_MAX => {
            request.length as usize + DATA_HEADER_BYTES + HOLE_CHUNK_BYTES
        }
        Command::Write => request.length as usize,
        Command::Cache => request.length.min(CACHE_STEP_BYTES) as usize,
        _ => 0,
    }
}

/// Why a request is not carried out.
struct Failure {
    errno: Errno,
    message: String,
}

impl Failure {
    fn new(errno: Errno, message: impl Into<String>) -> Self {
        Self {
            errno,
            message: message.into(),
        }
    }
}

impl From<blockstore::Error> for Failure {
    fn from(error: blockstore::Error) -> Self {
        if is_grave(error.kind()) {
            tracing::error!(error = error.chain(), "an NBD request failed in the store");
        }
        Self::new(errno(error.kind()), error.chain())
    }
}

impl Session {
    /// Carries out `request` and replies. `room` is what [`room_bytes`] said, a write's payload in it.
    pub(super) fn execute(&self, request: &Request, room: &mut [u8], outbox: &mut Outbox) {
        let outcome = match self.check(request) {
            Ok(()) => match request.command {
                Command::Read => self.read(request, room, outbox),
                Command::Write => self.write(request, room, outbox),
                Command::Trim | Command::WriteZeroes => self.zero(request, outbox),
                Command::Flush => self.flush(request, outbox),
                Command::Cache => self.cache(request, room, outbox),
                Command::BlockStatus => self.block_status(request, outbox),
                Command::Disconnect => Ok(()),
                Command::Unknown(number) => Err(Failure::new(
                    Errno::Inval,
                    format!("command {number} is not known here"),
                )),
            },
            Err(failure) => Err(failure),
        };
        if let Err(failure) = outcome {
            self.fail(outbox, request, failure.errno, &failure.message);
        }
    }

    /// Replies with an error.
    pub(super) fn fail(&self, outbox: &mut Outbox, request: &Request, errno: Errno, message: &str) {
        self.attached.tally.errors.fetch_add(1, Ordering::Relaxed);
        tracing::debug!(
            export = self.attached.name,
            ?request,
            ?errno,
            message,
            "an NBD request is refused"
        );
        if self.structured {
            let mut bytes = Vec::new();
            Chunk::Error { errno, message }.encode(request.cookie, true, &mut bytes);
            self.send(outbox, &bytes);
        } else {
            self.send(
                outbox,
                &SimpleReply {
                    cookie: request.cookie,
                    error: Some(errno),
                }
                .encode(),
            );
        }
    }

    fn succeed(&self, request: &Request, outbox: &mut Outbox) {
        self.send(
            outbox,
            &SimpleReply {
                cookie: request.cookie,
                error: None,
            }
            .encode(),
        );
    }

    /// Flags, sizes and range, as far as the request alone and the length decide (proto.md, "Command
    /// flags", "Error values").
    fn check(&self, request: &Request) -> Result<(), Failure> {
        let strange = request.flags & !request.command.flags_allowed();
        if strange != 0 || (request.has(command_flag::DF) && !self.structured) {
            let message = format!(
                "command flags {:#x} are not known for {:?}",
                request.flags, request.command
            );
            return Err(Failure::new(Errno::Inval, message));
        }
        let past_the_end = match request.command {
            Command::Read | Command::Trim | Command::Cache | Command::BlockStatus => Errno::Inval,
            Command::Write | Command::WriteZeroes => Errno::NoSpc,
            Command::Flush | Command::Disconnect | Command::Unknown(_) => return Ok(()),
        };
        if matches!(request.command, Command::Read | Command::Write)
            && request.length > PAYLOAD_BYTES_MAX
        {
            let message = format!(
                "{} bytes in one request, at most {PAYLOAD_BYTES_MAX} are served",
                request.length
            );
            return Err(Failure::new(Errno::Inval, message));
        }
        if matches!(
            request.command,
            Command::Write | Command::WriteZeroes | Command::Trim
        ) && self.attached.export.read_only()
        {
            let message = format!(
                "export \"{}\" is read only: clone it to a volume to write",
                self.attached.name
            );
            return Err(Failure::new(Errno::Perm, message));
        }
        let length_bytes = self.attached.export.length_bytes();
        let end = request.offset.checked_add(u64::from(request.length));
        if end.is_none_or(|end| end > length_bytes) {
            let message = format!(
                "{} bytes at {} reach past the end: export \"{}\" has {length_bytes} bytes",
                request.length, request.offset, self.attached.name
            );
            return Err(Failure::new(past_the_end, message));
        }
        Ok(())
    }

    fn read(&self, request: &Request, room: &mut [u8], outbox: &mut Outbox) -> Result<(), Failure> {
        let tally = &self.attached.tally;
        if !self.structured {
            // The simple header ends where the structured one would, directly before the data.
            let reply = &mut room[DATA_HEADER_BYTES - SimpleReply::BYTES
                ..DATA_HEADER_BYTES + request.length as usize];
            let (header, data) = reply.split_at_mut(SimpleReply::BYTES);
            self.attached.export.read_at(request.offset, data)?;
            header.copy_from_slice(
                &SimpleReply {
                    cookie: request.cookie,
                    error: None,
                }
                .encode(),
            );
            count(&tally.reads, &tally.read_bytes, u64::from(request.length));
            self.send(outbox, reply);
            return Ok(());
        }
        if request.length == 0 {
            // A content chunk describes at least one byte.
            let mut bytes = Vec::new();
            Chunk::None.encode(request.cookie, true, &mut bytes);
            self.send(outbox, &bytes);
            return Ok(());
        }
        let runs = if request.length >= SPARSE_READ_BYTES_MIN && !request.has(command_flag::DF) {
            let found = self.attached.export.extents(
                request.offset,
                u64::from(request.length),
                RUNS_MAX,
            )?;
            merge_runs(&found, request.offset, request.length, HOLE_BYTES_MIN)
        } else {
            vec![Run {
                length: request.length,
                data: true,
            }]
        };
        let mut offset = request.offset;
        let mut filled = 0;
        for (index, run) in runs.iter().enumerate() {
            let last = index + 1 == runs.len();
            if run.data {
                let header = data_header(request.cookie, offset, run.length, last);
                room[filled..filled + DATA_HEADER_BYTES].copy_from_slice(&header);
                filled += DATA_HEADER_BYTES;
                self.attached
                    .export
                    .read_at(offset, &mut room[filled..filled + run.length as usize])?;
                filled += run.length as usize;
            } else {
                let chunk = hole_chunk(request.cookie, offset, run.length, last);
                room[filled..filled + HOLE_CHUNK_BYTES].copy_from_slice(&chunk);
                filled += HOLE_CHUNK_BYTES;
            }
            offset += u64::from(run.length);
        }
        count(&tally.reads, &tally.read_bytes, u64::from(request.length));
        self.send(outbox, &room[..filled]);
        Ok(())
    }

    fn write(&self, request: &Request, payload: &[u8], outbox: &mut Outbox) -> Result<(), Failure> {
        if request.length > 0 {
            self.attached.export.write_at(request.offset, payload)?;
        }
        self.force_if_asked(request)?;
        let tally = &self.attached.tally;
        count(
            &tally.writes,
            &tally.written_bytes,
            u64::from(request.length),
        );
        self.succeed(request, outbox);
        Ok(())
    }

    /// TRIM and WRITE_ZEROES alike. FAST_ZERO is always fast enough: zeroing touches metadata only.
    /// NO_HOLE changes nothing: every write goes to a new place, so that no range is ever provisioned.
    fn zero(&self, request: &Request, outbox: &mut Outbox) -> Result<(), Failure> {
        if request.length > 0 {
            self.attached
                .export
                .zero(request.offset, u64::from(request.length))?;
        }
        self.force_if_asked(request)?;
        let tally = &self.attached.tally;
        count(
            &tally.zeroes,
            &tally.zeroed_bytes,
            u64::from(request.length),
        );
        self.succeed(request, outbox);
        Ok(())
    }

    fn flush(&self, request: &Request, outbox: &mut Outbox) -> Result<(), Failure> {
        self.attached.export.flush()?;
        self.attached.tally.flushes.fetch_add(1, Ordering::Relaxed);
        self.succeed(request, outbox);
        Ok(())
    }

    fn force_if_asked(&self, request: &Request) -> Result<(), Failure> {
        if request.has(command_flag::FUA) {
            self.attached.export.flush()?;
            self.attached.tally.flushes.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Reads the range and forgets it, so that it lies in the memory of the system.
    fn cache(
        &self,
        request: &Request,
        room: &mut [u8],
        outbox: &mut Outbox,
    ) -> Result<(), Failure> {
        let end = request.offset + u64::from(request.length).min(CACHE_BYTES_MAX);
        let mut offset = request.offset;
        while offset < end {
            let part = (end - offset).min(u64::from(CACHE_STEP_BYTES)) as usize;
            self.attached.export.read_at(offset, &mut room[..part])?;
            offset += part as u64;
        }
        self.succeed(request, outbox);
        Ok(())
    }

    fn block_status(&self, request: &Request, outbox: &mut Outbox) -> Result<(), Failure> {
        if !self.allocation {
            let message = format!(
                "block status without a context: negotiate {} first",
                allocation::NAME
            );
            return Err(Failure::new(Errno::Inval, message));
        }
        if request.length == 0 {
            return Err(Failure::new(Errno::Inval, "block status of no bytes"));
        }
        let one = request.has(command_flag::REQ_ONE);
        // For one run, a few more to merge: the store may tell adjoining runs of one kind apart.
        let max = if one { RUNS_MAX } else { DESCRIPTORS_MAX };
        let found = self
            .attached
            .export
            .extents(request.offset, u64::from(request.length), max)?;
        let mut runs = known_runs(&found, request.offset, request.length);
        if runs.is_empty() {
            // Status 0 is always true.
            runs.push(Run {
                length: request.length,
                data: true,
            });
        }
        runs.truncate(if one { 1 } else { DESCRIPTORS_MAX });
        let descriptors = runs
            .iter()
            .map(|run| Descriptor {
                length: run.length,
                status: if run.data {
                    0
                } else {
                    allocation::HOLE | allocation::ZERO
                },
            })
            .collect();
        let mut bytes = Vec::new();
        Chunk::BlockStatus {
            context: ALLOCATION_CONTEXT,
            descriptors,
        }
        .encode(request.cookie, true, &mut bytes);
        self.send(outbox, &bytes);
        Ok(())
    }
}

/// A run of a request's range, from where the one before it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    length: u32,
    data: bool,
}

/// What `extents` tell of `offset..offset + length`: clipped to it, runs of one kind merged. Ends at
/// the first gap.
fn known_runs(extents: &[Extent], offset: u64, length: u32) -> Vec<Run> {
    let end = offset + u64::from(length);
    let mut at = offset;
    let mut runs: Vec<Run> = Vec::new();
    for extent in extents {
        let extent_end = extent.offset.saturating_add(extent.length).min(end);
        if extent.offset > at {
            break;
        }
        if extent_end <= at {
            continue;
        }
        // Within the range, whose length is a u32.
        let part = (extent_end - at) as u32;
        match runs.last_mut() {
            Some(last) if last.data == extent.data => last.length += part,
            _ => runs.push(Run {
                length: part,
                data: extent.data,
            }),
        }
        at = extent_end;
    }
    runs
}

/// The same for a read: covers the whole range, and holes shorter than `hole_min` count as data.
fn merge_runs(extents: &[Extent], offset: u64, length: u32, hole_min: u64) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    let mut push = |run: Run| match runs.last_mut() {
        Some(last) if last.data == run.data => last.length += run.length,
        _ => runs.push(run),
    };
    let mut covered = 0;
    for run in known_runs(extents, offset, length) {
        push(Run {
            length: run.length,
            data: run.data || u64::from(run.length) < hole_min,
        });
        covered += run.length;
    }
    if covered < length {
        push(Run {
            length: length - covered,
            data: true,
        });
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::{Extent, HOLE_BYTES_MIN, Run, known_runs, merge_runs};
    use crate::nbd::codec::reply::{DATA_HEADER_BYTES, HOLE_CHUNK_BYTES};
    use proptest::prelude::*;

    fn extent(offset: u64, length: u64, data: bool) -> Extent {
        Extent {
            offset,
            length,
            data,
        }
    }

    #[test]
    fn adjoining_runs_of_one_kind_are_one_descriptor() {
        let found = [
            extent(0, 4096, true),
            extent(4096, 4096, true),
            extent(8192, 4096, false),
            extent(12288, 99, false),
        ];
        assert_eq!(
            known_runs(&found, 0, 12300),
            [
                Run {
                    length: 8192,
                    data: true
                },
                Run {
                    length: 4108,
                    data: false
                }
            ]
        );
    }

    #[test]
    fn extents_are_clipped_to_the_request() {
        let found = [extent(0, 1 << 40, false)];
        assert_eq!(
            known_runs(&found, 4096, u32::MAX),
            [Run {
                length: u32::MAX,
                data: false
            }]
        );
        assert_eq!(known_runs(&[extent(4096, 10, true)], 0, 100), []);
    }

    #[test]
    fn a_short_hole_in_a_read_is_sent_as_data() {
        let found = [
            extent(0, 65536, true),
            extent(65536, 4096, false),
            extent(69632, 65536, true),
        ];
        assert_eq!(
            merge_runs(&found, 0, 135_168, HOLE_BYTES_MIN),
            [Run {
                length: 135_168,
                data: true
            }]
        );
    }

    proptest! {
        #[test]
        fn a_read_is_covered_exactly_and_fits_its_room(
            lengths in prop::collection::vec((1u64..200_000, any::<bool>()), 0..64),
            offset in 0u64..1 << 40, length in 1u32..40 << 20,
        ) {
            let mut at = offset;
            let found: Vec<Extent> = lengths.into_iter().map(|(bytes, data)| {
                at += bytes;
                extent(at - bytes, bytes, data)
            }).collect();
            let runs = merge_runs(&found, offset, length, HOLE_BYTES_MIN);
            prop_assert_eq!(runs.iter().map(|run| u64::from(run.length)).sum::<u64>(), u64::from(length));
            prop_assert!(runs.windows(2).all(|pair| pair[0].data != pair[1].data));
            let room: usize = runs.iter().map(|run| match run.data {
                true => DATA_HEADER_BYTES + run.length as usize,
                false => HOLE_CHUNK_BYTES,
            }).sum();
            prop_assert!(room <= length as usize + DATA_HEADER_BYTES + HOLE_CHUNK_BYTES);
        }
    }
}
