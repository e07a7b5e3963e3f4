//! What goes wrong, and the end where it is put right.
//!
//! Unsynced data may be lost anywhere at any time. What is lost for good (a wiped, rotten or rolled-back
//! disk) stays below a majority of every set that counts: more than that nobody can bear.

use super::catalog::Ask;
use super::disk::Disk;
use super::world::{Happening, World};
use crate::id::{Lsn, Member, NodeId};
use crate::message::Entry;
use crate::replica::{self, Ended};
use crate::sets::majority;
use crate::writer;
use rand::Rng;
use rand::seq::SliceRandom;

impl World {
    fn any_node(&mut self) -> NodeId {
        NodeId(self.random.random_range(1..=self.nodes.len() as u64))
    }

    fn broken(&self, member: &Member) -> bool {
        let node = &self.nodes[member.node.0 as usize - 1];
        node.member() != *member || node.disowned || node.rotten || node.wiped
    }

    /// Whether one more disk may be lost.
    fn may_lose(&self, id: NodeId) -> bool {
        let sets = self.catalog.sets.sets.iter().chain(&self.target);
        for set in sets {
            let bad = set
                .iter()
                .filter(|member| member.node == id || self.broken(member))
                .count();
            if bad > set.len() - majority(set.len()) {
                return false;
            }
        }
        true
    }

    pub(super) fn chaos(&mut self) {
        if self.calm {
            return;
        }
        let pause = self.random.random_range(1..self.habits.chaos_us * 2);
        self.later(pause, Happening::Chaos);
        self.notice_healing();
        let id = self.any_node();
        match self.random.random_range(0..100) {
            0..22 => self.crash_and_restart(id),
            22..24 => {
                for at in 0..self.nodes.len() {
                    let id = self.nodes[at].id;
                    self.crash_and_restart(id);
                }
            }
            24..40 => self.cut(id),
            40..46 => {
                let slow = [1, 1, 10, 60][self.random.random_range(0..4)];
                self.node(id).slow = slow;
            }
            46..52 => {
                let until = self.now + self.random.random_range(10_000..400_000);
                let node = self.node(id);
                node.paused_until = node.paused_until.max(until);
                self.trace(|| format!("{id} sleeps until {until}"));
            }
            52..57 => self.rot(id),
            57..61 => self.wipe(id),
            61..65 => self.roll_back(id),
            65..69 => self.snapshot(id),
            69..74 => self.reprovision(id),
            74..82 => self.change_set(),
            82..88 => {
                self.trace(|| format!("{id} wants to open"));
                self.ask(id, Ask::Grant);
            }
            88..94 => self.hand_over(),
            94..97 => {
                self.catalog.away_until = self.now + self.random.random_range(20_000..400_000);
            }
            _ => self.node(id).fail_next = true,
        }
        self.restart_failed();
    }

    fn crash_and_restart(&mut self, id: NodeId) {
        let whole = self.random.random_bool(0.3);
        self.crash(id, whole);
        let pause = self.random.random_range(1_000..500_000);
        self.later(pause, Happening::Start(id));
    }

    /// A process whose disk failed is opened again.
    fn restart_failed(&mut self) {
        for at in 0..self.nodes.len() {
            let id = self.nodes[at].id;
            let failed = self
                .process(id)
                .is_some_and(|process| process.replica.failed());
            if failed && self.random.random_bool(0.5) {
                self.crash(id, false);
                self.later(5_000, Happening::Start(id));
            }
        }
    }

    fn cut(&mut self, id: NodeId) {
        let until = self.now + self.random.random_range(10_000..700_000);
        let others: Vec<NodeId> = self.nodes.iter().map(|node| node.id).collect();
        let (out, back) =
            [(true, true), (true, false), (false, true)][self.random.random_range(0..3)];
        let all = self.random.random_bool(0.5);
        for other in others {
            if other != id && (all || self.random.random_bool(0.4)) {
                if out {
                    self.cuts.push((id, other, until));
                }
                if back {
                    self.cuts.push((other, id, until));
                }
            }
        }
        self.trace(|| format!("{id} is cut off, out {out}, in {back}, until {until}"));
    }

    /// A gap that was made good by what the log got since.
    fn notice_healing(&mut self) {
        for node in &mut self.nodes {
            let replica = node.process.as_ref().map(|process| &process.replica);
            let healed = replica.is_some_and(|replica| !replica.durable().gap);
            // Until that is saved, the next run will not vote.
            let healed = healed && !node.disk.saved.gap;
            if node.rotten && healed {
                node.rotten = false;
            }
        }
    }

    fn rot(&mut self, id: NodeId) {
        let failed = self
            .process(id)
            .is_some_and(|process| process.replica.failed());
        if !self.may_lose(id) || self.node(id).disowned || failed {
            return;
        }
        let ends: Vec<Lsn> = self.node(id).disk.synced().iter().map(Entry::end).collect();
        if ends.len() < 2 || !self.node(id).disk.idle() {
            return;
        }
        let sound = ends[self.random.random_range(0..ends.len() - 1)];
        self.trace(|| format!("{id} rots above {sound}"));
        self.stats.losses += 1;
        let node = self.node(id);
        node.rotten = true;
        node.disk.rot(sound);
        if node.process.is_some() {
            self.tell_replica(id, replica::Event::Rot(sound));
        } else {
            node.ended = Ended::Damaged;
        }
    }

    fn wipe(&mut self, id: NodeId) {
        if !self.may_lose(id) {
            return;
        }
        self.crash(id, false);
        self.trace(|| format!("{id} is wiped"));
        self.stats.losses += 1;
        // Sometimes whoever wiped it gave it its old name, too: the catalog will not know it.
        let old_name = self.random.random_bool(0.5);
        let node = self.node(id);
        let incarnation = node.disk.incarnation.0 + u64::from(!old_name);
        node.rotten = false;
        node.disk = Disk::new(incarnation);
        node.disowned = false;
        node.wiped = old_name;
        node.old_disks.clear();
        node.ended = Ended::Whole;
        self.later(20_000, Happening::Start(id));
    }

    fn snapshot(&mut self, id: NodeId) {
        let mut random = self.random.clone();
        let node = self.node(id);
        if node.disk.asking.is_some() || node.disowned || node.rotten || node.wiped {
            return;
        }
        let mut copy = node.disk.clone();
        copy.crash(false, &mut random);
        node.old_disks.push(copy);
        self.random = random;
    }

    /// An old copy of the disk takes its place.
    fn roll_back(&mut self, id: NodeId) {
        if !self.may_lose(id) {
            return;
        }
        let node = self.node(id);
        let registered = node.disk.registered;
        let incarnation = node.disk.incarnation;
        let old = node
            .old_disks
            .iter()
            .find(|old| old.registered < registered && old.incarnation == incarnation)
            .cloned();
        let Some(old) = old else {
            return;
        };
        self.crash(id, false);
        self.trace(|| format!("{id} is rolled back to boot {}", old.registered));
        self.stats.losses += 1;
        let node = self.node(id);
        node.disk = old;
        node.rotten = false;
        node.wiped = true;
        self.later(20_000, Happening::Start(id));
    }

    /// A disk that the catalog does not know gets a new name, and begins empty.
    pub(super) fn reprovision(&mut self, id: NodeId) {
        if !self.node(id).disowned && !self.node(id).wiped {
            return;
        }
        self.crash(id, false);
        self.trace(|| format!("{id} begins anew"));
        let node = self.node(id);
        node.disk = Disk::new(node.disk.incarnation.0 + 1);
        node.disowned = false;
        node.wiped = false;
        node.rotten = false;
        node.old_disks.clear();
        node.ended = Ended::Whole;
        self.later(5_000, Happening::Start(id));
    }

    fn healthy(&self) -> Vec<Member> {
        let healthy = |node: &&super::world::Node| !node.disowned && !node.wiped && !node.rotten;
        let nodes = self.nodes.iter().filter(healthy);
        nodes.map(super::world::Node::member).collect()
    }

    pub(super) fn change_set(&mut self) {
        if self.target.is_none() {
            let mut members = self.healthy();
            members.shuffle(&mut self.random);
            let copies = [1, 2, 3, 3, 3, 5][self.random.random_range(0..6)];
            if members.len() < copies {
                return;
            }
            members.truncate(copies);
            self.target = Some(members);
        }
        self.push_change();
    }

    pub(super) fn push_change(&mut self) {
        if let (Some(set), Some(id)) = (self.target.clone(), self.serving_node()) {
            let stale = set.iter().any(|member| self.broken(member));
            if stale && !self.catalog.sets.joint() {
                // Given up: the writer is told that it has what is wanted.
                self.target = None;
                let set = self.catalog.sets.sets[0].clone();
                return self.tell_writer(id, writer::Event::Change(set));
            }
            self.trace(|| format!("{id} shall change to {set:?}"));
            self.tell_writer(id, writer::Event::Change(set));
        }
    }

    fn hand_over(&mut self) {
        if let Some(id) = self.guest.at {
            self.trace(|| format!("{id} yields"));
            self.tell_writer(id, writer::Event::Yield);
        }
    }

    /// The lease was given up: somebody takes over, or nobody does and the old writer goes on.
    pub(super) fn released(&mut self, id: NodeId, effect: &writer::Effect<super::truth::Block>) {
        self.stats.releases += 1;
        if self.random.random_bool(0.4) {
            return self.tell_writer(id, writer::Event::Resume);
        }
        let successor = self.any_node();
        self.ask(successor, Ask::Grant);
        if let writer::Effect::Released(epoch, round, _) = effect {
            let told = writer::Event::Released(*epoch, *round);
            self.tell_writer(successor, told);
        }
    }

    /// Everything is put right, and within bounded time everything must be well.
    pub(super) fn settle(&mut self) {
        self.calm = true;
        self.cuts.clear();
        self.catalog.away_until = 0;
        for at in 0..self.nodes.len() {
            let id = self.nodes[at].id;
            let node = self.node(id);
            node.slow = 1;
            node.fail_next = false;
            if self
                .process(id)
                .is_none_or(|process| process.replica.failed())
            {
                if self.node(id).process.is_some() {
                    self.crash(id, false);
                }
                self.later(0, Happening::Start(id));
            }
        }
        let deadline = self.now + 12_000_000;
        let mut flushes = self.stats.flushes;
        let mut well = 0;
        while self.now < deadline && well < 3 {
            let until = self.now + 100_000;
            while self.step(until) {}
            self.notice_healing();
            self.restart_failed();
            for at in 0..self.nodes.len() {
                let id = self.nodes[at].id;
                self.reprovision(id);
            }
            let sound = self.catalog.sets.members().iter().all(|m| !self.broken(m));
            if !sound && self.target.is_none() && self.now + 8_000_000 < deadline + 6_000_000 {
                let copies = self.catalog.sets.sets[0].len();
                let mut members = self.healthy();
                members.truncate(copies);
                if members.len() == copies {
                    self.target = Some(members);
                }
            }
            self.push_change();
            well = if self.all_well() && self.stats.flushes > flushes {
                well + 1
            } else {
                0
            };
            flushes = self.stats.flushes;
        }
        assert!(
            well >= 3,
            "all was put right and all is not well: {}",
            self.describe()
        );
    }

    fn all_well(&self) -> bool {
        let Some(id) = self.serving_node() else {
            return false;
        };
        let process = self.nodes[id.0 as usize - 1].process.as_ref();
        let Some(writer) = process.and_then(|process| process.writer.as_ref()) else {
            return false;
        };
        let behind = writer.followers().any(|(_, follower)| {
            follower.link() != writer::Link::Streaming
                || follower.progress().1 < writer.chosen().lsn
        });
        !behind && !writer.sets().joint() && self.target.is_none()
    }

    fn describe(&self) -> String {
        let mut lines = vec![format!(
            "sets {:?} target {:?} guest at {:?}",
            self.catalog.sets, self.target, self.guest.at
        )];
        for node in &self.nodes {
            let writer = node.process.as_ref().and_then(|p| p.writer.as_ref());
            lines.push(format!(
                "{} up {} disowned {} rotten {} saved {:?} writer {:?}",
                node.id,
                node.process.is_some(),
                node.disowned,
                node.rotten,
                node.disk.saved,
                writer.map(|w| (w.epoch(), w.serving(), w.fenced(), w.end(), w.commit()))
            ));
            if let Some(writer) = writer.filter(|writer| writer.serving()) {
                for (member, follower) in writer.followers() {
                    lines.push(format!("    {member} {follower:?}"));
                }
            }
        }
        lines.join("\n")
    }
}
