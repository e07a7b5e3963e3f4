//! `--bandwidth`: one token bucket over all transfers of a run.
//!
//! The bucket may go into debt: who takes more than it holds waits until the debt is paid, and who
//! comes after waits longer. So the rate holds over any time, whatever the sizes asked for.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A bucket; the clock is the caller's.
#[derive(Clone, Debug)]
struct Bucket {
    bytes_per_second: u64,
    /// What may go at once after a pause.
    burst_bytes: u64,
    /// Below zero: what is owed.
    level_bytes: f64,
    last: Duration,
}

impl Bucket {
    fn new(bytes_per_second: u64) -> Self {
        let burst_bytes = (bytes_per_second / 8).max(1);
        Self {
            bytes_per_second,
            burst_bytes,
            level_bytes: burst_bytes as f64,
            last: Duration::ZERO,
        }
    }

    /// Takes so many bytes; says how long to wait before using them.
    fn take(&mut self, now: Duration, bytes: u64) -> Duration {
        let rate = self.bytes_per_second as f64;
        let passed = now.saturating_sub(self.last).as_secs_f64();
        self.last = self.last.max(now);
        self.level_bytes = (self.level_bytes + passed * rate).min(self.burst_bytes as f64);
        self.level_bytes -= bytes as f64;
        if self.level_bytes >= 0.0 {
            return Duration::ZERO;
        }
        Duration::try_from_secs_f64(-self.level_bytes / rate).unwrap_or(Duration::MAX)
    }
}

/// Holds a run to its rate; without one, to nothing.
#[derive(Debug)]
pub(crate) struct Pace {
    bucket: Option<Mutex<Bucket>>,
    began: Instant,
}

impl Pace {
    /// So many bytes a second.
    pub(crate) fn new(bytes_per_second: Option<u64>) -> Self {
        Self {
            bucket: bytes_per_second.map(|rate| Mutex::new(Bucket::new(rate.max(1)))),
            began: Instant::now(),
        }
    }

    /// Whether there is a limit.
    pub(crate) fn limits(&self) -> bool {
        self.bucket.is_some()
    }

    /// How long to wait before so many bytes may go.
    pub(crate) fn wait(&self, bytes: u64) -> Duration {
        self.bucket.as_ref().map_or(Duration::ZERO, |bucket| {
            let mut bucket = bucket.lock().unwrap_or_else(PoisonError::into_inner);
            bucket.take(self.began.elapsed(), bytes)
        })
    }

    /// Waits until so many bytes may go.
    pub(crate) async fn take(&self, bytes: u64) {
        let wait = self.wait(bytes);
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn no_more_goes_than_the_rate_and_one_burst(
            rate in 1u64..1 << 30,
            takes in proptest::collection::vec((0u64..1 << 22, 0u64..1000), 1..50),
        ) {
            let mut bucket = Bucket::new(rate);
            let (mut now, mut total, mut done) = (Duration::ZERO, 0, Duration::ZERO);
            for (bytes, pause_ms) in takes {
                now += Duration::from_millis(pause_ms);
                total += bytes;
                done = done.max(now + bucket.take(now, bytes));
            }
            let allowed = bucket.burst_bytes as f64 + done.as_secs_f64() * rate as f64;
            proptest::prop_assert!(total as f64 <= allowed * 1.000_001 + 1.0, "{total} {allowed}");
        }
    }

    #[test]
    fn without_a_limit_nobody_waits() {
        assert_eq!(Pace::new(None).wait(u64::MAX), Duration::ZERO);
    }
}
