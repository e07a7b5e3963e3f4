//! Figures per peer and lane, counted since the start.

use super::Lane;
use crate::NodeId;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// What has gone over one lane to and from one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LaneFigures {
    /// The other node.
    pub(crate) node: NodeId,
    /// The lane.
    pub(crate) lane: Lane,
    /// Whether our connection to it stands.
    pub(crate) connected: bool,
    /// Frames written, pings included.
    pub(crate) frames_out: u64,
    /// Frames read and found good.
    pub(crate) frames_in: u64,
    /// Bytes of them, before TLS.
    pub(crate) bytes_out: u64,
    /// Bytes of them, before TLS.
    pub(crate) bytes_in: u64,
    /// Bytes that wait to be written now.
    pub(crate) queue_bytes: u64,
    /// The most that ever waited.
    pub(crate) queue_bytes_max: u64,
    /// Messages refused because the queue was full.
    pub(crate) refused_full: u64,
    /// Connections made to it.
    pub(crate) connects: u64,
    /// Connections lost or broken off.
    pub(crate) losses: u64,
    /// Attempts to connect that failed.
    pub(crate) failures: u64,
    /// Questions asked of it.
    pub(crate) calls_out: u64,
    /// Questions that it asked.
    pub(crate) calls_in: u64,
}

/// The living side of [`LaneFigures`].
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) connected: AtomicBool,
    pub(super) frames_out: AtomicU64,
    pub(super) frames_in: AtomicU64,
    pub(super) bytes_out: AtomicU64,
    pub(super) bytes_in: AtomicU64,
    pub(super) refused_full: AtomicU64,
    pub(super) connects: AtomicU64,
    pub(super) losses: AtomicU64,
    pub(super) failures: AtomicU64,
    pub(super) calls_out: AtomicU64,
    pub(super) calls_in: AtomicU64,
}

impl Counters {
    pub(super) fn sent(&self, frames: usize, bytes: usize) {
        self.frames_out.fetch_add(frames as u64, Relaxed);
        self.bytes_out.fetch_add(bytes as u64, Relaxed);
    }

    pub(super) fn received(&self, bytes: usize) {
        self.frames_in.fetch_add(1, Relaxed);
        self.bytes_in.fetch_add(bytes as u64, Relaxed);
    }

    pub(super) fn read(
        &self,
        node: NodeId,
        lane: Lane,
        queue_bytes: usize,
        queue_bytes_max: usize,
    ) -> LaneFigures {
        let get = |counter: &AtomicU64| counter.load(Relaxed);
        LaneFigures {
            node,
            lane,
            connected: self.connected.load(Relaxed),
            frames_out: get(&self.frames_out),
            frames_in: get(&self.frames_in),
            bytes_out: get(&self.bytes_out),
            bytes_in: get(&self.bytes_in),
            queue_bytes: queue_bytes as u64,
            queue_bytes_max: queue_bytes_max as u64,
            refused_full: get(&self.refused_full),
            connects: get(&self.connects),
            losses: get(&self.losses),
            failures: get(&self.failures),
            calls_out: get(&self.calls_out),
            calls_in: get(&self.calls_in),
        }
    }
}
