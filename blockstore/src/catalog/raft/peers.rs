//! The group over the transport between nodes: its requests are calls on the lane `raft`.

use super::network::{Reply, Wire};
use crate::catalog::Catalog;
use crate::peer::{Answers, Body, Lane, Peers};
use crate::{Error, Kind, NodeId, Result, Subject};
use bytes::Bytes;
use futures::future::BoxFuture;
use std::sync::Arc;
use std::time::Duration;

/// Asks the other members over the transport.
#[allow(dead_code, reason = "the cluster makes it")]
pub(crate) struct OverPeers(pub(crate) Arc<dyn Peers>);

impl Wire for OverPeers {
    fn call(&self, to: u64, request: Bytes, patience: Duration) -> Reply {
        self.0
            .call(NodeId(to), Lane::Raft, Body::from(request), patience)
    }
}

/// Answers them: a member's catalog.
pub(crate) struct AtMember(pub(crate) Catalog);

impl Answers for AtMember {
    fn call(&self, from: NodeId, request: Bytes) -> BoxFuture<'static, Result<Bytes>> {
        match self.0.group() {
            Some(group) => group.answer(from.0, request),
            None => Box::pin(std::future::ready(Err(Error::new(
                Kind::Unavailable,
                Subject::Store,
                "the catalog here is of no group",
            )))),
        }
    }

    /// The group only asks and answers.
    fn message(&self, _: NodeId, _: Bytes) {}

    fn gone(&self, _: NodeId) {}
}
