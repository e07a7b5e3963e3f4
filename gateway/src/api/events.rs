//! The journal, read by cursor; a reader can wait for what comes next.

use super::{Json, Problem, Query, Reply, Route};
use crate::blocking::run;
use axum::Extension;
use axum::extract::State;
use axum::routing::get;
use blockstore::{Event, Store};
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// Events in one answer at most.
pub const EVENTS_MAX: usize = 1000;
/// Milliseconds an answer waits for its first event at most.
pub const WAIT_MS_MAX: u64 = 30_000;
/// A waiting reader looks up this often whether the server is closing.
const SLICE: Duration = Duration::from_millis(500);

/// Cancelled when the server stops: waiting readers are then answered at once. The program puts
/// it into every request as an [`Extension`].
#[derive(Clone, Debug, Default)]
pub struct Closing(pub CancellationToken);

/// Which events to read.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EventsQuery {
    /// The last `seq` seen; 0 reads from the beginning.
    pub after: u64,
    /// At most so many, and never more than [`EVENTS_MAX`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<usize>,
    /// Wait so long for the first one, and never more than [`WAIT_MS_MAX`].
    pub wait_ms: u64,
}

/// Events in order.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EventPage {
    /// The events.
    pub events: Vec<Event>,
    /// Give this as `after` to go on.
    pub cursor: u64,
}

pub(super) fn routes() -> Vec<Route> {
    vec![Route {
        path: "/events",
        methods: &["get"],
        answer: get(list),
    }]
}

async fn list(
    State(store): State<Store>,
    closing: Option<Extension<Closing>>,
    Query(query): Query<EventsQuery>,
) -> Reply<Json<EventPage>> {
    let max = query.max.unwrap_or(EVENTS_MAX).clamp(1, EVENTS_MAX);
    let closing = closing
        .map(|Extension(closing)| closing)
        .unwrap_or_default();
    let until = Instant::now() + Duration::from_millis(query.wait_ms.min(WAIT_MS_MAX));
    loop {
        let patience = until.saturating_duration_since(Instant::now()).min(SLICE);
        let store = store.clone();
        let events = run(move || {
            let read = if patience.is_zero() {
                store.journal_after(query.after, max)
            } else {
                store.journal_wait(query.after, max, patience)
            };
            read.map_err(Problem::from)
        })
        .await?;
        if !events.is_empty() || Instant::now() >= until || closing.0.is_cancelled() {
            let cursor = events.last().map_or(query.after, |event| event.seq);
            return Ok(Json(EventPage { events, cursor }));
        }
    }
}
