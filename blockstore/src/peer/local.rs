//! Nodes within one process: the same links, frames, hellos and queues over pipes, without TLS and
//! sockets. For tests of what is built on the transport.

use super::dial::{Reached, Way};
use super::hello::{ClusterId, Hello, Incarnation, Named};
use super::inbound;
use super::shared::{Parts, Shared};
use super::{Event, Events, Member, Members, Options, Transport};
use crate::{NodeId, Result};
use rand::Rng;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// What a pipe holds, as a socket would.
const PIPE_BYTES: usize = 256 << 10;

/// Connects nodes of one process, and cuts them off from each other.
#[derive(Clone)]
pub(crate) struct Switchboard(Arc<Board>);

struct Board {
    cluster: ClusterId,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    nodes: HashMap<NodeId, Plugged>,
    cuts: HashSet<(NodeId, NodeId)>,
    events: Vec<(NodeId, Event)>,
}

struct Plugged {
    shared: Weak<Shared>,
    boot: u64,
}

impl Switchboard {
    /// No nodes yet.
    pub(crate) fn new() -> Self {
        Self(Arc::new(Board {
            cluster: ClusterId::random(),
            state: Mutex::default(),
        }))
    }

    /// A new node, or a new start of one: its boot is one more than the last one's.
    pub(crate) fn plug(&self, node: NodeId, options: Options) -> Result<Transport> {
        let mut state = self.lock();
        let boot = state.nodes.get(&node).map_or(1, |earlier| earlier.boot + 1);
        let ours = Hello {
            cluster: self.0.cluster,
            node,
            incarnation: incarnation(node),
            boot,
            run: rand::rng().random(),
            lane: 0,
        };
        let way = Way::Pipes(self.clone(), node);
        let events = Arc::new(Noted(self.clone(), node));
        let members = Arc::new(self.clone());
        let (transport, shared) = Transport::in_process(Parts {
            way,
            ours,
            members,
            events,
            gate: None,
            options,
        })?;
        let shared = Arc::downgrade(&shared);
        state.nodes.insert(node, Plugged { shared, boot });
        Ok(transport)
    }

    /// Takes the node out of the cluster.
    pub(crate) fn remove(&self, node: NodeId) {
        self.lock().nodes.remove(&node);
    }

    /// Neither of the two reaches the other any more; what is on its way between them is lost.
    pub(crate) fn cut(&self, one: NodeId, other: NodeId) {
        self.lock().cuts.insert((one.min(other), one.max(other)));
        for (at, from) in [(one, other), (other, one)] {
            if let Some(shared) = self.shared(at) {
                shared.break_off(from);
            }
        }
    }

    /// They reach each other again.
    pub(crate) fn heal(&self, one: NodeId, other: NodeId) {
        self.lock().cuts.remove(&(one.min(other), one.max(other)));
    }

    /// What nodes told so far.
    pub(crate) fn events(&self) -> Vec<(NodeId, Event)> {
        self.lock().events.clone()
    }

    pub(super) fn connect(&self, from: NodeId, to: NodeId) -> std::result::Result<Reached, String> {
        let cut = self.lock().cuts.contains(&(from.min(to), from.max(to)));
        let Some(target) = self.shared(to).filter(|_| !cut) else {
            return Err(format!("there is no way from {from} to {to}"));
        };
        if target.stop.is_cancelled() {
            return Err(format!("{to} is not running"));
        }
        let (near, far) = tokio::io::duplex(PIPE_BYTES);
        let named = |node| Named {
            cluster: self.0.cluster,
            node,
        };
        let reached = |stream, node| Reached {
            stream,
            named: named(node),
            shown: None,
        };
        let served = inbound::serve(
            Arc::clone(&target),
            reached(Box::new(far), from),
            from.to_string(),
        );
        target.tasks.spawn_on(served, &target.handle);
        Ok(reached(Box::new(near), to))
    }

    fn shared(&self, node: NodeId) -> Option<Arc<Shared>> {
        self.lock().nodes.get(&node)?.shared.upgrade()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Members for Switchboard {
    fn member(&self, node: NodeId) -> Option<Member> {
        let state = self.lock();
        let boot = state.nodes.get(&node)?.boot;
        Some(Member {
            addresses: vec![node.to_string()],
            incarnation: incarnation(node),
            boot,
        })
    }
}

struct Noted(Switchboard, NodeId);

impl Events for Noted {
    fn happened(&self, event: Event) {
        self.0.lock().events.push((self.1, event));
    }
}

/// In one process a node keeps its disk.
fn incarnation(node: NodeId) -> Incarnation {
    Incarnation(node.0)
}
