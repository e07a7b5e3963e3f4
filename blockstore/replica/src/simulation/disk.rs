//! A disk that keeps what was synced, and of the rest what the seed says.

use super::truth::{Block, position_at};
use crate::history::{History, Run};
use crate::id::{Epoch, Incarnation, Lsn, Position};
use crate::message::{Body, Entry};
use crate::replica::{Durable, Op};
use rand::Rng;
use rand::rngs::StdRng;
use std::collections::VecDeque;

pub(super) type Log = Vec<Entry<Block>>;

#[derive(Clone, Debug)]
pub(super) enum Change {
    Append(Log),
    Cut(Position),
    Swap(Log),
}

/// What a node's disk holds of the log and beside it.
#[derive(Clone, Debug)]
pub(super) struct Disk {
    pub(super) incarnation: Incarnation,
    /// The last boot the catalog confirmed, and one that it was asked for.
    pub(super) registered: u64,
    pub(super) asking: Option<(u64, u64)>,
    pub(super) saved: Durable,
    saving: VecDeque<(Op, Durable)>,
    synced: Log,
    /// Behind `synced`, in order; those that are written come first.
    changes: VecDeque<(Op, Change)>,
    written: usize,
    syncing: Vec<(Op, usize)>,
    /// Swaps whose bytes were built aside.
    pub(super) aside: Option<(Position, Log)>,
}

fn change(log: &mut Log, change: &Change) {
    match change {
        Change::Append(entries) => {
            for entry in entries {
                let end = log.last().map_or(Lsn(0), Entry::end);
                assert_eq!(end, entry.lsn, "a replica appends behind its end");
                log.push(entry.clone());
            }
        }
        Change::Cut(position) => {
            while log.last().is_some_and(|entry| entry.end() > position.lsn) {
                log.pop();
            }
            let end = log.last().map_or(Position::ZERO, Entry::position);
            assert_eq!(end, *position, "a cut ends at an entry");
        }
        Change::Swap(aside) => log.clone_from(aside),
    }
}

pub(super) fn history(log: &[Entry<Block>]) -> History {
    let runs = log
        .iter()
        .filter_map(|entry| match entry.body {
            Body::Start(start) => Some(Run {
                epoch: entry.epoch,
                start: entry.lsn,
                poison: start.poison,
            }),
            Body::Data(_) => None,
        })
        .collect();
    History::new(runs, log.last().map_or(Lsn(0), Entry::end)).expect("a log is a history")
}

impl Disk {
    pub(super) fn new(incarnation: u64) -> Self {
        Self {
            incarnation: Incarnation(incarnation),
            registered: 0,
            asking: None,
            saved: Durable::default(),
            saving: VecDeque::new(),
            synced: Vec::new(),
            changes: VecDeque::new(),
            written: 0,
            syncing: Vec::new(),
            aside: None,
        }
    }

    pub(super) fn save(&mut self, op: Op, durable: Durable) {
        self.saving.push_back((op, durable));
    }

    pub(super) fn change(&mut self, op: Op, change: Change) {
        self.changes.push_back((op, change));
    }

    pub(super) fn sync(&mut self, op: Op) {
        self.syncing.push((op, self.written));
    }

    pub(super) fn done(&mut self, op: Op) {
        if let Some(at) = self.saving.iter().position(|(saving, _)| *saving == op) {
            for (_, durable) in self.saving.drain(..=at) {
                assert!(
                    durable.promised >= self.saved.promised,
                    "promises only grow"
                );
                self.saved = durable;
            }
        } else if let Some(at) = self.syncing.iter().position(|(syncing, _)| *syncing == op) {
            let (_, through) = self.syncing.remove(at);
            self.settle(through);
        } else {
            let at = self.changes.iter().position(|(known, _)| *known == op);
            let at = at.expect("an operation that was given out");
            assert_eq!(at, self.written, "writes are done in order");
            self.written += 1;
            if matches!(self.changes[at].1, Change::Swap(_)) {
                self.settle(self.written);
            }
        }
    }

    fn settle(&mut self, through: usize) {
        for (_, done) in self.changes.drain(..through) {
            change(&mut self.synced, &done);
        }
        self.written -= through;
        for (_, others) in &mut self.syncing {
            *others = others.saturating_sub(through);
        }
    }

    /// What a reader sees.
    pub(super) fn visible(&self) -> Log {
        let mut log = self.synced.clone();
        for (_, done) in self.changes.range(..self.written) {
            change(&mut log, done);
        }
        log
    }

    /// Where the log will end when everything given out is done.
    pub(super) fn logical_end(&self) -> Position {
        let mut log = self.synced.clone();
        for (_, done) in &self.changes {
            change(&mut log, done);
        }
        log.last().map_or(Position::ZERO, Entry::position)
    }

    /// What was written ends an entry here.
    pub(super) fn written_position(&self, lsn: Lsn) -> Option<Position> {
        if self.written == 0 {
            return position_at(&self.synced, lsn);
        }
        position_at(&self.visible(), lsn)
    }

    pub(super) fn idle(&self) -> bool {
        self.changes.is_empty() && self.syncing.is_empty()
    }

    pub(super) fn synced(&self) -> &Log {
        &self.synced
    }

    /// The end of what is durable under this position's lsn.
    pub(super) fn holds_synced(&self, position: Position) -> bool {
        position_at(&self.synced, position.lsn) == Some(position)
    }

    /// The process ends; the power, too, unless `whole`. What survives is written again and synced.
    pub(super) fn crash(&mut self, whole: bool, random: &mut StdRng) {
        let least = if whole { self.written } else { 0 };
        let most = self.changes.len();
        let kept = match random.random_range(0..4) {
            0 => least,
            1 => most,
            _ => random.random_range(least..=most),
        };
        let changes = std::mem::take(&mut self.changes);
        for (_, done) in changes.iter().take(kept) {
            change(&mut self.synced, done);
        }
        self.written = 0;
        self.syncing.clear();
        self.aside = None;
        let saves = random.random_range(0..=self.saving.len());
        let saving = std::mem::take(&mut self.saving);
        if let Some((_, durable)) = saving.iter().take(saves).next_back() {
            self.saved = *durable;
        }
    }

    /// Everything above `sound` is unreadable.
    pub(super) fn rot(&mut self, sound: Lsn) {
        self.synced.retain(|entry| entry.end() <= sound);
    }

    pub(super) fn promised(&self) -> Epoch {
        self.saved.promised
    }
}
