//! How a transport is set up: times and bounds.

use super::Lane;
use std::time::Duration;

/// How long things may take.
#[derive(Clone, Debug)]
pub(crate) struct Pace {
    /// A peer that is not heard for so long is gone. Pings are sent four times as often.
    pub(crate) silence: Duration,
    /// To connect to one address.
    pub(crate) connect: Duration,
    /// For TLS and the hello, at both ends: a stranger is shown the door after it.
    pub(crate) handshake: Duration,
    /// Between the first attempts to reach a node.
    pub(crate) backoff_min: Duration,
    /// Between attempts to reach a node that stays away.
    pub(crate) backoff_max: Duration,
    /// How often it is asked whether a peer is a member still.
    pub(crate) check_every: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            silence: Duration::from_secs(2),
            connect: Duration::from_secs(2),
            handshake: Duration::from_secs(5),
            backoff_min: Duration::from_millis(50),
            backoff_max: Duration::from_secs(1),
            check_every: Duration::from_secs(1),
        }
    }
}

/// The bounds of one lane to one peer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LaneLimits {
    /// The longest body.
    pub(crate) body_bytes_max: usize,
    /// What may wait to be sent, and what may be being answered.
    pub(crate) queue_bytes_max: usize,
}

/// How a transport is set up.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// Times.
    pub(crate) pace: Pace,
    /// Bounds, by the lanes' numbers.
    pub(crate) lanes: [LaneLimits; Lane::ALL.len()],
    /// Connections that have not shown yet who they are; beyond, the oldest goes.
    pub(crate) half_open_max: usize,
}

const MIB: usize = 1 << 20;

impl Default for Options {
    fn default() -> Self {
        let lane = |body, queue| LaneLimits {
            body_bytes_max: body * MIB,
            queue_bytes_max: queue * MIB,
        };
        Self {
            pace: Pace::default(),
            lanes: [
                lane(1, 4),
                lane(8, 32),
                lane(8, 32),
                lane(4, 16),
                lane(4, 16),
            ],
            half_open_max: 64,
        }
    }
}
