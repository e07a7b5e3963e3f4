//! The bytes of a message. All integers are little endian; the transport adds length and CRC.
//!
//! ```text
//! message = version (1) · kind (1) · log (8) · fields of the kind · payloads of its entries, in order
//! entry   = epoch (4) · lsn (8) · count (4) · bytes (4) · body (1) [· previous (12) · poison (4)]
//! ```
//!
//! Encoding writes everything but the payloads, so that they need not be copied: send them behind it in
//! the order of [`Message::payloads`], each as long as its entry's `bytes`. Decoding says where in the
//! given bytes each payload lies. It never panics and allocates no more than the bytes warrant.

use crate::history::{History, RUNS_MAX, Run};
use crate::id::{Boot, Epoch, Identity, Incarnation, LogId, Lsn, Member, NodeId, Position};
use crate::message::{Ack, Append, Body, Entry, LeaseLeft, Message, Promised, Refusal, Start};
use std::ops::Range;

/// The version of everything in this file.
pub const VERSION: u8 = 1;

const ENTRY_BYTES: usize = 21;
const RUN_BYTES: usize = 16;

/// Why bytes are not a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// Sent by another release.
    #[error("a replica message of version {0}; this release speaks version {VERSION}")]
    Version(u8),
    /// Not a message.
    #[error("not a replica message: {0} is out of place")]
    Malformed(&'static str),
}

impl<P> Message<P> {
    /// Payloads in the order in which they follow the header.
    pub fn payloads(&self) -> impl Iterator<Item = &P> {
        let entries = match self {
            Self::Append(append) => append.entries.as_slice(),
            Self::Fetched { entries, .. } => entries.as_slice(),
            _ => &[],
        };
        entries.iter().filter_map(|entry| match &entry.body {
            Body::Data(payload) => Some(payload),
            Body::Start(_) => None,
        })
    }

    /// The same message with other payloads.
    pub fn map<Q>(self, mut change: impl FnMut(P) -> Q) -> Message<Q> {
        let mut all = |entries: Vec<Entry<P>>| -> Vec<Entry<Q>> {
            entries
                .into_iter()
                .map(|entry| Entry {
                    epoch: entry.epoch,
                    lsn: entry.lsn,
                    count: entry.count,
                    bytes: entry.bytes,
                    body: match entry.body {
                        Body::Start(start) => Body::Start(start),
                        Body::Data(payload) => Body::Data(change(payload)),
                    },
                })
                .collect()
        };
        match self {
            Self::Promise { to, epoch, round } => Message::Promise { to, epoch, round },
            Self::Promised(promised) => Message::Promised(promised),
            Self::Refused {
                who,
                epoch,
                promised,
                why,
            } => Message::Refused {
                who,
                epoch,
                promised,
                why,
            },
            Self::Append(append) => Message::Append(Append {
                to: append.to,
                epoch: append.epoch,
                session: append.session,
                prev: append.prev,
                entries: all(append.entries),
                commit: append.commit,
                sync: append.sync,
                lease: append.lease,
                regain: append.regain,
                distrust: append.distrust,
            }),
            Self::Ack(ack) => Message::Ack(ack),
            Self::Release { epoch, round } => Message::Release { epoch, round },
            Self::Fetch {
                to,
                epoch,
                from,
                upto,
                bytes_max,
            } => Message::Fetch {
                to,
                epoch,
                from,
                upto,
                bytes_max,
            },
            Self::Fetched {
                who,
                epoch,
                from,
                entries,
            } => Message::Fetched {
                who,
                epoch,
                from,
                entries: all(entries),
            },
            Self::Copy {
                to,
                epoch,
                session,
                from,
                upto,
                source,
                runs,
            } => Message::Copy {
                to,
                epoch,
                session,
                from,
                upto,
                source,
                runs,
            },
        }
    }
}

const REFUSALS: [(Refusal, u8); 7] = [
    (Refusal::Stale, 1),
    (Refusal::Elsewhere, 2),
    (Refusal::Unknown, 3),
    (Refusal::Unpromised, 4),
    (Refusal::Failed, 5),
    (Refusal::Absent, 6),
    (Refusal::Contradiction, 7),
];

struct Out<'a>(&'a mut Vec<u8>);

impl Out<'_> {
    fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn member(&mut self, member: Member) {
        self.u64(member.node.0);
        self.u64(member.incarnation.0);
    }

    fn identity(&mut self, identity: Identity) {
        self.member(identity.member);
        self.u64(identity.boot.0);
    }

    fn position(&mut self, position: Position) {
        self.u32(position.epoch.0);
        self.u64(position.lsn.0);
    }

    fn length(&mut self, length: usize) {
        self.u32(u32::try_from(length).unwrap_or(u32::MAX));
    }

    fn runs(&mut self, runs: &[Run]) {
        self.length(runs.len());
        for run in runs {
            self.u32(run.epoch.0);
            self.u64(run.start.0);
            self.u32(run.poison.0);
        }
    }

    fn entries<P>(&mut self, entries: &[Entry<P>]) {
        self.length(entries.len());
        for entry in entries {
            self.u32(entry.epoch.0);
            self.u64(entry.lsn.0);
            self.u32(entry.count);
            self.u32(entry.bytes);
            match &entry.body {
                Body::Start(start) => {
                    self.u8(1);
                    self.position(start.previous);
                    self.u32(start.poison.0);
                }
                Body::Data(_) => self.u8(2),
            }
        }
    }

    fn promised(&mut self, promised: &Promised) {
        self.identity(promised.who);
        self.u32(promised.epoch.0);
        self.u64(promised.round);
        self.runs(promised.history.runs());
        self.u64(promised.history.end().lsn.0);
        self.u64(promised.synced.0);
        self.u64(promised.commit.0);
        self.u64(promised.floor.0);
        self.u8(u8::from(promised.lost) | u8::from(promised.gap) << 1);
        self.u32(promised.lease.round.0.0);
        self.u64(promised.lease.round.1);
        self.u64(promised.lease.left_us);
        self.u32(promised.released.0.0);
        self.u64(promised.released.1);
    }
}

/// Appends everything but the payloads to `out`.
pub fn encode<P>(log: LogId, message: &Message<P>, out: &mut Vec<u8>) {
    let mut out = Out(out);
    out.u8(VERSION);
    let kind = match message {
        Message::Promise { .. } => 1,
        Message::Promised(_) => 2,
        Message::Refused { .. } => 3,
        Message::Append(_) => 4,
        Message::Ack(_) => 5,
        Message::Release { .. } => 6,
        Message::Fetch { .. } => 7,
        Message::Fetched { .. } => 8,
        Message::Copy { .. } => 9,
    };
    out.u8(kind);
    out.u64(log.0);
    match message {
        Message::Promise { to, epoch, round } => {
            out.member(*to);
            out.u32(epoch.0);
            out.u64(*round);
        }
        Message::Promised(promised) => out.promised(promised),
        Message::Refused {
            who,
            epoch,
            promised,
            why,
        } => {
            out.identity(*who);
            out.u32(epoch.0);
            out.u32(promised.0);
            let code = REFUSALS.iter().find(|(refusal, _)| refusal == why);
            out.u8(code.map_or(0, |(_, code)| *code));
        }
        Message::Append(append) => {
            out.identity(append.to);
            out.u32(append.epoch.0);
            out.u64(append.session);
            out.position(append.prev);
            out.u64(append.commit.0);
            out.u64(append.sync.0);
            out.u64(append.lease);
            out.u64(append.regain.0);
            out.u8(u8::from(append.distrust));
            out.entries(&append.entries);
        }
        Message::Ack(ack) => {
            out.identity(ack.who);
            out.u32(ack.epoch.0);
            out.u64(ack.session);
            out.u64(ack.written.0);
            out.u64(ack.synced.0);
            out.u64(ack.lease);
            out.u8(u8::from(ack.behind));
        }
        Message::Release { epoch, round } => {
            out.u32(epoch.0);
            out.u64(*round);
        }
        Message::Fetch {
            to,
            epoch,
            from,
            upto,
            bytes_max,
        } => {
            out.identity(*to);
            out.u32(epoch.0);
            out.position(*from);
            out.position(*upto);
            out.u64(*bytes_max);
        }
        Message::Fetched {
            who,
            epoch,
            from,
            entries,
        } => {
            out.identity(*who);
            out.u32(epoch.0);
            out.position(*from);
            out.entries(entries);
        }
        Message::Copy {
            to,
            epoch,
            session,
            from,
            upto,
            source,
            runs,
        } => {
            out.identity(*to);
            out.u32(epoch.0);
            out.u64(*session);
            out.position(*from);
            out.position(*upto);
            out.u64(source.0);
            out.runs(runs);
        }
    }
}

struct In<'a> {
    bytes: &'a [u8],
    at: usize,
}

type Decoded<T> = Result<T, CodecError>;

impl In<'_> {
    fn take<const N: usize>(&mut self) -> Decoded<[u8; N]> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let taken = rest
            .first_chunk::<N>()
            .ok_or(CodecError::Malformed("its end"))?;
        self.at += N;
        Ok(*taken)
    }

    fn u8(&mut self) -> Decoded<u8> {
        Ok(u8::from_le_bytes(self.take()?))
    }

    fn u32(&mut self) -> Decoded<u32> {
        Ok(u32::from_le_bytes(self.take()?))
    }

    fn u64(&mut self) -> Decoded<u64> {
        Ok(u64::from_le_bytes(self.take()?))
    }

    fn flags(&mut self, most: u8) -> Decoded<u8> {
        let flags = self.u8()?;
        if flags > most {
            return Err(CodecError::Malformed("a flag"));
        }
        Ok(flags)
    }

    fn epoch(&mut self) -> Decoded<Epoch> {
        Ok(Epoch(self.u32()?))
    }

    fn lsn(&mut self) -> Decoded<Lsn> {
        Ok(Lsn(self.u64()?))
    }

    fn member(&mut self) -> Decoded<Member> {
        Ok(Member {
            node: NodeId(self.u64()?),
            incarnation: Incarnation(self.u64()?),
        })
    }

    fn identity(&mut self) -> Decoded<Identity> {
        Ok(Identity {
            member: self.member()?,
            boot: Boot(self.u64()?),
        })
    }

    fn position(&mut self) -> Decoded<Position> {
        Ok(Position {
            epoch: self.epoch()?,
            lsn: self.lsn()?,
        })
    }

    fn length(&mut self, each: usize, most: usize) -> Decoded<usize> {
        let length = self.u32()? as usize;
        let left = self.bytes.len() - self.at;
        if length > most || length.saturating_mul(each) > left {
            return Err(CodecError::Malformed("a length"));
        }
        Ok(length)
    }

    fn runs(&mut self) -> Decoded<Vec<Run>> {
        let length = self.length(RUN_BYTES, RUNS_MAX)?;
        let mut runs = Vec::with_capacity(length);
        for _ in 0..length {
            runs.push(Run {
                epoch: self.epoch()?,
                start: self.lsn()?,
                poison: self.epoch()?,
            });
        }
        Ok(runs)
    }

    /// Entries and, behind all fields, where their payloads lie; nothing may follow.
    fn entries(&mut self) -> Decoded<Vec<Entry<Range<usize>>>> {
        let length = self.length(ENTRY_BYTES, usize::MAX)?;
        let mut entries = Vec::with_capacity(length);
        for _ in 0..length {
            let (epoch, lsn) = (self.epoch()?, self.lsn()?);
            let (count, bytes) = (self.u32()?, self.u32()?);
            let body = match self.u8()? {
                1 => Body::Start(Start {
                    previous: self.position()?,
                    poison: self.epoch()?,
                }),
                2 => Body::Data(0..0),
                _ => return Err(CodecError::Malformed("an entry's kind")),
            };
            entries.push(Entry {
                epoch,
                lsn,
                count,
                bytes,
                body,
            });
        }
        for entry in &mut entries {
            if let Body::Data(place) = &mut entry.body {
                let end = self.at.saturating_add(entry.bytes as usize);
                if end > self.bytes.len() {
                    return Err(CodecError::Malformed("a payload"));
                }
                *place = self.at..end;
                self.at = end;
            }
        }
        Ok(entries)
    }

    fn promised(&mut self) -> Decoded<Promised> {
        let who = self.identity()?;
        let (epoch, round) = (self.epoch()?, self.u64()?);
        let runs = self.runs()?;
        let end = self.lsn()?;
        let history = History::new(runs, end).ok_or(CodecError::Malformed("a history"))?;
        let (synced, commit, floor) = (self.lsn()?, self.lsn()?, self.lsn()?);
        let flags = self.flags(3)?;
        if synced > end || commit > end {
            return Err(CodecError::Malformed("an end"));
        }
        Ok(Promised {
            who,
            epoch,
            round,
            history,
            synced,
            commit,
            floor,
            lost: flags & 1 > 0,
            gap: flags & 2 > 0,
            lease: LeaseLeft {
                round: (self.epoch()?, self.u64()?),
                left_us: self.u64()?,
            },
            released: (self.epoch()?, self.u64()?),
        })
    }

    fn append(&mut self) -> Decoded<Append<Range<usize>>> {
        Ok(Append {
            to: self.identity()?,
            epoch: self.epoch()?,
            session: self.u64()?,
            prev: self.position()?,
            commit: self.lsn()?,
            sync: self.lsn()?,
            lease: self.u64()?,
            regain: self.lsn()?,
            distrust: self.flags(1)? > 0,
            entries: self.entries()?,
        })
    }
}

/// The log and message that these bytes are, payloads given as places in them.
///
/// # Errors
/// Another version, or anything that is not exactly one message.
pub fn decode(bytes: &[u8]) -> Result<(LogId, Message<Range<usize>>), CodecError> {
    let mut fields = In { bytes, at: 0 };
    let version = fields.u8()?;
    if version != VERSION {
        return Err(CodecError::Version(version));
    }
    let kind = fields.u8()?;
    let log = LogId(fields.u64()?);
    let message = match kind {
        1 => Message::Promise {
            to: fields.member()?,
            epoch: fields.epoch()?,
            round: fields.u64()?,
        },
        2 => Message::Promised(Box::new(fields.promised()?)),
        3 => Message::Refused {
            who: fields.identity()?,
            epoch: fields.epoch()?,
            promised: fields.epoch()?,
            why: {
                let code = fields.u8()?;
                let known = REFUSALS.iter().find(|(_, known)| *known == code);
                known.ok_or(CodecError::Malformed("a refusal"))?.0
            },
        },
        4 => Message::Append(fields.append()?),
        5 => Message::Ack(Ack {
            who: fields.identity()?,
            epoch: fields.epoch()?,
            session: fields.u64()?,
            written: fields.lsn()?,
            synced: fields.lsn()?,
            lease: fields.u64()?,
            behind: fields.flags(1)? > 0,
        }),
        6 => Message::Release {
            epoch: fields.epoch()?,
            round: fields.u64()?,
        },
        7 => Message::Fetch {
            to: fields.identity()?,
            epoch: fields.epoch()?,
            from: fields.position()?,
            upto: fields.position()?,
            bytes_max: fields.u64()?,
        },
        8 => Message::Fetched {
            who: fields.identity()?,
            epoch: fields.epoch()?,
            from: fields.position()?,
            entries: fields.entries()?,
        },
        9 => Message::Copy {
            to: fields.identity()?,
            epoch: fields.epoch()?,
            session: fields.u64()?,
            from: fields.position()?,
            upto: fields.position()?,
            source: NodeId(fields.u64()?),
            runs: fields.runs()?,
        },
        _ => return Err(CodecError::Malformed("its kind")),
    };
    if fields.at != bytes.len() {
        return Err(CodecError::Malformed("its end"));
    }
    Ok((log, message))
}

#[cfg(test)]
mod tests;
