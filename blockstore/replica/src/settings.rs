//! Times and bounds of the protocol, in one place.

/// Times are microseconds of the node's own monotonic clock.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Settings {
    /// How long a renewal of the read lease lets the writer read, counted from when it was asked for.
    pub lease_us: u64,
    /// How far the rate of any node's clock may be off, in millionths. Waiting for a lease is
    /// lengthened for the slowest clock holding it and the fastest one waiting.
    pub drift_ppm: u64,
    /// A replica hears from the writer at least this often.
    pub heartbeat_us: u64,
    /// What is not acknowledged by then is sent again.
    pub resend_us: u64,
    /// Attaching, copying and asking the catalog are tried again after this.
    pub retry_us: u64,
    /// The writer asks for a sync by itself after this time, if anything is unsynced …
    pub sync_us: u64,
    /// … or after this many bytes.
    pub sync_bytes: u64,
    /// How long an opening waits for more replicas when those it has make it unclean.
    pub grace_us: u64,
    /// How long a fetch of the chosen tail may make no progress before another quorum is tried.
    pub patience_us: u64,
    /// A read or write that cannot be answered for this long is reported as a stall.
    pub stall_us: u64,
    /// Most bytes above `commit`; beyond, writes are refused until a sync brings it down.
    pub unsynced_bytes_max: u64,
    /// Most entries above `commit`.
    pub unsynced_entries_max: usize,
    /// Bytes below `commit` kept for replicas that lag. Who needs more is caught up by leaf versions.
    pub retained_bytes_max: u64,
    /// Most bytes on their way to one replica.
    pub window_bytes: u64,
    /// Most bytes of entries in one message (at least one entry).
    pub message_bytes: u64,
    /// Most flushes and reads that wait, each.
    pub waiting_max: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            lease_us: 1_000_000,
            drift_ppm: 10_000,
            heartbeat_us: 250_000,
            resend_us: 500_000,
            retry_us: 250_000,
            sync_us: 1_000_000,
            sync_bytes: 64 << 20,
            grace_us: 2_000_000,
            patience_us: 2_000_000,
            stall_us: 3_000_000,
            unsynced_bytes_max: 256 << 20,
            unsynced_entries_max: 1 << 16,
            retained_bytes_max: 64 << 20,
            window_bytes: 16 << 20,
            message_bytes: 1 << 20,
            waiting_max: 4096,
        }
    }
}

impl Settings {
    /// How long somebody else waits for a lease to have ended, whose clock may run faster.
    #[must_use]
    pub fn lease_wait_us(&self) -> u64 {
        let drift = self.drift_ppm.min(500_000);
        let longer = u128::from(self.lease_us) * u128::from(1_000_000 + drift);
        let micros = longer / u128::from(1_000_000 - drift) + 1;
        u64::try_from(micros).unwrap_or(u64::MAX)
    }
}
