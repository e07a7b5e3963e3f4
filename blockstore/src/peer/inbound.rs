//! A peer's connection to us: the hello, then its questions and messages, and our answers.
//!
//! 1. Nothing is delivered before the hello was judged and the peer's earlier connection on this lane
//!    has ended, so that messages of two connections never mix.
//! 2. Messages are delivered one by one in the order they came. What is being answered is bounded in
//!    bytes; beyond, and while the answers have no room, nothing is read, and the sender's queue fills.
//! 3. Every end but a farewell that announces another connection calls
//!    [`Answers::gone`], after the last message.

use super::connection::{Broken, Reader, Writer, split};
use super::counters::Counters;
use super::dial::Reached;
use super::events::EventKind;
use super::frame::{Frame, HELLO_BYTES_MAX, Kind, Malformed, Preamble};
use super::hello::Hello;
use super::introduce::{other_version, read_refusal, with_source};
use super::link::{MOVES, STOPS};
use super::queue::Queue;
use super::shared::{Shared, tell_refusal};
use super::{Answers, Lane, Refusal, RefusalCode, failure};
use crate::{Error, Kind as Reason, NodeId, Result, Subject};
use bytes::Bytes;
use futures::FutureExt;
use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// What being answered costs a question beside its bytes.
const QUESTION_BYTES: usize = 1024;

/// A connection that was let in.
struct Welcomed {
    reader: Reader,
    writer: Writer,
    node: NodeId,
    lane: Lane,
    answers: Arc<dyn Answers>,
    cancel: CancellationToken,
}

/// Serves a connection whose other end has proved who it is, until it ends. `address` is where it
/// came from.
pub(super) async fn serve(shared: Arc<Shared>, reached: Reached, address: String) {
    let shown = reached.shown;
    let pace = &shared.options.pace;
    let (reader, writer) = split(reached.stream, Lane::Control, HELLO_BYTES_MAX, pace);
    let mut halves = (reader, writer);
    let hello = timeout(
        pace.handshake,
        hear_hello(&shared, &mut halves, &reached.named, &address),
    );
    let Ok(Some((hello, lane))) = hello.await else {
        return;
    };
    let node = hello.node;
    let (mut reader, mut writer) = halves;
    writer.set(lane);
    let Some(answers) = shared.answers(lane).map(Arc::clone) else {
        let reason = format!("nobody answers on the {lane} lane of {} yet", shared.node());
        let refusal = Refusal::new(RefusalCode::Lane, reason);
        refuse(&shared, &mut writer, Some(node), &address, &refusal).await;
        return;
    };
    let (cancel, turn) = shared.take_turn(node, lane, hello.run);
    let _turn = tokio::select! {
        turn = turn.lock_owned() => turn,
        // A later one has come in the meantime.
        () = cancel.cancelled() => return,
        () = shared.stop.cancelled() => return,
    };
    let welcome = serde_json::to_vec(&shared.hello(lane)).unwrap_or_default();
    let said = writer.say(Kind::Welcome, 0, welcome);
    if !matches!(timeout(pace.silence, said).await, Ok(Ok(()))) {
        return;
    }
    shared.is_there(node);
    reader.set(lane, shared.limits(lane).body_bytes_max);
    let mut welcomed = Welcomed {
        reader,
        writer,
        node,
        lane,
        answers: Arc::clone(&answers),
        cancel,
    };
    let ended = carry(&shared, &mut welcomed, shown).await;
    let _ = timeout(pace.silence, welcomed.writer.close()).await;
    match ended {
        Ok(MOVES) => return,
        Ok(_) => {}
        Err(broken) => {
            if let Broken::Refused(refusal) = &broken {
                let (code, text) = (Some(refusal.code), refusal.reason.clone());
                let kind = EventKind::RefusedThere;
                shared.told.tell(kind, Some(node), &address, code, text);
            }
            if let Broken::Malformed(malformed) = &broken {
                let text = format!(
                    "what {node} sent on the {lane} lane is not what came: {malformed}; the connection was closed and \
                     nothing of it was used"
                );
                let kind = EventKind::Corrupted;
                shared.told.tell(kind, Some(node), &address, None, text);
            }
            tracing::debug!(%node, %lane, reason = with_source(&broken), "a peer's connection has ended");
        }
    }
    answers.gone(node);
}

/// The first frames. `None`: it ended there, in words where there was somebody to hear them.
async fn hear_hello(
    shared: &Shared,
    (reader, writer): &mut (Reader, Writer),
    named: &super::hello::Named,
    address: &str,
) -> Option<(Hello, Lane)> {
    let node = Some(named.node);
    let malformed = |reason: String| Refusal::new(RefusalCode::Malformed, reason);
    let heard = async {
        writer.preamble(Preamble::OURS).await?;
        let theirs = reader.preamble().await?;
        let first = reader.first().await?;
        Ok::<_, Broken>((theirs, first))
    };
    let refusal = match heard.await {
        Err(broken) => {
            if !matches!(broken, Broken::Malformed(_)) {
                return None;
            }
            malformed(with_source(&broken))
        }
        Ok((theirs, _)) if Preamble::OURS.agreed(theirs).is_none() => other_version(theirs),
        Ok((_, first)) if first.kind != Kind::Hello => {
            malformed(Malformed::Unexpected { kind: first.kind }.to_string())
        }
        Ok((_, first)) => match serde_json::from_slice::<Hello>(&first.body) {
            Err(error) => malformed(format!("the hello does not read: {error}")),
            Ok(_) if shared.stop.is_cancelled() => {
                Refusal::new(RefusalCode::Stopping, "this node is stopping")
            }
            Ok(hello) => match shared.meet(&hello, *named, None) {
                Ok(lane) => return Some((hello, lane)),
                Err(refusal) => refusal,
            },
        },
    };
    refuse(shared, writer, node, address, &refusal).await;
    None
}

async fn refuse(
    shared: &Shared,
    writer: &mut Writer,
    node: Option<NodeId>,
    address: &str,
    refusal: &Refusal,
) {
    tell_refusal(shared, node, address, refusal);
    let said = serde_json::to_vec(refusal).unwrap_or_default();
    let said = async {
        writer.say(Kind::Refusal, 0, said).await?;
        writer.close().await;
        Ok::<_, Broken>(())
    };
    let _ = timeout(shared.options.pace.silence, said).await;
}

/// Reads and answers until the end; returns the farewell's id.
async fn carry(
    shared: &Arc<Shared>,
    welcomed: &mut Welcomed,
    shown: Option<(super::trust::Fingerprint, u64)>,
) -> Result<u64, Broken> {
    let pace = &shared.options.pace;
    let limits = shared.limits(welcomed.lane);
    let counters = shared.counters(welcomed.node, welcomed.lane);
    let mut batch = Vec::new();
    let desk = Arc::new(Desk {
        node: welcomed.node,
        lane: welcomed.lane,
        body_bytes_max: limits.body_bytes_max,
        replies: Queue::new(limits.queue_bytes_max),
        room: Arc::new(Semaphore::new(permits(limits.queue_bytes_max))),
        room_all: permits(limits.queue_bytes_max),
        open: Mutex::default(),
    });
    let _closing = Closing(&desk);
    let (node, answers) = (welcomed.node, &welcomed.answers);
    let listen = listen(&mut welcomed.reader, &desk, answers, &counters);
    let speak = welcomed
        .writer
        .run(&desk.replies, &mut batch, &counters, || {});
    let mut checks = tokio::time::interval(pace.check_every);
    tokio::pin!(listen, speak);
    let mut farewell = None;
    loop {
        tokio::select! {
            heard = &mut listen, if farewell.is_none() => match heard {
                Ok(id) => {
                    farewell = Some(id);
                    // The answers that are being made go out first, within reason.
                    let all = u32::try_from(desk.room_all).unwrap_or(u32::MAX);
                    let made = desk.room.acquire_many(all);
                    tokio::select! {
                        _ = timeout(pace.silence, made) => {}
                        said = &mut speak => break said.map(|()| id),
                        () = welcomed.cancel.cancelled() => break Ok(STOPS),
                    }
                    let goodbye = Frame::empty(desk.lane, Kind::Goodbye, id);
                    let _ = desk.replies.push(goodbye);
                }
                Err(broken) => break Err(broken),
            },
            said = &mut speak => break said.map(|()| farewell.unwrap_or(STOPS)),
            () = welcomed.cancel.cancelled() => break Ok(STOPS),
            () = shared.stop.cancelled(), if farewell.is_none() => {
                farewell = Some(STOPS);
                let _ = desk.replies.push(Frame::empty(desk.lane, Kind::Goodbye, STOPS));
            }
            _ = checks.tick() => {
                if let Err(reason) = shared.may_stay(node, shown) {
                    tracing::info!(%node, reason, "a peer's connection is closed");
                    break Ok(STOPS);
                }
            }
        }
    }
}

/// What one connection's answers share.
struct Desk {
    node: NodeId,
    lane: Lane,
    body_bytes_max: usize,
    replies: Queue,
    /// In KiB.
    room: Arc<Semaphore>,
    room_all: usize,
    open: Mutex<HashMap<u64, AbortHandle>>,
}

/// Withdraws what is still being answered when the connection ends.
struct Closing<'a>(&'a Desk);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        for (_, answering) in self.0.open().drain() {
            answering.abort();
        }
    }
}

impl Desk {
    fn open(&self) -> MutexGuard<'_, HashMap<u64, AbortHandle>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn permits(bytes: usize) -> usize {
    bytes.div_ceil(1024).max(1)
}

/// Takes what comes until the farewell, whose id it returns.
async fn listen(
    reader: &mut Reader,
    desk: &Arc<Desk>,
    answers: &Arc<dyn Answers>,
    counters: &Counters,
) -> Result<u64, Broken> {
    loop {
        let received = reader.next(counters).await?;
        match received.kind {
            Kind::Message => {
                answers.message(desk.node, received.body);
                if let Some(room) = answers.room(desk.node) {
                    room.await;
                }
            }
            Kind::Request => {
                counters.calls_in.fetch_add(1, Relaxed);
                if let Some(room) = answers.room(desk.node) {
                    room.await;
                }
                let wanted = permits(received.body.len() + QUESTION_BYTES).min(desk.room_all);
                let wanted = u32::try_from(wanted).unwrap_or(u32::MAX);
                let Ok(permit) = Arc::clone(&desk.room).acquire_many_owned(wanted).await else {
                    return Err(Broken::Closed);
                };
                answer(desk, answers, received.id, received.body, permit)?;
            }
            Kind::Cancel => {
                if let Some(answering) = desk.open().remove(&received.id) {
                    answering.abort();
                }
            }
            Kind::Goodbye => return Ok(received.id),
            Kind::Refusal => {
                let refusal = read_refusal(&received.body);
                return Err(Broken::Refused(refusal));
            }
            kind => return Err(Malformed::Unexpected { kind }.into()),
        }
    }
}

/// Has a question answered, beside others.
fn answer(
    desk: &Arc<Desk>,
    answers: &Arc<dyn Answers>,
    id: u64,
    body: Bytes,
    permit: OwnedSemaphorePermit,
) -> Result<(), Broken> {
    let mut open = desk.open();
    if open.contains_key(&id) {
        return Err(Malformed::Unexpected {
            kind: Kind::Request,
        }
        .into());
    }
    let (at, answers) = (Arc::clone(desk), Arc::clone(answers));
    let answering = tokio::spawn(async move {
        let asked = AssertUnwindSafe(async { answers.call(at.node, body).await }).catch_unwind();
        let answer = asked.await.unwrap_or_else(|_| {
            let text = "answering broke off: a defect, see the log of the node that was asked";
            Err(Error::new(Reason::Internal, Subject::Store, text))
        });
        let frame = reply(&at, id, answer);
        at.replies.push_waiting(frame).await;
        at.open().remove(&id);
        drop(permit);
    });
    open.insert(id, answering.abort_handle());
    Ok(())
}

fn reply(desk: &Desk, id: u64, answer: Result<Bytes>) -> Frame {
    let answer = answer.and_then(|body| {
        if body.len() <= desk.body_bytes_max {
            return Ok(body);
        }
        let text = format!(
            "the answer has {} bytes, more than the {} lane's {}: ask for less at a time",
            body.len(),
            desk.lane,
            desk.body_bytes_max
        );
        Err(Error::new(Reason::Invalid, Subject::Store, text))
    });
    let frame = match answer {
        Ok(body) => Frame::new(desk.lane, Kind::Reply, id, body.into()),
        Err(error) => Frame::new(desk.lane, Kind::Failure, id, failure::encode(&error).into()),
    };
    frame.unwrap_or_else(|| Frame::empty(desk.lane, Kind::Failure, id))
}
