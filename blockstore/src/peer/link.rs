//! A link: this node's way to one peer on one lane. It dials, keeps a queue, and dials again.
//!
//! ```text
//!          first use        hello agreed            silence, error, restart there
//! (nothing) ──────▶ First ───────────────▶ Up ────────────────────────────────────▶ Down
//!                     │  what waits goes on    ▲ │ new certificate: farewell,        │ backoff, or the
//!                     │                        │ └─▶ new connection, nothing lost    │ peer calls us
//!                     └── cannot: Down         └─────────────────────────────────────┘
//! ```
//!
//! 1. What was sent and not answered for when a connection is lost is given up as a whole: queue,
//!    questions and what is on the wire; then [`Answers::gone`](super::Answers::gone). Nothing older
//!    than that travels on the next connection.
//! 2. While a link is down, messages are refused and questions fail at once, with the reason.
//! 3. A change of certificates moves a link in order: the farewell is answered only after everything
//!    before it was taken, so nothing is lost and nothing is given up.

use super::connection::{Broken, Reader, Writer};
use super::counters::Counters;
use super::events::EventKind;
use super::frame::{Frame, HEAD_BYTES, Kind, Malformed};
use super::introduce::{introduce, with_source};
use super::queue::Queue;
use super::shared::Shared;
use super::{Body, Full, Lane, Why, failure};
use crate::{Error, Kind as Reason, NodeId, Result, Subject};
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use rand::Rng;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// A connection that stood for so long is dialled again at once.
const STOOD: Duration = Duration::from_secs(1);
/// The id of a farewell after which another connection follows.
pub(super) const MOVES: u64 = 0;
/// The id of a farewell after which none follows.
pub(super) const STOPS: u64 = 1;

/// Somebody who waits for an answer.
struct Waiting {
    answer: oneshot::Sender<Result<Bytes>>,
    /// The question has found room in the queue.
    queued: bool,
}

/// One peer, one lane.
pub(super) struct Link {
    to: NodeId,
    lane: Lane,
    body_bytes_max: usize,
    queue: Queue,
    counters: Arc<Counters>,
    state: Mutex<State>,
    next_id: AtomicU64,
    kick: Notify,
    /// Counts the times that the connection was to be broken off.
    resets: watch::Sender<u64>,
    end: CancellationToken,
}

struct State {
    phase: Phase,
    waiting: HashMap<u64, Waiting>,
    /// Which process answers at the other end.
    run: Option<u64>,
}

enum Phase {
    /// Never connected: what comes waits for the first attempt.
    First,
    Up,
    Down {
        reason: String,
    },
}

/// How a connection ended.
enum Ending {
    /// In order; another one follows.
    Moved,
    /// In order; the link ends.
    Ended,
    Lost(String),
}

impl Link {
    pub(super) fn start(shared: &Arc<Shared>, to: NodeId, lane: Lane) -> Arc<Self> {
        let limits = shared.limits(lane);
        let link = Arc::new(Self {
            to,
            lane,
            body_bytes_max: limits.body_bytes_max,
            queue: Queue::new(limits.queue_bytes_max),
            counters: shared.counters(to, lane),
            state: Mutex::new(State {
                phase: Phase::First,
                waiting: HashMap::new(),
                run: None,
            }),
            next_id: AtomicU64::new(1),
            kick: Notify::new(),
            resets: watch::Sender::new(0),
            end: shared.stop.child_token(),
        });
        let run = Arc::clone(&link).run(Arc::clone(shared));
        shared.tasks.spawn_on(run, &shared.handle);
        link
    }

    pub(super) fn send(&self, shared: &Shared, body: Body) -> Result<(), Full> {
        let asked = body.len() + HEAD_BYTES;
        let refuse = |waiting, why| {
            let (to, lane, limit) = (self.to, self.lane, self.queue.limit());
            Err(Full {
                to,
                lane,
                asked,
                waiting,
                limit,
                why,
            })
        };
        if body.len() > self.body_bytes_max {
            return refuse(self.queue.depth().0, Why::TooLarge);
        }
        let id = self.next_id.fetch_add(1, Relaxed);
        let Some(frame) = Frame::new(self.lane, Kind::Message, id, body) else {
            return refuse(0, Why::TooLarge);
        };
        // Under the lock: a loss that comes in between finds the message in the queue, or we find it.
        let state = self.lock();
        if matches!(state.phase, Phase::Down { .. }) {
            return refuse(0, Why::Unreachable);
        }
        if shared.stop.is_cancelled() || self.end.is_cancelled() {
            return refuse(0, Why::NoMember);
        }
        self.queue.push(frame).or_else(|back| {
            self.counters.refused_full.fetch_add(1, Relaxed);
            refuse(back.waiting, Why::Queue)
        })
    }

    pub(super) fn call(
        self: Arc<Self>,
        shared: &Shared,
        body: Body,
        patience: Duration,
    ) -> BoxFuture<'static, Result<Bytes>> {
        let ready = |error: Error| std::future::ready(Err(error)).boxed();
        let id = self.next_id.fetch_add(1, Relaxed);
        let too_large = |bytes: usize| {
            let text = format!(
                "a question of {bytes} bytes is larger than the {} lane's {} bytes",
                self.lane, self.body_bytes_max
            );
            Error::new(Reason::Invalid, Subject::Store, text)
        };
        let bytes = body.len();
        if bytes > self.body_bytes_max {
            return ready(too_large(bytes));
        }
        let Some(frame) = Frame::new(self.lane, Kind::Request, id, body) else {
            return ready(too_large(bytes));
        };
        let (answer, heard) = oneshot::channel();
        let mut state = self.lock();
        if let Phase::Down { reason } = &state.phase {
            let error = self.unavailable(reason);
            drop(state);
            return ready(error);
        }
        if self.end.is_cancelled() {
            drop(state);
            return ready(self.unavailable("this node's transport is stopping"));
        }
        let left = self.queue.push(frame).err().map(|back| back.frame);
        let queued = left.is_none();
        state.waiting.insert(id, Waiting { answer, queued });
        drop(state);
        self.counters.calls_out.fetch_add(1, Relaxed);
        // Made here: the future may be polled where there is no timer.
        let context = shared.handle.enter();
        let patient = tokio::time::sleep(patience);
        drop(context);
        let question = Question { link: self, id };
        async move {
            let asked = async {
                if let Some(frame) = left {
                    question.link.ask_waiting(id, frame).await;
                }
                std::future::pending::<()>().await;
            };
            let answered = tokio::select! {
                biased;
                answer = heard => answer.ok(),
                () = patient => None,
                () = asked => None,
            };
            answered.unwrap_or_else(|| {
                let text = format!("no answer within {} ms", patience.as_millis());
                Err(question.link.unavailable(&text))
            })
        }
        .boxed()
    }

    /// Queues a question as soon as there is room, unless nobody waits for its answer any more.
    async fn ask_waiting(&self, id: u64, frame: Frame) {
        let mut frame = frame;
        loop {
            let room = self.queue.room();
            {
                let mut state = self.lock();
                let Some(waiting) = state.waiting.get_mut(&id) else {
                    return;
                };
                match self.queue.push(frame) {
                    Ok(()) => {
                        waiting.queued = true;
                        return;
                    }
                    Err(back) => frame = back.frame,
                }
            }
            room.await;
        }
    }

    pub(super) fn depth(&self) -> (usize, usize) {
        self.queue.depth()
    }

    /// Dials now, if it waits to.
    pub(super) fn kick(&self) {
        self.kick.notify_one();
    }

    /// Breaks the connection off.
    pub(super) fn reset(&self) {
        self.resets.send_modify(|resets| *resets += 1);
    }

    /// The peer has started as this process: a connection with an earlier one is over.
    pub(super) fn meet_again(&self, run: u64) {
        if self.lock().run.is_some_and(|known| known != run) {
            self.reset();
        }
    }

    /// Closes in order, and for good.
    pub(super) fn end(&self) {
        self.end.cancel();
    }

    async fn run(self: Arc<Self>, shared: Arc<Shared>) {
        let pace = shared.options.pace.clone();
        let mut backoff = Duration::ZERO;
        let mut batch = Vec::new();
        loop {
            let mut resets = self.resets.subscribe();
            let established = tokio::select! {
                () = self.end.cancelled() => break,
                established = self.establish(&shared) => established,
            };
            let (reader, writer) = match established {
                Ok(halves) => halves,
                Err(reason) => {
                    self.counters.failures.fetch_add(1, Relaxed);
                    self.give_up(&shared, &mut batch, &reason);
                    backoff = (backoff * 2).clamp(pace.backoff_min, pace.backoff_max);
                    let spread = rand::rng().random_range(0.8..1.2);
                    tokio::select! {
                        () = self.end.cancelled() => break,
                        () = self.kick.notified() => {}
                        () = tokio::time::sleep(backoff.mul_f64(spread)) => {}
                    }
                    continue;
                }
            };
            let since = Instant::now();
            self.up(&shared);
            let ending = self
                .drive(&shared, reader, writer, &mut batch, &mut resets)
                .await;
            self.counters.connected.store(false, Relaxed);
            match ending {
                Ending::Moved => {
                    self.moved(&batch);
                    continue;
                }
                Ending::Ended => break,
                Ending::Lost(reason) => {
                    tracing::info!(to = %self.to, lane = %self.lane, reason, "a connection to a peer is lost");
                    self.counters.losses.fetch_add(1, Relaxed);
                    self.give_up(&shared, &mut batch, &reason);
                }
            }
            if since.elapsed() < STOOD {
                backoff = (backoff * 2).clamp(pace.backoff_min, pace.backoff_max);
                tokio::select! {
                    () = self.end.cancelled() => break,
                    () = tokio::time::sleep(backoff) => {}
                }
            } else {
                backoff = Duration::ZERO;
            }
        }
        self.end.cancel();
        self.give_up(&shared, &mut batch, "the link was closed");
    }

    fn up(&self, shared: &Shared) {
        self.lock().phase = Phase::Up;
        self.counters.connects.fetch_add(1, Relaxed);
        self.counters.connected.store(true, Relaxed);
        if let Some(answers) = shared.answers(self.lane) {
            answers.ready(self.to);
        }
    }

    /// Invariant 1.
    fn give_up(&self, shared: &Shared, batch: &mut Vec<Frame>, reason: &str) {
        let mut state = self.lock();
        let down = Phase::Down {
            reason: reason.to_owned(),
        };
        let earlier = std::mem::replace(&mut state.phase, down);
        let was_up = matches!(earlier, Phase::Up);
        state.run = None;
        let waiting = std::mem::take(&mut state.waiting);
        let messages = self.queue.clear(batch);
        drop(state);
        for (_, waiting) in waiting {
            let _ = waiting.answer.send(Err(self.unavailable(reason)));
        }
        if let Some(answers) = shared.answers(self.lane).filter(|_| was_up || messages > 0) {
            answers.gone(self.to);
        }
    }

    /// Questions that were asked on the old connection and got no answer there fail; those that wait
    /// in the queue go on.
    fn moved(&self, batch: &[Frame]) {
        let kept = self.queue.questions(batch);
        let mut state = self.lock();
        let lost: Vec<_> = state
            .waiting
            .extract_if(|id, waiting| waiting.queued && !kept.contains(id))
            .collect();
        drop(state);
        for (_, lost) in lost {
            let reason = "the connection moved to a new certificate before the answer came";
            let _ = lost.answer.send(Err(self.unavailable(reason)));
        }
    }

    async fn establish(&self, shared: &Shared) -> Result<(Reader, Writer), String> {
        let Some(member) = shared.members.member(self.to) else {
            return Err(format!("{} is no member of the cluster", self.to));
        };
        let mut reasons = Vec::new();
        for address in &member.addresses {
            match introduce(shared, self.to, self.lane, address).await {
                Ok((reader, writer, run)) => {
                    self.lock().run = Some(run);
                    return Ok((reader, writer));
                }
                Err(reason) => reasons.push(format!("{address}: {reason}")),
            }
        }
        if reasons.is_empty() {
            return Err("no address of it is known".to_owned());
        }
        Err(reasons.join("; "))
    }

    /// Carries the queue over the connection until it ends.
    async fn drive(
        &self,
        shared: &Shared,
        mut reader: Reader,
        mut writer: Writer,
        batch: &mut Vec<Frame>,
        resets: &mut watch::Receiver<u64>,
    ) -> Ending {
        let silence = shared.options.pace.silence;
        let mut generations = shared.generations();
        let changed = async {
            match &mut generations {
                Some(generations) => {
                    if generations.changed().await.is_err() {
                        std::future::pending::<()>().await;
                    }
                }
                None => std::future::pending().await,
            }
        };
        let room = || {
            if let Some(answers) = shared.answers(self.lane) {
                answers.ready(self.to);
            }
        };
        let ended = {
            let hear = self.hear(&mut reader);
            let speak = writer.run(&self.queue, batch, &self.counters, room);
            let reset = async {
                let _ = resets.changed().await;
            };
            let deadline = tokio::time::sleep(Duration::MAX);
            tokio::pin!(changed, hear, speak, reset, deadline);
            let (mut leaving, mut spoken) = (None, false);
            loop {
                tokio::select! {
                    heard = &mut hear => break match (heard, leaving) {
                        (Ok(_), Some(MOVES)) => Ending::Moved,
                        (Ok(_), Some(_)) => Ending::Ended,
                        (Ok(STOPS), None) => Ending::Lost("it is stopping".to_owned()),
                        (Ok(_), None) => Ending::Lost("it closed the connection".to_owned()),
                        (Err(broken), _) => {
                            if let Broken::Malformed(malformed) = &broken {
                                self.tell_corrupted(shared, malformed);
                            }
                            Ending::Lost(with_source(&broken))
                        }
                    },
                    said = &mut speak, if !spoken => match said {
                        Ok(()) => spoken = true,
                        Err(broken) => break Ending::Lost(with_source(&broken)),
                    },
                    () = &mut changed, if leaving.is_none() => {
                        leaving = Some(MOVES);
                        let _ = self.queue.push(Frame::empty(self.lane, Kind::Goodbye, MOVES));
                    },
                    () = self.end.cancelled(), if leaving != Some(STOPS) => {
                        leaving = Some(STOPS);
                        let _ = self.queue.push(Frame::empty(self.lane, Kind::Goodbye, STOPS));
                        deadline.as_mut().reset(tokio::time::Instant::now() + silence);
                    },
                    () = &mut reset => break Ending::Lost("the node has started again, or was cut off".to_owned()),
                    () = &mut deadline, if leaving == Some(STOPS) => {
                        break Ending::Lost("no farewell came in time".to_owned());
                    }
                }
            }
        };
        let _ = timeout(silence, writer.close()).await;
        ended
    }

    /// Hands answers to those who wait, until the farewell, whose id it returns.
    async fn hear(&self, reader: &mut Reader) -> Result<u64, Broken> {
        loop {
            let received = reader.next(&self.counters).await?;
            let answer = match received.kind {
                Kind::Reply => Ok(received.body),
                Kind::Failure => Err(failure::decode(&received.body)),
                Kind::Goodbye => return Ok(received.id),
                kind => return Err(Malformed::Unexpected { kind }.into()),
            };
            // Nobody waits any more: withdrawn while the answer was on its way.
            let waiting = self.lock().waiting.remove(&received.id);
            if let Some(waiting) = waiting {
                let _ = waiting.answer.send(answer);
            }
        }
    }

    fn tell_corrupted(&self, shared: &Shared, malformed: &Malformed) {
        let text = format!(
            "what {} answered on the {} lane was not what it sent: {malformed}; the connection was closed and \
             nothing of it was used",
            self.to, self.lane
        );
        let address = self.to.to_string();
        shared
            .told
            .tell(EventKind::Corrupted, Some(self.to), &address, None, text);
    }

    fn unavailable(&self, reason: &str) -> Error {
        let text = format!(
            "{} does not answer on the {} lane: {reason}",
            self.to, self.lane
        );
        Error::new(Reason::Unavailable, Subject::Store, text)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A question that somebody waits on; dropped, it is withdrawn.
struct Question {
    link: Arc<Link>,
    id: u64,
}

impl Drop for Question {
    fn drop(&mut self) {
        let waiting = self.link.lock().waiting.remove(&self.id);
        if !waiting.is_some_and(|waiting| waiting.queued) {
            return;
        }
        if !self.link.queue.withdraw(self.id) {
            let cancel = Frame::empty(self.link.lane, Kind::Cancel, self.id);
            let _ = self.link.queue.push(cancel);
        }
    }
}
