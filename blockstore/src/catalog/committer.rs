//! The one thread that writes the catalog: takes changes, runs them over one overlay, syncs, answers.

use super::txn::Overlay;
use super::{Txn, disk_is_full};
use crate::{Error, Kind, Result, Subject};
use rocksdb::{DB, WriteBatch, WriteOptions};
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Changes that may wait for the thread; more callers wait in line for a place.
pub(super) const CHANGES_QUEUED_MAX: usize = 1024;
/// Changes in one batch.
const GROUP_MAX: usize = 256;

/// A caller's change on its way through the thread.
pub(super) trait Change: Send {
    /// Runs it; whether what it put is to be kept.
    fn run(&mut self, txn: &mut Txn<'_>) -> bool;
    /// Tells the caller: what the change returned, or that its batch failed.
    fn answer(self: Box<Self>, failure: Option<Error>);
}

pub(super) struct Pending<F, T> {
    change: Option<F>,
    outcome: Option<Result<T>>,
    caller: SyncSender<Result<T>>,
}

impl<F, T> Pending<F, T> {
    pub(super) fn new(change: F) -> (Self, Receiver<Result<T>>) {
        let (caller, answer) = sync_channel(1);
        (
            Self {
                change: Some(change),
                outcome: None,
                caller,
            },
            answer,
        )
    }
}

impl<T: Send, F: FnOnce(&mut Txn<'_>) -> Result<T> + Send> Change for Pending<F, T> {
    fn run(&mut self, txn: &mut Txn<'_>) -> bool {
        let Some(change) = self.change.take() else {
            return false;
        };
        // Whatever a panic left half done lies in `txn` and is dropped with it.
        let outcome = catch_unwind(AssertUnwindSafe(|| change(txn)))
            .unwrap_or_else(|panic| Err(panicked(&*panic)));
        let keep = outcome.is_ok();
        self.outcome = Some(outcome);
        keep
    }

    fn answer(self: Box<Self>, failure: Option<Error>) {
        let outcome = match (failure, self.outcome) {
            (Some(failure), _) => Some(Err(failure)),
            (None, outcome) => outcome,
        };
        if let Some(outcome) = outcome {
            // A caller that is gone wants no answer.
            let _ = self.caller.send(outcome);
        }
    }
}

fn panicked(panic: &(dyn Any + Send)) -> Error {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_default();
    Error::new(
        Kind::Internal,
        Subject::Store,
        format!("a change of the catalog panicked, nothing was changed: {text}"),
    )
}

/// What the thread tells everyone else.
pub(super) struct Committed {
    state: Mutex<State>,
    grown: Condvar,
}

struct State {
    seq_last: u64,
    refusal: Option<(Kind, String)>,
    closed: bool,
    #[cfg(test)]
    fail_next: Option<String>,
}

impl Committed {
    pub(super) fn new(seq_last: u64) -> Self {
        let state = State {
            seq_last,
            refusal: None,
            closed: false,
            #[cfg(test)]
            fail_next: None,
        };
        Self {
            state: Mutex::new(state),
            grown: Condvar::new(),
        }
    }

    /// The error that every change gets since a batch failed.
    pub(super) fn refusal(&self) -> Option<Error> {
        let state = self.state();
        let (kind, text) = state.refusal.as_ref()?;
        Some(Error::new(*kind, Subject::Store, text.clone()))
    }

    /// The number of the last event, after waiting up to `patience` for one behind `cursor`; `None` when closed.
    pub(super) fn wait(&self, cursor: u64, patience: Duration) -> Option<u64> {
        let deadline = Instant::now().checked_add(patience);
        let mut state = self.state();
        while !state.closed && state.seq_last <= cursor {
            let left = deadline.map_or(Duration::MAX, |deadline| {
                deadline.saturating_duration_since(Instant::now())
            });
            if left.is_zero() {
                break;
            }
            state = self
                .grown
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        (!state.closed).then_some(state.seq_last)
    }

    pub(super) fn close(&self) {
        self.state().closed = true;
        self.grown.notify_all();
    }

    #[cfg(test)]
    pub(super) fn fail_next(&self, text: &str) {
        self.state().fail_next = Some(text.into());
    }

    fn refuse(&self, text: &str) {
        let kind = if disk_is_full(text) {
            Kind::NoSpace
        } else {
            Kind::Unavailable
        };
        let advice = match kind {
            Kind::NoSpace => "make room on its disk and restart the server",
            _ => "look at its disk and restart the server",
        };
        let text =
            format!("the catalog takes no changes since a synced write failed ({text}): {advice}");
        tracing::error!(text, "catalog refuses");
        self.state().refusal = Some((kind, text));
    }

    fn grow(&self, seq_last: u64) {
        let mut state = self.state();
        if state.seq_last < seq_last {
            state.seq_last = seq_last;
            drop(state);
            self.grown.notify_all();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn start(
    database: Arc<DB>,
    committed: Arc<Committed>,
    queue: Receiver<Box<dyn Change>>,
) -> std::io::Result<JoinHandle<()>> {
    let run = move || {
        let mut seq_next = committed.state().seq_last + 1;
        while let Ok(first) = queue.recv() {
            let mut group = vec![first];
            group.extend(queue.try_iter().take(GROUP_MAX - 1));
            commit(&database, &committed, group, &mut seq_next);
        }
    };
    std::thread::Builder::new()
        .name("catalog".into())
        .spawn(run)
}

fn commit(
    database: &DB,
    committed: &Committed,
    mut group: Vec<Box<dyn Change>>,
    seq_next: &mut u64,
) {
    if committed.refusal().is_none() {
        let mut batch = Overlay::new();
        let mut seq = *seq_next;
        for change in &mut group {
            let mut txn = Txn::new(database, &batch, seq);
            if change.run(&mut txn) {
                let (own, next) = txn.into_changes();
                batch.extend(own);
                seq = next;
            }
        }
        match write(database, committed, batch) {
            Ok(()) => {
                *seq_next = seq;
                committed.grow(seq - 1);
            }
            Err(text) => committed.refuse(&text),
        }
    }
    // After a failed batch even a refusal may rest on what another change of the group had put: all
    // get the failure.
    for change in group {
        change.answer(committed.refusal());
    }
}

#[cfg_attr(not(test), allow(unused_variables))]
fn write(
    database: &DB,
    committed: &Committed,
    changed: Overlay,
) -> std::result::Result<(), String> {
    if changed.is_empty() {
        return Ok(());
    }
    #[cfg(test)]
    if let Some(text) = committed.state().fail_next.take() {
        return Err(text);
    }
    let mut batch = WriteBatch::default();
    for (key, value) in changed {
        match value {
            Some(value) => batch.put(key, value),
            None => batch.delete(key),
        }
    }
    database
        .write_opt(batch, &synced())
        .map_err(|cause| cause.to_string())
}

/// Every write reaches the device before it is answered.
pub(super) fn synced() -> WriteOptions {
    let mut options = WriteOptions::default();
    options.set_sync(true);
    options
}
