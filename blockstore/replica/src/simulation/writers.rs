//! Writers: events in, effects carried out, what they declare checked against the truth.

use super::catalog::Ask;
use super::truth::{Block, Copy, assert_on_quorum};
use super::world::{Happening, World};
use crate::id::{Epoch, Lsn, Member, NodeId, Position};
use crate::message::Message;
use crate::writer::{self, Writer};

impl World {
    pub(super) fn tell_writer(&mut self, id: NodeId, event: writer::Event<Block>) {
        let now = self.now;
        let node = self.node(id);
        let local = node.local(now);
        let Some(writer) = node
            .process
            .as_mut()
            .and_then(|process| process.writer.as_mut())
        else {
            return;
        };
        let mut effects = Vec::new();
        writer.apply(local, event, &mut effects);
        self.check_writer(id);
        for effect in effects {
            self.writer_effect(id, effect);
        }
        self.set_wake(id);
    }

    pub(super) fn set_wake(&mut self, id: NodeId) {
        let now = self.now;
        let node = self.node(id);
        let Some(writer) = node
            .process
            .as_ref()
            .and_then(|process| process.writer.as_ref())
        else {
            return;
        };
        let due = node.global(writer.next_wake()).max(now + 200);
        let Some(process) = node.process.as_mut() else {
            return;
        };
        if due < process.wake {
            process.wake = due;
            let run = process.run;
            if due < u64::MAX / 2 {
                self.later(due - now, Happening::Wake(id, run));
            }
        }
    }

    pub(super) fn check_writer(&mut self, id: NodeId) {
        let node = &self.nodes[id.0 as usize - 1];
        let Some(writer) = node.process.as_ref().and_then(|p| p.writer.as_ref()) else {
            return;
        };
        let (epoch, commit) = (writer.epoch(), writer.commit());
        let (bytes, entries) = writer.uncommitted();
        assert!(
            bytes <= self.settings.unsynced_bytes_max + 200
                && entries <= self.settings.unsynced_entries_max + 1
                || writer.chosen() != Position::ZERO && !writer.serving(),
            "(4) the ring is bounded: {bytes} bytes, {entries} entries"
        );
        if !writer.serving() && !self.truth.served.contains_key(&epoch) {
            return;
        }
        let known = self.truth.commits.get(&epoch).copied();
        if known != Some(commit) && self.truth.served.contains_key(&epoch) {
            let position = Position { epoch, lsn: commit };
            if commit > writer.chosen().lsn {
                self.check_copies(id, position);
            }
        }
        if self.truth.served.contains_key(&epoch) {
            let answered = writer.answered();
            self.truth.declared(epoch, commit, answered);
        }
    }

    /// (3, 11) What a writer goes by is synced on a quorum of its sets.
    fn check_copies(&self, id: NodeId, position: Position) {
        let node = &self.nodes[id.0 as usize - 1];
        let Some(writer) = node.process.as_ref().and_then(|p| p.writer.as_ref()) else {
            return;
        };
        let members = writer.sets().members();
        let copies: Vec<Copy> = members
            .into_iter()
            .map(|member| self.copy_of(member, position))
            .collect();
        assert_on_quorum(writer.sets(), &copies, &format!("{position}"));
    }

    fn copy_of(&self, member: Member, position: Position) -> Copy {
        let node = &self.nodes[member.node.0 as usize - 1];
        let same = node.member() == member;
        Copy {
            member,
            durable: same && node.disk.holds_synced(position),
            broken: !same || node.disowned || node.rotten || node.wiped,
        }
    }

    pub(super) fn writer_effect(&mut self, id: NodeId, effect: writer::Effect<Block>) {
        use writer::Effect;
        match effect {
            Effect::Send(to, message) => {
                if let Message::Append(append) = &message {
                    self.truth.saw(append.prev, &append.entries);
                }
                self.send(id, to, &message);
            }
            Effect::Serving { clean, poison } => self.serving(id, clean, poison),
            Effect::Done(request, outcome) => self.guest_answered(id, request, outcome),
            Effect::AskSets(sets) => {
                let epoch = self.writer_epoch(id);
                self.ask(id, Ask::Sets(epoch, sets));
            }
            Effect::Changed(set) => {
                self.stats.changes += 1;
                if self.target.as_ref() == Some(&set) {
                    self.target = None;
                }
            }
            Effect::Released(..) => self.released(id, &effect),
            Effect::Fenced(by) => {
                self.stats.fenced += 1;
                self.trace(|| format!("{id} is fenced by {by}"));
            }
            Effect::Contradicted(member) => {
                panic!("{member} refused {id} with a contradiction");
            }
            Effect::Hold | Effect::Go | Effect::Distrusted(_) | Effect::Stalled(_) => {}
        }
    }

    pub(super) fn writer_epoch(&mut self, id: NodeId) -> Epoch {
        let writer = self.process(id).and_then(|process| process.writer.as_ref());
        writer.map_or(Epoch(0), Writer::epoch)
    }

    pub(super) fn serving(&mut self, id: NodeId, clean: bool, poison: Epoch) {
        self.stats.openings += 1;
        self.stats.unclean += u64::from(!clean);
        let epoch = self.writer_epoch(id);
        self.trace(|| format!("{id} serves {epoch}, clean {clean}, poison {poison}"));
        self.truth.serves(epoch, clean);
        let now = self.now;
        for node in &self.nodes {
            let Some(writer) = node.process.as_ref().and_then(|p| p.writer.as_ref()) else {
                continue;
            };
            assert!(
                writer.epoch() >= epoch || !writer.leased(node.local(now)),
                "(7) {} may read under {} while {id} serves {epoch}",
                node.id,
                writer.epoch()
            );
        }
        let chosen = self
            .process(id)
            .and_then(|process| process.writer.as_ref())
            .map_or(Position::ZERO, Writer::chosen);
        let start = Position {
            epoch,
            lsn: Lsn(chosen.lsn.0 + 1),
        };
        self.check_copies(id, start);
        let registers = self.truth.registers(chosen);
        if let Some(process) = self.process(id) {
            process.registers = registers;
        }
        let writer = &self.nodes[id.0 as usize - 1];
        let writer = writer.process.as_ref().and_then(|p| p.writer.as_ref());
        let (commit, answered) = writer.map_or_else(Default::default, |writer| {
            (writer.commit(), writer.answered())
        });
        self.truth.declared(epoch, commit, answered);
        self.check_writer(id);
    }
}
