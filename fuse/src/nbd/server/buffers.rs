//! Memory for payloads, bounded and used again.
//!
//! A request of up to [`SMALL_BYTES_MAX`] uses the buffer of the thread that serves it. A larger one
//! borrows from the server's pool, within its connection's budget: the thread that reads the socket
//! waits until enough of the connection's earlier requests are answered.

use std::ops::{Deref, DerefMut};
use std::sync::{Condvar, Mutex, PoisonError};

/// Largest buffer a thread keeps for itself.
const SMALL_BYTES_MAX: usize = 256 << 10;
/// Large buffers come in powers of two, with this much on top for headers of replies.
const SLACK_BYTES: usize = 4096;
/// Large classes: 512 KiB, 1 MiB, … 32 MiB.
const CLASSES: usize = 7;
/// Bytes of idle large buffers the pool keeps.
const IDLE_BYTES_MAX: usize = 64 << 20;
/// Bytes of large buffers in use by one connection.
const CONNECTION_BYTES_MAX: usize = (64 << 20) + 2 * SLACK_BYTES;

fn class_bytes(class: usize) -> usize {
    ((2 * SMALL_BYTES_MAX) << class) + SLACK_BYTES
}

/// The server's idle large buffers, by class.
#[derive(Default)]
pub(super) struct Pool {
    idle: Mutex<[Vec<Vec<u8>>; CLASSES]>,
}

/// How many bytes of large buffers a connection may still take.
pub(super) struct Budget {
    free_bytes: Mutex<usize>,
    freed: Condvar,
}

/// A buffer for one request.
pub(super) enum Buffer<'a> {
    /// The thread's own.
    Small(&'a mut [u8]),
    /// One of the pool's.
    Large(Loan<'a>),
}

/// A pool's buffer on loan; goes back when dropped.
pub(super) struct Loan<'a> {
    bytes: Vec<u8>,
    used: usize,
    class: usize,
    pool: &'a Pool,
    budget: &'a Budget,
}

/// The system has no memory for a buffer.
#[derive(Debug)]
pub(super) struct OutOfMemory;

impl Budget {
    pub(super) fn new() -> Self {
        Self {
            free_bytes: Mutex::new(CONNECTION_BYTES_MAX),
            freed: Condvar::new(),
        }
    }

    fn take(&self, bytes: usize) {
        assert!(
            bytes <= CONNECTION_BYTES_MAX,
            "a buffer of {bytes} bytes would never fit the budget"
        );
        let free = self
            .free_bytes
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut free = self
            .freed
            .wait_while(free, |free| *free < bytes)
            .unwrap_or_else(PoisonError::into_inner);
        *free -= bytes;
    }

    fn give_back(&self, bytes: usize) {
        *self
            .free_bytes
            .lock()
            .unwrap_or_else(PoisonError::into_inner) += bytes;
        self.freed.notify_one();
    }
}

impl Pool {
    /// A buffer of `bytes` bytes with arbitrary contents. May wait for the budget.
    pub(super) fn lend<'a>(
        &'a self,
        budget: &'a Budget,
        small: &'a mut Vec<u8>,
        bytes: usize,
    ) -> Result<Buffer<'a>, OutOfMemory> {
        if bytes <= SMALL_BYTES_MAX + SLACK_BYTES {
            if small.len() < bytes {
                small.resize(
                    bytes
                        .next_power_of_two()
                        .min(SMALL_BYTES_MAX + SLACK_BYTES)
                        .max(bytes),
                    0,
                );
            }
            return Ok(Buffer::Small(&mut small[..bytes]));
        }
        let class = (0..CLASSES)
            .find(|class| bytes <= class_bytes(*class))
            .ok_or(OutOfMemory)?;
        budget.take(class_bytes(class));
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner)[class].pop();
        // From here on the loan gives the budget back, whatever happens.
        let mut loan = Loan {
            bytes: idle.unwrap_or_default(),
            used: bytes,
            class,
            pool: self,
            budget,
        };
        if loan.bytes.is_empty() {
            loan.bytes
                .try_reserve_exact(class_bytes(class))
                .map_err(|_| OutOfMemory)?;
            loan.bytes.resize(class_bytes(class), 0);
        }
        Ok(Buffer::Large(loan))
    }
}

impl Drop for Loan<'_> {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        if !bytes.is_empty() {
            let mut idle = self
                .pool
                .idle
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let idle_bytes: usize = idle.iter().flatten().map(Vec::len).sum();
            if idle_bytes + bytes.len() <= IDLE_BYTES_MAX {
                idle[self.class].push(bytes);
            }
        }
        self.budget.give_back(class_bytes(self.class));
    }
}

impl Deref for Buffer<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Small(bytes) => bytes,
            Self::Large(loan) => &loan.bytes[..loan.used],
        }
    }
}

impl DerefMut for Buffer<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        match self {
            Self::Small(bytes) => bytes,
            Self::Large(loan) => &mut loan.bytes[..loan.used],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Budget, CONNECTION_BYTES_MAX, IDLE_BYTES_MAX, Pool, SMALL_BYTES_MAX};
    use std::sync::PoisonError;

    fn free(budget: &Budget) -> usize {
        *budget
            .free_bytes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn idle(pool: &Pool) -> usize {
        pool.idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .flatten()
            .map(Vec::len)
            .sum()
    }

    #[test]
    fn every_size_up_to_the_largest_payload_with_headers_is_lent_exactly() {
        let (pool, budget) = (Pool::default(), Budget::new());
        let mut small = Vec::new();
        for bytes in [
            0,
            1,
            28,
            4096 + 60,
            SMALL_BYTES_MAX + 60,
            (1 << 20) + 60,
            (5 << 20) + 60,
            (32 << 20) + 60,
        ] {
            let buffer = pool.lend(&budget, &mut small, bytes).expect("memory");
            assert_eq!(buffer.len(), bytes);
        }
        assert!(small.len() <= SMALL_BYTES_MAX + 4096);
        assert_eq!(free(&budget), CONNECTION_BYTES_MAX);
        assert!(pool.lend(&budget, &mut small, 33 << 20).is_err());
    }

    #[test]
    fn large_buffers_come_back_and_the_idle_ones_stay_bounded() {
        let pool = Pool::default();
        let budgets: Vec<Budget> = (0..4).map(|_| Budget::new()).collect();
        let mut smalls = vec![Vec::new(); 8];
        let mut loans = Vec::new();
        for (turn, small) in smalls.iter_mut().enumerate() {
            loans.push(
                pool.lend(&budgets[turn / 2], small, 32 << 20)
                    .expect("memory"),
            );
        }
        assert_eq!(free(&budgets[0]), 0);
        drop(loans);
        assert_eq!(free(&budgets[3]), CONNECTION_BYTES_MAX);
        assert!(idle(&pool) > 0 && idle(&pool) <= IDLE_BYTES_MAX);
    }

    #[test]
    fn a_full_budget_waits_for_an_answer() {
        let (pool, budget) = (Pool::default(), Budget::new());
        std::thread::scope(|scope| {
            let (mut a, mut b) = (Vec::new(), Vec::new());
            let first = pool.lend(&budget, &mut a, 32 << 20).expect("memory");
            let second = pool.lend(&budget, &mut b, 32 << 20).expect("memory");
            let third = scope.spawn(|| {
                pool.lend(&budget, &mut Vec::new(), 1 << 20)
                    .map(|buffer| buffer.len())
                    .ok()
            });
            std::thread::sleep(std::time::Duration::from_millis(30));
            assert!(!third.is_finished());
            drop(first);
            assert_eq!(third.join().ok().flatten(), Some(1 << 20));
            drop(second);
        });
        assert_eq!(free(&budget), CONNECTION_BYTES_MAX);
    }
}
