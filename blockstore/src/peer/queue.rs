//! A lane's queue of frames, bounded in bytes.
//!
//! 1. What waits and what is being written counts until it is written, so the bound holds for a
//!    connection that is stuck in the middle of a write.
//! 2. A frame that finds no room is handed back; nothing is dropped but by [`Queue::clear`], whose
//!    caller says so.
//! 3. Frames leave in the order they came. Only withdrawals and farewells, which are a few bytes and
//!    at most one for each question asked, enter a full queue.

use super::frame::{Frame, HEAD_BYTES, Kind};
use std::collections::{HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// What a frame costs beside its bytes, so that a million empty ones have a bound, too.
const OVERHEAD_BYTES: usize = 128;

/// The queue; one task takes, anybody puts.
#[derive(Debug)]
pub(super) struct Queue {
    limit: usize,
    state: Mutex<State>,
    filled: Notify,
    room: Notify,
}

#[derive(Debug, Default)]
struct State {
    frames: VecDeque<Frame>,
    /// Cost of all that waits or is being written.
    cost: usize,
    cost_max: usize,
    /// Somebody was refused and wants to be told when there is room.
    refused: bool,
}

/// A frame that found no room.
#[derive(Debug)]
pub(super) struct NoRoom {
    pub(super) frame: Frame,
    pub(super) waiting: usize,
}

fn cost(frame: &Frame) -> usize {
    frame.len() + OVERHEAD_BYTES
}

impl Queue {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            state: Mutex::default(),
            filled: Notify::new(),
            room: Notify::new(),
        }
    }

    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// Bytes that wait now, and the most that ever did.
    pub(super) fn depth(&self) -> (usize, usize) {
        let state = self.lock();
        (state.cost, state.cost_max)
    }

    /// Puts the frame at the end. An empty queue takes any frame.
    // Handing the frame back by value keeps what is a success cheap: no box, no clone of the body.
    #[allow(clippy::result_large_err)]
    pub(super) fn push(&self, frame: Frame) -> Result<(), NoRoom> {
        let small = matches!(frame.kind, Kind::Cancel | Kind::Goodbye) && frame.len() == HEAD_BYTES;
        let mut state = self.lock();
        let cost = cost(&frame);
        if state.cost > 0 && state.cost.saturating_add(cost) > self.limit && !small {
            state.refused = true;
            return Err(NoRoom {
                frame,
                waiting: state.cost,
            });
        }
        state.cost += cost;
        state.cost_max = state.cost_max.max(state.cost);
        state.frames.push_back(frame);
        drop(state);
        self.filled.notify_one();
        Ok(())
    }

    /// Puts the frame at the end, as soon as there is room.
    pub(super) async fn push_waiting(&self, frame: Frame) {
        let mut frame = frame;
        loop {
            let room = self.room();
            match self.push(frame) {
                Ok(()) => return,
                Err(back) => frame = back.frame,
            }
            room.await;
        }
    }

    /// Until there may be room, from now on: asked for before a try, nothing made in between is missed.
    pub(super) fn room(&self) -> impl Future<Output = ()> {
        self.room.notified()
    }

    /// Moves frames into `batch` until it holds `bytes_max` bytes or `frames_max` frames, or a
    /// farewell: nothing is said after one.
    pub(super) fn take(&self, batch: &mut Vec<Frame>, bytes_max: usize, frames_max: usize) {
        let mut state = self.lock();
        let mut bytes = 0;
        while batch.len() < frames_max && bytes < bytes_max {
            let Some(frame) = state.frames.pop_front() else {
                return;
            };
            bytes += frame.len();
            let farewell = frame.kind == Kind::Goodbye;
            batch.push(frame);
            if farewell {
                return;
            }
        }
    }

    /// Until something may be there.
    pub(super) async fn filled(&self) {
        self.filled.notified().await;
    }

    /// The frames taken are written: makes room, empties `batch`. True: somebody who was refused
    /// may try again.
    pub(super) fn written(&self, batch: &mut Vec<Frame>) -> bool {
        let cost: usize = batch.drain(..).map(|frame| cost(&frame)).sum();
        self.release(cost)
    }

    /// Removes a question that nobody has begun to write. False: it is gone already.
    pub(super) fn withdraw(&self, id: u64) -> bool {
        let mut state = self.lock();
        let found = state
            .frames
            .iter()
            .position(|frame| frame.kind == Kind::Request && frame.id == id);
        let Some(frame) = found.and_then(|at| state.frames.remove(at)) else {
            return false;
        };
        drop(state);
        self.release(cost(&frame));
        true
    }

    /// The questions that wait, or were taken.
    pub(super) fn questions(&self, batch: &[Frame]) -> HashSet<u64> {
        let state = self.lock();
        let frames = state.frames.iter().chain(batch);
        let questions = frames.filter(|frame| frame.kind == Kind::Request);
        questions.map(|frame| frame.id).collect()
    }

    /// Drops what waits and what was taken; gives the number of messages among it.
    pub(super) fn clear(&self, batch: &mut Vec<Frame>) -> usize {
        let mut state = self.lock();
        let is_message = |frame: &Frame| frame.kind == Kind::Message;
        let dropped = state.frames.drain(..).chain(batch.drain(..));
        let messages = dropped.filter(is_message).count();
        state.cost = 0;
        state.refused = false;
        drop(state);
        self.room.notify_waiters();
        messages
    }

    fn release(&self, cost: usize) -> bool {
        let mut state = self.lock();
        state.cost = state.cost.saturating_sub(cost);
        // Not at every frame: whoever was refused shall find room for more than one.
        let again = state.refused && state.cost <= self.limit / 2;
        if again {
            state.refused = false;
        }
        drop(state);
        if again {
            self.room.notify_waiters();
        }
        again
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::Queue;
    use crate::peer::Lane;
    use crate::peer::frame::{Frame, Kind};

    fn message(id: u64, bytes: usize) -> Frame {
        Frame::new(Lane::Replica, Kind::Message, id, vec![0; bytes].into()).unwrap()
    }

    #[test]
    fn a_full_queue_hands_back_and_says_when_there_is_room() {
        let queue = Queue::new(10_000);
        let mut accepted = 0;
        while queue.push(message(accepted, 1000)).is_ok() {
            accepted += 1;
        }
        assert_eq!(accepted, 8);
        let mut batch = Vec::new();
        queue.take(&mut batch, usize::MAX, 2);
        // What is being written counts still.
        assert!(queue.push(message(99, 1000)).is_err());
        assert!(!queue.written(&mut batch), "more than half is full");
        queue.take(&mut batch, usize::MAX, 3);
        assert!(queue.written(&mut batch));
        queue.take(&mut batch, usize::MAX, 9);
        let ids: Vec<u64> = batch.iter().map(|frame| frame.id).collect();
        assert_eq!(ids, [5, 6, 7]);
        assert!(!queue.written(&mut batch));
        assert_eq!(queue.depth().0, 0);
    }

    #[test]
    fn a_question_that_is_withdrawn_in_time_is_never_written() {
        let queue = Queue::new(1000);
        let request = Frame::new(Lane::Read, Kind::Request, 7, vec![0; 500].into()).unwrap();
        queue.push(request).unwrap();
        assert!(queue.withdraw(7));
        assert!(!queue.withdraw(7));
        assert_eq!(queue.depth().0, 0);
    }

    #[test]
    fn an_empty_queue_takes_a_frame_of_any_size() {
        let queue = Queue::new(100);
        queue.push(message(1, 5000)).unwrap();
        assert!(queue.push(message(2, 1)).is_err());
    }
}
