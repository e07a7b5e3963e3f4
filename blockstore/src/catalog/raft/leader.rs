//! What a member answers: openraft's requests to everyone, and those that only the leader serves.

use super::carry::{Grant, ProposeHead, Proposed};
use super::codec::{
    Refused, Verb, Why, decode_append, decode_request, encode_reply, from_json, take_batch,
    take_head, to_json,
};
use super::network::{BeginHead, PieceHead};
use super::snapshot::Transfer;
use super::types::{Command, SnapshotMeta, Types, Vote};
use super::{Shared, lock};
use crate::{Error, Kind};
use bytes::Bytes;
use openraft::error::{CheckIsLeaderError, ClientWriteError, RaftError};
use openraft::raft::{AppendEntriesRequest, VoteRequest};
use openraft::{ServerState, Snapshot};
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a node that asks for the turn waits in line before it has to ask again.
const LINE_PATIENCE: Duration = Duration::from_secs(2);
/// Snapshots that may be on their way here: the present leader's, and one of a leader before it.
const RECEIVING_MAX: usize = 2;

/// A snapshot on its way here.
pub(super) struct Receiving {
    vote: Vote,
    meta: SnapshotMeta,
    file: File,
    path: PathBuf,
    bytes: u64,
}

type Answer = Result<Vec<u8>, Refused>;

impl Refused {
    pub(super) fn new(why: Why, text: impl Into<String>) -> Self {
        Self {
            why,
            text: text.into(),
            leader: None,
        }
    }
}

impl From<Error> for Refused {
    fn from(cause: Error) -> Self {
        let why = match cause.kind() {
            Kind::Unsupported => Why::Unsupported,
            Kind::NotFound => Why::NotFound,
            Kind::Invalid
            | Kind::Conflict
            | Kind::Precondition
            | Kind::Denied
            | Kind::Fenced
            | Kind::Corrupt => Why::Conflict,
            Kind::Unavailable | Kind::NoSpace | Kind::Internal => Why::Busy,
        };
        Self::new(why, cause.chain())
    }
}

/// A place in line that is given up when nobody waits for the answer any more.
struct Asking<'a> {
    shared: &'a Shared,
    ask: u64,
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        lock(&self.shared.turns).1.leave(self.ask);
        self.shared.turns_moved.notify_waiters();
    }
}

impl Shared {
    pub(super) async fn answer(self: Arc<Self>, from: u64, request: Bytes) -> Bytes {
        let Ok(_place) = self.requests.try_acquire() else {
            return encode_reply(Err(Refused::new(
                Why::Busy,
                "too many requests are under way",
            )));
        };
        let served = match decode_request(request) {
            Err(cause) => Err(cause.into()),
            Ok((group, _, _)) if group != self.seat.group => {
                let ours = self.seat.group;
                let text = format!(
                    "node {} is of group {} in its generation {}, the request of node {from} is of group {} in its \
                     generation {}: a node that a recovery left behind must be emptied and join again",
                    self.seat.node, ours.group, ours.generation, group.group, group.generation
                );
                Err(Refused::new(Why::Conflict, text))
            }
            Ok((_, verb, body)) => self.serve(from, verb, body).await,
        };
        encode_reply(served)
    }

    pub(super) async fn serve(self: &Arc<Self>, from: u64, verb: Verb, body: Bytes) -> Answer {
        match verb {
            Verb::Append => self.append(body).await,
            Verb::Vote => {
                let vote: VoteRequest<u64> = from_json("a vote", &body)?;
                let answer = self.raft()?.vote(vote).await;
                Ok(to_json(&answer.map_err(|cause| super::stopped(&cause))?)?)
            }
            Verb::SnapshotBegin => self.snapshot_begin(body),
            Verb::SnapshotPiece => {
                let shared = self.clone();
                let written =
                    tokio::task::spawn_blocking(move || shared.snapshot_piece(body)).await;
                written.map_err(|_| Refused::new(Why::Busy, "this node is stopping"))?
            }
            Verb::SnapshotEnd => self.snapshot_end(&body).await,
            Verb::Turn => self.turn(from).await,
            Verb::Hold => {
                let grant = from_json("a grant", &body)?;
                let held = lock(&self.turns).1.hold(grant, self.now_ms());
                Ok(to_json(&held)?)
            }
            Verb::Release => {
                let grant = from_json("a grant", &body)?;
                lock(&self.turns).1.release(grant);
                self.turns_moved.notify_waiters();
                Ok(to_json(&true)?)
            }
            Verb::Propose => self.serve_proposal(body).await,
            Verb::ReadIndex => self.serve_read_index().await,
            Verb::Change => self.serve_change(&body).await,
            Verb::Introduce => Ok(to_json(&self.introduction())?),
        }
    }

    async fn append(&self, body: Bytes) -> Answer {
        let (head, entries) = decode_append(body)?;
        let request = AppendEntriesRequest::<Types> {
            vote: head.vote,
            prev_log_id: head.previous,
            entries,
            leader_commit: head.committed,
        };
        let answer = self.raft()?.append_entries(request).await;
        Ok(to_json(&answer.map_err(|cause| super::stopped(&cause))?)?)
    }

    fn snapshot_begin(&self, body: Bytes) -> Answer {
        let (head, _): (BeginHead, _) = take_head("the begin of a snapshot", body)?;
        let mut receiving = lock(&self.receiving);
        while receiving.len() >= RECEIVING_MAX
            && let Some((_, oldest)) = receiving.pop_first()
        {
            let _ = std::fs::remove_file(&oldest.path);
        }
        let number = self.next_transfer();
        let path = self.state.scratch.join(format!("{number}.rows"));
        let file = File::create_new(&path).map_err(|cause| Error::io("make", &path, cause))?;
        let begun = Receiving {
            vote: head.vote,
            meta: head.meta,
            file,
            path,
            bytes: 0,
        };
        receiving.insert(number, begun);
        Ok(to_json(&number)?)
    }

    fn snapshot_piece(&self, body: Bytes) -> Answer {
        let (head, piece): (PieceHead, _) = take_head("a piece of a snapshot", body)?;
        let gone = || Refused::new(Why::NotFound, "that snapshot is not on its way here");
        // Taken out while it is written: the lock is not held over a slow disk.
        let mut receiving = lock(&self.receiving)
            .remove(&head.transfer)
            .ok_or_else(gone)?;
        if head.offset != receiving.bytes {
            return Err(Refused::new(
                Why::Conflict,
                "a piece of the snapshot is missing",
            ));
        }
        receiving
            .file
            .write_all(&piece)
            .map_err(|cause| Error::io("write", &receiving.path, cause))?;
        receiving.bytes += piece.len() as u64;
        let bytes = receiving.bytes;
        lock(&self.receiving).insert(head.transfer, receiving);
        Ok(to_json(&bytes)?)
    }

    async fn snapshot_end(&self, body: &[u8]) -> Answer {
        let number: u64 = from_json("the end of a snapshot", body)?;
        let gone = || Refused::new(Why::NotFound, "that snapshot is not on its way here");
        let come = lock(&self.receiving).remove(&number).ok_or_else(gone)?;
        drop(come.file);
        let path = come.path.clone();
        // openraft stops for good when a snapshot cannot be installed: look at it before.
        let checked = tokio::task::spawn_blocking(move || super::snapshot::check(&path)).await;
        checked.map_err(|_| Refused::new(Why::Busy, "this node is stopping"))??;
        let snapshot = Snapshot {
            meta: come.meta,
            snapshot: Box::new(Transfer::come(come.path)),
        };
        let answer = self
            .raft()?
            .install_full_snapshot(come.vote, snapshot)
            .await;
        Ok(to_json(&answer.map_err(|cause| super::stopped(&cause))?)?)
    }

    fn not_leader(&self) -> Refused {
        let leader = self.metrics().and_then(|metrics| metrics.current_leader);
        let text = match leader {
            Some(leader) => format!("node {} does not lead, node {leader} does", self.seat.node),
            None => format!(
                "node {} does not lead and knows of no leader",
                self.seat.node
            ),
        };
        Refused {
            leader,
            ..Refused::new(Why::NotLeader, text)
        }
    }

    /// The term in which this node leads, once all of the terms before is in its rows.
    async fn leading(&self, deadline: Instant) -> Result<u64, Refused> {
        let mut metrics = self.raft()?.metrics();
        let ready = metrics.wait_for(|metrics| {
            let applied = metrics.last_applied.map(|at| at.leader_id.term);
            metrics.state != ServerState::Leader || applied == Some(metrics.current_term)
        });
        let metrics = self
            .until(deadline, "the leader has just been elected", ready)
            .await?
            .map_err(|cause| super::stopped(&cause))?
            .clone();
        if metrics.state != ServerState::Leader {
            return Err(self.not_leader());
        }
        Ok(metrics.current_term)
    }

    /// A leader that was started again in its own term has entries that are not in its rows yet: a base
    /// from before them would lose.
    async fn settled(&self, deadline: Instant) -> Result<(), Refused> {
        let mut metrics = self.raft()?.metrics();
        let all = metrics.wait_for(|metrics| {
            metrics.state != ServerState::Leader
                || metrics.last_applied.map(|at| at.index) >= metrics.last_log_index
        });
        self.until(deadline, "the leader has just been started", all)
            .await?
            .map_err(|cause| super::stopped(&cause))?;
        Ok(())
    }

    async fn turn(&self, node: u64) -> Answer {
        let deadline = Instant::now() + LINE_PATIENCE;
        let mut place: Option<Asking<'_>> = None;
        loop {
            let term = self.leading(deadline).await?;
            if lock(&self.turns).0 != term {
                self.settled(deadline).await?;
            }
            let moved = self.turns_moved.notified();
            tokio::pin!(moved);
            moved.as_mut().enable();
            let silent_at = {
                let mut turns = lock(&self.turns);
                if turns.0 != term {
                    turns.0 = term;
                    turns.1.reset();
                }
                let ask = match &place {
                    Some(place) => place.ask,
                    None => {
                        let busy = || Refused::new(Why::Busy, "too many nodes wait for the turn");
                        let ask = turns.1.ask(node).ok_or_else(busy)?;
                        place = Some(Asking { shared: self, ask });
                        ask
                    }
                };
                if let Some(grant) = turns.1.take(ask, self.now_ms()) {
                    let base = self.applied.borrow().version;
                    return Ok(to_json(&Grant { grant, base })?);
                }
                if !turns.1.stands(ask) {
                    return Err(Refused::new(Why::Busy, "the node has asked again since"));
                }
                turns.1.silent_at()
            };
            let left = silent_at.map(|at| at.saturating_sub(self.now_ms()));
            let wake = left.map_or(deadline, |left| {
                Instant::now() + Duration::from_millis(left + 1)
            });
            let _ = tokio::time::timeout_at(wake.min(deadline).into(), moved).await;
            if Instant::now() >= deadline || self.is_stopping() {
                return Err(Refused::new(Why::Busy, "other nodes have the turn"));
            }
        }
    }

    async fn serve_proposal(self: &Arc<Self>, body: Bytes) -> Answer {
        let (head, batch): (ProposeHead, _) = take_head("a proposal", body)?;
        let batch = take_batch(batch)?;
        let raft = self.raft()?.clone();
        let term = raft.metrics().borrow().current_term;
        let held = {
            let mut turns = lock(&self.turns);
            turns.0 == term && turns.1.propose(head.grant, self.now_ms())
        };
        if !held {
            let text = "the turn went on to another node; nothing was changed";
            return Err(Refused::new(Why::TurnOver, text));
        }
        let shared = self.clone();
        // On a task of its own: who asked may go, the turn goes on only when the batch is through.
        let proposing = tokio::spawn(async move {
            let written = raft.client_write(Command::Batch(batch)).await;
            let keep = lock(&shared.turns).1.proposed(head.grant, shared.now_ms());
            shared.turns_moved.notify_waiters();
            match written {
                Ok(written) => Ok(Proposed {
                    outcome: written.data,
                    index: written.log_id.index,
                    keep,
                }),
                Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_))) => {
                    Err(shared.not_leader())
                }
                Err(cause) => Err(super::stopped(&cause).into()),
            }
        });
        let done = proposing
            .await
            .map_err(|_| Refused::new(Why::Busy, "this node is stopping"))??;
        Ok(to_json(&done)?)
    }

    pub(super) async fn serve_read_index(&self) -> Answer {
        match self.raft()?.get_read_log_id().await {
            Ok((at, _)) => Ok(to_json(&at.map_or(0, |at| at.index))?),
            Err(RaftError::APIError(CheckIsLeaderError::ForwardToLeader(_))) => {
                Err(self.not_leader())
            }
            Err(RaftError::APIError(CheckIsLeaderError::QuorumNotEnough(cause))) => {
                Err(Refused::new(Why::Busy, cause.to_string()))
            }
            Err(RaftError::Fatal(cause)) => Err(super::stopped(&cause).into()),
        }
    }
}
