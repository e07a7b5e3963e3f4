//! How members reach each other: requests and replies as bytes, over whatever carries them.

use super::codec::{
    AppendHead, GroupId, Refused, Verb, decode_reply, encode_append, encode_request, from_json,
    to_json, with_head,
};
use super::types::{Member, SnapshotMeta, Types, Vote};
use crate::{Error, Kind, Result, Subject};
use bytes::Bytes;
use openraft::error::{Fatal, RPCError, RaftError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{Backoff, RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
};
use openraft::{OptionalSend, Snapshot};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

/// A reply on its way.
pub(crate) type Reply = Pin<Box<dyn Future<Output = Result<Bytes>> + Send>>;

/// Carries requests to the other members. What they answer comes from [`super::Group::answer`] there.
pub(crate) trait Wire: Send + Sync {
    /// Err when the node cannot be reached, or has not answered in time: then nobody knows whether it
    /// got the request.
    fn call(&self, to: u64, request: Bytes, patience: Duration) -> Reply;
}

/// A vote takes as long as a sync may.
const VOTE_PATIENCE: Duration = Duration::from_secs(2);
const PIECE_PATIENCE: Duration = Duration::from_secs(20);
/// Checking and installing all rows.
const INSTALL_PATIENCE: Duration = Duration::from_secs(600);
/// How soon a member that could not be reached is tried again.
const RETRY: Duration = Duration::from_millis(200);

/// Makes lines to other members.
#[derive(Clone)]
pub(super) struct Lines {
    pub(super) group: GroupId,
    pub(super) wire: Arc<dyn Wire>,
}

/// A line to one of them.
pub(super) struct Line {
    lines: Lines,
    to: u64,
}

/// The head of the request that begins a snapshot.
#[derive(Serialize, Deserialize)]
pub(super) struct BeginHead {
    pub(super) vote: Vote,
    pub(super) meta: SnapshotMeta,
}

/// The head of a piece of it.
#[derive(Serialize, Deserialize)]
pub(super) struct PieceHead {
    pub(super) transfer: u64,
    pub(super) offset: u64,
}

impl Lines {
    /// Asks a member and takes its answer apart.
    pub(super) async fn ask(
        &self,
        to: u64,
        verb: Verb,
        body: &[u8],
        patience: Duration,
    ) -> Result<Result<Bytes, Refused>> {
        let request = encode_request(self.group, verb, body);
        let reply = self.wire.call(to, request, patience);
        let reply = tokio::time::timeout(patience, reply).await.map_err(|_| {
            let text = format!(
                "node {to} did not answer within {} ms",
                patience.as_millis()
            );
            Error::new(Kind::Unavailable, Subject::Store, text)
        })??;
        decode_reply(reply)
    }

    /// As [`Self::ask`]; a refusal is an error like any other.
    pub(super) async fn demand<T: DeserializeOwned>(
        &self,
        to: u64,
        verb: Verb,
        body: &[u8],
        patience: Duration,
    ) -> Result<T> {
        let reply = self.ask(to, verb, body, patience).await?;
        let reply = reply.map_err(|refused| refused.error())?;
        from_json("a reply", &reply)
    }
}

impl RaftNetworkFactory<Types> for Lines {
    type Network = Line;

    async fn new_client(&mut self, to: u64, _: &Member) -> Line {
        Line {
            lines: self.clone(),
            to,
        }
    }
}

/// openraft tries again after a while.
fn unreachable(cause: &Error) -> Unreachable {
    Unreachable::from(openraft::AnyError::error(cause.chain()))
}

impl Line {
    async fn call<T, E>(
        &self,
        verb: Verb,
        body: Result<Vec<u8>>,
        patience: Duration,
    ) -> Result<T, RPCError<u64, Member, RaftError<u64, E>>>
    where
        T: DeserializeOwned,
        E: std::error::Error,
    {
        let body = body.map_err(|cause| unreachable(&cause))?;
        self.lines
            .demand(self.to, verb, &body, patience)
            .await
            .map_err(|cause| unreachable(&cause).into())
    }

    async fn send(
        &self,
        vote: Vote,
        mut snapshot: Snapshot<Types>,
    ) -> Result<SnapshotResponse<u64>> {
        let head = with_head(&BeginHead {
            vote,
            meta: snapshot.meta.clone(),
        })?;
        let transfer: u64 = self
            .lines
            .demand(self.to, Verb::SnapshotBegin, &head, PIECE_PATIENCE)
            .await?;
        let mut offset = 0;
        while let Some(piece) = snapshot.snapshot.piece().await {
            let piece = piece.map_err(|cause| {
                let text = "cannot read the catalog's rows for another node";
                Error::new(Kind::Internal, Subject::Store, text).because(cause)
            })?;
            let mut body = with_head(&PieceHead { transfer, offset })?;
            body.extend_from_slice(&piece);
            offset = self
                .lines
                .demand(self.to, Verb::SnapshotPiece, &body, PIECE_PATIENCE)
                .await?;
        }
        let body = to_json(&transfer)?;
        self.lines
            .demand(self.to, Verb::SnapshotEnd, &body, INSTALL_PATIENCE)
            .await
    }
}

impl RaftNetwork<Types> for Line {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, RPCError<u64, Member, RaftError<u64>>> {
        let head = AppendHead {
            vote: rpc.vote,
            previous: rpc.prev_log_id,
            committed: rpc.leader_commit,
        };
        let body = encode_append(&head, &rpc.entries);
        self.call(Verb::Append, body, option.hard_ttl()).await
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<u64>,
        option: RPCOption,
    ) -> Result<VoteResponse<u64>, RPCError<u64, Member, RaftError<u64>>> {
        let body = to_json(&rpc);
        let patience = option.hard_ttl().min(VOTE_PATIENCE);
        self.call(Verb::Vote, body, patience).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot<Types>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<u64>, StreamingError<Types, Fatal<u64>>> {
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = self.send(vote, snapshot) => {
                sent.map_err(|cause| StreamingError::Unreachable(unreachable(&cause)))
            }
        }
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(RETRY))
    }
}
