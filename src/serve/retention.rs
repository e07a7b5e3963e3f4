//! Takes old events out of the journal, a few thousand at a time, so that it does not grow for ever.

use blockstore::{Keep, Store};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How often it looks.
const EVERY: Duration = Duration::from_secs(600);
/// Steps of a thousand events at a time; other changes come in between.
const STEPS: usize = 5;
/// Rest between two such times.
const REST: Duration = Duration::from_millis(100);

/// Runs until cancelled.
pub(super) async fn trim(store: Store, keep: Keep, ended: CancellationToken) {
    let mut rest = REST;
    loop {
        tokio::select! {
            () = ended.cancelled() => return,
            () = tokio::time::sleep(rest) => {}
        }
        let step = {
            let store = store.clone();
            tokio::task::spawn_blocking(move || store.journal_trim(&keep, STEPS))
        };
        rest = match step.await {
            Ok(Ok(0)) => EVERY,
            Ok(Ok(events)) => {
                tracing::info!(events, "the journal let old events go");
                REST
            }
            Ok(Err(error)) => {
                tracing::warn!(error = %error.chain(), "the journal keeps old events for now");
                EVERY
            }
            Err(broken) => {
                tracing::error!(%broken, "trimming the journal broke off");
                EVERY
            }
        };
    }
}
