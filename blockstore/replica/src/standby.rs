//! A second attachment of a volume, waiting to take over: the incoming side of a migration.
//!
//! ```text
//!             first write, or Activate        given up, or patience       granted
//! Following ───────────────────────▶ Yielding ───────────────────▶ Asking ───────▶ Opening ──▶ Active
//!     ▲  ▲                              │ cancelled                   │ refused,      │
//!     │  └───────── AskResume ──────────┴─────────────────────────────┘ patience      │ fenced
//!     └───────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! 1. While following, reads go to the writer in charge, which answers under its own lease. Nothing is
//!    written: the first write is held and begins the switch.
//! 2. The old writer is asked to give up its lease, so that the pause is short; it is not trusted to. An
//!    epoch fences it whether or not it answers; without its word the opening waits the lease out.
//! 3. Until an epoch is granted the switch may fail, and the old writer goes on: its epoch is still the
//!    granted one. From the grant on there is no way back, only on: the opening succeeds or is fenced.
//! 4. What is held is bounded, kept in order, and handed to the new writer when it serves.

use crate::id::{Epoch, Time};
use crate::writer::{Denied, Grant};
use std::collections::VecDeque;

/// How long the steps may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Patience {
    /// For the old writer to give up its lease, before an epoch is asked for anyway.
    pub yield_us: u64,
    /// For the catalog to grant, before the old writer is let go on.
    pub grant_us: u64,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            yield_us: 500_000,
            grant_us: 3_000_000,
        }
    }
}

/// What happens to a standby. `R` is a request with what it needs to be answered.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event<R> {
    /// Time has passed.
    Tick,
    /// A read.
    Read(R),
    /// A write or flush.
    Write(R),
    /// Take over now.
    Activate,
    /// Don't, if it can still be helped.
    Cancel,
    /// The old writer gave up its lease: epoch and renewal.
    Yielded(Epoch, u64),
    /// The catalog granted what was asked for.
    Granted(Grant),
    /// It refused, or cannot be reached.
    NotGranted,
    /// The writer that [`Effect::Open`] asked for serves.
    Serving,
    /// It was fenced: somebody else took over.
    Fenced,
}

/// What a standby asks its driver for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Effect<R> {
    /// Have it answered by the writer in charge.
    ReadThere(R),
    /// Ask the writer in charge to yield.
    AskYield,
    /// Tell it that nothing comes of it.
    AskResume,
    /// Ask the catalog for an epoch.
    AskGrant,
    /// Open the log; tell the writer what was given up.
    Open(Grant, Option<(Epoch, u64)>),
    /// Give these to the writer here, in this order.
    Take(R),
    /// Answer with this.
    Deny(R, Denied),
    /// The switch is done: requests go to the writer here.
    Active,
    /// The switch failed; the writer in charge goes on.
    Failed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Phase {
    Following,
    Yielding { since: Time },
    Asking { since: Time },
    Opening,
    Active,
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Standby<R> {
    patience: Patience,
    held_max: usize,
    phase: Phase,
    held: VecDeque<R>,
    released: Option<(Epoch, u64)>,
}

impl<R> Standby<R> {
    /// A standby that holds at most so many requests during the switch.
    #[must_use]
    pub fn new(patience: Patience, held_max: usize) -> Self {
        Self {
            patience,
            held_max,
            phase: Phase::Following,
            held: VecDeque::new(),
            released: None,
        }
    }

    /// Whether the writer is here.
    #[must_use]
    pub fn active(&self) -> bool {
        self.phase == Phase::Active
    }

    /// When [`Event::Tick`] is due at the latest.
    #[must_use]
    pub fn next_wake(&self) -> Time {
        match self.phase {
            Phase::Yielding { since } => since.plus(self.patience.yield_us),
            Phase::Asking { since } => since.plus(self.patience.grant_us),
            Phase::Following | Phase::Opening | Phase::Active => Time(u64::MAX),
        }
    }

    /// Takes an event; what follows from it is pushed to `out`.
    pub fn apply(&mut self, now: Time, event: Event<R>, out: &mut Vec<Effect<R>>) {
        match (event, self.phase) {
            (Event::Read(read), Phase::Following) => out.push(Effect::ReadThere(read)),
            (Event::Read(request) | Event::Write(request), Phase::Active) => {
                out.push(Effect::Take(request));
            }
            (Event::Read(request), _) => self.hold(request, out),
            (Event::Write(request), _) => {
                self.hold(request, out);
                self.activate(now, out);
            }
            (Event::Activate, _) => self.activate(now, out),
            (Event::Cancel, Phase::Yielding { .. } | Phase::Asking { .. })
            | (Event::NotGranted, Phase::Asking { .. }) => self.fail(out),
            (Event::Yielded(epoch, round), Phase::Yielding { .. }) => {
                self.released = Some((epoch, round));
                self.ask(now, out);
            }
            // After the epoch was asked for it still saves the wait, if it comes before the opening.
            (Event::Yielded(epoch, round), Phase::Asking { .. }) => {
                self.released = Some((epoch, round));
            }
            (Event::Granted(grant), Phase::Asking { .. }) => {
                self.phase = Phase::Opening;
                out.push(Effect::Open(grant, self.released.take()));
            }
            (Event::Serving, Phase::Opening) => {
                self.phase = Phase::Active;
                out.push(Effect::Active);
                out.extend(self.held.drain(..).map(Effect::Take));
            }
            (Event::Fenced, Phase::Opening | Phase::Active) => {
                self.phase = Phase::Following;
                self.deny_held(Denied::Moved, out);
                out.push(Effect::Failed);
            }
            (Event::Tick, Phase::Yielding { since }) => {
                if now.since(since) >= self.patience.yield_us {
                    self.ask(now, out);
                }
            }
            (Event::Tick, Phase::Asking { since }) => {
                if now.since(since) >= self.patience.grant_us {
                    self.fail(out);
                }
            }
            // Late, or of no concern here. A grant that comes late is not opened: it may be superseded.
            (
                Event::Tick
                | Event::Cancel
                | Event::Yielded(..)
                | Event::Granted(_)
                | Event::NotGranted
                | Event::Serving
                | Event::Fenced,
                _,
            ) => {}
        }
    }

    fn hold(&mut self, request: R, out: &mut Vec<Effect<R>>) {
        if self.held.len() < self.held_max {
            self.held.push_back(request);
        } else {
            out.push(Effect::Deny(request, Denied::Full));
        }
    }

    fn activate(&mut self, now: Time, out: &mut Vec<Effect<R>>) {
        if self.phase == Phase::Following {
            self.phase = Phase::Yielding { since: now };
            self.released = None;
            out.push(Effect::AskYield);
        }
    }

    fn ask(&mut self, now: Time, out: &mut Vec<Effect<R>>) {
        self.phase = Phase::Asking { since: now };
        out.push(Effect::AskGrant);
    }

    fn fail(&mut self, out: &mut Vec<Effect<R>>) {
        self.phase = Phase::Following;
        self.released = None;
        out.push(Effect::AskResume);
        self.deny_held(Denied::Moved, out);
        out.push(Effect::Failed);
    }

    fn deny_held(&mut self, why: Denied, out: &mut Vec<Effect<R>>) {
        let held = self.held.drain(..);
        out.extend(held.map(|request| Effect::Deny(request, why)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{Incarnation, Member, NodeId};
    use crate::sets::Sets;
    use std::collections::BTreeMap;

    fn standby() -> Standby<u64> {
        Standby::new(Patience::default(), 3)
    }

    fn tell(standby: &mut Standby<u64>, now: u64, event: Event<u64>) -> Vec<Effect<u64>> {
        let mut out = Vec::new();
        standby.apply(Time(now), event, &mut out);
        out
    }

    fn grant() -> Grant {
        let member = Member {
            node: NodeId(1),
            incarnation: Incarnation(1),
        };
        Grant {
            epoch: Epoch(2),
            sets: Sets {
                version: 1,
                sets: vec![vec![member]],
            },
            boots: BTreeMap::new(),
        }
    }

    #[test]
    fn reads_go_to_the_writer_in_charge_until_the_first_write_begins_the_switch() {
        let mut side = standby();
        assert_eq!(tell(&mut side, 0, Event::Read(1)), [Effect::ReadThere(1)]);
        assert_eq!(tell(&mut side, 1, Event::Write(2)), [Effect::AskYield]);
        assert_eq!(tell(&mut side, 2, Event::Read(3)), []);
        let told = tell(&mut side, 3, Event::Yielded(Epoch(1), 9));
        assert_eq!(told, [Effect::AskGrant]);
        let told = tell(&mut side, 4, Event::Granted(grant()));
        assert_eq!(told, [Effect::Open(grant(), Some((Epoch(1), 9)))]);
        let told = tell(&mut side, 5, Event::Serving);
        assert_eq!(
            told,
            [Effect::Active, Effect::Take(2), Effect::Take(3)],
            "what was held is taken in order"
        );
        assert_eq!(tell(&mut side, 6, Event::Write(4)), [Effect::Take(4)]);
    }

    #[test]
    fn an_old_writer_that_does_not_answer_is_fenced_all_the_same() {
        let mut side = standby();
        tell(&mut side, 0, Event::Activate);
        assert_eq!(tell(&mut side, 499_999, Event::Tick), []);
        assert_eq!(tell(&mut side, 500_000, Event::Tick), [Effect::AskGrant]);
        let told = tell(&mut side, 500_001, Event::Granted(grant()));
        assert_eq!(told, [Effect::Open(grant(), None)]);
    }

    #[test]
    fn a_switch_that_fails_before_the_grant_lets_the_old_writer_go_on() {
        for failure in [Event::NotGranted, Event::Cancel] {
            let mut side = standby();
            tell(&mut side, 0, Event::Write(1));
            tell(&mut side, 1, Event::Yielded(Epoch(1), 9));
            let told = tell(&mut side, 2, failure);
            let denied = Effect::Deny(1, Denied::Moved);
            assert_eq!(told, [Effect::AskResume, denied, Effect::Failed]);
            assert_eq!(tell(&mut side, 3, Event::Granted(grant())), []);
            assert_eq!(tell(&mut side, 4, Event::Read(2)), [Effect::ReadThere(2)]);
        }
    }

    #[test]
    fn what_is_held_is_bounded() {
        let mut side = standby();
        for request in 0..3 {
            tell(&mut side, 0, Event::Write(request));
        }
        let told = tell(&mut side, 0, Event::Write(3));
        assert_eq!(told, [Effect::Deny(3, Denied::Full)]);
    }

    #[test]
    fn there_is_no_way_back_from_a_grant() {
        let mut side = standby();
        tell(&mut side, 0, Event::Activate);
        tell(&mut side, 1, Event::Yielded(Epoch(1), 9));
        tell(&mut side, 2, Event::Granted(grant()));
        assert_eq!(tell(&mut side, 3, Event::Cancel), []);
        assert_eq!(side.next_wake(), Time(u64::MAX));
        assert_eq!(tell(&mut side, 4, Event::Fenced), [Effect::Failed]);
    }
}
