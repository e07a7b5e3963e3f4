//! What is tried again, how often and after how long.
//!
//! Only what another try can change: a server that does not answer, says 408, 429 or 5xx, or a
//! body that broke off; all of these are [`Exit::Unavailable`].

use crate::exit::{Exit, Failure, Outcome};
use std::time::Duration;

/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(20);

/// How often.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Retry {
    /// Tries after the first.
    pub(crate) times: u32,
}

impl Retry {
    /// Runs it until it succeeds, fails for good, or was tried often enough.
    pub(crate) async fn run<T, F, Fut>(self, mut attempt: F) -> Outcome<T>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Outcome<T>>,
    {
        let mut tried = 0;
        loop {
            match attempt().await {
                Err(failure) if tried < self.times && is_transient(&failure) => {
                    tokio::time::sleep(pause(tried, jitter())).await;
                    tried += 1;
                }
                outcome => return outcome,
            }
        }
    }
}

fn is_transient(failure: &Failure) -> bool {
    failure.exit() == Exit::Unavailable
}

/// Doubles from 250 ms; `jitter` in [0, 1] spreads it over its upper half, so that many clients of
/// one server do not come back together.
fn pause(tried: u32, jitter: f64) -> Duration {
    let full = Duration::from_millis(250 << tried.min(10)).min(PAUSE_MAX);
    full.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0)
}

fn jitter() -> f64 {
    use std::hash::{BuildHasher, Hasher};
    let random = std::hash::RandomState::new().build_hasher().finish();
    f64::from(u32::try_from(random >> 32).unwrap_or_default()) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_end() {
        assert_eq!(pause(0, 1.0), Duration::from_millis(250));
        assert_eq!(pause(0, 0.0), Duration::from_millis(125));
        assert_eq!(pause(3, 1.0), Duration::from_secs(2));
        assert_eq!(pause(60, 1.0), PAUSE_MAX);
    }

    #[test]
    fn only_what_may_pass_is_tried_again() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        for (exit, expected) in [
            (Exit::Unavailable, 3),
            (Exit::Denied, 1),
            (Exit::Corrupt, 1),
        ] {
            let count = std::cell::Cell::new(0);
            let outcome = runtime.block_on(Retry { times: 2 }.run(|| {
                count.set(count.get() + 1);
                async { Err::<(), _>(Failure::new(exit, "t", "t")) }
            }));
            assert_eq!((count.get(), outcome.unwrap_err().exit()), (expected, exit));
        }
    }
}
