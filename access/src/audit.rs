//! The audit: each decision in the journal, without a sync per request.
//!
//! ```text
//! decisions ──▶ bounded queue ──▶ one thread: what came within 100 ms ──▶ one catalog transaction
//! ```
//! 1. Nothing is dropped: on a full queue whoever decides waits.
//! 2. A decision reaches the disk at most [`BATCH_TIME`] after it was made, plus one commit.
//! 3. While the journal cannot be written nothing more is decided: requests are Unavailable.
//! 4. Reading the journal would write to it, and so wake whoever waits for its next event: that a reader
//!    may is recorded once in [`READER_TIME`].
//! 5. [`Audit::flush`] returns when everything recorded before it is durable.

use crate::decide::requested;
use crate::policy::Decision;
use crate::{Caller, Need};
use blockstore::{Entry, Error, Kind, Result, Store, Subject, Who};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Decisions that wait for the journal at most.
const QUEUED_MAX: usize = 4096;
/// Decisions of one transaction at most.
const BATCH_MAX: usize = 1024;
/// How long a decision waits for others.
const BATCH_TIME: Duration = Duration::from_millis(100);
/// How long the thread waits before it tries again to write.
const RETRY_TIME: Duration = Duration::from_millis(500);
/// How long one record stands for a reader of the journal who reads on.
const READER_TIME: Duration = Duration::from_secs(60);
/// Readers of the journal that are remembered.
const READERS_MAX: usize = 1024;
/// Bytes of what a client calls itself that are kept.
const AGENT_BYTES_MAX: usize = 200;

enum Message {
    Decision(Box<(Who, Entry)>),
    /// Answered when all before it is durable.
    Flush(SyncSender<()>),
}

/// The queue and its thread; dropping it writes what is left.
pub(crate) struct Audit {
    queue: Mutex<Option<SyncSender<Message>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    stalled: Arc<AtomicBool>,
    /// Readers of the journal, and when that was last recorded.
    readers: Mutex<HashMap<String, Instant>>,
}

impl Audit {
    pub(crate) fn start(store: Store) -> Result<Self> {
        let (queue, messages) = sync_channel(QUEUED_MAX);
        let stalled = Arc::new(AtomicBool::new(false));
        let thread = {
            let stalled = Arc::clone(&stalled);
            std::thread::Builder::new()
                .name("audit".into())
                .spawn(move || keep(&store, &messages, &stalled))
        };
        let thread = thread.map_err(|cause| {
            let text = "cannot start the thread that keeps the audit";
            Error::new(Kind::Unavailable, Subject::Identity, text).because(cause)
        })?;
        Ok(Self {
            queue: Mutex::new(Some(queue)),
            thread: Mutex::new(Some(thread)),
            stalled,
            readers: Mutex::default(),
        })
    }

    /// Queues one decision.
    pub(crate) fn record(
        &self,
        caller: &Caller,
        need: &Need<'_>,
        decision: &Decision,
    ) -> Result<()> {
        if self.stalled.load(Ordering::Acquire) {
            return Err(unavailable());
        }
        if decision.allowed && need.action == "store:Events" && self.reads_on(caller) {
            return Ok(());
        }
        let message = Message::Decision(Box::new((caller.who(), entry(caller, need, decision))));
        self.send(message)
    }

    /// Whether the same reader's last record stands still.
    fn reads_on(&self, caller: &Caller) -> bool {
        let reader = format!("{} {:?}", caller.principal.arn(), caller.origin);
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        readers.retain(|_, since| since.elapsed() < READER_TIME);
        if readers.contains_key(&reader) {
            return true;
        }
        if readers.len() < READERS_MAX {
            readers.insert(reader, Instant::now());
        }
        false
    }

    /// Waits until everything recorded before is durable.
    pub(crate) fn flush(&self) -> Result<()> {
        let (done, answer) = sync_channel(1);
        self.send(Message::Flush(done))?;
        answer.recv().map_err(|_| unavailable())
    }

    fn send(&self, message: Message) -> Result<()> {
        // Nobody waits for room in the queue while holding the lock on it.
        let queue = {
            let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
            queue.clone().ok_or_else(unavailable)?
        };
        queue.send(message).map_err(|_| unavailable())
    }
}

impl Drop for Audit {
    fn drop(&mut self) {
        let queue = self.queue.lock().map(|mut queue| queue.take());
        drop(queue);
        let thread = self.thread.lock().map(|mut thread| thread.take());
        if let Ok(Some(thread)) = thread
            && thread.join().is_err()
        {
            tracing::error!("the audit's thread panicked");
        }
    }
}

fn keep(store: &Store, messages: &Receiver<Message>, stalled: &AtomicBool) {
    let mut open = true;
    while open {
        let mut batch = Vec::new();
        let mut flushes = Vec::new();
        match messages.recv() {
            Ok(message) => sort(message, &mut batch, &mut flushes),
            Err(_) => return,
        }
        let until = Instant::now() + BATCH_TIME;
        while batch.len() < BATCH_MAX && flushes.is_empty() {
            let patience = until.saturating_duration_since(Instant::now());
            match messages.recv_timeout(patience) {
                Ok(message) => sort(message, &mut batch, &mut flushes),
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => {
                    open = false;
                    break;
                }
            }
        }
        if !write(store, &batch, stalled, messages) {
            return;
        }
        for done in flushes {
            // Whoever waited may have gone.
            let _ = done.send(());
        }
    }
}

fn sort(message: Message, batch: &mut Vec<(Who, Entry)>, flushes: &mut Vec<SyncSender<()>>) {
    match message {
        Message::Decision(decision) => batch.push(*decision),
        Message::Flush(done) => flushes.push(done),
    }
}

/// Until it is written. False once it never will be: the store is closed.
fn write(
    store: &Store,
    batch: &[(Who, Entry)],
    stalled: &AtomicBool,
    messages: &Receiver<Message>,
) -> bool {
    if batch.is_empty() {
        return true;
    }
    loop {
        match store.journal_append_many(batch) {
            Ok(_) => {
                stalled.store(false, Ordering::Release);
                return true;
            }
            Err(error) => {
                if !stalled.swap(true, Ordering::AcqRel) {
                    tracing::error!(
                        decisions = batch.len(),
                        error = %error.chain(),
                        "the audit cannot be written: requests are refused until it can"
                    );
                }
                if error.kind() == Kind::Unavailable {
                    // Those who wait on a full queue must not wait for ever.
                    while messages.try_recv().is_ok() {}
                    return false;
                }
                std::thread::sleep(RETRY_TIME);
            }
        }
    }
}

fn entry(caller: &Caller, need: &Need<'_>, decision: &Decision) -> Entry {
    let kind = if decision.allowed {
        "access.allowed"
    } else {
        "access.denied"
    };
    let subject = requested(need, caller.principal.project());
    let mut detail = format!(
        "{} by {}: {}",
        need.action,
        caller.principal.arn(),
        decision.why
    );
    if !decision.policy.is_empty() {
        detail.push_str(&format!(" ({}, {})", decision.policy, decision.statement));
    }
    match caller.origin.address {
        Some(address) => detail.push_str(&format!("; from {address}")),
        None => detail.push_str("; from this machine"),
    }
    if !caller.origin.secure {
        detail.push_str(" in clear");
    }
    if !caller.origin.agent.is_empty() {
        let mut agent = caller.origin.agent.as_str();
        while agent.len() > AGENT_BYTES_MAX {
            let mut shown = agent.chars();
            shown.next_back();
            agent = shown.as_str();
        }
        detail.push_str(&format!("; agent {agent:?}"));
    }
    Entry::new(kind, subject).detail(detail)
}

fn unavailable() -> Error {
    let text = "the audit cannot be written, so nothing is decided: see the server's log";
    Error::new(Kind::Unavailable, Subject::Identity, text)
}
