//! The connections of a server: how many there may be, and how they are told to end.

use super::stream::Stream;
use std::collections::HashMap;
use std::net::Shutdown;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// Connections at one time; more are closed as they come.
pub(super) const CONNECTIONS_MAX: usize = 128;

/// The connections there are, in handshake or in transmission.
#[derive(Default)]
pub(super) struct Connections {
    open: Mutex<Open>,
    one_left: Condvar,
}

#[derive(Default)]
struct Open {
    streams: HashMap<u64, Arc<Stream>>,
    last_id: u64,
}

/// A connection's entry; dropped, it closes the stream and gives up its place.
pub(super) struct Departure {
    connections: Arc<Connections>,
    pub(super) id: u64,
    stream: Arc<Stream>,
}

impl Connections {
    /// Takes a place for `stream`, if one is free.
    pub(super) fn admit(self: &Arc<Self>, stream: &Arc<Stream>) -> Option<Departure> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.streams.len() >= CONNECTIONS_MAX {
            return None;
        }
        open.last_id += 1;
        let id = open.last_id;
        open.streams.insert(id, Arc::clone(stream));
        Some(Departure {
            connections: Arc::clone(self),
            id,
            stream: Arc::clone(stream),
        })
    }

    pub(super) fn shutdown(&self, how: Shutdown) {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.streams
            .values()
            .for_each(|stream| stream.shutdown(how));
    }

    /// Waits until all have left, and tells how many have not within `limit`.
    pub(super) fn wait_until_empty(&self, limit: Duration) -> usize {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let (open, _) = self
            .one_left
            .wait_timeout_while(open, limit, |open| !open.streams.is_empty())
            .unwrap_or_else(PoisonError::into_inner);
        open.streams.len()
    }
}

impl Drop for Departure {
    fn drop(&mut self) {
        self.stream.goodbye();
        self.stream.shutdown(Shutdown::Both);
        self.connections
            .open
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .streams
            .remove(&self.id);
        self.connections.one_left.notify_all();
    }
}
