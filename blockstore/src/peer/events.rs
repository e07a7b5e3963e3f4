//! What an operator should be able to read later: refusals, strangers, corruption, joins.
//!
//! Strangers can knock as often as they like, so what is told is bounded: the same kind of event
//! about the same node or host is told at most once in [`QUIET`], with the number left out. What waits
//! to be told is bounded, too: a target that takes its time loses events, never holds up the transport.

use super::RefusalCode;
use crate::NodeId;
use std::collections::HashMap;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long the same is not told again.
const QUIET: Duration = Duration::from_secs(10);
/// How many wait to be told.
const WAITING: usize = 256;
/// How many things are kept apart; beyond, events about new ones are told together.
const KEPT: usize = 1024;

/// Takes events, one after the other, on a thread of their own: it may write them to the journal.
pub(crate) trait Events: Send + Sync {
    /// This happened.
    fn happened(&self, event: Event);
}

/// Something that happened between nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    /// What.
    pub(crate) kind: EventKind,
    /// The other node, if it could show who it is.
    pub(crate) node: Option<NodeId>,
    /// Where it is.
    pub(crate) address: String,
    /// Why, for programs.
    pub(crate) code: Option<RefusalCode>,
    /// What was wrong, with which value, and what to do.
    pub(crate) text: String,
    /// How many of the same kind were left out since the last one.
    pub(crate) left_out: u64,
}

/// The kinds of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum EventKind {
    /// This node refused another one.
    Refused,
    /// Another node refused this one.
    RefusedThere,
    /// Somebody without a good certificate, or who speaks something else.
    Stranger,
    /// A frame came with a wrong checksum or otherwise malformed from an authenticated node.
    Corrupted,
    /// A node joined.
    Joined,
    /// A join was refused.
    JoinRefused,
}

impl EventKind {
    /// Its name in the journal.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Refused => "peer.refused",
            Self::RefusedThere => "peer.refused-there",
            Self::Stranger => "peer.stranger",
            Self::Corrupted => "peer.corrupted",
            Self::Joined => "peer.joined",
            Self::JoinRefused => "peer.join-refused",
        }
    }
}

/// What is told once: a kind, about a node or else a host.
type Topic = (EventKind, Option<NodeId>, String);

/// Tells events on, not too often.
pub(super) struct Told {
    waiting: SyncSender<Event>,
    /// When each was told last, and how many were left out since.
    last: Mutex<HashMap<Topic, (Instant, u64)>>,
}

impl Told {
    /// The thread ends with the last handle.
    pub(super) fn new(target: Arc<dyn Events>) -> Self {
        let (waiting, told) = sync_channel::<Event>(WAITING);
        let tell = move || told.into_iter().for_each(|event| target.happened(event));
        let started = std::thread::Builder::new()
            .name("peer-events".to_owned())
            .spawn(tell);
        if let Err(error) = started {
            tracing::error!(%error, "events between nodes go to the log only: no thread for them");
        }
        Self {
            waiting,
            last: Mutex::default(),
        }
    }

    pub(super) fn tell(
        &self,
        kind: EventKind,
        node: Option<NodeId>,
        address: &str,
        code: Option<RefusalCode>,
        text: String,
    ) {
        // By host: a stranger has a new port each time.
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        let key = match node {
            Some(node) => (kind, Some(node), String::new()),
            None => (kind, None, host.to_owned()),
        };
        let left_out = match self.count(key, Instant::now()) {
            Some(left_out) => left_out,
            None => return,
        };
        tracing::warn!(kind = kind.name(), ?node, address, %text, left_out, "between nodes");
        let event = Event {
            kind,
            node,
            address: address.to_owned(),
            code,
            text,
            left_out,
        };
        if self.waiting.try_send(event).is_err() {
            tracing::warn!("the event above is in the log only: too many wait to be told");
        }
    }

    /// How many were left out since the last one told; none: this one is left out, too.
    fn count(&self, key: Topic, now: Instant) -> Option<u64> {
        // Each is one of a few, and each is news.
        if key.0 == EventKind::Joined {
            return Some(0);
        }
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.len() >= KEPT && !last.contains_key(&key) {
            last.retain(|_, (told, _)| now.saturating_duration_since(*told) < QUIET);
        }
        let key = if last.len() >= KEPT && !last.contains_key(&key) {
            (key.0, None, String::new())
        } else {
            key
        };
        match last.get_mut(&key) {
            Some((told, left_out)) if now.saturating_duration_since(*told) < QUIET => {
                *left_out += 1;
                None
            }
            Some(entry) => Some(std::mem::replace(entry, (now, 0)).1),
            None => {
                last.insert(key, (now, 0));
                Some(0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{EventKind, Events, KEPT, QUIET, Told};
    use crate::NodeId;
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    struct Nobody;
    impl Events for Nobody {
        fn happened(&self, _: super::Event) {}
    }

    #[test]
    fn the_same_is_told_once_in_a_while_with_the_number_left_out() {
        let told = Told::new(Arc::new(Nobody));
        let key = || (EventKind::Stranger, None, "10.0.0.9".to_owned());
        let start = Instant::now();
        assert_eq!(told.count(key(), start), Some(0));
        for _ in 0..5 {
            assert_eq!(told.count(key(), start + Duration::from_secs(1)), None);
        }
        assert_eq!(told.count(key(), start + QUIET), Some(5));
        let other = (EventKind::Refused, Some(NodeId(2)), String::new());
        assert_eq!(told.count(other, start), Some(0));
    }

    #[test]
    fn a_crowd_of_strangers_does_not_grow_the_table() {
        let told = Told::new(Arc::new(Nobody));
        let start = Instant::now();
        for number in 0..3 * KEPT {
            told.count((EventKind::Stranger, None, number.to_string()), start);
        }
        assert!(told.last.lock().unwrap().len() <= KEPT + 1);
    }
}
