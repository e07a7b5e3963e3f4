//! The one thread of this node that changes the catalog: takes changes, runs them over one overlay, has
//! the batch carried to where it is durable, answers.
//!
//! Where that is, a [`Carrier`] says: this node's disk ([`super::local`]), or the group that several
//! nodes keep the catalog in ([`super::raft`]).

use super::txn::Overlay;
use super::{Txn, disk_is_full};
use crate::{Error, Kind, Result, Subject};
use rocksdb::{DB, Snapshot, WriteOptions};
use std::any::Any;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Changes that may wait for the thread; more callers wait in line for a place.
pub(super) const CHANGES_QUEUED_MAX: usize = 1024;
/// Changes in one batch.
const GROUP_MAX: usize = 256;
/// Bytes that a batch may have before another change joins it.
const GROUP_BYTES_MAX: usize = 4 << 20;

/// Carries finished batches to where they are durable. Only the committing thread calls it.
pub(super) trait Carrier: Send {
    /// The rows that the next group's changes run over. Until [`Self::carry`] nobody else changes them,
    /// or else the batch is refused there.
    fn base<'a>(&mut self, database: &'a DB) -> Result<Base<'a>, Failure>;
    /// Makes what a group changed durable and visible here; with nothing changed, makes sure that what
    /// the group read was still true after it began.
    fn carry(&mut self, changed: &Overlay) -> Result<(), Failure>;
    /// How long no change may come before [`Self::rest`] is called.
    fn rests_after(&self) -> Option<Duration> {
        None
    }
    /// There is nothing to do for now.
    fn rest(&mut self) {}
}

/// What a group's changes run over.
pub(super) struct Base<'a> {
    /// All rows as they are then.
    pub(super) rows: Snapshot<'a>,
    /// The number of the next event in the journal.
    pub(super) seq_next: u64,
}

/// Why a batch was not carried.
#[derive(Clone, Debug)]
pub(super) enum Failure {
    /// This node's disk failed: nothing more is changed until the catalog is opened again.
    Disk(String),
    /// The changes of this group failed, later ones may do better.
    #[cfg_attr(not(test), allow(dead_code, reason = "for members of a group"))]
    Group(Kind, String),
}

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

    /// The failure that a test wants the next write to meet.
    #[cfg(test)]
    pub(super) fn failing(&self) -> Option<String> {
        self.state().fail_next.take()
    }

    pub(super) fn refuse(&self, text: &str) {
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

    pub(super) fn grow(&self, seq_last: u64) {
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
    mut carrier: Box<dyn Carrier>,
    queue: Receiver<Box<dyn Change>>,
) -> std::io::Result<JoinHandle<()>> {
    let run = move || {
        let mut waiting = VecDeque::new();
        while let Some(first) = next(&mut waiting, &queue, carrier.as_mut()) {
            let mut group = VecDeque::from([first]);
            group.append(&mut waiting);
            group.extend(queue.try_iter().take(GROUP_MAX.saturating_sub(group.len())));
            waiting = commit(&database, &committed, carrier.as_mut(), group);
        }
        carrier.rest();
    };
    std::thread::Builder::new()
        .name("catalog".into())
        .spawn(run)
}

/// The next change to run; `None` when there will be none.
fn next(
    waiting: &mut VecDeque<Box<dyn Change>>,
    queue: &Receiver<Box<dyn Change>>,
    carrier: &mut dyn Carrier,
) -> Option<Box<dyn Change>> {
    if let Some(first) = waiting.pop_front() {
        return Some(first);
    }
    if let Some(patience) = carrier.rests_after() {
        match queue.recv_timeout(patience) {
            Ok(first) => return Some(first),
            Err(RecvTimeoutError::Timeout) => carrier.rest(),
            Err(RecvTimeoutError::Disconnected) => return None,
        }
    }
    queue.recv().ok()
}

/// Runs changes of the group until their batch is large enough, and answers them; returns the others.
fn commit(
    database: &DB,
    committed: &Committed,
    carrier: &mut dyn Carrier,
    mut group: VecDeque<Box<dyn Change>>,
) -> VecDeque<Box<dyn Change>> {
    let mut done = Vec::new();
    let mut failure = committed.refusal();
    if failure.is_none() {
        let outcome = carrier.base(database).and_then(|base| {
            let batch = run(&base, &mut group, &mut done);
            drop(base);
            carrier.carry(&batch)
        });
        if let Err(Failure::Disk(text)) = &outcome {
            committed.refuse(text);
        }
        // After a failed batch even a refusal may rest on what another change of the group had put: all
        // get the failure.
        failure = match outcome {
            Ok(()) | Err(Failure::Disk(_)) => committed.refusal(),
            Err(Failure::Group(kind, text)) => Some(Error::new(kind, Subject::Store, text)),
        };
    }
    if done.is_empty() {
        done.extend(group.drain(..));
    }
    for change in done {
        let failure = failure
            .as_ref()
            .map(|failure| Error::new(failure.kind(), failure.subject(), failure.to_string()));
        change.answer(failure);
    }
    group
}

fn run(
    base: &Base<'_>,
    group: &mut VecDeque<Box<dyn Change>>,
    done: &mut Vec<Box<dyn Change>>,
) -> Overlay {
    let mut batch = Overlay::new();
    let mut bytes = 0;
    let mut seq_next = base.seq_next;
    while bytes < GROUP_BYTES_MAX
        && let Some(mut change) = group.pop_front()
    {
        let mut txn = Txn::new(&base.rows, &batch, seq_next);
        if change.run(&mut txn) {
            let (own, next) = txn.into_changes();
            bytes += own
                .iter()
                .map(|(key, value)| key.len() + value.as_ref().map_or(0, Vec::len))
                .sum::<usize>();
            batch.extend(own);
            seq_next = next;
        }
        done.push(change);
    }
    batch
}

/// Every write reaches the device before it is answered.
pub(super) fn synced() -> WriteOptions {
    let mut options = WriteOptions::default();
    options.set_sync(true);
    options
}
