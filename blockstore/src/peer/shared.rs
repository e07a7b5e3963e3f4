//! What links, connections and the listener share: who is known, who is refused, whose turn it is.
//!
//! 1. A start of a node that was met makes earlier ones strangers: their connections are broken off.
//! 2. A peer is read from over one connection per lane. A new one ends the old one, and is read from
//!    only when nobody reads from the old one any more.

use super::counters::Counters;
use super::dial::Way;
use super::events::{EventKind, Told};
use super::hello::{Hello, Named, Seen, judge};
use super::link::Link;
use super::listener::HalfOpen;
use super::options::LaneLimits;
use super::trust::Fingerprint;
use super::{Answers, Events, Gate, Lane, LaneFigures, Members, Options, Refusal, RefusalCode};
use crate::NodeId;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What a transport is made of.
pub(super) struct Parts {
    pub(super) way: Way,
    pub(super) ours: Hello,
    pub(super) members: Arc<dyn Members>,
    pub(super) events: Arc<dyn Events>,
    pub(super) gate: Option<Arc<dyn Gate>>,
    pub(super) options: Options,
}

/// Everything that links, connections and the listener share.
pub(super) struct Shared {
    pub(super) options: Options,
    pub(super) way: Way,
    pub(super) members: Arc<dyn Members>,
    pub(super) told: Told,
    pub(super) gate: Option<Arc<dyn Gate>>,
    pub(super) stop: CancellationToken,
    pub(super) tasks: TaskTracker,
    pub(super) handle: Handle,
    pub(super) half_open: HalfOpen,
    ours: Hello,
    answers: [OnceLock<Arc<dyn Answers>>; Lane::ALL.len()],
    links: Mutex<HashMap<(NodeId, Lane), Arc<Link>>>,
    counters: Mutex<HashMap<(NodeId, Lane), Arc<Counters>>>,
    seen: Mutex<HashMap<NodeId, Seen>>,
    inbound: Mutex<HashMap<(NodeId, Lane), Inbound>>,
}

/// The connection that a peer's questions come over; a new one takes its place.
struct Inbound {
    run: u64,
    cancel: CancellationToken,
    /// Held by the connection that is read from.
    turn: Arc<tokio::sync::Mutex<()>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(super) fn new(parts: Parts, handle: Handle) -> Arc<Self> {
        let shared = Arc::new(Self {
            half_open: HalfOpen::new(parts.options.half_open_max),
            options: parts.options,
            way: parts.way,
            members: parts.members,
            told: Told::new(parts.events),
            gate: parts.gate,
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            handle,
            ours: parts.ours,
            answers: Default::default(),
            links: Mutex::default(),
            counters: Mutex::default(),
            seen: Mutex::default(),
            inbound: Mutex::default(),
        });
        let house = Arc::clone(&shared).keep_house();
        shared.tasks.spawn_on(house, &shared.handle);
        shared
    }

    /// From now on `answers` hears this lane; false: somebody does already.
    pub(super) fn answer(&self, lane: Lane, answers: Arc<dyn Answers>) -> bool {
        self.answers[usize::from(lane.number())]
            .set(answers)
            .is_ok()
    }

    pub(super) fn figures(&self) -> Vec<LaneFigures> {
        let links = lock(&self.links);
        let mut figures: Vec<LaneFigures> = lock(&self.counters)
            .iter()
            .map(|((node, lane), counters)| {
                let link = links.get(&(*node, *lane));
                let (now, most) = link.map_or((0, 0), |link| link.depth());
                counters.read(*node, *lane, now, most)
            })
            .collect();
        figures.sort_by_key(|figures| (figures.node, figures.lane));
        figures
    }

    pub(super) fn limits(&self, lane: Lane) -> LaneLimits {
        self.options.lanes[usize::from(lane.number())]
    }

    /// What this node says first.
    pub(super) fn hello(&self, lane: Lane) -> Hello {
        Hello {
            lane: lane.number(),
            ..self.ours.clone()
        }
    }

    pub(super) fn node(&self) -> NodeId {
        self.ours.node
    }

    pub(super) fn answers(&self, lane: Lane) -> Option<&Arc<dyn Answers>> {
        self.answers[usize::from(lane.number())].get()
    }

    pub(super) fn counters(&self, node: NodeId, lane: Lane) -> Arc<Counters> {
        Arc::clone(lock(&self.counters).entry((node, lane)).or_default())
    }

    /// Changes of what this node shows and trusts, if that can change.
    pub(super) fn generations(&self) -> Option<watch::Receiver<u64>> {
        self.way.identity().map(|identity| identity.generations())
    }

    /// Judges a hello, and remembers the start that it tells of: from then on, earlier ones are
    /// refused, and their connections broken off.
    pub(super) fn meet(
        &self,
        hello: &Hello,
        named: Named,
        dialled: Option<NodeId>,
    ) -> Result<Lane, Refusal> {
        let member = self.members.member(hello.node);
        let fresh = Seen {
            incarnation: hello.incarnation,
            boot: hello.boot,
            run: hello.run,
        };
        let mut seen = lock(&self.seen);
        let known = seen.get(&hello.node).copied();
        let lane = judge(hello, named, &self.ours, dialled, member.as_ref(), known)?;
        seen.insert(hello.node, fresh);
        drop(seen);
        if known.is_some_and(|known| known != fresh) {
            for ((node, _), link) in lock(&self.links).iter() {
                if *node == hello.node {
                    link.meet_again(hello.run);
                }
            }
            for ((node, _), inbound) in lock(&self.inbound).iter() {
                if *node == hello.node && inbound.run != hello.run {
                    inbound.cancel.cancel();
                }
            }
        }
        Ok(lane)
    }

    /// Breaks off what is earlier on this lane from this node; the caller reads once it holds the turn.
    pub(super) fn take_turn(
        &self,
        node: NodeId,
        lane: Lane,
        run: u64,
    ) -> (CancellationToken, Arc<tokio::sync::Mutex<()>>) {
        let cancel = CancellationToken::new();
        let mut inbound = lock(&self.inbound);
        let fresh = || Inbound {
            run,
            cancel: CancellationToken::new(),
            turn: Arc::default(),
        };
        let entry = inbound.entry((node, lane)).or_insert_with(fresh);
        entry.run = run;
        std::mem::replace(&mut entry.cancel, cancel.clone()).cancel();
        (cancel, Arc::clone(&entry.turn))
    }

    /// Whether a connection that was let in may go on.
    pub(super) fn may_stay(
        &self,
        node: NodeId,
        shown: Option<(Fingerprint, u64)>,
    ) -> Result<(), String> {
        if self.members.member(node).is_none() {
            return Err(format!("{node} is no member any more"));
        }
        let (Some((issuer, not_after_s)), Some(identity)) = (shown, self.way.identity()) else {
            return Ok(());
        };
        if !identity.current().trust.has(issuer) {
            return Err(format!(
                "the CA {issuer} that signed {node}'s certificate is not trusted any more"
            ));
        }
        let expired = not_after_s.saturating_add(super::trust::CLOCK_SLACK.as_secs());
        if crate::clock::now_ms() / 1000 > expired {
            return Err(format!("the certificate that {node} showed has expired"));
        }
        Ok(())
    }

    /// Somebody is there: whoever waits to dial it again need not wait longer.
    pub(super) fn is_there(&self, node: NodeId) {
        for ((to, _), link) in lock(&self.links).iter() {
            if *to == node {
                link.kick();
            }
        }
    }

    /// Breaks off all connections with this node.
    pub(super) fn break_off(&self, node: NodeId) {
        for ((to, _), link) in lock(&self.links).iter() {
            if *to == node {
                link.reset();
            }
        }
        for ((from, _), inbound) in lock(&self.inbound).iter() {
            if *from == node {
                inbound.cancel.cancel();
            }
        }
    }

    /// The link to a member; makes it at its first use.
    pub(super) fn link(self: &Arc<Self>, to: NodeId, lane: Lane) -> Result<Arc<Link>, String> {
        if self.stop.is_cancelled() {
            return Err("this node's transport is stopping".to_owned());
        }
        let mut links = lock(&self.links);
        if let Some(link) = links.get(&(to, lane)) {
            return Ok(Arc::clone(link));
        }
        if to == self.node() {
            return Err(format!("{to} is this node itself"));
        }
        if self.members.member(to).is_none() {
            return Err(format!("{to} is no member of the cluster"));
        }
        let link = Link::start(self, to, lane);
        links.insert((to, lane), Arc::clone(&link));
        Ok(link)
    }

    /// Ends links to nodes that are no members any more.
    async fn keep_house(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(self.options.pace.check_every);
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            let nodes: Vec<NodeId> = lock(&self.links).keys().map(|(node, _)| *node).collect();
            for node in nodes {
                if self.members.member(node).is_some() {
                    continue;
                }
                let mut links = lock(&self.links);
                let ended: Vec<_> = links.extract_if(|(to, _), _| *to == node).collect();
                drop(links);
                for (_, link) in ended {
                    link.end();
                }
            }
        }
    }
}

/// Tells of a refusal of ours.
pub(super) fn tell_refusal(
    shared: &Shared,
    node: Option<NodeId>,
    address: &str,
    refusal: &Refusal,
) {
    let (code, text) = (Some(refusal.code), refusal.reason.clone());
    let kind = EventKind::Refused;
    // A lane whose answers are not hung in yet, or a node that stops, is no matter for a person.
    if matches!(refusal.code, RefusalCode::Lane | RefusalCode::Stopping) {
        tracing::debug!(?node, address, %text, "refused for now");
        return;
    }
    shared.told.tell(kind, node, address, code, text);
}
