//! This node's side of a turn: takes it, lends the rows at its base, proposes the batch, learns what
//! became of it.
//!
//! ```text
//! base ── ask the leader for the turn ──▶ wait until the rows here are at its version ──▶ lend them
//! carry ─ propose to that leader ──▶ won, lost (nothing was changed), or no answer:
//!         then ask for a turn again and propose an empty batch at the same base: either that one
//!         wins, so the first never counts, or the first had won
//! ```
//!
//! 1. A batch is proposed once. What changes answered is told to their callers only if it counts.
//! 2. A group that changed nothing is answered only if its base was still the newest afterwards.
//! 3. "Unknown" is said only when no leader was found within the patience.

use super::Shared;
use super::codec::{Refused, Verb, Why, from_json, put_batch, to_json, with_head};
use super::types::{Batch, BatchId, Outcome, Rows};
use crate::catalog::committer::{Base, Carrier, Failure};
use crate::catalog::open;
use crate::catalog::txn::Overlay;
use crate::{Error, Kind, Subject};
use rocksdb::DB;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A turn that was not used for so long is asked for again, before the leader takes it away.
const STALE: Duration = Duration::from_millis(100);
/// How often the leader hears that this node is still at work.
const HOLD_EVERY: Duration = Duration::from_millis(50);
/// With nothing to do for so long the turn is given back.
const REST: Duration = Duration::from_millis(5);

/// What the leader answers to one who asks for the turn.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Grant {
    pub(super) grant: u64,
    /// The version of the rows that the batch has to be made over.
    pub(super) base: u64,
}

/// The head of a proposal; the batch follows.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct ProposeHead {
    pub(super) grant: u64,
}

/// What became of a proposal.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Proposed {
    pub(super) outcome: Outcome,
    /// Its place in the log.
    pub(super) index: u64,
    /// Whether the node keeps the turn.
    pub(super) keep: bool,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    leader: u64,
    grant: Grant,
    used: Instant,
}

/// The carrier of a member of a group.
pub(super) struct Turned {
    shared: Arc<Shared>,
    held: Option<Held>,
    /// Tells the leader meanwhile that this node is at work.
    holding: Option<tokio::task::JoinHandle<()>>,
    number: u64,
}

impl Drop for Turned {
    fn drop(&mut self) {
        self.stop_holding();
    }
}

impl Turned {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            held: None,
            holding: None,
            number: 0,
        }
    }

    fn take(&mut self, deadline: Instant) -> Result<Held, Failure> {
        match self.held.take() {
            Some(held) if held.used.elapsed() < STALE => return Ok(held),
            Some(stale) => self.give_back(stale),
            None => {}
        }
        let shared = self.shared.clone();
        let asked = self.shared.handle.block_on(async {
            let (leader, reply) = shared.ask_leader(Verb::Turn, b"", deadline).await?;
            Ok::<_, Error>((leader, from_json::<Grant>("a turn", &reply)?))
        });
        let (leader, grant) = asked.map_err(|cause| group(&cause))?;
        Ok(Held {
            leader,
            grant,
            used: Instant::now(),
        })
    }

    fn give_back(&self, held: Held) {
        let shared = self.shared.clone();
        self.shared.handle.spawn(async move {
            if let Ok(body) = to_json(&held.grant.grant) {
                // If it is lost, the leader takes the turn back by itself.
                let _ = shared
                    .ask_node(held.leader, Verb::Release, &body, HOLD_EVERY * 4)
                    .await;
            }
        });
    }

    fn hold(&mut self, held: Held) {
        self.stop_holding();
        let shared = self.shared.clone();
        self.holding = Some(self.shared.handle.spawn(async move {
            loop {
                tokio::time::sleep(HOLD_EVERY).await;
                if let Ok(body) = to_json(&held.grant.grant) {
                    let _ = shared
                        .ask_node(held.leader, Verb::Hold, &body, HOLD_EVERY * 4)
                        .await;
                }
            }
        }));
    }

    fn stop_holding(&mut self) {
        if let Some(holding) = self.holding.take() {
            holding.abort();
        }
    }

    /// The rows at the base of `held`, if nobody changed them since.
    fn lend<'a>(
        &self,
        database: &'a DB,
        held: Held,
        deadline: Instant,
    ) -> Result<Option<Base<'a>>, Failure> {
        let shared = &self.shared;
        let there = shared
            .handle
            .block_on(shared.wait_applied(deadline, |applied| applied.version >= held.grant.base));
        there.map_err(|cause| group(&cause))?;
        let rows = database.snapshot();
        let applied = super::state::read_applied(&rows).map_err(|cause| group(&cause))?;
        if applied.version != held.grant.base {
            return Ok(None);
        }
        let seq_last = open::seq_last_in(&rows).map_err(|cause| group(&cause))?;
        Ok(Some(Base {
            rows,
            seq_next: seq_last + 1,
        }))
    }

    fn next_id(&mut self) -> BatchId {
        self.number += 1;
        BatchId {
            node: self.shared.seat.node,
            boot: self.shared.boot,
            number: self.number,
        }
    }

    fn propose(&self, held: Held, batch: &Batch) -> Result<Result<Proposed, Refused>, Error> {
        let mut body = with_head(&ProposeHead {
            grant: held.grant.grant,
        })?;
        put_batch(&mut body, batch);
        let shared = &self.shared;
        let mut metrics = shared.raft()?.metrics();
        let asked = shared.handle.block_on(async {
            let moved = metrics
                .wait_for(|metrics| metrics.current_leader.is_some_and(|leader| leader != held.leader));
            tokio::select! {
                answer = shared.ask_node(held.leader, Verb::Propose, &body, shared.settings.patience) => answer,
                // That one may never answer; the new leader knows.
                _ = moved => {
                    let text = format!("node {} leads no more", held.leader);
                    Err(Error::new(Kind::Unavailable, Subject::Store, text))
                }
            }
        });
        match asked? {
            Ok(reply) => from_json("a reply", &reply).map(Ok),
            Err(refused) => Ok(Err(refused)),
        }
    }

    /// Finds out what became of a batch that got no answer.
    fn resolve(&mut self, base: u64, id: BatchId, why: &str) -> Result<Outcome, Failure> {
        tracing::debug!(base, ?id, why, "a batch of the catalog got no answer");
        let deadline = Instant::now() + self.shared.settings.patience * 2;
        let unknown = || {
            let text = format!(
                "the catalog's leader was lost while it changed something ({why}): it is unknown whether \
                 that counts; look before you try again"
            );
            Failure::Group(Kind::Unavailable, text)
        };
        loop {
            let known = self.shared.applied.borrow().outcome(base, id);
            if let Some(outcome) = known {
                return Ok(outcome);
            }
            if Instant::now() >= deadline || self.shared.is_stopping() {
                return Err(unknown());
            }
            self.held = None;
            let Ok(held) = self.take(deadline) else {
                continue;
            };
            let shared = self.shared.clone();
            let there = shared.handle.block_on(
                shared.wait_applied(deadline, |applied| applied.version >= held.grant.base),
            );
            if there.is_err() || self.shared.applied.borrow().version != base {
                self.give_back(held);
                continue;
            }
            let fence = Batch {
                base,
                id: self.next_id(),
                rows: Rows::encode(&Overlay::new()).map_err(|_| unknown())?,
            };
            // Whatever is answered, what was applied here tells.
            if let Ok(Ok(done)) = self.propose(held, &fence) {
                let _ = shared
                    .handle
                    .block_on(shared.wait_applied(deadline, |applied| {
                        applied.at.is_some_and(|at| at.index >= done.index)
                    }));
            }
        }
    }

    /// Nothing was changed: what was read must have been the newest at some time since.
    fn confirm(&mut self, base: u64) -> Result<(), Failure> {
        self.shared.catch_up().map_err(|cause| group(&cause))?;
        if self.shared.applied.borrow().version == base {
            return Ok(());
        }
        Err(raced())
    }
}

fn group(cause: &Error) -> Failure {
    Failure::Group(cause.kind(), cause.chain())
}

fn raced() -> Failure {
    let text = "the catalog's leader changed; nothing was changed, try again";
    Failure::Group(Kind::Unavailable, text.into())
}

impl Carrier for Turned {
    fn base<'a>(&mut self, database: &'a DB) -> Result<Base<'a>, Failure> {
        let deadline = Instant::now() + self.shared.settings.patience;
        loop {
            let held = self.take(deadline)?;
            if let Some(base) = self.lend(database, held, deadline)? {
                self.hold(held);
                self.held = Some(held);
                return Ok(base);
            }
            // Somebody's batch of before the turn came in late.
            self.give_back(held);
        }
    }

    fn carry(&mut self, changed: &Overlay) -> Result<(), Failure> {
        let Some(held) = self.held.take() else {
            return Err(raced());
        };
        let base = held.grant.base;
        if changed.is_empty() {
            let confirmed = self.confirm(base);
            self.stop_holding();
            self.held = confirmed.is_ok().then(|| Held {
                used: Instant::now(),
                ..held
            });
            return confirmed;
        }
        let rows = Rows::encode(changed).map_err(|cause| group(&cause))?;
        let id = self.next_id();
        let answered = self.propose(held, &Batch { base, id, rows });
        self.stop_holding();
        let outcome = match answered {
            Ok(Ok(done)) => {
                let shared = self.shared.clone();
                let deadline = Instant::now() + shared.settings.patience;
                let seen = shared
                    .handle
                    .block_on(shared.wait_applied(deadline, |applied| {
                        applied.at.is_some_and(|at| at.index >= done.index)
                    }));
                if let Err(cause) = seen {
                    tracing::warn!(
                        cause = cause.chain(),
                        "a change of the catalog counts, but is not seen here yet"
                    );
                }
                if done.keep && done.outcome == Outcome::Won {
                    self.held = Some(Held {
                        leader: held.leader,
                        grant: Grant {
                            grant: held.grant.grant,
                            base: base + 1,
                        },
                        used: Instant::now(),
                    });
                }
                done.outcome
            }
            Ok(Err(refused)) if refused.why == Why::TurnOver => Outcome::Lost,
            Ok(Err(refused)) => self.resolve(base, id, &refused.text)?,
            Err(cause) => self.resolve(base, id, &cause.chain())?,
        };
        match outcome {
            Outcome::Won => Ok(()),
            Outcome::Lost | Outcome::None => Err(raced()),
        }
    }

    fn rests_after(&self) -> Option<Duration> {
        self.held.is_some().then_some(REST)
    }

    fn rest(&mut self) {
        if let Some(held) = self.held.take() {
            self.give_back(held);
        }
    }
}
