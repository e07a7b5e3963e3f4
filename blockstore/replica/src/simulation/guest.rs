//! A guest that writes, flushes and reads registers through whichever node serves, and checks what it
//! is told against what it knows.
//!
//! Each value is written once. A read must show the last value that was answered or seen, or one
//! issued later and not settled; after a poisoned attachment anything back to the last good flush.

use super::catalog::Ask;
use super::truth::{BLOCK_BYTES, Block};
use super::world::{Happening, World};
use crate::id::{Epoch, Lsn, NodeId, Position};
use crate::writer::{self, Denied, Token, Writer};
use rand::Rng;
use std::collections::BTreeMap;

const REGISTERS: usize = 6;
const PATIENCE_US: u64 = 250_000;

#[derive(Default, Clone)]
struct Register {
    /// Durable for sure, and what was issued since, in order.
    floor: u64,
    issued: Vec<u64>,
    known: Option<u64>,
    /// The last value answered to this attachment.
    answered: Option<u64>,
}

enum Kind {
    Write(usize, u64, Position),
    /// Positions and values answered before it.
    Flush(usize, Vec<Option<u64>>, Token),
    Read(usize, u64),
}

struct Request {
    kind: Kind,
    node: NodeId,
    at: u64,
}

#[derive(Default)]
pub(super) struct Guest {
    pub(super) token: Option<Token>,
    pub(super) at: Option<NodeId>,
    next: u64,
    value: u64,
    requests: BTreeMap<u64, Request>,
    registers: Vec<Register>,
    answered: Vec<Position>,
    asked: u64,
}

impl Guest {
    /// One request for each register at a time: so answers come in the order of requests.
    fn busy(&self, register: usize) -> bool {
        self.requests.values().any(|request| match &request.kind {
            Kind::Write(other, ..) | Kind::Read(other, _) => *other == register,
            Kind::Flush(..) => false,
        })
    }

    /// The attachment may have lost writes: what was known is not known any more.
    fn forget(&mut self) {
        self.token = None;
        self.answered.clear();
        for register in &mut self.registers {
            register.known = None;
            register.answered = None;
        }
    }
}

impl World {
    fn writer(&self, id: NodeId) -> Option<&Writer<Block>> {
        let process = self.nodes[id.0 as usize - 1].process.as_ref()?;
        process.writer.as_ref()
    }

    pub(super) fn serving_node(&self) -> Option<NodeId> {
        let serving = self.nodes.iter().filter_map(|node| {
            let writer = self.writer(node.id)?;
            writer.serving().then_some((writer.epoch(), node.id))
        });
        serving.max().map(|(_, id)| id)
    }

    /// The node's process ended, and with it the guest's connection.
    pub(super) fn guest_lost(&mut self, id: NodeId) {
        self.guest.requests.retain(|_, request| request.node != id);
        if self.guest.at == Some(id) {
            self.guest.at = None;
        }
    }

    pub(super) fn guest_step(&mut self) {
        let pause = self.random.random_range(500..6_000);
        self.later(pause, Happening::Guest);
        if self.guest.registers.is_empty() {
            self.guest.registers = vec![
                Register {
                    known: Some(0),
                    ..Register::default()
                };
                REGISTERS
            ];
        }
        let now = self.now;
        let late = |request: &Request| now - request.at > PATIENCE_US;
        if self.guest.requests.values().any(late) {
            // It hangs up; what was under way may or may not have happened.
            self.guest.requests.clear();
            self.guest.at = None;
        }
        let Some(at) = self.guest.at else {
            return self.guest_connect();
        };
        let Some((serving, poison, epoch)) = self
            .writer(at)
            .map(|writer| (writer.serving(), writer.poison(), writer.epoch()))
        else {
            self.guest_lost(at);
            return;
        };
        if !serving {
            self.guest_lost(at);
            return;
        }
        let Some(token) = self.guest.token else {
            self.guest.token = Some(Token(epoch));
            return;
        };
        let choice = self.random.random_range(0..100);
        self.guest.next += 1;
        let id = self.guest.next;
        match choice {
            0..60 => self.guest_write(at, id),
            60..75 => {
                let values = self.guest.registers.iter().map(|r| r.answered).collect();
                let kind = Kind::Flush(self.guest.answered.len(), values, token);
                self.request(id, at, kind);
                self.tell_writer(at, writer::Event::Flush { id, token });
            }
            _ => self.guest_read(at, id, token.0 <= poison),
        }
    }

    fn request(&mut self, id: u64, node: NodeId, kind: Kind) {
        let at = self.now;
        self.guest.requests.insert(id, Request { kind, node, at });
    }

    fn guest_connect(&mut self) {
        if let Some(node) = self.serving_node() {
            // Not always the newest: an old writer may still call itself one.
            let other = NodeId(self.random.random_range(1..=self.nodes.len() as u64));
            let old = self.writer(other).is_some_and(Writer::serving);
            self.guest.at = Some(if old && self.random.random_bool(0.2) {
                other
            } else {
                node
            });
        }
        let patient = self.now - self.guest.asked < PATIENCE_US;
        if patient || self.guest.at.is_some() && !self.random.random_bool(0.02) {
            return;
        }
        let id = NodeId(self.random.random_range(1..=self.nodes.len() as u64));
        if self.nodes[id.0 as usize - 1].process.is_some() {
            self.guest.asked = self.now;
            self.ask(id, Ask::Grant);
        }
    }

    fn guest_write(&mut self, at: NodeId, id: u64) {
        let register = self.random.random_range(0..REGISTERS);
        if self.guest.busy(register) {
            return;
        }
        let count = self.random.random_range(1..4);
        self.guest.value += 1;
        let value = self.guest.value;
        let Some(writer) = self.writer(at) else {
            return;
        };
        let end = Position {
            epoch: writer.epoch(),
            lsn: Lsn(writer.end().lsn.0 + u64::from(count)),
        };
        self.request(id, at, Kind::Write(register, value, end));
        let payload = Block { register, value };
        let event = writer::Event::Write {
            id,
            count,
            bytes: BLOCK_BYTES as u32,
            payload,
        };
        self.tell_writer(at, event);
        if self.writer(at).is_some_and(|writer| writer.end() == end) {
            self.guest.registers[register].issued.push(value);
            if let Some(process) = self.process(at) {
                process.registers.insert(register, (value, end.lsn));
            }
        }
    }

    fn guest_read(&mut self, at: NodeId, id: u64, poisoned: bool) {
        let register = self.random.random_range(0..REGISTERS);
        if self.guest.busy(register) || poisoned {
            return;
        }
        let Some(process) = self.process(at) else {
            return;
        };
        let run = process.run;
        let (value, through) = process
            .registers
            .get(&register)
            .copied()
            .unwrap_or_default();
        self.request(id, at, Kind::Read(register, value));
        let took = self.random.random_range(10..3_000);
        self.later(took, Happening::Shown(at, run, id, through));
    }

    pub(super) fn guest_answered(&mut self, at: NodeId, id: u64, outcome: Result<(), Denied>) {
        let epoch = self.writer_epoch(at);
        // Whether or not the guest still waits for it.
        let Some(request) = self.guest.requests.remove(&id) else {
            return;
        };
        match (request.kind, outcome) {
            (Kind::Write(register, value, end), Ok(())) => {
                self.stats.writes += 1;
                let register = &mut self.guest.registers[register];
                register.known = Some(value);
                register.answered = Some(value);
                self.guest.answered.push(end);
            }
            (Kind::Flush(answered, values, token), Ok(())) => {
                self.flush_succeeded(at, epoch, answered, &values, token);
            }
            (Kind::Read(register, value), Ok(())) => self.check_read(at, epoch, register, value),
            (Kind::Flush(..), Err(Denied::Poisoned)) => {
                self.stats.poisoned += 1;
                self.guest.requests.clear();
                self.guest.forget();
            }
            (_, Err(_)) => {}
        }
    }

    fn flush_succeeded(
        &mut self,
        at: NodeId,
        epoch: Epoch,
        answered: usize,
        values: &[Option<u64>],
        token: Token,
    ) {
        self.stats.flushes += 1;
        assert!(
            token.0 > self.truth.poison(epoch),
            "(12) a poisoned token's flush succeeds"
        );
        let commit = self.writer(at).map_or(Lsn(0), Writer::commit);
        for end in &self.guest.answered[..answered] {
            assert!(
                self.truth.contains(epoch, *end) && end.lsn <= commit,
                "(12) a flush under {epoch} succeeds over the lost write {end}"
            );
        }
        for (register, value) in self.guest.registers.iter_mut().zip(values) {
            let at = value.and_then(|value| register.issued.iter().position(|v| *v == value));
            if let Some(at) = at {
                register.floor = register.issued[at];
                register.issued.drain(..=at);
            }
        }
    }

    fn check_read(&mut self, at: NodeId, epoch: Epoch, register: usize, value: u64) {
        self.stats.reads += 1;
        let later = self.truth.served.range(Epoch(epoch.0 + 1)..).next();
        assert!(
            later.is_none(),
            "(7) {at} reads under {epoch} and {later:?} serves already"
        );
        let Some(token) = self.guest.token else {
            return;
        };
        let poisoned = token.0 <= self.truth.poison(epoch);
        let register = &mut self.guest.registers[register];
        let place = register.issued.iter().position(|issued| *issued == value);
        assert!(
            place.is_some() || value == register.floor,
            "a read shows {value}; durable is {}, issued since {:?}",
            register.floor,
            register.issued
        );
        if poisoned {
            return;
        }
        if let Some(known) = register.known {
            let known_place = register.issued.iter().position(|issued| *issued == known);
            assert!(
                value == known || place > known_place,
                "a read shows {value} after {known} was answered or seen, issued {:?}",
                register.issued
            );
        }
        register.known = Some(value);
    }
}
