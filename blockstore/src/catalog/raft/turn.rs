//! Turns: which node's batch comes next. The leader's side, without clock, I/O or threads.
//!
//! 1. At most one node has the turn. It goes to the nodes in the order in which they asked.
//! 2. A node keeps the turn while nobody else asks for it. When somebody does, it goes on as soon as
//!    the holder's batch is through, gives it back, or is silent for too long.
//! 3. Turns only keep nodes from racing. Whether a batch counts is decided when it is applied.
//!
//! ```text
//!          ask                    propose              its batch is applied
//! waiting ─────▶ first in line ─▶ has it ─▶ proposing ─────▶ has it (nobody waits), or next in line
//!                                   │ silent, released
//!                                   ▼
//!                              next in line
//! ```

use std::collections::VecDeque;

/// A node that says nothing for so long loses the turn, if another one waits for it.
pub(super) const SILENCE_MS_MAX: u64 = 250;
/// Askers that may wait; one per node, so no cluster reaches it.
const WAITING_MAX: usize = 1024;

/// Who has the turn and who waits for it.
#[derive(Debug, Default)]
pub(super) struct Turns {
    holder: Option<Holder>,
    waiting: VecDeque<Asker>,
    granted: u64,
    asked: u64,
}

#[derive(Debug)]
struct Holder {
    node: u64,
    grant: u64,
    heard_ms: u64,
    /// Batches of it that are on their way.
    proposing: u32,
}

#[derive(Debug)]
struct Asker {
    node: u64,
    ask: u64,
}

impl Turns {
    /// Another leader, or this one again: what was granted before is over.
    pub(super) fn reset(&mut self) {
        self.holder = None;
        // The numbers go on: a grant of before is never taken for a new one.
        self.granted += 1;
    }

    /// Puts a node in line; a node that asks again takes its older place. `None` when too many wait.
    pub(super) fn ask(&mut self, node: u64) -> Option<u64> {
        self.asked += 1;
        let ask = self.asked;
        if let Some(before) = self.waiting.iter_mut().find(|asker| asker.node == node) {
            before.ask = ask;
        } else if self.waiting.len() < WAITING_MAX {
            self.waiting.push_back(Asker { node, ask });
        } else {
            return None;
        }
        Some(ask)
    }

    /// The grant for that ask, if its turn has come.
    pub(super) fn take(&mut self, ask: u64, now_ms: u64) -> Option<u64> {
        let first = self.waiting.front()?;
        let (node, first) = (first.node, first.ask);
        let free = match &self.holder {
            None => true,
            // Who asks again has lost its grant, or does not want it.
            Some(holder) if holder.proposing == 0 => {
                holder.node == node || now_ms.saturating_sub(holder.heard_ms) >= SILENCE_MS_MAX
            }
            Some(_) => false,
        };
        if first != ask || !free {
            return None;
        }
        self.waiting.pop_front();
        self.granted += 1;
        self.holder = Some(Holder {
            node,
            grant: self.granted,
            heard_ms: now_ms,
            proposing: 0,
        });
        Some(self.granted)
    }

    /// The asker waits no longer.
    pub(super) fn leave(&mut self, ask: u64) {
        self.waiting.retain(|asker| asker.ask != ask);
    }

    /// Whether that ask still stands in line.
    pub(super) fn stands(&self, ask: u64) -> bool {
        self.waiting.iter().any(|asker| asker.ask == ask)
    }

    /// When the holder's silence ends its turn, if it goes on.
    pub(super) fn silent_at(&self) -> Option<u64> {
        let holder = self.holder.as_ref()?;
        (holder.proposing == 0).then_some(holder.heard_ms + SILENCE_MS_MAX)
    }

    /// The holder is at work; false if it is the holder no more.
    pub(super) fn hold(&mut self, grant: u64, now_ms: u64) -> bool {
        match &mut self.holder {
            Some(holder) if holder.grant == grant => {
                holder.heard_ms = now_ms;
                true
            }
            _ => false,
        }
    }

    /// The holder's batch is on its way; false if it is the holder no more: then it must not go.
    pub(super) fn propose(&mut self, grant: u64, now_ms: u64) -> bool {
        let held = self.hold(grant, now_ms);
        if held && let Some(holder) = &mut self.holder {
            holder.proposing += 1;
        }
        held
    }

    /// That batch came to an end; whether its node still has the turn.
    pub(super) fn proposed(&mut self, grant: u64, now_ms: u64) -> bool {
        let held = self.hold(grant, now_ms);
        if held && let Some(holder) = &mut self.holder {
            holder.proposing = holder.proposing.saturating_sub(1);
            if holder.proposing == 0 && !self.waiting.is_empty() {
                self.holder = None;
                return false;
            }
        }
        held
    }

    /// The holder gives it back.
    pub(super) fn release(&mut self, grant: u64) {
        if self
            .holder
            .as_ref()
            .is_some_and(|holder| holder.grant == grant && holder.proposing == 0)
        {
            self.holder = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_get_the_turn_in_the_order_in_which_they_asked() {
        let mut turns = Turns::default();
        let asks: Vec<u64> = (1..=3).map(|node| turns.ask(node).unwrap()).collect();
        assert_eq!(turns.take(asks[1], 0), None);
        let first = turns.take(asks[0], 0).unwrap();
        assert_eq!(turns.take(asks[1], 0), None);
        assert!(turns.propose(first, 1));
        // Nobody ends a turn whose batch is on its way.
        assert_eq!(turns.take(asks[1], 10_000), None);
        assert!(!turns.proposed(first, 10_000), "others wait");
        let second = turns.take(asks[1], 10_000).unwrap();
        assert!(!turns.propose(first, 10_000), "its turn is over");
        turns.release(first);
        assert_eq!(turns.take(asks[2], 10_000), None);
        turns.release(second);
        assert!(turns.take(asks[2], 10_000).is_some());
    }

    #[test]
    fn a_silent_holder_loses_the_turn_only_to_a_node_that_waits() {
        let mut turns = Turns::default();
        let ask = turns.ask(1).unwrap();
        let grant = turns.take(ask, 0).unwrap();
        assert!(turns.hold(grant, 100_000));
        let other = turns.ask(2).unwrap();
        assert_eq!(turns.take(other, 100_000 + SILENCE_MS_MAX - 1), None);
        assert_eq!(turns.silent_at(), Some(100_000 + SILENCE_MS_MAX));
        assert!(turns.take(other, 100_000 + SILENCE_MS_MAX).is_some());
        assert!(!turns.hold(grant, 100_001));
    }

    #[test]
    fn a_node_keeps_the_turn_while_nobody_else_asks() {
        let mut turns = Turns::default();
        let ask = turns.ask(1).unwrap();
        let grant = turns.take(ask, 0).unwrap();
        for now in 1..10 {
            assert!(turns.propose(grant, now));
            assert!(turns.proposed(grant, now));
        }
        let other = turns.ask(2).unwrap();
        turns.leave(other);
        assert!(!turns.stands(other));
        assert!(turns.propose(grant, 20) && turns.proposed(grant, 20));
    }

    #[test]
    fn an_asker_that_lost_its_answer_asks_again_in_its_place() {
        let mut turns = Turns::default();
        let lost = turns.ask(1).unwrap();
        let other = turns.ask(2).unwrap();
        let again = turns.ask(1).unwrap();
        assert_eq!(turns.take(lost, 0), None);
        let grant = turns.take(again, 0).unwrap();
        // It lost even the grant: its next ask ends that one, behind whoever waits.
        let third = turns.ask(1).unwrap();
        assert_eq!(turns.take(other, 1), None);
        assert_eq!(turns.take(third, 1), None);
        assert!(turns.take(other, SILENCE_MS_MAX).is_some());
        assert!(!turns.propose(grant, SILENCE_MS_MAX));
        turns.reset();
        assert!(turns.take(third, SILENCE_MS_MAX).is_some());
    }
}
