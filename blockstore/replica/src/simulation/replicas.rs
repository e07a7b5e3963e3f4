//! Replicas and their disks: events in, effects carried out, and what they say compared with what they hold.

use super::disk::{Change, history};
use super::truth::{Block, position_at};
use super::world::{Happening, Wire, World};
use crate::id::{NodeId, Position};
use crate::message::Message;
use crate::replica::{self, Op};
use rand::Rng;

impl World {
    pub(super) fn tell_replica(&mut self, id: NodeId, event: replica::Event<Block>) {
        let now = self.now;
        let node = self.node(id);
        let local = node.local(now);
        let Some(process) = node.process.as_mut() else {
            return;
        };
        let before = process.replica.promised();
        let mut effects = Vec::new();
        process.replica.apply(local, event, &mut effects);
        assert!(
            process.replica.promised() >= before,
            "(1) a promise goes back"
        );
        let (_, written, synced) = process.replica.progress();
        assert!(synced <= written && written <= process.replica.history().end().lsn);
        for effect in effects {
            self.replica_effect(id, effect);
        }
    }

    pub(super) fn replica_effect(&mut self, id: NodeId, effect: replica::Effect<Block>) {
        use replica::Effect;
        let slow = self.node(id).slow;
        let quick = self.random.random_range(10..200) * slow;
        let long = self.random.random_range(500..4_000) * slow;
        let now = self.now;
        match effect {
            Effect::Send(to, message) => {
                self.check_reply(id, &message);
                self.send(id, to, &message);
            }
            Effect::Save(op, durable) => {
                let run = self.run_of(id);
                let node = self.node(id);
                node.disk.save(op, durable);
                if let Some(process) = node.process.as_mut() {
                    let at = (now + long).max(process.saves_done_at + 1);
                    process.saves_done_at = at;
                    self.later(at - now, Happening::Disk(id, run, op));
                }
            }
            Effect::Append(op, entries) => {
                let follows = self.logical_end(id);
                self.truth.saw(follows, &entries);
                self.disk_change(id, op, Change::Append(entries), quick);
            }
            Effect::Cut(op, position) => {
                self.disk_change(id, op, Change::Cut(position), quick);
            }
            Effect::Swap(op, position, runs) => {
                let node = self.node(id);
                let aside = node.disk.aside.take();
                let (built, log) = aside.expect("a copy was built aside");
                assert_eq!(built, position, "what was built is put in place");
                assert_eq!(history(&log).runs().last(), runs.last());
                self.disk_change(id, op, Change::Swap(log), quick);
            }
            Effect::Sync(op) => {
                let run = self.run_of(id);
                self.node(id).disk.sync(op);
                self.later(long, Happening::Disk(id, run, op));
            }
            Effect::Read { .. } => {
                let run = self.run_of(id);
                self.later(quick, Happening::Read(id, run, effect));
            }
            Effect::Copy { upto, source, .. } => {
                let run = self.run_of(id);
                self.stats.copies += 1;
                let delay = self.random.random_range(1_000..60_000);
                self.later(delay, Happening::CopyBuilt(id, run, upto, source));
            }
            Effect::DropCopy(_) => self.node(id).disk.aside = None,
        }
    }

    pub(super) fn run_of(&mut self, id: NodeId) -> u64 {
        self.process(id).map_or(0, |process| process.run)
    }

    pub(super) fn disk_change(&mut self, id: NodeId, op: Op, change: Change, took: u64) {
        let now = self.now;
        let run = self.run_of(id);
        let node = self.node(id);
        node.disk.change(op, change);
        if let Some(process) = node.process.as_mut() {
            let at = (now + took).max(process.writes_done_at + 1);
            process.writes_done_at = at;
            self.later(at - now, Happening::Disk(id, run, op));
        }
    }

    /// Where the log on disk will end when everything under way is done.
    pub(super) fn logical_end(&mut self, id: NodeId) -> Position {
        let node = self.node(id);
        node.disk.logical_end()
    }

    pub(super) fn disk_done(&mut self, id: NodeId, run: u64, op: Op) {
        if !self.runs_as(id, run) {
            return;
        }
        let node = self.node(id);
        if node.process.as_ref().is_some_and(|p| p.replica.failed()) {
            return;
        }
        if std::mem::take(&mut node.fail_next) {
            self.trace(|| format!("{id} fails a disk operation"));
            return self.tell_replica(id, replica::Event::Failed(op));
        }
        node.disk.done(op);
        self.tell_replica(id, replica::Event::Done(op));
    }

    pub(super) fn read_entries(&mut self, id: NodeId, run: u64, read: &replica::Effect<Block>) {
        let replica::Effect::Read {
            to,
            epoch,
            from,
            upto,
            bytes_max,
        } = read
        else {
            return;
        };
        if !self.runs_as(id, run) {
            return;
        }
        let log = self.node(id).disk.visible();
        if position_at(&log, from.lsn) != Some(*from) {
            return;
        }
        let mut bytes = 0;
        let entries = log
            .into_iter()
            .filter(|entry| entry.lsn >= from.lsn && entry.end() <= upto.lsn)
            .take_while(|entry| {
                bytes += entry.weight();
                bytes <= (*bytes_max).max(entry.weight())
            })
            .collect();
        let event = replica::Event::Read {
            to: *to,
            epoch: *epoch,
            from: *from,
            entries,
        };
        self.tell_replica(id, event);
    }

    pub(super) fn copy_built(&mut self, id: NodeId, run: u64, upto: Position, source: NodeId) {
        if !self.runs_as(id, run) {
            return;
        }
        let cut = self
            .cuts
            .iter()
            .any(|(a, b, _)| (*a, *b) == (source, id) || (*a, *b) == (id, source));
        let from = self.node(source);
        let mut log = from.disk.synced().clone();
        let held = from.process.is_some() && position_at(&log, upto.lsn) == Some(upto) && !cut;
        let event = if held {
            log.retain(|entry| entry.end() <= upto.lsn);
            self.node(id).disk.aside = Some((upto, log));
            replica::Event::CopyReady(upto)
        } else {
            replica::Event::CopyFailed(upto)
        };
        self.tell_replica(id, event);
    }

    /// What a replica says must be so on its disk.
    pub(super) fn check_reply(&mut self, id: NodeId, message: &Wire) {
        let node = &self.nodes[id.0 as usize - 1];
        match message {
            Message::Promised(promised) => {
                assert!(
                    node.disk.promised() >= promised.epoch,
                    "(1) {id} answers a promise of {} that is not synced",
                    promised.epoch
                );
                let standing = node.process.as_ref().is_some_and(|process| process.known);
                assert!(standing, "(10) {id} votes and the catalog does not know it");
            }
            Message::Ack(ack) => {
                assert!(
                    node.disk.promised() >= ack.epoch,
                    "(1) {id} acknowledges to {} without a synced promise",
                    ack.epoch
                );
                let synced = position_at(node.disk.synced(), ack.synced);
                let held = synced.is_some_and(|at| self.truth.contains(ack.epoch, at));
                assert!(held, "(3) {id} acknowledges a sync that is none: {ack:?}");
                let written = node.disk.written_position(ack.written);
                let held = written.is_some_and(|at| self.truth.contains(ack.epoch, at));
                assert!(held, "(2) {id} acknowledges what it lacks: {ack:?}");
            }
            _ => {}
        }
        self.truth.checks += 1;
    }
}
